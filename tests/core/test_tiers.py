"""What the policy's data may say about limits, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.amounts import MICROS, NONE, UNLIMITED, Amounts, micros, money
from agentgate.core.budget import Budget, Period
from agentgate.core.errors import PolicyInvalid
from agentgate.core.tiers import LimitRules, Tier, read_rules

WHOLE = {
    "rate_limits": {"db_query": 10},
    "tiers": {
        "default": {},
        "standard": {
            "requests_per_minute": 120,
            "per_tool": {"api_post": 5, "db_query": -1},
            "per_action": {"bytes": 1_000, "cost": "0.50"},
            "per_session": {"requests_per_minute": 60, "calls": 1_000, "cost": "5", "alert_threshold": "80%"},
            "per_hour": {"calls": 5_000},
            "per_day": {"bytes": 10**9},
        },
        "unlimited": {"requests_per_minute": -1},
    },
    "costs": {"api_post": "0.002"},
    "session_facts": True,
}


def test_everything_that_can_be_said_is_read() -> None:
    rules = read_rules(WHOLE)
    assert (rules.rate_limits, rules.costs, rules.session_facts) == ({"db_query": 10}, {"api_post": 2_000}, True)
    assert rules.tiers["default"] == rules.tiers["unlimited"] == Tier()
    standard = rules.tiers["standard"]
    assert (standard.agent, standard.session, standard.tools) == (120, 60, {"api_post": 5, "db_query": None})
    assert standard.action == Budget(Period.ACTION, Amounts(NONE, 1_000, MICROS // 2))
    assert standard.budgets == (
        Budget(Period.SESSION, Amounts(1_000, NONE, 5 * MICROS), Amounts(800, NONE, 4 * MICROS)),
        Budget(Period.DAY, Amounts(NONE, 10**9, NONE)),
        Budget(Period.HOUR, Amounts(5_000, NONE, NONE)),
    )


def test_the_example_of_the_documentation_is_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    rules = read_rules(json.loads(example))
    assert rules.tiers.keys() == {"default", "standard", "unlimited"}
    standard = rules.tiers["standard"]
    assert standard.action is not None
    assert (len(standard.budgets), rules.costs, rules.session_facts) == (3, {"api_post": 2_000}, True)


def test_data_that_says_nothing_limits_nothing() -> None:
    assert read_rules({"roles": {}}) == LimitRules()


def test_a_session_may_have_requests_per_minute_and_no_budget() -> None:
    tier = read_rules({"tiers": {"default": {"per_session": {"requests_per_minute": 3}}}}).tiers["default"]
    assert (tier.session, tier.budgets) == (3, ())


def in_tier(**about: Any) -> dict[str, Any]:
    return {"tiers": {"default": about}}


HERE = "data.tiers.default"
PER_MINUTE = "must be a whole number from 1 to 1000000, or -1 for no limit"
MONEY = 'must be an amount in quotes, such as "0.002"'
SHARE = f'{HERE}.per_day.alert_threshold must be a share from "1%" to "99%"'
KNOWN = "per_action, per_day, per_hour, per_session, per_tool, requests_per_minute"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"tiers": []}, "data.tiers must map names to limits"),
        ({"tiers": {"gold": {}}}, "data.tiers must have 'default', the tier of callers that have none"),
        ({"tiers": {"default": {}, "a b" * 22: {}}}, f"data.tiers: '{('a b' * 22)[:64]}' is not a name"),
        ({"tiers": {"default": None}}, f"{HERE} must map limits"),
        (in_tier(request_per_minute=1), f"{HERE} has no 'request_per_minute'; it may have {KNOWN}"),
        (in_tier(**{"x" * 65: 1, "y": 1}), f"{HERE} has no '{'x' * 64}'; it may have {KNOWN}"),
        *[(in_tier(requests_per_minute=n), f"{HERE}.requests_per_minute {PER_MINUTE}")
          for n in (0, True, 1.5, -2, 10**6 + 1)],
        (in_tier(per_session={"requests_per_minute": 0}), f"{HERE}.per_session.requests_per_minute {PER_MINUTE}"),
        (in_tier(per_tool={"a/b" * 22: 1}), f"{HERE}: '{('a/b' * 22)[:64]}' is not the name of a tool"),
        (in_tier(per_tool={"a": "1"}), f"{HERE}.per_tool.a {PER_MINUTE}"),
        (in_tier(per_tool=[]), f"{HERE}.per_tool must map tool names to requests per minute"),
        (in_tier(per_day=[]), f"{HERE}.per_day must map amounts"),
        (in_tier(per_session=[]), f"{HERE}.per_session must map amounts"),
        (in_tier(per_action={"calls": 1}),
         f"{HERE}.per_action has no 'calls'; it may have alert_threshold, bytes, cost"),
        (in_tier(per_day={"requests_per_minute": 1}),
         f"{HERE}.per_day has no 'requests_per_minute'; it may have alert_threshold, bytes, calls, cost"),
        *[(in_tier(per_day={name: n}), f"{HERE}.per_day.{name} must be a whole number from 1 to 1000000000000000")
          for name, n in (("calls", -1), ("bytes", 0), ("bytes", "1"), ("calls", 10**15 + 1))],
        *[(in_tier(per_day={"cost": cost}), f"{HERE}.per_day.cost {MONEY}") for cost in (1, "1e3", "0.0000001", "-1")],
        *[(in_tier(per_day={"calls": 1, "alert_threshold": share}), SHARE) for share in (0.8, "100%", "0%", "080%")],
        (in_tier(per_day={"alert_threshold": "80%"}),
         f"{HERE}.per_day.alert_threshold needs calls, bytes or cost to be a share of"),
        ({"costs": {"api_post": 0.002}}, f"data.costs.api_post {MONEY}"),
        ({"costs": {"a b": "1"}}, "data.costs: 'a b' is not the name of a tool"),
        ({"costs": []}, 'data.costs must map tool names to amounts such as "0.002"'),
        ({"session_facts": "yes"}, "data.session_facts must be true or false"),
        ({"rate_limits": []}, "data.rate_limits must map tool names to numbers of calls"),
        *[({"rate_limits": {"a": n}}, "data.rate_limits.a must be a whole number of calls from 1 to 1000000")
          for n in (0, True, 10**6 + 1)],
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_its_place(data: dict[str, Any], told: str) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        read_rules(data)
    assert str(refused.value) == told


def test_the_smallest_limits_are_read() -> None:
    least = in_tier(requests_per_minute=1, per_tool={"a": 1}, per_day={"calls": 1, "alert_threshold": "1%"})
    rules = read_rules(least | {"rate_limits": {"a": 1}})
    tier = rules.tiers["default"]
    assert (rules.rate_limits, tier.agent, tier.tools) == ({"a": 1}, 1, {"a": 1})
    assert tier.budgets == (Budget(Period.DAY, Amounts(1, NONE, NONE), Amounts(0, NONE, NONE)),)


def test_the_largest_limits_are_read() -> None:
    most = in_tier(requests_per_minute=10**6, per_day={"calls": 10**15, "alert_threshold": "99%"})
    tier = read_rules(most | {"rate_limits": {"a": 10**6}}).tiers["default"]
    assert (tier.agent, tier.budgets[0].limit.calls, tier.budgets[0].alert.calls) == (10**6, 10**15, 99 * 10**13)


@given(st.integers(0, 10**15 - 1))
def test_money_is_what_it_was_written_as(amount: int) -> None:
    assert micros(money(amount)) == amount


def test_money_has_no_digits_that_say_nothing() -> None:
    assert [money(amount) for amount in (0, 1, 2_000, 1_500_000, 10 * MICROS)] == [
        "0",
        "0.000001",
        "0.002",
        "1.5",
        "10",
    ]


@pytest.mark.parametrize("text", ["", "1.", ".5", "1e3", "-1", "1.0000001", "1" * 10, "\u0661", "1\n", "x" * 40])
def test_what_is_no_money_is_refused_with_its_beginning(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        micros(text)
    assert str(refused.value) == f'{text[:32]!r} is not an amount such as "0.002"'


def test_a_charge_that_fits_exactly_fits() -> None:
    budget = Budget(Period.DAY, Amounts(10, 100, NONE), Amounts(8, NONE, NONE))
    assert budget.over(Amounts(9, 90, 10**12), Amounts(1, 10, 10**12)) is None
    assert budget.over(Amounts(10, 0, 0), Amounts(1, 0, 0)) == "calls"
    assert budget.over(Amounts(0, 95, 0), Amounts(1, 6, 0)) == "bytes"
    assert budget.alerts(Amounts(7), Amounts(1)) is None
    assert budget.alerts(Amounts(8), Amounts(1)) == "calls"
    assert Budget(Period.DAY).limit == UNLIMITED
