"""What every signer promises."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.ports import Signer

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
        assert re.fullmatch(r"[0-9a-f]{8}", self.signer.key_id)
        assert self.signer.key_id != self.another.key_id

    def test_it_says_its_algorithm(self) -> None:
        assert self.signer.algorithm in ("ed25519", "hmac-sha256", "ecdsa-p256")
