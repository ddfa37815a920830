"""A gate's answer in MCP's words.

Refusals are results with `isError`, because that is what clients show to their models; a JSON-RPC error aborts some
agents' runs and makes others try again (docs/mcp.md). The reason is always in the text, since nothing else arrives
everywhere; programs read `_meta`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED

from agentgate.core.decision import Verdict
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Outcome
from agentgate.edges._mcp import results
from agentgate.edges._mcp.parts import OURS, REFUSED, definition_of, in_their_name, operation_of, without_ours
from agentgate.pipeline.calls.passage import Answer

_RETRY_MS: Final = 1000
_APPROVAL_RETRY_MS: Final = 5000

UNFIT: Final = "The call was executed, but the tool server's answer is no result of this client's protocol revision"

Say = Callable[[Answer], str]

_log = logging.getLogger("agentgate.mcp")


def tool_result(answer: Answer, version: str) -> dict[str, Any]:
    """What came of an allowed call that succeeded, for a client of a protocol revision."""
    value = orjson.loads(answer.result_json or b"null")
    tool = answer.call.tool
    if tool is not None and definition_of(tool) is not None:
        if not isinstance(value, dict):
            return failure("The tool server's answer is no tool result", meta_of(answer))
        if not results.is_modern(version):
            if value.get("resultType") == "input_required":
                text = "The tool asks for input that this client's protocol revision cannot give"
                return failure(text, meta_of(answer))
            value = results.in_objects(value)
        whole = stamped(value, answer)
        return whole if _fits("tools/call", whole, answer, version) else failure(UNFIT, meta_of(answer))
    text = (answer.result_json or b"null").decode()
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
    if isinstance(value, dict):
        result["structuredContent"] = value
    return stamped(result, answer)


def operation_result(answer: Answer, version: str) -> dict[str, Any] | None:
    """The same of a tool server's operation; None where clients of that revision have no such result."""
    value = orjson.loads(answer.result_json or b"null")
    result = stamped(value if isinstance(value, dict) else {}, answer)
    method = operation_of(answer.call.tool) if answer.call.tool is not None else None
    if method == "resources/read" and result["resultType"] == "complete":
        result = {"ttlMs": 0, **result, "cacheScope": "private"}
    return result if method is not None and _fits(method, result, answer, version) else None


def _fits(method: str, result: Mapping[str, Any], answer: Answer, version: str) -> bool:
    """Whether clients of that revision have such a result. The log hears of one that they have not, but none of what is
    in it."""
    if results.is_result(method, version, result):
        return True
    call = answer.call
    _log.warning("what %s answered is no result of MCP %s; trace %s", call.tool_name, version, call.trace_id)
    return False


def stamped(value: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """A result with the trace id of its call, and nothing else that passes for ours. `resultType` is added where a
    server of an older revision left it out."""
    whole = in_their_name(value, answer.result_json)
    meta = {**without_ours(whole.get("_meta")), f"{OURS}traceId": answer.call.trace_id}
    if answer.is_replayed:
        meta[f"{OURS}replayed"] = True
    if answer.edited is not None:
        meta[f"{OURS}editedArguments"] = answer.edited.arguments
    return {"resultType": "complete", **whole, "_meta": meta}


def fault(answer: Answer) -> MCPError:
    """The upstream's own error, as it came but for what passes for ours, or for the transport's."""
    said = orjson.loads(answer.fault_json or b"{}")
    code, message, data = said.get("code"), said.get("message"), said.get("data")
    if isinstance(data, dict):
        data = without_ours(in_their_name(data, answer.fault_json))
    if code == CONNECTION_CLOSED and data is None:  # which clients' SDKs say where the gateway itself is lost
        data = meta_of(answer)
    return MCPError(code if type(code) is int else REFUSED, str(message), data)


def failure(text: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": True, "_meta": dict(meta)}


def unsuccessful(answer: Answer, *, approval_url: str | None, now_s: float) -> dict[str, Any]:
    """Why a call was refused, or how it failed, as a result."""
    return failure(text_of(answer, approval_url), meta_of(answer, approval_url=approval_url, now_s=now_s))


def text_of(answer: Answer, approval_url: str | None = None) -> str:
    """For a model to read: what happened, that nothing was done or what may have been, and what to do now."""
    if answer.approval is not None:
        return _approval_required(answer, approval_url)
    if answer.reason_code is ReasonCode.KILLED:
        return _killed(answer)
    if answer.outcome is not None:
        return _failed(answer)
    say = _REFUSED.get(answer.reason_code)
    if say is not None:
        return say(answer)
    if answer.is_outage or answer.reason_code in _ENGINE:
        return f"UNAVAILABLE: {_reason(answer)} Nothing was executed. You may try again later."
    return f"REFUSED: {_reason(answer)} Nothing was executed. Do not repeat it unchanged."


def _reason(answer: Answer) -> str:
    return answer.decision.reason.rstrip(".") + "."


def _approval_required(answer: Answer, url: str | None) -> str:
    where = f" at {url}" if url is not None else ""
    return (
        f"APPROVAL REQUIRED (rule {answer.decision.matched_rule}): a person must approve this call{where} first. "
        "Nothing was executed. Once it is approved, repeat exactly the same call; a changed one needs its own approval."
    )


def _killed(answer: Answer) -> str:
    if answer.outcome is Outcome.CANCELLED:
        done = f"The call was cut while it was running: {answer.error}."
    else:
        done = f"{_reason(answer) if answer.outcome is None else 'A kill switch came first.'} Nothing was executed."
    return f"STOPPED by an operator. {done} This is final: no further call of this kind will be executed. Do not retry."


def _failed(answer: Answer) -> str:
    if answer.reason_code is ReasonCode.TOOL_QUARANTINED:
        return f"{answer.error}. The tool may not be called until an operator has looked at it. Do not retry."
    if answer.outcome is Outcome.NOT_SENT:
        return f"{answer.error}. Nothing was executed."
    return f"{answer.error}"


def _denied(answer: Answer) -> str:
    return (
        f"DENIED by policy (rule {answer.decision.matched_rule}): {_reason(answer)} Nothing was executed. "
        "Do not repeat it unchanged: choose another way, or ask the user."
    )


def _arguments(answer: Answer) -> str:
    return f"{_reason(answer)} Nothing was executed. Correct the arguments and call again."


def _limited(answer: Answer) -> str:
    return f"RATE LIMITED: {_reason(answer)} Nothing was executed. Wait before the next call of this tool."


_REFUSED: Final[Mapping[ReasonCode, Say]] = {
    ReasonCode.POLICY_DENY: _denied,
    ReasonCode.ARGUMENTS_INVALID: _arguments,
    ReasonCode.RATE_LIMITED: _limited,
    ReasonCode.APPROVAL_DENIED: lambda _: (
        "DENIED by an approver. Nothing was executed. Do not repeat this call: choose another way, or ask the user."
    ),
    ReasonCode.TOO_MANY_REFUSALS: lambda _: TOO_MANY,
    ReasonCode.IDEMPOTENCY_IN_PROGRESS: lambda answer: f"{_reason(answer)} It is not executed twice. Ask again soon.",
    ReasonCode.IDEMPOTENCY_FORGOTTEN: lambda answer: (
        f"{_reason(answer)} It was executed before and is not executed again. Do not repeat it under this key."
    ),
    ReasonCode.APPROVAL_SPENT: lambda _: (
        "The approval of this call was used already. Nothing was executed this time. A further call needs a new one."
    ),
    ReasonCode.TOOL_QUARANTINED: lambda answer: (
        f"{_reason(answer)} Nothing was executed. It may not be called until an operator has looked at it."
    ),
}
_ENGINE: Final = frozenset({ReasonCode.POLICY_UNAVAILABLE, ReasonCode.POLICY_TIMEOUT})
TOO_MANY: Final = "Too many refused calls in this second. Nothing was executed. Stop repeating them."


def meta_of(answer: Answer, *, approval_url: str | None = None, now_s: float = 0.0) -> dict[str, Any]:
    """What a program may want to know of a call that did not succeed."""
    meta: dict[str, Any] = {
        "decision": answer.decision.verdict.value,
        "reasonCode": answer.reason_code.value,
        "rule": answer.decision.matched_rule,
        "traceId": answer.call.trace_id,
    }
    if answer.approval is not None:
        meta["approvalId"] = answer.approval.id
        if approval_url is not None:
            meta["approvalUrl"] = approval_url
        meta["retryAfterMs"] = _APPROVAL_RETRY_MS
    elif answer.reason_code is ReasonCode.RATE_LIMITED and answer.limit is not None:
        meta["retryAfterMs"] = max(0, round((answer.limit.reset_at - now_s) * 1000))
    elif answer.retry_after_s is not None:
        meta["retryAfterMs"] = answer.retry_after_s * 1000
    elif answer.outcome is None and (answer.is_outage or answer.reason_code in _ENGINE):
        meta["retryAfterMs"] = _RETRY_MS
    if answer.reason_code in (ReasonCode.IDEMPOTENCY_IN_PROGRESS, ReasonCode.TOO_MANY_REFUSALS):
        meta["retryAfterMs"] = _RETRY_MS
    if answer.is_replayed:
        meta["replayed"] = True
    return {f"{OURS}{name}": value for name, value in meta.items()}


def too_many() -> dict[str, Any]:
    """A caller that was turned away before its call was looked at."""
    meta = {"decision": Verdict.DENY.value, "reasonCode": ReasonCode.TOO_MANY_REFUSALS.value, "retryAfterMs": _RETRY_MS}
    return failure(TOO_MANY, {f"{OURS}{name}": value for name, value in meta.items()})


def turned_away() -> MCPError:
    """As `too_many`, for what is no call of a tool."""
    return MCPError(REFUSED, TOO_MANY, {f"{OURS}reasonCode": ReasonCode.TOO_MANY_REFUSALS.value})
