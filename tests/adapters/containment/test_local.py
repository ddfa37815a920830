"""Admission in memory: the contract, and its sliding window against a model at hours of our choosing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic_ns

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.adapters.containment.local import LocalAdmission
from agentgate.ports.containment import Admitted, RateLimit
from tests.contracts.admission import MEMBER, AdmissionContract, a_call, state


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
        answer = await admission.admit(a_call(agent=f"bot-{agent}"), RateLimit(limit, window_ms / 1000), 0)
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
        await admission.admit(a_call(agent=f"bot-{n}"), RateLimit(5, 1.0), 0)
    # One second of these agents is 100 windows.
    assert admission.windows <= 200


async def test_a_lowered_limit_holds_at_once() -> None:
    clock = SetClock()
    admission = LocalAdmission(member=MEMBER, clock=clock)
    await admission.apply(state(0))
    for _ in range(5):
        await admission.admit(a_call(), RateLimit(5, 60), 0)
    answer = await admission.admit(a_call(), RateLimit(2, 60), 0)
    assert answer.limit is not None
    assert (type(answer).__name__, answer.limit.remaining) == ("NotAdmitted", 0)


async def test_a_member_with_a_new_name_is_shown_under_it() -> None:
    admission = LocalAdmission(member=MEMBER, clock=SetClock())
    await admission.apply(state(0))
    admission.rename("m-2")
    await admission.admit(a_call(), None, 0)
    assert [flight.member for flight in await admission.in_flight()] == ["m-2"]
