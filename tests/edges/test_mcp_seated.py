"""A plain call in a session of the handshake era is served past the SDK's server, and its client and the log see the
same: a result or an error, by JSON where the SDK makes a stream of one event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import Any, Final

import httpx
import pytest
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

from agentgate.core.event import Kind
from agentgate.edges._mcp.reply import Reply
from agentgate.ports.peer import Peer
from tests.edges.test_mcp import Room, opened
from tests.edges.test_mcp_plain import ROWS, TEXT, Row, prepare
from tests.pipeline.conftest import until

VERSION: Final = "2025-11-25"
BOTH: Final = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


class Session:
    """One session of the handshake era, past its handshake."""

    def __init__(self, http: httpx.AsyncClient, session_id: str, version: str) -> None:
        self.http = http
        self.headers = {**BOTH, "Mcp-Session-Id": session_id}
        if version > "2025-03-26":  # the versions before have no such header
            self.headers["MCP-Protocol-Version"] = version

    async def call(self, row: Row = ROWS[0], **message: Any) -> httpx.Response:
        headers, body = Row(row.name, message=message).sent({}, self.headers)
        return await self.http.post("/mcp", headers=headers, content=body)

    async def post(self, message: Mapping[str, Any]) -> httpx.Response:
        return await self.http.post("/mcp", headers=self.headers, json=message)

    async def cancel(self, request_id: Any) -> httpx.Response:
        return await self.post(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}}
        )


@asynccontextmanager
async def session(room: Room, can: Mapping[str, Any] | None = None, version: str = VERSION) -> AsyncIterator[Session]:
    async with httpx.AsyncClient(base_url=room.url, trust_env=False, timeout=20) as http:
        who = {"protocolVersion": version, "capabilities": can or {}, "clientInfo": {"name": "t", "version": "1"}}
        hello = {"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": who}
        said = await http.post("/mcp", headers=BOTH, json=hello)
        opened_ = Session(http, said.headers["Mcp-Session-Id"], version)
        await opened_.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield opened_


def message_of(answer: httpx.Response) -> Any:
    """The last message, whether it came in a stream or alone."""
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return json.loads([line for line in answer.text.split("\r\n") if line.startswith("data: {")][-1][6:])
    return answer.json() if answer.content else None


async def _answers(room: Room, version: str) -> list[tuple[Any, ...]]:
    found = []
    async with session(room, version=version) as ours:
        ours.headers["AgentGate-Session"] = "s"  # else the log has the protocol's, which is by chance
        headers, body = Row("of the other server", params={"name": "b__echo"}).sent({}, ours.headers)
        await ours.http.post("/mcp", headers=headers, content=body)
        for row in ROWS:
            prepare(room, row)
            headers, body = row.sent({}, ours.headers)
            answer = await ours.http.post("/mcp", headers=headers, content=body)
            found.append((answer.status_code, message_of(answer)))
    return found


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_a_client_and_the_log_hear_the_same_by_both_ways(version: str) -> None:
    where = "https://gate.example"
    async with opened(base_url=where) as by_us, opened(base_url=where, takes_plain=False) as by_sdk:
        ours, theirs = await _answers(by_us, version), await _answers(by_sdk, version)
        differ = [(row.name, one, other) for row, one, other in zip(ROWS, ours, theirs, strict=True) if one != other]
        assert differ == []
        logged = zip_longest(by_us.house.log.events, by_sdk.house.log.events)
        assert [(one, other) for one, other in logged if one != other] == []
        assert by_us.servers["a"].asked == by_sdk.servers["a"].asked


async def test_what_is_plain_comes_back_as_json_and_what_is_not_as_a_stream() -> None:
    async with opened() as room, session(room) as plain, session(room, {"roots": {}}) as asked:
        assert (await plain.call()).headers["content-type"] == "application/json"
        assert (await plain.call()).headers["mcp-session-id"] == plain.headers["Mcp-Session-Id"]
        progress = Row("progress", meta={"progressToken": 1}).sent({}, plain.headers)
        for answer in (
            await asked.call(),
            await plain.http.post("/mcp", headers=progress[0], content=progress[1]),
            await plain.post({"jsonrpc": "2.0", "id": 5, "method": "tools/list"}),
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")


class Hanging:
    """A tool that goes on until it is let go, or cut."""

    def __init__(self, room: Room) -> None:
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.peers: list[Peer] = []
        self._room = room
        room.servers["a"].says["echo"] = self

    async def __call__(self, arguments: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        self.peers.append(peer)
        self.started.set()
        await self.go_on.wait()
        return {"content": [TEXT]}

    async def outcome(self) -> tuple[str, str]:
        """Of its call, once it has ended."""
        ended = asyncio.Event()
        self._room.house.log.on_append = lambda event: ended.set() if event.kind is Kind.FINISHED else None
        if not self._room.house.log.of(Kind.FINISHED):
            await asyncio.wait_for(ended.wait(), 5)
        (finished,) = self._room.house.log.of(Kind.FINISHED)
        return finished["outcome"], finished["reason_code"]


@pytest.mark.parametrize("request_id", [1, "seven"])
async def test_a_call_that_its_client_cancels_ends_and_says_so(request_id: Any) -> None:
    async with opened() as room, session(room) as ours:
        tool = Hanging(room)
        call = asyncio.create_task(ours.call(id=request_id))
        await tool.started.wait()
        assert (await ours.cancel(request_id)).status_code == 202
        answer = await call
        assert await tool.outcome() == ("cancelled", "caller_withdrew")
    assert answer.json()["error"] == {"code": -32800, "message": "Request cancelled"}


async def test_a_cancellation_of_another_request_or_in_another_session_ends_nothing() -> None:
    async with opened() as room, session(room) as ours, session(room) as theirs:
        tool = Hanging(room)
        call = asyncio.create_task(ours.call())
        await tool.started.wait()
        await theirs.cancel(1)
        await ours.cancel(2)
        await ours.post({"jsonrpc": "2.0", "method": "notifications/cancelled"})
        tool.go_on.set()
        assert (await call).json()["result"]["content"] == [TEXT]


async def test_a_session_that_is_closed_ends_its_calls() -> None:
    async with opened() as room, session(room) as ours, session(room) as theirs:
        tool = Hanging(room)
        call = asyncio.create_task(ours.call())
        await tool.started.wait()
        await ours.http.delete("/mcp", headers=ours.headers)
        assert (await call).json()["error"]["message"] == "Request cancelled"
        assert await tool.outcome() == ("cancelled", "caller_withdrew")
        assert (await ours.call()).status_code == 404
        tool.go_on.set()
        assert (await theirs.call()).status_code == 200


async def test_a_session_that_is_closed_ends_its_calls_before_anything_that_they_rest_on() -> None:
    """A server's own session with the client's may end slowly; what is cut by that was withdrawn before."""
    order: list[str] = []

    async with opened() as room, session(room) as ours:
        tool = Hanging(room)
        call = asyncio.create_task(ours.call())
        await tool.started.wait()

        async def close() -> None:
            order.append(room.house.log.of(Kind.FINISHED)[0]["outcome"])
            tool.go_on.set()

        tool.peers[0].on_session_end(close)
        await ours.http.delete("/mcp", headers=ours.headers)
        assert (await call).json()["error"]["message"] == "Request cancelled"
        await until(lambda: bool(order))
    assert order == ["cancelled"]


async def test_a_call_that_is_cancelled_twice_is_recorded_once_as_cancelled() -> None:
    """The second time may come while the first is being recorded, on a log that fails just then."""
    async with opened() as room, session(room) as ours:
        tool = Hanging(room)
        call = asyncio.create_task(ours.call())
        await tool.started.wait()
        room.house.log.fail_next()
        await ours.cancel(1)
        await ours.cancel(1)
        await ours.http.delete("/mcp", headers=ours.headers)
        await call
        await room.gate._runner.write_unrecorded()
        assert await tool.outcome() == ("cancelled", "caller_withdrew")


@pytest.mark.parametrize(
    "message",
    [
        {"id": 9},
        {"jsonrpc": "1.0"},
        {"method": "notifications/progress"},
        {"params": {"requestId": True}},
        {"params": {"requestId": None}},
        {"params": []},
    ],
    ids=str,
)
async def test_what_is_no_cancellation_cancels_nothing(message: dict[str, Any]) -> None:
    async with opened() as room, session(room) as ours:
        tool = Hanging(room)
        call = asyncio.create_task(ours.call())
        await tool.started.wait()
        cancellation = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        await ours.post({**cancellation, **message})
        tool.go_on.set()
        assert (await call).json()["result"]["content"] == [TEXT]


async def test_who_hangs_up_has_not_cancelled_its_call() -> None:
    async with opened() as room, session(room) as ours:
        tool = Hanging(room)
        call = asyncio.create_task(ours.call())
        await tool.started.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        again = await ours.call()
        assert (again.status_code, again.json()["error"]["message"]) == (
            400,
            "A request with this id is being served in this session",
        )
        tool.go_on.set()
        assert await tool.outcome() == ("ok", "ok")


async def test_what_a_server_logs_meanwhile_comes_before_the_answer_on_its_stream() -> None:
    async with opened(ping_every_s=0.01) as room, session(room) as ours:
        tool = Hanging(room)
        headers, body = ROWS[0].sent({}, ours.headers)
        async with ours.http.stream("POST", "/mcp", headers=headers, content=body) as answer:
            lines = (line async for line in answer.aiter_lines() if line.startswith("data: "))
            await tool.peers[0].notify("notifications/message", {"level": "info", "data": "boiling"})
            told = json.loads((await anext(lines))[6:])
            tool.go_on.set()
            last = json.loads((await anext(lines))[6:])
        await tool.peers[0].notify("notifications/message", {"level": "info", "data": "late"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["mcp-session-id"] == ours.headers["Mcp-Session-Id"]
    assert (told["method"], told["params"]["data"]) == ("notifications/message", "boiling")
    assert (last["id"], last["result"]["content"]) == (1, [TEXT])


async def test_nothing_is_said_after_an_answer() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    reply = Reply(1, send)
    await reply.result({})
    before = list(sent)
    await reply.ping()
    await reply.tell("notifications/message", {})
    assert sent == before
