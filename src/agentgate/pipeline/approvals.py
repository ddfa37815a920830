"""Pending questions and their answers, kept in the log and looked up by what exactly was asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from agentgate.core.approval import Approval, ApprovalId, State, carries, from_row
from agentgate.core.call import Call, Principal, PrincipalKind, Role
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, make, rfc3339
from agentgate.core.strict_json import parse
from agentgate.pipeline.record import Recorder
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.keys import Sealer
from agentgate.ports.log import AlreadySpent, LogReader, Spend

_LOOK_AGAIN_S: Final = 0.5
"""Another member's answer is found by looking."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is about a call: exactly one of approved, denied or pending."""

    id: ApprovalId
    expires_at: datetime
    approved_by: str | None = None
    denied_by: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """An approver's answer as it was recorded. `token` is told once and kept only as a digest."""

    approval: Approval
    state: State
    token: str | None


@dataclass(frozen=True, slots=True)
class CannotDecide:
    """Why an approver's answer was not taken."""

    reason: ReasonCode
    detail: str


class ApprovalDesk:
    """Keeps approvals. It never decides: an approval only lets policy decide again."""

    def __init__(
        self,
        reader: LogReader,
        recorder: Recorder,
        sealer: Sealer,
        clock: Clock,
        entropy: Entropy,
        *,
        ttl_s: float,
        static_token: str | None,
    ) -> None:
        self._reader = reader
        self._recorder = recorder
        self._sealer = sealer
        self._clock = clock
        self._entropy = entropy
        self._ttl = timedelta(seconds=ttl_s)
        self._static_token = static_token.encode() if static_token else None
        self._awaited: dict[str, list[asyncio.Event]] = {}

    def is_static_token(self, token: str | None) -> bool:
        """v0.2's shared token, where one is configured; compared in constant time."""
        if self._static_token is None or token is None:
            return False
        return hmac.compare_digest(token.encode(), self._static_token)

    # --- the caller's side ---

    async def find(self, call: Call, revision: str) -> Found:
        """The approval that carries `call` now, a standing denial, or a pending one: made if there is none.

        A token that was sent must be that approval's own; without one the digest is enough.

        Raises:
            LogUnavailable
        """
        rows = await self._reader.projection("approvals", tenant=call.tenant, digest=call.digest)
        now = self._clock.now()
        pending: Approval | None = None
        for approval in map(from_row, reversed(rows)):
            if not approval.is_about(call):
                continue
            state = approval.state_at(now)
            if state is State.DENIED:
                return Found(approval.id, approval.expires_at, denied_by=approval.decided_by)
            if carries(approval, call, revision=revision, now=now) and self._token_fits(approval, call):
                return Found(approval.id, approval.expires_at, approved_by=approval.decided_by)
            if state is State.PENDING and approval.policy_revision == revision:
                pending = pending or approval
        return await self._request(call, revision) if pending is None else Found(pending.id, pending.expires_at)

    @staticmethod
    def _token_fits(approval: Approval, call: Call) -> bool:
        if call.approval_token is None or approval.token_sha256 is None:
            return call.approval_token is None
        return hmac.compare_digest(_sha256(call.approval_token), approval.token_sha256)

    async def _request(self, call: Call, revision: str) -> Found:
        approval_id = ApprovalId(f"apr-{self._entropy.token(12).hex()}")
        expires_at = self._clock.now() + self._ttl
        fields = {
            "approval_id": approval_id,
            "call_sha256": call.digest,
            "policy_revision": revision,
            "expires_at": rfc3339(expires_at),
            "tool": call.tool_name,
            "trace_id": call.trace_id,
        }
        plain = b'{"arguments":%s,"context":%s}' % (call.arguments_json, call.context_json)
        await self._recorder.note(
            lambda origin: make(
                origin,
                Kind.APPROVAL_REQUESTED,
                fields,
                tenant=call.tenant,
                session=call.session,
                principal=call.caller.id,
                projected={"sealed": self._sealer.seal(plain, approval_id.encode())},
            )
        )
        return Found(approval_id, expires_at)

    async def answered(self, call: Call, approval_id: str, within_s: float) -> bool:
        """Wait until somebody has answered; whether that was so in time.

        An answer given in this process is heard at once, another member's within half a second.

        Raises:
            LogUnavailable
        """
        heard = asyncio.Event()
        self._awaited.setdefault(approval_id, []).append(heard)
        time = asyncio.get_running_loop().time
        until = time() + within_s
        try:
            while await self._is_pending(call, approval_id):
                left = until - time()
                if left <= 0:
                    return False
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(heard.wait(), min(left, _LOOK_AGAIN_S))
        finally:
            waiting = self._awaited[approval_id]
            waiting.remove(heard)
            if not waiting:
                del self._awaited[approval_id]
        return True

    async def _is_pending(self, call: Call, approval_id: str) -> bool:
        rows = await self._reader.projection("approvals", id=approval_id)
        return any(one.is_about(call) and self.state_now(one) is State.PENDING for one in map(from_row, rows))

    # --- the approver's side ---

    async def list(self, viewer: Principal, state: State | None) -> list[Approval]:
        """Approvals of the viewer's tenant, oldest first. Raises LogUnavailable."""
        match = {} if viewer.tenants_all else {"tenant": str(viewer.tenant)}
        now = self._clock.now()
        found = [from_row(row) for row in await self._reader.projection("approvals", **match)]
        return [approval for approval in found if state is None or approval.state_at(now) is state]

    async def get(self, viewer: Principal, approval_id: str) -> Approval | None:
        """None for another tenant's too: its existence is not the viewer's business."""
        rows = await self._reader.projection("approvals", id=approval_id)
        approval = from_row(rows[0]) if rows else None
        return approval if approval is not None and viewer.sees(approval.tenant) else None

    def question(self, approval: Approval) -> Any:
        """`{arguments, context}` as the agent sent them, while they are kept; None afterwards."""
        if approval.sealed is None:
            return None
        plain = self._sealer.unseal(approval.sealed, approval.id.encode())
        return parse(plain) if plain is not None else None

    def state_now(self, approval: Approval) -> State:
        return approval.state_at(self._clock.now())

    async def decide(self, approver: Principal, approval_id: str, state: State) -> Verdict | CannotDecide:
        """Record an approver's yes or no. The first answer counts; an agent's never does.

        Raises:
            LogUnavailable
        """
        approval = await self.get(approver, approval_id)
        if approval is None:
            return CannotDecide(ReasonCode.NOT_FOUND, "no such approval")
        if approver.kind is not PrincipalKind.PERSON or not approver.has(Role.APPROVER):
            return CannotDecide(ReasonCode.FORBIDDEN, "an approval is given by a person with the role approver")
        if approver.id == approval.requested_by:
            return CannotDecide(ReasonCode.FORBIDDEN, "nobody approves a call of their own")
        now_state = self.state_now(approval)
        if now_state is not State.PENDING:
            reason = ReasonCode.EXPIRED if now_state is State.EXPIRED else ReasonCode.CONFLICT
            return CannotDecide(reason, f"the approval is {now_state}")
        token = f"apt_{self._entropy.token(24).hex()}" if state is State.APPROVED else None
        fields = {"approval_id": approval.id, "verdict": state.value, "auth": approver.auth_method}
        if token is not None:
            fields["token_sha256"] = _sha256(token)
        event = make(
            self._recorder.origin(),
            Kind.APPROVAL_DECIDED,
            fields,
            tenant=approval.tenant,
            session=approval.session,
            principal=approver.id,
        )
        receipt = await self._recorder.write(event, (Spend("verdict", approval.id),))
        if isinstance(receipt, AlreadySpent):
            return CannotDecide(ReasonCode.CONFLICT, "somebody else answered first")
        for heard in self._awaited.get(approval_id, ()):
            heard.set()
        return Verdict(approval, state, token)

    async def close_expired(self) -> int:
        """Record expiries, so that sealed arguments go; how many. Raises LogUnavailable.

        Asks for the states that can expire with something sealed: they are few, however long the log is.
        """
        now = self._clock.now()
        closed = 0
        for state in (State.PENDING, State.APPROVED):
            for approval in map(from_row, await self._reader.projection("approvals", state=state.value)):
                if approval.state_at(now) is State.EXPIRED:
                    await self._close(approval)
                    closed += 1
        return closed

    async def _close(self, approval: Approval) -> None:
        fields = {"approval_id": approval.id, "state": State.EXPIRED.value}
        await self._recorder.note(
            lambda origin: make(origin, Kind.APPROVAL_CLOSED, fields, tenant=approval.tenant, session=approval.session)
        )


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
