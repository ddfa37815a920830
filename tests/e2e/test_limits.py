"""Tiers, budgets and their headers as a caller meets them: one process, SQLite, no Redis."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import GatewayProcess, call, key_entry, until

POLICIES = Path(__file__).parents[2] / "policies"
TOOL = "rate_limited_tool"
TIERS = {
    "default": {"requests_per_minute": 3},
    "plus": {"requests_per_minute": -1, "per_session": {"calls": 4, "alert_threshold": "50%"}},
    "day": {"per_day": {"cost": "0.01"}},
}


def _policies(folder: Path, **data: Any) -> Path:
    policies = folder / "policies"
    shutil.copytree(POLICIES, policies)
    shipped = json.loads((policies / "data.json").read_text())
    (policies / "data.json").write_text(json.dumps(shipped | {"rate_limits": {}} | data))
    return policies


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    policies = _policies(tmp_path_factory.mktemp("limits"), tiers=TIERS, costs={TOOL: "0.004"})
    keys = [
        key_entry("plain", agent="plain"),
        key_entry("plus", agent="plus", tier="plus"),
        key_entry("day", agent="day", tier="day"),
        key_entry("gold", agent="gold", tier="gold"),
        key_entry("ada", person="ada", roles=["approver"]),
    ]
    config = {"auth": {"keys": keys}, "policy": {"path": str(policies)}}
    with GatewayProcess(config=config) as process:
        yield process


def test_headers_tell_what_is_left_and_when_to_come_back(gateway: GatewayProcess) -> None:
    client = gateway.client("plain")
    answers = [call(client, TOOL, {}, session=f"s-plain-{n}") for n in range(4)]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"3"}
    refused = answers[3]
    assert (refused.status_code, refused.json()["reason_code"]) == (200, "rate_limited")
    assert "3 requests per minute of this agent" in refused.json()["error"]
    wait_s = int(refused.headers["Retry-After"])
    assert 1 <= wait_s <= 61
    assert abs(int(refused.headers["X-RateLimit-Reset"]) - time.time() - wait_s) <= 2
    assert "Retry-After" not in answers[0].headers


def test_past_the_threshold_a_person_approves_and_the_budget_still_ends(gateway: GatewayProcess) -> None:
    client = gateway.client("plus")
    ada = gateway.client("ada")
    assert [call(client, TOOL, {}, session="s-plus").json()["reason_code"] for _ in range(2)] == ["ok"] * 2
    for _ in range(2):
        asked = call(client, TOOL, {}, session="s-plus").json()
        assert (asked["decision"], asked["reason_code"]) == ("REQUIRE_APPROVAL", "approval_required")
        assert "Budget alert: this session's budget is past 2 calls" in asked["error"]
        approved = ada.post(f"/approvals/{asked['approval']['id']}/approve", json={})
        assert approved.status_code == 200, approved.text
        assert call(client, TOOL, {}, session="s-plus").json()["reason_code"] == "ok"
    spent = call(client, TOOL, {}, session="s-plus")
    assert spent.json()["reason_code"] == "budget_spent"
    assert "Retry-After" not in spent.headers
    assert call(client, TOOL, {}, session="s-plus-2").json()["reason_code"] == "ok"


def test_what_was_used_survives_a_restart(gateway: GatewayProcess) -> None:
    client = gateway.client("day")
    assert [call(client, TOOL, {}, session="s-day").json()["reason_code"] for _ in range(2)] == ["ok"] * 2
    gateway.kill9()
    gateway.start()
    spent = call(gateway.client("day"), TOOL, {}, session="s-another")
    assert spent.json()["reason_code"] == "budget_spent"
    assert "this agent's budget for the day has cost 0.01" in spent.json()["error"]
    assert 1 <= int(spent.headers["Retry-After"]) <= 86_400


def test_a_tier_that_the_data_does_not_have_is_refused(gateway: GatewayProcess) -> None:
    answer = call(gateway.client("gold"), TOOL, {}, session="s-gold")
    assert (answer.status_code, answer.json()["reason_code"]) == (503, "budget_unknown")
    assert 'agentgate_budget_unknown_total{budget="tier_unknown"} 1.0' in gateway.client().get("/metrics").text


def test_the_shipped_tiers_are_there_for_keys_and_limit_nobody_else() -> None:
    with GatewayProcess() as gateway:
        standard = gateway.agent(gateway.create_key("--agent", "standard", "--tier", "standard"))
        plain = gateway.agent(gateway.create_key("--agent", "plain"))
        query = {"query": "SELECT 1"}
        for client in (standard, plain):
            until(lambda client=client: client.get("/tools/list").status_code == 200)
        answers = [call(standard, "db_query", query) for _ in range(121)]
        assert [answer.json()["reason_code"] for answer in answers] == ["ok"] * 120 + ["rate_limited"]
        assert answers[0].headers["X-RateLimit-Limit"] == "120"
        others = [call(plain, "db_query", query, session="s-plain") for _ in range(121)]
        assert {answer.json()["reason_code"] for answer in others} == {"ok"}
        assert not any("X-RateLimit-Limit" in answer.headers for answer in others)


def test_data_that_cannot_be_understood_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    policies = _policies(tmp_path, tiers={"default": {"requests_per_minut": 3}})
    with (
        pytest.raises(AssertionError, match="data.tiers.default has no 'requests_per_minut'"),
        GatewayProcess(config={"policy": {"path": str(policies)}}),
    ):
        pass
