"""The MCP door end to end, with the SDK's own client in both eras and with bytes of our own."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ElicitRequestURLParams, ElicitResult, InputRequiredResult

from agentgate.worker import GRACE_S
from tests.e2e.conftest import MANY_REFUSALS
from tests.edges.test_mcp import said
from tests.faults.conftest import Service, service_config
from tests.gateway import GatewayProcess, key_entry, until

BOT, SHY, ADA, LIMITED = "key-bot", "key-shy", "key-ada", "key-limited"
POLICIES = Path(__file__).parents[2] / "policies"
MODERN, LEGACY = "2026-07-28", "legacy"
OURS = "dev.agentgate/"
HOLD_S = 1.0

both_eras = pytest.mark.parametrize("mode", [MODERN, LEGACY])


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As shipped, but the agent `shy` may never call `hang` or `write`."""
    policies = tmp_path_factory.mktemp("mcp") / "policies"
    shutil.copytree(POLICIES, policies)
    data = json.loads((policies / "data.json").read_text())
    data["roles"] = {"shy": {"deny": ["hang", "write"]}}
    data["rate_limits"] = {"redirect": 1}
    (policies / "data.json").write_text(json.dumps(data))
    return policies


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    service = Service()
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def gateway(policies: Path, service: Service) -> Iterator[GatewayProcess]:
    config = service_config(service.port)
    config["tools"]["write"] = {**config["tools"]["ok"], "access": "write", "description": "Writes."}
    keys = [key_entry(BOT, agent="bot"), key_entry(SHY, agent="shy"), key_entry(ADA, person="ada", roles=["approver"])]
    more = {"auth": {"keys": keys}, "policy": {"path": str(policies)}, "mcp": {"hold_s": HOLD_S}}
    with GatewayProcess(config={**MANY_REFUSALS, **config, **more}) as process:
        yield process


@pytest.fixture(autouse=True)
def _forgotten(service: Service) -> None:
    service.forget()


@asynccontextmanager
async def connected(gateway: GatewayProcess, mode: Any, key: str = BOT, **more: Any) -> AsyncIterator[Client]:
    headers = {"X-API-Key": key, **more.pop("headers", {})}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{gateway.url}/mcp", http_client=http), mode=mode, cache=None, **more) as client,
    ):
        yield client


def in_session(session: str) -> dict[str, Any]:
    return {f"{OURS}session": session}


def meta(result: CallToolResult, name: str) -> Any:
    return (result.meta or {}).get(OURS + name)


def entries(gateway: GatewayProcess, session: str) -> list[dict[str, Any]]:
    timeline: list[dict[str, Any]] = gateway.admin().get(f"/sessions/{session}/evidence").json()["timeline"]
    return timeline


# --- calls --------------------------------------------------------------------------------------------------------


@both_eras
async def test_a_call_runs_and_its_answer_is_text_and_structure(
    gateway: GatewayProcess, mode: str, session: str
) -> None:
    async with connected(gateway, mode) as client:
        result = await client.call_tool("ok", {"n": "1"}, meta=in_session(session))
    (entry,) = entries(gateway, session)
    assert (said(result), result.structured_content, result.is_error) == ('{"ok":true}', {"ok": True}, False)
    assert (entry["trace_id"], entry["outcome"], entry["door"]) == (meta(result, "traceId"), "ok", "mcp")


async def test_the_same_call_is_the_same_through_every_door(gateway: GatewayProcess, session: str) -> None:
    """An approval of a call that came through one door carries it through another: it is the same digest."""
    rest = gateway.client(BOT)
    asked = rest.post("/tools/call", json={"session_id": session, "tool_name": "write", "arguments": {"n": session}})
    approve(gateway, asked.json()["approval"]["id"])
    async with connected(gateway, MODERN) as client:
        result = await client.call_tool("write", {"n": session}, meta=in_session(session))
    assert not result.is_error, said(result)


@both_eras
async def test_sessions_are_taken_in_the_stated_order(gateway: GatewayProcess, mode: str, session: str) -> None:
    async with connected(gateway, mode, headers={"AgentGate-Session": f"{session}-header"}) as client:
        await client.call_tool("ok", {"n": "meta"}, meta=in_session(session))
        await client.call_tool("ok", {"n": "header"})
    async with connected(gateway, mode) as client:
        last = await client.call_tool("ok", {"n": session})
    assert len(entries(gateway, session)) == len(entries(gateway, f"{session}-header")) == 1
    others: list[str] = gateway.admin().get("/sessions").json()["sessions"]
    own = ["mcp-bot"] if mode == MODERN else [one for one in others if len(one) == len("mcp-") + 32]
    assert meta(last, "traceId") in [entry["trace_id"] for one in own for entry in entries(gateway, one)]


async def test_a_session_that_is_no_id_is_refused(gateway: GatewayProcess) -> None:
    async with connected(gateway, MODERN) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("ok", {"n": "1"}, meta=in_session("no id"))
    assert refused.value.code == -32602


# --- who, and what they see ---------------------------------------------------------------------------------------


def test_nobody_comes_in_without_a_key(gateway: GatewayProcess) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}):
        answer = post(gateway, CALL_OK, key=None, **headers)
        assert answer.status_code == 401
        assert "Bearer" in answer.headers["www-authenticate"]


@both_eras
async def test_a_caller_sees_what_it_may_ever_call_and_nothing_else(gateway: GatewayProcess, mode: str) -> None:
    async with connected(gateway, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    async with connected(gateway, mode, SHY) as client:
        shown = {tool.name for tool in (await client.list_tools()).tools}
    assert {"ok", "write", "hang"} <= tools.keys()
    assert tools.keys() - shown == {"hang", "write"}
    assert (tools["write"].description, tools["write"].annotations) == ("Writes.", None)
    assert tools["ok"].annotations is not None
    assert tools["ok"].annotations.read_only_hint
    assert tools["ok"].input_schema["properties"] == {"n": {"type": "string"}}


@both_eras
async def test_what_a_caller_may_never_call_answers_as_what_does_not_exist(
    gateway: GatewayProcess, service: Service, mode: str, session: str
) -> None:
    errors = {}
    async with connected(gateway, mode, SHY) as client:
        for tool in ("hang", "write", "nothing"):
            with pytest.raises(MCPError) as refused:
                await client.call_tool(tool, {}, meta=in_session(session))
            errors[tool] = (refused.value.code, refused.value.message.replace(tool, "X"), refused.value.data)
    assert set(errors.values()) == {(-32602, "Unknown tool: X", None)}
    recorded = [(entry["tool_name"], entry["reason_code"]) for entry in entries(gateway, session)]
    assert recorded == [("hang", "policy_deny"), ("write", "policy_deny"), ("nothing", "unknown_tool")]
    assert service.requests == []


@both_eras
async def test_a_killed_tool_is_not_shown(gateway: GatewayProcess, mode: str) -> None:
    kill = gateway.admin().post("/tools/held/kill").json()
    try:
        async with connected(gateway, mode) as client:
            shown = {tool.name for tool in (await client.list_tools()).tools}
            result = await client.call_tool("held", {"n": "1"})
    finally:
        gateway.admin().post(f"/kills/{kill['id']}/release", json={"force": True})
    assert "held" not in shown
    assert said(result).startswith("STOPPED by an operator"), "whoever knows the tool hears why it is gone"


# --- refusals -----------------------------------------------------------------------------------------------------


@both_eras
async def test_arguments_that_do_not_fit_are_told_to_the_model(gateway: GatewayProcess, mode: str) -> None:
    async with connected(gateway, mode) as client:
        result = await client.call_tool("ok", {"m": 1})
    assert result.is_error
    assert "Correct the arguments" in said(result)
    assert "Nothing was executed" in said(result)
    assert (meta(result, "decision"), meta(result, "reasonCode")) == ("DENY", "arguments_invalid")


async def test_a_rate_limit_says_when_to_come_back(gateway: GatewayProcess) -> None:
    async with connected(gateway, MODERN) as client:
        await client.call_tool("redirect", {"n": "1"})
        result = await client.call_tool("redirect", {"n": "1"})
    assert said(result).startswith("RATE LIMITED")
    assert 0 < meta(result, "retryAfterMs") <= 61_000


@both_eras
async def test_an_upstream_that_fails_is_a_result_that_says_so(gateway: GatewayProcess, mode: str) -> None:
    async with connected(gateway, mode) as client:
        result = await client.call_tool("hangup", {"n": "1"})
    assert result.is_error
    assert "Tool execution failed" in said(result)
    assert meta(result, "reasonCode") == "upstream_unavailable"


async def test_refusals_without_end_are_turned_away_before_the_gate(policies: Path) -> None:
    config = {"server": {"refusals_per_second": 2}, "policy": {"path": str(policies)}}
    with GatewayProcess(config=config) as gateway:
        async with Client(f"{gateway.url}/mcp", mode=MODERN, cache=None) as client:
            told = [await client.call_tool("db_query", {"nonsense": 1}) for _ in range(10)]
    assert "too_many_refusals" in [meta(one, "reasonCode") for one in told]


# --- approvals ----------------------------------------------------------------------------------------------------


def approve(gateway: GatewayProcess, approval_id: str, verdict: str = "approve") -> None:
    assert gateway.client(ADA).post(f"/approvals/{approval_id}/{verdict}").status_code == 200


@both_eras
async def test_without_elicitation_the_text_says_where_to_approve_and_the_same_call_runs_then(
    gateway: GatewayProcess, service: Service, mode: str, session: str
) -> None:
    async with connected(gateway, mode) as client:
        asked = await client.call_tool("write", {"n": "1"}, meta=in_session(session))
        approve(gateway, meta(asked, "approvalId"))
        ran = await client.call_tool("write", {"n": "1"}, meta=in_session(session))
        again = await client.call_tool("write", {"n": "1"}, meta=in_session(session))
    assert asked.is_error
    assert said(asked).startswith("APPROVAL REQUIRED")
    assert meta(asked, "approvalUrl") == f"{gateway.url}/approvals/{meta(asked, 'approvalId')}"
    assert meta(asked, "approvalUrl") in said(asked)
    assert not ran.is_error
    assert again.is_error
    assert meta(again, "approvalId") != meta(asked, "approvalId"), "an approval carries one call"
    assert service.count("/ok") == 1


@both_eras
async def test_a_call_that_waits_is_let_go_by_its_approval(gateway: GatewayProcess, mode: str, session: str) -> None:
    async with connected(gateway, mode) as client:
        asked = asyncio.create_task(client.call_tool("write", {"n": "1"}, meta=in_session(session)))
        approve(gateway, await pending(gateway, session))
        assert not (await asked).is_error


@both_eras
async def test_a_kill_ends_a_call_that_waits_for_its_approval(
    gateway: GatewayProcess, service: Service, mode: str, session: str
) -> None:
    async with connected(gateway, mode) as client:
        asked = asyncio.create_task(client.call_tool("write", {"n": "1"}, meta=in_session(session)))
        approval_id = await pending(gateway, session)
        gateway.admin().post(f"/sessions/{session}/kill")
        result = await asked
    assert said(result).startswith("STOPPED by an operator")
    assert gateway.client(ADA).post(f"/approvals/{approval_id}/approve").status_code == 409
    assert service.requests == []


@both_eras
async def test_a_denial_is_final(gateway: GatewayProcess, service: Service, mode: str, session: str) -> None:
    async with connected(gateway, mode) as client:
        asked = asyncio.create_task(client.call_tool("write", {"n": "1"}, meta=in_session(session)))
        approve(gateway, await pending(gateway, session), "deny")
        result = await asked
    assert result.is_error
    assert said(result).startswith("DENIED by an approver")
    assert service.requests == []


@both_eras
async def test_an_approval_that_is_taken_back_ends_a_call_that_waits_for_it(
    gateway: GatewayProcess, service: Service, mode: str, session: str
) -> None:
    async with connected(gateway, mode) as client:
        asked = asyncio.create_task(client.call_tool("write", {"n": "1"}, meta=in_session(session)))
        approve(gateway, await pending(gateway, session), "void")
        result = await asked
    assert result.is_error
    assert said(result).startswith("DENIED by an approver")
    assert "approvalId" not in str(result.meta), "who only waited asks nobody anew"
    assert service.requests == []


async def pending(gateway: GatewayProcess, session: str) -> str:
    """The approval that the session waits for, once there is one."""

    def find() -> str | None:
        waiting = gateway.client(ADA).get("/approvals", params={"state": "pending"}).json()["approvals"]
        return next((one["id"] for one in waiting if one["session_id"] == session), None)

    return await asyncio.to_thread(until, find)  # type: ignore[arg-type,return-value]


@dataclass
class User:
    """In front of a client that can open pages: answers, and does what else is wanted meanwhile."""

    action: str = "accept"
    then: Callable[[str], None] = lambda _: None
    opened: list[str] = field(default_factory=list)

    async def __call__(self, _: Any, params: Any) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        self.opened.append(params.url)
        self.then(params.url.rpartition("/")[2])
        return ElicitResult(action=self.action)  # type: ignore[arg-type]


@both_eras
async def test_a_client_that_opens_pages_is_asked_to_open_the_approvals(
    gateway: GatewayProcess, service: Service, mode: str, session: str
) -> None:
    user = User(then=lambda approval_id: approve(gateway, approval_id))
    async with connected(gateway, mode, elicitation_callback=user) as client:
        result = await client.call_tool("write", {"n": "1"}, meta=in_session(session))
    assert not result.is_error, said(result)
    (url,) = user.opened
    assert url.startswith(f"{gateway.url}/approvals/apr-")
    assert service.count("/ok") == 1


async def test_a_kill_ends_a_call_whose_user_is_being_asked(
    gateway: GatewayProcess, service: Service, session: str
) -> None:
    async def user(*_: Any) -> ElicitResult:
        await asyncio.to_thread(gateway.admin().post, f"/sessions/{session}/kill")
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async with connected(gateway, LEGACY, elicitation_callback=user) as client, asyncio.timeout(10):
        result = await client.call_tool("write", {"n": "1"}, meta=in_session(session))
    assert said(result).startswith("STOPPED by an operator")
    assert service.requests == []


@both_eras
async def test_opening_the_page_is_no_approval(
    gateway: GatewayProcess, service: Service, mode: str, session: str
) -> None:
    user = User()
    async with connected(gateway, mode, elicitation_callback=user) as client:
        result = await client.call_tool("write", {"n": "1"}, meta=in_session(session))
    assert len(user.opened) == 1
    assert result.is_error
    assert said(result).startswith("APPROVAL REQUIRED")
    assert service.requests == []


@both_eras
async def test_a_user_who_declines_gets_nothing_run(
    gateway: GatewayProcess, service: Service, mode: str, session: str
) -> None:
    user = User("decline", then=lambda approval_id: approve(gateway, approval_id))
    async with connected(gateway, mode, elicitation_callback=user) as client:
        result = await client.call_tool("write", {"n": "1"}, meta=in_session(session))
    assert result.is_error
    assert service.requests == []


async def test_a_form_is_never_taken_for_an_approval(gateway: GatewayProcess, service: Service, session: str) -> None:
    """A client that declares forms alone is not asked at all."""
    body = a_call("write", {"n": "1"}, session, capabilities={"elicitation": {"form": {}}})
    result = post(gateway, body).json()["result"]
    assert result["isError"] is True
    assert service.requests == []


@asynccontextmanager
async def opener(gateway: GatewayProcess, key: str = BOT) -> AsyncIterator[Client]:
    async with connected(gateway, MODERN, key, elicitation_callback=User()) as client:
        yield client


async def asked_for(client: Client, session: str, n: str = "1", **more: Any) -> CallToolResult | InputRequiredResult:
    """One round."""
    return await client.session.call_tool(
        "write", {"n": n}, meta=in_session(session), allow_input_required=True, **more
    )


ACCEPTED = {f"{OURS}approval": ElicitResult(action="accept")}


@pytest.mark.parametrize("how", ["tampered", "another's", "another call's", "replayed", "made up"])
async def test_a_request_state_is_taken_once_from_whom_it_was_given_to_for_what_it_was_given(
    gateway: GatewayProcess, service: Service, session: str, how: str
) -> None:
    async with opener(gateway) as client, opener(gateway, SHY) as other:
        asked = await asked_for(client, session)
        assert isinstance(asked, InputRequiredResult)
        assert asked.request_state is not None
        state, n, who = asked.request_state, "1", client
        (question,) = (asked.input_requests or {}).values()
        approve(gateway, question.params.url.rpartition("/")[2])  # type: ignore[union-attr]
        match how:
            case "tampered":
                state = state[:-8] + ("A" if state[-8] != "A" else "B") + state[-7:]
            case "another's":
                who = other
            case "another call's":
                n = "2"
            case "made up":
                state = "agw1.AAAA"
            case _:
                await asked_for(client, session, input_responses=ACCEPTED, request_state=state)
        before = service.count("/ok")
        theirs = session if who is client else f"{session}-other"
        with pytest.raises(MCPError) as refused:
            await asked_for(who, theirs, n, input_responses=ACCEPTED, request_state=state)
    assert refused.value.code == -32602
    assert service.count("/ok") == before
    last = entries(gateway, theirs)[-1]
    assert (last["reason_code"], last["matched_rule"]) == ("invalid_request", "request_state")


async def test_a_request_state_says_nothing(gateway: GatewayProcess, session: str) -> None:
    async with opener(gateway) as client:
        asked = await asked_for(client, session)
    assert isinstance(asked, InputRequiredResult)
    assert asked.request_state is not None
    assert b"approval" not in base64.urlsafe_b64decode(asked.request_state.removeprefix("agw1."))


# --- cancelling ---------------------------------------------------------------------------------------------------


@both_eras
async def test_a_client_that_cancels_ends_its_call_upstream(
    gateway: GatewayProcess, service: Service, mode: str, session: str
) -> None:
    async with connected(gateway, mode) as client:
        call = asyncio.create_task(client.call_tool("hang_long", {"n": session}, meta=in_session(session)))
        await asyncio.to_thread(until, lambda: service.count("/hang") == 1)
        call.cancel()
        await asyncio.to_thread(until, lambda: f"n={session}" in service.left_at)
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(until, lambda: entries(gateway, session)[0]["outcome"] == "cancelled")
        assert entries(gateway, session)[0]["reason_code"] == "caller_withdrew"
        assert not (await client.call_tool("ok", {"n": "1"}, meta=in_session(session))).is_error


async def test_ending_a_session_ends_its_calls(gateway: GatewayProcess, service: Service, session: str) -> None:
    async with initialized(gateway) as (http, protocol_session):
        call = asyncio.create_task(http.post("/mcp", json=legacy_call(7, "hang_long", session)))
        await asyncio.to_thread(until, lambda: service.count("/hang") == 1)
        await http.delete("/mcp")
        await asyncio.to_thread(until, lambda: f"n={session}" in service.left_at)
        await call
    (entry,) = entries(gateway, f"mcp-{protocol_session}")
    assert (entry["outcome"], entry["reason_code"]) == ("cancelled", "caller_withdrew")


async def test_a_stop_does_not_wait_for_those_who_only_listen() -> None:
    with GatewayProcess() as gateway:
        _, headers = handshake(gateway, None)
        async with (
            httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=10, trust_env=False) as http,
            http.stream("GET", "/mcp", headers={"Accept": "text/event-stream"}) as listening,
            Client(f"{gateway.url}/mcp", mode=MODERN, cache=None) as modern,
            modern.listen(tools_list_changed=True),
        ):
            assert listening.status_code == 200
            started = time.monotonic()
            await asyncio.to_thread(gateway.stop)
            took_s = time.monotonic() - started
    assert took_s < GRACE_S, "its grace is for calls"


def _answers(gateway: GatewayProcess) -> bool:
    try:
        httpx.get(f"{gateway.url}/livez", trust_env=False)
    except httpx.TransportError:
        return False
    return True


@both_eras
async def test_a_stop_leaves_a_running_call_its_time(service: Service, mode: str) -> None:
    config = {**service_config(service.port), "auth": {"keys": [key_entry(BOT, agent="bot")]}}
    with GatewayProcess(config=config) as gateway:
        if mode == LEGACY:
            _, headers = handshake(gateway)
            send = functools.partial(httpx.post, f"{gateway.url}/mcp", headers=headers, timeout=30, trust_env=False)
            running = asyncio.create_task(asyncio.to_thread(send, json=legacy_call(1, "held_long", "1")))
        else:
            running = asyncio.create_task(asyncio.to_thread(post, gateway, a_call("held_long", {"n": "1"})))
        await asyncio.to_thread(until, lambda: service.count("/held") == 1)
        gateway.send(signal.SIGTERM)
        await asyncio.to_thread(until, lambda: not _answers(gateway))
        await asyncio.sleep(1)  # longer than streams last that nobody waits for
        service.let_go()
        answer = await running
    assert '"result":{' in answer.text


async def test_a_stop_tells_every_caller_whose_call_it_cuts(service: Service) -> None:
    """Through every way that a call takes: who is told less than what is on record might repeat a write."""
    config = service_config(service.port)
    config["tools"]["write"] = {**config["tools"]["hang_long"], "access": "write"}
    keys = [key_entry(BOT, agent="bot"), key_entry(ADA, person="ada", roles=["approver"])]
    with GatewayProcess(config={**config, "auth": {"keys": keys}}) as gateway, ThreadPoolExecutor() as pool:
        _, headers = handshake(gateway)
        send = functools.partial(httpx.post, f"{gateway.url}/mcp", headers=headers, timeout=30, trust_env=False)
        rest, approve = gateway.client(BOT).post, gateway.client(ADA).post
        call = {"session_id": "s-deferred", "tool_name": "write", "arguments": {"n": "1"}}
        asked = rest("/tools/call", json=call, headers={"Prefer": "respond-async"}).json()["approval"]["id"]
        modern, legacy, streamed = a_call("hang_long", {}, "s-plain"), legacy_call(1, "hang_long", "1"), "progressToken"
        running = [
            pool.submit(rest, "/tools/call", json={**call, "session_id": "s-rest", "tool_name": "hang_long"}),
            pool.submit(approve, "/approve", json={"approval_id": asked, "approved": True}),
            pool.submit(post, gateway, modern),
            pool.submit(post, gateway, with_meta(modern, {**in_session("s-streamed"), streamed: 1})),
            pool.submit(send, json=with_meta(legacy, in_session("s-seated"))),
            pool.submit(send, json=with_meta({**legacy, "id": 2}, {**in_session("s-handled"), streamed: 2})),
        ]
        await asyncio.to_thread(until, lambda: service.count("/hang") == len(running))
        await asyncio.to_thread(gateway.stop)
        answers = [one.result() for one in running]
        gateway.start()
        ways = ("rest", "deferred", "plain", "streamed", "seated", "handled")
        lasts = [entries(gateway, f"s-{way}")[-1] for way in ways]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert "Cut while running; upstream effect unknown" in answer.text
        assert "shutting_down" in answer.text
    ends = [(last["outcome"], last["reason_code"]) for last in lasts]
    assert ends == [("cancelled", "shutting_down")] * len(running)


async def test_a_stop_tells_every_caller_that_waits_for_a_person(service: Service) -> None:
    """Nothing of theirs runs: they are told at once, and nobody waits for what their clients' users say."""
    config = service_config(service.port)
    config["tools"]["write"] = {**config["tools"]["ok"], "access": "write"}
    config |= {"auth": {"keys": [key_entry(BOT, agent="bot")]}, "mcp": {"hold_s": 50}}
    with GatewayProcess(config=config) as gateway, ThreadPoolExecutor() as pool:
        opens = handshake(gateway, capabilities={"elicitation": {"url": {}}})[1]
        send = functools.partial(httpx.post, f"{gateway.url}/mcp", timeout=30, trust_env=False)
        modern, legacy, streamed = a_call("write", {"n": "1"}), legacy_call(1, "write", "1"), {"progressToken": 1}
        waiting = {
            "plain": pool.submit(post, gateway, with_meta(modern, in_session("s-plain"))),
            "streamed": pool.submit(post, gateway, with_meta(modern, in_session("s-streamed") | streamed)),
            "seated": pool.submit(send, json=with_meta(legacy, in_session("s-seated")), headers=handshake(gateway)[1]),
            "asked": pool.submit(send, json=with_meta(legacy, in_session("s-asked")), headers=opens),
        }
        for way in waiting:
            await asyncio.to_thread(until, lambda way=way: entries(gateway, f"s-{way}"))
        started = time.monotonic()
        await asyncio.to_thread(gateway.stop)
        took_s = time.monotonic() - started
        told = {way: one.result() for way, one in waiting.items()}
        gateway.start()
        lasts = [entries(gateway, f"s-{way}")[-1]["reason_code"] for way in waiting]
    assert took_s < GRACE_S
    for answer in told.values():
        assert answer.status_code == 200
        assert "UNAVAILABLE: The gateway is shutting down. Nothing was executed." in answer.text
        assert f'"{OURS}reasonCode":"shutting_down"' in answer.text
    assert lasts == ["shutting_down"] * len(waiting)


# --- bytes of our own ---------------------------------------------------------------------------------------------


def a_call(
    tool: str,
    arguments: Mapping[str, Any],
    session: str = "s-raw",
    *,
    request_id: Any = 1,
    capabilities: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A modern call."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities or {},
        f"{OURS}session": session,
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def with_meta(message: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    params = message["params"]
    return {**message, "params": {**params, "_meta": {**params.get("_meta", {}), **more}}}


CALL_OK = a_call("ok", {"n": "1"})


def post(gateway: GatewayProcess, body: Any, *, key: str | None = BOT, **headers: str) -> httpx.Response:
    """A modern message; headers are by their names with underscores, and may be given anew."""
    given = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    first = body if isinstance(body, dict) else {}
    ours = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": MODERN,
        "mcp-method": first.get("method", "tools/call"),
        "mcp-name": (first.get("params") or {}).get("name", "ok"),
        **({"x-api-key": key} if key is not None else {}),
    }
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{gateway.url}/mcp", content=content, headers={**ours, **given}, timeout=30, trust_env=False)


@pytest.mark.parametrize("headers", [{"Mcp_Name": "write"}, {"Mcp_Method": "tools/list"}])
def test_headers_that_contradict_the_message_are_refused(
    gateway: GatewayProcess, service: Service, headers: dict[str, str]
) -> None:
    """A10: what a proxy before us decides on must be what is called."""
    answer = post(gateway, CALL_OK, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)
    assert service.requests == []


@pytest.mark.parametrize("version", [MODERN, "2025-11-25", "2025-03-26"])
def test_a_batch_is_refused_whole(gateway: GatewayProcess, service: Service, version: str) -> None:
    """A11."""
    answer = post(gateway, json.dumps([CALL_OK, CALL_OK]).encode(), mcp_protocol_version=version)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600)
    assert service.requests == []


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(CALL_OK).replace('"name": "ok"', '"name": "ok", "name": "write"').encode(),
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"n": NaN}}',
        b'{"jsonrpc": "2.0", "id": 99999999999999999999, "method": "ping"}',
        b"{",
        b"\xff\xfe",
    ],
)
def test_what_is_not_strict_json_is_no_message(gateway: GatewayProcess, service: Service, raw: bytes) -> None:
    answer = post(gateway, raw)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (400, -32700, None)
    assert service.requests == []


def test_the_wires_own_rules_hold_here_too(gateway: GatewayProcess) -> None:
    assert post(gateway, CALL_OK, Host="evil.example").status_code == 421
    assert post(gateway, CALL_OK, Origin="https://evil.example").status_code == 403
    assert post(gateway, CALL_OK, Content_Type="text/plain").status_code == 415
    assert post(gateway, CALL_OK, Content_Encoding="gzip").status_code == 415
    assert post(gateway, b'"' + b"x" * 1_100_000 + b'"').status_code == 413
    for method in ("HEAD", "PUT", "OPTIONS"):
        answer = httpx.request(method, f"{gateway.url}/mcp", trust_env=False)
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, POST")
    assert post(gateway, CALL_OK).headers["x-correlation-id"]


@pytest.mark.parametrize("request_id", [0, -1, 7, "7", "", "x" * 300, "é\u2028"])
def test_an_id_is_echoed_as_it_came(gateway: GatewayProcess, request_id: Any) -> None:
    """A12."""
    assert post(gateway, a_call("ok", {"n": "1"}, request_id=request_id)).json()["id"] == request_id


@pytest.mark.parametrize("request_id", [None, True, 1.5, [1], {"a": 1}])
def test_what_is_no_id_is_not_taken_for_one(gateway: GatewayProcess, service: Service, request_id: Any) -> None:
    answer = post(gateway, a_call("ok", {"n": "1"}, request_id=request_id))
    assert answer.status_code == 400
    assert service.requests == []


def handshake(gateway: GatewayProcess, key: str | None = BOT, **more: Any) -> tuple[str, dict[str, str]]:
    """A session of the handshake era: its id, and the headers of a request in it."""
    headers = {"Accept": "application/json, text/event-stream", **({"X-API-Key": key} if key else {})}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bytes", "version": "1"}}
    params |= more
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=30, trust_env=False) as http:
        opened = http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
        headers["MCP-Protocol-Version"] = "2025-11-25"
        http.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
    return headers["Mcp-Session-Id"], headers


@asynccontextmanager
async def initialized(gateway: GatewayProcess) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    protocol_session, headers = await asyncio.to_thread(handshake, gateway)
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=30, trust_env=False) as http:
        yield http, protocol_session


def legacy_call(request_id: Any, tool: str, n: str) -> dict[str, Any]:
    params = {"name": tool, "arguments": {"n": n}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


async def test_an_id_names_one_request_at_a_time(gateway: GatewayProcess, service: Service, session: str) -> None:
    """A12: the SDK would give one request's answer to the other."""
    async with initialized(gateway) as (http, _):
        first = asyncio.create_task(http.post("/mcp", json=legacy_call(7, "held_long", session)))
        await asyncio.to_thread(until, lambda: service.count("/held") == 1)
        for same in (7, "7"):
            second = await http.post("/mcp", json=legacy_call(same, "ok", session))
            assert (second.status_code, second.json()["error"]["code"]) == (400, -32600)
        service.let_go()
        assert b'"id":7' in (await first).content
        assert (await http.post("/mcp", json=legacy_call(7, "ok", session))).status_code == 200
    assert service.count("/ok") == 1


async def test_an_id_is_taken_until_its_call_has_ended_even_if_nobody_listens(
    gateway: GatewayProcess, service: Service, session: str
) -> None:
    """In the handshake era a closed connection cancels nothing: the answer would go to the next of that id."""
    async with initialized(gateway) as (http, protocol_session):
        first = asyncio.create_task(http.post("/mcp", json=legacy_call(7, "held_long", session)))
        await asyncio.to_thread(until, lambda: service.count("/held") == 1)
        first.cancel()
        await asyncio.wait([first])
        assert (await http.post("/mcp", json=legacy_call(7, "ok", session))).status_code == 400
        service.let_go()
        await asyncio.to_thread(until, lambda: entries(gateway, f"mcp-{protocol_session}")[0]["outcome"] == "ok")
        answer = await http.post("/mcp", json=legacy_call(7, "ok", session))
    assert answer.status_code == 200
    assert service.count("/ok") == 1


async def test_a_session_belongs_to_whom_it_was_opened_for(gateway: GatewayProcess, service: Service) -> None:
    """A20: whoever learns another's Mcp-Session-Id has learnt nothing."""
    async with initialized(gateway) as (http, protocol_session):
        stolen = dict(http.headers) | {"x-api-key": SHY}
        async with httpx.AsyncClient(base_url=gateway.url, headers=stolen, timeout=30, trust_env=False) as thief:
            stolen_answers = [
                await thief.post("/mcp", json=legacy_call(2, "ok", "1")),
                await thief.get("/mcp", headers={"Accept": "text/event-stream"}),
                await thief.delete("/mcp"),
            ]
            unknown = await thief.post("/mcp", json=legacy_call(2, "ok", "1"), headers={"Mcp-Session-Id": "0" * 32})
        assert {answer.status_code for answer in stolen_answers} == {404} == {unknown.status_code}
        assert stolen_answers[0].json() == unknown.json()
        assert service.requests == []
        assert (await http.post("/mcp", json=legacy_call(2, "ok", "1"))).status_code == 200
    assert len(protocol_session) == 32


def test_a_session_header_that_comes_twice_is_refused(gateway: GatewayProcess) -> None:
    _, headers = handshake(gateway)
    twice = [*headers.items(), ("Mcp-Session-Id", "0" * 32)]
    answer = httpx.post(f"{gateway.url}/mcp", json=legacy_call(2, "ok", "1"), headers=twice, trust_env=False)
    assert answer.status_code == 400


# --- the SDK ------------------------------------------------------------------------------------------------------


def test_nothing_loads_the_sdk_before_it_is_asked_for() -> None:
    """It costs half a second, which no start without MCP should pay."""
    code = "import sys, agentgate.app; sys.exit('mcp' in sys.modules or 'mcp.types' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_capabilities_are_not_invented(gateway: GatewayProcess) -> None:
    """No tool server is connected, so there are tools and nothing else."""
    for mode in ("auto", LEGACY):
        async with connected(gateway, mode) as client:
            declared = client.server_capabilities.model_dump(by_alias=True, exclude_none=True)
            assert declared == {"tools": {"listChanged": True}}
            assert (await client.list_resources()).resources == []
            with pytest.raises(MCPError):
                await client.get_prompt("x")
