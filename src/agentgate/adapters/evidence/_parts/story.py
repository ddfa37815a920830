"""The first page in words and numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from agentgate.adapters.evidence._parts.approvals import Approval
from agentgate.adapters.evidence._parts.claims import pack_id
from agentgate.adapters.evidence._parts.kills import Kill
from agentgate.adapters.evidence._parts.marks import EFFECT_UNKNOWN, Entry, Mark, Marked, tally
from agentgate.adapters.evidence._parts.words import count, duration, listed, moment, quoted, reason
from agentgate.core.evidence.pack import Pack
from agentgate.core.visible import visible

_MOST_KILLS: Final = 3

# What one call and what several did.
_DID: Final[Mapping[Mark, tuple[str, str]]] = {
    Mark.RAN: ("ran", "ran"),
    Mark.FAILED: ("failed at the tool", "failed at the tool"),
    Mark.REFUSED: ("was refused", "were refused"),
    Mark.WAITED: ("waited for a person", "waited for a person"),
    Mark.CUT: ("was cut while running", "were cut while running"),
    Mark.UNKNOWN: ("ended without a known effect", "ended without a known effect"),
    Mark.OPEN: ("had no recorded end", "had no recorded end"),
    Mark.NOT_SENT: ("was allowed but not sent", "were allowed but not sent"),
}


@dataclass(frozen=True, slots=True)
class Title:
    """The head of the first page. Times are UTC."""

    heading: str
    """Such as `Session s-1`, `Agent bot`, `Tenant default`."""
    tenant: str
    sessions: tuple[str, ...]
    agents: tuple[str, ...]
    start: str
    end: str
    span: str
    """The time between first and last event, in words; empty without events."""
    asked_for: str
    """The limits of time that the pack was asked with, or empty."""
    as_of: str
    """Until when the pack knows what became of things: `when this pack was made`, or when the time asked for ended."""
    generated_at: str
    generator: str
    version: str
    policies: tuple[str, ...]
    pack_id: str
    """SHA-256 of the signed bytes (pack.json of the zip), in hex."""


def title_of(pack: Pack) -> Title:
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
        as_of=_as_of(metadata),
        generated_at=moment(metadata["generated_at"]),
        generator=visible(metadata["generator"]),
        version=visible(metadata["version"]),
        policies=tuple(map(visible, pack.body["summary"]["policy_versions_used"])),
        pack_id=pack_id(pack),
    )


def _as_of(metadata: Mapping[str, Any]) -> str:
    until = metadata["scope"].get("until")
    if until is None or until >= metadata["generated_at"]:
        return "when this pack was made"
    return f"at the end of the time asked for ({moment(until)})"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number for the first page."""

    label: str
    value: str
    note: str = ""
    is_alarming: bool = False


def figures(body: Entry, calls: Sequence[Marked]) -> tuple[Figure, ...]:
    """The numbers of the first page."""
    marks = Counter(mark for _, mark in calls)
    unknown = sum(marks[mark] for mark in EFFECT_UNKNOWN)
    writes = body["write_action_log"]
    unsure = sum(1 for row in writes if row["outcome"] != "ok")
    kills = len({row["kill_id"] for row in body["summary"]["kills"]})
    anomalies = len(body["anomalies"])
    before = body["summary"]["refusals"]
    return (
        Figure("Calls asked for", f"{len(calls):,}"),
        Figure("Ran", f"{marks[Mark.RAN]:,}"),
        Figure("Refused", f"{marks[Mark.REFUSED]:,}", f"and {before:,} turned away unlisted" if before else ""),
        Figure("Waited for a person", f"{marks[Mark.WAITED]:,}"),
        Figure("Writes sent out", f"{len(writes):,}", f"{unsure:,} without a clear success" if unsure else ""),
        Figure("Effect unknown", f"{unknown:,}", "may have been done" if unknown else "", unknown > 0),
        Figure("Kills", f"{kills:,}", "", kills > 0),
        Figure("Anomalies", f"{anomalies:,}", "", anomalies > 0),
    )


def narrative(
    body: Entry, title: Title, calls: Sequence[Marked], kills: Sequence[Kill], approvals: Sequence[Approval]
) -> tuple[str, ...]:
    """What happened, in a few sentences. Each can be checked against the tables."""
    if not calls:
        events = body["integrity"]["event_count"]
        more = f" {count(events, 'event is', 'events are')} recorded all the same." if events else ""
        return (f"No call is recorded for this {title.heading.split()[0].lower()}.{more}", *_kills(kills, title))
    found = [
        _calls(title, calls),
        _refusals(calls, body["summary"]["refusals"]),
        _approvals(approvals, title),
        *_kills(kills, title),
        _writes(body),
        _unknown(calls),
        _anomalies(body),
    ]
    return tuple(sentence for sentence in found if sentence)


def _calls(title: Title, calls: Sequence[Marked]) -> str:
    agents = title.agents[0] if len(title.agents) == 1 else count(len(title.agents), "agent")
    where = f" in {count(len(title.sessions), 'session')}" if len(title.sessions) > 1 else ""
    if len(calls) == 1:
        entry, mark = calls[0]
        return f"{agents} asked for one call, of {visible(entry['tool_name'])}: it {_DID[mark][0]}."
    tools = len({entry["tool_name"] for entry, _ in calls})
    ends = [f"{number:,} {_DID[mark][number != 1]}" for mark, number in tally(mark for _, mark in calls)]
    asked = f"{agents} asked for {count(len(calls), 'call')} of {count(tools, 'tool')}{where}"
    return f"In {title.span}, {asked}: {listed(ends, len(ends))}."


def _refusals(calls: Sequence[Marked], before: int) -> str:
    codes = Counter(entry["reason_code"] for entry, mark in calls if mark is Mark.REFUSED)
    more = f" {count(before, 'more call was', 'more calls were')} turned away for asking too fast." if before else ""
    if not codes:
        return more.strip()
    total = codes.total()
    code, number = min(codes.items(), key=lambda item: (-item[1], item[0]))
    share = "" if number == total else f", {number:,} of {total:,}"
    what = "The reason for the refusal" if total == 1 else f"The most frequent reason for a refusal{share}"
    if number == total and total > 1:
        what = f"All {total:,} refusals had one reason"
    why = reason(code)
    return f"{what}: {why[:1].lower()}{why[1:]}{more}"


def _approvals(approvals: Sequence[Approval], title: Title) -> str:
    if not approvals:
        return ""
    done = Counter((a.standing, "" if a.standing in _UNANSWERED else a.decided_by) for a in approvals)
    parts = []
    for (standing, who), number in sorted(done.items()):
        if standing in ("Approved", "Denied"):
            parts.append(f"{who or 'somebody'} {standing.lower()} {number:,}")
        else:
            parts.append(f"{number:,} {_UNANSWERED.get(standing, f'still waited {title.as_of}')}")
    asked = count(len(approvals), "question was", "questions were")
    return f"{asked} put to people: {listed(parts, 6)}."


_UNANSWERED: Final = {"Expired": "expired unanswered", "Void": "became void"}


def _kills(kills: Sequence[Kill], title: Title) -> list[str]:
    found = [_kill(kill, title) for kill in kills[:_MOST_KILLS]]
    if len(kills) > _MOST_KILLS:
        found.append(f"{count(len(kills) - _MOST_KILLS, 'more kill is', 'more kills are')} listed below.")
    return found


def _clock(at: str, title: Title) -> str:
    """Without the date where the whole pack is of one day."""
    one_day = title.start[:10] == title.end[:10] == at[:10]
    return at[11:19] if one_day else at[:19]


def _kill(kill: Kill, title: Title) -> str:
    did = []
    if kill.cut:
        did.append(f"cut {count(kill.cut, 'running call')}")
    if kill.refused:
        did.append(f"refused {count(kill.refused, 'more call' if kill.cut else 'call')}")
    did.append("drained" if kill.is_drained else "was not known to have drained")
    if kill.released_at:
        end = f"It was released at {_clock(kill.released_at, title)} by {kill.released_by}."
    else:
        end = f"It was still in force {title.as_of}."
    why = f" ({quoted(kill.reason)})" if kill.reason else ""
    order = f"ordered a kill of {kill.target} at {_clock(kill.at, title)}{why}"
    return f"{kill.ordered_by or 'The gateway'} {order}; it {listed(did)}. {end}"


def _writes(body: Entry) -> str:
    writes = body["write_action_log"]
    if not writes:
        return "No call that writes went out."
    approved = sum(1 for row in writes if row["approved_by"] is not None)
    unsure = sum(1 for row in writes if row["outcome"] != "ok")
    by = f", {approved:,} of them approved by a person" if approved else ", none of them approved by a person"
    doubt = f"; for {unsure:,} it is not certain that it was done" if unsure else ""
    return f"{count(len(writes), 'call that writes', 'calls that write')} went out{by}{doubt}."


def _unknown(calls: Sequence[Marked]) -> str:
    unknown = sum(1 for _, mark in calls if mark in EFFECT_UNKNOWN)
    if not unknown:
        return "The end of every call that was sent is known."
    return f"Of {count(unknown, 'call')} this pack does not say what the tool did: the effect may be there."


def _anomalies(body: Entry) -> str:
    number = len(body["anomalies"])
    return f"{count(number, 'anomaly', 'anomalies')} found." if number else "No anomaly was found."
