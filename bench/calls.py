"""What a governed call costs: the gateway against the two floors."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.services import ADMIN_KEY, floor, gateway, opa, redis, rss_mib
from bench.subject import Subject, interleave

CONNECTIONS = (1, 32, 256)


def measure(*, rounds: int, seconds: float, memory_calls: int) -> list[str]:
    """The section's lines. `memory_calls` 0 leaves the look at memory out."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentgate-bench-")))
        redis_url = stack.enter_context(redis()).url
        opa_url = stack.enter_context(opa(directory, 18003))
        full = gateway(directory, "full", 18002, AGENTGATE_REDIS_URL=redis_url)
        with_opa = gateway(
            directory, "opa", 18003,
            AGENTGATE_REDIS_URL=redis_url, AGENTGATE_OPA_URL=opa_url, AGENTGATE_ADMIN_API_KEY=ADMIN_KEY,
        )  # fmt: skip
        kinds = {
            "asgi": (floor("asgi", 18000), "parse and constant"),
            "fastapi": (floor("fastapi", 18001), "parse and constant"),
            "full": (full, "policy in process, real Redis, two durable appends (SQLite)"),
            "opa": (with_opa, "the same with a real OPA over its unix socket"),
            "no-redis": (gateway(directory, "no-redis", 18004), "policy in process, kill flags in memory"),
        }
        subjects = [Subject(name, what, [stack.enter_context(server)]) for name, (server, what) in kinds.items()]
        interleave(subjects, CONNECTIONS, rounds=rounds, seconds=seconds)
        points = _memory(next(one for one in subjects if one.name == "full"), memory_calls) if memory_calls else []
        ready_s, durable_us = _ready_s(directory, redis_url), _commit_us(directory)
    return [
        f"{rounds} interleaved rounds of {seconds:g} s for each cell, medians; wrk with one thread, one worker. The",
        "ratios to `fastapi` (× throughput, × p50) are what is tracked.",
        "",
        *_table(subjects),
        "",
        *(f"* `{subject.name}`: {subject.what}" for subject in subjects),
        "",
        *([_memory_line(points)] if points else []),
        f"Start to ready: {ready_s:.2f} s (best of three). One durable SQLite commit alone: {durable_us:.0f} µs",
        "(median); a governed call has two of them, one after the other.",
    ]


def _table(subjects: list[Subject]) -> list[str]:
    fastapi = next(subject for subject in subjects if subject.name == "fastapi")
    lines = [
        "| subject | connections | calls/s | × fastapi | p50 ms | × fastapi | p99 ms | falsely refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for subject in subjects:
        for connections in CONNECTIONS:
            rate, p50 = subject.median(connections, "rate"), subject.median(connections, "p50_us")
            p99 = subject.median(connections, "p99_us")
            slower = p50 / fastapi.median(connections, "p50_us")
            bad = sum(round_["bad"] for round_ in subject.rounds[connections])
            lines.append(
                f"| {subject.name} | {connections} | {rate:,.0f} | {rate / fastapi.median(connections, 'rate'):.2f} "
                f"| {p50 / 1000:.2f} | {slower:.2f} | {p99 / 1000:.2f} | {bad:.0f} |"
            )
    return lines


def _memory(subject: Subject, calls: int) -> list[tuple[int, float]]:
    """Resident memory while `calls` calls go through."""
    pid = subject.servers[0].pid
    points = [(0, rss_mib(pid))]
    done = 0
    while done < calls:
        done += int(subject.load(32, 5, keep=False)["requests"])
        points.append((done, rss_mib(pid)))
    return points


def _memory_line(points: list[tuple[int, float]]) -> str:
    return "Resident memory of `full` over calls: " + ", ".join(f"{n:,}: {mib:.0f} MiB" for n, mib in points) + "."


def _ready_s(directory: Path, redis_url: str) -> float:
    """Seconds from the start of the process to the first `ready`, best of three."""
    times = []
    for number in range(3):
        started = time.monotonic()
        with gateway(directory, f"ready{number}", 18099, AGENTGATE_REDIS_URL=redis_url):
            times.append(time.monotonic() - started)
    return min(times)


def _commit_us(directory: Path) -> float:
    """Median of one durable SQLite commit of a kilobyte here: what two appends cannot be faster than twice of."""
    database = sqlite3.connect(directory / "commit.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE t (a BLOB)")
    times = []
    for _ in range(300):
        started = time.perf_counter()
        database.execute("INSERT INTO t VALUES (zeroblob(1000))")
        times.append((time.perf_counter() - started) * 1e6)
    database.close()
    return statistics.median(times)
