"""The signer for those who hold the same key."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from agentgate.adapters.signers.hmac import HmacSigner
from agentgate.core.errors import UnsafeConfiguration
from agentgate.ports.keys import Signer
from tests.contracts.signer import SignerContract

KEY = bytes(range(32))


class TestHmacSigner(SignerContract):
    signer = HmacSigner(KEY)
    another = HmacSigner(KEY[::-1])

    def verifies(self, signer: Signer, message: bytes, signature: bytes) -> bool:
        key = KEY if signer is self.signer else KEY[::-1]
        return hmac.compare_digest(hmac.new(key, message, hashlib.sha256).digest(), signature)

    def test_vector_of_rfc_4231(self) -> None:
        """Test case 7: a key longer than a block of the hash."""
        text = b"This is a test using a larger than block-size key and a larger than block-size data. "
        text += b"The key needs to be hashed before being used by the HMAC algorithm."
        signature = HmacSigner(b"\xaa" * 131).sign(text)
        assert signature.hex() == "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"


@pytest.mark.parametrize("key", [b"", b"x", bytes(31)])
def test_a_key_shorter_than_the_hash_is_refused(key: bytes) -> None:
    with pytest.raises(UnsafeConfiguration, match="32 bytes"):
        HmacSigner(key)


def test_the_key_is_not_told_by_its_name() -> None:
    assert HmacSigner(KEY).key_id not in KEY.hex()
    assert KEY.hex() not in repr(HmacSigner(KEY))
