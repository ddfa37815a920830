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


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"tiers": []}, "data.tiers must map"),
        ({"tiers": {"gold": {}}}, "must have 'default'"),
        ({"tiers": {"default": {}, "a b": {}}}, "'a b' is not a name"),
        ({"tiers": {"default": None}}, "data.tiers.default must map"),
        (in_tier(request_per_minute=1), "has no 'request_per_minute'"),
        (in_tier(requests_per_minute=0), "data.tiers.default.requests_per_minute must be a whole number"),
        (in_tier(requests_per_minute=True), "whole number"),
        (in_tier(requests_per_minute=1.5), "whole number"),
        (in_tier(requests_per_minute=-2), "or -1 for no limit"),
        (in_tier(per_tool={"a/b": 1}), "'a/b' is not the name of a tool"),
        (in_tier(per_tool={"a": "1"}), "data.tiers.default.per_tool.a must be"),
        (in_tier(per_action={"calls": 1}), "has no 'calls'"),
        (in_tier(per_day={"requests_per_minute": 1}), "has no 'requests_per_minute'"),
        (in_tier(per_day={"calls": -1}), "data.tiers.default.per_day.calls must be a whole number from 1"),
        (in_tier(per_day={"cost": 1}), 'data.tiers.default.per_day.cost must be an amount in quotes, such as "0.002"'),
        (in_tier(per_day={"cost": "1e3"}), "amount in quotes"),
        (in_tier(per_day={"cost": "0.0000001"}), "amount in quotes"),
        (in_tier(per_day={"cost": "-1"}), "amount in quotes"),
        (in_tier(per_day={"calls": 1, "alert_threshold": 0.8}), 'a share from "1%" to "99%"'),
        (in_tier(per_day={"calls": 1, "alert_threshold": "100%"}), 'a share from "1%" to "99%"'),
        (in_tier(per_day={"alert_threshold": "80%"}), "needs calls, bytes or cost"),
        ({"costs": {"api_post": 0.002}}, "data.costs.api_post must be an amount in quotes"),
        ({"costs": {"a b": "1"}}, "is not the name of a tool"),
        ({"session_facts": "yes"}, "data.session_facts must be true or false"),
        ({"rate_limits": {"db_query": 0}}, "data.rate_limits.db_query"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(data: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says.replace("(", r"\(")):
        read_rules(data)


@given(st.integers(0, 10**15 - 1))
def test_money_is_what_it_was_written_as(amount: int) -> None:
    assert micros(money(amount)) == amount


def test_a_charge_that_fits_exactly_fits() -> None:
    budget = Budget(Period.DAY, Amounts(10, 100, NONE), Amounts(8, NONE, NONE))
    assert budget.over(Amounts(9, 90, 10**12), Amounts(1, 10, 10**12)) is None
    assert budget.over(Amounts(10, 0, 0), Amounts(1, 0, 0)) == "calls"
    assert budget.over(Amounts(0, 95, 0), Amounts(1, 6, 0)) == "bytes"
    assert budget.alerts(Amounts(7), Amounts(1)) is None
    assert budget.alerts(Amounts(8), Amounts(1)) == "calls"
    assert Budget(Period.DAY).limit == UNLIMITED
