"""Seals with ChaCha20-Poly1305 (RFC 8439) under a key in a file that only its owner can read."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from agentgate.core.errors import UnsafeConfiguration

_NONCE_BYTES = 12
_KEY_BYTES = 32


class ChaChaSealer:
    """`about` is authenticated with the text: a sealed text cannot be passed off as another's."""

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self.digest_key = hmac.digest(key, b"agentgate digests", "sha256")

    @classmethod
    def from_file(cls, path: Path) -> ChaChaSealer:
        """The key in `path`, made at first use with mode 0600.

        Raises:
            UnsafeConfiguration: the file is readable by others, or is not a key.
        """
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(handle, "wb") as file:
                file.write(ChaCha20Poly1305.generate_key())
                file.flush()
                os.fsync(file.fileno())
        if path.stat().st_mode & 0o077:
            raise UnsafeConfiguration(f"{path} can be read by others; run: chmod 600 {path}")
        key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise UnsafeConfiguration(f"{path} is not a sealing key; move it away and pending approvals are asked anew")
        return cls(key)

    def seal(self, plain: bytes, about: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, about)

    def unseal(self, sealed: bytes, about: bytes) -> bytes | None:
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError):
            return None
