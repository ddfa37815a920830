"""Something that is put under load by wrk, and what was measured of it."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.services import Server, cpu_s

SCRIPT = Path(__file__).parent / "call.lua"


@dataclass
class Subject:
    """`rounds`: for each number of connections, what wrk said of each round."""

    name: str
    what: str
    servers: Sequence[Server]
    helpers: Sequence[int] = ()
    """Processes whose processor time is counted beside the servers' own."""
    path: str = "/tools/call"
    script: Path = SCRIPT
    script_arguments: Sequence[str] = ()
    rounds: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def median(self, connections: int, value: str) -> float:
        return statistics.median(round_[value] for round_ in self.rounds[connections])

    def ratio(self, to: Subject, connections: int, value: str) -> float:
        """The median of each round's own ratio."""
        pairs = zip(self.rounds[connections], to.rounds[connections], strict=True)
        return statistics.median(mine[value] / theirs[value] for mine, theirs in pairs)

    def load(self, connections: int, seconds: float, *, keep: bool = True) -> dict[str, float]:
        """One round; the connections are shared out among the servers, a wrk for each.

        `rate` is calls a second, `cpu_us` and `helpers_cpu_us` the processor time for one call.
        """
        before_s, helpers_before_s = self._cpu_s(), sum(map(cpu_s, self.helpers))
        share = connections // len(self.servers)
        running = [self._start(server, share, seconds) for server in self.servers]
        told = [_told(wrk) for wrk in running]
        calls = sum(one["requests"] for one in told)
        result = {
            "requests": calls,
            "rate": sum(one["requests"] / (one["duration_us"] / 1e6) for one in told),
            "p50_us": statistics.fmean(one["p50_us"] for one in told),
            "p99_us": max(one["p99_us"] for one in told),
            "bad": sum(one["bad"] + one["errors"] for one in told),
            "cpu_us": (self._cpu_s() - before_s) / max(calls, 1) * 1e6,
            "helpers_cpu_us": (sum(map(cpu_s, self.helpers)) - helpers_before_s) / max(calls, 1) * 1e6,
        }
        if keep:
            self.rounds.setdefault(connections, []).append(result)
        print(f"  {self.name:<12} c={connections:<4} {result['rate']:8.0f}/s  p50 {result['p50_us'] / 1000:7.2f} ms  "
              f"p99 {result['p99_us'] / 1000:7.2f} ms  refused {result['bad']:.0f}", flush=True)  # fmt: skip
        return result

    def _cpu_s(self) -> float:
        return sum(cpu_s(server.pid) for server in self.servers)

    def _start(self, server: Server, connections: int, seconds: float) -> subprocess.Popen[str]:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "--latency"]
        command += ["-s", str(self.script), server.url + self.path, "--", *self.script_arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _told(wrk: subprocess.Popen[str]) -> dict[str, float]:
    output, _ = wrk.communicate()
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if found is None:
        raise SystemExit(f"bench: wrk said nothing of use:\n{output}")
    result: dict[str, float] = json.loads(found[1])
    return result


def interleave(subjects: Sequence[Subject], connections: Sequence[int], *, rounds: int, seconds: float) -> None:
    """Warm every subject up, then load them in turn: the machine's own speed drifts, and so it drifts for all."""
    for subject in subjects:
        subject.load(connections[0], 1, keep=False)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}")
        for count in connections:
            for subject in subjects:
                subject.load(count, seconds)
