"""The texts of a document, as whoever reads it sees them: opened, unescaped, folded."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from agentgate.core.redaction import layers, sensitive
from agentgate.core.strict_json import NotStrictJson, parse

_QUOTE: Final = '"'
_OPENING: Final = '{["'


def strings(document: str) -> list[str]:
    """What is between the quotes of a document without escapes in it, and besides. Names that are not in ASCII are as
    JSON has them."""
    parts = document.split('"')
    for number, (part, after) in enumerate(pairwise(parts)):
        if not part.isascii() and after.lstrip().startswith(":"):
            parts[number] = f'"{part}":'
    return parts


def folded(texts: list[str], known: Mapping[str, str]) -> list[str]:
    """Texts as their reader sees them, those that are not known all in one go."""
    if known or len(texts) == 1:
        return [known[one] if one in known else sensitive.folded(one) for one in texts]
    plain = sensitive.folded("\n".join(texts)).split("\n")
    return plain if len(plain) == len(texts) else [sensitive.folded(one) for one in texts]


def rewritten(texts: list[str], text: str) -> list[str]:
    """Texts without their URL encoding or escapes, where they have any; `text` is all of them in one."""
    opened: list[str] = []
    if "%" in text:
        opened += [plain for one in texts if "%" in one and (plain := layers.unquoted(one)) != one]
    if "\\" in text:
        opened += [plain for one in texts if "\\" in one and (plain := layers.unescaped(one)) != one]
    return opened


def escaped(texts: list[str], depth: int) -> list[str]:
    """What is in those texts that are JSON with escapes in it, as who parses it sees it: not all of it can be seen in
    the text."""
    if not depth:
        return []
    trees = [nested for text in texts if "\\" in text and (nested := document(text)) is not None]
    return of_value(trees, depth - 1) or []


def of_value(value: Any, depth: int, most: int | None = None) -> list[str] | None:
    """The texts, numbers and names in a value, and of a text that is JSON what is in it; None if that is more than
    `most` characters. Names are as JSON has them."""
    lines: list[str] = []
    left = most
    stack = [(value, depth)]
    while stack:
        item, depth = stack.pop()
        kind = type(item)
        if kind is str:
            if left is not None and len(item) > left:
                return None
            first = item[:1]
            if depth and (first in _OPENING or first.isspace()) and (nested := document(item)) is not None:
                stack.append((nested, depth - 1))
                continue
            lines.append(item)
        elif kind is dict:
            lines += [f'"{name}":' for name in item]
            lines += [f'"{name.replace(_QUOTE, " ")}":' for name in item if _QUOTE in name]  # seen as one name
            stack += [(inner, depth) for inner in item.values()]
        elif kind is list:
            stack += [(inner, depth) for inner in item]
        elif kind is int or kind is float:
            lines.append(str(item))
        if left is not None and lines:
            left -= len(lines[-1]) + len(stack)
            if left < 0:
                return None
    return lines


def document(text: str) -> Any:
    """The object, array or string that a text is the JSON of; None if it is none."""
    first = text[:1]
    if first not in _OPENING and not first.isspace():
        return None
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("{}", "[]", '""'):
        return None
    try:
        return parse(stripped.encode())
    except NotStrictJson:
        return None
