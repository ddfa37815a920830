"""What every adapter of `agentgate.ports.Admission` promises of budgets and of a session's facts.

class TestMine(BudgetContract):
    @pytest.fixture
    async def admission(self) -> AsyncIterator[Mine]: …      # empty, started, closed afterwards
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from agentgate.core.amounts import NONE, Amounts
from agentgate.core.budget import Budget, Period, Tally
from agentgate.core.call import Call
from agentgate.core.containment import Scope
from agentgate.core.errors import ReasonCode
from agentgate.core.facts import Facts, Past
from agentgate.ports.containment import (
    Admission,
    Admitted,
    BudgetState,
    Counted,
    NotAdmitted,
    Quota,
    RateLimit,
    Spent,
    Uncounted,
)
from tests.contracts.admission import a_call, a_kill, state

EMPTY = Tally(0)


def quota(
    period: Period = Period.SESSION,
    *,
    calls: int = NONE,
    size: int = NONE,
    cost: int = NONE,
    alert: int = NONE,
    takes: Amounts = Amounts(1, 10, 5),  # noqa: B008 - a value
    wants_facts: bool = False,
) -> Quota:
    """One budget. `alert` is of calls."""
    return Quota((), (Budget(period, Amounts(calls, size, cost), Amounts(alert, NONE, NONE)),), takes, wants_facts)


FACTS = quota(wants_facts=True)


async def known(
    admission: Admission, asked: Quota, call: Call | None = None, tally: Tally = EMPTY, *, position: int = 0
) -> None:
    """Let the store know what was used of every budget, as the pipeline does; nothing of it is used by that."""
    call = call or a_call()
    await admission.apply(state(position))
    answer = await admission.admit(call, asked, position)
    assert isinstance(answer, NotAdmitted), answer
    assert answer.reason is ReasonCode.BUDGET_UNKNOWN
    assert [what.period for what in answer.uncounted] == [budget.period for budget in asked.budgets]
    for what in answer.uncounted:
        assert await admission.restore(call, what, tally)


async def ask(admission: Admission, asked: Quota, call: Call | None = None) -> Admitted | NotAdmitted:
    return await admission.admit(call or a_call(), asked, 0)


async def come_to(what: Callable[[], Awaitable[bool]]) -> None:
    """A release is not awaited: what it does is seen soon."""
    until = time.monotonic() + 5
    while not await what():
        assert time.monotonic() < until, "it did not become true"
        await asyncio.sleep(0.005)


async def facts_of(admission: Admission, session: str = "s-1") -> Facts:
    """What is known of a session, without changing it."""
    call = a_call(session=session)
    answer = await ask(admission, FACTS, call)
    assert isinstance(answer, Admitted), answer
    assert answer.facts is not None
    admission.release(call)
    await asyncio.gather(*getattr(admission, "_settling", ()))  # a probe must not be seen by the next one
    return answer.facts


async def become(admission: Admission, wanted: Callable[[Facts], bool]) -> None:
    async def is_so() -> bool:
        return wanted(await facts_of(admission))

    await come_to(is_so)


class BudgetContract:
    """Subclass it, give it an `admission` fixture, and every claim below is tested."""

    # --- nothing is admitted that nobody has counted ---

    async def test_a_session_that_the_store_does_not_know_is_not_admitted(self, admission: Admission) -> None:
        await admission.apply(state(0))
        for _ in range(2):
            answer = await ask(admission, quota(calls=10))
            assert isinstance(answer, NotAdmitted)
            assert (answer.reason, answer.position) == (ReasonCode.BUDGET_UNKNOWN, 0)
        assert await admission.in_flight() == []

    async def test_what_the_log_says_was_used_counts(self, admission: Admission) -> None:
        await known(admission, quota(calls=10), tally=Tally(20, Amounts(8)))
        answers = [await ask(admission, quota(calls=10)) for _ in range(3)]
        assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False]

    async def test_of_two_who_count_at_once_one_writes(self, admission: Admission) -> None:
        await admission.apply(state(0))
        one, two = await ask(admission, quota(calls=10)), await ask(admission, quota(calls=10))
        assert isinstance(one, NotAdmitted)
        assert isinstance(two, NotAdmitted)
        assert one.uncounted == two.uncounted
        assert await admission.restore(a_call(), one.uncounted[0], Tally(5, Amounts(3)))
        assert not await admission.restore(a_call(), two.uncounted[0], Tally(9, Amounts(9)))
        assert (await facts_of(admission)).calls == 3

    async def test_a_count_that_nobody_asked_for_is_not_taken(self, admission: Admission) -> None:
        await admission.apply(state(0))
        assert not await admission.restore(a_call(), Uncounted(Period.SESSION, 0, "made-up"), Tally(5))
        assert isinstance(await ask(admission, quota(calls=10)), NotAdmitted)

    async def test_no_count_of_a_session_is_that_of_anothers(self, admission: Admission) -> None:
        await known(admission, quota(calls=1))
        for other in (a_call(session="s-2"), a_call(tenant="other"), a_call(agent="other")):
            answer = await ask(admission, quota(calls=1), other)
            assert isinstance(answer, NotAdmitted)
            assert answer.reason is ReasonCode.BUDGET_UNKNOWN

    # --- exactly the limit ---

    async def test_of_64_at_once_the_budget_admits_exactly_10(self, admission: Admission) -> None:
        await known(admission, quota(calls=10))
        answers = await asyncio.gather(*(ask(admission, quota(calls=10)) for _ in range(64)))
        assert sum(isinstance(answer, Admitted) for answer in answers) == 10
        refused = {answer.reason for answer in answers if isinstance(answer, NotAdmitted)}
        assert refused == {ReasonCode.BUDGET_SPENT}

    @pytest.mark.parametrize(
        ("asked", "what", "limit", "used"),
        [(quota(calls=3), "calls", 3, 3), (quota(size=35), "bytes", 35, 30), (quota(cost=19), "cost", 19, 15)],
        ids=["calls", "bytes", "cost"],
    )
    async def test_the_refusal_names_what_is_used_up(
        self, admission: Admission, asked: Quota, what: str, limit: int, used: int
    ) -> None:
        await known(admission, asked)
        answers = [await ask(admission, asked) for _ in range(4)]
        assert [isinstance(answer, Admitted) for answer in answers] == [True] * 3 + [False]
        refused = answers[-1]
        assert isinstance(refused, NotAdmitted)
        assert refused.reason is ReasonCode.BUDGET_SPENT
        assert refused.budget == BudgetState(Period.SESSION, what, limit, used)
        assert len(await admission.in_flight()) == 3

    async def test_what_was_refused_used_nothing(self, admission: Admission) -> None:
        limited = replace(quota(calls=2), limits=(RateLimit(1, 60),))
        await known(admission, limited)
        assert isinstance(await ask(admission, limited), Admitted)
        answer = await ask(admission, limited)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.RATE_LIMITED
        assert (await facts_of(admission)).calls == 1

    async def test_a_call_that_a_budget_refuses_does_not_count_in_a_limit(self, admission: Admission) -> None:
        limited = replace(quota(calls=1), limits=(RateLimit(5, 60),))
        await known(admission, limited)
        assert isinstance(await ask(admission, limited), Admitted)
        assert isinstance(await ask(admission, limited), NotAdmitted)
        answer = await ask(admission, replace(limited, budgets=()))
        assert answer.limit is not None
        assert answer.limit.remaining == 3

    async def test_a_kill_comes_before_every_budget(self, admission: Admission) -> None:
        await admission.apply(state(1, a_kill(Scope.GLOBAL)))
        answer = await ask(admission, quota(calls=1))
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILLED

    async def test_a_budget_of_a_day_is_shared_by_sessions_and_says_when_it_ends(self, admission: Admission) -> None:
        asked = quota(Period.DAY, calls=2)
        await known(admission, asked)
        before = time.time()
        answers = [await ask(admission, asked, a_call(session=f"s-{n}", tool=f"t-{n}")) for n in range(3)]
        assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False]
        refused = answers[-1]
        assert isinstance(refused, NotAdmitted)
        assert refused.budget is not None
        assert refused.budget.reset_at in {(int(now) // 86_400 + 1) * 86_400 for now in (before, time.time())}

    async def test_several_budgets_are_all_kept(self, admission: Admission) -> None:
        asked = Quota(
            (),
            (Budget(Period.SESSION, Amounts(3, NONE, NONE)), Budget(Period.HOUR, Amounts(NONE, NONE, 20))),
            Amounts(1, 0, 5),
        )
        await known(admission, asked)
        assert [isinstance(await ask(admission, asked), Admitted) for _ in range(4)] == [True, True, True, False]
        other = a_call(session="s-2")
        answer = await ask(admission, asked, other)
        assert isinstance(answer, NotAdmitted)
        assert [what.period for what in answer.uncounted] == [Period.SESSION]
        assert await admission.restore(other, answer.uncounted[0], EMPTY)
        assert isinstance(await ask(admission, asked, a_call(session="s-2")), Admitted)
        spent = await ask(admission, asked, a_call(session="s-2"))
        assert isinstance(spent, NotAdmitted)
        assert spent.budget is not None
        assert (spent.budget.period, spent.budget.what) == (Period.HOUR, "cost")

    # --- alerts ---

    async def test_past_its_threshold_a_budget_alerts_and_still_ends(self, admission: Admission) -> None:
        asked = quota(calls=4, alert=2)
        await known(admission, asked)
        answers = [await ask(admission, asked) for _ in range(5)]
        alerts = [answer.alert for answer in answers if isinstance(answer, Admitted)]
        assert alerts[:2] == [None, None]
        assert alerts[2:] == [BudgetState(Period.SESSION, "calls", 2, used) for used in (2, 3)]
        assert isinstance(answers[4], NotAdmitted)

    # --- what a call came to ---

    async def test_a_call_that_was_not_allowed_gives_back_what_it_was_charged(self, admission: Admission) -> None:
        await known(admission, quota(calls=1))
        call = a_call()
        assert isinstance(await ask(admission, quota(calls=1), call), Admitted)
        assert isinstance(await ask(admission, quota(calls=1)), NotAdmitted)
        admission.release(call)
        admission.release(call)
        await become(admission, lambda facts: facts.calls == 0)
        assert (await facts_of(admission)) == Facts()

    async def test_results_and_late_costs_are_added_at_the_end(self, admission: Admission) -> None:
        asked = quota(size=100, cost=1_000)
        await known(admission, asked)
        call = a_call()
        await ask(admission, asked, call)
        admission.release(call, Spent(3, 4, result_bytes=85, more_cost=-2, is_ok=True))
        await become(admission, lambda facts: facts.bytes == 95)
        facts = await facts_of(admission)
        assert (facts.calls, facts.cost_micros) == (1, 3)
        answer = await ask(admission, asked)
        assert isinstance(answer, NotAdmitted)
        assert answer.budget == BudgetState(Period.SESSION, "bytes", 100, 95)

    async def test_a_session_remembers_tools_that_ended_well_and_every_label(self, admission: Admission) -> None:
        await known(admission, FACTS)
        ends = [(True, ("pii",)), (True, ("web", "pii")), (False, ("log",)), (True, ())]
        for n, (is_ok, labels) in enumerate(ends):
            call = a_call(tool="crm_read")
            answer = await ask(admission, FACTS, call)
            assert isinstance(answer, Admitted)
            admission.release(call, Spent(2 * n, 2 * n + 1, is_ok=is_ok, labels=labels))
        before = time.time()
        await become(admission, lambda facts: facts.calls == 4 and facts.tools["crm_read"].calls == 3)
        facts = await facts_of(admission)
        assert facts.labels == {"pii", "web", "log"}  # of a failure too
        assert abs(facts.tools["crm_read"].last_s - before) < 10

    @pytest.mark.parametrize("is_ok", [True, False])
    async def test_once_a_call_is_settled_the_next_one_knows_its_labels(
        self, admission: Admission, is_ok: bool
    ) -> None:
        await known(admission, FACTS)
        call = a_call()
        assert isinstance(await ask(admission, FACTS, call), Admitted)
        spent = Spent(1, 2, result_bytes=7, is_ok=is_ok, labels=("private",))
        assert await admission.settle(call, spent)
        answer = await ask(admission, FACTS)
        assert isinstance(answer, Admitted)
        assert answer.facts is not None
        assert (answer.facts.labels, answer.facts.bytes) == ({"private"}, 17)
        admission.release(call, spent)  # and it is told only once
        assert (await facts_of(admission)).bytes == 27

    async def test_a_failure_from_before_the_loss_brings_its_labels(self, admission: Admission) -> None:
        await known(admission, FACTS)
        call = a_call()
        assert isinstance(await ask(admission, FACTS, call), Admitted)
        await self.forget(admission)
        await known(admission, FACTS, tally=Tally(10, Amounts(1, 10, 5)))
        assert await admission.settle(call, Spent(8, 12, is_ok=False, labels=("private",)))
        facts = await facts_of(admission)
        assert (facts.labels, dict(facts.tools)) == ({"private"}, {})

    async def test_facts_are_told_only_to_who_wants_them(self, admission: Admission) -> None:
        await known(admission, quota(calls=10))
        answer = await ask(admission, quota(calls=10))
        assert isinstance(answer, Admitted)
        assert answer.facts is None

    async def test_facts_from_the_log_are_those_of_the_session(self, admission: Admission) -> None:
        past = Facts(7, 70, 35, frozenset({"pii"}), {"crm_read": Past(2, 1_700_000_000)})
        await known(admission, FACTS, tally=Tally(40, Amounts(7, 70, 35), past))
        assert await facts_of(admission) == past

    # --- while the log is counted ---

    async def test_a_call_that_ends_while_the_log_is_counted_makes_it_be_counted_again(
        self, admission: Admission
    ) -> None:
        await known(admission, quota(Period.DAY, calls=9))
        asked = Quota((), (Budget(Period.SESSION, Amounts(9, NONE, NONE)), Budget(Period.DAY, Amounts(9, NONE, NONE))))
        # a call that was let in under one budget ends while another replica asks for the session's
        answer = await ask(admission, asked)
        assert isinstance(answer, NotAdmitted)
        assert [what.period for what in answer.uncounted] == [Period.SESSION]
        first = answer.uncounted[0]
        assert await admission.restore(a_call(), first, EMPTY)
        call = a_call()
        assert isinstance(await ask(admission, asked, call), Admitted)
        await self.forget(admission)
        await admission.apply(state(0))
        answer = await ask(admission, asked)
        assert isinstance(answer, NotAdmitted)
        stale = answer.uncounted
        assert [what.period for what in stale] == [Period.SESSION, Period.DAY]
        admission.release(call, Spent(5, 6))

        async def is_forgotten() -> bool:
            asked_again = await ask(admission, asked)
            assert isinstance(asked_again, NotAdmitted)
            return not {what.epoch for what in stale} & {what.epoch for what in asked_again.uncounted}

        await come_to(is_forgotten)
        for what in stale:
            assert not await admission.restore(a_call(), what, Tally(5))

    async def test_a_call_from_before_the_loss_counts_once(self, admission: Admission) -> None:
        asked = quota(calls=100)
        await known(admission, asked)
        early, late = a_call(), a_call()
        for call in (early, late):
            assert isinstance(await ask(admission, asked, call), Admitted)
        await self.forget(admission)
        # the log was counted through 10: `early` is in that, `late` is not
        await known(admission, asked, tally=Tally(10, Amounts(1, 10, 5)))
        admission.release(early, Spent(8, 12, result_bytes=100, is_ok=True, labels=("web",)))
        admission.release(late, Spent(11, 13, result_bytes=1_000, is_ok=True))
        await become(admission, lambda facts: facts.bytes >= 1_120)
        facts = await facts_of(admission)
        assert (facts.calls, facts.bytes, facts.cost_micros) == (2, 1_120, 10)
        assert facts.labels == {"web"}

    async def test_an_outcome_that_was_counted_is_not_counted_again(self, admission: Admission) -> None:
        await known(admission, FACTS)
        call, other = a_call(), a_call()
        for each in (call, other):
            assert isinstance(await ask(admission, FACTS, each), Admitted)
        await self.forget(admission)
        past = Facts(1, 110, 5, frozenset(), {"db_query": Past(1, 1_700_000_000)})
        await known(admission, FACTS, tally=Tally(10, Amounts(1, 110, 5), past))
        admission.release(call, Spent(8, 9, result_bytes=100, is_ok=True))
        admission.release(other)  # was not allowed, and the count knows nothing of it
        third = a_call()
        assert isinstance(await ask(admission, FACTS, third), Admitted)
        admission.release(third, Spent(20, 21, is_ok=True, labels=("last",)))
        await become(admission, lambda facts: "last" in facts.labels)
        facts = await facts_of(admission)
        assert (facts.calls, facts.bytes) == (2, 120)
        assert facts.tools["db_query"].calls == 2

    async def forget(self, admission: Admission) -> None:
        """Make the store forget all budgets, kills or not."""
        raise NotImplementedError

    # --- limits of more than a tool ---

    @pytest.mark.parametrize(
        ("of", "same", "other"),
        [
            (Counted.TOOL, a_call(session="s-2"), a_call(tool="file_read")),
            (Counted.AGENT, a_call(session="s-2", tool="file_read"), a_call(agent="other")),
            (Counted.SESSION, a_call(tool="file_read"), a_call(session="s-2")),
        ],
        ids=["tool", "agent", "session"],
    )
    async def test_a_limit_counts_what_it_is_of(
        self, admission: Admission, of: Counted, same: Call, other: Call
    ) -> None:
        await admission.apply(state(0))
        asked = Quota((RateLimit(1, 60, of),))
        assert isinstance(await ask(admission, asked), Admitted)
        refused = await ask(admission, asked, same)
        assert isinstance(refused, NotAdmitted)
        assert refused.limit is not None
        assert refused.limit.of is of
        assert isinstance(await ask(admission, asked, other), Admitted)

    async def test_of_several_limits_the_tightest_is_told_and_the_one_that_refuses(self, admission: Admission) -> None:
        await admission.apply(state(0))
        asked = Quota((RateLimit(9, 60), RateLimit(2, 600, Counted.SESSION), RateLimit(5, 60, Counted.AGENT)))
        told = [(await ask(admission, asked)).limit for _ in range(3)]
        assert [(limit.of, limit.limit, limit.remaining) for limit in told if limit] == [
            (Counted.SESSION, 2, 1),
            (Counted.SESSION, 2, 0),
            (Counted.SESSION, 2, 0),
        ]
        now = time.time()
        assert told[2] is not None
        assert now + 590 < told[2].reset_at < now + 602
        elsewhere = [(await ask(admission, asked, a_call(session=f"x-{n}"))).limit for n in range(4)]
        assert [(limit.of, limit.remaining) for limit in elsewhere if limit][-1] == (Counted.AGENT, 0)

    async def test_of_several_limits_that_are_used_up_the_longest_is_told(self, admission: Admission) -> None:
        await admission.apply(state(0))
        asked = Quota((RateLimit(1, 600), RateLimit(1, 60, Counted.SESSION), RateLimit(1, 900, Counted.AGENT)))
        assert isinstance(await ask(admission, asked), Admitted)
        refused = await ask(admission, asked)
        assert refused.limit is not None
        assert refused.limit.of is Counted.AGENT
        assert refused.limit.reset_at > time.time() + 890
