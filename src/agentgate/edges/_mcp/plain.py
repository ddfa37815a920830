"""A plain `tools/call` of 2026-07-28: one POST that wants one JSON answer, served past the SDK's transport (ADR 0012).

What is said to be right or wrong about it is the SDK's word still: its functions judge the envelope, the headers, the
params and the result. A message to which one of them objects, or which is anything but plain, is left to the SDK's
server, which says so itself. Nothing here reads more than is needed to know that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundModernRoute,
    classify_inbound_request,
)
from mcp.types import LOG_LEVEL_META_KEY, methods
from pydantic import ValidationError
from starlette.requests import Request as HttpRequest

from agentgate.edges._mcp import sdk
from agentgate.edges._mcp.calls import Calls
from agentgate.edges._mcp.parts import CALLER, Guest
from agentgate.edges._mcp.peer import ClientPeer
from agentgate.edges.wire import Receive, Request, Scope, Send

_METHOD: Final = "tools/call"
_VERSION: Final = MCP_PROTOCOL_VERSION_HEADER.encode()
_REVISION: Final = "2026-07-28"
"""A later one is the SDK's until both ways were compared at it."""
_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})
_PARAMS: Final = frozenset({"name", "arguments", "_meta"})
"""Not inputResponses and requestState: a call that was asked for input is no plain one."""
_STREAMED: Final = ("progressToken", LOG_LEVEL_META_KEY)
"""`_meta` of who wants to hear of a call while it runs."""
_ACCEPTED: Final = frozenset({b"application/json", b"text/event-stream"})
_PING: Final = b": ping\r\n\r\n"
_STREAM: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
]

Call = Callable[[ClientPeer, str], Coroutine[Any, Any, dict[str, Any]]]
"""The result of a call of a tool by its name. Raises MCPError."""


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A message that `read` found to be plain."""

    request_id: int | str
    name: str
    params: Mapping[str, Any]


def read(request: Request, message: Mapping[str, Any]) -> PlainCall | None:
    """`message` as a plain call; None: the SDK's server is to serve or to refuse it."""
    if request.headers.get(_VERSION) != _REVISION.encode() or message.keys() != _MEMBERS:
        return None
    request_id, params = message["id"], message["params"]
    if message["jsonrpc"] != "2.0" or message["method"] != _METHOD or type(request_id) not in (int, str):
        return None
    if not isinstance(params, dict) or not params.keys() <= _PARAMS:
        return None
    name, meta = params.get("name"), params.get("_meta")
    if not isinstance(name, str) or not isinstance(params.get("arguments", {}), dict):
        return None
    if not isinstance(meta, dict) or any(key in meta for key in _STREAMED):
        return None
    headers = _routing(request.scope)
    if headers is None or not isinstance(classify_inbound_request(message, headers=headers), InboundModernRoute):
        return None
    try:
        methods.validate_client_request(_METHOD, _REVISION, params)
    except ValidationError:
        return None
    return PlainCall(request_id, name, params)


def _routing(scope: Scope) -> dict[str, str] | None:
    """The headers that repeat what a message says; None where others say that it is not plain."""
    routing: dict[str, str] = {}
    accepted: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"accept":
            if accepted is not None:
                return None
            accepted = value
        elif name.startswith(b"mcp-"):
            routing[name.decode("latin-1")] = value.decode("latin-1")
    types = {kind.strip() for kind in (accepted or b"").split(b",")}
    return routing if types == _ACCEPTED and "mcp-session-id" not in routing else None


class _Reply:
    """One answer: JSON, or the last event of the stream that it became."""

    def __init__(self, request_id: int | str, send: Send) -> None:
        self._request_id = request_id
        self._send = send
        self._is_stream = False

    async def ping(self) -> None:
        if not self._is_stream:
            self._is_stream = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM})
        await self._send({"type": "http.response.body", "body": _PING, "more_body": True})

    async def result(self, result: Mapping[str, Any]) -> None:
        await self._end(200, {"result": result})

    async def error(self, error: MCPError) -> None:
        said = {"code": error.code, "message": error.message}
        if error.data is not None:
            said["data"] = error.data
        await self._end(ERROR_CODE_HTTP_STATUS.get(error.code, 200), {"error": said})

    async def _end(self, status: int, outcome: Mapping[str, Any]) -> None:
        body = orjson.dumps({"jsonrpc": "2.0", "id": self._request_id, **outcome})
        if self._is_stream:
            event = b"event: message\r\ndata: %s\r\n\r\n" % body
            await self._send({"type": "http.response.body", "body": event})
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


class PlainCalls:
    """Serves plain calls."""

    def __init__(self, server: Server[Any], calls: Calls, call: Call, ping_every_s: float) -> None:
        """`call` runs in a task of its own, which ends when the client goes away."""
        self._ping_every_s = ping_every_s
        self._calls = calls
        self._call = call
        self._alone = sdk.Alone(server, _REVISION)

    def read(self, request: Request, message: Mapping[str, Any]) -> PlainCall | None:
        """As the function: the door has no SDK to ask it before there is one of these."""
        return read(request, message)

    async def serve(self, plain: PlainCall, scope: Scope, guest: Guest, receive: Receive, send: Send) -> None:
        """Answer it. Nothing is sent to a client that has gone away."""
        reply = _Reply(plain.request_id, send)
        ctx = sdk.Context(
            session=self._alone.session,
            lifespan_context=None,
            protocol_version=_REVISION,
            method=_METHOD,
            params=plain.params,
            request_id=plain.request_id,
            request=HttpRequest({**scope, CALLER: guest}),
        )
        try:
            result = await self._watched(ClientPeer(ctx), plain.name, receive, reply)
            if result is not None:
                await reply.result(self._alone.shaped(_METHOD, result))
        except MCPError as error:
            await reply.error(error)

    async def _watched(self, peer: ClientPeer, name: str, receive: Receive, reply: _Reply) -> dict[str, Any] | None:
        """The call's result; None: its client went away, and the call has ended with that."""
        work = self._calls.begin(peer, self._call(peer, name))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            while not work.done() and not gone.done():
                await asyncio.wait({work, gone}, timeout=self._ping_every_s, return_when=asyncio.FIRST_COMPLETED)
                if not work.done() and not gone.done():
                    await reply.ping()
            return work.result() if work.done() else None
        finally:
            gone.cancel()
            if not work.done():
                await self._calls.withdraw(peer, work)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
