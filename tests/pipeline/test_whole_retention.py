"""What is written down and said of prunes and holds, whole: every field, every refusal, every count."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agentgate.core.call import Principal, Role
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.event import Kind, rfc3339
from agentgate.core.retention import MAX_HOLD_REASON_CHARS, Hold, Kept, Rule
from agentgate.core.strict_json import parse
from agentgate.pipeline.records import retention
from agentgate.pipeline.records.pruning import EVERY_S, SESSIONS_AT_ONCE, Keeping, Pruned
from agentgate.pipeline.records.retention import HoldOrder, Status
from tests.fakes import ADMIN, principal
from tests.pipeline.conftest import last, until
from tests.pipeline.test_retention import AUDITOR, DAY, OF_B, Office, aged
from tests.pipeline.test_whole_calls import own

NOW = "2027-12-22T00:00:00.000000Z"
A_YEAR_AGO = "2026-12-22T00:00:00.000000Z"


@pytest.fixture
def office() -> Office:
    return aged()


# --- holds ------------------------------------------------------------------------------------------------


async def test_a_hold_and_its_end_are_on_record_in_full(office: Office) -> None:
    long = "x" * (MAX_HOLD_REASON_CHARS + 1)
    hold = await office.hold("default", "s-old", reason=long)
    assert hold == Hold(hold.id, "default", "s-old", ADMIN.id, NOW, long[:-1])
    assert (hold.id[:5], len(hold.id)) == ("hold-", 25)
    of = {"hold_id": hold.id, "of_session": "s-old", "auth": "admin_key", "tenant": "default", "principal": ADMIN.id}
    event = last(office, Kind.HELD)
    assert (own(event), parse(event.body)) == (of, {"reason": long[:-1]})
    assert await office.desk.release(ADMIN, hold.id, long) == hold
    event = last(office, Kind.UNHELD)
    assert (own(event), parse(event.body)) == (of, {"reason": long[:-1]})
    await office.desk.release(ADMIN, (await office.hold("default", "s-new")).id)
    assert last(office, Kind.UNHELD).body == b"{}", "nobody gave a reason"


async def test_a_hold_that_is_not_given_says_why(office: Office) -> None:
    async def told(actor: Principal = ADMIN, tenant: str = "default", session: str = "s-1") -> Hold | Refused:
        return await office.desk.hold(actor, HoldOrder(tenant, session, "why", "h-1"))

    everybodys = Refused(ReasonCode.FORBIDDEN, "a hold of everybody's needs somebody of all tenants")
    assert await told(OF_B, "", "") == everybodys
    assert await told(OF_B) == Refused(ReasonCode.FORBIDDEN, "that is another tenant")
    assert isinstance(await told(), Hold)
    assert await told(session="s-2") == Refused(ReasonCode.CONFLICT, "a hold of this id says something else")
    nowhere = Refused(ReasonCode.NOT_FOUND, "no such hold is in force")
    assert await office.desk.release(OF_B, "h-1") == await office.desk.release(ADMIN, "h-none") == nowhere
    assert isinstance(await office.desk.release(ADMIN, "h-1"), Hold)
    assert await office.desk.release(ADMIN, "h-1") == nowhere
    assert await told() == Refused(ReasonCode.CONFLICT, "a hold of this id was released; choose another id")
    whole = await office.hold("")
    assert await office.desk.release(OF_B, whole.id) == everybodys


# --- orders -----------------------------------------------------------------------------------------------


async def test_a_prune_is_on_record_in_full_and_told_in_full(office: Office) -> None:
    assert await office.prune() == Pruned(A_YEAR_AGO, sessions=1, bodies=4)
    of = {"tenant": "default", "session": "s-old"}
    fields = {"why": "retention", "bodies": 4, "through": 3, "principal": ADMIN.id}
    assert own(last(office, Kind.PRUNED)) == of | fields
    assert office.meter.counts["pruned_sessions", ""] == 1


async def test_an_order_that_is_not_carried_out_says_why(office: Office) -> None:
    async def told(actor: Principal = ADMIN, **order: Any) -> str:
        return (await office.refused(actor, **order)).detail

    assert await told(OF_B) == "pruning concerns every tenant: it needs an admin of all tenants"
    later = office.clock.now() + timedelta(seconds=1)
    assert await told(before=later, force=True) == "nothing is pruned before it has happened"
    assert "182.5 days is below the floor of 183" in await told(before=office.clock.now() - timedelta(days=182.5))
    kept = "bodies are kept for 365 days here (retention.days); force it if you mean less"
    assert await told(days=183) == await told(days=364) == kept
    office.log.bodies.refusal = "no role may delete bodies here"
    assert await told() == "no role may delete bodies here"
    assert office.meter.counts["retention_refused", ""] == 5


async def test_an_order_for_just_what_the_rule_says_needs_no_force(office: Office) -> None:
    assert await office.prune(days=365) == Pruned(A_YEAR_AGO, sessions=1, bodies=4)
    assert own(last(office, Kind.PRUNED))["why"] == "retention"
    now = office.clock.now()
    assert (await office.prune(before=now, force=True)).limit == NOW


async def test_what_is_open_or_held_is_counted_and_what_is_young_is_not() -> None:
    office = Office()
    for session in ("s-1", "s-2", "s-3", "s-4"):
        office.call(session, is_open=session < "s-3")
    office.busy_until(400)
    office.call("s-5")
    await office.hold("default", "s-3")
    assert await office.prune(dry_run=True) == Pruned(_limit(office), 1, 2, 1, 2)
    assert await office.prune() == Pruned(_limit(office), 1, 2, 1, 2)


def _limit(office: Office) -> str:
    return rfc3339(office.clock.now() - timedelta(days=365))


async def test_more_sessions_than_go_at_once_are_counted_together() -> None:
    office = Office()
    for number in range(2 * SESSIONS_AT_ONCE + 1):
        office.call(f"s-{number:03}")
    office.busy_until(400)
    done = await office.prune()
    assert (done.sessions, done.bodies) == (65, 130)
    assert office.meter.counts["pruned_sessions", ""] == 65


# --- the daily run ----------------------------------------------------------------------------------------


async def test_a_run_that_could_not_go_on_is_tried_again_in_an_hour_and_one_that_ended_in_a_day(office: Office) -> None:
    office.log.fail_next("append")
    await office.a_day()
    failed = await office.desk.status(ADMIN)
    assert (failed.trouble, failed.last_run) == ("the log: told to fail", None)
    await _steps(office, 3_599)
    assert office.log.of(Kind.PRUNED) == []
    await _steps(office, 1)
    status = await office.desk.status(ADMIN)
    assert (status.trouble, status.last_run) == (None, rfc3339(office.clock.now()))
    assert own(last(office, Kind.PRUNED)) == {
        "why": "retention", "bodies": 4, "through": 3, "tenant": "default", "session": "s-old",
    }  # fmt: skip
    office.call("s-2")
    office.desk._daily._keeping = replace(office.keeping, rule=Rule(0, forced=True))
    await _steps(office, EVERY_S - 1)
    assert len(office.log.of(Kind.PRUNED)) == 1
    await _steps(office, 1)
    assert len(office.log.of(Kind.PRUNED)) > 1


async def _steps(office: Office, seconds: float) -> None:
    """So long passes, and then there are some steps."""
    office.clock.ticks += round(seconds * 1e9)
    for _ in range(20):
        await office.desk.step()


async def test_what_is_not_to_be_compressed_is_not(office: Office) -> None:
    office.keeping = Keeping(compress_after_days=None)
    office.desk = office.another()
    office.log.bodies.compressions = 4
    await office.a_day()
    assert (office.log.bodies.compressions, office.bodies("s-old")) == (4, set())


async def test_what_is_compressed_is_as_old_as_configured(office: Office) -> None:
    asked: list[tuple[str, str]] = []

    async def compress(moment: str, now: str) -> bool:
        asked.append((moment, now))
        return len(asked) < 3

    office.log.bodies.compress = compress  # type: ignore[method-assign]
    await office.a_day()
    assert asked == [("2027-11-22T00:00:00.000000Z", NOW)] * 3


async def test_the_daily_run_goes_on_piece_by_piece_at_who_is_to_do_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP_EVERY_S", 0)
    office.clock.ticks += int(EVERY_S * 1e9)
    seen: list[int] = []

    def is_mine() -> bool:
        seen.append(len(office.log.of(Kind.PRUNED)))
        return len(seen) > 3

    looking = asyncio.create_task(office.desk.look_after(is_mine))
    await until(lambda: office.bodies("s-old") == set())
    looking.cancel()
    assert seen[:4] == [0, 0, 0, 0]


# --- status -----------------------------------------------------------------------------------------------


async def test_status_in_full(office: Office) -> None:
    await office.hold("default", "s-new")
    office.call("s-open", is_open=True)
    office.clock.move(366 * DAY)
    status = await office.desk.status(ADMIN)
    assert status == Status(
        keeping=office.keeping,
        limit=_limit(office),
        due=1,
        held=1,
        open=1,
        is_all=True,
        oldest=office.log.events[0][0].at,
        kept=Kept(len(office.log.events), 0, 0),
        refusal=None,
        clock=status.clock,
        trouble=None,
        last_run=None,
    )
    assert "the clock leapt" in str(status.clock)
    assert replace(await office.desk.status(AUDITOR), kept=status.kept) == status, "all of it is of its tenant"
    nothing = await office.desk.status(replace(OF_B))
    assert (nothing.due, nothing.held, nothing.open, nothing.oldest, nothing.kept) == (0, 0, 0, None, None)


async def test_status_looks_at_some_pages_and_says_so() -> None:
    office = Office()
    office.log.bodies.page = 1
    for number in range(retention.PAGES_COUNTED + 1):
        office.call(f"s-{number:03}")
    office.busy_until(400)
    status = await office.desk.status(principal("a", Role.AUDITOR, person=True))
    assert (status.due, status.is_all) == (retention.PAGES_COUNTED, False)
