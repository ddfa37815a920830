"""What must not grow with the log: appending, evidence of one session, the start. And how fast all of it is verified.

`python -m bench.big_log` fills one SQLite log with ten million events, by its own writer, and measures on the way at
each size; a quarter of an hour and 11 GB. `--sizes 100000 1000000` is a shorter look.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import NamedTuple

import httpx
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agentgate.adapters.ambient.system import SystemClock, SystemEntropy
from agentgate.adapters.log.sqlite import SqliteLog, verify
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.call import MemberId
from agentgate.core.note import NoteKey
from agentgate.pipeline.records.record import Recorder
from agentgate.settings.sections import LogPart
from bench import services
from bench.log import one_call
from tests.fakes import REDACTOR

SIZES = (100_000, 1_000_000, 10_000_000)
CALLS = 50
"""Of a session: two events each."""
FILLERS = 400
"""They share commits: that is what makes it quick."""
WRITERS = 100
"""Who are measured."""
FIRST = "first"
"""The log's first session."""
ROUNDS = 5
TRIALS = 7
STARTS = 3
PORT = 18_040
ORIGIN = LogPart().origin
OUT = Path(__file__).parent / "out" / "big_log.json"


class Point(NamedTuple):
    """What was measured of a log of so many events."""

    events: int
    appends: float
    """Times the rate of a short log, in turns with it."""
    appends_per_s: float
    evidence_ms: float
    first_evidence_ms: float
    """The same of the log's first session."""
    start_s: float
    start_cpu_s: float
    verified_per_s: float
    bytes_per_event: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="events, ascending")
    parser.add_argument("--seconds", type=float, default=1, help="of one round of appending")
    parser.add_argument("--directory", type=Path, help="where the log is made, and removed; default: where mktemp does")
    parser.add_argument("--out", type=Path, default=OUT, help="the numbers as JSON")
    options = parser.parse_args()
    points = measure(sorted(options.sizes), seconds=options.seconds, directory=options.directory)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps([point._asdict() for point in points], indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(points)))


def measure(sizes: Sequence[int], *, seconds: float, directory: Path | None = None) -> list[Point]:
    with tempfile.TemporaryDirectory(prefix="agentgate-bench-", dir=directory) as place:
        house = House(Path(place))
        return [house.look(size, seconds) for size in sizes]


def table(points: Sequence[Point]) -> list[str]:
    """The section's lines."""
    return [
        f"One SQLite log that grows, of sessions of {2 * CALLS} events; medians. Appends by {WRITERS} writers, beside",
        "those to a log of a few thousand in turns; evidence of one session as JSON from a gateway; its start until",
        "`ready`, and its processor time; bytes of the file for an event. To reach: none of these grows with the log,",
        "and `log verify` reads 100,000 events/s.",
        "",
        "| events | appends × | appends/s | newest session, ms | first, ms | start, s | CPU, s | verified/s | bytes |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {one.events:,} | {one.appends:.2f} | {one.appends_per_s:,.0f} | {one.evidence_ms:.0f} "
            f"| {one.first_evidence_ms:.0f} | {one.start_s:.2f} | {one.start_cpu_s:.2f} | {one.verified_per_s:,.0f} "
            f"| {one.bytes_per_event:,.0f} |"
            for one in points
        ),
    ]


class House:
    """A data directory whose log grows between the starts of its gateway."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with self._gateway():  # makes the key that the log is signed with
            pass
        data = directory / "big"
        self._path = data / "log.db"
        key = load_pem_private_key((data / "log-key.pem").read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        self._signer = Ed25519Signer(key)
        self._sessions = itertools.count()

    def look(self, size: int, seconds: float) -> Point:
        """Let it grow to `size` events, and measure."""
        began_s = time.monotonic()
        appends, appends_per_s, newest = uvloop.run(self._grow(size, seconds))
        print(f"--- {size:,} events after {time.monotonic() - began_s:.0f} s", flush=True)
        starts, starts_cpu = [], []
        for _ in range(STARTS):
            began_s = time.monotonic()
            with self._gateway() as server:
                starts.append(time.monotonic() - began_s)
                starts_cpu.append(services.cpu_s(server.pid))
                evidence_ms, first_ms = _evidence_ms(server, newest), _evidence_ms(server, FIRST)
        began_s = time.monotonic()
        report = asyncio.run(verify(self._path, ORIGIN, [NoteKey(ORIGIN, self._signer.public_key)]))
        took_s = time.monotonic() - began_s
        if not report.ok:
            raise SystemExit(f"bench: the log does not verify: {report.findings[0]}")
        point = Point(
            report.size, appends, appends_per_s, evidence_ms, first_ms, statistics.median(starts),
            statistics.median(starts_cpu), report.size / took_s, self._path.stat().st_size / report.size,
        )  # fmt: skip
        print(point, flush=True)
        return point

    def _gateway(self) -> AbstractContextManager[services.Server]:
        return services.gateway(self._directory, "big", PORT, AGENTGATE_ADMIN_API_KEY=services.ADMIN_KEY)

    async def _grow(self, size: int, seconds: float) -> tuple[float, float, str]:
        """Appends beside those to a short log, a second, and the newest whole session."""
        newest, ratios, rates = f"newest-{size}", [], []
        async with aclosing(await SqliteLog.open(self._path, self._signer, ORIGIN)) as log:
            recorder = _recorder(log)
            if await log.size() < CALLS:  # what the first start left
                await _whole(recorder, FIRST)
            missing = size - await log.size()
            await self._fill(recorder, FILLERS, lambda appended: appended >= missing)
            for number in range(ROUNDS):
                name = self._path.with_name(f"short-{size}-{number}.db")  # it grows while it is measured
                async with aclosing(await SqliteLog.open(name, self._signer, ORIGIN)) as short:
                    before = await self._rate(_recorder(short), seconds)
                rates.append(await self._rate(recorder, seconds))
                ratios.append(rates[-1] / before)
            await _whole(recorder, newest)
            await log.integrate()
        return statistics.median(ratios), statistics.median(rates), newest

    async def _rate(self, recorder: Recorder, seconds: float) -> float:
        began_s = time.monotonic()
        appended = await self._fill(recorder, WRITERS, lambda _: time.monotonic() - began_s >= seconds)
        return appended / (time.monotonic() - began_s)

    async def _fill(self, recorder: Recorder, writers: int, is_enough: Callable[[int], bool]) -> int:
        """`writers` at once, each with one session after another, until `is_enough(appended)`; how many were."""
        times: list[float] = []

        async def one() -> None:
            while True:
                session = f"s-{next(self._sessions)}"
                for _ in range(CALLS):
                    if is_enough(len(times)):
                        return
                    await one_call(recorder, session, times)

        await asyncio.gather(*(one() for _ in range(writers)))
        return len(times)


def _recorder(log: SqliteLog) -> Recorder:
    member = MemberId(os.urandom(8).hex())
    return Recorder(log, SystemClock(), SystemEntropy(), member=member, version="0", redactor=REDACTOR)


async def _whole(recorder: Recorder, session: str) -> None:
    for _ in range(CALLS):
        await one_call(recorder, session, [])


def _evidence_ms(server: services.Server, session: str) -> float:
    times = []
    with httpx.Client(base_url=server.url, headers={"X-API-Key": services.ADMIN_KEY}, timeout=60) as client:
        for _ in range(TRIALS):
            began_s = time.perf_counter()
            answer = client.get(f"/sessions/{session}/evidence", params={"format": "json"})
            times.append(1000 * (time.perf_counter() - began_s))
            answer.raise_for_status()
            events = len(answer.json()["timeline"])
            assert events >= CALLS, f"{session} has {events} calls"
    return statistics.median(times)


if __name__ == "__main__":
    main()
