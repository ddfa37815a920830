"""One name for a call, one effect: in parallel, by strangers, for other arguments, and after a power cut."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import GatewayProcess, key_entry, run_cli, until
from tests.web import Handler, serving

BOT, OTHER, OTHER_TENANT, APPROVER = "key-bot", "key-other", "key-tenant-b", "key-approver"


class Counter:
    """What reached a server. Its answers wait for `go_on`."""

    def __init__(self) -> None:
        self.url = ""
        self.got: list[Any] = []
        self.go_on = threading.Event()
        self.go_on.set()


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    found = Counter()

    class Counting(Handler):
        def do_POST(self) -> None:
            body = json.loads(self.given())
            found.got.append(body)
            found.go_on.wait(60)
            self.say(200, json.dumps({"effect": len(found.got), "of": body}).encode())

    with serving(Counting) as found.url:
        yield found


@pytest.fixture(scope="module")
def gateway(counter: Counter) -> Iterator[GatewayProcess]:
    tool = {"upstream": "counter", "method": "POST", "path": "/", "access": "read", "input_schema": {"type": "object"}}
    config = {
        "auth": {
            "keys": [
                key_entry(BOT, agent="bot"),
                key_entry(OTHER, agent="other"),
                key_entry(OTHER_TENANT, agent="bot", tenant="b"),
                key_entry(APPROVER, person="ada", roles=["approver"]),
            ]
        },
        "server": {"refusals_per_second": 1_000_000},
        "upstreams": {"counter": {"kind": "http", "base_url": counter.url}},
        "tools": {"db_query": tool, "db_insert": tool | {"access": "write"}},
    }
    with GatewayProcess(config=config) as process:
        yield process


def send(client: httpx.Client, key: str, session: str, tool: str = "db_query", **more: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key, **more.pop("headers", {})}
    body = {"session_id": session, "tool_name": tool, "arguments": {"query": session}, **more}
    return client.post("/tools/call", json=body, headers=headers)


def effects(counter: Counter, session: str) -> int:
    return sum(session in json.dumps(body) for body in counter.got)


def test_of_fifty_parallel_calls_under_one_key_one_has_an_effect(
    gateway: GatewayProcess, counter: Counter, session: str
) -> None:
    bot = gateway.client(BOT)
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: send(bot, "k-1", session), range(50)))
    assert effects(counter, session) == 1
    assert {answer.status_code for answer in answers} <= {200, 409}
    bodies = {answer.content for answer in answers if answer.status_code == 200}
    assert len(bodies) == 1, "every answer is the same to the byte"
    replayed = send(bot, '"k-1"', session)
    assert (replayed.content, replayed.headers["idempotency-replayed"]) == (bodies.pop(), "true")
    assert sum("idempotency-replayed" not in answer.headers for answer in answers if answer.status_code == 200) == 1


def test_another_principals_key_opens_nothing(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    mine = send(gateway.client(BOT), "k-2", session)
    for key, of in ((OTHER, f"{session}-other"), (OTHER_TENANT, session)):
        theirs = send(gateway.client(key), "k-2", of)
        assert theirs.status_code == 200
        assert "idempotency-replayed" not in theirs.headers
        assert theirs.json()["trace_id"] != mine.json()["trace_id"]
        assert gateway.client(key).get(f"/calls/{mine.json()['trace_id']}").status_code == 404
    assert effects(counter, session) == 3


def test_a_key_does_not_carry_other_arguments(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    bot = gateway.client(BOT)
    assert send(bot, "k-3", session).status_code == 200
    for more in ({"arguments": {"query": f"{session} or 1=1"}}, {"context": {"user": "root"}}):
        refused = send(bot, "k-3", session, **more)
        assert (refused.status_code, refused.json()["reason_code"]) == (422, "idempotency_mismatch")
    assert effects(counter, session) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schlüssel".encode(), '"half', "a\tb", '"a\\b"'])
def test_what_is_no_key_is_refused_before_anything_runs(
    gateway: GatewayProcess, counter: Counter, session: str, key: Any
) -> None:
    refused = send(gateway.client(BOT), key, session)
    assert (refused.status_code, refused.json()["reason_code"]) == (400, "invalid_request")
    assert effects(counter, session) == 0


def test_two_keys_on_one_call_are_refused(gateway: GatewayProcess, session: str) -> None:
    body = {"session_id": session, "tool_name": "db_query", "arguments": {}}
    headers = [("X-API-Key", BOT), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert httpx.post(f"{gateway.url}/tools/call", json=body, headers=headers).status_code == 400


def test_a_call_that_a_power_cut_ended_is_not_run_again(
    gateway: GatewayProcess, counter: Counter, session: str
) -> None:
    counter.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(send, gateway.client(BOT), "k-4", session)
        until(lambda: effects(counter, session))
        gateway.kill9()
        assert lost.exception() is not None
    counter.go_on.set()
    gateway.start()
    bot = gateway.client(BOT)
    first, again = send(bot, "k-4", session), send(bot, "k-4", session)
    assert (first.status_code, first.json()["success"]) == (200, False)
    assert first.json()["reason_code"] == "outcome_unrecorded"
    assert "upstream effect unknown" in first.json()["error"]
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert effects(counter, session) == 1


def test_a_deferred_call_is_made_once_and_fetched_by_its_caller_alone(
    gateway: GatewayProcess, counter: Counter, session: str
) -> None:
    bot, ada = gateway.client(BOT), gateway.client(APPROVER)
    asked = send(bot, "k-5", session, "db_insert", headers={"Prefer": "respond-async"})
    assert (asked.status_code, asked.headers["preference-applied"]) == (202, "respond-async")
    where = asked.headers["location"]
    waiting = bot.get(where)
    assert (waiting.status_code, waiting.json()["state"]) == (202, "pending_approval")
    assert waiting.headers["retry-after"]
    assert gateway.client(OTHER).get(where).status_code == 404
    url = asked.json()["approval"]["url"]
    with ThreadPoolExecutor(10) as pool:
        retries = [pool.submit(send, bot, "k-5", session, "db_insert") for _ in range(9)]
        pool.submit(ada.post, f"{url}/approve", json={})
    # a retry may have been quicker than the gateway: then the answer is that call's (303)
    until(lambda: bot.get(where, follow_redirects=True).status_code == 200)
    assert all(retry.result().status_code in (200, 202, 409) for retry in retries)
    answer = bot.get(where, follow_redirects=True)
    assert answer.json()["success"] is True
    assert effects(counter, session) == 1
    replayed = send(bot, "k-5", session, "db_insert")
    assert replayed.content == answer.content
    assert gateway.client(OTHER).get(where).status_code == 404


def test_an_approved_call_survives_a_power_cut_before_it_was_made(
    gateway: GatewayProcess, counter: Counter, session: str
) -> None:
    """The yes is durable, and the process dies with it: the next one makes the call, once."""
    bot, ada = gateway.client(BOT), gateway.client(APPROVER)
    asked = send(bot, "k-6", session, "db_insert", headers={"Prefer": "respond-async"})
    where, url = asked.headers["location"], asked.json()["approval"]["url"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ada.post, f"{url}/approve", json={})
        until(lambda: b'"pending"' not in ada.get(url).content)
        gateway.kill9()
    gateway.start()
    bot = gateway.client(BOT)
    until(lambda: bot.get(where).status_code == 200)
    answer = bot.get(where).json()
    if answer["success"]:  # else it was cut off while it was made: unknown, and never made again
        assert effects(counter, session) == 1
    else:
        assert answer["reason_code"] == "outcome_unrecorded"
        assert effects(counter, session) <= 1


def test_a_kill_withholds_old_answers(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    bot = gateway.client(BOT)
    first = send(bot, "k-7", session)
    gateway.admin().post(f"/sessions/{session}/kill")
    for answer in (send(bot, "k-7", session), bot.get(f"/calls/{first.json()['trace_id']}")):
        assert answer.json()["reason_code"] == "killed"
        assert b"effect" not in answer.content
    assert effects(counter, session) == 1


def test_what_was_kept_and_handed_out_is_evidence_that_verifies(
    gateway: GatewayProcess, counter: Counter, session: str
) -> None:
    bot = gateway.client(BOT)
    first = send(bot, "k-8", session).json()
    for _ in range(2):
        send(bot, "k-8", session)
    admin = gateway.admin()
    for form in ("json", "html"):
        assert admin.get(f"/sessions/{session}/evidence", params={"format": form}).status_code == 200
    events = admin.get("/audit", params={"session": session}).json()["events"]
    handed_out = [event for event in events if event["event"]["kind"] == "answered"]
    assert [event["event"]["trace_id"] for event in handed_out] == [first["trace_id"]] * 2
    verified = run_cli("log", "verify", "--data-dir", str(gateway.data_dir))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert gateway.metric('agentgate_idempotency_total{what="replayed"}') >= 2


def test_who_asks_again_and_again_for_what_is_withheld_does_not_fill_the_log(session: str) -> None:
    with GatewayProcess(config={"server": {"refusals_per_second": 5}}) as gateway:
        agent = gateway.agent()
        first = send(agent, "k-9", session).json()
        gateway.admin().post(f"/sessions/{session}/kill")
        answers = [agent.get(f"/calls/{first['trace_id']}") for _ in range(40)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(b"killed" in answer.content for answer in answers if answer.status_code == 200)


def test_who_asks_for_calls_that_there_are_not_is_turned_away() -> None:
    with GatewayProcess(config={"server": {"refusals_per_second": 5}}) as gateway:
        agent = gateway.agent()
        answers = [agent.get(f"/calls/{uuid.uuid4()}") for _ in range(40)]
        assert {answer.status_code for answer in answers} == {404, 429}


def test_fresh_keys_do_not_fill_the_database_across_a_restart(session: str, tmp_path: Path) -> None:
    config = {"idempotency": {"max_bytes_per_caller": 2_000}}
    kept = f"SELECT COALESCE(SUM(LENGTH(sealed)), 0), COUNT(*) FROM answers WHERE session = '{session}'"
    for start in range(2):
        with GatewayProcess(config=config, data_dir=tmp_path) as gateway:
            agent = gateway.agent()
            for number in range(40):
                assert send(agent, f"{start}-{number}", session).status_code == 200
            with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/log.db?mode=ro", uri=True)) as connection:
                size, count = connection.execute(kept).fetchone()
            assert 0 < size <= 2_000
            assert count == 40 * (start + 1)
            assert send(agent, "0-0", session).headers["idempotency-replayed"] == "true"
            forgotten = send(agent, f"{start}-39", session)
            assert (forgotten.status_code, forgotten.json()["reason_code"]) == (409, "idempotency_forgotten")
            assert gateway.metric('agentgate_idempotency_total{what="not_kept"}') >= 20
