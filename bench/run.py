"""`make bench`: the governed call against the two floors, as ratios in one run, into bench/RESULTS.md.

One worker each, wrk with one thread as the client, on whatever machine this is. The machine's own speed drifts, so
only ratios within one run mean anything; the rounds are interleaved for the same reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
CONNECTIONS = (1, 32, 256)
READY_S = 30.0
NOTES = "## Where the time goes, and what was tried\n"
"""Written by hand; kept when the tables are written anew."""


@dataclass
class Subject:
    """Something to measure, and what was measured of it: connections → one dict for each round."""

    name: str
    what: str
    url: str
    pid: int
    rounds: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def median(self, connections: int, value: str) -> float:
        return statistics.median(round_[value] for round_ in self.rounds[connections])


@contextmanager
def process(command: list[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(command, text=True, **more)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(timeout=30)


def until(
    url: str, check: Any = lambda answer: answer.status_code < 500, transport: httpx.HTTPTransport | None = None
) -> None:
    deadline = time.monotonic() + READY_S
    with httpx.Client(transport=transport) as client:
        while True:
            try:
                if check(client.get(url)):
                    return
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"bench: {url} did not become ready")
            time.sleep(0.02)


@contextmanager
def floor(name: str, port: int) -> Iterator[Subject]:
    command = [sys.executable, "-m", "uvicorn", f"bench.floors:{name}", "--port", str(port), "--loop", "uvloop"]
    command += ["--http", "httptools", "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    with process(command, cwd=HERE.parent) as server:
        until(f"http://127.0.0.1:{port}/", lambda answer: True)
        yield Subject(name, "parse and constant", f"http://127.0.0.1:{port}", server.pid)


def unlimited_policies(directory: Path) -> Path:
    """The shipped policy without its rate limit: the echoing tool is the one that has it."""
    path = directory / "policies"
    if not path.exists():
        shutil.copytree(HERE.parent / "policies", path)
        data = json.loads((path / "data.json").read_text(encoding="utf-8"))
        (path / "data.json").write_text(json.dumps(data | {"rate_limits": {}}), encoding="utf-8")
    return path


def commit_us(directory: Path) -> float:
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


@contextmanager
def gateway(name: str, what: str, directory: Path, port: int, **environment: str) -> Iterator[Subject]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AGENTGATE_")}
    command = [sys.executable, "-m", "agentgate", "serve", "--port", str(port), "--data-dir", str(directory / name)]
    policies = unlimited_policies(directory)
    variables = {**clean, "AGENTGATE_LOG_LEVEL": "ERROR", "AGENTGATE_POLICY_PATH": str(policies), **environment}
    with process(command, env=variables, stdout=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        until(f"{url}/readyz", lambda answer: answer.status_code == 200)
        yield Subject(name, what, url, server.pid)


@contextmanager
def redis(directory: Path) -> Iterator[str]:
    """A real Redis with AOF on a unix socket."""
    socket = directory / "redis.sock"
    command = [
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--appendonly",
        "yes",
        "--dir",
        str(directory),
    ]
    with process([*command, "--save", "", "--loglevel", "warning"], stdout=subprocess.DEVNULL):
        deadline = time.monotonic() + READY_S
        while not socket.exists():
            if time.monotonic() > deadline:
                raise SystemExit("bench: redis-server did not start")
            time.sleep(0.02)
        yield f"unix://{socket}?db=0"


@contextmanager
def opa(directory: Path, gateway_port: int, key: str) -> Iterator[str]:
    """A real OPA on a unix socket, which pulls its bundle from the gateway."""
    binary = (
        os.environ.get("AGENTGATE_OPA_BIN")
        or shutil.which("opa")
        or str(Path(os.environ.get("AGENTGATE_CACHE") or Path.home() / ".cache/agentgate") / "bin/opa")
    )
    socket = directory / "opa.sock"
    config = directory / "opa.json"
    service = {"url": f"http://127.0.0.1:{gateway_port}", "credentials": {"bearer": {"token": key}}}
    polling = {"min_delay_seconds": 1, "max_delay_seconds": 1}
    bundle = {"service": "gateway", "resource": "bundles/agentgate.tar.gz", "polling": polling}
    config.write_text(json.dumps({"services": {"gateway": service}, "bundles": {"agentgate": bundle}}))
    command = [binary, "run", "--server", "--addr", f"unix://{socket}", "--config-file", str(config)]
    with process([*command, "--log-level", "error", "--skip-version-check"]):
        yield f"unix://{socket}"


def load(subject: Subject, connections: int, seconds: float) -> None:
    """One round of wrk."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "--latency"]
    output = subprocess.run(
        [*command, "-s", str(HERE / "call.lua"), f"{subject.url}/tools/call"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if found is None:
        raise SystemExit(f"bench: wrk said nothing of use:\n{output}")
    result = json.loads(found[1])
    result["rate"] = result["requests"] / (result["duration_us"] / 1e6)
    subject.rounds.setdefault(connections, []).append(result)
    print(f"  {subject.name:<10} c={connections:<4} {result['rate']:8.0f}/s  p50 {result['p50_us'] / 1000:7.2f} ms  "
          f"p99 {result['p99_us'] / 1000:7.2f} ms  refused {result['bad']:.0f}", flush=True)  # fmt: skip


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def memory(subject: Subject, calls: int) -> list[tuple[int, float]]:
    """Resident memory while `calls` calls go through."""
    points = [(0, rss_mib(subject.pid))]
    done = 0
    while done < calls:
        load(subject, 32, 5)
        done += int(subject.rounds[32].pop()["requests"])
        points.append((done, rss_mib(subject.pid)))
    return points


def ready_time(directory: Path, redis_url: str) -> float:
    """Seconds from the start of the process to the first `ready`, best of three."""
    times = []
    for number in range(3):
        started = time.monotonic()
        with gateway(f"ready{number}", "", directory, 18099, AGENTGATE_REDIS_URL=redis_url):
            times.append(time.monotonic() - started)
    return min(times)


def report(
    subjects: list[Subject],
    points: list[tuple[int, float]],
    ready_s: float,
    durable_us: float,
    seconds: float,
    rounds: int,
) -> str:
    fastapi = next(subject for subject in subjects if subject.name == "fastapi")
    lines = [
        "# What a governed call costs",
        "",
        f"`make bench`: {rounds} interleaved rounds of {seconds:g} s for each cell, medians; wrk with one thread,",
        f"one worker; CPython {platform.python_version()}, {os.cpu_count()} cores shared with the client. The absolute",
        "numbers are this machine's; the ratios to `fastapi` (× throughput, × p50) are what is tracked.",
        "",
        "| subject | connections | calls/s | × fastapi | p50 ms | × fastapi | p99 ms | falsely refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for subject in subjects:
        for connections in CONNECTIONS:
            rate, p50 = subject.median(connections, "rate"), subject.median(connections, "p50_us")
            p99 = subject.median(connections, "p99_us")
            slower = p50 / fastapi.median(connections, "p50_us")
            bad = sum(round_["bad"] + round_["errors"] for round_ in subject.rounds[connections])
            lines.append(
                f"| {subject.name} | {connections} | {rate:,.0f} | {rate / fastapi.median(connections, 'rate'):.2f} "
                f"| {p50 / 1000:.2f} | {slower:.2f} | {p99 / 1000:.2f} | {bad:.0f} |"
            )
    lines += ["", *(f"* `{subject.name}`: {subject.what}" for subject in subjects), ""]
    if points:
        lines.append(
            "Resident memory of `full` over calls: " + ", ".join(f"{n:,}: {mib:.0f} MiB" for n, mib in points) + "."
        )
    lines += [
        f"Start to ready: {ready_s:.2f} s (best of three). One durable SQLite commit alone: {durable_us:.0f} µs",
        "(median); a governed call has two of them, one after the other.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-calls", type=int, default=200_000, help="0 leaves the memory run out")
    parser.add_argument("--only", nargs="*", help="subjects to measure; fastapi is always among them")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    key = "bench-admin-key-of-no-value"
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentgate-bench-")))
        redis_url = stack.enter_context(redis(directory))
        opa_url = stack.enter_context(opa(directory, 18003, key))
        makers = {
            "asgi": lambda: floor("asgi", 18000),
            "fastapi": lambda: floor("fastapi", 18001),
            "full": lambda: gateway(
                "full", "policy in process, real Redis, two durable appends", directory, 18002,
                AGENTGATE_REDIS_URL=redis_url,
            ),
            "opa": lambda: gateway(
                "opa", "the same with a real OPA over its unix socket", directory, 18003,
                AGENTGATE_REDIS_URL=redis_url, AGENTGATE_OPA_URL=opa_url, AGENTGATE_ADMIN_API_KEY=key,
            ),
            "no-redis": lambda: gateway("no-redis", "policy in process, kill flags in memory", directory, 18004),
        }  # fmt: skip
        wanted = [name for name in makers if not options.only or name in (*options.only, "fastapi")]
        subjects = [stack.enter_context(makers[name]()) for name in wanted]
        for subject in subjects:
            load(subject, 32, 1)
            subject.rounds.clear()
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}")
            for connections in CONNECTIONS:
                for subject in subjects:
                    load(subject, connections, options.seconds)
        full = next((subject for subject in subjects if subject.name == "full"), None)
        points = memory(full, options.memory_calls) if full is not None and options.memory_calls else []
        ready_s, durable_us = ready_time(directory, redis_url), commit_us(directory)
        text = report(subjects, points, ready_s, durable_us, options.seconds, options.rounds)
    kept = options.out.read_text(encoding="utf-8").partition(NOTES)[2] if options.out.exists() else ""
    options.out.write_text(text + NOTES + kept, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
