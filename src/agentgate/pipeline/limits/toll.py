"""What limits and budgets have to do with one call, from its admission to its end, and what it is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentgate.core.amounts import NOTHING, Amounts, money
from agentgate.core.budget import Budget, Period
from agentgate.core.call import Call
from agentgate.core.decision import Decision, Verdict, refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Outcome
from agentgate.core.facts import Facts
from agentgate.core.notice import ALERT_RULE
from agentgate.core.tiers import DEFAULT
from agentgate.ports.containment import UNDECIDED_S, BudgetState, Counted, LimitState, NotAdmitted, Quota, Spent

LATE: Final = "It took too long to decide: what was used may have been counted without this call"
UNNOTED: Final = (
    "The call was made, and its outcome is on record; its answer is withheld, because it could not be noted what kinds"
    " of data the session has touched by it"
)


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
        over = self.over_alone() if decision.allowed else None
        return over._replace(policy_revision=decision.policy_revision) if over is not None else decision

    def over_alone(self) -> Decision | None:
        """The refusal, where the call is more than a single one may be; else what it alerts is noted."""
        if self.action is None:
            return None
        if (over := self.action.over(NOTHING, self.charge)) is not None:
            return _spent(BudgetState(Period.ACTION, over, getattr(self.action.limit, over), 0))
        if (near := self.action.alerts(NOTHING, self.charge)) is not None:
            self.alert = BudgetState(Period.ACTION, near, getattr(self.action.alert, near), 0)
        return None

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
