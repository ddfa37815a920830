"""Kills end to end: what runs is cut, what comes is refused, and only an admin's release ends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import MANY_REFUSALS
from tests.gateway import GatewayProcess, call, key_entry, until

OPERATOR, OPERATOR_A, OPERATOR_B, BOT_B = "key-operator", "key-operator-a", "key-operator-b", "key-bot-b"
KEYS = [
    key_entry(OPERATOR, person="olga", roles=["operator"], all_tenants=True),
    key_entry(OPERATOR_A, person="ann", roles=["operator"]),
    key_entry(OPERATOR_B, person="bob", roles=["operator"], tenant="b"),
]
CONFIG = {**MANY_REFUSALS, "auth": {"keys": KEYS}}
KEYED = {**MANY_REFUSALS, "auth": {"keys": [*KEYS, key_entry(BOT_B, agent="bot", tenant="b")]}}

pytestmark = pytest.mark.usefixtures("released")

EVERY_SCOPE = [
    ("session", "/sessions/{session}/kill"),
    ("agent", "/agents/local/kill"),
    ("tool", "/tools/slow/kill"),
    ("server", "/servers/demo/kill"),
    ("tenant", "/tenants/default/kill"),
    ("global", "/system/pause"),
]
TARGETS = {"agent": "local", "tool": "slow", "server": "demo", "tenant": "default", "global": ""}


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    """Keyless for agents of this machine, with operators' keys."""
    with GatewayProcess(config=CONFIG) as process:
        yield process


@contextlib.contextmanager
def slow_call(gateway: GatewayProcess, session: str, client: httpx.Client | None = None) -> Iterator[Future[Any]]:
    """A call of 30 s, already sent to its tool; its answer to come."""
    admin = gateway.admin()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: call(client or gateway.agent(), "slow", {"seconds": 30}, session=session).json())
        until(lambda: "open" in admin.get(f"/sessions/{session}/evidence").text or answer.done())
        yield answer


def is_dead(gateway: GatewayProcess, session: str, tool: str = "slow", arguments: object = None) -> bool:
    answer = gateway.call(tool, arguments or {"seconds": 0}, session=session)  # type: ignore[arg-type]
    return bool(answer["reason_code"] == "killed")


# --- what a kill does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "path"), EVERY_SCOPE)
@pytest.mark.parametrize("short", [True, False], ids=["short form", "POST /kills"])
def test_a_kill_cuts_the_running_call_and_refuses_the_next(
    gateway: GatewayProcess, session: str, scope: str, path: str, *, short: bool
) -> None:
    operator = gateway.client(OPERATOR)
    with slow_call(gateway, session) as answer:
        started = time.monotonic()
        if short:
            killed = operator.post(path.format(session=session), json={"reason": "out of hand"})
        else:
            order = {"scope": scope, "target": TARGETS.get(scope, session), "reason": "out of hand"}
            killed = operator.post("/kills", json=order)
        cut = answer.result(timeout=10)
        took_s = time.monotonic() - started
    assert took_s < 1
    assert killed.status_code == 200
    assert (cut["success"], cut["decision"], cut["reason_code"]) == (False, "ALLOW", "killed")
    body = killed.json()
    assert body["drained"] is True
    assert (body["replicas"][0]["acked"], body["replicas"][0]["cancelled"]) == (True, 1)
    assert body["running"] == []
    assert body["receipt"]
    assert is_dead(gateway, session)


def test_a_kill_answers_what_the_contract_says(gateway: GatewayProcess, session: str) -> None:
    body = gateway.client(OPERATOR).post(f"/sessions/{session}/kill", json={"reason": "r", "expires_in_s": 60}).json()
    assert (body["status"], body["session_id"]) == ("killed", session)
    assert (body["scope"], body["target"], body["reason"], body["actor"]) == ("session", session, "r", "person:olga")
    assert {"id", "since", "expires_at", "drained", "replicas", "running", "receipt"} <= set(body)


def test_the_cut_call_is_in_the_evidence_as_cancelled(gateway: GatewayProcess, session: str) -> None:
    with slow_call(gateway, session) as answer:
        gateway.client(OPERATOR).post(f"/sessions/{session}/kill")
        trace_id = answer.result(timeout=10)["trace_id"]
    timeline = gateway.admin().get(f"/sessions/{session}/evidence").json()["timeline"]
    entry = next(entry for entry in timeline if entry["trace_id"] == trace_id)
    assert (entry["decision"], entry["outcome"], entry["reason_code"]) == ("ALLOW", "cancelled", "killed")


def test_a_kill_leaves_others_alone(gateway: GatewayProcess, session: str) -> None:
    with slow_call(gateway, session) as answer:
        body = gateway.client(OPERATOR).post(f"/sessions/{session}-other/kill").json()
        assert body["replicas"][0]["cancelled"] == 0
        assert not answer.done()
        gateway.client(OPERATOR).post(f"/sessions/{session}/kill")
        answer.result(timeout=10)


def test_a_session_can_be_killed_before_it_exists(gateway: GatewayProcess, session: str) -> None:
    assert gateway.client(OPERATOR).post(f"/sessions/{session}/kill").status_code == 200
    assert is_dead(gateway, session)


def test_kills_in_force_are_listed_and_one_can_be_watched(gateway: GatewayProcess, session: str) -> None:
    operator = gateway.client(OPERATOR)
    killed = operator.post(f"/sessions/{session}/kill", json={"reason": "why"}).json()
    listed = operator.get("/kills").json()["kills"]
    assert [(kill["id"], kill["reason"], kill["drained"]) for kill in listed] == [(killed["id"], "why", True)]
    watched = operator.get(f"/kills/{killed['id']}").json()
    assert (watched["active"], watched["since"]) == (True, killed["since"])
    gateway.admin().post(f"/kills/{killed['id']}/release")
    assert operator.get("/kills").json()["kills"] == []
    assert operator.get(f"/kills/{killed['id']}").json()["active"] is False
    assert operator.get("/kills/no-such-kill").status_code == 404


# --- ids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"expires_in_s": 60}, {"expires_in_s": 0.1234567}])
def test_the_same_id_and_body_is_one_kill(gateway: GatewayProcess, session: str, more: dict[str, float]) -> None:
    operator = gateway.client(OPERATOR)
    order = {"id": f"incident-{session}", "reason": "leak", **more}
    first, second = (operator.post(f"/sessions/{session}/kill", json=order) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert len(operator.get("/kills").json()["kills"]) == 1


def test_the_same_id_with_another_body_is_409(gateway: GatewayProcess, session: str) -> None:
    operator = gateway.client(OPERATOR)
    order = {"id": f"incident-{session}", "reason": "leak"}
    operator.post(f"/sessions/{session}/kill", json=order)
    for path, body in [
        (f"/sessions/{session}/kill", order | {"reason": "another"}),
        (f"/sessions/{session}-2/kill", order),
        ("/agents/local/kill", order),
        (f"/sessions/{session}/kill", order | {"expires_in_s": 5}),
    ]:
        answer = operator.post(path, json=body)
        assert answer.status_code == 409, body
        assert answer.json()["reason_code"] == "conflict"
    assert not is_dead(gateway, f"{session}-2")


def test_a_released_id_is_409(gateway: GatewayProcess, session: str) -> None:
    order = {"id": f"incident-{session}"}
    gateway.client(OPERATOR).post(f"/sessions/{session}/kill", json=order)
    gateway.admin().post(f"/kills/incident-{session}/release")
    assert gateway.client(OPERATOR).post(f"/sessions/{session}/kill", json=order).status_code == 409
    assert not is_dead(gateway, session)


def test_without_an_id_two_kills_need_two_releases(gateway: GatewayProcess, session: str) -> None:
    operator, admin = gateway.client(OPERATOR), gateway.admin()
    first, second = (operator.post(f"/sessions/{session}/kill").json()["id"] for _ in range(2))
    assert first != second
    admin.post(f"/kills/{first}/release")
    assert is_dead(gateway, session)
    admin.post(f"/kills/{second}/release")
    assert not is_dead(gateway, session)


# --- release --------------------------------------------------------------------------------------------------------


def test_an_operator_cannot_release_and_an_admin_can(gateway: GatewayProcess, session: str) -> None:
    killed = gateway.client(OPERATOR).post(f"/sessions/{session}/kill").json()
    refused = gateway.client(OPERATOR).post(f"/kills/{killed['id']}/release")
    assert (refused.status_code, refused.json()["reason_code"]) == (403, "forbidden")
    assert is_dead(gateway, session)
    released = gateway.admin().post(f"/kills/{killed['id']}/release")
    assert (released.status_code, released.json()["status"], released.json()["id"]) == (200, "released", killed["id"])
    assert not is_dead(gateway, session)
    assert gateway.admin().post(f"/kills/{killed['id']}/release").status_code == 404


def test_an_operator_can_pause_and_not_resume(gateway: GatewayProcess, session: str) -> None:
    operator = gateway.client(OPERATOR)
    paused = operator.post("/system/pause").json()
    assert operator.post("/system/resume").status_code == 403
    assert is_dead(gateway, session)
    resumed = gateway.admin().post("/system/resume").json()
    assert resumed == {"status": "resumed", "released": [paused["id"]]}
    assert not is_dead(gateway, session)
    assert gateway.admin().post("/system/resume").json() == {"status": "resumed", "released": []}


def test_resume_releases_only_what_pause_killed(gateway: GatewayProcess, session: str) -> None:
    gateway.client(OPERATOR).post(f"/sessions/{session}/kill")
    gateway.client(OPERATOR).post("/system/pause")
    gateway.admin().post("/system/resume")
    assert is_dead(gateway, session)


def test_a_kill_expires_by_itself(gateway: GatewayProcess, session: str) -> None:
    gateway.client(OPERATOR).post(f"/sessions/{session}/kill", json={"expires_in_s": 0.2})
    assert is_dead(gateway, session)
    until(lambda: not is_dead(gateway, session), timeout_s=5)
    assert gateway.client(OPERATOR).get("/kills").json()["kills"] == []


# --- who may kill what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/tools/slow/kill", "/servers/demo/kill", "/system/pause", "/tenants/b/kill"])
def test_what_reaches_other_tenants_needs_an_operator_of_all(gateway: GatewayProcess, session: str, path: str) -> None:
    refused = gateway.client(OPERATOR_A).post(path)
    assert (refused.status_code, refused.json()["reason_code"]) == (403, "forbidden")
    assert not is_dead(gateway, session)


def test_an_operator_may_kill_its_own_tenant(gateway: GatewayProcess, session: str) -> None:
    assert gateway.client(OPERATOR_A).post("/tenants/default/kill").status_code == 200
    assert is_dead(gateway, session)


def test_another_tenants_session_of_the_same_name_is_another_session(gateway: GatewayProcess, session: str) -> None:
    killed = gateway.client(OPERATOR_B).post(f"/sessions/{session}/kill").json()
    assert killed["tenant"] == "b"
    assert not is_dead(gateway, session)
    assert gateway.client(OPERATOR_A).get("/kills").json() == {"kills": []}
    assert gateway.client(OPERATOR_A).get(f"/kills/{killed['id']}").status_code == 404
    named = gateway.client(OPERATOR_B).post(f"/sessions/{session}/kill", json={"tenant": "default"})
    assert named.status_code == 403


def test_an_operator_of_all_tenants_says_which_tenants_session_it_kills() -> None:
    with GatewayProcess(config=KEYED) as gateway:
        bot = gateway.client(BOT_B)
        killed = gateway.client(OPERATOR).post("/sessions/s/kill", json={"tenant": "b"}).json()
        assert (killed["tenant"], killed["session_id"]) == ("b", "s")
        assert call(bot, "db_query", {"query": "SELECT 1"}, session="s").json()["reason_code"] == "killed"
        gateway.client(OPERATOR).post("/kills", json={"scope": "agent", "target": "bot", "tenant": "b"})
        assert call(bot, "db_query", {"query": "SELECT 1"}, session="s-2").json()["reason_code"] == "killed"
        refused = gateway.client(OPERATOR).post("/tools/slow/kill", json={"tenant": "b"})
        assert refused.status_code == 422


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *["/sessions/%20s/kill", "/sessions/.s/kill", "/sessions/s%C3%A9/kill"],
        *["/agents/a%20b/kill", "/tenants/-x/kill", "/tools/a..b/kill", "/tools/a%20b/kill", "/servers/%2A/kill"],
        f"/sessions/{'x' * 257}/kill",
    ],
)
def test_a_name_that_cannot_exist_is_422(gateway: GatewayProcess, path: str) -> None:
    answer = gateway.client(OPERATOR).post(path)
    assert answer.status_code == 422
    assert answer.json()["error"] == "Invalid request"


@pytest.mark.parametrize("path", ["/sessions/s%00/kill", "/sessions/s%0A/kill", "/sessions/s%2Ft/kill"])
def test_what_no_path_may_spell_is_404(gateway: GatewayProcess, path: str) -> None:
    assert gateway.client(OPERATOR).post(path).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        *[{}, {"scope": "everything"}, {"scope": "session"}, {"scope": "session", "target": ""}],
        *[{"scope": "global", "target": "x"}, {"scope": "session", "target": "a/b"}, {"scope": "tool", "target": 7}],
        *[
            {"scope": "global", "Reason": "x"},
            {"scope": "global", "reason": "x" * 501},
            {"scope": "global", "reason": 1},
        ],
        *[{"scope": "global", "expires_in_s": n} for n in (0, -1, 1e12, "5", True)],
        *[{"scope": "global", "id": text} for text in ("", "a b", "x" * 129, "é")],
        *[{"scope": "global", "tenant": "b"}, {"scope": "session", "target": "s", "tenant": "a/b"}],
    ],
)
def test_an_order_that_does_not_fit_is_422_and_stops_nothing(gateway: GatewayProcess, body: dict[str, Any]) -> None:
    assert gateway.client(OPERATOR).post("/kills", json=body).status_code == 422
    assert gateway.client(OPERATOR).get("/kills").json() == {"kills": []}


def test_a_killed_session_cannot_be_dodged_by_another_spelling(gateway: GatewayProcess, session: str) -> None:
    gateway.client(OPERATOR).post(f"/sessions/{session}/kill")
    agent = gateway.agent()
    for spelling in (f" {session}", f"{session} ", f"{session}\0", f"{session}\n", f"{session}/", f"\ufeff{session}"):
        assert call(agent, "db_query", {"query": "SELECT 1"}, session=spelling).status_code == 422
    # ids are case-sensitive: this is another session, which a kill by agent stops
    assert not is_dead(gateway, session.upper())
    gateway.client(OPERATOR).post("/agents/local/kill")
    assert is_dead(gateway, session.upper())


# --- restart --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_kills_survive_a_restart(how: str) -> None:
    with GatewayProcess(config=CONFIG) as gateway:
        operator = gateway.client(OPERATOR)
        for path in ("/sessions/s/kill", "/tools/db_query/kill", "/agents/other/kill"):
            order = {"reason": "for good", "expires_in_s": 3600}
            operator.post(path, json=order | ({"id": "incident"} if "sessions" in path else {}))
        released = operator.post("/sessions/s-2/kill").json()["id"]
        gateway.admin().post(f"/kills/{released}/release")
        before = operator.get("/kills").json()["kills"]
        gateway.stop() if how == "stop" else gateway.kill9()
        gateway.start()
        operator = gateway.client(OPERATOR)
        again = {"id": "incident", "reason": "for good", "expires_in_s": 3600}
        assert operator.post("/sessions/s/kill", json=again).status_code == 200
        after = operator.get("/kills").json()["kills"]
        same = ("id", "scope", "target", "tenant", "reason", "actor", "since", "expires_at")
        assert [[kill[name] for name in same] for kill in after] == [[kill[name] for name in same] for kill in before]
        assert is_dead(gateway, "s")
        assert is_dead(gateway, "s-3", "db_query", {"query": "SELECT 1"})
        assert not is_dead(gateway, "s-2")
        assert operator.get(f"/kills/{after[0]['id']}").json()["active"] is True
