"""Who looks for approvals that nothing can be done with any more, when, and what a look closes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agentgate.core.approval import State
from agentgate.core.call import Tool
from agentgate.core.containment import Scope
from agentgate.core.event import Kind
from agentgate.pipeline.approvals.voids import Voids
from tests.fakes import TOOL, a_call, a_kill
from tests.pipeline.conftest import House, a_moment, until
from tests.pipeline.test_approvals import asked_for


@asynccontextmanager
async def _looking(house: House, *, is_wanted: bool = True) -> AsyncIterator[None]:
    looking = asyncio.create_task(house.voids.look_after(lambda: is_wanted))
    yield
    assert not looking.done()
    looking.cancel()
    await asyncio.wait([looking])


def _never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgate.pipeline.approvals.voids._EVERY_S", 60)


async def test_a_kill_that_was_applied_has_all_looked_at_at_once_also_after_the_log_was_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    _never_by_itself(monkeypatch)
    for session in ("s-1", "s-2"):
        await asked_for(house, a_call(session=session))
    async with _looking(house):
        house.kill_elsewhere(a_kill())
        house.log.is_down = True
        house.voids.stir()
        await a_moment()
        house.log.is_down = False
        await a_moment()
        assert house.log.of(Kind.APPROVAL_CLOSED) == [], "one stir is one look"
        house.voids.stir()
        await until(lambda: house.log.of(Kind.APPROVAL_CLOSED))
    assert [row["state"] for row in house.log.rows("approvals")] == [State.VOID, State.PENDING]


async def test_all_are_looked_at_every_now_and_then(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgate.pipeline.approvals.voids._EVERY_S", 0.001)
    await asked_for(house)
    house.kill_elsewhere(a_kill())
    async with _looking(house):
        await until(lambda: house.log.of(Kind.APPROVAL_CLOSED))


async def test_who_is_not_to_look_closes_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    _never_by_itself(monkeypatch)
    await asked_for(house)
    house.kill_elsewhere(a_kill())
    async with _looking(house, is_wanted=False):
        house.voids.stir()
        await a_moment()
    assert house.log.of(Kind.APPROVAL_CLOSED) == []


@pytest.mark.parametrize(("is_shared", "settles_s"), [(False, 0.5), (True, 5.0)])
async def test_a_change_counts_once_it_has_lasted_and_longer_where_others_may_roll_it_out(
    house: House, *, is_shared: bool, settles_s: float
) -> None:
    voids = Voids(house.approvals, house.circumstances, house.clock, is_shared=is_shared)
    for session in ("s-1", "s-2"):
        await asked_for(house, a_call(session=session))
    house.engine.enforced = "sha256:another"
    assert await voids.sweep() == 0
    house.clock.move(settles_s - 0.01)
    assert await voids.sweep() == 0
    house.clock.move(0.01)
    assert await voids.sweep() == 2


async def test_what_is_over_is_not_remembered(house: House) -> None:
    assert await house.voids.sweep() == 0
    await asked_for(house, a_call(session="s-1"))
    house.engine.enforced = "sha256:another"
    await house.voids.sweep()
    house.clock.move(0.5)
    assert await house.voids.sweep() == 1
    await asked_for(house, a_call(session="s-2"))
    await house.voids.sweep()
    assert vars(house.voids)["_otherwise"].keys() <= {row["id"] for row in house.log.rows("approvals")[1:]}


@pytest.mark.parametrize("tool", [None, replace(TOOL, upstream="elsewhere")])
async def test_a_kill_of_the_server_that_it_was_asked_for_ends_it_wherever_its_tool_is_by_now(
    house: House, tool: Tool | None
) -> None:
    await asked_for(house)
    del house.tools[TOOL.name]
    house.tools |= {TOOL.name: tool} if tool is not None else {}
    house.kill_elsewhere(a_kill(Scope.SERVER, "demo"))
    assert await house.voids.sweep() == 1
    assert house.log.of(Kind.APPROVAL_CLOSED)[0]["why"] == "killed"
