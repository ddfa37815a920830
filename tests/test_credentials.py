"""Credentials of the configuration: where they may go, and what stops a start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentgate.adapters.upstreams._http_inject import read_injection
from agentgate.adapters.upstreams._mcp.settings import read_credential_place
from agentgate.core.errors import UnsafeConfiguration
from agentgate.credentials import KINDS, OfProcess, make_broker, make_issuer
from agentgate.kinds import make_routes
from agentgate.settings import CredentialPart, load
from tests.fakes import FakeClock, FakeUpstream, a_call

ENV = {"kind": "env", "name": "AGENTGATE_TEST_TOKEN"}
EXCHANGE = {
    "kind": "token_exchange",
    "token_url": "https://issuer.example.org/token",
    "client_id": "gateway",
    "client_secret": {"env": "X"},
}
HTTP = {"kind": "http", "base_url": "https://api.example.org/v1", "credential": "a"}


def started(upstream: dict[str, Any], credential: dict[str, Any] = ENV, **more: Any) -> None:
    config = load({}, overrides={"upstreams": {"u": upstream}, "credentials": {"a": credential, **more}})
    make_broker(config, FakeClock())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_what_it_lacks(kind: str) -> None:
    with pytest.raises(UnsafeConfiguration, match=r"credentials.a: .* (is missing|must be)"):
        make_issuer("a", CredentialPart(kind=kind))


@pytest.mark.parametrize(
    ("upstream", "why"),
    [
        (HTTP | {"credential": "b"}, "there is no credential 'b'"),
        ({"kind": "mcp", "url": "https://m.example.org", "session_credential": "b"}, "there is no credential 'b'"),
        (HTTP | {"base_url": "http://api.example.org", "insecure": True}, "would travel readable"),
        ({"kind": "mcp", "url": "http://m.example.org", "insecure": True, "credential": "a"}, "would travel readable"),
    ],
)
def test_a_credential_that_would_go_astray_stops_the_start(upstream: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsafeConfiguration, match=f"upstreams.u: .*{why}"):
        started(upstream)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost"])
def test_on_this_host_a_credential_may_travel_plainly(address: str) -> None:
    started(HTTP | {"base_url": address})


@pytest.mark.parametrize(
    ("only", "address", "fits"),
    [
        ("https://api.example.org", "https://api.example.org/v1", True),
        ("https://api.example.org/v1", "https://api.example.org/v1", True),
        ("https://api.example.org/v1/", "https://api.example.org/v1/tickets", True),
        ("https://api.example.org:443/v1", "https://api.example.org/v1", True),
        ("https://api.example.org/v1", "https://api.example.org/v10", False),
        ("https://api.example.org/v1", "https://api.example.org", False),
        ("https://api.example.org/v1", "https://api.example.org/v1/%2e%2e/admin", False),
        ("https://api.example.org", "https://api.example.org:8443", False),
        ("https://api.example.org", "https://api.example.org.evil.example", False),
        ("https://api.example.org", "http://api.example.org", False),
    ],
)
def test_a_credential_that_is_for_one_place_goes_to_no_other(only: str, address: str, fits: bool) -> None:
    upstream, credential = HTTP | {"base_url": address, "insecure": True}, ENV | {"only": [only]}
    if fits:
        started(upstream, credential)
        return
    with pytest.raises(UnsafeConfiguration, match="upstreams.u: "):
        started(upstream, credential)


def test_a_tool_servers_session_needs_a_credential_that_takes_no_caller() -> None:
    server = {"kind": "mcp", "url": "https://m.example.org/mcp", "credential": "a"}
    with pytest.raises(UnsafeConfiguration, match="session_credential"):
        started(server, EXCHANGE)
    started(server | {"session_credential": "b"}, EXCHANGE, b=ENV)


async def test_a_tool_server_that_is_a_process_has_one_credential_for_all_its_calls() -> None:
    upstream = {"kind": "mcp", "command": ["true"], "credential": "a", "inject": {"kind": "env", "name": "T"}}
    config = load({}, overrides={"upstreams": {"u": upstream}, "credentials": {"a": ENV}})
    asked = []

    class Source:
        async def credential(self, alias: str, **more: Any) -> None:
            asked.append((alias, more))

    route = make_routes(config, {"u": FakeUpstream()}, Source())["u"]
    assert isinstance(route.source, OfProcess)
    await route.source.credential("a", scope="read", ttl_s=5, call=a_call())
    assert asked == [("a", {"scope": None, "ttl_s": None})]


PAGE = Path(__file__).parents[1] / "docs" / "credentials.md"


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
def test_every_example_of_the_page_starts(example: str) -> None:
    make_broker(load({}, overrides=yaml.safe_load(example)), FakeClock())


def test_the_page_names_every_kind() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []


@pytest.mark.parametrize("heavy", ["awscrt", "aiohttp", "agentgate.adapters.credentials.vault"])
def test_what_only_some_kinds_need_is_loaded_for_them_alone(heavy: str) -> None:
    said = f"import agentgate.credentials, sys; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["sigv4", "query"])
def test_a_tool_server_gets_no_credential_in_a_way_that_it_does_not_have(kind: str) -> None:
    how = {"kind": kind, "name": "key"} if kind == "query" else {"kind": kind, "region": "eu-west-1", "service": "s3"}
    with pytest.raises(ValueError, match="bearer, header or basic"):
        read_credential_place(how, is_url=True)
    assert kind == "query" or read_injection(how).value("s3cret") is None, "the key itself is sent nowhere"
