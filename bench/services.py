"""The programs that are measured or that these need, each a real process that ends with its `with`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

HERE = Path(__file__).parent
ADMIN_KEY = "bench-admin-key-of-no-value"
READY_S = 30.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LIKE_IN_LIFE = ("shared_buffers=128MB", "max_wal_size=1GB", "autovacuum_naptime=60s")
"""PostgreSQL's own defaults, which the tests' server makes smaller."""


class Server(NamedTuple):
    """A process that answers HTTP."""

    url: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def process(command: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(command, text=True, **more)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(timeout=30)


def until(url: str, check: Callable[[httpx.Response], bool], running: subprocess.Popen[str]) -> None:
    """Wait for an answer that passes `check`, for as long as the process is there."""
    deadline = time.monotonic() + READY_S
    with httpx.Client() as client:
        while True:
            try:
                if check(client.get(url)):
                    return
            except httpx.HTTPError:
                pass
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: {url} did not become ready")
            time.sleep(0.02)


@contextmanager
def floor(name: str, port: int) -> Iterator[Server]:
    """One of `bench.floors`."""
    command = [sys.executable, "-m", "uvicorn", f"bench.floors:{name}", "--port", str(port), "--loop", "uvloop"]
    command += ["--http", "httptools", "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    with process(command, cwd=HERE.parent) as running:
        until(f"http://127.0.0.1:{port}/", lambda _: True, running)
        yield Server(f"http://127.0.0.1:{port}", running.pid)


@contextmanager
def gateway(
    directory: Path, name: str, port: int, *, module: str = "agentgate", **environment: str
) -> Iterator[Server]:
    """`agentgate serve` with a data directory of its own, and no settings but these."""
    command = [sys.executable, "-m", module, "serve", "--port", str(port), "--data-dir", str(directory / name)]
    variables = _clean() | {"AGENTGATE_LOG_LEVEL": "ERROR", "AGENTGATE_POLICY_PATH": str(_policies(directory))}
    with process(command, env=variables | environment, cwd=HERE.parent, stdout=subprocess.DEVNULL) as running:
        until(f"http://127.0.0.1:{port}/readyz", lambda answer: answer.status_code == 200, running)
        yield Server(f"http://127.0.0.1:{port}", running.pid)


@contextmanager
def replicas(
    directory: Path,
    ports: Sequence[int],
    *,
    database_url: str,
    redis_url: str,
    prepare: Callable[[Server], None] = lambda _: None,
) -> Iterator[list[Server]]:
    """Gateways that share a log, its key and a Redis. `prepare` gets the first one before there are others."""
    directory.mkdir(exist_ok=True)
    config = directory / "agentgate.yaml"  # JSON is YAML
    key = {"checkpoint_key": {"file": str(directory / "log-key.pem")}}
    # who goes on calling after a kill is turned away at 20 refusals a second, and here that is how time is taken
    config.write_text(json.dumps({"log": key, "server": {"refusals_per_second": 1_000_000}}), encoding="utf-8")
    common = {
        "AGENTGATE_CONFIG": str(config),
        "AGENTGATE_DATABASE_URL": database_url,
        "AGENTGATE_REDIS_URL": redis_url,
        "AGENTGATE_ADMIN_API_KEY": ADMIN_KEY,
    }
    with ExitStack() as stack:
        running: list[Server] = []
        for port in ports:
            running.append(stack.enter_context(gateway(directory, f"replica-{port}", port, **common)))
            if len(running) == 1:
                prepare(running[0])
        yield running


@contextmanager
def redis() -> Iterator[RedisServer]:
    """A real Redis with AOF on a unix socket."""
    with RedisServer("--appendonly", "yes") as server:
        yield server


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL."""
    with PostgresServer(*_LIKE_IN_LIFE) as server:
        yield server


def new_log(server: PostgresServer, name: str) -> str:
    """An empty log in a database of its own; its URL."""
    server.sql(f"CREATE DATABASE {name}")
    command = [sys.executable, "-m", "agentgate", "log", "migrate", "--database-url", server.url(name)]
    subprocess.run(command, env=_clean(), check=True, stdout=subprocess.DEVNULL)
    return server.url(name)


@contextmanager
def opa(directory: Path, gateway_port: int) -> Iterator[str]:
    """A real OPA on a unix socket, which pulls its bundle from the gateway."""
    binary = (
        os.environ.get("AGENTGATE_OPA_BIN")
        or shutil.which("opa")
        or str(Path(os.environ.get("AGENTGATE_CACHE") or Path.home() / ".cache/agentgate") / "bin/opa")
    )
    socket = directory / "opa.sock"
    config = directory / "opa.json"
    service = {"url": f"http://127.0.0.1:{gateway_port}", "credentials": {"bearer": {"token": ADMIN_KEY}}}
    polling = {"min_delay_seconds": 1, "max_delay_seconds": 1}
    bundle = {"service": "gateway", "resource": "bundles/agentgate.tar.gz", "polling": polling}
    config.write_text(json.dumps({"services": {"gateway": service}, "bundles": {"agentgate": bundle}}))
    command = [binary, "run", "--server", "--addr", f"unix://{socket}", "--config-file", str(config)]
    with process([*command, "--log-level", "error", "--skip-version-check"]):
        yield f"unix://{socket}"


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, in steps of a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AGENTGATE_")}


def _policies(directory: Path) -> Path:
    """The shipped policy without its rate limit: the echoing tool is the one that has it."""
    path = directory / "policies"
    if not path.exists():
        shutil.copytree(HERE.parent / "policies", path)
        data = json.loads((path / "data.json").read_text(encoding="utf-8"))
        (path / "data.json").write_text(json.dumps(data | {"rate_limits": {}}), encoding="utf-8")
    return path
