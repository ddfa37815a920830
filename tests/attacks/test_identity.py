"""Attacks by being somebody else, or the same one under another name."""

from __future__ import annotations

import ast
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentgate.settings import DEFAULT_SECRETS
from tests.attacks.conftest import APPROVER, AUDITOR, BOT, NEWCOMER, OPERATOR, OTHER, STATIC_TOKEN, reached
from tests.gateway import GatewayFailed, GatewayProcess, call, key_entry, run_cli

QUERY = {"query": "SELECT 1"}
SOURCES = Path(__file__).parents[2] / "src" / "agentgate"


def test_session_hijack(gateway: GatewayProcess, session: str) -> None:
    """A20: a session id that was guessed is of no use to another principal."""
    call(gateway.client(BOT), "db_query", QUERY, session=session)
    for tool, arguments in (("db_query", QUERY), ("slow", {"seconds": 0}), ("rate_limited_tool", {})):
        stolen = call(gateway.client(OTHER), tool, arguments, session=session).json()
        assert (stolen["success"], stolen["reason_code"]) == (False, "foreign_session")
    assert reached(gateway, session) == 1


def at_mcp(client: httpx.Client, session: str | None = None, **headers: str) -> dict[str, Any]:
    """The `_meta` of the answer to a call at the MCP door, with what is told to the model."""
    about = {"protocolVersion": "2026-07-28", "clientCapabilities": {}}
    meta: dict[str, Any] = {f"io.modelcontextprotocol/{name}": value for name, value in about.items()}
    meta |= {"dev.agentgate/session": session} if session is not None else {}
    params = {"name": "db_query", "arguments": QUERY, "_meta": meta}
    headers |= {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "db_query"}
    headers |= {"Accept": "application/json, text/event-stream"}
    said = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    result = client.post("/mcp", json=said, headers=headers).json()["result"]
    told = {name.removeprefix("dev.agentgate/"): value for name, value in result["_meta"].items()}
    return {"reason_code": told.get("reasonCode", "ok"), "trace_id": told["traceId"]}


def enveloped(client: httpx.Client, agent: str, **more: str) -> dict[str, Any]:
    said = {"agent_id": agent, "agent_version": "1", "request_id": str(uuid.uuid4()), "tool": "db_query"}
    answer = client.post("/api/tools/call", json={**said, "arguments": QUERY, **more}).json()
    return {"reason_code": answer["reason_code"], "trace_id": answer["audit_id"]}


@pytest.mark.parametrize("target", ["mcp-newcomer", "envelope-newcomer"])
def test_the_session_that_a_door_will_give_cannot_be_had_before(gateway: GatewayProcess, target: str) -> None:
    """A20: its id can be guessed, and whoever were first in it would lock its agent out; so would one refusal."""
    thief, admin = gateway.client(OTHER), gateway.admin()
    for answer, reason, own in (
        (call(thief, "no_such_tool", session=target).json(), "foreign_session", "mcp-other"),
        (call(thief, "db_query", QUERY, session=target).json(), "foreign_session", "mcp-other"),
        (enveloped(thief, "other", session_id=target), "foreign_session", "envelope-other"),
        (enveloped(thief, "newcomer", session_id=target), "forbidden", "envelope-other"),
        (at_mcp(thief, target), "foreign_session", "mcp-other"),
        (at_mcp(thief, **{"AgentGate-Session": target}), "foreign_session", "mcp-other"),
    ):
        (record,) = admin.get("/audit", params={"trace_id": answer["trace_id"]}).json()["events"]
        event = record["event"]
        assert answer["reason_code"] == event["reason_code"] == reason
        assert (event["principal"], event["session"], event["decision"]) == ("agent:other", own, "DENY")
    assert target not in admin.get("/sessions").json()["sessions"]
    newcomer = gateway.client(NEWCOMER)
    answer = at_mcp(newcomer) if target.startswith("mcp-") else enveloped(newcomer, "newcomer")
    assert answer["reason_code"] == "ok"
    assert reached(gateway, target) == 1
    assert call(newcomer, "db_query", QUERY, session=target).json()["success"] is True


def test_foreign_ids(gateway: GatewayProcess) -> None:
    """A21: an id that is another tenant's is an id that does not exist (tests/edges/test_operator.py has them all)."""
    admin = gateway.admin()
    for path in ("/kills/x", "/approvals/x"):
        assert admin.get(path).status_code == 404


@pytest.mark.parametrize("key", [BOT, OTHER, AUDITOR, APPROVER, OPERATOR])
def test_role_escalation(gateway: GatewayProcess, key: str) -> None:
    """A22: nobody but the admin releases, resumes or reloads (tests/edges/test_routes.py has every route)."""
    for path in ("/kills/x/release", "/system/resume", "/admin/policies/reload"):
        assert gateway.client(key).post(path).status_code == 403


SECRETS = [*sorted(DEFAULT_SECRETS), *["short", "a" * 40, "abababababababababab", "123", "change-me"]]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("variable", ["ADMIN_API_KEY", "SIGNING_KEY", "APPROVAL_TOKEN", "WEBHOOK_SECRET"])
def test_default_secrets(secret: str, variable: str) -> None:
    """A23: a secret that everybody knows or guesses stops the start (here its settings; two whole starts below)."""
    from agentgate import settings
    from agentgate.core.errors import UnsafeConfiguration

    with pytest.raises(UnsafeConfiguration) as refused:
        settings.load({f"AGENTGATE_{variable}": secret})
    assert variable in str(refused.value)
    assert secret not in str(refused.value) or secret in ("short", "123")


def test_a_default_secret_stops_the_whole_start() -> None:
    """A23: with an exit status that a supervisor sees, and without the secret in what is said."""
    secret = "admin-secret-change-me"
    with pytest.raises(GatewayFailed) as failed, GatewayProcess(env={"AGENTGATE_ADMIN_API_KEY": secret}):
        pass
    assert failed.value.status == 3
    assert secret not in failed.value.stderr
    same = "one-secret-for-two-things"
    done = run_cli("serve", env={"AGENTGATE_ADMIN_API_KEY": same, "AGENTGATE_SIGNING_KEY": same})
    assert done.returncode == 3
    assert same not in done.stderr


SECRET_WORDS = ("secret", "token", "signature", "hmac", "mac", "password", "api_key")
COMPARED_BY_THE_CALLER_ALONE = {("edges/caller.py", "presented")}
"""Two headers of one request with each other: no secret of ours is in it."""


def test_timing_of_comparisons() -> None:
    """A24: no secret is compared by ==; keys are looked up by digest, tokens by hmac.compare_digest."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            place = (path.relative_to(SOURCES).as_posix(), function.name)
            for node in ast.walk(function):
                if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
                    continue
                sides = [node.left, *node.comparators]
                names = {
                    side.id if isinstance(side, ast.Name) else side.attr
                    for side in sides
                    if isinstance(side, ast.Name | ast.Attribute)
                }
                constant = any(isinstance(side, ast.Constant) for side in sides)
                if not constant and any(name.split("_")[-1] in SECRET_WORDS for name in names):
                    found.append((*place, node.lineno))
    assert [entry for entry in found if entry[:2] not in COMPARED_BY_THE_CALLER_ALONE] == []


def test_approval_replay(gateway: GatewayProcess, session: str) -> None:
    """A25: fifty redemptions of one approval at once, with and without its token, run one write."""
    write = {"table": "products", "data": {"name": session}}
    asked = call(gateway.client(BOT), "db_insert", write, session=session).json()
    token = gateway.client(APPROVER).post(asked["approval"]["url"] + "/approve").json()["approval_token"]
    bots = [gateway.client(BOT) for _ in range(10)]

    def redeem(n: int) -> bool:
        more = {"approval_token": token} if n % 2 else {}
        return bool(call(bots[n % 10], "db_insert", write, session=session, **more).json()["success"])

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(redeem, range(50))) == 1
    assert reached(gateway, session) == 1


def test_arguments_changed_after_approval(gateway: GatewayProcess, session: str) -> None:
    """A26: an approval is for these very bytes of meaning."""
    client = gateway.client(BOT)
    write = {"table": "products", "data": {"name": session, "price": 1}}
    asked = call(client, "db_insert", write, session=session).json()
    token = gateway.client(APPROVER).post(asked["approval"]["url"] + "/approve").json()["approval_token"]
    for changed in (
        {"table": "products", "data": {"name": session, "price": 2}},
        {"table": "products", "data": {"name": session, "price": 1.5}},
        {"table": "products", "data": {"name": session, "price": "1"}},
        {"table": "products", "data": {"name": session, "price": None}},
        {"table": "products", "data": {"name": session.upper(), "price": 1}},
        {"table": "orders", "data": {"name": session, "price": 1}},
        {"table": "products"},
    ):
        answer = call(client, "db_insert", changed, session=session, approval_token=token).json()
        assert (answer["success"], answer["decision"]) == (False, "REQUIRE_APPROVAL"), changed
    assert reached(gateway, session) == 0
    same = call(client, "db_insert", {"data": {"price": 1, "name": session}, "table": "products"}, session=session)
    assert same.json()["success"] is True


def test_approving_by_a_link(gateway: GatewayProcess, session: str) -> None:
    """A30: nothing is approved, killed or resumed by a GET, and a form of another site is refused."""
    write = {"table": "products", "data": {"name": session}}
    url = call(gateway.client(BOT), "db_insert", write, session=session).json()["approval"]["url"]
    approver = gateway.client(APPROVER)
    assert approver.get(url + "/approve").status_code == 405
    form = approver.post(url + "/approve", data={"x": "y"})
    assert form.status_code == 415
    for origin in ("https://evil.example", "null"):
        assert approver.post(url + "/approve", headers={"Origin": origin}).status_code == 403
    assert approver.get(url).json()["state"] == "pending"


def test_rebinding(gateway: GatewayProcess, session: str) -> None:
    """A38: a name of the attacker's that points here is not served, nor is a page of the attacker's."""
    body = {"session_id": session, "tool_name": "db_query", "arguments": QUERY}
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": f"evil.example:{gateway.port}"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
    ):
        assert gateway.client(BOT).post("/tools/call", json=body, headers=headers).status_code == status
        assert gateway.admin().get("/sessions", headers=headers).status_code == status
    assert reached(gateway, session) == 0


def test_spoofed_addresses(gateway: GatewayProcess) -> None:
    """A57: what a header says about the caller's address makes nobody local, and gives no limit anew. Whoever has such
    a header comes through a proxy, so the address is the proxy's."""
    spoofs = ({"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}, {"X-Real-IP": "127.0.0.1"})
    for spoof in (*spoofs, {"X-Forwarded-Host": "localhost"}, {"X-Original-URL": "/kills"}):
        assert call(gateway.client(**spoof), "db_query", QUERY).status_code == 401
        assert gateway.client(**spoof).get("/kills").status_code == 401
    with GatewayProcess() as keyless:
        for spoof in spoofs:
            assert call(keyless.client(**spoof), "db_query", QUERY).status_code == 401
        assert call(keyless.client(), "db_query", QUERY).status_code == 200
    with GatewayProcess(config={"auth": {"keys": [key_entry(BOT, agent="bot")]}}) as limited:
        bots = [limited.client(BOT, **{"X-Forwarded-For": f"10.0.0.{n}"}) for n in range(12)]
        answers = [call(bot, "rate_limited_tool", session=f"s-{n}").json() for n, bot in enumerate(bots)]
        assert [answer["success"] for answer in answers] == [True] * 10 + [False] * 2


def test_predictable_ids(gateway: GatewayProcess, session: str) -> None:
    """A59: ids that open something cannot be counted up to."""
    client = gateway.client(BOT)
    traces = [call(client, "db_query", QUERY, session=session).json()["trace_id"] for _ in range(50)]
    assert all(uuid.UUID(trace).version == 4 for trace in traces)
    assert len(set(traces)) == 50
    kills = [gateway.client(OPERATOR).post("/sessions/none/kill").json()["id"] for _ in range(10)]
    asked = [
        call(client, "db_insert", {"table": "products", "data": {"name": f"{session}-{n}"}}, session=session).json()
        for n in range(10)
    ]
    for ids in (kills, [answer["approval"]["id"] for answer in asked]):
        tails = [one.rpartition("-")[2] for one in ids]
        assert min(len(tail) for tail in tails) >= 20  # hexadecimal: 80 bits
        assert len({tail[:4] for tail in tails}) > 5


def test_a_new_session_id_after_a_kill(gateway: GatewayProcess, session: str) -> None:
    """A65: who is killed by name stays killed under any session id, and with any token."""
    killed = gateway.client(OPERATOR).post("/agents/other/kill").json()
    try:
        client = gateway.client(OTHER)
        for n in range(10):
            answer = call(client, "db_query", QUERY, session=f"{session}-{n}", context={"agent": f"x-{n}"}).json()
            assert answer["reason_code"] == "killed"
        write = {"table": "products", "data": {"name": "x"}}
        answer = call(client, "db_insert", write, session=session, approval_token=STATIC_TOKEN).json()
        assert answer["reason_code"] == "killed"
        assert client.get("/tools/list").json() == {"tools": []}
        assert call(gateway.client(BOT), "db_query", QUERY, session=f"{session}-bot").json()["success"] is True
    finally:
        gateway.admin().post(f"/kills/{killed['id']}/release")
