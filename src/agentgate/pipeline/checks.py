"""What is refused before policy is asked. A check is a pure look at the call: a refusal, or None to go on."""

from __future__ import annotations

from collections.abc import Callable

from agentgate.core.call import Call
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode

Check = Callable[[Call], Decision | None]


def tool_is_declared(call: Call) -> Decision | None:
    """Only declared tools exist; the words are v0.2's."""
    if call.tool is None:
        return refusal(ReasonCode.UNKNOWN_TOOL, "Tool not in allowlist")
    return None


def tool_is_not_quarantined(call: Call) -> Decision | None:
    """What an operator accepted is what is called, or nothing is."""
    if call.tool is not None and call.tool.quarantine is not None:
        return refusal(ReasonCode.TOOL_QUARANTINED, f"Tool is quarantined: {call.tool.quarantine}")
    return None


def arguments_fit(call: Call) -> Decision | None:
    """The declared JSON Schema holds. The sentence names the place and the rule, never the value."""
    misfit = call.tool.check(call.arguments) if call.tool is not None else None
    if misfit is not None:
        return refusal(ReasonCode.ARGUMENTS_INVALID, f"Arguments do not fit the tool's schema: {misfit}")
    return None


BEFORE_POLICY: tuple[Check, ...] = (tool_is_declared, tool_is_not_quarantined, arguments_fit)


def first_refusal(call: Call, checks: tuple[Check, ...] = BEFORE_POLICY) -> Decision | None:
    for check in checks:
        refused = check(call)
        if refused is not None:
            return refused
    return None
