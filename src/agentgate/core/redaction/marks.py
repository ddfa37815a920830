"""What stands where something was."""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum
from typing import Final

from agentgate.core.redaction import sensitive

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
