"""What bodies look like, for the OpenAPI document: the schemas that its operations refer to by name.

Answers are described here and made where their routes are; `tests/attacks/test_openapi_fuzz.py` holds one against the
other, and finds members of an answer that are not named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentgate.core.approval import State as ApprovalState
from agentgate.core.approval import Why
from agentgate.core.call import Access
from agentgate.core.containment import Scope
from agentgate.core.decision import Verdict
from agentgate.core.errors import ReasonCode
from agentgate.core.members import Presence
from agentgate.pipeline.offers import State as OfferState

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

ID_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,255}$"
TOOL_PATTERN: Final = r"^(?!.*\.\.)[A-Za-z0-9_.-]{1,128}$"
_TEXT: Final[Schema] = {"type": "string"}
_PERHAPS_TEXT: Final[Schema] = {"type": ["string", "null"]}
_BOOL: Final[Schema] = {"type": "boolean"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_OBJECT: Final[Schema] = {"type": "object"}
_PERHAPS_OBJECT: Final[Schema] = {"type": ["object", "null"]}
_OBJECTS: Final[Schema] = {"type": "array", "items": _OBJECT}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_PERHAPS_TIME: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_TRACE: Final[Schema] = {"type": "string", "format": "uuid"}
_REASON: Final[Schema] = {"enum": [code.value for code in ReasonCode]}


def ref(name: str) -> Schema:
    """A schema of the document by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def answers(description: str, name: str) -> Schema:
    """A response with a JSON body of the schema of that name."""
    return {"description": description, "content": {"application/json": {"schema": ref(name)}}}


def _record(needed: Mapping[str, Schema], perhaps: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    """An object with members that are always there and members that may be. Others may come in later versions."""
    return {"type": "object", "required": list(needed), "properties": {**needed, **(perhaps or {})}, **more}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _said(schema: Schema, description: str) -> Schema:
    return schema | {"description": description}


# --- what several have ---------------------------------------------------------------------------------------------

_CONTEXT: Final = _said(_PERHAPS_OBJECT, "Told to policy; nothing in it is trusted as identity")
_ARGUMENTS: Final = _said(_OBJECT, "Must fit the tool's declared JSON Schema")

_TOLD_APPROVAL: Final = _record(
    {
        "id": _TEXT,
        "state": {"enum": [state.value for state in ApprovalState]},
        "expires_at": _TIME,
        "quorum": _said(_COUNT, "How many different persons must say yes"),
        "votes": _said(_COUNT, "How many have"),
        "url": _TEXT,
    },
    {
        "edited": _said(_BOOL, "An approver has changed the arguments"),
        "arguments": _said(_OBJECT, "To these"),
    },
)

_REQUESTABLE: Final = _record(
    {},
    {
        "reason": _TEXT,
        "evaluation_id": _TEXT,
        "access_request": _record({"id": _TEXT, "endpoint": _TEXT, "expires_at": _TIME}),
    },
    description="`approval_required` as a requestable deny of AuthZEN says it",
)

_CALL_ANSWER: Final = _record(
    {
        "success": _BOOL,
        "result": {"description": "What the tool answered; null unless success"},
        "error": _PERHAPS_TEXT,
        "trace_id": _TRACE,
        "decision": {"enum": [verdict.value for verdict in Verdict]},
        "reason_code": _REASON,
    },
    {"approval": _TOLD_APPROVAL, "context": _REQUESTABLE},
)

_CALL_IN_FLIGHT: Final = _record(
    dict.fromkeys(("trace_id", "tenant", "session", "agent", "tool", "server", "member", "since"), _TEXT)
)
_ACK: Final = _record(
    {"member": _TEXT, "acked": _BOOL},
    {"cancelled": _COUNT, "finished": _COUNT, "unknown": _COUNT, "took_ms": {"type": "number", "minimum": 0}},
)
_KILL_MEMBERS: Final[Mapping[str, Schema]] = {
    "id": _TEXT,
    "status": _TEXT,
    "scope": {"enum": [scope.value for scope in Scope]},
    "target": _TEXT,
    "tenant": _said(_TEXT, "Of a session or an agent"),
    "reason": _TEXT,
    "actor": _TEXT,
    "since": _TIME,
}
_KILL_NAMES: Final[Mapping[str, Schema]] = {
    "expires_at": _TIME,
    **dict.fromkeys(("session_id", "tool_name", "agent_id", "tenant_id"), _said(_TEXT, "The target, by its scope")),
}
_DRAIN: Final[Mapping[str, Schema]] = {
    "drained_except": _said(_TEXTS, "Members that it had to go on without"),
    "attested": _said(_TEXTS, "Those of them whose host is said to be destroyed"),
    "replicas": _list_of(_ACK),
    "running": _said(_TEXTS, "Trace ids of covered calls that have not ended"),
    "receipt": _said(_PERHAPS_TEXT, "The event that says how it drained"),
}
_LISTED_KILL: Final = _record(
    {**_KILL_MEMBERS, "drained": {"type": ["boolean", "null"], "description": "null: not known while the log is down"}},
    {**_KILL_NAMES, **_DRAIN},
    description="What each replica said is told of those that have not drained",
)
_SAID_OF_TOOL: Final[Mapping[str, Schema]] = {
    "server": _TEXT,
    "name": _TEXT,
    "state": {"enum": ["declared", *(state.value for state in OfferState)]},
    "why": _TEXT,
    "served": _BOOL,
    "policy": {"enum": ["allow", "approval", "hidden"]},
    "access": {"enum": [access.value for access in Access]},
}
_CHECKS: Final[Mapping[str, Schema]] = dict.fromkeys(("log", "kill_state", "policy"), _BOOL)
_WEBHOOK: Final = _record(
    {
        "name": _TEXT,
        "kind": {"enum": ["webhook", "slack"]},
        "url": _said(_TEXT, "Scheme, host and port: the rest may be a secret"),
        "events": _TEXTS,
        "tenants": _said(_TEXTS, "Empty: all"),
        "done": {"type": ["integer", "null"]},
        "behind": _COUNT,
        "waiting_since": _PERHAPS_TEXT,
        "failures": _COUNT,
        "last_error": _PERHAPS_TEXT,
        "last_taken_at": _PERHAPS_TEXT,
        "deliveries": {"type": "object", "properties": dict.fromkeys(("delivered", "failed", "skipped"), _COUNT)},
    }
)
_AUDIT_EVENT: Final = _record(
    {
        "index": _COUNT,
        "session_number": _COUNT,
        "kill_position": _COUNT,
        "salt": _said(_PERHAPS_TEXT, "Of the body; null once it was pruned"),
        "event": _said(_OBJECT, "The leaf of the log"),
        "body": _said(_PERHAPS_OBJECT, "Its body, redacted; null once it was pruned"),
    }
)


# --- the document ---------------------------------------------------------------------------------------------------

COMPONENTS: Final[Mapping[str, Schema]] = {
    "ToolCallRequest": {
        "type": "object",
        "required": ["session_id", "tool_name", "arguments"],
        "additionalProperties": False,
        "properties": {
            "session_id": {"type": "string", "pattern": ID_PATTERN},
            "tool_name": {"type": "string", "pattern": TOOL_PATTERN},
            "arguments": _ARGUMENTS,
            "context": _CONTEXT,
            "approval_token": {"type": ["string", "null"], "minLength": 1, "maxLength": 512},
        },
    },
    "ToolCallResponse": _CALL_ANSWER,
    "ToolNames": _record({"tools": _TEXTS}),
    "EnvelopeRequest": {
        "type": "object",
        "required": ["agent_id", "agent_version", "request_id", "tool", "arguments"],
        "additionalProperties": False,
        "properties": {
            "agent_id": {"type": "string", "pattern": ID_PATTERN, "description": "Whose key signs, or is sent"},
            "agent_version": {"type": "string", "minLength": 1, "maxLength": 64},
            "request_id": {
                "type": "string",
                "pattern": "^[!-~]{1,255}$",
                "description": "It is run once under this name",
            },
            "tool": {"type": "string", "pattern": TOOL_PATTERN},
            "arguments": _ARGUMENTS,
            "session_id": {"type": ["string", "null"], "pattern": ID_PATTERN},
            "context": _CONTEXT,
        },
    },
    "EnvelopeResponse": _record(
        {
            "success": _BOOL,
            "audit_id": _said(_TRACE, "The trace id: GET /audit?trace_id="),
            "reason_code": _REASON,
        },
        {
            "result": {"description": "What the tool answered; only with success"},
            "status": {"enum": ["pending_approval", "denied", "failed", "running"]},
            "approval_id": _TEXT,
            "error": _PERHAPS_TEXT,
            "approval": _TOLD_APPROVAL,
            "quorum": _COUNT,
            "votes": _COUNT,
        },
    ),
    "CallUnderway": _record(
        {
            "trace_id": _TRACE,
            "state": {"enum": ["pending_approval", "approved", "running"]},
            "approval": _TOLD_APPROVAL,
        }
    ),
    "CallsInFlight": _record({"calls": _list_of(_CALL_IN_FLIGHT)}),
    "Problem": _record(
        {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "reason_code": _REASON,
        },
        {
            "error": _PERHAPS_TEXT,
            "message": _TEXT,
            "hint": _TEXT,
            "received": _TEXT,
            "errors": {
                "type": "array",
                "description": "What does not fit the request's schema, and where",
                "items": _record({"loc": _list_of({"type": ["string", "integer"]}), "msg": _TEXT}, {"type": _TEXT}),
            },
            "wanted": _said(_TEXT, "The policy revision that was published"),
            "enforced": _said(_PERHAPS_TEXT, "The one that decides"),
            # of a call: as in its other answers
            **{
                name: schema
                for name, schema in _CALL_ANSWER["properties"].items()
                if name not in ("error", "reason_code")
            },
            "audit_id": _TRACE,
            "approval_id": _TEXT,
        },
        description="RFC 9457, with a `reason_code` for programs. "
        "Of a call it has the members of its other answers too",
    ),
    "Approval": _record(
        {
            "id": _TEXT | {"examples": ["apr-3f9c0a51d2b94e6688aa17c4"]},
            "state": {"enum": [state.value for state in ApprovalState]},
            "tool_name": _TEXT,
            "requested_by": _TEXT | {"examples": ["agent:deploy-bot"]},
            "expires_at": _TIME,
            "quorum": {"type": "integer", "minimum": 1, "maximum": 10},
            "votes": _list_of(_record({"by": _TEXT, "at": _TIME})),
            "executes": _said(_BOOL, "The gateway makes the call itself once it is approved"),
        },
        {
            "why": {"enum": [None, *(why.value for why in Why)], "description": "Of a void one"},
            "tenant": _TEXT,
            "session_id": _TEXT,
            "on_behalf_of": _PERHAPS_TEXT,
            "tool_sha256": _said(_TEXT, "The definition of the tool that the call is bound to"),
            "arguments_text": _said(_PERHAPS_TEXT, "The beginning of the arguments"),
            "trace_id": _TRACE,
            "digest": _said(_TEXT, "SHA-256 of all that the approval is bound to"),
            "policy_revision": _TEXT,
            "requested_at": _TIME,
            "approvers": _said(_TEXTS, "Who may; empty: the role approver"),
            "decided_by": _PERHAPS_TEXT,
            "edited_from": _PERHAPS_TEXT,
            "edited_to": _PERHAPS_TEXT,
            "call": _said(_PERHAPS_OBJECT, "What was sent; null when it is not kept any more"),
            "text": _said(_PERHAPS_TEXT, "`call` as canonical JSON in which nothing hides"),
            "original": _said(_PERHAPS_OBJECT, "Of an edited call: what the agent had sent"),
            "approval_token": _said(_PERHAPS_TEXT, "With the yes that completes the quorum, once"),
        },
        description="An approval. `call`, `text` and `original` where one is asked for by its id, or was edited; "
        "`approval_token` in the answers to a yes or no",
    ),
    "Approvals": _record(
        {
            "approvals": _list_of(ref("Approval")),
            "next": _said(_PERHAPS_TEXT, "The following page's `after`"),
        }
    ),
    "Kill": _record(
        {
            **_KILL_MEMBERS,
            "drained": _said(_BOOL, "No replica runs a covered call, and none will until the release"),
            **_DRAIN,
        },
        {**_KILL_NAMES, "active": _BOOL},
    ),
    "Kills": _record({"kills": _list_of(_LISTED_KILL)}),
    "Release": _record(
        _KILL_MEMBERS,
        {**_KILL_NAMES, "asked_by": _said(_TEXTS, "Of a pending one: who has asked for it"), "quorum": _COUNT},
    ),
    "Resumed": _record({"status": {"const": "resumed"}, "released": _said(_TEXTS, "Ids of kills")}),
    "Member": _record(
        {
            "member": _TEXT,
            "presence": {"enum": [presence.value for presence in Presence]},
            "silent_s": {"type": "number", "minimum": 0},
            "is_me": _BOOL,
        }
    ),
    "Members": _record({"members": _list_of(ref("Member"))}),
    "Policy": _record(
        {"status": {"const": "reloaded"}, "policy_path": _TEXT, "policy_revision": _TEXT, "tools_count": _COUNT}
    ),
    "Tool": _record(
        _SAID_OF_TOOL,
        {
            "tool": _TEXT,
            "pin": _said(_PERHAPS_TEXT, "SHA-256 of the definition that was accepted"),
            "trust": _PERHAPS_TEXT,
            "by": _PERHAPS_TEXT,
            "at": _PERHAPS_TEXT,
            "found": _said(_PERHAPS_TEXT, "SHA-256 of the definition that its server lists"),
            "changes": _TEXTS,
            "definition": _PERHAPS_OBJECT,
            "found_definition": _PERHAPS_OBJECT,
            "trouble": _said(_PERHAPS_TEXT, "Why it cannot be called yet"),
        },
    ),
    "Tools": _record(
        {
            "tools": _list_of(ref("Tool")),
            "servers": {
                "type": "object",
                "additionalProperties": _record({"up": _BOOL, "detail": _TEXT, "protocol": _TEXT}),
            },
            "trouble": _PERHAPS_TEXT,
        }
    ),
    "Alive": _record({"status": {"const": "ok"}}),
    "Health": _record(
        {
            "status": {"enum": ["ok", "degraded"]},
            "version": _TEXT,
            "opa": _BOOL,
            "redis": _BOOL,
            "policy_revision": _PERHAPS_TEXT,
            "checks": _record(_CHECKS),
            "checkpoint": _record(
                {"behind": _COUNT, "signed": _BOOL, "kept": {"type": "object", "additionalProperties": _BOOL}}
            ),
        },
        {
            "policy_behind": _said({}, "Why another policy than the published one decides"),
            "servers": {"type": "object", "additionalProperties": _record({"up": _BOOL, "detail": _TEXT})},
            "tools_behind": _TEXT,
        },
    ),
    "Readiness": _record({"status": {"enum": ["ready", "not ready"]}, **_CHECKS}),
    "ProtectedResource": _record(
        {
            "resource": _TEXT,
            "authorization_servers": _TEXTS,
            "scopes_supported": _TEXTS,
            "bearer_methods_supported": _TEXTS,
            "resource_name": _TEXT,
        }
    ),
    "Webhooks": _record({"webhooks": _list_of(_WEBHOOK)}),
    "Sessions": _record({"sessions": _TEXTS}),
    "EvidencePack": _record(
        {
            **dict.fromkeys(("metadata", "summary", "policy_analysis", "integrity"), _OBJECT),
            **dict.fromkeys(("timeline", "write_action_log", "anomalies"), _OBJECTS),
        },
        description="docs/evidence.md says what is in it, and how it is verified",
    ),
    "AuditPage": _record(
        {
            "events": _list_of(_AUDIT_EVENT),
            "next": _said(_PERHAPS_TEXT, "The following page's `cursor`"),
            "size": _said(_COUNT, "Of the log"),
        }
    ),
    "OscalResults": _record({"assessment-results": _OBJECT}, description="docs/evidence.md"),
    "Retention": _record(
        {
            **dict.fromkeys(("days", "floor_days", "due", "held", "open"), _COUNT),
            "compress_after_days": {"type": ["integer", "null"]},
            **dict.fromkeys(("below_floor", "automatic", "counted_all"), _BOOL),
            "before": _TIME,
            **dict.fromkeys(("oldest", "last_run"), _PERHAPS_TIME),
            **dict.fromkeys(("cannot_delete", "clock", "trouble"), _PERHAPS_TEXT),
        },
        {"bodies": _record(dict.fromkeys(("single", "compressed", "segments"), _COUNT))},
    ),
    "Pruned": _record(
        {
            "status": {"enum": ["done", "more"]},
            "dry_run": _BOOL,
            "before": _TIME,
            **dict.fromkeys(("sessions", "bodies", "held", "open"), _COUNT),
            "next": _said(_PERHAPS_TEXT, "The next order's `after`"),
        }
    ),
    "Hold": _record(
        {
            "id": _TEXT,
            "status": {"enum": ["held", "released"]},
            "tenant": _said(_PERHAPS_TEXT, "null: all tenants"),
            "session_id": _said(_PERHAPS_TEXT, "null: all sessions"),
            "reason": _TEXT,
            "actor": _TEXT,
            "at": _TIME,
        }
    ),
    "Holds": _record({"holds": _list_of(ref("Hold"))}),
}
