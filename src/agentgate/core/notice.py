"""What is told to people and systems elsewhere of what the log says: v0.2's event types, and more of their kind.

A notice is derived from one event and has its id, so that who is told twice can notice. It says nothing that the log
does not: texts are redacted as they are there, and what was pruned is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

import orjson

from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, Record

MAX_ARGUMENTS_BYTES: Final = 8_192
"""Longer arguments are not told, only how long they are."""
ALERT_RULE: Final = "budget_alert"
PING: Final = "ping"

_FROM: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.KILLED: ("kill_switch.activated",),
    Kind.RELEASED: ("kill_switch.released",),
    Kind.DECIDED: ("policy.denied", "rate_limit.exceeded", "budget.spent", "budget.alert", "approval.spent"),
    Kind.APPROVAL_REQUESTED: ("approval.requested",),
    Kind.APPROVAL_DECIDED: ("approval.voted", "approval.approved", "approval.denied"),
    Kind.APPROVAL_CLOSED: ("approval.edited", "approval.voided", "approval.expired"),
    Kind.TOOL_QUARANTINED: ("tool.quarantined",),
    Kind.GONE: ("member.gone",),
}
UNLOGGED: Final = ("health.degraded", "health.recovered")
"""Of these there is no event: each process tells what it sees itself."""
NOTICES: Final = (*(name for names in _FROM.values() for name in names), *UNLOGGED)
"""Every kind of notice, but `ping`."""

_REFUSALS: Final[Mapping[str, str]] = {
    ReasonCode.POLICY_DENY: "policy.denied",
    ReasonCode.UNKNOWN_TOOL: "policy.denied",
    ReasonCode.RATE_LIMITED: "rate_limit.exceeded",
    ReasonCode.BUDGET_SPENT: "budget.spent",
}
_NAMES: Final[Mapping[str, str]] = {"session": "session_id", "principal": "subject_id", "tool": "tool_name"}
"""Members of a leaf that v0.2 has other names for."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell."""

    id: str
    """Of the event that it is derived from; of what is in no log, an id of its own."""
    kind: str
    at: str
    """When it happened, RFC 3339."""
    payload: Mapping[str, Any]
    tenant: str = ""
    """Empty: of no tenant."""


def wanted(kind: str, patterns: Iterable[str]) -> bool:
    """Whether one of `patterns` (`*`, `approval.*`, `policy.denied`) is about notices of this kind."""
    return any(fnmatchcase(kind, pattern) for pattern in patterns)


def sources(patterns: Iterable[str]) -> tuple[Kind, ...]:
    """The kinds of events that notices of these patterns are derived from."""
    asked = tuple(patterns)
    return tuple(kind for kind, names in _FROM.items() if any(wanted(name, asked) for name in names))


def notice_of(record: Record) -> Notice | None:
    """What `record` is to be told as; None if it is nobody's business elsewhere."""
    fields = record.fields
    make = _MAKERS.get(record.kind)
    found = make(fields, record.body or {}) if make is not None else None
    if found is None:
        return None
    kind, payload = found
    tenant = fields.get("tenant", "")
    said = {name: value for name, value in payload.items() if value is not None}
    return Notice(fields["id"], kind, fields["at"], said | ({"tenant": tenant} if tenant else {}), tenant)


def with_call(notice: Notice, decided: Record) -> Notice:
    """A notice of a question with the call that is asked about, as its decision was recorded."""
    body = decided.body or {}
    more = _arguments(body) | {"reason": body.get("reason"), "rule": decided.fields.get("rule")}
    known = {name: value for name, value in more.items() if value is not None}
    return replace(notice, payload=known | dict(notice.payload))


_Found = tuple[str, Mapping[str, Any]] | None


def _call(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What v0.2 says of the call that an event is about."""
    told = {_NAMES[name]: fields[name] for name in _NAMES if name in fields}
    return told | {name: fields[name] for name in ("trace_id", "on_behalf_of") if name in fields}


def _arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    if "arguments" not in body:
        return {}
    size = len(orjson.dumps(body["arguments"]))
    return {"arguments": body["arguments"]} if size <= MAX_ARGUMENTS_BYTES else {"arguments_bytes": size}


def _killed(fields: Mapping[str, Any], body: Mapping[str, Any]) -> _Found:
    """`level` is v0.2's word for the scope."""
    told = {"level": fields["scope"], "target": fields["target"], "reason": body.get("reason", "")}
    more = {"kill_id": fields["kill_id"], "by": fields.get("principal"), "expires_at": fields.get("expires_at")}
    return "kill_switch.activated", told | more


def _released(fields: Mapping[str, Any], _body: Mapping[str, Any]) -> _Found:
    told = {"level": fields["scope"], "target": fields["target"], "kill_id": fields["kill_id"]}
    return "kill_switch.released", told | {"why": fields["why"], "forced": fields["forced"], "by": _by(fields)}


def _by(fields: Mapping[str, Any]) -> str | None:
    return fields.get("principal") or None


def _decided(fields: Mapping[str, Any], body: Mapping[str, Any]) -> _Found:
    told = _call(fields) | {"reason": body.get("reason"), "rule": fields["rule"]}
    if fields["decision"] == "ALLOW":
        if "approval_id" not in fields:
            return None
        return "approval.spent", told | {"approval_id": fields["approval_id"], "approved_by": fields.get("approved_by")}
    if fields["decision"] != "DENY":
        return ("budget.alert", told) if fields["rule"] == ALERT_RULE else None
    kind = _REFUSALS.get(fields["reason_code"])
    return None if kind is None else (kind, told | {"limit": fields.get("limit")})


def _requested(fields: Mapping[str, Any], body: Mapping[str, Any]) -> _Found:
    """`arguments` and `rule` are in the decision that comes after it (`with_call`), unless it is an edit."""
    told = {"approval_id": fields["approval_id"], **_call(fields), "expires_at": fields["expires_at"]}
    told |= {"quorum": fields.get("quorum", 1), "approvers": list(fields.get("approvers", ()))}
    told |= {name: fields.get(name) for name in ("edited_from", "edited_by")}
    return "approval.requested", told | _arguments(body) | {"reason": body.get("reason")}


def _answered(fields: Mapping[str, Any], body: Mapping[str, Any]) -> _Found:
    """A no, a yes, or the yes that completes the quorum."""
    told = {"approval_id": fields["approval_id"], "session_id": fields.get("session"), "by": _by(fields)}
    told |= {"reason": body.get("reason"), "votes": fields.get("ordinal"), "quorum": fields.get("quorum")}
    if fields.get("ordinal", 0) < fields.get("quorum", 0):
        return "approval.voted", told
    return f"approval.{fields['verdict']}", told


def _closed(fields: Mapping[str, Any], body: Mapping[str, Any]) -> _Found:
    told = {"approval_id": fields["approval_id"], "session_id": fields.get("session"), "reason": body.get("reason")}
    told |= {name: fields.get(name) for name in ("why", "kill_id", "edited_to")}
    if fields.get("why") == "edited":
        return "approval.edited", told | {"by": _by(fields)}
    if fields.get("why") == "withdrawn":
        told |= {"by": _by(fields)}
    return ("approval.expired" if fields["state"] == "expired" else "approval.voided"), told


def _quarantined(fields: Mapping[str, Any], body: Mapping[str, Any]) -> _Found:
    told = {"tool_name": fields["tool"], "server": fields["server"], "of_tool": fields["of_tool"]}
    return "tool.quarantined", told | {"changes": list(body.get("changes", ()))[:20]}


def _gone(fields: Mapping[str, Any], _body: Mapping[str, Any]) -> _Found:
    return "member.gone", {"member": fields["of"], "why": fields["why"], "by": _by(fields)}


_MAKERS: Final = {
    Kind.KILLED: _killed,
    Kind.RELEASED: _released,
    Kind.DECIDED: _decided,
    Kind.APPROVAL_REQUESTED: _requested,
    Kind.APPROVAL_DECIDED: _answered,
    Kind.APPROVAL_CLOSED: _closed,
    Kind.TOOL_QUARANTINED: _quarantined,
    Kind.GONE: _gone,
}
