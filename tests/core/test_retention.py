"""What may be forgotten: never what is held, open or young, whatever clocks say."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
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
BETWEEN = ("2", "5")
"""The limit and now."""
NAMES = st.sampled_from(["acme", "b", "s-1", "s-2"])
SESSIONS = st.builds(Quiet, NAMES, NAMES, st.integers(0, 100))
HOLDS = st.builds(
    Hold, st.just("h"), st.sampled_from(["", "acme", "b"]), st.sampled_from(["", "s-1", "s-2"]), NAMES, st.just("")
)
WHY = re.escape("logs are to be kept for six months (EU AI Act, Art. 19 and 26); force it if other law lets you")


def test_the_default_is_a_year_and_the_floor_six_months() -> None:
    assert (Rule().days, DEFAULT_DAYS, FLOOR_DAYS) == (365, 365, 183)
    assert Rule().limit(NOW) == NOW - timedelta(days=365)


@given(st.integers(0, 10_000))
@example(FLOOR_DAYS - 1)
@example(FLOOR_DAYS)
def test_the_floor_cannot_be_passed_without_force(days: int) -> None:
    assert Rule(days, forced=True).days == days
    if days < FLOOR_DAYS:
        with pytest.raises(BelowFloor, match=f"^{days} days is below the floor of 183: {WHY}$"):
            Rule(days)
    else:
        assert Rule(days).days == days


@given(SESSIONS, st.integers(0, 101), st.sets(st.tuples(NAMES, NAMES)), st.lists(HOLDS))
@example(Quiet("acme", "s-1", 4), 5, set(), [Hold("h", "acme", "s-1", "person:ada", "")])
@example(Quiet("acme", "s-1", 4), 5, set(), [Hold("h", "b", "s-1", "person:ada", "")])
@example(Quiet("acme", "s-1", 4), 5, set(), [Hold("h", "acme", "s-2", "person:ada", "")])
def test_only_what_is_old_closed_and_not_held_is_due(
    quiet: Quiet, old_below: int, open_calls: set[tuple[str, str]], holds: list[Hold]
) -> None:
    found = standing(quiet, old_below=old_below, between=BETWEEN, open_calls=open_calls, holds=holds)
    is_held = any(hold.tenant in ("", quiet.tenant) and hold.session in ("", quiet.session) for hold in holds)
    is_due = quiet.last < old_below and (quiet.tenant, quiet.session) not in open_calls and not is_held
    assert (found is Standing.DUE) is is_due


@pytest.mark.parametrize(
    ("of", "covered"),
    [
        (("acme", "s-1"), [("acme", "s-1")]),
        (("acme", ""), [("acme", "s-1"), ("acme", "s-2")]),
        (("", ""), [("acme", "s-1"), ("acme", "s-2"), ("b", "s-1")]),
    ],
)
def test_a_hold_is_of_a_session_of_a_tenant_or_of_anybody(of: tuple[str, str], covered: list[tuple[str, str]]) -> None:
    hold = Hold("h", *of, "person:ada", "", "court")
    assert [one for one in [("acme", "s-1"), ("acme", "s-2"), ("b", "s-1")] if hold.covers(*one)] == covered
    assert hold.same_order(Hold("other", *of, "person:ada", "later", "court"))
    assert not any(
        hold.same_order(Hold("h", *other, "", "court")) for other in [(*of, "person:bea"), ("x", "x", "person:ada")]
    )
    assert not hold.same_order(Hold("h", *of, "person:ada", "", "another"))


@pytest.mark.parametrize(("last", "found"), [(4, Standing.DUE), (5, Standing.YOUNG)])
def test_what_is_below_the_first_young_event_is_old(last: int, found: Standing) -> None:
    quiet = Quiet("acme", "s-1", last)
    assert standing(quiet, old_below=5, between=BETWEEN, open_calls=set()) is found
    assert standing(quiet, old_below=5, between=BETWEEN, open_calls={("acme", "s-1")}) is (
        Standing.OPEN if last < 5 else found
    )


@pytest.mark.parametrize(("at", "found"), [("2", Standing.DUE), ("3", Standing.YOUNG), ("6", Standing.DUE)])
def test_what_says_itself_that_it_is_young_is_so_whatever_index_is_young(at: str, found: Standing) -> None:
    assert standing(Quiet("acme", "s-1", 4, at), old_below=5, between=BETWEEN, open_calls=set()) is found


@pytest.mark.parametrize(("at", "is_young"), [("1", False), ("2", False), ("3", True), ("5", True), ("6", False)])
def test_young_is_what_came_after_the_limit_and_has_come(at: str, is_young: bool) -> None:
    assert first_young([(7, "0"), (8, at)], "2", "5") == (8 if is_young else None)


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
    told = (
        "the log has nothing between 2026-08-13 and {}: either nothing happened for {} days, or the clock leapt ahead;"
    )
    for after, days in ((days_ago(10), 90), (None, 100)):
        until = (after or NOW).strftime("%Y-%m-%d")
        said = f"{told.format(until, days)} force it if the clock is right"
        assert leapt(days_ago(100), after, NOW) == said
    assert leapt(days_ago(LEAP_DAYS), None, NOW) is None


@given(st.integers(0, 10_000_000))
def test_one_run_takes_a_part_only(sessions: int) -> None:
    assert most_at_a_time(sessions) <= max(1_000, sessions / 10)
    assert most_at_a_time(sessions) >= max(1_000, sessions // 10)
