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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil

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
from agentgate.core.containment import FlagChange, Kill, KillChange, KillChanges, KillId, KillState, Scope
from agentgate.core.errors import ReasonCode
from agentgate.kinds import KillStore
from agentgate.ports.containment import Admission, Admitted, InFlight, LimitState, NotAdmitted, Quota, RateLimit

MEMBER = "member-1"


def a_call(
    session: str = "s-1",
    agent: str = "bot",
    tenant: str = "acme",
    tool: str = "db_query",
    server: str | None = "demo",
    kind: PrincipalKind = PrincipalKind.AGENT,
) -> Call:
    """A call like any other, with a trace id of its own. `server=None`: a tool that nobody declared."""
    return Call(
        trace_id=TraceId(str(uuid.uuid4())),
        door=Door.REST,
        caller=Principal(kind, AgentId(agent), TenantId(tenant), frozenset({Role.AGENT}), "key"),
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


class UnreadState(KillState):
    """A state that nobody may look at as a whole."""

    def flags(self) -> dict[str, KillId]:
        raise AssertionError("the whole state was read")


class KillLog:
    """A plain model of the log: kills and releases on three sessions, and what a replica reads of it, whenever."""

    SESSIONS = ("s-1", "s-2", "s-3")

    def __init__(self, position: int, history: list[tuple[str, int]]) -> None:
        """`history` begins after `position`: ("kill", nth session) or ("release", nth of the kills in force)."""
        self.first = self.position = position
        self.states = {position: state(position)}
        self._kills: list[Kill] = []
        self._released_at: dict[KillId, int] = {}
        for what, nth in history:
            in_force = [kill for kill in self._kills if kill.id not in self._released_at]
            if what == "kill":
                self._add(self.SESSIONS[nth % 3])
            elif in_force:
                self.position += 1
                self._released_at[in_force[nth % len(in_force)].id] = self.position
            left = [kill for kill in self._kills if kill.id not in self._released_at]
            self.states[self.position] = state(self.position, *left)

    def read(self, since: int, position: int) -> tuple[KillState, FlagChange]:
        """What a replica at `since` tells the store once it has read the log as that was at `position`."""
        changes = KillChanges(since, position, tuple(self._changes(since, position)))
        kills = self.states[since].advanced(changes)
        assert kills == self.states[position]
        return kills, kills.flag_change(changes)

    def _add(self, session: str) -> None:
        self.position += 1
        name = f"k-{self.position}"
        self._kills.append(a_kill(Scope.SESSION, session, tenant="acme", id=name, position=self.position))

    def _changes(self, since: int, position: int) -> Iterator[KillChange]:
        for kill in self._kills:
            released_at = self._released_at.get(kill.id, position + 1)
            if kill.position <= position and (since < kill.position or since < released_at <= position):
                yield KillChange(kill, released_at if released_at <= position else None)


def session_kills(kills: KillState) -> dict[str, str]:
    """What `dead_sessions` should answer at that state."""
    return {flag.rpartition("/")[2]: kill for flag, kill in kills.flags().items()}


async def dead_sessions(admission: Admission) -> dict[str, str]:
    """Which of the model's sessions are refused, and for which kill."""
    asked = [(session, await admission.admit(a_call(session=session), None, 0)) for session in KillLog.SESSIONS]
    return {session: a.kill_id for session, a in asked if isinstance(a, NotAdmitted) and a.kill_id is not None}


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


def at_most(limit: int, window_s: float) -> Quota:
    """A limit of one tool, and nothing else."""
    return Quota((RateLimit(limit, window_s),))


class AdmissionContract:
    """Subclass it, give it an `admission` fixture, and every claim below is tested."""

    # --- kills ---

    async def test_an_empty_store_refuses(self, admission: Admission) -> None:
        answer = await admission.admit(a_call(), None, -1)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILL_STATE_UNKNOWN
        assert answer.detail
        assert answer.position is None
        assert await admission.position() is None
        assert await admission.in_flight() == []

    async def test_an_applied_state_admits(self, admission: Admission) -> None:
        await admission.apply(state(0))
        assert await admission.admit(a_call(), None, 0) == Admitted(0)
        assert await admission.position() == 0

    async def test_a_newer_store_tells_its_position(self, admission: Admission) -> None:
        await admission.apply(state(7))
        assert await admission.admit(a_call(), None, 3) == Admitted(7)

    async def test_an_older_store_refuses_and_tells_its_position(self, admission: Admission) -> None:
        await admission.apply(state(3))
        answer = await admission.admit(a_call(), None, 4)
        assert isinstance(answer, NotAdmitted)
        assert (answer.reason, answer.position) == (ReasonCode.KILL_STATE_UNKNOWN, 3)
        assert await admission.in_flight() == []

    @pytest.mark.parametrize("kill", EVERY_SCOPE, ids=lambda kill: str(kill.scope))
    async def test_a_kill_refuses_what_it_covers_with_its_id(self, admission: Admission, kill: Kill) -> None:
        await admission.apply(state(1, kill))
        answer = await admission.admit(a_call(), at_most(10, 60), 1)
        assert isinstance(answer, NotAdmitted)
        assert (answer.reason, answer.kill_id, answer.position) == (ReasonCode.KILLED, kill.id, 1)
        assert await admission.in_flight() == []

    @pytest.mark.parametrize("kill", EVERY_SCOPE[1:], ids=lambda kill: str(kill.scope))
    async def test_a_kill_leaves_others_alone(self, admission: Admission, kill: Kill) -> None:
        await admission.apply(state(1, kill))
        assert await admission.admit(SOMEBODY_ELSE[kill.scope], None, 1) == Admitted(1)

    async def test_a_session_or_agent_of_that_name_in_another_tenant_lives(self, admission: Admission) -> None:
        await admission.apply(state(1, *EVERY_SCOPE[4:]))
        assert await admission.admit(a_call(tenant="other"), None, 1) == Admitted(1)

    async def test_an_undeclared_tool_is_killed_by_name(self, admission: Admission) -> None:
        await admission.apply(state(1, a_kill(Scope.TOOL, "db_query")))
        answer = await admission.admit(a_call(server=None), None, 1)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILLED

    @pytest.mark.parametrize("n_wider", range(len(EVERY_SCOPE)))
    async def test_the_widest_kill_is_named(self, admission: Admission, n_wider: int) -> None:
        await admission.apply(state(1, *reversed(EVERY_SCOPE[n_wider:])))
        answer = await admission.admit(a_call(), None, 1)
        assert isinstance(answer, NotAdmitted)
        assert answer.kill_id == EVERY_SCOPE[n_wider].id

    async def test_a_newer_state_releases(self, admission: Admission) -> None:
        await admission.apply(state(1, *EVERY_SCOPE))
        await admission.apply(state(2))
        assert await admission.admit(a_call(), None, 2) == Admitted(2)

    async def test_a_scope_is_dead_while_one_kill_is_left_on_it(self, admission: Admission) -> None:
        first, second = a_kill(Scope.GLOBAL, id="k-1"), a_kill(Scope.GLOBAL, id="k-2", position=2)
        await admission.apply(state(2, first, second))
        await admission.apply(state(3, second))
        answer = await admission.admit(a_call(), None, 3)
        assert isinstance(answer, NotAdmitted)
        assert answer.kill_id == "k-2"

    async def test_an_older_state_overrides_nothing(self, admission: Admission) -> None:
        await admission.apply(state(5, a_kill(Scope.GLOBAL)))
        await admission.apply(state(4))
        assert await admission.position() == 5
        answer = await admission.admit(a_call(), None, 4)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILLED

    async def test_applying_a_position_again_changes_nothing(self, admission: Admission) -> None:
        for _ in range(2):
            await admission.apply(state(1, *EVERY_SCOPE))
        answer = await admission.admit(a_call(), None, 1)
        assert isinstance(answer, NotAdmitted)
        assert (answer.reason, answer.position) == (ReasonCode.KILLED, 1)

    async def test_ten_thousand_kills_are_in_force(self, admission: Admission) -> None:
        kills = [a_kill(Scope.SESSION, f"s-{n}", tenant="acme", id=f"k-{n}", position=n) for n in range(1, 10_001)]
        await admission.apply(state(10_000, *kills))
        for n in (1, 3_999, 4_000, 4_001, 10_000):
            answer = await admission.admit(a_call(session=f"s-{n}"), None, 10_000)
            assert isinstance(answer, NotAdmitted)
            assert answer.kill_id == f"k-{n}"
        assert await admission.admit(a_call(session="s-10001"), None, 10_000) == Admitted(10_000)

    # --- changes ---

    async def test_a_change_kills_and_releases_and_leaves_the_rest(self, admission: Admission) -> None:
        first, second, third = (
            a_kill(Scope.SESSION, f"s-{n}", tenant="acme", id=f"k-{n}", position=n) for n in (1, 2, 3)
        )
        await admission.apply(state(2, first, second))
        await admission.apply(state(4, first, third), FlagChange(2, 4, {third.flag: third.id}, (second.flag,)))
        assert await admission.position() == 4
        assert await dead_sessions(admission) == {"s-1": "k-1", "s-3": "k-3"}

    async def test_a_change_that_fits_needs_no_look_at_the_whole(self, admission: Admission) -> None:
        kill = a_kill(Scope.GLOBAL, position=2)
        await admission.apply(state(1))
        await admission.apply(UnreadState(2, {kill.id: kill}), FlagChange(1, 2, {kill.flag: kill.id}))
        await admission.apply(UnreadState(2, {kill.id: kill}), FlagChange(1, 2, {kill.flag: kill.id}))
        assert isinstance(await admission.admit(a_call(), None, 2), NotAdmitted)
        await admission.apply(UnreadState(3, {}), FlagChange(2, 3, {}, (kill.flag,)))
        assert await admission.admit(a_call(), None, 3) == Admitted(3)

    @pytest.mark.parametrize("there", [None, 1, 3], ids=["empty", "older", "in between"])
    async def test_a_change_that_does_not_fit_is_the_whole_state(self, admission: Admission, there: int | None) -> None:
        if there is not None:
            await admission.apply(state(there, a_kill(Scope.TENANT, tenant="acme")))
        whole = state(4, a_kill(Scope.SESSION, "s-1", tenant="acme", id="k-4", position=4))
        await admission.apply(whole, FlagChange(2, 4, {}, ()))
        assert await dead_sessions(admission) == {"s-1": "k-4"}
        assert await admission.position() == 4

    @pytest.mark.parametrize("there", [2, 3])
    async def test_a_change_goes_nowhere_back(self, admission: Admission, there: int) -> None:
        kill = a_kill(Scope.SESSION, "s-1", tenant="acme", position=there)
        await admission.apply(state(there, kill))
        await admission.apply(UnreadState(2, {}), FlagChange(1, 2, {}, (kill.flag,)))
        assert await admission.position() == there
        assert await dead_sessions(admission) == {"s-1": kill.id}

    async def test_a_change_of_ten_thousand_kills_is_applied(self, admission: Admission) -> None:
        kills = [a_kill(Scope.SESSION, f"s-{n}", tenant="acme", id=f"k-{n}", position=n) for n in range(1, 10_001)]
        flags = tuple(kill.flag for kill in kills)
        await admission.apply(state(0))
        await admission.apply(state(10_000, *kills), FlagChange(0, 10_000, {kill.flag: kill.id for kill in kills}))
        for n in (1, 2_000, 2_001, 10_000):
            answer = await admission.admit(a_call(session=f"s-{n}"), None, 10_000)
            assert (answer.position, getattr(answer, "kill_id", "")) == (10_000, f"k-{n}")
        await admission.apply(UnreadState(20_000, {}), FlagChange(10_000, 20_000, {}, flags))
        for n in (1, 3_999, 4_000, 4_001, 10_000):
            assert await admission.admit(a_call(session=f"s-{n}"), None, 20_000) == Admitted(20_000)

    async def lose_everything(self) -> bool:
        """Make the store forget all, where there is a way; whether it did."""
        return False

    # Each example begins where the last one ended, at a position of its own: the store is one for all.
    @settings(
        max_examples=50,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(
        history=st.lists(
            st.tuples(st.sampled_from(["kill", "kill", "release"]), st.integers(0, 5)), min_size=3, max_size=9
        ),
        told=st.lists(
            st.tuples(
                st.sampled_from([*["next"] * 4, *["change"] * 4, "whole", "loss"]),
                st.integers(0, 99),
                st.integers(1, 4),
            ),
            min_size=3,
            max_size=12,
        ),
    )
    async def test_whatever_replicas_tell_in_whatever_order_the_flags_are_the_logs(
        self, admission: Admission, history: list[tuple[str, int]], told: list[tuple[str, int, int]]
    ) -> None:
        """Replicas read the log when they like, and what they then tell the store arrives late, twice, never or in
        another order: the flags are always exactly the log's at the store's position, and that never falls."""
        log = KillLog((await admission.position() or 0) + 1, history)
        await admission.apply(log.states[log.first])
        at = log.first
        for what, nth, steps in told:
            if what == "loss" and await self.lose_everything():
                at = -1
            since = at if what == "next" and at >= log.first else log.first + nth % max(1, log.position - log.first)
            kills, change = log.read(since, min(since + steps, log.position))
            await admission.apply(kills, None if what == "whole" else change)
            at = max(at, kills.position)
            assert await admission.position() == at
            assert await dead_sessions(admission) == session_kills(log.states[at])

    # --- wake-ups ---

    async def test_whoever_listens_hears_of_each_change(self, admission: Admission) -> None:
        heard: asyncio.Queue[int] = asyncio.Queue()
        await admission.apply(state(1))
        admission.listen(heard.put_nowait)
        assert await asyncio.wait_for(heard.get(), 5) == 1
        await admission.apply(state(2), FlagChange(1, 2, {}))
        assert await asyncio.wait_for(heard.get(), 5) == 2
        await admission.apply(state(5))
        assert await asyncio.wait_for(heard.get(), 5) == 5

    async def test_what_changes_nothing_wakes_nobody(self, admission: Admission) -> None:
        heard: asyncio.Queue[int] = asyncio.Queue()
        await admission.apply(state(4))
        admission.listen(heard.put_nowait)
        assert await asyncio.wait_for(heard.get(), 5) == 4
        await admission.apply(state(4))
        await admission.apply(state(3), FlagChange(2, 3, {}))
        await admission.apply(state(5))
        assert await asyncio.wait_for(heard.get(), 5) == 5

    async def test_all_that_listen_are_woken(self, admission: Admission) -> None:
        heard: list[asyncio.Queue[int]] = [asyncio.Queue(), asyncio.Queue()]
        await admission.apply(state(1))
        for queue in heard:
            admission.listen(queue.put_nowait)
        await admission.apply(state(2))
        for queue in heard:
            while await asyncio.wait_for(queue.get(), 5) != 2:
                pass

    # --- limits ---

    async def test_ten_of_fifteen(self, admission: Admission) -> None:
        await admission.apply(state(0))
        answers = [await admission.admit(a_call(), at_most(10, 60), 0) for _ in range(15)]
        assert [isinstance(answer, Admitted) for answer in answers] == [True] * 10 + [False] * 5
        assert {answer.reason for answer in answers if isinstance(answer, NotAdmitted)} == {ReasonCode.RATE_LIMITED}

    async def test_headers_are_told_with_every_answer(self, admission: Admission) -> None:
        await admission.apply(state(0))
        limit = at_most(3, 60)
        before = time.time()
        first = await admission.admit(a_call(), limit, 0)
        after = time.time()
        answers = [first] + [await admission.admit(a_call(), limit, 0) for _ in range(4)]
        states = [answer.limit for answer in answers if answer.limit is not None]
        assert [(told.limit, told.remaining) for told in states] == [(3, 2), (3, 1), (3, 0), (3, 0), (3, 0)]
        resets = {told.reset_at for told in states}
        assert len(resets) == 1, "all name the moment at which the oldest call leaves"
        assert ceil(before + 60 - 0.01) <= resets.pop() <= ceil(after + 60 + 0.01)

    async def test_without_a_limit_nothing_is_said_of_one(self, admission: Admission) -> None:
        await admission.apply(state(0))
        assert (await admission.admit(a_call(), None, 0)).limit is None

    async def test_a_limit_of_none_at_all_refuses_every_call(self, admission: Admission) -> None:
        await admission.apply(state(0))
        answer = await admission.admit(a_call(), at_most(0, 60), 0)
        assert isinstance(answer, NotAdmitted)
        assert isinstance(answer.limit, LimitState)
        assert (answer.limit.limit, answer.limit.remaining) == (0, 0)

    @pytest.mark.parametrize(
        "other",
        [a_call(agent="other"), a_call(kind=PrincipalKind.PERSON), a_call(tenant="other"), a_call(tool="file_read")],
        ids=["agent", "person", "tenant", "tool"],
    )
    async def test_a_limit_is_not_shared_with_another(self, admission: Admission, other: Call) -> None:
        await admission.apply(state(0))
        limit = at_most(1, 60)
        assert isinstance(await admission.admit(a_call(), limit, 0), Admitted)
        assert isinstance(await admission.admit(a_call(), limit, 0), NotAdmitted)
        assert isinstance(await admission.admit(other, limit, 0), Admitted)

    async def test_another_session_does_not_dodge_the_limit(self, admission: Admission) -> None:
        await admission.apply(state(0))
        answers = [await admission.admit(a_call(session=f"s-{n}"), at_most(2, 60), 0) for n in range(3)]
        assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False]

    async def test_refused_calls_do_not_count(self, admission: Admission) -> None:
        limit = at_most(2, 60)
        await admission.apply(state(1, a_kill(Scope.GLOBAL)))
        await admission.admit(a_call(), limit, 1)
        await admission.admit(a_call(), limit, 2)
        await admission.apply(state(2))
        answer = await admission.admit(a_call(), limit, 2)
        assert answer.limit is not None
        assert answer.limit.remaining == 1

    async def test_a_call_that_was_refused_by_the_limit_does_not_prolong_it(self, admission: Admission) -> None:
        await admission.apply(state(0))
        limit = at_most(1, 0.2)
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
        self, admission: Admission, limit: int, window_ms: int, pauses_ms: list[int]
    ) -> None:
        await admission.apply(state(0))
        rule = RateLimit(limit, window_ms / 1000)
        agent = f"bot-{uuid.uuid4()}"
        tries = []
        for pause_ms in pauses_ms:
            await asyncio.sleep(pause_ms / 1000)
            before = time.monotonic()
            answer = await admission.admit(a_call(agent=agent), Quota((rule,)), 0)
            tries.append(Try(before, time.monotonic(), isinstance(answer, Admitted)))
        assert_exact_window(tries, rule)

    async def test_of_64_at_once_the_limit_admits_exactly_10(self, admission: Admission) -> None:
        await admission.apply(state(0))
        answers = await asyncio.gather(*(admission.admit(a_call(), at_most(10, 60), 0) for _ in range(64)))
        admitted = [answer for answer in answers if isinstance(answer, Admitted)]
        assert len(admitted) == 10
        assert sorted(answer.limit.remaining for answer in admitted if answer.limit) == list(range(10))

    async def test_a_thousand_at_once_are_all_admitted(self, admission: Admission) -> None:
        await admission.apply(state(0))
        answers = await asyncio.gather(*(admission.admit(a_call(), None, 0) for _ in range(1_000)))
        assert set(answers) == {Admitted(0)}
        assert len(await admission.in_flight()) == 1_000

    # --- in flight ---

    async def test_an_admitted_call_is_in_flight_until_it_is_released(self, admission: Admission) -> None:
        await admission.apply(state(0))
        call, other = a_call(), a_call(session="s-2")
        before = datetime.now(UTC)
        await admission.admit(call, None, 0)
        await admission.admit(other, None, 0)
        shown = {flight.trace_id: flight for flight in await admission.in_flight()}
        assert shown.keys() == {call.trace_id, other.trace_id}
        flight = shown[call.trace_id]
        assert before <= datetime.fromisoformat(flight.since) <= datetime.now(UTC)
        assert flight == InFlight(
            trace_id=call.trace_id,
            tenant="acme",
            session="s-1",
            agent="bot",
            tool="db_query",
            server="demo",
            member=MEMBER,
            since=flight.since,
        )
        admission.release(call)
        assert [flight.trace_id for flight in await admission.in_flight()] == [other.trace_id]

    async def test_releasing_what_is_not_in_flight_does_nothing(self, admission: Admission) -> None:
        await admission.apply(state(0))
        call = a_call()
        await admission.admit(call, None, 0)
        admission.release(a_call())
        admission.release(call)
        admission.release(call)
        assert await admission.in_flight() == []

    async def test_a_member_with_a_new_name_is_shown_under_it(self, admission: KillStore) -> None:
        await admission.apply(state(0))
        admission.rename("m-2")
        await admission.admit(a_call(), None, 0)
        assert [flight.member for flight in await admission.in_flight()] == ["m-2"]
