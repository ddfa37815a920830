"""`POST /approve`: a person's answer, and what becomes of the call that it lets run."""

from __future__ import annotations

from dataclasses import dataclass

from agentgate.core.approval import Approval, State
from agentgate.core.call import Principal
from agentgate.core.errors import ReasonCode, Refused
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.calls.deferred import DeferredDesk
from agentgate.pipeline.calls.fates import Fetched, Over


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The yes is recorded, and more are needed."""

    approval: Approval


@dataclass(frozen=True, slots=True)
class Denied:
    """The no is recorded, by this person or by another one before."""

    approval: Approval


class AnswerDesk:
    """Answers approvals whose calls the gateway makes itself. The same answer again changes nothing."""

    def __init__(self, approvals: ApprovalDesk, deferred: DeferredDesk) -> None:
        self._approvals = approvals
        self._deferred = deferred

    async def answer(
        self, person: Principal, approval_id: str, *, approved: bool, reason: str
    ) -> Refused | Incomplete | Denied | Fetched:
        """Record the answer if it is not there yet; what there is to say of the call then.

        Raises:
            LogUnavailable
        """
        approval = await self._approvals.answerable(person, approval_id, tuple(State))
        if isinstance(approval, Refused):
            return approval
        if approved and not approval.executes:
            text = "the caller makes this call itself: POST /approvals/{id}/approve"
            return Refused(ReasonCode.CONFLICT, text)
        if self._approvals.state_now(approval) is State.PENDING:
            wanted = State.APPROVED if approved else State.DENIED
            verdict = await self._approvals.decide(person, approval_id, wanted, reason)
            approval = await self._approvals.approval(approval_id) or approval
            if isinstance(verdict, Refused) and not await self._has_said(person, approval, approved=approved):
                return verdict
        return await self._standing(person, approval, approved=approved)

    async def _has_said(self, person: Principal, approval: Approval, *, approved: bool) -> bool:
        """Whether the answer that was not taken is there already: this person's own, or a no by anybody."""
        if self._approvals.state_now(approval) is State.DENIED:
            return not approved
        return approved and person.id in {vote.by for vote in await self._approvals.votes(approval)}

    async def _standing(
        self, person: Principal, approval: Approval, *, approved: bool
    ) -> Refused | Incomplete | Denied | Fetched:
        state = self._approvals.state_now(approval)
        if approved and state is State.PENDING:
            return Incomplete(approval)
        if approved and state is State.APPROVED:
            found = await self._deferred.execute(approval.id)
            reason = found.reason if isinstance(found, Over) else found.reason_code
            is_elsewhere = reason is ReasonCode.APPROVAL_SPENT  # another member was first with the same call
            return await self._deferred.answer_of(person, approval.id) if is_elsewhere else found
        if approved and state is State.SPENT:
            return await self._deferred.answer_of(person, approval.id)
        if not approved and state is State.DENIED:
            return Denied(approval)
        reason = ReasonCode.EXPIRED if state is State.EXPIRED else ReasonCode.CONFLICT
        return Refused(reason, approval.said_to_be(state))
