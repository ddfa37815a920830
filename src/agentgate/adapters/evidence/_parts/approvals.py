"""Approvals as people read them: who asked, who answered, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentgate.adapters.evidence._parts.listing import FIRST_FEW
from agentgate.adapters.evidence._parts.marks import Entry
from agentgate.adapters.evidence._parts.words import listed, moment, quoted, text_of
from agentgate.core.strict_json import canonical
from agentgate.core.visible import visible

_STANDINGS: Final = {
    "approved": "Approved", "denied": "Denied", "expired": "Expired", "requested": "Pending", "voted": "Pending",
    "void": "Void",
}  # fmt: skip
_VOID_BY: Final = {
    "killed": "a kill covered it",
    "policy_changed": "the policy had changed",
    "tool_changed": "the tool was described otherwise",
    "edited": "the call was edited",
    "withdrawn": "a person took it back",
}
_MOST_ARGUMENTS: Final = 500


@dataclass(frozen=True, slots=True)
class Approval:
    """One question to a person. Empty where the pack does not say."""

    approval_id: str
    tool: str
    asked_by: str
    asked_at: str
    standing: str
    """Approved, Denied, Expired, Void, Pending."""
    decided_by: str
    decided_at: str
    notes: tuple[str, ...]
    """Votes, reasons, edits, and what made it void, each in a sentence."""
    asking_calls: tuple[int, ...]
    carried_call: int | None
    """The number of the call that it let through."""


def approval_of(rows: Sequence[Entry], mine: Sequence[Entry], numbers: Mapping[str, int]) -> Approval:
    """One approval from its rows, and from the calls that name it."""
    asked = next((row for row in rows if row["what"] == "requested"), None)
    answer = next((row for row in rows if row["verdict"] is not None), None)
    last = rows[-1] if rows[-1]["what"] == "void" else answer or rows[-1]
    carried = next((entry for entry in mine if entry["decision"] == "ALLOW"), None)
    tool = next((row["tool_name"] for row in rows if row["tool_name"]), mine[0]["tool_name"] if mine else None)
    voters = [text_of(row["approver"]) for row in rows if row["what"] == "voted"]
    decided_by = text_of(answer["approver"] if answer else None)
    if answer is not None and answer["what"] == "approved":
        decided_by = listed([*voters, decided_by], 10)
    if last["what"] == "expired":
        decided_by = "nobody: its time ran out"
    elif last["what"] == "void":
        decided_by = f"nobody: {_VOID_BY.get(last.get('why', ''), 'it was made void')}"
    return Approval(
        approval_id=visible(rows[0]["approval_id"]),
        tool=text_of(tool),
        asked_by=text_of(asked["requested_by"] if asked else (mine[0]["agent_id"] if mine else None)),
        asked_at=moment(asked["timestamp"] if asked else None),
        standing=_STANDINGS.get(last["what"], visible(last["what"])),
        decided_by=decided_by,
        decided_at="" if last["what"] in ("requested", "voted") else moment(last["timestamp"]),
        notes=tuple(_said_of(rows)),
        asking_calls=tuple(numbers[e["event_id"]] for e in mine if e["decision"] != "ALLOW")[:FIRST_FEW],
        carried_call=numbers[carried["event_id"]] if carried else None,
    )


def _said_of(rows: Sequence[Entry]) -> Iterable[str]:
    """What the answer alone does not say."""
    for row in rows:
        who = text_of(row.get("edited_by") or row["approver"] or row.get("actor"))
        said = f": {quoted(visible(row['reason']))}" if row.get("reason") else ""
        if row["what"] == "requested":
            if row.get("quorum", 1) > 1:
                yield f"wanted the yes of {row['quorum']} persons"
            if row.get("approvers"):
                yield f"of {listed([visible(name) for name in row['approvers']], 6)}"
            if "edited_from" in row:
                arguments = visible(canonical(row.get("arguments")).decode())
                more = "…" if len(arguments) > _MOST_ARGUMENTS else ""
                yield f"edited by {who} from {visible(row['edited_from'])} to {arguments[:_MOST_ARGUMENTS]}{more}{said}"
        elif row["what"] == "void":
            if "edited_to" in row:
                yield f"edited by {who} to {visible(row['edited_to'])}{said}"
            elif "kill_id" in row:
                yield f"void by {visible(row['kill_id'])}"
            elif row.get("why") == "withdrawn":
                yield f"taken back by {who}{said}"
        elif row["what"] == "voted" or row.get("quorum", 1) > 1:
            yield f"{who} said yes ({row['ordinal']} of {row['quorum']}){said}"
        elif said:
            yield f"{who} said{said}"
