"""Kills through the MCP door: what is left of a call beyond its answer ends with it, and nobody answers for the dead.

The servers are real ones on stdio; every byte that any of them is sent is in one file.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import GatewayProcess, key_entry, until

SCRIPT = Path(__file__).parents[1] / "adapters" / "upstreams" / "mcp_script.py"
MODERN = "2026-07-28"
BOT, OTHER = "key-bot", "key-other"
FORM: dict[str, Any] = {"elicitation": {"form": {}}}
ASK = {
    "method": "elicitation/create",
    "params": {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}},
}
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


class Seen:
    """What reached the servers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def text(self) -> str:
        return self._path.read_text(encoding="utf-8") if self._path.exists() else ""

    def count(self, words: str) -> int:
        return self.text().count(words)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("mcp") / "seen")


def server_of(seen: Seen, *flags: str) -> dict[str, Any]:
    program = shlex.join([sys.executable, "-I", "-S", str(SCRIPT), *flags])
    command = ["sh", "-c", f"tee -a {shlex.quote(str(seen._path))} | {program}"]
    return {"kind": "mcp", "command": command, "trust": "first_use", "access": "read", "timeout_ms": 20_000}


@pytest.fixture(scope="module")
def gateway(seen: Seen) -> Iterator[GatewayProcess]:
    config = {
        "auth": {"keys": [key_entry(BOT, agent="bot"), key_entry(OTHER, agent="other")]},
        "server": {"refusals_per_second": 100_000},
        "containment": {"drain_timeout_s": 5},
        "upstreams": {"s": server_of(seen)},
    }
    with GatewayProcess(config=config) as process:
        until(lambda: any(tool["state"] == "offered" for tool in process.admin().get("/tools").json()["tools"]))
        yield process


def modern(method: str, params: dict[str, Any], session: str, capabilities: dict[str, Any] | None = None) -> Any:
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities or {},
        "dev.agentgate/session": session,
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}


def modern_headers(message: dict[str, Any], key: str = BOT) -> dict[str, str]:
    named = message["params"].get("name")
    more = {"X-API-Key": key, "MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
    return {**HEADERS, **more, **({"Mcp-Name": named} if named is not None else {})}


def post_modern(gateway: GatewayProcess, message: dict[str, Any], key: str = BOT) -> dict[str, Any]:
    answer = httpx.post(
        f"{gateway.url}/mcp", json=message, headers=modern_headers(message, key), timeout=30, trust_env=False
    )
    found: dict[str, Any] = answer.json()
    return found


async def handshake(http: httpx.AsyncClient, capabilities: dict[str, Any]) -> str:
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": capabilities,
        "clientInfo": {"name": "x", "version": "1"},
    }
    opened = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    session = opened.headers["mcp-session-id"]
    http.headers.update({"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"})
    await http.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"})
    return session


async def messages(answer: httpx.Response) -> Any:
    async for line in answer.aiter_lines():
        if line.startswith("data:") and line[5:].strip():
            yield json.loads(line[5:])


@pytest.mark.parametrize("scope", ["session", "agent", "tool", "server", "tenant", "global"])
async def test_the_dead_answer_no_question(gateway: GatewayProcess, seen: Seen, scope: str) -> None:
    """A question that was open as its call was killed: its answer goes nowhere, and the drain waits for none."""
    async with httpx.AsyncClient(
        base_url=gateway.url, headers={**HEADERS, "X-API-Key": BOT}, timeout=30, trust_env=False
    ) as http:
        session = f"mcp-{await handshake(http, FORM)}"
        canary = f"answer-in-{scope}"
        call = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "s__ask", "arguments": ASK}}
        async with http.stream("POST", "/mcp", json=call) as stream:
            heard = messages(stream)
            question = await anext(heard)
            assert question["method"] == "elicitation/create"
            killed = await asyncio.to_thread(kill, gateway, scope, session)
            assert killed["drained"] is True
            said = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"x": canary}}}
            await http.post("/mcp", json=said)
            *_, last = [message async for message in heard]
        assert last["result"]["_meta"]["dev.agentgate/reasonCode"] == "killed"
        release(gateway, killed["id"])
        # another question and answer through the same server, so that what was on its way has arrived
        await handshake_again(http)
        async with http.stream("POST", "/mcp", json=call) as stream:
            async for message in messages(stream):
                if message.get("method") == "elicitation/create":
                    said = {
                        "jsonrpc": "2.0",
                        "id": message["id"],
                        "result": {"action": "accept", "content": {"x": "ok-" + canary}},
                    }
                    await http.post("/mcp", json=said)
        await asyncio.to_thread(until, lambda: seen.count(f'"ok-{canary}"') == 1)
    assert seen.count(f'"{canary}"') == 0


async def handshake_again(http: httpx.AsyncClient) -> None:
    for name in ("Mcp-Session-Id", "MCP-Protocol-Version"):
        del http.headers[name]
    await handshake(http, FORM)


def kill(gateway: GatewayProcess, scope: str, session: str) -> dict[str, Any]:
    target = {"session": session, "agent": "bot", "tool": "s__ask", "server": "s", "tenant": "default", "global": ""}
    order = {"scope": scope, "target": target[scope], "reason": "a test"}
    if scope in ("session", "agent"):
        order["tenant"] = "default"
    answer = gateway.admin().post("/kills", json=order)
    assert answer.status_code in (200, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


def release(gateway: GatewayProcess, kill_id: str) -> None:
    assert gateway.admin().post(f"/kills/{kill_id}/release").status_code == 200


def test_a_call_that_waits_for_its_next_round_ends_with_its_kill(gateway: GatewayProcess, seen: Seen) -> None:
    """An older server asks in the middle of a call, a newer client answers in its next request: in between the call has
    an answer and goes on all the same."""
    message = modern("tools/call", {"name": "s__ask", "arguments": ASK}, "parked", FORM)
    asked = post_modern(gateway, message)["result"]
    assert asked["resultType"] == "input_required"
    withdrawn = seen.count('"notifications/cancelled"')
    killed = kill(gateway, "session", "parked")
    assert killed["drained"] is True
    until(lambda: seen.count('"notifications/cancelled"') == withdrawn + 1)
    release(gateway, killed["id"])
    message["params"] |= {
        "requestState": asked["requestState"],
        "inputResponses": {name: {"action": "accept", "content": {"x": "late"}} for name in asked["inputRequests"]},
    }
    assert post_modern(gateway, message)["error"]["code"] == -32602
    assert seen.count('"late"') == 0


async def test_a_killed_agent_is_told_nothing_more(gateway: GatewayProcess) -> None:
    """A stream of announcements ends with the kill of who listens, and other callers' go on."""
    wanted = {"notifications": {"resourceSubscriptions": ["test://a"]}}
    mine, theirs = (modern("subscriptions/listen", wanted, f"listening-{whose}") for whose in ("mine", "theirs"))
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False) as http,
        http.stream("POST", "/mcp", json=theirs, headers=modern_headers(theirs, OTHER)) as others,
        http.stream("POST", "/mcp", json=mine, headers=modern_headers(mine)) as own,
    ):
        heard, spared = messages(own), messages(others)
        for first in (await anext(heard), await anext(spared)):
            assert first["params"]["notifications"] == {"resourceSubscriptions": ["test://a"]}
        killed = await asyncio.to_thread(kill, gateway, "agent", "")
        assert [message["id"] async for message in heard] == [1], "it ended"
        shout = modern(
            "tools/call",
            {"name": "s__shout", "arguments": {"methods": ["notifications/resources/updated"]}},
            "listening-theirs",
        )
        shouted = await http.post("/mcp", json=shout, headers=modern_headers(shout, OTHER))
        assert "result" in shouted.json()
        assert (await anext(spared))["method"] == "notifications/resources/updated"
    release(gateway, killed["id"])
