"""The private names of the SDK that the MCP door uses. One that is gone or means something else fails here first."""

from __future__ import annotations

import inspect

import pytest
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, authorization_context
from mcp.server.auth.provider import AccessToken
from mcp.server.connection import Connection, allowed_log_levels
from mcp.server.lowlevel.server import Server
from mcp.server.session import ServerSession
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError

from agentgate.edges._mcp.sdk import Alone, count_sessions

TEXT = {"type": "text", "text": "a"}


def test_a_servers_session_knows_its_connection_and_its_requests_stream() -> None:
    class Stream:
        async def send_raw_request(self, method: str, params: object, opts: object = None) -> None: ...

        async def notify(self, method: str, params: object, opts: object = None) -> None: ...

    connection = Connection.from_envelope("2026-07-28", None, None)
    stream = Stream()
    session = ServerSession(stream, connection)  # type: ignore[arg-type]
    assert session._connection is connection
    assert session._request_outbound is stream  # type: ignore[comparison-overlap]


def test_a_connection_has_an_id_an_end_and_a_voice() -> None:
    connection = Connection.from_envelope("2026-07-28", None, None)
    assert connection.session_id is None
    assert connection.exit_stack.push_async_callback
    assert list(inspect.signature(connection.notify).parameters)[:2] == ["method", "params"]


async def test_a_manager_knows_whose_its_sessions_are() -> None:
    manager = StreamableHTTPSessionManager(Server("x"))
    assert count_sessions(manager, "t/a") == 0
    token = AccessToken(token="", client_id="t/a", scopes=[])
    manager._admit_session(authorization_context(AuthenticatedUser(token)))
    assert (count_sessions(manager, "t/a"), count_sessions(manager, "t/b")) == (1, 0)


def test_log_messages_are_wanted_by_version_and_request() -> None:
    assert "debug" in allowed_log_levels("2025-11-25", None)
    assert "debug" not in allowed_log_levels("2026-07-28", None)
    assert "error" in allowed_log_levels("2026-07-28", {"io.modelcontextprotocol/logLevel": "info"})


async def test_what_stands_alone_is_shaped_as_the_sdks_server_does_and_says_nothing_beside_it() -> None:
    alone = Alone(Server("x", version="1"), "2026-07-28")
    shaped = alone.shaped("tools/call", {"content": [TEXT | {"what": 1}], "resultType": "complete"})
    meta = {"io.modelcontextprotocol/serverInfo": {"name": "x", "version": "1"}}
    assert shaped == {"content": [TEXT], "resultType": "complete", "_meta": meta}
    with pytest.raises(MCPError):
        alone.shaped("tools/call", {"content": 1})
    await alone.session.report_progress(1.0)
    assert not alone.session.can_send_request
