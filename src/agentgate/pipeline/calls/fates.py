"""What may become of a deferred call: its answer, how far it is, or why there is no answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agentgate.core.approval import Approval, State, Why
from agentgate.core.errors import ReasonCode
from agentgate.pipeline.calls.passage import Answer


class Progress(StrEnum):
    """How far a call is that has no answer yet."""

    PENDING = "pending_approval"
    APPROVED = "approved"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Underway:
    """A deferred call without an answer so far."""

    trace_id: str
    progress: Progress
    approval: Approval


@dataclass(frozen=True, slots=True)
class Over:
    """A deferred call that will not run, or whose answer is gone."""

    trace_id: str
    reason: ReasonCode
    detail: str
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Its caller has made the call again itself, and spent the approval: the answer that is kept is that call's."""

    trace_id: str


Unanswered = Underway | Over | Elsewhere
Fetched = Answer | Unanswered

_REFUSALS: Final = {
    State.DENIED: (ReasonCode.APPROVAL_DENIED, "Approval denied"),
    State.EXPIRED: (ReasonCode.EXPIRED, "The approval has expired"),
    State.SPENT: (ReasonCode.APPROVAL_SPENT, "Approval already used"),
    State.PENDING: (ReasonCode.APPROVAL_REQUIRED, "The approval is pending"),
}


def over(approval: Approval, state: State) -> Over:
    """What an approval that carries no call, as it stands in `state`, means for its caller."""
    if state is State.VOID:
        reason = ReasonCode.KILLED if approval.why == Why.KILLED else ReasonCode.CONFLICT
        return Over(approval.trace_id, reason, f"The approval is void: {approval.closed_because}", approval)
    reason, detail = _REFUSALS[state]
    return Over(approval.trace_id, reason, detail, approval)
