"""The `mcp` upstream against a server written with the SDK, over both transports and in both eras."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.upstreams.mcp import McpUpstream
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Delivered, Undelivered
from tests.adapters.upstreams.mcp_world import FakePeer, World, world
from tests.contracts.upstream import UpstreamContract

SERVER = Path(__file__).with_name("mcp_sdk_server.py")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVER), str(port)])
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


@pytest.fixture
async def http(url: str) -> AsyncIterator[World]:
    async with world(McpUpstream("s", url=url), lists=2) as found:  # the second comes when it is listened to
        yield found


def old(key: str = "k", **answers: Any) -> FakePeer:
    """A client of the era of sessions."""
    can = {"elicitation": {}, "roots": {}, "sampling": {}}
    return FakePeer(session_key=key, capabilities=can, answers={k.replace("_", "/"): v for k, v in answers.items()})


class TestHttpKeepsTheContract(UpstreamContract):
    @pytest.fixture
    def upstream(self, http: World) -> McpUpstream:
        return http.upstream

    @pytest.fixture
    def good(self, http: World) -> Grant:
        return http.grant("count")

    @pytest.fixture
    def bad(self, http: World) -> Grant:
        return http.grant("fail")

    @pytest.fixture
    def endless(self, http: World) -> Grant:
        return http.grant("hang")

    def is_of_the_service(self, task: asyncio.Task[Any]) -> bool:
        """The session's own, not the call's: the SDK has a task for each message on its way, and closes a cancelled
        call's stream in one, a moment after the call has ended."""
        return task.get_name().startswith("mcp.")


@pytest.mark.parametrize("peer", [FakePeer, old])
async def test_progress_logs_results_and_errors_pass_in_both_eras(http: World, peer: Any) -> None:
    one = peer()
    if one.session_key is None:
        one.meta = {"io.modelcontextprotocol/logLevel": "info"}
    answer = await http.call("count", {}, one)
    assert isinstance(answer, Delivered)
    assert answer.value["structuredContent"] == {"n": 3}
    assert "io.modelcontextprotocol/serverInfo" not in answer.value.get("_meta", {})
    assert sorted(one.reports) == [(1, 3, None), (2, 3, None), (3, 3, None)]
    assert [params["data"] for _, params in one.notes] == ["counted"]
    failed = await http.call("fail", {}, peer())
    assert failed.fault == {"code": -32050, "message": "it failed", "data": {"why": "asked to"}}


@pytest.mark.parametrize("peer", [FakePeer, old])
async def test_a_cancelled_call_is_cancelled_there_in_both_eras(http: World, peer: Any) -> None:
    before = len((await http.content("log_of"))["log"])
    call = asyncio.create_task(http.call("hang", {}, one := peer()))
    await asyncio.wait_for(one.heard.wait(), 5)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    async with asyncio.timeout(5):
        while len((await http.content("log_of"))["log"]) == before:  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.01)


async def test_questions_are_asked_in_the_era_of_each_client(http: World) -> None:
    legacy = old(elicitation_create={"action": "decline"})
    assert await http.content("ask_user", {}, legacy) == {"action": "decline"}
    modern = FakePeer(capabilities={"elicitation": {"form": {}}})
    asked = await http.call("ask_user", {}, modern)
    assert asked.value["resultType"] == "input_required"
    extra = {"inputResponses": {"a": {"action": "cancel"}}, "requestState": asked.value["requestState"]}
    again = FakePeer(capabilities={"elicitation": {"form": {}}}, extra=extra)
    assert await http.content("ask_user", {}, again) == {"action": "cancel"}


async def test_roots_come_from_the_client_whose_session_it_is(http: World) -> None:
    peers = [old(name, roots_list={"roots": [{"uri": f"file:///{name}"}]}) for name in ("one", "two")]
    found = await asyncio.gather(*(http.content("ask_roots", {}, peer) for peer in peers))
    assert found == [{"roots": ["file:///one"]}, {"roots": ["file:///two"]}]


async def test_operations_are_answered_in_both_eras(http: World) -> None:
    for peer in (None, FakePeer(), old()):
        listed = await http.operate("resources/list", {}, peer)
        assert listed.value["resources"][0]["uri"] == "test://a"
        read = await http.operate("resources/read", {"uri": "test://a"}, peer)
        assert read.value["contents"][0]["text"] == "read"
        got = await http.operate("prompts/get", {"name": "p", "arguments": {"a": "b"}}, peer)
        assert "{'a': 'b'}" in got.value["messages"][0]["content"]["text"]
    refused = await http.operate("completion/complete", {})
    assert isinstance(refused, Undelivered)
    assert refused.reason is ReasonCode.UPSTREAM_ERROR


async def test_a_new_tool_is_heard_of(http: World) -> None:
    count = len(http.hearing.listings[-1].tools)
    await http.call("grow")
    await http.hearing.until(lambda: len(http.hearing.listings[-1].tools) == count + 1)


async def test_the_same_server_on_stdio() -> None:
    async with world(McpUpstream("s", command=[sys.executable, str(SERVER)])) as w:
        assert w.upstream.state().protocol == "2026-07-28"
        assert await w.content("count", {}, FakePeer()) == {"n": 3}
        assert await w.content("ask_user", {}, old(elicitation_create={"action": "accept"})) == {"action": "accept"}
