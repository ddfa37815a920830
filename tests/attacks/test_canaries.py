"""The canary sweep: secrets of every kind go through every door, all that can be read is read, and none is there.

`Drive` does all that a gateway is there for, and all that goes wrong; whatever it hears is kept under the name of the
place where it was heard. Each canary says where it may be (who was given it, whom it is for), and must have been there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import re
import string
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from stdnum.iso7064 import mod_97_10
from stdnum.luhn import calc_check_digit
from typer.testing import CliRunner

from agentgate.cli import cli
from agentgate.edges.framework import make_framework
from tests.adapters.credentials.test_encrypted_file import kept_in
from tests.attacks.test_credentials import Echo, ThreadedVault
from tests.attacks.test_mcp_secrets import Recorder
from tests.canary_sweep import Canary, Sweep, rows
from tests.forked import AGENTGATE
from tests.gateway import GatewayProcess, clean_environment, exchange, post, run_cli, until
from tests.openid_provider import RESOURCE, SCOPE, OpenIdProvider
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer
from tests.signing import PATH, Envelope, hmac_with
from tests.signing import body as envelope_body
from tests.web import serving

SIGNS = string.ascii_letters + string.digits


def made_up(name: str, length: int = 36, signs: str = SIGNS) -> str:
    """The same text in every run, and no other canary's."""
    return "".join(random.Random(f"canary {name}").choices(signs, k=length))


def _card() -> str:
    digits = "530591" + made_up("card", 9, string.digits)
    return digits + calc_check_digit(digits)


def _iban() -> str:
    account = made_up("iban", 18, string.digits)
    return f"DE{mod_97_10.calc_check_digits(account + 'DE')}{account}"


def _jwt() -> str:
    head, payload = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
                     for part in ({"alg": "HS256"}, {"sub": made_up("payload")}))  # fmt: skip
    return f"{head}.{payload}.{made_up('signature', 43)}"


# --- what is looked for ---------------------------------------------------------------------------------------------

GIVEN = {
    name: made_up(name)
    for name in (
        *("redis password", "redaction key", "evidence key", "static token", "envelope secret"),
        *("webhook path", "dead webhook path", "dead webhook secret", "slack path", "sts key"),
    )
} | {
    "webhook secret": f"whsec_{base64.b64encode(made_up('webhook secret').encode()).decode()}",
    "v0.2 webhook secret": made_up("v0.2 webhook secret"),
    "encrypted file key": base64.b64encode(random.Random("file key").randbytes(32)).decode(),
    "sts key id": "AKIA" + made_up("sts key id", 16, string.ascii_uppercase + string.digits),
}
"""To the gateway, in its environment or configuration; nobody else ever hears of them."""

CREDENTIALS = {
    name: made_up(name)
    for name in ("env credential", "file credential", "encrypted credential", "vault KV", "vault beside", "mcp server")
} | {"odd credential": 'q7+/ca&na=ry?%41\\"<x>' + made_up("odd")}
"""The upstream gets them, and says them back in every way."""

STS = {
    "sts session key id": "ASIA" + made_up("session key id", 16, string.ascii_uppercase + string.digits),
    "sts session secret": made_up("session secret", 40),
    "sts session token": made_up("session token", 120),
}

KEYS: dict[str, dict[str, Any]] = {
    "agent": {"agent": "bot"},
    "other agent": {"agent": "other", "tenant": "b"},
    "operator": {"person": "olga", "roles": ["operator"], "all_tenants": True},
    "approver": {"person": "ada", "roles": ["approver"]},
    "auditor": {"person": "art", "roles": ["auditor"], "all_tenants": True},
    "engine": {"person": "opa", "roles": ["opa"]},
    "admin by key": {"person": "amy", "roles": ["admin"], "all_tenants": True},
    "disabled": {"agent": "gone", "disabled": True},
}
KEY_OF = {name: f"agk_{made_up(f'key of {name}')}" for name in KEYS} | {"admin": made_up("admin key")}

MISTAKES = {
    name: made_up(name)
    for name in (
        *("wrong key", "wrong token", "key in a URL", "key in a path", "key in bad JSON", "basic password"),
        *("key in an unknown member", "wrong approval token", "cookie", "wrong envelope key", "key in a host"),
        *("key in a header name", "key in a method"),
    )
}
"""Secrets that somebody sends to where they do not belong."""

READABLE = "the passenger asked for a key lime pie"
"""No secret: the record says it, so that a place where it is not found is one that was not read."""
ARGUMENTS = {
    "note": READABLE,
    "aws": "AKIA" + made_up("aws", 16, string.ascii_uppercase + string.digits),
    "github": "ghp_" + made_up("github", 36),
    "slack": "xoxb-" + made_up("slack", 12, string.digits) + "-" + made_up("slack b", 24),
    "openai": "sk-" + made_up("openai", 48),
    "stripe": "sk_live_" + made_up("stripe", 24),
    "gitlab": "glpat-" + made_up("gitlab", 20),
    "jwt": _jwt(),
    "pem": f"-----BEGIN RSA PRIVATE KEY-----\n{made_up('pem', 64)}\n-----END RSA PRIVATE KEY-----",
    "card": _card(),
    "iban": _iban(),
    "email": f"{made_up('email', 24, string.ascii_lowercase)}@mail.example.org",
    "password": made_up("password"),
    "header": f"Authorization: Bearer {made_up('header')}",
    "assigned": f"password={made_up('assigned')}",
    "user in a URL": f"postgres://app:{made_up('user in a URL')}@db.example.org/x",
}
CORES = {
    "jwt": ARGUMENTS["jwt"].partition(".")[2],
    "pem": made_up("pem", 64),
    "header": made_up("header"),
    "assigned": made_up("assigned"),
    "user in a URL": made_up("user in a URL"),
    "email": ARGUMENTS["email"].partition("@")[0],
}
"""In what callers write. The tool gets them and says them back, the approver sees them, nothing records them."""

USED_AT = {"static token": "sent:*", "envelope secret": "sent:*", "sts key id": "outside:sts"}
IDEMPOTENCY = {name: made_up(name) for name in ("rest idempotency", "mcp idempotency", "request id", "deferred key")}
OF_CALLERS = ("sent:*", "outside:api", "outside:mcp", "answer:*", "approver:*", "yes:*")


def canaries() -> Iterator[Canary]:
    """All that are known beforehand."""
    for name, text in GIVEN.items():
        # what stands behind `whsec_` is a key in base64
        yield Canary(name, text, (USED_AT.get(name, "given:environment"),), core=text.removeprefix("whsec_"))
    for name, text in CREDENTIALS.items():
        yield Canary(
            name, text, ("given:vault",) if name == "vault beside" else ("outside:api", "outside:mcp", "given:vault")
        )
    for name, text in STS.items():
        yield Canary(name, text, ("given:sts", *(("outside:api",) if "secret" not in name else ())))
    for name, text in KEY_OF.items():
        yield Canary(f"key of {name}", text, ("sent:*",))
    for name, text in (MISTAKES | IDEMPOTENCY).items():
        # who sends a member that nobody knows is told its name
        to_itself = ("refusal:admin:*",) if name == "key in an unknown member" else ()
        yield Canary(name, text, ("sent:*", *to_itself))
    for name, text in ARGUMENTS.items():
        yield Canary(f"{name} of a caller", text, ("*",) if name == "note" else OF_CALLERS, core=CORES.get(name, ""))


# --- who is outside -------------------------------------------------------------------------------------------------


class Api(Echo):
    """Says back in every way what it was given: its credential, and what the call says."""

    thief = ""
    seen: list[bytes] = []  # noqa: RUF012 - of one test module
    released = threading.Event()

    def do_GET(self) -> None:
        self.seen.append(self.raw_requestline + self.headers.as_bytes())
        if self.path.startswith("/hang"):
            self.released.wait(20)
        with contextlib.suppress(BrokenPipeError):  # of a call that was killed
            super().do_GET()

    def do_POST(self) -> None:
        body = self.given()
        self.seen.append(self.raw_requestline + self.headers.as_bytes() + body)
        said = {"you said": body.decode(), "your key": [self._ways(text) for text in self._given()]}
        self.say(200, json.dumps(said).encode())


class Others(Api):
    """A thief, a webhook's and Slack's receiver, and AWS's STS."""

    seen: list[bytes] = []  # noqa: RUF012 - of one test module

    def do_POST(self) -> None:
        body = self.given()
        path = self.path.replace(GIVEN["webhook path"], "HOOK").replace(GIVEN["slack path"], "SLACK")
        self.seen.append(path.encode() + b"\n" + self.headers.as_bytes() + body)
        if not self.path.startswith("/sts"):
            return self.say(200, b"", "text/plain")
        return self.say(
            200,
            (
                "<AssumeRoleResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><AssumeRoleResult><Credentials>"
                f"<AccessKeyId>{STS['sts session key id']}</AccessKeyId>"
                f"<SecretAccessKey>{STS['sts session secret']}</SecretAccessKey>"
                f"<SessionToken>{STS['sts session token']}</SessionToken>"
                "<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            ).encode(),
            "text/xml",
        )


class McpServer(Recorder):
    era = "2026-07-28"
    seen = bytearray()


class Heard(NamedTuple):
    place: str
    data: bytes


# --- the gateway ----------------------------------------------------------------------------------------------------

TOOLS = {
    "says": ("GET", "/x", "read"), "fails": ("GET", "/fails", "read"), "moved": ("GET", "/moved", "read"),
    "closed": ("GET", "/closed", "read"), "echo": ("POST", "/", "read"), "write": ("POST", "/", "write"),
    "hang": ("GET", "/hang", "read"),
}  # fmt: skip
INJECTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "q": ("odd", {"kind": "query", "name": "key"}),
    "h": ("env", {"kind": "header", "name": "X-Key"}),
    "f": ("file", {"kind": "bearer"}),
    "e": ("encrypted", {"kind": "basic", "username": "gateway"}),
    "v": ("kv", {"kind": "bearer"}),
    "d": ("leased", {"kind": "basic"}),
    "o": ("own-token", {"kind": "bearer"}),
    "x": ("users-token", {"kind": "bearer"}),
    "s": ("bucket", {"kind": "sigv4", "region": "eu-west-1", "service": "s3"}),
}


def key_entries() -> list[dict[str, Any]]:
    known = [
        {"id": f"k{number}", "sha256": hashlib.sha256(KEY_OF[name].encode()).hexdigest(), **KEYS[name]}
        for number, name in enumerate(KEYS)
    ]
    return [*known, {"id": "mac", "agent": "mac", "signature": {"hmac": {"env": "ENVELOPE_SECRET"}}}]


def configuration(where: Mapping[str, str], folder: Path) -> dict[str, Any]:
    upstreams: dict[str, Any] = {"m": {
        "kind": "mcp", "url": where["mcp"], "trust": "first_use", "access": "read", "credential": "mcp",
    }}  # fmt: skip
    tools: dict[str, Any] = {}
    for name, (alias, inject) in INJECTIONS.items():
        upstreams[name] = {"kind": "http", "base_url": where["api"], "credential": alias, "inject": inject}
        for tool, (method, path, access) in TOOLS.items():
            tools[f"{name}.{tool}"] = {
                "upstream": name, "access": access, "method": method, "path": path, "input_schema": {"type": "object"},
            }  # fmt: skip
    upstreams["down"] = upstreams["h"] | {"base_url": where["nobody"]}
    tools["down.says"] = tools["h.says"] | {"upstream": "down"}
    login = {"method": "approle", "role_id": "role-of-the-test", "secret_id": {"env": "SECRET_ID"}}
    vault = {"kind": "vault", "url": where["vault"], "auth": login}
    own = {
        "kind": "oauth_client_credentials", "token_url": f"{where['issuer']}/token", "client_id": "gateway",
        "client_secret": {"env": "CLIENT_SECRET"}, "resource": "https://tickets.example.org",
        "scopes": {"read": SCOPE, "write": SCOPE},
    }  # fmt: skip
    hook = {"allow_private": True, "url": {"env": "HOOK_URL"}, "secret": {"env": "HOOK_SECRET"}, "name": "hook"}
    return {
        "server": {"log_level": "DEBUG", "refusals_per_second": 1_000_000},
        "auth": {
            "keys": key_entries(),
            "oauth": {"issuer": where["issuer"], "audience": RESOURCE},
        },
        "containment": {"url": where["redis"], "rate_window_s": 0.001},
        "evidence": {"hmac_key": {"env": "HMAC_KEY"}, "signing": {"kind": "ecdsa", "key": {"env": "ENVELOPE_KEY"}}},
        "redaction": {"mode": "tokenize", "key": {"env": "REDACTION_KEY"}},
        "credentials": {
            "env": {"kind": "env", "name": "CREDENTIAL"},
            "odd": {"kind": "env", "name": "ODD_CREDENTIAL"},
            "mcp": {"kind": "env", "name": "MCP_CREDENTIAL"},
            "file": {"kind": "file", "path": str(folder / "token")},
            "encrypted": {"kind": "encrypted_file", "path": str(folder / "sealed.json"), "key": {"env": "FILE_KEY"}},
            "kv": {**vault, "path": "app/db"},
            "leased": {**vault, "engine": "dynamic", "path": "database/creds/readonly"},
            "own-token": own,
            "users-token": {**own, "kind": "token_exchange"},
            "bucket": {
                "kind": "aws_sts", "url": f"{where['others']}/sts", "role_arn": "arn:aws:iam::123456789012:role/a",
                "region": "eu-west-1", "access_key_id": {"env": "STS_ID"}, "secret_access_key": {"env": "STS_KEY"},
            },
        },
        "upstreams": upstreams,
        "tools": tools,
        "webhooks": [
            hook,
            {**hook, "name": "dead", "url": {"env": "DEAD_URL"}, "secret": GIVEN["dead webhook secret"]},
            {"name": "slack", "kind": "slack", "url": {"env": "SLACK_URL"}, "allow_private": True},
        ],
        "webhook": {"url": f"{where['others']}/v02", "secret": GIVEN["v0.2 webhook secret"], "allow_private": True},
    }  # fmt: skip


def environment(where: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    return {
        "AGENTGATE_ADMIN_API_KEY": KEY_OF["admin"],
        "AGENTGATE_APPROVAL_TOKEN": GIVEN["static token"],
        "HMAC_KEY": GIVEN["evidence key"],
        "REDACTION_KEY": GIVEN["redaction key"],
        "ENVELOPE_SECRET": GIVEN["envelope secret"],
        "HOOK_URL": f"{where['others']}/{GIVEN['webhook path']}",
        "DEAD_URL": f"{where['nobody']}/{GIVEN['dead webhook path']}",
        "SLACK_URL": f"{where['others']}/services/{GIVEN['slack path']}",
        "HOOK_SECRET": GIVEN["webhook secret"],
        "CREDENTIAL": CREDENTIALS["env credential"],
        "ODD_CREDENTIAL": CREDENTIALS["odd credential"],
        "MCP_CREDENTIAL": CREDENTIALS["mcp server"],
        "FILE_KEY": GIVEN["encrypted file key"],
        "STS_ID": GIVEN["sts key id"],
        "STS_KEY": GIVEN["sts key"],
        **secrets,
    }


# --- what is done ---------------------------------------------------------------------------------------------------

DOCUMENT = make_framework("0").openapi()
PENDING = 4
"""The exit status of `agentgate approvals` while something waits."""
PEOPLE = ("agent", "operator", "approver", "auditor", "engine", "admin", "admin by key")


APPROVERS = ("approver", "admin", "admin by key")
"""Whoever may see whole calls."""


class Drive:
    """Speaks to the gateway as everybody who may and may not, and keeps what it hears."""

    def __init__(self, gateway: GatewayProcess, tokens: Mapping[str, str]) -> None:
        self.gateway = gateway
        self.tokens = dict(tokens)
        self.heard: list[Heard] = []
        self.found: dict[str, str] = {}
        """Secrets that were made on the way, by name."""
        self.files: dict[str, bytes] = {}
        """Keys in files, by the file's name."""
        self.pem = b""
        self._people = {name: gateway.client(key) for name, key in KEY_OF.items()}
        for name, token in tokens.items():
            self._people[name] = gateway.client(Authorization=f"Bearer {token}")
        self._people["nobody"] = gateway.client()

    def keep(self, place: str, data: bytes | str) -> None:
        self.heard.append(Heard(place, data.encode() if isinstance(data, str) else data))

    def ask(self, who: str, method: str, path: str, place: str = "answer", **more: Any) -> httpx.Response:
        client = self._people[who]
        request = client.build_request(method, path, **more)
        self.keep(f"sent:{who}", f"{request.method} {request.url}\n{request.headers.raw}\n".encode() + request.content)
        self.keep(f"sent:{who}", str(dict(request.headers)))
        answer = client.send(request)
        self.keep(f"{place}:{who}:{method} {path} {answer.status_code}", str(answer.headers.raw).encode() + b"\n")
        self.keep(f"{place}:{who}:{method} {path} {answer.status_code}", answer.content)
        return answer

    def call(
        self, who: str, tool: str, session: str, arguments: Mapping[str, Any] | None = None, **more: Any
    ) -> httpx.Response:
        headers = more.pop("headers", {})
        body = {"session_id": session, "tool_name": tool, "arguments": dict(arguments or {}), **more}
        return self.ask(who, "POST", "/tools/call", json=body, headers=headers)

    # the doors

    def mcp(self, who: str, tool: str, session: str, **meta: Any) -> httpx.Response:
        params = {"name": tool, "arguments": ARGUMENTS, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
            "dev.agentgate/session": session, **meta,
        }}  # fmt: skip
        headers = {
            "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call", "Mcp-Name": tool, "Cookie": f"a={MISTAKES['cookie']}",
        }  # fmt: skip
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return self.ask(who, "POST", "/mcp", json=message, headers=headers)

    def envelope(self, session: str, tool: str, secret: str, request_id: str) -> httpx.Response:
        said = envelope_body("mac", request_id, tool, ARGUMENTS, session_id=session)
        signed = Envelope("mac", hmac_with(secret), said, self.gateway.url + PATH)
        self.keep("sent:envelope", secret)
        return self.ask("nobody", "POST", PATH, content=said, headers=signed.headers())

    def bridge(self) -> None:
        """What an editor starts."""
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e", "version": "1"}}
        lines = [
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
            {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "h.echo", "arguments": ARGUMENTS}},
        ]
        command = [*AGENTGATE, "mcp", "--url", self.gateway.url, "--session", "bridge-1"]
        env = clean_environment({"AGENTGATE_API_KEY": KEY_OF["agent"]})
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) as editor:
            assert editor.stdin is not None
            assert editor.stdout is not None
            assert editor.stderr is not None
            said = ""
            for line in lines:
                editor.stdin.write(json.dumps(line) + "\n")
                editor.stdin.flush()
                while "id" in line and f'"id":{line["id"]},' not in said.replace(" ", ""):
                    heard = editor.stdout.readline()
                    assert heard, "it ended"
                    said += heard
            editor.stdin.close()
            self.keep("answer:bridge", said + editor.stdout.read())
            self.keep("stderr:bridge", editor.stderr.read())

    # the story

    def everything_that_runs(self) -> None:
        for name in INJECTIONS:
            who = "user" if name == "x" else "agent"
            for tool in ("says", "fails", "moved", "closed", "echo"):
                said = self.call(who, f"{name}.{tool}", f"runs-{name}", ARGUMENTS if tool == "echo" else None)
                assert said.json()["success"] is (tool in ("says", "echo")), said.text
        context = {"note": ARGUMENTS, "nested": [json.dumps(ARGUMENTS)]}
        assert self.call("agent", "h.echo", "context-1", ARGUMENTS, context=context).json()["success"] is True
        assert self.call("token agent", "h.echo", "token-1", ARGUMENTS).json()["success"] is True
        for who in ("agent", "token agent"):
            said = self.mcp(who, "m__echo", f"at-mcp-{len(who)}")
            assert '"isError":true' not in said.text.replace(" ", ""), said.text
        for _ in range(2):  # the second one is told the first one's answer
            headers = {"Idempotency-Key": IDEMPOTENCY["rest idempotency"]}
            assert self.call("agent", "q.echo", "again-1", ARGUMENTS, headers=headers).json()["success"] is True
            key = {"dev.agentgate/idempotency-key": IDEMPOTENCY["mcp idempotency"]}
            assert self.mcp("agent", "h.echo", "again-1", **key).status_code == 200
            said = self.envelope("again-2", "f.echo", GIVEN["envelope secret"], IDEMPOTENCY["request id"])
            assert said.json()["success"] is True, said.text
        self.bridge()

    def approvals(self) -> None:
        asked = self.call("agent", "h.write", "asked-1", ARGUMENTS).json()["approval"]["id"]
        self.ask("approver", "GET", f"/approvals/{asked}", "approver")
        yes = self.ask("approver", "POST", f"/approvals/{asked}/approve", "yes", json={"reason": ARGUMENTS["assigned"]})
        self.found["approval token"] = token = yes.json()["approval_token"]
        assert self.call("agent", "h.write", "asked-1", ARGUMENTS, approval_token=token).json()["success"] is True
        self.call("agent", "h.write", "asked-1", ARGUMENTS, approval_token=token)
        self.call("agent", "h.write", "asked-1", ARGUMENTS, approval_token=MISTAKES["wrong approval token"])
        assert self.call("agent", "h.write", "static", {}, approval_token=GIVEN["static token"]).json()["success"]
        # edited, and approved as edited
        asked = self.call("agent", "f.write", "edited-1", {"note": 1}).json()["approval"]["id"]
        edit = {"arguments": ARGUMENTS, "reason": ARGUMENTS["header"], "approve": True}
        edited = self.ask("approver", "POST", f"/approvals/{asked}/edit", "approver", json=edit)
        assert edited.status_code == 200, edited.text
        self.found["approval token of an edit"] = edited.json()["approval_token"]
        assert self.call("agent", "f.write", "edited-1", {"note": 1}).json()["success"] is True
        # denied
        asked = self.call("agent", "q.write", "denied-1", ARGUMENTS).json()["approval"]["id"]
        self.ask("approver", "POST", f"/approvals/{asked}/deny", "approver", json={"reason": ARGUMENTS["aws"]})
        self.call("agent", "q.write", "denied-1", ARGUMENTS)
        # left to the gateway
        headers = {"Prefer": "respond-async", "Idempotency-Key": IDEMPOTENCY["deferred key"]}
        later = self.call("agent", "e.write", "later-1", ARGUMENTS, headers=headers)
        assert later.status_code == 202, later.text
        yes = self.ask("approver", "POST", f"/approvals/{later.json()['approval']['id']}/approve", "yes", json={})
        self.found["approval token of a deferred call"] = yes.json()["approval_token"]
        fetched = until(
            lambda: (got := self.ask("agent", "GET", f"/calls/{later.json()['trace_id']}")).status_code == 200 and got
        )
        assert fetched.json()["success"] is True, fetched.text
        # by envelope, executed by the yes
        said = self.envelope("enveloped-1", "v.write", GIVEN["envelope secret"], "r-2").json()
        body = {"approval_id": said["approval_id"], "approved": True}
        assert self.ask("approver", "POST", "/approve", "approver", json=body).json()["success"] is True
        # pending when all ends
        self.call("agent", "d.write", "pending-1", ARGUMENTS)

    def kills(self, pool: ThreadPoolExecutor) -> None:
        running = pool.submit(self.call, "agent", "d.hang", "killed-1")
        until(lambda: self.ask("operator", "GET", "/calls", "told").json()["calls"])
        reason = {"reason": f"leaked {ARGUMENTS['github']} and {ARGUMENTS['assigned']}"}
        killed = self.ask("operator", "POST", "/sessions/killed-1/kill", "told", json=reason)
        assert killed.status_code in (200, 202), killed.text
        assert running.result(30).json()["success"] is False
        Api.released.set()
        self.call("agent", "h.echo", "killed-1", ARGUMENTS)

    def mistakes(self) -> None:
        """Secrets where they do not belong, and whatever else is refused."""
        wrong = {**MISTAKES}
        for headers in (
            {"X-API-Key": wrong["wrong key"]},
            {"Authorization": f"Bearer {wrong['wrong token']}"},
            {"Authorization": f"Basic {base64.b64encode(wrong['basic password'].encode()).decode()}"},
            {"X-API-Key": KEY_OF["disabled"]},
            {"X-API-Key": KEY_OF["agent"], "Authorization": f"Bearer {self.tokens['token agent']}x"},
        ):
            for path in ("/tools/call", "/mcp", "/approvals/x/approve", "/kills"):
                self.ask("nobody", "POST", path, "refusal", json={"arguments": ARGUMENTS}, headers=headers)
        in_query = {"api_key": wrong["key in a URL"], "token": wrong["key in a URL"]}
        for path in ("/tools/call", "/tools/list", "/audit", "/approvals", "/mcp", "/nothing"):
            for method in ("GET", "POST"):
                self.ask("agent", method, path, "refusal", params=in_query)
        self.ask("admin", "GET", "/audit", "refusal", params={"limit": wrong["key in a URL"]})
        self.ask("admin", "GET", "/audit", "refusal", params={"cursor": wrong["key in a URL"]})
        self.ask("admin", "GET", f"/{wrong['key in a path']}", "refusal")
        self.ask("admin", "GET", f"/approvals/{wrong['key in a path']}", "refusal")
        self.ask("agent", "GET", f"/calls/{wrong['key in a path']}", "refusal")
        member = wrong["key in an unknown member"]
        for body in (
            f'{{"session_id": "s", "key": "{wrong["key in bad JSON"]}"',
            f'{{"session_id": "s", "a": {wrong["key in bad JSON"]}}}',
            json.dumps({"session_id": "s", "tool_name": "h.echo", "arguments": {}, member: member}),
            json.dumps({"session_id": [member], "tool_name": {member: 1}, "arguments": member}),
            json.dumps({"session_id": "s", "tool_name": "x", "arguments": {}, "approval_token": [member]}),
        ):
            for path in ("/tools/call", "/mcp", PATH, "/approve", "/kills", "/holds", "/sessions/s/kill"):
                self.ask("admin", "POST", path, "refusal", content=body, headers={"Content-Type": "application/json"})
        self.envelope("wrong-1", "h.echo", wrong["wrong envelope key"], "r-1")
        self.call("agent", "no_such_tool", "refused-1", ARGUMENTS)
        self.call("agent", "down.says", "down-1", ARGUMENTS)
        self.call("agent", "x.says", "down-1")  # there is no user
        self.call("other agent", "h.echo", "other-1", ARGUMENTS)
        for raw in (
            post("/tools/call", b"{}", host=wrong["key in a host"]),
            post("/tools/call", b"{}", f"{wrong['key in a header name']}: x", "Content-Length: 7x"),
            f"{wrong['key in a method']} / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode(),
            f"GET /{wrong['key in a path']} HTTP/9.9\r\n{wrong['key in a header name']}\r\n\r\n".encode(),
        ):
            self.keep("sent:raw", raw)
            self.keep("refusal:raw", exchange(self.gateway.port, raw, timeout_s=1))

    def what_everybody_is_told(self, sessions: list[str]) -> None:
        ids = {"session_id": sessions[0], "level": "0", "index": "0", "name": "swagger-ui.css"}
        for who in (*PEOPLE, "nobody"):
            for path, item in DOCUMENT["paths"].items():
                if "get" in item:
                    place = "approver" if path.startswith("/approvals") and who in APPROVERS else "told"
                    for name, value in ids.items():
                        path = path.replace(f"{{{name}}}", value)  # noqa: PLW2901
                    self.ask(who, "GET", path, place)
            for path in ("/docs", "/openapi.json", "/", "/favicon.ico"):
                self.ask(who, "GET", path, "told")
        for approval in self.ask("approver", "GET", "/approvals?limit=100", "approver").json()["approvals"]:
            self.ask("approver", "GET", f"/approvals/{approval['id']}", "approver")
            self.ask("agent", "GET", f"/approvals/{approval['id']}", "told")
        for form in ("jsonl", "csv", "oscal", "otlp"):
            assert self.ask("auditor", "GET", "/audit", "export", params={"format": form}).status_code == 200
        for session in sessions:
            for form in ("json", "html"):
                pack = self.ask("auditor", "GET", f"/sessions/{session}/evidence", "pack", params={"format": form})
                assert pack.status_code == 200, pack.text
        for form in ("pdf", "zip"):
            pack = self.ask("auditor", "GET", "/evidence", "pack", params={"tenant": "default", "format": form})
            assert pack.status_code == 200, pack.text

    def commands(self) -> None:
        """What is said in a terminal."""
        env = {**self.gateway.env, "AGENTGATE_URL": self.gateway.url, "AGENTGATE_KEY": KEY_OF["admin"]}
        there = ["--config", str(self.gateway.config_path), "--data-dir", str(self.gateway.data_dir)]

        def run(*words: str, place: str = "cli") -> str:
            ran = CliRunner().invoke(cli, words, env=env)  # a process each would take a second each
            assert ran.exit_code in (0, 1, PENDING), f"{words}: {ran.output}"
            self.keep(f"{place}:{' '.join(words)}", ran.stdout)
            self.keep(f"cli stderr:{' '.join(words)}", f"{ran.stderr}{ran.exception!r}")
            return ran.stdout

        data = there[2:]
        self.found["created key"] = run("keys", "create", "--agent", "new", *data, place="shown").strip()
        key_id = run("keys", "list", *data).split("agent:new")[0].split()[-1]
        self.found["rotated key"] = run("keys", "rotate", key_id, *data, place="shown").strip()
        for name in ("created key", "rotated key"):
            self._people[name] = self.gateway.client(self.found[name])
            until(lambda name=name: self.ask(name, "GET", "/tools/list").status_code == 200)
        approval = self.ask("approver", "GET", "/approvals?state=pending", "approver").json()["approvals"][0]["id"]
        for words in (
            ("keys", "list", *data), ("credentials", "check", *there), ("webhooks", "list"), ("kills",),
            ("webhooks", "test", *there), ("audit", "--all"), ("members",), ("tools", "list"),
            ("log", "verify", *there), ("evidence", "keys", *there),
        ):  # fmt: skip
            run(*words)
        run("approvals", "--state", "all", place="approver")
        run("approvals", "show", approval, place="approver")

    def when_things_break(self, redis: RedisServer, vault: Any) -> None:
        vault.is_sealed = True
        assert self.call("other agent", "d.says", "broken-1").json()["success"] is False
        vault.is_sealed = False
        self.ask("admin", "POST", "/admin/policies/reload", "told")
        redis.stop()
        assert self.call("agent", "h.echo", "broken-2", ARGUMENTS).json()["success"] is False
        self.ask("nobody", "GET", "/health", "told")
        redis.start()
        until(lambda: self.ask("approver", "GET", "/approvals", "approver").status_code == 200, timeout_s=20)


def key_bytes(text: bytes) -> bytes:
    """The secret number of a private key."""
    key = load_pem_private_key(text, None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.private_numbers().private_value.to_bytes(32, "big")
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


SESSIONS = [
    *(f"runs-{name}" for name in INJECTIONS),
    "context-1", "token-1", "at-mcp-5", "at-mcp-11", "bridge-1", "again-1", "again-2", "asked-1", "edited-1",
    "denied-1", "later-1", "enveloped-1", "killed-1", "refused-1", "down-1",
]  # fmt: skip


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    """After all that can happen: what was heard everywhere, and what is left on disk."""
    folder = tmp_path_factory.mktemp("canaries")
    (folder / "token").write_text(CREDENTIALS["file credential"])
    (folder / "token").chmod(0o600)
    kept_in(folder, environ={"KEY": GIVEN["encrypted file key"]}).put("encrypted", CREDENTIALS["encrypted credential"])
    signing = ec.generate_private_key(ec.SECP256R1())
    pem = signing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with ExitStack() as stack:
        vault = stack.enter_context(ThreadedVault())
        vault.secret_id = made_up("vault secret id")
        vault.kv2["app/db"] = {"value": CREDENTIALS["vault KV"], "user": CREDENTIALS["vault beside"]}
        provider = stack.enter_context(
            OpenIdProvider(agents={"deploy-bot": {}, "gateway": {}}, people={"alice": {}}, ttl_s=300)
        )
        redis = stack.enter_context(
            RedisServer("--requirepass", GIVEN["redis password"], "--rdbcompression", "no", "--appendonly", "yes")
        )
        api, others, mcp = (stack.enter_context(serving(handler)) for handler in (Api, Others, McpServer))
        where = {
            "api": api, "others": others, "mcp": f"{mcp}/mcp",
            "vault": vault.url, "issuer": provider.issuer, "redis": redis.url, "nobody": "http://127.0.0.1:9",
        }  # fmt: skip
        Api.thief = f"{where['others']}/thief"
        tokens = {"token agent": provider.agent_token("deploy-bot")}
        tokens["user"] = provider.exchanged(provider.person_token("alice"), "deploy-bot", resource=RESOURCE)
        secrets = {
            "SECRET_ID": vault.secret_id,
            "CLIENT_SECRET": provider.secret_of("gateway"),
            "ENVELOPE_KEY": base64.b64encode(pem).decode(),
        }
        env = environment(where, secrets)
        gateway = GatewayProcess(config=configuration(where, folder), env=env)
        with gateway, ThreadPoolExecutor(2) as pool:
            done = Drive(gateway, tokens)
            done.found |= {"vault secret id": vault.secret_id, "client secret": provider.secret_of("gateway")}
            admin = gateway.admin()
            until(lambda: any(tool["server"] == "m" for tool in admin.get("/tools").json()["tools"]))
            done.everything_that_runs()
            done.approvals()
            done.kills(pool)
            done.mistakes()
            done.commands()
            until(lambda: {b"/HOOK", b"/services/SLACK", b"/v02"} <= {data.partition(b"\n")[0] for data in Others.seen})
            done.when_things_break(redis, vault)
            done.what_everybody_is_told(SESSIONS)
            for place, text in (("stdout", "".join(gateway.stdout)), ("stderr", gateway.stderr)):
                done.keep(f"{place}:running", text)
            redis.command("SAVE")
            for path in redis.directory.rglob("*"):
                if path.is_file():
                    done.keep(f"redis:{path.name}", path.read_bytes())
            for path in gateway.data_dir.glob("*-wal"):  # the rest is as when it has ended
                done.keep(f"disk:{path.name}", path.read_bytes())
            gateway.stop()
            done.keep("stderr:stopped", gateway.stderr)
            for path in sorted(gateway.data_dir.rglob("*")):
                if path.is_file():
                    done.keep(f"disk:{path.name}", path.read_bytes())
            for value in rows(gateway.data_dir / "log.db"):
                done.keep("rows:log.db", value)
            done.keep("disk:sealed.json", (folder / "sealed.json").read_bytes())
            done.keep("given:environment", json.dumps({n: text for n, text in GIVEN.items() if n not in USED_AT}))
            done.keep("given:environment", pem)
            done.keep("given:vault", json.dumps(vault.kv2))
            done.keep("given:sts", json.dumps(STS))
            done.keep("given:tokens", json.dumps(done.found))
            for place, seen in (("api", Api.seen), ("others", Others.seen), ("mcp", [bytes(McpServer.seen)])):
                for data in seen:
                    done.keep("outside:sts" if data.startswith(b"/sts") else f"outside:{place}", data)
            done.files = {name: (gateway.data_dir / name).read_bytes() for name in ("log-key.pem", "sealing.key")}
            done.pem = pem
            yield done


def made_by_the_gateway(drive: Drive) -> Iterator[Canary]:
    """And by those around it: known only afterwards."""
    for name, text in drive.found.items():
        yield Canary(name, text, ("given:*", "sent:*", "yes:*", "approver:approver:POST*", "shown:*"))
    for name, token in drive.tokens.items():
        yield Canary(f"token of {name}", token, ("sent:*",), core=token.rpartition(".")[2])
    for name, text in drive.files.items():
        raw = key_bytes(text) if text.startswith(b"-----") else text
        yield Canary(f"key in {name}", raw, (f"disk:{name}",))
    yield Canary("key of envelopes", key_bytes(drive.pem), ("given:environment",))
    issued = {text for data in Api.seen for text in _bearers(data)} - set(drive.tokens.values())
    assert len(issued) == 2, "the gateway's token, and one for the user"
    for number, token in enumerate(sorted(issued)):
        yield Canary(f"issued token {number}", token, ("outside:api",), core=token.rpartition(".")[2])
    passwords = {text for data in Api.seen for text in _leased(data)}
    for number, text in enumerate(sorted(passwords)):
        yield Canary(f"leased password {number}", f"{text}", ("outside:api",))


def _bearers(data: bytes) -> list[str]:
    return [token.decode() for token in re.findall(rb"Bearer\s+(eyJ\S+)", data)]


def _leased(data: bytes) -> list[str]:
    pairs = [base64.b64decode(basic).decode().partition(":") for basic in re.findall(rb"Basic\s+(\S+)", data)]
    return [password for user, _, password in pairs if user.startswith("v-approle")]


def test_no_canary_is_where_it_may_not_be(drive: Drive) -> None:
    """A42, A43, A44, A45: not in an answer, a log line, a metric, a page of the database, Redis, a pack, a terminal."""
    sweep = Sweep([*canaries(), *made_by_the_gateway(drive)])
    assert len(sweep.canaries) >= 50
    for place, data in drive.heard:
        sweep.look(place, data)
    assert sweep.leaks() == []
    assert sweep.unused() == [], "these were never used: nothing is known about them"
    kinds = {place.partition(":")[0] for place in sweep.places}
    assert kinds >= {"refusal", "told", "yes", "stdout", "stderr", "cli stderr", "redis"}
    readable = {find.place.partition(":")[0] for find in sweep.finds if find.canary == "note of a caller"}
    assert readable >= {"answer", "approver", "disk", "rows", "pack", "export", "cli", "outside"}
    assert {"raw in PDF", "raw in zip"} <= {find.form for find in sweep.finds if find.canary == "note of a caller"}


# --- what the other half of it says when it is down ------------------------------------------------------------------

PASSWORDS = {name: made_up(name) for name in ("postgres password", "opa token", "redis password")}
"""In URLs and headers of what the gateway depends on."""


class Opa(Api):
    """An engine that answers nothing but what it was sent."""

    seen: list[bytes] = []  # noqa: RUF012 - of one test module

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.given()
        self.seen.append(self.headers.as_bytes())
        raw = json.dumps({"code": "internal_error", "message": str(self.headers)}).encode()
        with contextlib.suppress(BrokenPipeError):  # of a gateway that has ended
            self.say(500, raw)


def test_no_canary_is_in_postgresql_nor_said_when_what_the_gateway_needs_is_down(tmp_path: Path) -> None:
    """The same on PostgreSQL: its tables, its files with what was deleted, its WAL; then without it, Redis and OPA."""
    keys = {f"key of {name}": text for name, text in KEY_OF.items()}
    arguments = [
        Canary(name, text, ("*",) if name == "note" else OF_CALLERS, core=CORES.get(name, ""))
        for name, text in ARGUMENTS.items()
    ]
    given = {"env credential": CREDENTIALS["env credential"], **PASSWORDS}
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        server.sql("CREATE DATABASE agentgate")
        assert run_cli("log", "migrate", "--database-url", server.url("agentgate")).returncode == 0
        redis = stack.enter_context(RedisServer("--requirepass", PASSWORDS["redis password"]))
        opa = stack.enter_context(serving(Opa))
        tool = {"upstream": "h", "method": "POST", "path": "/", "input_schema": {"type": "object"}}
        upstream = {
            "kind": "http", "base_url": stack.enter_context(serving(Api)), "credential": "env",
            "inject": {"kind": "header", "name": "X-Key"},
        }  # fmt: skip
        config = {
            "server": {"log_level": "DEBUG", "refusals_per_second": 1_000_000},
            "auth": {"keys": key_entries()},
            "containment": {"url": redis.url},
            "log": {"url": server.url("agentgate").replace("postgres@", f"postgres:{PASSWORDS['postgres password']}@")},
            "credentials": {"env": {"kind": "env", "name": "CREDENTIAL"}},
            "upstreams": {"h": upstream},
            "tools": {"h.echo": {**tool, "access": "read"}, "h.write": {**tool, "access": "write"}},
        }
        env = {
            "CREDENTIAL": CREDENTIALS["env credential"], "AGENTGATE_ADMIN_API_KEY": KEY_OF["admin"],
            "ENVELOPE_SECRET": GIVEN["envelope secret"],
        }  # fmt: skip
        heard: list[Heard] = []
        asking_opa = {**config, "policy": {"url": opa, "token": PASSWORDS["opa token"]}}
        with GatewayProcess(config=asking_opa, env=env, data_dir=tmp_path / "data") as gateway:
            blind = Drive(gateway, {})
            assert blind.call("agent", "h.echo", "blind-1", ARGUMENTS).json()["success"] is False
            blind.ask("nobody", "GET", "/health", "told")
            blind.ask("admin", "GET", "/metrics", "told")
            blind.keep("stderr:blind", gateway.stderr)
        with GatewayProcess(config=config, env=env, data_dir=tmp_path / "data") as gateway:
            drive = Drive(gateway, {})
            again = {"Idempotency-Key": IDEMPOTENCY["rest idempotency"]}
            for _ in range(2):
                assert drive.call("agent", "h.echo", "s-1", ARGUMENTS, headers=again).json()["success"] is True
            asked = drive.call("agent", "h.write", "s-1", ARGUMENTS).json()["approval"]["id"]
            yes = drive.ask("approver", "POST", f"/approvals/{asked}/approve", "yes", json={})
            drive.found["approval token"] = token = yes.json()["approval_token"]
            assert drive.call("agent", "h.write", "s-1", ARGUMENTS, approval_token=token).json()["success"] is True
            drive.call("agent", "h.write", "s-2", ARGUMENTS)
            for path in ("/sessions/s-1/evidence", "/audit", "/kills", "/log/tile/entries/0", "/calls", "/sessions"):
                drive.ask("admin", "GET", path, "told")
            server.sql("CHECKPOINT")
            tables = server.sql("SELECT oid FROM pg_database WHERE datname = 'agentgate'")
            for folder in (server.data / "base" / tables, server.data / "pg_wal"):
                for path in folder.iterdir():
                    if path.is_file():
                        drive.keep(f"postgresql:{path.relative_to(server.data)}", path.read_bytes())
            redis.stop()
            server.stop()
            assert drive.call("agent", "h.echo", "s-3", ARGUMENTS).json()["success"] is False
            for path in ("/health", "/approvals", "/audit", "/kills", "/metrics"):
                drive.ask("admin", "GET", path, "told")
            drive.ask("operator", "POST", "/sessions/s-1/kill", "told", json={"reason": ARGUMENTS["assigned"]})
            gateway.stop()
            drive.keep("stderr:stopped", gateway.stderr)
        drive.keep("given:all", json.dumps({**config, **env, **PASSWORDS}))
        heard = [*blind.heard, *drive.heard, *(Heard("outside:opa", data) for data in Opa.seen)]
        heard += [Heard("outside:api", data) for data in Api.seen]
    sweep = Sweep(
        [
            *arguments,
            *(Canary(name, text, ("given:*", "outside:api" if "credential" in name else "-", "outside:opa"))
              for name, text in given.items()),
            *(Canary(name, text, ("sent:*", "given:*")) for name, text in keys.items() if name != "key of disabled"),
            Canary("approval token", drive.found["approval token"], ("sent:*", "yes:*")),
            Canary("idempotency key", IDEMPOTENCY["rest idempotency"], ("sent:*",)),
        ]
    )  # fmt: skip
    for place, data in heard:
        sweep.look(place, data)
    assert sweep.leaks() == []
    assert [name for name in sweep.unused() if not name.startswith("key of")] == []
    readable = {find.place.partition("/")[0] for find in sweep.finds if find.canary == "note"}
    assert {"postgresql:base", "postgresql:pg_wal"} <= readable
