"""HMAC-SHA256 (RFC 2104): it convinces whoever holds the same key, and nobody else."""

from __future__ import annotations

import hashlib
import hmac

from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.evidence.pack import key_id

MIN_KEY_BYTES = 32
"""The length of the hash: a shorter key is weaker than the signature it makes (RFC 2104 §3)."""


class HmacSigner:
    """`ports.Signer` with one secret."""

    algorithm = "hmac-sha256"

    def __init__(self, key: bytes) -> None:
        """Raises UnsafeConfiguration when the key is too short."""
        if len(key) < MIN_KEY_BYTES:
            raise UnsafeConfiguration(f"an HMAC key has at least {MIN_KEY_BYTES} bytes, and this one has {len(key)}")
        self._key = key
        self.key_id = key_id(key)

    def sign(self, message: bytes) -> bytes:
        return hmac.new(self._key, message, hashlib.sha256).digest()
