"""Kill and release: drained means that nothing covered runs, and a release gives back nothing that was cut."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.call import Principal, Role, TenantId
from agentgate.core.containment import Kill, KillId, Scope
from agentgate.core.decision import Grant
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Event, Kind
from agentgate.pipeline.control import Containment, Drain, Order, Refused
from agentgate.pipeline.gate import Answer
from agentgate.ports import Credential, Delivered, Undelivered
from tests.fakes import ADMIN, ALLOW, FakeEntropy, FakeUpstream, a_call, a_kill, principal
from tests.pipeline.conftest import House

OPERATOR = principal("op", Role.OPERATOR, person=True)

SCOPES = [
    (Scope.SESSION, "s-1"),
    (Scope.AGENT, "bot"),
    (Scope.TOOL, "db_query"),
    (Scope.SERVER, "demo"),
    (Scope.TENANT, "default"),
    (Scope.GLOBAL, ""),
]


async def _running(house: House, **call: Any) -> asyncio.Task[Answer]:
    house.upstream.hold()
    house.upstream.started.clear()
    task = asyncio.create_task(house.gate.pass_through(a_call(**call)))
    await house.upstream.started.wait()
    return task


async def _killed(house: House, actor: Principal = ADMIN, **order: Any) -> Drain:
    drain = await house.containment.kill(actor, Order(**{"scope": Scope.SESSION, "target": "s-1", **order}))
    assert isinstance(drain, Drain), drain
    return drain


async def _refused(house: House, actor: Principal = ADMIN, **order: Any) -> ReasonCode:
    refused = await house.containment.kill(actor, Order(**{"scope": Scope.SESSION, "target": "s-1", **order}))
    assert isinstance(refused, Refused), refused
    return refused.reason


def _hasty(house: House) -> Containment:
    """A containment that waits for nobody, so that a kill which cannot drain yet answers at once."""
    return Containment(
        replica=house.replica,
        recorder=house.recorder,
        reader=house.log,
        admission=house.admission,
        clock=house.clock,
        entropy=FakeEntropy(),
        meter=house.meter,
        notifier=house.notifier,
        drain_timeout_s=0.001,
    )


def _is_drained(drain: Drain) -> bool:
    return drain.is_drained


async def _until(what: Any) -> None:
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110 - what is waited for is a field, and nobody announces it
            await asyncio.sleep(0.001)


# --- kill -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "target"), SCOPES)
async def test_kill_of_each_scope_drains_cuts_and_refuses_what_comes(house: House, scope: Scope, target: str) -> None:
    running = await _running(house)
    drain = await _killed(house, scope=scope, target=target)
    assert _is_drained(drain)
    assert (await running).reason_code is ReasonCode.KILLED
    assert drain.acks["m-1"].cancelled == 1
    assert drain.running == ()
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.KILLED
    assert len(house.upstream.sent) == 1


async def test_kill_receipt_counts_how_its_calls_ended(house: House) -> None:
    """Three running calls are cut; one of another session runs on."""
    others = await _running(house, session="s-2")
    cut = [await _running(house) for _ in range(3)]
    drain = await _killed(house)
    ack = drain.acks["m-1"]
    assert (ack.cancelled, ack.finished, ack.unknown) == (3, 0, 0)
    assert {(await task).reason_code for task in cut} == {ReasonCode.KILLED}
    assert not others.done()
    house.upstream.let_go()
    assert (await others).success


async def test_kill_is_on_record_before_anything_is_cut_and_its_receipt_after(house: House) -> None:
    running = await _running(house)
    drain = await _killed(house, reason="loops")
    await running
    assert house.log.kinds() == ["decided", "killed", "finished", "acked", "drained"]
    assert house.log.of(Kind.DRAINED)[0]["drained"] is True
    assert house.log.of(Kind.ACKED)[0]["position"] == drain.receipt.kill_position == 1
    assert drain.receipt_event == house.log.of(Kind.DRAINED)[0]["id"]
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
    assert _is_drained(drain)
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
    running = await _running(house)
    drain = await _killed(house, stranger, scope=scope, target=target)
    assert drain.kill.tenant == "other"
    assert drain.acks["m-1"].cancelled == 0
    house.upstream.let_go()
    assert (await running).success


async def test_kills_of_other_tenants_are_not_shown_and_cannot_be_released(house: House) -> None:
    drain = await _killed(house)
    stranger = replace(principal("eve", Role.ADMIN, person=True), tenant=TenantId("other"))
    assert house.containment.in_force(stranger) == []
    assert house.containment.progress(stranger, drain.kill.id) is None
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
    assert house.containment.is_active(drain.kill.id)


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
    containment = _hasty(house)
    running = await _running(house)
    drain = await containment.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert not _is_drained(drain)
    assert drain.unheard == ["m-1"]
    assert list(drain.running) == [flight.call.trace_id for flight in house.replica.flights()]
    assert house.log.of(Kind.DRAINED) == []
    stubborn.gives_up.set()
    await running
    await _until(lambda: drain.receipt_event)
    progress = containment.progress(ADMIN, drain.kill.id)
    assert progress is not None
    assert progress[1] is drain
    assert _is_drained(drain)
    assert not drain.running
    assert house.log.of(Kind.DRAINED)[0]["drained"] is True


async def test_running_list_shrinks_as_calls_end(house: House) -> None:
    containment = _hasty(house)
    cut = await _running(house)
    stubborn = _stubborn(house)
    stuck = await _running(house)
    drain = await containment.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    await cut
    assert containment.progress(ADMIN, drain.kill.id)
    assert len(drain.running) == 1
    stubborn.gives_up.set()
    await stuck


async def test_undrained_kill_is_in_force_all_the_same(house: House) -> None:
    stubborn = _stubborn(house)
    containment = _hasty(house)
    running = await _running(house)
    await containment.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    stubborn.gives_up.set()
    await running


async def test_member_that_does_not_acknowledge_keeps_a_kill_undrained(house: House) -> None:
    house.log.members = ["m-1", "m-2"]
    drain = await _killed(house)
    assert drain.members == ("m-1", "m-2")
    assert drain.unheard == ["m-2"]
    assert house.log.of(Kind.DRAINED) == []


# --- when things are down -----------------------------------------------------------------------------------------


async def test_log_down_refuses_the_kill_but_cuts_what_runs(house: House) -> None:
    running = await _running(house)
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
    drain = await _hasty(house).kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert not _is_drained(drain), "what is not said is not drained"
    house.log.on_append = lambda _: None
    await _until(lambda: drain.receipt_event)
    assert _is_drained(drain)


async def test_fast_path_down_still_drains_and_is_repaired_by_the_next_tick(house: House) -> None:
    running = await _running(house)
    house.admission.is_down = True
    drain = await _killed(house)
    assert _is_drained(drain)
    assert (await running).reason_code is ReasonCode.KILLED
    house.admission.is_down = False
    assert house.admission.state is not None
    assert house.admission.state.position == 0
    await house.upkeep.tick()
    assert house.admission.state.position == 1
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED


async def test_fast_path_that_lost_a_flag_but_not_its_position_lets_nothing_through(house: House) -> None:
    drain = await _killed(house)
    assert house.admission.state is not None
    house.admission.state = replace(house.admission.state, active={})
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
    assert house.upstream.sent == []
    assert house.log.of(Kind.DECIDED)[0]["reason_code"] == "killed"
    assert _is_drained(drain)


async def test_kill_that_persisted_although_it_seemed_to_fail_is_not_jumped_over(house: House) -> None:
    """The next kill's position is two ahead: taking only that one over would leave the first without effect."""
    house.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await house.containment.kill(ADMIN, Order(Scope.SESSION, "s-1", kill_id=KillId("k-1")))
    await _killed(house, target="another")
    assert house.replica.position == 2
    assert house.containment.is_active("k-1")
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED


async def test_kill_that_seemed_to_fail_is_carried_out_when_it_is_repeated(house: House) -> None:
    order = Order(Scope.SESSION, "s-1", reason="because", kill_id=KillId("k-1"))
    house.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await house.containment.kill(ADMIN, order)
    stubborn = _stubborn(house)
    containment = _hasty(house)
    running = await _running_although_killed(house)
    drain = await containment.kill(ADMIN, order)
    assert isinstance(drain, Drain)
    assert not _is_drained(drain), "a covered call is still running"
    stubborn.gives_up.set()
    await running
    await _until(lambda: drain.is_drained)
    assert house.log.kinds().count("killed") == 1


async def _running_although_killed(house: House) -> asyncio.Task[Answer]:
    """A call that began before the kill was read from the log: its decision's receipt is put back by one."""
    position, house.log.position = house.log.position, 0
    task = await _running(house)
    house.log.position = position
    return task


async def test_kill_that_seemed_to_fail_is_in_force_after_the_next_tick(house: House) -> None:
    house.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await house.containment.kill(ADMIN, Order(Scope.GLOBAL, ""))
    await house.upkeep.tick()
    assert [kill.scope for kill in house.containment.in_force(ADMIN)] == [Scope.GLOBAL]


# --- the same id ------------------------------------------------------------------------------------------------------


async def test_same_id_and_body_is_one_kill(house: House) -> None:
    order: dict[str, Any] = {"kill_id": KillId("k-1"), "reason": "loops", "expires_in_s": 60}
    one = await _killed(house, **order)
    house.clock.move(5)
    assert await _killed(house, **order) is one
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


async def test_id_of_a_released_kill_is_a_conflict(house: House) -> None:
    drain = await _killed(house, kill_id=KillId("k-1"))
    await house.containment.release(ADMIN, drain.kill.id)
    assert await _refused(house, kill_id=KillId("k-1")) is ReasonCode.CONFLICT


async def test_parallel_kills_of_one_id_make_one(house: House) -> None:
    drains = await asyncio.gather(*(_killed(house, kill_id=KillId("k-1")) for _ in range(30)))
    assert len({id(drain) for drain in drains}) == 1
    assert house.log.kinds().count("killed") == 1
    assert house.log.kinds().count("drained") == 1


async def test_kills_without_an_id_are_as_many_kills(house: House) -> None:
    drains = await asyncio.gather(*(_killed(house) for _ in range(5)))
    assert len({drain.kill.id for drain in drains}) == 5
    assert all(drain.is_drained for drain in drains)


async def test_kill_read_from_the_log_after_a_restart_is_known_by_its_id(house: House) -> None:
    await _killed(house, kill_id=KillId("k-1"), reason="because")
    fresh = House(log=house.log)
    await fresh.upkeep.join()
    drain = await fresh.containment.kill(ADMIN, Order(Scope.SESSION, "s-1", "because", KillId("k-1")))
    assert isinstance(drain, Drain)
    assert _is_drained(drain)
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
    containment = _hasty(house)
    running = await _running(house)
    drain = await containment.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert isinstance(await containment.release(ADMIN, drain.kill.id, force=True), Kill)
    house.upstream.let_go()
    stubborn.gives_up.set()
    answer = await running
    assert answer.reason_code is ReasonCode.KILLED
    assert answer.result_json is None


async def test_call_that_was_cut_before_it_was_sent_is_not_sent_after_a_release(house: House) -> None:
    def kill_and_release(_: object) -> object:
        kill = a_kill(position=1)
        house.replica.apply(house.replica.with_kill(kill))
        house.replica.apply(house.replica.without_kill(kill.id, 2))
        return ALLOW

    house.engine.answer = kill_and_release
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.KILLED
    assert house.upstream.sent == []


async def test_undrained_kill_is_released_only_with_force_which_its_event_says(house: House) -> None:
    stubborn = _stubborn(house)
    containment = _hasty(house)
    running = await _running(house)
    drain = await containment.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    refused = await containment.release(ADMIN, drain.kill.id)
    assert isinstance(refused, Refused)
    assert (refused.reason, house.log.of(Kind.RELEASED)) == (ReasonCode.CONFLICT, [])
    assert isinstance(await containment.release(ADMIN, drain.kill.id, force=True), Kill)
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
    assert not house.containment.is_active(drain.kill.id)


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
    assert not house.containment.is_active(drain.kill.id)
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
    house.log.members = ["m-1", "m-2"]
    await _killed(house, scope=Scope.GLOBAL, target="")
    refused = await house.containment.release_global(ADMIN)
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.CONFLICT
    assert isinstance(await house.containment.release_global(ADMIN, force=True), list)


async def test_release_global_with_nothing_paused_is_nothing(house: House) -> None:
    assert await house.containment.release_global(ADMIN) == []


# --- expiry ---------------------------------------------------------------------------------------------------------


async def test_kill_expires_by_an_event_of_its_own(house: House) -> None:
    drain = await _killed(house, expires_in_s=60)
    house.clock.move(59)
    await house.upkeep.tick()
    assert house.containment.is_active(drain.kill.id)
    house.clock.move(1)
    await house.upkeep.tick()
    assert not house.containment.is_active(drain.kill.id)
    assert house.log.of(Kind.RELEASED)[0]["why"] == "expiry"
    assert (await house.gate.pass_through(a_call())).success


async def test_undrained_kill_does_not_expire(house: House) -> None:
    house.log.members = ["m-1", "m-2"]
    drain = await _killed(house, expires_in_s=60)
    house.clock.move(3600)
    await house.upkeep.tick()
    assert house.containment.is_active(drain.kill.id)
    assert house.log.of(Kind.RELEASED) == []


async def test_clock_that_goes_back_revives_nothing(house: House) -> None:
    drain = await _killed(house, expires_in_s=60)
    house.clock.move(-3600)
    await house.upkeep.tick()
    assert house.containment.is_active(drain.kill.id)


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
    assert house.containment.progress(ADMIN, "kill-x") is None
    assert house.containment.in_force(ADMIN) == []
