"""Every private name of the `mcp` package that the MCP door uses. tests/edges/test_mcp_sdk.py says when one has gone.

The SDK has no public way to what belongs to a client's connection, nor to send a request of somebody else's as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.server.connection import Connection, allowed_log_levels
from mcp.server.context import ServerRequestContext

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


def takes_log_message(ctx: Context, level: object) -> bool:
    """Whether the client wants log messages of this level; in the modern era it says so with each request."""
    return level in allowed_log_levels(ctx.protocol_version, ctx.meta)
