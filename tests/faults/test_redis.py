"""The gateway on a real Redis that stops, hangs, forgets, fills up or turns callers away."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.containment.cluster import missing
from tests.containment.toxiproxy import Link, Toxiproxy
from tests.faults.conftest import Gate, needs_redis
from tests.gateway import GatewayFailed, until
from tests.redis_server import RedisServer

pytestmark = needs_redis

UNKNOWN = (503, "kill_state_unknown")


@contextmanager
def on_redis(server: RedisServer, **more: Any) -> Iterator[Gate]:
    with Gate(env={"AGENTGATE_REDIS_URL": server.url}, **more) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def started_gateway(started_redis: RedisServer) -> Iterator[Gate]:
    with on_redis(started_redis) as gateway:
        yield gateway


@pytest.fixture
def gateway(started_gateway: Gate, redis: RedisServer) -> Gate:
    """The module's, over whatever the last test did to it: nothing here is healed by a restart."""
    started_gateway.until_works(session="healed")
    return started_gateway


def assert_refused(gateway: Gate) -> None:
    """503, a record that says why, a metric, and nothing done."""
    calls = gateway.sum("agentgate_kill_state_unknown_total")
    gateway.assert_refused(*UNKNOWN)
    assert gateway.sum("agentgate_kill_state_unknown_total") >= calls + 1


# --- the way it is meant ---------------------------------------------------------------------------------------


def test_calls_kills_limits_and_flights_go_through_redis(gateway: Gate, redis: RedisServer, victim: str) -> None:
    before = gateway.written
    assert gateway.write().ok
    assert gateway.written == before + 1
    limited = [gateway.say("rate_limited_tool", "limited") for _ in range(11)]
    assert [said.reason for said in limited] == ["ok"] * 10 + ["rate_limited"]
    slow = gateway.begin("slow", victim, seconds=30)
    flight = flight_key(redis)
    until(lambda: redis.command("HLEN", flight) == 1)
    killed = gateway.kill_session(victim)
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    assert slow.result().reason == "killed"
    assert gateway.say(session=victim).reason == "killed"
    assert gateway.works("another")
    until(lambda: redis.command("HLEN", flight) == 0)


def flight_key(redis: RedisServer) -> str:
    keys = redis.command("KEYS", "{ag:*}:kills")
    assert isinstance(keys, list)
    return str(keys[0]).replace(":kills", ":flight")


def test_a_thousand_calls_on_256_connections_meet_no_false_refusal(gateway: Gate) -> None:
    """The peer refused up to 98 % of them: its pool of connections to Redis was too small (facts §4, 23)."""
    before = gateway.sum("agentgate_tool_calls_total", tool="db_query", decision="ALLOW")
    said = asyncio.run(flood(gateway, calls=1_000, connections=256))
    assert said == Counter({(200, "ok"): 1_000})
    assert gateway.sum("agentgate_tool_calls_total", tool="db_query", decision="ALLOW") == before + 1_000


async def flood(gateway: Gate, *, calls: int, connections: int) -> Counter[tuple[int, str]]:
    said: Counter[tuple[int, str]] = Counter()
    left = iter(range(calls))

    async def caller(client: aiohttp.ClientSession, name: int) -> None:
        body = {"session_id": f"flood-{name}", "tool_name": "db_query", "arguments": {"query": "SELECT 1"}}
        for _ in left:
            async with client.post("/tools/call", json=body) as answer:
                said[answer.status, (await answer.json())["reason_code"]] += 1

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(gateway.url, connector=connector) as client:
        await asyncio.gather(*(caller(client, name) for name in range(connections)))
    return said


# --- gone, hung, empty ----------------------------------------------------------------------------------------


def test_a_stopped_redis_refuses_every_call_and_a_restarted_one_admits_again(gateway: Gate, redis: RedisServer) -> None:
    assert gateway.works()
    redis.stop()
    until(lambda: gateway.say(session="first").reason == "kill_state_unknown")
    assert_refused(gateway)
    assert gateway.client().get("/readyz").status_code == 503
    assert gateway.sum("agentgate_health_status", dependency="redis") == 0
    redis.start()
    gateway.until_works()
    assert gateway.client().get("/readyz").status_code == 200


def test_refusals_for_a_stopped_redis_are_quick(gateway: Gate, redis: RedisServer) -> None:
    redis.stop()
    until(lambda: not gateway.works())
    started = time.monotonic()
    assert gateway.say().reason == "kill_state_unknown"
    assert time.monotonic() - started < 0.25


def test_a_hung_redis_refuses_within_its_deadline_and_a_woken_one_admits_again(
    gateway: Gate, redis: RedisServer
) -> None:
    assert gateway.works()
    redis.pause()
    started = time.monotonic()
    first = gateway.say(session="hung")
    took = time.monotonic() - started
    assert (first.status, first.reason) == UNKNOWN
    assert took < 0.5
    assert_refused(gateway)
    redis.resume()
    gateway.until_works()


def test_a_kill_while_redis_hangs_still_cuts_and_still_binds(gateway: Gate, redis: RedisServer, victim: str) -> None:
    slow = gateway.begin("slow", victim, seconds=30)
    gateway.until_running(victim)  # Redis knows of it before the gateway has heard that
    redis.pause()
    killed = gateway.kill_session(victim)
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    assert slow.result().reason == "killed"
    redis.resume()
    gateway.until_works()
    assert gateway.say(session=victim).reason == "killed"


def test_a_kill_is_in_force_again_before_an_emptied_redis_admits_anything(
    gateway: Gate, redis: RedisServer, victim: str
) -> None:
    """Restarted without its data: at no moment is the killed session let in (K5)."""
    assert gateway.kill_session(victim).status_code == 200
    redis.kill9()
    redis.start()
    assert redis.command("DBSIZE") == 0
    until(lambda: admits_others_and_never_the(victim, gateway))
    assert gateway.say(session=victim).reason == "killed"


def test_flushall_lifts_no_kill(gateway: Gate, redis: RedisServer, victim: str) -> None:
    assert gateway.kill_session(victim).status_code == 200
    for _ in range(20):
        redis.command("FLUSHALL")
        until(lambda: admits_others_and_never_the(victim, gateway))
    assert gateway.say(session=victim).reason == "killed"
    assert gateway.sum("agentgate_kill_state_unknown_total") > 0


def test_a_deleted_flag_is_put_back(gateway: Gate, redis: RedisServer, victim: str) -> None:
    """Only the flag goes, and the position stays: what a half-done failover or a meddling hand leaves behind.

    The record is the fence here: the call's receipt carries the kill position, and this replica knows the kill.
    """
    assert gateway.kill_session(victim).status_code == 200
    keys = redis.command("KEYS", "{ag:*}:kills")
    assert isinstance(keys, list)
    assert redis.command("HDEL", keys[0], f"session/default/{victim}") == 1
    assert gateway.say(session=victim).reason == "killed"


@pytest.mark.parametrize("how", ["down", "hung"])
def test_a_call_that_ends_without_redis_is_recorded_and_answered_and_leaves_the_display(
    gateway: Gate, redis: RedisServer, victim: str, how: str
) -> None:
    """The outcome is the log's affair. What could not be told to Redis is told when it is back."""
    running = gateway.begin("slow", victim, seconds=1)
    flight = flight_key(redis)
    gateway.until_running(victim)
    if how == "hung":
        redis.pause()
    else:
        redis.stop()
    until(lambda: gateway.say(session="noticing").reason == "kill_state_unknown")
    said = running.result()
    assert said.ok
    assert gateway.entry(said, victim)["outcome"] == "ok"
    if how == "hung":
        redis.resume()
    else:
        redis.start()
    gateway.until_works()
    until(lambda: redis.command("HLEN", flight) == 0)


# --- lying ----------------------------------------------------------------------------------------------------


def test_a_redis_at_an_older_position_is_refused_and_put_right(gateway: Gate, redis: RedisServer, victim: str) -> None:
    """As after a failover to a standby that has missed the kill, with its flag."""
    running = gateway.begin("slow", victim, seconds=30)
    gateway.until_running(victim)
    assert gateway.kill_session(victim).json()["drained"] is True
    assert running.result().reason == "killed"
    kills = kills_key(redis)
    older = int(str(redis.command("HGET", kills, "#"))) - 1
    unknown = gateway.sum("agentgate_kill_state_unknown_total")

    def forgets() -> bool:
        """Whether a call came before the next heartbeat, which puts it right."""
        redis.command("HSET", kills, "#", older)
        redis.command("HDEL", kills, f"session/default/{victim}")
        said = gateway.say(session="others")
        return (said.status, said.reason) == UNKNOWN

    until(forgets)
    assert gateway.sum("agentgate_kill_state_unknown_total") > unknown
    until(lambda: admits_others_and_never_the(victim, gateway))
    assert gateway.say(session=victim).reason == "killed"
    assert redis.command("HEXISTS", kills, f"session/default/{victim}") == 1


def test_a_redis_far_ahead_of_the_log_refuses_everything_until_somebody_removes_the_claim(
    gateway: Gate, redis: RedisServer, victim: str
) -> None:
    """It may be right, and the log an older one: nothing runs on that, and nothing goes back by itself.

    Kills are the log's affair: they cut and drain all the same.
    """
    running = gateway.begin("slow", victim, seconds=30)
    gateway.until_running(victim)
    kills = kills_key(redis)
    redis.command("HSET", kills, "#", 1_000_000)
    gateway.assert_refused(*UNKNOWN)
    assert not running.done()
    killed = gateway.kill_session(victim)
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    assert running.result().reason == "killed"
    gateway.assert_refused(*UNKNOWN)
    redis.command("DEL", kills)
    gateway.until_works()
    assert gateway.say(session=victim).reason == "killed"


def test_a_forged_flag_refuses_too_many_and_cuts_nothing(gateway: Gate, redis: RedisServer, victim: str) -> None:
    """Whoever writes into Redis can keep calls from running, and no more. The refusal is on record, under no kill."""
    assert gateway.works(victim)
    running = gateway.begin("slow", victim, seconds=1)
    gateway.until_running(victim)
    kills = kills_key(redis)
    redis.command("HSET", kills, f"session/default/{victim}", "kill-forged")
    gateway.assert_refused(200, "killed", victim)
    assert running.result().ok
    assert victim not in [kill["target"] for kill in gateway.admin().get("/kills").json()["kills"]]
    assert gateway.works("another")
    redis.command("DEL", kills)
    gateway.until_works(session=victim)


def kills_key(redis: RedisServer) -> str:
    return flight_key(redis).replace(":flight", ":kills")


def admits_others_and_never_the(victim: str, gateway: Gate) -> bool:
    said = gateway.say(session=victim)
    assert not said.ok
    assert said.reason in ("killed", "kill_state_unknown")
    return gateway.works("another")


def test_a_running_call_survives_an_emptied_redis_and_can_still_be_cut(
    gateway: Gate, redis: RedisServer, victim: str
) -> None:
    slow = gateway.begin("slow", victim, seconds=30)
    flight = flight_key(redis)
    until(lambda: redis.command("HLEN", flight) == 1)
    redis.command("FLUSHALL")
    gateway.until_works()
    until(lambda: redis.command("HLEN", flight) == 1)  # it is shown again
    assert gateway.kill_session(victim).json()["drained"] is True
    assert slow.result().reason == "killed"


def test_a_released_kill_does_not_come_back_with_a_restarted_redis(
    gateway: Gate, redis: RedisServer, victim: str
) -> None:
    killed = gateway.kill_session(victim).json()
    assert gateway.admin().post(f"/kills/{killed['id']}/release").status_code == 200
    redis.kill9()
    redis.start()
    gateway.until_works(session=victim)


def test_kills_outlive_gateway_and_redis_together(gateway: Gate, redis: RedisServer, victim: str) -> None:
    assert gateway.kill_session(victim).status_code == 200
    gateway.kill9()
    redis.kill9()
    redis.start()
    gateway.start()
    until(lambda: admits_others_and_never_the(victim, gateway))
    assert gateway.say(session=victim).reason == "killed"


def test_a_process_that_was_killed_leaves_no_ghost_in_flight(gateway: Gate, redis: RedisServer) -> None:
    call = gateway.begin("slow", "ghost", seconds=30)
    until(lambda: redis.command("HLEN", flight_key(redis)) == 1)
    gateway.kill9()
    assert call.exception() is not None
    gateway.start()
    gateway.until_works()
    until(lambda: redis.command("HLEN", flight_key(redis)) == 0, timeout_s=3)


def test_a_gateway_that_starts_before_its_redis_refuses_until_it_comes(redis: RedisServer) -> None:
    redis.stop()
    with on_redis(redis) as gateway:
        assert_refused(gateway)
        redis.start()
        gateway.until_works()


# --- slow, and failed over ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Linked:
    """A gateway, and the link to its Redis, which has a standby."""

    gateway: Gate
    link: Link
    primary: RedisServer
    standby: RedisServer


@pytest.fixture(scope="module")
def linked() -> Iterator[Linked]:
    if missing() is not None:
        pytest.skip(str(missing()))
    with RedisServer(tcp=True) as primary, RedisServer(tcp=True) as standby, Toxiproxy() as proxies:
        link = proxies.link("redis", primary.port)
        with Gate(env={"AGENTGATE_REDIS_URL": f"redis://127.0.0.1:{link.port}/0"}) as gateway:
            yield Linked(gateway, link, primary, standby)


def test_a_slow_redis_refuses_and_a_kill_goes_on_without_it(linked: Linked, victim: str) -> None:
    """Slower than its deadline of 100 ms is not there: what runs goes on, is cut by a kill, and is recorded."""
    gateway = linked.gateway
    assert gateway.works()
    running, ending = gateway.begin("slow", victim, seconds=30), gateway.begin("slow", "ending", seconds=1)
    gateway.until_running(victim)
    gateway.until_running("ending")
    linked.link.delay(250)
    until(lambda: not gateway.works("noticing"))
    assert_refused(gateway)
    said = ending.result()
    assert said.ok
    assert gateway.entry(said, "ending")["outcome"] == "ok"
    assert not running.done()
    killed = gateway.kill_session(victim)
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    assert running.result().reason == "killed"
    linked.link.heal()
    gateway.until_works()
    assert gateway.say(session=victim).reason == "killed"


def test_a_redis_that_is_slow_within_its_deadline_refuses_nobody(linked: Linked) -> None:
    assert linked.gateway.works()
    linked.link.delay(30)
    assert [linked.gateway.works("slow") for _ in range(10)].count(True) >= 9  # a busy machine may add to it
    linked.link.heal()


def test_a_fail_over_to_a_standby_that_missed_the_kill_lets_no_killed_call_out(linked: Linked, victim: str) -> None:
    gateway = linked.gateway
    running = gateway.begin("slow", "other", seconds=30)
    gateway.until_running("other")
    linked.standby.follow(linked.primary)
    linked.standby.promote()
    ending = gateway.begin("slow", "ending", seconds=3)
    gateway.until_running("ending")
    assert gateway.kill_session(victim).json()["drained"] is True
    linked.link.lead_to(linked.standby.port)
    until(lambda: admits_others_and_never_the(victim, gateway))
    assert gateway.say(session=victim).reason == "killed"
    said = ending.result()
    assert said.ok
    assert gateway.entry(said, "ending")["outcome"] == "ok"
    assert not running.done()
    until(lambda: linked.standby.command("HLEN", flight_key(linked.standby)) == 1)  # of the two, one is shown
    assert gateway.kill_session("other").json()["drained"] is True
    assert running.result().reason == "killed"
    linked.link.lead_to(linked.primary.port)  # and back to the one that knows, and was deposed
    until(lambda: admits_others_and_never_the(victim, gateway))
    assert gateway.say(session="other").reason == "killed"


# --- full, closed, and of the wrong kind ----------------------------------------------------------------------


def test_a_redis_that_may_evict_stops_the_start_with_a_sentence() -> None:
    with (
        RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru") as server,
        pytest.raises(GatewayFailed) as failed,
        on_redis(server),
    ):
        pass
    assert failed.value.status == 3
    assert "maxmemory-policy noeviction" in failed.value.stderr
    assert "Traceback" not in failed.value.stderr


def test_a_redis_that_begins_to_evict_is_not_relied_on_until_it_stops(gateway: Gate, redis: RedisServer) -> None:
    assert gateway.works()
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    redis.command("CONFIG", "SET", "maxmemory", "64mb")
    until(lambda: not gateway.works("before"))
    assert_refused(gateway)
    redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    gateway.until_works()


def test_a_redis_out_of_connections_refuses_and_recovers(gateway: Gate, redis: RedisServer) -> None:
    """The gateway's one connection is cut, and another client has taken its place."""
    assert gateway.works()
    with redis.connect() as other:
        other.sendall(b"CONFIG SET maxclients 1\r\n")
        assert other.recv(64).startswith(b"+OK")
        other.sendall(b"CLIENT KILL TYPE normal SKIPME yes\r\n")
        assert other.recv(64).startswith(b":")
        until(lambda: not gateway.works("before"))
        assert_refused(gateway)
        other.sendall(b"CONFIG SET maxclients 100\r\n")
        assert other.recv(64).startswith(b"+OK")
    gateway.until_works()


def test_a_full_redis_refuses_calls_and_still_takes_a_kill(gateway: Gate, redis: RedisServer, victim: str) -> None:
    assert gateway.works()
    slow, ending = gateway.begin("slow", victim, seconds=30), gateway.begin("slow", "ending", seconds=3)
    gateway.until_running(victim)
    gateway.until_running("ending")
    redis.command("CONFIG", "SET", "maxmemory", "1")
    assert_refused(gateway)
    said = ending.result()
    assert said.ok
    assert gateway.entry(said, "ending")["outcome"] == "ok"
    assert not slow.done()
    killed = gateway.kill_session(victim)
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    assert slow.result().reason == "killed"
    redis.command("CONFIG", "SET", "maxmemory", "0")
    gateway.until_works()
    assert gateway.say(session=victim).reason == "killed"


def test_a_read_only_redis_refuses_and_recovers(gateway: Gate, redis: RedisServer) -> None:
    """What is left of a primary after a failover: it answers, and takes no writes."""
    assert gateway.works()
    redis.command("REPLICAOF", "127.0.0.1", "1")
    until(lambda: not gateway.works("before"))
    assert_refused(gateway)
    redis.command("REPLICAOF", "NO", "ONE")
    gateway.until_works()


def test_limits_start_a_new_window_once_redis_has_lost_the_last(gateway: Gate, redis: RedisServer, victim: str) -> None:
    said = [gateway.say("rate_limited_tool", victim).reason for _ in range(11)]
    assert said == ["ok"] * 10 + ["rate_limited"]
    redis.kill9()
    redis.start()
    gateway.until_works()
    assert gateway.say("rate_limited_tool", victim).ok


def test_limits_hold_across_a_reconnect(gateway: Gate, redis: RedisServer) -> None:
    for _ in range(10):
        assert gateway.say("rate_limited_tool", "limited").ok
    redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    until(lambda: gateway.say("rate_limited_tool", "limited").reason != "kill_state_unknown")
    assert gateway.say("rate_limited_tool", "limited").reason == "rate_limited"
