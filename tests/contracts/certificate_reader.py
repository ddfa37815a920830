"""What everything promises that reads whose client certificate a proxy has seen (ports.CertificateReader)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.core.call import Principal
from agentgate.ports.identity import CertificateReader, NotTaken

_for_each_reader = settings(
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture], max_examples=100
)
Headers = dict[bytes, bytes]


class CertificateReaderContract:
    """Subclasses give fixtures: `reader`; `proxy`, an address that it trusts; `good`, headers of a certificate of the
    agent `deploy-bot`; and `stranger`, of one that is good and stands for nobody."""

    def test_a_trusted_proxys_certificate_is_its_holder(
        self, reader: CertificateReader, proxy: str, good: Headers
    ) -> None:
        for _ in range(2):  # the second time it is remembered
            found = reader.holder({b"host": b"x", **good}, proxy)
            assert isinstance(found, Principal)
            assert (found.id, found.auth_method, found.tenants_all) == ("agent:deploy-bot", "mtls", False)
            assert reader.knows(found)

    @pytest.mark.parametrize("host", [None, "", "203.0.113.7", "2001:db8:ffff::7", "localhost"])
    def test_nobody_else_is_believed_or_overlooked(
        self, reader: CertificateReader, good: Headers, stranger: Headers, host: str | None
    ) -> None:
        for headers in (good, stranger):
            found = reader.holder(headers, host)
            assert isinstance(found, NotTaken)
            assert not found.is_stranger, "a key beside it does not help"

    def test_a_stranger_is_nobody_and_says_so(self, reader: CertificateReader, proxy: str, stranger: Headers) -> None:
        found = reader.holder(stranger, proxy)
        assert isinstance(found, NotTaken)
        assert found.is_stranger

    def test_without_a_header_there_is_no_certificate(self, reader: CertificateReader, proxy: str) -> None:
        assert reader.holder({b"x-api-key": b"k"}, proxy) is None

    @_for_each_reader
    @given(raw=st.binary(max_size=200))
    def test_anything_else_is_not_taken(self, reader: CertificateReader, proxy: str, good: Headers, raw: bytes) -> None:
        found = reader.holder(dict.fromkeys(good, raw), proxy)
        assert isinstance(found, NotTaken)
        assert found.detail.isascii()
        assert found.detail.isprintable()
