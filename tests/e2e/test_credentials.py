"""On behalf of the user: the token that an agent came with is exchanged at a real provider, and only the upstream sees
what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from tests.gateway import GatewayProcess, call, key_entry
from tests.openid_provider import RESOURCE, SCOPE, OpenIdProvider
from tests.web import Handler, serving

UPSTREAM = "https://tickets.example.org"
API_KEY = "key-of-an-agent-without-a-token"


class Api(Handler):
    """Keeps the tokens that it is sent, and says each back."""

    protocol_version = "HTTP/1.1"
    tokens: list[str] = []  # noqa: RUF012 - of one test module

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.tokens.append(token)
        self.say(200, json.dumps({"you": token, "sent": dict(self.headers)}).encode())


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIdProvider]:
    with OpenIdProvider(agents={"deploy-bot": {}, "gateway": {}}, people={"alice": {}, "bob": {}}) as provider:
        yield provider


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    with serving(Api) as url:
        yield url


@pytest.fixture(scope="module")
def gateway(provider: OpenIdProvider, api: str) -> Iterator[GatewayProcess]:
    exchange = {
        "kind": "token_exchange",
        "token_url": provider.token_endpoint,
        "client_id": "gateway",
        "client_secret": {"env": "CLIENT_SECRET"},
        "resource": UPSTREAM,
        "scopes": {"read": SCOPE, "write": SCOPE},
    }
    own = {**exchange, "kind": "oauth_client_credentials"}
    tool = {"access": "read", "method": "GET", "path": "/", "input_schema": {"type": "object"}}
    upstream = {"kind": "http", "base_url": api}
    config: dict[str, Any] = {
        "auth": {"oauth": {"issuer": provider.issuer, "audience": RESOURCE}, "keys": [key_entry(API_KEY, agent="bot")]},
        "server": {"log_level": "DEBUG"},
        "credentials": {"of-user": exchange, "of-gateway": own},
        "upstreams": {
            "tickets": {**upstream, "credential": "of-user"},
            "own": {**upstream, "credential": "of-gateway"},
        },
        "tools": {"tickets.read": {**tool, "upstream": "tickets"}, "own.read": {**tool, "upstream": "own"}},
    }
    with GatewayProcess(config=config, env={"CLIENT_SECRET": provider.secret_of("gateway")}) as process:
        yield process


def seen() -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(Api.tokens[-1], options={"verify_signature": False})
    return claims


def test_the_upstream_sees_who_acts_for_whom_and_nobody_else_sees_the_token(
    provider: OpenIdProvider, gateway: GatewayProcess
) -> None:
    # a token of alice's that was issued to deploy-bot: it calls for her
    subject = provider.exchanged(provider.person_token("alice"), "deploy-bot", resource=RESOURCE)
    agent = gateway.client(Authorization=f"Bearer {subject}")
    answer = call(agent, "tickets.read", {}, session="x-1")
    assert answer.json()["success"] is True, answer.text
    assert (seen()["sub"], seen()["act"]["sub"], seen()["aud"]) == ("alice", "gateway", UPSTREAM)
    given = Api.tokens[-1]
    pack = gateway.admin().get("/sessions/x-1/evidence").text
    disk = b"".join(path.read_bytes() for path in gateway.data_dir.rglob("*") if path.is_file())
    for secret in (given, given.rpartition(".")[2], subject, provider.secret_of("gateway")):
        for place in (answer.text, pack, gateway.stderr, disk.decode(errors="replace")):
            assert secret not in place
    assert '"of-user"' in pack


def test_without_a_token_an_agent_gets_nobody_elses(gateway: GatewayProcess) -> None:
    before = len(Api.tokens)
    said = call(gateway.agent(API_KEY), "tickets.read", {}, session="x-2").json()
    assert (said["success"], said["reason_code"]) == (False, "credential_unavailable")
    assert len(Api.tokens) == before


def test_the_gateways_own_token_serves_whoever_may_call(gateway: GatewayProcess) -> None:
    for session in ("x-3", "x-4"):
        assert call(gateway.agent(API_KEY), "own.read", {}, session=session).json()["success"] is True
        assert (seen()["sub"], seen()["aud"]) == ("gateway", UPSTREAM)
    assert Api.tokens[-1] == Api.tokens[-2], "one for the tenant"


def test_over_mcp_it_is_the_same(provider: OpenIdProvider, gateway: GatewayProcess) -> None:
    subject = provider.exchanged(provider.person_token("bob"), "deploy-bot", resource=RESOURCE)
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "tickets.read",
            "arguments": {},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = {
        "Authorization": f"Bearer {subject}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "tickets.read",
    }
    answer = httpx.post(f"{gateway.url}/mcp", json=message, headers=headers, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert (seen()["sub"], seen()["act"]["sub"]) == ("bob", "gateway")
    assert Api.tokens[-1] not in answer.text
