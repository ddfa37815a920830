"""Runs a plan, judges it, and keeps what is needed to look into a violation."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from tests.containment.checker import Timing, Violation, check, timings
from tests.containment.history import History
from tests.containment.plan import Plan
from tests.containment.run import Running

KEPT = Path(tempfile.gettempdir()) / "agentgate-histories"


@dataclass(slots=True)
class Seen:
    """What happened in many histories, so that nobody is content with ones in which nothing did."""

    histories: int = 0
    calls: int = 0
    sent: int = 0
    cut: int = 0
    died: int = 0
    refused_blind: int = 0
    """503, because kill state or log could not be reached."""
    drained: int = 0
    undrained: int = 0
    excepted: int = 0
    forced: int = 0
    timings: list[Timing] = field(default_factory=list)

    def add(self, history: History) -> None:
        self.histories += 1
        self.calls += len(history.calls)
        self.sent += len(history.sends)
        self.cut += sum(send.how == "cancelled" for send in history.sends)
        self.died += sum(send.how == "died" for send in history.sends)
        self.refused_blind += sum(call.status == 503 for call in history.calls)
        self.drained += sum(kill.is_order and kill.drained for kill in history.kills)
        self.undrained += sum(kill.is_order and kill.status == 202 for kill in history.kills)
        self.excepted += sum(bool(kill.excepted) for kill in history.kills)
        self.forced += sum(one.kind == "released" and one.fields["forced"] for one in history.records)
        self.timings += timings(history)

    def __str__(self) -> str:
        return (
            f"{self.histories} histories: {self.calls} calls, {self.sent} sent, {self.cut} cut, {self.died} died, "
            f"{self.refused_blind} refused blind; {self.drained} kills drained at once, {self.undrained} not; "
            f"kill to last cut {_spread([one.last_cancelled_ms for one in self.timings])}, "
            f"to first refusal {_spread([one.first_refusal_ms for one in self.timings])}, "
            f"to drained {_spread([one.answered_ms for one in self.timings if one.drained])}"
        )


def _spread(values: list[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if len(known) < 2:
        return "-"
    cuts = quantiles(known, n=100, method="inclusive")
    return f"p50 {cuts[49]:.0f} p99 {cuts[98]:.0f} max {known[-1]:.0f} ms"


async def judge(running: Running, plan: Plan, seen: Seen | None = None) -> list[Violation]:
    """The violations of one history; where there are some, it is kept with what the replicas said."""
    history = await running.run(plan)
    if seen is not None:
        seen.add(history)
    violations = check(history)
    if violations:
        keep(running, history)
    return violations


def keep(running: Running, history: History) -> Path:
    path = KEPT / f"{history.name}.json"
    history.write(path)
    for replica in running.cluster.replicas:
        shutil.copy(replica.output, KEPT / f"{history.name}-{replica.name}.log")
    return path


def told(plan: Plan, violations: list[Violation]) -> str:
    """For whoever finds a red test."""
    again = f"python -m tests.containment.check {KEPT / plan.name}.json"
    faults = ", ".join(fault.kind for fault in plan.faults)
    return "\n".join((f"history {plan.name} ({faults}); again: {again}", *map(str, violations)))
