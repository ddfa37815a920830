"""What events by themselves can show of a control: each check reads every event once, and remembers little.

A check holds only when there was something to check and all of it was so. What events cannot show (that nobody altered
them, that they are kept for long enough) is no check here; docs/compliance.md says how that is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentgate.core.event import Kind, Record

MOST_NAMED: Final = 20
"""So many of the events that break a check are named."""

CONTENT: Final = ("kind", "at", "member", "door", "decision", "reason_code", "principal", "tool")
"""What every decision must say: what, when, where, by which way in, with which outcome and why, who and on what."""

_UTC: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@dataclass
class Check:
    """One question, asked of each event. `asks` answers None where it is not about the event."""

    title: str
    asks: Callable[[Record], bool | None]
    seen: int = 0
    broken: int = 0
    named: list[int] = field(default_factory=list)
    examples: list[Record] = field(default_factory=list)

    def see(self, record: Record) -> None:
        answer = self.asks(record)
        if answer is None:
            return
        self.seen += 1
        if len(self.examples) < 3:
            self.examples.append(record)
        if not answer:
            self.broken += 1
            if len(self.named) < MOST_NAMED:
                self.named.append(record.index)

    @property
    def holds(self) -> bool:
        return self.seen > 0 and self.broken == 0

    @property
    def sentence(self) -> str:
        """What came of it."""
        if not self.seen:
            return "The export holds no event that this could be seen from."
        if not self.broken:
            return f"It holds for all {self.seen} events that it is about."
        indexes = ", ".join(map(str, self.named)) + (", …" if self.broken > len(self.named) else "")
        return f"It does not hold for {self.broken} of {self.seen} events: index {indexes}."


def _has_content(record: Record) -> bool | None:
    if record.kind is Kind.DECIDED:
        return all(record.fields.get(name) for name in CONTENT)
    if record.kind is Kind.FINISHED:
        return bool(record.fields.get("outcome"))
    return None


def _is_utc(record: Record) -> bool | None:
    return _UTC.fullmatch(str(record.fields.get("at", ""))) is not None


def _is_generated(record: Record) -> bool | None:
    return True if record.kind is Kind.DECIDED else None


def make_checks() -> Mapping[str, Check]:
    """Fresh checks, by the names that compliance.yaml gives them."""
    return {
        "generated": Check("Every decision on a tool call is an event of its own", _is_generated),
        "content": Check(
            "Events say what happened, when, where, by which way in, with which outcome, and who", _has_content
        ),
        "time": Check("Time stamps are UTC, with microseconds", _is_utc),
    }
