"""Approvals end to end: for exactly one call, by a person, once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import MANY_REFUSALS
from tests.gateway import GatewayProcess, call, key_entry, until

BOT, OTHER_BOT, APPROVER, APPROVER_B, OPERATOR = "key-bot", "key-other-bot", "key-approver", "key-approver-b", "key-op"
AGENT_APPROVER = "key-agent-approver"
KEYS = [
    key_entry(BOT, agent="bot"),
    key_entry(OTHER_BOT, agent="other"),
    key_entry(APPROVER, person="ada", roles=["approver"]),
    key_entry(APPROVER_B, person="bob", roles=["approver"], tenant="b"),
    key_entry(OPERATOR, person="olga", roles=["operator"]),
    key_entry(AGENT_APPROVER, agent="sly", roles=["agent", "approver"]),
]
CONFIG = {**MANY_REFUSALS, "auth": {"keys": KEYS}}
POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with GatewayProcess(config=CONFIG) as process:
        yield process


@pytest.fixture
def bot(gateway: GatewayProcess) -> httpx.Client:
    return gateway.client(BOT)


@pytest.fixture
def approver(gateway: GatewayProcess) -> httpx.Client:
    return gateway.client(APPROVER)


def write(client: httpx.Client, session: str, **more: Any) -> dict[str, Any]:
    """A write that nobody else makes: its arguments name the session."""
    arguments = {"table": "products", "data": {"name": session, "price": 1}}
    return call(client, "db_insert", arguments, session=session, **more).json()  # type: ignore[no-any-return]


def test_an_approved_call_runs_without_naming_a_token(bot: httpx.Client, approver: httpx.Client, session: str) -> None:
    asked = write(bot, session)
    approved = approver.post(asked["approval"]["url"] + "/approve").json()
    assert (approved["id"], approved["state"], approved["decided_by"]) == (
        asked["approval"]["id"],
        "approved",
        "person:ada",
    )
    assert approved["approval_token"]
    answer = write(bot, session)
    assert (answer["success"], answer["decision"]) == (True, "ALLOW")


def test_an_approval_carries_one_call(bot: httpx.Client, approver: httpx.Client, session: str) -> None:
    approved = approver.post(write(bot, session)["approval"]["url"] + "/approve").json()
    token = approved["approval_token"]
    assert write(bot, session, approval_token=token)["success"] is True
    again = write(bot, session, approval_token=token)
    assert (again["success"], again["decision"]) == (False, "REQUIRE_APPROVAL")
    assert again["approval"]["id"] != approved["id"]
    assert approver.get(f"/approvals/{approved['id']}").json()["state"] == "spent"


def test_fifty_redemptions_at_once_run_one_write(gateway: GatewayProcess, approver: httpx.Client, session: str) -> None:
    bot = gateway.client(BOT)
    token = approver.post(write(bot, session)["approval"]["url"] + "/approve").json()["approval_token"]
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: write(bot, session, approval_token=token), range(50)))
    assert sum(answer["success"] for answer in answers) == 1
    rows = call(bot, "db_query", {"query": f"SELECT id FROM products WHERE name = '{session}'"}, session=session).json()
    assert len(rows["result"]["rows"]) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"arguments": {"table": "products", "data": {"name": "x", "price": 2}}},
        {"session_id": "another-session"},
        {"context": {"user_id": "u"}},
        {"tool_name": "db_update"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_an_approval_does_not_carry_another_call(
    bot: httpx.Client, approver: httpx.Client, session: str, changed: dict[str, Any]
) -> None:
    body = {"session_id": session, "tool_name": "db_insert", "arguments": {"table": "products", "data": {"name": "x"}}}
    asked = bot.post("/tools/call", json=body).json()
    token = approver.post(asked["approval"]["url"] + "/approve").json()["approval_token"]
    other = bot.post("/tools/call", json=body | changed | {"approval_token": token}).json()
    assert other["success"] is False
    assert other["decision"] == "REQUIRE_APPROVAL"
    assert bot.post("/tools/call", json=body | {"approval_token": token}).json()["success"] is True


def test_an_approval_does_not_carry_another_agents_call(
    gateway: GatewayProcess, bot: httpx.Client, approver: httpx.Client, session: str
) -> None:
    token = approver.post(write(bot, session)["approval"]["url"] + "/approve").json()["approval_token"]
    assert write(gateway.client(OTHER_BOT), session, approval_token=token)["success"] is False


def test_a_wrong_token_does_not_run_an_approved_call(bot: httpx.Client, approver: httpx.Client, session: str) -> None:
    approver.post(write(bot, session)["approval"]["url"] + "/approve")
    assert write(bot, session, approval_token="apt_made_up")["success"] is False


def test_a_denied_call_is_denied_until_the_approval_expires(
    bot: httpx.Client, approver: httpx.Client, session: str
) -> None:
    asked = write(bot, session)
    denied = approver.post(asked["approval"]["url"] + "/deny").json()
    assert (denied["state"], denied["approval_token"]) == ("denied", None)
    for _ in range(2):
        answer = write(bot, session)
        assert (answer["decision"], answer["reason_code"]) == ("DENY", "approval_denied")


def test_the_first_answer_counts(bot: httpx.Client, approver: httpx.Client, session: str) -> None:
    url = write(bot, session)["approval"]["url"]
    assert approver.post(url + "/deny").status_code == 200
    late = approver.post(url + "/approve")
    assert (late.status_code, late.json()["reason_code"]) == (409, "conflict")
    assert write(bot, session)["success"] is False


def test_asking_again_while_pending_is_the_same_approval(bot: httpx.Client, session: str) -> None:
    assert write(bot, session)["approval"]["id"] == write(bot, session)["approval"]["id"]


def test_pending_approvals_show_the_call_exactly(bot: httpx.Client, approver: httpx.Client, session: str) -> None:
    asked = write(bot, session, context={"why": "månthly"})
    pending = approver.get("/approvals?state=pending").json()["approvals"]
    entry = next(entry for entry in pending if entry["id"] == asked["approval"]["id"])
    assert (entry["tool_name"], entry["session_id"], entry["requested_by"]) == ("db_insert", session, "agent:bot")
    shown = approver.get(asked["approval"]["url"]).json()["call"]
    assert shown == {
        "arguments": {"table": "products", "data": {"name": session, "price": 1}},
        "context": {"why": "månthly"},
    }


def test_only_a_person_with_the_role_approves(gateway: GatewayProcess, bot: httpx.Client, session: str) -> None:
    url = write(bot, session)["approval"]["url"]
    assert gateway.client().post(url + "/approve").status_code == 401
    for key in (BOT, OTHER_BOT, OPERATOR, AGENT_APPROVER):
        answer = gateway.client(key).post(url + "/approve")
        assert (answer.status_code, answer.json()["reason_code"]) == (403, "forbidden"), key
    assert write(bot, session)["success"] is False


def test_another_tenants_approver_sees_nothing(gateway: GatewayProcess, bot: httpx.Client, session: str) -> None:
    url = write(bot, session)["approval"]["url"]
    stranger = gateway.client(APPROVER_B)
    assert stranger.get("/approvals").json() == {"approvals": [], "next": None}
    assert stranger.get(url).status_code == 404
    assert stranger.post(url + "/approve").status_code == 404
    assert stranger.post(url + "/deny").status_code == 404


def test_what_is_no_approval_is_404_and_a_state_that_is_none_422(approver: httpx.Client) -> None:
    assert approver.get("/approvals/apr-none").status_code == 404
    assert approver.post("/approvals/apr-none/approve").status_code == 404
    assert approver.get("/approvals?state=anything").status_code == 422


def test_no_approval_outlives_its_time() -> None:
    with GatewayProcess(config={**CONFIG, "approvals": {"ttl_s": 2}}) as gateway:
        bot, approver = gateway.client(BOT), gateway.client(APPROVER)
        url = write(bot, "s-1")["approval"]["url"]
        token = approver.post(url + "/approve").json()["approval_token"]
        until(lambda: approver.get(url).json()["state"] == "expired")
        assert write(bot, "s-1", approval_token=token)["decision"] == "REQUIRE_APPROVAL"
        late = write(bot, "s-2")["approval"]["url"]
        until(lambda: approver.get(late).json()["state"] == "expired")
        answer = approver.post(late + "/approve")
        assert (answer.status_code, answer.json()["reason_code"]) == (409, "expired")
        until(lambda: approver.get(late).json()["call"] is None, timeout_s=5)


def test_a_changed_policy_voids_approvals(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(POLICIES, policies)
    with GatewayProcess(config=CONFIG, env={"AGENTGATE_POLICY_PATH": str(policies)}) as gateway:
        bot, approver = gateway.client(BOT), gateway.client(APPROVER)
        token = approver.post(write(bot, "s-1")["approval"]["url"] + "/approve").json()["approval_token"]
        data = json.loads((policies / "data.json").read_text(encoding="utf-8"))
        data["rate_limits"]["db_insert"] = 5
        (policies / "data.json").write_text(json.dumps(data), encoding="utf-8")
        assert gateway.admin().post("/admin/policies/reload").status_code == 200
        answer = write(bot, "s-1", approval_token=token)
        assert (answer["success"], answer["decision"]) == (False, "REQUIRE_APPROVAL")


def test_approvals_survive_a_restart() -> None:
    with GatewayProcess(config=CONFIG) as gateway:
        first = write(gateway.client(BOT), "s-1")["approval"]
        second = write(gateway.client(BOT), "s-2")["approval"]
        token = gateway.client(APPROVER).post(first["url"] + "/approve").json()["approval_token"]
        gateway.kill9()
        gateway.start()
        assert gateway.client(APPROVER).get(second["url"]).json()["call"]["arguments"]["data"]["name"] == "s-2"
        assert write(gateway.client(BOT), "s-1", approval_token=token)["success"] is True
        assert write(gateway.client(BOT), "s-1", approval_token=token)["success"] is False


def test_a_token_is_nowhere_in_the_log_or_the_evidence(
    gateway: GatewayProcess, bot: httpx.Client, approver: httpx.Client, session: str
) -> None:
    token = approver.post(write(bot, session)["approval"]["url"] + "/approve").json()["approval_token"]
    write(bot, session, approval_token=token)
    evidence = gateway.admin().get(f"/sessions/{session}/evidence")
    assert token not in evidence.text
    for path in gateway.data_dir.glob("log.db*"):
        assert token.encode() not in path.read_bytes()
    writes = evidence.json()["write_action_log"]
    assert [(entry["approved_by"], entry["outcome"]) for entry in writes] == [("person:ada", "ok")]
