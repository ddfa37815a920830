"""Kill and release: drained means that nothing covered runs, and a release gives back nothing that was cut."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.call import AgentId, MemberId, Principal, Role, TenantId
from agentgate.core.containment import Kill, KillId, KillState, Scope
from agentgate.core.decision import Grant
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Event, Kind, make
from agentgate.pipeline.calls.passage import Answer
from agentgate.pipeline.containment.control import Rules
from agentgate.pipeline.containment.drains import Drain
from agentgate.pipeline.containment.orders import Order, ReleasePending
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.upstreams import Credential, Delivered, Undelivered
from tests.fakes import ADMIN, ALLOW, REDACTOR, FakeUpstream, a_call, a_kill, principal
from tests.pipeline.conftest import House, ended, given, until

OPERATOR = principal("op", Role.OPERATOR, person=True)

SCOPES = [
    (Scope.SESSION, "s-1"),
    (Scope.AGENT, "bot"),
    (Scope.TOOL, "db_query"),
    (Scope.SERVER, "demo"),
    (Scope.TENANT, "default"),
    (Scope.GLOBAL, ""),
]


async def _killed(house: House, actor: Principal = ADMIN, **order: Any) -> Drain:
    drain = await house.containment.kill(actor, Order(**{"scope": Scope.SESSION, "target": "s-1", **order}))
    assert isinstance(drain, Drain), drain
    return drain


async def _killed_but_for_a_silent_member(house: House, **order: Any) -> Drain:
    silent = Recorder(house.log, house.clock, house.entropy, member=MemberId("m-2"), version="test", redactor=REDACTOR)
    house.log.append_now(make(silent.origin(), Kind.JOINED, {}))
    return await house.killed_without("m-2", **order)


async def _refused(house: House, actor: Principal = ADMIN, **order: Any) -> ReasonCode:
    refused = await house.containment.kill(actor, Order(**{"scope": Scope.SESSION, "target": "s-1", **order}))
    assert isinstance(refused, Refused), refused
    return refused.reason


async def _drained_later(house: House, drain: Drain) -> Drain:
    """After its operator was answered: when everybody has acknowledged, upkeep writes the receipt."""
    async with asyncio.timeout(5):
        while (await house.seen(drain.kill)).progress.is_waiting:  # noqa: ASYNC110 - it is the log that is asked
            await asyncio.sleep(0.001)
    await house.upkeep.tick()
    return await house.seen(drain.kill)


def _is_active(house: House, kill_id: str) -> bool:
    return kill_id in house.replica.state.active


# --- kill -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "target"), SCOPES)
async def test_kill_of_each_scope_drains_cuts_and_refuses_what_comes(house: House, scope: Scope, target: str) -> None:
    running = await house.running()
    drain = await _killed(house, scope=scope, target=target)
    assert drain.is_drained
    assert (await running).reason_code is ReasonCode.KILLED
    assert drain.acks["m-1"].cancelled == 1
    assert drain.running == ()
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.KILLED
    assert len(house.upstream.sent) == 1


async def test_kill_receipt_counts_how_its_calls_ended(house: House) -> None:
    """Three running calls are cut; one of another session runs on."""
    others = await house.running(session="s-2")
    cut = [await house.running() for _ in range(3)]
    drain = await _killed(house)
    ack = drain.acks["m-1"]
    assert (ack.cancelled, ack.finished, ack.unknown) == (3, 0, 0)
    assert {(await task).reason_code for task in cut} == {ReasonCode.KILLED}
    assert not others.done()
    house.upstream.let_go()
    assert (await others).success


async def test_kill_is_on_record_before_anything_is_cut_and_its_receipt_after(house: House) -> None:
    running = await house.running()
    drain = await _killed(house, reason="loops")
    await running
    assert house.log.kinds() == ["decided", "killed", "finished", "acked", "drained"]
    assert house.log.of(Kind.DRAINED)[0]["drained"] is True
    assert house.log.of(Kind.ACKED)[0]["position"] == drain.kill.position == 1
    assert drain.receipt == house.log.of(Kind.DRAINED)[0]["id"]
    assert b"loops" in house.log.events[1][0].body


async def test_secret_in_a_reason_is_not_written_down(house: House) -> None:
    await _killed(house, reason="leaked key sk-abcdefghijklmnopqrst")
    assert b"sk-abcdef" not in b"".join(event.leaf + event.body for event, _ in house.log.events)


async def test_kill_before_the_caller_exists_stops_its_first_call(house: House) -> None:
    assert (await _killed(house, scope=Scope.AGENT, target="not-yet")).is_drained
    answer = await house.gate.pass_through(a_call(caller=principal("not-yet"), session="new"))
    assert answer.reason_code is ReasonCode.KILLED
    assert house.upstream.sent == []


async def test_new_session_id_does_not_help_a_killed_agent(house: House) -> None:
    await _killed(house, scope=Scope.AGENT, target="bot")
    for session in ("s-2", "S-1", "s-1.", "fresh"):
        assert (await house.gate.pass_through(a_call(session=session))).reason_code is ReasonCode.KILLED


async def test_calls_that_start_during_a_kill_are_not_sent(house: House) -> None:
    order = Order(Scope.AGENT, "bot")
    kill = asyncio.create_task(house.containment.kill(ADMIN, order))
    calls = [asyncio.create_task(house.gate.pass_through(a_call(session=f"s-{n}"))) for n in range(50)]
    drain = await kill
    assert isinstance(drain, Drain)
    assert drain.is_drained
    sent_by_then = len(house.upstream.sent)
    answers = await asyncio.gather(*calls)
    assert {answer.reason_code for answer in answers} <= {ReasonCode.KILLED, ReasonCode.OK}
    assert len(house.upstream.sent) == sent_by_then


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "target"), [(Scope.TOOL, "db_query"), (Scope.SERVER, "demo"), (Scope.GLOBAL, "")])
async def test_kill_that_reaches_every_tenant_needs_all_tenants(house: House, scope: Scope, target: str) -> None:
    assert await _refused(house, OPERATOR, scope=scope, target=target) is ReasonCode.FORBIDDEN
    assert house.log.kinds() == []
    assert (await _killed(house, replace(OPERATOR, tenants_all=True), scope=scope, target=target)).is_drained


async def test_operator_kills_its_own_tenant_and_no_other(house: House) -> None:
    assert await _refused(house, OPERATOR, scope=Scope.TENANT, target="other") is ReasonCode.FORBIDDEN
    assert (await _killed(house, OPERATOR, scope=Scope.TENANT, target="default")).is_drained


@pytest.mark.parametrize(("scope", "target"), SCOPES[:2])
async def test_kill_does_not_touch_the_same_name_in_another_tenant(house: House, scope: Scope, target: str) -> None:
    stranger = replace(OPERATOR, tenant=TenantId("other"))
    running = await house.running()
    drain = await _killed(house, stranger, scope=scope, target=target)
    assert drain.kill.tenant == "other"
    assert drain.acks["m-1"].cancelled == 0
    house.upstream.let_go()
    assert (await running).success


async def test_kills_of_other_tenants_are_not_shown_and_cannot_be_released(house: House) -> None:
    drain = await _killed(house)
    stranger = replace(principal("eve", Role.ADMIN, person=True), tenant=TenantId("other"))
    assert house.containment.in_force(stranger) == []
    assert await house.containment.progress(stranger, drain.kill.id) is None
    assert await house.containment.progress(principal("op", Role.OPERATOR), drain.kill.id) is not None
    refused = await house.containment.release(stranger, drain.kill.id)
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.NOT_FOUND
    assert house.containment.in_force(ADMIN) == [drain.kill]


async def test_admin_of_one_tenant_does_not_release_what_stops_all(house: House) -> None:
    drain = await _killed(house, scope=Scope.GLOBAL, target="")
    small = principal("small", Role.ADMIN, person=True)
    refused = await house.containment.release(small, drain.kill.id)
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.FORBIDDEN
    assert isinstance(await house.containment.release_global(small), Refused)
    assert _is_active(house, drain.kill.id)


@pytest.mark.parametrize(("scope", "target"), [(Scope.TOOL, "db_query"), (Scope.SERVER, "demo"), (Scope.GLOBAL, "")])
async def test_why_all_are_stopped_and_what_that_cut_is_told_to_nobody_of_one_tenant(
    house: House, scope: Scope, target: str
) -> None:
    """That it is in force, what it stops, since when and how far it has come is told to everybody whom it stops."""
    drain = await _killed_but_for_a_silent_member(house, scope=scope, target=target, reason="bot leaks in s-1")
    stranger = replace(OPERATOR, tenant=TenantId("other"))
    told = replace(drain.kill, reason="", actor="")
    for viewer in (stranger, OPERATOR):
        assert house.containment.in_force(viewer) == [told]
        seen = await house.containment.progress(viewer, drain.kill.id)
        assert seen == replace(drain, kill=told, running=(), tells_calls=False)
    assert house.containment.in_force(ADMIN) == [drain.kill]
    assert await house.seen(drain.kill) == drain


async def test_why_its_own_are_stopped_is_told_to_a_tenant(house: House) -> None:
    drain = await _killed(house, scope=Scope.TENANT, target="default", reason="owed")
    assert house.containment.in_force(OPERATOR) == [drain.kill]
    seen = await house.containment.progress(OPERATOR, drain.kill.id)
    assert seen is not None
    assert (seen.kill, seen.tells_calls) == (drain.kill, True)


# --- not drained in time --------------------------------------------------------------------------------------------


class _Stubborn(FakeUpstream):
    """Does not let itself be cancelled, once it is stubborn, until it gives up."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stubborn = False
        self.gives_up = asyncio.Event()

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        holds_on = self.is_stubborn
        try:
            return await super().send(grant, credential)
        except asyncio.CancelledError:
            if holds_on:
                await self.gives_up.wait()
            raise


@pytest.fixture
async def house() -> House:
    return House(upstream=_Stubborn())


def _stubborn(house: House) -> _Stubborn:
    assert isinstance(house.upstream, _Stubborn)
    house.upstream.is_stubborn = True
    return house.upstream


async def test_kill_that_does_not_drain_in_time_says_what_runs_and_drains_later(house: House) -> None:
    stubborn = _stubborn(house)
    running = await house.running()
    drain = await house.hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert not drain.is_drained
    assert drain.progress.unheard == ("m-1",)
    assert list(drain.running) == [flight.call.trace_id for flight in house.replica.flights()]
    assert house.log.of(Kind.DRAINED) == []
    stubborn.gives_up.set()
    await running
    drain = await _drained_later(house, drain)
    assert drain.is_drained
    assert not drain.running
    assert house.log.of(Kind.DRAINED)[0]["drained"] is True


async def test_calls_that_a_kill_of_all_waits_for_are_named_to_nobody_of_one_tenant(house: House) -> None:
    stubborn = _stubborn(house)
    running = await house.running()
    drain = await house.hasty.kill(ADMIN, Order(Scope.TOOL, "db_query"))
    assert isinstance(drain, Drain)
    seen = await house.containment.progress(OPERATOR, drain.kill.id)
    assert seen is not None
    assert (seen.running, len((await house.seen(drain.kill)).running)) == ((), 1)
    stubborn.gives_up.set()
    await running


async def test_running_list_shrinks_as_calls_end(house: House) -> None:
    cut = await house.running()
    stubborn = _stubborn(house)
    stuck = await house.running()
    drain = await house.hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    await cut
    assert len((await house.seen(drain.kill)).running) == 1
    stubborn.gives_up.set()
    await stuck


async def test_undrained_kill_is_in_force_all_the_same(house: House) -> None:
    stubborn = _stubborn(house)
    running = await house.running()
    await house.hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    stubborn.gives_up.set()
    await running


async def test_member_that_does_not_acknowledge_keeps_a_kill_undrained(house: House) -> None:
    drain = await _killed_but_for_a_silent_member(house)
    assert drain.members == ("m-1", "m-2")
    assert drain.progress.unheard == ("m-2",)
    assert house.log.of(Kind.DRAINED) == []


# --- when things are down -----------------------------------------------------------------------------------------


async def test_log_down_refuses_the_kill_but_cuts_what_runs(house: House) -> None:
    running = await house.running()
    house.log.is_down = True
    with pytest.raises(LogUnavailable):
        await house.containment.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    answer = await asyncio.wait_for(running, 5)
    assert house.upstream.cancelled == 1
    assert answer.result_json is None
    assert not (await house.gate.pass_through(a_call())).success, "nothing new runs without the log either"


async def test_acknowledgement_is_written_when_the_log_is_back(house: House) -> None:
    def refuse_acks(event: Event) -> None:
        if event.kind is Kind.ACKED:
            raise LogUnavailable("told to fail")

    house.log.on_append = refuse_acks
    drain = await house.hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert not drain.is_drained, "what is not said is not drained"
    house.log.on_append = lambda _: None
    assert (await _drained_later(house, drain)).is_drained


async def test_fast_path_down_still_drains_and_is_repaired_by_the_next_heartbeat(house: House) -> None:
    running = await house.running()
    house.admission.is_down = True
    drain = await _killed(house)
    assert drain.is_drained
    assert (await running).reason_code is ReasonCode.KILLED
    house.admission.is_down = False
    assert house.admission.state is not None
    assert house.admission.state.position == 0
    await house.beat()
    assert house.admission.state.position == 1
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED


async def test_fast_path_that_lost_a_flag_but_not_its_position_lets_nothing_through(house: House) -> None:
    drain = await _killed(house)
    assert house.admission.state is not None
    house.admission.state = KillState(house.admission.state.position, {})
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    assert house.upstream.sent == []
    assert house.log.of(Kind.DECIDED)[0]["reason_code"] == "killed"
    assert drain.is_drained


async def test_kill_that_persisted_although_it_seemed_to_fail_is_not_jumped_over(house: House) -> None:
    """The next kill's position is two ahead: taking only that one over would leave the first without effect."""
    house.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await house.containment.kill(ADMIN, Order(Scope.SESSION, "s-1", kill_id=KillId("k-1")))
    await _killed(house, target="another")
    assert house.replica.position == 2
    assert _is_active(house, "k-1")
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED


async def test_kill_that_seemed_to_fail_is_carried_out_when_it_is_repeated(house: House) -> None:
    order = Order(Scope.SESSION, "s-1", reason="because", kill_id=KillId("k-1"))
    house.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await house.containment.kill(ADMIN, order)
    stubborn = _stubborn(house)
    running = await _running_although_killed(house)
    drain = await house.hasty.kill(ADMIN, order)
    assert isinstance(drain, Drain)
    assert not drain.is_drained, "a covered call is still running"
    stubborn.gives_up.set()
    await running
    assert (await _drained_later(house, drain)).is_drained
    assert house.log.kinds().count("killed") == 1


async def _running_although_killed(house: House) -> asyncio.Task[Answer]:
    """A call that began before the kill was read from the log: its decision's receipt is put back by one."""
    position, house.log.position = house.log.position, 0
    task = await house.running()
    house.log.position = position
    return task


async def test_kill_that_seemed_to_fail_is_in_force_after_the_next_heartbeat(house: House) -> None:
    house.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await house.containment.kill(ADMIN, Order(Scope.GLOBAL, ""))
    await house.beat()
    assert [kill.scope for kill in house.containment.in_force(ADMIN)] == [Scope.GLOBAL]


# --- the same id ------------------------------------------------------------------------------------------------------


async def test_same_id_and_body_is_one_kill(house: House) -> None:
    order: dict[str, Any] = {"kill_id": KillId("k-1"), "reason": "loops", "expires_in_s": 60}
    one = await _killed(house, **order)
    house.clock.move(5)
    again = await _killed(house, **order)
    assert (again.kill, again.receipt) == (one.kill, one.receipt)
    assert house.log.kinds().count("killed") == 1


@pytest.mark.parametrize(
    "other",
    [
        {"target": "s-2"},
        {"scope": Scope.AGENT, "target": "bot"},
        {"reason": "another"},
        {"expires_in_s": None},
        {"expires_in_s": 61 * 60},
    ],
)
async def test_same_id_with_another_body_is_a_conflict(house: House, other: dict[str, Any]) -> None:
    order: dict[str, Any] = {"kill_id": KillId("k-1"), "reason": "loops", "expires_in_s": 60}
    await _killed(house, **order)
    assert await _refused(house, **{**order, **other}) is ReasonCode.CONFLICT
    assert house.log.kinds().count("killed") == 1


async def test_an_id_of_another_tenants_kill_is_free(house: House) -> None:
    """Nobody can take it before, and nobody is told that it is taken."""
    evil = replace(OPERATOR, tenant=TenantId("evil"))
    taken = await _killed(house, evil, target="nobody", kill_id=KillId("incident-7"))
    order: dict[str, Any] = {"scope": Scope.AGENT, "target": "bot", "kill_id": KillId("incident-7")}
    everybodys = await _killed(house, replace(OPERATOR, tenants_all=True), **order)
    mine = await _killed(house, OPERATOR, **order)
    assert [drain.kill.id for drain in (taken, everybodys, mine)] == [
        "evil~incident-7", "incident-7", "default~incident-7",
    ]  # fmt: skip
    assert (await _killed(house, OPERATOR, **order)).kill == mine.kill, "the same order again is the same kill"
    assert await _refused(house, OPERATOR, **{**order, "target": "other"}) is ReasonCode.CONFLICT
    for viewer, name, found in (
        (OPERATOR, "incident-7", everybodys),
        (OPERATOR, "default~incident-7", mine),
        (evil, "incident-7", taken),
        (ADMIN, "incident-7", everybodys),
        (ADMIN, "evil~incident-7", taken),
    ):
        seen = await house.containment.progress(viewer, name)
        assert seen is not None
        assert seen.kill == found.kill
    assert await house.containment.progress(evil, "default~incident-7") is None
    assert await house.containment.release(OPERATOR, "incident-7") == everybodys.kill, "what is listed is what is meant"
    assert await house.containment.release(OPERATOR, "incident-7") == mine.kill, "the one that is in force still"
    assert isinstance(await house.containment.release(OPERATOR, "incident-7"), Refused)
    seen = await house.containment.progress(OPERATOR, "incident-7")
    assert seen is not None
    assert seen.kill == everybodys.kill
    assert _is_active(house, "evil~incident-7")


async def test_an_id_of_ones_own_hides_no_other_kill(house: House) -> None:
    listed = await _killed(house)
    shadow = await _killed(house, OPERATOR, target="zzz", kill_id=listed.kill.id)
    await house.containment.release(OPERATOR, shadow.kill.id)
    seen = await house.containment.progress(OPERATOR, listed.kill.id)
    assert seen is not None
    assert seen.kill == listed.kill
    assert await house.containment.release(OPERATOR, listed.kill.id) == listed.kill


async def test_id_of_a_released_kill_is_a_conflict(house: House) -> None:
    drain = await _killed(house, kill_id=KillId("k-1"))
    await house.containment.release(ADMIN, drain.kill.id)
    assert await _refused(house, kill_id=KillId("k-1")) is ReasonCode.CONFLICT


async def test_parallel_kills_of_one_id_make_one(house: House) -> None:
    drains = await asyncio.gather(*(_killed(house, kill_id=KillId("k-1")) for _ in range(30)))
    assert len({(drain.kill, drain.receipt) for drain in drains}) == 1
    assert house.log.kinds().count("killed") == 1
    assert house.log.kinds().count("drained") == 1


async def test_kills_without_an_id_are_as_many_kills(house: House) -> None:
    drains = await asyncio.gather(*(_killed(house) for _ in range(5)))
    assert len({drain.kill.id for drain in drains}) == 5
    assert all(drain.is_drained for drain in drains)


async def test_kill_read_from_the_log_after_a_restart_is_known_by_its_id(house: House) -> None:
    await _killed(house, kill_id=KillId("k-1"), reason="because")
    fresh = House(log=house.log, entropy=house.entropy, member="m-2", has_joined=False)
    await fresh.membership.join(None)
    drain = await fresh.containment.kill(ADMIN, Order(Scope.SESSION, "s-1", "because", KillId("k-1")))
    assert isinstance(drain, Drain)
    assert drain.is_drained
    assert house.log.kinds().count("killed") == 1


# --- release ----------------------------------------------------------------------------------------------------------


async def test_release_lets_new_calls_through_and_is_on_record(house: House) -> None:
    drain = await _killed(house)
    released = await house.containment.release(ADMIN, drain.kill.id)
    assert isinstance(released, Kill)
    assert (await house.gate.pass_through(a_call())).success
    event = house.log.of(Kind.RELEASED)[0]
    assert (event["principal"], event["why"], event["forced"]) == ("person:admin", "release", False)


async def test_release_never_revives_a_cut_call(house: House) -> None:
    """The cut call is still being torn down while its kill is released."""
    stubborn = _stubborn(house)
    running = await house.running()
    drain = await house.hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert isinstance(await house.hasty.release(ADMIN, drain.kill.id, force=True), Kill)
    house.upstream.let_go()
    stubborn.gives_up.set()
    answer = await running
    assert answer.reason_code is ReasonCode.KILLED
    assert answer.result_json is None


async def test_call_that_was_cut_before_it_was_sent_is_not_sent_after_a_release(house: House) -> None:
    def kill_and_release(_: object) -> object:
        kill = a_kill(position=1)
        house.replica.advance(given(kill))
        house.replica.advance(ended(kill, 2))
        return ALLOW

    house.engine.answer = kill_and_release
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.KILLED
    assert house.upstream.sent == []


async def test_undrained_kill_is_released_only_with_force_which_its_event_says(house: House) -> None:
    stubborn = _stubborn(house)
    running = await house.running()
    drain = await house.hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    refused = await house.hasty.release(ADMIN, drain.kill.id)
    assert isinstance(refused, Refused)
    assert (refused.reason, house.log.of(Kind.RELEASED)) == (ReasonCode.CONFLICT, [])
    assert isinstance(await house.hasty.release(ADMIN, drain.kill.id, force=True), Kill)
    assert house.log.of(Kind.RELEASED)[0]["forced"] is True
    stubborn.gives_up.set()
    await running


async def test_release_of_what_is_not_in_force_is_not_found(house: House) -> None:
    drain = await _killed(house)
    assert isinstance(await house.containment.release(ADMIN, drain.kill.id), Kill)
    for kill_id in (drain.kill.id, "kill-nobody"):
        refused = await house.containment.release(ADMIN, kill_id)
        assert isinstance(refused, Refused)
        assert refused.reason is ReasonCode.NOT_FOUND


async def test_parallel_releases_are_one_event(house: House) -> None:
    drain = await _killed(house)
    await asyncio.gather(*(house.containment.release(ADMIN, drain.kill.id) for _ in range(10)))
    assert len(house.log.of(Kind.RELEASED)) == 1
    assert not _is_active(house, drain.kill.id)


async def test_scope_stays_dead_while_another_kill_is_on_it(house: House) -> None:
    one, two = await _killed(house), await _killed(house)
    await house.containment.release(ADMIN, one.kill.id)
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    await house.containment.release(ADMIN, two.kill.id)
    assert (await house.gate.pass_through(a_call())).success


async def test_release_without_the_log_releases_nothing(house: House) -> None:
    drain = await _killed(house)
    house.log.fail_next("append")
    with pytest.raises(LogUnavailable):
        await house.containment.release(ADMIN, drain.kill.id)
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED


async def test_release_that_persisted_although_it_seemed_to_fail_takes_effect_when_repeated(house: House) -> None:
    drain = await _killed(house, scope=Scope.GLOBAL, target="")
    house.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await house.containment.release(ADMIN, drain.kill.id)
    assert isinstance(await house.containment.release(ADMIN, drain.kill.id), Kill)
    assert not _is_active(house, drain.kill.id)
    assert (await house.gate.pass_through(a_call())).success


async def test_release_does_not_jump_over_a_kill_that_was_missed(house: House) -> None:
    known = await _killed(house, target="another")
    house.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await house.containment.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    await house.containment.release(ADMIN, known.kill.id)
    assert house.replica.position == 3
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED


async def test_release_global_releases_pauses_and_nothing_else(house: House) -> None:
    session = await _killed(house, target="s-9")
    pauses = [await _killed(house, scope=Scope.GLOBAL, target="") for _ in range(2)]
    released = await house.containment.release_global(ADMIN)
    assert isinstance(released, list)
    assert {kill.id for kill in released} == {drain.kill.id for drain in pauses}
    assert house.containment.in_force(ADMIN) == [session.kill]
    assert (await house.gate.pass_through(a_call())).success


async def test_release_global_of_an_undrained_pause_needs_force(house: House) -> None:
    await _killed_but_for_a_silent_member(house, scope=Scope.GLOBAL, target="")
    refused = await house.containment.release_global(ADMIN)
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.CONFLICT
    assert isinstance(await house.containment.release_global(ADMIN, force=True), list)


async def test_release_global_with_nothing_paused_is_nothing(house: House) -> None:
    assert await house.containment.release_global(ADMIN) == []


# --- a release that needs several persons ---------------------------------------------------------------------------

BEA = replace(ADMIN, name=AgentId("bea"))


@pytest.fixture
def strict() -> House:
    return House(rules=Rules(release_quorum=2))


async def _pending(house: House, actor: Principal, kill: Kill, *, force: bool = False) -> ReleasePending:
    pending = await house.containment.release(actor, kill.id, force=force)
    assert isinstance(pending, ReleasePending), pending
    return pending


async def test_release_waits_for_as_many_different_persons_as_configured(strict: House) -> None:
    kill = (await _killed(strict)).kill
    assert await _pending(strict, ADMIN, kill) == ReleasePending(kill, ("person:admin",), 2)
    assert (await strict.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    assert await strict.containment.release(BEA, kill.id) == kill
    assert (await strict.gate.pass_through(a_call())).success
    assert [event["principal"] for event in strict.log.of(Kind.RELEASE_ASKED)] == ["person:admin", "person:bea"]
    event = strict.log.of(Kind.RELEASED)[0]
    assert (event["principal"], event["asked_by"]) == ("person:bea", ["person:admin", "person:bea"])


async def test_same_person_asking_twice_is_one_person(strict: House) -> None:
    kill = (await _killed(strict)).kill
    for _ in range(3):
        assert (await _pending(strict, ADMIN, kill)).asked_by == ("person:admin",)
    assert len(strict.log.of(Kind.RELEASE_ASKED)) == 1
    assert strict.log.of(Kind.RELEASED) == []


async def test_key_of_an_agent_is_no_person(strict: House) -> None:
    kill = (await _killed(strict)).kill
    refused = await strict.containment.release(replace(principal("robot", Role.ADMIN), tenants_all=True), kill.id)
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.FORBIDDEN
    assert strict.log.of(Kind.RELEASE_ASKED) == []


async def test_who_asked_for_one_kill_has_not_asked_for_another(strict: House) -> None:
    await _pending(strict, ADMIN, (await _killed(strict)).kill)
    await _pending(strict, BEA, (await _killed(strict, target="s-2")).kill)
    assert strict.log.of(Kind.RELEASED) == []


async def test_persons_may_ask_at_different_members(strict: House) -> None:
    kill = (await _killed(strict)).kill
    other = await strict.another("m-2")
    await _pending(strict, ADMIN, kill)
    assert await other.containment.release(BEA, kill.id) == kill


async def test_undrained_kill_is_not_even_asked_about_without_force(strict: House) -> None:
    kill = (await _killed_but_for_a_silent_member(strict)).kill
    refused = await strict.containment.release(ADMIN, kill.id)
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.CONFLICT
    await _pending(strict, ADMIN, kill, force=True)
    assert await strict.containment.release(BEA, kill.id, force=True) == kill


async def test_resume_of_a_pause_waits_for_as_many_persons(strict: House) -> None:
    pauses = [(await _killed(strict, scope=Scope.GLOBAL, target="")).kill for _ in range(2)]
    pending = await strict.containment.release_global(ADMIN)
    assert isinstance(pending, ReleasePending)
    assert pending.asked_by == ("person:admin",)
    assert strict.containment.in_force(ADMIN) == pauses
    assert await strict.containment.release_global(BEA) == pauses
    assert (await strict.gate.pass_through(a_call())).success


async def test_kill_expires_without_anybody_asking(strict: House) -> None:
    await _killed(strict, expires_in_s=60)
    strict.clock.move(60)
    await strict.upkeep.tick()
    assert strict.log.of(Kind.RELEASED)[0]["why"] == "expiry"


# --- expiry ---------------------------------------------------------------------------------------------------------


async def test_kill_expires_by_an_event_of_its_own(house: House) -> None:
    drain = await _killed(house, expires_in_s=60)
    house.clock.move(59)
    await house.upkeep.tick()
    assert _is_active(house, drain.kill.id)
    house.clock.move(1)
    await house.upkeep.tick()
    assert not _is_active(house, drain.kill.id)
    assert house.log.of(Kind.RELEASED)[0]["why"] == "expiry"
    assert (await house.gate.pass_through(a_call())).success


async def test_kills_that_end_at_once_are_released_each_by_nobody(house: House) -> None:
    for target in ("s-1", "s-2"):
        await _killed(house, target=target, expires_in_s=60)
    house.clock.move(60)
    assert await house.containment.release_expired() == 2
    assert [(event["why"], "principal" in event) for event in house.log.of(Kind.RELEASED)] == [("expiry", False)] * 2


async def test_undrained_kill_does_not_expire(house: House) -> None:
    drain = await _killed_but_for_a_silent_member(house, expires_in_s=60)
    house.clock.move(3600)
    await house.upkeep.tick()
    assert _is_active(house, drain.kill.id)
    assert house.log.of(Kind.RELEASED) == []


async def test_expired_kills_that_wait_for_a_silent_member_are_looked_at_together(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a second, and any number may wait."""
    looks: list[str] = []
    projection = house.log.projection

    async def counted(name: str, **where: Any) -> list[dict[str, Any]]:
        looks.append(name)
        return await projection(name, **where)

    drain = await _killed_but_for_a_silent_member(house, expires_in_s=60)
    for number in range(5):
        await house.hasty.kill(ADMIN, Order(Scope.SESSION, f"s-{number}", expires_in_s=60))
    house.clock.move(3600)
    monkeypatch.setattr(house.log, "projection", counted)
    assert await house.containment.release_expired() == 0
    assert looks == ["kills"]
    assert _is_active(house, drain.kill.id)


async def test_clock_that_goes_back_revives_nothing(house: House) -> None:
    drain = await _killed(house, expires_in_s=60)
    house.clock.move(-3600)
    await house.upkeep.tick()
    assert _is_active(house, drain.kill.id)


async def test_kill_expires_only_after_its_receipt(house: House) -> None:
    """That everybody has acknowledged is not yet on record: the receipt comes first, in the same round."""
    house.kill_elsewhere(a_kill(expires_at=house.clock.now()))
    await house.beat()
    await until(lambda: house.log.of(Kind.ACKED))
    await house.upkeep.tick()
    assert house.log.kinds() == ["killed", "acked", "drained", "released"]


# --- what is shown ----------------------------------------------------------------------------------------------------


async def test_tools_of_a_killed_caller_are_dead_whatever_the_session(house: House) -> None:
    caller = principal()
    assert not house.containment.kills_tool(caller, "db_query", "demo")
    for scope, target in SCOPES[1:]:
        fresh = House()
        await _killed(fresh, scope=scope, target=target)
        assert fresh.containment.kills_tool(caller, "db_query", "demo"), scope
    await _killed(house, scope=Scope.SESSION, target="s-1")
    assert not house.containment.kills_tool(caller, "db_query", "demo")


async def test_kill_that_nobody_gave_is_not_shown(house: House) -> None:
    assert await house.containment.progress(ADMIN, "kill-x") is None
    assert house.containment.in_force(ADMIN) == []
