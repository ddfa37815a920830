"""Servers on stdio that lie, flood and fall silent: none of it is raised, and all of it is bounded."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentgate.adapters.upstreams._mcp.stdio import Lines, LongLine
from agentgate.adapters.upstreams.mcp import McpUpstream
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Credential, Delivered, Undelivered
from tests.adapters.upstreams.mcp_script import NAMES
from tests.adapters.upstreams.mcp_world import FakePeer, Hearing, World, down, script, until, world


@pytest.fixture
async def server() -> AsyncIterator[World]:
    async with world(McpUpstream("s", command=script(), max_response_bytes=10_000)) as found:
        yield found


@pytest.mark.parametrize(
    ("kind", "words"), [("circle", "in circles"), ("endless", "100 pages"), ("huge", "longer than 5000 tools")]
)
async def test_a_list_without_end_is_no_list(kind: str, words: str) -> None:
    upstream = McpUpstream("s", command=script("--list", kind))
    async with world(upstream, lists=0) as w:
        await down(upstream)
        assert words in upstream.state().detail
        assert w.hearing.listings == []


async def test_what_has_no_name_is_left_out_and_what_is_no_tool_or_shares_a_name_is_told() -> None:
    """The audience has to hear that an accepted tool is not what it was."""
    async with world(McpUpstream("s", command=script("--list", "odd"))) as w:
        told = ("no_schema", "twice", "twice", "n", "big")
        assert tuple(tool["name"] for tool in w.hearing.listings[0].tools) == NAMES + told
        assert isinstance(await w.call("echo"), Delivered)


async def test_a_list_that_is_none_is_empty() -> None:
    async with world(McpUpstream("s", command=script("--list", "no_list"))) as w:
        assert w.hearing.listings[0].tools == ()


@pytest.mark.parametrize(
    "line",
    [
        '{"jsonrpc":"2.0","id":$ID,"result":7}',
        '{"jsonrpc":"2.0","id":$ID,"result":[1]}',
        '{"jsonrpc":"2.0","id":$ID,"result":{"a":1,"a":2}}',
        '{"jsonrpc":"2.0","id":$ID,"result":{"a":NaN}}',
        '{"jsonrpc":"2.0","id":$ID,"result":{"a":12345678901234567890}}',
        '{"jsonrpc":"2.0","id":$ID,"result":{"a":"\\ud800"}}',
        '{"jsonrpc":"2.0","id":$ID,"result":{"a":' + "[" * 80 + "]" * 80 + "}}",
        '{"jsonrpc":"2.0","id":$ID,"result":' + "[" * 4000,
        '{"jsonrpc":"2.0","id":$ID,"error":"no"}',
        '{"jsonrpc":"2.0","id":$ID,"error":{"code":"x","message":1}}',
        '{"jsonrpc":"1.0","id":$ID,"result":{}}',
        '{"result":{"a":' + '"' + "\x00" + '"},"id":$ID}',
    ],
)
async def test_an_answer_that_is_none_is_an_error_of_that_call_alone(server: World, line: str) -> None:
    answer = await server.call("raw", {"lines": [line]})
    assert isinstance(answer, Undelivered)
    assert (answer.reason, answer.reached, answer.fault) == (ReasonCode.UPSTREAM_ERROR, True, None)
    assert isinstance(await server.call("echo"), Delivered)


async def test_lines_that_are_nothing_are_passed_over(server: World) -> None:
    lines = [
        "",
        "{",
        "words",
        "[]",
        "[{}]",
        "7",
        "null",
        '{"jsonrpc":"2.0"}',
        '{"jsonrpc":"2.0","id":99999,"result":{}}',
    ]
    lines.append('{"jsonrpc":"2.0","id":true,"method":"roots/list"}')
    lines.append('{"jsonrpc":"2.0","method":"notifications/message","params":7}')
    lines.append('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[1]}}')
    lines.append('{"jsonrpc":"2.0","id":$ID,"result":{"is":"here"}}')
    assert await server.call("raw", {"lines": lines}) == Delivered({"is": "here"})


async def test_too_large_an_answer_is_not_read_and_costs_only_its_call(server: World) -> None:
    other = asyncio.create_task(server.call("endless", {}, peer := FakePeer()))
    await asyncio.wait_for(peer.heard.wait(), 5)
    answer = await server.call("big", {"size": 200_000})
    assert isinstance(answer, Undelivered)
    assert answer.reason is ReasonCode.UPSTREAM_TOO_LARGE
    assert not other.done()
    assert isinstance(await server.call("big", {"size": 2_000}), Delivered)
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


async def test_a_line_without_end_costs_the_server_its_connection(server: World) -> None:
    answer = await server.call("slow_line")
    assert isinstance(answer, Undelivered)
    assert (answer.reason, answer.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, True)
    await server.hearing.until(lambda: len(server.hearing.listings) == 2)


def test_a_long_line_leaves_its_ends_and_the_next_one_whole() -> None:
    lines = Lines(1_000)
    first, second = [item for chunk in (b"a" * 900, b"b" * 5_000, b"c\nnext\nrest") for item in lines.feed(chunk)]
    assert isinstance(first, LongLine)
    assert (first.head[:3], first.tail[-2:], first.size) == (b"aaa", b"bc", 5_901)
    assert len(first.head) <= 512
    assert second == b"next"


async def test_a_flood_of_words_does_not_keep_an_answer_back(server: World) -> None:
    flood = [
        '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":$ID,"progress":1}}',
        '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}',
        '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}',
        '{"jsonrpc":"2.0","id":"f","method":"elicitation/create","params":{}}',
    ] * 500
    peer = _Stuck(session_key="k", capabilities={"elicitation": {}})
    answer = await server.call("raw", {"lines": [*flood, '{"jsonrpc":"2.0","id":$ID,"result":{}}']}, peer)
    assert answer == Delivered({})
    assert peer.most <= 256 + 64 + 32


async def test_a_server_that_stops_reading_is_cut_off_and_its_calls_still_end(server: World) -> None:
    hanging = [asyncio.create_task(server.call("slow_line", {"much": "x" * 300_000})) for _ in range(3)]
    await asyncio.sleep(0.05)  # lets them fill the pipe; nothing says when it is full
    for task in hanging:
        task.cancel()
    async with asyncio.timeout(0.5):
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_questions_without_end_are_answered_for_a_few_rounds_only() -> None:
    async with world(McpUpstream("s", command=script("--modern"))) as w:
        peer = FakePeer(session_key="k", capabilities={"elicitation": {}}, answers={"elicitation/create": {}})
        request = {"method": "elicitation/create", "params": {}}
        more = {"resultType": "input_required", "inputRequests": {"a": request}, "requestState": "s"}
        line = json.dumps({"jsonrpc": "2.0", "id": "ID", "result": more}).replace('"ID"', "$ID")
        answer = await w.call("raw", {"lines": [line]}, peer)
        assert isinstance(answer, Undelivered)
        assert answer.reason is ReasonCode.UPSTREAM_ERROR
        assert len(peer.questions) == 10


@pytest.mark.parametrize(
    "result",
    [
        {"inputRequests": 7},
        {"inputRequests": {"a": 7}},
        {"inputRequests": {"a": {"params": {}}}},
        {"inputRequests": {}, "requestState": 7},
        {"inputRequests": {str(n): {"method": "elicitation/create"} for n in range(100)}},
        {"inputRequests": {"a": {"method": "unheard/of"}}},
    ],
)
async def test_questions_that_are_none_end_the_call(result: dict[str, Any]) -> None:
    async with world(McpUpstream("s", command=script("--modern"))) as w:
        peer = FakePeer(session_key="k", capabilities={"elicitation": {}}, answers={"elicitation/create": {}})
        message = {"jsonrpc": "2.0", "id": "ID", "result": {"resultType": "input_required"} | result}
        answer = await w.call("raw", {"lines": [json.dumps(message).replace('"ID"', "$ID")]}, peer)
        assert isinstance(answer, Undelivered)
        assert answer.reason is ReasonCode.UPSTREAM_ERROR
        assert peer.questions in ([], [("unheard/of", {})])


async def test_words_that_are_no_strict_json_reach_nobody(server: World) -> None:
    peer = FakePeer(session_key="k", capabilities={"roots": {}})
    lines = [
        '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1e400}}',
        '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":12345678901234567890}}',
        '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":$ID,"progress":1e999}}',
        '{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":7}}',
        '{"jsonrpc":"2.0","id":"r","method":"roots/list","params":{"n":12345678901234567890}}',
        '{"jsonrpc":"2.0","id":$ID,"result":{}}',
    ]
    assert await server.call("raw", {"lines": lines}, peer) == Delivered({})
    assert peer.notes == peer.announced == peer.reports == peer.questions == []


async def test_a_clients_answer_that_cannot_be_written_harms_nobody(server: World) -> None:
    peer = FakePeer(session_key="k", capabilities={"roots": {}}, answers={"roots/list": {"x": "\ud800"}})
    content = await server.content("ask", {"method": "roots/list"}, peer)
    assert content["error"]["code"] == -32603


async def test_a_server_without_sessions_cannot_ask_in_the_middle_of_a_call() -> None:
    async with world(McpUpstream("s", command=script("--modern"))) as w:
        peer = FakePeer(session_key="k", capabilities={"roots": {}}, answers={"roots/list": {"roots": []}})
        content = await w.content("ask", {"method": "roots/list"}, peer)
        assert content["error"]["code"] == -32601
        assert peer.questions == []


async def test_a_busy_server_that_cannot_list_keeps_its_call() -> None:
    upstream = McpUpstream("s", command=script(), recheck_s=0.05, connect_timeout_s=0.3)
    async with world(upstream) as w:
        answer = await w.call("nap", {"s": 0.8})
        assert isinstance(answer, Delivered)
        assert w.upstream.state().is_up


async def test_what_a_child_writes_to_stderr_is_in_our_log_at_debug_and_short(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="agentgate.mcp.stdio"):
        async with world(McpUpstream("s", command=script())) as w:
            await w.call("shout")
            await until(lambda: any("plain words" in record.message for record in caplog.records))
    assert max(len(record.message) for record in caplog.records) < 600


async def test_a_child_cannot_write_its_credential_into_our_log(caplog: pytest.LogCaptureFixture) -> None:
    async def credential() -> Credential:
        return Credential("a", "s3cret-of-a-child")

    words = "import os, sys; sys.stderr.write('no access with ' + os.environ['KEY'] + chr(10)); sys.stdin.read()"
    inject = {"kind": "env", "name": "KEY"}
    upstream = McpUpstream("s", command=[sys.executable, "-c", words], inject=inject, credential=credential)
    with caplog.at_level(logging.DEBUG):
        running = asyncio.create_task(upstream.run(Hearing()))
        await until(lambda: any("no access with" in record.message for record in caplog.records))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await upstream.aclose()
    assert "s3cret-of-a-child" not in caplog.text


class _Stuck(FakePeer):
    """A client whose connection takes nothing more."""

    most = 0
    _waiting = 0

    async def _wait(self) -> None:
        self._waiting += 1
        self.most = max(self.most, self._waiting)
        await asyncio.Event().wait()

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        await self._wait()

    async def notify(self, method: str, params: Any) -> None:
        await self._wait()

    async def announce(self, method: str, params: Any) -> None:
        await self._wait()

    async def ask(self, method: str, params: Any) -> Any:
        await self._wait()
