"""Calls that the gateway makes itself once they are approved, for callers that do not wait, and what became of them.

An approval is spent in the transaction that decides the call, so it carries one execution, whoever tries and however
often. Who tries: the member that heard the completing yes, at once; and any other one for an approval that nobody has
carried out after a while, because that member may have died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from agentgate.core.approval import Approval, State, Void, Why, from_row
from agentgate.core.call import Call, Door, Principal, SessionId, TenantId, Tool, ToolName, TraceId
from agentgate.core.decision import refusal
from agentgate.core.errors import OUTAGE, LogUnavailable, ReasonCode
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.calls.answers import AnswerBook, Kept, Row
from agentgate.pipeline.calls.fates import Elsewhere, Fetched, Over, Progress, Unanswered, Underway, over
from agentgate.pipeline.calls.gate import Gate
from agentgate.pipeline.calls.passage import Answer
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.records.record import new_trace_id
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.log import LogReader

logger = logging.getLogger("agentgate.deferred")

_LOOK_EVERY_S: Final = 1.0
_ELDEST_AFTER_S: Final = 2.0
_OTHERS_AFTER_S: Final = 10.0
"""The eldest member may lack the key that the call is sealed with."""
_PAUSES_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
_CLOSE_WITHIN_S: Final = 5.0
_PASSING: Final = OUTAGE | {
    ReasonCode.RATE_LIMITED,
    ReasonCode.TOO_MANY_REFUSALS,
    ReasonCode.BUDGET_SPENT,
    ReasonCode.POLICY_UNAVAILABLE,
    ReasonCode.POLICY_TIMEOUT,
    ReasonCode.POLICY_ERROR,
    ReasonCode.IDEMPOTENCY_IN_PROGRESS,
}
"""Refusals after which the call is tried again, for as long as its approval holds."""


@dataclass(slots=True)
class _Try:
    """An approval that this member has seen approved and not carried out."""

    next_s: float
    tries: int = 0


class DeferredDesk:
    """Makes deferred calls, and tells their callers of them."""

    def __init__(
        self,
        *,
        gate: Gate,
        replica: Replica,
        approvals: ApprovalDesk,
        answers: AnswerBook,
        reader: LogReader,
        tools: Mapping[str, Tool],
        is_valid: Callable[[Principal], bool],
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        """`is_valid`: whether a principal could still come and make the call itself."""
        self._gate = gate
        self._replica = replica
        self._approvals = approvals
        self._answers = answers
        self._reader = reader
        self._tools = tools
        self._is_valid = is_valid
        self._clock = clock
        self._entropy = entropy
        self._running: dict[str, asyncio.Task[Answer | Over]] = {}
        self._tries: dict[str, _Try] = {}

    # --- making them ---

    def soon(self, approval: Approval) -> None:
        """Make the call of an approval that is complete now, beside whoever completed it."""
        if not self._gate.closing:
            self._start(approval.id)

    async def execute(self, approval_id: str) -> Answer | Over:
        """Make the call of an approval, or hear how somebody else's attempt at it in this process ends.

        It goes on when who waits for it is cancelled.

        Raises:
            LogUnavailable
        """
        return await asyncio.shield(self._start(approval_id))

    def _start(self, approval_id: str) -> asyncio.Task[Answer | Over]:
        task = self._running.get(approval_id)
        if task is None:
            task = self._running[approval_id] = asyncio.create_task(
                self._execute(approval_id), name="agentgate-deferred"
            )
            task.add_done_callback(lambda done: self._ended(approval_id, done))
        return task

    def _ended(self, approval_id: str, task: asyncio.Task[Answer | Over]) -> None:
        self._running.pop(approval_id, None)
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None and not isinstance(failure, LogUnavailable):
            logger.error("a deferred call could not be made", exc_info=failure, extra={"approval_id": approval_id})

    async def _execute(self, approval_id: str) -> Answer | Over:
        approval = await self._approvals.approval(approval_id)
        if approval is None:
            return Over("", ReasonCode.NOT_FOUND, "no such approval")
        if self._approvals.state_now(approval) is not State.APPROVED:
            return over(approval, self._approvals.state_now(approval))
        trace_id = TraceId(approval.trace_id)
        call = self._approvals.kept(approval, self._tools.get(approval.tool), trace_id)
        if call is None:  # sealed by a member with another key, or a tool that is not what it was
            return Over(trace_id, ReasonCode.CONFLICT, "the call is not kept as it was approved", approval)
        sent = self._approvals.sent(approval, call)
        edited_from = sent.digest if sent is not call else None
        call = replace(call, deferred=True, carried_by=approval.id, edited_from=edited_from)
        # a yes may be faster than the end of the request that asked: admission knows both by their trace, and would
        # take the end of the one for that of the other
        await self._replica.gone(trace_id)
        refused = None
        if not self._is_valid(call.caller):
            refused = refusal(ReasonCode.FORBIDDEN, "Who asked for the call may not make it any more", "identity")
        answer = await self._gate.pass_through(call, refused)
        if answer.is_replayed or (answer.outcome is None and answer.reason_code not in _PASSING):
            await self._give_up(approval_id, answer)
        return answer

    async def _give_up(self, approval_id: str, answer: Answer) -> None:
        """Close an approval whose call was refused for good, or was run before under its idempotency key: it would be
        tried again and again."""
        approval = await self._approvals.approval(approval_id)
        if approval is not None and self._approvals.state_now(approval) is State.APPROVED:
            why = Why.KILLED if answer.reason_code is ReasonCode.KILLED else Why.REFUSED
            await self._approvals.close(approval, State.VOID, Void(why))

    # --- those that nobody has made ---

    async def look_after(self, is_eldest: Callable[[], bool]) -> None:
        """Until cancelled: make the calls that were approved and that nobody has made."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.make_due(is_eldest=is_eldest())
            except LogUnavailable as error:
                logger.warning("the log does not answer, deferred calls wait: %s", error)

    async def make_due(self, *, is_eldest: bool) -> int:
        """Start those whose time has come; how many. Raises LogUnavailable."""
        if self._gate.closing:
            return 0
        rows = await self._reader.projection("approvals", without="sealed", state=State.APPROVED.value, executes=1)
        waiting = {row["id"] for row in rows if self._approvals.state_now(from_row(row)) is State.APPROVED}
        self._tries = {approval_id: one for approval_id, one in self._tries.items() if approval_id in waiting}
        now, started = self._clock.boot_s(), 0
        for approval_id in waiting - self._running.keys():
            first_s = now + (_ELDEST_AFTER_S if is_eldest else _OTHERS_AFTER_S)
            one = self._tries.setdefault(approval_id, _Try(first_s))
            if now >= one.next_s:
                one.next_s = now + _PAUSES_S[min(one.tries, len(_PAUSES_S) - 1)]
                one.tries += 1
                self._start(approval_id)
                started += 1
        return started

    async def aclose(self) -> None:
        """Give what runs a moment to end; what does not is cut, and recorded as cut."""
        tasks = [*self._running.values()]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=_CLOSE_WITHIN_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    # --- telling of them ---

    async def fetch(self, caller: Principal, trace_id: str) -> Fetched | None:
        """What became of a call of the caller's own; None when there is none of which an answer is kept.

        Raises:
            LogUnavailable
        """
        found = await self._answers.find(trace_id=trace_id)
        if found is not None:
            row = found.row if isinstance(found, Kept) else found
            return await self._tell(caller, found) if await self._is_answered(caller, row) else None
        asked = map(from_row, await self._reader.projection("approvals", trace_id=trace_id, executes=1))
        own = [one for one in asked if _is_own(caller, one.tenant, one.requested_by, one.on_behalf_of, one.session)]
        if not own:
            return None
        return await self._standing(own[-1])  # the newest: one that was edited has another one in its place

    async def _is_answered(self, caller: Principal, row: Row) -> bool:
        """Whether a kept answer is the caller's own. For which user the call was is in the leaf of its outcome."""
        outcome = await self._reader.record(row["idx"])
        user = outcome.fields.get("on_behalf_of") if outcome is not None else None
        return _is_own(caller, row["tenant"], row["principal"], user, row["session"])

    async def answer_of(self, person: Principal, approval_id: str) -> Fetched:
        """What became of the call that an approval carries, for a person who may answer that approval.

        Raises:
            LogUnavailable
        """
        approval = await self._approvals.approval(approval_id)
        if approval is None:
            return Over("", ReasonCode.NOT_FOUND, "no such approval")
        standing = await self._standing(approval)
        found = await self._answers.find(trace_id=standing.trace_id)
        return await self._tell(person, found) if found is not None else standing

    async def _tell(self, whom: Principal, found: Kept | Row) -> Answer | Over:
        """A kept answer, unless a kill covers who asks, or the session or tool. A person of all tenants asks in the
        call's own: a session is nothing without its tenant."""
        if isinstance(found, Kept):
            asker = replace(whom, tenant=TenantId(found.row["tenant"]))
            asking = self._asking(asker, found.row["session"], found.row["tool"])
            return await self._gate.pass_through(asking, kept=found)
        detail = f"The call was run (outcome {found['outcome']}); its answer is not kept"
        return Over(found["trace_id"], ReasonCode.IDEMPOTENCY_FORGOTTEN, detail)

    def _asking(self, caller: Principal, session: str, tool: str) -> Call:
        """A call as far as a kill covers it: a kept answer is given to nobody who is killed."""
        return Call(
            trace_id=new_trace_id(self._entropy),
            door=Door.REST,
            caller=caller,
            session=SessionId(session),
            tool_name=ToolName(tool),
            tool=self._tools.get(tool),
            arguments={},
            context={},
        )

    async def _standing(self, approval: Approval) -> Unanswered:
        state = self._approvals.state_now(approval)
        if state is State.PENDING:
            return Underway(approval.trace_id, Progress.PENDING, approval)
        if state is State.APPROVED:
            progress = Progress.RUNNING if approval.id in self._running else Progress.APPROVED
            return Underway(approval.trace_id, progress, approval)
        if state is State.SPENT:
            return await self._spent(approval)
        return over(approval, state)

    async def _spent(self, approval: Approval) -> Unanswered:
        spent = await self._reader.projection("spent", kind="approval", key=approval.id)
        intent = await self._reader.record(spent[0]["idx"]) if spent else None
        if intent is not None and intent.fields["trace_id"] != approval.trace_id:
            if "answer_key" in intent.fields:
                return Elsewhere(intent.fields["trace_id"])
            detail = "The same call was sent again, and has used the approval: it got the answer"
            return Over(approval.trace_id, ReasonCode.APPROVAL_SPENT, detail, approval)
        if intent is None or self._answers.is_forgotten(intent):
            detail = "The call was run; its answer is not kept any more"
            return Over(approval.trace_id, ReasonCode.IDEMPOTENCY_FORGOTTEN, detail, approval)
        return Underway(approval.trace_id, Progress.RUNNING, approval)


def _is_own(caller: Principal, tenant: str, principal: str, user: str | None, session: str) -> bool:
    """Another's call is none, nor is one on behalf of another user, or of a session that the caller's token is not
    for."""
    own = (caller.tenant, caller.id, caller.on_behalf_of)
    return own == (tenant, principal, user) and caller.session in (None, session)
