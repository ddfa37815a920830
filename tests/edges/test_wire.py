"""What every request must be before any route sees it: over a real socket, byte by byte where that matters."""

from __future__ import annotations

import gzip
import itertools
import json
import time
import zlib

import pytest

from tests.edges.conftest import key_of
from tests.gateway import GatewayProcess, exchange, post, resident_bytes, statuses

CALL = b'{"session_id":"s","tool_name":"rate_limited_tool","arguments":%s}'
GOOD = CALL % b"{}"
AGENT = f"X-API-Key: {key_of('agent')}"
ADMIN = f"X-API-Key: {key_of('admin')}"

NOT_STRICT = {
    "duplicate key": b'{"session_id":"a","session_id":"b"}',
    "duplicate key, escaped": b'{"scope":"global","\\u0073cope":"session"}',
    "duplicate key, deep": b'{"arguments":{"a":[{"b":1,"b":2}]}}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "1e999": b'{"a":1e999}',
    "-1e999": b'{"a":-1e999}',
    "2^53": b'{"a":9007199254740992}',
    "-2^53": b'{"a":-9007199254740992}',
    "an integer of 5000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone surrogate as a key": b'{"\\udfff":1}',
    "surrogate in raw bytes": b'{"a":"\xed\xa0\x80"}',
    "invalid UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without BOM": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "65 deep": b'{"a":' * 65 + b"1" + b"}" * 65,
    "100,000 deep": b"[" * 100_000,
    "a comment": b'{"a":1}//x',
    "trailing comma": b'{"a":1,}',
    "two values": b"{}{}",
    "single quotes": b"{'a':1}",
    "control character": b'{"a":"\n"}',
    "NUL": b"\x00",
    "white space only": b"   ",
    "nothing closed": b'{"a":',
    "leading zero": b'{"a":01}',
    "plus sign": b'{"a":+1}',
    "hexadecimal": b'{"a":0x1}',
    "Python's True": b'{"a":True}',
}
DOORS = [
    ("/tools/call", AGENT),
    ("/kills", ADMIN),
    ("/sessions/s-json/kill", ADMIN),
    ("/system/resume", ADMIN),
    ("/kills/none/release", ADMIN),
    ("/approvals/none/approve", ADMIN),
    ("/admin/policies/reload", ADMIN),
]


@pytest.mark.parametrize(("path", "key"), DOORS, ids=[path for path, _ in DOORS])
@pytest.mark.parametrize("what", NOT_STRICT)
def test_every_door_refuses_what_is_not_strict_json(gateway: GatewayProcess, what: str, path: str, key: str) -> None:
    said = exchange(gateway.port, post(path, NOT_STRICT[what], key))
    assert statuses(said) == [400], said[:300]
    assert b'"reason_code":"malformed_json"' in said
    assert b"application/problem+json" in said


def test_refusing_changed_nothing(gateway: GatewayProcess) -> None:
    kills = gateway.client(key_of("operator")).get("/kills").json()["kills"]
    assert [kill for kill in kills if kill["scope"] == "global" or kill["target"] == "s-json"] == []


@pytest.mark.parametrize(
    "body",
    [
        *[b'{"a":9007199254740991}', b'{"a":-0}', b'{"a":1e308}', b'{"a":"\\ud83d\\ude00"}', b'{"a":"\\u0000"}'],
        *[b'{"a":' * 60 + b"1" + b"}" * 60, '{"ä":"ß"}'.encode(), b'{"":{}}', b'{"__proto__":1,"constructor":2}'],
    ],
)
def test_strict_json_is_taken(gateway: GatewayProcess, body: bytes) -> None:
    said = exchange(gateway.port, post("/tools/call", CALL % body, AGENT))
    assert statuses(said) == [200]


def test_a_depth_bomb_is_refused_quickly_and_costs_no_memory(gateway: GatewayProcess) -> None:
    before = resident_bytes(gateway.pid)
    started = time.monotonic()
    assert statuses(exchange(gateway.port, post("/tools/call", b"[" * 1_000_000, AGENT))) == [400]
    assert time.monotonic() - started < 1
    assert resident_bytes(gateway.pid) - before < 30_000_000


# --- body limit -----------------------------------------------------------------------------------------------


def chunked(path: str, key: str, pieces: int, piece: bytes) -> itertools.chain[bytes]:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{key}\r\n"
    head += "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    return itertools.chain([head.encode()], itertools.repeat(chunk, pieces), [b"0\r\n\r\n"])


@pytest.mark.parametrize(("path", "key"), [DOORS[0], DOORS[1]], ids=["hot", "framework"])
def test_a_chunked_body_is_counted_while_it_drips(gateway: GatewayProcess, path: str, key: str) -> None:
    before = resident_bytes(gateway.pid)
    said = exchange(gateway.port, chunked(path, key, 20_000, b" " * 5_000))  # 100 MB, if it were read
    assert statuses(said) in ([413], [])  # an answer that overtakes the sender can be lost to its reset
    assert resident_bytes(gateway.pid) - before < 20_000_000
    said = exchange(gateway.port, chunked(path, key, 210, b" " * 5_000))  # just over, all of it on its way
    assert statuses(said) == [413]
    assert b'"error":"Request body too large"' in said


@pytest.mark.parametrize(("path", "key"), [DOORS[0], DOORS[1]], ids=["hot", "framework"])
def test_a_declared_length_over_the_limit_is_refused_before_the_body(
    gateway: GatewayProcess, path: str, key: str
) -> None:
    for length in ("1048577", "104857600", "999999999999999999"):
        said = exchange(gateway.port, post(path, b"", key, f"Content-Length: {length}"), timeout_s=2)
        assert statuses(said) == [413], length


def test_a_chunked_body_within_the_limit_is_a_body(gateway: GatewayProcess) -> None:
    pieces = chunked("/tools/call", AGENT, 1, GOOD)
    assert statuses(exchange(gateway.port, pieces)) == [200]


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "0x10", "9" * 30, "+5", "5, 5", "", "1 2"])
def test_a_false_content_length_is_400_or_413(gateway: GatewayProcess, length: str) -> None:
    said = exchange(gateway.port, post("/tools/call", GOOD, AGENT, f"Content-Length: {length}"), timeout_s=2)
    assert statuses(said)[:1] in ([400], [413]), said[:200]


def test_more_bytes_than_declared_are_not_part_of_the_body(gateway: GatewayProcess) -> None:
    raw = post("/tools/call", GOOD, AGENT, f"Content-Length: {len(GOOD) - 1}")
    assert statuses(exchange(gateway.port, raw))[0] == 400


def test_a_body_that_never_comes_leaves_others_alone(gateway: GatewayProcess) -> None:
    said = exchange(gateway.port, post("/tools/call", GOOD[:10], AGENT, f"Content-Length: {len(GOOD)}"), timeout_s=0.3)
    assert said == b""
    assert statuses(exchange(gateway.port, post("/tools/call", GOOD, AGENT))) == [200]


# --- content types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "key"), [DOORS[0], DOORS[1]], ids=["hot", "framework"])
@pytest.mark.parametrize(
    "content_type",
    [
        *[
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
            "application/jsonp",
        ],
        *["application/json; charset=utf-16", "application/json; charset=latin-1", "application/json, text/plain"],
        *["application/json-patch+json", "application/vnd.api+json", "text/json", "*/*", "application/json;;"],
    ],
)
def test_only_application_json_is_taken(gateway: GatewayProcess, path: str, key: str, content_type: str) -> None:
    said = exchange(gateway.port, post(path, GOOD, key, f"Content-Type: {content_type}"))
    assert statuses(said) == [415]
    assert b"unsupported_media_type" in said


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'])
def test_utf8_may_be_said(gateway: GatewayProcess, content_type: str) -> None:
    assert statuses(exchange(gateway.port, post("/tools/call", GOOD, AGENT, f"Content-Type: {content_type}"))) == [200]


@pytest.mark.parametrize(("path", "key"), [DOORS[0], DOORS[1]], ids=["hot", "framework"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity", "identity, gzip", "x"])
def test_a_compressed_body_is_refused_unopened(gateway: GatewayProcess, path: str, key: str, encoding: str) -> None:
    body = gzip.compress(b" " * 900_000_0) if "gzip" in encoding.lower() else zlib.compress(GOOD)
    said = exchange(gateway.port, post(path, body, key, f"Content-Encoding: {encoding}"))
    assert statuses(said) == [415]


# --- host and origin ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhost"],
        *["", "0.0.0.0", "[::2]", "[::1", "127.0.0.2", "2130706433", "gate.example.org.", "xgate.example.org"],
        *["localhost:80@evil.example", "localhost:evil", "evil.example#localhost", "localhost, evil.example"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/tools/call", "/kills", "/nope"])
def test_a_host_name_that_is_not_ours_is_421(gateway: GatewayProcess, path: str, host: str) -> None:
    said = exchange(gateway.port, post(path, GOOD, ADMIN, host=host))
    assert statuses(said)[0] in (421, 400), said[:200]
    assert b'"success":true' not in said


@pytest.mark.parametrize(
    "host",
    [
        *["localhost", "127.0.0.1:1", "[::1]:8000", "gate.example.org", "GATE.example.org:443"],
        *["[2001:db8::1]:8443", "[2001:DB8:0:0::0001]", "[::0001]"],
    ],
)
def test_the_configured_names_are_ours(gateway: GatewayProcess, host: str) -> None:
    assert statuses(exchange(gateway.port, post("/tools/call", GOOD, AGENT, host=host))) == [200]


@pytest.mark.parametrize(
    "origin",
    [
        *["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1:1", "file://", ""],
        *["https://ops.example.org.evil.example", "http://ops.example.org", "https://ops.example.org:8443", "\xe9"],
    ],
)
@pytest.mark.parametrize("path", ["/tools/call", "/kills", "/system/pause"])
def test_another_web_origin_is_403(gateway: GatewayProcess, path: str, origin: str) -> None:
    said = exchange(gateway.port, post(path, GOOD, ADMIN, f"Origin: {origin}"))
    assert statuses(said) == [403]
    assert b"origin_not_allowed" in said


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "https://ops.example.org", "HTTPS://OPS.EXAMPLE.ORG"])
def test_our_own_and_configured_origins_may_call(gateway: GatewayProcess, origin: str) -> None:
    assert statuses(exchange(gateway.port, post("/tools/call", GOOD, AGENT, f"Origin: {origin}"))) == [200]


# --- headers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: localhost", "Host: localhost"),
        ("Host: localhost", "Host: evil.example"),
        ("Content-Type: application/json", "Content-Type: text/plain"),
        ("Origin: http://127.0.0.1", "Origin: https://evil.example"),
        (AGENT, AGENT),
        (AGENT, ADMIN),
        ("Authorization: Bearer a", "Authorization: Bearer b"),
        ("Content-Encoding: identity", "Content-Encoding: gzip"),
        ("X-Correlation-ID: a", "X-Correlation-ID: b"),
        ("traceparent: a", "traceparent: b"),
        (f"Content-Length: {len(GOOD)}", f"Content-Length: {len(GOOD)}"),
    ],
    ids=lambda headers: headers[0].partition(":")[0] + " " + headers[1][-4:],
)
@pytest.mark.parametrize("path", ["/tools/call", "/kills"])
def test_a_header_that_decides_something_may_not_come_twice(
    gateway: GatewayProcess, path: str, headers: tuple[str, str]
) -> None:
    assert statuses(exchange(gateway.port, post(path, GOOD, *headers)))[0] == 400


@pytest.mark.parametrize("given", ["corr-1", "a.b:c_d", "0" * 128])
@pytest.mark.parametrize("path", ["/tools/call", "/kills", "/nope"])
def test_a_correlation_id_comes_back(gateway: GatewayProcess, path: str, given: str) -> None:
    said = exchange(gateway.port, post(path, GOOD, ADMIN, f"X-Correlation-ID: {given}"))
    assert f"x-correlation-id: {given}\r\n".encode() in said.lower().replace(given.lower().encode(), given.encode())


@pytest.mark.parametrize("given", ["0" * 129, "a b", "<script>", "é", "a\tb", ""])
def test_a_correlation_id_that_is_none_is_replaced(gateway: GatewayProcess, given: str) -> None:
    said = exchange(gateway.port, post("/tools/call", GOOD, AGENT, f"X-Correlation-ID: {given}"))
    assert statuses(said) == [200]
    line = next(line for line in said.split(b"\r\n") if line.lower().startswith(b"x-correlation-id:"))
    assert len(line.split(b": ")[1]) == 36


def test_a_traceparent_is_on_record_and_a_malformed_one_is_ignored(gateway: GatewayProcess) -> None:
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for value in (good, "00-zz", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"):
        assert statuses(exchange(gateway.port, post("/tools/call", GOOD, AGENT, f"traceparent: {value}"))) == [200]
    evidence = gateway.client(key_of("auditor")).get("/sessions/s/evidence").json()
    leaves = [json.loads(event["leaf"]) for event in evidence["integrity"]["events"]]
    assert [leaf["traceparent"] for leaf in leaves if "traceparent" in leaf and leaf["kind"] == "decided"] == [good]
