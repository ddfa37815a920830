"""Ed25519 keys: the log's, and an envelope's where it is chosen."""

from __future__ import annotations

import hashlib
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.adapters.signers._private import PrivateKeySigner
from agentgate.core.errors import UnsafeConfiguration


class Ed25519Signer(PrivateKeySigner):
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
    def _of(cls, key: PrivateKeyTypes, name: str) -> Self:
        if not isinstance(key, Ed25519PrivateKey):
            raise UnsafeConfiguration(f"{name} is not an Ed25519 key; name one that is, or another kind of signature")
        return cls(key)

    @staticmethod
    def _new() -> Ed25519PrivateKey:
        return Ed25519PrivateKey.generate()
