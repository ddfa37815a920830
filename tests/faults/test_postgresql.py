"""The gateway on a PostgreSQL that stops, hangs, dawdles, becomes unsafe or is put back: nothing runs unrecorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from agentgate.adapters.log._postgres.migrate import migrate
from agentgate.core.errors import ReasonCode
from agentgate.pipeline.containment.replica import LEASE_S
from tests.containment.toxiproxy import Link
from tests.faults.conftest import DATABASE, Backends, Gate, Said, Service, needs_cluster
from tests.gateway import GatewayFailed, until
from tests.postgres_server import PostgresServer
from tests.redis_server import free_port

pytestmark = needs_cluster

UNAVAILABLE = (503, "log_unavailable")


@dataclass(slots=True)
class Bed:
    """A gateway, its log, and the link between them."""

    gateway: Gate
    postgres: PostgresServer
    link: Link

    def stop(self) -> None:
        self.postgres.stop()

    def hang(self) -> None:
        self.postgres.pause()

    def dawdle(self) -> None:
        """Each answer comes later than anybody may wait."""
        self.link.delay(3_000)

    def heal(self) -> None:
        self.link.heal()
        if self.postgres.is_running:
            self.postgres.resume()
        else:
            self.postgres.start()


@pytest.fixture(scope="module")
def started(backends: Backends, started_service: Service) -> Iterator[Bed]:
    with backends.gateway(started_service) as (gateway, log, _):
        yield Bed(gateway, backends.postgres, log)


@pytest.fixture
def bed(started: Bed, service: Service) -> Iterator[Bed]:
    """The module's, after whatever the last test did to it: nothing here is healed by a restart of the gateway."""
    yield started
    started.heal()
    started.gateway.until_works(session="healed")


@pytest.fixture(params=[Bed.stop, Bed.hang, Bed.dawdle], ids=["down", "hung", "slow"])
def fail(request: pytest.FixtureRequest, bed: Bed) -> Callable[[], None]:
    """Bring about one of the ways in which the log does not answer, and wait until that is noticed."""

    def failing() -> None:
        request.param(bed)
        until(lambda: bed.gateway.say("ok", "noticing").reason == "log_unavailable")

    return failing


def assert_nothing_runs(gateway: Gate, service: Service, session: str = "refused") -> Said:
    """503 within a second and a bit, nothing sent, and the metric counts it."""
    before, sent = gateway.sum("agentgate_log_unavailable_total"), len(service.requests)
    started = time.monotonic()
    said = gateway.say("ok", session)
    assert time.monotonic() - started < 2
    assert (said.status, said.reason, said.body["decision"]) == (*UNAVAILABLE, "DENY")
    assert len(service.requests) == sent
    assert gateway.sum("agentgate_log_unavailable_total") > before
    return said


def recorded(gateway: Gate, said: Said, session: str) -> tuple[str, str]:
    """How the record says that a call ended, once the log has caught up."""
    until(lambda: gateway.entry(said, session)["outcome"] != "open")
    entry = gateway.entry(said, session)
    return entry["outcome"], entry["reason_code"]


# --- down, hung, slow; and back -------------------------------------------------------------------------------


def test_a_log_that_does_not_answer_refuses_every_call_until_it_is_back(
    bed: Bed, service: Service, victim: str, fail: Callable[[], None]
) -> None:
    gateway = bed.gateway
    assert gateway.say("ok", victim).ok
    fail()
    assert_nothing_runs(gateway, service, victim)
    assert gateway.client().get("/readyz").status_code == 503
    assert gateway.client().get("/healthz").status_code == 200
    assert gateway.health()["checks"]["log"] is False
    bed.heal()
    gateway.until_works(session=victim)
    assert gateway.client().get("/readyz").status_code == 200
    # a decision may have reached the log although nobody said so: then it is closed as what it was
    until(lambda: {entry["outcome"] for entry in gateway.timeline(victim)} <= {"ok", "not_sent"})
    assert [entry["outcome"] for entry in gateway.timeline(victim)].count("ok") == 2


def test_a_call_that_runs_is_cut_by_a_kill_that_answers_503(
    bed: Bed, service: Service, victim: str, fail: Callable[[], None]
) -> None:
    """A kill that cannot be recorded stops what it can, and does not claim more; given again, it is one kill."""
    gateway = bed.gateway
    running = gateway.begin("hang_long", victim, n="1")
    until(lambda: service.count("/hang") == 1)
    began = time.monotonic()
    fail()
    until(lambda: time.monotonic() - began > LEASE_S + 1)
    assert not running.done(), "it goes on: Redis says that there is no kill"
    order = {"reason": "a test", "id": f"kill-{victim}"}
    killed = gateway.admin().post(f"/sessions/{victim}/kill", json=order)
    assert (killed.status_code, killed.json()["reason_code"]) == UNAVAILABLE
    until(lambda: "n=1" in service.left_at, timeout_s=1)
    said = running.result()
    assert (said.status, said.reason, said.body["decision"]) == (503, "outcome_unrecorded", "ALLOW")
    assert "unknown" in said.body["error"]
    bed.heal()
    gateway.until_works()
    assert recorded(gateway, said, victim) == ("cancelled", "killed")
    again = gateway.admin().post(f"/sessions/{victim}/kill", json=order)
    assert (again.status_code, again.json()["drained"]) == (200, True)
    kills = gateway.admin().get("/kills").json()["kills"]
    assert [kill["id"] for kill in kills if kill["target"] == victim] == [order["id"]]
    assert gateway.say("ok", victim).reason == "killed"


def test_an_outcome_that_cannot_be_recorded_is_not_released_and_written_later(
    bed: Bed, service: Service, victim: str, fail: Callable[[], None]
) -> None:
    gateway = bed.gateway
    running = gateway.begin("held_long", victim, n="1")
    until(lambda: service.count("/held") == 1)
    fail()
    service.let_go()
    said = running.result()
    assert (said.status, said.reason, said.body["success"]) == (503, "outcome_unrecorded", False)
    assert said.body["decision"] == "ALLOW"
    assert "unknown" in said.body["error"]
    bed.heal()
    gateway.until_works()
    assert recorded(gateway, said, victim) == ("ok", "ok")


def test_a_log_that_is_slow_within_its_deadline_refuses_nobody(bed: Bed, service: Service, victim: str) -> None:
    """Kills included: they take as long as the log does."""
    gateway = bed.gateway
    bed.link.delay(100)
    running = gateway.begin("held_long", victim, n="1")
    until(lambda: service.count("/held") == 1)
    started = time.monotonic()
    assert gateway.say("ok", "slow").ok
    assert time.monotonic() - started > 0.2, "its decision and its outcome are durable"
    assert not running.done()
    started = time.monotonic()
    killed = gateway.kill_session(victim)
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    assert time.monotonic() - started > 0.1
    assert running.result().reason == "killed"


def test_a_start_without_its_log_is_refused_in_a_sentence() -> None:
    url = f"postgresql://agentgate:s3cret@127.0.0.1:{free_port()}/{DATABASE}"
    with pytest.raises(GatewayFailed) as failed, Gate(env={"AGENTGATE_DATABASE_URL": url}):
        pass
    assert failed.value.status == 3
    said = failed.value.stderr.splitlines()[-1]
    assert said.startswith("agentgate: ")
    assert "s3cret" not in failed.value.stderr
    assert "Traceback" not in failed.value.stderr


# --- lying ----------------------------------------------------------------------------------------------------


@contextmanager
def set_on(server: PostgresServer, setting: str) -> Iterator[None]:
    name = setting.partition(" ")[0]
    server.sql(f"ALTER SYSTEM SET {setting}", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.sql(f"ALTER SYSTEM RESET {name}", "SELECT pg_reload_conf()")


def test_a_log_that_would_answer_before_it_is_durable_is_not_written_to_until_it_is_safe(
    bed: Bed, service: Service, victim: str
) -> None:
    gateway = bed.gateway
    running = gateway.begin("held_long", victim, n="1")
    until(lambda: service.count("/held") == 1)
    with set_on(bed.postgres, "synchronous_commit = off"):
        until(lambda: not gateway.say("ok", "noticing").ok)
        assert_nothing_runs(gateway, service)
        service.let_go()
        said = running.result()
        assert said.reason == "outcome_unrecorded"
    gateway.until_works()
    assert recorded(gateway, said, victim) == ("ok", "ok")


def test_a_log_that_became_read_only_refuses_until_it_is_not(bed: Bed, service: Service, victim: str) -> None:
    """What is left of a primary that others have been promoted over."""
    gateway = bed.gateway
    running = gateway.begin("hang_long", victim, n="1")
    until(lambda: service.count("/hang") == 1)
    with set_on(bed.postgres, "default_transaction_read_only = on"):
        until(lambda: not gateway.say("ok", "noticing").ok)
        assert_nothing_runs(gateway, service)
        assert not running.done()
        killed = gateway.kill_session(victim)
        assert (killed.status_code, killed.json()["reason_code"]) == UNAVAILABLE
        said = running.result()
        assert said.reason == "outcome_unrecorded"
    gateway.until_works()
    assert recorded(gateway, said, victim) == ("cancelled", "killed")


def test_a_log_that_was_put_back_stops_the_gateway_and_its_next_start(service: Service, victim: str) -> None:
    """A kill that was answered is not in it any more: nothing may run on such a log until somebody has looked."""
    with PostgresServer() as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        url = server.url(DATABASE)
        asyncio.run(migrate(url))
        with Gate(env={"AGENTGATE_DATABASE_URL": url}) as gateway:
            assert gateway.works()
            server.stop()
            server.keep("yesterday")
            server.start()
            gateway.until_works()
            assert gateway.kill_session(victim).json()["drained"] is True
            running = gateway.begin("slow", "during", seconds=30)
            gateway.until_running("during")
            until(lambda: has_signed_everything(server))  # what a start knows the database by
            server.stop()
            server.put_back("yesterday")
            server.start()
            for _ in range(5):
                said = gateway.say(session=victim)
                assert not said.ok
                assert said.reason in ("killed", ReasonCode.LOG_UNAVAILABLE)
            assert (gateway.write().status, gateway.write().reason) == UNAVAILABLE
            assert gateway.written == 0
            assert not running.done()
            killed = gateway.kill_session("during")
            assert (killed.status_code, killed.json()["reason_code"]) == UNAVAILABLE
            assert running.result().reason == "outcome_unrecorded"
            assert gateway.client().get("/readyz").status_code == 503
            assert gateway.client().get("/healthz").status_code == 200
            gateway.stop()
            with pytest.raises(GatewayFailed) as failed:
                gateway.start()
            assert failed.value.status == 3
            assert "rolled back" in failed.value.stderr
            assert "Traceback" not in failed.value.stderr


def has_signed_everything(server: PostgresServer) -> bool:
    return server.sql("SELECT max(c.size) = max(h.size) FROM checkpoints c, head h", database=DATABASE) == "t"


# --- afterwards ----------------------------------------------------------------------------------------------


def test_what_was_answered_is_in_a_log_that_was_killed_and_holds(bed: Bed, victim: str) -> None:
    """Runs last in this file, over everything that the others have done to it."""
    gateway = bed.gateway
    said = [gateway.say("ok", victim) for _ in range(5)]
    bed.postgres.kill9()
    with suppress(AssertionError):
        gateway.say("ok", victim)
    bed.postgres.start()
    gateway.until_works()
    assert all(gateway.entry(one, victim)["outcome"] == "ok" for one in said if one.ok)
    assert "0 calls without an outcome" in gateway.assert_log_holds()
