"""A cluster on one machine: N gateway processes, two Redis servers, a PostgreSQL, and a proxy on every connection.

    with Cluster() as cluster:
        async with Client(history) as client:
            await cluster.ready()
            await client.call(cluster.replicas[0], "a1", "s-1", "read-a", ms=50)
            cluster.replicas[0].redis.cut()
            await client.kill(cluster.replicas[1], "session", "s-1")
            cluster.replicas[0].redis.heal()
        history.sends = cluster.sends()
        history.records = await cluster.records()

Everything but the upstream is real: see `replica.py`. The servers live as long as the cluster; replicas are killed,
paused and started again at will, each on its own port and data directory. A break (`breaks.py`) is put into every
replica that is started while `cluster.breaks` names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from aiohttp import ClientTimeout

from agentgate.adapters.log import postgresql
from agentgate.adapters.log._postgres.migrate import migrate
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.audit.report import Report
from agentgate.core.note import NoteKey
from agentgate.settings import LogPart
from tests.containment import toxiproxy
from tests.containment.history import CallOp, History, KillOp, LogRecord, ReleaseOp, Send
from tests.containment.replica import Orders, configuration
from tests.containment.toxiproxy import Link, Toxiproxy
from tests.containment.zygote import Zygote
from tests.postgres_server import PostgresServer
from tests.postgres_server import is_installed as postgres_is_installed
from tests.redis_server import RedisServer, free_port
from tests.redis_server import is_installed as redis_is_installed

ADMIN_KEY = "history-admin-key-0123456789"
AGENTS = {"a1": "acme", "a2": "acme", "b1": "beta", "b2": "beta"}
"""Each agent's tenant."""
DATABASE = "agentgate"
REDIS_FLAGS = ("--appendonly", "yes", "--repl-diskless-sync-delay", "0")
HURRIED = {"presumed_gone_after_s": 3.0}
"""What is too short for life, and long enough for a test."""
READY_S = 20.0
NO_START = 3
"""The exit code of a gateway that cannot start, because its log does not answer for one."""


def missing() -> str | None:
    """What a cluster needs and this machine has not."""
    if not redis_is_installed():
        return "redis-server is not installed"
    if not postgres_is_installed():
        return "PostgreSQL is not installed"
    if toxiproxy.find() is None:
        return "toxiproxy-server is not installed (AGENTGATE_TOXIPROXY_BIN, PATH or the cache)"
    return None


def key_of(agent: str) -> str:
    return f"history-key-of-{agent}"


@dataclass(slots=True)
class Replica:
    """One gateway process after another on the same port, data directory and links."""

    name: str
    port: int
    data_dir: Path
    redis: Link
    log: Link
    cluster: Cluster
    pid: int = 0
    is_paused: bool = False
    deaths: list[int] = field(default_factory=list)
    """When a process of it was dead that was not stopped in order."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        """What its processes have said."""
        return self.data_dir.with_suffix(".log")

    def start(self) -> None:
        """Fork it; `Cluster.ready` waits until it answers."""
        assert not self.pid, "it runs already"
        self.pid = self.cluster.start(self)

    def kill9(self) -> None:
        """End it as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        self._over()

    def stop(self) -> None:
        """End it in order, paused or not."""
        os.kill(self.pid, signal.SIGTERM)
        self.resume()
        self._over()

    def _over(self) -> None:
        _, at = self.cluster.zygote.wait(self.pid)
        self.deaths.append(at)
        self.pid, self.is_paused = 0, False

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.is_paused = False

    def heal(self) -> None:
        """Undo whatever a fault has done to its process and its links."""
        self.redis.heal()
        self.log.heal()
        self.redis.lead_to(self.cluster.primary.port)
        if not self.pid:
            self.start()
        elif self.is_paused:
            self.resume()


class Cluster:
    """All servers. `primary` is the Redis that is in charge, `standby` the one that follows it, if it does."""

    def __init__(self, n: int = 3, *, breaks: Iterable[str] = (), hurried: dict[str, float] | None = None) -> None:
        self.breaks = tuple(breaks)
        self.hurried = dict(HURRIED if hurried is None else hurried)
        self.directory = Path(tempfile.mkdtemp(prefix="agentgate-cluster-"))
        self._sends_read = 0
        self._sends: dict[str, list[Send]] = {}
        self._n = n
        self._stack = contextlib.ExitStack()
        self._tools: list[str] = []

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.zygote = Zygote()
            stack.callback(self.zygote.close)
            self.primary = stack.enter_context(RedisServer(*REDIS_FLAGS, tcp=True))
            self.standby = stack.enter_context(RedisServer(*REDIS_FLAGS, tcp=True))
            self.postgres = stack.enter_context(PostgresServer())
            self.postgres.sql(f"CREATE DATABASE {DATABASE}")
            proxies = stack.enter_context(Toxiproxy())
            Ed25519Signer.from_file_or_new(self.directory / "log-key.pem")
            self.replicas = [self._make_replica(f"r{number + 1}", proxies) for number in range(self._n)]
            with ThreadPoolExecutor() as aside:  # whoever starts us may have a loop of its own
                aside.submit(asyncio.run, migrate(self.postgres.url(DATABASE, tcp=True))).result()
            self.follow()
            stack.callback(self._stop_replicas)
            for replica in self.replicas:
                replica.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make_replica(self, name: str, proxies: Toxiproxy) -> Replica:
        redis = proxies.link(f"{name}-redis", self.primary.port)
        log = proxies.link(f"{name}-log", self.postgres.port)
        return Replica(name, free_port(), self.directory / name, redis, log, self)

    def _stop_replicas(self) -> None:
        self.mourn()
        for replica in self.replicas:
            if replica.pid:
                replica.kill9()

    def start(self, replica: Replica) -> int:
        """Fork the process of `replica`; its pid."""
        keys = [
            {"id": agent, "agent": agent, "tenant": tenant, "sha256": sha256(key_of(agent).encode()).hexdigest()}
            for agent, tenant in AGENTS.items()
        ]
        shared = {"auth": {"admin_key": ADMIN_KEY, "keys": keys}, "log_key": str(self.directory / "log-key.pem")}
        settings = configuration(
            replica.port,
            replica.data_dir,
            shared,
            f"redis://127.0.0.1:{replica.redis.port}/0",
            self.postgres.url(DATABASE, port=replica.log.port),
        )
        orders = Orders(
            replica.name, settings, str(self._sends_file), str(replica.output), self.hurried, list(self.breaks)
        )
        return self.zygote.start(asdict(orders))

    # --- Redis: who follows whom ---

    def follow(self) -> None:
        """Let the standby follow the primary, and wait until it has everything. From now on it is not stale."""
        self.standby.command("REPLICAOF", "127.0.0.1", self.primary.port)
        deadline = time.monotonic() + READY_S
        while "master_link_status:up" not in str(self.standby.command("INFO", "replication")):
            assert time.monotonic() < deadline, "the standby does not follow"
            time.sleep(0.005)

    def promote(self) -> None:
        """The standby becomes a primary of its own, with what it has got so far. No replica is told."""
        self.standby.command("REPLICAOF", "NO", "ONE")

    def fail_over(self, replicas: Iterable[Replica] | None = None) -> None:
        """These replicas (all, if none are named) talk to the standby from now on; others to the deposed primary."""
        for replica in self.replicas if replicas is None else replicas:
            replica.redis.lead_to(self.standby.port)

    def swap(self) -> None:
        """What was the standby is the primary now: `heal` makes the deposed one its follower."""
        self.primary, self.standby = self.standby, self.primary

    # --- healing and waiting ---

    def heal(self) -> None:
        """Undo every fault, in the servers and in the replicas; nothing is waited for but the servers themselves."""
        self.follow()
        self.mourn()
        for replica in self.replicas:
            replica.heal()

    def mourn(self) -> None:
        """Notice replicas that could not start, as a supervisor would. Raises AssertionError for any other end."""
        for replica in self.replicas:
            if replica.pid and (end := self.zygote.end_of(replica.pid)) is not None:
                status, at = end
                assert status == NO_START, f"{replica.name} ended with {status}:\n{_tail(replica.output)}"
                replica.deaths.append(at)
                replica.pid = 0

    async def ready(self, replicas: Sequence[Replica] | None = None) -> None:
        """Wait until these replicas would allow a call; one that could not start is started again.

        Raises:
            AssertionError: one of them does not come back, or has ended; the text has what it said.
        """
        async with aiohttp.ClientSession(timeout=ClientTimeout(total=2)) as http:
            await asyncio.gather(*(self._ready(http, one) for one in (self.replicas if replicas is None else replicas)))

    async def _ready(self, http: aiohttp.ClientSession, replica: Replica) -> None:
        deadline = time.monotonic() + READY_S
        said = "nothing"
        while time.monotonic() < deadline:
            try:
                async with http.get(f"{replica.url}/readyz") as answer:
                    said = await answer.text()
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                self.mourn()
                if not replica.pid:
                    replica.start()
            await asyncio.sleep(0.02)
        raise AssertionError(f"{replica.name} is not ready and says {said}:\n{_tail(replica.output)}")

    # --- what is written down ---

    @property
    def _sends_file(self) -> Path:
        return self.directory / "sends"

    def sends(self) -> list[Send]:
        """The sends that were seen since the last time, and those that were still open then."""
        if self._sends_file.exists():
            with self._sends_file.open("rb") as file:
                file.seek(self._sends_read)
                raw = file.read()
            self._sends_read += len(raw)
            for line in raw.splitlines():
                self._note(json.loads(line))
        found = [send for of_call in self._sends.values() for send in of_call]
        for send in found:
            if send.ended is None:
                self._bury(send)
        self._sends = {trace: of_call for trace, of_call in self._sends.items() if of_call[-1].ended is None}
        return sorted(found, key=lambda send: send.started)

    def _note(self, line: dict[str, Any]) -> None:
        of_call = self._sends.setdefault(line["trace"], [])
        if line["what"] == "started":
            of_call.append(Send(line["trace"], line["replica"], line["at"], line["ms"]))
        else:
            of_call[-1].ended, of_call[-1].how = line["at"], line["what"]

    def _bury(self, send: Send) -> None:
        deaths = next(replica.deaths for replica in self.replicas if replica.name == send.replica)
        died = next((at for at in deaths if at > send.started), None)
        if died is not None:
            send.ended, send.how = died, "died"

    async def audit(self) -> Report:
        """`agentgate log verify`: everything that is derived from the events, derived again."""
        signer = Ed25519Signer.from_file(self.directory / "log-key.pem")
        origin = LogPart().origin
        return await postgresql.verify(
            self.postgres.url(DATABASE, tcp=True), origin, [NoteKey(origin, signer.public_key)]
        )

    async def records(self, first: int = 0) -> list[LogRecord]:
        """The log from an index on, read past every proxy and past the gateway's own reader."""
        connection = await asyncpg.connect(self.postgres.url(DATABASE, tcp=True))
        try:
            query = "SELECT idx, kill_position, leaf FROM events WHERE idx >= $1 ORDER BY idx"
            rows = await connection.fetch(query, first)
        finally:
            await connection.close()
        offset = time.time_ns() - time.monotonic_ns()
        return [_record(row["idx"], row["kill_position"], row["leaf"], offset) for row in rows]


def _record(index: int, position: int, leaf: bytes, offset_ns: int) -> LogRecord:
    fields = json.loads(leaf)
    at = round(datetime.fromisoformat(fields["at"]).timestamp() * 1e6) * 1000 - offset_ns
    kept = {name: value for name, value in fields.items() if name not in _DROPPED}
    return LogRecord(index, position, fields["kind"], at, fields["member"], kept)


_DROPPED = frozenset({"arguments_sha256", "body_sha256", "call_sha256", "result_sha256", "tool_sha256", "latency_us"})
"""Nobody needs these to judge a history, and they are most of a record."""


def _tail(path: Path, lines: int = 30) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


class Client:
    """Callers and operators: every operation is written into the history as it is invoked and as it is answered."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        self._http = aiohttp.ClientSession(connector=connector, timeout=ClientTimeout(total=30))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._http is not None
        await self._http.close()

    async def call(
        self, replica: Replica, agent: str, session: str, tool: str, *, ms: int, linger_ms: int = 0
    ) -> CallOp:
        """One tool call, whose upstream takes `ms`."""
        op = CallOp(time.monotonic_ns(), replica.name, AGENTS[agent], agent, session, tool)
        self.history.calls.append(op)
        body = {"session_id": session, "tool_name": tool, "arguments": {"ms": ms, "linger_ms": linger_ms}}
        answer = await self._ask("POST", f"{replica.url}/tools/call", key_of(agent), body)
        op.answered = time.monotonic_ns()
        if answer is not None:
            op.status, said = answer
            op.reason, op.trace = said.get("reason_code", ""), said.get("trace_id")
        return op

    async def kill(
        self,
        replica: Replica,
        scope: str,
        target: str,
        *,
        kill_id: str,
        tenant: str | None = None,
        expires_in_s: float | None = None,
    ) -> KillOp:
        """An order of an operator of all tenants."""
        op = KillOp(time.monotonic_ns(), replica.name, kill_id, scope=scope, tenant=tenant or "", target=target)
        self.history.kills.append(op)
        body: dict[str, Any] = {"scope": scope, "target": target, "id": kill_id}
        if tenant is not None and scope in ("session", "agent"):
            body["tenant"] = tenant
        if expires_in_s is not None:
            body["expires_in_s"] = expires_in_s
        _take(op, await self._ask("POST", f"{replica.url}/kills", ADMIN_KEY, body))
        return op

    async def look(self, replica: Replica, kill_id: str) -> KillOp:
        """How far a kill has come, as this replica says."""
        op = KillOp(time.monotonic_ns(), replica.name, kill_id, is_order=False)
        self.history.kills.append(op)
        _take(op, await self._ask("GET", f"{replica.url}/kills/{kill_id}", ADMIN_KEY))
        return op

    async def release(self, replica: Replica, kill_id: str, *, force: bool = False) -> ReleaseOp:
        op = ReleaseOp(time.monotonic_ns(), replica.name, kill_id, force)
        self.history.releases.append(op)
        answer = await self._ask("POST", f"{replica.url}/kills/{kill_id}/release", ADMIN_KEY, {"force": force})
        op.answered = time.monotonic_ns()
        op.status = answer[0] if answer is not None else None
        return op

    async def members(self, replica: Replica) -> list[dict[str, Any]]:
        """Those that have not left; none when the replica cannot say."""
        answer = await self._ask("GET", f"{replica.url}/members", ADMIN_KEY)
        return answer[1]["members"] if answer is not None and answer[0] == 200 else []

    async def attest(self, replica: Replica, member: str) -> int | None:
        """Say that a member's host is destroyed; the status of the answer."""
        answer = await self._ask("POST", f"{replica.url}/members/{member}/gone", ADMIN_KEY, {})
        return answer[0] if answer is not None else None

    async def _ask(
        self, method: str, url: str, key: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None when no answer came."""
        assert self._http is not None
        try:
            async with self._http.request(method, url, json=body, headers={"X-API-Key": key}) as answer:
                return answer.status, json.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return None


def _take(op: KillOp, answer: tuple[int, dict[str, Any]] | None) -> None:
    op.answered = time.monotonic_ns()
    if answer is None:
        return
    op.status, said = answer
    if op.status not in (200, 202):
        return
    op.scope, op.tenant, op.target = said["scope"], said["tenant"], said["target"]
    op.drained = said.get("drained", False)
    op.unheard = tuple(one["member"] for one in said.get("replicas", ()) if not one["acked"])
    op.excepted, op.attested = tuple(said.get("drained_except", ())), tuple(said.get("attested", ()))
    op.running, op.receipt = tuple(said.get("running", ())), said.get("receipt")
    op.active = said.get("active", True)
