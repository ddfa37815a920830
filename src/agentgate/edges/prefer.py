"""What a caller prefers of how it is answered (RFC 7240): `wait=20`, `respond-async`. Anything else is ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MOST_WAITED_S: Final = 60
"""No call is held open for longer: proxies and clients give up about then."""
_PREFERENCE: Final = re.compile(r'\s*+([A-Za-z0-9-]++)\s*+(?:=\s*+"?+([^";,]*+)"?+)?+\s*+(?:;[^,]*+)?+')
"""What a part has taken it keeps: blanks fit several, and to try each split of 60 KB of them would take for ever."""


@dataclass(frozen=True, slots=True)
class Preferences:
    wait_s: int | None = None
    """For how long the caller waits for a person's approval; at most `MOST_WAITED_S`."""
    respond_async: bool = False


_NONE: Final = Preferences()


def read(headers: Mapping[bytes, bytes]) -> Preferences:
    """The preferences in a request's headers. Of one that is named twice the first counts (RFC 7240 §2)."""
    raw = headers.get(b"prefer")
    if raw is None:
        return _NONE
    found: dict[str, str] = {}
    for part in raw.decode("latin-1").split(","):
        named = _PREFERENCE.fullmatch(part)
        if named is not None:
            found.setdefault(named[1].lower(), (named[2] or "").strip())
    wait = found.get("wait", "")
    wait_s = min(int(wait), MOST_WAITED_S) if wait.isascii() and wait.isdigit() and len(wait) <= 9 else None
    return Preferences(wait_s or None, "respond-async" in found)
