"""From a pack's signed body to what people read: who did what, what was stopped and why, and what is not known.

Derived from the body and from nothing else, so that a view can be made again from `pack.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentgate.adapters.evidence._approvals import approval_of
from agentgate.adapters.evidence._claims import integrity, pack_id
from agentgate.adapters.evidence._kills import Stopped, expiries, kill_of, ordered_and_released
from agentgate.adapters.evidence._model import (
    EFFECT_UNKNOWN,
    FIRST_FEW,
    MAX_CALLS,
    MAX_ROWS,
    Actor,
    Anomaly,
    Call,
    Listing,
    Mark,
    Refusal,
    Title,
    View,
    Write,
)
from agentgate.adapters.evidence._notes import notes_of
from agentgate.adapters.evidence._picture import Entry, Marked, charts, tally, timeline
from agentgate.adapters.evidence._story import figures, narrative
from agentgate.adapters.evidence._words import duration, moment, reason, text_of
from agentgate.core.visible import visible

if TYPE_CHECKING:
    from agentgate.core.evidence.pack import Pack

T = TypeVar("T")


def view(pack: Pack) -> View:
    """Everything that a writer shows of `pack`."""
    body = pack.body
    entries: Sequence[Entry] = body["timeline"]
    calls = [Marked(entry, _mark(entry)) for entry in entries]
    numbers = {entry["event_id"]: number for number, entry in enumerate(entries, 1)}
    by_kill = _by(body["summary"]["kills"], "kill_id")
    stopped = Stopped(calls)
    ends = expiries(body, by_kill)
    kills = tuple(kill_of(f"K{n}", rows, stopped, ends) for n, rows in enumerate(by_kill.values(), 1))
    approvals = [
        approval_of(rows, entries, numbers) for rows in _by(body["summary"]["approvals"], "approval_id").values()
    ]
    unknown = [(number, call) for number, call in enumerate(calls, 1) if call.mark in EFFECT_UNKNOWN]
    orders = [(kill, *ordered_and_released(rows)) for kill, rows in zip(kills, by_kill.values(), strict=True)]
    title = _title(pack)
    return View(
        title=title,
        narrative=narrative(body, title, calls, kills, approvals),
        figures=figures(body, calls),
        timeline=timeline(calls, orders[:MAX_ROWS]),
        charts=charts(calls),
        actors=_first(_actors(calls)),
        refusals=_first(_grouped(calls, numbers, frozenset({Mark.REFUSED}))),
        failures=_first(_grouped(calls, numbers, frozenset({Mark.FAILED, Mark.NOT_SENT, *EFFECT_UNKNOWN}))),
        refused_before=body["summary"]["refusals"],
        kills=_first(kills),
        approvals=_first(approvals),
        writes=_first(body["write_action_log"], lambda row: _write(row, numbers)),
        unknown=_first(unknown, lambda item: _call(*item)),
        anomalies=_first(body["anomalies"], lambda row: _anomaly(row, numbers)),
        notes=_first(notes_of(body["summary"])),
        calls=_first(list(enumerate(calls, 1)), lambda item: _call(*item), MAX_CALLS),
        has_many_sessions=len(title.sessions) > 1,
        integrity=integrity(pack),
    )


def _first(rows: Sequence[Any], shown: Callable[[Any], T] = lambda row: row, most: int = MAX_ROWS) -> Listing[T]:
    return Listing(tuple(shown(row) for row in rows[:most]), len(rows))


def _by(rows: Iterable[Entry], name: str) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


# --- the head ---------------------------------------------------------------------------------------------


def _title(pack: Pack) -> Title:
    metadata = pack.body["metadata"]
    scope: Mapping[str, str] = metadata["scope"]
    start, end = metadata["time_range"]["start"], metadata["time_range"]["end"]
    kind = next((name for name in ("session", "agent") if name in scope), "tenant")
    named = scope[kind].removeprefix("agent:") if kind == "agent" else scope[kind]
    limits = [
        f"{word} {moment(scope[name])}" for name, word in (("since", "from"), ("until", "before")) if name in scope
    ]
    return Title(
        heading=f"{kind.capitalize()} {visible(named)}",
        tenant=visible(metadata["tenant"]),
        sessions=tuple(map(visible, metadata["sessions"])),
        agents=tuple(map(visible, metadata["agents"])),
        start=moment(start),
        end=moment(end),
        span=duration(datetime.fromisoformat(end) - datetime.fromisoformat(start)) if start else "",
        asked_for=" ".join(limits),
        generated_at=moment(metadata["generated_at"]),
        generator=visible(metadata["generator"]),
        version=visible(metadata["version"]),
        policies=tuple(map(visible, pack.body["summary"]["policy_versions_used"])),
        pack_id=pack_id(pack),
    )


# --- calls ------------------------------------------------------------------------------------------------

_ENDS: Final = {
    "ok": Mark.RAN,
    "error": Mark.FAILED,
    "cancelled": Mark.CUT,
    "unknown": Mark.UNKNOWN,
    "not_sent": Mark.NOT_SENT,
    "open": Mark.OPEN,
}


def _mark(entry: Entry) -> Mark:
    if entry["decision"] == "ALLOW":
        return _ENDS.get(entry["outcome"], Mark.UNKNOWN)
    return Mark.WAITED if entry["decision"] == "REQUIRE_APPROVAL" else Mark.REFUSED


def _call(number: int, call: Marked) -> Call:
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
        return "Allowed and sent; how it ended was not recorded when this pack was made."
    if call.mark is Mark.CUT:
        return f"{reason(call.entry['reason_code'])} It was running and was cut; what the tool did is not known."
    return reason(call.entry["reason_code"])


# --- who, and why -----------------------------------------------------------------------------------------


def _actors(calls: Sequence[Marked]) -> list[Actor]:
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


def _grouped(calls: Sequence[Marked], numbers: Mapping[str, int], marks: frozenset[Mark]) -> list[Refusal]:
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


# --- what may stand, and what is odd ----------------------------------------------------------------------

_WRITES: Final = {
    "ok": "Done: the tool answered",
    "error": "The tool answered with a failure: part of it may have been done",
    "cancelled": "Cut while running: it may have been done",
    "unknown": "No answer was heard: it may have been done",
    "open": "Not known to have ended: it may have been done",
}


def _write(row: Entry, numbers: Mapping[str, int]) -> Write:
    return Write(
        call=numbers.get(row["event_id"]),
        at=moment(row["timestamp"]),
        tool=visible(row["tool_name"]),
        ended=_WRITES.get(row["outcome"], visible(row["outcome"])),
        approved_by=text_of(row["approved_by"]).replace(",", ", "),
        is_certain=row["outcome"] == "ok",
    )


_ANOMALIES: Final = {
    "rapid_fire": "Many calls in a moment",
    "denied_after_approval": "Refused after an approval",
    "refused_repeatedly": "Refused again and again",
    "foreign_session": "Somebody else's session",
    "policy_changed": "Policy changed midway",
    "effect_unknown": "Effect unknown",
}


def _anomaly(row: Entry, numbers: Mapping[str, int]) -> Anomaly:
    events = row["event_ids"]
    return Anomaly(
        kind=_ANOMALIES.get(row["type"], visible(row["type"])),
        description=visible(row["description"]),
        calls=tuple(numbers[event_id] for event_id in events[:FIRST_FEW] if event_id in numbers),
        total=len(events),
    )
