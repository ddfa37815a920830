"""Edit-then-approve: an approver changes the arguments of a pending call, and policy decides on the changed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentgate.core.approval import Approval, State
from agentgate.core.call import Principal, Tool
from agentgate.core.decision import Verdict
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.redaction.redactor import FAILED
from agentgate.pipeline.approvals.desk import MAX_REASON_CHARS, ApprovalDesk, Edit
from agentgate.pipeline.approvals.desk import Verdict as Answered
from agentgate.pipeline.approvals.finder import Opinion
from agentgate.pipeline.records.record import Recorder, new_trace_id
from agentgate.ports.ambient import Entropy


class EditDesk:
    """Takes edits. An edit is no approval: the edited call is pending like any other."""

    def __init__(
        self, approvals: ApprovalDesk, recorder: Recorder, tools: Mapping[str, Tool], entropy: Entropy, opinion: Opinion
    ) -> None:
        self._approvals = approvals
        self._recorder = recorder
        self._tools = tools
        self._entropy = entropy
        self._opinion = opinion

    async def edit(
        self, editor: Principal, approval_id: str, arguments: Mapping[str, Any], reason: str = ""
    ) -> Approval | Refused:
        """The approval that is about the edited call now; the old one is void. Of two edits at once one is taken.

        Raises:
            LogUnavailable
        """
        old = await self._approvals.answerable(editor, approval_id)
        if isinstance(old, Refused):
            return old
        asked = self._approvals.kept(old, self._tools.get(old.tool), new_trace_id(self._entropy))
        if asked is None:
            return Refused(ReasonCode.CONFLICT, "the tool is not the one any more that it was asked for")
        call = replace(asked, arguments=arguments)
        if call.digest == asked.digest:
            return Refused(ReasonCode.INVALID_REQUEST, "these are the arguments that were asked for")
        if self._recorder.redactor.json(call.arguments_json) is FAILED:
            return Refused(ReasonCode.REDACTION_FAILED, "the arguments could not be redacted for the log")
        decision = await self._opinion(call)
        if decision.verdict is Verdict.DENY:
            return Refused(decision.reason_code, f"the edited call is refused: {decision.reason}")
        terms = decision.terms if decision.verdict is Verdict.REQUIRE_APPROVAL else old.terms
        said = self._recorder.reason(reason, MAX_REASON_CHARS)
        edit = Edit(old, self._approvals.sent(old, asked), editor, said)
        return await self._approvals.edit(edit, call, decision.policy_revision, terms)

    async def edit_and_approve(
        self, editor: Principal, approval_id: str, arguments: Mapping[str, Any], reason: str = ""
    ) -> Answered | Refused:
        """Both at once. Where the yes is not taken, the edit stands. Raises LogUnavailable."""
        edited = await self.edit(editor, approval_id, arguments, reason)
        if isinstance(edited, Refused):
            return edited
        return await self._approvals.decide(editor, edited.id, State.APPROVED, reason)
