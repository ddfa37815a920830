"""A v0.2 caller's view: its requests, statuses, fields and texts over the real wire.

Where the design deviates from v0.2 (docs/architecture.md), the deviation is what is claimed here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import MANY_REFUSALS, SIGNING_KEY, STATIC_TOKEN
from tests.gateway import GatewayProcess, call, key_entry

AGENT_KEYS = {name: f"key-of-{name}" for name in ("bot-1", "bot-2", "bot-3", "bot-4", "bot-5")}

READS = [
    ("db_query", {"query": "SELECT id, name FROM products"}),
    ("file_read", {"path": "/data/readme.txt"}),
    ("api_get", {"endpoint": "/users"}),
    ("rate_limited_tool", {"anything": 1}),
]
WRITES: list[tuple[str, dict[str, Any]]] = [
    ("db_insert", {"table": "products", "data": {"name": "Gadget"}}),
    ("db_update", {"table": "products", "set": {"name": "Renamed"}, "where": {"id": 1}}),
    ("file_write", {"path": "/notes.txt", "content": "hello"}),
    ("api_post", {"endpoint": "/orders", "payload": {"sku": "a"}}),
]


@pytest.fixture(scope="module")
def keyed() -> Iterator[GatewayProcess]:
    """A gateway with agents' keys: rate limits are theirs, so each test takes an agent of its own."""
    keys = [key_entry(secret, agent=name) for name, secret in AGENT_KEYS.items()]
    with GatewayProcess(config={**MANY_REFUSALS, "auth": {"keys": keys}}) as process:
        yield process


# --- POST /tools/call -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tool", "arguments"), READS)
def test_a_read_is_allowed(gateway: GatewayProcess, session: str, tool: str, arguments: dict[str, Any]) -> None:
    if tool == "file_read":
        gateway.call(
            "file_write", {"path": "/data/readme.txt", "content": "x"}, session=session, approval_token=STATIC_TOKEN
        )
    answer = gateway.call(tool, arguments, session=session)
    assert answer["success"] is True, answer
    assert answer["error"] is None
    assert isinstance(answer["result"], dict)
    assert uuid.UUID(answer["trace_id"]).version == 4
    assert (answer["decision"], answer["reason_code"]) == ("ALLOW", "ok")


def test_a_query_answers_rows(gateway: GatewayProcess, session: str) -> None:
    answer = gateway.call("db_query", {"query": "SELECT id, name FROM products"}, session=session)
    assert answer["result"]["rows"][0]["id"] == 1
    assert answer["result"]["query"] == "SELECT id, name FROM products"


def test_a_read_with_token_and_context_is_allowed_too(gateway: GatewayProcess, session: str) -> None:
    more = {"approval_token": STATIC_TOKEN, "context": {"user_id": "u", "nested": [1, {"a": None}]}}
    assert gateway.call("db_query", {"query": "SELECT 1"}, session=session, **more)["success"] is True
    assert gateway.call("db_query", {"query": "SELECT 1"}, session=session, approval_token=None)["success"] is True


@pytest.mark.parametrize(("tool", "arguments"), WRITES)
def test_a_write_without_a_token_wants_an_approval(
    gateway: GatewayProcess, session: str, tool: str, arguments: dict[str, Any]
) -> None:
    answer = gateway.call(tool, arguments, session=session)
    assert answer["success"] is False
    assert answer["result"] is None
    assert answer["error"].startswith("Approval required: ")
    assert (answer["decision"], answer["reason_code"]) == ("REQUIRE_APPROVAL", "approval_required")
    assert answer["approval"]["state"] == "pending"
    assert answer["approval"]["url"] == f"/approvals/{answer['approval']['id']}"


@pytest.mark.parametrize("token", ["fake_token_12345", "nope", "bad", "approved", STATIC_TOKEN + "x", "é", "\x00"])
@pytest.mark.parametrize(("tool", "arguments"), WRITES)
def test_a_write_with_a_made_up_token_wants_an_approval(
    gateway: GatewayProcess, session: str, tool: str, arguments: dict[str, Any], token: str
) -> None:
    answer = gateway.call(tool, arguments, session=session, approval_token=token)
    assert answer["success"] is False
    assert "Approval required" in answer["error"]


@pytest.mark.parametrize(("tool", "arguments"), WRITES)
def test_a_write_with_the_configured_static_token_runs(
    gateway: GatewayProcess, session: str, tool: str, arguments: dict[str, Any]
) -> None:
    answer = gateway.call(tool, arguments, session=session, approval_token=STATIC_TOKEN)
    assert answer["success"] is True, answer
    if tool == "db_update":
        assert answer["result"]["updated"] == 1


def test_an_unknown_tool_is_not_in_the_allowlist_even_with_a_token(gateway: GatewayProcess, session: str) -> None:
    for more in ({}, {"approval_token": STATIC_TOKEN}):
        answer = gateway.call("not_a_real_tool", {}, session=session, **more)
        assert answer["success"] is False
        assert "allowlist" in answer["error"]
        assert answer["error"].startswith("Policy denied: ")
        assert (answer["decision"], answer["reason_code"]) == ("DENY", "unknown_tool")


@pytest.mark.parametrize(
    "name",
    [
        *[
            "../../../etc/passwd",
            "tool/../secret",
            "tool%2F..%2Fsecret",
            "db query",
            "db/query",
            "db$query",
            "bad/name",
        ],
        *["a..b", "", " ", "db_query ", "db_query\n", "x" * 129],
    ],
)
def test_an_invalid_tool_name_is_422_with_v02s_text(gateway: GatewayProcess, session: str, name: str) -> None:
    answer = call(gateway.agent(), name, {}, session=session)
    assert answer.status_code == 422
    assert answer.json()["success"] is False
    assert "Invalid tool name" in answer.json()["error"]
    assert answer.json()["reason_code"] == "invalid_tool_name"


@pytest.mark.parametrize("name", ["", None, 7, "x" * 257, "x" * 10_000, " sid", "sid\0", "a/b", "sid\n", ".hidden"])
def test_an_invalid_session_id_is_422(gateway: GatewayProcess, name: object) -> None:
    body = {"session_id": name, "tool_name": "db_query", "arguments": {"query": "SELECT 1"}}
    answer = gateway.client().post("/tools/call", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"] == "Invalid request"
    assert answer.json()["message"] == "Request validation failed."
    assert "hint" in answer.json()


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "text",
        7,
        {"session_id": "s", "tool_name": "db_query"},
        {"session_id": "s", "tool_name": "db_query", "arguments": "str"},
        {"session_id": "s", "tool_name": "db_query", "arguments": None},
        {"session_id": "s", "tool_name": "db_query", "arguments": {}, "context": []},
        {"session_id": "s", "tool_name": "db_query", "arguments": {}, "approval_token": 7},
        {"session_id": "s", "tool_name": "db_query", "arguments": {}, "approval_token": ""},
        {"session_id": "s", "tool_name": "db_query", "arguments": {}, "approval_token": "x" * 513},
    ],
)
def test_what_is_no_call_is_422(gateway: GatewayProcess, body: object) -> None:
    answer = gateway.client().post("/tools/call", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"] == "Invalid request"


def test_arguments_fifty_deep_are_taken_and_seventy_are_not(gateway: GatewayProcess, session: str) -> None:
    def nested(depth: int) -> Any:
        return {"a": nested(depth - 1)} if depth else 1

    assert call(gateway.agent(), "rate_limited_tool", nested(50), session=session).status_code == 200
    assert call(gateway.agent(), "rate_limited_tool", nested(70), session=session).status_code == 400


def test_a_body_of_one_mib_and_a_byte_is_413(gateway: GatewayProcess) -> None:
    json = {"Content-Type": "application/json"}
    answer = gateway.client().post("/tools/call", content=b"[" + b" " * 1_048_575 + b"]", headers=json)
    assert answer.status_code == 413
    assert answer.json()["error"] == "Request body too large"
    exactly = gateway.client().post("/tools/call", content=b"[" + b" " * 1_048_574 + b"]", headers=json)
    assert exactly.status_code == 422


# --- rate limits ----------------------------------------------------------------------------------------------


def test_the_eleventh_call_of_a_limited_tool_is_refused(keyed: GatewayProcess) -> None:
    agent = keyed.agent(AGENT_KEYS["bot-1"])
    answers = [call(agent, "rate_limited_tool", {}).json() for _ in range(15)]
    assert [answer["success"] for answer in answers] == [True] * 10 + [False] * 5
    assert "rate limit" in answers[-1]["error"].lower()
    assert answers[-1]["reason_code"] == "rate_limited"


def test_limits_are_by_agent_so_neither_user_id_nor_session_starts_a_new_one(keyed: GatewayProcess) -> None:
    agent = keyed.agent(AGENT_KEYS["bot-2"])
    answers = [
        call(agent, "rate_limited_tool", {}, session=f"bot-2-{n}", context={"user_id": f"u-{n}"}).json()
        for n in range(12)
    ]
    assert [answer["success"] for answer in answers] == [True] * 10 + [False] * 2


def test_another_agent_has_a_limit_of_its_own(keyed: GatewayProcess) -> None:
    for name in ("bot-3", "bot-4"):
        agent = keyed.agent(AGENT_KEYS[name])
        assert all(call(agent, "rate_limited_tool", {}, session=name).json()["success"] for _ in range(10))


def test_limited_calls_carry_headers_and_remaining_counts_the_call(keyed: GatewayProcess) -> None:
    agent = keyed.agent(AGENT_KEYS["bot-5"])
    first = call(agent, "rate_limited_tool", {}, session="bot-5")
    second = call(agent, "rate_limited_tool", {}, session="bot-5")
    assert first.headers["X-RateLimit-Limit"] == "10"
    assert (first.headers["X-RateLimit-Remaining"], second.headers["X-RateLimit-Remaining"]) == ("9", "8")
    assert first.headers["X-RateLimit-Reset"].isdigit()
    assert "X-RateLimit-Limit" not in call(agent, "db_query", {"query": "SELECT 1"}, session="bot-5").headers


def test_with_keys_a_v02_caller_needs_one_header(keyed: GatewayProcess) -> None:
    assert call(keyed.agent(), "db_query", {"query": "SELECT 1"}).status_code == 401
    bearer = keyed.client(Authorization=f"Bearer {AGENT_KEYS['bot-1']}")
    assert call(bearer, "db_query", {"query": "SELECT 1"}, session="bearer").json()["success"] is True


# --- control ----------------------------------------------------------------------------------------------------


def test_every_call_of_a_killed_session_says_kill_switch(gateway: GatewayProcess, session: str) -> None:
    killed = gateway.admin().post(f"/sessions/{session}/kill", json={"reason": "loops"})
    assert killed.status_code == 200
    assert killed.json()["status"] == "killed"
    assert killed.json()["session_id"] == session
    for _ in range(10):
        answer = gateway.call("db_query", {"query": "SELECT 1"}, session=session)
        assert answer["success"] is False
        assert "kill switch" in answer["error"].lower()


def test_pause_stops_everybody_and_resume_lets_them_go_on(gateway: GatewayProcess, session: str) -> None:
    admin = gateway.admin()
    paused = admin.post("/system/pause").json()
    assert paused["status"] == "paused"
    assert "Kill switch" in gateway.call("db_query", {"query": "SELECT 1"}, session=session)["error"]
    resumed = admin.post("/system/resume").json()
    assert resumed["status"] == "resumed"
    assert gateway.call("db_query", {"query": "SELECT 1"}, session=session)["success"] is True


def test_a_killed_tool_answers_its_name_and_leaves_the_list(gateway: GatewayProcess, session: str) -> None:
    admin = gateway.admin()
    killed = admin.post("/tools/api_get/kill", json={"reason": None}).json()
    assert (killed["status"], killed["tool_name"]) == ("killed", "api_get")
    assert "api_get" not in gateway.agent().get("/tools/list").json()["tools"]
    assert "kill switch" in gateway.call("api_get", {"endpoint": "/users"}, session=session)["error"].lower()
    assert admin.post(f"/kills/{killed['id']}/release").json()["status"] == "released"
    assert gateway.call("api_get", {"endpoint": "/users"}, session=session)["success"] is True


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/sessions"),
        ("POST", "/sessions/s/kill"),
        ("POST", "/tools/db_query/kill"),
        ("POST", "/system/pause"),
        ("POST", "/system/resume"),
        ("GET", "/sessions/s/evidence"),
        ("POST", "/admin/policies/reload"),
    ],
)
def test_control_wants_the_admin_key_from_this_machine_too(gateway: GatewayProcess, method: str, path: str) -> None:
    keyless = gateway.client().request(method, path)
    assert keyless.status_code == 401
    assert keyless.json()["detail"] == "Missing admin credentials"
    wrong = gateway.client("wrong-key").request(method, path)
    assert wrong.status_code == 403
    assert wrong.json()["detail"] == "Invalid API key"


# --- lists, evidence, health ------------------------------------------------------------------------------------


def test_tools_list_has_reads_and_ignores_v02s_parameter(gateway: GatewayProcess) -> None:
    for path in ("/tools/list", "/tools/list?session_id=anonymous"):
        answer = gateway.agent().get(path)
        assert answer.status_code == 200
        assert answer.json() == {"tools": ["db_query", "file_read", "api_get", "rate_limited_tool", "slow"]}


def test_sessions_lists_what_was_called(gateway: GatewayProcess, session: str) -> None:
    gateway.call("db_query", {"query": "SELECT 1"}, session=session)
    sessions = gateway.admin().get("/sessions").json()["sessions"]
    assert session in sessions
    assert sessions == sorted(sessions)


def test_evidence_keeps_v02s_seven_keys(gateway: GatewayProcess, session: str) -> None:
    gateway.call("unknown_tool", {}, session=session)
    gateway.call("db_query", {"query": "SELECT 'p4ssw0rd-literal'"}, session=session)
    answer = gateway.admin().get(f"/sessions/{session}/evidence?format=json")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    pack = answer.json()
    sections = {"metadata", "summary", "timeline", "policy_analysis", "write_action_log", "anomalies", "integrity"}
    assert set(pack) == sections
    assert pack["metadata"]["session_id"] == session
    assert [entry["decision"] for entry in pack["timeline"]] == ["DENY", "ALLOW"]
    assert pack["summary"]["by_decision"] == {"ALLOW": 1, "DENY": 1, "REQUIRE_APPROVAL": 0}
    assert pack["integrity"]["signature_algorithm"] == "hmac-sha256"
    assert "p4ssw0rd-literal" not in answer.text
    assert SIGNING_KEY not in answer.text


def test_evidence_of_an_unknown_session_is_an_empty_pack(gateway: GatewayProcess, session: str) -> None:
    answer = gateway.admin().get(f"/sessions/{session}/evidence")
    assert answer.status_code == 200
    assert answer.json()["timeline"] == []


def test_an_unknown_evidence_format_is_400(gateway: GatewayProcess, session: str) -> None:
    answer = gateway.admin().get(f"/sessions/{session}/evidence?format=htm")
    assert answer.status_code == 400
    assert answer.json()["error"] == "Invalid format"
    assert answer.json()["received"] == "htm"


def test_reload_answers_status_path_and_count(gateway: GatewayProcess) -> None:
    answer = gateway.admin().post("/admin/policies/reload")
    assert answer.status_code == 200
    assert answer.json()["status"] == "reloaded"
    assert answer.json()["tools_count"] == 9
    assert answer.json()["policy_path"]
    assert answer.json()["policy_revision"] == gateway.client().get("/health").json()["policy_revision"]


def test_health_says_v02s_four_fields(gateway: GatewayProcess) -> None:
    health = gateway.client().get("/health").json()
    assert health["status"] == "ok"
    assert (health["opa"], health["redis"]) == (True, True)
    assert health["version"]
    assert gateway.client().get("/healthz").json() == {"status": "ok"}
    assert gateway.client().get("/readyz").json()["status"] == "ready"


def test_metrics_are_prometheus_text_with_v02s_names(gateway: GatewayProcess, session: str) -> None:
    gateway.call("db_query", {"query": "SELECT 1"}, session=session)
    answer = gateway.client().get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    for name in (
        'agentgate_tool_calls_total{decision="ALLOW",tool="db_query"}',
        'agentgate_request_duration_seconds_bucket{endpoint="tools_call",le="0.005"}',
        "agentgate_kill_switch_activations_total",
        "agentgate_policy_evaluations_total{",
        "agentgate_rate_limit_hits_total",
        "agentgate_active_sessions",
        "agentgate_evidence_exports_total",
        'agentgate_health_status{dependency="opa"}',
    ):
        assert name in answer.text, name


def test_a_correlation_id_is_echoed_or_made(gateway: GatewayProcess) -> None:
    for path in ("/health", "/tools/list", "/nope", "/docs"):
        assert gateway.client(**{"X-Correlation-ID": "corr-test"}).get(path).headers["X-Correlation-ID"] == "corr-test"
        assert uuid.UUID(gateway.client().get(path).headers["X-Correlation-ID"]).version == 4


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_documentation_is_served(gateway: GatewayProcess, path: str) -> None:
    assert gateway.client().get(path).status_code == 200
