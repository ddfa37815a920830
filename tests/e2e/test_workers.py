"""Several workers behind one port, on a real PostgreSQL and a real Redis: one gateway, as far as anybody can tell."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import postgres_server, redis_server
from tests.contracts.policy_engine import needs_opa
from tests.faults.conftest import OPA_ROLE_KEY, PullingOpa
from tests.gateway import GatewayFailed, GatewayProcess, call, is_alive, run_cli, until
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer, free_port

pytestmark = pytest.mark.skipif(
    not (postgres_server.is_installed() and redis_server.is_installed()), reason="needs PostgreSQL and redis-server"
)
_numbers = itertools.count(1)
POLICY_EVENTS = "SELECT count(*) FROM events WHERE kind = 'policy'"
POLICIES = Path(__file__).parents[2] / "policies"
EMPTY_LOG = "empty_log"
OPEN = "SELECT count(*) FROM members WHERE left_idx IS NULL"


@contextlib.contextmanager
def migrated() -> Iterator[PostgresServer]:
    """A server with an empty log in a database."""
    with PostgresServer() as server:
        server.sql(f"CREATE DATABASE {EMPTY_LOG}")
        ran = run_cli("log", "migrate", "--database-url", server.url(EMPTY_LOG))
        assert ran.returncode == 0, ran.stderr
        yield server


@pytest.fixture(scope="module")
def database_server() -> Iterator[PostgresServer]:
    with migrated() as server:
        yield server


class Service(GatewayProcess):
    """`agentgate serve --workers 3` on a fresh database and a fresh Redis."""

    def __init__(
        self, server: PostgresServer, redis: RedisServer, *flags: str, log: str = EMPTY_LOG, **more: Any
    ) -> None:
        """`log` is the database that its own begins as."""
        self.server = server
        self.database = f"workers_{next(_numbers)}"
        server.sql(f"CREATE DATABASE {self.database} TEMPLATE {log}")
        env = {"AGENTGATE_DATABASE_URL": server.url(self.database), "AGENTGATE_REDIS_URL": redis.url}
        super().__init__("--workers", "3", *flags, env=env, **more)

    def ask(self, statement: str) -> str:
        return self.server.sql(statement, database=self.database)

    def workers(self) -> list[int]:
        """The process ids of those that live."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children if is_alive(int(child))]

    def pid_of(self, member: str) -> int:
        """The worker that holds the slot in which `member` is written."""
        for pid in self.workers():
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                path = handle.readlink() if handle.is_symlink() else handle
                if path.name.startswith("slot-") and path.read_text().split()[-1] == member:
                    return pid
        raise AssertionError(f"no worker is {member}")

    def members(self) -> set[str]:
        answer = self.admin().get("/members").json()["members"]
        return {row["member"] for row in answer if row["presence"] == "here"}

    def connections(self) -> dict[str, httpx.Client]:
        """By member, a client whose one connection leads to that worker."""
        found: dict[str, httpx.Client] = {}

        def all_found() -> bool:
            client = self.client()
            answer = client.get("/members", headers={"X-API-Key": self.admin_key}).json()["members"]
            found.setdefault(next(row["member"] for row in answer if row["is_me"]), client)
            return len(found) == 3

        until(all_found, timeout_s=20)
        return found


@contextmanager
def running(server: PostgresServer, *flags: str, **more: Any) -> Iterator[Service]:
    with RedisServer() as redis:
        service = Service(server, redis, *flags, **more)
        with service:
            yield service


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(POLICIES, tmp_path_factory.mktemp("policies") / "policies"))


@pytest.fixture(scope="module")
def service(database_server: PostgresServer, policies: Path) -> Iterator[Service]:
    """For tests that leave its workers alive."""
    with running(database_server, config={"policy": {"path": str(policies)}}) as process:
        yield process


@dataclass
class Slow:
    """A call that takes long, in a session of its own."""

    session: str
    answer: Future[httpx.Response]


@contextmanager
def slow_calls(service: Service) -> Iterator[dict[str, list[Slow]]]:
    """Calls that take long, at least one in each of the workers; by member."""
    begun: dict[str, Slow] = {}

    def by_member() -> dict[str, list[Slow]]:
        found: dict[str, list[Slow]] = {}
        for row in service.admin().get("/calls").json()["calls"]:
            found.setdefault(row["member"], []).append(begun[row["session"]])
        return found

    with ThreadPoolExecutor(50) as pool:
        while len(found := by_member()) < 3:
            session = f"slow-{next(_numbers)}"
            arguments = {"seconds": 25}
            begun[session] = Slow(session, pool.submit(call, service.client(), "slow", arguments, session=session))
            until(lambda: sum(map(len, by_member().values())) == len(begun))
        yield found


def test_ready_is_said_once_with_what_it_runs_on(service: Service) -> None:
    (line,) = service.stdout
    assert line.endswith(f"is ready on {service.url} (policy wasm, containment redis, log postgresql, 3 workers)\n")
    assert len(service.workers()) == len(service.members()) == 3


def test_a_kill_that_reaches_one_worker_cuts_the_calls_in_all(service: Service) -> None:
    admin = service.admin()
    with slow_calls(service) as calls:
        killed = admin.post("/agents/local/kill", json={"reason": "loops"})
        assert (killed.status_code, killed.json()["drained"], killed.json()["running"]) == (200, True, [])
        cut = {row["member"]: row["cancelled"] for row in killed.json()["replicas"]}
        assert cut == {member: len(running) for member, running in calls.items()}
        for one in itertools.chain(*calls.values()):
            assert one.answer.result().json()["reason_code"] == "killed"
    for client in service.connections().values():
        assert call(client, "slow", {"seconds": 0}).json()["reason_code"] == "killed"
    assert admin.post(f"/kills/{killed.json()['id']}/release").status_code == 200
    for client in service.connections().values():
        until(lambda of=client: call(of, "slow", {"seconds": 0}).json()["success"])  # type: ignore[misc]


def test_a_reload_at_one_worker_is_enforced_by_all(service: Service, policies: Path) -> None:
    events = int(service.ask(POLICY_EVENTS))
    clients = service.connections()
    data = json.loads((policies / "data.json").read_text())
    data["rate_limits"]["slow"] = 77
    (policies / "data.json").write_text(json.dumps(data))
    reloaded = service.admin().post("/admin/policies/reload").json()["policy_revision"]
    for client in clients.values():
        until(lambda of=client: of.get("/health").json()["policy_revision"] == reloaded)  # type: ignore[misc]
        assert call(client, "slow", {"seconds": 0}).headers["X-RateLimit-Limit"] == "77"
    assert int(service.ask(POLICY_EVENTS)) == events + 1


@needs_opa
def test_a_reload_reaches_an_opa_that_asks_another_worker(database_server: PostgresServer, tmp_path: Path) -> None:
    """OPA pulls its bundle on one kept-alive connection, and so from one worker."""
    policies = Path(shutil.copytree(POLICIES, tmp_path / "policies", ignore=shutil.ignore_patterns("*_test.rego")))
    port = free_port()
    with PullingOpa(port) as opa:
        policy = {"kind": "opa", "url": opa.url, "path": str(policies)}
        config = {"policy": policy, "auth": {"keys": [OPA_ROLE_KEY]}}
        with running(database_server, "--port", str(port), config=config) as service:
            until(lambda: service.client().get("/readyz").status_code == 200, timeout_s=20)
            for number, client in enumerate(service.connections().values()):
                data = json.loads((policies / "data.json").read_text())
                data["rate_limits"]["slow"] = 70 + number
                (policies / "data.json").write_text(json.dumps(data))
                answer = client.post("/admin/policies/reload", headers={"X-API-Key": service.admin_key})
                assert answer.status_code == 200, answer.text
                until(
                    lambda of=client, limit=str(70 + number): (  # type: ignore[misc]
                        call(of, "slow", {"seconds": 0}).headers["X-RateLimit-Limit"] == limit
                    )
                )


def test_metrics_are_those_of_all_workers(service: Service) -> None:
    clients = list(service.connections().values())

    def killed() -> list[float]:
        name = 'agentgate_tool_calls_total{decision="DENY",tool="slow"} '
        texts = [client.get("/metrics").text for client in clients]
        return [float(text.partition(name)[2].split()[0]) if name in text else 0.0 for text in texts]

    service.admin().post("/sessions/counted/kill")
    until(lambda: len(set(killed())) == 1)  # what was counted before has been told by all
    before = killed()[0]
    for client in clients:
        for _ in range(2):
            assert call(client, "slow", {"seconds": 0}, session="counted").json()["decision"] == "DENY"
    until(lambda: killed() == [before + 6] * 3)


# --- lives and deaths -------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_its_calls_are_told_and_the_next_kill_waits_for_nobody(
    database_server: PostgresServer,
) -> None:
    with running(database_server) as service:
        before = service.members()
        with slow_calls(service) as calls:
            victim, others = next(iter(calls)), before - {next(iter(calls))}
            os.kill(service.pid_of(victim), signal.SIGKILL)
            for one in calls[victim]:
                with pytest.raises(httpx.TransportError):
                    one.answer.result()
            until(lambda: len(now := service.members()) == 3 and others < now - {victim}, timeout_s=20)
            killed = service.admin().post("/agents/local/kill")
            assert (killed.status_code, killed.json()["drained"]) == (200, True)
            assert {row["member"] for row in killed.json()["replicas"]} == service.members()
        for member, running_there in calls.items():
            for one in running_there:
                (entry,) = service.admin().get(f"/sessions/{one.session}/evidence").json()["timeline"]
                assert entry["outcome"] == ("unknown" if member == victim else "cancelled")
        assert "ended by signal 9; it is started anew in 0 s" in service.stderr


def keyed(client: httpx.Client, key: str, tool: str, arguments: dict[str, Any], **headers: str) -> httpx.Response:
    """A call in a session of the key's name; repeated after a 429 (48 at once are refused more often than a
    principal may be in a second) or a 503, as Retry-After says: its key makes that safe."""
    body = {"session_id": key, "tool_name": tool, "arguments": arguments}
    for _ in range(10):
        answer = client.post("/tools/call", json=body, headers={"Idempotency-Key": key, **headers})
        if answer.status_code not in (429, 503):
            break
        time.sleep(1)
    return answer


def runs(service: Service, session: str) -> int:
    """How many calls of a session were allowed."""
    allowed = "convert_from(leaf, 'UTF8')::jsonb ->> 'decision' = 'ALLOW'"
    return int(
        service.ask(f"SELECT count(*) FROM events WHERE kind = 'decided' AND session = '{session}' AND {allowed}")
    )


def test_of_calls_under_one_key_at_all_workers_one_runs(service: Service) -> None:
    clients = [*service.connections().values()]
    with ThreadPoolExecutor(24) as pool:
        sent = [pool.submit(keyed, clients[n % 3], "one-key", "slow", {"seconds": 0.2}) for n in range(48)]
    assert {one.result().status_code for one in sent} <= {200, 409}
    assert runs(service, "one-key") == 1
    replayed = [keyed(client, "one-key", "slow", {"seconds": 0.2}) for client in clients]
    assert {(one.status_code, one.headers["idempotency-replayed"]) for one in replayed} == {(200, "true")}
    (content,) = {one.content for one in (*replayed, *(one.result() for one in sent)) if one.status_code == 200}
    assert json.loads(content)["success"] is True


def test_a_deferred_call_is_asked_for_approved_and_fetched_at_three_workers(service: Service) -> None:
    asks, approves, fetches = service.connections().values()
    arguments = {"table": "products", "data": {"name": "deferred", "price": 1}}
    asked = keyed(asks, "deferred-1", "db_insert", arguments, Prefer="respond-async")
    where, url = asked.headers["location"], asked.json()["approval"]["url"]
    assert fetches.get(where).json()["state"] == "pending_approval"
    assert approves.post(f"{url}/approve", headers={"X-API-Key": service.admin_key}).status_code == 200
    until(lambda: fetches.get(where).status_code == 200)
    assert fetches.get(where).json()["success"] is True, fetches.get(where).text
    assert keyed(asks, "deferred-1", "db_insert", arguments).content == fetches.get(where).content
    assert runs(service, "deferred-1") == 1


def test_a_keyed_call_of_a_killed_worker_is_unknown_at_the_others_and_not_run_again(
    database_server: PostgresServer,
) -> None:
    with running(database_server) as service, ThreadPoolExecutor(1) as pool:
        clients = service.connections()
        (member, client), (_, other), _ = clients.items()
        lost = pool.submit(keyed, client, "lost-1", "slow", {"seconds": 25})
        until(lambda: service.admin().get("/calls").json()["calls"])
        assert keyed(other, "lost-1", "slow", {"seconds": 25}).json()["reason_code"] == "idempotency_in_progress"
        os.kill(service.pid_of(member), signal.SIGKILL)
        assert lost.exception() is not None
        until(lambda: keyed(other, "lost-1", "slow", {"seconds": 25}).status_code == 200, timeout_s=60)
        told = keyed(other, "lost-1", "slow", {"seconds": 25}).json()
        assert (told["success"], told["reason_code"]) == (False, "outcome_unrecorded")
        assert runs(service, "lost-1") == 1


def test_all_leave_in_order(database_server: PostgresServer) -> None:
    with running(database_server) as service:
        pids = service.workers()
        assert (len(pids), service.ask(OPEN)) == (3, "3")
        assert service.stop() == 0
        assert service.ask(OPEN) == "0"
        assert not any(map(is_alive, pids))


def test_workers_do_not_outlive_their_parent(database_server: PostgresServer) -> None:
    with running(database_server) as service:
        pids = service.workers()
        os.kill(service.pid, signal.SIGKILL)
        until(lambda: not any(map(is_alive, pids)), timeout_s=20)
        assert service.ask(OPEN) == "0"


def test_after_a_power_cut_the_first_worker_closes_what_all_have_left(database_server: PostgresServer) -> None:
    with running(database_server) as service:
        with slow_calls(service) as calls:
            for pid in (service.pid, *service.workers()):
                os.kill(pid, signal.SIGSTOP)
            for pid in (*service.workers(), service.pid):
                os.kill(pid, signal.SIGKILL)
            for one in itertools.chain(*calls.values()):
                with pytest.raises(httpx.TransportError):
                    one.answer.result()
        service.wait_exit()
        service.start()
        assert len(service.members()) == 3
        assert service.ask(OPEN) == "3"
        assert service.admin().post("/agents/local/kill").json()["drained"]


# --- starts that must fail --------------------------------------------------------------------------------------------


def failed_start(service: Service) -> str:
    with pytest.raises(GatewayFailed) as failed, service:
        pass
    assert failed.value.status == 3
    (said,) = [line for line in failed.value.stderr.splitlines() if line.startswith("agentgate: ")]
    assert service.stdout == []
    return said


def test_a_database_without_a_log_is_said_once(database_server: PostgresServer) -> None:
    with RedisServer() as redis:
        assert "agentgate log migrate" in failed_start(Service(database_server, redis, log="template1"))


def test_a_redis_that_evicts_is_said_once(database_server: PostgresServer) -> None:
    with RedisServer("--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru") as redis:
        assert "noeviction" in failed_start(Service(database_server, redis))


def test_a_port_that_is_taken_is_said_before_anything_is_opened(database_server: PostgresServer) -> None:
    with RedisServer() as redis, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = failed_start(Service(database_server, redis, "--port", port))
        assert f"cannot listen on 127.0.0.1:{port}" in said


def test_reloading_is_for_one_process(database_server: PostgresServer) -> None:
    with RedisServer() as redis:
        assert "--reload" in failed_start(Service(database_server, redis, "--reload"))


def test_a_log_of_one_process_is_refused() -> None:
    with pytest.raises(GatewayFailed, match="PostgreSQL") as failed, GatewayProcess("--workers", "2"):
        pass
    assert failed.value.status == 3
