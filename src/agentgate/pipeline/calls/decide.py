"""What policy says of a call, and the approval that lets it say so again: steps 2 and 3 of a call's life."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from agentgate.core.call import Call
from agentgate.core.decision import Decision, Verdict, refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.facts import Facts
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.approvals.finder import MOST_PENDING
from agentgate.pipeline.calls.checks import first_refusal
from agentgate.pipeline.calls.passage import Passage, pending_approval
from agentgate.pipeline.policy.asking import Questions
from agentgate.ports.ambient import Clock
from agentgate.ports.notices import Meter

_TRIES: Final = 3


class Decider:
    """Decides on admitted calls, and records nothing."""

    def __init__(self, approvals: ApprovalDesk, questions: Questions, clock: Clock, meter: Meter) -> None:
        self._approvals = approvals
        self._questions = questions
        self._clock = clock
        self._meter = meter

    async def decide(self, passage: Passage) -> Decision:
        """Raises LogUnavailable."""
        sent = passage.call
        for _ in range(_TRIES):
            decision = await self._decide(passage)
            if decision is not None:
                return decision
            passage.call, passage.edited = sent, None
        return refusal(ReasonCode.POLICY_UNAVAILABLE, "Policy changed again and again while it was asked")

    async def _decide(self, passage: Passage) -> Decision | None:
        """None: policy changed meanwhile, and must be asked anew."""
        static = self._approvals.is_static_token(passage.call.approval_token)
        decision = await self._ask(passage, has_approval_token=static)
        if passage.toll is not None:
            decision = passage.toll.warned(decision)
        if decision.allowed and static and (decision.is_write_action or await self._needs_approval(passage)):
            return decision._replace(approved_by="static token")
        if decision.allowed and passage.call.carried_by is not None:
            # policy may do without an approval by now: it is spent all the same, or the call would be made again
            decision = decision._replace(verdict=Verdict.REQUIRE_APPROVAL, reason_code=ReasonCode.APPROVAL_REQUIRED)
        if decision.verdict is not Verdict.REQUIRE_APPROVAL:
            return decision
        return await self._approve(passage, decision)

    async def _approve(self, passage: Passage, asked: Decision) -> Decision | None:
        """Let an approval of exactly this call make policy decide again; else leave a pending one. None: what allows it
        now is another policy than the one under which it was approved."""
        sent = passage.call
        found = await self._approvals.find(sent, asked, partial(self.opinion, facts=passage.facts))
        if found is None:
            passage.limit = None  # not one of those that count calls
            text = f"{MOST_PENDING} calls of this caller wait for an approval already: no more are asked for"
            return refusal(ReasonCode.RATE_LIMITED, text, "approvals_pending", asked.policy_revision)
        approval = found.approval
        if found.denied_by is not None:
            denied = refusal(ReasonCode.APPROVAL_DENIED, "Approval denied", revision=asked.policy_revision)
            return denied._replace(approval_id=approval.id, approved_by=found.denied_by)
        if found.is_over:
            text = f"The approval of this call is {self._approvals.state_now(approval)}"
            over = refusal(ReasonCode.APPROVAL_SPENT, text, revision=asked.policy_revision)
            return over._replace(approval_id=approval.id)
        if found.approved_by is None:
            passage.approval = pending_approval(found)
            return asked._replace(approval_id=approval.id)
        if found.edited is not None:
            passage.call, passage.edited = found.edited, pending_approval(found)
        elif sent.edited_from is not None:
            passage.edited = pending_approval(replace(found, edited=sent))
        decision = first_refusal(passage.call) or await self._ask(passage, has_approval_token=True)
        if decision.allowed and decision.policy_revision != approval.policy_revision:
            return None
        if decision.allowed:
            edited_from = sent.digest if found.edited is not None else sent.edited_from
            return decision._replace(approval_id=approval.id, approved_by=found.approved_by, edited_from=edited_from)
        return decision

    async def opinion(self, call: Call, facts: Facts | None) -> Decision:
        """What would be decided on `call` without an approval, its session's past being `facts`."""
        return first_refusal(call) or await self._questions.ask(
            call, has_approval_token=False, now=self._clock.now(), facts=facts
        )

    async def _needs_approval(self, passage: Passage) -> bool:
        """Whether policy allowed a call because it was approved."""
        return not (await self.opinion(passage.call, passage.facts)).allowed

    async def _ask(self, passage: Passage, *, has_approval_token: bool) -> Decision:
        before = self._clock.ticks_ns()
        decision = await self._questions.ask(
            passage.call, has_approval_token=has_approval_token, now=self._clock.now(), facts=passage.facts
        )
        if passage.toll is not None:
            decision = passage.toll.priced(decision)
        passage.took("policy", before, self._clock, self._meter)
        self._meter.policy_evaluated(decision.verdict.value, decision.matched_rule)
        return decision
