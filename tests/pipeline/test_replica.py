"""What a process knows of kills: applied in order, cut at once, and never less than the log says."""

from __future__ import annotations

import asyncio

import pytest

from agentgate.core.containment import KillChange, KillChanges, KillState, Scope
from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode
from agentgate.pipeline.containment.flights import Cutting, Flight
from tests.fakes import MemoryLog, a_call, a_kill, principal
from tests.pipeline.conftest import House, a_moment, ended, given


def _enter(house: House, session: str = "s-1") -> Flight:
    task = asyncio.current_task()
    assert task is not None
    return house.replica.enter(a_call(session=session), task)


async def test_older_state_changes_nothing(house: House) -> None:
    kill = a_kill(position=2)
    house.replica.advance(KillChanges(0, 2, (KillChange(kill),)))
    house.replica.advance(KillChanges(0, 1))
    house.replica.advance(KillChanges(-1, 1))
    assert (house.replica.position, list(house.replica.state.active)) == (2, [kill.id])


async def test_same_position_twice_is_once(house: House) -> None:
    kill = a_kill(position=1)
    flight = _enter(house)
    cuttings: list[Cutting] = []
    house.replica.on_kills = cuttings.append
    house.replica.advance(given(kill))
    house.replica.advance(given(kill))
    assert [cutting.flights for cutting in cuttings] == [[flight]]
    assert flight.kill is kill


async def test_kill_cuts_only_what_it_covers(house: House) -> None:
    covered, other = _enter(house), _enter(house, "s-2")
    house.replica.advance(given(a_kill(position=1)))
    assert (covered.is_cut(), other.is_cut()) == (True, False)


async def test_call_that_enters_under_a_kill_is_cut_from_its_start(house: House) -> None:
    house.replica.advance(given(a_kill(position=1)))
    assert _enter(house).is_cut()
    assert not _enter(house, "s-2").is_cut()
    house.replica.advance(ended(a_kill(position=1), 2))
    assert not _enter(house).is_cut()


async def test_first_kill_on_a_call_is_the_one_that_is_named(house: House) -> None:
    flight = _enter(house)
    one, two = a_kill(position=1), a_kill(Scope.AGENT, "bot", position=2)
    house.replica.advance(given(one))
    house.replica.advance(given(two))
    assert flight.kill is one


async def test_cutting_has_left_when_the_last_of_its_flights_has(house: House) -> None:
    flights = [_enter(house) for _ in range(3)]
    bystander = _enter(house, "s-2")
    house.replica.advance(given(a_kill(position=1)))
    waiting = asyncio.create_task(house.replica.left(1))
    for flight in flights:
        await asyncio.sleep(0)
        assert not waiting.done()
        house.replica.leave(flight)
    await waiting
    house.replica.leave(bystander)


async def test_of_two_calls_with_one_trace_each_is_cut_and_waited_for(house: House) -> None:
    """A deferred call has the trace of the request that asked for it, which may not have ended yet."""
    call, task = a_call(), asyncio.current_task()
    assert task is not None
    asking, made, cut = (house.replica.enter(call, task) for _ in range(3))
    gone = asyncio.create_task(house.replica.gone(call.trace_id))
    house.replica.leave(asking)
    assert house.replica.running(a_kill()) == [call.trace_id] * 2
    house.replica.advance(given(a_kill(position=1)))
    assert (asking.is_cut(), made.is_cut(), cut.is_cut()) == (False, True, True)
    waiting = asyncio.create_task(house.replica.left(1))
    house.replica.leave(cut)
    await a_moment()
    assert not waiting.done()
    assert not gone.done()
    house.replica.leave(made)
    await asyncio.gather(waiting, gone)


async def test_cutting_of_nothing_has_left_at_once(house: House) -> None:
    house.replica.advance(given(a_kill(position=1)))
    await house.replica.left(1)


async def test_cutting_that_nobody_waits_for_is_forgotten(house: House) -> None:
    """A catch-up cuts without waiting; its flights must not be kept for ever."""
    flight = _enter(house)
    house.replica.advance(given(a_kill(position=1)))
    assert len(vars(house.replica)["_cuttings"]) == 1
    house.replica.leave(flight)
    assert vars(house.replica)["_cuttings"] == []


async def test_one_step_never_goes_back_and_never_jumps(house: House) -> None:
    house.replica.advance(KillChanges(0, 5))
    for change in (given(a_kill(position=3)), ended(a_kill(position=1), 3), given(a_kill(position=7))):
        house.replica.advance(change)
        assert house.replica.state == KillState(5, {})
    assert house.replica.is_next(6)
    assert not house.replica.is_next(7)
    assert not house.replica.is_next(5)


async def test_catch_up_applies_the_log_here_and_to_the_fast_path(house: House) -> None:
    kill = house.kill_elsewhere(a_kill())
    flight = _enter(house)
    await house.replica.catch_up()
    assert flight.is_cut()
    assert house.admission.state == house.replica.state == KillState(1, house.log.active)
    assert list(house.replica.state.active) == [kill.id]


async def test_catch_up_that_cannot_read_raises_and_changes_nothing(house: House) -> None:
    house.log.is_down = True
    with pytest.raises(LogUnavailable):
        await house.replica.catch_up()
    assert house.replica.position == 0


async def test_position_that_a_third_read_brings_is_reached_and_then_nobody_is_asked(house: House) -> None:
    house.kill_elsewhere(a_kill())
    late = iter([KillChanges(0, 0)] * 2)

    async def kills_since(position: int) -> KillChanges:
        return next(late, None) or await MemoryLog.kills_since(house.log, position)

    house.log.kills_since = kills_since  # type: ignore[method-assign]
    await house.replica.reach(1)
    assert house.replica.position == 1
    house.log.is_down = True
    await house.replica.reach(1)
    with pytest.raises(LogUnavailable):
        await house.replica.reach(2)
    house.log.is_down = False
    with pytest.raises(KillStateUnknown, match="^the log is older than the kill store$"):
        await house.replica.reach(2)


async def test_catch_up_that_cannot_tell_the_fast_path_has_cut_all_the_same(house: House) -> None:
    house.kill_elsewhere(a_kill())
    house.admission.is_down = True
    flight = _enter(house)
    with pytest.raises(KillStateUnknown):
        await house.replica.catch_up()
    assert flight.is_cut()
    assert house.replica.position == 1


async def test_callers_share_one_catch_up_and_a_cancelled_one_does_not_end_it(house: House) -> None:
    house.kill_elsewhere(a_kill())
    impatient = asyncio.create_task(house.replica.catch_up())
    others = [asyncio.create_task(house.replica.catch_up()) for _ in range(3)]
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(*others)
    assert house.replica.position == 1


async def test_who_joins_a_repair_that_fails_hears_of_it(house: House) -> None:
    """It would take the kills that it knows for all that there are."""
    house.log.is_down = True
    house.replica.repair_soon()
    with pytest.raises(LogUnavailable):
        await house.replica.catch_up()


@pytest.mark.parametrize(("failure", "told"), [(RuntimeError("a fault"), 1), (LogUnavailable("down"), 0)], ids=repr)
async def test_of_a_repair_that_nobody_waits_for_the_loop_tells_what_is_no_outage(
    house: House, failure: Exception, told: int
) -> None:
    async def kills_since(position: int) -> KillChanges:
        raise failure

    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["exception"]))
    house.log.kills_since = kills_since  # type: ignore[method-assign]
    house.replica.repair_soon()
    await a_moment()
    assert heard == [failure] * told


async def test_repair_tries_again_after_a_failure(house: House) -> None:
    house.admission.state = None
    house.log.is_down = True
    house.replica.repair_soon()
    await a_moment()
    house.log.is_down = False
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    await a_moment()
    assert (await house.gate.pass_through(a_call())).success


async def test_flights_are_known_while_they_fly(house: House) -> None:
    house.upstream.hold()
    call = a_call(caller=principal("bot"))
    task = asyncio.create_task(house.gate.pass_through(call))
    await house.upstream.started.wait()
    assert [flight.call for flight in house.replica.flights()] == [call]
    assert house.replica.running(a_kill()) == [call.trace_id]
    assert house.replica.running(a_kill(target="another")) == []
    house.upstream.let_go()
    await task
    assert not list(house.replica.flights())
    assert house.replica.running(a_kill()) == []
