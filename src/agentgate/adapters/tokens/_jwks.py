"""A JWK Set (RFC 7517) as a table of public keys, each good for the algorithms of its own type alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from agentgate.core.signature import SignatureKey, is_anybodys
from agentgate.core.strict_json import NotStrictJson, parse

MAX_KEYS: Final = 64
MAX_KID_CHARS: Final = 256
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192
"""Verifying with a longer one would hold up the calls of everybody else."""
_SMALL_ED448: Final = frozenset(y.to_bytes(56, "little") for y in (0, 1, 2**448 - 2**224 - 2))
"""Ed448 public keys of small order, without their sign; see `core/signature.py`."""

_READERS: Final[dict[str, type[Algorithm]]] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
_FITTING: Final = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "P-256": frozenset({"ES256"}),
    "P-384": frozenset({"ES384"}),
    "P-521": frozenset({"ES512"}),
    "Ed25519": frozenset({"EdDSA"}),
    "Ed448": frozenset({"EdDSA"}),
}
ALGORITHMS: Final = frozenset[str]().union(*_FITTING.values())
"""All with a public key: a token is never checked with a secret that is shared, and never with nothing."""

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey


class NoKeySet(ValueError):
    """The bytes are no JWK Set with a key that could be used."""


@dataclass(frozen=True, slots=True)
class Jwk:
    """One public key, and the algorithms that it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    key: PublicKey


class KeySet:
    """The keys of one issuer at one time."""

    def __init__(self, keys: Iterable[Jwk]) -> None:
        self._keys = tuple(keys)
        whole = hashlib.sha256()
        for jwk in self._keys:
            spki = jwk.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            whole.update(repr((jwk.kid, sorted(jwk.algorithms), spki)).encode())
        self.fingerprint = whole.hexdigest()
        """The same for the same keys: what was verified under another one is verified anew."""

    def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key of that name and type. A token that names none is fine where only one key fits."""
        fitting = [jwk for jwk in self._keys if algorithm in jwk.algorithms and (kid is None or jwk.kid == kid)]
        return fitting[0].key if fitting and (kid is not None or len(fitting) == 1) else None


def read_key_set(raw: bytes) -> KeySet:
    """The public signature keys in a JWK Set; what is no such key, or a weak one, is left out.

    Raises:
        NoKeySet: saying what is wrong with the whole.
    """
    try:
        document = parse(raw)
    except NotStrictJson as error:
        raise NoKeySet(f"the keys are not strict JSON: {error}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise NoKeySet("the keys are no JWK Set")
    if len(entries) > MAX_KEYS:
        raise NoKeySet(f"there are more than {MAX_KEYS} keys")
    keys = [jwk for entry in entries if (jwk := _read(entry)) is not None]
    if not keys:
        raise NoKeySet("there is no public signature key among the keys")
    return KeySet(keys)


def _read(entry: Any) -> Jwk | None:
    """A key that can verify, or None: an `oct` one is a secret, and one with `d` is a secret that everybody knows."""
    if not isinstance(entry, dict) or "d" in entry or entry.get("use", "sig") != "sig":
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kid, named = entry.get("kid"), entry.get("alg")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID_CHARS):
        return None
    kty = entry.get("kty")
    reader = _READERS.get(kty) if isinstance(kty, str) else None
    if reader is None:
        return None
    try:
        key = reader.from_jwk(entry)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        return None  # a member of the wrong type is as good as a key that is not there
    if not isinstance(key, PublicKey) or _is_weak(key):
        return None
    algorithms = _FITTING.get("RSA" if kty == "RSA" else str(entry.get("crv")), frozenset())
    if named is not None:
        algorithms &= {named} if isinstance(named, str) else frozenset()
    return Jwk(kid, algorithms, key) if algorithms else None


def _is_weak(key: PublicKey) -> bool:
    """Of the wrong length, or one that anybody can sign with: a placeholder of zeros needs no private half."""
    if isinstance(key, RSAPublicKey):
        return not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS
    if isinstance(key, Ed25519PublicKey):
        return is_anybodys(SignatureKey("ed25519", key.public_bytes_raw()))
    return isinstance(key, Ed448PublicKey) and key.public_bytes_raw()[:-1] in _SMALL_ED448
