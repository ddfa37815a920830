"""Every refusal of a door is a problem document (RFC 9457), and nothing makes a door fail."""

from __future__ import annotations

import json
import random
from http import HTTPStatus

import pytest

from agentgate.core.errors import ReasonCode
from agentgate.edges.problem import Problem, method_not_allowed
from tests.edges.conftest import key_of
from tests.gateway import GatewayProcess, exchange, post, statuses

AGENT, ADMIN = f"X-API-Key: {key_of('agent')}", f"X-API-Key: {key_of('admin')}"
CALL = b'{"session_id":"s","tool_name":"db_query","arguments":{"query":"SELECT 1"}}'

REFUSED = {
    "400 json": (400, "malformed_json", post("/tools/call", b"{", AGENT)),
    "400 json, control": (400, "malformed_json", post("/kills", b"{", ADMIN)),
    "400 twice": (400, "invalid_request", post("/kills", b"{}", ADMIN, ADMIN)),
    "401": (401, "unauthenticated", post("/kills", b"{}")),
    "401 agent": (401, "unauthenticated", post("/tools/call", CALL)),
    "401 wrong": (401, "invalid_key", post("/tools/call", CALL, "X-API-Key: x")),
    "403 wrong": (403, "invalid_key", post("/system/pause", b"", "X-API-Key: x")),
    "403 role": (403, "forbidden", post("/system/pause", b"", AGENT)),
    "403 role, agent": (403, "forbidden", post("/tools/call", CALL, f"X-API-Key: {key_of('auditor')}")),
    "403 origin": (403, "origin_not_allowed", post("/tools/call", CALL, AGENT, "Origin: https://evil.example")),
    "404": (404, "not_found", post("/nope", b"{}")),
    "404 kill": (404, "not_found", post("/kills/none/release", b"{}", ADMIN)),
    "405": (405, "method_not_allowed", post("/health", b"{}")),
    "405 hot": (405, "method_not_allowed", post("/tools/list", b"{}", AGENT)),
    "413": (413, "body_too_large", post("/tools/call", b" " * 1_048_577, AGENT)),
    "413 control": (413, "body_too_large", post("/kills", b" " * 1_048_577, ADMIN)),
    "415": (415, "unsupported_media_type", post("/tools/call", CALL, AGENT, "Content-Type: text/plain")),
    "415 control": (415, "unsupported_media_type", post("/kills", CALL, ADMIN, "Content-Type: text/plain")),
    "421": (421, "host_not_allowed", post("/tools/call", CALL, AGENT, host="evil.example")),
    "422": (422, "invalid_request", post("/tools/call", b"[]", AGENT)),
    "422 tool": (422, "invalid_tool_name", post("/tools/call", CALL.replace(b"db_query", b"a/b"), AGENT)),
    "422 control": (422, "invalid_request", post("/kills", b"{}", ADMIN)),
}


@pytest.mark.parametrize("which", REFUSED)
def test_a_refusal_is_a_problem_document(gateway: GatewayProcess, which: str) -> None:
    status, reason, raw = REFUSED[which]
    head, _, body = exchange(gateway.port, raw).partition(b"\r\n\r\n")
    assert statuses(head) == [status], head
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x-correlation-id"]
    document = json.loads(body)
    assert document["type"] == f"urn:agentgate:reason:{reason}"
    assert (document["status"], document["reason_code"]) == (status, reason)
    assert document["title"] == HTTPStatus(status).phrase
    assert document["detail"]
    assert document["error"]
    if status == 401:
        assert headers[b"www-authenticate"].startswith(b"bearer")
    if status == 405:
        assert headers[b"allow"]


def test_every_reason_can_be_a_problem() -> None:
    for reason in ReasonCode:
        document = json.loads(Problem(503, reason, "é").body())
        assert document["reason_code"] == reason.value


def test_a_405_names_head_with_get() -> None:
    assert method_not_allowed(["POST", "GET"]).headers == {"Allow": "GET, HEAD, POST"}
    assert method_not_allowed(["POST"]).headers == {"Allow": "POST"}


GRAINS = [
    *[b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"\x00", b"\xff", b"\xc3\x28"],
    *[b"1e999", b"-0", b"NaN", b"null", b"true", b"9" * 400, b"0." + b"1" * 400, b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80"],
    *[
        b'"session_id":',
        b'"tool_name":',
        b'"arguments":',
        b'"context":',
        b'"approval_token":',
        b'"scope":',
        b'"target":',
    ],
    *[b'"db_query"', b'"s"', b'"global"', b'"reason":', b'"id":', b'"expires_in_s":', b'"force":', b"{}", b"[]", b" "],
]
PATHS = [
    *["/tools/call", "/kills", "/sessions/s/kill", "/tools/x/kill", "/kills/x/release", "/approvals/x/approve"],
    *["/approvals/x/deny", "/system/resume", "/sessions/s/evidence", "/approvals", "/nope", "/"],
]


def noise(random_: random.Random) -> bytes:
    """A body: a well-formed one with damage, or a heap of grains."""
    if random_.random() < 0.5:
        body = bytearray(random_.choice([CALL, b'{"scope":"session","target":"s","reason":"x","expires_in_s":5}']))
        for _ in range(random_.randint(0, 4)):
            at = random_.randrange(len(body))
            body[at : at + random_.randint(0, 3)] = random_.choice(GRAINS)
        return bytes(body)
    return b"".join(random_.choices(GRAINS, k=random_.randint(0, 40)))


@pytest.mark.parametrize("seed", range(5))
def test_no_body_is_a_5xx(gateway: GatewayProcess, seed: int) -> None:
    random_ = random.Random(seed)
    for _ in range(150):
        raw = post(random_.choice(PATHS), noise(random_), random_.choice([AGENT, ADMIN]))
        said = exchange(gateway.port, raw)
        assert len(statuses(said)) == 1, raw
        assert statuses(said)[0] < 500, (raw, said)
        assert b"Traceback" not in said


@pytest.mark.parametrize("seed", range(3))
def test_no_head_is_a_5xx(gateway: GatewayProcess, seed: int) -> None:
    random_ = random.Random(seed)
    names = [
        "X-API-Key",
        "Authorization",
        "Origin",
        "traceparent",
        "X-Correlation-ID",
        "Cookie",
        "X-Forwarded-For",
        "Range",
    ]
    values = [
        "",
        "é",
        "\xff",
        "Bearer",
        "Bearer \xff",
        "a" * 5000,
        '"',
        "%00",
        "../..",
        "null",
        "{}",
        "bytes=0-1",
        key_of("admin"),
    ]
    paths = [
        *PATHS,
        "/%00",
        "/%ff",
        "/%F0%9F%98%80",
        "/a" * 500,
        "/kills/%2e%2e",
        "/approvals?state=%00",
        "/docs/assets/%00",
    ]
    for _ in range(150):
        method = random_.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH"])
        headers = [f"{random_.choice(names)}: {random_.choice(values)}" for _ in range(random_.randint(0, 4))]
        raw = post(random_.choice(paths), b"{}", *headers).replace(b"POST", method.encode(), 1)
        said = exchange(gateway.port, raw)
        assert statuses(said)[0] < 500 or statuses(said)[0] == 501, (raw, said)


def test_the_gateway_never_said_that_something_failed(gateway: GatewayProcess) -> None:
    assert "Traceback" not in gateway.stderr
    assert gateway.metric("agentgate_faults_total") == 0
