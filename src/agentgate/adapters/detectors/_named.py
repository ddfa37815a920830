"""Secrets in texts that stand where a name says what they are: `password = x`, in programs, data, statements, commands.

RE2 finds the names, in time linear in the text; what follows one is read by an expression that never looks back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeAlias

from agentgate.core.redaction.sensitive import SECRET, SENSITIVE_NAMES, SENSITIVE_OPTIONS, Span

Regexp: TypeAlias = Any
"""What RE2 makes of a pattern; it has no types."""
Finder = Callable[[Regexp, bytes], Iterator[Span]]

_BLANKS: Final = r"[ \t]*(?:[\r\n]\s{0,3})?"
"""As many as align a column, and hardly more than a line break: what is further down is another matter."""
_QUOTES: Final = rf"(?:[\"'`\\\]]|\[\w{{0,16}}\])*{_BLANKS}[\"'`\\]*{_BLANKS}"
_ATTRIBUTE: Final = r"\s{1,16}[\w:.-]{1,64}=[\\\"']{1,8}[^\"'<>]{0,128}[\\\"']{1,8}"
_NAMED_VALUE: Final = rf"(?:,\s*|(?:{_ATTRIBUTE}){{0,4}}\s+)[\"'\\]*value[\"'\\]*\s*[:=!<>]{{1,4}}"
"""`<password type="text">x`; `{"name": "password", "value": "x"}`, the same in YAML, an input of a form. As many
attributes, and as long ones, as people write: of more, each name in hostile text would have all that follows read."""
_NAMED: Final = (
    rf"(?i:(?:{SENSITIVE_NAMES})(?:{_QUOTES}(?:\?=|[:=!<>]{{1,4}}|\b(?:is|like)\b(?:\s{{0,4}}[:=])?|{_NAMED_VALUE})"
    rf"|(?:{_ATTRIBUTE}){{1,4}}\s*>){_BLANKS})"
)
"""`password = `, `"token": ` inside a string, `user[password]=`, `the password is `; the value is what follows."""
_SCHEME: Final = r"(?:bearer|basic|token)\s{1,4}+"
_BARE: Final = r"[^\s\"'`\\,;&}\])]"
_QUOTED: Final = (
    # \"...\" in a string, where a quote within has more backslashes; a string itself, where it has one or is doubled
    r"(?P<open>\s{0,64}+(?:[bruefnl@$]{1,2}+(?=\\{0,3}+[\"'`]))?+(?P<escape>\\{1,3}+)?+(?P<quote>[\"'`]))(?(escape)"
    r"(?:(?P=escape){2}\\++(?P=quote)|\\++(?!(?P=quote))|(?!(?P=quote))[^\\]){1,65536}+"
    r"|(?:(?P=quote){2}|\\[\s\S]|(?!(?P=quote))[^\\]){1,65536}+)"
)
_BLOCK: Final = (
    r"(?P<block>[|>][-+1-9]{0,2}+[ \t]*+(?:#[^\r\n]{0,256}+)?\r?\n(?P<indent>[ \t]++))"
    r"[^\r\n]++(?:\r?\n(?:(?P=indent)[^\r\n]*+|[ \t]*+(?=[\r\n]))){0,65536}+"
)
_VALUE: Final = re.compile(
    rf"{_QUOTED}|{_BLOCK}"
    rf"|(?!(?:{_SCHEME})?\[redacted\](?!{_BARE}))(?P<scheme>{_SCHEME})?(?:\[redacted\])?+{_BARE}{{1,65536}}+".encode(),
    re.IGNORECASE,
)
"""A quoted value goes up to its end, a block of YAML as far as it is indented. A mark alone is none."""
_HEADER: Final = rf"(?i:(?:authorization|cookie){_QUOTES}:{_BLANKS})"
_HEADER_VALUE: Final = re.compile(
    rb"(?:digest|oauth|hawk)\s[^\r\n]{1,65536}+"
    rb"|(?P<open>\\{0,3}+[\"'`]?+)(?P<scheme>(?:bearer|basic|token)\s{1,4}+)?[^\r\n\"'`\\]{1,65536}+",
    re.IGNORECASE,
)
"""Headers whose value has blanks and semicolons in it: up to the end of the line or of the quoted text."""
_OPTION: Final = rf"(?i:(?:^|[\s\"'`])(?:{SENSITIVE_OPTIONS})[ \t]{{1,2}})"
_ARGUMENT: Final = re.compile(
    rb"(?<!--no-password )(?<!--skip-password )(?<!--ask-password )(?![-:=!<>|&;])(?:" + _VALUE.pattern + rb")",
    re.IGNORECASE,
)
"""`--password x`, and no more blanks between: help texts have them."""
_STATED: Final = (
    r"(?i:(?:\bpassword|\bidentified\s+(?:with\s+\S+\s+)?by)\s+"
    rf"|[\"'](?:{SENSITIVE_OPTIONS})[\"'\\]+,\s*)"
)
_LITERAL: Final = re.compile(_QUOTED.encode(), re.IGNORECASE)
"""`CREATE ROLE x PASSWORD 'y'`, `["--password", "y"]`: nothing but what is quoted."""

_BEFORE: Final = frozenset({"open", "block", "scheme"})
"""What of them stays."""


def _values(names: Regexp, raw: bytes, value: re.Pattern[bytes]) -> Iterator[Span]:
    """What follows names. A name within a value is part of the value."""
    at = 0
    while (name := names.search(raw, at)) is not None:
        found = value.match(raw, name.end())
        at = name.end()
        if found is not None:
            at = found.end()
            yield Span(max(found.start(), *map(found.end, _BEFORE.intersection(value.groupindex))), at, SECRET)


NAMED: Final[tuple[tuple[str, Finder], ...]] = (
    (_HEADER, partial(_values, value=_HEADER_VALUE)),
    (_NAMED, partial(_values, value=_VALUE)),
    (_OPTION, partial(_values, value=_ARGUMENT)),
    (_STATED, partial(_values, value=_LITERAL)),
)
