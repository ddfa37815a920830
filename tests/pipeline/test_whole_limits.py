"""What budgets and limits ask of admission, write down and say, whole: every quota, charge, spending and refusal."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentgate.adapters.containment.local import LocalAdmission
from agentgate.core.amounts import Amounts
from agentgate.core.approval import State
from agentgate.core.budget import Budget, Period
from agentgate.core.call import Call, ToolName
from agentgate.core.containment import KillState
from agentgate.core.decision import Verdict
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Kind, Outcome
from agentgate.core.tiers import read_rules
from agentgate.pipeline.limits import recount as module
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.limits.recount import Recount
from agentgate.pipeline.limits.toll import Toll, budget_of, not_admitted, retry_after_s
from agentgate.ports.containment import Admitted, BudgetState, Counted, LimitState, NotAdmitted, Quota, RateLimit, Spent
from agentgate.ports.upstreams import Undelivered
from tests.fakes import ADMIN, ALLOW, ALLOW_WRITE, ASK, TOOL, a_call, principal
from tests.pipeline.conftest import House, until


class Told(LocalAdmission):
    """Remembers what it was asked and told."""

    def __init__(self, house: House) -> None:
        super().__init__(member="m-1", clock=house.clock)
        self.quotas: list[Quota | None] = []
        self.spent: list[Spent | None] = []

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        self.quotas.append(quota)
        return await super().admit(call, quota, seen)

    def release(self, call: Call, spent: Spent | None = None) -> None:
        self.spent.append(spent)
        super().release(call, spent)


async def told(house: House, data: dict[str, Any]) -> Told:
    limits = RateLimits(30, Recount(house.log, house.meter))
    limits.load(read_rules(data))
    house.gate._limits, house.gate._admission = limits, (admission := Told(house))
    await admission.apply(KillState(0, {}))
    return admission


# --- what a call is counted against ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "quota"),
    [
        ({}, None),
        ({"rate_limits": {"db_query": 9}}, Quota((RateLimit(9, 30),))),
        ({"rate_limits": {"another": 9}}, None),
        ({"tiers": {"default": {}}}, None),
        ({"rate_limits": {"db_query": 9}, "tiers": {"default": {}}}, Quota((RateLimit(9, 30),))),
        (
            {"rate_limits": {"db_query": 9}, "tiers": {"default": {"per_tool": {"db_query": 5}}}},
            Quota((RateLimit(5, 60),)),
        ),
        ({"rate_limits": {"db_query": 9}, "tiers": {"default": {"per_tool": {"db_query": -1}}}}, None),
        (
            {"tiers": {"default": {"requests_per_minute": 7, "per_session": {"requests_per_minute": 3}}}},
            Quota((RateLimit(3, 60, Counted.SESSION), RateLimit(7, 60, Counted.AGENT))),
        ),
        (
            {"session_facts": True, "costs": {"db_query": "0.5"}},
            Quota((), (Budget(Period.SESSION),), Amounts(1, 2, 500_000), wants_facts=True),
        ),
        (
            {"session_facts": True, "tiers": {"default": {"per_session": {"calls": 4}}}},
            Quota((), (Budget(Period.SESSION, Amounts(4, -1, -1)),), Amounts(1, 2, 0), wants_facts=True),
        ),
        (
            {"session_facts": True, "tiers": {"default": {"per_hour": {"calls": 4}}}},
            Quota(
                (),
                (Budget(Period.SESSION), Budget(Period.HOUR, Amounts(4, -1, -1))),
                Amounts(1, 2, 0),
                wants_facts=True,
            ),
        ),
        (
            {"tiers": {"default": {"per_hour": {"calls": 4}}}},
            Quota((), (Budget(Period.HOUR, Amounts(4, -1, -1)),), Amounts(1, 2, 0)),
        ),
        ({"tiers": {"default": {"per_action": {"bytes": 99}}}}, Quota((), (), Amounts(1, 2, 0))),
    ],
)
async def test_a_call_is_counted_against_what_the_data_say(
    counting: House, data: dict[str, Any], quota: Quota | None
) -> None:
    admission = await told(counting, data)
    assert (await counting.gate.pass_through(a_call())).success
    assert admission.quotas[-1] == quota


async def test_the_terms_of_a_tool_that_nothing_is_said_of_are_made_once_for_all_of_them(counting: House) -> None:
    await told(counting, {"tiers": {"default": {"requests_per_minute": 7}}})
    for number in range(3):
        name = ToolName(f"tool_{number}")
        await counting.gate.pass_through(a_call(tool=replace(TOOL, name=name)))
    assert set(counting.gate._limits._terms) == {("default", "")}
    counting.gate._limits.load(counting.gate._limits.rules)
    assert counting.gate._limits._terms == {}


@pytest.mark.parametrize(
    ("limits", "quota"), [({"requests_per_minute": 7}, Quota((RateLimit(7, 60, Counted.AGENT),))), ({}, None)]
)
async def test_who_asks_again_is_counted_as_a_request_and_against_no_budget(
    counting: House, limits: dict[str, Any], quota: Quota | None
) -> None:
    admission = await told(counting, {"tiers": {"default": {**limits, "per_session": {"calls": 1}}}})
    call = replace(a_call(), idempotency_key="k-1")
    await counting.gate.pass_through(call)
    again = await counting.gate.pass_through(replace(a_call(), idempotency_key="k-1"))
    assert again.is_replayed
    assert admission.quotas[-1] == quota


# --- what it has used -----------------------------------------------------------------------------------------


async def test_what_a_call_has_used_is_on_record_and_told_when_it_is_over(counting: House) -> None:
    admission = await told(counting, {"session_facts": True, "costs": {"db_query": "0.004"}})
    counting.questions.load(counting.questions.read({"labels": {"tools": {"db_query": ["private"]}}}))
    await counting.gate.pass_through(a_call(arguments={"n": 1}))
    decided, finished = counting.log.of(Kind.DECIDED)[-1], counting.log.of(Kind.FINISHED)[-1]
    assert (decided["arguments_bytes"], decided["cost_micros"], finished["labels"]) == (7, 4_000, ["private"])
    assert admission.spent == [Spent(0, 1, 11, 0, is_ok=True, labels=("private",))]
    counting.engine.answer = {**ALLOW, "est_cost": "0.003"}
    counting.upstream.answer = Undelivered(ReasonCode.UPSTREAM_ERROR, "no")
    await counting.gate.pass_through(a_call(arguments={"n": 1}))
    assert counting.log.of(Kind.DECIDED)[-1]["cost_micros"] == 3_000
    assert admission.spent[-1] == Spent(2, 3, 0, -1_000, is_ok=False, labels=("private",))
    question = counting.engine.asked[-1]["session"]
    assert (question["calls"], question["labels"]) == (1, ["private"])


async def test_what_was_refused_has_used_nothing(counting: House) -> None:
    admission = await told(counting, {"session_facts": True})
    counting.engine.answer = ASK
    await counting.gate.pass_through(a_call())
    assert admission.spent == [None]
    assert counting.log.of(Kind.DECIDED)[-1]["arguments_bytes"] == 2


async def test_an_outcome_that_could_not_be_recorded_is_told_without_its_place(counting: House) -> None:
    admission = await told(counting, {"session_facts": True})
    task = await counting.running()
    counting.log.is_down = True
    counting.upstream.let_go()
    await task
    assert admission.spent == [Spent(0, None, 0, 0, is_ok=False)]


# --- what is said ----------------------------------------------------------------------------------------------

_NAMES = {
    Period.SESSION: "this session's budget",
    Period.HOUR: "this agent's budget for the hour",
    Period.DAY: "this agent's budget for the day",
}


@pytest.mark.parametrize("period", _NAMES)
@pytest.mark.parametrize(("what", "amount"), [("calls", "5 calls"), ("bytes", "5 bytes"), ("cost", "cost 0.000005")])
def test_a_budget_that_is_used_up_is_named(period: Period, what: str, amount: str) -> None:
    state = BudgetState(period, what, 5, 5)
    said = not_admitted(NotAdmitted(ReasonCode.BUDGET_SPENT, budget=state), a_call())
    assert said.reason == f"Budget spent: {_NAMES[period]} has {amount}"
    assert (said.reason_code, said.matched_rule) == (ReasonCode.BUDGET_SPENT, f"budget_{period}_{what}")
    assert budget_of(NotAdmitted(ReasonCode.BUDGET_SPENT, budget=state)) == f"{period}_{what}"


@pytest.mark.parametrize(
    ("limit", "text", "rule"),
    [
        (None, "Rate limit exceeded", "rate_limit"),
        (LimitState(5, 0, 0), "Rate limit exceeded", "rate_limit"),
        (
            LimitState(5, 0, 0, Counted.AGENT),
            "Rate limit exceeded: 5 requests per minute of this agent (tier gold)",
            "rate_limit_agent",
        ),
    ],
)
def test_a_limit_that_is_used_up_is_named(limit: LimitState | None, text: str, rule: str) -> None:
    call = a_call(caller=replace(principal(), tier="gold"))
    said = not_admitted(NotAdmitted(ReasonCode.RATE_LIMITED, limit=limit), call)
    assert (said.reason, said.matched_rule, said.reason_code) == (text, rule, ReasonCode.RATE_LIMITED)


def test_when_to_come_again_is_told_in_whole_seconds_and_never_too_early() -> None:
    limit, session = LimitState(5, 0, 100), BudgetState(Period.SESSION, "calls", 5, 5)
    day = BudgetState(Period.DAY, "calls", 5, 5, 200)
    found = [retry_after_s(limit, None, now_s) for now_s in (90, 90.5, 99.999, 100, 150)]
    assert found == [10, 10, 1, 1, 1]
    assert retry_after_s(limit, day, 90) == 110
    assert retry_after_s(limit, session, 90) is None
    assert retry_after_s(None, None, 90) is None


async def test_a_single_call_over_its_limits_is_told_which(counting: House) -> None:
    admission = await told(counting, {"tiers": {"default": {"per_action": {"bytes": 5, "cost": "0.10"}}}})
    large = await counting.gate.pass_through(a_call(arguments={"n": "large"}))
    assert large.decision.reason == "Budget spent: a single call may have 5 bytes"
    assert (large.decision.matched_rule, admission.quotas) == ("budget_action_bytes", [])
    assert counting.meter.counts["budget_spent", "action_bytes"] == 1
    counting.engine.answer = {**ALLOW, "est_cost": "0.11"}
    dear = await counting.gate.pass_through(a_call())
    assert dear.decision.reason == "Budget spent: a single call may have cost 0.1"
    assert (dear.decision.matched_rule, dear.decision.policy_revision) == (
        "budget_action_cost",
        counting.engine.enforced,
    )
    counting.engine.answer = {**ALLOW, "est_cost": "0.10"}
    assert (await counting.gate.pass_through(a_call())).success, "as much as it may have"
    counting.engine.answer = {"action": "DENY", "reason": "no", "est_cost": "0.11"}
    assert (await counting.gate.pass_through(a_call())).reason_code is ReasonCode.POLICY_DENY


@pytest.mark.parametrize(
    ("tier", "text"),
    [
        ({"per_session": {"calls": 2, "alert_threshold": "50%"}}, "this session's budget is past 1 calls"),
        ({"per_action": {"bytes": 2, "alert_threshold": "50%"}}, "the budget of a single call is past 1 bytes"),
    ],
)
async def test_what_is_past_a_threshold_needs_an_approval_that_says_so(
    counting: House, tier: dict[str, Any], text: str
) -> None:
    await told(counting, {"tiers": {"default": tier}})
    if "per_session" in tier:
        assert (await counting.gate.pass_through(a_call())).success
    answer = await counting.gate.pass_through(a_call())
    assert answer.decision.verdict is Verdict.REQUIRE_APPROVAL
    assert (answer.reason_code, answer.decision.matched_rule) == (ReasonCode.APPROVAL_REQUIRED, "budget_alert")
    assert answer.decision.reason == f"Budget alert: {text}"
    assert answer.approval is not None
    await counting.approvals.decide(ADMIN, answer.approval.id, State.APPROVED)
    assert (await counting.gate.pass_through(a_call())).success


async def test_an_approved_write_by_a_static_token_is_asked_with_the_facts(counting: House) -> None:
    await told(counting, {"session_facts": True})
    counting.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else ASK
    answer = await counting.gate.pass_through(a_call(approval_token="a-static-token-of-v0.2"))
    assert answer.decision.approved_by == "static token"
    assert "session" in counting.engine.asked[-1]


# --- counting the log -------------------------------------------------------------------------------------------


async def test_a_count_that_takes_too_long_lets_nobody_wait_longer_and_goes_on(
    counting: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COUNT_WAIT_S", 0.01)
    await told(counting, {"tiers": {"default": {"per_session": {"calls": 5}}}})
    read, go_on = counting.log.size, asyncio.Event()

    async def slowly() -> int:
        await go_on.wait()
        return await read()

    counting.log.size = slowly  # type: ignore[method-assign]
    answer = await counting.gate.pass_through(a_call())
    text = "What the session or agent has used is not known: the log is being counted"
    assert (answer.reason_code, answer.decision.reason) == (ReasonCode.BUDGET_UNKNOWN, text)
    counting.gate._limits.rules = replace(counting.gate._limits.rules, session_facts=True)
    with pytest.raises(LogUnavailable, match="the log takes too long to say what the session did"):
        await counting.gate.opinion(a_call())
    go_on.set()
    await until(lambda: counting.meter.counts.get(("budget_recounts", "")))
    counting.log.size = read  # type: ignore[method-assign]
    assert (await counting.gate.pass_through(a_call())).success


async def test_no_more_counts_wait_than_some(counting: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_COUNTS", 0)
    admission = await told(counting, {"tiers": {"default": {"per_session": {"calls": 5}}}})
    answer = await counting.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.BUDGET_UNKNOWN
    assert ("budget_recounts", "") not in counting.meter.counts
    assert len(admission.quotas) == 1, "refused at once"


async def test_the_end_does_not_wait_for_counts_and_leaves_none_behind(counting: House) -> None:
    await told(counting, {"tiers": {"default": {"per_session": {"calls": 5}}}})
    reading = asyncio.Event()

    async def never() -> int:
        reading.set()
        return await asyncio.Future()

    counting.log.size = never  # type: ignore[method-assign]
    call = asyncio.create_task(counting.gate.pass_through(a_call()))
    await reading.wait()
    async with asyncio.timeout(5):
        await counting.gate._limits.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task(), call}
    assert (await call).reason_code is ReasonCode.BUDGET_UNKNOWN


async def test_where_policy_wants_no_facts_an_opinion_does_without_the_log(counting: House) -> None:
    await told(counting, {"tiers": {"default": {"per_session": {"calls": 5}}}})
    counting.log.is_down = True
    assert (await counting.gate.opinion(a_call())).allowed


async def test_a_count_that_fails_by_a_fault_of_ours_is_logged_and_by_the_logs_is_not(
    counting: House, caplog: pytest.LogCaptureFixture
) -> None:
    await told(counting, {"tiers": {"default": {"per_session": {"calls": 5}}}})

    async def explode() -> int:
        raise ZeroDivisionError

    counting.log.size = explode  # type: ignore[method-assign]
    assert (await counting.gate.pass_through(a_call())).reason_code is ReasonCode.BUDGET_UNKNOWN
    assert caplog.messages == ["a budget could not be counted"]
    assert caplog.records[0].exc_info is not None
    assert counting.meter.counts["budget_recount_failures", ""] == 1


def test_a_toll_before_anything_is_on_record_says_nothing_of_a_spending() -> None:
    toll = Toll(Quota(charge=Amounts(1, 2, 3)))
    toll.ended(Outcome.OK, 7, 11, ("private",))
    assert (toll.spent, toll.brings_labels, toll.charge) == (None, False, Amounts(1, 2, 3))
    toll.allowed(5)
    assert toll.spent == Spent(5)
    toll.asked_at_s = 10.0
    assert [toll.is_late(now_s) for now_s in (12.9, 13.0)] == [False, True]


@pytest.mark.parametrize(
    ("period", "others"),
    [
        ("session", [{"session": "s-2"}, {"session": "s-3"}, {"session": "s-4"}]),
        ("day", [{"session": "s-9", "caller": principal(tenant="acme")}] * 3),
        ("day", [{"session": "s-9", "caller": principal("another")}] * 3),
    ],
)
async def test_a_count_of_the_log_is_of_nobody_elses_calls(
    counting: House, period: str, others: list[dict[str, Any]]
) -> None:
    await told(counting, {})
    for other in (*others, {}):
        assert (await counting.gate.pass_through(a_call(**other))).success
    await told(counting, {"tiers": {"default": {f"per_{period}": {"calls": 2}}}})
    reasons = [(await counting.gate.pass_through(a_call())).reason_code for _ in range(2)]
    assert reasons == [ReasonCode.OK, ReasonCode.BUDGET_SPENT], "its own of before counts"


async def test_a_count_of_the_log_is_of_its_own_hour(counting: House) -> None:
    await told(counting, {})
    assert (await counting.gate.pass_through(a_call())).success
    counting.clock.move(3600)
    counting.replica.lease.renew(counting.clock.boot_s())
    await told(counting, {"tiers": {"default": {"per_hour": {"calls": 1}}}})
    reasons = [(await counting.gate.pass_through(a_call())).reason_code for _ in range(2)]
    assert reasons == [ReasonCode.OK, ReasonCode.BUDGET_SPENT]
