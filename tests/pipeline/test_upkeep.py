"""A member joins before its first call, closes what a dead one left open, looks after things and leaves."""

from __future__ import annotations

import asyncio

import pytest

from agentgate.core.containment import KillState
from agentgate.core.errors import LogBroken, LogUnavailable, ReasonCode
from agentgate.core.event import Event, Kind
from agentgate.ports.log import Appended
from tests.fakes import FakeEntropy, MemoryLog, a_call, a_kill
from tests.pipeline.conftest import House


async def _dies_with_a_call(log: MemoryLog) -> str:
    """A process that is killed between sending a call and recording its outcome; the call's trace id."""
    house = House(log=log)
    await house.membership.join(None)
    house.upstream.hold()
    call = a_call()
    task = asyncio.create_task(house.gate.pass_through(call))
    await house.upstream.started.wait()
    log.is_down = True
    task.cancel()
    await asyncio.wait([task])
    log.is_down = False
    return call.trace_id


def _reborn(log: MemoryLog, member: str) -> House:
    return House(log=log, member=member, entropy=FakeEntropy(), has_joined=False)


async def test_join_closes_the_open_intents_of_a_dead_member_as_unknown() -> None:
    log = MemoryLog(())
    trace_id = await _dies_with_a_call(log)
    assert await _reborn(log, "m-2").membership.join(None) == 1
    ends = log.of(Kind.FINISHED)
    assert [(end["trace_id"], end["outcome"], end["reason_code"]) for end in ends] == [
        (trace_id, "unknown", "outcome_unrecorded")
    ]
    assert await _reborn(log, "m-3").membership.join(None) == 0, "once"


async def test_join_says_that_the_dead_member_left_before_it_joins() -> None:
    log = MemoryLog(())
    await _dies_with_a_call(log)
    await _reborn(log, "m-2").membership.join(None)
    assert log.kinds() == ["joined", "decided", "finished", "left", "joined"]
    assert (log.of(Kind.LEFT)[0]["of"], log.of(Kind.LEFT)[0]["member"]) == ("m-1", "m-2")
    assert [row["member"] for row in await log.projection("members") if row["left_idx"] is None] == ["m-2"]


async def test_join_applies_the_kills_of_before_the_restart(house: House) -> None:
    house.kill_elsewhere(a_kill())
    fresh = _reborn(house.log, "m-2")
    await fresh.membership.join(None)
    assert fresh.admission.state == KillState(1, house.log.active)
    assert (await fresh.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED


async def test_join_without_the_log_is_no_start(house: House) -> None:
    house.log.is_down = True
    with pytest.raises(LogUnavailable):
        await house.membership.join(())


async def test_join_without_the_kill_store_starts_and_refuses(house: House) -> None:
    house.admission.is_down = True
    await house.membership.join(())
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    house.admission.is_down = False
    await house.beat()
    assert (await house.gate.pass_through(a_call())).success


async def test_an_outcome_that_the_log_took_after_all_keeps_no_other_back(house: House) -> None:
    """Its append failed after it was durable: that one is in the log once, and the next one is written as well."""

    def fail(event: Event) -> None:
        if event.kind is Kind.FINISHED:
            house.log.fail_next(persist=not house.log.of(Kind.FINISHED))

    house.log.on_append = fail
    answers = [await house.gate.pass_through(a_call()) for _ in range(2)]
    assert [answer.reason_code for answer in answers] == [ReasonCode.OUTCOME_UNRECORDED] * 2
    house.log.on_append = lambda _: None
    await house.upkeep.tick()
    assert [end["trace_id"] for end in house.log.of(Kind.FINISHED)] == [answer.call.trace_id for answer in answers]
    assert await house.runner.write_unrecorded() == 0


async def test_leave_is_the_last_event_of_a_member(house: House) -> None:
    await house.membership.join(())
    await house.gate.pass_through(a_call())
    await house.membership.leave(house.upkeep.last_words)
    assert house.log.kinds()[-1] == "left"
    assert house.log.of(Kind.LEFT)[0]["of"] == "m-1"


async def test_stop_writes_what_the_log_would_not_take_before(house: House) -> None:
    house.upstream.hold()
    task = asyncio.create_task(house.gate.pass_through(a_call()))
    await house.upstream.started.wait()
    house.log.is_down = True
    house.upstream.let_go()
    assert (await task).reason_code is ReasonCode.OUTCOME_UNRECORDED
    house.log.is_down = False
    await house.stop()
    assert house.log.kinds() == ["decided", "finished", "left"]


async def test_stop_closes_an_allow_in_doubt_as_what_it_is(house: House) -> None:
    """The next start would not know whether it was sent."""
    house.log.fail_next("append", persist=True)
    await house.gate.pass_through(a_call())
    house.log.is_down = True
    stopping = asyncio.create_task(house.stop())
    await asyncio.sleep(0.15)
    assert not stopping.done()
    house.log.is_down = False
    await stopping
    assert house.log.kinds() == ["decided", "finished", "left"]
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "not_sent"
    assert await house.beside("m-2").membership.join(None) == 0


async def test_what_a_cancelled_round_was_about_to_close_is_closed_by_the_stop(house: House) -> None:
    house.log.fail_next("append", persist=True)
    await house.gate.pass_through(a_call())
    tick = asyncio.create_task(house.upkeep.tick())
    await asyncio.sleep(0)
    assert house.recorder.take_orphans() == {}
    tick.cancel()
    await asyncio.wait([tick])
    await house.stop()
    assert [end["outcome"] for end in house.log.of(Kind.FINISHED)] == ["not_sent"]


async def test_stop_does_not_wait_for_a_log_that_is_broken(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.log.fail_next("append", persist=True)
    await house.gate.pass_through(a_call())

    async def broken() -> None:
        raise LogBroken("told to be")

    monkeypatch.setattr(house.log, "settled", broken)
    async with asyncio.timeout(1):
        await house.stop()
    assert house.log.kinds() == ["decided"]


async def test_leave_without_the_log_does_not_raise(house: House) -> None:
    house.log.is_down = True
    await house.membership.leave(house.upkeep.last_words)
    assert house.log.kinds() == []


async def test_tick_without_the_log_does_not_raise_and_loses_nothing(house: House) -> None:
    house.log.fail_next("append", persist=True)
    await house.gate.pass_through(a_call())
    house.log.is_down = True
    await house.upkeep.tick()
    house.log.is_down = False
    await house.upkeep.tick()
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "not_sent"


async def test_orphan_whose_closing_fails_is_tried_again(house: House) -> None:
    house.log.fail_next("append", persist=True)
    await house.gate.pass_through(a_call())
    house.log.fail_next("append")
    await house.upkeep.tick()
    assert house.log.of(Kind.FINISHED) == []
    await house.upkeep.tick()
    assert len(house.log.of(Kind.FINISHED)) == 1


async def test_allow_that_lands_long_after_its_call_was_refused_is_closed(house: House) -> None:
    """A disk that hangs: the log is read meanwhile, and what it is going to have is not in it yet."""
    late: list[Event] = []

    def hang(event: Event) -> None:
        late.append(event)
        raise LogUnavailable("not known to be durable")

    house.log.on_append = hang
    house.log.is_settled = False
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.LOG_UNAVAILABLE
    house.log.on_append = lambda _: None
    await house.upkeep.tick()
    house.log.append_now(late[0])
    house.log.is_settled = True
    await house.upkeep.tick()
    assert [(end["outcome"], end["trace_id"]) for end in house.log.of(Kind.FINISHED)] == [
        ("not_sent", late[0].fields["trace_id"])
    ]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_outcome_of_a_call_that_is_withdrawn_while_it_is_recorded_is_in_the_log_once(
    house: House, is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for its append any more, to hear that it failed."""
    recording = asyncio.Event()

    async def stutter(event: Event) -> Appended:
        if not is_lost:
            house.log.append_now(event)
        recording.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = await house.running()
    with monkeypatch.context() as patched:
        patched.setattr(house.log, "append", stutter)
        house.upstream.let_go()
        await recording.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    for is_down in (True, False, False):
        house.log.is_down = is_down
        await house.upkeep.tick()
    assert [(end["outcome"], "of" in end) for end in house.log.of(Kind.FINISHED)] == [("ok", False)]
    assert await house.log.open_intents() == []


@pytest.mark.parametrize("untried", [False, True])
async def test_only_an_allow_that_may_be_durable_is_looked_for(house: House, untried: bool) -> None:
    """While the log refuses everything at once there is nothing to remember of any number of calls."""

    def refuse(_: Event) -> None:
        error = LogUnavailable("told to fail")
        error.untried = untried
        raise error

    house.log.on_append = refuse
    await house.gate.pass_through(a_call())
    assert len(house.recorder.take_orphans()) == (0 if untried else 1)


async def test_tick_leaves_calls_that_are_running_open(house: House) -> None:
    house.upstream.hold()
    task = asyncio.create_task(house.gate.pass_through(a_call()))
    await house.upstream.started.wait()
    await house.upkeep.tick()
    assert house.log.of(Kind.FINISHED) == []
    house.upstream.let_go()
    assert (await task).success


async def test_heartbeat_takes_over_a_kill_that_nobody_announced(house: House) -> None:
    """The log's position is read once a second: a missed wake-up costs a second, not a containment."""
    house.upstream.hold()
    task = asyncio.create_task(house.gate.pass_through(a_call()))
    await house.upstream.started.wait()
    house.kill_elsewhere(a_kill())
    await house.beat()
    assert (await task).reason_code is ReasonCode.KILLED


async def test_heartbeat_puts_an_emptied_fast_path_right(house: House) -> None:
    house.admission.state = None
    await house.beat()
    assert (await house.gate.pass_through(a_call())).success


async def test_upkeep_of_a_quiet_gateway_writes_nothing(house: House) -> None:
    written: list[Event] = []
    house.log.on_append = written.append
    for _ in range(10):
        house.clock.move(1)
        await house.beat()
        await house.upkeep.tick()
    assert written == []
