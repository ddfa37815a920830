"""Takes injected credentials out of what is sent back: no tool can be made to say them (promise 4, attack A42).

They are found as they are, in hex, in base64 at any alignment, URL-encoded, three layers deep in all of these and in
JSON within strings, as a page of HTML has them, and, in any of these forms, cut into pieces over neighbouring strings.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from agentgate.core.redaction.marks import MARK
from agentgate.core.redaction.redactor import FAILED, Redactor
from agentgate.core.redaction.sensitive import SECRET, Span
from agentgate.core.strict_json import canonical, parse

MIN_SECRET_CHARS: Final = 4
"""Shorter ones would turn the answer to nonsense and are refused at start."""
_MIN_ENCODED_CHARS: Final = 6
"""The encoded form of a shorter one may stand in an answer by chance."""
_MIN_SPLIT_CHARS: Final = 8

_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_NUMBER: Final = re.compile(r"[+-]?([0-9]++\.?[0-9]*+|\.[0-9]++)([eE][+-]?[0-9]++)?")
"""A secret that is a number to who reads it as one, though perhaps not as JSON spells it: `0012`, `12e5`."""
_ESCAPE: Final = re.compile("%[0-9A-F]{2}")


def scrub(raw: bytes, secrets: Iterable[str]) -> bytes:
    """Canonical JSON without the secrets in any form."""
    scrubber = _scrubber(tuple(secrets))
    return scrubber.json(raw) if scrubber is not None else raw


def scrub_text(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets in any form."""
    scrubber = _scrubber(tuple(secrets))
    return scrubber.redactor.text(text) if scrubber is not None else text


@lru_cache(maxsize=64)
def _scrubber(secrets: tuple[str, ...]) -> _Scrubber | None:
    """Made once for a credential, not for each call."""
    said = (*secrets, *filter(None, map(_as_number, secrets)))
    known = [secret for secret in dict.fromkeys(said) if len(secret) >= MIN_SECRET_CHARS]
    return _Scrubber(known) if known else None


def _as_number(secret: str) -> str | None:
    """How JSON says a secret that somebody took for a number: without zeros in front of it, or after its point. None:
    it is none, or one that JSON has no room for."""
    if _NUMBER.fullmatch(secret) is None or not math.isfinite(value := float(secret)):
        return None
    return canonical(value).decode()


class _Scrubber:
    def __init__(self, secrets: Sequence[str]) -> None:
        self.redactor = Redactor(detectors=(_Exact(secrets),), own=False)
        long = [secret for secret in secrets if len(secret) >= _MIN_SPLIT_CHARS]
        self._split = _Exact(long) if long else None
        self._numbers = [secret for secret in secrets if _NUMBER.fullmatch(secret)]

    def json(self, raw: bytes) -> bytes:
        if any(number in raw.decode() for number in self._numbers):
            raw = canonical(_without_numbers(parse(raw), self._numbers))
        clean = self.redactor.json(raw)
        if clean is FAILED or self._split is None or len(clean) < _MIN_SPLIT_CHARS:
            return clean
        value = parse(clean)
        texts = list(_texts(value))
        cut = self._split.find("".join(texts))  # or whole: JSON that was not opened
        if not cut:
            return clean
        pieces: set[int] = set()
        at = 0
        for number, text in enumerate(texts):
            if any(span.start < at + len(text) and at < span.end for span in cut):
                pieces.add(number)
            at += len(text)
        return canonical(_without(value, pieces, iter(range(len(texts)))))


class _Exact:
    """Known secrets, and the forms of each that leave its letters in place or can be known beforehand."""

    is_local = True

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)  # one may begin with another
        self.kinds: tuple[str, ...] = (SECRET,)
        self.shortest = len(self._forms[-1])

    def find(self, text: str) -> list[Span]:
        return [Span(start, end, SECRET) for form in self._forms for start, end in _all(text, form)]


def _forms(secret: str) -> Iterator[str]:
    raw = secret.encode()
    yield secret
    if len(raw) < _MIN_ENCODED_CHARS:
        return
    yield raw.hex()
    yield raw.hex().upper()
    for kept in (_UNRESERVED, _UNRESERVED + b"/", b""):
        quoted = "".join([chr(byte) if byte in kept else f"%{byte:02X}" for byte in raw])
        yield from (quoted, quoted.replace("%20", "+"))
        yield _ESCAPE.sub(lambda found: found[0].lower(), quoted)
    page = html.escape(secret)
    yield from (page, html.escape(secret, quote=False), page.replace("&#x27;", "&#39;"), page.replace("/", "&#x2F;"))
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        known = encoded[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]  # what neighbours have no part in
        yield known
        yield known.replace("+", "-").replace("/", "_")


def _all(text: str, part: str) -> Iterator[tuple[int, int]]:
    at = text.find(part)
    while at >= 0:
        yield at, at + len(part)
        at = text.find(part, at + len(part))


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value in their order, without member names."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
        elif isinstance(item, list):
            stack.extend(reversed(item))


def _without_numbers(value: Any, secrets: Sequence[str]) -> Any:
    """`value` without the numbers that have one of the secrets in them."""
    if isinstance(value, dict):
        return {name: _without_numbers(item, secrets) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_numbers(item, secrets) for item in value]
    if isinstance(value, int | float):
        said = canonical(value).decode()
        return MARK if any(secret in said for secret in secrets) else value
    return value


def _without(value: Any, pieces: set[int], numbers: Iterator[int]) -> Any:
    """`value` with some of its texts, counted as `_texts` gives them, replaced."""
    if isinstance(value, str):
        return MARK if next(numbers) in pieces else value
    if isinstance(value, dict):
        return {name: _without(item, pieces, numbers) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(item, pieces, numbers) for item in value]
    return value
