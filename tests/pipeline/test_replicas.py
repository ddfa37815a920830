"""Several members on one log and one kill store behave as one gateway (DESIGN §4)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.containment import FlagChange, KillChanges, KillId, Scope
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Event, Kind
from agentgate.core.members import Acknowledgement
from agentgate.pipeline.containment.drains import Drain
from agentgate.pipeline.containment.orders import Order
from agentgate.ports.containment import InFlight, NotAdmitted
from tests.fakes import ADMIN, MemoryLog, a_call, a_kill
from tests.pipeline.conftest import FlagStore, House, a_moment, until

THREE = ("m-1", "m-2", "m-3")


@pytest.fixture
async def three() -> list[House]:
    first = House(admission=FlagStore())
    return [first, await first.another("m-2"), await first.another("m-3")]


def _deaf(house: House) -> None:
    """No wake-up reaches it any more; it still has its heartbeat, when the test says so."""
    house.admission.listeners.remove(house.replica.woken)


def _store(house: House) -> FlagStore:
    assert isinstance(house.admission, FlagStore)
    return house.admission


def _receipts(house: House) -> list[bool]:
    return [event["drained"] for event in house.log.of(Kind.DRAINED)]


# --- a kill reaches every member ------------------------------------------------------------------------------


@pytest.mark.parametrize("server", range(3))
async def test_kill_at_one_member_cuts_in_all_and_is_drained_by_their_words(three: list[House], server: int) -> None:
    running = [await house.running() for house in three]
    drain = await three[server].killed()
    assert drain.is_drained
    assert (drain.members, set(drain.acks), drain.running) == (THREE, set(THREE), ())
    assert [drain.acks[member].cancelled for member in THREE] == [1, 1, 1]
    assert {(await task).reason_code for task in running} == {ReasonCode.KILLED}
    for house in three:
        assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
        assert len(house.upstream.sent) == 1
    assert _receipts(three[0]) == [True]
    assert _store(three[0]).changes[-1] == FlagChange(0, 1, {drain.kill.flag: drain.kill.id})


async def test_kill_reaches_the_others_by_their_heartbeat_when_the_store_is_down(three: list[House]) -> None:
    running = [await house.running() for house in three]
    three[0].admission.is_down = True
    kill = asyncio.create_task(three[0].killed())
    await a_moment()
    assert [task.done() for task in running] == [True, False, False]
    for house in three[1:]:
        await house.beat()
    assert (await kill).is_drained
    assert {(await task).reason_code for task in running} == {ReasonCode.KILLED}


async def test_two_members_of_which_each_kills_at_the_same_time(three: list[House]) -> None:
    drains = await asyncio.gather(*(house.killed(target=target) for house in three for target in ("s-1", "s-2", "s-3")))
    assert all(drain.is_drained for drain in drains)
    assert {house.replica.position for house in three} == {9}
    assert _receipts(three[0]) == [True] * 9
    assert _store(three[0]).flags.keys() == {f"session/default/s-{n}" for n in (1, 2, 3)}


async def test_release_reaches_every_member(three: list[House]) -> None:
    drain = await three[0].killed()
    assert await three[1].containment.release(ADMIN, drain.kill.id) == drain.kill
    await a_moment()
    for house in three:
        assert (await house.gate.pass_through(a_call())).success


async def test_release_at_a_member_that_has_not_read_it_yet_takes_effect_there(three: list[House]) -> None:
    drain = await three[0].killed()
    _deaf(three[2])
    await three[0].containment.release(ADMIN, drain.kill.id)
    assert drain.kill.id in three[2].replica.state.active
    assert await three[2].containment.release(ADMIN, drain.kill.id) == drain.kill
    assert three[2].replica.state.active == {}
    assert len(three[0].log.of(Kind.RELEASED)) == 1


async def test_release_of_one_of_two_kills_leaves_the_scope_dead_in_every_member_and_in_the_store(
    three: list[House],
) -> None:
    one, two = await three[0].killed(), await three[1].killed()
    await three[2].containment.release(ADMIN, one.kill.id)
    assert _store(three[0]).flags == {two.kill.flag: two.kill.id}
    assert _store(three[0]).changes[-1] == FlagChange(2, 3, {two.kill.flag: two.kill.id})
    assert isinstance(await three[0].admission.admit(a_call(), None, 0), NotAdmitted)
    for house in three:
        assert house.replica.enter(a_call(), asyncio.create_task(asyncio.sleep(0))).is_cut()
    await three[0].containment.release(ADMIN, two.kill.id)
    assert _store(three[0]).flags == {}


# --- drained only when everybody has said so ------------------------------------------------------------------


async def test_kill_is_drained_only_when_the_last_member_has_acknowledged(three: list[House]) -> None:
    def refuse(event: Event) -> None:
        if event.kind is Kind.ACKED and event.fields["member"] == "m-3":
            raise LogUnavailable("told to fail")

    three[0].log.on_append = refuse
    drain = await three[0].killed_without("m-3")
    assert (drain.is_drained, drain.progress.unheard, drain.receipt) == (False, ("m-3",), None)
    assert _receipts(three[0]) == []
    three[0].log.on_append = lambda _: None
    await until(lambda: len(three[0].log.of(Kind.ACKED)) == 3)  # it is tried again until the log takes it
    await three[0].upkeep.tick()
    assert (await three[1].seen(drain.kill)).is_drained


async def test_kill_whose_acknowledgements_cannot_be_read_is_told_as_undrained(three: list[House]) -> None:
    async def fail(position: int) -> list[Acknowledgement]:
        raise LogUnavailable("told to fail")

    three[0].log.acknowledged = fail  # type: ignore[method-assign]
    drain = await three[0].hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert (drain.is_drained, drain.progress.unheard, drain.receipt) == (False, THREE, None)


async def test_silent_member_keeps_a_kill_undrained_and_is_named_by_every_member(three: list[House]) -> None:
    _deaf(three[2])
    running = await three[2].running()
    drain = await three[0].killed_without("m-3")
    for seen in (drain, await three[1].seen(drain.kill), await three[2].seen(drain.kill)):
        assert (seen.is_drained, seen.progress.unheard) == (False, ("m-3",))
    for house in three:
        await house.upkeep.tick()
    assert _receipts(three[0]) == []
    await three[2].beat()
    assert (await running).reason_code is ReasonCode.KILLED
    await a_moment()
    await three[0].upkeep.tick()
    assert (await three[2].seen(drain.kill)).is_drained


@pytest.mark.parametrize(
    ("scope", "target", "other"),
    [
        (Scope.SESSION, "s-1", {"session": "s-2"}),
        (Scope.AGENT, "bot", {"agent": "another"}),
        (Scope.TOOL, "db_query", {"tool": "another"}),
        (Scope.SERVER, "demo", {"server": "another"}),
        (Scope.TENANT, "default", {"tenant": "another"}),
    ],
)
async def test_call_elsewhere_that_is_not_cut_yet_is_among_those_that_run(
    three: list[House], scope: Scope, target: str, other: dict[str, str]
) -> None:
    """As far as the display knows it."""
    _deaf(three[2])
    running = await three[2].running()
    (flight,) = three[2].replica.flights()
    call = flight.call
    names = {"tenant": call.tenant, "session": call.session, "agent": call.agent, "tool": call.tool_name}
    shown = {"trace_id": call.trace_id, **names, "server": call.server, "member": "m-3", "since": ""}
    three[0].admission.display = [_in_flight(**shown), _in_flight(**{**shown, "trace_id": "t-2", **other})]
    assert (await three[0].killed_without("m-3", scope=scope, target=target)).running == (call.trace_id,)
    await three[2].beat()
    await running


def _in_flight(**fields: str) -> InFlight:
    return InFlight(**fields)


async def test_member_that_a_reader_does_not_know_yet_is_waited_for(
    three: list[House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has left of whom the log does not say so."""
    projection = MemoryLog.projection

    async def behind(log: MemoryLog, name: str, **match: Any) -> list[dict[str, Any]]:
        rows = await projection(log, name, **match)
        return [row for row in rows if row["member"] != "m-3"] if name == "members" else rows

    _deaf(three[2])
    running = await three[2].running()
    monkeypatch.setattr(MemoryLog, "projection", behind)
    drain = await three[0].hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert "m-3" in drain.progress.unheard
    assert not drain.is_drained
    monkeypatch.undo()
    await three[2].beat()
    assert (await running).reason_code is ReasonCode.KILLED


async def test_member_that_left_is_not_waited_for(three: list[House]) -> None:
    _deaf(three[2])
    drain = await three[0].killed_without("m-3")
    running = await three[1].running(session="s-2")
    await three[2].stop()
    await three[0].upkeep.tick()
    assert (await three[0].seen(drain.kill)).is_drained
    assert (await three[0].seen(drain.kill)).members == THREE, "it was there at the time"
    later = await three[0].killed(target="s-2")
    assert (later.is_drained, later.members) == (True, ("m-1", "m-2"))
    assert (await three[0].seen(later.kill)).members == ("m-1", "m-2")
    await running


async def test_kill_that_is_waited_for_goes_on_when_its_silent_member_leaves(three: list[House]) -> None:
    _deaf(three[2])
    waiting = asyncio.create_task(three[0].killed())
    await a_moment()
    assert not waiting.done()
    await three[2].membership.leave(lambda: asyncio.sleep(0))
    drain = await asyncio.wait_for(waiting, 5)
    assert (drain.is_drained, drain.members, set(drain.acks)) == (True, THREE, {"m-1", "m-2"})


async def test_member_that_joins_later_knows_the_kill_and_is_not_waited_for(three: list[House]) -> None:
    drain = await three[0].killed()
    four = await three[0].another("m-4")
    assert (await four.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    assert (await four.seen(drain.kill)).members == THREE


async def test_kill_between_joining_and_the_first_look_is_acknowledged(three: list[House]) -> None:
    """The log has the member by then, so the kill waits for it."""
    four, kill = three[0].beside("m-4"), a_kill(id="k-1")

    async def kills_since(position: int) -> KillChanges:
        if four.log.kinds().count("joined") == 3 and four.log.position == 0:  # two of `three`, and now this one
            four.kill_elsewhere(kill)
        return await MemoryLog.kills_since(four.log, position)

    four.log.kills_since = kills_since  # type: ignore[method-assign]
    await four.membership.join(())
    for house in three:
        await house.beat()
    await a_moment()
    drain = await three[0].seen(kill)
    assert drain.members == (*THREE, "m-4")
    assert drain.progress.drained


async def test_kill_and_release_between_two_reads_of_a_late_member_still_cut_there(three: list[House]) -> None:
    _deaf(three[2])
    running = await three[2].running()
    drain = await three[0].killed_without("m-3")
    assert await three[0].drains.undrained() == {drain.kill.id}
    await three[0].containment.release(ADMIN, drain.kill.id, force=True)
    assert await three[0].drains.undrained() == frozenset(), "only those in force"
    assert not running.done()
    await three[2].beat()
    assert (await running).reason_code is ReasonCode.KILLED
    await a_moment()
    after = await three[0].seen(drain.kill)
    assert after.progress.drained
    assert (after.acks["m-3"].position, after.acks["m-3"].cancelled) == (2, 1)
    three[2].upstream.let_go()
    assert (await three[2].gate.pass_through(a_call())).success


# --- receipts -------------------------------------------------------------------------------------------------


async def test_receipt_of_a_kill_whose_server_was_stopped_is_written_by_upkeep_once(three: list[House]) -> None:
    kill = three[0].kill_elsewhere(a_kill())
    for house in three:
        await house.beat()
    await until(lambda: len(three[0].log.of(Kind.ACKED)) == 3)
    await asyncio.gather(*(house.upkeep.tick() for house in three))
    assert _receipts(three[0]) == [True]
    assert {(await house.seen(kill)).is_drained for house in three} == {True}


async def test_kill_whose_request_was_given_up_gets_its_receipt_all_the_same(three: list[House]) -> None:
    _deaf(three[2])
    asking = asyncio.create_task(three[1].killed())
    await until(lambda: three[0].log.of(Kind.KILLED))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    for house in three:
        await house.beat()
    await until(lambda: len(three[0].log.of(Kind.ACKED)) == 3)
    for house in three:
        await house.upkeep.tick()
    assert _receipts(three[0]) == [True]


async def test_parallel_orders_of_one_kill_at_all_members_are_one_kill_with_one_receipt(three: list[House]) -> None:
    earlier = await three[0].killed(target="s-2")
    drains = await asyncio.gather(*(house.killed(kill_id=KillId("k-1")) for house in three for _ in range(5)))
    assert {drain.is_drained for drain in drains} == {True}
    (receipt,) = {drain.receipt for drain in drains}
    assert receipt != earlier.receipt
    assert three[0].log.kinds().count("killed") == 2
    assert _receipts(three[0]) == [True] * 2


async def test_kill_that_is_released_before_its_receipt_was_written_gets_it_all_the_same(three: list[House]) -> None:
    kill = three[0].kill_elsewhere(a_kill())
    for house in three:
        await house.beat()
    await until(lambda: len(three[0].log.of(Kind.ACKED)) == 3)
    await three[1].containment.release(ADMIN, kill.id)
    assert three[0].log.kinds()[-2:] == ["drained", "released"]
    await a_moment()
    assert len(_receipts(three[0])) == 1


async def test_kill_expires_once_however_many_members_there_are(three: list[House]) -> None:
    drain = await three[0].killed(expires_in_s=60)
    three[0].clock.move(60)
    for house in three:
        house.membership.is_eldest = True  # several may take themselves for it for a moment
    await asyncio.gather(*(house.upkeep.tick() for house in three))
    assert [event["why"] for event in three[0].log.of(Kind.RELEASED)] == ["expiry"]
    await a_moment()
    assert [house.replica.state.active for house in three] == [{}, {}, {}]
    assert (await three[2].seen(drain.kill)).released_at == 2


async def test_kill_that_has_not_drained_everywhere_does_not_expire(three: list[House]) -> None:
    _deaf(three[2])
    await three[0].killed_without("m-3", expires_in_s=60)
    three[0].clock.move(3600)
    for house in three:
        await house.upkeep.tick()
    assert three[0].log.of(Kind.RELEASED) == []


# --- the fast path --------------------------------------------------------------------------------------------


async def test_one_more_kill_among_ten_thousand_touches_one_flag_of_the_store(three: list[House]) -> None:
    for number in range(10_000):
        three[0].kill_elsewhere(a_kill(target=f"s-{number}", id=f"k-{number}"))
    await three[0].beat()
    await until(lambda: {house.replica.position for house in three} == {10_000})
    drain = await three[1].killed(target="s-new")
    assert drain.is_drained
    assert _store(three[0]).changes[-1] == FlagChange(10_000, 10_001, {"session/default/s-new": drain.kill.id})
    await three[2].containment.release(ADMIN, drain.kill.id)
    assert _store(three[0]).changes[-1] == FlagChange(10_001, 10_002, {}, ("session/default/s-new",))
    assert len(_store(three[0]).flags) == 10_000


async def test_store_that_lost_everything_is_put_right_as_a_whole(three: list[House]) -> None:
    await three[0].killed()
    _store(three[0]).state, _store(three[0]).flags = None, {}
    await three[1].beat()
    assert _store(three[0]).flags.keys() == {"session/default/s-1"}
    assert _store(three[0]).changes[-1] is None


async def test_store_that_was_set_back_is_not_believed_and_put_right(three: list[House]) -> None:
    """A failover to a standby that had not heard of the kill."""
    await three[0].killed()
    store = _store(three[0])
    assert store.state is not None
    store.state, store.flags = replace(store.state, position=0), {}
    assert (await three[2].gate.pass_through(a_call(session="s-2"))).reason_code is ReasonCode.KILL_STATE_UNKNOWN
    await a_moment()
    assert store.flags.keys() == {"session/default/s-1"}
    assert (await three[2].gate.pass_through(a_call(session="s-2"))).success


async def test_wake_up_for_a_position_that_the_log_has_not_got_does_not_spin(three: list[House]) -> None:
    reads = 0

    async def kills_since(position: int) -> KillChanges:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return await MemoryLog.kills_since(three[0].log, position)

    three[0].log.kills_since = kills_since  # type: ignore[method-assign]
    three[1].replica.woken(7)
    for _ in range(10):
        await a_moment()
    assert reads <= 6
    three[0].kill_elsewhere(a_kill())
    three[1].replica.woken(1)  # a position that it has got is heard all the same
    await a_moment()
    assert three[1].replica.position == 1


async def test_wake_up_that_the_log_does_not_answer_is_read_for_again(three: list[House]) -> None:
    kill = three[0].kill_elsewhere(a_kill())
    three[0].log.is_down = True
    three[1].replica.woken(kill.position)
    await a_moment()
    three[0].log.is_down = False
    await until(lambda: three[1].replica.position == kill.position)


async def test_who_has_given_up_on_a_wake_up_hears_the_next_one(
    three: list[House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentgate.pipeline.containment.replica._WAKE_UP_AGAIN_AFTER_S", ())
    three[1].replica.woken(7)
    await a_moment()
    three[1].replica.woken(three[0].kill_elsewhere(a_kill()).position)
    await a_moment()
    assert three[1].replica.position == 1


async def test_call_whose_receipt_is_newer_than_a_read_that_is_under_way_reads_again(three: list[House]) -> None:
    """Callers share a read; one that began before the kill does not know it."""
    log, go_on = three[0].log, asyncio.Event()

    async def kills_since(position: int) -> KillChanges:
        changes = await MemoryLog.kills_since(log, position)
        await go_on.wait()
        return changes

    log.kills_since = kills_since  # type: ignore[method-assign]

    three[2].replica.repair_soon()
    await a_moment()

    def slip_in(event: Event) -> None:
        if event.kind is Kind.DECIDED and log.position == 0:
            three[2].kill_elsewhere(a_kill(target="another"))

    log.on_append = slip_in
    task = asyncio.create_task(three[2].gate.pass_through(a_call()))
    await a_moment()
    go_on.set()
    assert (await task).success
    assert three[2].replica.position == 1
