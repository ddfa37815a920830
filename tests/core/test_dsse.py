"""The envelope: made as its standards say, read in one form only, and no bit of it free."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, SECP384R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OutsideEnvelope
from securesystemslib.signer import SSlibKey

from agentgate.core import dsse
from agentgate.core.dsse import P256_ORDER, Envelope, EnvelopeInvalid, PublicKey, Signature
from agentgate.core.strict_json import canonical
from tests.packs import low_s

EC_KEY = derive_private_key(0xABCDEF, SECP256R1())
ED_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DIGESTS = st.dictionaries(
    st.text("abcdefgh/.-", min_size=1), st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=5
)
PREDICATE = {"pack_id": "0" * 64, "event_count": 3, "timestamp": False}


def public(key: Any) -> PublicKey:
    return PublicKey(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def signed(payload: bytes, *, ed25519: bool = False) -> Envelope:
    unsigned = Envelope(payload, ())
    key = ED_KEY if ed25519 else EC_KEY
    raw = ED_KEY.sign(unsigned.signed) if ed25519 else low_s(EC_KEY.sign(unsigned.signed, ECDSA(SHA256())))
    return Envelope(payload, (Signature(public(key).key_id, raw),))


STATEMENT = dsse.statement({"pack.json": "1" * 64, "checkpoint": "2" * 64}, PREDICATE)
ENVELOPE = signed(STATEMENT)


def test_the_encoding_is_the_one_of_the_specification() -> None:
    """protocol.md, "Test Vectors"."""
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(one=st.tuples(st.text(), st.binary()), other=st.tuples(st.text(), st.binary()))
def test_no_two_payloads_are_signed_as_one(one: tuple[str, bytes], other: tuple[str, bytes]) -> None:
    assert (dsse.pae(*one) == dsse.pae(*other)) == (one == other)


@given(digests=DIGESTS)
def test_a_statement_is_read_as_it_was_written(digests: dict[str, str]) -> None:
    raw = dsse.statement(digests, PREDICATE)
    found = dsse.parse_statement(raw)
    assert (dict(found.digests), dict(found.predicate)) == (digests, PREDICATE)
    assert json.loads(raw)["_type"] == "https://in-toto.io/Statement/v1"


@given(payload=st.binary(max_size=200), ed25519=st.booleans())
def test_an_envelope_is_read_as_it_was_written_and_holds_under_its_key_alone(payload: bytes, ed25519: bool) -> None:
    envelope = signed(payload, ed25519=ed25519)
    assert dsse.parse_envelope(envelope.json) == dsse.parse_bundle(envelope.bundle) == envelope
    own, other = (public(ED_KEY), public(EC_KEY)) if ed25519 else (public(EC_KEY), public(ED_KEY))
    assert envelope.signed_by([other, own]) == own
    assert envelope.signed_by([other]) is None


@given(payload=st.binary(max_size=50))
def test_the_other_form_of_a_signature_is_none(payload: bytes) -> None:
    """With `s` its negative is a signature too, and would make a second envelope of the same content."""
    envelope = signed(payload)
    (own,) = envelope.signatures
    r, s = decode_dss_signature(own.raw)
    other = Envelope(payload, (Signature(own.key_id, encode_dss_signature(r, P256_ORDER - s)),))
    assert envelope.signed_by([public(EC_KEY)]) is not None
    assert other.signed_by([public(EC_KEY)]) is None


@given(at=st.integers(0), bit=st.integers(0, 7), form=st.sampled_from(["json", "bundle"]))
def test_a_flipped_bit_is_noticed_wherever_it_is(at: int, bit: int, form: str) -> None:
    """Whatever still reads as an envelope, is not signed by the key, or names another one: E.g. in the hint."""
    raw = bytearray(getattr(ENVELOPE, form))
    raw[at % len(raw)] ^= 1 << bit
    try:
        found = dsse.parse_envelope(bytes(raw)) if form == "json" else dsse.parse_bundle(bytes(raw))
    except EnvelopeInvalid:
        return
    assert found != ENVELOPE
    assert found.signed_by([public(EC_KEY)]) is None or found.signatures[0].key_id != public(EC_KEY).key_id


@pytest.mark.parametrize("ed25519", [False, True])
def test_securesystemslib_verifies_it(ed25519: bool) -> None:
    key = public(ED_KEY if ed25519 else EC_KEY)
    outside = OutsideEnvelope.from_dict(json.loads(signed(STATEMENT, ed25519=ed25519).json))
    kind = ("ed25519", "ed25519") if ed25519 else ("ecdsa", "ecdsa-sha2-nistp256")
    value = ED_KEY.public_key().public_bytes_raw().hex() if ed25519 else key.pem.decode()
    known = SSlibKey(key.key_id, *kind, {"public": value})
    assert list(outside.verify([known], 1)) == [key.key_id]


def test_a_key_is_named_by_what_openssl_can_compare() -> None:
    key = public(EC_KEY)
    assert key.key_id == hashlib.sha256(key.spki).hexdigest()
    assert PublicKey.from_pem(key.pem) == key
    assert (key.algorithm, public(ED_KEY).algorithm) == ("ecdsa-p256", "ed25519")


P384 = derive_private_key(7, SECP384R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("pem", [b"", b"nonsense", P384, public(EC_KEY).pem[:-40]])
def test_another_key_is_none(pem: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        PublicKey.from_pem(pem)


def changed(envelope: Envelope, **members: Any) -> bytes:
    return canonical({**envelope.document, **members})


SIGNATURE = ENVELOPE.document["signatures"][0]
PAYLOAD = base64.b64encode(STATEMENT).decode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b'{"payload":"","payload":""}',
        changed(ENVELOPE, extra=1),
        changed(ENVELOPE, signatures=[]),
        changed(ENVELOPE, signatures=[{**SIGNATURE, "cert": "x"}]),
        changed(ENVELOPE, signatures=[{"sig": SIGNATURE["sig"]}]),
        changed(ENVELOPE, signatures=[{**SIGNATURE, "sig": "!"}]),
        changed(ENVELOPE, payload=PAYLOAD.rstrip("=") + "=" * 3),
        changed(ENVELOPE, payload=7),
        ENVELOPE.json + b"\n",
        b" " + ENVELOPE.json,
        json.dumps(ENVELOPE.document).encode(),
        ENVELOPE.bundle,
    ],
)
def test_an_envelope_has_one_form(raw: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        dsse.parse_envelope(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": "application/vnd.dev.sigstore.bundle.v0.2+json"},
        {"extra": 1},
        {"dsseEnvelope": {}},
        {"verificationMaterial": {"publicKey": {"hint": "0"}, "tlogEntries": []}},
    ],
)
def test_a_bundle_has_one_form(change: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeInvalid):
        dsse.parse_bundle(canonical({**json.loads(ENVELOPE.bundle), **change}))


def said(**members: Any) -> bytes:
    return canonical({**json.loads(STATEMENT), **members})


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        STATEMENT + b" ",
        said(_type="https://in-toto.io/Statement/v0.1"),
        said(predicateType="https://slsa.dev/provenance/v1"),
        said(predicate=[]),
        said(subject={}),
        said(extra=1),
        said(subject=[{"name": "a", "digest": {"sha512": "0"}}]),
        said(subject=[{"name": "a", "digest": {"sha256": "0"}}] * 2),
        said(subject=["a"]),
    ],
)
def test_another_statement_is_none(raw: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        dsse.parse_statement(raw)
