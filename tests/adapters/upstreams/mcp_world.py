"""What the tests of MCP servers share: a client's side of a call, an audience, grants of calls to what was listed."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agentgate.adapters.upstreams.mcp import McpUpstream
from agentgate.core.call import Access, AgentId, Call, Clean, Door, SessionId, TenantId, Tool, ToolName, TraceId
from agentgate.core.decision import Decision, Grant, Receipt, Verdict, grant
from agentgate.core.errors import ReasonCode
from agentgate.core.pin import pin_sha256
from agentgate.ports.peer import PeerUnable
from agentgate.ports.upstreams import Delivered, Listing
from tests.contracts.upstream import granted, make_tool

SCRIPT = Path(__file__).with_name("mcp_script.py")


def script(*arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(SCRIPT), *arguments]


class Hearing:
    """An audience that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.listings: list[Listing] = []
        self.changes: list[tuple[str, str, Mapping[str, Any]]] = []
        self._came = asyncio.Event()

    async def listed(self, listing: Listing) -> None:
        self.listings.append(listing)
        self._came.set()

    async def changed(self, server: str, method: str, params: Mapping[str, Any]) -> None:
        self.changes.append((server, method, params))
        self._came.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self._came.clear()
                await self._came.wait()


class FakePeer:
    """A client, as its door shows it."""

    def __init__(
        self,
        *,
        session_key: str | None = None,
        capabilities: Mapping[str, Any] | None = None,
        answers: Mapping[str, Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        is_modern: bool | None = None,
    ) -> None:
        self.session_key = session_key
        self.is_modern = session_key is None if is_modern is None else is_modern
        self.capabilities = capabilities or {}
        self.meta = meta or {}
        self.extra = extra or {}
        self.wants_progress = True
        self.withdrawn = False
        self.reports: list[tuple[float, float | None, str | None]] = []
        self.notes: list[tuple[str, Mapping[str, Any]]] = []
        self.announced: list[tuple[str, Mapping[str, Any]]] = []
        self.questions: list[tuple[str, Mapping[str, Any]]] = []
        self.shared: dict[Clean, None] | None = None
        self.heard = asyncio.Event()
        self.enders: list[Callable[[], Awaitable[None]]] = []
        self._answers = answers or {}

    def guard(self, clean: Clean) -> None: ...

    def share(self, cleaners: dict[Clean, None]) -> None:
        self.shared = cleaners

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.reports.append((progress, total, message))
        self.heard.set()

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.notes.append((method, params))
        self.heard.set()

    async def announce(self, method: str, params: Mapping[str, Any]) -> None:
        self.announced.append((method, params))
        self.heard.set()

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.is_modern:
            raise PeerUnable("this client is not asked")
        self.questions.append((method, params))
        if method not in self._answers:
            raise PeerUnable("it does not know", -32099)
        return self._answers[method]

    def on_session_end(self, close: Callable[[], Awaitable[None]]) -> None:
        self.enders.append(close)


class World:
    """A running upstream, and what it was heard to say."""

    def __init__(self, upstream: McpUpstream, hearing: Hearing) -> None:
        self.upstream = upstream
        self.hearing = hearing

    def tool(self, name: str, **changes: Any) -> Tool:
        """A tool as accepted from the first listing."""
        listing = self.hearing.listings[0]
        definition = next(tool for tool in listing.tools if tool["name"] == name)
        pin = pin_sha256(listing.identity, definition)
        made = make_tool(f"s__{name}", options={"tool": name, "pin": pin, "definition": definition})
        return dataclasses.replace(made, **changes)

    def grant(
        self, name: str, arguments: Mapping[str, Any] | None = None, peer: FakePeer | None = None, **more: Any
    ) -> Grant:
        return grant_of(self.tool(name, **more), arguments or {}, peer)

    async def call(
        self, name: str, arguments: Mapping[str, Any] | None = None, peer: FakePeer | None = None, **more: Any
    ) -> Any:
        return await self.upstream.send(self.grant(name, arguments, peer, **more), None)

    async def up_again(self) -> None:
        """Wait until it has been connected to a second time."""
        await self.hearing.until(lambda: len(self.hearing.listings) >= 2)
        await until(lambda: self.upstream.state().is_up)

    async def content(self, name: str, arguments: Mapping[str, Any] | None = None, peer: FakePeer | None = None) -> Any:
        """The structured content of a call that was delivered."""
        answer = await self.call(name, arguments, peer)
        assert isinstance(answer, Delivered), answer
        return answer.value["structuredContent"]

    async def operate(
        self, method: str, arguments: Mapping[str, Any], peer: FakePeer | None = None, *, agent: str = "tester"
    ) -> Any:
        """Of an agent's modern client that listens, if nothing else is said."""
        made = make_tool("s__mcp." + method.replace("/", "."), options={"method": method})
        listens = peer or FakePeer(session_key=f"stream of {agent}", is_modern=True)
        return await self.upstream.send(grant_of(made, arguments, listens, agent=agent), None)

    async def seen(self, method: str, peer: FakePeer | None = None) -> list[dict[str, Any]]:
        content = await self.content("seen", {}, peer)
        return [message for message in content["seen"] if message.get("method") == method]


def grant_of(
    tool: Tool,
    arguments: Mapping[str, Any],
    peer: FakePeer | None,
    *,
    agent: str = "tester",
    tenant: str | None = None,
    user: str | None = None,
    traceparent: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> Grant:
    model = granted(tool, arguments).call
    caller = dataclasses.replace(model.caller, name=AgentId(agent), on_behalf_of=user)
    call = Call(
        trace_id=TraceId("00000000-0000-4000-8000-000000000001"),
        door=Door.MCP,
        caller=caller if tenant is None else dataclasses.replace(caller, tenant=TenantId(tenant)),
        session=SessionId("s1"),
        tool_name=ToolName(tool.name),
        tool=tool,
        arguments=arguments,
        context=context or {},
        traceparent=traceparent,
        peer=peer,
    )
    decision = Decision(Verdict.ALLOW, ReasonCode.POLICY_ALLOW, "a test allows it", "test")
    made = grant(
        call, decision, Receipt(event_id="e1", index=0, kill_position=0, digest=call.digest), applied_position=0
    )
    assert isinstance(made, Grant)
    return made


@asynccontextmanager
async def world(upstream: McpUpstream, *, lists: int = 1) -> AsyncIterator[World]:
    """Run it until the block ends, from when it is up."""
    hearing = Hearing()
    task = asyncio.create_task(upstream.run(hearing))
    try:
        await hearing.until(lambda: len(hearing.listings) >= lists)
        await until(lambda: not lists or upstream.state().is_up)
        yield World(upstream, hearing)
    finally:
        await upstream.aclose()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def down(upstream: McpUpstream) -> None:
    """Wait until a run of it has noticed that the server is of no use."""
    await until(lambda: "next try" in upstream.state().detail)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nothing tells."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - as it says
            await asyncio.sleep(0.005)


__all__ = ["Access", "FakePeer", "Hearing", "World", "down", "grant_of", "script", "until", "world"]
