"""A plain `tools/call` of 2026-07-28: one POST that wants one JSON answer, served past the SDK's transport (ADR 0012).

What is said to be right or wrong about it is the SDK's word still: its functions judge the envelope, the headers, the
params and the result. A message to which one of them objects, or which is anything but plain, is left to the SDK's
server, which says so itself. Nothing here reads more than is needed to know that; and what a client says of itself with
each of its calls is judged once.
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
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
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
from agentgate.edges._mcp.reply import Reply
from agentgate.edges.wire import Receive, Request, Scope, Send, until_gone

METHOD: Final = "tools/call"
VERSION: Final = MCP_PROTOCOL_VERSION_HEADER.encode()
_REVISION: Final = "2026-07-28"
"""A later one is the SDK's until both ways were compared at it."""
_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})
_PARAMS: Final = frozenset({"name", "arguments", "_meta"})
"""Not inputResponses and requestState: a call that was asked for input is no plain one."""
_STREAMED: Final = ("progressToken", LOG_LEVEL_META_KEY)
"""`_meta` of who wants to hear of a call while it runs."""
_ACCEPTED: Final = frozenset({b"application/json", b"text/event-stream"})
_MOST_KNOWN: Final = 256
_LONGEST_KNOWN: Final = 1_024
"""Bytes of a `_meta` that is worth keeping."""

_LISTEN_AFTER_S: Final = 0.02
"""Most calls are over before anybody could know that their client has gone away."""

Call = Callable[[ClientPeer, str], Coroutine[Any, Any, dict[str, Any]]]
"""The result of a call of a tool by its name. Raises MCPError."""


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A message that `read` found to be plain."""

    request_id: int | str
    name: str
    params: Mapping[str, Any]

    def peer(self, session: Any, version: str, scope: Scope, guest: Guest) -> ClientPeer:
        """Who made it; `session` leads there. It stands before what the SDK's handlers are given. Raises MCPError."""
        ctx = sdk.Context(
            session=session,
            lifespan_context=None,
            protocol_version=version,
            method=METHOD,
            params=self.params,
            request_id=self.request_id,
            request=HttpRequest({**scope, CALLER: guest}),
        )
        return ClientPeer(ctx)


class Judge:
    """The SDK's word on requests. What can be wrong with one is its `_meta`, which is the same in all of a client's."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        """Each `_meta` that was right, as it was written."""

    def is_right(self, message: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
        """Of a message whose name is a text and whose arguments are an object."""
        params = message["params"]
        name, meta = params["name"], orjson.dumps(params["_meta"])
        is_repeated = headers.get(MCP_METHOD_HEADER) == METHOD and headers.get(MCP_NAME_HEADER) == name
        if meta in self._known and is_repeated and not name.startswith("=?"):  # so begins what is encoded
            return True
        if not isinstance(classify_inbound_request(message, headers=headers), InboundModernRoute):
            return False
        try:
            methods.validate_client_request(METHOD, _REVISION, params)
        except ValidationError:
            return False
        if len(meta) <= _LONGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known.add(meta)
        return True


def read(request: Request, message: Mapping[str, Any], judge: Judge) -> PlainCall | None:
    """`message` as a plain call; None: the SDK's server is to serve or to refuse it."""
    call = plain_call(message) if request.headers.get(VERSION) == _REVISION.encode() else None
    meta = call.params.get("_meta") if call is not None else None
    if call is None or meta is None or any(key in meta for key in _STREAMED):
        return None
    headers = _routing(request.scope)
    return call if headers is not None and judge.is_right(message, headers) else None


def plain_call(message: Mapping[str, Any]) -> PlainCall | None:
    """What `message` calls, where it has nothing that it need not have."""
    if message.keys() != _MEMBERS or message["jsonrpc"] != "2.0" or message["method"] != METHOD:
        return None
    request_id, params = message["id"], message["params"]
    if type(request_id) not in (int, str) or not isinstance(params, dict) or not params.keys() <= _PARAMS:
        return None
    name, objects = params.get("name"), (params.get("arguments", {}), params.get("_meta", {}))
    if not isinstance(name, str) or not all(isinstance(one, dict) for one in objects):
        return None
    return PlainCall(request_id, name, params)


def _routing(scope: Scope) -> dict[str, str] | None:
    """The headers that repeat what a message says; None where others say that it is not plain."""
    routing = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name.startswith(b"mcp-")
    }
    return routing if accepts_both(scope) and "mcp-session-id" not in routing else None


def accepts_both(scope: Scope) -> bool:
    """Whether a client says just what the protocol has it say: that it takes JSON and streams."""
    accepted = [value for name, value in scope["headers"] if name == b"accept"]
    return len(accepted) == 1 and {kind.strip() for kind in accepted[0].split(b",")} == _ACCEPTED


class PlainCalls:
    def __init__(self, server: Server[Any], calls: Calls, call: Call, ping_every_s: float) -> None:
        """`call` runs in a task of its own, which ends when the client goes away."""
        self._ping_every_s = ping_every_s
        self._calls = calls
        self._call = call
        self._alone = sdk.Alone(server, _REVISION)
        self._judge = Judge()

    def read(self, request: Request, message: Mapping[str, Any]) -> PlainCall | None:
        """As the function: the door has no SDK to ask it before there is one of these."""
        return read(request, message, self._judge)

    async def serve(self, plain: PlainCall, scope: Scope, guest: Guest, receive: Receive, send: Send) -> None:
        """Answer it. Nothing is sent to a client that has gone away."""
        reply = Reply(plain.request_id, send)
        try:
            peer = plain.peer(self._alone.session, _REVISION, scope, guest)
            result = await self._watched(peer, plain.name, receive, reply)
            if result is not None:
                await reply.result(self._alone.shaped(METHOD, result))
        except MCPError as error:
            await reply.error(error, ERROR_CODE_HTTP_STATUS.get(error.code, 200))

    async def _watched(self, peer: ClientPeer, name: str, receive: Receive, reply: Reply) -> dict[str, Any] | None:
        """The call's result; None: its client went away, and the call has ended with that."""
        work = self._calls.begin(peer, self._call(peer, name))
        gone: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({work}, timeout=_LISTEN_AFTER_S)
            if not work.done():
                gone = asyncio.create_task(until_gone(receive))
            while gone is not None and not work.done() and not gone.done():
                await asyncio.wait({work, gone}, timeout=self._ping_every_s, return_when=asyncio.FIRST_COMPLETED)
                if not work.done() and not gone.done():
                    await reply.ping()
            return work.result() if work.done() else None
        finally:
            if gone is not None:
                gone.cancel()
            if not work.done():
                await self._calls.withdraw(peer, work)
