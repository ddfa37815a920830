"""Rego values as text, the way OPA's wasm library prints and reads them: JSON, sets, and keys of any type.

In Python they are None, bool, str, `Number`, tuple (an array), `RegoSet` and `RegoObject`. Numbers keep their
text: to Rego's printing, 1.0 and 1 are not the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

RegoValue = Any
"""None | bool | str | Number | tuple[RegoValue, ...] | RegoSet | RegoObject"""


@dataclass(frozen=True, slots=True)
class Number:
    text: str

    @property
    def is_float(self) -> bool:
        """As OPA sees it: by its text, not by its value."""
        return any(mark in self.text for mark in ".eE")


@dataclass(frozen=True, slots=True)
class RegoSet:
    items: tuple[RegoValue, ...]


@dataclass(frozen=True, slots=True)
class RegoObject:
    items: tuple[tuple[RegoValue, RegoValue], ...]


_JSON: Final = json.JSONDecoder()
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_WORDS: Final[dict[str, RegoValue]] = {"null": None, "true": True, "false": False, "set()": RegoSet(())}


def parse_value(text: str) -> RegoValue:
    """Raises ValueError when `text` is not one whole value."""
    try:
        value, end = _value(text, 0)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _skip(text, end) != len(text):
        raise ValueError("more than one value")
    return value


def _value(text: str, at: int) -> tuple[RegoValue, int]:
    at = _skip(text, at)
    first = text[at : at + 1]
    if first == '"':
        return _JSON.raw_decode(text, at)
    if first == "[":
        items, end = _items(text, at + 1, "]")
        return tuple(key for key, _ in items), end
    if first == "{":
        return _braces(text, at)
    for word, value in _WORDS.items():
        if text.startswith(word, at):
            return value, at + len(word)
    found = _NUMBER.match(text, at)
    if found is None:
        raise ValueError(f"no value at {at}")
    return Number(found[0]), found.end()


def _braces(text: str, at: int) -> tuple[RegoValue, int]:
    """An object, or a set; `{}` is an object and the empty set is `set()`."""
    items, end = _items(text, at + 1, "}")
    with_value = [item for item in items if item[1] is not _ABSENT]
    if len(with_value) == len(items):
        return RegoObject(tuple(items)), end
    if with_value:
        raise ValueError("half an object")
    return RegoSet(tuple(key for key, _ in items)), end


_ABSENT: Final = object()


def _items(text: str, at: int, close: str) -> tuple[list[tuple[RegoValue, RegoValue]], int]:
    """What stands between brackets, as (item, value after its colon or _ABSENT)."""
    items: list[tuple[RegoValue, RegoValue]] = []
    at = _skip(text, at)
    if text[at : at + 1] == close:
        return items, at + 1
    while True:
        key, at = _value(text, at)
        value: RegoValue = _ABSENT
        at = _skip(text, at)
        if text[at : at + 1] == ":" and close == "}":
            value, at = _value(text, at + 1)
            at = _skip(text, at)
        items.append((key, value))
        mark = text[at : at + 1]
        if mark == close:
            return items, at + 1
        if mark != ",":
            raise ValueError(f"no comma at {at}")
        at += 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def print_value(value: RegoValue) -> str:
    """Text that opa_value_parse reads back as `value`."""
    match value:
        case None | bool() | str():
            return json.dumps(value, ensure_ascii=False)
        case int():
            return str(value)
        case Number(text):
            return text
        case tuple():
            return f"[{','.join(map(print_value, value))}]"
        case RegoSet(items):
            return f"{{{','.join(map(print_value, items))}}}" if items else "set()"
        case RegoObject(items):
            return f"{{{','.join(f'{print_value(key)}:{print_value(inner)}' for key, inner in items)}}}"
    raise TypeError(f"not a Rego value: {type(value).__name__}")
