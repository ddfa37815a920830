"""Ed25519 keys: the log's, and an envelope's where it is chosen."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.adapters.signers import _private
from agentgate.core.errors import UnsafeConfiguration
from agentgate.ports.keys import EnvelopeSigner


class Ed25519Signer:
    """`ports.Signer` with one private key."""

    algorithm = "ed25519"

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = key.public_key()
        self.public_key = public.public_bytes_raw()
        """The 32 raw bytes that verifiers of checkpoints need."""
        self.spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = hashlib.sha256(self.public_key).hexdigest()[:8]

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    @classmethod
    def from_file(cls, path: Path) -> Ed25519Signer:
        """The key in `path` (PEM, PKCS #8, not encrypted).

        Raises:
            UnsafeConfiguration: missing, readable by others, or not such a key.
        """
        return cls._of(_private.from_file(path), str(path))

    @classmethod
    def from_text(cls, text: str, name: str) -> Ed25519Signer:
        """The key in the value of variable `name`: PEM, or base64 of it. Raises UnsafeConfiguration."""
        return cls._of(_private.from_text(text, name), name)

    @classmethod
    def from_file_or_new(cls, path: Path) -> Ed25519Signer:
        """The key in `path`; at the first start a new one, which is whole and private from its first moment on.

        Raises:
            UnsafeConfiguration: as `from_file`, or it cannot be written.
        """
        if not path.exists():
            _private.write_new(path, Ed25519PrivateKey.generate())
        return cls.from_file(path)

    @classmethod
    def _of(cls, key: PrivateKeyTypes, name: str) -> Ed25519Signer:
        if not isinstance(key, Ed25519PrivateKey):
            raise UnsafeConfiguration(f"{name} is not an Ed25519 key; name one that is, or another kind of signature")
        return cls(key)


_: type[EnvelopeSigner] = Ed25519Signer
