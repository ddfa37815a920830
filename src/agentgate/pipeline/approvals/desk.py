"""Pending approvals and what people make of them, kept in the log."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from weakref import WeakValueDictionary

from agentgate.core import kept
from agentgate.core.approval import Approval, ApprovalId, State, Void, Why, from_row
from agentgate.core.call import Call, Principal
from agentgate.core.decision import Decision, Receipt, Terms, refusal
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Event, Kind, make, rfc3339
from agentgate.core.strict_json import canonical_plain
from agentgate.pipeline.approvals.book import SEALED, ApprovalBook
from agentgate.pipeline.approvals.circumstances import Circumstances
from agentgate.pipeline.approvals.finder import ApprovalFinder, Found, Opinion, token_sha256
from agentgate.pipeline.approvals.waiting import Waiting
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.keys import Sealer
from agentgate.ports.log import AlreadySpent, LogReader

_TRIES: Final = 20
"""Of so many people who say yes at the same moment the last one is not heard, and may say it again."""
MAX_REASON_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """An approver's answer as it was recorded. `token` is told once and kept only as a digest."""

    approval: Approval
    state: State
    token: str | None


@dataclass(frozen=True, slots=True)
class Edit:
    """Whose edit a new approval comes from, and of what."""

    of: Approval
    original: Call
    by: Principal
    reason: str


class ApprovalDesk(ApprovalBook):
    """Keeps approvals. It never decides: an approval only lets policy decide again."""

    def __init__(
        self,
        reader: LogReader,
        recorder: Recorder,
        sealer: Sealer,
        clock: Clock,
        entropy: Entropy,
        circumstances: Circumstances,
        *,
        ttl_s: float,
        static_token: str | None,
    ) -> None:
        super().__init__(reader, sealer, clock)
        self._recorder = recorder
        self._entropy = entropy
        self._circumstances = circumstances
        self._finder = ApprovalFinder(reader, sealer, clock, circumstances)
        self._ttl = timedelta(seconds=ttl_s)
        self._static_token = static_token.encode() if static_token else None
        self.waiting = Waiting()
        self._asking: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self.is_over: Callable[[Call], bool] = lambda _: False
        """Whether a call that waits need not wait any longer: it is killed, or the process ends."""
        self.on_approved: Callable[[Approval], None] = lambda _: None
        """Told of one that is approved now and that the gateway is to carry out itself."""

    def is_static_token(self, token: str | None) -> bool:
        """v0.2's shared token, where one is configured; compared in constant time."""
        if self._static_token is None or token is None:
            return False
        return hmac.compare_digest(token.encode(), self._static_token)

    # --- the caller's side ---

    async def find(self, call: Call, asked: Decision, opinion: Opinion) -> Found | None:
        """The approval that carries `call` now, a standing denial, or a pending one: made if there is none, and the
        caller has not too many that wait (None).

        A token that was sent must be that approval's own; without one the digest is enough. An approval that policy
        would want more for by now (`asked` is what it wants; of an edited call `opinion` asks) is none. Raises
        LogUnavailable."""
        if call.carried_by is not None:
            return await self._finder.carrying(call, call.carried_by, asked)
        found = await self._finder.standing(call, asked, opinion)
        if found is not None:
            return found
        # one after the other: of many that come at once the first one asks, and the others find its question
        asking = self._asking.setdefault((call.tenant, call.caller.id), asyncio.Lock())
        async with asking:
            found = await self._finder.standing(call, asked, opinion)
            if found is not None or await self._finder.has_too_many(call.caller):
                return found
            return Found(await self._request(self._new_id(), call, asked.policy_revision, asked.terms))

    def _new_id(self) -> ApprovalId:
        return ApprovalId(f"apr-{self._entropy.token(12).hex()}")

    async def _request(
        self, approval_id: ApprovalId, call: Call, revision: str, terms: Terms, edit: Edit | None = None
    ) -> Approval:
        """Ask for an approval of `call`, under what policy wants. Raises LogUnavailable."""
        ttl = timedelta(seconds=terms.ttl_s) if terms.ttl_s is not None else self._ttl
        fields: dict[str, Any] = {
            "approval_id": approval_id,
            "call_sha256": call.digest,
            "policy_revision": revision,
            "expires_at": rfc3339(self._clock.now() + ttl),
            "tool": call.tool_name,
            "trace_id": edit.of.trace_id if edit is not None else call.trace_id,
            "quorum": terms.quorum,
            "approvers": list(terms.approvers),
        }
        if call.tool is not None:
            fields |= {"server": call.tool.upstream, "tool_sha256": call.tool.definition_sha256}
        if call.caller.on_behalf_of is not None:
            fields["on_behalf_of"] = call.caller.on_behalf_of
        if edit.of.executes if edit is not None else call.deferred:
            fields["executes"] = True
        body = b"{}"
        if edit is not None:
            fields |= {"edited_from": edit.of.id, "edited_by": edit.by.id, "position": edit.of.position}
            fields["auth"] = edit.by.auth_method
            shown = self._recorder.redactor.json(call.arguments_json)
            body = b'{"arguments":%s,"reason":%s}' % (shown, canonical_plain(edit.reason))
        sealed = self._sealer.seal(kept.pack(call, edit.original if edit else None), approval_id.encode())
        await self._recorder.note(
            lambda origin: make(
                origin,
                Kind.APPROVAL_REQUESTED,
                fields,
                tenant=call.tenant,
                session=call.session,
                principal=call.caller.id,
                body=body,
                projected={"sealed": sealed},
            )
        )
        return from_row((await self._reader.projection("approvals", id=approval_id))[0])

    async def answered(self, call: Call, approval_id: str, within_s: float) -> bool:
        """Wait until somebody has answered, or it is void, or the call was killed; whether that was so in time.

        An answer given in this process is heard at once, another member's within half a second. Raises LogUnavailable.
        """

        async def is_pending() -> bool:
            return not self.is_over(call) and await self._finder.is_pending(call, approval_id)

        return await self.waiting.until_not(is_pending, call.caller, approval_id, within_s)

    async def withdrawn(self, call: Call, approval_id: str) -> Decision | None:
        """The refusal of a call that waited for what a person has taken back: it asks nobody anew by itself. None where
        that is not so, or the log does not say."""
        with contextlib.suppress(LogUnavailable):  # the gate will say so
            rows = await self._reader.projection("approvals", without=SEALED, id=approval_id)
            if any(one.is_of(call) and one.why == Why.WITHDRAWN for one in map(from_row, rows)):
                return refusal(ReasonCode.APPROVAL_DENIED, "The approval was taken back")
        return None

    # --- the approver's side ---

    async def decide(self, approver: Principal, approval_id: str, state: State, reason: str = "") -> Verdict | Refused:
        """Record an approver's yes or no: the first no, and the yes that completes the quorum, count for good. Raises
        LogUnavailable."""
        for _ in range(_TRIES):
            approval = await self.answerable(approver, approval_id)
            if isinstance(approval, Refused):
                return approval
            if state is State.APPROVED and (stale := await self._stale(approval)) is not None:
                return stale
            event, token = self._answer(approver, approval, state, reason)
            outcome = await self._recorder.write(event)
            if not isinstance(outcome, AlreadySpent):
                return await self._decided(approval, token)
            if outcome.kind == "vote" and outcome.key == f"{approval.id}/{approver.id}":
                return Refused(ReasonCode.CONFLICT, "you have said yes already: this needs several persons")
            if outcome.kind != "vote":
                break
        return Refused(ReasonCode.CONFLICT, "somebody else answered first")

    async def _stale(self, approval: Approval) -> Refused | None:
        """Why a yes, or an edit, would not be worth anything."""
        void = (await self._circumstances.killed((approval,))).get(approval.id)
        if void is not None:
            await self.close(approval, State.VOID, void)
        else:
            void = self._circumstances.changed(approval, await self._circumstances.revision())
        return Refused(ReasonCode.CONFLICT, f"the approval is void: {void.sentence}") if void else None

    def _answer(self, approver: Principal, approval: Approval, state: State, reason: str) -> tuple[Event, str | None]:
        """The event of an answer, and the token that a completing yes comes with."""
        fields: dict[str, Any] = {"approval_id": approval.id, "verdict": state.value, "auth": approver.auth_method}
        token: str | None = None
        if state is State.APPROVED:
            fields |= {"ordinal": approval.votes + 1, "quorum": approval.quorum}
            if approval.votes + 1 >= approval.quorum:
                token = f"apt_{self._entropy.token(24).hex()}"
                fields["token_sha256"] = token_sha256(token)
        event = self._event(Kind.APPROVAL_DECIDED, approval, fields, approver, reason)
        return event, token

    async def _decided(self, before: Approval, token: str | None) -> Verdict:
        self.waiting.wake(before.id)
        approval = await self.approval(before.id) or before
        state = self.state_now(approval)
        if state is State.APPROVED and approval.executes:
            self.on_approved(approval)
        return Verdict(approval, state, token)

    async def edit(self, edit: Edit, call: Call, revision: str, terms: Terms) -> Approval | Refused:
        """Put an approval of the edited `call` in the place of a pending one. Raises LogUnavailable."""
        if (stale := await self._stale(edit.of)) is not None:
            return stale
        approval_id = self._new_id()
        fields = {"edited_to": approval_id, "auth": edit.by.auth_method}
        closed = await self.close(edit.of, State.VOID, Void(Why.EDITED), fields, edit.by, edit.reason)
        if not closed:
            return Refused(ReasonCode.CONFLICT, "somebody else answered first")
        try:
            return await self._request(approval_id, call, revision, terms, edit)
        finally:
            self.waiting.wake(edit.of.id)

    async def withdraw(self, person: Principal, approval_id: str, reason: str = "") -> Approval | Refused:
        """Take back what is pending, or approved and not used: it carries nothing any more. Of a withdrawal and a
        redemption the first one in the log counts. Raises LogUnavailable."""
        for _ in range(_TRIES):  # one that is approved meanwhile is taken back as that
            approval = await self.answerable(person, approval_id, (State.PENDING, State.APPROVED))
            if isinstance(approval, Refused):
                return approval
            auth = {"auth": person.auth_method}
            if await self.close(approval, State.VOID, Void(Why.WITHDRAWN), auth, person, reason):
                return await self.approval(approval_id) or approval
        return Refused(ReasonCode.CONFLICT, "somebody else was first")

    # --- closing ---

    async def close_expired(self) -> int:
        """Record expiries, so that sealed arguments go; how many. Raises LogUnavailable.

        Asks for the states that can expire with something sealed: they are few, however long the log is.
        """
        closed = 0
        for state in (State.PENDING, State.APPROVED):
            rows = await self._reader.projection("approvals", without=SEALED, state=state.value)
            for approval in map(from_row, rows):
                if self.state_now(approval) is State.EXPIRED:
                    closed += await self.close(approval, State.EXPIRED, Void(Why.EXPIRED))
        return closed

    async def close(
        self,
        approval: Approval,
        state: State,
        void: Void,
        more: Mapping[str, Any] | None = None,
        actor: Principal | None = None,
        reason: str = "",
    ) -> bool:
        """Record that nobody can answer or use it any more; False when somebody has done so before. Raises
        LogUnavailable."""
        fields = {"approval_id": approval.id, "state": state.value, "closes": approval.state.value}
        fields |= {"why": void.why.value, **(more or {})}
        if void.kill_id is not None:
            fields["kill_id"] = void.kill_id
        event = self._event(Kind.APPROVAL_CLOSED, approval, fields, actor, reason)
        receipt = await self._recorder.write(event)
        if void.why is not Why.EDITED:  # who waits must not look before the edited call's approval is there
            self.waiting.wake(approval.id)
        return isinstance(receipt, Receipt)

    def _event(
        self, kind: Kind, approval: Approval, fields: Mapping[str, Any], actor: Principal | None, reason: str
    ) -> Event:
        said = self._recorder.reason(reason, MAX_REASON_CHARS)
        return make(
            self._recorder.origin(),
            kind,
            fields,
            tenant=approval.tenant,
            session=approval.session,
            principal=actor.id if actor is not None else "",
            body=canonical_plain({"reason": said}) if said else b"{}",
        )
