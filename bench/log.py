"""What the log itself does: appends by few and many writers, in a short log and in a long one, and its verification."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgate.adapters.ambient.system import SystemClock, SystemEntropy
from agentgate.adapters.log.postgresql import PostgresLog
from agentgate.adapters.log.sqlite import SqliteLog, verify
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.call import MemberId
from agentgate.core.decision import Receipt, Ruling, read_ruling
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Outcome
from agentgate.core.events.calls import decided, finished
from agentgate.core.note import NoteKey
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.log import Log
from bench import services
from tests.fakes import ALLOW, REDACTOR, REVISION, a_call

ORIGIN = "agentgate.bench/log/0"
SIGNER = Ed25519Signer(Ed25519PrivateKey.generate())
WRITERS = (1, 16, 100)
LONG = 1_000_000
SHORT = 1_000
VERIFIED = 100_000
_DECISION = read_ruling(Ruling(ALLOW, REVISION))
_LATENCY = {"admission": 90, "policy": 120}


async def one_call(recorder: Recorder, session: str, times: list[float]) -> None:
    """A decision and an outcome, as a gateway writes them; how long each append took goes into `times`, in seconds."""
    call = a_call(session=session, arguments={"query": "SELECT id, name FROM products LIMIT 5"})
    decision = decided(
        recorder.origin(), call, _DECISION,
        position=0, arguments=call.arguments_json, context=b"{}", latency_us=_LATENCY,
    )  # fmt: skip
    outcome = finished(recorder.origin(), call, Outcome.OK, ReasonCode.OK, result=b"{}", latency_us={"upstream": 900})
    for event in (decision, outcome):
        began = time.perf_counter()
        if not isinstance(await recorder.write(event), Receipt):
            raise SystemExit("bench: an append was refused")
        times.append(time.perf_counter() - began)


class Round(NamedTuple):
    """Events a second, and how long one append took."""

    rate: float
    p50_ms: float
    p99_ms: float


async def load(log: Log, writers: int, enough: Callable[[int, float], bool]) -> Round:
    """`writers` tasks append until `enough(events, seconds)`."""
    times: list[float] = []
    member = MemberId(os.urandom(8).hex())
    recorder = Recorder(log, SystemClock(), SystemEntropy(), member=member, version="0", redactor=REDACTOR)
    began = time.perf_counter()

    async def one(number: int) -> None:
        while not enough(len(times), time.perf_counter() - began):
            await one_call(recorder, f"s-{number % 200}", times)

    await asyncio.gather(*(one(number) for number in range(writers)))
    took_s = time.perf_counter() - began
    times.sort()
    return Round(len(times) / took_s, 1000 * times[len(times) // 2], 1000 * times[len(times) * 99 // 100])


def median(rounds: list[Round]) -> Round:
    return Round(*(statistics.median(column) for column in zip(*rounds, strict=True)))


def measure(*, rounds: int, seconds: float) -> list[str]:
    """The section's lines."""
    with tempfile.TemporaryDirectory(prefix="agentgate-bench-") as place, services.postgres() as server:
        return uvloop.run(_measure(Path(place), services.new_log(server, "bench"), rounds, seconds))


async def _measure(place: Path, database_url: str, rounds: int, seconds: float) -> list[str]:

    def for_a_while(_events: int, took_s: float) -> bool:
        return took_s >= seconds

    lines = [
        f"A call's two events, by so many callers at once; medians of {rounds} rounds of {seconds:g} s.",
        "Each append is durable before it is answered; those that wait together share a commit.",
        "",
        "| store | writers | events/s | append p50 ms | p99 ms |",
        "|---|---|---|---|---|",
    ]
    stores: dict[str, Awaitable[SqliteLog | PostgresLog]] = {
        "SQLite": SqliteLog.open(place / "log.db", SIGNER, ORIGIN),
        "PostgreSQL": PostgresLog.open(database_url, SIGNER, ORIGIN),
    }
    for name, opening in stores.items():
        async with aclosing(await opening) as log:
            for writers in WRITERS:
                one = median([await load(log, writers, for_a_while) for _ in range(rounds)])
                lines.append(f"| {name} | {writers} | {one.rate:,.0f} | {one.p50_ms:.2f} | {one.p99_ms:.2f} |")
    return lines + await _growth(place, rounds, seconds)


async def _growth(place: Path, rounds: int, seconds: float) -> list[str]:
    """A long log beside short ones, in turns; and verifying one of a hundred thousand."""

    async def grown(name: str, size: int) -> SqliteLog:
        log = await SqliteLog.open(place / name, SIGNER, ORIGIN)
        await load(log, 500, lambda events, _: events >= size)
        await log.integrate()
        return log

    async def rate(log: SqliteLog) -> float:
        return (await load(log, 100, lambda _, took_s: took_s >= seconds / 3)).rate

    ratios = []
    async with aclosing(await grown("million.db", LONG)) as long:
        for number in range(3 * rounds):
            async with aclosing(await grown(f"thousand-{number}.db", SHORT)) as short:  # it grows while it is measured
                before = await rate(short)
                ratios.append(await rate(long) / before)
    ratio = statistics.median(ratios)
    await (await grown("verified.db", VERIFIED)).aclose()
    began = time.perf_counter()
    report = await verify(place / "verified.db", ORIGIN, [NoteKey(ORIGIN, SIGNER.public_key)])
    took_s = time.perf_counter() - began
    if not report.ok:
        raise SystemExit(f"bench: the log does not verify: {report.findings[0]}")
    return [
        "",
        f"A log of {LONG:,} events appends at {ratio:.2f} × the rate of one of {SHORT:,} (100 writers, in turns;",
        f"to reach: 0.90). `log verify` of {report.size:,} events takes {took_s:.1f} s (to reach: 5 s).",
    ]
