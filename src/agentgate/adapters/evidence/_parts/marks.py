"""How calls ended: the marks that every part of a pack, as people read it, counts and shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

Entry = Mapping[str, Any]
"""A row of the pack's body, as JSON has it."""


class Mark(Enum):
    """How one call ended, as pictures and tables show it: a letter and a shape besides any colour."""

    RAN = ("R", "circle", "Ran")
    FAILED = ("F", "triangle", "Failed at the tool")
    REFUSED = ("D", "square", "Refused")
    WAITED = ("W", "diamond", "Waited for a person")
    CUT = ("C", "cross", "Cut while running")
    UNKNOWN = ("U", "ring", "Effect unknown")
    OPEN = ("O", "ring", "Still open")
    NOT_SENT = ("N", "bar", "Allowed, not sent")

    def __init__(self, letter: str, shape: str, label: str) -> None:
        self.letter = letter
        self.shape = shape
        self.label = label


EFFECT_UNKNOWN: Final = (Mark.CUT, Mark.UNKNOWN, Mark.OPEN)
"""What the tool did is not known: the call may have had its effect."""


class Marked(NamedTuple):
    """A call of the pack's timeline, and how it ended."""

    entry: Entry
    mark: Mark


_ENDS: Final = {
    "ok": Mark.RAN,
    "error": Mark.FAILED,
    "cancelled": Mark.CUT,
    "unknown": Mark.UNKNOWN,
    "not_sent": Mark.NOT_SENT,
    "open": Mark.OPEN,
}


def mark_of(entry: Entry) -> Mark:
    if entry["decision"] == "ALLOW":
        return _ENDS.get(entry["outcome"], Mark.UNKNOWN)
    return Mark.WAITED if entry["decision"] == "REQUIRE_APPROVAL" else Mark.REFUSED


def tally(marks: Iterable[Mark]) -> tuple[tuple[Mark, int], ...]:
    """How often each occurs, in the order of Mark."""
    counts = Counter(marks)
    return tuple((mark, counts[mark]) for mark in Mark if counts[mark])
