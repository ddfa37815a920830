"""One call's life, in order: admit, decide, approve, record, grant, send, record, release (DESIGN §2).

Every door passes its calls through `Gate.pass_through`, and nothing else reaches an upstream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentgate.core.approval import ApprovalId
from agentgate.core.call import Call, policy_question
from agentgate.core.containment import Kill, KillId
from agentgate.core.decision import Behind, Decision, Grant, Receipt, Verdict, grant, read_ruling, refusal
from agentgate.core.errors import OUTAGE, KillStateUnknown, LogUnavailable, ReasonCode
from agentgate.core.event import Outcome, decided, rfc3339
from agentgate.core.redaction.redactor import FAILED
from agentgate.pipeline.approvals import ApprovalDesk
from agentgate.pipeline.checks import first_refusal
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.replica import Flight, Replica
from agentgate.pipeline.run import Ending, Runner
from agentgate.ports.ambient import Clock
from agentgate.ports.containment import Admission, LimitState, NotAdmitted, RateLimit
from agentgate.ports.log import AlreadySpent, Appended, ForeignSession, MemberGone, OnHold, Spend
from agentgate.ports.notices import Meter, Notifier
from agentgate.ports.policy import PolicyEngine

logger = logging.getLogger("agentgate.gate")

_NOTICES = {
    ReasonCode.POLICY_DENY: "policy.denied",
    ReasonCode.UNKNOWN_TOOL: "policy.denied",
    ReasonCode.RATE_LIMITED: "rate_limit.exceeded",
}
"""Refusals that people elsewhere want to hear of, by v0.2's event types."""

_Step = Literal["admission", "policy", "append", "upstream"]


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """What a caller needs to get its call approved."""

    id: ApprovalId
    state: str
    expires_at: str


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

    @property
    def success(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def is_outage(self) -> bool:
        """Whether the gateway itself could not serve, so that the caller should try again later (503)."""
        return self.reason_code in OUTAGE


@dataclass(slots=True)
class _Passage:
    """A call on its way, with what was learnt so far."""

    call: Call
    flight: Flight
    started_ns: int
    admitted: bool = False
    position: int = -1
    limit: LimitState | None = None
    spends: tuple[Spend, ...] = ()
    approval: PendingApproval | None = None
    arguments: bytes = FAILED
    context: bytes = FAILED
    """Both redacted."""
    latency_us: dict[str, int] = field(default_factory=dict)


def _refused_by(kill: Kill | None) -> Decision:
    """None: the kill store knows a kill that this replica has not read yet."""
    what = f"{kill.scope} {kill.target}".strip() if kill is not None else "this call"
    return refusal(ReasonCode.KILLED, f"Kill switch is active for {what}", "kill_switch")


class RateLimits:
    """How often a tool may be called; taken from the data of the policy in force."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._limits: Mapping[str, RateLimit] = {}

    def load(self, limits: Mapping[str, int]) -> None:
        self._limits = {tool: RateLimit(limit, self.window_s) for tool, limit in limits.items()}

    def of(self, tool: str) -> RateLimit | None:
        return self._limits.get(tool)


class Gate:
    """The one pipeline. It holds no state of its own beyond its parts."""

    def __init__(
        self,
        *,
        admission: Admission,
        engine: PolicyEngine,
        replica: Replica,
        recorder: Recorder,
        approvals: ApprovalDesk,
        runner: Runner,
        limits: RateLimits,
        clock: Clock,
        meter: Meter,
        notifier: Notifier,
    ) -> None:
        self._admission = admission
        self._engine = engine
        self._replica = replica
        self._recorder = recorder
        self._approvals = approvals
        self._runner = runner
        self._limits = limits
        self._clock = clock
        self._meter = meter
        self._notifier = notifier
        self.closing = False
        """Set when the process is about to end: no new call is taken."""

    async def pass_through(self, call: Call, refused: Decision | None = None) -> Answer:
        """Decide on a call and, if it is allowed, run it. Never raises but CancelledError.

        `refused` is why the door itself does not want it: then it is only recorded.
        """
        started_ns = self._clock.ticks_ns()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls run in tasks: without one a kill could not cut them")
        flight = self._replica.enter(call, task, started_ns)
        passage = _Passage(call, flight, started_ns)
        try:
            answer = await self._pass(passage, refused)
        except LogUnavailable:
            self._meter.count("log_unavailable")
            answer = self._outage(passage, ReasonCode.LOG_UNAVAILABLE, "The log cannot be written; nothing runs")
        except KillStateUnknown:
            answer = self._outage(passage, ReasonCode.KILL_STATE_UNKNOWN, "Kill switch state unknown")
        except Exception:  # promise 1: whatever goes wrong in here, the call is refused
            logger.exception("a call failed inside the gate", extra={"trace_id": call.trace_id})
            answer = self._outage(passage, ReasonCode.INTERNAL, "Internal error")
        finally:
            self._replica.leave(flight)
            if passage.admitted:
                self._admission.release(call)
        self._tell(answer, started_ns)
        return answer

    async def _pass(self, passage: _Passage, refused: Decision | None) -> Answer:
        if refused is not None and refused.allowed:
            raise ValueError("a door decides on nothing but refusals")
        decision = await self._admit(passage) or refused or first_refusal(passage.call)
        if decision is None:
            decision = await self._decide(passage)
        shown = self._redact(passage.call)
        if shown is None:
            shown = FAILED, FAILED
            if decision.allowed:
                decision = refusal(ReasonCode.REDACTION_FAILED, "The call could not be redacted for the log")
        passage.arguments, passage.context = shown
        if not decision.allowed:
            receipt = await self._record(passage, decision)
            if not isinstance(receipt, Receipt):  # a question in another's session
                return await self._claim_refused(passage, decision, receipt)
            return self._refused(passage, decision)
        granted = await self._record_and_grant(passage, decision)
        if not isinstance(granted, Grant):
            return granted
        ending = await self._runner.run(granted, passage.flight, passage.latency_us)
        return self._ended(passage, decision, ending)

    # --- 1 admit ---

    async def _admit(self, passage: _Passage) -> Decision | None:
        if self.closing:
            return refusal(ReasonCode.SHUTTING_DOWN, "The gateway is shutting down")
        call = passage.call
        before = self._clock.ticks_ns()
        if self._replica.is_expelled:
            raise KillStateUnknown("this replica was declared gone and is joining anew")
        seen = self._replica.position
        asked_at_s = self._clock.boot_s()
        answer = await self._admission.admit(call, self._limits.of(call.tool_name), seen)
        self._took(passage, "admission", before)
        passage.limit = answer.limit
        passage.position = seen
        if isinstance(answer, NotAdmitted):
            return self._not_admitted(answer)
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
        return self._killed(passage)

    def _not_admitted(self, answer: NotAdmitted) -> Decision:
        if answer.position is not None:
            self._replica.woken(answer.position)  # the wake-up may have been lost, and others may be running
        if answer.reason is ReasonCode.KILL_STATE_UNKNOWN:
            self._meter.count("kill_state_unknown")
            self._replica.repair_soon()
            return refusal(answer.reason, f"Kill switch state unknown: {answer.detail}", "kill_switch")
        if answer.reason is ReasonCode.RATE_LIMITED:
            return refusal(answer.reason, "Rate limit exceeded", "rate_limit")
        return _refused_by(self._replica.state.active.get(KillId(answer.kill_id or "")))

    # --- 2 decide, 3 approve ---

    async def _decide(self, passage: _Passage) -> Decision:
        static = self._approvals.is_static_token(passage.call.approval_token)
        decision = await self._ask(passage, has_approval_token=static)
        if decision.allowed and static and decision.is_write_action:
            return decision._replace(approved_by="static token")
        if decision.verdict is not Verdict.REQUIRE_APPROVAL:
            return decision
        return await self._approve(passage, decision)

    async def _approve(self, passage: _Passage, asked: Decision) -> Decision:
        """Let an approval of exactly this call make policy decide again; else leave a pending one."""
        found = await self._approvals.find(passage.call, asked.policy_revision)
        if found.denied_by is not None:
            denied = refusal(ReasonCode.APPROVAL_DENIED, "Approval denied", revision=asked.policy_revision)
            return denied._replace(approval_id=found.id, approved_by=found.denied_by)
        if found.approved_by is None:
            passage.approval = PendingApproval(found.id, "pending", rfc3339(found.expires_at))
            return asked._replace(approval_id=found.id)
        decision = await self._ask(passage, has_approval_token=True)
        if decision.allowed:
            passage.spends = (Spend("approval", found.id),)
            return decision._replace(approval_id=found.id, approved_by=found.approved_by)
        return decision

    async def _ask(self, passage: _Passage, *, has_approval_token: bool) -> Decision:
        before = self._clock.ticks_ns()
        question = policy_question(passage.call, has_approval_token=has_approval_token, now=rfc3339(self._clock.now()))
        decision = read_ruling(await self._engine.query("decision", question))
        self._took(passage, "policy", before)
        self._meter.policy_evaluated(decision.verdict.value, decision.matched_rule)
        return decision

    # --- 4 record, 5 grant ---

    def _redact(self, call: Call) -> tuple[bytes, bytes] | None:
        """Arguments and context as they may be written down; None when that could not be found out."""
        redactor = self._recorder.redactor
        arguments, context = redactor.json(call.arguments_json), redactor.json(call.context_json)
        if arguments is FAILED or context is FAILED:
            self._meter.count("redaction_failed")
            return None
        return arguments, context

    async def _record(self, passage: _Passage, decision: Decision) -> Appended:
        call = passage.call
        before = self._clock.ticks_ns()
        reason = self._recorder.redactor.text(decision.reason)
        event = decided(
            self._recorder.origin(),
            call,
            decision if reason == decision.reason else decision._replace(reason=reason),
            position=passage.position,
            arguments=passage.arguments,
            context=passage.context,
            latency_us=passage.latency_us,
        )
        try:
            receipt = await self._recorder.write(event, passage.spends)
        except (LogUnavailable, asyncio.CancelledError):
            if decision.allowed:
                self._recorder.orphaned(call.trace_id)
            raise
        self._took(passage, "append", before)
        return receipt

    async def _record_and_grant(self, passage: _Passage, decision: Decision) -> Grant | Answer:
        """Record the ALLOW; a grant if no kill came between, else the answer to give."""
        receipt = await self._record(passage, decision)
        if not isinstance(receipt, Receipt):
            return await self._claim_refused(passage, decision, receipt)
        granted = grant(passage.call, decision, receipt, applied_position=self._replica.position)
        if isinstance(granted, Behind):
            try:
                await self._replica.reach(granted.position)
            except (LogUnavailable, KillStateUnknown):
                await self._runner.not_sent(passage.call, ReasonCode.KILL_STATE_UNKNOWN)
                raise
            granted = grant(passage.call, decision, receipt, applied_position=self._replica.position)
        killed = self._killed(passage)
        if isinstance(granted, Behind) or passage.flight.is_cut() or not self._replica.may_grant():
            reason = ReasonCode.KILLED if killed is not None else ReasonCode.KILL_STATE_UNKNOWN
            kill_id = passage.flight.kill.id if passage.flight.kill else None
            await self._runner.not_sent(passage.call, reason, kill_id)
            text = killed.reason if killed else "Kill switch state unknown"
            return Answer(passage.call, decision, reason, text, outcome=Outcome.NOT_SENT, limit=passage.limit)
        return granted

    async def _claim_refused(
        self, passage: _Passage, decision: Decision, claim: AlreadySpent | ForeignSession | MemberGone | OnHold
    ) -> Answer:
        """Somebody else spent the approval first, or opened the session, or gave this replica up: a refusal, recorded
        as one."""
        if isinstance(claim, MemberGone):
            self._replica.expel()
            refused = refusal(ReasonCode.KILL_STATE_UNKNOWN, "This replica was declared gone and is joining anew")
        elif isinstance(claim, AlreadySpent):
            refused = refusal(ReasonCode.APPROVAL_SPENT, "Approval already used", revision=decision.policy_revision)
        else:
            refused = refusal(ReasonCode.FOREIGN_SESSION, "The session belongs to another principal")
        passage.spends, passage.approval = (), None
        await self._record(passage, refused._replace(approval_id=decision.approval_id))
        return self._refused(passage, refused)

    def _killed(self, passage: _Passage) -> Decision | None:
        kill = passage.flight.kill
        return _refused_by(kill) if kill is not None else None

    # --- answers ---

    def _refused(self, passage: _Passage, decision: Decision) -> Answer:
        prefix = "Approval required" if decision.verdict is Verdict.REQUIRE_APPROVAL else "Policy denied"
        return Answer(
            passage.call,
            decision,
            decision.reason_code,
            f"{prefix}: {decision.reason}",
            limit=passage.limit,
            approval=passage.approval,
        )

    def _ended(self, passage: _Passage, decision: Decision, ending: Ending) -> Answer:
        return Answer(
            passage.call,
            decision,
            ending.reason,
            ending.error,
            ending.result_json,
            ending.outcome,
            passage.limit,
            fault_json=ending.fault_json,
        )

    def _outage(self, passage: _Passage, reason: ReasonCode, text: str) -> Answer:
        return Answer(passage.call, refusal(reason, text), reason, f"Policy denied: {text}", limit=passage.limit)

    def _took(self, passage: _Passage, step: _Step, before_ns: int) -> None:
        took_ns = self._clock.ticks_ns() - before_ns
        passage.latency_us[step] = passage.latency_us.get(step, 0) + took_ns // 1000
        self._meter.step(step, took_ns / 1e9)

    def _tell(self, answer: Answer, started_ns: int) -> None:
        seconds = (self._clock.ticks_ns() - started_ns) / 1e9
        tool = answer.call.tool.name if answer.call.tool is not None else ""
        self._meter.call_finished(tool, answer.decision.verdict.value, seconds)
        if answer.outcome is None and answer.reason_code in _NOTICES:
            self._notify(answer, tool)

    def _notify(self, answer: Answer, tool: str) -> None:
        call = answer.call
        if answer.reason_code is ReasonCode.RATE_LIMITED:
            self._meter.count("rate_limited", tool)
        payload = {"session_id": call.session, "subject_id": call.caller.id, "tool_name": call.tool_name}
        payload |= {"reason": self._recorder.redactor.text(answer.decision.reason), "trace_id": call.trace_id}
        if answer.limit is not None:
            payload["limit"] = str(answer.limit.limit)
        self._notifier.notify(_NOTICES[answer.reason_code], payload)
