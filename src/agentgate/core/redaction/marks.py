"""What stands where something was."""

from __future__ import annotations

import hashlib
import hmac
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from agentgate.core.redaction import sensitive
from agentgate.core.redaction.sensitive import SECRET, Span

MARK: Final = "[redacted]"
MIN_KEY_BYTES: Final = 32


class Mode(StrEnum):
    """What stands where something was."""

    REDACT = "redact"
    HASH = "hash"
    TOKENIZE = "tokenize"


class Marks:
    """Writes what stands where something was. Equal values get equal marks under the same key; none leads back."""

    def __init__(self, mode: Mode, key: bytes = b"") -> None:
        """Raises ValueError: the mode needs a key of at least 32 bytes."""
        if mode is not Mode.REDACT and len(key) < MIN_KEY_BYTES:
            raise ValueError(f"redaction.mode {mode} needs a redaction.key of at least {MIN_KEY_BYTES} bytes")
        self.mode = mode
        self._key = key
        self._token_key = hmac.digest(key, b"agentgate redaction token", hashlib.sha256)

    def mark(self, kind: str, value: str) -> str:
        if self.mode is Mode.REDACT:
            return MARK
        plain = sensitive.plain_value(kind, value).encode()
        if self.mode is Mode.HASH:
            return f"[{kind}:hmac:{hmac.digest(self._key, plain, hashlib.sha256).hex()[:16]}]"
        token = hmac.digest(self._token_key, kind.encode() + b"\0" + plain, hashlib.sha256).hex()
        return f"[{kind}-{token[:12]}]"


class Place(NamedTuple):
    """What is to be replaced in a text, and the value that was found there."""

    start: int
    end: int
    kind: str
    value: str


def merged(places: Iterable[Place], text: str) -> list[Place]:
    """Places in order and without overlaps. Of two at one place the wider names it, then the more special."""
    merged: list[Place] = []
    for place in sorted(places, key=lambda one: (one.start, -one.end, one.kind == SECRET)):
        last = merged[-1] if merged else None
        if last is None or place.start >= last.end:
            merged.append(place)
        elif place.end > last.end:
            merged[-1] = Place(last.start, place.end, last.kind, text[last.start : place.end])
    return merged


_BRACKETED: Final = re.compile(r"\[[^\[\]]{1,128}\]")


def outside(marks: Collection[str], text: str, spans: list[Span]) -> list[Span]:
    """Those of `spans` that are not within one of `marks` as it stands in `text`."""
    if not marks or not spans:
        return spans
    standing = [found.span() for found in _BRACKETED.finditer(text) if found[0] in marks]
    return [span for span in spans if not _is_within(span, standing)]


def _is_within(span: Span, places: list[tuple[int, int]]) -> bool:
    """`places` are in order, and none is in another."""
    before = bisect_left(places, (span.start + 1,))
    return before > 0 and span.end <= places[before - 1][1]
