"""What `make soak` would say of a gateway that leaks, slows down, loses or lets through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.soak.bounds import Sample, Seen, growth, judge, p99

GOOD: dict[str, Any] = {
    "lives": {7: [Sample(10.0 * n, 100.0 + n % 3, 80 + n % 2) for n in range(100)]},
    "calls": [(float(n), 8.0 + n % 5) for n in range(1_000)],
    "is_verified": True,
}


def broken(**more: Any) -> list[str]:
    return [bound.name for bound in judge(Seen(**GOOD | more)) if not bound.holds]


def a_life(memory: Sequence[float], descriptors: Sequence[int]) -> dict[int, list[Sample]]:
    both = zip(memory, descriptors, strict=True)
    return {7: [Sample(10.0 * n, mib, count) for n, (mib, count) in enumerate(both)]}


def test_a_run_with_nothing_wrong_breaks_nothing() -> None:
    assert broken() == []


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        ({"lives": a_life([100 + 0.3 * n for n in range(100)], [80] * 100)}, "resident memory of process 7"),
        ({"lives": a_life([100] * 100, [80 + n // 6 for n in range(100)])}, "descriptors of process 7"),
        ({"lives": {}}, "resident memory"),
        ({"calls": [(float(n), 8.0 if n < 300 else 21.0) for n in range(900)]}, "p99 of calls, restarts left out"),
        ({"calls": [(float(n), 8.0) for n in range(300)]}, "p99 of calls, restarts left out"),
        ({"faults": ["500 internal"]}, "5xx that are not documented"),
        ({"false_refusals": ["policy_timeout"]}, "calls refused without a reason, away from every restart"),
        ({"escaped": ["t-1"]}, "calls of a killed session let through after its kill had drained"),
        ({"broken_steps": ["reload"]}, "kills, releases, reloads and rotations that failed"),
        ({"unanswered": 1}, "calls that were never answered"),
        ({"missing": 1}, "acknowledged events that the log does not have"),
        ({"is_verified": False}, "log verify"),
    ],
)
def test_each_bound_is_broken_by_what_it_is_for(seen: dict[str, Any], name: str) -> None:
    assert broken(**seen) == [name]


def test_what_a_process_takes_to_warm_up_is_no_growth() -> None:
    warm = a_life([50 + 5 * n for n in range(10)] + [100.0] * 90, [20 + 6 * n for n in range(10)] + [80] * 90)
    assert broken(lives=warm) == []


def test_growth_is_by_the_fitted_line_not_by_the_last_sample() -> None:
    found = growth([(float(n), 100.0 + (50.0 if n == 99 else 0.0)) for n in range(100)])
    assert found is not None
    assert found.by < 5
    assert growth([(0.0, 1.0), (1.0, 2.0)]) is None


def test_p99_is_the_nearest_rank() -> None:
    assert p99(range(1, 101)) == 99
    assert p99([]) == 0.0
