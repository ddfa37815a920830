"""Throughput of one, two and three replicas on one PostgreSQL and one Redis."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import services
from bench.subject import Subject, interleave

CONNECTIONS = 48
"""Of all replicas together."""


def measure(*, rounds: int, seconds: float) -> list[str]:
    """The section's lines."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentgate-bench-")))
        redis_url = stack.enter_context(services.redis()).url
        database = stack.enter_context(services.postgres())
        full = stack.enter_context(services.gateway(directory, "full", 18010, AGENTGATE_REDIS_URL=redis_url))
        servers = stack.enter_context(
            services.replicas(
                directory,
                (18011, 18012, 18013),
                database_url=services.new_log(database, "replicas"),
                redis_url=redis_url,
            )
        )
        subjects = [
            Subject("full", "one gateway on SQLite", [full]),
            *(Subject(f"{count} on PG", "", servers[:count]) for count in (1, 2, 3)),
        ]
        interleave(subjects, (CONNECTIONS,), rounds=rounds, seconds=seconds)
    one = subjects[1]
    lines = [
        f"{rounds} interleaved rounds of {seconds:g} s, medians; {CONNECTIONS} connections shared out among the",
        "replicas, a wrk for each. Client, replicas, PostgreSQL and Redis share this machine's cores, and more",
        "replicas are no more processors here: the table says what sharing a log costs, not what more machines would",
        "bring. All three are members throughout, also in the rows with fewer. CPU is without PostgreSQL's.",
        "",
        "| subject | calls/s | × 1 on PG | × full | p50 ms | p99 ms | CPU of gateways for a call, µs | refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for subject in subjects:
        rate = subject.median(CONNECTIONS, "rate")
        bad = sum(round_["bad"] for round_ in subject.rounds[CONNECTIONS])
        lines.append(
            f"| {subject.name} | {rate:,.0f} | {rate / one.median(CONNECTIONS, 'rate'):.2f} "
            f"| {rate / subjects[0].median(CONNECTIONS, 'rate'):.2f} "
            f"| {subject.median(CONNECTIONS, 'p50_us') / 1000:.1f} "
            f"| {subject.median(CONNECTIONS, 'p99_us') / 1000:.1f} "
            f"| {subject.median(CONNECTIONS, 'cpu_us'):.0f} | {bad:.0f} |"
        )
    return lines
