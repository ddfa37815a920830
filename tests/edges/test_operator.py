"""Control routes: what each tenant's people see, and that looking changes nothing."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.edges.conftest import ONE_TENANTS_OPERATOR, key_of
from tests.gateway import GatewayProcess, call, until

QUERY = {"query": "SELECT 1"}
WRITE = {"table": "products", "data": {"name": "x"}}

GETS = [
    *["/kills", "/kills?limit=1", "/members", "/calls", "/audit", "/audit?order=desc&text=x"],
    *["/approvals", "/approvals?state=pending", "/sessions", "/health", "/healthz", "/readyz", "/metrics"],
    *["/tools/list", "/docs", "/redoc", "/openapi.json", "/docs/assets/start.js", "/bundles/agentgate.tar.gz"],
]


def events(gateway: GatewayProcess) -> list[str]:
    with contextlib.closing(sqlite3.connect(f"file:{gateway.data_dir}/log.db?mode=ro", uri=True)) as connection:
        return [kind for (kind,) in connection.execute("SELECT kind FROM events ORDER BY idx")]


@pytest.fixture(scope="module", autouse=True)
def _two_tenants(gateway: GatewayProcess) -> None:
    """Each has a session, a pending approval and a kill; the names of `default`'s end in `-secret`."""
    for tenant, mark in (("default", "secret"), ("b", "b")):
        agent = gateway.client(key_of("agent", tenant))
        call(agent, "db_query", QUERY, session=f"session-{mark}")
        call(agent, "db_insert", WRITE, session=f"session-{mark}")
        gateway.client(key_of("operator", tenant)).post(
            "/sessions/ghost/kill", json={"reason": mark, "id": f"kill-{mark}"}
        )


def test_a_get_changes_nothing(gateway: GatewayProcess) -> None:
    admin = gateway.client(key_of("admin"))
    approval = admin.get("/approvals").json()["approvals"][0]["id"]
    before = events(gateway)
    for path in (*GETS, f"/approvals/{approval}", "/kills/kill-secret", "/kills/none"):
        for method in ("GET", "HEAD"):
            assert admin.request(method, path).status_code in (200, 404), path
    assert events(gateway) == before


def test_taking_evidence_records_that_it_was_taken_and_nothing_else(gateway: GatewayProcess) -> None:
    before = events(gateway)
    gateway.client(key_of("auditor")).get("/sessions/session-secret/evidence")
    assert events(gateway) == [*before, "exported"]


@pytest.mark.parametrize(
    "path", ["/system/pause", "/system/resume", "/sessions/s/kill", "/admin/policies/reload", "/members/m/gone"]
)
def test_a_link_cannot_do_what_a_post_does(gateway: GatewayProcess, path: str) -> None:
    admin = gateway.client(key_of("admin"))
    for method in ("GET", "HEAD"):
        assert admin.request(method, path).status_code == 405


# --- tenants ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("operator", "/sessions"),
        ("operator", "/kills"),
        ("operator", "/calls"),
        ("approver", "/approvals"),
        ("approver", "/approvals?state=pending"),
        ("auditor", "/sessions/session-secret/evidence"),
        ("auditor", "/sessions/session-secret/evidence?tenant=b"),
        ("admin", "/sessions"),
        ("admin", "/kills"),
        ("admin", "/approvals"),
        ("admin", "/sessions/session-secret/evidence"),
    ],
)
def test_a_tenants_people_see_their_own_alone(gateway: GatewayProcess, role: str, path: str) -> None:
    theirs = gateway.client(key_of(role, "b")).get(path)
    assert theirs.status_code == 200
    without_the_question = theirs.text.replace("session-secret", "") if "session-secret" in path else theirs.text
    assert "secret" not in without_the_question
    assert "bot-default" not in theirs.text


def test_other_tenants_things_are_404_as_if_they_were_not_there(gateway: GatewayProcess) -> None:
    approval = gateway.client(key_of("approver")).get("/approvals").json()["approvals"][0]
    assert approval["tenant"] == "default"
    admin_b = gateway.client(key_of("admin", "b"))
    for method, path in [
        ("GET", "/kills/kill-secret"),
        ("POST", "/kills/kill-secret/release"),
        ("GET", f"/approvals/{approval['id']}"),
        ("POST", f"/approvals/{approval['id']}/approve"),
        ("POST", f"/approvals/{approval['id']}/deny"),
        ("POST", f"/approvals/{approval['id']}/void"),
        ("GET", "/sessions/session-secret/evidence?tenant=default"),
    ]:
        foreign = admin_b.request(method, path)
        missing = admin_b.request(method, path.replace("kill-secret", "none").replace(approval["id"], "none"))
        assert foreign.status_code == missing.status_code == 404, path
        assert foreign.json() == missing.json()


def test_an_admin_of_one_tenant_does_not_release_or_pause_for_all(gateway: GatewayProcess) -> None:
    paused = gateway.client(key_of("operator")).post("/system/pause").json()["id"]
    admin_b = gateway.client(key_of("admin", "b"))
    assert admin_b.post(f"/kills/{paused}/release").status_code == 403
    assert admin_b.post("/system/resume").status_code == 403
    assert admin_b.post("/system/pause").status_code == 403
    assert admin_b.post("/members/none/gone").status_code == 403
    assert gateway.client(key_of("admin")).post("/system/resume").json()["released"] == [paused]


def test_people_of_all_tenants_see_both(gateway: GatewayProcess) -> None:
    assert {"session-secret", "session-b"} <= set(
        gateway.client(key_of("operator")).get("/sessions").json()["sessions"]
    )
    kills = gateway.client(key_of("operator")).get("/kills").json()["kills"]
    assert {"kill-secret", "b~kill-b"} <= {kill["id"] for kill in kills}
    pack = gateway.client(key_of("auditor")).get("/sessions/session-b/evidence?tenant=b").json()
    assert len(pack["timeline"]) == 2


def test_sessions_and_approvals_come_in_pages(gateway: GatewayProcess) -> None:
    admin = gateway.client(key_of("admin"))
    for path, name in (("/sessions", "sessions"), ("/approvals", "approvals")):
        everything = admin.get(path).json()
        assert (everything["next"], len(everything[name]) > 1) == (None, True)
        found: list[object] = []
        following: dict[str, str] = {}
        while following is not None:
            page = admin.get(path, params={"limit": 1, **following}).json()
            assert len(page[name]) == 1
            found += page[name]
            following = {"after": page["next"]} if page["next"] is not None else None
        assert found == everything[name]
    assert admin.get("/sessions?after=zzz").json() == {"sessions": [], "next": None}
    for wrong in ("limit=0", "limit=10001", "after=%00", "after="):
        assert admin.get(f"/sessions?{wrong}").status_code == 422, wrong


# --- containment ----------------------------------------------------------------------------------------------


def test_kills_are_listed_with_how_far_they_have_come_and_counted(gateway: GatewayProcess) -> None:
    operator = gateway.client(key_of("operator"))
    every = operator.get("/kills")
    newest = operator.get("/kills", params={"limit": 1})
    kills = every.json()["kills"]
    assert {kill["drained"] for kill in kills} == {True}
    assert newest.json()["kills"] == kills[-1:]
    assert every.headers["X-Total-Count"] == newest.headers["X-Total-Count"] == str(len(kills))


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", ""])
def test_a_list_is_limited_by_a_number(gateway: GatewayProcess, limit: str) -> None:
    assert gateway.client(key_of("operator")).get("/kills", params={"limit": limit}).status_code == 422


def test_a_kill_says_who_was_left_out_even_when_nobody_was(gateway: GatewayProcess) -> None:
    found = gateway.client(key_of("operator")).get("/kills/kill-secret").json()
    assert (found["drained"], found["drained_except"], found["attested"], found["active"]) == (True, [], [], True)
    assert [replica["acked"] for replica in found["replicas"]] == [True]


def test_every_member_is_listed_and_the_one_that_answers_is_alive(gateway: GatewayProcess) -> None:
    [me] = gateway.client(key_of("operator")).get("/members").json()["members"]
    assert (me["presence"], me["is_me"]) == ("here", True)
    admin = gateway.client(key_of("admin"))
    alive = admin.post(f"/members/{me['member']}/gone")
    assert (alive.status_code, alive.json()["reason_code"]) == (409, "conflict")
    for missing in ("none", "%2e%2e", "a%20b", "x" * 2_000):
        assert admin.post(f"/members/{missing}/gone").status_code == 404


def test_a_call_in_flight_is_shown_to_its_tenants_operators_alone(gateway: GatewayProcess) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, gateway.client(key_of("agent", "b")), "slow", {"seconds": 30}, session="seen")
        everybody, theirs, others = (
            gateway.client(key) for key in (key_of("operator"), key_of("operator", "b"), ONE_TENANTS_OPERATOR)
        )
        [shown] = until(lambda: theirs.get("/calls").json()["calls"])
        assert everybody.get("/calls").json()["calls"] == [shown]
        assert others.get("/calls").json()["calls"] == []
        theirs.post("/sessions/seen/kill", json={"id": "kill-seen"})
        assert answer.result().json()["trace_id"] == shown["trace_id"]
    assert (shown["tenant"], shown["session"], shown["agent"], shown["tool"]) == ("b", "seen", "bot-b", "slow")
    assert theirs.get("/calls").json()["calls"] == []


# --- bodies and parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{"force": "yes"}, {"force": 1}, {"force": None}, {"Force": True}, [], "x"])
def test_release_takes_force_as_a_boolean_or_not_at_all(gateway: GatewayProcess, body: object) -> None:
    answer = gateway.client(key_of("admin")).post("/kills/kill-secret/release", json=body)
    assert answer.status_code == 422
    assert gateway.client(key_of("operator")).get("/kills/kill-secret").json()["active"] is True


@pytest.mark.parametrize("path", ["/approvals/none/approve", "/members/none/gone", "/admin/policies/reload"])
def test_a_route_without_members_takes_none(gateway: GatewayProcess, path: str) -> None:
    assert gateway.client(key_of("admin")).post(path, json={"approver_id": "boss"}).status_code == 422


@pytest.mark.parametrize("state", ["' OR 1=1 --", "pending; DROP TABLE events", "pending'", "%", "*", "PENDING", ""])
def test_filters_are_words_and_not_sql(gateway: GatewayProcess, state: str) -> None:
    answer = gateway.client(key_of("approver")).get("/approvals", params={"state": state})
    assert answer.status_code == 422


def test_reload_by_an_admin_answers_the_revision_in_force(gateway: GatewayProcess) -> None:
    answer = gateway.client(key_of("admin")).post("/admin/policies/reload").json()
    assert answer["policy_revision"] == gateway.client().get("/health").json()["policy_revision"]


def test_the_bundle_is_for_opa_and_there_is_none_without_one(gateway: GatewayProcess) -> None:
    assert gateway.client(key_of("opa")).get("/bundles/agentgate.tar.gz").status_code == 404
