"""What every signer promises."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.core.dsse import PublicKey
from agentgate.ports.keys import EnvelopeSigner, Signer

# Several signers inherit one property: that is what a contract is.
_for_each_signer = settings(suppress_health_check=[HealthCheck.differing_executors])


class SignerContract:
    """Subclasses give `signer`, `another` with another key, and `verifies`."""

    signer: Signer
    another: Signer

    def verifies(self, signer: Signer, message: bytes, signature: bytes) -> bool:
        raise NotImplementedError

    @_for_each_signer
    @given(message=st.binary(max_size=200))
    def test_a_signature_verifies(self, message: bytes) -> None:
        assert self.verifies(self.signer, message, self.signer.sign(message))

    @_for_each_signer
    @given(message=st.binary(max_size=200))
    def test_another_key_signs_otherwise(self, message: bytes) -> None:
        assert not self.verifies(self.signer, message, self.another.sign(message))

    @_for_each_signer
    @given(message=st.binary(min_size=1, max_size=100), at=st.integers(min_value=0), bit=st.integers(0, 7))
    def test_any_changed_bit_is_noticed(self, message: bytes, at: int, bit: int) -> None:
        signature = self.signer.sign(message)
        other = bytearray(message)
        other[at % len(other)] ^= 1 << bit
        assert not self.verifies(self.signer, bytes(other), signature)
        forged = bytearray(signature)
        forged[at % len(forged)] ^= 1 << bit
        assert not self.verifies(self.signer, message, bytes(forged))

    def test_keys_can_be_told_apart(self) -> None:
        assert re.fullmatch(r"[0-9a-f]{8,64}", self.signer.key_id)
        assert self.signer.key_id != self.another.key_id

    def test_it_says_its_algorithm(self) -> None:
        assert self.signer.algorithm in ("ed25519", "hmac-sha256", "ecdsa-p256")

    def test_signing_again_is_the_same_signature(self) -> None:
        """A pack has one byte form, and no signature hangs on a good source of chance."""
        assert self.signer.sign(b"once") == self.signer.sign(b"once")


class EnvelopeSignerContract(SignerContract):
    """Of signers whose public key goes into a pack."""

    signer: EnvelopeSigner
    another: EnvelopeSigner

    def verifies(self, signer: Signer, message: bytes, signature: bytes) -> bool:
        return PublicKey(signer.spki).verifies(message, signature)  # type: ignore[attr-defined]

    def test_the_public_key_says_which_algorithm_it_is_for(self) -> None:
        assert PublicKey(self.signer.spki).algorithm == self.signer.algorithm

    def test_openssl_verifies_what_it_signs(self, tmp_path: Path) -> None:
        for name, content in (
            ("key.pem", PublicKey(self.signer.spki).pem), ("message", b"m"), ("signature", self.signer.sign(b"m")),
        ):  # fmt: skip
            (tmp_path / name).write_bytes(content)
        is_ed25519 = self.signer.algorithm == "ed25519"
        command = (
            ["pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", "message", "-sigfile", "signature"]
            if is_ed25519
            else ["dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "message"]
        )
        for message, status in ((b"m", 0), (b"n", 1)):
            (tmp_path / "message").write_bytes(message)
            ran = subprocess.run(["openssl", *command], cwd=tmp_path, capture_output=True, check=False)
            assert ran.returncode == status, ran.stderr
