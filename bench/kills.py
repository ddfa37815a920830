"""How fast a kill stops things: three replicas, one Redis, one PostgreSQL, and callers who never rest.

A trial has a session with running `slow` calls on each replica, and a prober on each that calls a quick tool for that
session as fast as answers come. The session's kill goes to one replica. From the moment that it is sent are measured:

    deny      until the last of the three replicas has refused the session for good
    cancel    until the last of the running calls has come back to its caller, cut
    drained   until the kill's own answer
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import services
from bench.line import CALL, Answer, Line, post
from bench.services import Server
from tests.redis_server import RedisServer

PORTS = (18031, 18032, 18033)
SLOW_CALLS = 4
"""On each replica."""
CALLERS = 24
PAUSE_S = (0.04, 0.08)
"""Of a caller between two calls."""
SETTLE_S = 0.1
"""From the last request for a slow call until the kill: by then all of them run."""
REST_S = 0.05
REST_AFTER_RESTART_S = 1.0
"""Redis is not restarted so often that the gateways take its connection for one that does not hold."""
AT_ONCE = 48
"""Kills at a time, when many are to be in force."""
TARGETS = {"deny": ("p99", 100.0), "cancel": ("p99", 250.0), "drained": ("p50", 20.0)}
"""The issue's, in ms: `deny` and `cancel` under load, `drained` when nothing is stuck."""


class Situation(NamedTuple):
    name: str
    callers: int = CALLERS
    is_idle: bool = False
    """No calls for the killed session either: what a kill costs that has nothing to stop."""
    restarts: bool = False
    in_force: int = 0


SITUATIONS = (
    Situation("nobody calls", callers=0, is_idle=True),
    Situation("no load", callers=0),
    Situation("under load"),
    Situation("under load, Redis killed and restarted just before", restarts=True),
    Situation("under load, 10,000 kills in force", in_force=10_000),
)


class Trial(NamedTuple):
    """Milliseconds; `deny` and `cancel` are None where nobody called."""

    deny: float | None
    cancel: float | None
    drained: float
    is_drained: bool
    deny_where_asked: float | None = None


# --- callers ------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """Callers with sessions of their own, which nobody kills."""

    callers: int
    took_ms: list[float] = field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.took_ms) / self.seconds if self.seconds else 0.0

    @contextlib.asynccontextmanager
    async def running(self, replicas: Sequence[Server]) -> AsyncIterator[None]:
        began = time.perf_counter()
        tasks = [
            asyncio.create_task(self._call(replicas[number % len(replicas)], number)) for number in range(self.callers)
        ]
        try:
            yield
        finally:
            self.seconds = time.perf_counter() - began
            await _end(tasks)

    async def _call(self, replica: Server, number: int) -> None:
        line = await Line.to(replica)
        request = _quick(f"load-{number}")
        while True:
            await asyncio.sleep(random.uniform(*PAUSE_S))
            began = time.perf_counter()
            answer = await line.ask(request)
            self.took_ms.append((answer.at_s - began) * 1000)
            self.refused += not _is_allowed(answer)


class Prober:
    """Calls for one session at one replica, until it was refused as killed a few times in a row."""

    def __init__(self, line: Line, session: str) -> None:
        self._line = line
        self._request = _quick(session)
        self.answers: list[tuple[float, bool]] = []
        """When each came, and whether it let the call through."""
        self.lives = asyncio.Event()
        """Set once a call was let through."""

    async def run(self) -> None:
        killed = 0
        while killed < 3:
            answer = await self._line.ask(self._request)
            is_allowed = _is_allowed(answer)
            self.answers.append((answer.at_s, is_allowed))
            killed = killed + 1 if b'"killed"' in answer.body else 0
            if is_allowed:
                self.lives.set()
            elif not killed:
                await asyncio.sleep(0.001)  # the kill store is away: nothing to learn from asking harder

    def denied_at(self, since_s: float) -> float:
        """When the first refusal came after which nothing was let through any more, since the kill was sent."""
        after = [(at_s, is_allowed) for at_s, is_allowed in self.answers if at_s >= since_s]
        last = max((index for index, (_, is_allowed) in enumerate(after) if is_allowed), default=-1)
        return after[last + 1][0]


# --- a trial ------------------------------------------------------------------------------------------------


class Stage:
    """Connections to the replicas that all trials use."""

    def __init__(self, replicas: Sequence[Server]) -> None:
        self.replicas = replicas
        self.discarded = 0
        self._trials = 0

    async def __aenter__(self) -> Stage:
        self._probes = [await Line.to(replica) for replica in self.replicas]
        self._controls = [await Line.to(replica) for replica in self.replicas]
        self._slow = [[await Line.to(replica) for _ in range(SLOW_CALLS)] for replica in self.replicas]
        return self

    async def __aexit__(self, *_: object) -> None:
        for line in [*self._probes, *self._controls, *(line for lines in self._slow for line in lines)]:
            line.close()

    async def trial(self, situation: Situation, redis: RedisServer) -> Trial:
        """One trial, until one has come about as it should."""
        while (trial := await self._try(situation, redis)) is None:
            self.discarded += 1
        return trial

    async def _try(self, situation: Situation, redis: RedisServer) -> Trial | None:
        self._trials += 1
        asked, session = self._trials % len(self.replicas), f"trial-{self._trials}"
        kill = post(f"/sessions/{session}/kill", {"reason": "bench"})
        if situation.is_idle:
            sent_s = time.perf_counter()
            answer = _kill_answer(await self._controls[asked].ask(kill))
            return Trial(None, None, (answer.at_s - sent_s) * 1000, answer.status == 200)
        probers = [Prober(line, session) for line in self._probes]
        probing = [asyncio.create_task(prober.run()) for prober in probers]
        await asyncio.gather(*(prober.lives.wait() for prober in probers))
        request = post(CALL, {"session_id": session, "tool_name": "slow", "arguments": {"seconds": 30}})
        slow = [asyncio.create_task(line.ask(request)) for lines in self._slow for line in lines]
        await asyncio.sleep(SETTLE_S)
        if situation.restarts:
            await asyncio.to_thread(_restart, redis)
        sent_s = time.perf_counter()
        answer = _kill_answer(await self._controls[asked].ask(kill))
        cut = await asyncio.gather(*slow)
        await asyncio.gather(*probing)
        if not all(_WAS_CUT in one.body for one in cut):
            return None  # one of them had not begun, or ended for another reason
        denied = [(prober.denied_at(sent_s) - sent_s) * 1000 for prober in probers]
        return Trial(
            max(denied),
            (max(one.at_s for one in cut) - sent_s) * 1000,
            (answer.at_s - sent_s) * 1000,
            answer.status == 200,
            denied[asked],
        )


async def put_in_force(replica: Server, count: int) -> None:
    """That many kills of sessions that nobody has, some at a time."""
    began_s, numbers = time.perf_counter(), iter(range(count))

    async def ask() -> None:
        line = await Line.to(replica)
        for number in numbers:
            _kill_answer(await line.ask(post(f"/sessions/dead-{number}/kill", {"reason": "bench"})))
        line.close()

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    print(f"  {count:,} kills in {time.perf_counter() - began_s:.0f} s", flush=True)


_WAS_CUT = b"Cut by a kill switch while running"


def _kill_answer(answer: Answer) -> Answer:
    if answer.status not in (200, 202):
        raise SystemExit(f"bench: the kill was answered {answer.status} {answer.body.decode()}")
    return answer


def _restart(redis: RedisServer) -> None:
    redis.kill9()
    redis.start()


def _quick(session: str) -> bytes:
    return post(CALL, {"session_id": session, "tool_name": "rate_limited_tool", "arguments": {"query": "SELECT 1"}})


def _is_allowed(answer: Answer) -> bool:
    return b'"success":true' in answer.body


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


# --- the whole ----------------------------------------------------------------------------------------------


class Result(NamedTuple):
    situation: Situation
    trials: list[Trial]
    load: Load
    client: float
    """The share of one core that this process took."""
    discarded: int


def measure(*, trials: int, situations: Sequence[Situation] = SITUATIONS) -> list[str]:
    """The section's lines."""
    results = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentgate-bench-")))
        redis, database = stack.enter_context(services.redis()), stack.enter_context(services.postgres())
        for in_force in dict.fromkeys(situation.in_force for situation in situations):
            name = f"kills_{in_force}"
            replicas = services.replicas(
                directory / name,
                PORTS,
                database_url=services.new_log(database, name),
                redis_url=redis.url,
                # with one replica it takes one acknowledgement each, and a third of the time
                prepare=lambda first, count=in_force: uvloop.run(put_in_force(first, count)) if count else None,
            )
            alike = [situation for situation in situations if situation.in_force == in_force]
            with replicas as servers:
                results += uvloop.run(_results(servers, redis, alike, trials))
    return [*_introduction(trials), "", *_table(results), "", *_misses(results)]


async def _results(
    replicas: Sequence[Server], redis: RedisServer, situations: Sequence[Situation], trials: int
) -> list[Result]:
    async with Stage(replicas) as stage:
        return [await _result(stage, redis, situation, trials) for situation in situations]


async def _result(stage: Stage, redis: RedisServer, situation: Situation, trials: int) -> Result:
    load, discarded, found = Load(situation.callers), stage.discarded, []
    async with load.running(stage.replicas):
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(trials):
            found.append(await stage.trial(situation, redis))
            await asyncio.sleep(REST_AFTER_RESTART_S if situation.restarts else REST_S)
        client = (time.process_time() - cpu_s) / (time.perf_counter() - began_s)
    result = Result(situation, found, load, client, stage.discarded - discarded)
    _print(result, time.perf_counter() - began_s)
    return result


def _print(result: Result, seconds: float) -> None:
    told = "  ".join(f"{name} {_cell(_values(result, name))}" for name in ("deny_where_asked", *TARGETS))
    load = f"client {result.client:.0%} of a core, load {result.load.rate:.0f}/s, {result.load.refused} refused"
    print(f"  {result.situation.name}, {seconds:.0f} s: {told} ms; {load}", flush=True)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    """p50, p99 (the nearest rank) and max."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, -(-len(ordered) * 99 // 100) - 1)], ordered[-1]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return " / ".join(f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in _three(values))


def _introduction(trials: int) -> list[str]:
    callers = f"{CALLERS} callers with {PAUSE_S[0] * 1000:.0f} to {PAUSE_S[1] * 1000:.0f} ms between calls"
    return [
        "Three replicas on one PostgreSQL and one Redis (AOF), all with their client on this machine's cores;",
        f"{trials} trials each. A trial: a session with {SLOW_CALLS} running calls on each, and on each a prober that",
        "calls for it as fast as answers come; its kill goes to one of them in turn. From the sending of the kill",
        "until: *deny*, the last replica refuses for good; *cancel*, the last running call is back with its caller;",
        f"*drained*, the kill's own answer. Load: {callers}, beside the probers.",
        "Kills are not released: those of earlier trials stay in force.",
    ]


def _table(results: Sequence[Result]) -> list[str]:
    lines = [
        "| ms: p50 / p99 / max | deny | cancel | drained | not in 2 s | load, calls/s | its p99, ms | client's CPU |",
        "|---|---|---|---|---|---|---|---|",
        "| *to reach* | *p99 < 100* | *p99 < 250* | *p50 < 20* | | | | |",
    ]
    for result in results:
        cells = " | ".join(_cell(_values(result, name)) for name in TARGETS)
        undrained = sum(not trial.is_drained for trial in result.trials)
        load = result.load
        loaded = f"{load.rate:.0f} | {_three(load.took_ms)[1]:.0f}" if load.took_ms else "0 |"
        lines.append(f"| {result.situation.name} | {cells} | {undrained} | {loaded} | {result.client:.0%} |")
    return lines


def _misses(results: Sequence[Result]) -> list[str]:
    """What was not reached, and what one should know of the trials."""
    lines = []
    for result in results:
        name = result.situation.name
        for what, (which, most_ms) in TARGETS.items():
            values = _values(result, what)
            if not values:
                continue
            p50, p99, _ = _three(values)
            value = p50 if which == "p50" else p99
            if value >= most_ms:
                lines.append(f"* **Missed**, {name}: {what} {which} {value:.0f} ms (to reach: {most_ms:.0f}).")
        if result.discarded:
            lines.append(f"* {name}: {result.discarded} trials were made again, because a call had not been running.")
    return lines


def _values(result: Result, name: str) -> list[float]:
    return [value for trial in result.trials if (value := getattr(trial, name)) is not None]
