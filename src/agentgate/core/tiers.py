"""How often and how much: `rate_limits`, `tiers`, `costs` and `session_facts` of the policy's data, read strictly.

docs/limits.md has the form and its meaning. What is not understood is refused as a whole: a limit with a misspelt name
would be no limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentgate.core.amounts import NONE, UNLIMITED, Amounts, micros
from agentgate.core.budget import Budget, Period
from agentgate.core.call import is_id, is_tool_name
from agentgate.core.errors import PolicyInvalid

DEFAULT: Final = "default"
"""The tier of whoever has none."""
MINUTE_S: Final = 60.0
MOST_CALLS: Final = 1_000_000
"""A minute, or a window: each of them is kept until it has left."""
MOST: Final = 10**15
"""Of what is only added up."""
_PERCENT: Final = re.compile(r"([1-9][0-9]?)%")
_ABOUT_A_TIER: Final = frozenset(
    {"requests_per_minute", "per_tool", "per_action", "per_session", "per_hour", "per_day"}
)
_BUDGETS: Final = (Period.SESSION, Period.DAY, Period.HOUR)
"""In the order in which a call that is over several is told of one: what helps last is told first."""


@dataclass(frozen=True, slots=True)
class Tier:
    """The limits of those who have it. Requests are per minute; None is no limit."""

    agent: int | None = None
    session: int | None = None
    tools: Mapping[str, int | None] = field(default_factory=dict)
    """Of single tools; they take the place of the tool's `rate_limits`."""
    budgets: tuple[Budget, ...] = ()
    action: Budget | None = None
    """Of a single call: its arguments' bytes and its cost."""


@dataclass(frozen=True, slots=True)
class LimitRules:
    """All that the data says about limits."""

    rate_limits: Mapping[str, int] = field(default_factory=dict)
    """Of each agent, by tool, in the configured window."""
    tiers: Mapping[str, Tier] = field(default_factory=dict)
    costs: Mapping[str, int] = field(default_factory=dict)
    """Micros by tool."""
    session_facts: bool = False
    """Policy wants to know what a session did before."""


def read_rules(data: Mapping[str, Any]) -> LimitRules:
    """The rules in a policy's data.

    Raises:
        PolicyInvalid: something that is not in docs/limits.md; the text says what and where.
    """
    limits = _mapping(data.get("rate_limits", {}), "rate_limits", "tool names to numbers of calls")
    for tool, limit in limits.items():
        if type(limit) is not int or not 1 <= limit <= MOST_CALLS:
            raise PolicyInvalid(f"data.rate_limits.{tool} must be a whole number of calls from 1 to {MOST_CALLS}")
    costs = _mapping(data.get("costs", {}), "costs", 'tool names to amounts such as "0.002"')
    tiers = _mapping(data.get("tiers", {}), "tiers", "names to limits")
    if tiers and DEFAULT not in tiers:
        raise PolicyInvalid(f"data.tiers must have {DEFAULT!r}, the tier of callers that have none")
    wants_facts = data.get("session_facts", False)
    if not isinstance(wants_facts, bool):
        raise PolicyInvalid("data.session_facts must be true or false")
    return LimitRules(
        dict(limits),
        {name: _tier(name, about) for name, about in tiers.items()},
        {_tool(tool, "costs"): _money(cost, f"costs.{tool}") for tool, cost in costs.items()},
        wants_facts,
    )


def _tier(name: str, about: Any) -> Tier:
    where = f"tiers.{name}"
    if not is_id(name):
        raise PolicyInvalid(f"data.tiers: {name[:64]!r} is not a name")
    about = _mapping(about, where, "limits")
    _known(about, _ABOUT_A_TIER, where)
    session = _mapping(about.get("per_session", {}), f"{where}.per_session", "amounts")
    tools = _mapping(about.get("per_tool", {}), f"{where}.per_tool", "tool names to requests per minute")
    budgets = [
        _budget(period, about[key], f"{where}.{key}") for period in _BUDGETS if (key := f"per_{period}") in about
    ]
    return Tier(
        agent=_requests(about, where),
        session=_requests(session, f"{where}.per_session"),
        tools={_tool(tool, where): _per_minute(limit, f"{where}.per_tool.{tool}") for tool, limit in tools.items()},
        budgets=tuple(budget for budget in budgets if budget.limit != UNLIMITED),
        action=_budget(Period.ACTION, about["per_action"], f"{where}.per_action") if "per_action" in about else None,
    )


def _budget(period: Period, about: Any, where: str) -> Budget:
    about = _mapping(about, where, "amounts")
    known = {"bytes", "cost", "alert_threshold"} | ({"calls"} if period is not Period.ACTION else set())
    if period is Period.SESSION:
        known.add("requests_per_minute")
    _known(about, known, where)
    limit = Amounts(
        _amount(about["calls"], f"{where}.calls") if "calls" in about else NONE,
        _amount(about["bytes"], f"{where}.bytes") if "bytes" in about else NONE,
        _money(about["cost"], f"{where}.cost") if "cost" in about else NONE,
    )
    alert = UNLIMITED
    if "alert_threshold" in about:
        percent = about["alert_threshold"]
        found = _PERCENT.fullmatch(percent) if isinstance(percent, str) else None
        if found is None:
            raise PolicyInvalid(f'data.{where}.alert_threshold must be a share from "1%" to "99%"')
        if limit == UNLIMITED:
            raise PolicyInvalid(f"data.{where}.alert_threshold needs calls, bytes or cost to be a share of")
        alert = Amounts(*(NONE if most == NONE else most * int(found[1]) // 100 for most in limit))
    return Budget(period, limit, alert)


def _requests(about: Mapping[str, Any], where: str) -> int | None:
    if "requests_per_minute" not in about:
        return None
    return _per_minute(about["requests_per_minute"], f"{where}.requests_per_minute")


def _per_minute(value: Any, where: str) -> int | None:
    if type(value) is not int or not (value == NONE or 1 <= value <= MOST_CALLS):
        raise PolicyInvalid(f"data.{where} must be a whole number from 1 to {MOST_CALLS}, or -1 for no limit")
    return None if value == NONE else value


def _amount(value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= MOST:
        raise PolicyInvalid(f"data.{where} must be a whole number from 1 to {MOST}")
    return value


def _money(value: Any, where: str) -> int:
    try:
        return micros(value)
    except (TypeError, ValueError):  # no text, or no amount
        raise PolicyInvalid(f'data.{where} must be an amount in quotes, such as "0.002"') from None


def _tool(name: str, where: str) -> str:
    if not is_tool_name(name):
        raise PolicyInvalid(f"data.{where}: {name[:64]!r} is not the name of a tool")
    return name


def _mapping(value: Any, where: str, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PolicyInvalid(f"data.{where} must map {what}")
    return value


def _known(about: Mapping[str, Any], known: frozenset[str] | set[str], where: str) -> None:
    if strange := sorted(about.keys() - known):
        raise PolicyInvalid(f"data.{where} has no {strange[0][:64]!r}; it may have {', '.join(sorted(known))}")
