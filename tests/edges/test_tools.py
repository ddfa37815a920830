"""The tool door beyond v0.2: methods, paths, the refusal limit, sessions and their owners."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import time
from functools import partial

import pytest

from tests.edges.conftest import key_of
from tests.gateway import GatewayProcess, call, exchange, post, statuses, until

QUERY = {"query": "SELECT 1"}


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "post"])
def test_tools_call_answers_post_alone(gateway: GatewayProcess, method: str) -> None:
    said = exchange(
        gateway.port, f"{method} /tools/call HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    assert statuses(said) == ([400] if method == "post" else [405])
    if method != "post":
        assert b"\r\nallow: POST\r\n" in said


def test_tools_list_answers_get_and_head(gateway: GatewayProcess) -> None:
    agent = gateway.client(key_of("agent"))
    head = agent.head("/tools/list")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(agent.get("/tools/list").content))
    refused = agent.post("/tools/list", json={})
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/tools/call/", "//tools/call", "/Tools/Call", "/tools/call/x", "/tools/list/"])
def test_another_spelling_of_the_path_is_404_and_no_redirect(gateway: GatewayProcess, path: str) -> None:
    for method in ("GET", "POST"):
        answer = gateway.client(key_of("agent")).request(method, f"{gateway.url}{path}")
        assert answer.status_code == 404
        assert "location" not in answer.headers


def test_a_query_string_decides_nothing(gateway: GatewayProcess) -> None:
    body = {"session_id": "s-q", "tool_name": "db_query", "arguments": QUERY}
    answer = gateway.client(key_of("agent")).post("/tools/call?session_id=other&tool_name=slow&key=x", json=body)
    assert answer.json()["success"] is True


def test_a_refused_principal_gets_429_and_one_event_a_second_carries_the_count(limited: GatewayProcess) -> None:
    refused, other = limited.agent("key-a"), limited.agent("key-b")
    answers, others = [], []
    for _ in range(100):
        answers += [call(refused, "no_such_tool"), call(refused, "no_such_tool")]
        others.append(call(other, "db_query", QUERY, session="s-b").status_code)
    codes = [answer.status_code for answer in answers]
    assert codes.count(429) >= 100, codes
    assert set(others) == {200}
    turned_away = next(answer for answer in answers if answer.status_code == 429)
    assert turned_away.headers["Retry-After"] == "1"
    assert turned_away.headers["Content-Type"] == "application/problem+json"
    assert turned_away.json()["reason_code"] == "too_many_refusals"
    until(lambda: sum(_refusals_on_record(limited)) == codes.count(429), timeout_s=5)
    assert len(_refusals_on_record(limited)) <= 8
    until(lambda: call(refused, "db_query", QUERY).status_code == 200, timeout_s=5)


def test_of_refused_calls_that_wait_for_the_log_at_once_no_more_are_recorded(limited: GatewayProcess) -> None:
    body = json.dumps({"session_id": "s-many", "tool_name": "no_such_tool", "arguments": {}}).encode()
    address, log = ("127.0.0.1", limited.port), f"file:{limited.data_dir}/log.db"
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(socket.create_connection(address, 5)) for _ in range(100)]
        holder = stack.enter_context(contextlib.closing(sqlite3.connect(log, uri=True, isolation_level=None)))
        holder.execute("BEGIN IMMEDIATE")
        for one in many:
            one.sendall(post("/tools/call", body, "X-API-Key: key-a"))
        time.sleep(0.5)
        holder.execute("ROLLBACK")
        answers = [b"".join(iter(partial(one.recv, 65_536), b"")) for one in many]
        ((recorded,),) = holder.execute("SELECT count(*) FROM events WHERE session = 's-many'").fetchall()
    assert {status for answer in answers for status in statuses(answer)} == {200, 429}
    assert b"\r\nretry-after: 1\r\n" in next(answer for answer in answers if b" 429 " in answer).lower()
    assert recorded <= 3 * 20, "as many as the seconds in which they came have room for"


def _refusals_on_record(gateway: GatewayProcess) -> list[int]:
    with sqlite3.connect(f"file:{gateway.data_dir}/log.db?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT leaf FROM events WHERE kind = 'refusals'").fetchall()
    connection.close()
    return [json.loads(leaf)["count"] for (leaf,) in rows]


def test_malformed_calls_count_as_refusals_too(limited: GatewayProcess) -> None:
    def codes() -> list[int]:
        raw = post("/tools/call", b"{", "X-API-Key: key-a")
        return [statuses(exchange(limited.port, raw))[0] for _ in range(60)]

    assert until(lambda: 429 in codes(), timeout_s=5)


def test_a_session_is_its_openers_and_another_tenants_session_of_that_name_is_another(gateway: GatewayProcess) -> None:
    mine, admin, other = (gateway.client(key) for key in (key_of("agent"), key_of("admin"), key_of("agent", "b")))
    assert call(mine, "db_query", QUERY, session="s-mine").json()["success"] is True
    stolen = call(admin, "db_query", QUERY, session="s-mine").json()
    assert (stolen["success"], stolen["reason_code"]) == (False, "foreign_session")
    assert call(other, "db_query", QUERY, session="s-mine").json()["success"] is True
    assert call(mine, "db_query", QUERY, session="s-mine").json()["success"] is True


@pytest.mark.parametrize(
    "arguments",
    [{}, {"query": 7}, {"query": ""}, {"query": "SELECT 1", "more": 1}, {"Query": "SELECT 1"}, {"query": None}],
)
def test_arguments_that_do_not_fit_the_schema_are_refused_before_policy(
    gateway: GatewayProcess, arguments: dict[str, object]
) -> None:
    answer = call(gateway.client(key_of("agent")), "db_query", arguments, session="s-schema").json()
    assert (answer["success"], answer["decision"], answer["reason_code"]) == (False, "DENY", "arguments_invalid")


def test_answers_say_json_and_their_length(gateway: GatewayProcess) -> None:
    answer = call(gateway.client(key_of("agent")), "db_query", QUERY, session="s-head")
    assert answer.headers["Content-Type"] == "application/json"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert "server" not in answer.headers


def test_results_that_are_not_ascii_come_back_whole(gateway: GatewayProcess) -> None:
    arguments = {"text": 'äöü ß 日本 😀 \u2028 \\ " \u0000', "ключ": [None, True, -0.0, 1e-7]}
    answer = call(gateway.client(key_of("agent", "b")), "rate_limited_tool", arguments, session="s-utf8").json()
    assert answer["result"]["echo"] == arguments
