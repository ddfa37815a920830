"""What an audit of a log found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_FINDINGS: Final = 50
"""Enough to see a pattern. The first one names where it starts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that differs. `index` is the event's, or None for what belongs to no single event."""

    index: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.index is None else f"event {self.index}: {self.what}"


class Findings(list[Finding]):
    """The first ones, in the order in which they are found."""

    def add(self, index: int | None, what: str) -> None:
        if len(self) < MAX_FINDINGS:
            self.append(Finding(index, what))


@dataclass(slots=True)
class Report:
    """What holds. `ok` only if nothing differs; `notes` are oddities that are no proof of tampering."""

    size: int
    root: bytes
    kill_position: int
    findings: list[Finding]
    notes: list[str]
    checkpoints: int
    """Checkpoints whose root and signature hold."""
    signed: int
    """Events that the newest checkpoint is over that holds. Nothing shows what those after them were."""
    pruned: int
    """Events whose body a prune event took."""
    open_intents: int

    @property
    def ok(self) -> bool:
        return not self.findings
