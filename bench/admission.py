"""What containment's admission costs: the same gateway with one that says yes without looking."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import services
from bench.subject import Subject, interleave

CONNECTIONS = 32
MOST = 0.15
"""The issue's: containment may cost so much of a gateway without any."""


def measure(*, rounds: int, seconds: float) -> list[str]:
    """The section's lines."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentgate-bench-")))
        redis = stack.enter_context(services.redis())
        kinds = {
            "none": services.gateway(directory, "none", 18020, module="bench.unguarded"),
            "local": services.gateway(directory, "local", 18021),
            "redis": services.gateway(directory, "redis", 18022, AGENTGATE_REDIS_URL=redis.url),
        }
        helpers = {"redis": [int(redis.info("server")["process_id"])]}
        subjects = [
            Subject(name, "", [stack.enter_context(server)], helpers.get(name, ())) for name, server in kinds.items()
        ]
        interleave(subjects, (CONNECTIONS,), rounds=rounds, seconds=seconds)
    none = subjects[0]
    lines = [
        f"{rounds} interleaved rounds of {seconds:g} s at {CONNECTIONS} connections; ratios are medians of each",
        f"round's own ratio to `none`. To reach: at most {MOST:.0%} less.",
        "",
        "| admission | calls/s | × none | CPU of the gateway for a call, µs | × none | CPU of Redis for a call, µs |",
        "|---|---|---|---|---|---|",
    ]
    missed = []
    for subject in subjects:
        slower, dearer = subject.ratio(none, CONNECTIONS, "rate"), subject.ratio(none, CONNECTIONS, "cpu_us")
        lines.append(
            f"| {subject.name} | {subject.median(CONNECTIONS, 'rate'):,.0f} | {slower:.2f} "
            f"| {subject.median(CONNECTIONS, 'cpu_us'):.0f} | {dearer:.2f} "
            f"| {subject.median(CONNECTIONS, 'helpers_cpu_us'):.0f} |"
        )
        if slower < 1 - MOST:
            missed.append(f"**Missed**: `{subject.name}` costs {1 - slower:.0%} of the throughput without containment.")
    return [*lines, *(["", *missed] if missed else [])]
