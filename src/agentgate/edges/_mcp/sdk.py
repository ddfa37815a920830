"""Every private name of the `mcp` package that the MCP door uses. tests/edges/test_mcp_sdk.py says when one has gone.

The SDK has no public way to what belongs to a client's connection, nor to send a request of somebody else's as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.server._streamable_http_modern import _SingleExchangeDispatchContext
from mcp.server.connection import Connection, allowed_log_levels
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.runner import ServerRunner
from mcp.server.session import ServerSession
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.transport_context import TransportContext
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from sse_starlette.sse import AppStatus

Context = ServerRequestContext[Any, Any]


def connection_of(ctx: Context) -> Connection:
    """What a client's requests have in common: the session of the handshake era, nothing in the modern one."""
    return ctx.session._connection


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


def is_opening(scope: Mapping[str, Any]) -> bool:
    """Whether the SDK would open a session for a request with these headers."""
    headers = dict(reversed(scope["headers"]))
    version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
    return b"mcp-session-id" not in headers and version in ("", *HANDSHAKE_PROTOCOL_VERSIONS)


def count_sessions(manager: StreamableHTTPSessionManager, client_id: str) -> int:
    """How many sessions somebody has open."""
    return sum(owner["client_id"] == client_id for owner in tuple(manager._session_owners.values()))


def takes_log_message(ctx: Context, level: object) -> bool:
    """Whether the client wants log messages of this level; in the modern era it says so with each request."""
    return level in allowed_log_levels(ctx.protocol_version, ctx.meta)


class Alone:
    """What a version's plain calls have in common: they stand alone, so one session serves them all."""

    def __init__(self, server: Server[Any], version: str) -> None:
        connection = Connection.from_envelope(version, None, None)
        self._version = version
        self._runner: ServerRunner[Any] = ServerRunner(server, connection, None)
        transport = TransportContext(kind="streamable-http", can_send_request=False)
        # without a sink: nothing goes to a client beside the answer
        stream = _SingleExchangeDispatchContext(transport, request_id=0, message_metadata=None)
        self.session = ServerSession(stream, connection)

    def shaped(self, method: str, result: dict[str, Any]) -> dict[str, Any]:
        """A handler's result as the SDK's server would send it.

        Raises:
            MCPError: the revision has no such result.
        """
        return self._runner._serialize(method, self._version, result)
