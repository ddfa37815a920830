"""What may be forgotten: never what is held, open or young, whatever clocks say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.event import rfc3339
from agentgate.core.retention import (
    DEFAULT_DAYS,
    FLOOR_DAYS,
    LEAP_DAYS,
    BelowFloor,
    Hold,
    Quiet,
    Rule,
    Standing,
    first_young,
    leapt,
    most_at_a_time,
    standing,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NAMES = st.sampled_from(["acme", "b", "s-1", "s-2"])
SESSIONS = st.builds(Quiet, NAMES, NAMES, st.integers(0, 100))
HOLDS = st.builds(
    Hold, st.just("h"), st.sampled_from(["", "acme", "b"]), st.sampled_from(["", "s-1", "s-2"]), NAMES, st.just("")
)


def test_the_default_is_a_year_and_the_floor_six_months() -> None:
    assert (Rule().days, DEFAULT_DAYS, FLOOR_DAYS) == (365, 365, 183)
    assert Rule().limit(NOW) == NOW - timedelta(days=365)


@given(st.integers(0, 10_000))
def test_the_floor_cannot_be_passed_without_force(days: int) -> None:
    assert Rule(days, forced=True).days == days
    if days < FLOOR_DAYS:
        with pytest.raises(BelowFloor, match="183"):
            Rule(days)
    else:
        assert Rule(days).days == days


@given(SESSIONS, st.integers(0, 101), st.sets(st.tuples(NAMES, NAMES)), st.lists(HOLDS))
def test_only_what_is_old_closed_and_not_held_is_due(
    quiet: Quiet, old_below: int, open_calls: set[tuple[str, str]], holds: list[Hold]
) -> None:
    found = standing(quiet, old_below=old_below, open_calls=open_calls, holds=holds)
    is_held = any(hold.tenant in ("", quiet.tenant) and hold.session in ("", quiet.session) for hold in holds)
    is_due = quiet.last < old_below and (quiet.tenant, quiet.session) not in open_calls and not is_held
    assert (found is Standing.DUE) is is_due


TIMES = st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2090, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)))  # noqa: DTZ001


@given(TIMES, st.integers(0, 10_000))
def test_nothing_younger_than_the_limit_is_old(times: list[datetime], days: int) -> None:
    """An event is at least as young as every believable time before it: whatever clocks said in between."""
    limit = NOW - timedelta(days=days)
    texts = [(index, rfc3339(at)) for index, at in enumerate(times)]
    young = first_young(texts, rfc3339(limit), rfc3339(NOW))
    old = times if young is None else times[:young]
    assert all(at <= limit or at > NOW for at in old)
    assert young is None or limit < times[young] <= NOW


# --- clocks ---


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@given(st.integers(LEAP_DAYS + 1, 36_500), st.booleans())
def test_a_clock_that_leapt_ahead_is_not_believed(years: int, is_written_to: bool) -> None:
    """The log has nothing between its last true time and the leap, whether events came after it or not."""
    then = NOW + timedelta(days=years)
    after = then - timedelta(seconds=5) if is_written_to else None
    assert leapt(NOW, after, then) is not None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, days_ago(30)),  # a young log
        (None, None),  # an empty one
        (days_ago(LEAP_DAYS + 1), days_ago(LEAP_DAYS - 1)),
        (days_ago(50), days_ago(20)),  # a silence that is short enough
        (NOW + timedelta(days=9), days_ago(3)),  # a time that has not come
    ],
)
def test_a_log_that_goes_on_vouches_for_the_clock(before: datetime | None, after: datetime | None) -> None:
    assert leapt(before, after, NOW) is None


def test_a_long_silence_is_said_with_its_dates() -> None:
    assert "between 2026-08-13 and 2026-11-11" in str(leapt(days_ago(100), days_ago(10), NOW))


@given(st.integers(0, 10_000_000))
def test_one_run_takes_a_part_only(sessions: int) -> None:
    assert most_at_a_time(sessions) <= max(1_000, sessions / 10)
    assert most_at_a_time(sessions) >= 1_000
