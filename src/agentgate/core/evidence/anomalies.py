"""What somebody should look at in the calls of an evidence pack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from agentgate.core.errors import ReasonCode
from agentgate.core.event import Outcome
from agentgate.core.evidence.sections import Entry

RAPID_CALLS: Final = 10
RAPID_WINDOW_S: Final = 1.0
STUBBORN_REFUSALS: Final = 5
"""So many refusals of one tool in a row are worth a look."""


def anomalies(calls: Sequence[Entry]) -> list[dict[str, Any]]:
    """What somebody should look at. Found within each session: others' calls make no burst of one's own."""
    by_session: dict[Any, list[Entry]] = defaultdict(list)
    for entry in calls:
        by_session[entry["tenant"], entry["session_id"]].append(entry)
    found: list[dict[str, Any]] = []
    for own in by_session.values():
        for finder in (_rapid_fire, _denied_after_approval, _stubborn, _foreign, _policy_changed):
            found += finder(own)
    return found + list(_effects_unknown(calls))


def _anomaly(kind: str, description: str, entries: Iterable[Entry]) -> dict[str, Any]:
    return {"type": kind, "description": description, "event_ids": [entry["event_id"] for entry in entries]}


def _rapid_fire(calls: Sequence[Entry]) -> Iterable[dict[str, Any]]:
    times = [datetime.fromisoformat(entry["timestamp"]).timestamp() for entry in calls]
    start = 0
    while start + RAPID_CALLS <= len(times):
        end = start + RAPID_CALLS
        if times[end - 1] - times[start] > RAPID_WINDOW_S:
            start += 1
            continue
        while end < len(times) and times[end] - times[end - RAPID_CALLS + 1] <= RAPID_WINDOW_S:
            end += 1
        text = f"{end - start} calls, {RAPID_CALLS} or more of them within {RAPID_WINDOW_S:g} s"
        yield _anomaly("rapid_fire", text, calls[start:end])
        start = end


def _denied_after_approval(calls: Sequence[Entry]) -> Iterable[dict[str, Any]]:
    approved: set[str] = set()
    for entry in calls:
        tool = entry["tool_name"]
        if entry["approved_by"] is not None and entry["decision"] == "ALLOW":
            approved.add(tool)
        elif entry["decision"] == "DENY" and tool in approved:
            yield _anomaly("denied_after_approval", f"{tool} was refused after an approved call of it", [entry])


def _stubborn(calls: Sequence[Entry]) -> Iterable[dict[str, Any]]:
    """One tool asked for again and again although it is refused."""
    for (decision, tool), alike in groupby(calls, key=itemgetter("decision", "tool_name")):
        run = list(alike)
        if decision == "DENY" and len(run) >= STUBBORN_REFUSALS:
            yield _anomaly("refused_repeatedly", f"{tool} was refused {len(run)} times in a row", run)


def _foreign(calls: Sequence[Entry]) -> Iterable[dict[str, Any]]:
    tried = [entry for entry in calls if entry["reason_code"] == ReasonCode.FOREIGN_SESSION]
    if tried:
        who = ", ".join(sorted({entry["agent_id"] for entry in tried}))
        yield _anomaly("foreign_session", f"{who} tried to use a session of somebody else", tried)


def _policy_changed(calls: Sequence[Entry]) -> Iterable[dict[str, Any]]:
    known: str | None = None
    for entry in calls:
        revision = entry["policy_version"]
        if revision and known and revision != known:
            yield _anomaly("policy_changed", "another policy revision decided from here on", [entry])
        known = revision or known


def _effects_unknown(calls: Sequence[Entry]) -> Iterable[dict[str, Any]]:
    unknown = [e for e in calls if e["outcome"] in (Outcome.UNKNOWN, Outcome.CANCELLED, "open")]
    if unknown:
        text = f"calls whose upstream effect is not known from these events: {len(unknown)}"
        yield _anomaly("effect_unknown", text, unknown)
