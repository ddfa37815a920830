"""Certificates that proxies tell of: from whom that is believed, and whom they stand for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.adapters.certificates.proxied import MAX_REMEMBERED, Entry, ProxiedCertificates
from agentgate.core.call import Principal, PrincipalKind, Role, is_id
from agentgate.ports.identity import NotTaken
from tests.adapters.certificates.test_headers import SINCE, certificate, client_cert
from tests.contracts.certificate_reader import CertificateReaderContract
from tests.fakes import FakeClock

PROXIES = [ip_network("10.0.0.0/24"), ip_network("2001:db8::/64")]
XFCC = "X-Forwarded-Client-Cert"


def entry(name: str = "uri", pattern: str = "spiffe://example.org/agent/*", whom: str = "*", **more: Any) -> Entry:
    return Entry(name, pattern, PrincipalKind.AGENT, whom, more.pop("roles", frozenset({Role.AGENT})), **more)


class House:
    def __init__(self, *entries: Entry, header: str = XFCC) -> None:
        self.clock = FakeClock()
        self.header = header
        self.certificates = ProxiedCertificates(header, PROXIES, entries or [entry()], self.clock)

    def holder(self, value: str | bytes, host: str | None = "10.0.0.7") -> Principal | NotTaken | None:
        raw = value if isinstance(value, bytes) else value.encode()
        return self.certificates.holder({self.header.lower().encode(): raw}, host)

    def who(self, value: str) -> str | None:
        """Whom it stands for; None for a stranger."""
        found = self.holder(value)
        if isinstance(found, NotTaken):
            assert found.is_stranger, found
            return None
        assert found is not None
        return found.id


class TestProxied(CertificateReaderContract):
    @pytest.fixture
    def reader(self) -> ProxiedCertificates:
        return House().certificates

    @pytest.fixture
    def proxy(self) -> str:
        return "10.0.0.7"

    @pytest.fixture
    def good(self) -> dict[bytes, bytes]:
        return {XFCC.lower().encode(): b"URI=spiffe://example.org/agent/deploy-bot"}

    @pytest.fixture
    def stranger(self) -> dict[bytes, bytes]:
        return {XFCC.lower().encode(): b"URI=spiffe://elsewhere/agent/deploy-bot"}


def uri(name: str) -> str:
    return f"URI={name}"


@pytest.mark.parametrize("host", ["10.0.0.0", "10.0.0.255", "::ffff:10.0.0.9", "2001:db8::1"])
def test_a_trusted_proxy_is_believed(host: str) -> None:
    found = House().holder(uri("spiffe://example.org/agent/bot"), host)
    assert isinstance(found, Principal)
    assert (found.id, found.roles, found.auth_method) == ("agent:bot", {Role.AGENT}, "mtls")
    assert (found.tenant, found.tenants_all) == ("default", False)


@pytest.mark.parametrize(
    "host",
    ["10.0.1.0", "127.0.0.1", "::1", "::ffff:10.0.1.1", "2001:db8:1::1", "", None, "10.0.0.7x", "proxy", "10.0.7"],
)
def test_the_header_from_anywhere_else_is_refused_and_not_ignored(host: str | None) -> None:
    found = House().holder(uri("spiffe://example.org/agent/bot"), host)
    assert isinstance(found, NotTaken)
    assert not found.is_stranger


@pytest.mark.parametrize("host", ["10.0.0.7", "127.0.0.1", None])
def test_no_header_is_no_identity(host: str | None) -> None:
    assert House().certificates.holder({b"x-api-key": b"k"}, host) is None


@pytest.mark.parametrize("header", ["X-Forwarded-Client-Cert", "Client-Cert", "X-SSL-Client-S-DN"])
def test_only_the_configured_header_counts_and_two_are_one_too_many(header: str) -> None:
    house = House(entry("cn", "bot", "bot"), header="X-SSL-Client-S-DN")
    both = {b"x-ssl-client-s-dn": b"CN=bot", header.lower().encode(): b"CN=bot"}
    found = house.certificates.holder(both, "10.0.0.7")
    assert isinstance(found, Principal if header == "X-SSL-Client-S-DN" else NotTaken)
    if header != "X-SSL-Client-S-DN":
        alone = house.certificates.holder({header.lower().encode(): b"CN=bot"}, "10.0.0.7")
        assert isinstance(alone, NotTaken)


def test_a_certificate_counts_while_it_is_valid_and_not_one_second_longer() -> None:
    house = House(header="Client-Cert")
    now = house.clock.now()
    for moved, taken in ((SINCE - now - timedelta(seconds=1), False), (timedelta(seconds=1), True),
                         (timedelta(days=30), True), (timedelta(seconds=1), False)):  # fmt: skip
        house.clock.move(moved.total_seconds())
        found = house.holder(client_cert())
        assert isinstance(found, Principal) is taken, house.clock.now()


def test_what_is_remembered_does_not_grow() -> None:
    house = House()
    for number in range(MAX_REMEMBERED + 50):
        house.who(uri(f"spiffe://example.org/agent/bot-{number}"))
    assert len(house.certificates._known) == MAX_REMEMBERED


@pytest.mark.parametrize(
    ("one", "value", "whom"),
    [
        (entry(), "URI=spiffe://example.org/agent/deploy-bot", "agent:deploy-bot"),
        (entry(), "URI=spiffe://example.org/agent/a/b", None),
        (entry(), "URI=spiffe://example.org/agent/", None),
        (entry(), "URI=spiffe://example.org/agent/..", None),
        (entry(), "URI=SPIFFE://example.org/agent/bot", None),
        (entry(), "URI=spiffe://example.org.evil/agent/bot", None),
        (entry(), "URI=xspiffe://example.org/agent/bot", None),
        (entry(), "DNS=bot;URI=spiffe://other/x", None),
        (entry("uri", "spiffe://x/ns/*/sa/bot", "bot"), "URI=spiffe://x/ns/prod/sa/bot", "agent:bot"),
        (entry("uri", "spiffe://x.y/bot", "bot"), "URI=spiffe://xzy/bot", None),
        (entry("dns", "*.agents.example.org"), "DNS=Deploy.Agents.Example.org", "agent:deploy"),
        (entry("dns", "*.agents.example.org"), "DNS=agents.example.org", None),
        (entry("cn", "bot-*"), 'Subject="CN=bot-7,O=x"', "agent:7"),
        (entry("cn", "bot"), 'Subject="CN=bot,CN=admin"', None),
        (entry("cn", "bot"), "URI=bot", None),
        (entry("subject", "CN=bot,O=Example", "bot"), 'Subject="CN=bot,O=Example"', "agent:bot"),
        (entry("subject", "CN=bot,O=Example", "bot"), 'Subject="O=Example,CN=bot"', None),
        (entry("subject", "CN=bot,O=Example", "bot"), 'Subject="CN=bot,O=Example,C=US"', None),
        (entry("subject", "CN=bot,O=Example", "bot"), 'Subject=""', None),
    ],
)
def test_an_entry_is_for_the_names_that_it_fits_whole(one: Entry, value: str, whom: str | None) -> None:
    assert House(one).who(value) == whom


def test_the_first_entry_that_fits_counts_with_its_roles_tenant_and_tier() -> None:
    person = Entry("uri", "spiffe://x/user/*", PrincipalKind.PERSON, "*", frozenset({Role.OPERATOR}), "acme", "gold")
    house = House(entry("uri", "spiffe://x/user/ann", "ann-bot"), person)
    assert house.who("URI=spiffe://x/user/ann") == "agent:ann-bot"
    found = house.holder("URI=spiffe://x/user/bob")
    assert isinstance(found, Principal)
    assert (found.id, found.tenant, found.tier, found.roles) == ("person:bob", "acme", "gold", {Role.OPERATOR})


@pytest.mark.parametrize(
    "entries",
    [
        [entry(pattern="spiffe://example.org/agent/other", whom="other")],
        [entry(pattern="spiffe://example.org/job/*", whom="job-*")],
        [entry(tenant="b")],
        [entry(roles=frozenset({Role.OPERATOR}))],
        [replace(entry(), kind=PrincipalKind.PERSON)],
    ],
    ids=["another", "another pattern", "another tenant", "without its role", "a person"],
)
def test_whoever_was_taken_out_of_the_map_is_not_known_any_more(entries: list[Entry]) -> None:
    bot = House().holder(uri("spiffe://example.org/agent/bot"))
    assert isinstance(bot, Principal)
    assert not House(*entries).certificates.knows(bot)
    former = [entry("cn", "bot", "bot", roles=frozenset({Role.AGENT, Role.OPERATOR})), entry("dns", "*.jobs", "b*")]
    for one in former:
        assert House(*entries, one).certificates.knows(bot), "another entry names it, and gives it no less"


def test_a_certificate_of_several_holders_is_nobodys() -> None:
    found = House().holder("URI=spiffe://example.org/agent/a;URI=spiffe://example.org/agent/b")
    assert isinstance(found, NotTaken)
    assert not found.is_stranger
    fixed = House(entry(whom="bot"))
    assert fixed.who("URI=spiffe://example.org/agent/a;URI=spiffe://example.org/agent/b") == "agent:bot"


@pytest.mark.parametrize("raw", [b"URI=\xff", b"URI=" + b"a" * 20_000, b"URI=a,URI=b", b""])
def test_a_header_that_is_not_read_is_refused_each_time(raw: bytes) -> None:
    house = House()
    for _ in range(2):
        found = house.holder(raw)
        assert isinstance(found, NotTaken)
        assert not found.is_stranger
        assert found.detail.isascii()


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='",;=\\'), max_size=20))
def test_no_name_in_a_certificate_becomes_an_agent_outside_of_the_grammar(name: str) -> None:
    found = House().holder(f"URI=spiffe://example.org/agent/{name}")
    if isinstance(found, Principal):
        assert is_id(found.name)
        assert "/" not in found.name
        assert found.name == name
    else:
        assert isinstance(found, NotTaken)


def test_the_names_of_a_whole_certificate_count_too() -> None:
    house = House(entry("cn", "deploy-*"), header="Client-Cert")
    house.clock.move((SINCE - house.clock.now()).total_seconds() + 60)
    assert house.who(client_cert(certificate(cn=("deploy-bot",)))) == "agent:bot"
