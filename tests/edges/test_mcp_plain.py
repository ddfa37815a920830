"""A plain call of a tool is served past the SDK's server, and nobody can tell: not its client, and not the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any, Final, cast

import httpx
import pytest

from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind
from agentgate.edges._mcp.calls import Calls
from agentgate.edges._mcp.parts import Parts
from agentgate.edges._mcp.peer import ClientPeer
from agentgate.edges._mcp.plain import Judge, PlainCall, read
from agentgate.edges.wire import Request
from agentgate.ports.upstreams import Undelivered
from tests.edges.test_mcp import Room, allow, opened
from tests.fakes import ASK, DENY

VERSION: Final = "2026-07-28"
IO: Final = "io.modelcontextprotocol/"
META: Final[Mapping[str, Any]] = {
    IO + "protocolVersion": VERSION,
    IO + "clientCapabilities": {},
    IO + "clientInfo": {"name": "test", "version": "1"},
}
HEADERS: Final = {
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": VERSION,
    "Mcp-Method": "tools/call",
    "Mcp-Name": "a__echo",
}
GONE: Final = object()
"""In place of a value: that its name is not there."""
PINS_REGION: Final = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer"}},
}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@dataclass
class Row:
    """A request, by how it differs from a plain one."""

    name: str
    is_plain: bool = True
    message: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[tuple[str, str], ...] = ()
    """Headers beside these, which may have their names."""
    body: bytes | None = None
    says: Any = None
    """What the server says instead of its echo."""
    before: Callable[[Room], None] = lambda room: None

    def sent(
        self, meta: Mapping[str, Any] = META, headers: Mapping[str, str] = HEADERS
    ) -> tuple[list[tuple[str, str]], bytes]:
        """Headers and body: a plain request that says `meta`, with these headers, but for what differs."""
        meta = _with(meta, self.meta)
        params = _with({"name": "a__echo", "arguments": {"text": "tea"}, "_meta": meta}, self.params)
        message = _with({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, self.message)
        body = json.dumps(message).encode() if self.body is None else self.body
        return [*_with(headers, self.headers).items(), *self.more], body


def _with(whole: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**whole, **changes}.items() if value is not GONE}


def fault(code: int, **more: Any) -> Undelivered:
    return Undelivered(ReasonCode.UPSTREAM_ERROR, "mine", fault={"code": code, "message": "mine", **more})


def region(room: Room) -> None:
    tools = room.servers["a"].tools()
    room.registry.serve("a", tools | {"a__echo": replace(tools["a__echo"], input_schema=PINS_REGION)})


def allowed_again(room: Room) -> None:
    room.registry.serve("a", room.servers["a"].tools())
    allow(room)


def too_often(room: Room) -> None:
    for _ in range(20):
        room.house.refusals.refused(room.servers["b"].calls[0].caller)


TEXT = {"type": "text", "text": "tea"}
ROWS = [
    Row("a plain one"),
    Row("a name for an id", message={"id": "seven"}),
    Row("no id to speak of", message={"id": 0}),
    Row("a large id", message={"id": -(2**53 - 1)}),
    Row("an empty id", message={"id": ""}),
    Row("no arguments", params={"arguments": GONE}),
    Row("odd arguments", params={"arguments": {"é": "ü\u2028\U0001f600\u0000", "n": [-0.0, 1e300, None, 2**53 - 1]}}),
    Row("nested as deep as may be", params={"arguments": {"x": deep(60)}}),
    Row("who does not say who it is", meta={IO + "clientInfo": GONE}),
    Row("a trace and words of its own", meta={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "x/y": {"z": None}}),
    Row("accepts in another order", headers={"Accept": "text/event-stream,application/json"}),
    Row("a charset", headers={"Content-Type": 'application/json; charset="utf-8"'}),
    Row("a name in base64", headers={"Mcp-Name": "=?base64?YV9fZWNobw==?="}),
    Row("a session in a header", headers={"AgentGate-Session": "s-1"}),
    Row("a session in the message", meta={"dev.agentgate/session": "s-2"}, headers={"AgentGate-Session": "s-1"}),
    Row("no session", meta={"dev.agentgate/session": "not one"}),
    Row("no session in a header", is_plain=False, headers={"AgentGate-Session": "not one"}),
    Row("a key", meta={"dev.agentgate/idempotency-key": "k-1"}),
    Row("the same key again", meta={"dev.agentgate/idempotency-key": "k-1"}),
    Row("the key of something else", meta={"dev.agentgate/idempotency-key": "k-1"}, params={"arguments": {"n": 1}}),
    Row("no key", meta={"dev.agentgate/idempotency-key": "a b"}),
    # what servers say
    Row("much", says={"content": [TEXT], "structuredContent": {"a": None, "b": [{"c": None}]}, "isError": True}),
    Row("more than there is", says={"content": [{**TEXT, "x": 1, "annotations": None}], "y": 1, "_meta": {"z": None}}),
    Row("an image", says={"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}]}),
    Row("who it is", says={"content": [], "_meta": {IO + "serverInfo": {"name": "theirs", "version": "2"}}}),
    Row("what has no name", says={"content": [], "structuredContent": {"x": "\u2028ü\u0000"}}),
    Row("what is no result", says=["nonsense"]),
    Row("what is no result of a tool", says={"content": 5}),
    Row("structured, and no object", says={"content": [TEXT], "structuredContent": [1]}),
    Row("structured, and no object alone", says={"content": [], "structuredContent": 5}),
    Row("in our name", says={"content": [TEXT], "_meta": {"dev.agentgate/decision": "ALLOW"}}),
    Row("what an extension defines", says={"resultType": "task", "task": {"taskId": "t", "x": None}}),
    Row("a question", says={"resultType": "input_required", "requestState": "theirs", "inputRequests": {}}),
    Row("an error", says=fault(-32042, data={"x": None})),
    Row("an error of parameters", says=fault(-32602)),
    Row("an error of methods", says=fault(-32601, data=None)),
    Row("an error without a number", says=fault("x")),  # type: ignore[arg-type]
    Row("nothing", says=Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "down")),
    # what the gate says
    Row("denied", before=lambda room: allow(room, a__echo=DENY)),
    Row("to be approved", before=lambda room: allow(room, a__echo=ASK)),
    Row(
        "to be approved by who opens pages",
        meta={IO + "clientCapabilities": {"elicitation": {"url": {}}}},
        params={"arguments": {"n": 7}},
        before=lambda room: allow(room, a__echo=ASK),
    ),
    Row("unknown", params={"name": "a__what"}, headers={"Mcp-Name": "a__what"}),
    Row("no name of a tool", params={"name": "a b"}, headers={"Mcp-Name": "a b"}),
    Row("an operation", params={"name": "a__mcp.prompts.list"}, headers={"Mcp-Name": "a__mcp.prompts.list"}),
    Row("without a log", before=lambda room: room.house.log.fail_next()),
    Row("without kills", before=lambda room: setattr(room.house.admission, "is_down", True)),
    Row("with kills again", before=lambda room: setattr(room.house.admission, "is_down", False)),
    Row("refused too often", before=too_often),
    # headers for arguments
    Row("a region not repeated", params={"arguments": {"region": "eu"}}, before=region),
    Row("a region", params={"arguments": {"region": "eu"}}, headers={"Mcp-Param-Region": "eu"}, before=region),
    Row("another region", params={"arguments": {"region": "eu"}}, headers={"Mcp-Param-Region": "us"}, before=region),
    Row("a region of nothing", headers={"Mcp-Param-Region": "eu"}, before=region),
    Row("a region twice", False, more=(("mcp-param-region", "eu"), ("mcp-param-region", "us")), before=region),
    Row("a region that nobody asked for", headers={"Mcp-Param-Region": "eu"}),
    # what is not plain
    Row("progress", False, meta={"progressToken": 1}),
    Row("logs", False, meta={IO + "logLevel": "info"}),
    Row("a state", False, params={"requestState": "agw1.x"}),
    Row("answers", False, params={"inputResponses": {}}),
    Row("a task", False, params={"task": {"ttl": 1}}),
    Row("one parameter too many", False, params={"x": 1}),
    Row("one member too many", False, message={"x": 1}),
    Row("a notification", False, message={"id": GONE}),
    Row("no id", False, message={"id": None}),
    Row("half an id", False, message={"id": 1.5}),
    Row("a whole id with a point", False, message={"id": 1.0}),
    Row("an id that is true", False, message={"id": True}),
    Row("an id that is a list", False, message={"id": [1]}),
    Row("another method", False, message={"method": "tools/list"}, headers={"Mcp-Method": "tools/list"}),
    Row("no method", False, message={"method": GONE}),
    Row("another JSON-RPC", False, message={"jsonrpc": "1.0"}),
    Row("a batch", False, body=b"[]"),
    Row("no object", False, body=b'"x"'),
    Row("no JSON", False, body=b"{"),
    Row("a name twice", False, body=b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}'),
    Row("nested too deep", False, params={"arguments": {"x": deep(70)}}),
    Row("too much", False, params={"arguments": {"x": "x" * 100_000}}),
    Row("no params", False, message={"params": GONE}),
    Row("params that are a list", False, message={"params": []}),
    Row("no name", False, params={"name": GONE}),
    Row("a name that is a number", False, params={"name": 7}),
    Row("arguments that are null", False, params={"arguments": None}),
    Row("arguments that are a list", False, params={"arguments": []}),
    Row("no meta", False, params={"_meta": GONE}),
    Row("meta that is a list", False, params={"_meta": []}),
    Row("no version", False, meta={IO + "protocolVersion": GONE}),
    Row("no capabilities", False, meta={IO + "clientCapabilities": GONE}),
    Row("capabilities that are none", False, meta={IO + "clientCapabilities": []}),
    Row("a client that is none", False, meta={IO + "clientInfo": {"name": 7}}),
    Row("an older version in the message", False, meta={IO + "protocolVersion": "2025-11-25"}),
    Row("a version that nobody knows", False, headers={"MCP-Protocol-Version": "2099-01-01"}),
    Row("another name in the header", False, headers={"Mcp-Name": "b__echo"}),
    Row("no name in the header", False, headers={"Mcp-Name": GONE}),
    Row("a name in bad base64", False, headers={"Mcp-Name": "=?base64?YV9fZWNobx==?="}),
    Row("another method in the header", False, headers={"Mcp-Method": "tools/list"}),
    Row("no method in the header", False, headers={"Mcp-Method": GONE}),
    Row("a name twice in headers", False, more=(("mcp-name", "b__echo"),)),
    Row("a session of the other era", False, headers={"Mcp-Session-Id": "x"}),
    Row("accepts anything", False, headers={"Accept": "*/*"}),
    Row("accepts JSON", False, headers={"Accept": "application/json"}),
    Row("accepts with weights", False, headers={"Accept": "application/json;q=1, text/event-stream;q=0.5"}),
    Row("accepts twice", False, headers={"Accept": "application/json"}, more=(("accept", HEADERS["Accept"]),)),
    Row("text", False, headers={"Content-Type": "text/plain"}),
    Row("an older version", False, headers={"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": "x"}),
    Row("a plain one once more"),
]


DOORS_OWN: Final = {"a name twice", "nested too deep", "too much", "no session in a header", "a region twice", "text"}
"""What the door itself refuses before it asks what is plain."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_only_what_is_plain_is_taken(row: Row) -> None:
    sent, body = row.sent()
    raw = [(name.lower().encode(), value.encode()) for name, value in sent]
    request = Request({"headers": raw}, dict(raw), b"")
    try:
        message = json.loads(body)
    except ValueError:
        return  # the door has said so before
    if not isinstance(message, dict) or row.name in DOORS_OWN:
        return
    for judge in (Judge(), experienced()):
        assert isinstance(read(request, message, judge), PlainCall) is row.is_plain


def experienced() -> Judge:
    """A judge who has seen the same client say something right, and much that was wrong."""
    judge = Judge()
    for row in (ROWS[0], *ROWS):
        sent, body = row.sent()
        with suppress(ValueError, TypeError, AttributeError):
            raw = [(name.lower().encode(), value.encode()) for name, value in sent]
            read(Request({"headers": raw}, dict(raw), b""), json.loads(body), judge)
    return judge


async def test_a_client_and_the_log_hear_the_same_by_both_ways() -> None:
    where = "https://gate.example"
    async with opened(base_url=where) as by_us, opened(base_url=where, takes_plain=False) as by_sdk:
        ours, theirs = await _answers(by_us), await _answers(by_sdk)
        differ = [(row.name, one, other) for row, one, other in zip(ROWS, ours, theirs, strict=True) if one != other]
        assert differ == []
        logged = zip_longest(by_us.house.log.events, by_sdk.house.log.events)
        assert [(one, other) for one, other in logged if one != other] == []
        assert by_us.servers["a"].asked == by_sdk.servers["a"].asked


async def _answers(room: Room) -> list[tuple[Any, ...]]:
    found = []
    async with httpx.AsyncClient(base_url=room.url, trust_env=False) as http:
        other = Row("of the other server", params={"name": "b__echo"}, headers={"Mcp-Name": "b__echo"})
        headers, body = other.sent()  # the SDK is loaded, and there is a caller
        await http.post("/mcp", headers=headers, content=body)
        for row in ROWS:
            prepare(room, row)
            headers, body = row.sent()
            answer = await http.post("/mcp", headers=headers, content=body)
            kind = answer.headers.get("content-type")
            content = answer.json() if kind == "application/json" else answer.text
            others = sorted(set(answer.headers) - {"date", "server", "content-length", "transfer-encoding"})
            found.append((answer.status_code, kind, [(name, answer.headers[name]) for name in others], content))
    return found


def prepare(room: Room, row: Row) -> None:
    """What a row is about, and nothing of the row before."""
    room.house.clock.ticks += 61_000_000_000  # so that no limit is reached
    allowed_again(room)
    room.servers["a"].says["echo"] = {"content": [TEXT]} if row.says is None else row.says
    row.before(room)


@pytest.mark.parametrize("takes_plain", [True, False])
async def test_who_hangs_up_withdraws_its_call(takes_plain: bool) -> None:
    started = asyncio.Event()

    async def hang(*_: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    async with opened(takes_plain=takes_plain) as room:
        await _warm(room)
        room.servers["a"].says["echo"] = hang
        async with httpx.AsyncClient(base_url=room.url, trust_env=False) as http:
            headers, body = ROWS[0].sent()
            call = asyncio.create_task(http.post("/mcp", headers=headers, content=body))
            await started.wait()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        ended = asyncio.Event()
        room.house.log.on_append = lambda event: ended.set() if event.kind is Kind.FINISHED else None
        if len(room.house.log.of(Kind.FINISHED)) < 2:
            await asyncio.wait_for(ended.wait(), 5)
        finished = room.house.log.of(Kind.FINISHED)[-1]
    assert (finished["outcome"], finished["reason_code"]) == ("cancelled", "caller_withdrew")


async def test_an_answer_that_does_not_come_becomes_a_stream_that_is_kept_up() -> None:
    go_on = asyncio.Event()

    async def wait(*_: Any) -> dict[str, Any]:
        await go_on.wait()
        return {"content": [TEXT]}

    async with opened(ping_every_s=0.01) as room:
        await _warm(room)
        room.servers["a"].says["echo"] = wait
        headers, body = ROWS[0].sent()
        async with (
            httpx.AsyncClient(base_url=room.url, trust_env=False) as http,
            http.stream("POST", "/mcp", headers=headers, content=body) as answer,
        ):
            lines = answer.aiter_lines()
            assert [await anext(lines) for _ in range(4)] == [": ping", ""] * 2
            go_on.set()
            rest = [line async for line in lines if line and line != ": ping"]
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    assert rest[0] == "event: message"
    message = json.loads(rest[1].removeprefix("data: "))
    assert (message["id"], message["result"]["content"]) == (1, [TEXT])


async def test_calls_that_share_an_id_are_told_apart() -> None:
    """Nothing is idle while one of them runs."""
    rules = SimpleNamespace(state_ttl_s=60)
    calls = Calls(cast("Parts", SimpleNamespace(sealer=None, clock=None, entropy=None, rules=rules)))
    peer = cast("ClientPeer", SimpleNamespace(session_key=None, ctx=SimpleNamespace(request_id=1)))
    go_on = asyncio.Event()
    slow, quick = calls.begin(peer, go_on.wait()), calls.begin(peer, asyncio.sleep(0))
    await quick
    assert not calls.is_idle()
    go_on.set()
    await slow
    assert calls.is_idle()


async def _warm(room: Room) -> None:
    """The SDK is loaded by a first request, and serves that one."""
    async with httpx.AsyncClient(base_url=room.url, trust_env=False) as http:
        headers, body = ROWS[0].sent()
        (await http.post("/mcp", headers=headers, content=body)).raise_for_status()
