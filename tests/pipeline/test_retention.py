"""The retention desk: what goes, what stays, and what is said when nothing can go."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentgate.core.call import MemberId, Principal, Role
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Event, Kind, make, rfc3339
from agentgate.core.events.kills import killed
from agentgate.core.retention import Hold, Rule
from agentgate.pipeline.records.pruning import EVERY_S, FIRST_AFTER_S, SESSIONS_PER_ORDER, Keeping, Pruned
from agentgate.pipeline.records.record import Recorder
from agentgate.pipeline.records.retention import HoldOrder, PruneOrder, RetentionDesk
from tests.fakes import ADMIN, REDACTOR, FakeClock, FakeEntropy, MemoryLog, NullMeter, a_kill, principal

DAY = 86_400
AUDITOR = principal("ann", Role.AUDITOR, person=True)
OF_B = principal("bea", Role.ADMIN, tenant="b", person=True)


class Office:
    """A desk on ports in memory, and a log with a past."""

    def __init__(self, **keeping: Any) -> None:
        self.log = MemoryLog()
        self.clock = FakeClock()
        self.meter = NullMeter()
        self.recorder = Recorder(
            self.log, self.clock, FakeEntropy(), member=MemberId("m-1"), version="test", redactor=REDACTOR
        )
        self.keeping = Keeping(**keeping)
        self.desk = self.another()

    def another(self) -> RetentionDesk:
        return RetentionDesk(
            reader=self.log,
            bodies=self.log.bodies,
            recorder=self.recorder,
            clock=self.clock,
            entropy=FakeEntropy(),
            meter=self.meter,
            keeping=self.keeping,
        )

    def call(self, session: str, *, tenant: str = "default", is_open: bool = False) -> None:
        """A call of a session, now; allowed, and ended unless it `is_open`."""
        trace = {"trace_id": f"t-{len(self.log.events)}"}
        about = {"tenant": tenant, "session": session, "principal": "agent:bot"}
        intent = trace | {"decision": "ALLOW", "call_sha256": "c" * 64}
        self.log.append_now(make(self.recorder.origin(), Kind.DECIDED, intent, **about, body=b'{"arguments":{}}'))
        if not is_open:
            self.log.append_now(make(self.recorder.origin(), Kind.FINISHED, trace | {"outcome": "ok"}, **about))

    def busy_until(self, days: float, every: float = 20) -> None:
        """Time passes, and something happens all the while."""
        while days > 0:
            self.clock.move(min(days, every) * DAY)
            self.log.append_now(make(self.recorder.origin(), Kind.REFUSALS, {"refused": 1}))
            days -= every

    def bodies(self, session: str) -> set[int]:
        there = {index for index, (event, _) in enumerate(self.log.events) if event.session == session}
        return {index for index in there - self.log.bodies.gone if self.log.events[index][0].kind is not Kind.PRUNED}

    async def a_day(self) -> None:
        """The daily run, from its beginning to its end."""
        self.clock.ticks += int(EVERY_S * 1e9)
        for _ in range(200):
            await self.desk.step()
            if self.desk._daily._run is None:
                return
        raise AssertionError("it does not end")

    async def prune(self, **order: Any) -> Pruned:
        done = await self.desk.prune(ADMIN, PruneOrder(**order))
        assert isinstance(done, Pruned), done
        return done

    async def refused(self, actor: Principal = ADMIN, **order: Any) -> Refused:
        outcome = await self.desk.prune(actor, PruneOrder(**order))
        assert isinstance(outcome, Refused), outcome
        assert self.log.of(Kind.PRUNED) == []
        return outcome

    async def hold(self, tenant: str = "default", session: str = "", actor: Principal = ADMIN, **more: Any) -> Hold:
        hold = await self.desk.hold(actor, HoldOrder(tenant, session, **{"reason": "a lawsuit", **more}))
        assert isinstance(hold, Hold), hold
        return hold


def aged() -> Office:
    """Session s-old is a year and a month old, s-new a day."""
    office = Office()
    office.call("s-old")
    office.call("s-old")
    office.busy_until(395)
    office.call("s-new")
    office.busy_until(1)
    return office


@pytest.fixture
def office() -> Office:
    return aged()


# --- what goes ---


async def test_the_daily_run_prunes_whole_sessions_and_says_so(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "agentgate.retention")
    await office.a_day()
    assert caplog.messages == ["pruned 4 bodies of 1 sessions"]
    assert (office.bodies("s-old"), len(office.bodies("s-new"))) == (set(), 2)
    (event,) = office.log.of(Kind.PRUNED)
    assert (event["session"], event["why"], event["bodies"], event["through"]) == ("s-old", "retention", 4, 3)
    assert office.meter.counts["pruned_sessions", ""] == 1
    await office.a_day()
    assert len(office.log.of(Kind.PRUNED)) == 1


async def test_nothing_runs_in_the_first_minute_and_then_once_a_day(office: Office) -> None:
    await office.desk.step()
    assert office.log.of(Kind.PRUNED) == []
    office.clock.ticks += int(FIRST_AFTER_S * 1e9)
    for _ in range(20):
        await office.desk.step()
    assert len(office.log.of(Kind.PRUNED)) == 1
    office.call("s-2")
    office.busy_until(366)
    for _ in range(20):
        office.clock.ticks = int((FIRST_AFTER_S + EVERY_S - 2) * 1e9)
        await office.desk.step()
    assert len(office.log.of(Kind.PRUNED)) == 1


async def test_a_session_is_as_old_as_its_last_event(office: Office) -> None:
    office.call("s-old")
    await office.a_day()
    assert len(office.bodies("s-old")) == 6


async def test_a_session_with_an_open_call_stays() -> None:
    office = Office()
    office.call("s-1", is_open=True)
    office.busy_until(400)
    assert (await office.desk.status(ADMIN)).open == 1
    await office.a_day()
    assert len(office.bodies("s-1")) == 1


async def test_without_automatic_only_orders_prune(office: Office) -> None:
    office.keeping = Keeping(automatic=False)
    office.desk = office.another()
    await office.a_day()
    assert office.log.of(Kind.PRUNED) == []
    assert (await office.prune()).sessions == 1


async def test_an_order_prunes_the_same_and_names_who_gave_it(office: Office) -> None:
    done = await office.prune()
    assert (done.sessions, done.bodies, done.following) == (1, 4, None)
    assert office.log.of(Kind.PRUNED)[0]["principal"] == "person:admin"


async def test_a_dry_run_changes_nothing(office: Office) -> None:
    done = await office.prune(dry_run=True)
    assert (done.sessions, done.bodies) == (1, 4)
    assert (office.log.of(Kind.PRUNED), len(office.bodies("s-old"))) == ([], 4)


async def test_a_long_order_goes_on_where_it_stopped() -> None:
    office = Office()
    office.log.bodies.page = 50
    for n in range(SESSIONS_PER_ORDER + 30):
        office.call(f"s-{n:04d}")
    office.busy_until(400)
    first = await office.prune()
    assert first.sessions >= SESSIONS_PER_ORDER
    second = await office.prune(after=first.following)
    assert (first.sessions + second.sessions, second.following) == (SESSIONS_PER_ORDER + 30, None)
    assert len(office.log.of(Kind.PRUNED)) == SESSIONS_PER_ORDER + 30


# --- the floor ---


@pytest.mark.parametrize("order", [{"days": 182}, {"days": 364}, {"days": 0}])
async def test_less_than_the_rule_is_refused_unless_forced(office: Office, order: dict[str, Any]) -> None:
    refused = await office.refused(**order)
    assert refused.reason is ReasonCode.RETENTION_FLOOR
    assert ("183" in refused.detail) is (order["days"] < 183)
    assert office.meter.counts["retention_refused", ""] == 1
    await office.prune(**order, force=True)
    assert office.log.of(Kind.PRUNED)[0]["why"] == "forced"


async def test_before_is_measured_like_days(office: Office) -> None:
    now = office.clock.now()
    assert (await office.refused(before=now - timedelta(days=100))).reason is ReasonCode.RETENTION_FLOOR
    assert (await office.refused(before=now + timedelta(seconds=1), force=True)).reason is ReasonCode.INVALID_REQUEST
    assert (await office.prune(before=now - timedelta(days=380))).sessions == 1


async def test_a_time_long_before_any_event_prunes_nothing(office: Office) -> None:
    """The year 999 has a digit less, and would sort behind."""
    for year in (1, 999, 1969):
        assert (await office.prune(before=datetime(year, 1, 1, tzinfo=UTC))).sessions == 0


async def test_only_an_admin_of_all_tenants_prunes(office: Office) -> None:
    assert (await office.refused(OF_B)).reason is ReasonCode.FORBIDDEN


# --- legal hold ---


@pytest.mark.parametrize(("tenant", "session"), [("", ""), ("default", ""), ("default", "s-old")])
async def test_what_is_held_stays_until_it_is_released(office: Office, tenant: str, session: str) -> None:
    hold = await office.hold(tenant, session)
    assert ((await office.desk.status(ADMIN)).held, (await office.desk.status(ADMIN)).due) == (1, 0)
    await office.a_day()
    assert (await office.prune(days=0, force=True)).held >= 1
    assert len(office.bodies("s-old")) == 4
    assert isinstance(await office.desk.release(ADMIN, hold.id), Hold)
    await office.a_day()
    assert office.bodies("s-old") == set()


async def test_a_hold_that_comes_before_the_prune_in_the_log_wins(office: Office) -> None:
    """It slips in after the desk has looked for holds: the log itself refuses the prune."""
    held_by: list[Event] = []

    def slip_in(event: Event) -> None:
        if event.kind is Kind.PRUNED and not held_by:
            held_by.append(event)
            hold = {"hold_id": "h-late", "of_session": "s-old", "auth": "key"}
            office.log.append_now(make(office.recorder.origin(), Kind.HELD, hold, tenant="default"))

    office.log.on_append = slip_in
    done = await office.prune()
    assert (done.sessions, done.held) == (0, 1)
    assert (office.log.of(Kind.PRUNED), len(office.bodies("s-old"))) == ([], 4)


async def test_a_hold_that_comes_after_the_prune_loses(office: Office) -> None:
    await office.prune()
    await office.hold("default", "s-old")
    await office.a_day()
    assert office.bodies("s-old") == set()


async def test_the_same_hold_twice_is_one(office: Office) -> None:
    one = await office.hold("default", "s-1", id="h-1")
    assert await office.hold("default", "s-1", id="h-1") == one
    other = await office.desk.hold(ADMIN, HoldOrder("default", "s-2", "a lawsuit", "h-1"))
    assert isinstance(other, Refused)
    assert other.reason is ReasonCode.CONFLICT
    await office.desk.release(ADMIN, "h-1")
    again = await office.desk.hold(ADMIN, HoldOrder("default", "s-1", "a lawsuit", "h-1"))
    assert isinstance(again, Refused)
    assert again.reason is ReasonCode.CONFLICT
    assert (len(office.log.of(Kind.HELD)), len(office.log.of(Kind.UNHELD))) == (1, 1)


async def test_an_id_of_another_tenants_hold_is_free(office: Office) -> None:
    theirs = await office.hold("b", actor=OF_B, id="case-7")
    everybodys = await office.hold("", actor=ADMIN, id="case-7")
    mine = await office.hold("default", actor=AUDITOR, id="case-7")
    assert [hold.id for hold in (theirs, everybodys, mine)] == ["b~case-7", "case-7", "default~case-7"]
    assert await office.hold("default", actor=AUDITOR, id="case-7") == mine
    refused = await office.desk.release(AUDITOR, "case-7")
    assert isinstance(refused, Refused), "as it stands it is everybody's"
    assert await office.desk.release(ADMIN, "case-7") == everybodys
    again = await office.desk.release(AUDITOR, "case-7")
    assert isinstance(again, Refused), "it is still what everybody's was called"
    assert again.detail == "no such hold is in force; default~case-7 is another one"
    assert await office.desk.holds(ADMIN) == [theirs, mine]
    assert await office.desk.release(AUDITOR, "default~case-7") == mine
    assert await office.desk.holds(ADMIN) == [theirs]


async def test_a_release_that_is_said_again_ends_no_other_hold(office: Office) -> None:
    """Its first answer may have been lost; what another hold keeps would be pruned, and nobody gets it back."""
    given = await office.hold("default", actor=ADMIN, id="case-7")
    mine = await office.hold("default", actor=AUDITOR, id="case-7")
    assert await office.desk.release(AUDITOR, "case-7") == given
    assert isinstance(await office.desk.release(AUDITOR, "case-7"), Refused)
    assert await office.desk.holds(AUDITOR) == [mine]


async def test_an_id_of_ones_own_will_do_where_nothing_else_is_called_so(office: Office) -> None:
    mine = await office.hold("default", actor=AUDITOR, id="case-7")
    assert isinstance(await office.desk.release(AUDITOR, "case"), Refused)
    assert await office.desk.release(AUDITOR, "case-7") == mine


async def test_holds_are_of_ones_own_tenant(office: Office) -> None:
    everybodys, theirs = await office.hold(""), await office.hold("b")
    assert await office.desk.holds(ADMIN) == [everybodys, theirs]
    without_why = replace(everybodys, reason="", actor="")
    assert await office.desk.holds(AUDITOR) == [without_why], "why it was given may be another tenant's affair"
    assert await office.desk.holds(OF_B) == [without_why, theirs]
    for tenant in ("b", ""):
        refused = await office.desk.hold(AUDITOR, HoldOrder(tenant, "", "no"))
        assert isinstance(refused, Refused)
        assert refused.reason is ReasonCode.FORBIDDEN
    not_found, forbidden = await office.desk.release(AUDITOR, theirs.id), await office.desk.release(OF_B, everybodys.id)
    assert isinstance(not_found, Refused)
    assert isinstance(forbidden, Refused)
    assert (not_found.reason, forbidden.reason) == (ReasonCode.NOT_FOUND, ReasonCode.FORBIDDEN)


async def test_the_reason_of_a_hold_is_redacted_and_kept(office: Office) -> None:
    hold = await office.hold(reason="ask ann@example.org about it")
    assert "ann@example.org" not in hold.reason
    assert (await office.desk.holds(ADMIN))[0].reason == hold.reason
    assert await office.desk.release(ADMIN, hold.id, "case closed")
    assert b"case closed" in office.log.events[-1][0].body


# --- clocks ---


@pytest.mark.parametrize("is_written_to", [False, True])
async def test_a_clock_that_leaps_ten_years_prunes_nothing(office: Office, is_written_to: bool) -> None:
    office.clock.moment += timedelta(days=3650)
    if is_written_to:
        office.call("s-after")
    await office.a_day()
    assert office.log.of(Kind.PRUNED) == []
    assert "the clock leapt" in str((await office.desk.status(ADMIN)).trouble)
    assert (await office.refused()).reason is ReasonCode.CLOCK_UNTRUSTED
    assert office.meter.counts["retention_refused", ""] == 2
    assert (await office.prune(force=True)).sessions == 2


async def test_a_leap_is_believed_once_the_log_has_gone_on_for_a_month(office: Office) -> None:
    office.clock.moment += timedelta(days=3650)
    office.call("s-after")
    office.busy_until(40)
    await office.a_day()
    assert {event["session"] for event in office.log.of(Kind.PRUNED)} == {"s-old", "s-new"}


async def test_a_clock_that_ran_behind_prunes_nothing_early(office: Office) -> None:
    office.clock.moment -= timedelta(days=20_000)
    office.call("s-1970")
    office.clock.moment += timedelta(days=20_000)
    await office.a_day()
    assert len(office.bodies("s-1970")) == 2


async def test_one_run_takes_no_more_than_a_part() -> None:
    office = Office()
    office.log.bodies.page = 500
    for n in range(1_100):
        office.call(f"s-{n:04d}")
    office.busy_until(400)
    await office.a_day()
    assert 1_000 <= len(office.log.of(Kind.PRUNED)) < 1_100
    assert "the rest is due tomorrow" in str((await office.desk.status(ADMIN)).trouble)
    await office.a_day()
    assert len(office.log.of(Kind.PRUNED)) == 1_100


# --- what fails ---


async def test_a_prune_whose_process_died_is_ended_by_the_next_run(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed between the event and the deletion."""
    office.log.bodies.is_down = True
    with pytest.raises(LogUnavailable):
        await office.prune()
    assert (len(office.log.of(Kind.PRUNED)), len(office.bodies("s-old"))) == (1, 4)
    office.log.bodies.is_down = False
    office.desk = office.another()
    await office.a_day()
    assert (len(office.log.of(Kind.PRUNED)), office.bodies("s-old")) == (1, set())
    assert caplog.messages == ["4 bodies of 1 sessions were deleted that earlier prunes had left"]


async def test_a_prune_whose_append_only_seemed_to_fail_is_ended_too(office: Office) -> None:
    office.log.fail_next("append", persist=True)
    with pytest.raises(LogUnavailable):
        await office.prune()
    assert len(office.bodies("s-old")) == 4
    await office.prune()
    assert (len(office.log.of(Kind.PRUNED)), office.bodies("s-old")) == (1, set())


async def test_of_prunes_that_are_appended_together_those_in_the_log_are_carried_out() -> None:
    """The others are due still, and whoever gave the order hears that not all is done."""
    office = Office()
    for session in ("s-1", "s-2", "s-3"):
        office.call(session)
    office.busy_until(400)
    office.log.fail_next("append")
    with pytest.raises(LogUnavailable):
        await office.prune()
    assert [event["session"] for event in office.log.of(Kind.PRUNED)] == ["s-2", "s-3"]
    assert [len(office.bodies(session)) for session in ("s-1", "s-2", "s-3")] == [2, 0, 0]
    assert office.meter.counts["pruned_sessions", ""] == 2
    assert await office.prune() == Pruned(rfc3339(office.clock.now() - timedelta(days=365)), sessions=1, bodies=2)


async def test_a_log_that_cannot_be_written_prunes_nothing(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.log.fail_next("append")
    await office.a_day()
    assert (office.log.of(Kind.PRUNED), len(office.bodies("s-old"))) == ([], 4)
    assert caplog.messages == ["retention: the log: told to fail"]
    assert "the log: told to fail" in str((await office.desk.status(ADMIN)).trouble)
    assert office.meter.counts["retention_refused", ""] == 1
    await office.a_day()
    status = await office.desk.status(ADMIN)
    assert (status.trouble, status.due, office.bodies("s-old")) == (None, 0, set())


async def test_without_a_role_that_may_delete_nothing_is_pruned_and_status_says_so(office: Office) -> None:
    office.log.bodies.refusal = "no role may delete bodies here"
    await office.a_day()
    assert (await office.refused()).reason is ReasonCode.RETENTION_UNAVAILABLE
    status = await office.desk.status(ADMIN)
    assert (status.refusal, status.trouble, status.due) == (*["no role may delete bodies here"] * 2, 1)
    assert (await office.prune(dry_run=True)).sessions == 1


async def test_a_cancelled_order_leaves_nothing_that_the_next_does_not_end(office: Office) -> None:
    async def until_forgetting(sessions: Any) -> int:
        task.cancel()
        await asyncio.sleep(0)
        raise AssertionError("not cancelled")

    forget, office.log.bodies.forget = office.log.bodies.forget, until_forgetting  # type: ignore[method-assign]
    task = asyncio.create_task(office.prune())
    with pytest.raises(asyncio.CancelledError):
        await task
    office.log.bodies.forget = forget  # type: ignore[method-assign]
    await office.prune()
    assert (len(office.log.of(Kind.PRUNED)), office.bodies("s-old")) == (1, set())


async def test_two_members_that_prune_at_once_write_one_event_for_each_session(office: Office) -> None:
    one, other = await asyncio.gather(
        office.desk.prune(ADMIN, PruneOrder()), office.another().prune(ADMIN, PruneOrder())
    )
    assert isinstance(one, Pruned)
    assert isinstance(other, Pruned)
    assert (len(office.log.of(Kind.PRUNED)), office.bodies("s-old")) == (1, set())


async def test_the_daily_run_waits_for_an_order_and_compresses_first(office: Office) -> None:
    office.log.bodies.compressions = 4
    await office.desk._busy.acquire()
    office.clock.ticks += int(EVERY_S * 1e9)
    await office.desk.step()
    assert office.log.bodies.compressions == 4
    office.desk._busy.release()
    await office.a_day()
    assert (office.log.bodies.compressions, office.bodies("s-old")) == (0, set())


# --- status ---


async def test_status_counts_what_the_viewer_may_see(office: Office) -> None:
    office.keeping = replace(office.keeping, rule=Rule(200))
    office.desk = office.another()
    status = await office.desk.status(ADMIN)
    assert (status.due, status.held, status.open, status.is_all) == (1, 0, 0, True)
    assert status.kept is not None
    assert status.oldest == office.log.events[0][0].at
    of_b = await office.desk.status(OF_B)
    assert (of_b.due, of_b.kept) == (0, None)


async def test_a_session_that_only_a_kill_names_is_pruned_too() -> None:
    office = Office()
    office.log.append_now(killed(office.recorder.origin(), a_kill(), auth="key"))
    office.busy_until(400)
    await office.a_day()
    assert office.bodies("s-1") == set()
