"""A42, A43, A45: a credential goes to its own upstream, and comes back from nowhere, whatever way it is said."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from tests.adapters.credentials.test_encrypted_file import KEY, kept_in
from tests.gateway import GatewayFailed, GatewayProcess, until
from tests.vault_server import VaultServer
from tests.web import Handler, serving

CANARIES = {
    "env": "canary/of+env?7351&x=1",
    "file": "canary-of-a-file-8462",
    "encrypted": "canary-encrypted-9573",
    "joined": "canary-user:canary-password-1357",
}
"""By alias. The first has characters that every encoding changes."""
CLOSED = "/closed"


def std(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def forms(secret: str) -> list[str]:
    """What of a secret must be nowhere: itself, hex, base64 at each alignment, in both alphabets, URL-encoded."""
    shifted = [std("x" * before + secret)[4 if before else 0 : -4] for before in range(3)]
    urlsafe = [text.replace("+", "-").replace("/", "_") for text in shifted]
    raw = secret.encode()
    return [
        secret,
        raw.hex(),
        raw.hex().upper(),
        *shifted,
        *urlsafe,
        quote(secret, safe=""),
        secret[: len(secret) // 2],
    ]


class Echo(Handler):
    """An API that says back in every way what it was given, in chunks that cut through it."""

    protocol_version = "HTTP/1.1"
    thief = ""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == CLOSED:
            self.close_connection = True
            self.wfile.write(f"HTTP/1.1 200 {self._given()[0]}\r\n\x00{self._given()[0]}".encode())
            return
        if parts.path == "/moved":
            self.say(307, Location=f"{self.thief}/stolen?from={quote(self.path)}")
            return
        said = [self._ways(text) for text in self._given()]
        body = json.dumps({"said": said, "path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(500 if parts.path == "/fails" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-Echo", self._given()[0])
        self.end_headers()
        for at in range(0, len(body), 7):
            part = body[at : at + 7]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _given(self) -> list[str]:
        """The secrets in this request, taken out of however they came."""
        query = [value for values in parse_qs(urlsplit(self.path).query).values() for value in values]
        kind, _, rest = self.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            return [*base64.b64decode(rest).decode().split(":", 1), *query]
        return [text for text in (rest, self.headers.get("X-Key", ""), *query) if text] or ["nothing"]

    @staticmethod
    def _ways(text: str) -> dict[str, Any]:
        raw = text.encode()
        return {
            "raw": text, "hex": raw.hex(), "HEX": raw.hex().upper(), "base64": std(text), "shifted": std("x" + text),
            "urlsafe": base64.urlsafe_b64encode(b"xx" + raw).decode(), "url": quote(text, safe=""),
            "url2": quote(quote(text, safe=""), safe=""), "json": json.dumps({"k": json.dumps([text])}),
            "split": [text[:6], text[6:]], "spread": {"a": text[:9], "n": 1, "b": {"c": text[9:]}},
            "deep": std(std(quote(text, safe=""))), "line": f"bad key '{text}' at /x?key={quote(text)}",
            text: "as a name", "escaped": "".join(f"\\u{ord(sign):04x}" for sign in text),
        }  # fmt: skip


class Thief(Echo):
    seen: list[str] = []  # noqa: RUF012 - of one test module

    def do_GET(self) -> None:
        self.seen.append(f"{self.path} {self.headers}")
        super().do_GET()


class ThreadedVault:
    """A `VaultServer` beside a test that is not async."""

    def __enter__(self) -> VaultServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.vault = VaultServer()
        asyncio.run_coroutine_threadsafe(self.vault.__aenter__(), self._loop).result(10)
        return self.vault

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.vault.__aexit__(None, None, None), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class World:
    def __init__(self, gateway: GatewayProcess, vault: VaultServer) -> None:
        self.gateway = gateway
        self.vault = vault

    def call(self, tool: str, session: str) -> httpx.Response:
        body = {"session_id": session, "tool_name": tool, "arguments": {}}
        return self.gateway.agent().post("/tools/call", json=body)

    def everything(self, sessions: list[str]) -> str:
        """Every byte that an auditor, an operator, a scraper or a thief of the disk could read."""
        admin = self.gateway.admin()
        packs = [admin.get(f"/sessions/{session}/evidence", params={"format": form}).content
                 for session in sessions for form in ("json", "html")]  # fmt: skip
        disk = [path.read_bytes() for path in self.gateway.data_dir.rglob("*") if path.is_file()]
        paths = ("/metrics", "/health", "/approvals", "/kills", "/audit", "/openapi.json", "/tools/list")
        told = [admin.get(path).content for path in paths]
        return b"\n".join([*packs, *disk, *told, self.gateway.stderr.encode()]).decode(errors="replace")


INJECTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "query": ("env", {"kind": "query", "name": "key"}),
    "header": ("env", {"kind": "header", "name": "X-Key"}),
    "bearer": ("file", {"kind": "bearer"}),
    "basic": ("encrypted", {"kind": "basic", "username": "gateway"}),
    "pair": ("leased", {"kind": "basic"}),
    "joined": ("joined", {"kind": "basic"}),
}
PLACES = {"says": "/x", "fails": "/fails", "moved": "/moved", "closed": CLOSED}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway with an upstream for each way that a credential travels, and a tool for each that it is said back."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "token").write_text(CANARIES["file"])
    (folder / "token").chmod(0o600)
    kept_in(folder).put("encrypted", CANARIES["encrypted"])
    anything = {"type": "object"}
    upstreams: dict[str, Any] = {}
    tools: dict[str, Any] = {}
    with serving(Echo) as address, serving(Thief) as Echo.thief, ThreadedVault() as vault:
        for name, (alias, inject) in INJECTIONS.items():
            upstreams[name] = {"kind": "http", "base_url": address, "credential": alias, "inject": inject}
            for way, path in PLACES.items():
                tools[f"{name}.{way}"] = {
                    "upstream": name, "access": "read", "method": "GET", "path": path, "input_schema": anything,
                }  # fmt: skip
        login = {"method": "approle", "role_id": vault.role_id, "secret_id": {"env": "SECRET_ID"}}
        credentials = {
            "env": {"kind": "env", "name": "CANARY"},
            "joined": {"kind": "env", "name": "JOINED"},
            "file": {"kind": "file", "path": str(folder / "token")},
            "encrypted": {"kind": "encrypted_file", "path": str(folder / "sealed.json"), "key": {"env": "KEY"}},
            "leased": {
                "kind": "vault", "url": vault.url, "auth": login, "engine": "dynamic",
                "path": "database/creds/readonly",
            },
        }  # fmt: skip
        config = {"server": {"log_level": "DEBUG"}, "upstreams": upstreams, "tools": tools, "credentials": credentials}
        env = {"CANARY": CANARIES["env"], "JOINED": CANARIES["joined"], "KEY": KEY, "SECRET_ID": vault.secret_id}
        with GatewayProcess(config=config, env=env) as gateway:
            yield World(gateway, vault)


def secrets_of(world: World, name: str) -> list[str]:
    alias = INJECTIONS[name][0]
    if alias != "leased":
        return [CANARIES[alias], *CANARIES[alias].split(":")[1:]]
    assert world.vault.leases, "the upstream was given a lease"
    return ["A1a-generated-password-", *world.vault.leases.values()]


@pytest.mark.parametrize("name", INJECTIONS)
@pytest.mark.parametrize("way", PLACES)
def test_a_credential_comes_back_from_nowhere(world: World, name: str, way: str) -> None:
    """A42 and A45: in the answer, the record, the packs, the metrics, the log at DEBUG, and on disk."""
    session = f"a42-{name}-{way}"
    answer = world.call(f"{name}.{way}", session)
    said = answer.json()
    assert said["success"] is (way == "says"), answer.text
    found = answer.text + str(answer.headers) + world.everything([session])
    for secret in secrets_of(world, name):
        for form in forms(secret):
            assert form not in found, form
            assert json.dumps(form)[1:-1] not in found, form
    if way == "says":
        assert "[redacted]" in answer.text, "the upstream did say it"
    assert f'"credential":"{INJECTIONS[name][0]}"' in found.replace('": "', '":"'), "the alias is what is recorded"


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_redirect_carries_no_credential_away(world: World, name: str) -> None:
    """A43."""
    said = world.call(f"{name}.moved", f"a43-{name}").json()
    assert said["success"] is False
    assert "redirects are not followed" in said["error"]
    assert Thief.seen == []


def test_a_kill_takes_the_lease_back(world: World) -> None:
    world.call("pair.says", "killed-1")
    assert world.vault.leases
    killed = world.gateway.admin().post("/sessions/killed-1/kill", json={"reason": "test"})
    assert killed.status_code == 200, killed.text
    until(lambda: not world.vault.leases)
    assert 'agentgate_credentials_revoked_total{alias="leased"}' in world.gateway.admin().get("/metrics").text


def test_a_source_that_is_down_is_a_refusal_and_a_record(world: World) -> None:
    world.vault.is_sealed = True
    try:
        # of another lifetime nothing is kept: the session of the last test was killed
        said = world.call("pair.says", "down-1").json()
    finally:
        world.vault.is_sealed = False
    assert (said["success"], said["reason_code"]) == (False, "credential_unavailable")
    assert said["error"] == "Credential broker unavailable: no secret for leased"
    assert "no credential leased: its source answered 503" in world.gateway.stderr
    assert "agentgate_credentials_unavailable_total" in world.gateway.admin().get("/metrics").text


@pytest.mark.parametrize(
    "upstream",
    [
        {"kind": "http", "base_url": "http://192.0.2.7:80", "insecure": True, "credential": "a"},
        {"kind": "http", "base_url": "http://api.example.org", "credential": "a"},
        {"kind": "mcp", "url": "http://192.0.2.7/mcp", "insecure": True, "credential": "a"},
    ],
)
def test_a_credential_that_would_travel_readable_stops_the_start(upstream: dict[str, Any]) -> None:
    """A43."""
    credentials = {"a": {"kind": "env", "name": "CANARY"}}
    tool = {"upstream": "u", "access": "read", "method": "GET", "path": "/", "input_schema": {"type": "object"}}
    config = {"upstreams": {"u": upstream}, "credentials": credentials}
    config |= {"tools": {"t": tool}} if upstream["kind"] == "http" else {}
    process = GatewayProcess(config=config, env={"CANARY": CANARIES["env"]})
    with pytest.raises(GatewayFailed) as failed, process:
        pass
    assert "https" in failed.value.stderr
    assert CANARIES["env"] not in failed.value.stderr
