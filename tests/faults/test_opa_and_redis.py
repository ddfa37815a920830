"""Both at once: what the gateway says, that it still stops things, and that everything heals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import WithOpa, needs_opa, needs_redis, with_opa
from tests.gateway import until
from tests.redis_server import RedisServer

pytestmark = [needs_opa, needs_redis]


@pytest.fixture
def bed(tmp_path: Path, redis: RedisServer) -> Iterator[WithOpa]:
    with with_opa(tmp_path, env={"AGENTGATE_REDIS_URL": redis.url}) as bed:
        bed.until_enforced()
        yield bed


def test_with_both_down_nothing_runs_a_kill_still_cuts_and_all_of_it_heals(bed: WithOpa, redis: RedisServer) -> None:
    gateway = bed.gateway
    revision = gateway.health()["policy_revision"]
    running = gateway.begin("slow", "victim", seconds=30)
    gateway.until_running("victim")
    bed.opa.stop()
    redis.kill9()
    until(lambda: not gateway.works("down"))

    # admission comes first, so it is what the caller hears of
    gateway.assert_refused(503, "kill_state_unknown")
    health = gateway.health()
    assert health["status"] == "degraded"
    assert health["checks"] == {"log": True, "kill_state": False, "policy": False}
    assert gateway.client().get("/readyz").status_code == 503
    assert gateway.client().get("/healthz").status_code == 200

    started = time.monotonic()
    killed = gateway.kill_session("victim")
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    assert time.monotonic() - started < 1.25
    assert running.result().reason == "killed"
    assert gateway.timeline("victim")[-1]["outcome"] == "cancelled"

    redis.start()
    until(lambda: gateway.say(session="half").reason == "policy_unavailable")
    assert gateway.say(session="victim").reason == "killed"
    bed.opa.start()
    gateway.until_works(timeout_s=15)
    assert gateway.write("after").ok
    assert gateway.timeline("after")[-1]["policy_version"] == revision
    assert gateway.say(session="victim").reason == "killed"
    assert gateway.client().get("/readyz").status_code == 200
    gateway.assert_log_holds()


def test_healed_in_the_other_order(bed: WithOpa, redis: RedisServer) -> None:
    gateway = bed.gateway
    bed.opa.pause()
    redis.pause()
    until(lambda: not gateway.works("down"))
    bed.opa.resume()
    gateway.assert_refused(503, "kill_state_unknown")
    redis.resume()
    gateway.until_works()


def test_a_start_with_neither_there_refuses_and_becomes_ready_when_both_come(
    tmp_path: Path, redis: RedisServer
) -> None:
    redis.stop()
    with with_opa(tmp_path, env={"AGENTGATE_REDIS_URL": redis.url}) as bed:
        bed.opa.stop()
        bed.gateway.restart()
        bed.gateway.assert_refused(503, "kill_state_unknown")
        bed.opa.start()
        redis.start()
        until(lambda: bed.gateway.client().get("/readyz").status_code == 200, timeout_s=20)
        bed.gateway.until_works()
