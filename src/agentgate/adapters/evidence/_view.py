"""From a pack's signed body to what people read: who did what, what was stopped and why, and what is not known.

Derived from the body and from nothing else, so that a view can be made again from `pack.json`. The one model behind the
HTML and the PDF: every string is safe to look at (`core.visible`), none is escaped for a format, which is the writer's
part. What is not there is an empty string, and times are UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentgate.adapters.evidence._parts.approvals import Approval, approval_of
from agentgate.adapters.evidence._parts.calls import (
    Actor,
    Anomaly,
    Call,
    Refusal,
    Write,
    actors_of,
    anomaly_of,
    by_reason,
    call_of,
    write_of,
)
from agentgate.adapters.evidence._parts.claims import Integrity, integrity
from agentgate.adapters.evidence._parts.kills import Kill, Stopped, expiries, kill_of, ordered_and_released
from agentgate.adapters.evidence._parts.listing import MAX_CALLS, MAX_ROWS, Listing, first
from agentgate.adapters.evidence._parts.marks import EFFECT_UNKNOWN, Entry, Mark, Marked, mark_of
from agentgate.adapters.evidence._parts.notes import Note, notes_of
from agentgate.adapters.evidence._parts.pictures import Chart, Timeline, charts, timeline
from agentgate.adapters.evidence._parts.story import Figure, Title, figures, narrative, title_of
from agentgate.core.evidence.pack import Pack


@dataclass(frozen=True, slots=True)
class View:
    """The parts of a pack, each as its module in `_parts` makes it."""

    title: Title
    narrative: tuple[str, ...]
    figures: tuple[Figure, ...]
    timeline: Timeline | None
    """None without calls."""
    charts: tuple[Chart, ...]
    actors: Listing[Actor]
    refusals: Listing[Refusal]
    failures: Listing[Refusal]
    """Allowed calls that ended otherwise than by an answer, by reason."""
    refused_before: int
    """Calls turned away before they were looked at one by one: counted, not listed."""
    kills: Listing[Kill]
    approvals: Listing[Approval]
    writes: Listing[Write]
    unknown: Listing[Call]
    """Calls whose effect is not known."""
    anomalies: Listing[Anomaly]
    notes: Listing[Note]
    calls: Listing[Call]
    has_many_sessions: bool
    integrity: Integrity


def view(pack: Pack) -> View:
    """Everything that a writer shows of `pack`."""
    body = pack.body
    entries: Sequence[Entry] = body["timeline"]
    calls = [Marked(entry, mark_of(entry)) for entry in entries]
    numbered = list(enumerate(calls, 1))
    numbers = {call.entry["event_id"]: number for number, call in numbered}
    by_kill = _by(body["summary"]["kills"], "kill_id")
    by_approval = _by(entries, "approval_id")
    stopped = Stopped(body, calls)
    ends = expiries(body, by_kill)
    kills = tuple(kill_of(f"K{n}", rows, stopped, ends) for n, rows in enumerate(by_kill.values(), 1))
    approvals = [
        approval_of(rows, by_approval.get(name, ()), numbers)
        for name, rows in _by(body["summary"]["approvals"], "approval_id").items()
    ]
    orders = [(kill, *ordered_and_released(rows)) for kill, rows in zip(kills, by_kill.values(), strict=True)]
    title = title_of(pack)
    return View(
        title=title,
        narrative=narrative(body, title, calls, kills, approvals),
        figures=figures(body, calls),
        timeline=timeline(calls, orders[:MAX_ROWS]),
        charts=charts(calls),
        actors=first(actors_of(calls)),
        refusals=first(by_reason(calls, numbers, frozenset({Mark.REFUSED}))),
        failures=first(by_reason(calls, numbers, frozenset({Mark.FAILED, Mark.NOT_SENT, *EFFECT_UNKNOWN}))),
        refused_before=body["summary"]["refusals"],
        kills=first(kills),
        approvals=first(approvals),
        writes=first(body["write_action_log"], lambda row: write_of(row, numbers)),
        unknown=first([item for item in numbered if item[1].mark in EFFECT_UNKNOWN], lambda item: call_of(*item)),
        anomalies=first(body["anomalies"], lambda row: anomaly_of(row, numbers)),
        notes=first(notes_of(body["summary"])),
        calls=first(numbered, lambda item: call_of(*item), MAX_CALLS),
        has_many_sessions=len(title.sessions) > 1,
        integrity=integrity(pack),
    )


def _by(rows: Iterable[Entry], name: str) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups
