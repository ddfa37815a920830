"""Attacks by what a body says, or seems to say."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import time
import unicodedata
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest

from tests.attacks.conftest import BOT, OPERATOR, reached
from tests.gateway import JSON, GatewayProcess, call, exchange, post, resident_bytes, statuses

KEY = f"X-API-Key: {BOT}"
TOOL, MODERN = "rate_limited_tool", "2026-07-28"


def send(gateway: GatewayProcess, body: bytes) -> tuple[int, dict[str, object]]:
    said = exchange(gateway.port, post("/tools/call", body, KEY))
    return statuses(said)[0], json.loads(said.partition(b"\r\n\r\n")[2])


def test_duplicate_keys(gateway: GatewayProcess, session: str) -> None:
    """A01: the same name twice, at any depth, plain or escaped: two readers would see two calls."""
    random_ = random.Random(1)
    for _ in range(100):
        name = random_.choice(["tool_name", "query", "a", "ä", ""])
        escaped = "".join(f"\\u{ord(c):04x}" if random_.random() < 0.5 else c for c in name)
        pair = f'{{"{name}":1,"x":2,"{escaped}":3}}'
        for _ in range(random_.randrange(20)):
            pair = random_.choice(['{"b":%s}', "[1,%s]", '{"c":[],"d":%s}']) % pair
        body = f'{{"session_id":"{session}","tool_name":"rate_limited_tool","arguments":{{"a":{pair}}}}}'
        assert send(gateway, body.encode())[0] == 400, body
    twice = f'{{"session_id":"{session}","tool_name":"rate_limited_tool","tool_name":"db_insert","arguments":{{}}}}'
    assert send(gateway, twice.encode())[0] == 400
    assert reached(gateway, session) == 0


NUMBERS = {
    "refused": "NaN Infinity -Infinity 1e999 -1e999 1e309 9007199254740992 -9007199254740992 18446744073709551616 01 "
    "+1 .5 5. 1e 0x10 1_000 ١ 1e+ -- 9999999999999999999999 1e20 100000000000000000000.5",
    "taken": "0 -0 1 -1 9007199254740991 -9007199254740991 0.1 1e2 1E-7 1.7976931348623157e308 5e-324 1e22",
}


def test_numbers_that_readers_disagree_on(gateway: GatewayProcess, session: str) -> None:
    """A02: refused, or the very value reaches the tool."""
    form = '{"session_id":"%s","tool_name":"rate_limited_tool","arguments":{"n":%s}}'
    for number in NUMBERS["refused"].split():
        assert send(gateway, (form % (session, number)).encode())[0] == 400, number
    assert reached(gateway, session) == 0
    for number in NUMBERS["taken"].split():
        status, answer = send(gateway, (form % (session, number)).encode())
        assert status == 200
        assert answer["result"]["echo"]["n"] == json.loads(number), number  # type: ignore[index]


def test_text_that_is_no_text(gateway: GatewayProcess, session: str) -> None:
    """A03: lone surrogates, byte order marks, other encodings, invalid UTF-8."""
    good = '{"session_id":"%s","tool_name":"rate_limited_tool","arguments":{"t":"%s"}}'
    for text in (
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\n",
        b"\\x41",
    ):
        assert send(gateway, (good % (session, "@")).encode().replace(b"@", text))[0] == 400, text
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert send(gateway, (good % (session, "x")).encode(encoding))[0] == 400, encoding
    assert reached(gateway, session) == 0


def test_a_depth_bomb(gateway: GatewayProcess) -> None:
    """A04: 100,000 open brackets cost nothing."""
    before = resident_bytes(gateway.pid)
    for bomb in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000):
        started = time.monotonic()
        assert send(gateway, bomb)[0] == 400
        assert time.monotonic() - started < 0.25
    assert resident_bytes(gateway.pid) - before < 20_000_000


def test_a_body_of_a_hundred_megabytes(gateway: GatewayProcess) -> None:
    """A05: with its length, without one, with a false one."""
    before = resident_bytes(gateway.pid)
    head = f"POST /tools/call HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{KEY}\r\n"
    piece = b" " * 100_000
    declared = [(head + "Content-Length: 100000000\r\n\r\n").encode(), *itertools.repeat(piece, 1000)]
    understated = [(head + "Content-Length: 10\r\n\r\n").encode(), *itertools.repeat(piece, 1000)]
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    undeclared = [(head + "Transfer-Encoding: chunked\r\n\r\n").encode(), *itertools.repeat(chunk, 1000), b"0\r\n\r\n"]
    for pieces in (declared, understated, undeclared):
        assert all(status in (400, 413) for status in statuses(exchange(gateway.port, pieces)))
    assert resident_bytes(gateway.pid) - before < 30_000_000
    assert gateway.client().get("/healthz").status_code == 200


def test_a_gzip_bomb(gateway: GatewayProcess) -> None:
    """A06: nothing is decompressed."""
    bomb = gzip.compress(b" " * 100_000_000)
    before = resident_bytes(gateway.pid)
    for encoding in ("gzip", "x-gzip", "br", "deflate", "gzip, gzip"):
        answer = gateway.client(BOT).post("/tools/call", content=bomb, headers=JSON | {"Content-Encoding": encoding})
        assert answer.status_code == 415
    unsaid = gateway.client(BOT).post("/tools/call", content=bomb, headers=JSON)
    assert unsaid.status_code == 400
    assert resident_bytes(gateway.pid) - before < 20_000_000


@pytest.mark.parametrize(
    "name", ["Tool_name", "tool", "toolName", "tool_name ", "tool_name\0", "agent", "tenant", "role"]
)
def test_smuggled_members(gateway: GatewayProcess, session: str, name: str) -> None:
    """A07: a member that another reader might take for one of ours."""
    for value in ("db_insert", {"id": "admin"}, None):
        body = {"session_id": session, "tool_name": "db_query", "arguments": {"query": "SELECT 1"}, name: value}
        assert gateway.client(BOT).post("/tools/call", json=body).status_code == 422
    killing = gateway.client(OPERATOR).post("/kills", json={"scope": "session", "target": session, "Scope": "global"})
    assert killing.status_code == 422
    assert reached(gateway, session) == 0


def test_confusable_names(gateway: GatewayProcess, session: str) -> None:
    """A08: names that look like another, in any alphabet, are no names."""
    looks = {
        "a": "аɑ\uff41\u1d43@",
        "e": "еҽ\uff45", "o": "оο\uff4f0\u0585", "_": "\uff3f\u2017\ufe4d", "d": "ԁ\uff44\u0501",
        "b": "Ь\uff42", "q": "ԛ\uff51", "u": "υ\uff55", "r": "г\uff52", "y": "у\uff59",
    }  # fmt: skip
    invisible = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Cf"]
    names = ["db_query".replace(letter, other) for letter, others in looks.items() for other in others]
    names += [f"db{c}_query" for c in invisible] + [
        "db_query" + c for c in ("\u0301", "\u3000", "\x00", "\x7f", "\u2024")
    ]
    names += [unicodedata.normalize("NFD", "db_quéry"), "ｄｂ_query", "db_query\ufeff"]
    assert len(names) > 150
    client = gateway.client(BOT)
    for name in names:
        if name == "db_query":
            continue
        answer = call(client, name, {"query": "SELECT 1"}, session=session)
        allowed = answer.status_code == 200 and answer.json()["decision"] == "ALLOW"
        assert not allowed, ascii(name)
        assert answer.status_code == 422 or name.isascii(), ascii(name)
        if not name.isascii():
            as_session = call(client, "db_query", {"query": "SELECT 1"}, session=name)
            assert as_session.status_code == 422
    assert reached(gateway, session) == 0


@pytest.mark.parametrize("door", ["rest", "mcp"])
def test_a_kill_does_not_wait_for_large_calls(gateway: GatewayProcess, door: str) -> None:
    """Each of them takes a good part of a second to read and to redact."""
    arguments = {"x": [{"password": "hunter22"}] * 36_000}
    body: dict[str, Any] = {"session_id": f"large-{door}", "tool_name": TOOL, "arguments": arguments}
    path, headers = "/tools/call", {}
    if door == "mcp":
        meta = {"protocolVersion": MODERN, "clientCapabilities": {}}
        params: dict[str, Any] = {"name": TOOL, "arguments": arguments}
        params["_meta"] = {f"io.modelcontextprotocol/{name}": value for name, value in meta.items()}
        path, body = "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": TOOL}
        headers["Accept"] = "application/json, text/event-stream"
    bot, operator = gateway.client(BOT, **headers), gateway.client(OPERATOR)
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(bot.post, path, json=body) for _ in range(8)]
        wait(running, return_when=FIRST_COMPLETED)
        order = {"scope": "session", "target": f"beside-{door}"}
        assert operator.post("/kills", json=order).json()["drained"]
        assert not all(call.done() for call in running)
        assert {call.result().status_code for call in running} == {200}
