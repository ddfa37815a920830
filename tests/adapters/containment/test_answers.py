"""What is not an answer of admit.lua to exactly what was asked is a refusal, whatever it looks like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.adapters.containment._answers import verdict
from agentgate.core.amounts import UNLIMITED, Amounts
from agentgate.core.budget import Budget, Period
from agentgate.core.errors import ReasonCode
from agentgate.ports.containment import Admitted, Counted, NotAdmitted, Quota, RateLimit

LIMITED = Quota((RateLimit(5, 60), RateLimit(9, 60, Counted.AGENT)))
SESSION = Budget(Period.SESSION, Amounts(5, -1, -1), Amounts(3, -1, -1))
BUDGETED = Quota((), (SESSION,))
WHOLE = Quota(LIMITED.limits, (SESSION, Budget(Period.DAY)), wants_facts=True)
FACTS = [b"calls", b"1", b"bytes", b"2", b"cost", b"3"]

words = st.one_of(st.none(), st.integers(-2, 6), st.binary(max_size=3), st.sampled_from([b"calls", b"n/x", b"l/y"]))
answers = st.recursive(words, lambda inside: st.lists(inside, max_size=8), max_leaves=20)


def test_the_answers_of_the_script_are_understood() -> None:
    limited = verdict([0, 7, None, 2, 60_000_000, 2], LIMITED, 7)
    assert isinstance(limited, Admitted)
    assert limited.limit is not None
    assert (limited.limit.of, limited.limit.remaining, limited.limit.reset_at) == (Counted.AGENT, 7, 60)
    whole = verdict([0, 7, None, 2, 60_000_000, 1, [1, 1, 3, 0], FACTS], WHOLE, 7)
    assert isinstance(whole, Admitted)
    assert whole.facts is not None
    assert whole.alert is not None
    assert (whole.facts.calls, whole.alert.period, whole.alert.limit) == (1, Period.SESSION, 3)
    unknown = verdict([5, 7, None, 0, 0, [2, 19_000, b"epoch"]], WHOLE, 7)
    assert isinstance(unknown, NotAdmitted)
    assert [(what.period, what.number, what.epoch) for what in unknown.uncounted] == [(Period.DAY, 19_000, "epoch")]


@pytest.mark.parametrize(
    ("answer", "quota"),
    [
        ([0, 7, None, 0, 0], LIMITED),  # nothing was counted
        ([0, 7, None, 0, 0], BUDGETED),
        ([0, 7, None, 1, 1, 0], LIMITED),
        ([0, 7, None, 1, 1, 3], LIMITED),
        ([0, 7, None, 1, 1, 1], WHOLE),  # only the limits were
        ([0, 7, None, 0, 0, 0, [], FACTS], WHOLE),
        ([0, 7, None, 1, 1, 1, [], []], WHOLE),  # facts are missing
        ([0, 7, None, 1, 1, 1, [], [b"calls", b"1"]], WHOLE),
        ([0, 7, None, 1, 1, 1, [], [b"calls"]], WHOLE),
        ([0, 7, None, 1, 1, 1, [], [b"calls", 1, b"bytes", 2, b"cost", 3]], WHOLE),
        ([0, 7, None, 0, 0, 0, [9, 1, 1, 1], []], BUDGETED),
        ([0, 7, None, 0, 0, 0, [1, 4, 1, 1], []], BUDGETED),
        ([2, 7, None, 1, 1, 0], LIMITED),
        ([2, 7, None, 1, 1], LIMITED),
        ([4, 7, None, 0, 0, [0, 1, 1, 1]], BUDGETED),
        ([5, 7, None, 0, 0, []], BUDGETED),
        ([5, 7, None, 0, 0, [2, 19_000, 6]], WHOLE),
        ([5, 7, None, 0, 0, [1, 2]], BUDGETED),
        ([0, 7, None, 0, 0, 0, [], []], None),
    ],
)
def test_an_answer_to_something_else_refuses(answer: list[Any], quota: Quota | None) -> None:
    said = verdict(answer, quota, 7)
    assert isinstance(said, NotAdmitted)
    assert said.reason is ReasonCode.KILL_STATE_UNKNOWN


@given(answers, st.sampled_from([None, LIMITED, BUDGETED, WHOLE]))
def test_nonsense_never_raises_and_admits_nothing_it_does_not_name(answer: Any, quota: Quota | None) -> None:
    said = verdict(answer, quota, 0)
    if isinstance(said, Admitted):
        assert answer[0] == 0
        assert (said.limit is not None) == bool(quota is not None and quota.limits)
        assert (said.facts is not None) == bool(quota is not None and quota.wants_facts)


def test_a_budget_without_limits_limits_nothing() -> None:
    assert Budget(Period.SESSION).limit == UNLIMITED
