"""What both stores say in the same way: the state of a limit, and a call in flight."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from agentgate.core.amounts import Amounts
from agentgate.core.budget import Budget, Period, Tally
from agentgate.core.call import Call
from agentgate.core.event import rfc3339
from agentgate.core.facts import Facts, Past
from agentgate.ports.containment import BudgetState, Counted, InFlight, LimitState, RateLimit

US_PER_S: Final = 1_000_000
SESSION_LIFE_S: Final = 3_600
"""For how long what an idle session used is kept at hand; if it comes back later it is counted from the log again."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def limit_state(limit: RateLimit, used: int, reset_us: int) -> LimitState:
    """`reset_us` is when the oldest call leaves the window, in µs since 1970; rounded up to a whole second, so that
    a caller who waits until then finds room."""
    return LimitState(limit.limit, max(0, limit.limit - used), -(-reset_us // US_PER_S), limit.of)


def limit_key(call: Call, limit: RateLimit) -> str:
    """Whose calls are counted. A `/` is in no name, so no two keys are alike."""
    caller = call.caller
    if limit.of is Counted.TOOL:
        return f"tool/{caller.tenant}/{caller.id}/{call.tool_name}"
    if limit.of is Counted.AGENT:
        return f"agent/{caller.tenant}/{caller.id}"
    return f"session/{caller.tenant}/{call.session}/{caller.id}"


def budget_key(call: Call, period: Period) -> str:
    """Whose use is added up. A session's with its principal: what others try in it must not use it up."""
    if period is Period.SESSION:
        return f"session/{call.tenant}/{call.session}/{call.caller.id}"
    return f"{period}/{call.tenant}/{call.caller.id}"


def life_s(period: Period) -> int:
    """For how long it is kept after its last call. A period outlives its end, because what it holds then shows that
    the next one begins with nothing."""
    return SESSION_LIFE_S if period is Period.SESSION else 2 * period.seconds


def budget_state(budget: Budget, what: int, used: int, ends_us: int, *, of: Amounts) -> BudgetState:
    """`what` is the place of the amount, from 0; `of` the limits or the thresholds."""
    reset_at = -(-ends_us // US_PER_S) if budget.period.seconds else None
    return BudgetState(budget.period, Amounts._fields[what], of[what], used, reset_at)


def facts_fields(tally: Tally) -> dict[str, str | int]:
    """What a session's budget is filled with."""
    found: dict[str, str | int] = dict(tally.used._asdict())
    for label in tally.facts.labels:
        found[f"l/{label}"] = 1
    for tool, past in tally.facts.tools.items():
        found[f"n/{tool}"] = past.calls
        found[f"a/{tool}"] = int(past.last_s)
    return found


def read_facts(fields: Mapping[str, str | int]) -> Facts:
    """The facts in a session's budget. Raises KeyError, ValueError: it is not one."""
    used = Amounts(*(int(fields[name]) for name in Amounts._fields))
    labels = frozenset(name[2:] for name in fields if name.startswith("l/"))
    tools = {
        name[2:]: Past(int(calls), float(fields[f"a/{name[2:]}"]))
        for name, calls in fields.items()
        if name.startswith("n/")
    }
    return Facts(used.calls, used.bytes, used.cost, labels, tools)


def flight_entry(call: Call, member: str, since_us: int) -> dict[str, str | int]:
    """What a display of calls in flight wants to know. No arguments: they may hold secrets."""
    return {
        "tenant": call.tenant,
        "session": call.session,
        "agent": call.agent,
        "tool": call.tool_name,
        "server": call.server,
        "since_us": since_us,
        "member": member,
    }


def shown(trace_id: str, entry: Mapping[str, str | int]) -> InFlight:
    """An entry as people read it. The time is written out only here: few entries are ever looked at.

    Raises:
        KeyError, TypeError, ValueError: it is not an entry of ours, or of another version.
    """
    try:
        since = rfc3339(_EPOCH + timedelta(microseconds=int(entry["since_us"])))
    except OverflowError:
        raise ValueError("it began at no time that there is") from None
    names = {name: _text(entry[name]) for name in ("tenant", "session", "agent", "tool", "server", "member")}
    return InFlight(trace_id=trace_id, since=since, **names)


def _text(value: object) -> str:
    if not isinstance(value, str):  # to write anything else out may itself fail: a list can be too deep for that
        raise TypeError("a name is no text")
    return value
