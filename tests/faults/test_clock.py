"""A clock that is set forward or back, or differs from the next member's.

Wall time is in records, and it ends what was given for a time: kills, approvals, keys. Nothing else is judged by it:
leases and silence count boot time, and what came first is what the log has first. These are houses on fake ports
(`tests/pipeline/conftest.py`), because a clock of one process cannot be set.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agentgate.core.containment import Scope
from agentgate.core.decision import Ruling
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Kind, Outcome
from agentgate.pipeline.containment.control import Rules
from agentgate.pipeline.containment.drains import Drain
from agentgate.pipeline.containment.orders import Order
from tests.fakes import ADMIN, FakeClock, a_call
from tests.pipeline.conftest import FlagStore, House

HOUR_S = 3_600
SET = pytest.mark.parametrize("by_s", [-HOUR_S, HOUR_S, -50 * 365 * 24 * HOUR_S], ids=["back", "forward", "to 1976"])


@pytest.fixture
def house() -> House:
    return House(admission=FlagStore(), rules=Rules(drain_timeout_s=0.1))


def set_by(clock: FakeClock, seconds: float) -> None:
    """Somebody sets the wall clock: boot time goes on as it did."""
    clock.moment += timedelta(seconds=seconds)


async def killed(house: House, session: str = "s-1", **order: Any) -> Drain:
    drain = await house.containment.kill(ADMIN, Order(scope=Scope.SESSION, target=session, **order))
    assert isinstance(drain, Drain), drain
    return drain


@SET
async def test_a_clock_that_is_set_changes_nothing_for_calls_and_kills(house: House, by_s: float) -> None:
    drain = await killed(house)
    running = await house.running(session="s-2")
    set_by(house.clock, by_s)
    await house.beat()
    await house.upkeep.tick()
    assert drain.kill.id in house.replica.state.active
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    assert house.replica.may_grant(), "the lease counts boot time"
    assert not running.done()
    second = await killed(house, "s-2")
    assert second.is_drained
    assert (await running).outcome is Outcome.CANCELLED
    assert all(ack.took_ms >= 0 for ack in second.acks.values())
    assert second.kill.position > drain.kill.position, "their order is the log's"
    house.upstream.let_go()
    assert (await house.gate.pass_through(a_call(session="s-3"))).success


@SET
async def test_an_outcome_is_recorded_with_its_call_whatever_the_clock_says_meanwhile(
    house: House, by_s: float
) -> None:
    running = await house.running()
    set_by(house.clock, by_s)
    house.upstream.let_go()
    assert (await running).success
    (decided,), (finished,) = house.log.of(Kind.DECIDED), house.log.of(Kind.FINISHED)
    assert decided["trace_id"] == finished["trace_id"]
    assert all(part >= 0 for part in finished["latency_us"].values())


async def test_a_clock_that_leapt_ahead_for_a_moment_keeps_nobody_from_dropping_answers(house: House) -> None:
    ten_years_s = 10 * 365 * 24 * HOUR_S
    set_by(house.clock, ten_years_s)
    await house.upkeep.tick()
    set_by(house.clock, -ten_years_s)
    assert (await house.gate.pass_through(replace(a_call(), idempotency_key="k-1"))).success
    house.clock.move(2 * HOUR_S)
    await house.upkeep.tick()
    assert house.log.rows("answers") == []
    house.log.is_down = True
    house.clock.move(2 * HOUR_S)
    with pytest.raises(LogUnavailable):
        await house.answers.recount()


async def test_a_kill_lives_longer_on_a_clock_that_goes_back_and_ends_by_its_event_alone(house: House) -> None:
    drain = await killed(house, expires_in_s=60)
    set_by(house.clock, -HOUR_S)
    house.clock.move(61)
    await house.upkeep.tick()
    assert drain.kill.id in house.replica.state.active
    house.clock.move(HOUR_S)
    await house.upkeep.tick()
    assert drain.kill.id not in house.replica.state.active
    set_by(house.clock, -HOUR_S)
    await house.upkeep.tick()
    assert [event["why"] for event in house.log.of(Kind.RELEASED)] == ["expiry"]
    assert (await house.gate.pass_through(a_call())).success, "what has expired is released, and stays it"


async def test_a_kill_with_an_expiry_ends_early_on_a_clock_that_goes_forward_and_no_other_does(house: House) -> None:
    """And only once it has drained: a clock cuts no waiting short."""
    short, long = await killed(house, expires_in_s=60), await killed(house, "s-2")
    house.log.is_shared = True
    silent = await house.another("m-2")
    house.admission.listeners.remove(silent.replica.woken)
    undrained = await killed(house, "s-3", expires_in_s=60)
    assert not undrained.is_drained
    set_by(house.clock, HOUR_S)
    await house.upkeep.tick()
    assert set(house.replica.state.active) == {long.kill.id, undrained.kill.id}
    assert house.log.of(Kind.RELEASED)[0]["kill_id"] == short.kill.id


async def test_an_expired_approval_stays_expired_on_a_clock_that_goes_back(house: House) -> None:
    """Its expiry is an event, written within a second; the arguments that it was about are gone with it."""
    house.engine.answer = lambda asked: Ruling({"action": "REQUIRE_APPROVAL", "reason": "a write"}, "sha256:1")
    asked = await house.gate.pass_through(a_call())
    assert asked.approval is not None
    house.clock.move(901)
    await house.upkeep.tick()
    set_by(house.clock, -HOUR_S)
    (row,) = house.log.rows("approvals")
    assert (row["state"], row["sealed"]) == ("expired", None)
    again = await house.gate.pass_through(a_call())
    assert again.reason_code is ReasonCode.APPROVAL_REQUIRED
    assert again.approval is not None
    assert again.approval.id != asked.approval.id


async def test_members_whose_clocks_differ_drain_kills_and_give_nobody_up(house: House) -> None:
    """No time of one member is compared with another's: silence is counted by who listens, from when it listened."""
    ahead = await _with_a_clock_of_its_own(house, "m-2", ahead_s=HOUR_S)
    await house.membership.join(())
    for _ in range(5):
        for one in (house, ahead):
            one.clock.move(1)
            await one.beat()
    drain = await killed(house)
    assert drain.is_drained
    assert set(drain.acks) == {"m-1", "m-2"}
    assert house.log.of(Kind.GONE) == []
    assert (await ahead.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED


async def _with_a_clock_of_its_own(house: House, member: str, *, ahead_s: float) -> House:
    house.log.is_shared = True
    clock = FakeClock()
    set_by(clock, ahead_s)
    clock.ticks = 10**15  # its machine has run for longer, too
    other = House(
        log=house.log, admission=house.admission, entropy=house.entropy, clock=clock, member=member, has_joined=False
    )
    await other.membership.join(())
    await asyncio.sleep(0)
    return other
