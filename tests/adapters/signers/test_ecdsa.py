"""The default signer of envelopes, and keys out of the environment."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from agentgate.adapters.signers.ecdsa import EcdsaSigner
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.dsse import P256_ORDER
from agentgate.core.errors import UnsafeConfiguration
from tests.contracts.signer import EnvelopeSignerContract

KEY = derive_private_key(0x1234567, SECP256R1())


def pem(key: PrivateKeyTypes, password: bytes | None = None) -> str:
    """PKCS #8, as `openssl genpkey` writes it."""
    sealed = BestAvailableEncryption(password) if password is not None else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed).decode()


class TestEcdsaSigner(EnvelopeSignerContract):
    signer = EcdsaSigner(KEY)
    another = EcdsaSigner(derive_private_key(0x7654321, SECP256R1()))

    def test_vector_of_rfc_6979(self) -> None:
        """A.2.5, P-256 with SHA-256, message "sample"; of `s` and its negative the lower one."""
        secret = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
        signature = EcdsaSigner(derive_private_key(secret, SECP256R1())).sign(b"sample")
        r, s = decode_dss_signature(signature)
        assert r == 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
        assert s == P256_ORDER - 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8


def test_the_first_start_makes_a_private_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "envelope-key.pem"
    made = EcdsaSigner.from_file_or_new(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert EcdsaSigner.from_file_or_new(path).spki == EcdsaSigner.from_file(path).spki == made.spki
    path.chmod(0o640)
    with pytest.raises(UnsafeConfiguration, match="chmod 600"):
        EcdsaSigner.from_file(path)


def test_a_key_comes_out_of_the_environment_with_or_without_its_line_ends() -> None:
    text = pem(KEY)
    for form in (text, base64.b64encode(text.encode()).decode(), base64.encodebytes(text.encode()).decode()):
        assert EcdsaSigner.from_text(form, "MY_KEY").spki == EcdsaSigner(KEY).spki
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert Ed25519Signer.from_text(pem(other), "MY_KEY").spki == Ed25519Signer(other).spki


UNFIT = {
    "another curve": (pem(derive_private_key(7, SECP384R1())), "P-256"),
    "another algorithm": (pem(Ed25519PrivateKey.from_private_bytes(bytes(32))), "P-256"),
    "with a password": (pem(KEY, b"secret"), "unencrypted"),
    "a public key": ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "private key"),
    "no base64": ("nonsense!", "base64"),
    "base64 of nonsense": ("bm9uc2Vuc2U=", "private key"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_another_key_stops_the_start_and_is_not_told(case: str) -> None:
    text, word = UNFIT[case]
    with pytest.raises(UnsafeConfiguration, match=word) as refused:
        EcdsaSigner.from_text(text, "MY_KEY")
    assert "MY_KEY" in str(refused.value)
    assert text[30:60] not in str(refused.value) or not text[30:60]


def test_an_envelope_key_of_the_other_kind_stops_the_start() -> None:
    with pytest.raises(UnsafeConfiguration, match="Ed25519"):
        Ed25519Signer.from_text(pem(KEY), "MY_KEY")


def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnsafeConfiguration, match="cannot be written"):
        EcdsaSigner.from_file_or_new(tmp_path / "file" / "envelope-key.pem")
