"""Messages from stdin to a gateway's `/mcp` and back, in both protocol eras, without reading more of them than it must.

Read are: which revision was agreed on (older revisions name it in a header of each further request), what newer ones
repeat in headers (method, name, parameters that a tool's schema marks), and which requests wait for an answer, so that
each gets one even when the gateway goes away. A gateway that comes back is told the client's own `initialize` again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import anyio
import httpx2
import typer
from mcp.client.streamable_http import streamable_http_client
from mcp.server.stdio import stdio_server
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from agentgate.commands.remote import fits_header

logger = logging.getLogger("agentgate.bridge")

_AGAIN: Final = "agentgate-initialize-again"
"""The id of the `initialize` that a gateway is told which came back."""
_TIMEOUT: Final = httpx2.Timeout(30.0, read=None)
"""A call may run for as long as it may; a connection may not take that long."""
_PAUSE_S: Final = 0.5
_GOODBYE_S: Final = 3.0
"""How long a gateway may take to hear that the window is closed."""
_MOST_UNSENT: Final = 256
"""Lines that are read ahead: the end of stdin is seen also when a gateway takes nothing."""
_ODD: Final = "Not sent: _meta must be an object, and method and protocol version plain text"
_LOST: Final = "The gateway was lost; whether the call had an effect is unknown"

RequestId = str | int


def run(gateway: Callable[[], str], headers: Mapping[str, str]) -> None:
    """Serve stdin until it ends. `gateway` names the one to use now; it may block, and raise typer.Exit."""
    anyio.run(_run, gateway, dict(headers), backend_options={"use_uvloop": False})


async def _run(gateway: Callable[[], str], headers: dict[str, str]) -> None:
    async with stdio_server() as (from_client, to_client), to_client, anyio.create_task_group() as tasks:
        outgoing, queue = anyio.create_memory_object_stream[SessionMessage](_MOST_UNSENT)
        relay = Relay(to_client)

        async def read_client() -> None:
            async for message in from_client:
                if isinstance(message, Exception):
                    await relay.refuse(None, PARSE_ERROR, "this line is no JSON-RPC message")
                else:
                    await outgoing.send(message)
            await close()

        async def close() -> None:
            """The window is closed: so are its calls. A gateway is told, as far as it listens."""
            relay.is_closed = True
            outgoing.close()
            await anyio.sleep(_GOODBYE_S)
            tasks.cancel_scope.cancel()

        async def hear_signals() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for number in signals:
                    relay.ended_by = number
                    tasks.start_soon(close)

        tasks.start_soon(read_client)
        tasks.start_soon(hear_signals)
        try:
            while not relay.is_closed:
                url = await anyio.to_thread.run_sync(gateway, abandon_on_cancel=True)
                await _serve(relay, queue, url, headers)
        except typer.Exit as end:
            os._exit(end.exit_code)  # nobody can wake the thread that waits for stdin
        finally:
            if relay.ended_by is not None:
                signal.signal(relay.ended_by, signal.SIG_DFL)
                signal.raise_signal(relay.ended_by)  # for the same reason
        tasks.cancel_scope.cancel()


async def _serve(relay: Relay, queue: Any, url: str, headers: dict[str, str]) -> None:
    """Use one gateway until it is lost, or the window is closed."""
    never_sent = False
    try:
        async with _connected(url, headers) as (from_gateway, to_gateway):
            await relay.carry(queue, from_gateway, to_gateway)
    except* httpx2.ConnectError:
        never_sent = True
    except* (httpx2.TransportError, anyio.BrokenResourceError, anyio.ClosedResourceError) as lost:
        logger.warning("the gateway at %s was lost: %s", url, lost.exceptions[0])
    if not relay.is_closed:
        await relay.give_up(but_the_last=never_sent)
        await anyio.sleep(_PAUSE_S)


@contextlib.asynccontextmanager
async def _connected(url: str, headers: dict[str, str]) -> AsyncIterator[tuple[Any, Any]]:
    client = httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT, trust_env=False, follow_redirects=False)
    async with client, streamable_http_client(f"{url}/mcp", http_client=client) as streams:
        yield streams


def _is_of_the_transport(error: ErrorData) -> bool:
    """Whether it is the SDK's own word for a lost gateway: tools have errors of that code, too, which carry data."""
    return error.code == CONNECTION_CLOSED and error.data is None


class Relay:
    """What must be remembered of one client's messages, whatever gateway they go to."""

    def __init__(self, to_client: Any) -> None:
        self._to_client = to_client
        self._waiting: dict[RequestId, str] = {}
        """Requests without an answer yet, with their methods."""
        self._last: SessionMessage | None = None
        """What was sent last, which another gateway is sent when this one could not even be connected to."""
        self._hello: JSONRPCRequest | None = None
        """The client's `initialize`, of an older revision."""
        self._revision: str | None = None
        self._schemas: dict[str, Any] = {}
        """What tools' input schemas mark for headers, as far as the client has listed them."""
        self._was_lost = False
        self._introduced = anyio.Event()
        self.is_closed = False
        """Whether nothing more comes from the client."""
        self.ended_by: signal.Signals | None = None

    async def carry(self, queue: Any, from_gateway: Any, to_gateway: Any) -> None:
        """Both ways, until one of them ends. Where the client's does, so do its session and its calls."""
        async with anyio.create_task_group() as tasks:

            async def back() -> None:
                async for message in from_gateway:
                    await self._answered(message)
                    if self._was_lost:
                        break
                tasks.cancel_scope.cancel()

            self._was_lost = False
            tasks.start_soon(back)
            if self._revision is not None and self._hello is not None:
                await self._introduce(self._hello, self._revision, to_gateway)
            if self._last is not None:
                await to_gateway.send(self._last)
            async for message in queue:
                if not _can_be_sent(message.message):
                    await self._turned_back(message.message)
                    continue
                self._last = self._noted(message)
                await to_gateway.send(self._last)
            tasks.cancel_scope.cancel()

    async def _introduce(self, hello: JSONRPCRequest, revision: str, to_gateway: Any) -> None:
        """Tell a gateway that came back what the client told the one before, and wait until it has a session for it."""
        self._introduced = anyio.Event()
        await to_gateway.send(SessionMessage(hello.model_copy(update={"id": _AGAIN})))
        await self._introduced.wait()
        ready = JSONRPCNotification(jsonrpc="2.0", method="notifications/initialized")
        headers = {MCP_PROTOCOL_VERSION_HEADER: revision}
        await to_gateway.send(SessionMessage(ready, ClientMessageMetadata(headers=headers)))

    def _noted(self, message: SessionMessage) -> SessionMessage:
        """The message with the headers that its revision wants."""
        body = message.message
        if isinstance(body, JSONRPCRequest):
            self._waiting[body.id] = body.method
            if body.method == "initialize":
                self._hello, self._revision = body, None
                return message
        if not isinstance(body, JSONRPCRequest | JSONRPCNotification):
            return message
        params = body.params or {}
        revision = (params.get("_meta") or {}).get(PROTOCOL_VERSION_META_KEY)
        if isinstance(revision, str):
            headers = {MCP_PROTOCOL_VERSION_HEADER: revision, **self._headers(body.method, params)}
        elif self._revision is not None:
            headers = {MCP_PROTOCOL_VERSION_HEADER: self._revision}
        else:
            return message
        return SessionMessage(body, ClientMessageMetadata(headers=headers))

    def _headers(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        headers = {MCP_METHOD_HEADER: method}
        name = params.get(NAME_BEARING_METHODS.get(method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
            arguments = params.get("arguments")
            if method == "tools/call" and isinstance(arguments, Mapping):
                headers |= mcp_param_headers(x_mcp_header_map(self._schemas.get(name)), arguments)
        return headers

    async def _answered(self, message: Any) -> None:
        if not isinstance(message, SessionMessage):
            logger.warning("the gateway sent what is no message: %s", message)
            return
        body = message.message
        if isinstance(body, JSONRPCResponse | JSONRPCError) and body.id is not None:
            if body.id == _AGAIN:
                self._introduced.set()
                return
            method = self._waiting.pop(body.id, "")
            if isinstance(body, JSONRPCError) and _is_of_the_transport(body.error):
                self._was_lost, self._last = True, None
                await self.refuse(body.id, INTERNAL_ERROR, _LOST)
                return
            if isinstance(body, JSONRPCResponse):
                self._learn(method, body.result)
        await self._to_client.send(SessionMessage(body))

    def _learn(self, method: str, result: Mapping[str, Any]) -> None:
        if method == "initialize":
            self._revision = str(result.get("protocolVersion", ""))
        elif method == "tools/list":
            tools = result.get("tools")
            for tool in tools if isinstance(tools, list) else ():
                if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                    self._schemas[tool["name"]] = tool.get("inputSchema")

    async def give_up(self, *, but_the_last: bool) -> None:
        """Answer everything that waits: nobody else will. What certainly was not sent may wait for another gateway."""
        kept = self._last.message if but_the_last and self._last is not None else None
        for number in tuple(self._waiting):
            if not (isinstance(kept, JSONRPCRequest) and kept.id == number):
                del self._waiting[number]
                await self.refuse(number, INTERNAL_ERROR, _LOST)
        if kept is None or (isinstance(kept, JSONRPCRequest) and kept.id not in self._waiting):
            self._last = None

    async def _turned_back(self, body: Any) -> None:
        if isinstance(body, JSONRPCRequest):
            await self.refuse(body.id, INVALID_REQUEST, _ODD)
        else:
            logger.warning("the client sent a notification that cannot be passed on")

    async def refuse(self, number: RequestId | None, code: int, why: str) -> None:
        error = ErrorData(code=code, message=why)
        await self._to_client.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=number, error=error)))


def _can_be_sent(body: Any) -> bool:
    """Whether what headers repeat of a message can stand in them."""
    if not isinstance(body, JSONRPCRequest | JSONRPCNotification):
        return True
    meta = (body.params or {}).get("_meta") or {}
    if not isinstance(meta, Mapping):
        return False
    revision = meta.get(PROTOCOL_VERSION_META_KEY)
    return not isinstance(revision, str) or (fits_header(revision) and fits_header(body.method))
