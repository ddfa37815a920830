"""Budgets: what may be used up in a session, an hour or a day, what a call takes, and what the log says is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from agentgate.core.amounts import NONE, NOTHING, UNLIMITED, Amounts
from agentgate.core.event import Kind, Outcome, Record
from agentgate.core.facts import Facts, Past


class Period(StrEnum):
    """What a budget is for. Hours and days are those of UTC; a session lasts for as long as it is used."""

    ACTION = "action"
    """A single call: nothing is kept of it."""
    SESSION = "session"
    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        """How long it is; 0 for what begins and ends by nobody's clock."""
        return _SECONDS[self]


_SECONDS: Final = {Period.ACTION: 0, Period.SESSION: 0, Period.HOUR: 3600, Period.DAY: 86_400}


@dataclass(frozen=True, slots=True)
class Budget:
    """What one period may use; from `alert` on, a call of it needs an approval. NONE: no limit, no alert."""

    period: Period
    limit: Amounts = UNLIMITED
    alert: Amounts = UNLIMITED

    def over(self, used: Amounts, charge: Amounts) -> str | None:
        """What a charge would take too much of; None where it fits."""
        return first_over(self.limit, used, charge)

    def alerts(self, used: Amounts, charge: Amounts) -> str | None:
        """What a charge would take past the threshold of."""
        return first_over(self.alert, used, charge)


def first_over(limit: Amounts, used: Amounts, charge: Amounts) -> str | None:
    for name, most, now, more in zip(Amounts._fields, limit, used, charge, strict=True):
        if most != NONE and now + more > most:
            return name
    return None


@dataclass(frozen=True, slots=True)
class Tally:
    """What the log says was used, by all its events below index `through`."""

    through: int
    used: Amounts = NOTHING
    facts: Facts = field(default_factory=Facts)


class Count:
    """Counts again what one principal's calls used, from their events: of one session or one period, in log order.

    A call counts from its recorded ALLOW on, run or not; its result counts when its outcome is recorded.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._bytes = 0
        self._cost = 0
        self._labels: set[str] = set()
        self._tools: dict[str, Past] = {}

    def add(self, record: Record) -> None:
        fields = record.fields
        if record.kind is Kind.DECIDED and fields["decision"] == "ALLOW":
            self._calls += 1
            self._bytes += fields.get("arguments_bytes", 0)
            self._cost += fields.get("cost_micros", 0)
        elif record.kind is Kind.FINISHED:
            self._bytes += fields.get("result_bytes", 0)
            self._labels.update(fields.get("labels", ()))  # of failures too: what a tool says then is data as well
            if fields["outcome"] == Outcome.OK:
                past = self._tools.get(fields["tool"])
                before = past.calls if past is not None else 0
                self._tools[fields["tool"]] = Past(before + 1, datetime.fromisoformat(fields["at"]).timestamp())

    def tally(self, through: int) -> Tally:
        """What was added, which is all that there is below index `through`."""
        used = Amounts(self._calls, self._bytes, self._cost)
        return Tally(through, used, Facts(*used, frozenset(self._labels), dict(self._tools)))
