"""The MCP door over a real wire, before a whole gate on ports in memory. Tests choose what its two servers say."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import httpx
import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged
from mcp.types import CallToolResult, ElicitResult, InputRequiredResult, PromptReference, Resource, TextContent
from pydantic import ValidationError

from agentgate.core.approval import State
from agentgate.core.call import Access, Call, Clean, Tool, ToolName
from agentgate.core.containment import Scope
from agentgate.core.decision import Grant, NoRuling
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind
from agentgate.edges import mcp as door
from agentgate.edges._mcp import lists
from agentgate.edges._mcp.answers import TOO_MANY
from agentgate.edges._mcp.parts import OPERATIONS, Parts, Rules
from agentgate.edges._mcp.server import Hall
from agentgate.edges.caller import Callers, Keyring
from agentgate.edges.mcp import McpDoor
from agentgate.edges.wire import Wire
from agentgate.pipeline.calls.gate import Gate
from agentgate.pipeline.calls.run import Route, Runner
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.policy.desk import PolicyDesk
from agentgate.pipeline.tools.registry import Registry
from agentgate.ports.peer import Peer, PeerUnable, peer_of
from agentgate.ports.upstreams import Credential, Delivered, Undelivered
from tests.fakes import ADMIN, ALLOW, ASK, DENY, AtOnce, FakeEntropy, PlainSealer
from tests.pipeline.conftest import House

MODERN, LEGACY = "2026-07-28", "legacy"
both_eras = pytest.mark.parametrize("mode", [MODERN, LEGACY])
EVERYTHING = {
    "tools": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "prompts": {},
    "completions": {},
    "logging": {},
}

Say = Callable[[Mapping[str, Any], Peer], Any]
"""What a server answers: to arguments, for a client. A coroutine is awaited."""


@dataclass
class FakeServer:
    """A tool server: `says` has an answer for each method, and for each of its tools by name."""

    name: str
    says: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def validate_options(self, options: Mapping[str, Any]) -> None: ...

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        call = grant.call
        assert call.tool is not None
        what = call.tool.options.get("method") or call.tool.options["tool"]
        self.asked.append((what, call.arguments))
        self.calls.append(call)
        answer = self.says.get(what, {"content": []})
        if callable(answer):
            answer = answer(call.arguments, peer_of(call))
            if asyncio.iscoroutine(answer):
                answer = await answer
        return answer if isinstance(answer, Undelivered) else Delivered(answer)

    async def aclose(self) -> None: ...

    def tools(self) -> dict[str, Tool]:
        """An echo and every operation."""
        definition = {"name": "echo", "description": "As accepted.", "inputSchema": {"type": "object"}}
        made = {f"{self.name}__echo": {"tool": "echo", "pin": "0", "definition": definition}}
        made |= {f"{self.name}__{name}": {"method": method} for method, name in OPERATIONS.items()}
        return {
            name: Tool(ToolName(name), self.name, Access.READ, {"type": "object"}, options=options)
            for name, options in made.items()
        }


@dataclass
class Room:
    """A door and what it leads to."""

    house: House
    servers: dict[str, FakeServer]
    declared: dict[str, Mapping[str, Any]]
    rules: Rules
    registry: Registry
    told: str = ""
    """The transparent server's instructions."""
    takes_plain: bool = True
    """False: the SDK's server serves everything."""
    url: str = ""
    running: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        house = self.house
        routes = {name: Route(server) for name, server in self.servers.items()}
        runner = Runner(routes, house.recorder, house.clock, house.meter, house.questions)
        self.gate = Gate(
            admission=house.admission,
            questions=house.questions,
            replica=house.replica,
            recorder=house.recorder,
            approvals=house.approvals,
            answers=house.answers,
            runner=runner,
            limits=RateLimits(60),
            clock=house.clock,
            meter=house.meter,
        )
        policy = PolicyDesk(
            engine=house.engine,
            source=cast("Any", None),
            limits=RateLimits(60),
            questions=house.questions,
            books=cast("Any", None),
            others=None,
            containment=house.containment,
            tools=self.registry,
            label="",
        )
        parts = Parts(
            tools=self.registry,
            policy=policy,
            approvals=house.approvals,
            refusals=house.refusals,
            sealer=PlainSealer(),
            clock=house.clock,
            entropy=FakeEntropy(),
            worker=AtOnce(),
            catalogue=self,
            rules=self.rules,
        )
        keyring = Keyring((), admin_key="unused", now=house.clock.now)
        self.door = McpDoor(self.gate, Callers(keyring), parts, is_wanted=False, takes_plain=self.takes_plain)

    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        return self.declared

    def instructions(self) -> str:
        return self.told

    @contextlib.asynccontextmanager
    async def client(self, mode: Any = MODERN, **more: Any) -> AsyncIterator[Client]:
        async with Client(f"{self.url}/mcp", mode=mode, cache=None, **more) as client:
            yield client


def rules(**other: Any) -> Rules:
    return Rules(
        **{"hold_s": 0.0, "session_idle_s": 60, "max_sessions": 10, "max_body_bytes": 100_000, "state_ttl_s": 60}
        | other
    )


@contextlib.asynccontextmanager
async def opened(*, takes_plain: bool = True, **other: Any) -> AsyncIterator[Room]:
    """A room with the servers `a` and `b`, whose callers may do everything."""
    servers = {name: FakeServer(name) for name in "ab"}
    registry = Registry({})
    for server in servers.values():
        registry.serve(server.name, server.tools())
    declared = dict.fromkeys(servers, EVERYTHING)
    room = Room(House(), servers, declared, rules(**other), registry, takes_plain=takes_plain)
    allow(room)

    async def nothing(*_: Any) -> None: ...

    wire = Wire(
        nothing,
        nothing,
        {},
        {"/mcp": room.door.serve},
        hosts=frozenset({"127.0.0.1"}),
        origins=frozenset(),
        max_body_bytes=100_000,
        on_fault=lambda: None,
        new_id=lambda: "id",
    )
    server = uvicorn.Server(uvicorn.Config(wire, port=0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    room.running = asyncio.create_task(room.door.run())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    room.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield room
    finally:
        server.should_exit = server.force_exit = True
        room.running.cancel()
        await asyncio.gather(room.running, serving, return_exceptions=True)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with opened() as made:
        yield made


def allow(room: Room, **decided: Mapping[str, Any]) -> None:
    """Every call is allowed, but those named here are decided so (`a__echo=DENY`); `tools` says the same."""
    of_verdict = {"ALLOW": "allow", "REQUIRE_APPROVAL": "approval"}

    def answer(question: Mapping[str, Any]) -> Any:
        if "tool_name" not in question:
            return {
                name: of_verdict[how["action"]]
                for name in room.registry
                if (how := decided.get(name, ALLOW))["action"] in of_verdict
            }
        if question["has_approval_token"]:
            return ALLOW
        return decided.get(question["tool_name"], ALLOW)

    room.house.engine.answer = answer


def said(result: CallToolResult) -> str:
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


def sent(room: Room, method: str) -> dict[str, list[Mapping[str, Any]]]:
    """What each server was asked by a method."""
    return {name: [args for what, args in one.asked if what == method] for name, one in room.servers.items()}


# --- tools --------------------------------------------------------------------------------------------------------


@both_eras
async def test_a_servers_tool_is_shown_as_it_was_accepted_under_its_name_here(room: Room, mode: str) -> None:
    async with room.client(mode) as client:
        tools = (await client.list_tools()).tools
    assert [(tool.name, tool.description) for tool in tools] == [
        ("a__echo", "As accepted."),
        ("b__echo", "As accepted."),
    ]


async def test_a_quarantined_tool_is_not_shown(room: Room) -> None:
    tools = room.servers["a"].tools()
    object.__setattr__(tools["a__echo"], "quarantine", "it changed")
    room.registry.serve("a", tools)
    async with room.client() as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["b__echo"]
        result = await client.call_tool("a__echo", {})
    assert "quarantined" in said(result)


@both_eras
async def test_a_servers_result_arrives_as_it_is(room: Room, mode: str) -> None:
    whole = {
        "content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}],
        "structuredContent": {"n": [1, 2]},
        "isError": True,
        "_meta": {"theirs": 1},
    }
    room.servers["a"].says["echo"] = whole
    async with room.client(mode) as client:
        result = await client.call_tool("a__echo", {"x": 1})
    found = result.model_dump(by_alias=True, exclude_none=True, mode="json")
    assert {name: found[name] for name in ("content", "structuredContent", "isError")} == {
        name: whole[name] for name in ("content", "structuredContent", "isError")
    }
    assert found["_meta"]["theirs"] == 1
    assert room.servers["a"].asked == [("echo", {"x": 1})]


@both_eras
async def test_a_servers_own_error_arrives_as_it_is(room: Room, mode: str) -> None:
    fault = {"code": -32042, "message": "mine", "data": {"x": 1}}
    room.servers["a"].says["echo"] = Undelivered(ReasonCode.UPSTREAM_ERROR, "mine", fault=fault)
    async with room.client(mode) as client:
        with pytest.raises(MCPError) as error:
            await client.call_tool("a__echo", {})
    assert (error.value.code, error.value.message, error.value.data) == (-32042, "mine", {"x": 1})


async def test_what_is_no_tool_result_is_a_result_that_says_so(room: Room) -> None:
    room.servers["a"].says["echo"] = ["nonsense"]
    async with room.client() as client:
        result = await client.call_tool("a__echo", {})
    assert result.is_error
    assert "no tool result" in said(result)


async def test_an_operation_is_no_tool(room: Room) -> None:
    """Policy allows it, but only as what it is: a server would be read past the lists otherwise."""
    async with room.client() as client:
        with pytest.raises(MCPError) as error:
            await client.call_tool("a__mcp.resources.read", {"uri": "x://1"})
    assert error.value.message == "Unknown tool: a__mcp.resources.read"
    assert room.servers["a"].asked == []


async def test_no_list_is_given_that_policy_does_not_give(room: Room) -> None:
    room.house.engine.answer = ["nonsense"]
    async with room.client() as client:
        with pytest.raises(MCPError):
            await client.list_tools()


@both_eras
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (lambda room: room.house.log.fail_next(), "log_unavailable"),
        (lambda room: setattr(room.house.admission, "is_down", True), "kill_state_unknown"),
        (lambda room: setattr(room.gate, "closing", True), "shutting_down"),
        (lambda room: setattr(room.house.engine, "answer", NoRuling(ReasonCode.POLICY_TIMEOUT, "")), "policy_timeout"),
    ],
)
async def test_an_outage_is_a_result_that_says_to_come_back(
    room: Room, mode: str, trouble: Callable[[Room], None], reason: str
) -> None:
    async with room.client(mode) as client:
        trouble(room)
        result = await client.call_tool("a__echo", {})
    assert result.is_error
    assert said(result).startswith("UNAVAILABLE")
    assert (result.meta or {})["dev.agentgate/reasonCode"] == reason
    assert (result.meta or {})["dev.agentgate/retryAfterMs"] == 1000
    assert room.servers["a"].asked == []


async def test_a_refusal_beyond_what_is_recorded_says_to_stop(room: Room) -> None:
    await room.house.killed(scope=Scope.TENANT, target="default")
    room.gate.takes_refusal = lambda _: False
    async with room.client() as client:
        result = await client.call_tool("a__echo", {})
    assert result.is_error
    assert said(result) == TOO_MANY
    assert (result.meta or {})["dev.agentgate/reasonCode"] == "too_many_refusals"
    assert (result.meta or {})["dev.agentgate/retryAfterMs"] == 1000


async def test_an_outcome_that_cannot_be_recorded_is_not_said_to_be_nothing(room: Room) -> None:
    room.servers["a"].says["echo"] = lambda *_: room.house.log.fail_next() or {"content": []}
    async with room.client() as client:
        result = await client.call_tool("a__echo", {})
    assert result.is_error
    assert "effect unknown" in said(result)
    assert "Nothing was executed" not in said(result)


# --- what a client tells, and is told -----------------------------------------------------------------------------


async def test_a_requests_meta_goes_on_without_what_is_for_this_hop(room: Room) -> None:
    seen: list[Mapping[str, Any]] = []
    room.servers["a"].says["echo"] = lambda _, peer: seen.append(peer.meta) or {"content": []}
    async with room.client() as client:
        await client.call_tool("a__echo", {}, meta={"theirs": 1, "dev.agentgate/session": "s-1"})
    (meta,) = seen
    assert {name for name in meta if not name.startswith("trace")} == {"theirs"}


KEY = "dev.agentgate/idempotency-key"


@both_eras
async def test_a_call_is_run_once_under_one_idempotency_key(room: Room, mode: str) -> None:
    async with room.client(mode) as client:
        first = await client.call_tool("a__echo", {"n": 1}, meta={KEY: "k-1"})
        again = await client.call_tool("a__echo", {"n": 1}, meta={KEY: "k-1"})
        other = await client.call_tool("a__echo", {"n": 2}, meta={KEY: "k-1"})
    assert len(room.servers["a"].calls) == 1
    assert again.content == first.content
    told, retold = first.meta or {}, again.meta or {}
    assert retold["dev.agentgate/traceId"] == told["dev.agentgate/traceId"]
    assert (told.get("dev.agentgate/replayed"), retold["dev.agentgate/replayed"]) == (None, True)
    assert other.is_error
    assert (other.meta or {})["dev.agentgate/reasonCode"] == "idempotency_mismatch"


async def test_what_is_no_idempotency_key_is_refused_before_anything_runs(room: Room) -> None:
    async with room.client() as client:
        for key in ("", "a b", "x" * 256, 7, ["k"]):
            with pytest.raises(MCPError, match="idempotency-key"):
                await client.call_tool("a__echo", {}, meta={KEY: key})
    assert room.servers["a"].calls == []


async def test_an_idempotency_key_on_what_is_no_call_is_nothing(room: Room) -> None:
    """One list is a call of each server: the first would use it up."""
    for name, server in room.servers.items():
        server.says["resources/list"] = resources(f"{name}://1")
    async with room.client() as client:
        for _ in range(2):
            listed = await client.list_resources(meta={KEY: "k-1"})
            assert [str(one.uri) for one in listed.resources] == ["a://1", "b://1"]
        assert not (await client.call_tool("a__echo", {}, meta={KEY: "k-1"})).is_error


async def test_the_trace_context_of_a_message_is_the_calls(room: Room) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    async with room.client() as client:
        await client.call_tool("a__echo", {}, meta={"traceparent": traceparent})
    assert room.servers["a"].calls[0].traceparent == traceparent


@both_eras
async def test_progress_reaches_who_asked_for_it(room: Room, mode: str) -> None:
    async def work(_: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        assert peer.wants_progress
        for step in (1, 2):
            await peer.progress(step, 2, "on its way")
        return {"content": []}

    room.servers["a"].says["echo"] = work
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with room.client(mode) as client:
        await client.call_tool("a__echo", {}, progress_callback=hear)
    assert heard == [(1, 2, "on its way"), (2, 2, "on its way")]


@pytest.mark.parametrize(
    ("mode", "meta", "count"),
    [
        (LEGACY, {}, 1),
        (MODERN, {}, 0),
        (MODERN, {"io.modelcontextprotocol/logLevel": "info"}, 1),
        (MODERN, {"io.modelcontextprotocol/logLevel": "error"}, 0),
    ],
)
async def test_a_log_message_reaches_who_wants_it(room: Room, mode: str, meta: dict[str, Any], count: int) -> None:
    async def work(_: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        await peer.notify("notifications/message", {"level": "info", "data": "x"})
        await peer.notify("notifications/cancelled", {"requestId": 1})
        return {"content": []}

    room.servers["a"].says["echo"] = work
    heard: list[Any] = []

    async def hear(params: Any) -> None:
        heard.append(params.data)

    async with room.client(mode, logging_callback=hear) as client:
        await client.call_tool("a__echo", {}, meta=meta)
    assert heard == ["x"] * count


async def test_a_server_asks_a_client_only_what_it_declared(room: Room) -> None:
    refused: list[str] = []

    async def work(_: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        asked = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        answer = await peer.ask("elicitation/create", asked)
        for method in ("sampling/createMessage", "roots/list", "ping"):
            try:
                await peer.ask(method, {})
            except PeerUnable as error:
                refused.append(str(error))
        return {"content": [{"type": "text", "text": answer["action"]}]}

    async def user(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={})

    room.servers["a"].says["echo"] = work
    async with room.client(LEGACY, elicitation_callback=user) as client:
        result = await client.call_tool("a__echo", {})
    assert said(result) == "accept"
    assert len(refused) == 3


async def test_a_modern_client_is_never_asked_on_its_stream(room: Room) -> None:
    async def work(_: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        assert peer.is_modern
        assert peer.session_key is None
        await peer.ask("roots/list", {})
        return {"content": []}

    room.servers["a"].says["echo"] = work
    async with room.client() as client:
        assert said(await client.call_tool("a__echo", {})).startswith("Tool execution failed: its adapter failed")


async def test_a_session_that_ends_is_told_to_its_upstreams(room: Room) -> None:
    ended = asyncio.Event()
    keys: list[str | None] = []

    def work(_: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        async def close() -> None:
            ended.set()

        keys.append(peer.session_key)
        peer.on_session_end(close)
        return {"content": []}

    room.servers["a"].says["echo"] = work
    async with room.client(LEGACY) as client:
        await client.call_tool("a__echo", {})
        assert not ended.is_set()
    await asyncio.wait_for(ended.wait(), 5)
    assert len(keys[0] or "") == 32


# --- rounds -------------------------------------------------------------------------------------------------------


def wanting(state: str) -> dict[str, Any]:
    question = {"method": "roots/list", "params": {}}
    return {"resultType": "input_required", "inputRequests": {"r": question}, "requestState": state}


async def test_a_servers_request_state_travels_sealed_and_comes_back_open(room: Room) -> None:
    def work(_: Mapping[str, Any], peer: Peer) -> Any:
        return wanting("its own") if "requestState" not in peer.extra else {"content": [{"type": "text", "text": "ok"}]}

    extras: list[Mapping[str, Any]] = []
    room.servers["a"].says["echo"] = lambda args, peer: extras.append(dict(peer.extra)) or work(args, peer)
    async with room.client() as client:
        asked = await client.session.call_tool("a__echo", {}, allow_input_required=True)
        assert isinstance(asked, InputRequiredResult)
        assert asked.request_state != "its own"
        given = {"r": {"roots": []}}
        done = await client.session.call_tool(
            "a__echo",
            {},
            input_responses=cast("Any", given),
            request_state=asked.request_state,
            allow_input_required=True,
        )
    assert isinstance(done, CallToolResult)
    assert extras == [{}, {"inputResponses": given, "requestState": "its own"}]
    assert room.servers["a"].calls[1].context == {"mcp": {"input_responses": given}}, "policy and log see the answers"


async def test_meta_belongs_to_a_call_where_the_configuration_names_it() -> None:
    async with opened(meta=("com.example/x", "progressToken", "com.example/none")) as room, room.client() as client:
        await client.call_tool("a__echo", {}, meta={"com.example/x": {"n": 1}, "com.example/y": 2})
        await client.call_tool("a__echo", {})
    assert [call.context for call in room.servers["a"].calls] == [{"mcp": {"meta": {"com.example/x": {"n": 1}}}}, {}]


async def test_an_approval_between_two_rounds_of_a_server_loses_neither(room: Room) -> None:
    """The answers that came before the gateway had to ask are what is approved, and what is sent."""
    server = room.servers["a"]
    server.says["echo"] = wanting("its own")
    given = {"r": {"roots": []}}

    async def user(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept")

    async with room.client(elicitation_callback=user) as client:
        ask = client.session.call_tool
        first = await ask("a__echo", {}, allow_input_required=True)
        assert isinstance(first, InputRequiredResult)
        allow(room, a__echo=ASK)
        more: dict[str, Any] = {"input_responses": given, "allow_input_required": True}
        second = await ask("a__echo", {}, request_state=first.request_state, **more)
        assert isinstance(second, InputRequiredResult)
        assert list(second.input_requests or {}) == ["dev.agentgate/approval"]
        await approve(room)
        server.says["echo"] = {"content": [{"type": "text", "text": "done"}]}
        more = {"input_responses": {"dev.agentgate/approval": ElicitResult(action="accept")}}
        third = await ask("a__echo", {}, request_state=second.request_state, allow_input_required=True, **more)
    assert isinstance(third, CallToolResult)
    assert said(third) == "done"
    call = server.calls[-1]
    assert call.context == {"mcp": {"input_responses": given}}
    assert peer_of(call).extra == {"inputResponses": given, "requestState": "its own"}  # type: ignore[union-attr]


async def approve(room: Room) -> None:
    """Whatever waits for an approval."""
    desk = room.house.approvals
    for approval in await desk.list(ADMIN, State.PENDING):
        await desk.decide(ADMIN, approval.id, State.APPROVED)


async def test_a_server_that_wants_input_of_a_client_that_cannot_give_it_has_failed(room: Room) -> None:
    room.servers["a"].says["echo"] = wanting("x")
    async with room.client(LEGACY) as client:
        result = await client.call_tool("a__echo", {})
    assert result.is_error
    assert "cannot give" in said(result)


async def test_a_request_state_expires(room: Room) -> None:
    room.servers["a"].says["echo"] = wanting("x")
    async with room.client() as client:
        asked = await client.session.call_tool("a__echo", {}, allow_input_required=True)
        assert isinstance(asked, InputRequiredResult)
        room.house.clock.move(61)
        room.house.replica.lease.renew(room.house.clock.boot_s())
        with pytest.raises(MCPError, match="expired"):
            await client.session.call_tool("a__echo", {}, request_state=asked.request_state, allow_input_required=True)


# --- resources, prompts, completion -------------------------------------------------------------------------------


def resources(*uris: str, **more: Any) -> dict[str, Any]:
    return {"resources": [{"uri": uri, "name": uri} for uri in uris], **more}


@both_eras
async def test_lists_of_all_servers_are_one_whole_list(room: Room, mode: str) -> None:
    pages = {None: resources("a://1", nextCursor="2", ttlMs=9000), "2": resources("a://2", ttlMs=5000)}
    room.servers["a"].says["resources/list"] = lambda args, _: pages[args.get("cursor")]
    room.servers["b"].says["resources/list"] = resources("b://1", ttlMs=7000, cacheScope="public")
    async with room.client(mode) as client:
        found = await client.list_resources()
    assert [str(one.uri) for one in found.resources] == ["a://1", "a://2", "b://1"]
    assert found.next_cursor is None
    if mode == MODERN:
        assert (found.ttl_ms, found.cache_scope) == (5000, "private")


async def test_a_server_that_fails_is_refused_or_says_nonsense_is_left_out(room: Room) -> None:
    room.servers["b"].says["resources/list"] = resources("b://1")
    for trouble in (
        Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "down"),
        {"resources": "nonsense"},
        {"resources": [{"no": "uri"}, 7]},
        ["nonsense"],
    ):
        room.servers["a"].says["resources/list"] = trouble
        async with room.client() as client:
            assert [str(one.uri) for one in (await client.list_resources()).resources] == ["b://1"]
    allow(room, **{"b__mcp.resources.list": DENY})
    before = len(room.house.log.of(Kind.DECIDED))
    async with room.client() as client:
        assert (await client.list_resources()).resources == []
    assert len(room.house.log.of(Kind.DECIDED)) == before + 1, "what would be refused is not asked for"


async def test_made_up_uris_do_not_have_every_list_read_each_time(room: Room) -> None:
    async with room.client() as client:
        for number in range(3):
            with pytest.raises(MCPError):
                await client.read_resource(f"x://{number}")
    assert [len(asked) for asked in sent(room, "resources/list").values()] == [1, 1]


@both_eras
async def test_what_nobody_has_is_refused_as_any_tool_that_nobody_has(room: Room, mode: str) -> None:
    """It is on record, and who makes such names up is turned away as whoever is refused too often."""
    async with room.client(mode) as client:
        for ask in (
            client.read_resource("x://1"),
            client.get_prompt("c__hello"),
            client.complete(PromptReference(type="ref/prompt", name="c__hello"), {"name": "who", "value": "m"}),
        ):
            with pytest.raises(MCPError) as error:
                await ask
            assert error.value.code == -32602
        refused = [(one["tool"], one["reason_code"]) for one in room.house.log.of(Kind.DECIDED)]
        for _ in range(100):
            with pytest.raises(MCPError) as error:
                await client.read_resource("x://1")
    assert refused[-3:] == [
        ("mcp.resources.read", "unknown_tool"),
        ("mcp.prompts.get", "unknown_tool"),
        ("mcp.completion.complete", "unknown_tool"),
    ]
    assert error.value.message == TOO_MANY


async def test_what_is_known_of_uris_has_an_end_in_bytes(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two callers who were shown long ones, the first is forgotten: for it the lists are read once more."""
    monkeypatch.setattr(lists, "_MOST_KNOWN", 6_000)
    for name, server in room.servers.items():
        server.says |= {"resources/list": resources(f"x://{name}/{'x' * 2_000}"), "resources/read": {"contents": []}}
    async with (
        room.client() as client,
        httpx2.AsyncClient(headers={"X-API-Key": "unused"}) as http,
        Client(streamable_http_client(f"{room.url}/mcp", http_client=http), mode=MODERN, cache=None) as other,
    ):
        uri = (await client.list_resources()).resources[0].uri
        await client.read_resource(uri)
        assert len(sent(room, "resources/list")["a"]) == 1
        await other.list_resources()
        await client.read_resource(uri)
        assert len(sent(room, "resources/list")["a"]) == 3


async def test_a_list_without_end_ends(room: Room) -> None:
    room.servers["a"].says["resources/list"] = lambda *_: resources("a://1", nextCursor="again")
    async with room.client() as client:
        assert len((await client.list_resources()).resources) == 100


async def test_a_resource_is_read_where_it_was_listed(room: Room) -> None:
    def read(server: str) -> Say:
        return lambda args, _: {"contents": [{"uri": args["uri"], "text": server}]}

    for name, server in room.servers.items():
        server.says |= {
            "resources/list": resources(f"x://{name}"),
            "resources/templates/list": {"resourceTemplates": [{"uriTemplate": f"t://{name}/{{id}}", "name": name}]},
            "resources/read": read(name),
        }
    async with room.client() as client:
        # nothing was listed by this client yet
        texts = [
            (await client.read_resource(uri)).contents[0].text  # type: ignore[union-attr]
            for uri in ("x://b", "x://a", "t://b/7", "t://a/7")
        ]
        with pytest.raises(MCPError) as error:
            await client.read_resource("x://nobodys")
    assert texts == ["b", "a", "b", "a"]
    assert (error.value.code, error.value.data) == (-32602, {"uri": "x://nobodys"})
    assert sent(room, "resources/read") == {
        "a": [{"uri": "x://a"}, {"uri": "t://a/7"}],
        "b": [{"uri": "x://b"}, {"uri": "t://b/7"}],
    }


async def test_only_so_many_templates_are_held_against_a_uri(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of those only what begins like it is read at all: reading takes longer than listing."""
    parsed: list[str] = []
    parse = lists.UriTemplate.parse

    def counting(template: str, **limits: int) -> Any:
        parsed.append(template)
        return parse(template, **limits)

    monkeypatch.setattr(lists.UriTemplate, "parse", counting)
    many = [{"uriTemplate": f"m://{n}/{{id}}", "name": "m"} for n in range(3_000)]
    wide = {"uriTemplate": "t://" + "/".join(f"{{v{n}}}" for n in range(200)), "name": "wide"}
    room.servers["a"].says["resources/templates/list"] = {"resourceTemplates": [wide, *many]}
    room.servers["b"].says["resources/templates/list"] = {
        "resourceTemplates": [{"uriTemplate": "t://{id}", "name": "b"}]
    }
    room.servers["b"].says["resources/read"] = {"contents": []}
    async with room.client() as client:
        assert len((await client.list_resource_templates()).resource_templates) == 501
        await client.read_resource("t://7")
        assert len(parsed) == 2
        for uri in ("m://499/7", "t://" + "7" * 3_000):
            with pytest.raises(MCPError, match="Resource not found"):
                await client.read_resource(uri)
    assert sent(room, "resources/read") == {"a": [], "b": [{"uri": "t://7"}]}


async def test_of_a_list_that_is_wrong_throughout_little_is_looked_at(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[int] = []
    validate = Resource.model_validate.__func__  # type: ignore[attr-defined]

    def watched(model: Any, value: Any, **options: Any) -> Any:
        try:
            return validate(model, value, **options)
        except ValidationError as error:
            faults.append(error.error_count())
            raise

    monkeypatch.setattr(Resource, "model_validate", classmethod(watched))
    good = {"name": "x", "uri": "a://1"}
    bad = [
        {**good, "icons": [5] * 100_000},
        5,
        {**good, "icons": [5] * 200},
        {**good, "annotations": {"audience": [5]}},
    ]
    room.servers["a"].says["resources/list"] = {"resources": [good, *bad, good, *[{}] * 20_000, good]}
    async with room.client() as client:
        found = [one.uri for one in (await client.list_resources()).resources]
    assert found.count("a://1") == 2
    assert len(faults) < 10_000
    assert max(faults) == 200


async def test_an_item_with_many_parts_or_with_lists_of_an_extension_is_shown(room: Room) -> None:
    room.declared = {"a": {"resources": {}, "prompts": {}}, "b": {}}
    extended = {"name": "x", "uri": "a://1", "x-tags": [str(number) for number in range(1_000)]}
    asks_much = {"name": "p", "arguments": [{"name": f"a{number}"} for number in range(200)]}
    room.servers["a"].says["resources/list"] = {"resources": [extended]}
    room.servers["a"].says["prompts/list"] = {"prompts": [asks_much, {**asks_much, "arguments": [{"name": "b"}] * 201}]}
    async with room.client() as client:
        assert [one.uri for one in (await client.list_resources()).resources] == ["a://1"]
        (shown,) = (await client.list_prompts()).prompts
        assert len(shown.arguments or ()) == 200


async def test_a_list_ends_where_it_has_more_bytes_than_anybody_reads(room: Room) -> None:
    def page(*_: Any) -> Any:
        return resources("a://1", nextCursor="again") | {"_meta": {"padding": "x" * (1 << 20)}}

    room.servers["a"].says["resources/list"] = page
    async with room.client() as client:
        assert len((await client.list_resources()).resources) == 7


async def test_the_only_server_with_resources_is_asked_for_every_one(room: Room) -> None:
    room.declared["b"] = {"tools": {}}
    room.servers["a"].says["resources/read"] = {"contents": []}
    async with room.client() as client:
        await client.read_resource("x://unlisted")
    assert room.servers["a"].asked == [("resources/read", {"uri": "x://unlisted"})]


async def test_a_refused_read_is_an_error_with_the_reason(room: Room) -> None:
    room.declared["b"] = {}
    allow(room)
    may = room.house.engine.answer
    room.house.engine.answer = lambda question: DENY if "tool_name" in question else may(question)
    async with room.client() as client:
        with pytest.raises(MCPError) as error:
            await client.read_resource("x://1")
    assert "DENIED by policy" in error.value.message
    assert error.value.data["dev.agentgate/reasonCode"] == "policy_deny"
    assert room.servers["a"].asked == []


async def test_a_server_that_a_caller_may_never_ask_answers_as_one_that_does_not_exist(room: Room) -> None:
    room.declared["b"] = {}
    hidden = {f"a__{name}": DENY for name in OPERATIONS.values()}
    allow(room, **hidden)
    found = []
    async with room.client() as client:
        for server in ("a", "c"):
            name = PromptReference(type="ref/prompt", name=f"{server}__hello")
            with pytest.raises(MCPError) as error:
                await client.get_prompt(f"{server}__hello")
            found.append(error.value.message.replace(f"{server}__", ""))
            with pytest.raises(MCPError) as error:
                await client.complete(name, {"name": "who", "value": "m"})
            found.append(error.value.message)
        with pytest.raises(MCPError, match="Resource not found"):
            await client.read_resource("x://1")
    assert found[:2] == found[2:]
    assert room.servers["a"].asked == []
    assert len(room.house.log.events) >= 3, "what was tried is on record"


async def test_headers_do_not_tell_of_a_tool_that_is_hidden(room: Room) -> None:
    """A10: which tool takes which header, only those learn who may know of the tool; and the attempt is recorded."""
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    tools = dict(room.servers["a"].tools())
    tools["a__echo"] = replace(tools["a__echo"], input_schema=schema)
    room.registry.serve("a", tools)
    codes = []
    for name, rules in (("a__echo", {}), ("a__echo", {"a__echo": DENY}), ("a__nobody", {})):
        allow(room, **rules)
        meta = {"protocolVersion": MODERN, "clientCapabilities": {}}
        params = {
            "name": name,
            "arguments": {"region": "eu"},
            "_meta": {f"io.modelcontextprotocol/{key}": value for key, value in meta.items()},
        }
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": "tools/call",
            "mcp-name": name,
            "mcp-param-region": "us",
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{room.url}/mcp", json=body, headers=headers)
        codes.append((answer.status_code, answer.json()["error"]["code"]))
    assert codes == [(400, -32020), (400, -32602), (400, -32602)]
    assert room.servers["a"].asked == []
    assert len(room.house.log.events) >= 3


async def test_a_decision_that_has_answers_redacted_has_every_word_redacted(room: Room) -> None:
    async def work(_: Mapping[str, Any], peer: Peer) -> Any:
        await peer.progress(1, None, "ask ada@example.org")
        await peer.notify("notifications/message", {"level": "info", "data": "ada@example.org"})
        asked = {"message": "is it ada@example.org?", "requestedSchema": {"type": "object", "properties": {}}}
        await peer.ask("elicitation/create", asked)
        fault = {"code": -32001, "message": "not ada@example.org", "data": ["ada@example.org"]}
        return Undelivered(ReasonCode.UPSTREAM_ERROR, fault["message"], fault=fault)  # type: ignore[arg-type]

    allow(room, a__echo={**ALLOW, "obligations": [{"type": "redact_result"}]})
    room.servers["a"].says["echo"] = work
    heard: list[str] = []

    async def user(_: Any, params: Any) -> ElicitResult:
        heard.append(params.message)
        return ElicitResult(action="accept", content={})

    async def log(params: Any) -> None:
        heard.append(params.data)

    async def progress(_: float, __: float | None, message: str | None) -> None:
        heard.append(message or "")

    async with room.client(LEGACY, elicitation_callback=user, logging_callback=log) as client:
        with pytest.raises(MCPError) as error:
            await client.call_tool("a__echo", {}, progress_callback=progress)
    heard += [error.value.message, str(error.value.data)]
    assert len(heard) == 5
    assert "ada@" not in "".join(heard)


async def test_what_is_said_with_one_call_may_be_about_another_and_is_redacted_as_that(room: Room) -> None:
    """Where a server has one session for both, it says things beside the one that are about the other, or were."""
    cleaners: dict[Clean, None] = {}

    async def obliged(_: Mapping[str, Any], peer: Peer) -> Any:
        peer.share(cleaners)
        return {"content": []}

    async def other(_: Mapping[str, Any], peer: Peer) -> Any:
        peer.share(cleaners)
        await peer.notify("notifications/message", {"level": "info", "data": "ada@example.org"})
        await peer.announce("notifications/message", {"level": "info", "data": "bob@example.org"})
        return {"content": []}

    allow(room, a__echo={**ALLOW, "obligations": [{"type": "redact_result"}]}, b__echo=ALLOW)
    room.servers["a"].says["echo"], room.servers["b"].says["echo"] = obliged, other
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def log(params: Any) -> None:
        heard.put_nowait(params.data)

    async with room.client(LEGACY, logging_callback=log) as client:
        await client.call_tool("b__echo", {})
        await client.call_tool("a__echo", {})
        await client.call_tool("b__echo", {})
        async with asyncio.timeout(5):
            said = [await heard.get() for _ in range(4)]
    assert sorted(said) == ["[redacted]", "[redacted]", "ada@example.org", "bob@example.org"]


async def test_nobody_takes_all_sessions_not_even_at_once() -> None:
    who = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    opening = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": who}
    headers = {"accept": "application/json, text/event-stream", "connection": "close"}
    async with opened(max_sessions=8) as room, httpx.AsyncClient(trust_env=False) as http:
        request = http.build_request("POST", f"{room.url}/mcp", json=opening, headers=headers)
        assert (await http.send(request)).status_code == 200, "one is open, and the SDK is loaded"
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        port = int(room.url.rpartition(":")[2])
        lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in lines:
            writer.write(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        answers = [await asyncio.wait_for(reader.read(), 5) for reader, _ in lines]
        for _, writer in lines:
            writer.close()
    assert sum(answer.startswith(b"HTTP/1.1 200") for answer in answers) == 3
    refused = [answer.partition(b"\r\n\r\n")[2] for answer in answers if answer.startswith(b"HTTP/1.1 503")]
    assert len(refused) == 17
    assert all(b'"data":{"dev.agentgate/reasonCode":"rate_limited"}' in answer for answer in refused)


@both_eras
async def test_prompts_have_their_servers_prefix(room: Room, mode: str) -> None:
    for server in room.servers.values():
        server.says |= {
            "prompts/list": {"prompts": [{"name": "hello"}]},
            "prompts/get": {"messages": []},
            "completion/complete": {"completion": {"values": ["x"]}},
        }
    async with room.client(mode) as client:
        assert [one.name for one in (await client.list_prompts()).prompts] == ["a__hello", "b__hello"]
        await client.get_prompt("b__hello", {"who": "me"})
        await client.complete(PromptReference(type="ref/prompt", name="b__hello"), {"name": "who", "value": "m"})
        with pytest.raises(MCPError, match="Unknown prompt"):
            await client.get_prompt("c__hello")
    assert sent(room, "prompts/get") == {"a": [], "b": [{"name": "hello", "arguments": {"who": "me"}}]}
    ((asked),) = sent(room, "completion/complete")["b"]
    assert asked == {"ref": {"type": "ref/prompt", "name": "hello"}, "argument": {"name": "who", "value": "m"}}


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
async def test_a_level_goes_to_every_server_that_logs(room: Room) -> None:
    room.declared["b"] = {"tools": {}}
    async with room.client(LEGACY) as client:
        await client.set_logging_level("warning")
        room.declared["a"] = {}
        with pytest.raises(MCPError):
            await client.set_logging_level("warning")
    assert sent(room, "logging/setLevel") == {"a": [{"level": "warning"}], "b": []}


@both_eras
async def test_capabilities_and_instructions_are_the_servers(room: Room, mode: str) -> None:
    room.declared = {"a": {"tools": {}, "prompts": {}}, "b": {"resources": {"subscribe": True}}}
    room.told = "What this is for."
    async with room.client("auto" if mode == MODERN else mode) as client:
        declared = client.server_capabilities
        assert client.instructions == "What this is for."
    assert declared.tools is not None
    assert declared.prompts is not None
    assert declared.resources is not None
    assert declared.resources.subscribe
    assert (declared.completions, declared.logging) == (None, None)


@both_eras
async def test_one_of_several_processes_declares_only_what_its_clients_would_hear_of(mode: str) -> None:
    async with opened(is_shared=True) as room:
        room.declared = {"a": {"prompts": {"listChanged": True}}, "b": {"resources": {"subscribe": True}}}
        async with room.client("auto" if mode == MODERN else mode) as client:
            declared = client.server_capabilities
    assert declared.tools is not None
    assert declared.prompts is not None
    assert declared.resources is not None
    hears = [declared.tools.list_changed, declared.prompts.list_changed, declared.resources.subscribe]
    assert hears == [mode == MODERN] * 3


# --- changes ------------------------------------------------------------------------------------------------------

CHANGES = [
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
]


async def test_a_session_hears_of_changed_lists(room: Room) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        heard.put_nowait(message.method)

    async with room.client(LEGACY, message_handler=hear) as client:
        await client.list_tools()  # by now its stream is open

        async def tell() -> None:
            while True:  # the stream opens when the client gets round to it
                for change in CHANGES:
                    await room.door.announce("a", change, {})
                await asyncio.sleep(0.05)

        telling = asyncio.create_task(tell())
        found: set[str] = set()
        while found != set(CHANGES):
            found.add(await asyncio.wait_for(heard.get(), 5))
        telling.cancel()


async def test_a_listener_hears_of_what_it_asked_for_and_may_have(room: Room) -> None:
    room.declared["b"] = {}
    allowed, refused = "x://may", "x://may-not"

    def subscribe(args: Mapping[str, Any], _: Peer) -> Any:
        return {} if args["uri"] == allowed else Undelivered(ReasonCode.UPSTREAM_ERROR, "no", fault={"code": 1})

    room.servers["a"].says["resources/subscribe"] = subscribe
    async with (
        room.client() as client,
        client.listen(resource_subscriptions=[allowed, refused], tools_list_changed=True) as changes,
    ):
        for uri in (refused, allowed):
            await room.door.announce("a", "notifications/resources/updated", {"uri": uri})
        await room.door.announce("a", "notifications/prompts/list_changed", {})
        await room.door.announce("a", "notifications/tools/list_changed", {})
        heard = [await asyncio.wait_for(anext(changes), 5) for _ in range(2)]
    assert heard == [ResourceUpdated(uri=allowed), ToolsListChanged()]


async def test_a_server_learns_when_a_listener_has_gone_and_no_rule_or_list_is_in_the_way(room: Room) -> None:
    """What is subscribed to counts for its caller until then."""
    room.declared["b"] = {}
    left: list[str | None] = []

    def subscribe(_: Mapping[str, Any], peer: Peer) -> Any:
        key = peer.session_key

        async def leave() -> None:
            left.append(key)

        peer.on_session_end(leave)
        assert left == [], "it listens still"
        return {}

    room.servers["a"].says["resources/subscribe"] = subscribe
    async with room.client() as client:
        async with client.listen(resource_subscriptions=["x://1", "x://2"]):
            room.declared["a"] = {}
            allow(room, **{"a__mcp.resources.unsubscribe": DENY})
        async with asyncio.timeout(5):
            while len(left) < 2:  # noqa: ASYNC110 - the stream ends in the background
                await asyncio.sleep(0.01)
    assert len(set(left)) == 1
    assert left[0] is not None
    assert sent(room, "resources/unsubscribe") == {"a": [], "b": []}


async def test_who_is_refused_too_often_does_not_listen_either(room: Room) -> None:
    """Each resource on a stream is a call of its own."""
    made_up = [f"x://{number}" for number in range(100)]
    passed = 0
    through = room.gate.pass_through

    async def counted(*given: Any, **more: Any) -> Any:
        nonlocal passed
        passed += 1
        return await through(*given, **more)

    room.gate.pass_through = counted  # type: ignore[method-assign]
    async with room.client() as client:
        for _ in range(3):
            with contextlib.suppress(MCPError):
                async with client.listen(resource_subscriptions=made_up):
                    pass
        assert passed == 20 + len(sent(room, "resources/list")) + len(sent(room, "resources/templates/list"))
        with pytest.raises(MCPError, match="Too many refused calls"):
            await client.listen(tools_list_changed=True).__aenter__()


async def test_nothing_is_announced_to_nobody(room: Room) -> None:
    await room.door.announce("a", "notifications/tools/list_changed", {})


# --- the door itself ---------------------------------------------------------------------------------------------


async def test_a_door_that_cannot_be_opened_says_so_and_is_opened_for_who_asks_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever fills up the gateway's descriptors has nothing loaded, and must not end it."""
    real, tries = Hall.open, iter(("load", "open", ""))
    trouble = ""

    def load(parts: Parts) -> Hall:
        nonlocal trouble
        trouble = next(tries)
        if trouble == "load":
            raise OSError(errno.EMFILE, "Too many open files")
        return Hall(parts)

    def open_(hall: Hall) -> contextlib.AbstractAsyncContextManager[None]:
        if trouble == "open":
            raise ImportError("cannot open shared object file: Too many open files")
        return real(hall)

    monkeypatch.setattr(door, "_OPEN_AGAIN_S", 0.01)
    monkeypatch.setattr(Hall, "open", open_)
    monkeypatch.setattr(door, "_load", load)
    async with opened(is_shared=True) as room, httpx.AsyncClient(base_url=room.url, trust_env=False) as http:
        headers = {"Accept": "application/json, text/event-stream"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        answers = [await http.post("/mcp", json=body, headers=headers) for _ in range(3)]
        assert not room.running.done()
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert [answer.json()["reason_code"] for answer in answers[:2]] == ["internal", "internal"]


# --- one of several processes -------------------------------------------------------------------------------------


async def test_a_call_that_a_shutdown_cuts_is_not_said_to_be_withdrawn(room: Room) -> None:
    started = asyncio.Event()

    async def hang(*_: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    room.servers["a"].says["echo"] = hang
    async with room.client(LEGACY) as client:
        call = asyncio.create_task(client.call_tool("a__echo", {}))
        await started.wait()
        room.gate.closing = True
        room.running.cancel()
        await asyncio.gather(room.running, call, return_exceptions=True)
    ((finished),) = room.house.log.of(Kind.FINISHED)
    assert (finished["outcome"], finished["reason_code"]) == ("cancelled", "shutting_down")


async def test_one_of_several_processes_keeps_no_sessions() -> None:
    async with opened(is_shared=True) as room, room.client(LEGACY) as client:
        await client.call_tool("a__echo", {})
        headers = {"Accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(base_url=room.url, headers=headers, trust_env=False) as http:
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
            answer = await http.post("/mcp", json=body)
    assert room.servers["a"].calls[0].session == "mcp-local"
    assert answer.status_code == 200
    assert "mcp-session-id" not in answer.headers
