"""What is soaked: a gateway service with a real Redis, a real OPA and a real log, each of which can be restarted."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from bench import services
from bench.soak.bounds import Sample
from tests.faults.conftest import OPA_ROLE_KEY, ROOT, PullingOpa
from tests.gateway import GatewayProcess, run_cli
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer, free_port

WORKERS = 2
"""On PostgreSQL. A SQLite log is one process's."""
REFUSALS = 1_000
"""A second. All sessions have one key, and a killed one goes on calling: beyond that, all calls are refused."""
ADMIN_KEY = "admin-key-of-the-soak"
_KEY_ID = re.compile(r"key (k-\w+) for")
_EVENTS = re.compile(r"\d+ events, ")
_OF_CALLS = "SELECT kind, {trace} FROM events WHERE kind IN ('decided', 'finished')"


class Key(NamedTuple):
    id: str
    secret: str


class House:
    """A context; ends with the gateway stopped in order, and its files kept until then."""

    def __init__(self, folder: Path, *, store: str) -> None:
        self.folder = folder
        self.policies = folder / "policies"
        shutil.copytree(ROOT / "policies", self.policies, ignore=shutil.ignore_patterns("*_test.rego"))
        self.data = json.loads((self.policies / "data.json").read_text(encoding="utf-8"))
        self.change_policy(0)
        self._stack = ExitStack()
        self._database: PostgresServer | None = None
        self.store = store
        self.redis = RedisServer("--appendonly", "yes")
        port = free_port()
        self.opa = PullingOpa(port)
        self._port = port

    def __enter__(self) -> House:
        with ExitStack() as stack:
            flags = ["--port", str(self._port)]
            environment = {"AGENTGATE_LOG_LEVEL": "ERROR", "AGENTGATE_ADMIN_API_KEY": ADMIN_KEY}
            environment |= {"AGENTGATE_POLICY_PATH": str(self.policies), "AGENTGATE_OPA_URL": self.opa.url}
            stack.enter_context(self.redis)
            stack.enter_context(self.opa)
            environment["AGENTGATE_REDIS_URL"] = self.redis.url
            if self.store == "postgresql":
                self._database = stack.enter_context(services.postgres())
                environment["AGENTGATE_DATABASE_URL"] = services.new_log(self._database, "soak")
                flags += ["--workers", str(WORKERS)]
            self.gateway = GatewayProcess(
                *flags,
                env=environment,
                config={"auth": {"keys": [OPA_ROLE_KEY]}, "server": {"refusals_per_second": REFUSALS}},
                data_dir=self.folder / "data",
                fresh=True,
            )
            self.key = self.new_key()
            stack.enter_context(self.gateway)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def server(self) -> services.Server:
        return services.Server(f"http://127.0.0.1:{self._port}", self.gateway.pid)

    # --- what is done to it -------------------------------------------------------------------------------

    def change_policy(self, number: int) -> None:
        """Another policy than the last one, that decides all calls of the soak alike: only a reload enforces it."""
        limits = {"rate_limits": {"api_get": 1_000 + number}}  # nobody calls it
        (self.policies / "data.json").write_text(json.dumps(self.data | limits), encoding="utf-8")

    def new_key(self) -> Key:
        """A key of the callers' agent, made by the command that an operator uses."""
        said = self._keys("create", "--agent", "soak")
        found = _KEY_ID.search(said.stderr)
        assert found is not None, said.stderr
        return Key(found[1], said.stdout.strip())

    def drop_key(self, key: Key) -> None:
        self._keys("delete", key.id)

    def _keys(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        said = run_cli("keys", *arguments, "--data-dir", str(self.folder / "data"), env=self.gateway.env)
        assert said.returncode == 0, said.stderr
        return said

    def restart_redis(self) -> None:
        self.redis.kill9()
        self.redis.start()

    def restart_opa(self) -> None:
        self.opa.stop()
        self.opa.start()

    def kill_worker(self) -> None:
        """`kill -9`, and what starts it anew: the parent of several workers, or whoever supervises a single process."""
        workers = self.processes()
        if len(workers) > 1:
            subprocess.run(["kill", "-9", str(workers[-1])], check=True)
        else:
            self.gateway.kill9()
            self.gateway.start()

    # --- what is seen of it -------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """Those that serve, the oldest first."""
        pid = self.gateway.pid
        if self.store == "sqlite":
            return [pid]
        return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def samples(self, at_s: float) -> Iterator[tuple[int, Sample]]:
        """Of each process that serves now."""
        for pid in self.processes() if self.gateway.is_running else []:
            try:
                yield pid, Sample(at_s, services.rss_mib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir())))
            except OSError:
                continue  # it has just been killed

    def verify(self) -> tuple[bool, str]:
        """Once the gateway has stopped: whether the log holds, and what the command said of it as a whole."""
        where = ["--data-dir", str(self.folder / "data")]
        said = run_cli("log", "verify", *where, env=self.gateway.env, timeout_s=3_600)
        lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if line.strip()]
        of_the_whole = next((line for line in lines if _EVENTS.match(line)), lines[0] if lines else "nothing was said")
        return said.returncode == 0, of_the_whole

    def calls(self) -> Iterator[tuple[str, str]]:
        """Kind and trace id of every decision and outcome in the log."""
        if self._database is not None:
            trace = "convert_from(leaf, 'UTF8')::json->>'trace_id'"
            for line in self._database.sql(_OF_CALLS.format(trace=trace), database="soak").splitlines():
                kind, _, found = line.partition("|")
                yield kind, found
            return
        with closing(sqlite3.connect(f"file:{self.folder}/data/log.db?mode=ro", uri=True)) as log:
            yield from log.execute(_OF_CALLS.format(trace="json_extract(CAST(leaf AS TEXT), '$.trace_id')"))
