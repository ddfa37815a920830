"""How long an auditor waits for a pack of a thousand events, in each form, from a running gateway."""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from bench import services

CALLS = 500
"""Each is two events."""
FORMS = ("json", "html", "pdf", "zip")
KEY = "bench-signing-key-of-no-value-at-all"


def measure(*, rounds: int) -> list[str]:
    """The section's lines."""
    with tempfile.TemporaryDirectory(prefix="agentgate-bench-") as place:
        keys = {"AGENTGATE_ADMIN_API_KEY": services.ADMIN_KEY, "AGENTGATE_SIGNING_KEY": KEY}
        with (
            services.gateway(Path(place), "packs", 18030, **keys) as server,
            httpx.Client(base_url=server.url) as client,
        ):
            _fill(client)
            waits: dict[str, list[float]] = {form: [] for form in FORMS}
            sizes: dict[str, int] = {}
            for _ in range(rounds):
                for form in FORMS:
                    waits[form].append(_take(client, form, sizes))
    whole = sum(statistics.median(waits[form]) for form in FORMS)
    return [
        f"One session of {CALLS} calls, {2 * CALLS:,} events; medians of {rounds} rounds, from request to last byte.",
        "",
        "| form | ms | kB |",
        "|---|---|---|",
        *(f"| {form} | {1000 * statistics.median(waits[form]):.0f} | {sizes[form] / 1000:,.0f} |" for form in FORMS),
        "",
        f"All four together: {whole:.2f} s (to reach: 2 s).",
    ]


def _fill(client: httpx.Client) -> None:
    def one(number: int) -> None:
        body = {"session_id": "bench", "tool_name": "rate_limited_tool", "arguments": {}}
        if number % 10 == 0:
            body |= {"tool_name": "db_query", "arguments": {"query": f"SELECT {number}"}}
        client.post("/tools/call", json=body).raise_for_status()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(CALLS)))


def _take(client: httpx.Client, form: str, sizes: dict[str, int]) -> float:
    began = time.perf_counter()
    answer = client.get(
        "/sessions/bench/evidence", params={"format": form}, headers={"X-API-Key": services.ADMIN_KEY}, timeout=60
    )
    took_s = time.perf_counter() - began
    answer.raise_for_status()
    sizes[form] = len(answer.content)
    return took_s
