"""The gateway before an upstream that refuses, hangs, floods, breaks off or talks nonsense."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.containment.toxiproxy import Link, Toxiproxy
from tests.faults.conftest import FLOOD_BYTES, Gate, Said, Service, deaf_port, needs_cluster, service_config
from tests.gateway import until


@pytest.fixture(scope="module")
def started_gateway(started_service: Service) -> Iterator[Gate]:
    with Gate(config=service_config(started_service.port)) as gateway:
        yield gateway


@pytest.fixture
def gateway(started_gateway: Gate, service: Service) -> Gate:
    return started_gateway


def assert_ended(gateway: Gate, said: Said, outcome: str, reason: str) -> None:
    """An allowed call that did not succeed, told and recorded alike: 200, never a 500."""
    assert (said.status, said.body["success"], said.body["decision"]) == (200, False, "ALLOW")
    assert said.reason == reason
    entry = gateway.entry(said)
    assert (entry["outcome"], entry["reason_code"]) == (outcome, reason)
    assert ("unknown" in said.body["error"]) == (outcome in ("unknown", "cancelled"))


def test_an_upstream_that_answers(gateway: Gate, service: Service) -> None:
    said = gateway.say("ok", n="1")
    assert said.body["result"] == {"ok": True}
    assert gateway.entry(said)["outcome"] == "ok"
    assert service.requests == ["/ok?n=1"]
    assert gateway.sum("agentgate_step_duration_seconds_count", step="upstream") >= 1


def test_a_refused_connection_was_never_sent_and_a_server_that_is_back_is_used(gateway: Gate, service: Service) -> None:
    service.stop()
    said = gateway.say("ok")
    assert_ended(gateway, said, "not_sent", "upstream_unavailable")
    service.start()
    assert gateway.say("ok").ok


def test_an_upstream_that_takes_no_connection_is_unknown_at_the_deadline_and_a_kill_ends_the_waiting() -> None:
    """Nobody claims to know how far it has come."""
    with deaf_port() as port, Gate(config=service_config(port)) as gateway:
        assert_ended(gateway, gateway.say("ok"), "unknown", "upstream_timeout")
        running = gateway.begin("hang_long", "victim")
        gateway.until_running("victim")
        killed = gateway.kill_session("victim")
        assert (killed.status_code, killed.json()["drained"]) == (200, True)
        assert running.result().reason == "killed"


def test_a_dead_kept_connection_is_not_told_as_an_answer(gateway: Gate, service: Service) -> None:
    assert gateway.say("ok").ok
    service.restart()
    assert gateway.say("ok").ok


def test_a_hanging_upstream_ends_in_unknown_at_the_deadline(gateway: Gate, service: Service) -> None:
    started = time.monotonic()
    said = gateway.say("hang", n="1")
    assert 0.9 < time.monotonic() - started < 3
    assert_ended(gateway, said, "unknown", "upstream_timeout")
    until(lambda: "n=1" in service.left_at)
    assert service.count("/hang") == 1
    assert gateway.say("ok").ok


def test_a_stream_without_end_is_cut_at_its_deadline_and_by_a_kill(
    gateway: Gate, service: Service, victim: str
) -> None:
    assert_ended(gateway, gateway.say("drip", n="1"), "unknown", "upstream_timeout")
    until(lambda: "n=1" in service.left_at)
    running = gateway.begin("drip_long", victim, n="2")
    until(lambda: service.count("/drip") == 2)
    assert gateway.kill_session(victim).json()["drained"] is True
    until(lambda: "n=2" in service.left_at)
    said = running.result()
    assert said.reason == "killed"
    assert gateway.entry(said, victim)["outcome"] == "cancelled"


@pytest.fixture(scope="module")
def linked(started_service: Service) -> Iterator[tuple[Gate, Link]]:
    """A gateway, and the network between it and its upstream."""
    with Toxiproxy() as proxies:
        link = proxies.link("upstream", started_service.port)
        with Gate(config=service_config(link.port)) as gateway:
            yield gateway, link


@needs_cluster
@pytest.mark.parametrize("how", ["cut", "mute", "late"])
def test_a_network_that_fails_under_a_call_leaves_an_unknown_effect_and_is_used_again(
    linked: tuple[Gate, Link], service: Service, victim: str, how: str
) -> None:
    gateway, link = linked
    ending, running = gateway.begin("held", n="1"), gateway.begin("hang_long", victim, n="2")
    until(lambda: service.count("/held") == service.count("/hang") == 1)
    {"cut": link.cut, "mute": link.mute, "late": lambda: link.delay(3_000)}[how]()
    service.let_go()
    reason = "upstream_unavailable" if how == "cut" else "upstream_timeout"
    assert_ended(gateway, ending.result(), "unknown", reason)
    if how == "cut":
        assert gateway.entry(running.result(), victim)["outcome"] == "unknown"
        assert_ended(gateway, gateway.say("ok"), "not_sent", reason)
    else:
        assert not running.done()
        assert gateway.kill_session(victim).json()["drained"] is True
        assert gateway.entry(running.result(), victim)["outcome"] == "cancelled"
    link.heal()
    assert gateway.say("ok").ok
    assert (service.count("/held"), service.count("/hang")) == (1, 1), "nothing was sent twice"


@pytest.mark.parametrize("tool", ["flood", "announced"])
def test_fifty_megabytes_are_cut_and_cost_no_memory(gateway: Gate, service: Service, tool: str) -> None:
    assert gateway.say("ok").ok
    assert gateway.say(tool).reason == "upstream_too_large"
    before = gateway.rss_mb
    calls = [gateway.begin(tool) for _ in range(20)]
    peak = before
    while not all(call.done() for call in calls):
        peak = max(peak, gateway.rss_mb)
    for call in calls:
        assert_ended(gateway, call.result(), "error", "upstream_too_large")
    assert peak - before < FLOOD_BYTES / 1e6, f"20 floods of 50 MB took {peak - before:.0f} MB"
    assert gateway.say("ok").ok


BROKEN_OFF = {"breaks": "within its answer", "hangup": "without an answer", "garbage": "not HTTP"}


@pytest.mark.parametrize("tool", BROKEN_OFF)
def test_an_answer_that_breaks_off_leaves_an_unknown_effect(gateway: Gate, service: Service, tool: str) -> None:
    """The upstream had the request, and nobody can say what it did with it: not `error`, which would claim that."""
    said = gateway.say(tool)
    assert said.body["success"] is False
    assert service.count(f"/{tool}") >= 1
    assert gateway.entry(said)["outcome"] == "unknown"
    assert "unknown" in said.body["error"]
    assert gateway.say("ok").ok


@pytest.mark.parametrize(("tool", "status"), [("500", 500), ("redirect", 302)])
def test_a_status_that_is_no_success_is_an_error_with_it(
    gateway: Gate, service: Service, tool: str, status: int
) -> None:
    said = gateway.say(tool)
    assert_ended(gateway, said, "error", "upstream_error")
    assert str(status) in said.body["error"]
    assert service.requests == [f"/{tool}"]


def test_a_kill_reaches_a_hanging_upstream_within_a_quarter_of_a_second(
    gateway: Gate, service: Service, victim: str
) -> None:
    running = gateway.begin("hang_long", victim, n="1")
    until(lambda: service.count("/hang") == 1)
    started = time.monotonic()
    killed = gateway.kill_session(victim)
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    until(lambda: "n=1" in service.left_at)
    assert service.left_at["n=1"] - started < 0.25
    said = running.result()
    assert (said.status, said.reason, said.body["decision"]) == (200, "killed", "ALLOW")
    entry = gateway.entry(said, victim)
    assert (entry["outcome"], entry["reason_code"]) == ("cancelled", "killed")
    assert "unknown" in said.body["error"]
    assert killed.json()["replicas"][0]["cancelled"] == 1
    assert killed.json()["running"] == []


def test_a_kill_by_upstream_cuts_all_its_calls_and_leaves_the_others(gateway: Gate, service: Service) -> None:
    running = [gateway.begin("hang_long", f"s-{n}", n=str(n)) for n in range(20)]
    until(lambda: service.count("/hang") == 20)
    started = time.monotonic()
    killed = gateway.admin().post("/servers/patient/kill", json={})
    assert killed.json()["drained"] is True
    until(lambda: len(service.left_at) == 20)
    assert max(service.left_at.values()) - started < 0.5
    assert {call.result().reason for call in running} == {"killed"}
    assert gateway.say("hang_long").reason == "killed"
    assert gateway.say("ok").ok
    assert gateway.admin().post(f"/kills/{killed.json()['id']}/release").status_code == 200


def test_a_client_that_leaves_does_not_take_the_record_with_it(gateway: Gate, service: Service) -> None:
    """Whether its caller waits or not, a sent call gets its outcome."""
    body = {"session_id": "left", "tool_name": "hang", "arguments": {"n": "1"}}
    with pytest.raises(httpx.ReadTimeout):
        gateway.client().post("/tools/call", json=body, timeout=0.2)
    until(lambda: service.count("/hang") == 1)
    until(lambda: [entry["outcome"] for entry in gateway.timeline("left")] == ["unknown"])


def test_a_stop_with_a_call_in_flight_records_how_it_ended(gateway: Gate, service: Service) -> None:
    """SIGTERM: no new connection, and what still runs at the end of the grace period is cut and recorded."""
    running = gateway.begin("hang_long", "last", n="1")
    until(lambda: service.count("/hang") == 1)
    gateway.stop()
    answer = running.result()
    assert (answer.status, answer.reason, answer.ok) == (200, "shutting_down", False)
    gateway.start()
    (entry,) = gateway.timeline("last")
    assert (entry["outcome"], entry["reason_code"]) == ("cancelled", "shutting_down")
    gateway.assert_log_holds()
