"""Schemas of what the gateway says of itself: its policy, its tools, its health, who is told of things."""

from __future__ import annotations

from typing import Final

from agentgate.core.call import Access
from agentgate.edges.schemas import BOOL, COUNT, OBJECT, TEXT, Schema, list_of, perhaps, record, ref, said
from agentgate.pipeline.tools.offers import State

_SAID_OF_TOOL: Final[dict[str, Schema]] = {
    "server": TEXT,
    "name": TEXT,
    "state": {"enum": ["declared", *(state.value for state in State)]},
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
