"""What a call is counted against, by the data of the policy in force; and what a limit or a budget says of it.

docs/limits.md says what each of them means. The counting itself is admission's; where that does not know what was used
(Redis lost it, or never heard of the session), the log is counted first, and nothing is let in before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agentgate.core.amounts import NOTHING, ONE_CALL, Amounts, money
from agentgate.core.budget import Budget, Count, Period, Tally
from agentgate.core.call import Call
from agentgate.core.decision import Decision, Verdict, refusal
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Kind, Outcome, rfc3339
from agentgate.core.facts import Facts
from agentgate.core.query import Query
from agentgate.core.tiers import DEFAULT, MINUTE_S, LimitRules, Tier
from agentgate.ports.containment import (
    UNDECIDED_S,
    Admission,
    Admitted,
    BudgetState,
    Counted,
    LimitState,
    NotAdmitted,
    Quota,
    RateLimit,
    Spent,
    Uncounted,
)
from agentgate.ports.log import LogReader
from agentgate.ports.notices import Meter

logger = logging.getLogger("agentgate.limits")

ALERT_RULE: Final = "budget_alert"
LATE: Final = "It took too long to decide: what was used may have been counted without this call"
UNNOTED: Final = (
    "The call was made, and its outcome is on record; its answer is withheld, because it could not be noted what kinds"
    " of data the session has touched by it"
)
COUNT_WAIT_S: Final = 1.0
"""How long a call waits for the log to be counted; the counting goes on without it."""
_COUNTS_AT_ONCE: Final = 8
_MOST_COUNTS: Final = 1_000
"""Waiting ones among them. Beyond, calls are refused at once: names of sessions can be made up."""
_TRIES: Final = 3
_SESSION_ONLY: Final = Budget(Period.SESSION)
"""Limits nothing; there so that facts are counted."""


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a tier says of one tool."""

    quota: Quota | None
    action: Budget | None


@dataclass(slots=True)
class Toll:
    """What budgets have to do with one call, from its admission to its end."""

    quota: Quota
    action: Budget | None = None
    facts: Facts | None = None
    alert: BudgetState | None = None
    asked_at_s: float = 0.0
    """When admission was asked, in boot time."""
    spent: Spent | None = None
    """What admission is told at the end; None until the call's ALLOW is on record."""
    _more_cost: int = 0

    @property
    def charge(self) -> Amounts:
        """What the record says of the call: the bytes of its arguments and what it is estimated to cost."""
        return self.quota.charge._replace(cost=self.quota.charge.cost + self._more_cost)

    def priced(self, decision: Decision) -> Decision:
        """Policy's answer; where it has its own estimate of the cost, held against the limits of one action."""
        if decision.est_cost is None:
            return decision
        self._more_cost = decision.est_cost - self.quota.charge.cost
        if not decision.allowed or self.action is None:
            return decision
        over, alert = _of_action(self.action, self.charge)
        if over is not None:
            return _spent(over)._replace(policy_revision=decision.policy_revision)
        self.alert = alert or self.alert
        return decision

    def warned(self, decision: Decision) -> Decision:
        """An ALLOW needs an approval where a budget is past its threshold."""
        if not decision.allowed or self.alert is None:
            return decision
        reason = f"{_name(self.alert)} is past {_amount(self.alert, self.alert.limit)}"
        return decision._replace(
            verdict=Verdict.REQUIRE_APPROVAL,
            reason_code=ReasonCode.APPROVAL_REQUIRED,
            reason=f"Budget alert: {reason}",
            matched_rule=ALERT_RULE,
        )

    def allowed(self, index: int) -> None:
        """Its ALLOW is on record: from now on what it was charged is used."""
        self.spent = Spent(index, more_cost=self._more_cost)

    @property
    def brings_labels(self) -> bool:
        """Whether the session has touched something by this call that it had not, as far as was known."""
        if self.facts is None or self.spent is None:
            return False
        return not self.facts.labels.issuperset(self.spent.labels)

    def is_late(self, now_s: float) -> bool:
        """Whether a count of the log could have missed it, had admission lost everything meanwhile."""
        return now_s - self.asked_at_s >= UNDECIDED_S

    def ended(self, outcome: Outcome, index: int | None, result_bytes: int, labels: Sequence[str] = ()) -> None:
        """Its outcome is on record, at `index`; None: it could not be written yet."""
        if self.spent is not None:
            is_ok = outcome is Outcome.OK
            self.spent = Spent(self.spent.allowed_at, index, result_bytes, self._more_cost, is_ok, tuple(labels))


class Recount:
    """Counts the log for budgets that admission does not know. One count for all who wait for the same."""

    def __init__(self, reader: LogReader, meter: Meter) -> None:
        self._reader = reader
        self._meter = meter
        self._running: dict[tuple[str, Period], asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(_COUNTS_AT_ONCE)

    async def fill(self, admission: Admission, call: Call, uncounted: Sequence[Uncounted]) -> bool:
        """Whether all of them have been counted, in the time that a call can wait."""
        tasks = [task for what in uncounted if (task := self._task(admission, call, what)) is not None]
        if len(tasks) < len(uncounted):
            return False
        done, _ = await asyncio.wait(tasks, timeout=COUNT_WAIT_S)
        return len(done) == len(tasks) and not any(task.cancelled() or task.exception() for task in tasks)

    async def aclose(self) -> None:
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, admission: Admission, call: Call, what: Uncounted) -> asyncio.Task[None] | None:
        key = what.epoch, what.period
        if (task := self._running.get(key)) is not None:
            return task
        if len(self._running) >= _MOST_COUNTS:
            return None
        task = self._running[key] = asyncio.create_task(self._count(admission, call, what), name="agentgate-recount")
        task.add_done_callback(lambda done: self._done(key, done))
        return task

    def _done(self, key: tuple[str, Period], task: asyncio.Task[None]) -> None:
        del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, LogUnavailable):
                logger.error("a budget could not be counted", exc_info=error)
            self._meter.count("budget_recount_failures")

    async def facts(self, call: Call) -> Facts:
        """Raises LogUnavailable."""
        try:
            async with asyncio.timeout(COUNT_WAIT_S):
                return (await self._tally(call, Uncounted(Period.SESSION, 0, ""))).facts
        except TimeoutError:
            raise LogUnavailable("the log takes too long to say what the session did") from None

    async def _count(self, admission: Admission, call: Call, what: Uncounted) -> None:
        """Raises LogUnavailable."""
        if await admission.restore(call, what, await self._tally(call, what)):
            self._meter.count("budget_recounts")

    async def _tally(self, call: Call, what: Uncounted) -> Tally:
        """Raises LogUnavailable."""
        async with self._turn:
            through = await self._reader.size()
            count = Count()
            async for record in self._reader.search(_events_of(call, what), below=through):
                count.add(record)
        return count.tally(through)


def _events_of(call: Call, what: Uncounted) -> Query:
    since = None
    if what.period.seconds:
        since = rfc3339(datetime.fromtimestamp(what.number * what.period.seconds, UTC))
    return Query(
        tenant=call.tenant,
        session=call.session if what.period is Period.SESSION else None,
        agent=call.caller.id,
        kinds=(Kind.DECIDED, Kind.FINISHED),
        since=since,
    )


class RateLimits:
    """How often who may call what, and what that may use; taken from the data of the policy in force."""

    def __init__(self, window_s: float, recount: Recount | None = None) -> None:
        """`window_s` is that of `rate_limits`; tiers are per minute. Without `recount` no unknown budget is filled."""
        self.window_s = window_s
        self.rules = LimitRules()
        self._recount = recount
        self._plain: Mapping[str, Quota] = {}
        self._terms: dict[tuple[str, str], _Terms] = {}
        """Made once for each tier and each tool that something is said of; "" stands for all other tools."""

    def load(self, rules: LimitRules) -> None:
        self.rules = rules
        self._plain = {tool: Quota((RateLimit(limit, self.window_s),)) for tool, limit in rules.rate_limits.items()}
        self._terms = {}

    async def admit(
        self, admission: Admission, call: Call, seen: int, *, is_free: bool = False
    ) -> tuple[Admitted | NotAdmitted | Decision, Toll | None]:
        """Ask admission, once the log was counted where it must be. A Decision is a refusal that needs no asking.
        `is_free`: it counts as a request, and against no budget."""
        rules = self.rules
        if not rules.tiers and not rules.session_facts and not call.caller.tier:
            return await admission.admit(call, self._plain.get(call.tool_name), seen), None
        terms = self._terms_for(call)
        if terms is None:
            text = f"The limits of tier {call.caller.tier} are not known: the policy's data does not have it"
            return refusal(ReasonCode.BUDGET_UNKNOWN, text, "tier_unknown"), None
        if is_free and terms.quota is not None:
            limits = Quota(terms.quota.limits) if terms.quota.limits else None
            return await admission.admit(call, limits, seen), None
        if terms.quota is None or not (terms.quota.budgets or terms.action):
            return await admission.admit(call, terms.quota, seen), None
        charge = ONE_CALL._replace(bytes=len(call.arguments_json), cost=rules.costs.get(call.tool_name, 0))
        quota = Quota(terms.quota.limits, terms.quota.budgets, charge, terms.quota.wants_facts)
        toll = Toll(quota, terms.action)
        if terms.action is not None:
            over, toll.alert = _of_action(terms.action, charge)
            if over is not None:
                return _spent(over), None
        answer = await self._counted(admission, call, quota, seen)
        if isinstance(answer, Admitted):
            toll.facts, toll.alert = answer.facts, answer.alert or toll.alert
        return answer, toll

    async def facts(self, call: Call) -> Facts | None:
        """What the session of `call` did before, as the log says; None where policy does not want to know.

        Raises:
            LogUnavailable: also when the log takes too long to say.
        """
        if not self.rules.session_facts or self._recount is None:
            return None
        return await self._recount.facts(call)

    async def aclose(self) -> None:
        if self._recount is not None:
            await self._recount.aclose()

    async def _counted(self, admission: Admission, call: Call, quota: Quota, seen: int) -> Admitted | NotAdmitted:
        answer = await admission.admit(call, quota, seen)
        for _ in range(_TRIES):
            if not isinstance(answer, NotAdmitted) or not answer.uncounted or self._recount is None:
                break
            if not await self._recount.fill(admission, call, answer.uncounted):
                break
            answer = await admission.admit(call, quota, seen)
        return answer

    def _terms_for(self, call: Call) -> _Terms | None:
        """None: nobody knows the caller's tier."""
        name = call.caller.tier or DEFAULT
        tier = self.rules.tiers.get(name)
        if tier is None:
            if call.caller.tier:
                return None
            tier = _NO_TIER
        known = call.tool_name in tier.tools or call.tool_name in self.rules.rate_limits
        key = name, call.tool_name if known else ""
        terms = self._terms.get(key)
        if terms is None:
            terms = self._terms[key] = self._made(tier, key[1])
        return terms

    def _made(self, tier: Tier, tool: str) -> _Terms:
        limits = []
        if tool in tier.tools:
            if (per_minute := tier.tools[tool]) is not None:
                limits.append(RateLimit(per_minute, MINUTE_S))
        elif tool in self.rules.rate_limits:
            limits.append(RateLimit(self.rules.rate_limits[tool], self.window_s))
        if tier.session is not None:
            limits.append(RateLimit(tier.session, MINUTE_S, Counted.SESSION))
        if tier.agent is not None:
            limits.append(RateLimit(tier.agent, MINUTE_S, Counted.AGENT))
        budgets, wants_facts = tier.budgets, self.rules.session_facts
        if wants_facts and not any(budget.period is Period.SESSION for budget in budgets):
            budgets = (_SESSION_ONLY, *budgets)
        is_counted = limits or budgets or tier.action
        return _Terms(Quota(tuple(limits), budgets, wants_facts=wants_facts) if is_counted else None, tier.action)


_NO_TIER: Final = Tier()


def not_admitted(answer: NotAdmitted, call: Call) -> Decision:
    """The refusal by a limit or a budget, which names it."""
    if answer.budget is not None:
        return _spent(answer.budget)
    if answer.reason is ReasonCode.BUDGET_UNKNOWN:
        text = "What the session or agent has used is not known: the log is being counted"
        return refusal(ReasonCode.BUDGET_UNKNOWN, text, "budget")
    limit = answer.limit
    if limit is None or limit.of is Counted.TOOL:
        return refusal(answer.reason, "Rate limit exceeded", "rate_limit")
    whose = f"of this {limit.of} (tier {call.caller.tier or DEFAULT})"
    text = f"Rate limit exceeded: {limit.limit} requests per minute {whose}"
    return refusal(answer.reason, text, f"rate_limit_{limit.of}")


def retry_after_s(limit: LimitState | None, budget: BudgetState | None, now_s: float) -> int | None:
    """After how many whole seconds a call that was refused by one of them can be made; None: waiting does not help."""
    at = budget.reset_at if budget is not None else limit.reset_at if limit is not None else None
    return None if at is None else max(1, int(-(-(at - now_s) // 1)))


def budget_of(answer: NotAdmitted) -> str:
    """The label of a metric."""
    return f"{answer.budget.period}_{answer.budget.what}" if answer.budget is not None else "other"


def _of_action(action: Budget, charge: Amounts) -> tuple[BudgetState | None, BudgetState | None]:
    """What a single call is over, and what it alerts."""
    found: list[BudgetState | None] = []
    for limits, over in ((action.limit, action.over(NOTHING, charge)), (action.alert, action.alerts(NOTHING, charge))):
        found.append(None if over is None else BudgetState(Period.ACTION, over, getattr(limits, over), 0))
    return found[0], found[1]


def _spent(budget: BudgetState) -> Decision:
    text = f"Budget spent: {_name(budget)} has {_amount(budget, budget.limit)}"
    if budget.period is Period.ACTION:
        text = f"Budget spent: a single call may have {_amount(budget, budget.limit)}"
    return refusal(ReasonCode.BUDGET_SPENT, text, f"budget_{budget.period}_{budget.what}")


def _name(budget: BudgetState) -> str:
    return {
        Period.ACTION: "the budget of a single call",
        Period.SESSION: "this session's budget",
        Period.HOUR: "this agent's budget for the hour",
        Period.DAY: "this agent's budget for the day",
    }[budget.period]


def _amount(budget: BudgetState, amount: int) -> str:
    return f"{budget.what} {money(amount)}" if budget.what == "cost" else f"{amount} {budget.what}"
