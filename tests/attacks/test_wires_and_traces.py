"""Attacks on the parser, and by what is left behind: logs, metrics, queries, messages."""

from __future__ import annotations

import re

import pytest

from tests.attacks.conftest import AUDITOR, BOT, OPERATOR, OTHER, reached
from tests.gateway import GatewayProcess, call, exchange, statuses

QUERY = {"query": "SELECT 1"}
INNER_BODY = '{"session_id":"smuggled","tool_name":"db_query","arguments":{"query":"SELECT 1"}}'
INNER = (
    f"POST /tools/call HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {BOT}\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(INNER_BODY)}\r\n\r\n{INNER_BODY}"
)


def outer(*headers: str, body: str = "", line: str = "POST /tools/call HTTP/1.1", eol: str = "\r\n") -> bytes:
    head = [line, "Host: localhost", f"X-API-Key: {OTHER}", "Content-Type: application/json", *headers, "", ""]
    return (eol.join(head) + body).encode("latin-1")


N = len(INNER)
SMUGGLING = {
    "CL.TE": outer(f"Content-Length: {N + 5}", "Transfer-Encoding: chunked", body="0\r\n\r\n" + INNER),
    "TE.CL": outer("Transfer-Encoding: chunked", "Content-Length: 4", body=f"{N:x}\r\n{INNER}\r\n0\r\n\r\n"),
    "TE.TE": outer("Transfer-Encoding: chunked", "Transfer-Encoding: x", body="0\r\n\r\n" + INNER),
    "TE list": outer("Transfer-Encoding: chunked, identity", body="0\r\n\r\n" + INNER),
    "TE not last": outer("Transfer-Encoding: chunked, x", f"Content-Length: {N + 5}", body="0\r\n\r\n" + INNER),
    "TE space": outer("Transfer-Encoding : chunked", f"Content-Length: {N + 5}", body="0\r\n\r\n" + INNER),
    "TE tab": outer("Transfer-Encoding:\tchunked", f"Content-Length: {N + 5}", body="0\r\n\r\n" + INNER),
    "TE vertical tab": outer("Transfer-Encoding:\x0bchunked", f"Content-Length: {N + 5}", body="0\r\n\r\n" + INNER),
    "TE quoted": outer('Transfer-Encoding: "chunked"', f"Content-Length: {N + 5}", body="0\r\n\r\n" + INNER),
    "TE case": outer("tRANSFER-eNCODING: CHUNKED", f"Content-Length: {N + 5}", body="0\r\n\r\n" + INNER),
    "TE folded": outer("Transfer-Encoding:\r\n chunked", f"Content-Length: {N + 5}", body="0\r\n\r\n" + INNER),
    "TE in 1.0": outer("Transfer-Encoding: chunked", f"Content-Length: {N + 5}", body="0\r\n\r\n" + INNER,
                       line="POST /tools/call HTTP/1.0"),
    "two lengths": outer("Content-Length: 0", f"Content-Length: {N}", body=INNER),
    "length list": outer(f"Content-Length: 0, {N}", body=INNER),
    "length plus": outer("Content-Length: +0", body=INNER),
    "length minus": outer("Content-Length: -1", body=INNER),
    "length hex": outer("Content-Length: 0x0", body=INNER),
    "length space": outer("Content-Length : 0", body=INNER),
    "length folded": outer("Content-Length:\r\n 0", body=INNER),
    "length NUL": outer("Content-Length: 0\x00", body=INNER),
    "length overflow": outer("Content-Length: 18446744073709551616", body=INNER),
    "bare LF header": outer("X-Evil: a\nContent-Length: 0", f"Content-Length: {N}", body=INNER),
    "bare LF": outer(f"Content-Length: {N}", body=INNER, eol="\n"),
    "bare CR": outer(f"X-Evil: a\rContent-Length: 0\r\nContent-Length: {N}", body=INNER),
    "chunk size sign": outer("Transfer-Encoding: chunked", body="+0\r\n\r\n" + INNER),
    "chunk size 0x": outer("Transfer-Encoding: chunked", body="0x0\r\n\r\n" + INNER),
    "chunk size overflow": outer("Transfer-Encoding: chunked", body="10000000000000000\r\n\r\n" + INNER),
    "chunk without CRLF": outer("Transfer-Encoding: chunked", body="1\r\nAB0\r\n\r\n" + INNER),
    "chunk LF": outer("Transfer-Encoding: chunked", body="0\n\n" + INNER),
    "chunk extension LF": outer("Transfer-Encoding: chunked", body="0;a\nb\r\n\r\n" + INNER),
    "space before name": outer(" Content-Length: 0", f"Content-Length: {N}", body=INNER),
    "no name": outer(": 0", f"Content-Length: {N}", body=INNER),
    "NUL in name": outer("Content-Length\x00: 0", f"Content-Length: {N}", body=INNER),
    "two spaces": outer("Content-Length: 0", line="POST  /tools/call HTTP/1.1", body=""),
    "HTTP/9": outer("Content-Length: 0", line="POST /tools/call HTTP/9.9", body=""),
    "no version": b"POST /tools/call\r\n\r\n",
    "space in target": outer("Content-Length: 0", line="POST /tools/call x HTTP/1.1", body=""),
    "upgrade": outer("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAAA", f"Content-Length: {N}", body=INNER),
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("how", SMUGGLING)
def test_request_smuggling(gateway: GatewayProcess, how: str) -> None:
    """A40: of an ambiguous request nothing runs that a stricter reader would not have seen."""
    said = exchange(gateway.port, SMUGGLING[how], timeout_s=0.15)
    assert b'"success":true' not in said, said
    assert all(400 <= status < 500 or status in (501, 505) for status in statuses(said)[:1]), said[:300]
    assert reached(gateway, "smuggled") == 0


def test_two_whole_requests_on_one_connection_are_two(gateway: GatewayProcess) -> None:
    """A40, the other side: pipelining without ambiguity works, and each request has its own key and session."""
    body = INNER_BODY.replace("smuggled", "pipelined")
    one = f"POST /tools/call HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {BOT}\r\nContent-Type: application/json\r\n"
    raw = (one + f"Content-Length: {len(body)}\r\n\r\n{body}").encode()
    assert statuses(exchange(gateway.port, raw + raw, timeout_s=0.5)) == [200, 200]


LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) [\w.]+: \S.*")
FORGED = "x\r\n2026-01-01 00:00:00,000 INFO agentgate: all is well\x1b[2J\x1b]0;owned\x07"


def test_log_forging(gateway: GatewayProcess, session: str) -> None:
    """A46: no text of a caller's starts a line of the log, moves its cursor or reaches it at all, at DEBUG."""
    client, operator = gateway.client(BOT), gateway.client(OPERATOR)
    call(client, FORGED, {}, session=session)
    call(client, "db_query", {"query": FORGED}, session=session, context={FORGED: FORGED})
    call(client, "db_query", QUERY, session=FORGED)
    operator.post(f"/sessions/{session}/kill", json={"reason": FORGED})
    operator.post("/kills", json={"scope": FORGED})
    client.get("/%0d%0a2026-01-01%20INFO%20x")
    client.get("/tools/list", params={"x": FORGED})
    client.get("/tools/list", headers={"User-Agent": "x\x1b[2J", "Referer": "\x1b"})
    assert "all is well" not in gateway.stderr
    assert "\x1b" not in gateway.stderr
    assert all(LOG_LINE.fullmatch(line) for line in gateway.stderr.splitlines())
    pack = gateway.client(AUDITOR).get(f"/sessions/{session}/evidence")
    assert b"\x1b" not in pack.content
    assert b"\r" not in pack.content


def test_a_cardinality_bomb(gateway: GatewayProcess, session: str) -> None:
    """A58: made-up names do not become metric series."""
    client = gateway.client(BOT)
    call(client, "made_up", session=session)
    before = len(client.get("/metrics").text.splitlines())
    for n in range(300):
        call(client, f"made_up_{n}", session=f"{session}-{n}")
    call(client, 'x"} 1', session=session)
    text = client.get("/metrics").text
    assert len(text.splitlines()) - before < 20
    assert "made_up" not in text
    assert session not in text


INJECTIONS = [
    "' OR '1'='1",
    "'; DROP TABLE events; --",
    '" OR ""="',
    "1 UNION SELECT * FROM heads",
    "%' --",
    "\\'",
    "${7*7}",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_filters(gateway: GatewayProcess, text: str) -> None:
    """A60: a filter finds what is equal to it, or is refused."""
    admin = gateway.admin()
    assert admin.get("/approvals", params={"state": text}).status_code == 422
    assert admin.get("/sessions/s/evidence", params={"tenant": text}).status_code == 422
    assert admin.get("/sessions/s/evidence", params={"format": text}).status_code == 400
    size = admin.get("/audit", params={"limit": 1}).json()["size"]
    assert admin.get("/audit", params={"text": text}).json()["events"] == []
    for name in (
        "tool",
        "trace_id",
        "tenant",
        "session",
        "agent",
        "decision",
        "reason",
        "outcome",
        "kind",
        "since",
        "order",
        "limit",
        "first",
    ):
        assert admin.get("/audit", params={name: text}).status_code == 422, name
    assert admin.get("/audit", params={"cursor": text}).status_code == 400
    assert admin.get("/audit", params={"limit": 1}).json()["size"] >= size
    for path in ("/kills", "/approvals"):
        assert admin.get(f"{path}/{text.replace('/', '')}").status_code == 404
    assert admin.get(f"/sessions/{text.replace('/', '')}/evidence").status_code in (404, 422)
    assert call(gateway.client(BOT), "db_query", QUERY, session=text).status_code == 422


def test_what_a_refusal_tells(gateway: GatewayProcess, session: str) -> None:
    """A68: what an agent learns of a refusal is this and no more: no rule text, no path, no other principal's name."""
    bot, other = gateway.client(BOT), gateway.client(OTHER)
    call(bot, "db_query", QUERY, session=session)
    operator = gateway.client(OPERATOR)
    killed = operator.post(
        f"/sessions/{session}-k/kill", json={"reason": "INTERNAL incident 4711 of tenant acme"}
    ).json()
    said = {
        "unknown": call(bot, "nope", session=session).json()["error"],
        "schema": call(bot, "db_query", {"query": 7}, session=session).json()["error"],
        "approval": call(bot, "db_insert", {"table": "products"}, session=session).json()["error"],
        "foreign": call(other, "db_query", QUERY, session=session).json()["error"],
        "killed": call(bot, "db_query", QUERY, session=f"{session}-k").json()["error"],
        "failed": call(bot, "file_read", {"path": "../../etc/passwd"}, session=session).json()["error"],
    }
    schema = said.pop("schema")
    assert said == {
        "unknown": "Policy denied: Tool not in allowlist",
        "approval": "Approval required: Write requires approval",
        "foreign": "Policy denied: The session belongs to another principal",
        "killed": f"Policy denied: Kill switch is active for session {session}-k",
        "failed": said["failed"],
    }
    for text in (*said.values(), schema):
        assert len(text) < 200
        for secret in ("4711", "acme", str(gateway.data_dir), "agent:bot", "olga", "rego", "Traceback", killed["id"]):
            assert secret not in text, text
    assert said["failed"].startswith("Tool execution failed: ")
