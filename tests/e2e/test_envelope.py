"""The envelope door of a newcomer, and `POST /approve` with several persons and with an edit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.approving import ADA, BOB, BOT, CYD, KEYS, policies, prices
from tests.e2e.conftest import MANY_REFUSALS
from tests.gateway import GatewayProcess, until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    env = policies(tmp_path_factory.mktemp("policies"))
    with GatewayProcess(config={**MANY_REFUSALS, "auth": {"keys": KEYS}}, env=env) as process:
        yield process


def envelope(session: str, request_id: str = "r-1", agent: str = "bot", **context: Any) -> dict[str, Any]:
    return {
        "agent_id": agent,
        "agent_version": "1.2.0",
        "request_id": f"{session}/{request_id}",
        "tool": "db_insert",
        "arguments": {"table": "products", "data": {"name": session, "price": 1}},
        "session_id": session,
        "context": context,
    }


def send(client: httpx.Client, said: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/api/tools/call", json=said)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def approve(gateway: GatewayProcess, key: str, asked: dict[str, Any], *, yes: bool = True) -> httpx.Response:
    return gateway.client(key).post("/approve", json={"approval_id": asked["approval_id"], "approved": yes})


def test_a_newcomer_needs_neither_key_nor_signature() -> None:
    with GatewayProcess() as gateway:
        said = {
            "agent_id": "agent_deploy_001",
            "agent_version": "1.2.0",
            "request_id": "req_uuid_123",
            "tool": "db_query",
            "arguments": {"query": "SELECT 1 AS n"},
        }
        first = send(gateway.client(), said)
        assert (first["success"], first["result"]["rows"]) == (True, [{"n": 1}])
        assert send(gateway.client(), said) == first
        (decided, *_) = gateway.admin().get("/audit", params={"trace_id": first["audit_id"]}).json()["events"]
        assert (decided["event"]["principal"], decided["event"]["session"]) == ("agent:local", "envelope-local")
        assert decided["event"]["door"] == "envelope"
        assert decided["body"]["context"] == {"agent_id": "agent_deploy_001", "agent_version": "1.2.0"}
        pack = gateway.admin().get("/sessions/envelope-local/evidence").json()
        assert [entry["trace_id"] for entry in pack["timeline"]] == [first["audit_id"]]


def test_a_refusal_and_a_failure_have_words_of_their_own(gateway: GatewayProcess, session: str) -> None:
    client = gateway.client(BOT)
    denied = send(client, envelope(session) | {"tool": "db_update", "arguments": {"table": "products"}})
    assert denied == {
        "success": False,
        "status": "denied",
        "error": "Policy denied: not for anybody",
        "audit_id": denied["audit_id"],
        "reason_code": "policy_deny",
    }
    failed = send(client, envelope(session, "r-2") | {"tool": "db_query", "arguments": {"query": "SELECT * FROM no"}})
    assert (failed["success"], failed["status"], failed["reason_code"]) == (False, "failed", "upstream_error")


def test_several_persons_must_say_yes(gateway: GatewayProcess, session: str) -> None:
    client = gateway.client(BOT)
    asked = send(client, envelope(session, terms={"quorum": 2}))
    for _ in range(2):
        first = approve(gateway, ADA, asked)
        assert (first.status_code, first.json()["status"]) == (202, "pending_approval")
        assert (first.json()["quorum"], first.json()["votes"], first.json()["approval_id"]) == (
            2,
            1,
            asked["approval_id"],
        )
    assert prices(client, session) == []
    done = approve(gateway, BOB, asked)
    assert (done.status_code, done.json()["success"]) == (200, True)
    for key in (ADA, BOB, CYD):
        assert approve(gateway, key, asked).json() == done.json()
    assert send(client, envelope(session, terms={"quorum": 2})) == done.json()
    assert prices(client, session) == [1]


def test_one_no_outweighs_a_yes(gateway: GatewayProcess, session: str) -> None:
    asked = send(gateway.client(BOT), envelope(session, terms={"quorum": 2}))
    approve(gateway, ADA, asked)
    assert approve(gateway, BOB, asked, yes=False).json()["status"] == "denied"
    assert approve(gateway, CYD, asked).status_code == 409
    assert prices(gateway.client(BOT), session) == []


def test_only_whom_policy_names(gateway: GatewayProcess, session: str) -> None:
    asked = send(gateway.client(BOT), envelope(session, terms={"approvers": ["person:bob"]}))
    for yes in (True, False):
        assert approve(gateway, ADA, asked, yes=yes).status_code == 403
    assert approve(gateway, BOB, asked).json()["success"]


def test_however_it_is_approved_the_gateway_makes_the_call(gateway: GatewayProcess, session: str) -> None:
    client = gateway.client(BOT)
    asked = send(client, envelope(session))
    assert gateway.client(ADA).post(f"/approvals/{asked['approval_id']}/approve").status_code == 200
    until(lambda: prices(client, session) == [1])
    told = until(lambda: send(client, envelope(session)) if asked["audit_id"] else None)
    assert (told["success"], told["audit_id"]) == (True, asked["audit_id"])
    assert approve(gateway, BOB, asked).json() == told


def test_an_edited_call_is_answered_as_edited(gateway: GatewayProcess, session: str) -> None:
    client = gateway.client(BOT)
    asked = send(client, envelope(session))
    arguments = {"table": "products", "data": {"name": session, "price": 7}}
    edited = gateway.client(ADA).post(f"/approvals/{asked['approval_id']}/edit", json={"arguments": arguments}).json()
    assert approve(gateway, BOB, asked).status_code == 409
    done = approve(gateway, BOB, {"approval_id": edited["id"]}).json()
    assert (done["success"], done["approval"]["edited"], done["approval"]["arguments"]) == (True, True, arguments)
    assert send(client, envelope(session)) == done
    assert prices(client, session) == [7]


def test_two_envelopes_of_the_same_call_are_two_calls(gateway: GatewayProcess, session: str) -> None:
    client = gateway.client(BOT)
    one = send(client, envelope(session, "r-1"))
    assert send(client, envelope(session, "r-2"))["approval_id"] == one["approval_id"], "one question for one call"
    approve(gateway, ADA, one)
    two = send(client, envelope(session, "r-2"))
    assert (two["status"], two["approval_id"] != one["approval_id"]) == ("pending_approval", True)
    assert prices(client, session) == [1]
