"""Admission in memory: the contract, and its sliding window against a model at hours of our choosing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic_ns

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.adapters.containment._ledgers import Ledgers
from agentgate.adapters.containment.local import LocalAdmission
from agentgate.core.budget import Period
from agentgate.ports.containment import Admission, Admitted, NotAdmitted, Spent
from tests.contracts.admission import MEMBER, AdmissionContract, a_call, at_most, state
from tests.contracts.budgets import BudgetContract, ask, known, quota


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def ticks_ns(self) -> int:
        return monotonic_ns()


START = datetime(2026, 1, 1, tzinfo=UTC)
START_S = int(START.timestamp())


@dataclass
class SetClock:
    """Stands still until it is moved."""

    ns: int = 0

    def now(self) -> datetime:
        return START + timedelta(microseconds=self.ns / 1000)

    def ticks_ns(self) -> int:
        return self.ns


class TestLocal(AdmissionContract):
    @pytest.fixture
    async def admission(self) -> AsyncIterator[LocalAdmission]:
        admission = LocalAdmission(member=MEMBER, clock=SystemClock())
        await admission.start()
        yield admission
        await admission.aclose()


class TestLocalBudgets(BudgetContract):
    @pytest.fixture
    async def admission(self) -> AsyncIterator[LocalAdmission]:
        admission = LocalAdmission(member=MEMBER, clock=SystemClock())
        await admission.start()
        yield admission
        await admission.aclose()

    async def forget(self, admission: Admission) -> None:
        """What nothing but a long idle time does to it."""
        assert isinstance(admission, LocalAdmission)
        admission._ledgers = Ledgers()


MS = 1_000_000
tries = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1)), max_size=60)
"""How long to wait (ms) before the next try, and which of two agents tries."""


@given(limit=st.integers(0, 4), window_ms=st.integers(1, 60), tries=tries)
async def test_the_window_is_exact(limit: int, window_ms: int, tries: list[tuple[int, int]]) -> None:
    clock = SetClock()
    admission = LocalAdmission(member=MEMBER, clock=clock)
    await admission.apply(state(0))
    admitted: dict[int, list[int]] = {0: [], 1: []}
    for wait_ms, agent in tries:
        clock.ns += wait_ms * MS
        inside = [at for at in admitted[agent] if clock.ns - at < window_ms * MS]
        answer = await admission.admit(a_call(agent=f"bot-{agent}"), at_most(limit, window_ms / 1000), 0)
        assert isinstance(answer, Admitted) == (len(inside) < limit)
        if isinstance(answer, Admitted):
            inside.append(clock.ns)
            admitted[agent].append(clock.ns)
        assert answer.limit is not None
        assert answer.limit.remaining == limit - len(inside)
        leaves_at_ns = min(inside, default=clock.ns) + window_ms * MS
        assert answer.limit.reset_at == START_S - (-leaves_at_ns // 10**9)


async def test_agents_that_left_are_forgotten() -> None:
    clock = SetClock()
    admission = LocalAdmission(member=MEMBER, clock=clock)
    await admission.apply(state(0))
    for n in range(5_000):
        clock.ns += 10 * MS
        await admission.admit(a_call(agent=f"bot-{n}"), at_most(5, 1.0), 0)
    # One second of these agents is 100 windows.
    assert admission.windows <= 200


async def test_a_lowered_limit_holds_at_once() -> None:
    clock = SetClock()
    admission = LocalAdmission(member=MEMBER, clock=clock)
    await admission.apply(state(0))
    for _ in range(5):
        await admission.admit(a_call(), at_most(5, 60), 0)
    answer = await admission.admit(a_call(), at_most(2, 60), 0)
    assert answer.limit is not None
    assert (type(answer).__name__, answer.limit.remaining) == ("NotAdmitted", 0)


HOUR_NS = 3600 * 10**9


async def test_a_new_hour_begins_with_nothing_and_asks_no_log() -> None:
    clock = SetClock()
    admission = LocalAdmission(member=MEMBER, clock=clock)
    asked = quota(Period.HOUR, calls=2)
    await known(admission, asked)
    for _ in range(3):
        assert [isinstance(await ask(admission, asked), Admitted) for _ in range(3)] == [True, True, False]
        clock.ns += HOUR_NS


async def test_a_clock_that_is_set_back_gives_no_hour_twice() -> None:
    clock = SetClock(ns=5 * HOUR_NS)
    admission = LocalAdmission(member=MEMBER, clock=clock)
    asked = quota(Period.HOUR, calls=1)
    await known(admission, asked)
    assert isinstance(await ask(admission, asked), Admitted)
    clock.ns -= 2 * HOUR_NS
    assert isinstance(await ask(admission, asked), NotAdmitted)


async def test_a_result_of_the_hour_before_is_not_of_this_one() -> None:
    clock = SetClock()
    admission = LocalAdmission(member=MEMBER, clock=clock)
    asked = quota(Period.HOUR, size=100)
    await known(admission, asked)
    call = a_call()
    await ask(admission, asked, call)
    clock.ns += HOUR_NS
    assert isinstance(await ask(admission, asked), Admitted)
    admission.release(call, Spent(1, 2, result_bytes=1_000))
    assert isinstance(await ask(admission, asked), Admitted)


async def test_sessions_that_ended_are_forgotten() -> None:
    clock = SetClock()
    admission = LocalAdmission(member=MEMBER, clock=clock)
    await admission.apply(state(0))
    for n in range(5_000):
        clock.ns += 10**9
        await ask(admission, quota(calls=1), a_call(session=f"made-up-{n}"))
    # A minute of these is 60 of them, and each is looked at now and then.
    assert admission.ledgers <= 200
