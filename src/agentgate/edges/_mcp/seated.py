"""A plain `tools/call` in a session of the handshake era, served past the SDK's transport (ADR 0012).

The session is the SDK's: it is opened, kept and ended there, and everything else that is said in it goes through it. A
call that wants no progress, of a client that can be asked nothing, needs nothing of it but to be there: it stands in no
stream and in no task of the SDK's, and comes back as JSON. Who goes away does not withdraw its call in this era; who
cancels it does, and so does the session's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.connection import Connection
from mcp.server.lowlevel.server import Server
from mcp.server.session import ServerSession
from mcp.server.streamable_http import REQUEST_CANCELLED
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

from agentgate.core.call import Principal
from agentgate.edges._mcp import sdk
from agentgate.edges._mcp.calls import Calls
from agentgate.edges._mcp.parts import Guest
from agentgate.edges._mcp.peer import ClientPeer
from agentgate.edges._mcp.plain import METHOD, VERSION, Call, PlainCall, accepts_both, plain_call
from agentgate.edges._mcp.reply import Reply
from agentgate.edges.wire import Request, Scope, Send

_SESSION: Final = b"mcp-session-id"
_VERSIONS: Final = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)


@dataclass(frozen=True, slots=True)
class SeatedCall:
    """A message that `read` found to be plain, and the session it is in."""

    plain: PlainCall
    connection: Connection


class _Way:
    """To the client, on the answer to its request; the SDK's `DispatchContext`."""

    can_send_request: Final = False

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def send_raw_request(self, method: str, params: object, opts: object = None) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: object = None) -> None:
        await self._reply.tell(method, params)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Nobody wants to hear of it."""


class SeatedCalls:
    def __init__(
        self, server: Server[Any], manager: StreamableHTTPSessionManager, calls: Calls, call: Call, ping_every_s: float
    ) -> None:
        self._manager = manager
        self._ping_every_s = ping_every_s
        self._calls = calls
        self._call = call
        self._connections: dict[str, Connection] = {}
        self._running: dict[tuple[str, str], tuple[ClientPeer, asyncio.Task[Any]]] = {}
        self._alone = {version: sdk.Alone(server, version) for version in HANDSHAKE_PROTOCOL_VERSIONS}

    def remember(self, connection: Connection) -> None:
        """The handshake of a session is over."""
        session_id = connection.session_id
        if session_id is not None and session_id not in self._connections:
            self._connections[session_id] = connection
            sdk.end_calls_first(connection)
            connection.exit_stack.push_async_callback(self._end, session_id)

    async def _end(self, session_id: str) -> None:
        del self._connections[session_id]
        running = [one for (where, _), one in self._running.items() if where == session_id]
        for peer, work in running:  # all at once, and before anything is awaited: an end may itself be cut short
            self._calls.cancel(peer, work)
        await asyncio.gather(*(self._calls.withdraw(peer, work) for peer, work in running))

    def read(self, request: Request, message: Mapping[str, Any], principal: Principal) -> SeatedCall | None:
        """`message` as a plain call in a session of theirs; None: the SDK is to serve or to refuse it."""
        connection = self._session(request, principal)
        plain = plain_call(message) if connection is not None and accepts_both(request.scope) else None
        if connection is None or plain is None or "progressToken" in plain.params.get("_meta", {}):
            return None
        return SeatedCall(plain, connection)

    def _session(self, request: Request, principal: Principal) -> Connection | None:
        """Of a client that can be asked nothing: a question needs the SDK's stream."""
        session_id = request.headers.get(_SESSION, b"").decode("latin-1")
        connection = self._connections.get(session_id)
        if connection is None or not sdk.has_session(self._manager, session_id, principal):
            return None
        if not _is_handshaken(request):
            return None
        can = connection.client_capabilities
        is_asked = can is not None and (can.elicitation, can.sampling, can.roots) != (None, None, None)
        return None if is_asked else connection

    def hear(self, request: Request, message: Mapping[str, Any], principal: Principal) -> None:
        """Whether a call is cancelled: the SDK, which hears that too, does not know of it."""
        params = message.get("params")
        if message.get("method") != "notifications/cancelled" or "id" in message or not isinstance(params, dict):
            return
        request_id = params.get("requestId")
        if message.get("jsonrpc") != "2.0" or type(request_id) not in (int, str) or not _is_handshaken(request):
            return
        session_id = request.headers.get(_SESSION, b"").decode("latin-1")
        running = self._running.get((session_id, str(request_id)))
        if running is not None and sdk.has_session(self._manager, session_id, principal):
            self._calls.cancel(*running)

    async def serve(self, seated: SeatedCall, scope: Scope, guest: Guest, send: Send) -> None:
        plain, connection = seated.plain, seated.connection
        session_id, version = connection.session_id or "", connection.protocol_version
        reply = Reply(plain.request_id, send, [(_SESSION, session_id.encode("latin-1"))])
        way: Any = _Way(reply)
        with sdk.in_use(self._manager, session_id):
            try:
                peer = plain.peer(ServerSession(way, connection), version, scope, guest)
                result = await self._watched(peer, plain.name, (session_id, str(plain.request_id)), reply)
                await reply.result(self._alone[version].shaped(METHOD, result))
            except MCPError as error:
                await reply.error(error)

    async def _watched(self, peer: ClientPeer, name: str, key: tuple[str, str], reply: Reply) -> dict[str, Any]:
        """The call's result. Raises MCPError where it was cancelled."""
        work = self._calls.begin(peer, self._call(peer, name))
        self._running[key] = peer, work
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=self._ping_every_s)
                if not work.done():
                    await reply.ping()
        finally:
            del self._running[key]
            if not work.done():
                await self._calls.withdraw(peer, work)
        if work.cancelled():
            raise MCPError(REQUEST_CANCELLED, "Request cancelled")
        return work.result()


def _is_handshaken(request: Request) -> bool:
    """Whether the era is that of the handshake; its first versions had no such header."""
    return request.headers.get(VERSION, b"2025-03-26") in _VERSIONS
