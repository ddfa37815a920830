"""A call on its way through the gate, and what its door is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentgate.core.approval import ApprovalId
from agentgate.core.call import Call
from agentgate.core.decision import Decision, Verdict, refusal
from agentgate.core.errors import OUTAGE, ReasonCode
from agentgate.core.event import Outcome, rfc3339
from agentgate.core.facts import Facts
from agentgate.core.redaction.redactor import FAILED, Redactor
from agentgate.pipeline.approvals.finder import Found
from agentgate.pipeline.calls.answers import Kept
from agentgate.pipeline.calls.ending import Ending, go_on, lost
from agentgate.pipeline.containment.flights import Flight
from agentgate.pipeline.limits.toll import Toll, retry_after_s
from agentgate.ports.ambient import Clock
from agentgate.ports.containment import BudgetState, LimitState
from agentgate.ports.notices import Meter

_WAS_ALLOWED = refusal(ReasonCode.POLICY_ALLOW, "")._replace(verdict=Verdict.ALLOW)
"""The decision on a call that was run before, as far as it is told again."""


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """What a caller needs to get its call approved."""

    id: ApprovalId
    state: str
    expires_at: str
    trace_id: str = ""
    """Of the call that asked first."""
    quorum: int = 1
    votes: int = 0
    """How many have said yes by now."""
    executes: bool = False
    """Whether the gateway makes the call itself once it is approved."""
    arguments: Mapping[str, Any] | None = None
    """What an approver has made of the arguments that were sent; None where nobody edited them."""


def pending_approval(found: Found) -> PendingApproval:
    approval = found.approval
    return PendingApproval(
        approval.id,
        "pending" if found.approved_by is None else "spent",
        rfc3339(approval.expires_at),
        approval.trace_id,
        approval.quorum,
        approval.votes,
        approval.executes,
        found.edited.arguments if found.edited is not None else None,
    )


@dataclass(slots=True)
class Answer:
    """What a door tells its caller. `result_json` is None unless the call was run and succeeded."""

    call: Call
    decision: Decision
    reason_code: ReasonCode
    """Why the answer is as it is: the decision's code, or how the allowed call ended."""
    error: str | None = None
    result_json: bytes | None = None
    outcome: Outcome | None = None
    limit: LimitState | None = None
    approval: PendingApproval | None = None
    fault_json: bytes | None = None
    """The upstream's own error object, where it answered with one."""
    edited: PendingApproval | None = None
    """The approval that carried it, where that was of other arguments than those that were sent."""
    is_replayed: bool = False
    """It was given before, and is only told again."""
    retry_after_s: int | None = None
    """When a limit or a budget that refused the call has room again; None where waiting does not help."""

    @property
    def success(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def is_outage(self) -> bool:
        """Whether the gateway itself could not serve, so that the caller should try again later (503)."""
        if self.reason_code is ReasonCode.SHUTTING_DOWN and self.outcome is not None:
            return False  # it ran, and would run again
        return self.reason_code in OUTAGE and not self.is_replayed


@dataclass(slots=True)
class Passage:
    """A call on its way, with what was learnt so far."""

    call: Call
    flight: Flight
    admitted: bool = False
    position: int = -1
    limit: LimitState | None = None
    budget: BudgetState | None = None
    """The one that refused the call."""
    toll: Toll | None = None
    """What budgets have to do with it; None where there are none."""
    approval: PendingApproval | None = None
    edited: PendingApproval | None = None
    arguments: bytes = FAILED
    context: bytes = FAILED
    """Both redacted."""
    latency_us: dict[str, int] = field(default_factory=dict)

    @property
    def facts(self) -> Facts | None:
        """What the session did before, where policy wants to know."""
        return self.toll.facts if self.toll is not None else None

    def redact(self, redactor: Redactor) -> bool:
        """Have arguments and context as they may be written down; False, and neither, when that is not known."""
        arguments, context = redactor.json(self.call.arguments_json), redactor.json(self.call.context_json)
        if arguments is FAILED or context is FAILED:
            return False
        self.arguments, self.context = arguments, context
        return True

    def took(self, step: Literal["admission", "policy", "append"], since_ns: int, clock: Clock, meter: Meter) -> None:
        """A step is over; a call may take it more than once."""
        took_ns = clock.ticks_ns() - since_ns
        self.latency_us[step] = self.latency_us.get(step, 0) + took_ns // 1000
        meter.step(step, took_ns / 1e9)

    def refused(self, decision: Decision, clock: Clock) -> Answer:
        """It is not run; or not yet, where an approval is missing."""
        prefix = "Approval required" if decision.verdict is Verdict.REQUIRE_APPROVAL else "Policy denied"
        can_wait = decision.reason_code in (ReasonCode.RATE_LIMITED, ReasonCode.BUDGET_SPENT)
        return Answer(
            self.call,
            decision,
            decision.reason_code,
            f"{prefix}: {decision.reason}",
            limit=self.limit,
            approval=self.approval,
            retry_after_s=retry_after_s(self.limit, self.budget, clock.now().timestamp()) if can_wait else None,
        )

    def outage(self, reason: ReasonCode, text: str) -> Answer:
        """It is not run, for the gateway could not serve it."""
        return Answer(self.call, refusal(reason, text), reason, f"Policy denied: {text}", limit=self.limit)

    def shut(self) -> Answer:
        """The process ends with it: before it was sent, or before its outcome was on record. Its caller is told."""
        go_on(self.flight.task)
        if self.flight.ending in ("", Outcome.NOT_SENT):
            return self.outage(ReasonCode.SHUTTING_DOWN, "The gateway is shutting down")
        return self.ended(_WAS_ALLOWED, lost())

    def ended(self, decision: Decision, ending: Ending) -> Answer:
        """It was allowed, and this is what came of it."""
        return Answer(
            self.call,
            decision,
            ending.reason,
            ending.error,
            ending.result_json,
            ending.outcome,
            self.limit,
            fault_json=ending.fault_json,
            edited=self.edited,
        )

    def again(self, kept: Kept) -> Answer:
        """It was run before, and was answered so."""
        return Answer(
            self.flight.call.under(kept.trace_id),
            _WAS_ALLOWED,
            kept.reason,
            kept.error,
            kept.result_json,
            kept.outcome,
            self.limit,
            fault_json=kept.fault_json,
            edited=PendingApproval(**kept.edited) if kept.edited is not None else None,
            is_replayed=True,
        )
