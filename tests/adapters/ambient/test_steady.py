"""A64: a clock that is set back revives nothing."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from agentgate.adapters.ambient.steady import SteadyClock
from agentgate.adapters.ambient.system import SystemClock
from tests.contracts.ambient import ClockContract
from tests.fakes import FakeClock

HOUR = timedelta(hours=1)


class TestSteady(ClockContract):
    clock = SteadyClock(SystemClock())


def test_it_is_the_wall_clock_as_long_as_nobody_sets_it_back() -> None:
    wall = FakeClock()
    steady = SteadyClock(wall)
    wall.move(10)
    assert steady.now() == wall.moment
    wall.moment += HOUR
    assert steady.now() == wall.moment, "set forward"
    wall.moment -= HOUR
    assert steady.now() == wall.moment, "and put right again: nothing is ended for good"


def test_a_clock_that_is_set_back_goes_on_from_where_it_was() -> None:
    wall = FakeClock()
    steady = SteadyClock(wall)
    wall.move(60)
    before = steady.now()
    wall.moment -= HOUR
    assert steady.now() == before
    wall.move(5)
    assert steady.now() == before + timedelta(seconds=5)


def test_a_start_on_a_clock_that_was_set_back_goes_by_the_newest_event(caplog: pytest.LogCaptureFixture) -> None:
    wall = FakeClock()
    steady = SteadyClock(wall)
    steady.not_before(wall.moment + HOUR)
    assert steady.now() == wall.moment + HOUR
    assert "behind the newest event" in caplog.text
    wall.move(60)
    assert steady.now() == wall.moment + HOUR
    steady.not_before(wall.moment)
    assert steady.now() == wall.moment + HOUR, "an older event changes nothing"


def test_an_event_that_is_days_ahead_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    wall = FakeClock()
    steady = SteadyClock(wall)
    steady.not_before(wall.moment + 400 * 24 * HOUR)
    assert steady.now() == wall.moment
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
