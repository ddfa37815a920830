"""What the gateway adds to a call over MCP, in both eras, to the same server without it; beside it the least that a
gateway with a log could add, and fastmcp's proxy."""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from mcp import Client, MCPDeprecationWarning

from bench.services import HERE, READY_S, Server, gateway, process, until
from bench.subject import Subject
from tests.outside.tools import cache

CALLS, FEW_CALLS = 200, 40
CLIENTS = 16
ERAS = {"modern": "2026-07-28", "legacy": "2025-11-25"}
MOST, FASTER = 1.5, 5
"""To reach: added p50 as a multiple of the server's own, and how many times less than what fastmcp's proxy adds."""
TEXT = "tea at four"


def measure(*, rounds: int, seconds: float) -> list[str]:
    """The section's lines."""
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    p50_ms: dict[tuple[str, str], list[float]] = {}
    loads: dict[tuple[str, str], Subject] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentgate-bench-")))
        direct = stack.enter_context(_server(18040, [sys.executable, "-m", "bench.mcp_echo", "18040"]))
        subjects = {
            "direct": direct,
            "floor": stack.enter_context(_floor(direct, 18043, directory / "floor")),
            "agentgate": stack.enter_context(_gateway(directory, direct, 18041)),
            "fastmcp": stack.enter_context(_fastmcp(direct, 18042)),
        }
        for name, server in subjects.items():
            for era in ERAS:
                sessions = _sessions(server, CLIENTS) if era == "legacy" else []
                script = HERE / "mcp.lua"
                loads[name, era] = Subject(
                    f"{name} {era}", "", [server], path="/mcp", script=script, script_arguments=sessions
                )
        for number in range(-1, rounds):  # the first one warms up
            print(f"round {number + 1} of {rounds}")
            for (name, era), subject in loads.items():
                calls = FEW_CALLS if name == "fastmcp" else CALLS
                took_ms = asyncio.run(_sequential_ms(subjects[name], ERAS[era] if era == "modern" else era, calls))
                print(f"  {subject.name:<17} c=1    p50 {took_ms:7.2f} ms", flush=True)
                subject.load(CLIENTS, seconds, keep=number >= 0)
                if number >= 0:
                    p50_ms.setdefault((name, era), []).append(took_ms)
    medians_ms = {key: statistics.median(values) for key, values in p50_ms.items()}
    return [
        f"{rounds} interleaved rounds, medians. p50: {CALLS} calls of a tool that echoes, in a row, with the SDK's",
        f"client ({FEW_CALLS} of fastmcp). calls/s: {CLIENTS} connections of wrk for {seconds:g} s. `direct` is the",
        "server alone (the SDK's, over HTTP); `floor` passes on what it is told and does two durable writes for it;",
        "`agentgate` decides, counts and twice logs each call on its way there; `fastmcp` is its `create_proxy`, which",
        "does none of that.",
        "",
        *_table(medians_ms, loads),
        "",
        *_missed(medians_ms),
    ]


def _table(p50_ms: dict[tuple[str, str], float], loads: dict[tuple[str, str], Subject]) -> Iterator[str]:
    yield "| era | subject | p50 ms | added ms | × direct | calls/s | × direct | bad |"
    yield "|---|---|---|---|---|---|---|---|"
    for era, revision in ERAS.items():
        for name in ("direct", "floor", "agentgate", "fastmcp"):
            load, own_ms = loads[name, era], p50_ms["direct", era]
            added_ms, rate = p50_ms[name, era] - own_ms, load.median(CLIENTS, "rate")
            added = f"{added_ms:.2f} | {added_ms / own_ms:.2f}" if name != "direct" else "– | –"
            slower = rate / loads["direct", era].median(CLIENTS, "rate")
            bad = sum(round_["bad"] for round_ in load.rounds[CLIENTS])
            p50 = f"{p50_ms[name, era]:.2f} | {added}"
            yield f"| {revision} | {name} | {p50} | {rate:,.0f} | {slower:.2f} | {bad:.0f} |"


def _missed(p50_ms: dict[tuple[str, str], float]) -> Iterator[str]:
    """What was to be reached, and whether it was."""
    yield f"To reach: added p50 at most {MOST:g} × the server's own, and 1/{FASTER} of what fastmcp's proxy adds."
    for era, revision in ERAS.items():
        own_ms = p50_ms["direct", era]
        added_ms, theirs_ms = p50_ms["agentgate", era] - own_ms, p50_ms["fastmcp", era] - own_ms
        if added_ms > MOST * own_ms:
            yield f"**Missed**: at {revision} it adds {added_ms / own_ms:.1f} × the server's own p50."
        if theirs_ms < FASTER * added_ms:
            yield f"**Missed**: at {revision} fastmcp's proxy adds {theirs_ms / added_ms:.1f} × as much."


async def _sequential_ms(server: Server, mode: str, calls: int) -> float:
    """The median of calls one after the other."""
    took: list[float] = []
    async with Client(server.url + "/mcp", mode=mode, cache=None) as client:
        for _ in range(calls):
            began = time.perf_counter()
            result = await client.call_tool("echo", {"text": TEXT})
            took.append(time.perf_counter() - began)
            if result.is_error:
                raise SystemExit(f"bench: {server.url} refused: {result.content}")
    return statistics.median(took) * 1000


def _sessions(server: Server, count: int) -> list[str]:
    """Protocol sessions of the older era, each past its handshake."""
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": ERAS["legacy"]}
    who = {"protocolVersion": ERAS["legacy"], "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    sessions = []
    with httpx.Client(base_url=server.url, headers=headers, timeout=30) as client:
        for _ in range(count):
            answer = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": who})
            sessions.append(answer.headers["Mcp-Session-Id"])
            ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            client.post("/mcp", json=ready, headers={"Mcp-Session-Id": sessions[-1]}).raise_for_status()
    return sessions


@contextmanager
def _server(port: int, command: Sequence[str]) -> Iterator[Server]:
    with process(command, cwd=HERE.parent) as running:
        until(f"http://127.0.0.1:{port}/", lambda _: True, running)
        yield Server(f"http://127.0.0.1:{port}", running.pid)


@contextmanager
def _gateway(directory: Path, upstream: Server, port: int) -> Iterator[Server]:
    config = directory / "mcp.yaml"  # JSON is YAML
    echo = {"kind": "mcp", "url": upstream.url + "/mcp", "transparent": True, "trust": "first_use", "access": "read"}
    config.write_text(json.dumps({"upstreams": {"echo": echo}}), encoding="utf-8")
    with gateway(directory, "mcp", port, AGENTGATE_CONFIG=str(config)) as server:
        asyncio.run(_heard(server))
        yield server


async def _heard(server: Server) -> None:
    """Wait until the gateway has heard what its upstream offers."""
    ends_at = time.monotonic() + READY_S
    while True:
        async with Client(server.url + "/mcp", cache=None) as client:
            if (await client.list_tools()).tools:
                return
        if time.monotonic() > ends_at:
            raise SystemExit("bench: the gateway has not heard its upstream")
        await asyncio.sleep(0.05)


@contextmanager
def _floor(upstream: Server, port: int, file: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "bench.mcp_floor", upstream.url, str(port), str(file)]
    with _server(port, command) as server:
        yield server


@contextmanager
def _fastmcp(upstream: Server, port: int) -> Iterator[Server]:
    lock = hashlib.sha256((HERE / "fastmcp.lock").read_bytes()).hexdigest()[:16]
    interpreter = cache() / f"fastmcp-{lock}" / "bin/python"
    if not interpreter.exists():
        raise SystemExit("bench: fastmcp is not there: run scripts/services --bench")
    command = [str(interpreter), "-P", str(HERE / "mcp_fastmcp.py"), upstream.url + "/mcp", str(port)]
    with _server(port, command) as server:
        yield server
