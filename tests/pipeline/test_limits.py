"""Tiers, budgets and facts through a whole gate: admission and log in memory, with the rules of the real ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.containment.local import LocalAdmission
from agentgate.core.approval import State
from agentgate.core.call import Call, Clean, Role
from agentgate.core.containment import KillState
from agentgate.core.decision import Verdict
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Event, Kind, Outcome
from agentgate.core.facts import Facts
from agentgate.core.strict_json import parse
from agentgate.core.tiers import read_rules
from agentgate.pipeline.calls.passage import Answer
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.limits.recount import Recount
from agentgate.pipeline.limits.toll import UNNOTED
from agentgate.ports.containment import UNDECIDED_S, Admitted, Counted, NotAdmitted, Quota, RateLimit, Spent
from agentgate.ports.log import Appended
from agentgate.ports.upstreams import Delivered, Undelivered
from tests.fakes import ADMIN, ALLOW, ALLOW_WRITE, ASK, TOOL, a_call, a_kill, principal
from tests.pipeline.conftest import House, desk_of, edit_desk, until


class Budgeted:
    """A house whose gate counts as the data says."""

    def __init__(self, house: House, data: dict[str, Any]) -> None:
        self.house = house
        self.data = data
        self.recount = Recount(house.log, house.meter)
        self.limits = RateLimits(60, self.recount)
        self.limits.load(read_rules(data))
        self.admission = LocalAdmission(member="m-1", clock=house.clock)
        house.gate._limits = self.limits
        house.gate._admission = self.admission

    async def start(self) -> Budgeted:
        await self.admission.apply(KillState(0, {}))
        return self

    async def lose_everything(self) -> None:
        """As an emptied Redis, or another process."""
        self.admission = LocalAdmission(member="m-1", clock=self.house.clock)
        self.house.gate._admission = self.admission
        await self.start()

    async def call(self, **about: Any) -> Answer:
        return await self.house.gate.pass_through(made(**about))

    async def reasons(self, count: int, **about: Any) -> list[str]:
        return [(await self.call(**about)).reason_code.value for _ in range(count)]


def made(*, tier: str = "", agent: str = "bot", **about: Any) -> Call:
    return a_call(caller=replace(principal(agent), tier=tier), **about)


async def budgeted(house: House, data: dict[str, Any]) -> Budgeted:
    return await Budgeted(house, data).start()


def per(period: str, **about: Any) -> dict[str, Any]:
    return {"tiers": {"default": {f"per_{period}": about}}}


# --- tiers -----------------------------------------------------------------------------------------------------


async def test_each_tier_has_its_own_limit(counting: House) -> None:
    tiers = {"default": {"requests_per_minute": 1}, "plus": {"requests_per_minute": 2}, "free": {}}
    made = await budgeted(counting, {"tiers": tiers})
    assert await made.reasons(2) == ["ok", "rate_limited"]
    assert await made.reasons(1, tier="plus") == ["ok"]  # the same agent: its one call of before counts
    assert await made.reasons(1, tier="plus") == ["rate_limited"]
    assert await made.reasons(3, tier="free") == ["ok"] * 3


@pytest.mark.parametrize(
    "data", [{}, {"tiers": {"default": {}}}, {"session_facts": True}], ids=["none", "one", "facts"]
)
async def test_a_tier_that_nobody_knows_is_refused_and_recorded(counting: House, data: dict[str, Any]) -> None:
    made = await budgeted(counting, data)
    answer = await made.call(tier="gold")
    assert (answer.reason_code, answer.decision.matched_rule) == (ReasonCode.BUDGET_UNKNOWN, "tier_unknown")
    text = "The limits of tier gold are not known: the policy's data does not have it"
    assert answer.decision.reason == text
    assert answer.is_outage
    assert counting.upstream.sent == []
    assert counting.log.of(Kind.DECIDED)[-1]["rule"] == "tier_unknown"
    assert counting.meter.counts[("budget_unknown", "tier_unknown")] == 1


async def test_a_refusal_names_its_limit_and_when_to_come_back(counting: House) -> None:
    tiers = {"default": {"requests_per_minute": 9, "per_session": {"requests_per_minute": 1}}}
    made = await budgeted(counting, {"tiers": tiers})
    await made.call()
    refused = await made.call()
    assert refused.decision.matched_rule == "rate_limit_session"
    assert refused.decision.reason == "Rate limit exceeded: 1 requests per minute of this session (tier default)"
    assert refused.retry_after_s is not None
    assert 1 <= refused.retry_after_s <= 61


class Listening(LocalAdmission):
    """Remembers what it was asked to count."""

    asked: list[Quota | None]

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        self.asked.append(quota)
        return await super().admit(call, quota, seen)


async def test_the_shipped_tiers_ask_nothing_of_admission_for_who_has_no_limit(counting: House) -> None:
    data = parse((Path(__file__).parents[2] / "policies" / "data.json").read_bytes())
    shipped = await budgeted(counting, data)
    counting.gate._admission = listening = Listening(member="m-1", clock=counting.clock)
    listening.asked = []
    await listening.apply(KillState(0, {}))
    for tier in ("", "unlimited", "standard", "premium"):
        assert (await shipped.call(tier=tier)).success
    standard, premium = (Quota((RateLimit(limit, 60, Counted.AGENT),)) for limit in (120, 600))
    assert listening.asked == [None, None, standard, premium]


async def test_a_tool_of_a_tier_takes_the_place_of_its_rate_limit(counting: House) -> None:
    data = {"rate_limits": {"db_query": 1}, "tiers": {"default": {}, "plus": {"per_tool": {"db_query": 2}},
                                                      "free": {"per_tool": {"db_query": -1}}}}  # fmt: skip
    made = await budgeted(counting, data)
    assert await made.reasons(2) == ["ok", "rate_limited"]
    assert await made.reasons(2, tier="plus") == ["ok", "rate_limited"]
    assert await made.reasons(3, tier="free") == ["ok"] * 3


# --- budgets ---------------------------------------------------------------------------------------------------


async def test_the_budget_ends_a_runaway(counting: House) -> None:
    made = await budgeted(counting, per("session", calls=5))
    assert await made.reasons(7) == ["ok"] * 5 + ["budget_spent"] * 2
    assert len(counting.upstream.sent) == 5
    refused = await made.call()
    assert refused.decision.reason == "Budget spent: this session's budget has 5 calls"
    assert (refused.decision.matched_rule, refused.retry_after_s) == ("budget_session_calls", None)
    assert counting.meter.counts[("budget_spent", "session_calls")] == 3


async def test_what_policy_or_an_approval_refuses_uses_nothing(counting: House) -> None:
    made = await budgeted(counting, per("session", calls=1))
    counting.engine.answer = {"action": "DENY", "reason": "no"}
    assert await made.reasons(3) == ["policy_deny"] * 3
    counting.engine.answer = {"action": "REQUIRE_APPROVAL", "reason": "ask"}
    assert await made.reasons(2) == ["approval_required"] * 2
    counting.engine.answer = ALLOW
    assert await made.reasons(2) == ["ok", "budget_spent"]


async def test_results_count_as_bytes(counting: House) -> None:
    counting.upstream.answer = Delivered({"text": "x" * 100})
    made = await budgeted(counting, per("session", bytes=200))
    reasons = await made.reasons(4)
    assert reasons[0] == "ok"
    assert reasons[-1] == "budget_spent"


async def test_costs_are_those_of_the_data_or_of_policy(counting: House) -> None:
    data = per("day", cost="0.01") | {"costs": {"db_query": "0.004"}}
    made = await budgeted(counting, data)
    assert await made.reasons(3) == ["ok", "ok", "budget_spent"]
    assert counting.log.of(Kind.DECIDED)[0]["cost_micros"] == 4_000
    counting.engine.answer = {**ALLOW, "est_cost": "0.003"}
    assert await made.reasons(3, agent="other", session="s-2") == ["ok"] * 2 + ["ok"]
    assert counting.log.of(Kind.DECIDED)[-1]["cost_micros"] == 3_000


async def test_a_spent_day_says_when_it_ends(counting: House) -> None:
    made = await budgeted(counting, per("day", calls=1))
    assert await made.reasons(1) == ["ok"]
    refused = await made.call(session="another")
    assert refused.reason_code is ReasonCode.BUDGET_SPENT
    assert refused.retry_after_s is not None
    assert 1 <= refused.retry_after_s <= 86_400


@pytest.mark.parametrize("cost", [1, "1,5", "-1", None, "1e3"])
async def test_an_estimate_that_is_no_amount_is_no_answer(counting: House, cost: object) -> None:
    counting.engine.answer = {**ALLOW, "est_cost": cost}
    answer = await counting.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.POLICY_MALFORMED


async def test_past_the_threshold_somebody_must_approve_and_the_limit_stays(counting: House) -> None:
    made = await budgeted(counting, per("session", calls=3, alert_threshold="50%"))
    assert await made.reasons(1) == ["ok"]
    asked = await made.call()
    assert asked.decision.verdict is Verdict.REQUIRE_APPROVAL
    assert asked.decision.matched_rule == "budget_alert"
    assert asked.approval is not None
    for _ in range(2):
        asked = await made.call()
        assert asked.approval is not None
        verdict = await counting.approvals.decide(ADMIN, asked.approval.id, State.APPROVED)
        assert not isinstance(verdict, Refused), verdict
        assert (await made.call()).reason_code is ReasonCode.OK
    refused = await made.call()
    assert refused.reason_code is ReasonCode.BUDGET_SPENT
    assert len(counting.upstream.sent) == 3


# --- recounted from the log --------------------------------------------------------------------------------------


async def test_what_was_used_is_counted_from_the_log_after_a_loss(counting: House) -> None:
    made = await budgeted(counting, per("session", calls=5) | {"costs": {"db_query": "1"}})
    assert await made.reasons(3) == ["ok"] * 3
    await made.lose_everything()
    assert await made.reasons(3) == ["ok", "ok", "budget_spent"]
    assert counting.meter.counts[("budget_recounts", "")] == 2


async def test_facts_are_the_same_after_a_loss(counting: House) -> None:
    made = await budgeted(counting, {"session_facts": True, "costs": {"db_query": "0.5"}})
    seen: list[Facts | None] = []
    admit = made.limits.admit

    async def listening(*asked: Any, **how: Any) -> Any:
        answer, toll = await admit(*asked, **how)
        seen.append(toll.facts if toll is not None else None)
        return answer, toll

    made.limits.admit = listening  # type: ignore[method-assign]
    for _ in range(3):
        await made.call()
    await made.lose_everything()
    await made.call()
    before, after = seen[2], seen[3]
    assert before is not None
    assert after is not None
    assert (after.calls, after.cost_micros) == (3, 1_500_000)
    assert after.bytes * 2 == before.bytes * 3
    assert after.tools["db_query"].calls == 3


class Slow(LocalAdmission):
    """Hears of a release much later, and does not take what it is told where `is_gone`."""

    is_gone = False

    def release(self, call: Call, spent: Spent | None = None) -> None: ...

    async def settle(self, call: Call, spent: Spent) -> bool:
        return not self.is_gone and await super().settle(call, spent)


async def labelled(house: House) -> Slow:
    """The house counts facts in a slow store, and `db_query` brings the label `private`."""
    made = await budgeted(house, {"session_facts": True})
    house.questions.load(house.questions.read({"labels": {"tools": {"db_query": ["private"]}}}))
    house.gate._admission = slow = Slow(member="m-1", clock=house.clock)
    await slow.apply(KillState(0, {}))
    assert made.limits.rules.session_facts
    return slow


@pytest.mark.parametrize("answer", [Delivered({"ok": True}), Undelivered(ReasonCode.UPSTREAM_ERROR, "no", status=500)])
async def test_who_has_an_answer_is_judged_by_its_labels_at_every_replica(
    counting: House, answer: Delivered | Undelivered
) -> None:
    """However soon it calls again: a release is not waited for, labels are."""
    slow = await labelled(counting)
    counting.upstream.answer = answer
    other = await counting.another("m-2")
    await labelled(other)
    other.gate._admission = slow
    assert (await counting.gate.pass_through(made())).outcome is not None
    await other.gate.pass_through(made())
    assert other.engine.asked[-1]["session"]["labels"] == ["private"]


class _Withdrawn:
    """The side of a caller that has taken its call back."""

    withdrawn = True

    def guard(self, clean: Clean) -> None: ...


async def labels_after(house: House) -> Any:
    """What the next call of the session is judged by."""
    await house.gate.pass_through(made())
    return house.engine.asked[-1]["session"]["labels"]


async def test_a_call_that_its_caller_takes_back_brings_its_labels_all_the_same(counting: House) -> None:
    """Its server may have said everything before, beside the answer: nobody has looked through that."""
    await budgeted(counting, {"session_facts": True})
    rules = {"labels": {"tools": {"db_query": ["private"]}}, "result_labels": True}
    counting.questions.load(counting.questions.read(rules))
    counting.upstream.hold()
    task = asyncio.create_task(counting.gate.pass_through(replace(made(), peer=_Withdrawn())))
    await counting.upstream.started.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert counting.log.of(Kind.FINISHED)[-1]["labels"] == ["pii", "private", "secret"]
    counting.upstream.let_go()
    assert await labels_after(counting) == ["pii", "private", "secret"]


async def test_a_call_that_its_caller_takes_back_while_it_is_recorded_brings_its_labels(
    counting: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await budgeted(counting, {"session_facts": True})
    counting.questions.load(counting.questions.read({"labels": {"tools": {"db_query": ["private"]}}}))
    recording = asyncio.Event()

    async def stutter(event: Event) -> Appended:
        counting.log.append_now(event)
        recording.set()
        return await asyncio.Future()

    task = await counting.running()
    with monkeypatch.context() as patched:
        patched.setattr(counting.log, "append", stutter)
        counting.upstream.let_go()
        await recording.wait()
        task.cancel()
        await asyncio.wait([task])
    assert await labels_after(counting) == ["private"]


async def test_a_call_that_a_kill_cuts_brings_the_labels_of_its_tool(counting: House) -> None:
    """Its session goes on when that is released."""
    await budgeted(counting, {"session_facts": True})
    rules = {"labels": {"tools": {"db_query": ["private"]}}, "result_labels": True}
    counting.questions.load(counting.questions.read(rules))
    task = await counting.running()
    next(counting.replica.flights()).cut(a_kill())
    assert (await task).reason_code is ReasonCode.KILLED
    assert counting.log.of(Kind.FINISHED)[-1]["labels"] == ["private"], "nobody was told anything beside"
    counting.upstream.let_go()
    assert await labels_after(counting) == ["private"]


async def test_a_call_whose_outcome_cannot_be_recorded_brings_its_labels(counting: House) -> None:
    await budgeted(counting, {"session_facts": True})
    counting.questions.load(counting.questions.read({"labels": {"tools": {"db_query": ["private"]}}}))
    task = await counting.running()
    counting.log.is_down = True
    counting.upstream.let_go()
    assert (await task).reason_code is ReasonCode.OUTCOME_UNRECORDED
    counting.log.is_down = False
    assert await labels_after(counting) == ["private"]


@pytest.mark.parametrize("ended", ["cut", "unrecorded"])
async def test_an_ending_without_an_answer_is_told_although_its_labels_could_not_be_noted(
    counting: House, ended: str
) -> None:
    slow = await labelled(counting)
    slow.is_gone = True
    task = await counting.running()
    if ended == "cut":
        next(counting.replica.flights()).cut(a_kill())
    counting.log.is_down = ended == "unrecorded"
    counting.upstream.let_go()
    answer = await task
    text = "Cut by a kill switch while running" if ended == "cut" else "The outcome could not be recorded"
    assert answer.error == f"{text}; upstream effect unknown"


async def test_an_answer_whose_labels_could_not_be_noted_is_withheld(counting: House) -> None:
    slow = await labelled(counting)
    slow.is_gone = True
    answer = await counting.gate.pass_through(made())
    assert (answer.reason_code, answer.success, answer.result_json) == (ReasonCode.OUTCOME_UNRECORDED, False, None)
    assert (answer.error, answer.outcome) == (UNNOTED, Outcome.UNKNOWN)
    assert counting.meter.counts[("budget_unknown", "session_labels")] == 1
    ended = counting.log.of(Kind.FINISHED)[-1]
    assert (ended["outcome"], ended["labels"]) == ("ok", ["private"])


async def test_a_session_that_has_the_labels_already_waits_for_nobody(counting: House) -> None:
    slow = await labelled(counting)
    assert (await counting.gate.pass_through(made())).success
    slow.is_gone = True
    assert (await counting.gate.pass_through(made())).success


async def test_an_opinion_knows_what_the_session_did(counting: House) -> None:
    """Else every edit would be refused where policy wants to know."""
    await labelled(counting)
    await counting.gate.pass_through(made())
    assert (await counting.gate.opinion(made())).allowed
    assert counting.engine.asked[-1]["session"]["labels"] == ["private"]
    assert counting.engine.asked[-1]["session"]["calls"] == 1


async def test_an_edited_call_that_is_repeated_is_judged_with_what_its_session_did(counting: House) -> None:
    made_of = await budgeted(counting, {"session_facts": True})
    counting.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else ASK
    first = await made_of.call(arguments={"n": 1})
    assert first.approval is not None
    edits = edit_desk(counting)
    done = await edits.edit_and_approve(principal("ada", Role.APPROVER, person=True), first.approval.id, {"n": 2})
    assert not isinstance(done, Refused), done
    assert (await made_of.call(arguments={"n": 1})).success
    assert all("calls" in asked["session"] for asked in counting.engine.asked)


async def test_a_session_that_cannot_be_counted_has_no_opinion(counting: House) -> None:
    await labelled(counting)
    counting.log.is_down = True
    with pytest.raises(LogUnavailable):
        await counting.gate.opinion(made())


async def test_another_principals_calls_are_not_counted(counting: House) -> None:
    made = await budgeted(counting, per("day", calls=2))
    assert await made.reasons(2, agent="other", session="s-other") == ["ok"] * 2
    await made.lose_everything()
    assert await made.reasons(3) == ["ok", "ok", "budget_spent"]


async def test_a_log_that_cannot_be_read_lets_nothing_in(counting: House) -> None:
    made = await budgeted(counting, per("session", calls=5))
    read = counting.log.size

    async def fail() -> int:
        raise LogUnavailable("told to fail")

    counting.log.size = fail  # type: ignore[method-assign]
    answer = await made.call()
    assert (answer.reason_code, answer.is_outage) == (ReasonCode.BUDGET_UNKNOWN, True)
    assert counting.upstream.sent == []
    assert counting.meter.counts[("budget_recount_failures", "")] == 1
    counting.log.size = read  # type: ignore[method-assign]
    assert await made.reasons(1) == ["ok"]


async def test_all_who_wait_for_one_count_wait_for_one_reading(counting: House) -> None:
    made = await budgeted(counting, per("session", calls=5))
    readings = 0
    read, gate = counting.log.size, asyncio.Event()

    async def slowly() -> int:
        nonlocal readings
        readings += 1
        await gate.wait()
        return await read()

    counting.log.size = slowly  # type: ignore[method-assign]
    calls = [asyncio.create_task(made.call()) for _ in range(10)]
    await until(lambda: readings)
    gate.set()
    reasons = sorted([(await task).reason_code.value for task in calls])
    assert reasons == ["budget_spent"] * 5 + ["ok"] * 5
    assert readings == 1


async def test_each_session_has_a_count_of_its_own(counting: House) -> None:
    made = await budgeted(counting, per("session", calls=5))
    answers = await asyncio.gather(*(made.call(session=session) for session in ("s-1", "s-2", "s-3")))
    assert [answer.reason_code.value for answer in answers] == ["ok"] * 3


async def test_a_call_that_took_too_long_to_decide_is_not_sent(counting: House) -> None:
    """What was used may have been lost and counted again meanwhile, without it (UNDECIDED_S)."""
    made = await budgeted(counting, per("session", calls=5))

    def slowly(_: Any) -> Any:
        counting.clock.move(UNDECIDED_S)
        counting.replica.lease.renew(counting.clock.boot_s())
        return ALLOW

    counting.engine.answer = slowly
    answer = await made.call()
    assert (answer.reason_code, answer.is_outage) == (ReasonCode.BUDGET_UNKNOWN, True)
    text = "It took too long to decide: what was used may have been counted without this call"
    assert (answer.error, answer.outcome) == (text, Outcome.NOT_SENT)
    assert counting.upstream.sent == []
    assert counting.log.of(Kind.FINISHED)[-1]["outcome"] == "not_sent"


# --- answers that are told again ---------------------------------------------------------------------------------


async def test_the_answer_of_the_last_call_of_a_budget_is_told_again(counting: House) -> None:
    """Else its caller would hear `budget_spent` of a call that has run, and take it for one that has not."""
    made_by = await budgeted(counting, per("session", calls=1))
    call = replace(made(), idempotency_key="k-1")
    first = await counting.gate.pass_through(call)
    again = await counting.gate.pass_through(replace(call, trace_id=made().trace_id))
    assert (first.success, again.success, again.is_replayed) == (True, True, True)
    assert again.result_json == first.result_json
    assert await made_by.reasons(1) == ["budget_spent"]
    another = replace(made(arguments={"n": 2}), idempotency_key="k-1")
    assert (await counting.gate.pass_through(another)).reason_code is ReasonCode.IDEMPOTENCY_MISMATCH
    assert len(counting.upstream.sent) == 1


async def test_an_answer_of_a_tool_that_is_quarantined_since_is_withheld_whatever_the_budget(counting: House) -> None:
    await budgeted(counting, per("session", calls=1))
    call = replace(made(), idempotency_key="k-1")
    assert (await counting.gate.pass_through(call)).success
    shut = replace(call, trace_id=made().trace_id, tool=replace(TOOL, quarantine="changed"))
    again = await counting.gate.pass_through(shut)
    assert (again.reason_code, again.result_json) == (ReasonCode.TOOL_QUARANTINED, None)
    assert counting.log.of(Kind.ANSWERED) == []


async def test_a_call_that_runs_is_told_as_running_although_it_has_used_the_budget_up(counting: House) -> None:
    await budgeted(counting, per("day", calls=1))
    counting.upstream.hold()
    call = replace(made(), idempotency_key="k-1")
    running = asyncio.create_task(counting.gate.pass_through(call))
    await counting.upstream.started.wait()
    again = await counting.gate.pass_through(replace(call, trace_id=made().trace_id))
    assert again.reason_code is ReasonCode.IDEMPOTENCY_IN_PROGRESS
    counting.upstream.let_go()
    assert (await running).success


async def test_a_kill_withholds_an_answer_that_no_budget_does(counting: House) -> None:
    made_by = await budgeted(counting, per("session", calls=1))
    call = replace(made(), idempotency_key="k-1")
    await counting.gate.pass_through(call)
    kill = a_kill(position=1)
    await made_by.admission.apply(KillState(1, {kill.id: kill}))
    again = await counting.gate.pass_through(replace(call, trace_id=made().trace_id))
    assert (again.reason_code, again.result_json) == (ReasonCode.KILLED, None)


async def test_a_deferred_calls_answer_is_fetched_when_the_budget_is_used_up(counting: House) -> None:
    made_by = await budgeted(counting, per("session", calls=1))
    counting.engine.answer = lambda asked: ALLOW if asked["has_approval_token"] else ASK
    desk = desk_of(counting)
    strict = replace(TOOL, check=lambda arguments: None if arguments else "arguments: must not be empty")
    counting.tools[TOOL.name] = strict  # who fetches an answer sends none
    asked = await counting.gate.pass_through(replace(made(tool=strict, arguments={"n": 1}), deferred=True))
    assert asked.approval is not None
    await counting.approvals.decide(principal("ada", Role.APPROVER, person=True), asked.approval.id, State.APPROVED)
    ran = await desk.execute(asked.approval.id)
    assert isinstance(ran, Answer)
    assert ran.success
    assert await made_by.reasons(1) == ["budget_spent"]
    fetched = await desk.fetch(principal(), asked.call.trace_id)
    assert isinstance(fetched, Answer)
    assert fetched.result_json == ran.result_json
