"""Terms, edits, waiting and the commands of people who approve, against a real gateway."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import approving
from tests.approving import ADA, BOB, BOT, EVE, OLGA, body, prices, write
from tests.e2e.conftest import MANY_REFUSALS
from tests.gateway import GatewayProcess, run_cli, until

CONFIG = {**MANY_REFUSALS, "auth": {"keys": approving.KEYS}, "containment": {"rate_window_s": 0.001}}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    env = approving.policies(tmp_path_factory.mktemp("policies"))
    with GatewayProcess(config=CONFIG, env=env) as process:
        yield process


@pytest.fixture
def bot(gateway: GatewayProcess) -> httpx.Client:
    return gateway.client(BOT)


@pytest.fixture
def ada(gateway: GatewayProcess) -> httpx.Client:
    return gateway.client(ADA)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def arguments(session: str, price: float) -> dict[str, Any]:
    return {"table": "products", "data": {"name": session, "price": price}}


# --- terms --------------------------------------------------------------------------------------------------


def test_terms_are_shown_to_the_caller_and_to_approvers(bot: httpx.Client, ada: httpx.Client, session: str) -> None:
    terms = {"quorum": 2, "approvers": ["person:ada", "person:bob"], "expires_in_s": 60}
    asked = write(bot, session, terms=terms)["approval"]
    assert (asked["quorum"], asked["votes"]) == (2, 0)
    shown = ada.get(asked["url"]).json()
    assert (shown["quorum"], shown["approvers"], shown["votes"]) == (2, ["person:ada", "person:bob"], [])
    assert ada.post(asked["url"] + "/approve").json()["state"] == "pending"
    assert write(bot, session, terms=terms)["approval"]["votes"] == 1


def test_malformed_terms_refuse_the_call(bot: httpx.Client, session: str) -> None:
    answer = write(bot, session, terms={"quorum": 0})
    assert (answer["decision"], answer["reason_code"]) == ("DENY", "policy_malformed")


def test_one_no_ends_it_however_many_said_yes(gateway: GatewayProcess, bot: httpx.Client, session: str) -> None:
    url = write(bot, session, terms={"quorum": 2})["approval"]["url"]
    gateway.client(ADA).post(url + "/approve")
    denied = gateway.client(BOB).post(url + "/deny", json={"reason": "no"}).json()
    assert (denied["state"], denied["decided_by"]) == ("denied", "person:bob")
    assert write(bot, session, terms={"quorum": 2})["reason_code"] == "approval_denied"


def test_pages_of_approvals_have_all_of_them_once(bot: httpx.Client, ada: httpx.Client, session: str) -> None:
    made = [write(bot, session, price=1 + number)["approval"]["id"] for number in range(5)]
    seen: list[str] = []
    asked: dict[str, Any] = {"state": "pending", "limit": 2}
    while True:
        page = ada.get("/approvals", params=asked).json()
        seen += [one["id"] for one in page["approvals"]]
        if page["next"] is None:
            break
        asked["after"] = page["next"]
    assert len(seen) == len(set(seen))
    assert [one for one in seen if one in made] == made
    assert ada.get("/approvals", params={"after": "apr-none"}).status_code == 404


def test_approval_required_is_said_in_authzens_words_too(bot: httpx.Client, session: str) -> None:
    answer = write(bot, session)
    context, approval = answer["context"], answer["approval"]
    assert (context["reason"], context["evaluation_id"]) == ("approval_required", answer["trace_id"])
    assert context["access_request"] == {
        "id": approval["id"],
        "endpoint": approval["url"],
        "expires_at": approval["expires_at"],
    }


# --- edits --------------------------------------------------------------------------------------------------


def test_an_edited_call_runs_when_the_agent_repeats_its_own(
    gateway: GatewayProcess, bot: httpx.Client, ada: httpx.Client, session: str
) -> None:
    first = write(bot, session, price=500)["approval"]
    edited = ada.post(
        first["url"] + "/edit", json={"arguments": arguments(session, 50), "reason": "ten times too much"}
    ).json()
    assert (edited["state"], edited["edited_from"], edited["requested_by"]) == ("pending", first["id"], "agent:bot")
    assert edited["call"]["arguments"] == arguments(session, 50)
    assert edited["original"]["arguments"] == arguments(session, 500)
    old = ada.get(first["url"]).json()
    assert (old["state"], old["why"], old["edited_to"], old["call"]) == ("void", "edited", edited["id"], None)
    waiting = write(bot, session, price=500)
    assert (waiting["success"], waiting["approval"]["id"], waiting["approval"]["edited"]) == (False, edited["id"], True)
    gateway.client(BOB).post(f"/approvals/{edited['id']}/approve", json={"reason": "better"})
    ran = write(bot, session, price=500)
    assert ran["success"] is True, ran
    assert (ran["approval"]["edited"], ran["approval"]["arguments"]) == (True, arguments(session, 50))
    assert prices(bot, session) == [50]
    again = write(bot, session, price=500)
    assert (again["success"], again["decision"]) == (False, "REQUIRE_APPROVAL")


def test_evidence_has_both_versions_votes_reasons_and_voids(
    gateway: GatewayProcess, bot: httpx.Client, ada: httpx.Client, session: str
) -> None:
    two = {"quorum": 2}
    first = write(bot, session, price=500, terms=two)["approval"]
    edit = {"arguments": arguments(session, 50), "reason": "ten times too much", "approve": True}
    edited = ada.post(first["url"] + "/edit", json=edit).json()
    gateway.client(BOB).post(f"/approvals/{edited['id']}/approve", json={"reason": "better so"})
    assert write(bot, session, price=500, terms=two)["success"]
    evidence = gateway.admin().get(f"/sessions/{session}/evidence").json()
    (write_entry,) = evidence["write_action_log"]
    assert write_entry["approved_by"] == "person:ada,person:bob"
    told = evidence["summary"]["approvals"]
    assert [row["what"] for row in told] == ["requested", "void", "requested", "voted", "approved"]
    assert (told[1]["why"], told[1]["actor"], told[1]["edited_to"]) == ("edited", "person:ada", edited["id"])
    assert (told[2]["edited_by"], told[2]["reason"]) == ("person:ada", "ten times too much")
    assert told[2]["arguments"] == arguments(session, 50)
    assert told[4]["reason"] == "better so"
    calls = evidence["timeline"]
    assert calls[-1]["edited_from_sha256"]
    page = gateway.admin().get("/evidence", params={"session": session, "format": "html"}).text
    for words in ("wanted the yes of 2 persons", "ten times too much", "better so", "edited by person:ada", "Void"):
        assert words in page, words


def test_what_policy_or_schema_refuse_cannot_be_edited_into_being(
    bot: httpx.Client, ada: httpx.Client, session: str
) -> None:
    url = write(bot, session)["approval"]["url"]
    dear = ada.post(url + "/edit", json={"arguments": arguments(session, 5_000), "approve": True})
    assert (dear.status_code, dear.json()["reason_code"]) == (403, "policy_deny")
    misfit = ada.post(url + "/edit", json={"arguments": {"table": 7}})
    assert (misfit.status_code, misfit.json()["reason_code"]) == (422, "arguments_invalid")
    same = ada.post(url + "/edit", json={"arguments": arguments(session, 1)})
    assert (same.status_code, same.json()["reason_code"]) == (422, "invalid_request")
    assert ada.get(url).json()["state"] == "pending"


def test_of_two_edits_at_once_one_is_taken(
    gateway: GatewayProcess, bot: httpx.Client, session: str, pool: ThreadPoolExecutor
) -> None:
    url = write(bot, session)["approval"]["url"]
    clients = [gateway.client(key) for key in (ADA, BOB, ADA, BOB)]
    answers = [
        pool.submit(client.post, url + "/edit", json={"arguments": arguments(session, 10 + number)})
        for number, client in enumerate(clients)
    ]
    assert sorted(answer.result().status_code for answer in answers) == [200, 409, 409, 409]


def test_a_stranger_cannot_edit(gateway: GatewayProcess, bot: httpx.Client, session: str) -> None:
    url = write(bot, session)["approval"]["url"]
    for key, status in ((EVE, 404), (BOT, 403), (OLGA, 403)):
        answer = gateway.client(key).post(url + "/edit", json={"arguments": arguments(session, 2)})
        assert answer.status_code == status, key


def test_an_edited_call_with_an_idempotency_key_runs_once(bot: httpx.Client, ada: httpx.Client, session: str) -> None:
    headers = {"Idempotency-Key": f"key-{session}"}
    url = write(bot, session, price=500, headers=headers)["approval"]["url"]
    ada.post(url + "/edit", json={"arguments": arguments(session, 50), "approve": True})
    first = write(bot, session, price=500, headers=headers)
    again = write(bot, session, price=500, headers=headers)
    assert (first["success"], again["success"]) == (True, True), again
    assert first["result"] == again["result"]
    assert prices(bot, session) == [50]


# --- waiting ------------------------------------------------------------------------------------------------


def waiting(
    pool: ThreadPoolExecutor, gateway: GatewayProcess, ada: httpx.Client, session: str, prefer: str = "wait=30"
) -> tuple[Future[httpx.Response], str]:
    """A call that waits for its approval, and that approval's URL."""
    client = gateway.client(BOT)
    call = pool.submit(client.post, "/tools/call", json=body(session), headers={"Prefer": prefer})

    def pending() -> list[Any]:
        return [one for one in ada.get("/approvals?state=pending").json()["approvals"] if one["session_id"] == session]

    (one,) = until(pending)
    return call, f"/approvals/{one['id']}"


def test_a_call_that_waits_runs_when_it_is_approved(
    gateway: GatewayProcess, ada: httpx.Client, session: str, pool: ThreadPoolExecutor
) -> None:
    call, url = waiting(pool, gateway, ada, session)
    assert not call.done()
    ada.post(url + "/approve")
    answer = call.result(10)
    assert (answer.json()["success"], answer.headers["preference-applied"]) == (True, "wait=30")


def test_a_call_whose_client_has_gone_leaves_the_yes_to_who_asks_again(
    gateway: GatewayProcess, ada: httpx.Client, session: str, pool: ThreadPoolExecutor
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        gateway.client(BOT).post("/tools/call", json=body(session), headers={"Prefer": "wait=30"}, timeout=1)
    call, url = waiting(pool, gateway, ada, session)
    time.sleep(1)  # else the yes may come before it waits
    ada.post(url + "/approve")
    assert call.result(10).json()["success"] is True
    time.sleep(1)  # for what nobody waits for any more
    told = gateway.admin().get(f"/sessions/{session}/evidence").json()["timeline"]
    assert [entry["decision"] for entry in told] == ["REQUIRE_APPROVAL", "REQUIRE_APPROVAL", "ALLOW"]


def test_a_call_that_waits_hears_a_no_an_edit_and_a_kill(
    gateway: GatewayProcess, ada: httpx.Client, session: str, pool: ThreadPoolExecutor
) -> None:
    call, url = waiting(pool, gateway, ada, session)
    ada.post(url + "/deny")
    assert call.result(10).json()["reason_code"] == "approval_denied"
    call, url = waiting(pool, gateway, ada, session + "-edit")
    ada.post(url + "/edit", json={"arguments": arguments(session, 7), "approve": True})
    assert call.result(10).json()["approval"]["arguments"] == arguments(session, 7)
    call, url = waiting(pool, gateway, ada, session + "-kill")
    gateway.client(OLGA).post(f"/sessions/{session}-kill/kill", json={"reason": "test"})
    assert call.result(10).json()["reason_code"] == "killed"
    until(lambda: ada.get(url).json()["why"] == "killed")


def test_a_call_that_waits_hears_that_its_approval_is_taken_back(
    gateway: GatewayProcess, ada: httpx.Client, session: str, pool: ThreadPoolExecutor
) -> None:
    call, url = waiting(pool, gateway, ada, session)
    ada.post(url + "/void", json={"reason": "the shop is closed"})
    answer = call.result(10).json()
    assert (answer["reason_code"], answer["error"]) == ("approval_denied", "Policy denied: The approval was taken back")
    left = [one for one in ada.get("/approvals").json()["approvals"] if one["session_id"] == session]
    assert [one["state"] for one in left] == ["void"], "nobody is asked anew by who only waited"
    told = gateway.admin().get(f"/sessions/{session}/evidence").json()["summary"]["approvals"]
    assert [row["what"] for row in told] == ["requested", "void"]
    assert (told[1]["why"], told[1]["actor"], told[1]["reason"]) == ("withdrawn", "person:ada", "the shop is closed")
    page = gateway.admin().get("/evidence", params={"session": session, "format": "html"}).text
    for words in ("nobody: a person took it back", "taken back by person:ada", "the shop is closed"):
        assert words in page, words


def test_a_call_that_waited_in_vain_is_told_what_is_pending(bot: httpx.Client, session: str) -> None:
    began = time.monotonic()
    answer = bot.post("/tools/call", json=body(session), headers={"Prefer": "wait=1"})
    assert time.monotonic() - began >= 1
    assert answer.json()["approval"]["state"] == "pending"
    assert answer.headers["preference-applied"] == "wait=1"


def test_who_does_not_ask_to_wait_does_not(bot: httpx.Client, session: str) -> None:
    for prefer in ("wait=0", "wait=-1", "wait=soon", "respond-fast", ""):
        answer = bot.post("/tools/call", json=body(session), headers={"Prefer": prefer})
        assert answer.json()["approval"]["state"] == "pending"
        assert "preference-applied" not in answer.headers, prefer


# --- commands -----------------------------------------------------------------------------------------------


def at(gateway: GatewayProcess, *words: str, key: str = ADA) -> subprocess.CompletedProcess[str]:
    return run_cli(*words, env={"AGENTGATE_URL": gateway.url, "AGENTGATE_KEY": key, "COLUMNS": "200"})


def test_the_command_lists_shows_and_approves(gateway: GatewayProcess, bot: httpx.Client, session: str) -> None:
    asked = write(bot, session)["approval"]["id"]
    listed = at(gateway, "approvals")
    assert (listed.returncode, listed.stderr) == (4, "")
    (line,) = [line for line in listed.stdout.splitlines() if asked in line]
    assert "db_insert" in line
    assert session in line
    ids = [one["id"] for one in json.loads(at(gateway, "approvals", "--json").stdout)["approvals"]]
    assert asked in ids
    shown = at(gateway, "approvals", "show", asked[:-4])
    assert shown.returncode == 0, shown.stderr
    assert f'"name": "{session}"' in shown.stdout
    assert "agent:bot" in shown.stdout
    approved = at(gateway, "approve", asked.removeprefix("apr-"), "--reason", "as agreed", "--yes")
    assert approved.returncode == 0, approved.stderr
    token = approved.stdout.splitlines()[-1]
    assert write(bot, session, approval_token=token)["success"] is True


def test_the_command_counts_votes(gateway: GatewayProcess, bot: httpx.Client, session: str) -> None:
    asked = write(bot, session, terms={"quorum": 2})["approval"]["id"]
    first = at(gateway, "approve", asked)
    assert first.returncode == 4
    assert "1 of 2" in first.stdout
    assert "pending 1/2" in at(gateway, "approvals").stdout
    again = at(gateway, "approve", asked)
    assert again.returncode == 1
    assert "you have said yes already" in again.stderr
    assert at(gateway, "approve", asked, key=BOB).returncode == 0
    assert write(bot, session, terms={"quorum": 2})["success"] is True


def test_the_command_denies_and_edits(gateway: GatewayProcess, bot: httpx.Client, session: str, tmp_path: Path) -> None:
    denied = at(gateway, "deny", write(bot, session)["approval"]["id"], "--reason", "no")
    assert denied.returncode == 0, denied.stderr
    assert write(bot, session)["reason_code"] == "approval_denied"
    asked = write(bot, session, price=500)["approval"]["id"]
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps(arguments(session, 50)), encoding="utf-8")
    edited = at(gateway, "approvals", "edit", asked, "--arguments", f"@{path}", "--approve")
    assert edited.returncode == 0, edited.stderr
    assert write(bot, session, price=500)["success"] is True
    assert prices(bot, session) == [50]


def test_the_command_takes_back(gateway: GatewayProcess, bot: httpx.Client, session: str) -> None:
    asked = write(bot, session)["approval"]["id"]
    assert at(gateway, "approve", asked).returncode == 0
    taken = at(gateway, "approvals", "void", asked.removeprefix("apr-"), "--reason", "not now")
    assert (taken.returncode, asked in taken.stdout) == (0, True), taken.stderr
    assert write(bot, session)["success"] is False
    again = at(gateway, "approvals", "void", asked)
    assert (again.returncode, "is void: a person who may answer it took it back" in again.stderr) == (1, True)
    assert "void (withdrawn)" in at(gateway, "approvals", "--state", "void").stdout


def test_the_command_says_what_is_wrong(gateway: GatewayProcess, bot: httpx.Client, session: str) -> None:
    asked = write(bot, session)["approval"]["id"]
    assert at(gateway, "approve", "apr-none").returncode == 1
    assert (
        at(gateway, "approve", "apr-").returncode == 2
        or len(json.loads(at(gateway, "approvals", "--json").stdout)) == 1
    )
    assert at(gateway, "approvals", "edit", asked, "--arguments", "[]").returncode == 2
    assert at(gateway, "approvals", "edit", asked, "--arguments", "{").returncode == 2
    refused = at(gateway, "approve", asked, key=OLGA)
    assert refused.returncode == 1
    assert "approver" in refused.stderr


def test_the_log_of_votes_edits_and_voids_holds(
    gateway: GatewayProcess, bot: httpx.Client, ada: httpx.Client, session: str
) -> None:
    first = write(bot, session, price=500, terms={"quorum": 2})["approval"]
    ada.post(first["url"] + "/approve", json={"reason": "one"})
    ada.post(first["url"] + "/edit", json={"arguments": arguments(session, 50), "approve": True})
    kill = gateway.client(OLGA).post(f"/sessions/{session}/kill", json={"reason": "test"}).json()
    until(lambda: [one for one in ada.get("/approvals?state=void").json()["approvals"] if one["why"] == "killed"])
    gateway.admin().post(f"/kills/{kill['id']}/release", json={"force": True})
    gateway.stop()
    try:
        verified = run_cli("log", "verify", "--data-dir", str(gateway.data_dir))
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        gateway.start()
