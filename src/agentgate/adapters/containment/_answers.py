"""What admit.lua says, read strictly: everything that is not one of its answers is a refusal (K4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentgate.adapters.containment._common import budget_state, limit_state, read_facts
from agentgate.adapters.containment._resp import Answer, explain
from agentgate.core.budget import Budget
from agentgate.core.errors import ReasonCode
from agentgate.core.facts import Facts
from agentgate.ports.containment import Admitted, BudgetState, NotAdmitted, Quota, Uncounted


def verdict(answer: Answer, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
    """What it comes to for a call with that quota, asked by who had seen kill position `seen`."""
    match answer:
        case [0, int(position), None, 0, 0] if quota is None:
            return Admitted(position)
        case [0, int(position), None, int(used), int(reset_us), int(which)] if (
            quota is not None and not quota.budgets and 1 <= which <= len(quota.limits)
        ):
            return Admitted(position, limit_state(quota.limits[which - 1], used, reset_us))
        case [1, int(position), bytes(kill), _, _]:
            kill_id = kill.decode(errors="replace")
            return NotAdmitted(ReasonCode.KILLED, f"killed by {kill_id}", kill_id, position=position)
        case [3, int(position), None, _, _]:
            detail = f"the kill store is at position {position}, older than {seen}"
            return NotAdmitted(ReasonCode.KILL_STATE_UNKNOWN, detail, position=position)
        case [3, None, None, _, _]:
            return NotAdmitted(ReasonCode.KILL_STATE_UNKNOWN, "the kill store has no kill position")
        case [int(code), int(position), None, int(used), int(reset_us), *more] if quota is not None:
            try:
                if (counted := _counted(code, position, used, reset_us, more, quota)) is not None:
                    return counted
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # a number for a text, or one of none
                return NotAdmitted(
                    ReasonCode.KILL_STATE_UNKNOWN, "the kill store answered something that makes no sense"
                )
    return NotAdmitted(ReasonCode.KILL_STATE_UNKNOWN, explain(answer))


def _counted(
    code: int, position: int, used: int, reset_us: int, more: list[Any], quota: Quota
) -> Admitted | NotAdmitted | None:
    """With limits and budgets. Raises IndexError, KeyError, TypeError, ValueError: it does not fit the quota."""
    match code, more:
        case 0, [int(which), list(alert), list(facts)] if quota.budgets:
            limit = limit_state(quota.limits[which - 1], used, reset_us) if which else None
            if (which == 0) != (not quota.limits) or which < 0 or bool(facts) != quota.wants_facts:
                raise ValueError("not all of the quota was looked at")
            return Admitted(position, limit, _facts(facts), _budget(alert, quota, is_alert=True) if alert else None)
        case 2, [int(which)]:
            state = limit_state(_at(quota.limits, which), used, reset_us)
            return NotAdmitted(ReasonCode.RATE_LIMITED, "the limit is used up", limit=state, position=position)
        case 4, [list(spent)]:
            budget = _budget(spent, quota, is_alert=False)
            return NotAdmitted(ReasonCode.BUDGET_SPENT, "the budget is used up", budget=budget, position=position)
        case 6, []:
            detail = "calls from before a loss may not be in the log yet"
            return NotAdmitted(ReasonCode.BUDGET_UNKNOWN, detail, position=position)
        case 5, [list(unknown)] if unknown:
            uncounted = tuple(_uncounted(unknown, quota))
            detail = "the log must be counted first"
            return NotAdmitted(ReasonCode.BUDGET_UNKNOWN, detail, position=position, uncounted=uncounted)
    return None


def _facts(words: list[Any]) -> Facts | None:
    if not words:
        return None
    pairs: Iterator[bytes] = iter(words)
    return read_facts({name.decode(): value.decode() for name, value in zip(pairs, pairs, strict=True)})


def _budget(words: list[Any], quota: Quota, *, is_alert: bool) -> BudgetState:
    place, what, used, ends_us = words
    budget: Budget = _at(quota.budgets, place)
    if what not in (1, 2, 3):
        raise ValueError("no such amount")
    of = budget.alert if is_alert else budget.limit
    return budget_state(budget, what - 1, int(used), int(ends_us), of=of)


def _uncounted(words: list[Any], quota: Quota) -> Iterator[Uncounted]:
    rest = iter(words)
    for place, number, epoch in zip(rest, rest, rest, strict=True):
        yield Uncounted(_at(quota.budgets, place).period, int(number), epoch.decode())


def _at(several: tuple[Any, ...], place: Any) -> Any:
    if type(place) is not int or place < 1:
        raise ValueError("not a place")
    return several[place - 1]
