"""HMAC-SHA256: proves to holders of the key, and to nobody else, that evidence was not altered."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from agentgate.core.errors import UnsafeConfiguration

MIN_KEY_BYTES: Final = 32


class HmacSigner:
    """`ports.Signer` with one secret."""

    algorithm = "hmac-sha256"

    def __init__(self, key: bytes) -> None:
        """Raises UnsafeConfiguration for a key that could be guessed."""
        if len(key) < MIN_KEY_BYTES:
            raise UnsafeConfiguration(
                f"the evidence key has {len(key)} bytes; at least {MIN_KEY_BYTES} are needed (openssl rand -hex 32)"
            )
        self._key = key
        self.key_id = hashlib.sha256(key).hexdigest()[:8]

    def sign(self, message: bytes) -> bytes:
        return hmac.digest(self._key, message, "sha256")

    def __repr__(self) -> str:
        return f"HmacSigner({self.key_id})"
