"""What every door promises of kills: a call that came through it is as dead as any other. A door's test subclasses
`DoorContract` and says how to call through it.

class TestMyDoor(DoorContract):
    def call(self, gateway, tool, session, number): ...     # one call, blocking; what its caller was told

`tests/test_walls.py` asks for such a test of every module in edges/ that passes calls through the gate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Gate, Service, service_config
from tests.gateway import until

AGENT = "local"
"""Who calls without a key."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller heard, whatever words its door has for it."""

    success: bool
    was_killed: bool
    says_effect_is_unknown: bool
    trace_id: str


Order = Callable[[str], tuple[str, dict[str, Any]]]
"""A kill's route and body, for a session."""

ORDERS: dict[str, Order] = {
    "session": lambda session: (f"/sessions/{session}/kill", {}),
    "agent": lambda _: (f"/agents/{AGENT}/kill", {}),
    "tool": lambda _: ("/tools/hang_long/kill", {}),
    "server": lambda _: ("/servers/patient/kill", {}),
    "tenant": lambda _: ("/tenants/default/kill", {}),
    "global": lambda _: ("/system/pause", {}),
}


class DoorContract:
    """Subclasses give `call`."""

    def call(self, gateway: Gate, tool: str, session: str, number: str) -> Told:
        """One call of `tool` with the argument `n`, which the upstream sees; returns when the caller is answered."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def gateway(cls) -> Iterator[tuple[Gate, Service]]:
        service = Service()
        service.start()
        with Gate(config=service_config(service.port)) as gateway:
            yield gateway, service
        service.stop()

    @pytest.fixture(autouse=True)
    def _releases(self, gateway: tuple[Gate, Service]) -> Iterator[None]:
        """What a test killed does not outlive it."""
        gateway[1].forget()
        yield
        admin = gateway[0].admin()
        for kill in admin.get("/kills").json()["kills"]:
            admin.post(f"/kills/{kill['id']}/release", json={"force": True})

    @contextmanager
    def running(self, gate: Gate, service: Service, tool: str, session: str) -> Iterator[Future[Told]]:
        """A call that has reached its upstream and would never end by itself."""
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(self.call, gate, tool, session, session)
            until(lambda: service.count(f"/{tool.removesuffix('_long')}") == 1)
            yield told

    def order(self, gate: Gate, scope: str, session: str) -> httpx.Response:
        path, body = ORDERS[scope](session)
        return gate.admin().post(path, json=body)

    @pytest.mark.parametrize("scope", ORDERS)
    def test_a_kill_cuts_the_running_call_and_then_answers(
        self, gateway: tuple[Gate, Service], victim: str, scope: str
    ) -> None:
        gate, service = gateway
        with self.running(gate, service, "hang_long", victim) as answer:
            killed = self.order(gate, scope, victim)
            drained_at = time.monotonic()
            told = answer.result(timeout=10)
        until(lambda: service.left_at)
        assert (killed.status_code, killed.json()["drained"]) == (200, True)
        assert killed.json()["replicas"][0]["cancelled"] == 1
        assert service.left_at[f"n={victim}"] <= drained_at + 0.05, "drained while its connection was still open"
        assert (told.success, told.was_killed, told.says_effect_is_unknown) == (False, True, True)
        (entry,) = [entry for entry in gate.timeline(victim) if entry["trace_id"] == told.trace_id]
        assert (entry["outcome"], entry["reason_code"]) == ("cancelled", "killed")

    def test_a_kill_cuts_an_answer_that_is_streaming(self, gateway: tuple[Gate, Service], victim: str) -> None:
        gate, service = gateway
        with self.running(gate, service, "drip_long", victim) as answer:
            assert self.order(gate, "session", victim).json()["drained"] is True
            told = answer.result(timeout=10)
        until(lambda: service.left_at)
        assert (told.success, told.was_killed) == (False, True)

    @pytest.mark.parametrize("scope", ORDERS)
    def test_what_is_killed_never_reaches_its_upstream(
        self, gateway: tuple[Gate, Service], victim: str, scope: str
    ) -> None:
        gate, service = gateway
        assert self.order(gate, scope, victim).status_code == 200
        told = self.call(gate, "hang_long", victim, victim)
        assert (told.success, told.was_killed) == (False, True)
        assert service.requests == []

    def test_a_kill_leaves_others_alone(self, gateway: tuple[Gate, Service], victim: str) -> None:
        gate, service = gateway
        with self.running(gate, service, "hang_long", victim) as answer:
            assert self.order(gate, "session", f"{victim}-other").json()["replicas"][0]["cancelled"] == 0
            assert self.call(gate, "ok", victim, "1").success
            assert not answer.done()
            self.order(gate, "session", victim)
            answer.result(timeout=10)

    def test_what_runs_is_shown_with_its_replica(self, gateway: tuple[Gate, Service], victim: str) -> None:
        gate, service = gateway
        with self.running(gate, service, "hang_long", victim) as answer:
            (shown,) = gate.admin().get("/calls").json()["calls"]
            assert (shown["session"], shown["agent"], shown["tool"]) == (victim, AGENT, "hang_long")
            assert shown["member"] == gate.admin().get("/members").json()["members"][0]["member"]
            self.order(gate, "session", victim)
            assert answer.result(timeout=10).trace_id == shown["trace_id"]

    def test_a_release_revives_nothing_that_was_cut(self, gateway: tuple[Gate, Service], victim: str) -> None:
        gate, service = gateway
        with self.running(gate, service, "hang_long", victim) as answer:
            killed = self.order(gate, "session", victim).json()
            assert gate.admin().post(f"/kills/{killed['id']}/release").status_code == 200
            assert answer.result(timeout=10).was_killed
        assert service.count("/hang") == 1
        assert self.call(gate, "ok", victim, "1").success
