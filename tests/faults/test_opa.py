"""The gateway on a real OPA: how policies get there, and what happens to calls when it does not answer."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.containment.toxiproxy import Link, Toxiproxy
from tests.faults.conftest import Gate, PullingOpa, Service, WithOpa, needs_cluster, needs_opa, service_config, with_opa
from tests.gateway import until

pytestmark = needs_opa

OWN_POLICY = """package agentgate
decision := {"action": "ALLOW", "reason": "ours", "matched_rule": "own"}
tools := {}
"""


def change_data(bed: WithOpa, **changes: Any) -> None:
    path = bed.policies / "data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- the way it is meant ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["unix", "http"])
def test_opa_pulls_the_policy_from_the_gateway_and_every_decision_names_its_revision(tmp_path: Path, over: str) -> None:
    with with_opa(tmp_path, over=over) as bed:
        revision = bed.until_enforced()
        gateway = bed.gateway
        read = gateway.say()
        asked = gateway.say("db_insert", table="users", data={"name": "x"})
        written = gateway.write()
        assert (read.ok, written.ok, gateway.written) == (True, True, 1)
        assert (asked.status, asked.reason) == (200, "approval_required")
        assert {entry["policy_version"] for entry in gateway.timeline()} == {revision}
        assert revision.startswith("sha256:")
        assert gateway.client().get("/readyz").status_code == 200
        assert gateway.sum("agentgate_policy_evaluations_total", result="ALLOW", rule="read_only_tools") >= 1


def test_the_bundle_is_for_the_role_opa_alone(tmp_path: Path) -> None:
    with with_opa(tmp_path) as bed:
        assert bed.gateway.client().get("/bundles/agentgate.tar.gz").status_code == 401
        agent = bed.gateway.create_key("--agent", "bot")
        until(lambda: bed.gateway.client(agent).get("/tools/list").status_code == 200)
        assert bed.gateway.client(agent).get("/bundles/agentgate.tar.gz").status_code == 403


def test_a_reload_changes_what_is_enforced_and_a_broken_policy_changes_nothing(tmp_path: Path) -> None:
    """Rego, data alone, and Rego that does not compile: in this order on one gateway."""
    with with_opa(tmp_path) as bed:
        first = bed.until_enforced()
        gateway, rego = bed.gateway, bed.policies / "agentgate.rego"
        assert gateway.say("file_read", path="notes.txt").reason != "policy_deny"

        change_data(bed, roles={"agent": {"deny": ["file_read"]}})
        answer = bed.reload()
        assert answer.status_code == 200, answer.text
        second = answer.json()["policy_revision"]
        assert second != first
        assert (
            gateway.say("file_read", path="notes.txt").body["error"] == "Policy denied: Tool is denied to this caller"
        )
        assert gateway.timeline()[-1]["policy_version"] == second

        good = rego.read_text()
        rego.write_text(good.replace("Tool is denied to this caller", "Not for you"))
        third = bed.reload().json()["policy_revision"]
        assert third not in (first, second)
        assert gateway.say("file_read", path="notes.txt").body["error"] == "Policy denied: Not for you"

        rego.write_text(good + "\nallow if { no_such_function(1) }\n")
        broken = bed.reload()
        assert broken.status_code == 422
        assert broken.json()["reason_code"] == "policy_invalid"
        assert "no_such_function" in broken.json()["detail"]
        assert gateway.health()["policy_revision"] == third
        assert gateway.say("file_read", path="notes.txt").body["error"] == "Policy denied: Not for you"


def test_a_rate_limit_in_the_data_is_in_force_after_the_reload(tmp_path: Path) -> None:
    with with_opa(tmp_path) as bed:
        bed.until_enforced()
        change_data(bed, rate_limits={"db_query": 2})
        assert bed.reload().status_code == 200
        said = [bed.gateway.say(session="limited") for _ in range(3)]
        assert [answer.reason for answer in said] == ["ok", "ok", "rate_limited"]


def test_an_opa_with_policies_of_its_own_is_asked_and_never_changed(tmp_path: Path) -> None:
    with with_opa(tmp_path, policies={"own.rego": OWN_POLICY}) as bed:
        revision = bed.until_enforced()
        assert revision.startswith("external:")
        assert bed.gateway.say("db_insert", table="users", data={"name": "x"}).reason != "approval_required"
        assert bed.gateway.timeline()[-1]["policy_version"] == revision
        answer = bed.reload()
        assert (answer.status_code, answer.json()["reason_code"]) == (409, "policy_external")
        assert until(lambda: bed.gateway.health()["policy_revision"]) == revision


def test_a_reload_while_opa_is_stopped_is_504_and_comes_into_force_whole_when_opa_is_back(tmp_path: Path) -> None:
    """Whole: the rules that OPA enforces and the limits that the gateway enforces are of one revision."""
    with with_opa(tmp_path) as bed:
        first = bed.until_enforced()
        bed.opa.stop()
        change_data(bed, rate_limits={"db_query": 1}, roles={"agent": {"deny": ["file_read"]}})
        answer = bed.reload()
        assert (answer.status_code, answer.json()["reason_code"]) == (504, "policy_not_enforced")
        wanted = answer.json()["wanted"]
        assert wanted != first
        assert answer.json()["enforced"] is None

        bed.opa.start()
        until(lambda: bed.gateway.health()["policy_revision"] == wanted, timeout_s=15)
        assert bed.gateway.say("file_read", path="notes.txt").reason == "policy_deny"
        until(lambda: bed.gateway.say(session="limited").reason == "rate_limited", timeout_s=5)


def test_a_reload_while_opa_hangs_gives_up_in_time_and_calls_are_decided_by_one_revision(tmp_path: Path) -> None:
    with with_opa(tmp_path) as bed:
        first = bed.until_enforced()
        started = time.monotonic()
        assert bed.reload().status_code == 200
        well_s = time.monotonic() - started
        bed.opa.pause()
        change_data(bed, roles={"agent": {"deny": ["file_read"]}})
        started = time.monotonic()
        answer = bed.reload()
        hung_s = time.monotonic() - started
        assert (answer.status_code, answer.json()["reason_code"]) == (504, "policy_not_enforced")
        assert hung_s - well_s < 7, "five seconds of waiting for OPA; the rest is the compiler's time"
        bed.opa.resume()
        wanted = answer.json()["wanted"]
        until(lambda: bed.gateway.health()["policy_revision"] == wanted, timeout_s=15)
        assert {entry["policy_version"] for entry in bed.gateway.timeline("warm-up")} <= {first, ""}
        assert bed.gateway.say("file_read", path="notes.txt").reason == "policy_deny"


def test_limits_are_in_force_from_the_first_call_on_an_opa_that_decides_already(tmp_path: Path) -> None:
    with with_opa(tmp_path) as bed:
        bed.until_enforced()
        change_data(bed, rate_limits={"db_query": 1})
        assert bed.reload().status_code == 200
        bed.gateway.restart()
        said = [bed.gateway.say(session="limited").reason for _ in range(3)]
        assert said == ["ok", "rate_limited", "rate_limited"]


# --- an OPA that does not answer -----------------------------------------------------------------------------


def refused_as(gateway: Gate, reason: str, session: str) -> None:
    """A write is refused as `reason`, in the answer, the record and the metric, and is not done; not ready either."""
    before = gateway.sum("agentgate_policy_evaluations_total", result="DENY", rule=reason)
    gateway.assert_refused(200, reason, session)
    assert gateway.sum("agentgate_policy_evaluations_total", result="DENY", rule=reason) == before + 1
    until(lambda: gateway.sum("agentgate_health_status", dependency="opa") == 0)  # without anybody asking /health
    assert gateway.client().get("/readyz").status_code == 503


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithOpa]:
    with with_opa(tmp_path_factory.mktemp("opa")) as bed:
        yield bed


@pytest.fixture
def bed(started: WithOpa) -> WithOpa:
    """The module's, with whatever the last test did to it: nothing here is healed by a restart of the gateway."""
    started.until_enforced()
    return started


def test_a_stopped_opa_refuses_every_call_and_a_restarted_one_decides_again(bed: WithOpa) -> None:
    revision = bed.gateway.health()["policy_revision"]
    bed.opa.stop()
    refused_as(bed.gateway, "policy_unavailable", "stopped")
    listed = bed.gateway.client().get("/tools/list")
    assert (listed.status_code, listed.json()["reason_code"]) == (503, "policy_unavailable")
    bed.opa.start()
    bed.gateway.until_works(timeout_s=15)
    assert bed.gateway.timeline("after")[-1]["policy_version"] == revision


def test_a_restarted_opa_without_its_bundle_yet_allows_nothing(bed: WithOpa) -> None:
    """From its start to its first download OPA answers, but has no policy: undefined is a refusal."""
    bed.opa.stop()
    bed.opa.start()
    said = []

    def allowed() -> bool:
        said.append(bed.gateway.say(session="early"))
        return said[-1].ok

    until(allowed, timeout_s=15)
    refusals = {answer.reason for answer in said if not answer.ok}
    assert refusals <= {"policy_undefined", "policy_unavailable", "policy_revision_unknown"}


def test_a_hung_opa_refuses_within_the_deadline_and_a_woken_one_decides_again(bed: WithOpa) -> None:
    bed.opa.pause()
    started = time.monotonic()
    said = bed.gateway.say(session="hung")
    took = time.monotonic() - started
    assert (said.status, said.reason) == (200, "policy_timeout")
    assert took < 1
    refused_as(bed.gateway, "policy_timeout", "hung")
    bed.opa.resume()
    bed.gateway.until_works()


@pytest.mark.parametrize("how", ["down", "hung"])
def test_a_call_that_runs_has_been_decided_and_goes_on_without_opa(bed: WithOpa, how: str) -> None:
    """Policy is asked before a call and not again: its outcome is recorded and answered, and a kill still cuts."""
    gateway = bed.gateway
    ending, running = gateway.begin("slow", f"{how}-1", seconds=1), gateway.begin("slow", f"{how}-2", seconds=30)
    gateway.until_running(f"{how}-1")
    gateway.until_running(f"{how}-2")
    if how == "hung":
        bed.opa.pause()
    else:
        bed.opa.stop()
    assert not gateway.works("noticing")
    said = ending.result()
    assert said.ok
    assert gateway.entry(said, f"{how}-1")["outcome"] == "ok"
    killed = gateway.kill_session(f"{how}-2")
    assert (killed.status_code, killed.json()["drained"]) == (200, True)
    assert running.result().reason == "killed"
    if how == "hung":
        bed.opa.resume()
    else:
        bed.opa.start()


def test_many_calls_on_a_hung_opa_are_all_refused_in_time(bed: WithOpa) -> None:
    """More calls than connections: those that wait for a connection have the same deadline."""
    bed.opa.pause()
    started = time.monotonic()
    calls = [bed.gateway.begin("db_query", f"many-{n}", query="SELECT 1") for n in range(60)]
    assert {answer.result().reason for answer in calls} == {"policy_timeout"}
    assert time.monotonic() - started < 3
    bed.opa.resume()
    bed.gateway.until_works()


# --- what a real OPA does not do on command ------------------------------------------------------------------


class FakeOpa:
    """Answers every request with the same bytes."""

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.answer = b""
        self._listener = socket.create_server(address, backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def says(self, body: str, *, status: str = "200 OK", content_type: str = "application/json") -> None:
        raw = body.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(raw)}\r\n\r\n"
        self.answer = head.encode() + raw

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while connection.recv(65_536):
                connection.sendall(self.answer)


@contextmanager
def fake_opa() -> Iterator[FakeOpa]:
    opa = FakeOpa()
    opa.says(ALLOWED)
    yield opa
    opa.close()


ALLOWED = json.dumps(
    {
        "result": {"action": "ALLOW", "reason": "fake", "matched_rule": "fake"},
        "provenance": {"bundles": {"agentgate": {"revision": "sha256:fake"}}},
    }
)
NOT_REALLY_ALLOWED = {
    "a status of 500": (ALLOWED, "500 Internal Server Error", "application/json", "policy_error"),
    "a redirect": (ALLOWED, "302 Found", "application/json", "policy_error"),
    "an allow as text": (ALLOWED, "200 OK", "text/html", "policy_malformed"),
    "half of an allow": (ALLOWED[:-20], "200 OK", "application/json", "policy_malformed"),
    "a list": ("[true]", "200 OK", "application/json", "policy_malformed"),
    "true": ('{"result": true}', "200 OK", "application/json", "policy_revision_unknown policy_malformed"),
    "no result": ("{}", "200 OK", "application/json", "policy_undefined"),
    "an allow with a warning": (ALLOWED[:-1] + ',"warning":{}}', "200 OK", "application/json", "policy_error"),
    "an allow in small letters": (ALLOWED.replace("ALLOW", "allow"), "200 OK", "application/json", "policy_malformed"),
    "an allow from nowhere": (
        '{"result": {"action": "ALLOW", "reason": "fake"}}', "200 OK", "application/json", "policy_revision_unknown",
    ),
    "nothing at all": ("", "200 OK", "application/json", "policy_malformed"),
}  # fmt: skip


def test_an_opa_that_answers_nonsense_allows_nothing(service: Service) -> None:
    config = service_config(service.port)
    with fake_opa() as opa, Gate(env={"AGENTGATE_OPA_URL": opa.url}, config=config) as gateway:
        gateway.probe = "ok"
        until(lambda: gateway.works("before"))
        running = gateway.begin("held_long", "during")
        until(lambda: service.count("/held") == 1)
        for what, (body, status, content_type, reasons) in NOT_REALLY_ALLOWED.items():
            opa.says(body, status=status, content_type=content_type)
            said = gateway.say("ok", "nonsense")
            assert (said.status, said.ok) == (200, False), what
            assert said.reason in reasons.split(), what
            assert gateway.entry(said, "nonsense")["reason_code"] == said.reason, what
            opa.says(ALLOWED)
            assert gateway.works("between"), what
        opa.answer = b"\x16\x03\x01 not HTTP\r\n\r\n"
        assert gateway.say("ok", "nonsense").reason == "policy_malformed"
        service.let_go()
        ended = running.result()
        assert ended.ok, "what was decided before stands"
        assert gateway.entry(ended, "during")["outcome"] == "ok"
        opa.says(ALLOWED)
        assert gateway.works("after")


@needs_cluster
def test_an_opa_slower_than_the_deadline_is_late_whatever_it_says(tmp_path: Path) -> None:
    links: list[Link] = []

    def through(opa: PullingOpa) -> str:
        links.append(proxies.link("opa", opa.port))
        return f"http://127.0.0.1:{links[0].port}"

    with Toxiproxy() as proxies, with_opa(tmp_path, url=through) as bed:
        gateway, (link,) = bed.gateway, links
        bed.until_enforced()
        running = gateway.begin("slow", "during", seconds=3)
        gateway.until_running("during")
        link.delay(350)
        until(lambda: gateway.say(session="noticing").reason == "policy_timeout")
        refused_as(gateway, "policy_timeout", "late")
        said = running.result()
        assert said.ok
        assert gateway.entry(said, "during")["outcome"] == "ok"
        link.heal()
        gateway.until_works()


def test_an_opa_that_appears_after_the_gateway_is_used_without_a_restart(tmp_path: Path) -> None:
    with fake_opa() as placeholder:
        url = placeholder.url
    with Gate(env={"AGENTGATE_OPA_URL": url}) as gateway:
        refused_as(gateway, "policy_unavailable", "early")
        opa = FakeOpa(("127.0.0.1", int(url.rpartition(":")[2])))
        opa.says(ALLOWED)
        gateway.until_works()
        opa.close()
