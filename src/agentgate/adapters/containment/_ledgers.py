"""Budgets in memory, by the rules of admit.lua, settle.lua and restore.lua."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from agentgate.adapters.containment._common import US_PER_S, budget_key, budget_state, facts_fields, life_s, read_facts
from agentgate.core.amounts import NOTHING, Amounts
from agentgate.core.budget import Budget, Period, Tally, first_over
from agentgate.core.call import Call
from agentgate.core.errors import ReasonCode
from agentgate.core.facts import Facts
from agentgate.ports.containment import BudgetState, NotAdmitted, Quota, Spent, Uncounted

EMPTY_LIFE_S: Final = 60
"""Of a session that used nothing, or is being counted: names can be made up."""
COUNTING_LIFE_S: Final = 3_600
"""Of an agent's hour or day that is being counted, which may take long."""


@dataclass(slots=True)
class _Ledger:
    """What one session, or one agent in a period, has used. In Redis a hash with these fields, and `term`: since when
    the server that it was counted at had lost nothing, and no member had come to it from another one, which may know of
    more."""

    epoch: str
    """Names what the count rests on."""
    period: int
    """The number of its period since 1970; 0 for a session."""
    expires_us: int
    through: int | None = None
    """The index through which the log was counted; None while that is being done."""
    used: Amounts = NOTHING
    """`calls`, `bytes`, `cost`."""
    reserved: dict[str, int] = field(default_factory=dict)
    """`r/<trace id>` = period: calls in here that have not ended."""
    facts: dict[str, str | int] = field(default_factory=dict)
    """`n/<tool>` calls that ended well, `a/<tool>` when the last did (s), `l/<label>`: 1. Of a session only."""

    def add(self, calls: int, size: int, cost: int) -> None:
        self.used = Amounts(self.used.calls + calls, self.used.bytes + size, self.used.cost + cost)


class Ledgers:
    """Of one process. Every method is atomic by not waiting."""

    def __init__(self) -> None:
        self._ledgers: OrderedDict[str, _Ledger] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ledgers)

    def look(self, call: Call, quota: Quota, now_us: int) -> NotAdmitted | tuple[BudgetState | None, Facts | None]:
        """Whether the call fits: a refusal, or what alerts and the session's facts. Counts nothing."""
        self._drop_idle(now_us)
        uncounted = tuple(found for budget in quota.budgets if (found := self._unknown(call, budget, now_us)))
        if uncounted:
            return NotAdmitted(ReasonCode.BUDGET_UNKNOWN, "the log must be counted first", uncounted=uncounted)
        alert = None
        for budget in quota.budgets:
            ledger = self._current(call, budget.period, now_us)
            ends_us = (ledger.period + 1) * budget.period.seconds * US_PER_S
            for limits in (budget.limit, budget.alert):
                over = first_over(limits, ledger.used, quota.charge)
                if over is None:
                    continue
                what = Amounts._fields.index(over)
                state = budget_state(budget, what, ledger.used[what], ends_us, of=limits)
                if limits is budget.limit:
                    return NotAdmitted(ReasonCode.BUDGET_SPENT, "the budget is used up", budget=state)
                alert = alert or state
        if not quota.wants_facts:
            return alert, None
        session = self._current(call, Period.SESSION, now_us)
        return alert, read_facts(session.facts | session.used._asdict())

    def charge(self, call: Call, quota: Quota, now_us: int) -> None:
        """Count a call that fits."""
        for budget in quota.budgets:
            ledger = self._current(call, budget.period, now_us)
            ledger.add(*quota.charge)
            ledger.reserved[call.trace_id] = ledger.period
            ledger.expires_us = now_us + life_s(budget.period) * US_PER_S

    def settle(self, call: Call, quota: Quota, spent: Spent | None, now_us: int) -> None:
        for budget in quota.budgets:
            key = budget_key(call, budget.period)
            ledger = self._ledgers.get(key)
            if ledger is None:
                continue
            if ledger.through is None:  # whoever counts may not have read this
                del self._ledgers[key]
                continue
            is_news = self._settled(ledger, call, quota.charge, spent)
            if is_news and spent is not None and budget.period is Period.SESSION:
                if spent.is_ok:
                    ledger.facts[f"n/{call.tool_name}"] = int(ledger.facts.get(f"n/{call.tool_name}", 0)) + 1
                    ledger.facts[f"a/{call.tool_name}"] = now_us // US_PER_S
                ledger.facts |= {f"l/{label}": 1 for label in spent.labels}
            is_empty = budget.period is Period.SESSION and ledger.used.calls <= 0
            ledger.expires_us = now_us + (EMPTY_LIFE_S if is_empty else life_s(budget.period)) * US_PER_S

    def restore(self, call: Call, uncounted: Uncounted, tally: Tally, now_us: int) -> bool:
        ledger = self._ledgers.get(budget_key(call, uncounted.period))
        if ledger is None or ledger.epoch != uncounted.epoch or ledger.through is not None:
            return False
        ledger.through, ledger.used = tally.through, tally.used
        if uncounted.period is Period.SESSION:
            ledger.facts = facts_fields(tally)
        ledger.expires_us = now_us + life_s(uncounted.period) * US_PER_S
        return True

    def _unknown(self, call: Call, budget: Budget, now_us: int) -> Uncounted | None:
        key = budget_key(call, budget.period)
        number = _number(budget.period, now_us)
        ledger = self._ledgers.get(key)
        if ledger is not None and ledger.through is not None:
            return None
        if ledger is None or ledger.period < number:
            counting_s = COUNTING_LIFE_S if budget.period.seconds else EMPTY_LIFE_S
            ledger = _Ledger(call.trace_id, number, now_us + counting_s * US_PER_S)
            self._ledgers[key] = ledger
        return Uncounted(budget.period, ledger.period, ledger.epoch)

    def _current(self, call: Call, period: Period, now_us: int) -> _Ledger:
        """One that is known, in the period that is now; of a clock that was set back the later period stays."""
        ledger = self._ledgers[budget_key(call, period)]
        if (number := _number(period, now_us)) > ledger.period:
            ledger.period, ledger.used = number, NOTHING
        return ledger

    @staticmethod
    def _settled(ledger: _Ledger, call: Call, charge: Amounts, spent: Spent | None) -> bool:
        """Add or take back; whether what the call did is news to the ledger."""
        reserved = ledger.reserved.pop(call.trace_id, None)
        if reserved is not None and reserved != ledger.period:
            return False  # it was of the period before
        if spent is None:
            if reserved is not None:
                ledger.add(-charge.calls, -charge.bytes, -charge.cost)
            return False
        if reserved is not None:
            ledger.add(0, spent.result_bytes, spent.more_cost)
            return True
        # it was counted meanwhile: what the log had then is in it already
        through = ledger.through or 0
        if spent.allowed_at >= through:
            ledger.add(charge.calls, charge.bytes, charge.cost + spent.more_cost)
        is_news = spent.ended_at is None or spent.ended_at >= through
        if is_news:
            ledger.add(0, spent.result_bytes, 0)
        return is_news

    def _drop_idle(self, now_us: int) -> None:
        """Look at two in turn, as for windows, so that sessions that ended cost nothing."""
        for _ in range(min(2, len(self._ledgers))):
            key, ledger = next(iter(self._ledgers.items()))
            if ledger.expires_us <= now_us:
                del self._ledgers[key]
            else:
                self._ledgers.move_to_end(key)


def _number(period: Period, now_us: int) -> int:
    return now_us // (period.seconds * US_PER_S) if period.seconds else 0
