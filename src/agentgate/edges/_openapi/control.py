"""Schemas of the bodies of the control routes: of approvals, kills, the gateway itself, and what is on record."""

from __future__ import annotations

from typing import Final

from agentgate.core.approval import State, Why
from agentgate.core.call import Access
from agentgate.core.containment import Scope
from agentgate.core.members import Presence
from agentgate.edges.schemas import AMOUNT, BOOL, COUNT, OBJECT, TEXT, TIME, Schema, list_of, perhaps, record, ref, said
from agentgate.pipeline.tools.offers import State as ToolState

APPROVALS: Final[dict[str, Schema]] = {
    "Approval": record(
        {
            "id": TEXT | {"examples": ["apr-3f9c0a51d2b94e6688aa17c4"]},
            "state": {"enum": [state.value for state in State]},
            "tool_name": TEXT,
            "requested_by": TEXT | {"examples": ["agent:deploy-bot"]},
            "expires_at": TIME,
            "quorum": {"type": "integer", "minimum": 1, "maximum": 10},
            "votes": list_of(record({"by": TEXT, "at": TIME})),
            "executes": said(BOOL, "The gateway makes the call itself once it is approved"),
        },
        {
            "why": {"enum": [None, *(why.value for why in Why)], "description": "Of a void one"},
            "tenant": TEXT,
            "session_id": TEXT,
            "on_behalf_of": perhaps(TEXT),
            "tool_sha256": said(TEXT, "The definition of the tool that the call is bound to"),
            "arguments_text": said(perhaps(TEXT), "The beginning of the arguments"),
            "trace_id": {"type": "string", "format": "uuid"},
            "digest": said(TEXT, "SHA-256 of all that the approval is bound to"),
            "policy_revision": TEXT,
            "requested_at": TIME,
            "approvers": said(list_of(TEXT), "Who may; empty: the role approver"),
            "decided_by": perhaps(TEXT),
            "edited_from": perhaps(TEXT),
            "edited_to": perhaps(TEXT),
            "call": said(perhaps(OBJECT), "What was sent; null when it is not kept any more"),
            "text": said(perhaps(TEXT), "`call` as canonical JSON in which nothing hides"),
            "original": said(perhaps(OBJECT), "Of an edited call: what the agent had sent"),
            "approval_token": said(perhaps(TEXT), "With the yes that completes the quorum, once"),
        },
        description="An approval. `call`, `text` and `original` where one is asked for by its id, or was edited; "
        "`approval_token` in the answers to a yes or no",
    ),
    "Approvals": record(
        {"approvals": list_of(ref("Approval")), "next": said(perhaps(TEXT), "The following page's `after`")}
    ),
}

_ACK: Final = record(
    {"member": TEXT, "acked": BOOL}, {"cancelled": COUNT, "finished": COUNT, "unknown": COUNT, "took_ms": AMOUNT}
)
_KILL_MEMBERS: Final[dict[str, Schema]] = {
    "id": TEXT,
    "status": TEXT,
    "scope": {"enum": [scope.value for scope in Scope]},
    "target": TEXT,
    "tenant": said(TEXT, "Of a session or an agent"),
    **dict.fromkeys(("reason", "actor"), said(TEXT, "Empty for a viewer of one tenant, of a kill that stops all")),
    "since": TIME,
}
_KILL_NAMES: Final[dict[str, Schema]] = {
    "expires_at": TIME,
    **dict.fromkeys(("session_id", "tool_name", "agent_id", "tenant_id"), said(TEXT, "The target, by its scope")),
}
_DRAIN: Final[dict[str, Schema]] = {
    "drained_except": said(list_of(TEXT), "Members that it had to go on without"),
    "attested": said(list_of(TEXT), "Those of them whose host is said to be destroyed"),
    "replicas": list_of(_ACK),
    "running": said(list_of(TEXT), "Trace ids of covered calls that have not ended"),
    "receipt": said(perhaps(TEXT), "The event that says how it drained"),
}
_LISTED_KILL: Final = record(
    {**_KILL_MEMBERS, "drained": {"type": ["boolean", "null"], "description": "null: not known while the log is down"}},
    {**_KILL_NAMES, **_DRAIN},
    description="What each replica said is told of those that have not drained",
)

KILLS: Final[dict[str, Schema]] = {
    "Kill": record(
        {
            **_KILL_MEMBERS,
            "drained": said(BOOL, "No replica runs a covered call, and none will until the release"),
            **_DRAIN,
        },
        {**_KILL_NAMES, "active": BOOL},
    ),
    "Kills": record({"kills": list_of(_LISTED_KILL)}),
    "Release": record(
        _KILL_MEMBERS,
        {**_KILL_NAMES, "asked_by": said(list_of(TEXT), "Of a pending one: who has asked for it"), "quorum": COUNT},
    ),
    "Resumed": record({"status": {"const": "resumed"}, "released": said(list_of(TEXT), "Ids of kills")}),
    "Member": record(
        {
            "member": TEXT,
            "presence": {"enum": [presence.value for presence in Presence]},
            "silent_s": AMOUNT,
            "is_me": BOOL,
        }
    ),
    "Members": record({"members": list_of(ref("Member"))}),
}

_SAID_OF_TOOL: Final[dict[str, Schema]] = {
    "server": TEXT,
    "name": TEXT,
    "state": {"enum": ["declared", *(state.value for state in ToolState)]},
    "why": TEXT,
    "served": BOOL,
    "policy": {"enum": ["allow", "approval", "hidden"]},
    "access": {"enum": [access.value for access in Access]},
}
_CHECKS: Final[dict[str, Schema]] = dict.fromkeys(("log", "kill_state", "policy"), BOOL)
_WEBHOOK: Final = record(
    {
        "name": TEXT,
        "kind": {"enum": ["webhook", "slack"]},
        "url": said(TEXT, "Scheme, host and port: the rest may be a secret"),
        "events": list_of(TEXT),
        "tenants": said(list_of(TEXT), "Empty: all"),
        "done": {"type": ["integer", "null"]},
        "behind": COUNT,
        "waiting_since": perhaps(TEXT),
        "failures": COUNT,
        "last_error": perhaps(TEXT),
        "last_taken_at": perhaps(TEXT),
        "deliveries": {"type": "object", "properties": dict.fromkeys(("delivered", "failed", "skipped"), COUNT)},
    }
)

GATEWAY: Final[dict[str, Schema]] = {
    "Policy": record(
        {"status": {"const": "reloaded"}, "policy_path": TEXT, "policy_revision": TEXT, "tools_count": COUNT}
    ),
    "Tool": record(
        _SAID_OF_TOOL,
        {
            "tool": TEXT,
            "pin": said(perhaps(TEXT), "SHA-256 of the definition that was accepted"),
            "trust": perhaps(TEXT),
            "by": perhaps(TEXT),
            "at": perhaps(TEXT),
            "found": said(perhaps(TEXT), "SHA-256 of the definition that its server lists"),
            "changes": list_of(TEXT),
            "definition": perhaps(OBJECT),
            "found_definition": perhaps(OBJECT),
            "trouble": said(perhaps(TEXT), "Why it cannot be called yet"),
        },
    ),
    "Tools": record(
        {
            "tools": list_of(ref("Tool")),
            "servers": {
                "type": "object",
                "additionalProperties": record({"up": BOOL, "detail": TEXT, "protocol": TEXT}),
            },
            "trouble": perhaps(TEXT),
        }
    ),
    "Alive": record({"status": {"const": "ok"}}),
    "Health": record(
        {
            "status": {"enum": ["ok", "degraded"]},
            "version": TEXT,
            "opa": BOOL,
            "redis": BOOL,
            "policy_revision": perhaps(TEXT),
            "checks": record(_CHECKS),
            "checkpoint": record(
                {"behind": COUNT, "signed": BOOL, "kept": {"type": "object", "additionalProperties": BOOL}}
            ),
        },
        {
            "policy_behind": said({}, "Why another policy than the published one decides"),
            "servers": {"type": "object", "additionalProperties": record({"up": BOOL, "detail": TEXT})},
            "tools_behind": TEXT,
        },
    ),
    "Readiness": record({"status": {"enum": ["ready", "not ready"]}, **_CHECKS}),
    "ProtectedResource": record(
        {
            "resource": TEXT,
            "authorization_servers": list_of(TEXT),
            "scopes_supported": list_of(TEXT),
            "bearer_methods_supported": list_of(TEXT),
            "resource_name": TEXT,
        }
    ),
    "Webhooks": record({"webhooks": list_of(_WEBHOOK)}),
}

_AUDIT_EVENT: Final = record(
    {
        "index": COUNT,
        "session_number": COUNT,
        "kill_position": COUNT,
        "salt": said(perhaps(TEXT), "Of the body; null once it was pruned"),
        "event": said(OBJECT, "The leaf of the log"),
        "body": said(perhaps(OBJECT), "Its body, redacted; null once it was pruned"),
    }
)

RECORDS: Final[dict[str, Schema]] = {
    "Sessions": record({"sessions": list_of(TEXT), "next": said(perhaps(TEXT), "The following page's `after`")}),
    "EvidencePack": record(
        {
            **dict.fromkeys(("metadata", "summary", "policy_analysis", "integrity"), OBJECT),
            **dict.fromkeys(("timeline", "write_action_log", "anomalies"), list_of(OBJECT)),
        },
        description="docs/evidence.md says what is in it, and how it is verified",
    ),
    "AuditPage": record(
        {
            "events": list_of(_AUDIT_EVENT),
            "next": said(perhaps(TEXT), "The following page's `cursor`"),
            "size": said(COUNT, "Of the log"),
        }
    ),
    "OscalResults": record({"assessment-results": OBJECT}, description="docs/evidence.md"),
    "Retention": record(
        {
            **dict.fromkeys(("days", "floor_days", "due", "held", "open"), COUNT),
            "compress_after_days": {"type": ["integer", "null"]},
            **dict.fromkeys(("below_floor", "automatic", "counted_all"), BOOL),
            "before": TIME,
            **dict.fromkeys(("oldest", "last_run"), perhaps(TIME)),
            **dict.fromkeys(("cannot_delete", "clock", "trouble"), perhaps(TEXT)),
        },
        {"bodies": record(dict.fromkeys(("single", "compressed", "segments"), COUNT))},
    ),
    "Pruned": record(
        {
            "status": {"enum": ["done", "more"]},
            "dry_run": BOOL,
            "before": TIME,
            **dict.fromkeys(("sessions", "bodies", "held", "open"), COUNT),
            "next": said(perhaps(TEXT), "The next order's `after`"),
        }
    ),
    "Hold": record(
        {
            "id": TEXT,
            "status": {"enum": ["held", "released"]},
            "tenant": said(perhaps(TEXT), "null: all tenants"),
            "session_id": said(perhaps(TEXT), "null: all sessions"),
            "reason": TEXT,
            "actor": TEXT,
            "at": TIME,
        }
    ),
    "Holds": record({"holds": list_of(ref("Hold"))}),
}
