"""Webhooks end to end: signed, in order, and none is lost to a crash."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from tests.e2e.conftest import MANY_REFUSALS
from tests.e2e.test_workers import migrated, running
from tests.gateway import GatewayFailed, GatewayProcess, call, key_entry, run_cli, until
from tests.redis_server import free_port
from tests.web import Handler, serving

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
BOT, APPROVER = "key-bot", "key-approver"
KEYS = [key_entry(BOT, agent="bot"), key_entry(APPROVER, person="ada", roles=["approver"])]


@dataclass
class Hook:
    """A receiver on one port, which can be away for a while."""

    port: int
    got: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    status: int = 200
    _ends: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def values(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body, _ in self.got]

    def kinds(self) -> list[str]:
        return [value["event_type"] for value in self.values]

    def open(self) -> None:
        hook = self

        class Receiver(Handler):
            def do_POST(self) -> None:
                body = self.given()
                hook.got.append((body, {name.lower(): value for name, value in self.headers.items()}))
                self.say(hook.status)

        self._ends.enter_context(serving(Receiver, self.port))

    def close(self) -> None:
        self._ends.close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook(free_port())
    yield found
    found.close()


def configured(hook: Hook, **more: Any) -> dict[str, Any]:
    endpoint = {"name": "soc", "url": hook.url, "secret": {"env": "HOOK_SECRET"}, "allow_private": True, **more}
    server = {**MANY_REFUSALS["server"], "base_url": "https://gate.example"}
    return {"server": server, "auth": {"keys": KEYS}, "webhooks": [endpoint]}


ENV = {"HOOK_SECRET": SECRET}


def test_kill_question_and_denial_arrive_signed(hook: Hook) -> None:
    hook.open()
    with GatewayProcess(config=configured(hook), env=ENV) as gateway:
        bot = gateway.client(BOT)
        denied = call(bot, "no_such_tool", {}).json()
        asked = call(bot, "db_insert", {"table": "products", "data": {"name": "x", "price": 1}}).json()
        page = gateway.client(Accept="text/html").get(f"/approvals/{asked['approval']['id']}").text
        assert f"agentgate approve {asked['approval']['id']} --url https://gate.example\n" in page
        gateway.client(APPROVER).post(f"/approvals/{asked['approval']['id']}/approve")
        gateway.admin().post("/sessions/s-9/kill", json={"reason": "loops"})
        until(lambda: len(hook.got) == 4)
        admin = gateway.admin()
        until(lambda: admin.get("/webhooks").json()["webhooks"][0]["behind"] == 0)  # its answer has been read, too
        state = admin.get("/webhooks").json()["webhooks"][0]
        assert (state["name"], state["last_error"]) == ("soc", None)
        metrics = gateway.client().get("/metrics").text
        assert 'agentgate_webhook_deliveries_total{result="delivered"} 4.0' in metrics
    assert hook.kinds() == ["policy.denied", "approval.requested", "approval.approved", "kill_switch.activated"]
    for body, headers in hook.got:
        Verifier(SECRET).verify(body, headers)
        v02 = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-agentgate-signature"] == f"sha256={v02}"
    one, question, answer, kill = (value["payload"] for value in hook.values)
    assert one["trace_id"] == denied["trace_id"]
    assert question["arguments"] == {"table": "products", "data": {"name": "x", "price": 1}}
    assert question["url"] == f"https://gate.example/approvals/{asked['approval']['id']}"
    assert (question["subject_id"], question["quorum"]) == ("agent:bot", 1)
    assert answer["by"] == "person:ada"
    assert (kill["level"], kill["target"], kill["reason"]) == ("session", "s-9", "loops")


def test_what_happened_before_a_power_cut_arrives_after_it(hook: Hook) -> None:
    with GatewayProcess(config=configured(hook), env=ENV) as gateway:
        bot = gateway.client(BOT)
        traces = [call(bot, "no_such_tool", {}).json()["trace_id"] for _ in range(20)]
        gateway.admin().post("/sessions/s-9/kill")
        gateway.kill9()
        hook.open()
        gateway.start()
        until(lambda: len({headers["webhook-id"] for _, headers in hook.got}) == 21, timeout_s=30)
    told = {value["payload"].get("trace_id"): None for value in hook.values}
    assert list(told) == [*traces, None], "in the order of the log"
    assert hook.kinds()[-1] == "kill_switch.activated"


def test_what_was_told_before_a_restart_is_not_told_again(hook: Hook) -> None:
    hook.open()
    with GatewayProcess(config=configured(hook), env=ENV) as gateway:
        call(gateway.client(BOT), "no_such_tool", {})
        until(lambda: len(hook.got) == 1)
        gateway.restart()
        call(gateway.client(BOT), "no_such_tool", {})
        until(lambda: len(hook.got) == 2)
    assert len({headers["webhook-id"] for _, headers in hook.got}) == 2


def test_v02s_variables_are_an_endpoint(hook: Hook) -> None:
    hook.open()
    env = {"AGENTGATE_WEBHOOK_URL": hook.url, "AGENTGATE_WEBHOOK_SECRET": "a-secret-of-v0.2-x"}
    with GatewayProcess(env=env | {"AGENTGATE_WEBHOOK_ALLOW_PRIVATE": "true"}) as gateway:
        gateway.call("no_such_tool")
        until(lambda: hook.got)
    body, headers = hook.got[0]
    expected = hmac.new(b"a-secret-of-v0.2-x", body, hashlib.sha256).hexdigest()
    assert headers["x-agentgate-signature"] == f"sha256={expected}"


def test_a_ping_is_signed_and_its_failure_is_an_exit_status(hook: Hook, tmp_path: Path) -> None:
    config = tmp_path / "agentgate.yaml"
    config.write_text(json.dumps(configured(hook)))
    down = run_cli("webhooks", "test", "--config", str(config), env=ENV)
    assert down.returncode == 1, down.stdout + down.stderr
    assert "soc" in down.stdout
    as_json = run_cli("webhooks", "test", "--json", "--config", str(config), env=ENV)
    (told,) = json.loads(as_json.stdout)
    assert (as_json.returncode, told["taken"], told["detail"] in down.stdout) == (1, False, True)
    hook.open()
    taken = run_cli("webhooks", "test", "--url", "soc", "--config", str(config), env=ENV)
    assert (taken.returncode, hook.kinds()) == (0, ["ping"]), taken.stderr
    Verifier(SECRET).verify(*hook.got[0])
    assert run_cli("webhooks", "test", "--url", "nobody", "--config", str(config), env=ENV).returncode == 2


def test_the_list_shows_an_endpoint_without_its_secrets(hook: Hook) -> None:
    with GatewayProcess(config=configured(hook), env=ENV) as gateway:
        call(gateway.client(BOT), "no_such_tool", {})
        until(lambda: gateway.admin().get("/webhooks").json()["webhooks"][0]["failures"])
        asked = run_cli("webhooks", "list", "--url", gateway.url, "--key", gateway.admin_key)
        assert asked.returncode == 0, asked.stderr
        assert f"http://127.0.0.1:{hook.port}" in asked.stdout
        assert "cannot connect" in asked.stdout
        assert "/hook" not in asked.stdout
        assert gateway.client(APPROVER).get("/webhooks").status_code == 403


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"secret": None}, "secret is missing"),
        ({"url": "http://hooks.example.org/", "allow_private": False}, "https://"),
        ({"events": ["approvals.*"]}, "approvals.*"),
        ({"secret": {"env": "NOT_SET"}}, "NOT_SET"),
        ({"secret": "too-short"}, "easy to guess"),
    ],
)
def test_an_endpoint_that_cannot_be_told_stops_the_start(hook: Hook, change: dict[str, Any], sentence: str) -> None:
    with (
        pytest.raises(GatewayFailed, match="webhooks") as caught,
        GatewayProcess(config=configured(hook, **change), env=ENV),
    ):
        pass
    assert sentence in caught.value.stderr
    assert SECRET not in caught.value.stderr


def test_of_several_workers_one_tells_and_another_goes_on_when_it_dies(hook: Hook, tmp_path: Path) -> None:
    hook.open()
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    config = configured(hook, secret={"file": str(secret)})
    with migrated() as server, running(server, config=config) as service:
        bots = [service.client(BOT) for _ in range(6)]
        traces = [call(bots[number % 6], "no_such_tool", {}).json()["trace_id"] for number in range(30)]
        until(lambda: len(hook.got) >= 30, timeout_s=20)
        assert [value["payload"]["trace_id"] for value in hook.values] == traces, "each once, in order"
        told_by = {
            member: client.get("/webhooks", headers={"X-API-Key": service.admin_key}).json()["webhooks"][0][
                "deliveries"
            ]
            for member, client in service.connections().items()
        }
        senders = [service.pid_of(member) for member, counts in told_by.items() if counts["delivered"]]
        assert 1 <= len(senders) < 3
        for pid in senders:
            os.kill(pid, signal.SIGKILL)
        more = [call(service.client(BOT), "no_such_tool", {}).json()["trace_id"] for _ in range(5)]
        until(lambda: {value["payload"].get("trace_id") for value in hook.values} >= {*traces, *more}, timeout_s=20)
