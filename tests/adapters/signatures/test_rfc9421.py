"""HTTP message signatures, against the RFC's own and against our clients'."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSignaturesException

from agentgate.adapters.signatures.rfc9421 import Rfc9421Verifier, verify
from agentgate.core.signature import NotSigned, SignatureKey
from agentgate.ports.identity import SignedRequest
from tests.contracts.signature_verifier import NOW, URL, SignatureVerifierContract, request_of
from tests.fakes import FakeClock
from tests.signing import Envelope, hmac_with

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SECRET = "a-shared-secret-of-the-tests-4711"
BODY = b'{"agent_id":"bot"}'


class _Contract(SignatureVerifierContract):
    @pytest.fixture
    def verifier(self) -> Rfc9421Verifier:
        clock = FakeClock()
        clock.moment = datetime.fromtimestamp(NOW, UTC)
        return Rfc9421Verifier(clock, 60.0)


class TestEd25519(_Contract):
    @pytest.fixture
    def key(self) -> SignatureKey:
        return SignatureKey("ed25519", PRIVATE.public_key().public_bytes_raw())

    @pytest.fixture
    def signed(self) -> Envelope:
        return Envelope("k-1", PRIVATE.sign, BODY, URL, parameters={"created": NOW})


class TestHmac(_Contract):
    @pytest.fixture
    def key(self) -> SignatureKey:
        return SignatureKey("hmac-sha256", SECRET.encode())

    @pytest.fixture
    def signed(self) -> Envelope:
        return Envelope("k-1", hmac_with(SECRET), BODY, URL, parameters={"created": NOW})

    def test_a_key_is_not_in_what_is_printed_of_it(self, key: SignatureKey) -> None:
        assert SECRET not in repr(key)


# RFC 9421, appendix B.2: the request of B.2, the keys of B.1.4 and B.1.5
_REQUEST = (
    ("Host", "example.com"),
    ("Date", "Tue, 20 Apr 2021 02:07:55 GMT"),
    ("Content-Type", "application/json"),
    (
        "Content-Digest",
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
    ),
    ("Content-Length", "18"),
)
_ED25519 = SignatureKey("ed25519", base64.urlsafe_b64decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs="))
_SHARED = SignatureKey(
    "hmac-sha256",
    base64.b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="),
)
_B25 = (
    'sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"',
    "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
)
_COVERED = '"date" "@method" "@path" "@authority" "content-type" "content-length"'
_B26 = (
    f'sig-b26=({_COVERED});created=1618884473;keyid="test-key-ed25519"',
    "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
)
_VECTORS = pytest.mark.parametrize(
    ("vector", "key"), [(_B25, _SHARED), (_B26, _ED25519)], ids=["B.2.5 hmac-sha256", "B.2.6 ed25519"]
)


def _example(vector: tuple[str, str], method: str = "POST", date: str | None = None) -> SignedRequest:
    fields = [(name, date if name == "Date" and date else value) for name, value in _REQUEST]
    fields += [("Signature-Input", vector[0]), ("Signature", vector[1])]
    return SignedRequest(method, "http://example.com/foo?param=Value&Pet=dog", fields, b'{"hello": "world"}')


@_VECTORS
def test_the_examples_of_the_rfc_hold(vector: tuple[str, str], key: SignatureKey) -> None:
    verify(_example(vector), key)
    with pytest.raises(HTTPMessageSignaturesException):
        verify(_example(vector, date="Tue, 20 Apr 2021 02:07:56 GMT"), key)


@_VECTORS
def test_they_cover_too_little_for_us(vector: tuple[str, str], key: SignatureKey) -> None:
    clock = FakeClock()
    clock.moment = datetime.fromtimestamp(1618884473, UTC)
    found = Rfc9421Verifier(clock, 60.0).signer(_example(vector), lambda _: key)
    assert isinstance(found, NotSigned)
    assert "does not cover" in found.detail


@pytest.mark.parametrize(
    ("component", "value"),
    [("@query", "?a=%20b&c"), ("@authority", "gate.example:8080"), ("@path", "/api/tools%2Fcall")],
)
def test_addresses_are_taken_as_they_came(component: str, value: str) -> None:
    """Neither decoded nor sorted; the port is part of the authority unless it is the scheme's own."""
    key = SignatureKey("hmac-sha256", SECRET.encode())
    url = "http://gate.example:8080/api/tools%2Fcall?a=%20b&c"
    components = ("@method", "@authority", "@path", "@query", "content-digest", "content-type")
    made = Envelope("k-1", hmac_with(SECRET), BODY, url, components)
    assert made.value(component) == value
    verify(request_of(made), key)
