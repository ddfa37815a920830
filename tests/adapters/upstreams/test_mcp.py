"""The `mcp` upstream against servers on stdio, of both eras: what goes through, and what does not."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.upstreams._mcp.listening import Listening, Wanted
from agentgate.adapters.upstreams.mcp import McpUpstream
from agentgate.core.call import Call
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Credential, Delivered, Undelivered
from tests.adapters.upstreams.mcp_world import FakePeer, World, down, grant_of, script, until, world
from tests.contracts.upstream import UpstreamContract, make_tool
from tests.gateway import is_alive

ERAS = pytest.mark.parametrize("era", ["--legacy", "--modern"])


@pytest.fixture
async def legacy() -> AsyncIterator[World]:
    async with world(McpUpstream("s", command=script())) as found:
        yield found


@pytest.fixture
async def modern() -> AsyncIterator[World]:
    async with world(McpUpstream("s", command=script("--modern"))) as found:
        yield found


class _Contract(UpstreamContract):
    era = "--legacy"

    @pytest.fixture
    async def alive(self) -> AsyncIterator[World]:
        async with world(McpUpstream("s", command=script(self.era))) as found:
            yield found

    @pytest.fixture
    def upstream(self, alive: World) -> McpUpstream:
        return alive.upstream

    @pytest.fixture
    def good(self, alive: World) -> Grant:
        return alive.grant("echo", {"a": 1})

    @pytest.fixture
    def bad(self, alive: World) -> Grant:
        return alive.grant("bad")

    @pytest.fixture
    def endless(self, alive: World) -> Grant:
        return alive.grant("endless")


class TestLegacyKeepsTheContract(_Contract):
    pass


class TestModernKeepsTheContract(_Contract):
    era = "--modern"


# --- what goes through ------------------------------------------------------------------------------------


@ERAS
async def test_arguments_and_trace_go_as_they_are_and_no_other_meta(era: str) -> None:
    """Policy and the log see arguments; what else a client says would be a way around them."""
    async with world(McpUpstream("s", command=script(era))) as w:
        peer = FakePeer(
            meta={"com.example/x": 1, "io.modelcontextprotocol/clientInfo": {"name": "agent"}, "progressToken": 9}
        )
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        answer = await w.upstream.send(grant_of(w.tool("echo"), {"a": [1, {"b": None}]}, peer, traceparent=trace), None)
        assert isinstance(answer, Delivered)
        content = answer.value["structuredContent"]
        assert content["arguments"] == {"a": [1, {"b": None}]}
        assert "com.example/x" not in content["meta"]
        assert content["meta"]["traceparent"] == trace
        assert content["meta"]["progressToken"] != 9
        assert content["meta"].get("io.modelcontextprotocol/clientInfo", {}).get("name") in (None, "agentgate")


@ERAS
async def test_meta_that_was_decided_on_goes_on(era: str) -> None:
    async with world(McpUpstream("s", command=script(era))) as w:
        context = {"mcp": {"meta": {"com.example/x": [1]}}}
        answer = await w.upstream.send(grant_of(w.tool("echo"), {}, FakePeer(), context=context), None)
        assert isinstance(answer, Delivered)
        assert answer.value["structuredContent"]["meta"]["com.example/x"] == [1]


async def test_a_legacy_server_gets_no_members_of_the_modern_era(legacy: World) -> None:
    peer = FakePeer(
        extra={"inputResponses": {}, "requestState": "x"}, meta={"io.modelcontextprotocol/logLevel": "info"}
    )
    content = await legacy.content("echo", {}, peer)
    assert content["params"] == ["_meta", "arguments", "name"]
    assert set(content["meta"]) == {"progressToken"}


async def test_a_modern_server_hears_what_the_client_can_do(modern: World) -> None:
    can = {"elicitation": {"form": {}}, "extensions": {"io.modelcontextprotocol/tasks": {}}}
    content = await modern.content("echo", {}, FakePeer(capabilities=can, extra={"requestState": "x", "other": 1}))
    assert content["meta"]["io.modelcontextprotocol/clientCapabilities"] == {"elicitation": {"form": {}}}
    assert content["params"] == ["_meta", "arguments", "name", "requestState"]
    assert (await modern.content("echo"))["meta"]["io.modelcontextprotocol/clientCapabilities"] == {}


async def test_the_result_comes_raw_but_for_the_servers_stamp(modern: World) -> None:
    answer = await modern.call("structured", {"content": {"n": "text", "more": [1]}})
    assert answer == Delivered(
        {
            "resultType": "complete",
            "content": [{"type": "text", "text": ""}],
            "structuredContent": {"n": "text", "more": [1]},
            "_meta": {"kept": 1},
        }
    )


@ERAS
async def test_progress_reaches_the_client_that_waits(era: str) -> None:
    async with world(McpUpstream("s", command=script(era))) as w:
        peer = FakePeer()
        await w.call("progress", {}, peer)
        assert sorted(peer.reports) == [(1, 3, None), (2, 3, None), (3, 3, None)]


async def test_a_log_message_goes_to_the_only_call_it_can_be_about(legacy: World) -> None:
    peer = FakePeer()
    await legacy.call("log", {}, peer)
    assert peer.notes == [("notifications/message", {"level": "info", "data": "a word"})]


async def test_a_log_message_that_may_be_about_another_callers_call_reaches_nobody(legacy: World) -> None:
    other, peer = FakePeer(), FakePeer()
    running = asyncio.create_task(legacy.call("endless", {}, other))
    await asyncio.wait_for(other.heard.wait(), 5)
    await legacy.call("log", {}, peer)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert peer.notes == other.notes == []


@ERAS
async def test_a_cancelled_call_is_cancelled_at_the_server(era: str) -> None:
    async with world(McpUpstream("s", command=script(era))) as w:
        peer = FakePeer()
        running = asyncio.create_task(w.call("endless", {}, peer))
        await asyncio.wait_for(peer.heard.wait(), 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        (call,) = [message for message in await w.seen("tools/call") if message["params"]["name"] == "endless"]
        (cancelled,) = await w.seen("notifications/cancelled")
        assert cancelled["params"]["requestId"] == call["id"]


async def test_an_error_of_the_server_is_passed_on_whole(legacy: World) -> None:
    answer = await legacy.call("bad")
    assert isinstance(answer, Undelivered)
    assert (answer.reason, answer.reached) == (ReasonCode.UPSTREAM_ERROR, True)
    assert answer.fault == {"code": -32001, "message": "no such thing", "data": {"hint": 1}}


async def test_operations_ask_with_the_calls_arguments(legacy: World) -> None:
    assert await legacy.operate("resources/read", {"uri": "test://a"}) == Delivered(
        {"contents": [{"uri": "test://a", "text": "read"}]}
    )
    assert await legacy.operate("logging/setLevel", {"level": "info"}) == Delivered({})


async def test_what_a_server_did_not_declare_it_is_not_asked(legacy: World) -> None:
    answer = await legacy.operate("completion/complete", {"ref": {}, "argument": {}})
    assert isinstance(answer, Undelivered)
    assert (answer.reached, (answer.fault or {})["code"]) == (False, -32601)
    assert await legacy.seen("completion/complete") == []


# --- sessions of clients ------------------------------------------------------------------------------------


async def test_a_client_with_a_session_has_its_own_process(legacy: World) -> None:
    one, two = FakePeer(session_key="one"), FakePeer(session_key="two")
    pids = [(await legacy.content("spawn", {}, peer))["own"] for peer in (one, one, two, None)]
    assert pids[0] == pids[1]
    assert len(set(pids)) == 3
    for end in one.enders:
        await end()
    await _gone(pids[0])
    assert is_alive(pids[2])


async def test_only_declared_capabilities_are_mirrored(legacy: World) -> None:
    can = {"sampling": {}, "roots": {"listChanged": True}, "experimental": {"x": {}}}
    peer = FakePeer(session_key="k", capabilities=can)
    (first,) = await legacy.seen("initialize", peer)
    assert first["params"]["capabilities"] == {"sampling": {}, "roots": {"listChanged": True}}
    (shared,) = await legacy.seen("initialize")
    assert shared["params"]["capabilities"] == {}


async def test_a_question_goes_to_the_client_and_its_answer_back(legacy: World) -> None:
    answers = {"sampling/createMessage": {"role": "assistant", "content": {"type": "odd"}, "model": "m"}}
    peer = FakePeer(session_key="k", capabilities={"sampling": {}}, answers=answers)
    content = await legacy.content("ask", {"method": "sampling/createMessage", "params": {"odd": 1}}, peer)
    assert content["result"] == answers["sampling/createMessage"]
    assert peer.questions == [("sampling/createMessage", {"odd": 1})]


@pytest.mark.parametrize(
    ("peer", "method", "code"),
    [
        (lambda: FakePeer(session_key="k", capabilities={"roots": {}}), "sampling/createMessage", -32601),
        (lambda: FakePeer(session_key="k", capabilities={"roots": {}}), "roots/list", -32099),
        (lambda: FakePeer(session_key="k"), "tools/call", -32601),
        (lambda: None, "elicitation/create", -32601),
    ],
)
async def test_a_question_that_nobody_can_answer_is_an_error(legacy: World, peer: Any, method: str, code: int) -> None:
    content = await legacy.content("ask", {"method": method}, peer())
    assert content["error"]["code"] == code


async def test_a_ping_is_answered(legacy: World) -> None:
    assert (await legacy.content("ask", {"method": "ping"}))["result"] == {}


async def test_a_clients_session_hears_of_changes_itself(legacy: World) -> None:
    peer = FakePeer(session_key="k")
    await legacy.call("shout", {"methods": ["notifications/resources/updated"]}, peer)
    await asyncio.wait_for(peer.heard.wait(), 5)
    assert peer.announced == [("notifications/resources/updated", {"uri": "test://a"})]
    assert legacy.hearing.changes == []


async def test_sessions_are_bounded_and_the_idle_ones_give_way() -> None:
    async with world(McpUpstream("s", command=script(), max_sessions=1)) as w:
        one, two = FakePeer(session_key="one"), FakePeer(session_key="two")
        first = (await w.content("spawn", {}, one))["own"]
        await w.content("echo", {}, two)
        await _gone(first)
        busy = asyncio.create_task(w.call("endless", {}, two))
        await asyncio.wait_for(two.heard.wait(), 5)
        refused = await w.call("echo", {}, one)
        assert isinstance(refused, Undelivered)
        assert (refused.reason, refused.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, False)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


async def test_a_server_without_sessions_asks_a_legacy_client_in_rounds(modern: World) -> None:
    peer = FakePeer(
        session_key="k", capabilities={"elicitation": {}}, answers={"elicitation/create": {"action": "accept"}}
    )
    content = await modern.content("input", {}, peer)
    assert content == {"given": {"a": {"action": "accept"}}, "state": "st"}
    assert peer.questions == [("elicitation/create", {"message": "who?"})]


async def test_a_modern_client_gets_the_question_as_a_result(modern: World) -> None:
    answer = await modern.call("input", {}, FakePeer(capabilities={"elicitation": {}}))
    assert answer.value["requestState"] == "st"
    again = FakePeer(capabilities={"elicitation": {}}, extra={"inputResponses": {"a": {}}, "requestState": "st"})
    assert await modern.content("input", {}, again) == {"given": {"a": {}}, "state": "st"}


async def test_a_server_of_both_eras_serves_each_client_in_its_own() -> None:
    async with world(McpUpstream("s", command=script("--both"))) as w:
        assert w.upstream.state().protocol == "2026-07-28"
        assert len(await w.seen("initialize", FakePeer(session_key="k"))) == 1
        assert await w.seen("initialize") == []


# --- questions in the middle of a call, for clients that answer in their next request -----------------------

QUESTION = {"method": "elicitation/create", "params": {"message": "who?"}}


async def test_a_parked_call_goes_on_with_the_answer(legacy: World) -> None:
    can = {"elicitation": {"form": {}}}
    asked = await legacy.call("ask", QUESTION, FakePeer(capabilities=can))
    assert isinstance(asked, Delivered)
    assert asked.value["resultType"] == "input_required"
    assert asked.value["inputRequests"] == {"q1": QUESTION}
    extra = {"inputResponses": {"q1": {"action": "accept"}}, "requestState": asked.value["requestState"]}
    content = await legacy.content("ask", QUESTION, FakePeer(capabilities=can, extra=extra))
    assert content["result"] == {"action": "accept"}
    again = await legacy.call("ask", QUESTION, FakePeer(capabilities=can, extra=extra))
    assert isinstance(again, Undelivered)
    assert (again.reached, (again.fault or {})["code"]) == (False, -32602)


async def test_nobody_else_and_no_other_call_answers_a_parked_one(legacy: World) -> None:
    can = {"elicitation": {}}
    asked = await legacy.call("ask", QUESTION, FakePeer(capabilities=can))
    extra = {"inputResponses": {"q1": {"action": "accept"}}, "requestState": asked.value["requestState"]}
    peer = FakePeer(capabilities=can, extra=extra)
    other_agent = grant_of(legacy.tool("ask"), QUESTION, peer, agent="other")
    other_arguments = grant_of(legacy.tool("ask"), QUESTION | {"more": 1}, peer)
    other_user = grant_of(legacy.tool("ask"), QUESTION, peer, user="ben")
    for wrong in (other_agent, other_arguments, other_user):
        assert isinstance(await legacy.upstream.send(wrong, None), Undelivered)
    assert isinstance(await legacy.call("ask", QUESTION, peer), Delivered)


async def test_a_parked_call_ends_with_the_tools_time(legacy: World) -> None:
    can = {"elicitation": {}}
    asked = await legacy.call("ask", QUESTION, FakePeer(capabilities=can), timeout_s=0.05)
    await asyncio.sleep(0.1)  # its time, which nothing tells the end of
    extra = {"inputResponses": {"q1": {}}, "requestState": asked.value["requestState"]}
    late = await legacy.call("ask", QUESTION, FakePeer(capabilities=can, extra=extra), timeout_s=0.05)
    assert isinstance(late, Undelivered)


async def test_calls_that_may_be_asked_do_not_share_a_session_while_they_run(legacy: World) -> None:
    peer = FakePeer(capabilities={"roots": {}})
    running = asyncio.create_task(legacy.call("endless", {}, peer))
    await asyncio.wait_for(peer.heard.wait(), 5)
    one = (await legacy.content("spawn", {}, FakePeer(capabilities={"roots": {}})))["own"]
    two = (await legacy.content("spawn", {}, FakePeer(capabilities={"roots": {}})))["own"]
    assert one == two  # one after the other they do
    assert [
        m
        for m in await legacy.seen("tools/call", FakePeer(capabilities={"roots": {}}))
        if m["params"]["name"] == "endless"
    ] == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# --- pins and lists -------------------------------------------------------------------------------------------


async def test_a_changed_tool_is_not_called(legacy: World) -> None:
    await legacy.call("change")
    answer = await legacy.call("echo")
    assert isinstance(answer, Undelivered)
    assert (answer.reason, answer.reached) == (ReasonCode.TOOL_QUARANTINED, False)
    await legacy.hearing.until(lambda: legacy.hearing.listings[-1].tools[0]["description"] == "does echo!")


async def test_a_change_that_is_not_announced_is_found_before_a_call() -> None:
    async with world(McpUpstream("s", command=script(), recheck_s=1e-9)) as w:
        await w.call("change", {"silently": True})
        answer = await w.call("echo")
        assert isinstance(answer, Undelivered)
        assert answer.reason is ReasonCode.TOOL_QUARANTINED


async def test_a_change_in_one_clients_session_stops_only_that_session(legacy: World) -> None:
    peer = FakePeer(session_key="k")
    await legacy.call("change", {}, peer)
    assert isinstance(await legacy.call("echo", {}, peer), Undelivered)
    assert isinstance(await legacy.call("echo"), Delivered)


async def test_the_audience_hears_again_what_a_refused_call_ran_into(legacy: World) -> None:
    before = len(legacy.hearing.listings)
    tool = legacy.tool("echo")
    wrong = tool.options | {"pin": "0" * 64}
    assert isinstance(await legacy.call("echo", options=wrong), Undelivered)
    await legacy.hearing.until(lambda: len(legacy.hearing.listings) > before)


@ERAS
async def test_changes_are_heard_from_the_shared_session(era: str) -> None:
    # a modern server speaks up once it is listened to, and then its list is read a second time
    async with world(McpUpstream("s", command=script(era)), lists=2 if era == "--modern" else 1) as w:
        await w.call("shout", {"methods": ["notifications/prompts/list_changed"]})
        await w.hearing.until(lambda: len(w.hearing.changes) == 1)
        assert w.hearing.changes == [("s", "notifications/prompts/list_changed", w.hearing.changes[0][2])]
        await w.call("change")
        await w.hearing.until(lambda: w.hearing.listings[-1].tools[0]["description"] == "does echo!")


@ERAS
async def test_the_first_subscribes_and_the_last_ends_it(era: str) -> None:
    async with world(McpUpstream("s", command=script(era))) as w:
        for agent in ("tester", "other"):
            assert await w.operate("resources/subscribe", {"uri": "test://a"}, agent=agent) == Delivered({})
        await w.operate("resources/unsubscribe", {"uri": "test://a"})
        await w.call("shout", {"methods": ["notifications/resources/updated"]})
        await w.hearing.until(lambda: len(w.hearing.changes) == 1)
        assert w.hearing.changes == [("s", "notifications/resources/updated", {"uri": "test://a"})]
        if era == "--legacy":
            assert len(await w.seen("resources/subscribe")) == 1
            await w.operate("resources/unsubscribe", {"uri": "test://a"}, agent="other")
            await _ended(w, "test://a")


async def test_nobody_is_told_of_a_subscription_that_the_server_has_not_agreed_to(legacy: World) -> None:
    uri = {"uri": "test://a"}
    napping = asyncio.create_task(legacy.call("nap", {"s": 0.5}))
    await asyncio.sleep(0.1)
    first, second = (
        asyncio.create_task(legacy.operate("resources/subscribe", uri, agent=agent)) for agent in ("cut", "kept")
    )
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.wait({first})
    assert not second.done()
    assert await second == Delivered({})
    await legacy.operate("resources/unsubscribe", uri, agent="kept")
    await _ended(legacy, "test://a")  # who was cut counts no more
    await legacy.operate("resources/subscribe", uri, agent="later")
    assert len(await legacy.seen("resources/subscribe")) == 3
    await napping


async def test_a_modern_server_is_not_listened_to_for_who_was_cut(modern: World) -> None:
    napping = asyncio.create_task(modern.call("nap", {"s": 0.5}))
    await asyncio.sleep(0.1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await modern.operate("resources/subscribe", {"uri": "test://a"})
    await napping
    await _given_up(modern, "test://a")


@pytest.mark.parametrize("is_modern", [True, False], ids=["with_its_stream", "with_its_session"])
async def test_what_a_client_subscribed_to_is_given_up(modern: World, *, is_modern: bool) -> None:
    """Nobody else would, and it counts for the caller."""
    leaves, stays = (FakePeer(session_key=key, is_modern=is_modern) for key in ("leaves", "stays"))
    for uri, peer in (("test://a", leaves), ("test://b", leaves), ("test://b", stays)):
        assert await modern.operate("resources/subscribe", {"uri": uri}, peer) == Delivered({})
    for end in leaves.enders:
        await end()
    await _given_up(modern, "test://a", stays=("test://b",))


async def test_an_older_server_is_told_what_nobody_waits_for_any_more(legacy: World) -> None:
    leaves, stays = (FakePeer(session_key=key, is_modern=True) for key in ("leaves", "stays"))
    for uri, peer in (("test://a", leaves), ("test://b", leaves), ("test://b", stays)):
        assert await legacy.operate("resources/subscribe", {"uri": uri}, peer) == Delivered({})
    for end in leaves.enders:
        await end()
    await _ended(legacy, "test://a")
    legacy.upstream.drop(lambda _: True)
    await _ended(legacy, "test://a", "test://b")


async def test_a_client_that_leaves_after_a_reconnect_leaves_nothing_behind(modern: World) -> None:
    """Neither what it subscribed to nor, on the list of what ends with it, the session that was lost."""
    client = FakePeer(session_key="stays", is_modern=True)
    lost = []
    for uri in ("test://a", "test://b", "test://c"):
        link = modern.upstream._shared.link
        assert link is not None
        lost.append(weakref.ref(link))
        assert await modern.operate("resources/subscribe", {"uri": uri}, client) == Delivered({})
        link.end()
        await until(lambda ended=link: modern.upstream._shared.link not in (None, ended))
        del link
    assert len(client.enders) == 1
    gc.collect()
    assert [link() for link in lost[:-1]] == [None, None]
    for end in client.enders:
        await end()
    assert not list(modern.upstream._wanted)
    await _given_up(modern, "test://a", "test://b", "test://c")


@pytest.mark.parametrize("peer", [FakePeer(), FakePeer(is_modern=False)], ids=["modern", "older"])
async def test_nothing_is_subscribed_to_for_who_could_not_hear_of_it(legacy: World, peer: FakePeer) -> None:
    """Nobody would say when that is over: a client of the handshake era whose gateway keeps no sessions."""
    answer = await legacy.operate("resources/subscribe", {"uri": "test://a"}, peer)
    assert isinstance(answer, Undelivered)
    assert not answer.reached
    assert await legacy.seen("resources/subscribe") == []


@pytest.mark.parametrize("listens", ["late", "never", "to_others"])
async def test_a_modern_server_that_does_not_agree_has_nobody_told_that_it_does(listens: str) -> None:
    upstream = McpUpstream("s", command=script("--modern", "--listens", listens), connect_timeout_s=1.0)
    async with world(upstream) as w:
        napping = asyncio.create_task(w.call("nap", {"s": 3 if listens == "late" else 0}))
        await asyncio.sleep(0.1)
        for agent in ("first", "second"):
            since = time.monotonic()
            answer = await w.operate("resources/subscribe", {"uri": "test://a"}, agent=agent)
            assert isinstance(answer, Undelivered), "nobody hears of it"
            assert time.monotonic() - since < (2.0 if listens == "late" else 0.9)
        assert not list(upstream._wanted)
        if listens == "to_others":
            assert await w.operate("resources/subscribe", {"uri": "test://other"}) == Delivered({})
        await napping


async def _ended(w: World, *uris: str) -> None:
    """Wait until an older server was told that nobody wants these any more."""
    async with asyncio.timeout(10):
        while [message["params"] for message in await w.seen("resources/unsubscribe")] != [  # noqa: ASYNC110
            {"uri": uri} for uri in uris
        ]:
            await asyncio.sleep(0.01)


async def _given_up(modern: World, *uris: str, stays: tuple[str, ...] = ()) -> None:
    """Wait until a server that was told of `uris` is told without them."""

    async def last_two() -> list[list[str]]:
        listens = (await modern.seen("subscriptions/listen"))[-2:]
        return [listen["params"]["notifications"].get("resourceSubscriptions", []) for listen in listens]

    async with asyncio.timeout(10):
        while await last_two() != [[*uris, *stays], [*stays]]:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_what_a_server_does_not_tell_of_again_it_is_asked_for_by_who_comes_next() -> None:
    class Refusing:
        is_modern = False

        def new_id(self) -> int:
            return 1

        async def request(self, *_: object) -> None:
            raise MCPError(INTERNAL_ERROR, "not yet")

    wanted = Wanted()
    wanted.add("test://a", grant_of(make_tool("s__echo"), {}, FakePeer(session_key="k")).call)
    listening = Listening(wanted, lambda: None)
    await listening.subscribe_again(cast("Any", Refusing()))
    assert not listening.tells_of("test://a")


async def test_nobody_ends_anothers_subscription_or_takes_all_there_are(legacy: World) -> None:
    uri = {"uri": "test://a"}
    await legacy.operate("resources/subscribe", uri)
    assert await legacy.operate("resources/unsubscribe", uri, agent="other") == Delivered({})
    assert await legacy.seen("resources/unsubscribe") == []
    answers = [await legacy.operate("resources/subscribe", {"uri": f"x://{n}"}, agent="greedy") for n in range(251)]
    assert [isinstance(answer, Undelivered) for answer in answers] == [False] * 250 + [True]
    assert await legacy.operate("resources/subscribe", {"uri": "x://250"}) == Delivered({})


async def test_of_who_subscribed_it_is_remembered_who_they_are_and_nothing_that_they_sent(legacy: World) -> None:
    await legacy.operate(
        "resources/subscribe", {"uri": "test://a"}, FakePeer(session_key="k", is_modern=True, meta={"large": "x"})
    )
    kept: list[Call] = []
    legacy.upstream.drop(lambda call: bool(kept.append(call)))
    assert [(one.agent, one.peer, one.arguments, one.context) for one in kept] == [("tester", None, {}, {})]


async def test_what_a_killed_caller_subscribed_to_is_forgotten(legacy: World) -> None:
    for agent in ("dead", "alive"):
        await legacy.operate("resources/subscribe", {"uri": "test://a"}, agent=agent)
    legacy.upstream.drop(lambda call: call.agent == "dead")
    await legacy.operate("resources/unsubscribe", {"uri": "test://a"}, agent="alive")
    await _ended(legacy, "test://a")  # the living was the last


async def test_a_killed_clients_session_with_the_server_ends_and_another_clients_does_not(legacy: World) -> None:
    one, two = FakePeer(session_key="one"), FakePeer(session_key="two")
    first, second = [(await legacy.content("spawn", {}, peer))["own"] for peer in (one, two)]
    legacy.upstream.drop(lambda call: call.peer is one)
    await _gone(first)
    assert (await legacy.content("spawn", {}, two))["own"] == second
    legacy.upstream.drop(lambda call: call.tool_name == "s__spawn")
    assert (await legacy.content("spawn", {}, two))["own"] == second, "a killed tool kills nobody who uses it"


async def test_what_a_killed_clients_session_lists_while_its_last_call_ends_is_still_one_clients_list(
    legacy: World,
) -> None:
    class Killed(FakePeer):
        async def progress(self, progress: float, total: float | None, message: str | None) -> None:
            legacy.upstream.drop(lambda call: call.peer is self)

    lines = [
        '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":$TOKEN,"progress":1}}',
        '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}',
    ]
    last = asyncio.create_task(legacy.call("raw", {"lines": lines}, Killed(session_key="one")))
    await legacy.hearing.until(lambda: len(legacy.hearing.listings) >= 3)
    last.cancel()
    await asyncio.wait({last})
    assert [listing.of_client for listing in legacy.hearing.listings] == [False, True, True]


async def test_words_after_a_withdrawn_call_reach_nobody(legacy: World) -> None:
    """It may go on at the server: what is said then could be about it, and belongs to no later caller."""
    withdrawn, later = FakePeer(), FakePeer()
    task = asyncio.create_task(legacy.call("endless", {}, withdrawn))
    await asyncio.wait_for(withdrawn.heard.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await legacy.call("log", {}, later)
    await legacy.call("echo", {}, later)
    assert later.notes == []


async def test_a_session_in_which_a_call_was_withdrawn_is_not_lent_again(legacy: World) -> None:
    can = {"elicitation": {"form": {}}}
    peer = FakePeer(capabilities=can)
    own = (await legacy.content("spawn", {}, peer))["own"]
    assert (await legacy.content("spawn", {}, peer))["own"] == own
    task = asyncio.create_task(legacy.call("endless", {}, peer))
    await asyncio.wait_for(peer.heard.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await legacy.content("spawn", {}, peer))["own"] != own


async def test_a_question_beside_any_call_is_not_answered(legacy: World) -> None:
    """Nothing was decided that an answer could be part of."""
    peer = FakePeer(session_key="k", capabilities={"roots": {}}, answers={"roots/list": {"roots": []}})
    late = ['{"jsonrpc":"2.0","id":$ID,"result":{"content":[]}}', '{"jsonrpc":"2.0","id":"q","method":"roots/list"}']
    await legacy.call("raw", {"lines": late, "pause_s": 0.1}, peer)
    await asyncio.sleep(1.3)  # for as long as it waits for a call that the question may be about
    assert peer.questions == []
    told = (await legacy.content("seen", {}, peer))["seen"]
    assert [one["error"]["code"] for one in told if one.get("id") == "q"] == [-32601]


async def test_a_list_in_pages_is_read_whole() -> None:
    async with world(McpUpstream("s", command=script("--list", "pages"))) as w:
        assert len(w.hearing.listings[0].tools) == 18
        assert isinstance(await w.call("structured", {"content": {}}), Delivered)


# --- the process --------------------------------------------------------------------------------------------


async def test_a_child_sees_only_what_was_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-somebody-else")
    upstream = McpUpstream("s", command=script(), env={"MODE": "test"}, cwd=str(tmp_path))
    async with world(upstream) as w:
        content = await w.content("env")
    assert set(content["env"]) - {"LC_CTYPE"} <= {"MODE", "PATH", "HOME", "LANG", "TMPDIR"}
    assert content["env"]["MODE"] == "test"
    assert content["cwd"] == str(tmp_path)


async def test_a_childs_credential_is_in_its_environment_and_nowhere_else() -> None:
    async def credential() -> Credential:
        return Credential("a", "sec-ret")

    inject = {"kind": "env", "name": "TOKEN"}
    async with world(McpUpstream("s", command=script(), inject=inject, credential=credential)) as w:
        assert (await w.content("env"))["env"]["TOKEN"] == "sec-ret"
        assert "sec-ret" not in repr(w.hearing.listings[0])


async def test_a_server_whose_credential_is_missing_stays_down() -> None:
    async def credential() -> None:
        return None

    inject = {"kind": "env", "name": "TOKEN"}
    upstream = McpUpstream("s", command=script(), inject=inject, credential=credential)
    async with world(upstream, lists=0):
        await down(upstream)
        assert "credential" in upstream.state().detail


async def test_closing_ends_grandchildren_too() -> None:
    async with world(McpUpstream("s", command=script())) as w:
        pids = await w.content("spawn")
        assert is_alive(pids["pid"])
    await _gone(pids["pid"])
    await _gone(pids["own"])


async def test_a_server_that_ignores_the_end_of_its_input_is_ended() -> None:
    async with world(McpUpstream("s", command=script("--stubborn"))) as w:
        pids = await w.content("spawn")
    await _gone(pids["own"])


async def test_a_lost_server_is_started_again(legacy: World) -> None:
    lost = await legacy.call("die")
    assert isinstance(lost, Undelivered)
    assert (lost.reason, lost.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, True)
    refused = await legacy.call("echo")
    assert isinstance(refused, Undelivered)
    assert (refused.reason, refused.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, False)
    assert not legacy.upstream.state().is_up
    await legacy.up_again()
    assert isinstance(await legacy.call("echo"), Delivered)


async def test_subscriptions_outlive_a_lost_server(legacy: World) -> None:
    await legacy.operate("resources/subscribe", {"uri": "test://a"})
    await legacy.call("die")
    await legacy.up_again()
    assert [m["params"] for m in await legacy.seen("resources/subscribe")] == [{"uri": "test://a"}]


QUOTES = """
import json, sys
for line in sys.stdin:
    answer = {"jsonrpc": "2.0", "id": json.loads(line).get("id"), "error": {"code": -32001, "message": "your s3cret"}}
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/nonexistent/server"], "command not found"),
        (["/etc"], "the command does not run: permission denied"),
        (["sh", "-c", "exit 7"], "it exited with status 7"),
        (["sh", "-c", "kill -9 $$"], "it was ended by SIGKILL"),
        (["/bin/echo", "no json"], "it exited with status 0"),
        (script("--mute"), "it timed out: no session within 0.3 s"),
        ([sys.executable, "-c", QUOTES], "the server answered with error -32001"),
        ([sys.executable, "-c", QUOTES.replace("error", "result")], "its answers make no sense (ValidationError)"),
    ],
)
async def test_a_server_that_is_none_is_down_and_operators_hear_why(
    command: list[str], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = McpUpstream("s", command=command, connect_timeout_s=0.3 if "timed out" in why else 10)
    async with world(upstream, lists=0) as w:
        await down(upstream)
        state = upstream.state()
        assert (state.is_up, state.detail.partition("; next try")[0]) == (False, why)
        await until(lambda: caplog.messages.count(f"s is down: {why}") == 1)
        answer = await upstream.send(grant_of(_operation(), {}, None), None)
        assert isinstance(answer, Undelivered)
        assert re.fullmatch(r"the server is down(; next try in [0-9.]+ s)?", answer.detail), "why is for operators"
        assert answer.reached is False
        assert w.hearing.listings == []


@pytest.mark.parametrize("name", ["none", "n" * 300])
async def test_a_folder_that_there_is_not_is_told_from_a_command_that_there_is_not(tmp_path: Path, name: str) -> None:
    upstream = McpUpstream("s", command=script(), cwd=str(tmp_path / name))
    async with world(upstream, lists=0):
        await down(upstream)
        assert upstream.state().detail.startswith("its cwd is no folder that it may be in; ")


async def test_a_server_that_ended_is_told_with_its_status(legacy: World, caplog: pytest.LogCaptureFixture) -> None:
    await legacy.call("die")
    await legacy.up_again()
    assert [said for said in caplog.messages if "is down" in said] == ["s is down: it exited with status 3"]


# --- answers that are checked -------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "fits"), [({"n": 1}, True), ({"n": "secret"}, False), ([], False)])
async def test_structured_answers_are_held_to_the_schema_where_asked(content: Any, fits: bool) -> None:
    async with world(McpUpstream("s", command=script(), check_output=True, schemas=JsonSchemas())) as w:
        answer = await w.call("structured", {"content": content})
    assert isinstance(answer, Delivered) is fits
    assert fits or (answer.reason is ReasonCode.UPSTREAM_ERROR and "secret" not in answer.detail)


async def test_that_answers_cannot_be_checked_is_learnt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refusing(_: JsonSchemas, schema: object) -> Any:
        asked.append(schema)
        raise ValueError("it is too long")

    monkeypatch.setattr(JsonSchemas, "compile", refusing)
    async with world(McpUpstream("s", command=script(), check_output=True, schemas=JsonSchemas())) as w:
        for _ in range(2):
            answer = await w.call("structured", {"content": {"n": 1}})
            assert isinstance(answer, Undelivered)
            assert (answer.detail, answer.reached) == (
                "the tool's outputSchema cannot be checked: it is too long",
                False,
            )
    assert len(asked) == 1


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"command": ["a"], "url": "https://a/mcp"},
        {"command": "a b"},
        {"command": []},
        {"command": [1]},
        {"url": "http://example.org/mcp"},
        {"url": "https://user@example.org/mcp"},
        {"url": "ftp://example.org"},
        {"url": "https://example.org/mcp", "env": {"A": "b"}},
        {"url": "https://example.org/mcp", "inject": {"kind": "query", "name": "k"}},
        {"url": "https://example.org/mcp", "inject": {"kind": "env", "name": "K"}},
        {"command": ["a"], "inject": {"kind": "bearer"}},
        {"command": ["a"], "inject": {"kind": "env", "name": "1=2"}},
        {"command": ["a"], "env": {"A=B": "c"}},
        {"command": ["a"], "env": {"A": 1}},
        {"command": ["a"], "check_output": True},
        {"command": ["a"], "recheck_s": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused_with_a_sentence(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        McpUpstream("s", **settings)


def test_a_credential_for_a_command_needs_a_variable() -> None:
    async def credential() -> None:
        return None

    with pytest.raises(ValueError, match="inject"):
        McpUpstream("s", command=["a"], credential=credential)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "initialize"},
        {"method": "tools/call"},
        {"tool": "t", "pin": "p"},
        {"tool": "t", "pin": "p", "definition": {}, "more": 1},
        {"tool": "", "pin": "p", "definition": {}},
        {"tool": "t", "pin": "", "definition": {}},
        {"tool": "t", "pin": "p", "definition": []},
    ],
)
def test_options_that_make_no_request_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        McpUpstream("s", command=["a"]).validate_options(options)


def _operation() -> Any:
    return make_tool("s__mcp.resources.list", options={"method": "resources/list"})


async def _gone(pid: int) -> None:
    await until(lambda: not is_alive(pid))
