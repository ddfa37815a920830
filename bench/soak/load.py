"""The callers: many connections, at a steady rate, that remember what they were told.

A call is due at a time, whether the one before it was slow or not, and its latency counts from then. Who is a second
late starts anew from now: what a restart held up is not called for all at once.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import orjson

from agentgate.core.errors import ReasonCode
from bench.line import Answer, Line
from bench.services import Server

CONNECTIONS = 24
SESSIONS = 100
"""At a time."""
CALLS_OF_A_SESSION = 200
"""Then another one takes its place: sessions come and go."""
ANSWERED_WITHIN_S = 60.0
LATE_S = 1.0
"""Of a call behind its time; and how long before a restart a call may be under way that meets it."""
PAUSE_S = 0.1
"""After a connection was refused or broke: nobody tries harder while a gateway starts."""
SETTLED_S = 3.0
"""After the first call that was let through again: what a restart has held up has been answered then."""

MOST_SUSPECTS = 1_000_000

OK = ReasonCode.OK.value
AROUND_RESTARTS = frozenset(
    reason.value
    for reason in (
        ReasonCode.KILL_STATE_UNKNOWN,
        ReasonCode.LOG_UNAVAILABLE,
        ReasonCode.OUTCOME_UNRECORDED,
        ReasonCode.SHUTTING_DOWN,
        ReasonCode.BUDGET_UNKNOWN,
    )
)
"""What a 503 may say while something is down (docs/reasons.md)."""


class Session:
    """One place for a session, and the one that has it now."""

    __slots__ = ("calls", "name", "place")

    def __init__(self, place: int) -> None:
        self.place = place
        self.name = ""
        self.calls = 0


class Load:
    def __init__(self, server: Server, key: str) -> None:
        self.key = key
        self.began_s = time.perf_counter()
        self.sessions = [Session(place) for place in range(SESSIONS)]
        self.asked_to_die: set[str] = set()
        """Sessions that a kill was asked for: a refusal of theirs is none of ours to judge."""
        self.dead: dict[str, int] = {}
        """Sessions whose kill has drained and that nobody has released: by the number of the kill."""
        self.succeeded: set[bytes] = set()
        self.refused: set[bytes] = set()
        """Trace ids of all calls that were answered with 200: let through to the end, or refused."""
        self.reasons: Counter[str] = Counter()
        self.faults: list[str] = []
        self.false_refusals: list[str] = []
        self.escaped: list[str] = []
        self.unanswered = 0
        self.answers = 0
        self.disturbed: list[tuple[float, float]] = []
        self._disturbances = 0
        self._disturbed_from_s = 0.0
        self._success = asyncio.Event()
        self._sent_at = array("d")
        self._took_ms = array("f")
        self._suspects: list[tuple[float, str]] = []
        """What is to be expected in a disturbance: when it was sent, and what it was told."""
        self._server = server
        self._names = itertools.count()
        self._rate: float | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- its life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """As fast as answers come, until `steady`."""
        self._tasks = [asyncio.create_task(self._caller(number)) for number in range(CONNECTIONS)]

    def steady(self, rate: float) -> None:
        """So many calls a second from now on; what was seen until now was the way to find that out."""
        self._rate = rate
        self.began_s = time.perf_counter()
        del self._sent_at[:], self._took_ms[:]
        self._suspects.clear()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    # --- while something is restarted ---------------------------------------------------------------------

    @contextmanager
    def disturbance(self) -> Iterator[None]:
        """What is refused until a little after its end may be; `recover` tells when that is."""
        self._disturbances += 1
        if self._disturbances == 1:
            self._disturbed_from_s = time.perf_counter()
        try:
            yield
        finally:
            self._disturbances -= 1
            if not self._disturbances:
                # what was under way as it began was hit by it, too
                self.disturbed.append((self._disturbed_from_s - LATE_S, time.perf_counter()))

    async def recover(self, within_s: float) -> float:
        """Wait until calls are let through again, and until what was held up is answered; how long the first took.

        Raises:
            TimeoutError: they were not.
        """
        began_s = time.perf_counter()
        self._success.clear()
        async with asyncio.timeout(within_s):
            await self._success.wait()
        took_s = time.perf_counter() - began_s
        await asyncio.sleep(SETTLED_S)
        return took_s

    # --- what was seen ------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Once it has stopped: which of the refusals had a reason."""
        self.false_refusals = [what for sent_s, what in self._suspects if not self._was_disturbed(sent_s)]

    def calls(self, since_s: float = 0.0) -> Iterator[tuple[float, float]]:
        """Undisturbed ones: when each was due, in seconds since the steady load began, and milliseconds."""
        windows = iter(sorted(self.disturbed))
        window = next(windows, None)
        for sent_s, took_ms in sorted(zip(self._sent_at, self._took_ms, strict=True)):
            while window is not None and sent_s > window[1]:
                window = next(windows, None)
            if sent_s >= since_s and (window is None or sent_s < window[0]):
                yield sent_s - self.began_s, took_ms

    def recent_ms(self, count: int) -> list[float]:
        """Of the last so many calls, disturbed or not."""
        return sorted(self._took_ms[-count:]) if count else []

    def _was_disturbed(self, sent_s: float) -> bool:
        return any(begin <= sent_s <= end for begin, end in self.disturbed)

    # --- calling ------------------------------------------------------------------------------------------

    async def _caller(self, number: int) -> None:
        line = Line(self._server)
        due_s = time.perf_counter() + random.random() / CONNECTIONS
        for turn in itertools.count():
            if self._rate is None:
                due_s = time.perf_counter()
            else:
                due_s += CONNECTIONS / self._rate
                wait_s = due_s - time.perf_counter()
                if wait_s < -LATE_S:
                    due_s = time.perf_counter()
                await asyncio.sleep(max(0.0, wait_s))
            session = self.sessions[(number + CONNECTIONS * turn) % SESSIONS]
            try:
                async with asyncio.timeout(ANSWERED_WITHIN_S):
                    await self._call(line, self._name(session), turn, due_s)
            except TimeoutError:
                self.unanswered += 1
                line.close()
                line = Line(self._server)
            except OSError:
                self._suspect(due_s, "the connection was refused, or broke")
                await asyncio.sleep(PAUSE_S)

    def _name(self, session: Session) -> str:
        session.calls += 1
        if not session.name or session.calls > CALLS_OF_A_SESSION:
            self.replace(session)
        return session.name

    def replace(self, session: Session) -> None:
        session.name, session.calls = f"soak-{next(self._names)}", 1

    async def _call(self, line: Line, session: str, turn: int, due_s: float) -> None:
        kill = self.dead.get(session)
        answer = await line.ask(_request(self.key, session, turn))
        self.answers += 1
        self._sent_at.append(due_s)
        self._took_ms.append((answer.at_s - due_s) * 1000)
        self._take(answer, session, due_s, kill)

    def _take(self, answer: Answer, session: str, sent_s: float, kill: int | None) -> None:
        said = orjson.loads(answer.body)
        reason = said.get("reason_code", "none")
        self.reasons[reason] += 1
        if reason == OK and said.get("success"):
            self._success.set()
            self.succeeded.add(said["trace_id"].encode())
            if kill is not None and self.dead.get(session) == kill:
                self.escaped.append(f"{said['trace_id']} in session {session}")
            return
        if answer.status == 200:
            self.refused.add(said["trace_id"].encode())
        if reason == "killed" and session in self.asked_to_die:
            return
        what = f"{answer.status} {reason} {time.strftime('%H:%M:%S')}: {said.get('error') or said.get('detail')}"
        if answer.status >= 500 and not (answer.status == 503 and reason in AROUND_RESTARTS):
            self.faults.append(what)
        else:
            self._suspect(sent_s, what)

    def _suspect(self, sent_s: float, what: str) -> None:
        if len(self._suspects) < MOST_SUSPECTS:  # a gateway that refuses everything is found out all the same
            self._suspects.append((sent_s, what))


def _request(key: str, session: str, turn: int) -> bytes:
    """A read that only echoes; every tenth one asks a database."""
    tool, text = ("db_query", f"SELECT {turn % 1000}") if turn % 10 == 0 else ("rate_limited_tool", f"turn {turn}")
    return request(key, "/tools/call", {"session_id": session, "tool_name": tool, "arguments": {"query": text}})


def request(key: str, path: str, body: object) -> bytes:
    content = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nx-api-key: {key}\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
