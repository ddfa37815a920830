"""The signed envelope of a pack: DSSE around an in-toto Statement, and the same as a Sigstore bundle.

Sources: DSSE v1.0 protocol.md and envelope.md (github.com/secure-systems-lab/dsse), in-toto Statement v1
(github.com/in-toto/attestation, spec/v1/statement.md), Sigstore bundle v0.3 (github.com/sigstore/protobuf-specs,
sigstore_bundle.proto). Reading is strict: one envelope has one form, so that no bit of one can change unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from agentgate.core import base64_text
from agentgate.core.strict_json import NotStrictJson, canonical, parse

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://agentgate.dev/evidence/v1"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


class EnvelopeInvalid(ValueError):
    """The bytes are not an envelope, a statement, a bundle or a key. The text says what is wrong."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding (protocol.md, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve's group (SEC 2, §2.4.2): with `s`, this less `s` is a signature too."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that envelopes are verified with: ECDSA on P-256 with SHA-256 (DER signatures), or Ed25519."""

    spki: bytes
    """SubjectPublicKeyInfo in DER."""

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """Raises EnvelopeInvalid."""
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise EnvelopeInvalid("not a public key in PEM (SubjectPublicKeyInfo)") from None
        found = cls(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        found._key()
        return found

    @property
    def pem(self) -> bytes:
        """The form in which a pack carries it."""
        return self._key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def key_id(self) -> str:
        """SHA-256 of the DER form in hexadecimals: what names the key in envelopes and in file names."""
        return hashlib.sha256(self.spki).hexdigest()

    @property
    def algorithm(self) -> str:
        return "ed25519" if isinstance(self._key(), Ed25519PublicKey) else "ecdsa-p256"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Raises EnvelopeInvalid when the key is none."""
        key = self._key()
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, message)
            else:
                key.verify(signature, message, ECDSA(SHA256()))
                # the other form is a second valid envelope
                return decode_dss_signature(signature)[1] <= P256_ORDER // 2
        except InvalidSignature:
            return False
        return True

    def _key(self) -> Ed25519PublicKey | EllipticCurvePublicKey:
        try:
            key = load_der_public_key(self.spki)
        except (ValueError, UnsupportedAlgorithm):
            raise EnvelopeInvalid("not a public key") from None
        if isinstance(key, Ed25519PublicKey):
            return key
        if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            return key
        raise EnvelopeInvalid("envelopes are signed with ECDSA on P-256 or with Ed25519, and this is another key")


def statement(digests: Mapping[str, str], predicate: Mapping[str, Any]) -> bytes:
    """An in-toto Statement v1 about files, given by their name and SHA-256 in hexadecimals."""
    subjects = [{"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()]
    return canonical(
        {"_type": STATEMENT_TYPE, "subject": subjects, "predicateType": PREDICATE_TYPE, "predicate": dict(predicate)}
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """What an envelope says: the SHA-256 of each file by its name, and the predicate."""

    digests: Mapping[str, str]
    predicate: Mapping[str, Any]


def parse_statement(raw: bytes) -> Statement:
    """A statement from the payload of an envelope. Raises EnvelopeInvalid."""
    said = _canonical_object(raw, "statement")
    if set(said) != {"_type", "subject", "predicateType", "predicate"}:
        raise EnvelopeInvalid("a statement has a type, subjects and a predicate, and nothing else")
    if (said["_type"], said["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise EnvelopeInvalid("the statement is not one about an evidence pack")
    if not isinstance(said["predicate"], dict) or not isinstance(said["subject"], list):
        raise EnvelopeInvalid("the statement is malformed")
    digests: dict[str, str] = {}
    for subject in said["subject"]:
        match subject:
            case {"name": str(name), "digest": {"sha256": str(digest)}} if name not in digests:
                digests[name] = digest
            case _:
                raise EnvelopeInvalid("a subject has one name, of its own, and its SHA-256")
    return Statement(digests, said["predicate"])


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature. `key_id` is a hint that nobody signs (DSSE, protocol.md)."""

    key_id: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and who signed it."""

    payload: bytes
    signatures: tuple[Signature, ...]
    payload_type: str = PAYLOAD_TYPE

    @property
    def signed(self) -> bytes:
        """The bytes that each signature is over."""
        return pae(self.payload_type, self.payload)

    def signed_by(self, keys: Sequence[PublicKey]) -> PublicKey | None:
        """The first of `keys` that made one of the signatures."""
        for key in keys:
            if any(key.verifies(self.signed, signature.raw) for signature in self.signatures):
                return key
        return None

    @property
    def document(self) -> dict[str, Any]:
        """The envelope's JSON (envelope.md, "Standard JSON envelope")."""
        return {
            "payload": base64_text.encoded(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": one.key_id, "sig": base64_text.encoded(one.raw)} for one in self.signatures],
        }

    @property
    def json(self) -> bytes:
        """`pack.dsse.json`."""
        return canonical(self.document)

    @property
    def bundle(self) -> bytes:
        """`pack.sigstore.json`: a Sigstore bundle that names its key by a hint, without a transparency log of theirs.

        A time stamp is not in it: verifiers refuse one whose authority they do not know.
        """
        material = {"publicKey": {"hint": self.signatures[0].key_id}, "tlogEntries": []}
        return canonical({"mediaType": BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": self.document})


def parse_envelope(raw: bytes) -> Envelope:
    """An envelope from `pack.dsse.json`. Raises EnvelopeInvalid."""
    match _canonical_object(raw, "envelope"):
        case {"payload": str(payload), "payloadType": str(kind), "signatures": [*signatures]} if signatures:
            found = Envelope(base64_text.decoded(payload, EnvelopeInvalid), tuple(map(_signature, signatures)), kind)
        case _:
            raise EnvelopeInvalid("an envelope has a payload, its type and signatures")
    if found.json != raw:
        raise EnvelopeInvalid("the envelope has more in it than it should")
    return found


def parse_bundle(raw: bytes) -> Envelope:
    """The envelope in `pack.sigstore.json`. Raises EnvelopeInvalid."""
    match _canonical_object(raw, "bundle"):
        case {"dsseEnvelope": dict(document)}:
            found = parse_envelope(canonical(document))
        case _:
            raise EnvelopeInvalid("a bundle holds an envelope")
    if found.bundle != raw:
        raise EnvelopeInvalid("the bundle is not one of an evidence pack")
    return found


def _signature(said: Any) -> Signature:
    match said:
        case {"keyid": str(key_id), "sig": str(signature)}:
            return Signature(key_id, base64_text.decoded(signature, EnvelopeInvalid))
        case _:
            raise EnvelopeInvalid("a signature has a key id and bytes")


def _canonical_object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        said = parse(raw)
    except NotStrictJson as error:
        raise EnvelopeInvalid(f"the {what} is not strict JSON: {error}") from None
    if not isinstance(said, dict) or canonical(said) != raw:
        raise EnvelopeInvalid(f"the {what} is not a JSON object in canonical form")
    return said
