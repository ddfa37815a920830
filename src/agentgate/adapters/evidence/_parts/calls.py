"""The calls of a pack: each of them, by who made them, by why they were refused; what may stand, and what is odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentgate.adapters.evidence._parts.listing import FIRST_FEW
from agentgate.adapters.evidence._parts.marks import Entry, Mark, Marked, tally
from agentgate.adapters.evidence._parts.words import moment, reason, text_of
from agentgate.core.visible import visible


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `number` counts the calls of the pack from 1; other parts refer to it."""

    number: int
    at: str
    session: str
    agent: str
    tool: str
    server: str
    mark: Mark
    code: str
    plain: str
    """What the code means, in a sentence."""
    said: str
    """What policy or the gateway gave as its reason, or empty; and `(pruned)` once the text was deleted."""
    rule: str
    is_write: bool
    error: str
    duration: str
    trace_id: str
    index: int
    """The place of its decision in the log."""
    approved_by: str
    kill_id: str
    upstream_status: str
    credential: str


def call_of(number: int, call: Marked) -> Call:
    entry = call.entry
    took = entry["duration_ms"]
    return Call(
        number=number,
        at=moment(entry["timestamp"]),
        session=text_of(entry["session_id"]),
        agent=text_of(entry["agent_id"]),
        tool=text_of(entry["tool_name"]),
        server=text_of(entry["server"]),
        mark=call.mark,
        code=text_of(entry["reason_code"]),
        plain=_plain(call),
        said=_said(entry),
        rule=text_of(entry["matched_rule"]),
        is_write=bool(entry["is_write_action"]),
        error=text_of(entry["error"]),
        duration="" if took is None else f"{took:,} ms",
        trace_id=text_of(entry["trace_id"]),
        index=entry["index"],
        approved_by=text_of(entry["approved_by"]),
        kill_id=text_of(entry["kill_id"]),
        upstream_status=text_of(entry["upstream_status"]),
        credential=text_of(entry["credential"]),
    )


def _said(entry: Entry) -> str:
    return "(pruned)" if entry["reason"] is None else visible(entry["reason"])


def _plain(call: Marked) -> str:
    """The sentence for the code; for a call that was cut or is open, what that means for its effect."""
    if call.mark is Mark.OPEN:
        return "Allowed and sent; this pack has no record of how it ended."
    if call.mark is Mark.CUT:
        return f"{reason(call.entry['reason_code'])} It was running and was cut; what the tool did is not known."
    return reason(call.entry["reason_code"])


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did what: one agent and one tool."""

    agent: str
    tool: str
    total: int
    marks: tuple[tuple[Mark, int], ...]
    """Only what occurs, in the order of Mark."""
    first: str
    last: str


def actors_of(calls: Sequence[Marked]) -> list[Actor]:
    groups: dict[tuple[str, str], list[Marked]] = {}
    for call in calls:
        groups.setdefault((call.entry["agent_id"], call.entry["tool_name"]), []).append(call)
    return [
        Actor(
            agent=visible(agent),
            tool=visible(tool),
            total=len(group),
            marks=tally(call.mark for call in group),
            first=moment(group[0].entry["timestamp"]),
            last=moment(group[-1].entry["timestamp"]),
        )
        for (agent, tool), group in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))
    ]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Calls that were refused, or waited, for one reason by one rule."""

    mark: Mark
    code: str
    plain: str
    rule: str
    said: str
    total: int
    agents: tuple[str, ...]
    tools: tuple[str, ...]
    first: str
    last: str
    calls: tuple[int, ...]
    """Numbers of the first few."""


def by_reason(calls: Sequence[Marked], numbers: Mapping[str, int], marks: frozenset[Mark]) -> list[Refusal]:
    """Calls with one of `marks`, by reason; the most frequent first."""
    groups: dict[tuple[Mark, str, str, str], list[Entry]] = {}
    for entry, mark in calls:
        if mark in marks:
            said = entry["error"] if entry["decision"] == "ALLOW" else _said(entry)
            key = (mark, entry["reason_code"], entry["matched_rule"], text_of(said))
            groups.setdefault(key, []).append(entry)
    return [
        Refusal(
            mark=mark,
            code=visible(code),
            plain=_plain(Marked(entries[0], mark)),
            rule=visible(rule),
            said=said,
            total=len(entries),
            agents=tuple(sorted({visible(entry["agent_id"]) for entry in entries})),
            tools=tuple(sorted({visible(entry["tool_name"]) for entry in entries})),
            first=moment(entries[0]["timestamp"]),
            last=moment(entries[-1]["timestamp"]),
            calls=tuple(numbers[entry["event_id"]] for entry in entries[:FIRST_FEW]),
        )
        for (mark, code, rule, said), entries in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


@dataclass(frozen=True, slots=True)
class Write:
    """A call that writes and went out: what it did may stand."""

    call: int | None
    at: str
    tool: str
    ended: str
    approved_by: str
    is_certain: bool


_WRITES: Final = {
    "ok": "Done: the tool answered",
    "error": "The tool answered with a failure: part of it may have been done",
    "cancelled": "Cut while running: it may have been done",
    "unknown": "No answer was heard: it may have been done",
    "open": "No end of it is recorded here: it may have been done",
}


def write_of(row: Entry, numbers: Mapping[str, int]) -> Write:
    return Write(
        call=numbers.get(row["event_id"]),
        at=moment(row["timestamp"]),
        tool=visible(row["tool_name"]),
        ended=_WRITES.get(row["outcome"], visible(row["outcome"])),
        approved_by=text_of(row["approved_by"]).replace(",", ", "),
        is_certain=row["outcome"] == "ok",
    )


@dataclass(frozen=True, slots=True)
class Anomaly:
    kind: str
    description: str
    calls: tuple[int, ...]
    total: int


_ANOMALIES: Final = {
    "rapid_fire": "Many calls in a moment",
    "denied_after_approval": "Refused after an approval",
    "refused_repeatedly": "Refused again and again",
    "foreign_session": "Somebody else's session",
    "policy_changed": "Policy changed midway",
    "effect_unknown": "Effect unknown",
}


def anomaly_of(row: Entry, numbers: Mapping[str, int]) -> Anomaly:
    events = row["event_ids"]
    return Anomaly(
        kind=_ANOMALIES.get(row["type"], visible(row["type"])),
        description=visible(row["description"]),
        calls=tuple(numbers[event_id] for event_id in events[:FIRST_FEW] if event_id in numbers),
        total=len(events),
    )
