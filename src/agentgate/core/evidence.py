"""The evidence pack's body: built from records alone, signed over its canonical bytes, and checked offline.

The seven sections are the ones that AgentGate v0.2's readers know. What is signed is the RFC 8785 form of
the whole body without `integrity.signature`; nothing in a pack is outside of it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, Outcome, Record, body_sha256
from agentgate.core.merkle import leaf_hash
from agentgate.core.strict_json import NotStrictJson, canonical, parse

PACK_VERSION: Final = "1.1.0"
SECTIONS: Final = (
    "metadata",
    "summary",
    "timeline",
    "policy_analysis",
    "write_action_log",
    "anomalies",
    "integrity",
)
HMAC_ALGORITHM: Final = "hmac-sha256"
RAPID_CALLS: Final = 10
RAPID_WINDOW_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class About:
    """What a pack is of, and when and by what it was made."""

    tenant: str
    session: str
    generated_at: str
    generator: str


# --- building ---------------------------------------------------------------------------------------------


def build(about: About, records: Sequence[Record]) -> dict[str, Any]:
    """The unsigned body. `records` are the session's, in log order."""
    outcomes = _outcomes(records)
    decisions = [r for r in records if r.kind is Kind.DECIDED]
    timeline = [_entry(record, outcomes.get(record.fields["trace_id"])) for record in decisions]
    return {
        "metadata": _metadata(about, records),
        "summary": _summary(records, timeline),
        "timeline": timeline,
        "policy_analysis": _policy_analysis(timeline),
        "write_action_log": _writes(decisions, outcomes),
        "anomalies": _anomalies(timeline),
        "integrity": _integrity(records),
    }


def _outcomes(records: Sequence[Record]) -> dict[str, Record]:
    """How each call ended. A call that was closed for a member that was presumed gone may end twice: then its own word
    counts, and both are among the events."""
    found: dict[str, Record] = {}
    for record in records:
        if record.kind is Kind.FINISHED:
            trace_id = record.fields["trace_id"]
            if trace_id not in found or record.fields["reason_code"] != ReasonCode.OUTCOME_UNRECORDED:
                found[trace_id] = record
    return found


def _metadata(about: About, records: Sequence[Record]) -> dict[str, Any]:
    principals = sorted({r.fields["principal"] for r in records if r.kind is Kind.DECIDED})
    times = [r.fields["at"] for r in records]
    return {
        "version": PACK_VERSION,
        "generated_at": about.generated_at,
        "generator": about.generator,
        "tenant": about.tenant,
        "session_id": about.session,
        "agent_id": principals[0] if len(principals) == 1 else ("multiple" if principals else None),
        "user_id": None,
        "time_range": {"start": min(times, default=None), "end": max(times, default=None)},
    }


def _entry(record: Record, finished: Record | None) -> dict[str, Any]:
    """One answered call: its decision, and its outcome if it was allowed."""
    fields = record.fields
    allowed = fields["decision"] == "ALLOW"
    entry: dict[str, Any] = {
        "event_id": fields["id"],
        "index": record.index,
        "timestamp": fields["at"],
        "trace_id": fields["trace_id"],
        "agent_id": fields["principal"],
        "tool_name": fields["tool"],
        "decision": fields["decision"],
        "reason": record.body["reason"] if record.body else None,
        "reason_code": fields["reason_code"],
        "matched_rule": fields["rule"],
        "policy_version": fields["policy_revision"],
        "is_write_action": fields["write"],
        "arguments_hash": fields["arguments_sha256"],
        "approval_id": fields.get("approval_id"),
        "approved_by": fields.get("approved_by"),
        "outcome": None,
        "duration_ms": None,
        "error": None,
    }
    if finished is not None:
        entry["outcome"] = finished.fields["outcome"]
        entry["reason_code"] = finished.fields["reason_code"]
        entry["duration_ms"] = round(sum(finished.fields.get("latency_us", {}).values()) / 1000)
        entry["error"] = (finished.body or {}).get("error")
        entry["outcome_event_id"] = finished.fields["id"]
    elif allowed:
        entry["outcome"] = "open"
    return entry


def _summary(records: Sequence[Record], timeline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_decision = Counter(entry["decision"] for entry in timeline)
    by_tool: dict[str, dict[str, int]] = {}
    for entry in timeline:
        row = by_tool.setdefault(entry["tool_name"], {"allowed": 0, "denied": 0})
        row["allowed" if entry["decision"] == "ALLOW" else "denied"] += 1
    writes = sum(1 for entry in timeline if entry["is_write_action"] and entry["outcome"] == Outcome.OK)
    return {
        "total_tool_calls": len(timeline),
        "by_decision": {name: by_decision.get(name, 0) for name in ("ALLOW", "DENY", "REQUIRE_APPROVAL")},
        "by_outcome": dict(sorted(Counter(e["outcome"] for e in timeline if e["outcome"]).items())),
        "by_tool": by_tool,
        "write_actions": {"total": writes, "reversible": 0, "irreversible": writes},
        "policy_versions_used": sorted({e["policy_version"] for e in timeline if e["policy_version"]}),
        "kill_switch_activations": sum(1 for r in records if r.kind is Kind.KILLED),
        "kills": [_kill(r) for r in records if r.kind in _OF_KILLS],
        "approvals": [
            {
                "event_id": r.fields["id"],
                "timestamp": r.fields["at"],
                "approval_id": r.fields["approval_id"],
                "verdict": r.fields["verdict"],
                "approver": r.fields["principal"],
            }
            for r in records
            if r.kind is Kind.APPROVAL_DECIDED
        ],
    }


_OF_KILLS: Final = frozenset({Kind.KILLED, Kind.DRAINED, Kind.RELEASE_ASKED, Kind.RELEASED})


def _kill(record: Record) -> dict[str, Any]:
    fields = record.fields
    view = {
        "event_id": fields["id"],
        "timestamp": fields["at"],
        "what": record.kind.value,
        "kill_id": fields["kill_id"],
        "scope": fields["scope"],
        "target": fields["target"],
        "actor": fields.get("principal"),
        "reason": (record.body or {}).get("reason"),
        "drained": fields.get("drained"),
    }
    if "excepted" in fields:
        view |= {"drained_except": fields["excepted"], "attested": fields["attested"]}
    return view


def _policy_analysis(timeline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rules: dict[str, dict[str, Any]] = {}
    for entry in timeline:
        rule = rules.setdefault(entry["matched_rule"], {"count": 0, "decisions": []})
        rule["count"] += 1
        if entry["decision"] not in rule["decisions"]:
            rule["decisions"].append(entry["decision"])
    return {
        "rules_triggered": rules,
        "untriggered_rules": [],
        "default_denials": sum(1 for entry in timeline if entry["matched_rule"] == "default_deny"),
    }


def _writes(decisions: Sequence[Record], outcomes: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Writes that went out: whatever their end, their effect may stand."""
    rows = []
    for record in decisions:
        finished = outcomes.get(record.fields["trace_id"])
        if not (record.fields["write"] and record.fields["decision"] == "ALLOW"):
            continue
        if finished is not None and finished.fields["outcome"] == Outcome.NOT_SENT:
            continue
        rows.append(
            {
                "event_id": record.fields["id"],
                "timestamp": record.fields["at"],
                "tool_name": record.fields["tool"],
                "reversible": False,
                "pre_state_ref": None,
                "outcome": finished.fields["outcome"] if finished is not None else "open",
                "approved_by": record.fields.get("approved_by"),
            }
        )
    return rows


def _anomalies(timeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [*_rapid_fire(timeline), *_denied_after_approval(timeline), *_effects_unknown(timeline)]


def _rapid_fire(timeline: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    times = [datetime.fromisoformat(entry["timestamp"]).timestamp() for entry in timeline]
    start = 0
    while start + RAPID_CALLS <= len(times):
        end = start + RAPID_CALLS
        if times[end - 1] - times[start] > RAPID_WINDOW_S:
            start += 1
            continue
        while end < len(times) and times[end] - times[end - RAPID_CALLS + 1] <= RAPID_WINDOW_S:
            end += 1
        yield {
            "type": "rapid_fire",
            "description": f"{end - start} calls, {RAPID_CALLS} or more of them within {RAPID_WINDOW_S:g} s",
            "event_ids": [entry["event_id"] for entry in timeline[start:end]],
        }
        start = end


def _denied_after_approval(timeline: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    approved: set[str] = set()
    for entry in timeline:
        if entry["approved_by"] is not None and entry["decision"] == "ALLOW":
            approved.add(entry["tool_name"])
        elif entry["decision"] == "DENY" and entry["tool_name"] in approved:
            yield {
                "type": "denied_after_approval",
                "description": f"{entry['tool_name']} was refused after an approved call of it",
                "event_ids": [entry["event_id"]],
            }


def _effects_unknown(timeline: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    unknown = [e["event_id"] for e in timeline if e["outcome"] in (Outcome.UNKNOWN, Outcome.CANCELLED, "open")]
    if unknown:
        yield {
            "type": "effect_unknown",
            "description": f"{len(unknown)} calls ended without a known upstream effect",
            "event_ids": unknown,
        }


def _integrity(records: Sequence[Record]) -> dict[str, Any]:
    """Every event with its leaf, so that the body can be held against the log leaf by leaf."""
    events = [
        {
            "index": record.index,
            "number": record.session_number,
            "event_id": record.fields["id"],
            "leaf": record.leaf.decode(),
            "leaf_hash": leaf_hash(record.leaf).hex(),
            "salt": record.salt.hex() if record.salt is not None else None,
        }
        for record in records
    ]
    return {
        "event_count": len(records),
        "hash": _hash(events),
        "hash_algorithm": "sha256",
        "events": events,
        "signed_by": [],
        "signature": None,
    }


def _hash(events: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over the leaf hashes in order: it covers every field of every event, not just their names."""
    return hashlib.sha256(b"".join(bytes.fromhex(event["leaf_hash"]) for event in events)).hexdigest()


# --- signing ----------------------------------------------------------------------------------------------


def key_id(key: bytes) -> str:
    """Names an HMAC key without telling it."""
    return hashlib.sha256(b"agentgate evidence key\n" + key).hexdigest()[:16]


def signed_bytes(body: Mapping[str, Any]) -> bytes:
    """RFC 8785 of the body without `integrity.signature` (DESIGN §5)."""
    integrity = {name: value for name, value in body["integrity"].items() if name != "signature"}
    return canonical({**body, "integrity": integrity})


def sign(body: dict[str, Any], key: bytes, *, signed_at: str) -> dict[str, Any]:
    """The body with its HMAC-SHA256. `signed_by` inside the signed part says which signatures must be there."""
    integrity = {
        **body["integrity"],
        "signed_by": [HMAC_ALGORITHM],
        "signature_algorithm": HMAC_ALGORITHM,
        "key_id": key_id(key),
        "signed_at": signed_at,
    }
    body = {**body, "integrity": integrity}
    signature = hmac.new(key, signed_bytes(body), hashlib.sha256).hexdigest()
    return {**body, "integrity": {**integrity, "signature": signature}}


# --- verifying --------------------------------------------------------------------------------------------


class Standing(StrEnum):
    """What a check found. The exit status of `agentgate verify` follows from the worst."""

    HOLDS = "holds"
    BROKEN = "broken"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    standing: Standing
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """Every finding about one pack."""

    findings: tuple[Finding, ...] = field(default=())

    @property
    def exit_status(self) -> int:
        """0 verified, 1 broken or missing, 2 nothing could be checked (DESIGN §5)."""
        standings = {finding.standing for finding in self.findings}
        if Standing.BROKEN in standings:
            return 1
        signed = any(f.check == "signature" and f.standing is Standing.HOLDS for f in self.findings)
        return 0 if signed else 2


def verify(raw: bytes, key: bytes | None) -> Report:
    """Check a JSON pack offline: its shape, its events against its leaves, its views, its signature."""
    try:
        body = parse(raw)
    except NotStrictJson as error:
        return Report((Finding("shape", Standing.BROKEN, f"not strict JSON: {error}"),))
    shape = _check_shape(body)
    if shape.standing is Standing.BROKEN:
        return Report((shape,))
    return Report((shape, _check_events(body), _check_views(body), _check_signature(body, key)))


def _check_shape(body: Any) -> Finding:
    if not isinstance(body, dict) or set(body) != set(SECTIONS):
        return Finding("shape", Standing.BROKEN, f"a pack has exactly the sections {', '.join(SECTIONS)}")
    integrity = body["integrity"]
    if not isinstance(integrity, dict) or not isinstance(integrity.get("events"), list):
        return Finding("shape", Standing.BROKEN, "integrity.events is missing")
    texts = ("event_id", "leaf", "leaf_hash")
    for event in integrity["events"]:
        if not isinstance(event, dict) or not all(isinstance(event.get(name), str) for name in texts):
            return Finding("shape", Standing.BROKEN, "an entry of integrity.events is malformed")
        if type(event.get("index")) is not int or type(event.get("number")) is not int:
            return Finding("shape", Standing.BROKEN, "an entry of integrity.events has no index")
    return Finding("shape", Standing.HOLDS, f"{len(integrity['events'])} events in {len(SECTIONS)} sections")


def _check_events(body: Mapping[str, Any]) -> Finding:
    """Each leaf has its hash, the numbers run without a gap, and the total is right."""
    integrity = body["integrity"]
    events = integrity["events"]
    last_index = -1
    for number, event in enumerate(events, 1):
        if leaf_hash(event["leaf"].encode()).hex() != event["leaf_hash"]:
            return Finding("events", Standing.BROKEN, f"event {event['event_id']} was altered: its leaf hash differs")
        if event["number"] != number or event["index"] <= last_index:
            text = f"event {event['event_id']} is out of place: one was removed or moved"
            return Finding("events", Standing.BROKEN, text)
        last_index = event["index"]
    if integrity.get("event_count") != len(events) or integrity.get("hash") != _hash(events):
        return Finding("events", Standing.BROKEN, "the count or the hash over all events differs")
    return Finding("events", Standing.HOLDS, f"{len(events)} leaves have their hashes, numbered without a gap")


def _check_views(body: Mapping[str, Any]) -> Finding:
    """Summary, timeline and all other sections are what the leaves and the signed texts yield, rebuilt here."""
    try:
        records = _records(body)
        metadata = body["metadata"]
        about = About(metadata["tenant"], metadata["session_id"], metadata["generated_at"], metadata["generator"])
        rebuilt = build(about, records)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        text = f"the sections cannot be rebuilt from the events: {type(error).__name__}"
        return Finding("views", Standing.BROKEN, text)
    for name in SECTIONS[:-1]:
        if canonical(rebuilt[name]) != canonical(body[name]):
            return Finding("views", Standing.BROKEN, f"section {name} does not follow from the events")
    return Finding("views", Standing.HOLDS, "every section follows from the events")


def _records(body: Mapping[str, Any]) -> list[Record]:
    """The records that a pack carries: fields from the leaves, texts from its own sections."""
    texts = _texts(body)
    records = []
    for event in body["integrity"]["events"]:
        leaf = event["leaf"].encode()
        fields = parse(leaf)
        if canonical(fields) != leaf or fields["id"] != event["event_id"]:
            raise ValueError("a leaf is not canonical")
        salt = bytes.fromhex(event["salt"]) if event["salt"] is not None else None
        body = texts.get(event["event_id"], {"reason": None})
        records.append(Record(event["index"], event["number"], -1, fields, leaf, salt, body))
    return records


def _texts(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in body["timeline"]:
        found[entry["event_id"]] = {"reason": entry["reason"]}
        if "outcome_event_id" in entry:
            found[entry["outcome_event_id"]] = {"error": entry["error"]} if entry["error"] is not None else {}
    for kill in body["summary"]["kills"]:
        found[kill["event_id"]] = {"reason": kill["reason"]}
    return found


def _check_signature(body: Mapping[str, Any], key: bytes | None) -> Finding:
    integrity = body["integrity"]
    signature = integrity.get("signature")
    if not isinstance(integrity.get("signed_by"), list):
        return Finding("signature", Standing.BROKEN, "integrity.signed_by is missing")
    if HMAC_ALGORITHM in integrity["signed_by"] and not isinstance(signature, str):
        return Finding("signature", Standing.BROKEN, "the signature was stripped")
    if key is None:
        text = "no key given" if signature else "the pack is not signed"
        return Finding("signature", Standing.NOT_CHECKED, f"{text}: who made it and whether it is whole is not shown")
    if not isinstance(signature, str):
        return Finding("signature", Standing.BROKEN, "a key was given, but the pack carries no signature")
    wanted = hmac.new(key, signed_bytes(body), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted.encode(), signature.encode(errors="replace")):
        named = integrity.get("key_id")
        hint = "made with another key" if named != key_id(key) else "altered after signing"
        return Finding("signature", Standing.BROKEN, f"the HMAC does not fit: the pack was {hint}")
    return Finding("signature", Standing.HOLDS, "HMAC-SHA256 over the whole body; it convinces whoever holds the key")


def body_fits(record: Record, raw_body: bytes) -> bool:
    """Whether a body is the one that its leaf commits to."""
    return record.salt is not None and record.fields["body_sha256"] == body_sha256(record.salt, raw_body)
