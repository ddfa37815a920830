"""The state of an approval, and whether it carries a call. Pure: time and facts come in as arguments.

An approval is bound to the call's digest (agent, session, tool, tool definition, arguments, context), to the
principal that asked and to the policy revision that required it; it is spent once, by the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType

from agentgate.core.call import Call, Digest

ApprovalId = NewType("ApprovalId", str)


class State(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    SPENT = "spent"
    VOID = "void"
    EXPIRED = "expired"
    """Never stored: a pending or approved one past its time is this."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One pending or answered question: may this principal make this call?"""

    id: ApprovalId
    tenant: str
    session: str
    requested_by: str
    tool: str
    digest: Digest
    policy_revision: str
    requested_at: datetime
    expires_at: datetime
    state: State
    decided_by: str | None = None
    token_sha256: str | None = None
    sealed: bytes | None = None

    def state_at(self, now: datetime) -> State:
        if self.state in (State.PENDING, State.APPROVED, State.DENIED) and now >= self.expires_at:
            return State.EXPIRED
        return self.state

    def is_about(self, call: Call) -> bool:
        return self.digest == call.digest and self.requested_by == call.caller.id and self.tenant == call.tenant


def from_row(row: Mapping[str, Any]) -> Approval:
    """An approval from its projection's row."""
    return Approval(
        id=ApprovalId(row["id"]),
        tenant=row["tenant"],
        session=row["session"],
        requested_by=row["requested_by"],
        tool=row["tool"],
        digest=Digest(row["digest"]),
        policy_revision=row["policy_revision"],
        requested_at=datetime.fromisoformat(row["requested_at"]),
        expires_at=datetime.fromisoformat(row["expires_at"]),
        state=State(row["state"]),
        decided_by=row["decided_by"],
        token_sha256=row["token_sha256"],
        sealed=row["sealed"],
    )


def carries(approval: Approval, call: Call, *, revision: str, now: datetime) -> bool:
    """Whether `approval` is a yes to exactly this call under the policy now in force."""
    return approval.is_about(call) and approval.state_at(now) is State.APPROVED and approval.policy_revision == revision
