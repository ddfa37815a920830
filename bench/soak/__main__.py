"""`make soak`: half an hour at 70 % of what the machine can, while everything is killed, restarted, reloaded, rotated.

Real Redis, real OPA, and a log in SQLite (one process, which is killed and started anew) or in PostgreSQL (two
workers). Exit status 1 with a sentence for each bound that is broken; the numbers are in bench/out/soak.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench.soak.bounds import Bound, Sample, Seen, judge, p99
from bench.soak.house import House
from bench.soak.load import Load
from bench.soak.nemesis import Nemesis

SHARE = 0.7
"""Of the capacity."""
FIND_OUT_S = 10.0
"""Calling as fast as answers come; the second half of it counts."""
FIRST_S = 300.0
PROGRESS_EVERY_S = 10.0
OUT = Path(__file__).parents[1] / "out" / "soak.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--directory", type=Path, help="where the log is made, and removed; default: where mktemp does")
    parser.add_argument("--out", type=Path, default=OUT, help="the numbers as JSON")
    options = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentgate-soak-", dir=options.directory) as place:
        soak = Soak(Path(place), store=options.store, seconds=60 * options.minutes)
        bounds = soak.run()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(soak.numbers(bounds), indent=1) + "\n", encoding="utf-8")
    print(f"\n{soak.summary()}; {time.monotonic() - began_s:.0f} s in all\n")
    print("\n".join(_table(bounds)))
    broken = [bound for bound in bounds if not bound.holds]
    for bound in broken:
        print(f"broken: {bound}", file=sys.stderr)
    sys.exit(1 if broken else 0)


class Soak:
    """One run: `run`, then ask what was seen."""

    def __init__(self, folder: Path, *, store: str, seconds: float) -> None:
        self.folder = folder
        self.store = store
        self.seconds = seconds
        self.rate = 0.0
        self.lives: dict[int, list[Sample]] = {}
        self._load: Load | None = None
        self._nemesis: Nemesis | None = None

    def run(self) -> list[Bound]:
        """Every bound."""
        with House(self.folder, store=self.store) as house:
            seen = uvloop.run(self._soak(house))
            house.gateway.stop()
            print("the log is verified and compared with what was answered", flush=True)
            seen.is_verified, seen.verified = house.verify()
            seen.missing = self._missing(house)
        return judge(seen)

    async def _soak(self, house: House) -> Seen:
        load = self._load = Load(house.server, house.key.secret)
        await load.start()
        await load.recover(60)  # OPA pulls its policy from a gateway that serves
        await asyncio.sleep(FIND_OUT_S / 2)
        answers, began_s = load.answers, time.perf_counter()
        await asyncio.sleep(FIND_OUT_S / 2)
        self.rate = SHARE * (load.answers - answers) / (time.perf_counter() - began_s)
        print(f"capacity {self.rate / SHARE:.0f} calls/s, so {self.rate:.0f} calls/s from now on", flush=True)
        load.steady(self.rate)
        nemesis = self._nemesis = Nemesis(house, load, seconds=self.seconds)
        trouble = asyncio.create_task(nemesis.run())
        watch = asyncio.create_task(self._watch(house, load, nemesis))
        await asyncio.wait([trouble, watch], timeout=self.seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in (trouble, watch):
            task.cancel()
        await asyncio.wait([trouble, watch])
        for task in (trouble, watch):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        await load.stop()
        load.settle()
        return Seen(
            lives=self.lives,
            calls=list(load.calls()),
            first_s=min(FIRST_S, self.seconds / 3),
            faults=load.faults,
            false_refusals=load.false_refusals,
            escaped=load.escaped,
            unanswered=load.unanswered,
            broken_steps=nemesis.broken,
        )

    async def _watch(self, house: House, load: Load, nemesis: Nemesis) -> None:
        """A sample of every process and a line about it, until cancelled."""
        every_s = min(PROGRESS_EVERY_S, self.seconds / 30)
        said_s, answers = 0.0, load.answers
        while True:
            await asyncio.sleep(every_s)
            at_s = time.perf_counter() - load.began_s
            now = list(house.samples(at_s))
            for pid, sample in now:
                self.lives.setdefault(pid, []).append(sample)
            if at_s - said_s >= PROGRESS_EVERY_S or at_s < every_s * 1.5:
                count, passed_s = load.answers - answers, at_s - said_s
                said_s, answers = at_s, load.answers
                recent = load.recent_ms(count)
                memory = ", ".join(f"{one.rss_mib:.0f} MiB {one.descriptors} fd" for _, one in now)
                done = " ".join(f"{name} {times}" for name, times in sorted(nemesis.done.items()))
                print(
                    f"{at_s:6.0f} s  {count / passed_s:5.0f}/s  p99 {p99(recent):6.1f} ms  {memory}  {done}"
                    f"  bad {len(load.faults) + len(load.escaped) + len(nemesis.broken) + load.unanswered}",
                    flush=True,
                )

    def _missing(self, house: House) -> int:
        """Answered calls whose decision or outcome the log does not have."""
        assert self._load is not None
        succeeded, refused = set(self._load.succeeded), set(self._load.refused)
        for kind, trace in house.calls():
            if kind == "finished":
                succeeded.discard(trace.encode())
            refused.discard(trace.encode())
        return len(succeeded) + len(refused)

    # --- what is told -------------------------------------------------------------------------------------

    def summary(self) -> str:
        assert self._load is not None
        assert self._nemesis is not None
        done = ", ".join(f"{times} × {name}" for name, times in sorted(self._nemesis.done.items()))
        left_out = sum(end - begin for begin, end in self._load.disturbed)
        slowest = ", ".join(f"{name} {max(times):.1f} s" for name, times in self._nemesis.recovered_s.items())
        return (
            f"{self.store}, {self.seconds / 60:g} minutes at {self.rate:.0f} calls/s, {self._load.answers:,} answers; "
            f"{done}; {left_out:.0f} s around restarts left out of p99 and refusals; "
            f"slowest first call after a restart: {slowest}"
        )

    def numbers(self, bounds: Sequence[Bound]) -> dict[str, Any]:
        assert self._load is not None
        assert self._nemesis is not None
        return {
            "summary": self.summary(),
            "bounds": [bound._asdict() for bound in bounds],
            "reasons": dict(self._load.reasons),
            "recovered_s": self._nemesis.recovered_s,
            "broken_steps": self._nemesis.broken,
            "faults": self._load.faults[:100],
            "false_refusals": self._load.false_refusals[:100],
            "processes": {pid: [list(sample) for sample in samples] for pid, samples in self.lives.items()},
        }


def _table(bounds: Sequence[Bound]) -> list[str]:
    return [
        "| bound | found | limit | |",
        "|---|---|---|---|",
        *(f"| {one.name} | {one.found} | {one.limit} | {'holds' if one.holds else '**broken**'} |" for one in bounds),
    ]


if __name__ == "__main__":
    main()
