"""Digests under a key of the deployment's (ADR 0014)."""

from __future__ import annotations

import hmac
from functools import lru_cache


def keyed_sha256(key: bytes, value: bytes) -> str:
    """HMAC-SHA-256 (RFC 2104), of what may not be guessed: a pack has the salt of each event, and never the key."""
    made = _keyed(key).copy()
    made.update(value)
    return made.hexdigest()


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> hmac.HMAC:
    """Made once: that is most of what one costs."""
    return hmac.new(key, digestmod="sha256")
