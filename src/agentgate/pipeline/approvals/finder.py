"""Which approval carries a call: found by what exactly was asked, and held against what has happened since."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from agentgate.core.approval import Approval, State, carries, from_row
from agentgate.core.call import Call, Principal
from agentgate.core.decision import Decision, Verdict
from agentgate.pipeline.approvals.book import SEALED, ApprovalBook
from agentgate.pipeline.approvals.circumstances import Circumstances
from agentgate.ports.ambient import Clock
from agentgate.ports.keys import Sealer
from agentgate.ports.log import LogReader

MOST_PENDING: Final = 200
"""Questions of one caller that nobody has answered yet. Each is kept with its arguments and looked at every second, and
people have to read them."""

Opinion = Callable[[Call], Awaitable[Decision]]
"""What would be decided on a call that has no approval; nothing is recorded."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is about a call: approved, denied, or else pending."""

    approval: Approval
    is_over: bool = False
    """It is the one that a deferred call is made for, and carries it no more: no other one does."""
    approved_by: str | None = None
    denied_by: str | None = None
    edited: Call | None = None
    """The call that was approved, or is pending, in the place of the one that was sent."""


class ApprovalFinder(ApprovalBook):
    """Knows which approval carries a call. It changes nothing."""

    def __init__(self, reader: LogReader, sealer: Sealer, clock: Clock, circumstances: Circumstances) -> None:
        super().__init__(reader, sealer, clock)
        self._circumstances = circumstances

    async def standing(self, call: Call, asked: Decision, opinion: Opinion) -> Found | None:
        """What there is about `call` already."""
        rows = await self._reader.projection("approvals", tenant=call.tenant, digest=call.digest)
        pending: Found | None = None
        for approval in map(from_row, reversed(rows)):
            if not approval.is_about(call):
                continue
            if approval.edited_to is not None:
                found = await self._edited(call, approval.edited_to, asked, opinion)
            else:
                found = await self._found(call, approval, asked)
            if found is not None and (found.approved_by is not None or found.denied_by is not None):
                return found
            pending = pending or found
        return pending

    async def has_too_many(self, caller: Principal) -> bool:
        """Of those that wait."""
        of = {"tenant": str(caller.tenant), "requested_by": caller.id, "state": State.PENDING.value}
        rows = await self._reader.projection("approvals", without=SEALED, **of)
        return sum(self.state_now(from_row(row)) is State.PENDING for row in rows) >= MOST_PENDING

    async def carrying(self, call: Call, approval_id: str, asked: Decision) -> Found:
        """What the one approval says that a deferred call is made for: never a new question."""
        approval = await self.approval(approval_id)
        if approval is None:
            raise LookupError(f"a deferred call is made for an approval that there is not: {approval_id}")
        found = await self._found(call, approval, asked) if approval.is_about(call) else None
        return found if found is not None else Found(approval, is_over=True)

    async def is_pending(self, call: Call, approval_id: str) -> bool:
        rows = await self._reader.projection("approvals", without=SEALED, id=approval_id)
        return any(one.is_of(call) and self.state_now(one) is State.PENDING for one in map(from_row, rows))

    async def _found(self, call: Call, approval: Approval, asked: Decision) -> Found | None:
        """What `approval`, which is about `call`, says to it; None when it says nothing any more."""
        now = self._clock.now()
        state = approval.state_at(now)
        if state is State.DENIED:
            return Found(approval, denied_by=approval.decided_by)
        if approval.policy_revision != asked.policy_revision or not approval.is_as_strict_as(asked.terms):
            return None
        if state not in (State.PENDING, State.APPROVED):
            return None
        if await self._circumstances.killed((approval,)):
            return None
        if state is State.PENDING:
            # who does not wait needs one that the gateway carries out
            return Found(approval) if approval.executes or not call.deferred else None
        if not carries(approval, call, revision=asked.policy_revision, now=now) or not _token_fits(approval, call):
            return None
        return Found(approval, approved_by=await self._said_yes(approval))

    async def _edited(self, call: Call, edited_to: str, asked: Decision, opinion: Opinion) -> Found | None:
        """What the approval of the edited call says to who repeats the call as it was. It needs what policy wants for
        the edited call, which may be more or less than for the other one."""
        while True:
            approval = await self.approval(edited_to)
            if approval is None or not approval.is_of(call):
                return None
            if approval.edited_to is None:
                break
            edited_to = approval.edited_to  # edited again; ids are never used twice, so this ends
        if approval.state_at(self._clock.now()) is State.DENIED:
            return Found(approval, denied_by=approval.decided_by)
        value = self._value(approval)
        if value is None:
            return None
        edited = replace(call, arguments=value["arguments"])
        if edited.digest != approval.digest:
            return None
        of_edited = await opinion(edited)
        wanted = asked if of_edited.verdict is Verdict.DENY else of_edited
        found = await self._found(edited, approval, wanted)
        return replace(found, edited=edited) if found is not None else None

    async def _said_yes(self, approval: Approval) -> str | None:
        if approval.quorum == 1:
            return approval.decided_by
        return ",".join(vote.by for vote in await self.votes(approval))


def _token_fits(approval: Approval, call: Call) -> bool:
    if call.approval_token is None or approval.token_sha256 is None:
        return call.approval_token is None
    return hmac.compare_digest(token_sha256(call.approval_token), approval.token_sha256)


def token_sha256(token: str) -> str:
    """What is kept of an approval's token."""
    return hashlib.sha256(token.encode()).hexdigest()
