"""The shared-key signer."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from agentgate.adapters.signers.hmac import HmacSigner
from agentgate.core.errors import UnsafeConfiguration
from agentgate.ports import Signer
from tests.contracts.signer import SignerContract

KEY = bytes(range(32))


class TestHmacSigner(SignerContract):
    signer = HmacSigner(KEY)
    another = HmacSigner(KEY[::-1])

    def verifies(self, signer: Signer, message: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(signer.sign(message), signature)

    def test_vector_of_rfc_4231(self) -> None:
        key = b"\xaa" * 131
        message = b"Test Using Larger Than Block-Size Key - Hash Key First"
        expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        assert HmacSigner(key).sign(message).hex() == expected

    def test_the_key_id_is_the_start_of_the_keys_digest(self) -> None:
        assert self.signer.key_id == hashlib.sha256(KEY).hexdigest()[:8]

    def test_a_key_that_could_be_guessed_is_refused(self) -> None:
        with pytest.raises(UnsafeConfiguration, match="at least 32"):
            HmacSigner(b"short")

    def test_the_key_is_not_shown(self) -> None:
        assert KEY.hex() not in repr(self.signer)
        assert repr(KEY) not in repr(self.signer)
