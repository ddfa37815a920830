"""A17: a tool server that nobody configured. The gateway never talks to one, and an agent that has only a pipe to the
gateway cannot either."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.forked import AGENTGATE
from tests.gateway import GatewayProcess, clean_environment

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "agent", "version": "1"},
}

AGENT = """
import json, socket, sys
said = {"direct": "", "through": None}
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()
    said["direct"] = "connected"
except OSError as error:
    said["direct"] = type(error).__name__
print(json.dumps(json.loads(sys.argv[2])), flush=True)
said["through"] = json.loads(sys.stdin.readline())
print(json.dumps(said), file=sys.stderr, flush=True)
"""
"""An agent: it tries the shadow server, asks for a tool over its pipe, and reports on its third channel."""


class Shadow:
    """A server on loopback that counts who comes."""

    def __init__(self) -> None:
        self.visitors = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self.visitors += 1
            visitor.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"


@pytest.fixture
def shadow() -> Iterator[Shadow]:
    server = Shadow()
    yield server
    server.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with GatewayProcess(config={"server": {"refusals_per_second": 1_000_000}}) as process:
        yield process


def message(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}


def ask(gateway: GatewayProcess, method: str, params: dict[str, Any], **headers: str) -> httpx.Response:
    body = message(method, params)
    name = params.get("name") or params.get("uri")
    return httpx.post(
        f"{gateway.url}/mcp",
        json=body,
        headers={
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": method,
            **({"Mcp-Name": name} if isinstance(name, str) else {}),
            **headers,
        },
    )


def test_no_word_of_an_agent_makes_the_gateway_visit_a_server(gateway: GatewayProcess, shadow: Shadow) -> None:
    server = {"url": shadow.url, "server": shadow.url, "command": ["nc", "127.0.0.1", str(shadow.port)]}
    for name in ("shadow__tool", "tool", "mcp.resources.read", "shadow__mcp.resources.read"):
        answer = ask(gateway, "tools/call", {"name": name, "arguments": server})
        assert answer.json()["error"]["message"].startswith("Unknown tool"), answer.text
        told = gateway.call(name, server)
        assert (told["success"], told["reason_code"]) == (False, "unknown_tool")
    for method, params in (
        ("resources/read", {"uri": shadow.url}),
        ("prompts/get", {"name": "shadow__prompt", "arguments": {"url": shadow.url}}),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": shadow.url}, "argument": {"name": "a", "value": ""}},
        ),
    ):
        assert "error" in ask(gateway, method, params).json()
    hints = {"X-Forwarded-Host": f"127.0.0.1:{shadow.port}", "Forwarded": f"host=127.0.0.1:{shadow.port}"}
    ask(gateway, "tools/list", {}, **hints, **{"X-Upstream-Url": shadow.url, "Mcp-Param-Url": shadow.url})
    assert shadow.visitors == 0


def test_no_role_adds_a_server_while_the_gateway_runs(gateway: GatewayProcess, shadow: Shadow) -> None:
    admin = gateway.admin()
    entry = {"kind": "mcp", "url": shadow.url}
    for path in ("/tools", "/upstreams", "/servers", "/servers/shadow", "/admin/upstreams", "/mcp/servers"):
        for method in ("POST", "PUT", "PATCH"):
            assert admin.request(method, path, json=entry).status_code in (404, 405), path
    assert shadow.visitors == 0


@contextmanager
def bridged(gateway: GatewayProcess, agent: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """An agent whose standard streams are those of `agentgate mcp`."""
    with subprocess.Popen(
        (*AGENTGATE, "mcp", "--url", gateway.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_environment(),
    ) as bridge:
        with subprocess.Popen(agent, stdin=bridge.stdout, stdout=bridge.stdin, stderr=subprocess.PIPE) as process:
            yield process
        bridge.kill()


def report(gateway: GatewayProcess, shadow: Shadow, *prefix: str) -> dict[str, Any]:
    question = json.dumps(message("tools/call", {"name": "db_query", "arguments": {"query": "SELECT 1"}}))
    with bridged(gateway, (*prefix, sys.executable, "-c", AGENT, str(shadow.port), question)) as agent:
        _, said = agent.communicate(timeout=60)
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


def test_an_agent_without_a_network_has_the_gateway_and_nothing_else(gateway: GatewayProcess, shadow: Shadow) -> None:
    if shutil.which("unshare") is None or subprocess.run(("unshare", "-n", "true"), check=False).returncode:
        pytest.skip("a network namespace of one's own needs `unshare` and root")
    free = report(gateway, shadow)
    assert (free["direct"], shadow.visitors) == ("connected", 1), "without a wall the direct way is open"
    walled = report(gateway, shadow, "unshare", "-n")
    assert walled["direct"] != "connected"
    assert shadow.visitors == 1
    assert not walled["through"]["result"].get("isError")
    assert walled["through"]["result"]["content"]


def test_the_docs_say_how_the_wall_is_built() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
    assert "unshare -n" in text
