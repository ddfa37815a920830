"""A caller's share of the sessions with an MCP server: nobody holds them all, with clients or with parked calls."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.upstreams.mcp import McpUpstream
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Delivered, Undelivered
from tests.adapters.upstreams.mcp_world import FakePeer, World, grant_of, script, until, world

CAN = {"elicitation": {}}
QUESTION = {"method": "elicitation/create", "params": {"message": "who?"}}


async def call(
    w: World, name: str, peer: FakePeer, arguments: Mapping[str, Any] | None = None, **whose: str | None
) -> Delivered | Undelivered:
    return await w.upstream.send(grant_of(w.tool(name), arguments or {}, peer, **whose), None)


async def park(w: World, **whose: str) -> Delivered | Undelivered:
    """A call that its server asks something about, from a client that answers in its next request."""
    return await call(w, "ask", FakePeer(capabilities=CAN), QUESTION, **whose)


async def process_of(w: World, key: str, agent: str) -> int:
    """The server's process of a client's session."""
    answer = await call(w, "spawn", FakePeer(session_key=key), agent=agent)
    assert isinstance(answer, Delivered)
    return int(answer.value["structuredContent"]["own"])


@asynccontextmanager
async def busy(w: World, *keys: str, agent: str) -> AsyncIterator[None]:
    """Clients with sessions, in each of which a call goes on."""
    peers = [FakePeer(session_key=key) for key in keys]
    running = [asyncio.create_task(call(w, "endless", peer, agent=agent)) for peer in peers]
    try:
        for peer in peers:
            await asyncio.wait_for(peer.heard.wait(), 10)
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def is_refused(answer: Delivered | Undelivered) -> bool:
    """As one who has what it may have, before anything was sent."""
    if isinstance(answer, Delivered):
        return False
    assert (answer.reason, answer.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, False)
    return "this caller has as many sessions" in answer.detail


async def test_a_caller_whose_clients_hold_its_share_is_refused_and_others_get_a_session() -> None:
    async with world(McpUpstream("s", command=script(), max_sessions=3)) as w, busy(w, "a", "b", agent="greedy"):
        assert is_refused(await call(w, "echo", FakePeer(session_key="c"), agent="greedy"))
        assert isinstance(await call(w, "echo", FakePeer(session_key="d"), agent="other"), Delivered)


async def test_a_caller_whose_parked_calls_hold_its_share_is_refused_until_one_is_answered() -> None:
    async with world(McpUpstream("s", command=script(), max_sessions=2)) as w:
        asked = await park(w, agent="greedy")
        assert isinstance(asked, Delivered)
        assert is_refused(await park(w, agent="greedy"))
        assert isinstance(await park(w, agent="other"), Delivered)
        extra = {"inputResponses": {"q1": {"action": "accept"}}, "requestState": asked.value["requestState"]}
        answered = await call(w, "ask", FakePeer(capabilities=CAN, extra=extra), QUESTION, agent="greedy")
        assert isinstance(answered, Delivered)
        assert isinstance(await park(w, agent="greedy"), Delivered)


async def test_clients_and_parked_calls_count_together() -> None:
    upstream = McpUpstream("s", command=script(), max_sessions=10, max_sessions_per_caller=2)
    async with world(upstream) as w, busy(w, "a", agent="greedy"):
        assert isinstance(await park(w, agent="greedy"), Delivered)
        assert is_refused(await park(w, agent="greedy"))
        assert is_refused(await call(w, "echo", FakePeer(session_key="b"), agent="greedy"))


async def test_a_killed_callers_parked_calls_give_its_share_back() -> None:
    async with world(McpUpstream("s", command=script(), max_sessions=2)) as w:
        assert isinstance(await park(w, agent="greedy"), Delivered)
        w.upstream.drop(lambda one: one.agent == "greedy")
        async with asyncio.timeout(10):
            while is_refused(await park(w, agent="greedy")):  # noqa: ASYNC110 - nothing tells when it has ended
                await asyncio.sleep(0.005)


async def test_a_call_that_is_cut_while_the_list_is_read_gives_its_session_back() -> None:
    async with world(McpUpstream("s", command=script(), max_sessions=1, recheck_s=0.1)) as w:
        lent = await call(w, "spawn", FakePeer(capabilities=CAN))
        assert isinstance(lent, Delivered)
        os.kill(lent.value["structuredContent"]["own"], signal.SIGSTOP)
        await asyncio.sleep(0.1)  # it is time to read the list again, which now takes for ever
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await call(w, "echo", FakePeer(capabilities=CAN))
        assert isinstance(await park(w), Delivered)


async def test_a_session_that_has_ended_by_itself_makes_place_before_one_that_stands() -> None:
    """Its client may not call for hours, and so not notice."""
    async with world(McpUpstream("s", command=script(), max_sessions=2)) as w:
        stands = await process_of(w, "a", "one")
        assert isinstance(await call(w, "die", FakePeer(session_key="b"), agent="two"), Undelivered)
        assert isinstance(await call(w, "echo", FakePeer(session_key="c"), agent="three"), Delivered)
        assert await process_of(w, "a", "one") == stands


async def test_a_server_that_ends_while_a_session_is_lent_is_down_for_that_call(tmp_path: Path) -> None:
    """Its next process ends the first one, and itself: no session can be lent, and the shared one is gone meanwhile."""
    again, first = tmp_path / "again", tmp_path / "first"
    ends = f"if [ -e {again} ]; then kill -9 $(cat {first}); sleep 0.5; exit 1; fi"
    command = ["sh", "-c", f'{ends}; echo $$ > {first}; exec "$@"', "sh", *script()]
    async with world(McpUpstream("s", command=command)) as w:
        tool = w.tool("ask")
        again.touch()
        answer = await w.upstream.send(grant_of(tool, QUESTION, FakePeer(capabilities=CAN)), None)
        assert isinstance(answer, Undelivered)
        assert (answer.reason, answer.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, False)
        assert "the server is down" in answer.detail


async def test_one_name_in_two_tenants_is_two_callers() -> None:
    async with world(McpUpstream("s", command=script(), max_sessions=2)) as w:
        assert isinstance(await park(w, agent="bot", tenant="acme"), Delivered)
        assert is_refused(await park(w, agent="bot", tenant="acme"))
        assert isinstance(await park(w, agent="bot", tenant="umbrella"), Delivered)


async def test_a_session_that_was_lent_for_one_user_is_no_other_users_and_all_are_of_one_share() -> None:
    async with world(McpUpstream("s", command=script(), max_sessions=4)) as w:
        can = FakePeer(capabilities=CAN)

        async def lent(user: str | None) -> int:
            answer = await call(w, "spawn", can, user=user)
            assert isinstance(answer, Delivered)
            return int(answer.value["structuredContent"]["own"])

        first = await lent("ann")
        assert await lent("ann") == first
        assert len({first, await lent("ben")}) == 2
        assert await lent("ann") == first
        assert await lent(None) != first, "and one of the two made place"
        assert len(vars(w.upstream)["_sessions"]._idle) == 2


async def test_who_has_its_share_gives_up_a_quiet_session_of_its_own_and_nobody_elses() -> None:
    upstream = McpUpstream("s", command=script(), max_sessions=10, max_sessions_per_caller=1)
    async with world(upstream) as w:
        others = await process_of(w, "b", "other")
        first = await process_of(w, "a1", "busy")
        second = await process_of(w, "a2", "busy")
        await until(lambda: not _is_alive(first))
        assert (_is_alive(second), _is_alive(others)) == (True, True)


async def test_a_client_is_awaited_once_however_often_its_session_is_opened_anew() -> None:
    upstream = McpUpstream("s", command=script(), max_sessions_per_caller=1)
    async with world(upstream) as w:
        client = FakePeer(session_key="a1")
        for _ in range(3):
            await process_of(w, "a2", "busy")
            answer = await call(w, "spawn", client, agent="busy")
            assert isinstance(answer, Delivered)
        (end,) = client.enders
        await end()
        await until(lambda: not _is_alive(int(answer.value["structuredContent"]["own"])))
        assert isinstance(await call(w, "spawn", client, agent="busy"), Delivered)
        assert len(client.enders) == 2


@pytest.mark.parametrize("share", [0, -1, 5])
def test_a_share_is_one_session_at_least_and_all_of_them_at_most(share: int) -> None:
    with pytest.raises(ValueError, match="max_sessions_per_caller must be from 1 to max_sessions"):
        McpUpstream("s", command=script(), max_sessions=4, max_sessions_per_caller=share)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_only_calls_in_a_session_of_one_clients_are_guarded_by_what_the_others_are() -> None:
    """What a server says in one that all share is told with no call but its own."""
    async with world(McpUpstream("s", command=script())) as w:
        first, second, other, alone = (FakePeer(session_key=key) for key in ("a", "a", "b", None))
        for peer in (first, second, other, alone):
            assert isinstance(await call(w, "echo", peer), Delivered)
    assert first.shared is not None
    assert first.shared is second.shared
    assert other.shared is not None
    assert other.shared is not first.shared
    assert alone.shared is None
