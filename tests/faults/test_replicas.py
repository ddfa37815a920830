"""Two gateways on one log and one Redis, of which one stops, hangs, is cut off or is given up; and a Redis that lies.

Kills are given to `healthy`; what is wrong is wrong with `other`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.containment.toxiproxy import Link
from tests.faults.conftest import Backends, Gate, Said, Service, needs_cluster
from tests.gateway import until
from tests.redis_server import RedisServer

pytestmark = needs_cluster

LEASE_S = 2.0
GONE_AFTER_S = 6.0
SETTINGS = {"lease_s": LEASE_S, "presumed_gone_after_s": GONE_AFTER_S, "drain_timeout_s": 1.0}
"""Shorter than in life, so that nobody waits for a minute."""
CUT = ("killed", "kill_state_unknown")
"""A process that is woken may notice first that its lease is over."""


@dataclass(slots=True)
class Pair:
    healthy: Gate
    other: Gate
    other_log: Link
    other_redis: Link
    redis: RedisServer

    def heal(self) -> None:
        if not self.other.is_running:
            self.other.start()
        self.other.resume()
        self.other_log.heal()
        self.other_redis.heal()
        for gateway in (self.healthy, self.other):
            gateway.until_works(session="healed", timeout_s=15)

    def kill(self, session: str) -> tuple[int, dict[str, Any]]:
        """Kill a session at the healthy one; the answer. Its id is that of the session."""
        answer = self.healthy.admin().post(f"/sessions/{session}/kill", json={"reason": "a test", "id": session})
        return answer.status_code, answer.json()

    def seen(self, session: str) -> dict[str, Any]:
        """That kill, as the healthy one tells of it; on a machine that stalls it may have to be asked again."""
        answer = until(lambda: got if (got := self.healthy.admin().get(f"/kills/{session}")).is_success else None)
        found: dict[str, Any] = answer.json()
        return found

    def until_drained(self, session: str) -> dict[str, Any]:
        return until(lambda: found if (found := self.seen(session))["drained"] else None, timeout_s=15)

    def member(self, gateway: Gate) -> str:
        """The name of its present incarnation."""
        (mine,) = [one["member"] for one in members(gateway) if one["is_me"]]
        return str(mine)


def members(gateway: Gate) -> list[dict[str, Any]]:
    answer = gateway.admin().get("/members")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["members"]
    return found


def waiting_for(kill: dict[str, Any]) -> list[str]:
    """The members that a kill has not heard."""
    return [replica["member"] for replica in kill["replicas"] if not replica["acked"]]


@pytest.fixture(scope="module")
def started(backends: Backends, started_service: Service) -> Iterator[Pair]:
    with (
        backends.gateway(started_service, **SETTINGS) as (healthy, _, _),
        backends.gateway(started_service, **SETTINGS) as (other, log, redis),
    ):
        yield Pair(healthy, other, log, redis, backends.redis)


@pytest.fixture
def pair(started: Pair, service: Service) -> Pair:
    """The module's, after whatever the last test did to it."""
    started.heal()
    return started


@pytest.fixture
def running(pair: Pair, service: Service, victim: str) -> Future[Said]:
    """A call of the victim that runs at `other`."""
    call = pair.other.begin("hang_long", victim, n="1")
    until(lambda: service.count("/hang") == 1)
    return call


def cut_entry(pair: Pair, session: str) -> dict[str, Any]:
    """The record of the session's first call, once it has an outcome."""
    return until(
        lambda: entry if (entry := pair.healthy.timeline(session)[0])["outcome"] != "open" else None, timeout_s=15
    )


# --- another replica ------------------------------------------------------------------------------------------


def test_a_kill_drains_over_all_replicas(pair: Pair, service: Service, victim: str, running: Future[Said]) -> None:
    status, killed = pair.kill(victim)
    assert (status, killed["drained"], waiting_for(killed)) == (200, True, [])
    assert [one["cancelled"] for one in killed["replicas"]] == [0, 1]
    until(lambda: "n=1" in service.left_at, timeout_s=1)
    assert running.result().reason == "killed"
    for gateway in (pair.healthy, pair.other):
        assert gateway.say("ok", victim).reason == "killed"
        assert gateway.works("another")


def test_a_hung_replica_keeps_a_kill_undrained_and_cuts_when_it_wakes(
    pair: Pair, service: Service, victim: str, running: Future[Said]
) -> None:
    hung = pair.member(pair.other)
    pair.other.pause()
    status, killed = pair.kill(victim)
    assert (status, killed["drained"], waiting_for(killed)) == (202, False, [hung])
    assert killed["running"] == [pair.healthy.timeline(victim)[0]["trace_id"]]
    assert (killed["drained_except"], killed["receipt"]) == ([], None)
    assert pair.healthy.say("ok", victim).reason == "killed", "it is in force all the same"
    assert "n=1" not in service.left_at
    pair.other.resume()
    assert running.result().reason in CUT
    assert "n=1" in service.left_at
    drained = pair.until_drained(victim)
    assert waiting_for(drained) == []
    assert drained["receipt"] is not None
    assert cut_entry(pair, victim)["outcome"] == "cancelled"
    assert pair.other.say("ok", victim).reason == "killed"


def test_a_call_asked_of_a_hung_replica_is_not_sent_after_the_kill(pair: Pair, service: Service, victim: str) -> None:
    """It is before its decision: the first thing that the woken process does with it is to see the kill."""
    assert pair.other.say("ok", victim).ok
    pair.other.pause()
    waiting = pair.other.begin("hang_long", victim, n="1")
    assert pair.kill(victim)[0] == 202
    pair.other.resume()
    assert waiting.result().reason in CUT
    assert service.count("/hang") == 0
    pair.until_drained(victim)


def test_a_dead_replica_is_buried_by_its_successor_and_the_kill_drains(
    pair: Pair, victim: str, running: Future[Said]
) -> None:
    dead = pair.member(pair.other)
    pair.other.kill9()
    with pytest.raises(httpx.TransportError):
        running.result()
    status, killed = pair.kill(victim)
    assert (status, killed["drained"], waiting_for(killed)) == (202, False, [dead])
    assert pair.healthy.say("ok", victim).reason == "killed", "it is in force all the same"
    assert pair.healthy.works("another")
    pair.other.start()
    assert "1 calls of an earlier process had no outcome" in pair.other.stderr
    pair.until_drained(victim)
    entry = cut_entry(pair, victim)
    assert (entry["outcome"], entry["reason_code"]) == ("unknown", "outcome_unrecorded")
    assert dead not in [one["member"] for one in members(pair.healthy)]
    assert pair.other.say("ok", victim).reason == "killed"


def test_a_silent_replica_is_presumed_gone_and_the_kill_says_so_until_it_comes_back(
    pair: Pair, victim: str, running: Future[Said]
) -> None:
    gone = pair.member(pair.other)
    pair.other.pause()
    assert pair.kill(victim)[0] == 202
    until(lambda: pair.seen(victim)["receipt"], timeout_s=GONE_AFTER_S + 10)
    except_one = pair.seen(victim)
    assert (except_one["drained"], except_one["drained_except"], except_one["attested"]) == (False, [gone], [])
    assert {one["member"]: one["presence"] for one in members(pair.healthy)}[gone] == "gone"
    assert cut_entry(pair, victim)["outcome"] == "unknown"
    assert f"member {gone} was not heard" in pair.healthy.stderr
    pair.other.resume()
    assert running.result().reason in CUT
    drained = pair.until_drained(victim)
    assert (drained["drained_except"], drained["receipt"] != except_one["receipt"]) == ([], True)
    pair.other.until_works(timeout_s=15)
    assert pair.member(pair.other) != gone
    assert pair.other.say("ok", victim).reason == "killed"
    assert "it has joined anew as" in pair.other.stderr


# --- cut off --------------------------------------------------------------------------------------------------


def test_a_replica_without_redis_hears_the_kill_through_the_log(
    pair: Pair, service: Service, victim: str, running: Future[Said]
) -> None:
    pair.other_redis.cut()
    until(lambda: pair.other.say("ok", "noticing").reason == "kill_state_unknown")
    started = time.monotonic()
    assert pair.kill(victim)[0] in (200, 202)
    assert running.result().reason == "killed"
    assert service.left_at["n=1"] - started < 2, "the heartbeat comes once a second"
    pair.until_drained(victim)
    assert cut_entry(pair, victim)["reason_code"] == "killed"
    unknown = pair.other.sum("agentgate_kill_state_unknown_total")
    assert pair.other.say("ok", "refused").reason == "kill_state_unknown"
    assert pair.other.sum("agentgate_kill_state_unknown_total") > unknown
    pair.other_redis.heal()
    pair.other.until_works()
    assert pair.other.say("ok", victim).reason == "killed"


def test_a_replica_without_the_log_keeps_a_kill_undrained_and_lets_nothing_run(
    pair: Pair, service: Service, victim: str, running: Future[Said]
) -> None:
    """It is woken through Redis and cannot read what for: its call goes on until the log is back, or the lease is over.

    To know that there is a kill is not to know whom it covers: the lease is not renewed by that.
    """
    cut_off = pair.member(pair.other)
    pair.other_log.cut()
    until(lambda: pair.other.say("ok", "noticing").reason == "log_unavailable")
    status, killed = pair.kill(victim)
    assert (status, waiting_for(killed)) == (202, [cut_off])
    assert pair.other.say("ok", "refused").status == 503
    until(lambda: "n=1" in service.left_at, timeout_s=LEASE_S + 2)
    assert running.result().reason == "outcome_unrecorded"
    pair.other_log.heal()
    pair.until_drained(victim)
    assert cut_entry(pair, victim)["outcome"] in ("cancelled", "unknown")


def test_a_replica_cut_from_everything_cuts_its_calls_at_the_end_of_its_lease(
    pair: Pair, service: Service, victim: str, running: Future[Said]
) -> None:
    """Nobody has killed anything: it cannot know that."""
    pair.other_log.cut()
    pair.other_redis.cut()
    started = time.monotonic()
    until(lambda: "n=1" in service.left_at, timeout_s=LEASE_S + 3)
    assert time.monotonic() - started < LEASE_S + 2
    said = running.result()
    assert (said.status, said.reason) == (503, "outcome_unrecorded")
    assert pair.other.say("ok", "refused").status == 503
    assert pair.other.client().get("/readyz").status_code == 503
    assert pair.other.client().get("/healthz").status_code == 200
    assert pair.healthy.works("another")
    pair.other_log.heal()
    pair.other_redis.heal()
    entry = cut_entry(pair, victim)
    assert (entry["outcome"], entry["reason_code"]) in (
        ("cancelled", "kill_state_unknown"),
        ("unknown", "outcome_unrecorded"),  # somebody else was quicker: it was presumed gone
    )


# --- a Redis that lies ----------------------------------------------------------------------------------------


def test_no_word_of_redis_drains_a_kill(pair: Pair, victim: str, running: Future[Said]) -> None:
    """Acknowledgements are in the log: what anybody writes into Redis is none."""
    hung = pair.member(pair.other)
    pair.other.pause()
    assert pair.kill(victim)[0] == 202
    kills = kills_key(pair.redis)
    position = pair.redis.command("HGET", kills, "#")
    for what in ("acks", "acked", "members"):
        key = kills.replace(":kills", f":{what}")
        pair.redis.command("HSET", key, hung, str(position), f"{victim}/{hung}", "1")
    pair.redis.command("HSET", kills, f"ack/{hung}", str(position), hung, str(position))
    pair.redis.command("PUBLISH", kills.replace(":kills", ":wake"), str(position))
    pair.redis.command("DEL", kills.replace(":kills", ":flight"))
    deadline = time.monotonic() + 1.5  # the upkeep, which writes late receipts, comes once a second
    while time.monotonic() < deadline:
        assert (pair.seen(victim)["drained"], waiting_for(pair.seen(victim))) == (False, [hung])
        time.sleep(0.1)
    pair.other.resume()
    assert running.result().reason in CUT
    pair.until_drained(victim)
    pair.redis.command("FLUSHALL")


@pytest.mark.parametrize("claimed", [-1, 1_000], ids=["older", "far ahead"])
def test_a_redis_at_a_wrong_position_lets_no_killed_call_out_anywhere(pair: Pair, victim: str, claimed: int) -> None:
    assert pair.kill(victim)[0] == 200
    kills = kills_key(pair.redis)
    position = int(str(pair.redis.command("HGET", kills, "#")))
    pair.redis.command("HDEL", kills, f"session/default/{victim}")
    pair.redis.command("HSET", kills, "#", str(position + claimed))
    for _ in range(10):
        for gateway in (pair.healthy, pair.other):
            assert gateway.say("ok", victim).reason in CUT
    if claimed > 0:  # nothing goes back by itself: somebody has to remove it
        assert pair.healthy.say("ok", "others").reason == "kill_state_unknown"
        pair.redis.command("DEL", kills)
    for gateway in (pair.healthy, pair.other):
        gateway.until_works()
        assert gateway.say("ok", victim).reason == "killed"


def kills_key(redis: RedisServer) -> str:
    keys = redis.command("KEYS", "{ag:*}:kills")
    assert isinstance(keys, list)
    assert len(keys) == 1
    return str(keys[0])
