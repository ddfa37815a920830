"""One MCP session as raw JSON, both eras: the one module that uses inner names of the SDK.

A relay must not parse what it passes on: the SDK's typed session would drop members it does not know, check results
against schemas, and ask for lists. So this session is the SDK's own (handshake, era, stamps, change streams) with its
typed parts replaced. Inner names: `_dispatcher`, `_stamp`, `_on_request`, `_on_notify`, `_build_capabilities`, the
dispatcher's `_dispatch`, `_dispatch_request`, `_handle_request`, `_pending`, `_Pending` and `_tg`, and the module
`_probe`; tests/adapters/upstreams/test_mcp_wire.py fails where the SDK changes them.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Final

import anyio
import anyio.abc
import orjson
from mcp.client._probe import negotiate_auto
from mcp.client.session import ClientSession
from mcp.shared.dispatcher import CallOptions, DispatchContext, OnNotify, OnNotifyIntercept, OnRequest, ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher, _Pending
from mcp.shared.message import SessionMessage
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CONNECTION_CLOSED,
    REQUEST_TIMEOUT,
    ClientCapabilities,
    Implementation,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentgate import __version__
from agentgate.adapters.upstreams._mcp.direct import Direct, Elsewhere
from agentgate.adapters.upstreams._mcp.relay import Relay

_MOST_ANSWERED: Final = 64
"""Requests of a server at a time, from when they came until their answers are on their way."""

# What a server sends that is no JSON-RPC, the SDK logs with its content and a traceback, as often as the server likes.
for _noisy in ("client", "mcp.client", "mcp.shared"):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # it writes down every request, with its whole URL


class _Dispatcher(JSONRPCDispatcher[TransportContext]):
    """The SDK's, and `ended` is set when the connection is over. Hears what comes beside the SDK's streams as well."""

    ended: asyncio.Event
    _heard_by: tuple[OnRequest, OnNotify]
    _answered = 0

    async def _dispatch_request(self, req: JSONRPCRequest, *rest: Any) -> None:
        """A server that asks faster than it takes the answers has no more of them: the SDK keeps a task for each."""
        if self._answered < _MOST_ANSWERED:
            self._answered += 1
            await super()._dispatch_request(req, *rest)

    async def _handle_request(self, *request: Any) -> None:
        try:
            await super()._handle_request(*request)
        finally:
            self._answered -= 1

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        self._heard_by = on_request, on_notify
        try:
            await super().run(on_request, on_notify, on_notify_intercept, task_status=task_status)
        finally:
            self.ended.set()

    async def hear(self, message: JSONRPCRequest | JSONRPCNotification) -> None:
        """As if it had come to the SDK, on the stream of the request that the caller waits for."""
        if self._tg is not None:  # else the session is over
            await self._dispatch(SessionMessage(message), *self._heard_by, contextvars.copy_context())
            await asyncio.sleep(0)  # it is heard in a task of its own, which begins before what comes next

    @contextmanager
    def reporting(self, request_id: int, on_progress: ProgressFnT | None) -> Iterator[None]:
        """Have progress of that request told meanwhile."""
        if on_progress is None:
            yield
            return
        send, receive = anyio.create_memory_object_stream[Any](1)
        with send, receive:
            self._pending[request_id] = _Pending(send=send, receive=receive, on_progress=on_progress)
            try:
                yield
            finally:
                self._pending.pop(request_id, None)


class Wire(ClientSession):
    """One session with a server. `open_wire` makes it."""

    def __init__(self, dispatcher: _Dispatcher, relay: Relay, direct: Direct | None, timeout_s: float) -> None:
        super().__init__(
            dispatcher=dispatcher,
            client_info=Implementation(name="agentgate", version=__version__),
            read_timeout_seconds=timeout_s,
        )
        self._our_dispatcher = dispatcher
        self._direct = direct
        self._relay = relay
        self._declared = ClientCapabilities.model_validate(relay.capabilities)
        self._ids = itertools.count(1)
        self._probe_s = timeout_s / 2

    # --- what the SDK calls ---------------------------------------------------------------------------------

    def _build_capabilities(self, version: str) -> ClientCapabilities:
        return self._declared

    async def _on_request(
        self, dctx: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return await self._relay.asked(method, params or {})

    async def _on_notify(
        self, dctx: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
    ) -> None:
        await self._relay.told(method, params or {})

    async def send_discover(self, version: str) -> dict[str, Any]:
        """As the SDK's, but leaves time for the older handshake with a server that ignores the question."""
        try:
            async with asyncio.timeout(self._probe_s):
                return await super().send_discover(version)
        except TimeoutError:
            raise MCPError(code=REQUEST_TIMEOUT, message="no answer to server/discover") from None

    # --- what we call ---------------------------------------------------------------------------------------

    @property
    def is_modern(self) -> bool:
        return self.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def says_it_is(self) -> dict[str, str]:
        """The server's `name` and `version`, empty where it says nothing."""
        info = self.server_info
        return {"name": info.name, "version": info.version} if info is not None else {"name": "", "version": ""}

    @property
    def offers(self) -> dict[str, Any]:
        """MCP's ServerCapabilities in JSON."""
        found = self.server_capabilities
        return found.model_dump(by_alias=True, exclude_none=True, mode="json") if found is not None else {}

    def new_id(self) -> int:
        return next(self._ids)

    async def request(
        self,
        request_id: int,
        method: str,
        params: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        capabilities: Mapping[str, Any] | None = None,
        on_progress: ProgressFnT | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """The server's result as it came. Cancelling this sends nothing: see `withdraw`.

        Args:
            capabilities: what the client that asks can do; for a modern server, which is told each time.

        Raises:
            MCPError: the server's, or the connection's.
        """
        data: dict[str, Any] = {"method": method, "params": {**params, "_meta": dict(params.get("_meta") or {})}}
        options: CallOptions = {"headers": dict(headers or {}), "request_id": request_id, "cancel_on_abandon": False}
        if on_progress is not None:
            options["on_progress"] = on_progress
        if timeout_s is not None:
            options["timeout"] = timeout_s
        self._stamp(data, options)
        if self.is_modern and capabilities is not None:
            data["params"]["_meta"][CLIENT_CAPABILITIES_META_KEY] = dict(capabilities)
        if self._direct is not None and method == "tools/call":
            try:
                return await self._call(self._direct, request_id, data, options)
            except Elsewhere:  # from now on the SDK calls: it knows which addresses are still the server's
                self._direct = None
        return await self._dispatcher.send_raw_request(method, data["params"], options)

    async def _call(
        self, direct: Direct, request_id: int, data: Mapping[str, Any], options: CallOptions
    ) -> dict[str, Any]:
        """One of a tool, whose list was read in this session: so the handshake is over, and the session's id known."""
        if self._our_dispatcher.ended.is_set():
            raise MCPError(code=CONNECTION_CLOSED, message="Connection closed")
        params, on_progress = data["params"], options.get("on_progress")
        if on_progress is not None:
            params["_meta"]["progressToken"] = request_id
        elif not params["_meta"]:
            del params["_meta"]
        body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, **data})
        hear = self._our_dispatcher.hear
        with self._our_dispatcher.reporting(request_id, on_progress):
            answer = await direct.request(request_id, body, options.get("headers") or {}, hear)
        if isinstance(answer, JSONRPCError):
            raise MCPError(code=answer.error.code, message=answer.error.message, data=answer.error.data)
        return answer.result

    async def withdraw(self, request_id: int) -> None:
        """Take a request back: `notifications/cancelled`, or its stream closed, as the server's era has it."""
        await self._dispatcher.notify("notifications/cancelled", {"requestId": request_id, "reason": "withdrawn"})


@asynccontextmanager
async def open_wire(
    transport: AbstractAsyncContextManager[tuple[Any, Any]],
    relay: Relay,
    *,
    direct: Direct | None,
    timeout_s: float,
    ended: asyncio.Event,
) -> AsyncIterator[Wire]:
    """A session over `transport`, its era agreed on; one client's own is of an era that has sessions. Must be left by
    the task that entered it.

    Args:
        direct: a shorter way to the same server for requests of ours.
        ended: set when nothing more can come or go.

    Raises:
        MCPError, RuntimeError, ValueError: there is no agreement. OSError: there is nobody.
    """
    async with transport as (read, write):
        dispatcher = _Dispatcher(read, write)
        dispatcher.ended = ended
        async with Wire(dispatcher, relay, direct, timeout_s) as wire:
            if relay.is_shared:
                await negotiate_auto(wire)
            else:
                await wire.initialize()
            yield wire
