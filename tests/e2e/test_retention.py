"""Retention and legal hold over the wire, and what is left of a session whose bodies went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import GatewayFailed, GatewayProcess, key_entry, run_cli, until

SECRET_QUERY = "SELECT name FROM products WHERE id = 4711"
FORCED = {"days": 0, "force": True}
KEYS = [
    key_entry("key-auditor-of-b", person="bea", roles=["auditor"], tenant="b"),
    key_entry("key-admin-of-b", person="bob", roles=["admin"], tenant="b"),
    key_entry("key-agent", agent="bot"),
]


@pytest.fixture
def gateway() -> Iterator[GatewayProcess]:
    """One of its own: a forced prune takes everybody's."""
    with GatewayProcess(config={"auth": {"keys": KEYS}}) as process:
        yield process


def call(gateway: GatewayProcess, session: str) -> None:
    body = {"session_id": session, "tool_name": "db_query", "arguments": {"query": SECRET_QUERY}}
    assert gateway.agent("key-agent").post("/tools/call", json=body).status_code == 200


def pack(gateway: GatewayProcess, session: str) -> dict[str, Any]:
    answer = gateway.admin().get(f"/sessions/{session}/evidence")
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def texts(gateway: GatewayProcess, session: str) -> int:
    """How many times an auditor finds the query in the session's bodies."""
    answer = gateway.admin().get("/audit", params={"session": session, "format": "jsonl"})
    assert answer.status_code == 200, answer.text
    return answer.text.count(SECRET_QUERY)


def cli(gateway: GatewayProcess, *words: str) -> Any:
    env = {"AGENTGATE_URL": f"http://127.0.0.1:{gateway.port}", "AGENTGATE_KEY": gateway.admin_key}
    return run_cli(*words, env=env)


def test_a_pruned_session_has_no_texts_any_more_and_its_log_still_verifies(gateway: GatewayProcess) -> None:
    call(gateway, "s-gone")
    assert texts(gateway, "s-gone") == 1
    done = gateway.admin().post("/retention/prune", json=FORCED).json()
    assert (done["status"], done["sessions"], done["bodies"], done["next"]) == ("done", 1, 2, None)
    left = pack(gateway, "s-gone")
    assert texts(gateway, "s-gone") == 0
    assert [event["tool_name"] for event in left["timeline"] if event.get("tool_name")] != []
    assert len(left["summary"]["prunes"]) == 1
    verified = run_cli("log", "verify", "--data-dir", str(gateway.data_dir))
    assert verified.returncode == 0, verified.stdout
    assert "2 bodies pruned" in verified.stdout
    gateway.restart()
    assert texts(gateway, "s-gone") == 0
    assert gateway.metric("agentgate_retention_refused_total") == 0


def test_the_floor_holds_unless_it_is_forced(gateway: GatewayProcess) -> None:
    call(gateway, "s-kept")
    for body, reason in (({"days": 10}, "retention_floor"), ({"before": "2100-01-01T00:00:00Z"}, "invalid_request")):
        refused = gateway.admin().post("/retention/prune", json=body)
        assert refused.json()["reason_code"] == reason, refused.text
    assert gateway.admin().post("/retention/prune").json()["sessions"] == 0
    assert gateway.metric("agentgate_retention_refused_total") == 2
    assert texts(gateway, "s-kept") == 1


def test_a_hold_stops_a_prune_until_it_is_released(gateway: GatewayProcess) -> None:
    call(gateway, "s-held")
    admin = gateway.admin()
    order = {"session": "s-held", "reason": "case 4711", "id": "h-1"}
    assert admin.post("/holds", json=order).status_code == 201
    assert admin.post("/holds", json=order).json()["id"] == "h-1"
    assert [hold["id"] for hold in admin.get("/holds").json()["holds"]] == ["h-1"]
    done = admin.post("/retention/prune", json=FORCED).json()
    assert (done["sessions"], done["held"]) == (0, 1)
    assert texts(gateway, "s-held") == 1
    gateway.restart()
    admin = gateway.admin()
    assert admin.post("/holds/h-1/release", json={"reason": "closed"}).json()["status"] == "released"
    assert admin.post("/holds/h-1/release").status_code == 404
    assert admin.post("/holds", json=order).status_code == 409
    assert admin.post("/retention/prune", json=FORCED).json()["sessions"] == 1


def test_a_tenants_people_hold_and_see_their_own(gateway: GatewayProcess) -> None:
    call(gateway, "s-1")
    gateway.admin().post("/holds", json={"reason": "of default", "id": "h-default"})
    auditor, admin = gateway.client("key-auditor-of-b"), gateway.client("key-admin-of-b")
    assert auditor.post("/holds", json={"reason": "ours", "id": "h-b"}).json()["tenant"] == "b"
    assert [hold["id"] for hold in auditor.get("/holds").json()["holds"]] == ["b~h-b"]
    for body in ({"tenant": "default", "reason": "x"}, {"all_tenants": True, "reason": "x"}):
        assert auditor.post("/holds", json=body).status_code == 403
    assert auditor.post("/holds/h-b/release").status_code == 403
    assert admin.post("/holds/h-default/release").status_code == 404
    assert admin.post("/holds/h-b/release").status_code == 200
    assert admin.post("/retention/prune", json=FORCED).status_code == 403
    assert (auditor.get("/retention").json()["due"], "bodies" in auditor.get("/retention").json()) == (0, False)


NO_ORDERS: list[tuple[str, dict[str, Any]]] = [
    ("/holds", {}),
    ("/holds", {"reason": ""}),
    ("/holds", {"reason": "x", "session": "a b"}),
    ("/holds", {"reason": "x", "session": "s", "all_tenants": True}),
    ("/retention/prune", {"days": -1}),
    ("/retention/prune", {"days": 1, "before": "2026-01-01T00:00:00Z"}),
    ("/retention/prune", {"before": "2026-01-01T00:00:00"}),
    ("/retention/prune", {"before": "9999-12-31T23:59:59+00:00"}),
    ("/retention/prune", {"before": "0001-01-01T00:00:00+14:00"}),
    ("/retention/prune", {"after": "2/a/b"}),
    ("/retention/prune", {"force": "yes"}),
    ("/retention/prune", {"everything": True}),
]


def test_what_is_no_order_is_422(gateway: GatewayProcess) -> None:
    admin = gateway.admin()
    answers = [(path, body, admin.post(path, json=body).status_code) for path, body in NO_ORDERS]
    assert [answer for answer in answers if answer[2] != 422] == []


def test_the_commands(gateway: GatewayProcess) -> None:
    call(gateway, "s-1")
    call(gateway, "s-2")
    assert cli(gateway, "hold", "add", "s-1", "--reason", "case 4711", "--id", "h-1").returncode == 0
    assert "case 4711" in cli(gateway, "hold", "list").stdout
    assert "365 days" in cli(gateway, "retention", "status").stdout
    dry = cli(gateway, "retention", "prune", "--days", "0", "--force", "--dry-run")
    assert "would prune 2 bodies of 1 session" in dry.stdout, dry.stderr
    refused = cli(gateway, "retention", "prune", "--days", "5")
    assert (refused.returncode, "183" in refused.stderr) == (1, True)
    done = cli(gateway, "retention", "prune", "--days", "0", "--force", "--yes")
    assert "pruned 2 bodies of 1 session" in done.stdout, done.stderr
    assert "1 session on legal hold stays" in done.stdout
    assert cli(gateway, "hold", "release", "h-1").returncode == 0
    assert "nothing is held" in cli(gateway, "hold", "list").stdout


def test_less_than_the_floor_stops_the_start_unless_it_is_forced() -> None:
    with pytest.raises(GatewayFailed, match="below the floor of 183.*force_below_floor"):
        GatewayProcess(config={"retention": {"days": 30}}).start()
    with GatewayProcess(config={"retention": {"days": 30, "force_below_floor": True}}) as gateway:
        status = gateway.admin().get("/retention").json()
        assert (status["days"], status["below_floor"]) == (30, True)


def test_a_pruned_session_can_go_on(gateway: GatewayProcess) -> None:
    call(gateway, "s-1")
    gateway.admin().post("/retention/prune", json=FORCED)
    call(gateway, "s-1")
    assert texts(gateway, "s-1") == 1
    assert until(lambda: gateway.admin().post("/retention/prune", json=FORCED).json()["sessions"]) == 1
