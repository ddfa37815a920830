"""Attacks with a key that was good when the call began."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.attacks.conftest import reached
from tests.gateway import GatewayProcess, run_cli, until

AT_ONCE = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    """Its agents' keys are in the key file, so that they can be disabled."""
    config: dict[str, Any] = {"mcp": {"hold_s": 20}, "server": {"refusals_per_second": 1_000_000}}
    with GatewayProcess(config=config) as process:
        yield process


def keys(gateway: GatewayProcess, *words: str) -> str:
    done = run_cli("keys", *words, env={"AGENTGATE_DATA_DIR": str(gateway.data_dir)})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def key_of(gateway: GatewayProcess, agent: str) -> tuple[str, str]:
    """A new key, once the gateway takes it, and its id."""
    secret = keys(gateway, "create", "--agent", agent)
    until(lambda: gateway.client(secret).get("/tools/list").status_code == 200)
    lines = keys(gateway, "list", "--json")
    return secret, lines.split(f'"whom": "agent:{agent}"')[0].rsplit('"id": "', 1)[1].split('"')[0]


def disable(gateway: GatewayProcess, secret: str, key_id: str) -> None:
    keys(gateway, "disable", key_id)
    until(lambda: gateway.client(secret).get("/tools/list").status_code == 401)


def test_a_call_that_waits_on_the_mcp_door_is_not_made_with_a_key_that_was_disabled_meanwhile(
    gateway: GatewayProcess,
) -> None:
    """The REST door asks again after `Prefer: wait`; the MCP door did not, for the up to 50 s that it holds a call."""
    secret, key_id = key_of(gateway, "holder")
    client = gateway.client(secret, **AT_ONCE)
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    opened = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session)
    write = {
        "name": "db_insert",
        "arguments": {"table": "products", "data": {"name": "x"}},
        "_meta": {"dev.agentgate/session": "held"},
    }
    with ThreadPoolExecutor(1) as pool:
        asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": write}
        waiting = pool.submit(lambda: client.post("/mcp", json=asked, headers=session, timeout=30))
        admin = gateway.admin()
        pending = until(lambda: admin.get("/approvals", params={"state": "pending"}).json()["approvals"])
        disable(gateway, secret, key_id)
        assert admin.post(f"/approvals/{pending[0]['id']}/approve").status_code == 200
        answer = waiting.result(timeout=30)
    assert "not good any more" in answer.text
    assert reached(gateway, "held") == 0
