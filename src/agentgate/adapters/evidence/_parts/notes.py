"""What happened to the records themselves: exports, holds, prunes, and what was said of tools."""

from __future__ import annotations

from dataclasses import dataclass

from agentgate.adapters.evidence._parts.marks import Entry
from agentgate.adapters.evidence._parts.words import count, moment, quoted, text_of
from agentgate.core.pin import unpinned_of
from agentgate.core.visible import visible


@dataclass(frozen=True, slots=True)
class Note:
    """Something else that happened to the records: an export, a prune, a hold."""

    at: str
    what: str
    by: str


def notes_of(summary: Entry) -> list[Note]:
    """Exports, legal holds, prunes, and what was said of tools, in the order of time."""
    rows = [
        *((row, _exported(row)) for row in summary["exports"]),
        *((row, _held(row)) for row in summary["holds"]),
        *((row, _pruned(row)) for row in summary["prunes"]),
        *((row, _tool(row)) for row in summary.get("tools", ())),
    ]
    return [
        Note(moment(row["timestamp"]), text, text_of(row["actor"]) or "the gateway")
        for row, text in sorted(rows, key=lambda item: item[0]["timestamp"])
    ]


def _exported(row: Entry) -> str:
    names = (("of_session", "session"), ("of_agent", "agent"), ("since", "from"), ("until", "before"))
    told = [f"{word} {visible(row[name])}" for name, word in names if row[name]]
    return f"Evidence was taken as {visible(row['format'])}" + (f": {', '.join(told)}" if told else "")


def _held(row: Entry) -> str:
    whose = f"of session {visible(row['of_session'])}" if row["of_session"] else "of all sessions"
    if row["what"] == "unheld":
        return f"Legal hold {visible(row['hold_id'])} {whose} ended"
    why = f": {quoted(visible(row['reason']))}" if row["reason"] else ""
    return f"Legal hold {visible(row['hold_id'])} {whose}{why}"


def _tool(row: Entry) -> str:
    name, server = visible(row["tool_name"]), visible(row["server"])
    match row["what"]:
        case "tool_accepted":
            who = "by trust on first use: nobody had looked at it" if row["trust"] == "first_use" else "as it was found"
            return f"Tool {name} of server {server} accepted {who} ({visible(row['access'])}), pin {_pin(row['pin'])}"
        case "tool_quarantined":
            unpinned = unpinned_of(row["found"])
            told = f"its server describes it otherwise: {_pin(row['found'])} instead of {_pin(row['pin'])}"
            told = told if unpinned is None else unpinned.why
            return f"Tool {name} of server {server} put into quarantine, because {told}"
        case _:
            return f"Tool {name} of server {server} rejected"


def _pin(sha256: object) -> str:
    """Enough of a pin to find it; the event has all of it."""
    return visible(sha256)[:16]


def _pruned(row: Entry) -> str:
    why = {"retention": "their time was over", "forced": "an admin shortened it"}.get(row["why"], visible(row["why"]))
    session = f" of session {visible(row['session'])}" if row["session"] else ""
    return f"{count(row['bodies'], 'body', 'bodies')}{session} given up ({why}); the leaves and their proofs stay"
