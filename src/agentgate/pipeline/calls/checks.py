"""What is refused before policy is asked: at admission, by a kill, or by a pure look at the call."""

from __future__ import annotations

from agentgate.core.call import Call
from agentgate.core.containment import Kill, KillId
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode
from agentgate.pipeline.containment.flights import Flight
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.limits.toll import budget_of, not_admitted
from agentgate.ports.containment import NotAdmitted
from agentgate.ports.notices import Meter


def refused_at_admission(answer: NotAdmitted, call: Call, replica: Replica, meter: Meter) -> Decision:
    if answer.position is not None:
        replica.woken(answer.position)  # the wake-up may have been lost, and others may be running
    if answer.reason is ReasonCode.KILL_STATE_UNKNOWN:
        meter.count("kill_state_unknown")
        replica.repair_soon()
        return refusal(answer.reason, f"Kill switch state unknown: {answer.detail}", "kill_switch")
    if answer.reason in (ReasonCode.BUDGET_SPENT, ReasonCode.BUDGET_UNKNOWN):
        meter.count(answer.reason.value, budget_of(answer))
    if answer.reason is not ReasonCode.KILLED:
        return not_admitted(answer, call)
    return refused_by(replica.state.active.get(KillId(answer.kill_id or "")))


def refused_by(kill: Kill | None) -> Decision:
    """None: the kill store knows a kill that this replica has not read yet."""
    what = f"{kill.scope} {kill.target}".strip() if kill is not None else "this call"
    return refusal(ReasonCode.KILLED, f"Kill switch is active for {what}", "kill_switch")


def killed(flight: Flight) -> Decision | None:
    """Why a call is not run that a kill has cut; None where none has."""
    return refused_by(flight.kill) if flight.kill is not None else None


def cut(flight: Flight) -> Decision:
    """Why a call is not run that was cut: for its kill, or because kills could not be heard."""
    return killed(flight) or refusal(ReasonCode.KILL_STATE_UNKNOWN, "Kill switch state unknown")


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
