"""Who is heard, who is given up, and what a member may do that cannot hear: leases, presumed gone, attested."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from agentgate.core.call import Call, Role
from agentgate.core.containment import KillChanges, KillState
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Event, Kind, Outcome
from agentgate.core.events.kills import acked, killed
from agentgate.core.members import Acknowledgement, Presence
from agentgate.core.projection.tables import Change
from agentgate.pipeline.containment.members import Member
from agentgate.ports.containment import Admitted, NotAdmitted, Quota
from tests.fakes import ADMIN, ALLOW, FakeAdmission, FakeClock, FakeUpstream, MemoryLog, a_call, a_kill, principal
from tests.pipeline.conftest import FlagStore, House, a_moment, given, until


@pytest.fixture
async def three() -> list[House]:
    first = House(admission=FlagStore())
    houses = [first, await first.another("m-2"), await first.another("m-3")]
    await _listen(1, *houses)
    for house in houses:
        await house.upkeep.tick()
    return houses


async def _listen(seconds: int, *houses: House) -> None:
    """So much time passes, in which these members hear and are heard once a second."""
    for _ in range(seconds):
        houses[0].clock.move(1)
        for house in houses:
            await house.beat()


def _paused(house: House) -> House:
    """A member whose process stands still: it hears nothing until the test lets it."""
    house.admission.listeners.remove(house.replica.woken)
    return house


async def _refused(house: House, member: str, actor: Any = ADMIN) -> ReasonCode:
    refused = await house.membership.attest(actor, member)
    assert isinstance(refused, Refused), refused
    return refused.reason


# --- presumed gone --------------------------------------------------------------------------------------------


async def test_member_that_was_not_heard_for_a_minute_is_declared_gone_once(three: list[House]) -> None:
    gone = _paused(three[2])
    await _listen(60, *three[:2])
    assert three[0].log.of(Kind.GONE) == []
    await _listen(2, *three[:2])
    events = three[0].log.of(Kind.GONE)
    assert [(event["of"], event["why"]) for event in events] == [("m-3", "presumed")]
    assert events[0]["member"] != gone.recorder.member
    shown = {member.id: member.presence for member in await three[1].membership.members()}
    assert shown == {"m-1": Presence.HERE, "m-2": Presence.HERE, "m-3": Presence.GONE}


async def test_listener_that_was_paused_itself_gives_nobody_up(three: list[House]) -> None:
    _paused(three[2])
    await _listen(30, *three[:2])
    for _ in range(10):
        three[0].clock.move(3600)
        await three[0].beat()
    assert three[0].log.of(Kind.GONE) == []
    assert (await three[0].membership.members())[2].silent_s == pytest.approx(30, abs=1)


async def test_member_that_is_heard_now_and_then_is_not_given_up(three: list[House]) -> None:
    for _ in range(4):
        await _listen(55, *three[:2])
        await three[2].beat()
    assert three[0].log.of(Kind.GONE) == []


async def test_log_that_was_away_for_long_makes_nobody_gone(three: list[House]) -> None:
    """Nobody could be heard, so nobody was silent."""
    _paused(three[2])
    await _listen(30, *three[:2])
    three[0].log.is_down = True
    await _listen(100, *three[:2])
    three[0].log.is_down = False
    await _listen(20, *three[:2])
    assert three[0].log.of(Kind.GONE) == []


async def test_open_calls_of_a_member_that_is_given_up_are_unknown(three: list[House]) -> None:
    running = await three[2].running()
    _paused(three[2])
    await _listen(62, *three[:2])
    (end,) = three[0].log.of(Kind.FINISHED)
    assert (end["outcome"], end["reason_code"]) == ("unknown", "outcome_unrecorded")
    three[2].upstream.let_go()
    await running
    assert [event["outcome"] for event in three[0].log.of(Kind.FINISHED)] == ["unknown", "ok"], "its own word may come"


@pytest.mark.parametrize("attested", [False, True])
async def test_calls_of_a_member_that_is_given_up_leave_the_display(three: list[House], attested: bool) -> None:
    """By whoever hears of it: the one that gave it up may have ended since."""
    _paused(three[2])
    await _listen(4 if attested else 62, *three[:2])
    if attested:
        assert isinstance(await three[0].membership.attest(ADMIN, "m-3"), Member)
    await _listen(1, three[1])
    assert three[1].admission.forgotten == ["m-3"]


async def test_what_a_member_left_that_was_back_for_a_moment_leaves_the_display_once_its_end_is_attested(
    three: list[House],
) -> None:
    _paused(three[2])
    await _listen(63, *three[:2])
    assert three[0].admission.forgotten.count("m-3") == 2, "by each that heard of it"
    assert isinstance(await three[0].membership.attest(ADMIN, "m-3"), Member)
    await _listen(1, three[0])
    assert three[0].admission.forgotten.count("m-3") == 3


async def test_call_of_a_member_that_was_given_up_is_never_sent(three: list[House]) -> None:
    """It does not know yet: the log refuses its ALLOW, and the refusal is recorded."""
    gone = _paused(three[2])
    running = await gone.running()
    await _listen(62, *three[:2])
    sent = len(gone.upstream.sent)
    answer = await gone.gate.pass_through(a_call())
    assert (answer.reason_code, answer.is_outage) == (ReasonCode.KILL_STATE_UNKNOWN, True)
    assert len(gone.upstream.sent) == sent
    assert gone.log.of(Kind.DECIDED)[-1]["decision"] == "DENY"
    assert (await running).reason_code is ReasonCode.KILL_STATE_UNKNOWN, "what it still ran was cut"
    answer = await gone.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.KILL_STATE_UNKNOWN, "nor does it even ask any more"
    assert len(gone.log.of(Kind.DECIDED)) == 2


async def test_kill_goes_on_without_a_member_that_is_gone_and_says_so(three: list[House]) -> None:
    _paused(three[2])
    await _listen(62, *three[:2])
    drain = await three[0].killed()
    assert (drain.is_drained, drain.progress.excepted, drain.progress.unheard) == (False, ("m-3",), ())
    (receipt,) = three[0].log.of(Kind.DRAINED)
    assert (receipt["drained"], receipt["excepted"], receipt["attested"]) == (False, ["m-3"], [])
    assert drain.receipt == receipt["id"]
    for house in three[:2]:
        await house.upkeep.tick()
    assert len(three[0].log.of(Kind.DRAINED)) == 1, "nothing has changed, so nothing is written"


async def test_kills_that_go_on_without_a_member_cost_no_upkeep_each(
    three: list[House], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def count(owner: type, name: str) -> None:
        asking = getattr(owner, name)

        def counted(*args: Any, **match: Any) -> Any:
            asked.append(name)
            return asking(*args, **match)

        monkeypatch.setattr(owner, name, counted)

    _paused(three[2])
    await _listen(62, *three[:2])
    for number in range(50):
        await three[number % 2].killed(target=f"s-{number}")
    for owner, name in ((MemoryLog, "projection"), (MemoryLog, "acknowledged"), (FakeAdmission, "in_flight")):
        count(owner, name)
    assert await three[0].drains.close_open() == 0
    assert sorted(asked) == ["acknowledged", "projection", "projection"]
    await three[0].membership.attest(ADMIN, "m-3")
    assert await three[1].drains.close_open() == 50


async def test_late_word_of_a_member_that_is_gone_settles_the_kills_up_to_it(three: list[House]) -> None:
    """It is still gone: what it says of its own is enough, and says nothing of the kills since."""
    gone = _paused(three[2])
    await _listen(62, *three[:2])
    kills = [(await three[0].killed(target=f"s-{number}")).kill for number in range(3)]
    await gone.recorder.note(lambda origin: acked(origin, Acknowledgement("m-3", kills[1].position)))
    assert await three[0].drains.close_open() == 2
    assert [(await three[1].seen(kill)).is_drained for kill in kills] == [True, True, False]


async def test_kill_and_upkeep_go_on_after_any_number_of_members_that_died() -> None:
    names = ["m-1", *(f"{number:016x}" for number in range(1_800))]
    log = MemoryLog(names)
    for name in names[1:]:
        log.tables.apply([Change("members", (name,), {"gone_idx": 1})])
    house = House(log=log)
    drain = await house.killed()
    assert (drain.is_drained, len(drain.progress.excepted)) == (False, 1_800)
    assert log.of(Kind.DRAINED)[0]["counts"] == {"members": 1_801, "excepted": 1_800, "attested": 0}
    await house.upkeep.tick()


async def test_kill_that_waits_goes_on_when_its_silent_member_is_given_up(three: list[House]) -> None:
    """Also when its server has crashed meanwhile: the silent one is the server."""
    _paused(three[0])
    kill = three[0].kill_elsewhere(a_kill())
    await _listen(62, *three[1:])
    for house in three[1:]:
        await house.upkeep.tick()
    (receipt,) = three[1].log.of(Kind.DRAINED)
    assert (receipt["kill_id"], receipt["excepted"]) == (kill.id, ["m-1"])


async def test_member_that_comes_back_cuts_everything_and_is_somebody_new(three: list[House]) -> None:
    back = _paused(three[2])
    running = await back.running(session="s-2")
    await _listen(62, *three[:2])
    drain = await three[0].killed()
    names: list[str] = []
    back.membership.on_new_name = names.append
    await back.beat()
    assert (await running).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    assert (await back.gate.pass_through(a_call(session="s-3"))).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    await back.beat()
    assert back.log.kinds()[-2:] == ["left", "joined"]
    assert names == [back.recorder.member] != ["m-3"]
    assert [member.id for member in await three[0].membership.members()] == ["m-1", "m-2", *names]
    back.upstream.let_go()
    assert (await back.gate.pass_through(a_call(session="s-3"))).reason_code is ReasonCode.OK
    assert (await back.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    await three[0].upkeep.tick()
    assert [event["drained"] for event in three[0].log.of(Kind.DRAINED)] == [False, True]
    assert (await back.seen(drain.kill)).is_drained


async def test_member_that_comes_back_waits_for_its_calls_before_it_is_somebody_new(three: list[House]) -> None:
    stubborn = _Stubborn()
    back = _paused(await three[0].another("m-4", upstream=stubborn))
    running = await back.running()
    await _listen(62, *three)
    for _ in range(5):
        await back.beat()
    assert back.recorder.member == "m-4", "it may not say that nothing of it runs"
    stubborn.gives_up.set()
    await running
    await back.beat()
    assert back.recorder.member != "m-4"


class _Stubborn(FakeUpstream):
    """Takes its time to be cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.gives_up = asyncio.Event()

    async def send(self, grant: Any, credential: Any) -> Any:
        try:
            return await super().send(grant, credential)
        finally:
            await self.gives_up.wait()


async def test_new_name_is_one_of_the_members_that_kills_wait_for(three: list[House]) -> None:
    back = three[2]
    listener = back.replica.woken
    _paused(back)
    await _listen(62, *three[:2])
    await back.beat()
    await back.beat()
    back.admission.listen(listener)
    drain = await three[0].killed()
    assert drain.is_drained
    assert drain.members == ("m-1", "m-2", back.recorder.member)


async def test_member_that_left_while_the_log_failed_leaves_no_call_open(three: list[House]) -> None:
    """Its ALLOW was in doubt as it ended, or its last outcome could not be written: another one says `unknown`."""
    three[2].log.fail_next("append", persist=True)
    await three[2].gate.pass_through(a_call())
    three[2].recorder.take_orphans()  # it had no time to look for it
    await three[2].stop()
    assert three[0].log.of(Kind.FINISHED) == []
    await _listen(1, *three[:2])
    for house in three[:2]:
        await house.upkeep.tick()
    assert [event["outcome"] for event in three[0].log.of(Kind.FINISHED)] == ["unknown"]


async def test_calls_of_a_member_whose_giving_up_was_interrupted_are_closed_by_the_next_round(
    three: list[House],
) -> None:
    running = await three[2].running()
    _paused(three[2])

    def refuse(event: Event) -> None:
        if event.kind is Kind.FINISHED:
            raise LogUnavailable("told to fail")

    three[0].log.on_append = refuse
    await _listen(64, *three[:2])
    await three[0].upkeep.tick()
    assert len(three[0].log.of(Kind.GONE)) == 1
    three[0].log.on_append = lambda _: None
    await three[0].upkeep.tick()
    assert [event["outcome"] for event in three[0].log.of(Kind.FINISHED)] == ["unknown"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# --- attested -------------------------------------------------------------------------------------------------


async def test_kill_drains_without_a_member_whose_host_an_admin_says_is_destroyed(three: list[House]) -> None:
    _paused(three[2])
    await _listen(4, *three[:2])
    attested = await three[0].membership.attest(ADMIN, "m-3")
    assert isinstance(attested, Member)
    assert (attested.id, attested.presence) == ("m-3", Presence.ATTESTED)
    (event,) = three[0].log.of(Kind.GONE)
    assert (event["of"], event["why"], event["principal"]) == ("m-3", "attested", "person:admin")
    drain = await three[1].killed()
    assert (drain.is_drained, drain.progress.attested) == (True, ("m-3",))
    (receipt,) = three[0].log.of(Kind.DRAINED)
    assert (receipt["drained"], receipt["attested"], receipt["excepted"]) == (True, ["m-3"], [])


async def test_attesting_settles_a_kill_that_went_on_without_the_member(three: list[House]) -> None:
    running = await three[2].running()
    _paused(three[2])
    drain = await three[0].killed_without("m-3")
    await _listen(62, *three[:2])
    await three[0].upkeep.tick()
    assert (await three[0].seen(drain.kill)).progress.excepted == ("m-3",)
    await three[0].membership.attest(ADMIN, "m-3")
    await three[0].upkeep.tick()
    assert [event["drained"] for event in three[0].log.of(Kind.DRAINED)] == [False, True]
    assert (await three[1].seen(drain.kill)).is_drained
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_attested_member_that_lives_after_all_sends_nothing(three: list[House]) -> None:
    back = _paused(three[2])
    await _listen(4, *three[:2])
    await three[0].membership.attest(ADMIN, "m-3")
    assert (await back.gate.pass_through(a_call())).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    assert back.upstream.sent == []


async def test_open_calls_of_an_attested_member_are_unknown(three: list[House]) -> None:
    running, elsewhere = await three[2].running(), await three[1].running()
    _paused(three[2])
    await _listen(4, *three[:2])
    await three[0].membership.attest(ADMIN, "m-3")
    assert [event["outcome"] for event in three[0].log.of(Kind.FINISHED)] == ["unknown"]
    three[1].upstream.let_go()
    assert (await elsewhere).success
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_member_that_was_just_heard_cannot_be_attested(three: list[House]) -> None:
    assert await _refused(three[0], "m-3") is ReasonCode.CONFLICT
    assert await _refused(three[0], "m-1") is ReasonCode.CONFLICT, "nor the one that is asked"
    fresh = await three[0].another("m-4")
    _paused(three[2])
    await _listen(2, fresh)
    assert await _refused(fresh, "m-3") is ReasonCode.CONFLICT, "it has not listened for long enough to know"
    assert three[0].log.of(Kind.GONE) == []


async def test_member_that_is_gone_but_heard_again_cannot_be_attested(three: list[House]) -> None:
    """Its process lives, and may still be ending its calls: that its host is destroyed is not true."""
    stubborn = _Stubborn()
    back = _paused(await three[0].another("m-4", upstream=stubborn))
    running = await back.running()
    await _listen(62, *three)
    await _listen(2, *three, back)
    assert [member.presence for member in await back.membership.members()][-1] is Presence.GONE
    assert await _refused(three[0], "m-4") is ReasonCode.CONFLICT
    assert await _refused(back, "m-4") is ReasonCode.CONFLICT
    stubborn.gives_up.set()
    await running


async def test_attesting_takes_an_admin_of_all_tenants_and_a_member_that_is_known(three: list[House]) -> None:
    _paused(three[2])
    await _listen(4, *three[:2])
    assert await _refused(three[0], "m-3", principal("small", Role.ADMIN, person=True)) is ReasonCode.FORBIDDEN
    assert await _refused(three[0], "nobody") is ReasonCode.NOT_FOUND
    await three[1].stop()
    assert await _refused(three[0], "m-2") is ReasonCode.NOT_FOUND, "one that left needs no attesting"
    assert three[0].log.of(Kind.GONE) == []


async def test_attesting_twice_is_once(three: list[House]) -> None:
    _paused(three[2])
    await _listen(4, *three[:2])
    for house in (*three[:2], three[0]):
        assert isinstance(await house.membership.attest(ADMIN, "m-3"), Member)
    assert len(three[0].log.of(Kind.GONE)) == 1


# --- members and their common work ----------------------------------------------------------------------------


async def test_members_are_shown_with_their_silence(three: list[House]) -> None:
    _paused(three[2])
    await _listen(10, *three[:2])
    shown = await three[0].membership.members()
    assert [(member.id, member.is_me) for member in shown] == [("m-1", True), ("m-2", False), ("m-3", False)]
    assert [member.silent_s for member in shown] == [0, 0, 9]  # the first second was no silence yet


async def test_common_work_is_done_by_the_eldest_that_is_heard(three: list[House]) -> None:
    assert [house.membership.is_eldest for house in three] == [True, False, False]
    _paused(three[0])
    await _listen(7, *three[1:])
    assert [house.membership.is_eldest for house in three[1:]] == [True, False]
    await _listen(2, *three)
    assert [house.membership.is_eldest for house in three] == [True, False, False]


async def test_member_that_joins_ends_nothing_by_its_clock_before_it_knows_who_is_here() -> None:
    first = House(admission=FlagStore())
    kill = (await first.killed(expires_in_s=1800)).kill
    fast = first.beside("m-2")
    fast.containment._clock = ahead = FakeClock()
    ahead.move(3600)
    await fast.membership.join(())
    await fast.upkeep.tick()
    await _listen(1, first, fast)
    await fast.upkeep.tick()
    assert first.log.of(Kind.RELEASED) == []
    assert kill.id in first.replica.state.active


async def test_member_whose_log_nobody_else_writes_to_does_the_common_work_from_its_start() -> None:
    house = House(has_joined=False)
    await house.membership.join(None)
    assert house.membership.is_eldest
    await _listen(1, house)
    assert house.membership.is_eldest


async def test_leaving_cuts_what_runs_and_says_so_last(three: list[House]) -> None:
    running = await three[2].running()
    await three[2].stop()
    assert (await running).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    assert three[2].log.kinds()[-2:] == ["finished", "left"]
    assert (await three[2].gate.pass_through(a_call())).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    assert [member.id for member in await three[0].membership.members()] == ["m-1", "m-2"]


async def test_successor_closes_the_calls_of_its_predecessors_and_of_nobody_else(three: list[House]) -> None:
    """It holds the OS lock that they held; of the others it knows nothing."""
    running = [await house.running() for house in three[1:]]
    four = three[0].beside("m-4")
    assert await four.membership.join(["m-3", "long-gone"]) == 1
    assert [event["of"] for event in four.log.of(Kind.LEFT)] == ["m-3"]
    assert [event["outcome"] for event in four.log.of(Kind.FINISHED)] == ["unknown"]
    assert four.admission.forgotten == ["m-3"]
    assert [member.id for member in await four.membership.members()] == ["m-1", "m-2", "m-4"]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


# --- the lease ------------------------------------------------------------------------------------------------


async def test_calls_are_cut_when_kills_could_not_be_heard_for_longer_than_the_lease(house: House) -> None:
    house.replica.lease.length_s = 0.06
    watch = asyncio.create_task(house.membership.watch_lease())
    running = await house.running()
    await asyncio.sleep(0.02)
    assert not running.done()
    house.clock.move(0.061)
    answer = await asyncio.wait_for(running, 5)
    assert (answer.reason_code, answer.outcome) == (ReasonCode.KILL_STATE_UNKNOWN, Outcome.CANCELLED)
    assert "effect unknown" in (answer.error or "")
    assert house.log.of(Kind.FINISHED)[0]["reason_code"] == "kill_state_unknown"
    watch.cancel()


async def test_a_log_that_hangs_keeps_nobody_from_hearing_the_store(house: House, monkeypatch: Any) -> None:
    """Each round of a log that answers late takes longer than the lease: the calls that run must not pay for that."""

    async def hanging(member: str) -> dict[str, int]:
        return await asyncio.Future()

    monkeypatch.setattr(house.log, "beat", hanging)
    house.membership._interval_s = 0.001
    beating = asyncio.create_task(house.membership.look_after())
    for _ in range(3):
        house.clock.move(house.replica.lease.length_s - 0.5)
        await until(lambda: house.replica.lease.holds(house.clock.boot_s() + 1))
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating


async def test_who_is_busy_with_others_hears_of_kills_in_the_log_all_the_same(house: House, monkeypatch: Any) -> None:
    """To close the calls of a member that died may take long: where only the log tells of a kill, it is heard there."""

    async def busy(member: str) -> dict[str, int]:
        return await asyncio.Future()

    monkeypatch.setattr(house.log, "beat", busy)
    running = await house.running()
    house.membership._interval_s = 0.001
    beating = asyncio.create_task(house.membership.look_after())
    await asyncio.sleep(0.02)
    await house.recorder.note(lambda origin: killed(origin, a_kill(), auth="key"))
    assert (await asyncio.wait_for(running, 5)).reason_code is ReasonCode.KILLED
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating


async def test_a_heartbeat_that_fails_ends_and_is_heard_of(house: House, monkeypatch: Any) -> None:
    """Whoever started it ends the gateway then."""

    async def broken(member: str) -> dict[str, int]:
        raise RuntimeError(member)

    monkeypatch.setattr(house.log, "beat", broken)
    house.membership._interval_s = 0.001
    with pytest.raises(ExceptionGroup) as failed:
        await house.membership.look_after()
    assert failed.group_contains(RuntimeError, match="m-1")


async def test_nothing_is_granted_after_the_lease_until_kills_are_heard_again(house: House) -> None:
    def think_for_long(_: object) -> object:
        house.clock.move(3.1)
        return ALLOW

    house.engine.answer = think_for_long
    answer = await house.gate.pass_through(a_call())
    assert (answer.reason_code, answer.outcome) == (ReasonCode.KILL_STATE_UNKNOWN, Outcome.NOT_SENT)
    assert house.upstream.sent == []
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "not_sent"
    house.engine.answer = lambda _: ALLOW
    await house.beat()
    assert (await house.gate.pass_through(a_call())).success


async def test_call_that_lapsed_before_it_was_sent_was_not_sent(house: House) -> None:
    """Also when kills are heard again by then; its effect is not unknown."""

    def lapse(_: object) -> object:
        house.replica.lapse()
        return ALLOW

    house.engine.answer = lapse
    answer = await house.gate.pass_through(a_call())
    assert (answer.reason_code, answer.outcome) == (ReasonCode.KILL_STATE_UNKNOWN, Outcome.NOT_SENT)
    assert house.upstream.sent == []


class _SlowStore(FakeAdmission):
    """Its answers are on their way for four seconds."""

    clock: Any = None

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        answer = await super().admit(call, quota, seen)
        self.clock.move(4)
        return answer

    async def position(self) -> int | None:
        answer = await super().position()
        self.clock.move(4)
        return answer


class _SlowLog(MemoryLog):
    clock: Any = None

    async def kills_since(self, position: int) -> KillChanges:
        changes = await super().kills_since(position)
        self.clock.move(4)
        return changes


async def test_lease_counts_from_the_asking_and_not_from_the_answer() -> None:
    house = House(admission=_SlowStore(), log=_SlowLog())
    house.admission.clock = house.log.clock = house.clock  # type: ignore[attr-defined]
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    assert house.upstream.sent == []
    house.clock.move(10)
    await house.beat()
    assert not house.replica.may_grant()


@pytest.mark.parametrize("down", ["log", "admission"])
async def test_lease_is_renewed_by_the_store_alone_and_by_the_log_alone(house: House, down: str) -> None:
    getattr(house, down).is_down = True
    for _ in range(5):
        house.clock.move(2)
        await house.beat()
        assert house.replica.may_grant()
    house.log.is_down = house.admission.is_down = True
    house.clock.move(2)
    await house.beat()
    assert house.replica.may_grant(), "it still has a second"
    house.clock.move(2)
    await house.beat()
    assert not house.replica.may_grant()


@pytest.mark.parametrize("position", [None, 0, 2], ids=["emptied", "set back", "ahead"])
async def test_store_at_another_position_renews_no_lease(house: House, position: int | None) -> None:
    """Behind, it has lost kills; ahead, it has some that are not known here: only the log can say more."""
    house.replica.advance(given(a_kill(position=1)))
    house.log.is_down = True
    house.admission.state = None if position is None else KillState(position, {})
    house.clock.move(4)
    await house.beat()
    assert not house.replica.may_grant()
    await house.gate.pass_through(a_call(session="s-2"))
    assert not house.replica.may_grant()
    await a_moment()


async def test_every_admitted_call_renews_the_lease(house: House) -> None:
    house.log.is_down = True
    for _ in range(5):
        house.clock.move(2)
        await house.gate.pass_through(a_call())
        assert house.replica.may_grant()


# --- acknowledgements -----------------------------------------------------------------------------------------


async def test_acknowledgement_waits_for_the_calls_of_earlier_kills(house: House) -> None:
    """It says that nothing is left that *any* kill up to its position covered."""
    stubborn = _Stubborn()
    house = House(upstream=stubborn)
    running = await house.running()
    house.replica.advance(given(a_kill(position=1)))
    house.replica.advance(given(a_kill(target="another", position=2)))
    await a_moment()
    assert house.log.of(Kind.ACKED) == []
    stubborn.gives_up.set()
    await running
    await until(lambda: len(house.log.of(Kind.ACKED)) == 2)
    assert sorted(event["position"] for event in house.log.of(Kind.ACKED)) == [1, 2]


async def test_call_of_a_later_kill_does_not_hold_up_an_earlier_acknowledgement() -> None:
    stubborn = _Stubborn()
    house = House(upstream=stubborn)
    running = await house.running(session="s-2")
    house.replica.advance(given(a_kill(position=1)))
    house.replica.advance(given(a_kill(target="s-2", position=2)))
    await a_moment()
    assert [event["position"] for event in house.log.of(Kind.ACKED)] == [1]
    stubborn.gives_up.set()
    await running
    await until(lambda: len(house.log.of(Kind.ACKED)) == 2)


async def test_acknowledgement_that_the_log_would_not_take_is_said_again(house: House) -> None:
    house.log.is_down = True
    house.replica.advance(given(a_kill(position=1)))
    await a_moment()
    house.log.is_down = False
    assert house.log.of(Kind.ACKED) == []
    await until(lambda: house.log.of(Kind.ACKED))


async def test_first_read_of_a_replica_is_not_acknowledged(house: House) -> None:
    """It had nothing to cut, and was not there for those kills."""
    house.kill_elsewhere(a_kill())
    four = await house.another("m-4")
    await a_moment()
    assert four.replica.position == 1
    assert [event for event in house.log.of(Kind.ACKED) if event["member"] == "m-4"] == []
