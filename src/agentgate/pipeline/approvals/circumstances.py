"""What bears on approvals that are open: kills given since, the policy in force, the tools as they are described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agentgate.core.approval import Approval, ApprovalId, Void, Why
from agentgate.core.call import Tool
from agentgate.ports.log import Log
from agentgate.ports.policy import PolicyEngine


class Circumstances:
    """What this member knows that bears on approvals."""

    def __init__(self, log: Log, engine: PolicyEngine, tools: Mapping[str, Tool]) -> None:
        self._log = log
        self._engine = engine
        self._tools = tools

    async def killed(self, approvals: Sequence[Approval]) -> dict[ApprovalId, Void]:
        """Those that a kill given since covers, released or not. Raises LogUnavailable."""
        if not approvals:
            return {}
        changes = await self._log.kills_since(min(approval.position for approval in approvals))
        kills = changes.given()
        return {one.id: void for one in approvals if (void := self._placed(one).killed_by(kills)) is not None}

    def _placed(self, approval: Approval) -> Approval:
        """With its tool's server, which nobody wrote down before schema version 6."""
        tool = self._tools.get(approval.tool)
        return approval if approval.server or tool is None else replace(approval, server=tool.upstream)

    async def revision(self) -> str | None:
        """Of the policy that is enforced here; None when the engine does not say."""
        return await self._engine.revision()

    def changed(self, approval: Approval, revision: str | None) -> Void | None:
        """Whether policy or tool are others here than when it was asked for. What is not known now has not changed."""
        tool = self._tools.get(approval.tool)
        was = approval.tool_sha256  # empty before schema version 6; the call's digest is bound to it all the same
        if tool is not None and (tool.quarantine is not None or was not in ("", tool.definition_sha256)):
            return Void(Why.TOOL_CHANGED)
        if revision is not None and revision != approval.policy_revision:
            return Void(Why.POLICY_CHANGED)
        return None
