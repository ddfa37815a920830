"""What every adapter of `agentgate.ports.Admission` promises.

    class TestMine(AdmissionContract):
        @pytest.fixture
        async def admission(self) -> AsyncIterator[Mine]: …      # empty, started, closed afterwards

The clock is the real one: Redis's cannot be moved, and a contract is the same for all.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.core.call import (
    Access,
    AgentId,
    Call,
    Door,
    Principal,
    PrincipalKind,
    Role,
    SessionId,
    TenantId,
    Tool,
    ToolName,
    TraceId,
)
from agentgate.core.containment import Kill, KillId, KillState, Scope
from agentgate.core.errors import ReasonCode
from agentgate.ports import Admission, Admitted, LimitState, NotAdmitted, RateLimit

MEMBER = "member-1"


class ShowsFlight(Admission, Protocol):
    """What both adapters have beyond the port: a display of the calls in flight."""

    async def in_flight(self) -> list[dict[str, str]]: ...


def a_call(
    session: str = "s-1", agent: str = "bot", tenant: str = "acme", tool: str = "db_query", server: str | None = "demo"
) -> Call:
    """A call like any other, with a trace id of its own. `server=None`: a tool that nobody declared."""
    return Call(
        trace_id=TraceId(str(uuid.uuid4())),
        door=Door.REST,
        caller=Principal(PrincipalKind.AGENT, AgentId(agent), TenantId(tenant), frozenset({Role.AGENT}), "key"),
        session=SessionId(session),
        tool_name=ToolName(tool),
        tool=None if server is None else Tool(ToolName(tool), server, Access.READ, {}),
        arguments={},
        context={},
    )


def a_kill(scope: Scope, target: str = "", *, tenant: str = "", id: str = "", position: int = 1) -> Kill:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    return Kill(KillId(id or f"k-{scope}"), scope, tenant, target, "test", "person:op", since, position=position)


def state(position: int, *kills: Kill) -> KillState:
    return KillState(position, {kill.id: kill for kill in kills})


EVERY_SCOPE = [
    a_kill(Scope.GLOBAL),
    a_kill(Scope.TENANT, tenant="acme"),
    a_kill(Scope.TOOL, "db_query"),
    a_kill(Scope.SERVER, "demo"),
    a_kill(Scope.AGENT, "bot", tenant="acme"),
    a_kill(Scope.SESSION, "s-1", tenant="acme"),
]
"""A kill of each scope over `a_call()`, widest first."""

SOMEBODY_ELSE = {
    Scope.TENANT: a_call(tenant="other"),
    Scope.TOOL: a_call(tool="file_read"),
    Scope.SERVER: a_call(server="elsewhere"),
    Scope.AGENT: a_call(agent="other"),
    Scope.SESSION: a_call(session="s-2"),
}
"""For each scope that leaves anybody out, a call that differs in nothing else."""


@dataclass(frozen=True)
class Try:
    """One admit in a history: it took effect at a moment between `before` and `after` (seconds)."""

    before: float
    after: float
    admitted: bool


def assert_exact_window(tries: list[Try], limit: RateLimit) -> None:
    """A plain model of "`limit` calls in any `window_s`", told only between which moments each try happened."""
    past: list[Try] = []
    for now in tries:
        rival = past[-limit.limit] if len(past) >= limit.limit else None
        if now.admitted:
            # Had `rival` certainly still been inside the window, this one would be one too many.
            assert rival is None or now.after - rival.before >= limit.window_s
            past.append(now)
        else:
            assert rival is not None, "refused with room left"
            assert now.before - rival.after < limit.window_s, "refused although the oldest had left"


class AdmissionContract:
    """Subclass it, give it an `admission` fixture, and every claim below is tested."""

    # --- kills ---

    async def test_an_empty_store_refuses(self, admission: ShowsFlight) -> None:
        answer = await admission.admit(a_call(), None, -1)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILL_STATE_UNKNOWN
        assert answer.detail
        assert answer.position is None
        assert await admission.position() is None
        assert await admission.in_flight() == []

    async def test_an_applied_state_admits(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        assert await admission.admit(a_call(), None, 0) == Admitted(0)
        assert await admission.position() == 0

    async def test_a_newer_store_tells_its_position(self, admission: ShowsFlight) -> None:
        await admission.apply(state(7))
        assert await admission.admit(a_call(), None, 3) == Admitted(7)

    async def test_an_older_store_refuses_and_tells_its_position(self, admission: ShowsFlight) -> None:
        await admission.apply(state(3))
        answer = await admission.admit(a_call(), None, 4)
        assert isinstance(answer, NotAdmitted)
        assert (answer.reason, answer.position) == (ReasonCode.KILL_STATE_UNKNOWN, 3)
        assert await admission.in_flight() == []

    @pytest.mark.parametrize("kill", EVERY_SCOPE, ids=lambda kill: str(kill.scope))
    async def test_a_kill_refuses_what_it_covers_with_its_id(self, admission: ShowsFlight, kill: Kill) -> None:
        await admission.apply(state(1, kill))
        answer = await admission.admit(a_call(), RateLimit(10, 60), 1)
        assert isinstance(answer, NotAdmitted)
        assert (answer.reason, answer.kill_id, answer.position) == (ReasonCode.KILLED, kill.id, 1)
        assert await admission.in_flight() == []

    @pytest.mark.parametrize("kill", EVERY_SCOPE[1:], ids=lambda kill: str(kill.scope))
    async def test_a_kill_leaves_others_alone(self, admission: ShowsFlight, kill: Kill) -> None:
        await admission.apply(state(1, kill))
        assert await admission.admit(SOMEBODY_ELSE[kill.scope], None, 1) == Admitted(1)

    async def test_a_session_or_agent_of_that_name_in_another_tenant_lives(self, admission: ShowsFlight) -> None:
        await admission.apply(state(1, *EVERY_SCOPE[4:]))
        assert await admission.admit(a_call(tenant="other"), None, 1) == Admitted(1)

    async def test_an_undeclared_tool_is_killed_by_name(self, admission: ShowsFlight) -> None:
        await admission.apply(state(1, a_kill(Scope.TOOL, "db_query")))
        answer = await admission.admit(a_call(server=None), None, 1)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILLED

    @pytest.mark.parametrize("n_wider", range(len(EVERY_SCOPE)))
    async def test_the_widest_kill_is_named(self, admission: ShowsFlight, n_wider: int) -> None:
        await admission.apply(state(1, *reversed(EVERY_SCOPE[n_wider:])))
        answer = await admission.admit(a_call(), None, 1)
        assert isinstance(answer, NotAdmitted)
        assert answer.kill_id == EVERY_SCOPE[n_wider].id

    async def test_a_newer_state_releases(self, admission: ShowsFlight) -> None:
        await admission.apply(state(1, *EVERY_SCOPE))
        await admission.apply(state(2))
        assert await admission.admit(a_call(), None, 2) == Admitted(2)

    async def test_a_scope_is_dead_while_one_kill_is_left_on_it(self, admission: ShowsFlight) -> None:
        first, second = a_kill(Scope.GLOBAL, id="k-1"), a_kill(Scope.GLOBAL, id="k-2", position=2)
        await admission.apply(state(2, first, second))
        await admission.apply(state(3, second))
        answer = await admission.admit(a_call(), None, 3)
        assert isinstance(answer, NotAdmitted)
        assert answer.kill_id == "k-2"

    async def test_an_older_state_overrides_nothing(self, admission: ShowsFlight) -> None:
        await admission.apply(state(5, a_kill(Scope.GLOBAL)))
        await admission.apply(state(4))
        assert await admission.position() == 5
        answer = await admission.admit(a_call(), None, 4)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILLED

    async def test_applying_a_position_again_changes_nothing(self, admission: ShowsFlight) -> None:
        for _ in range(2):
            await admission.apply(state(1, *EVERY_SCOPE))
        answer = await admission.admit(a_call(), None, 1)
        assert isinstance(answer, NotAdmitted)
        assert (answer.reason, answer.position) == (ReasonCode.KILLED, 1)

    async def test_ten_thousand_kills_are_in_force(self, admission: ShowsFlight) -> None:
        kills = [a_kill(Scope.SESSION, f"s-{n}", tenant="acme", id=f"k-{n}", position=n) for n in range(1, 10_001)]
        await admission.apply(state(10_000, *kills))
        for n in (1, 3_999, 4_000, 4_001, 10_000):
            answer = await admission.admit(a_call(session=f"s-{n}"), None, 10_000)
            assert isinstance(answer, NotAdmitted)
            assert answer.kill_id == f"k-{n}"
        assert await admission.admit(a_call(session="s-10001"), None, 10_000) == Admitted(10_000)

    # --- limits ---

    async def test_ten_of_fifteen(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        answers = [await admission.admit(a_call(), RateLimit(10, 60), 0) for _ in range(15)]
        assert [isinstance(answer, Admitted) for answer in answers] == [True] * 10 + [False] * 5
        assert {answer.reason for answer in answers if isinstance(answer, NotAdmitted)} == {ReasonCode.RATE_LIMITED}

    async def test_headers_are_told_with_every_answer(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        limit = RateLimit(3, 60)
        before = time.time()
        first = await admission.admit(a_call(), limit, 0)
        after = time.time()
        answers = [first] + [await admission.admit(a_call(), limit, 0) for _ in range(4)]
        states = [answer.limit for answer in answers if answer.limit is not None]
        assert [(told.limit, told.remaining) for told in states] == [(3, 2), (3, 1), (3, 0), (3, 0), (3, 0)]
        resets = {told.reset_at for told in states}
        assert len(resets) == 1, "all name the moment at which the oldest call leaves"
        assert ceil(before + 60 - 0.01) <= resets.pop() <= ceil(after + 60 + 0.01)

    async def test_without_a_limit_nothing_is_said_of_one(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        assert (await admission.admit(a_call(), None, 0)).limit is None

    async def test_a_limit_of_none_at_all_refuses_every_call(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        answer = await admission.admit(a_call(), RateLimit(0, 60), 0)
        assert isinstance(answer, NotAdmitted)
        assert isinstance(answer.limit, LimitState)
        assert (answer.limit.limit, answer.limit.remaining) == (0, 0)

    @pytest.mark.parametrize(
        "other",
        [a_call(agent="other"), a_call(tenant="other"), a_call(tool="file_read")],
        ids=["agent", "tenant", "tool"],
    )
    async def test_a_limit_is_not_shared_with_another(self, admission: ShowsFlight, other: Call) -> None:
        await admission.apply(state(0))
        limit = RateLimit(1, 60)
        assert isinstance(await admission.admit(a_call(), limit, 0), Admitted)
        assert isinstance(await admission.admit(a_call(), limit, 0), NotAdmitted)
        assert isinstance(await admission.admit(other, limit, 0), Admitted)

    async def test_another_session_does_not_dodge_the_limit(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        answers = [await admission.admit(a_call(session=f"s-{n}"), RateLimit(2, 60), 0) for n in range(3)]
        assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False]

    async def test_refused_calls_do_not_count(self, admission: ShowsFlight) -> None:
        limit = RateLimit(2, 60)
        await admission.apply(state(1, a_kill(Scope.GLOBAL)))
        await admission.admit(a_call(), limit, 1)
        await admission.admit(a_call(), limit, 2)
        await admission.apply(state(2))
        answer = await admission.admit(a_call(), limit, 2)
        assert answer.limit is not None
        assert answer.limit.remaining == 1

    async def test_a_call_that_was_refused_by_the_limit_does_not_prolong_it(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        limit = RateLimit(1, 0.2)
        began = time.monotonic()
        assert isinstance(await admission.admit(a_call(), limit, 0), Admitted)
        while isinstance(await admission.admit(a_call(), limit, 0), NotAdmitted):
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.005)
        # Its own refusals would have kept it out for ever.
        assert time.monotonic() - began >= 0.19

    # One store serves all examples (each with an agent of its own), and one claim several subclasses: both are meant.
    @settings(
        max_examples=12,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(
        limit=st.integers(1, 4),
        window_ms=st.integers(5, 60),
        pauses_ms=st.lists(st.integers(0, 30), min_size=4, max_size=20),
    )
    async def test_the_window_slides_as_a_plain_model_says(
        self, admission: ShowsFlight, limit: int, window_ms: int, pauses_ms: list[int]
    ) -> None:
        await admission.apply(state(0))
        rule = RateLimit(limit, window_ms / 1000)
        agent = f"bot-{uuid.uuid4()}"
        tries = []
        for pause_ms in pauses_ms:
            await asyncio.sleep(pause_ms / 1000)
            before = time.monotonic()
            answer = await admission.admit(a_call(agent=agent), rule, 0)
            tries.append(Try(before, time.monotonic(), isinstance(answer, Admitted)))
        assert_exact_window(tries, rule)

    async def test_of_64_at_once_the_limit_admits_exactly_10(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        answers = await asyncio.gather(*(admission.admit(a_call(), RateLimit(10, 60), 0) for _ in range(64)))
        admitted = [answer for answer in answers if isinstance(answer, Admitted)]
        assert len(admitted) == 10
        assert sorted(answer.limit.remaining for answer in admitted if answer.limit) == list(range(10))

    async def test_a_thousand_at_once_are_all_admitted(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        answers = await asyncio.gather(*(admission.admit(a_call(), None, 0) for _ in range(1_000)))
        assert set(answers) == {Admitted(0)}
        assert len(await admission.in_flight()) == 1_000

    # --- in flight ---

    async def test_an_admitted_call_is_in_flight_until_it_is_released(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        call, other = a_call(), a_call(session="s-2")
        before = datetime.now(UTC)
        await admission.admit(call, None, 0)
        await admission.admit(other, None, 0)
        shown = {entry["trace_id"]: entry for entry in await admission.in_flight()}
        assert shown.keys() == {call.trace_id, other.trace_id}
        entry = shown[call.trace_id]
        assert before <= datetime.fromisoformat(entry.pop("since")) <= datetime.now(UTC)
        assert entry == {
            "trace_id": call.trace_id,
            "tenant": "acme",
            "session": "s-1",
            "agent": "bot",
            "tool": "db_query",
            "member": MEMBER,
        }
        admission.release(call)
        assert [entry["trace_id"] for entry in await admission.in_flight()] == [other.trace_id]

    async def test_releasing_what_is_not_in_flight_does_nothing(self, admission: ShowsFlight) -> None:
        await admission.apply(state(0))
        call = a_call()
        await admission.admit(call, None, 0)
        admission.release(a_call())
        admission.release(call)
        admission.release(call)
        assert await admission.in_flight() == []
