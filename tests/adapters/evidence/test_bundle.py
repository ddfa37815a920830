"""The files of a zip, and the page that says how to check them."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.adapters.evidence.bundle import Bundle
from agentgate.adapters.evidence.html import HtmlPack
from agentgate.adapters.evidence.pdf import PdfPack
from agentgate.adapters.signers.hmac import HmacSigner
from tests.contracts.bundler import ENCLOSURES, BundlerContract
from tests.evidence_samples import KEY, sample

ECDSA = derive_private_key(0xABCDEF, SECP256R1()).public_key()
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()


def keys_with(envelope: bytes) -> dict[str, bytes]:
    return {"keys/log.vkey": b"log+00000000+AQ==\n", "keys/envelope.pub.pem": envelope}


VIEWS = (HtmlPack(), PdfPack())
KEYS = keys_with(ECDSA.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


class TestBundle(BundlerContract):
    bundler = Bundle(VIEWS, KEYS, HmacSigner(KEY))
    unsigned = Bundle(VIEWS, KEYS, None)


def page(bundle: Bundle) -> str:
    return bundle.files(sample("rich"), ENCLOSURES)["VERIFY.md"].decode()


def test_the_page_has_the_commands_for_the_key_that_signed() -> None:
    assert "openssl dgst -sha256 -verify" in page(Bundle((), KEYS, None))
    ed25519 = keys_with(ED25519.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert "pkeyutl -verify -pubin -inkey keys/envelope" in page(Bundle((), ed25519, None))


def test_the_page_speaks_of_an_hmac_only_where_there_is_one() -> None:
    assert "AGENTGATE_SIGNING_KEY" in page(Bundle((), KEYS, HmacSigner(KEY)))
    assert "## 3." not in page(Bundle((), KEYS, None))


def test_the_page_is_short_and_names_no_file_that_a_pack_cannot_have() -> None:
    text = page(Bundle(VIEWS, KEYS, HmacSigner(KEY)))
    assert len(text.splitlines()) < 135
    assert max(map(len, text.splitlines())) <= 120
    assert "{" not in text.split("```")[0], "nothing was left to be filled in"
