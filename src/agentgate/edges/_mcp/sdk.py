"""Every private name of the `mcp` package that the MCP door uses. tests/edges/test_mcp_sdk.py says when one has gone.

The SDK has no public way to what belongs to a client's connection, nor to send a request of somebody else's as it is.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

import anyio
from mcp.server._streamable_http_modern import _SingleExchangeDispatchContext
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.connection import Connection, allowed_log_levels
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.runner import ServerRunner
from mcp.server.session import ServerSession
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.transport_context import TransportContext
from mcp.types import SERVER_INFO_META_KEY
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from sse_starlette.sse import AppStatus

from agentgate.core.call import Principal

Context = ServerRequestContext[Any, Any]
_ENDS: Final = "agentgate.ends"

_OF_TEXT: Final = frozenset({"resultType", "content", "structuredContent", "isError", "_meta"})
_TEXT: Final = frozenset({"type", "text"})


def connection_of(ctx: Context) -> Connection:
    """What a client's requests have in common: the session of the handshake era, nothing in the modern one."""
    return ctx.session._connection


def end_calls_first(connection: Connection) -> None:
    """Have what `on_end` is given from now on wait for what is pushed on the connection's exit stack after this."""
    ends = AsyncExitStack()
    connection.state[_ENDS] = ends
    connection.exit_stack.push_async_callback(ends.aclose)


def on_end(connection: Connection, close: Callable[[], Awaitable[None]]) -> None:
    """Call `close` when the client's session is over."""
    connection.state.get(_ENDS, connection.exit_stack).push_async_callback(close)


async def send_request(ctx: Context, method: str, params: Mapping[str, Any], within_s: float) -> dict[str, Any]:
    """A request to the client on the stream of the request that it belongs to.

    Raises:
        MCPError: its error, no way to reach it, or no answer in time.
    """
    return await ctx.session._request_outbound.send_raw_request(method, params, {"timeout": within_s})


async def send_notification(ctx: Context, method: str, params: Mapping[str, Any]) -> None:
    """A notification on the stream of the request that it belongs to."""
    await ctx.session._request_outbound.notify(method, params)


def keep_streams() -> None:
    """Have streams of the handshake era last until `end_streams`. By themselves they end with the signal to end, and
    calls that are running then would lose their answers."""
    AppStatus.enable_automatic_graceful_drain = False
    AppStatus.should_exit = False


def end_streams() -> None:
    AppStatus.should_exit = True


class Sessions(StreamableHTTPSessionManager):
    """The SDK's, and `admit` is told how many sessions somebody has open when another one is about to be. It may raise.

    Not when its request comes: many may come at a time, and each of them waits before its session is there.
    """

    def __init__(self, server: Server[Any], admit: Callable[[int], None], **options: Any) -> None:
        super().__init__(server, **options)
        self._admit = admit

    def _admit_session(self, requestor: AuthorizationContext | None) -> StreamableHTTPServerTransport | None:
        who = requestor["client_id"] if requestor is not None else None  # for whatever users
        self._admit(sum(owner["client_id"] == who for owner in self._session_owners.values()))
        return super()._admit_session(requestor)


def client_id_of(principal: Principal) -> str:
    """By which the SDK knows whose session is whose, with the user that it is for as `subject`."""
    return f"{principal.tenant}/{principal.id}"


def has_session(manager: StreamableHTTPSessionManager, session_id: str, principal: Principal) -> bool:
    """Whether this is a session of somebody's, and not ending."""
    transport, owner = manager._server_instances.get(session_id), manager._session_owners.get(session_id)
    if transport is None or transport.is_terminated or owner is None:
        return False
    if (owner["client_id"], owner["subject"]) != (client_id_of(principal), principal.on_behalf_of):
        return False
    return transport.idle_scope is None or not transport.idle_scope.cancel_called


@contextmanager
def in_use(manager: StreamableHTTPSessionManager, session_id: str) -> Iterator[None]:
    """The session is not idle meanwhile, as if its transport were serving the request."""
    transport = manager._server_instances[session_id]
    scope, idle_s = transport.idle_scope, transport._idle_timeout
    transport._requests_in_flight += 1
    if scope is not None:
        scope.deadline = math.inf
    try:
        yield
    finally:
        transport._requests_in_flight -= 1
        if scope is not None and idle_s is not None and not transport._requests_in_flight:
            scope.deadline = anyio.current_time() + idle_s


def takes_log_message(ctx: Context, level: object) -> bool:
    """Whether the client wants log messages of this level; in the modern era it says so with each request."""
    return level in allowed_log_levels(ctx.protocol_version, ctx.meta)


class Alone:
    """What a version's plain calls have in common: they stand alone, so one session serves them all."""

    def __init__(self, server: Server[Any], version: str) -> None:
        connection = Connection.from_envelope(version, None, None)
        self._version = version
        self._is_modern = version in MODERN_PROTOCOL_VERSIONS
        self._runner: ServerRunner[Any] = ServerRunner(server, connection, None)
        self._stamp = server.server_info_stamp
        transport = TransportContext(kind="streamable-http", can_send_request=False)
        # without a sink: nothing goes to a client beside the answer
        stream = _SingleExchangeDispatchContext(transport, request_id=0, message_metadata=None)
        self.session = ServerSession(stream, connection)

    def shaped(self, method: str, result: dict[str, Any]) -> dict[str, Any]:
        """A handler's result as the SDK's server would send it.

        Raises:
            MCPError: the revision has no such result.
        """
        if is_text(result):
            if self._is_modern:
                return {**result, "_meta": {**result["_meta"], SERVER_INFO_META_KEY: self._stamp}}
            if isinstance(result.get("structuredContent", {}), dict):
                return {name: value for name, value in result.items() if name != "resultType"}
        return self._runner._serialize(method, self._version, result)


def is_text(result: Mapping[str, Any]) -> bool:
    """Whether it is what most tools answer, of which the SDK would leave nothing out: texts, perhaps structured too."""
    if not result.keys() <= _OF_TEXT or not isinstance(result.get("isError", False), bool):
        return False
    content, meta = result.get("content"), result.get("_meta")
    if result.get("resultType") != "complete" or not isinstance(content, list) or not isinstance(meta, dict):
        return False
    if SERVER_INFO_META_KEY in meta or any(one is None for one in (result.get("structuredContent", 0), *meta.values())):
        return False
    return all(
        type(one) is dict and one.keys() == _TEXT and one["type"] == "text" and type(one["text"]) is str
        for one in content
    )
