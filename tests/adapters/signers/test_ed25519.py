"""The asymmetric signer and its key file."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.errors import UnsafeConfiguration
from tests.contracts.signer import EnvelopeSignerContract


class TestEd25519Signer(EnvelopeSignerContract):
    signer = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    another = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))

    def test_vector_of_rfc_8032(self) -> None:
        secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        signer = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(secret))
        assert signer.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        assert signer.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a")


def test_the_first_start_makes_a_private_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "log.pem"
    made = Ed25519Signer.from_file_or_new(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert [entry.name for entry in path.parent.iterdir()] == ["log.pem"]
    assert Ed25519Signer.from_file_or_new(path).public_key == made.public_key


def _key_id_at_first_start(path: str) -> str:
    return Ed25519Signer.from_file_or_new(Path(path)).key_id


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(_key_id_at_first_start, [str(tmp_path / "log.pem")] * 8))) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "log.pem"
    Ed25519Signer.from_file_or_new(path)
    path.chmod(mode)
    with pytest.raises(UnsafeConfiguration, match="chmod 600"):
        Ed25519Signer.from_file_or_new(path)


def test_a_missing_key_is_not_made_where_one_must_be(tmp_path: Path) -> None:
    with pytest.raises(UnsafeConfiguration, match="cannot be read"):
        Ed25519Signer.from_file(tmp_path / "log.pem")


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_nonsense_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.pem"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(UnsafeConfiguration, match="PEM"):
        Ed25519Signer.from_file(path)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.pem"
    path.touch(0o600)
    key = generate_private_key(SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UnsafeConfiguration, match="not an Ed25519 key"):
        Ed25519Signer.from_file(path)
