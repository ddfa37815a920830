"""What `agentgate verify` says: every check by name, what it found, and which kind of damage a broken one is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

_MOST: Final = 50
"""Of one check: enough to see a pattern."""


class Standing(StrEnum):
    """What a check found. The exit status of `agentgate verify` follows from the worst."""

    HOLDS = "holds"
    BROKEN = "broken"
    NOT_CHECKED = "not checked"


class Fault(StrEnum):
    """What was done to a pack, or to the log behind it. A script may rely on these names."""

    MALFORMED = "malformed"
    ALTERED = "altered event"
    REMOVED = "removed event"
    INSERTED = "inserted event"
    REORDERED = "reordered events"
    TRUNCATED = "truncated tail"
    FORKED = "forked log"
    ROLLED_BACK = "rolled back log"
    OTHER_LOG = "another log"
    WRONG_KEY = "wrong key"
    STRIPPED = "stripped signature"
    CHANGED = "changed after signing"
    CHANGED_VIEW = "changed view"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `fault` is there exactly when it is broken."""

    check: str
    standing: Standing
    detail: str
    fault: Fault | None = None
    convinces: bool = False
    """A key that the reader brought along has signed all that the pack says."""


@dataclass(frozen=True, slots=True)
class Report:
    """Every finding about one pack."""

    findings: tuple[Finding, ...] = ()

    @property
    def exit_status(self) -> int:
        """0 verified, 1 broken or missing, 2 no key of the reader covers the pack (DESIGN §5)."""
        if any(finding.standing is Standing.BROKEN for finding in self.findings):
            return 1
        return 0 if any(finding.convinces for finding in self.findings) else 2

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The kinds of damage, each once, the first one found first."""
        return tuple(dict.fromkeys(finding.fault for finding in self.findings if finding.fault is not None))


def holds(check: str, detail: str, *, convinces: bool = False) -> Finding:
    return Finding(check, Standing.HOLDS, detail, convinces=convinces)


def broken(check: str, fault: Fault, detail: str) -> Finding:
    return Finding(check, Standing.BROKEN, detail, fault)


def not_checked(check: str, detail: str) -> Finding:
    return Finding(check, Standing.NOT_CHECKED, detail)


def first(findings: Iterable[Finding]) -> list[Finding]:
    return list(islice(findings, _MOST))
