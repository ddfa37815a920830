"""Schemas of the bodies of kills, and of the members that carry them out."""

from __future__ import annotations

from typing import Final

from agentgate.core.containment import Scope
from agentgate.core.members import Presence
from agentgate.edges.schemas import AMOUNT, BOOL, COUNT, TEXT, TIME, Schema, list_of, perhaps, record, ref, said

_ACK: Final = record(
    {"member": TEXT, "acked": BOOL},
    {"cancelled": COUNT, "finished": COUNT, "unknown": COUNT, "took_ms": AMOUNT},
)
_KILL_MEMBERS: Final[dict[str, Schema]] = {
    "id": TEXT,
    "status": TEXT,
    "scope": {"enum": [scope.value for scope in Scope]},
    "target": TEXT,
    "tenant": said(TEXT, "Of a session or an agent"),
    "reason": TEXT,
    "actor": TEXT,
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
