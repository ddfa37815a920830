"""The composition root's own duties."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from agentgate import settings
from agentgate.app import running
from agentgate.core.event import Kind, Outcome
from tests.fakes import FakeUpstream, a_call


async def test_a_gateway_whose_upkeep_dies_takes_no_more_calls_and_ends(tmp_path: Path) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with running(settings.load({"AGENTGATE_DATA_DIR": str(tmp_path / "data")})) as gateway:

        async def dies() -> None:
            raise ZeroDivisionError

        upkeep = asyncio.create_task(dies())
        upkeep.add_done_callback(gateway.stop_unless_asked)
        await asyncio.wait_for(told.wait(), 5)
        assert gateway.gate.closing
        with pytest.raises(ZeroDivisionError):
            await upkeep
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def test_a_gateway_that_ends_cuts_what_runs_and_says_last_that_nothing_does(tmp_path: Path) -> None:
    config = settings.load({"AGENTGATE_DATA_DIR": str(tmp_path / "data")})
    upstream = FakeUpstream()
    upstream.hold()
    async with running(config, upstreams={"demo": upstream}) as gateway:
        running_call = asyncio.create_task(gateway.gate.pass_through(a_call(arguments={"query": "SELECT 1"})))
        await asyncio.wait_for(upstream.started.wait(), 5)
    answer = await asyncio.wait_for(running_call, 5)
    assert (answer.outcome, upstream.cancelled) == (Outcome.CANCELLED, 1)
    async with running(config) as gateway:
        kinds = [record.kind async for record in gateway.log.records()]
        assert [row["left_idx"] is None for row in await gateway.log.projection("members")] == [False, True]
    assert kinds[kinds.index(Kind.LEFT) - 1 :] == [Kind.FINISHED, Kind.LEFT, Kind.JOINED, Kind.POLICY]
