"""Secrets at the MCP door: what a client authenticates with goes to no server, what a server is sent comes back to no
client, whatever way it is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client

from tests.attacks.test_mcp_kills import SCRIPT
from tests.attacks.test_tokens import AUDIENCE, spellings
from tests.e2e.test_mcp_door import connected
from tests.gateway import GatewayProcess, key_entry, until
from tests.token_issuer import Issuer
from tests.web import Handler, serving

MODERN, LEGACY = "2026-07-28", "legacy"
KEY = "canary-key-of-an-agent-7351"
CREDENTIAL = "canary-credential-of-a-server-9924"
INFO = {"name": "recorder", "version": "1"}
OFFERS: dict[str, Any] = {
    "tools": {},
    "resources": {"subscribe": True},
    "prompts": {},
    "completions": {},
    "logging": {},
}


class Recorder(Handler):
    """A server of MCP on HTTP that remembers every byte that it is sent, and says all of it back."""

    protocol_version = "HTTP/1.1"
    era: str
    seen: bytearray

    def do_POST(self) -> None:
        body = self.given()
        type(self).seen += self.raw_requestline + self.headers.as_bytes() + body
        message = json.loads(body)
        if "id" not in message:
            return self._reply(202, None)
        found = self._result(message["method"], dict(self.headers), message)
        if found is None:
            return self._reply(404, {"error": {"code": -32601, "message": "no"}, "id": message["id"]})
        if self.era == MODERN:
            found |= {"resultType": "complete", "_meta": {"io.modelcontextprotocol/serverInfo": INFO}}
        return self._reply(200, {"result": found, "id": message["id"]})

    def do_GET(self) -> None:
        type(self).seen += self.raw_requestline + self.headers.as_bytes()
        self._reply(405, None)

    def do_DELETE(self) -> None:
        self.do_GET()

    def _result(self, method: str, headers: dict[str, str], message: dict[str, Any]) -> dict[str, Any] | None:
        said = json.dumps([headers, message])
        about = {"ttlMs": 0, "cacheScope": "private"}
        if method == "server/discover" and self.era == MODERN:
            return {"supportedVersions": [MODERN], "capabilities": OFFERS, **about}
        if method == "initialize" and self.era != MODERN:
            return {"protocolVersion": "2025-11-25", "capabilities": OFFERS, "serverInfo": INFO}
        answers: dict[str, dict[str, Any]] = {
            "tools/list": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}], **about},
            "tools/call": {"content": [{"type": "text", "text": said}]},
            "resources/list": {"resources": [{"uri": "x://1", "name": "one"}], **about},
            "resources/templates/list": {"resourceTemplates": [], **about},
            "resources/read": {"contents": [{"uri": "x://1", "text": said}], **about},
            "prompts/list": {"prompts": [{"name": "hello"}], **about},
            "prompts/get": {"messages": [{"role": "user", "content": {"type": "text", "text": said}}]},
            "completion/complete": {"completion": {"values": [said[:100]]}},
            "logging/setLevel": {},
        }
        return answers.get(method)

    def _reply(self, status: int, message: dict[str, Any] | None) -> None:
        raw = json.dumps({"jsonrpc": "2.0", **message}).encode() if message is not None else b""
        starts = message is not None and message.get("result", {}).get("protocolVersion")
        self.say(status, raw, **({"Mcp-Session-Id": "s-1"} if starts else {}))


@pytest.fixture
def recorder(request: pytest.FixtureRequest) -> Iterator[tuple[str, type[Recorder]]]:
    handler = type("ThisRecorder", (Recorder,), {"seen": bytearray(), "era": request.param})
    with serving(handler) as url:
        yield f"{url}/mcp", handler


async def use(client: Client) -> str:
    """Everything that a client can ask for; everything that it was told."""
    said = [
        await client.list_tools(),
        await client.call_tool("s__echo", {"a": "b"}, meta={"com.example/canary": "canary-meta-1"}),
        await client.list_resources(),
        await client.read_resource("x://1"),
        await client.list_prompts(),
        await client.get_prompt("s__hello"),
    ]
    return "".join(one.model_dump_json() for one in said)


@pytest.mark.parametrize("recorder", [MODERN, LEGACY], indirect=True)
async def test_a18_what_a_client_authenticates_with_goes_to_no_server(
    recorder: tuple[str, type[Recorder]], tmp_path: Path
) -> None:
    """A18, with a server of MCP behind HTTP: not with a call, and not with what the gateway asks for itself."""
    url, handler = recorder
    with Issuer() as issuer:
        config = {
            "auth": {"keys": [key_entry(KEY, agent="bot")], "oauth": {"issuer": issuer.url, "audience": AUDIENCE}},
            "server": {"log_level": "DEBUG"},
            "credentials": {"c": {"kind": "env", "name": "OURS"}},
            "upstreams": {"s": {"kind": "mcp", "url": url, "trust": "first_use", "access": "read", "credential": "c"}},
        }
        token = issuer.mint()
        cookie = "canary-cookie-5512"
        with GatewayProcess(config=config, env={"OURS": CREDENTIAL}, data_dir=tmp_path / "data") as gateway:
            until(lambda: any(tool["state"] == "offered" for tool in gateway.admin().get("/tools").json()["tools"]))
            said = ""
            for mode in (MODERN, LEGACY):
                more = {"Cookie": f"a={cookie}", "Mcp-Param-Canary": "canary-param-1", "X-Canary": "canary-header-1"}
                for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {token}", "X-API-Key": token}):
                    async with connected(gateway, mode, headers={**headers, **more}) as client:
                        said += await use(client)
            said += gateway.client().get("/metrics").text + gateway.stderr
        files = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    sent = bytes(handler.seen)
    assert sent.count(b'"a":"b"') >= 4 or sent.count(b'"a": "b"') >= 4, "all four have reached it"
    assert CREDENTIAL.encode() in sent
    for secret in (KEY, cookie, "canary-param-1", "canary-header-1", "canary-meta-1"):
        assert secret.encode() not in sent, secret
        assert secret not in said
    for spelling in spellings(token):
        assert spelling not in sent
        assert spelling not in files
        assert spelling not in said.encode()
    assert CREDENTIAL not in said
    assert CREDENTIAL.encode() not in files
    assert KEY.encode() not in files


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    server = {
        "kind": "mcp",
        "command": [sys.executable, "-I", "-S", str(SCRIPT)],
        "trust": "first_use",
        "access": "read",
        "credential": "c",
        "inject": {"kind": "env", "name": "SECRET"},
    }
    config = {
        "auth": {"keys": [key_entry(KEY, agent="bot")]},
        "credentials": {"c": {"kind": "env", "name": "OURS"}},
        "upstreams": {"s": server},
    }
    with GatewayProcess(config=config, env={"OURS": CREDENTIAL}) as process:
        until(lambda: any(tool["state"] == "offered" for tool in process.admin().get("/tools").json()["tools"]))
        yield process


LINES = {
    "a log message": {"method": "notifications/message", "params": {"level": "info", "data": {"a": "$SECRET"}}},
    "a log message in pieces": {
        "method": "notifications/message",
        "params": {"level": "info", "data": [CREDENTIAL[:9], CREDENTIAL[9:]]},
    },
    "progress": {
        "method": "notifications/progress",
        "params": {"progressToken": "$TOKEN", "progress": 1, "message": "$SECRET"},
    },
    "a question": {
        "id": "q",
        "method": "elicitation/create",
        "params": {"message": "$SECRET", "requestedSchema": {"type": "object", "properties": {}}},
    },
    "an error": {"id": "$ID", "error": {"code": -32001, "message": "it is $SECRET", "data": {"a": "$SECRET"}}},
    "a result": {"id": "$ID", "result": {"content": [], "_meta": {"a": "$SECRET"}}},
}


@pytest.mark.parametrize("way", LINES)
def test_a_servers_credential_comes_back_in_nothing_that_it_says(gateway: GatewayProcess, way: str) -> None:
    headers = {"X-API-Key": KEY, "Accept": "application/json, text/event-stream"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=30, trust_env=False) as http:
        capabilities = {"elicitation": {"form": {}}}
        params = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": INFO}
        opened = http.post("/mcp", json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        http.headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
        http.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        line = json.dumps({"jsonrpc": "2.0", **LINES[way]}).replace('"$ID"', "$ID").replace('"$TOKEN"', "$TOKEN")
        lines = [line] if "$ID" in line else [line, '{"jsonrpc":"2.0","id":$ID,"result":{"content":[]}}']
        arguments = {"lines": lines, "pause_s": 0.2}
        call = {"name": "s__raw", "arguments": arguments, "_meta": {"progressToken": "mine"}}
        said = http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}).text
    assert '"id":1' in said
    assert way in ("an error", "a result") or LINES[way]["method"] in said, "it was told"
    assert "[redacted]" in said
    assert CREDENTIAL not in said
    assert CREDENTIAL[9:] not in said
