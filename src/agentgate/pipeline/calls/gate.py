"""One call's life, in order: admit, decide, approve, record, grant, send, record, release (DESIGN §2).

Every door passes its calls through `Gate.pass_through`, and nothing else reaches an upstream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict

from agentgate.core.call import Call, Principal
from agentgate.core.decision import Behind, Decision, Grant, Receipt, grant, refusal
from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode
from agentgate.core.event import Outcome
from agentgate.core.events.calls import decided
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.calls.answers import AnswerBook, Kept
from agentgate.pipeline.calls.checks import cut, first_refusal, killed, refused_at_admission
from agentgate.pipeline.calls.decide import Decider
from agentgate.pipeline.calls.ending import Ending, is_withdrawn, unsent
from agentgate.pipeline.calls.passage import Answer, Passage
from agentgate.pipeline.calls.redacting import redact
from agentgate.pipeline.calls.run import Runner
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.limits.refusals import TOO_MANY
from agentgate.pipeline.limits.toll import LATE, UNNOTED
from agentgate.pipeline.policy.asking import Questions
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock
from agentgate.ports.containment import Admission, NotAdmitted
from agentgate.ports.log import AlreadySpent, Appended, ForeignSession, MemberGone, OnHold
from agentgate.ports.notices import Meter

logger = logging.getLogger("agentgate.gate")


class Gate:
    """The one pipeline. It holds no state of its own beyond its parts."""

    def __init__(
        self,
        *,
        admission: Admission,
        questions: Questions,
        replica: Replica,
        recorder: Recorder,
        approvals: ApprovalDesk,
        answers: AnswerBook,
        runner: Runner,
        limits: RateLimits,
        clock: Clock,
        meter: Meter,
    ) -> None:
        self._admission = admission
        self._replica = replica
        self._recorder = recorder
        self._answers = answers
        self._runner = runner
        self._limits = limits
        self._decider = Decider(approvals, questions, clock, meter)
        self._clock = clock
        self._meter = meter
        self.closing = False
        """Set when the process is about to end: no new call is taken."""
        self.takes_refusal: Callable[[Principal], bool] = lambda _: True
        """Whether one more refusal of a caller is recorded."""

    async def pass_through(self, call: Call, refused: Decision | None = None, kept: Kept | None = None) -> Answer:
        """Decide on a call and, if it is allowed, run it. Never raises but CancelledError, of a caller that is gone.

        `refused` is why the door itself does not want it: then it is only recorded. `kept` is the answer of a call like
        it that was run before: whoever is admitted now is given that.
        """
        started_ns = self._clock.ticks_ns()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls run in tasks: without one a kill could not cut them")
        flight = self._replica.enter(call, task)
        passage = Passage(call, flight)
        try:
            answer = await self._pass(passage, refused, kept)
        except LogUnavailable:
            self._meter.count("log_unavailable")
            answer = passage.outage(ReasonCode.LOG_UNAVAILABLE, "The log cannot be written; nothing runs")
        except KillStateUnknown:
            answer = passage.outage(ReasonCode.KILL_STATE_UNKNOWN, "Kill switch state unknown")
        except asyncio.CancelledError:
            if not self.closing or is_withdrawn(call):
                raise
            answer = passage.shut()
        except Exception:  # promise 1: whatever goes wrong in here, the call is refused
            logger.exception("a call failed inside the gate", extra={"trace_id": call.trace_id})
            answer = passage.outage(ReasonCode.INTERNAL, "Internal error")
        finally:
            if passage.admitted:  # first: who waits for this one to leave is admitted under the same trace
                self._admission.release(call, passage.toll.spent if passage.toll is not None else None)
            self._replica.leave(flight)
        self._tell(answer, started_ns)
        return answer

    async def opinion(self, call: Call) -> Decision:
        """What would be decided on `call` if it came now, without an approval. Nothing is recorded of it. Raises
        LogUnavailable: what its session did cannot be found out."""
        return await self._decider.opinion(call, await self._limits.facts(call))

    async def _pass(self, passage: Passage, refused: Decision | None, kept: Kept | None) -> Answer:
        if refused is not None and refused.allowed:
            raise ValueError("a door decides on nothing but refusals")
        # first: nothing that is asked may grow old while this waits
        unwritten = await redact(passage, self._recorder, self._meter)
        decision = await self._admit(passage) or refused
        known: Kept | Decision | None = kept
        if decision is not None and decision.reason_code is ReasonCode.BUDGET_SPENT:
            # what a call came to that was run before must not be hidden because that one used up the budget
            known = kept or await self._answers.known(passage.call)
            if known is not None:
                misfit = first_refusal(passage.call) if kept is None else None
                decision = await self._admit(passage, is_free=True) or refused or misfit
        if decision is None and known is None:
            decision = first_refusal(passage.call)
            known = await self._answers.known(passage.call) if decision is None else None
        if decision is None:
            if isinstance(known, Kept):
                return await self._again(passage, known)
            decision = known or await self._decider.decide(passage)
        if passage.call is not passage.flight.call:  # an approver edited it
            unwritten = await redact(passage, self._recorder, self._meter)
        if unwritten is not None and decision.allowed:
            decision = unwritten
        if not decision.allowed:
            if not self._is_recorded(passage):
                return passage.outage(ReasonCode.TOO_MANY_REFUSALS, TOO_MANY)
            receipt = await self._record(passage, decision)
            if not isinstance(receipt, Receipt):  # a question in another's session
                return await self._claim_refused(passage, decision, receipt)
            return passage.refused(decision, self._clock)
        granted = await self._record_and_grant(passage, decision)
        if not isinstance(granted, Grant):
            return granted
        return passage.ended(decision, await self._noted(passage, await self._runner.run(granted, passage)))

    async def _noted(self, passage: Passage, ending: Ending) -> Ending:
        """The ending, once whoever calls next is judged by the labels that it brought, wherever that is; it is withheld
        where that is not certain."""
        toll = passage.toll
        if toll is None or toll.spent is None or not toll.brings_labels:
            return ending
        is_certain = await self._admission.settle(passage.call, toll.spent)
        if is_certain or ending.recorded_at is None or ending.outcome is Outcome.CANCELLED:
            return ending  # if it is not, there is no answer in it
        self._meter.count("budget_unknown", "session_labels")
        return Ending(Outcome.UNKNOWN, ReasonCode.OUTCOME_UNRECORDED, UNNOTED)

    # --- 1 admit ---

    async def _admit(self, passage: Passage, *, is_free: bool = False) -> Decision | None:
        """`is_free`: nothing will be run, so no budget is asked."""
        if self.closing:
            return refusal(ReasonCode.SHUTTING_DOWN, "The gateway is shutting down")
        call = passage.call
        before = self._clock.ticks_ns()
        if self._replica.is_expelled:
            raise KillStateUnknown("this replica was declared gone and is joining anew")
        seen = self._replica.position
        asked_at_s = self._clock.boot_s()
        answer, passage.toll = await self._limits.admit(self._admission, call, seen, is_free=is_free)
        if passage.toll is not None:
            passage.toll.asked_at_s = asked_at_s
        passage.took("admission", before, self._clock, self._meter)
        passage.position = seen
        if isinstance(answer, Decision):
            self._meter.count(answer.reason_code.value, answer.matched_rule.removeprefix("budget_"))
            return answer
        passage.limit = answer.limit
        if isinstance(answer, NotAdmitted):
            passage.budget = answer.budget
            return refused_at_admission(answer, call, self._replica, self._meter)
        passage.admitted = True
        passage.position = answer.position
        if answer.position <= self._replica.position:  # to hear that there is more to read is not to have heard it
            self._replica.lease.renew(asked_at_s)
        else:
            try:
                await self._replica.reach(answer.position)
            except KillStateUnknown as error:  # the log was rolled back, or somebody has written into the kill store
                self._meter.count("kill_state_unknown")
                return refusal(ReasonCode.KILL_STATE_UNKNOWN, f"Kill switch state unknown: {error}", "kill_switch")
        return killed(passage.flight)

    # --- 4 record, 5 grant ---

    def _is_recorded(self, passage: Passage) -> bool:
        """Whether a refusal is: nobody fills the log with theirs. One that a person is asked by is in any case."""
        call, asked = passage.call, passage.approval
        return (asked is not None and asked.trace_id == call.trace_id) or self.takes_refusal(call.caller)

    async def _record(self, passage: Passage, decision: Decision) -> Appended:
        call = passage.call
        before = self._clock.ticks_ns()
        event = decided(
            self._recorder.origin(),
            call,
            decision._replace(reason=self._recorder.redactor.text(decision.reason)),
            position=passage.position,
            arguments=passage.arguments,
            context=passage.context,
            latency_us=passage.latency_us,
            charge=passage.toll.charge if passage.toll is not None else None,
            limit=passage.limit.limit if passage.limit and decision.reason_code is ReasonCode.RATE_LIMITED else None,
        )
        try:
            receipt = await self._recorder.write(event)
        except (LogUnavailable, asyncio.CancelledError) as error:
            untried = isinstance(error, LogUnavailable) and error.untried
            if decision.allowed and not untried:
                self._recorder.orphaned(event.id)
            raise
        passage.took("append", before, self._clock, self._meter)
        if decision.allowed and passage.toll is not None and isinstance(receipt, Receipt):
            passage.toll.allowed(receipt.index)
        return receipt

    async def _record_and_grant(self, passage: Passage, decision: Decision) -> Grant | Answer:
        """Record the ALLOW; a grant if no kill came between, else the answer to give."""
        edited = passage.edited
        passage.flight.keep = self._answers.keeper(passage.flight.call, asdict(edited) if edited is not None else None)
        receipt = await self._record(passage, decision)
        if not isinstance(receipt, Receipt):
            return await self._claim_refused(passage, decision, receipt)
        granted = grant(passage.call, decision, receipt, applied_position=self._replica.position)
        if isinstance(granted, Behind):
            try:
                await self._replica.reach(granted.position)
            except (LogUnavailable, KillStateUnknown, asyncio.CancelledError) as error:
                await self._runner.not_sent(passage.flight, passage.call, unsent(passage.call, error))
                raise
            granted = grant(passage.call, decision, receipt, applied_position=self._replica.position)
        if isinstance(granted, Behind) or passage.flight.is_cut() or not self._replica.may_grant():
            why = cut(passage.flight)
            ending = Ending(Outcome.NOT_SENT, why.reason_code, why.reason)
        elif passage.toll is not None and passage.toll.is_late(self._clock.boot_s()):
            ending = Ending(Outcome.NOT_SENT, ReasonCode.BUDGET_UNKNOWN, LATE)
        else:
            return granted
        await self._runner.not_sent(passage.flight, passage.call, ending)
        return passage.ended(decision, ending)

    async def _claim_refused(
        self, passage: Passage, decision: Decision, claim: AlreadySpent | ForeignSession | MemberGone | OnHold
    ) -> Answer:
        """Somebody else spent the approval first, or opened the session, or gave this replica up: a refusal, recorded
        as one."""
        if isinstance(claim, MemberGone):
            self._replica.expel()
            refused = refusal(ReasonCode.KILL_STATE_UNKNOWN, "This replica was declared gone and is joining anew")
        elif isinstance(claim, AlreadySpent) and claim.kind == "idempotency":
            known = await self._answers.known(passage.flight.call)
            if isinstance(known, Kept):
                return await self._again(passage, known)
            refused = known or refusal(ReasonCode.INTERNAL, "Internal error")
        elif isinstance(claim, AlreadySpent):
            refused = refusal(ReasonCode.APPROVAL_SPENT, "Approval already used", revision=decision.policy_revision)
        else:
            refused = refusal(ReasonCode.FOREIGN_SESSION, "The session belongs to another principal")
        passage.approval = None
        if not self._is_recorded(passage):
            return passage.outage(ReasonCode.TOO_MANY_REFUSALS, TOO_MANY)
        await self._record(passage, refused._replace(approval_id=decision.approval_id))
        return passage.refused(refused, self._clock)

    async def _again(self, passage: Passage, kept: Kept) -> Answer:
        """What a call was answered that was run before: recorded, and only if no kill has come by then."""
        call = passage.flight.call
        receipt = await self._answers.handed_out(call.caller, call, kept)
        await self._replica.reach(receipt.kill_position)
        if passage.flight.is_cut() or not self._replica.may_grant():
            return passage.refused(cut(passage.flight), self._clock)
        return passage.again(kept)

    def _tell(self, answer: Answer, started_ns: int) -> None:
        seconds = (self._clock.ticks_ns() - started_ns) / 1e9
        tool = answer.call.tool.name if answer.call.tool is not None else ""
        self._meter.call_finished(tool, answer.decision.verdict.value, seconds)
        if answer.outcome is None and answer.reason_code is ReasonCode.RATE_LIMITED:
            self._meter.count("rate_limited", tool)
