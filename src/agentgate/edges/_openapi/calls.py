"""Schemas of the bodies of calls, and of how everything is refused."""

from __future__ import annotations

from typing import Final

from agentgate.core.approval import State
from agentgate.core.decision import Verdict
from agentgate.core.errors import ReasonCode
from agentgate.edges.schemas import BOOL, COUNT, ID, OBJECT, TEXT, TIME, TOOL, Schema, list_of, perhaps, record, said

_TRACE: Final[Schema] = {"type": "string", "format": "uuid"}
_REASON: Final[Schema] = {"enum": [code.value for code in ReasonCode]}
_CONTEXT: Final = said(perhaps(OBJECT), "Told to policy; nothing in it is trusted as identity")
_ARGUMENTS: Final = said(OBJECT, "Must fit the tool's declared JSON Schema")
_TOLD_APPROVAL: Final = record(
    {
        "id": TEXT,
        "state": {"enum": [state.value for state in State]},
        "expires_at": TIME,
        "quorum": said(COUNT, "How many different persons must say yes"),
        "votes": said(COUNT, "How many have"),
        "url": TEXT,
    },
    {"edited": said(BOOL, "An approver has changed the arguments"), "arguments": said(OBJECT, "To these")},
)
_REQUESTABLE: Final = record(
    {},
    {
        "reason": TEXT,
        "evaluation_id": TEXT,
        "access_request": record({"id": TEXT, "endpoint": TEXT, "expires_at": TIME}),
    },
    description="`approval_required` as a requestable deny of AuthZEN says it",
)
_CALL_ANSWER: Final = record(
    {
        "success": BOOL,
        "result": {"description": "What the tool answered; null unless success"},
        "error": perhaps(TEXT),
        "trace_id": _TRACE,
        "decision": {"enum": [verdict.value for verdict in Verdict]},
        "reason_code": _REASON,
    },
    {"approval": _TOLD_APPROVAL, "context": _REQUESTABLE},
)
_CALL_IN_FLIGHT: Final = record(
    dict.fromkeys(("trace_id", "tenant", "session", "agent", "tool", "server", "member", "since"), TEXT)
)

CALLS: Final[dict[str, Schema]] = {
    "ToolCallRequest": {
        "type": "object",
        "required": ["session_id", "tool_name", "arguments"],
        "additionalProperties": False,
        "properties": {
            "session_id": ID,
            "tool_name": TOOL,
            "arguments": _ARGUMENTS,
            "context": _CONTEXT,
            "approval_token": {"type": ["string", "null"], "minLength": 1, "maxLength": 512},
        },
    },
    "ToolCallResponse": _CALL_ANSWER,
    "ToolNames": record({"tools": list_of(TEXT)}),
    "EnvelopeRequest": {
        "type": "object",
        "required": ["agent_id", "agent_version", "request_id", "tool", "arguments"],
        "additionalProperties": False,
        "properties": {
            "agent_id": said(ID, "Whose key signs, or is sent"),
            "agent_version": {"type": "string", "minLength": 1, "maxLength": 64},
            "request_id": {
                "type": "string",
                "pattern": "^[!-~]{1,255}$",
                "description": "It is run once under this name",
            },
            "tool": TOOL,
            "arguments": _ARGUMENTS,
            "session_id": perhaps(ID),
            "context": _CONTEXT,
        },
    },
    "EnvelopeResponse": record(
        {"success": BOOL, "audit_id": said(_TRACE, "The trace id: GET /audit?trace_id="), "reason_code": _REASON},
        {
            "result": {"description": "What the tool answered; only with success"},
            "status": {"enum": ["pending_approval", "denied", "failed", "running"]},
            "approval_id": TEXT,
            "error": perhaps(TEXT),
            "approval": _TOLD_APPROVAL,
            "quorum": COUNT,
            "votes": COUNT,
        },
    ),
    "CallUnderway": record(
        {"trace_id": _TRACE, "state": {"enum": ["pending_approval", "approved", "running"]}, "approval": _TOLD_APPROVAL}
    ),
    "CallsInFlight": record({"calls": list_of(_CALL_IN_FLIGHT)}),
    "Problem": record(
        {"type": TEXT, "title": TEXT, "status": {"type": "integer"}, "detail": TEXT, "reason_code": _REASON},
        {
            "error": perhaps(TEXT),
            "message": TEXT,
            "hint": TEXT,
            "received": TEXT,
            "errors": {
                "type": "array",
                "description": "What does not fit the request's schema, and where",
                "items": record({"loc": list_of({"type": ["string", "integer"]}), "msg": TEXT}, {"type": TEXT}),
            },
            "wanted": said(TEXT, "The policy revision that was published"),
            "enforced": said(perhaps(TEXT), "The one that decides"),
            # of a call: as in its other answers
            **{
                name: schema
                for name, schema in _CALL_ANSWER["properties"].items()
                if name not in ("error", "reason_code")
            },
            "audit_id": _TRACE,
            "approval_id": TEXT,
        },
        description="RFC 9457, with a `reason_code` for programs. "
        "Of a call it has the members of its other answers too",
    ),
}
