"""What is refused before policy is asked: by a kill, or by a pure look at the call."""

from __future__ import annotations

from agentgate.core.call import Call
from agentgate.core.containment import Kill
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode


def refused_by(kill: Kill | None) -> Decision:
    """None: the kill store knows a kill that this replica has not read yet."""
    what = f"{kill.scope} {kill.target}".strip() if kill is not None else "this call"
    return refusal(ReasonCode.KILLED, f"Kill switch is active for {what}", "kill_switch")


def first_refusal(call: Call) -> Decision | None:
    """Only declared tools exist (the words are v0.2's), as an operator accepted them, called as their schema says; None
    to go on. A misfit names the place and the rule, never the value."""
    if call.tool is None:
        return refusal(ReasonCode.UNKNOWN_TOOL, "Tool not in allowlist")
    if call.tool.quarantine is not None:
        return refusal(ReasonCode.TOOL_QUARANTINED, f"Tool is quarantined: {call.tool.quarantine}")
    misfit = call.tool.check(call.arguments)
    if misfit is not None:
        return refusal(ReasonCode.ARGUMENTS_INVALID, f"Arguments do not fit the tool's schema: {misfit}")
    return None
