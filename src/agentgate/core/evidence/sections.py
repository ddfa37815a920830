"""What an evidence pack says, section by section: each follows from the records alone, so that it can be made again.

They have the names that AgentGate v0.2's readers know; `pack.py` adds the metadata, puts them together and signs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, Outcome, Record

Entry = Mapping[str, Any]
OF_KILLS: Final = frozenset({Kind.KILLED, Kind.DRAINED, Kind.RELEASE_ASKED, Kind.RELEASED})
OF_APPROVALS: Final = frozenset({Kind.APPROVAL_REQUESTED, Kind.APPROVAL_DECIDED, Kind.APPROVAL_CLOSED})
OF_HOLDS: Final = frozenset({Kind.HELD, Kind.UNHELD})
OF_TOOLS: Final = frozenset({Kind.TOOL_ACCEPTED, Kind.TOOL_QUARANTINED, Kind.TOOL_REJECTED})


def outcomes(records: Iterable[Record]) -> dict[str, Record]:
    """How each call ended. A call that was closed for a member that was presumed gone may end twice: then its own word
    counts, and both are among the events."""
    found: dict[str, Record] = {}
    for record in records:
        if record.kind is Kind.FINISHED:
            trace_id = record.fields["trace_id"]
            if trace_id not in found or record.fields["reason_code"] != ReasonCode.OUTCOME_UNRECORDED:
                found[trace_id] = record
    return found


def timeline(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every answered call, in log order."""
    ends = outcomes(records)
    return [_entry(r, ends.get(r.fields["trace_id"])) for r in records if r.kind is Kind.DECIDED]


def _entry(record: Record, finished: Record | None) -> dict[str, Any]:
    """One answered call: its decision, and its outcome if it was allowed."""
    fields = record.fields
    body = record.body
    entry: dict[str, Any] = {
        "event_id": fields["id"],
        "index": record.index,
        "timestamp": fields["at"],
        "trace_id": fields["trace_id"],
        "tenant": fields.get("tenant"),
        "session_id": fields.get("session"),
        "agent_id": fields["principal"],
        "auth": fields["auth"],
        "door": fields["door"],
        "tool_name": fields["tool"],
        "server": fields.get("server"),
        "decision": fields["decision"],
        "reason": body["reason"] if body else None,
        "reason_code": fields["reason_code"],
        "matched_rule": fields["rule"],
        "policy_version": fields["policy_revision"],
        "is_write_action": fields["write"],
        "arguments_hash": fields["arguments_sha256"],
        "approval_id": fields.get("approval_id"),
        "approved_by": fields.get("approved_by"),
    }
    if "edited_from_sha256" in fields:
        entry["edited_from_sha256"] = fields["edited_from_sha256"]
    is_allowed = fields["decision"] == "ALLOW"
    if finished is not None and is_allowed:  # a call that was deferred has its trace id from the question on
        return entry | _end(finished)
    outcome = "open" if is_allowed else None
    return entry | {"outcome": outcome, "duration_ms": None, "error": None, **dict.fromkeys(_OF_ENDS)}


_OF_ENDS: Final = ("kill_id", "credential", "upstream_status")


def _end(finished: Record) -> dict[str, Any]:
    fields = finished.fields
    return {
        "outcome": fields["outcome"],
        "reason_code": fields["reason_code"],
        "duration_ms": round(sum(fields.get("latency_us", {}).values()) / 1000),
        "error": (finished.body or {}).get("error"),
        "outcome_event_id": fields["id"],
        **{name: fields.get(name) for name in _OF_ENDS},
    }


def summary(records: Sequence[Record], calls: Sequence[Entry]) -> dict[str, Any]:
    """Counts, and the acts of people: kills, approvals, exports, holds, prunes, and what was said of tools."""
    tools = [_tool(r) for r in records if r.kind in OF_TOOLS]
    by_decision = Counter(entry["decision"] for entry in calls)
    writes = sum(1 for entry in calls if entry["is_write_action"] and entry["outcome"] == Outcome.OK)
    return {
        "total_tool_calls": len(calls),
        "by_decision": {name: by_decision.get(name, 0) for name in ("ALLOW", "DENY", "REQUIRE_APPROVAL")},
        "by_outcome": _counted(entry["outcome"] for entry in calls if entry["outcome"]),
        "by_tool": _allowed_and_denied(calls, "tool_name"),
        "by_agent": _allowed_and_denied(calls, "agent_id"),
        "by_reason": _counted(entry["reason_code"] for entry in calls),
        "refusals": sum(r.fields["count"] for r in records if r.kind is Kind.REFUSALS),
        "write_actions": {"total": writes, "reversible": 0, "irreversible": writes},
        "policy_versions_used": sorted({e["policy_version"] for e in calls if e["policy_version"]}),
        "kill_switch_activations": sum(1 for r in records if r.kind is Kind.KILLED),
        "kills": [_kill(r) for r in records if r.kind in OF_KILLS],
        "approvals": [_approval(r) for r in records if r.kind in OF_APPROVALS],
        "exports": [_export(r) for r in records if r.kind is Kind.EXPORTED],
        "holds": [_hold(r) for r in records if r.kind in OF_HOLDS],
        "prunes": [_prune(r) for r in records if r.kind is Kind.PRUNED],
        **({"tools": tools} if tools else {}),  # where no server brings tools, a pack is what it was before there were
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _allowed_and_denied(calls: Iterable[Entry], name: str) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for entry in calls:
        row = rows.setdefault(entry[name], {"allowed": 0, "denied": 0})
        row["allowed" if entry["decision"] == "ALLOW" else "denied"] += 1
    return rows


def _act(record: Record) -> dict[str, Any]:
    """What every act has."""
    return {"event_id": record.fields["id"], "timestamp": record.fields["at"], "actor": record.fields.get("principal")}


def _kill(record: Record) -> dict[str, Any]:
    fields = record.fields
    view = _act(record) | {
        "what": record.kind.value,
        "kill_id": fields["kill_id"],
        "scope": fields["scope"],
        "target": fields["target"],
        "reason": (record.body or {}).get("reason"),
        "drained": fields.get("drained"),
    }
    if "excepted" in fields:
        view |= {"drained_except": fields["excepted"], "attested": fields["attested"]}
        if "counts" in fields:
            view["counts"] = fields["counts"]
    if record.kind is Kind.RELEASED:
        view |= {"why": fields["why"], "forced": fields["forced"], "asked_by": fields.get("asked_by", [])}
    return view


def _approval(record: Record) -> dict[str, Any]:
    """A question, an answer, or its end without one. `approver` is who answered.

    `what` is `voted` for a yes that is not the last one that was wanted: it has no `verdict` yet.
    """
    fields = record.fields
    asked = record.kind is Kind.APPROVAL_REQUESTED
    is_vote = "ordinal" in fields and fields["ordinal"] < fields["quorum"]
    verdict = None if is_vote else fields.get("verdict")
    view = {
        "event_id": fields["id"],
        "timestamp": fields["at"],
        "approval_id": fields["approval_id"],
        "what": "requested" if asked else "voted" if is_vote else verdict or fields["state"],
        "verdict": verdict,
        "approver": fields.get("principal") if record.kind is Kind.APPROVAL_DECIDED else None,
        "requested_by": fields.get("principal") if asked else None,
        "tool_name": fields.get("tool"),
    }
    view |= {name: fields[name] for name in _OF_APPROVALS if fields.get(name)}
    if record.kind is Kind.APPROVAL_CLOSED and "principal" in fields:
        view["actor"] = fields["principal"]
    # a person's reason; of an edit also the arguments that it made, redacted
    return view | {name: value for name in ("reason", "arguments") if (value := (record.body or {}).get(name))}


_OF_APPROVALS: Final = (
    "ordinal", "quorum", "approvers", "on_behalf_of", "edited_from", "edited_by", "edited_to", "why", "kill_id"
)  # fmt: skip
"""What the events of approvals say since there are quorums and edits, where they say it."""


def _export(record: Record) -> dict[str, Any]:
    wanted = ("of_session", "of_agent", "since", "until")
    return _act(record) | {"format": record.fields["format"]} | {n: record.fields.get(n) for n in wanted}


def _hold(record: Record) -> dict[str, Any]:
    fields = record.fields
    told = {"what": record.kind.value, "hold_id": fields["hold_id"], "of_session": fields["of_session"] or None}
    return _act(record) | told | {"reason": (record.body or {}).get("reason")}


def _tool(record: Record) -> dict[str, Any]:
    """Of a server's tool: what it is from now on (`pin`), or was found to be (`found`)."""
    fields = record.fields
    told = {"what": record.kind.value, "tool_name": fields["tool"], "server": fields["server"]}
    return _act(record) | told | {name: fields.get(name) for name in ("pin", "found", "access", "trust")}


def _prune(record: Record) -> dict[str, Any]:
    return _act(record) | {name: record.fields.get(name) for name in ("session", "why", "bodies", "through")}


def policy_analysis(calls: Sequence[Entry]) -> dict[str, Any]:
    rules: dict[str, dict[str, Any]] = {}
    for entry in calls:
        rule = rules.setdefault(entry["matched_rule"], {"count": 0, "decisions": {}})
        rule["count"] += 1
        rule["decisions"][entry["decision"]] = None
    return {
        "rules_triggered": {name: rule | {"decisions": list(rule["decisions"])} for name, rule in rules.items()},
        "untriggered_rules": [],
        "default_denials": sum(1 for entry in calls if entry["matched_rule"] == "default_deny"),
    }


_OF_WRITES: Final = ("event_id", "timestamp", "session_id", "agent_id", "tool_name", "outcome", "approved_by")


def write_action_log(calls: Iterable[Entry]) -> list[dict[str, Any]]:
    """Writes that went out: whatever their end, their effect may stand."""
    return [
        {name: entry[name] for name in _OF_WRITES} | {"reversible": False, "pre_state_ref": None}
        for entry in calls
        if entry["is_write_action"] and entry["decision"] == "ALLOW" and entry["outcome"] != Outcome.NOT_SENT
    ]
