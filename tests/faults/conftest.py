"""What the fault tests share: an upstream that misbehaves as it is told, an OPA that pulls its bundle from the
gateway under test, and what a call left behind (answer, record, metric).

Everything is real: the gateway is a process, OPA and Redis are servers. An upstream is made here, because a real
one does not misbehave when it is asked to.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import select
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentgate.adapters.log._postgres.migrate import migrate
from agentgate.core.call import key_sha256
from tests.containment.cluster import missing
from tests.containment.toxiproxy import Link, Toxiproxy
from tests.gateway import GatewayProcess, call, run_cli, until
from tests.opa_server import NO_OPA, OPA, OpaServer
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer, free_port, is_installed

ROOT = Path(__file__).parents[2]
ADMIN_KEY = "admin-key-of-the-fault-tests"
SIGNING_KEY = "the-signing-key-of-the-fault-tests"
APPROVAL_TOKEN = "static-token-of-the-fault-tests"
OPA_KEY = "key-of-the-policy-engine"

needs_opa = pytest.mark.skipif(OPA is None, reason=NO_OPA)
needs_redis = pytest.mark.skipif(not is_installed(), reason="redis-server is not installed")
needs_cluster = pytest.mark.skipif(missing() is not None, reason=str(missing()))
"""What several gateways on one log are tested with: PostgreSQL, Redis, and proxies between."""


# --- a call, and what it left behind --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """The gateway's answer to one call."""

    status: int
    body: Mapping[str, Any]

    @property
    def reason(self) -> str:
        return str(self.body["reason_code"])

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.body["success"] is True


class Gate(GatewayProcess):
    """A gateway with fixed keys, and shorthands for what a fault test asks of it."""

    def __init__(
        self, *flags: str, env: Mapping[str, str] | None = None, config: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        keys = {
            "AGENTGATE_ADMIN_API_KEY": ADMIN_KEY,
            "AGENTGATE_SIGNING_KEY": SIGNING_KEY,
            "AGENTGATE_APPROVAL_TOKEN": APPROVAL_TOKEN,
        }
        # Refusals are what these tests make, many a second: being turned away for them is another test's matter.
        config = {"server": {"refusals_per_second": 1_000_000}, **(config or {})}
        super().__init__(*flags, env={**keys, **(env or {})}, config=config, **more)
        self._pool = ThreadPoolExecutor(64)
        self.probe = "db_query"
        """The tool that is called to see whether calls are allowed."""

    def __enter__(self) -> Gate:
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._pool.shutdown()

    def say(self, tool: str = "db_query", session: str = "s-1", *, token: str | None = None, **arguments: Any) -> Said:
        """One call. Arguments of the demo's `db_query` are filled in."""
        if tool == "db_query" and not arguments:
            arguments = {"query": "SELECT 1"}
        if self._agent is None:
            self._agent = self.agent()
        more = {"approval_token": token} if token is not None else {}
        answer = call(self._agent, tool, arguments, session=session, **more)
        assert answer.status_code in (200, 429, 503), answer.text
        return Said(answer.status_code, answer.json())

    def write(self, session: str = "s-1") -> Said:
        """A write to the demo's database that policy allows, so that only a fault can keep it from happening."""
        return self.say("db_insert", session, token=APPROVAL_TOKEN, table="items", data={"name": "fault"})

    @property
    def written(self) -> int:
        """How many such rows there are."""
        with closing(sqlite3.connect(f"file:{self.data_dir}/demo/sample.db?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM items WHERE name = 'fault'").fetchone()
            return int(count)

    def begin(self, tool: str, session: str = "s-1", **arguments: Any) -> Future[Said]:
        """One call that goes on while something else happens."""
        return self._pool.submit(self.say, tool, session, **arguments)

    def works(self, session: str = "s-1") -> bool:
        return self.say(self.probe, session).ok

    def until_works(self, *, session: str = "after", timeout_s: float = 10) -> float:
        """Call until a call is allowed again; how long that took."""
        started = time.monotonic()
        while not (said := self.say(self.probe, session)).ok:
            assert time.monotonic() - started < timeout_s, f"still refused: {said.body}\n{self.stderr}"
            time.sleep(0.05)  # the state of other processes is polled
        return time.monotonic() - started

    def assert_refused(self, status: int, reason: str, session: str = "refused") -> Said:
        """A write is refused just so, with a record that says why, and is not done."""
        before = self.written
        said = self.write(session)
        assert (said.status, said.reason, said.body["decision"]) == (status, reason, "DENY")
        assert said.body["success"] is False
        assert self.written == before
        entry = self.entry(said, session)
        assert (entry["decision"], entry["reason_code"], entry["outcome"]) == ("DENY", reason, None)
        return said

    def kill_session(self, session: str) -> httpx.Response:
        return self.admin().post(f"/sessions/{session}/kill", json={"reason": "a test"})

    def until_running(self, session: str) -> None:
        """Until the session's newest call is decided, recorded, and not ended."""
        until(lambda: [entry["outcome"] for entry in self.timeline(session)][-1:] == ["open"])

    def timeline(self, session: str = "s-1") -> list[dict[str, Any]]:
        """The session's calls as its evidence tells them."""
        pack = self.admin().get(f"/sessions/{session}/evidence")
        assert pack.status_code == 200, pack.text
        entries: list[dict[str, Any]] = pack.json()["timeline"]
        return entries

    def entry(self, said: Said, session: str = "s-1") -> dict[str, Any]:
        """What evidence says of one answered call."""
        found = [item for item in self.timeline(session) if item["trace_id"] == said.body["trace_id"]]
        assert len(found) == 1, f"{said.body['trace_id']} is {len(found)} times in the evidence"
        return found[0]

    def sum(self, name: str, **labels: str) -> float:
        """All samples of a metric that carry these labels, together."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in self.client().get("/metrics").text.splitlines():
            head, _, value = line.rpartition(" ")
            if head.split("{")[0] == name and all(label in head for label in wanted):
                total += float(value)
        return total

    def health(self) -> dict[str, Any]:
        answer = self.client().get("/health")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    @property
    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def assert_log_holds(self) -> str:
        """`agentgate log verify` on its data, beside it or after it; what it said."""
        config = ("--config", str(self.config_path)) if self.config_path else ()
        said = run_cli("log", "verify", "--data-dir", str(self.data_dir), *config, env=self.env)
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout


# --- an upstream ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Service:
    """A small HTTP service on loopback: counts what reaches it, and behaves as the path says.

    /ok answers; /held after `let_go`; /hang never; /drip a piece at a time, without end; /500, /redirect, /garbage;
    /flood (50 MB), /announced (50 MB, and says so); /breaks (ends within its answer), /hangup (ends without one).
    """

    port: int = 0
    connections: list[socket.socket] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    left_at: dict[str, float] = field(default_factory=dict)
    """When the client of a request that hangs went away, by its query."""
    _listener: socket.socket | None = None
    _free: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """End every connection and take no new one."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def restart(self) -> None:
        self.stop()
        self.start()

    def forget(self) -> None:
        self.requests.clear()
        self.left_at.clear()
        self._free.clear()

    def let_go(self) -> None:
        self._free.set()

    def count(self, path: str) -> int:
        return sum(found.split("?")[0] == path for found in self.requests)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while request := _read_request(connection):
                self.requests.append(request)
                path, _, query = request.partition("?")
                if path in ("/hang", "/drip"):
                    with suppress(OSError):  # a client that has not read all of it resets the connection
                        if path == "/drip":
                            _drip(connection)
                        while connection.recv(4096):
                            pass
                    self.left_at[query] = time.monotonic()
                    return
                if path == "/held":
                    self._free.wait(30)
                if not _answer(connection, path):
                    return


def _read_request(connection: socket.socket) -> str:
    """The target of one request with all of its body; nothing when the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            return ""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    declared = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    missing = (int(declared[1]) if declared else 0) - len(body)
    while missing > 0:
        missing -= len(connection.recv(65_536))
    return head.split(b" ")[1].decode()


def _drip(connection: socket.socket) -> None:
    """An answer that streams for as long as its reader stays."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.sendall(b"1\r\n[\r\n")
    reader = select.poll()  # select() itself knows no descriptor above 1,023
    reader.register(connection, select.POLLIN)
    while not reader.poll(20):
        connection.sendall(b"2\r\n0,\r\n")


FLOOD_BYTES = 50_000_000


def _answer(connection: socket.socket, path: str) -> bool:
    """Whether the connection lives on."""
    json_head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
    match path:
        case "/500":
            connection.sendall(json_head % b"500 Oops" + b"Content-Length: 13\r\n\r\n" + b'{"oops":true}')
        case "/redirect":
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n")
        case "/garbage":
            connection.sendall(b"\x16\x03\x01 what is this \x00\xff\r\n\r\n")
            return False
        case "/flood" | "/announced":
            length = b"Content-Length: %d\r\n" % FLOOD_BYTES if path == "/announced" else b""
            connection.sendall(json_head % b"200 OK" + length + b"Connection: close\r\n\r\n")
            for _ in range(FLOOD_BYTES // 50_000):
                connection.sendall(b"x" * 50_000)
            return False
        case "/breaks":
            connection.sendall(json_head % b"200 OK" + b"Content-Length: 1000\r\n\r\n" + b'{"half":')
            return False
        case "/hangup":
            return False
        case _:
            connection.sendall(json_head % b"200 OK" + b"Content-Length: 11\r\n\r\n" + b'{"ok":true}')
    return True


_PATHS = ("ok", "held", "hang", "drip", "500", "redirect", "garbage", "flood", "announced", "breaks", "hangup")
_SLOW = ("hang", "drip", "held")


def service_config(port: int, *, timeout_ms: int = 1_000) -> dict[str, Any]:
    """One tool for each path of a `Service`: `ok`, `hang`, …; all are reads, so that none waits for a person.

    `hang_long` and the like are the same with a minute's patience.
    """
    tools = {
        path: {
            "upstream": "service",
            "access": "read",
            "method": "GET",
            "path": f"/{path}",
            "query": ["n"],
            "input_schema": {"type": "object", "properties": {"n": {"type": "string"}}, "additionalProperties": False},
        }
        for path in _PATHS
    }
    upstream = {"kind": "http", "base_url": f"http://127.0.0.1:{port}", "timeout_ms": timeout_ms}
    return {
        "upstreams": {"service": upstream, "patient": {**upstream, "timeout_ms": 60_000}},
        "tools": {**tools, **{f"{path}_long": {**tools[path], "upstream": "patient"} for path in _SLOW}},
    }


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that takes no further connection: connecting to it neither fails nor succeeds."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(address)
            waiting.append(client)
        try:
            yield address[1]
        finally:
            for client in waiting:
                client.close()


@pytest.fixture(scope="module")
def started_service() -> Iterator[Service]:
    upstream = Service()
    upstream.start()
    yield upstream
    upstream.stop()


@pytest.fixture
def service(started_service: Service) -> Service:
    """The module's, with nothing counted yet."""
    started_service.forget()
    return started_service


_numbers = itertools.count(1)


@pytest.fixture
def victim() -> str:
    """A session that no other test has: kills of the tests before are still in force."""
    return f"victim-{next(_numbers)}"


# --- servers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(started_redis: RedisServer) -> RedisServer:
    """The module's, restarted: with nothing in it, and configured as it was meant."""
    started_redis.stop()
    started_redis.start()
    return started_redis


DATABASE = "agentgate"


@dataclass(slots=True)
class Backends:
    """A PostgreSQL with a log, a Redis, and what gateways need to share them."""

    postgres: PostgresServer
    redis: RedisServer
    proxies: Toxiproxy
    folder: Path

    @contextmanager
    def gateway(self, service: Service, **containment: Any) -> Iterator[tuple[Gate, Link, Link]]:
        """One more member, with its links to the log and to Redis. `containment` goes into that section."""
        log, redis = self.proxies.link(f"log-{next(_numbers)}", self.postgres.port), self._redis_link()
        env = {"AGENTGATE_DATABASE_URL": self.postgres.url(DATABASE, port=log.port)}
        env["AGENTGATE_REDIS_URL"] = f"redis://127.0.0.1:{redis.port}/0"
        config = {"log": {"checkpoint_key": {"file": str(self.folder / "log-key.pem")}}, "containment": containment}
        with Gate(env=env, config={**service_config(service.port), **config}) as gate:
            gate.probe = "ok"
            yield gate, log, redis

    def _redis_link(self) -> Link:
        return self.proxies.link(f"redis-{next(_numbers)}", self.redis.port)


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with PostgresServer() as postgres, RedisServer("--appendonly", "yes", tcp=True) as redis, Toxiproxy() as proxies:
        postgres.sql(f"CREATE DATABASE {DATABASE}")
        asyncio.run(migrate(postgres.url(DATABASE)))
        yield Backends(postgres, redis, proxies, tmp_path_factory.mktemp("shared"))


class PullingOpa(OpaServer):
    """An OPA that takes its bundle from a gateway, with a key of role `opa`; on a unix socket and a port."""

    def __init__(self, gateway_port: int, *, policies: dict[str, str] | None = None) -> None:
        super().__init__(policies=policies)
        self.port = free_port()
        self.tcp_url = f"http://127.0.0.1:{self.port}"
        self._arguments += ["--addr", f"127.0.0.1:{self.port}"]  # beside the socket
        if policies is None:
            settings = {
                "services.gateway.url": f"http://127.0.0.1:{gateway_port}",
                "services.gateway.credentials.bearer.token": OPA_KEY,
                "bundles.agentgate.service": "gateway",
                "bundles.agentgate.resource": "/bundles/agentgate.tar.gz",
                "bundles.agentgate.polling.min_delay_seconds": "1",
                "bundles.agentgate.polling.max_delay_seconds": "1",
                "status.prometheus": "true",
            }
            for name, value in settings.items():
                self._arguments += ["--set", f"{name}={value}"]

    def __enter__(self) -> PullingOpa:
        super().__enter__()
        return self


@dataclass(slots=True)
class WithOpa:
    """A gateway, the OPA that it asks, and the policy directory that both live by."""

    gateway: Gate
    opa: PullingOpa
    policies: Path

    def until_enforced(self) -> str:
        """The revision, once calls are decided by it."""
        until(lambda: self.gateway.health()["checks"]["policy"], timeout_s=15)
        self.gateway.until_works(session="warm-up")
        return str(self.gateway.health()["policy_revision"])

    def reload(self) -> httpx.Response:
        return self.gateway.admin().post("/admin/policies/reload")


OPA_ROLE_KEY = {"id": "opa", "sha256": key_sha256(OPA_KEY), "person": "opa", "roles": ["opa"]}


@contextmanager
def with_opa(
    folder: Path,
    *,
    over: str = "unix",
    env: Mapping[str, str] | None = None,
    policies: dict[str, str] | None = None,
    url: Callable[[PullingOpa], str] | None = None,
) -> Iterator[WithOpa]:
    """A gateway on real OPA. The gateway's port is chosen beforehand, because OPA must know it."""
    directory = folder / "policies"
    shutil.copytree(ROOT / "policies", directory, ignore=shutil.ignore_patterns("*_test.rego"))
    port = free_port()
    with PullingOpa(port, policies=policies) as opa:
        where = url(opa) if url else (opa.url if over == "unix" else opa.tcp_url)
        settings = {"AGENTGATE_OPA_URL": where, "AGENTGATE_POLICY_PATH": str(directory), **(env or {})}
        with Gate("--port", str(port), env=settings, config={"auth": {"keys": [OPA_ROLE_KEY]}}) as gateway:
            yield WithOpa(gateway, opa, directory)
