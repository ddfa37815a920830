"""Schemas of what is on record: sessions, evidence, events, for how long they are kept, and holds."""

from __future__ import annotations

from typing import Final

from agentgate.edges.schemas import BOOL, COUNT, OBJECT, TEXT, TIME, Schema, list_of, perhaps, record, ref, said

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
    "Sessions": record({"sessions": list_of(TEXT)}),
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
