"""Attacks on redaction: what an agent writes so that it is recorded (A44), and what it has a tool say back (A42)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import random
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from agentgate.core.redaction.marks import MARK
from agentgate.core.strict_json import canonical, parse
from tests.attacks.test_credentials import std
from tests.fakes import REDACTOR
from tests.gateway import GatewayProcess, call, until
from tests.vectors.canaries import HARMLESS, SHAPED
from tests.web import Handler, serving


def url(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


WRAPPINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "in a sentence": lambda text: f"please use {text} for this",
    "json": lambda text: orjson.dumps({"note": text}).decode(),
    "base64": std,
    "base64 urlsafe": lambda text: base64.urlsafe_b64encode(f"?~{text}~?".encode()).decode().rstrip("="),
    "base64 after a word": lambda text: "Basic" + std(f"user {text}"),
    "base64 in lines": lambda text: base64.encodebytes(f"{'x' * 60} {text} {'y' * 60}".encode()).decode(),
    "UTF-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "url": url,
    "url in url": lambda text: url(url(text)),
    "escapes": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "full width": lambda text: "".join(chr(ord(c) + 0xFEE0) if c in "0123456789@" else c for c in text),
    "invisible": lambda text: text[:3] + "\u200b" + text[3:],
    "control characters": lambda text: text[:3] + "\0" + text[3:5] + "\x7f" + text[5:],
    "json in json": lambda text: orjson.dumps(orjson.dumps([text]).decode()).decode(),
    "base64 of json": lambda text: std(orjson.dumps({"n": text}).decode()),
    "url of base64": lambda text: url(std(text)),
    "hex of base64 of json": lambda text: std(orjson.dumps([text]).decode()).encode().hex(),
    "base64 three times": lambda text: std(std(std(text))),
}
PLACES: dict[str, Callable[[str], object]] = {
    "value": lambda text: {"note": text},
    "deep": lambda text: {"rows": [[1, {"x": [text]}], None]},
    "name": lambda text: {text: 1},
    "sql literal": lambda text: {"query": f"INSERT INTO t VALUES ('{text}', 1)"},
    "second line": lambda text: {"log": f"line before\n{text}\nline after"},
    "query of a URL": lambda text: {"url": f"https://example.org/x?note={text}&y=1"},
    "beside text": lambda text: {"a": "Zürich – 中文", "b": text, "c": '\\ " \u0000'},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("kind", SHAPED)
def test_no_canary_is_recorded_however_it_is_wrapped(kind: str, wrapping: str) -> None:
    """A44: 100 % of the declared kinds, in every declared encoding, at every place."""
    wrapped = WRAPPINGS[wrapping](SHAPED[kind])
    for place, put in PLACES.items():
        clean = REDACTOR.json(canonical(put(wrapped)))
        said = clean.decode()
        parse(clean)
        assert MARK in said, place
        for spelling in (SHAPED[kind], "CANARY", wrapped):
            assert spelling not in said, place
            assert json.dumps(spelling)[1:-1] not in said, place


def test_ordinary_arguments_stay_readable() -> None:
    """What is no secret is evidence: none of it is lost."""
    rng = random.Random(5)
    value = {
        **HARMLESS,
        "ids": [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(1000)],
        "hashes": [f"{rng.getrandbits(256):064x}" for _ in range(1000)],
        "times": [f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}T{n % 24:02}:00:00Z" for n in range(1000)],
        "milliseconds": [1_732_176_000_000 + n for n in range(1000)],
        "prices": [n / 100 for n in range(1000)],
        "picture": base64.b64encode(rng.randbytes(100_000)).decode(),
    }  # fmt: skip
    assert parse(REDACTOR.json(canonical(value))) == value


SECRET = "sup3r-secret/+injected-key"


class Echo(Handler):
    """An API that says back whatever it was told, its key in every form."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.given()
        key = self.headers["X-Key"]
        self.say(200, json.dumps({
            "plain": key, "hex": key.encode().hex(), "base64": std(key), "shifted": std("x" + key), "url": url(key),
            "json": json.dumps({"k": key}), "split": [key[:7], key[7:]], "deep": std(json.dumps([url(key)])),
        }).encode())  # fmt: skip

    def do_GET(self) -> None:
        key = self.headers["X-Key"]
        self.say(500, json.dumps({"error": f"bad key {key} or {std(key)}"}).encode())


@pytest.fixture(scope="module")
def heard() -> list[bytes]:
    return []


@pytest.fixture(scope="module")
def guarded(heard: list[bytes]) -> Iterator[GatewayProcess]:
    """A gateway whose tools go to Echo, with a webhook that keeps what it is told."""

    class Hook(Echo):
        def do_POST(self) -> None:
            heard.append(self.given())
            self.say(200, b"{}")

    anything: dict[str, Any] = {"type": "object"}
    with serving(Echo) as api, serving(Hook) as hook:
        config = {
            "server": {"log_level": "DEBUG"},
            "upstreams": {
                "api": {
                    "kind": "http",
                    "base_url": api,
                    "credential": "api-key",
                    "inject": {"kind": "header", "name": "X-Key"},
                }
            },
            "tools": {
                "say": {"upstream": "api", "access": "read", "method": "POST", "path": "/", "input_schema": anything},
                "fail": {"upstream": "api", "access": "read", "method": "GET", "path": "/", "input_schema": anything},
            },
            "credentials": {"api-key": {"kind": "env", "name": "ECHO_KEY"}},
            "webhook": {"url": hook, "secret": "a-secret-of-the-hook-7351", "allow_private": True},
        }
        with GatewayProcess(config=config, env={"ECHO_KEY": SECRET}) as process:
            yield process


def everything(gateway: GatewayProcess, heard: list[bytes], sessions: list[str]) -> str:
    """Every byte that an auditor, an operator, a scraper or a thief of the disk could read."""
    admin = gateway.admin()
    packs = [admin.get(f"/sessions/{session}/evidence", params={"format": form}).content
             for session in sessions for form in ("json", "html")]  # fmt: skip
    disk = [path.read_bytes() for path in gateway.data_dir.rglob("*") if path.is_file() and path.name != "admin.key"]
    told = [admin.get(path).content for path in ("/metrics", "/health", "/approvals", "/kills", "/audit")]
    return b"\n".join([*packs, *disk, *told, *heard, gateway.stderr.encode()]).decode(errors="replace")


@pytest.mark.parametrize("tool", ["say", "fail"])
def test_injected_credential_is_nowhere_after_the_tool_said_it(
    guarded: GatewayProcess, heard: list[bytes], tool: str
) -> None:
    """A42: in every form that it was said in."""
    answer = call(guarded.agent(), tool, {}, session=f"a42-{tool}")
    assert (MARK in answer.text) is (tool == "say")  # of a failed request only the status is told
    found = answer.text + everything(guarded, heard, [f"a42-{tool}"])
    for form in (SECRET, SECRET.encode().hex(), std(SECRET), url(SECRET), std("x" + SECRET)[2:-3], SECRET[7:]):
        assert form not in found
        assert json.dumps(form)[1:-1] not in found


def test_what_was_redacted_cannot_be_tried_against_the_digests_of_a_pack(guarded: GatewayProcess) -> None:
    """A44: a social security number is one of a billion, and a pack holds the salt of every event."""
    arguments = {"ssn": "219-09-9999"}
    said = call(guarded.agent(), "say", arguments, session="guess")
    assert said.json()["success"]
    pack = guarded.admin().get("/sessions/guess/evidence", params={"format": "json"}).text
    assert "219-09-9999" not in pack
    leaves = [event["event"] for event in guarded.admin().get("/audit", params={"session": "guess"}).json()["events"]]
    tool_sha256, found = leaves[0]["tool_sha256"], set(re.findall(r"[0-9a-f]{64}", pack + json.dumps(leaves)))
    who = {"agent": leaves[0]["principal"], "session": "guess", "tenant": leaves[0]["tenant"], "tool": "say"}
    whole = canonical({**who, "arguments": arguments, "context": {}, "tool_sha256": tool_sha256})
    guesses = [canonical(arguments), whole, canonical(said.json()["result"])]
    salts = [b"", *map(bytes.fromhex, re.findall(r'"salt": ?"([0-9a-f]{32})"', pack))]
    assert len(salts) > 2
    for salt, guess in itertools.product(salts, guesses):
        for tried in (
            hashlib.sha256(salt + guess),
            hmac.new(salt, guess, "sha256"),
            hmac.new(b"", salt + guess, "sha256"),
        ):
            assert tried.hexdigest() not in found


def test_canaries_of_an_agent_are_nowhere_in_what_was_recorded(guarded: GatewayProcess, heard: list[bytes]) -> None:
    """A44 from the door to the disk: arguments, context, kill reasons and what people elsewhere are told."""
    canaries = {name: text for name, text in SHAPED.items() if "CANARY" in text}
    arguments: dict[str, object] = {}
    for name, text in canaries.items():
        arguments |= {f"{name} {number}": wrap(text) for number, wrap in enumerate(WRAPPINGS.values())}
    agent, admin = guarded.agent(), guarded.admin()
    said = call(agent, "say", arguments, session="a44", context={"trace": arguments})
    assert said.status_code == 200, said.text
    assert call(agent, "no_such_tool", arguments, session="a44").json()["success"] is False
    reason = f"leaked {canaries['aws']} and {std('password=CANARY0123')}"
    assert admin.post("/sessions/a44/kill", json={"reason": reason}).status_code in (200, 202)
    until(lambda: any(b"kill_switch.activated" in told for told in heard))
    found = everything(guarded, heard, ["a44"])
    assert MARK in found
    wrapped = [wrap("CANARY0123456789") for name, wrap in WRAPPINGS.items() if name.startswith(("hex", "url", "esc"))]
    for spelling in ("CANARY", *(text[:24] for text in wrapped), *(std(text)[:24] for text in canaries.values())):
        assert spelling not in found, spelling
