"""ECDSA on P-256 with SHA-256 (FIPS 186-5), signatures in DER: what cosign and most key stores of clouds expect."""

from __future__ import annotations

import hashlib
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.adapters.signers._private import PrivateKeySigner
from agentgate.core.dsse import P256_ORDER
from agentgate.core.errors import UnsafeConfiguration


class EcdsaSigner(PrivateKeySigner):
    """`ports.EnvelopeSigner` with one private key.

    Nonces are derived (RFC 6979): a bad source of chance cannot give the key away, and a pack has one byte form.
    """

    algorithm = "ecdsa-p256"

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key
        self.spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = hashlib.sha256(self.spki).hexdigest()

    def sign(self, message: bytes) -> bytes:
        """DER, and of the two forms that a signature has the one with the lower `s`: verifiers take no other."""
        r, s = decode_dss_signature(self._key.sign(message, ECDSA(SHA256(), deterministic_signing=True)))
        return encode_dss_signature(r, min(s, P256_ORDER - s))

    @classmethod
    def _of(cls, key: PrivateKeyTypes, name: str) -> Self:
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise UnsafeConfiguration(f"{name} is not an ECDSA key on P-256; name one that is, or another kind")
        return cls(key)

    @staticmethod
    def _new() -> EllipticCurvePrivateKey:
        return generate_private_key(SECP256R1())
