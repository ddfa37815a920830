"""The private names of the SDK that the MCP door uses. One that is gone or means something else fails here first."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, authorization_context
from mcp.server.connection import Connection, allowed_log_levels
from mcp.server.lowlevel.server import Server
from mcp.server.session import ServerSession
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from agentgate.core.call import AgentId, Principal, PrincipalKind, TenantId
from agentgate.edges._mcp.sdk import Alone, Sessions, has_session, in_use
from agentgate.edges._mcp.server import _token_of

TEXT = {"type": "text", "text": "a"}
ALONE = {
    version: Alone(Server("x", version="1"), version)
    for version in (*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS)
}


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
    open_: list[int] = []
    manager = Sessions(Server("x"), open_.append)
    ours, theirs = (
        Principal(PrincipalKind.AGENT, AgentId(name), TenantId("t"), frozenset(), "key") for name in ("ours", "theirs")
    )
    for_ann, for_ben = (replace(ours, on_behalf_of=user) for user in ("ann", "ben"))
    transport, anns, _, _ = (
        manager._admit_session(authorization_context(AuthenticatedUser(_token_of(whose))))
        for whose in (ours, for_ann, for_ben, theirs)
    )
    assert open_ == [0, 1, 2, 0], "an agent has one share, for whatever users"
    assert anns is not None
    assert has_session(manager, anns.mcp_session_id or "", for_ann)
    assert not any(has_session(manager, anns.mcp_session_id or "", one) for one in (for_ben, ours))
    assert transport is not None
    session = transport.mcp_session_id or ""
    assert has_session(manager, session, ours)
    assert not has_session(manager, session, theirs)
    assert not has_session(manager, "another", ours)
    await transport.terminate()
    assert not has_session(manager, session, ours)


async def test_a_session_in_use_does_not_end_for_idleness_and_one_that_ends_is_nobodys() -> None:
    manager = StreamableHTTPSessionManager(Server("x"), session_idle_timeout=60)
    ours = Principal(PrincipalKind.AGENT, AgentId("ours"), TenantId("t"), frozenset(), "key")
    transport = manager._admit_session(authorization_context(AuthenticatedUser(_token_of(ours))))
    assert transport is not None
    session = transport.mcp_session_id or ""
    async with transport.connect():
        assert transport.idle_scope is not None
        with in_use(manager, session):
            with in_use(manager, session):
                assert transport.idle_scope.deadline == math.inf
            assert transport.idle_scope.deadline == math.inf
        assert 50 < transport.idle_scope.deadline - anyio.current_time() <= 60
        assert has_session(manager, session, ours)
        transport.idle_scope.cancel()
        assert not has_session(manager, session, ours)


def test_log_messages_are_wanted_by_version_and_request() -> None:
    assert "debug" in allowed_log_levels("2025-11-25", None)
    assert "debug" not in allowed_log_levels("2026-07-28", None)
    assert "error" in allowed_log_levels("2026-07-28", {"io.modelcontextprotocol/logLevel": "info"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
BLOCKS = st.fixed_dictionaries(
    {"type": st.just("text"), "text": st.text(max_size=5)}, optional={"annotations": st.none(), "x": VALUES}
)
RESULTS = st.fixed_dictionaries(
    {
        "resultType": st.sampled_from(["complete", "complete", "task"]),
        "content": st.lists(BLOCKS, max_size=3),
        "_meta": st.dictionaries(st.sampled_from(["a/b", "io.modelcontextprotocol/serverInfo"]), VALUES, max_size=2),
    },
    optional={"structuredContent": VALUES, "isError": st.booleans(), "y": VALUES},
)


@pytest.mark.parametrize("version", [*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS])
@given(result=RESULTS)
def test_a_result_of_texts_is_shaped_as_the_sdks_server_shapes_it(version: str, result: dict[str, Any]) -> None:
    alone = ALONE[version]
    try:
        theirs: Any = alone._runner._serialize("tools/call", version, dict(result))
    except MCPError as error:
        theirs = error.message
    try:
        ours: Any = alone.shaped("tools/call", dict(result))
    except MCPError as error:
        ours = error.message
    assert ours == theirs


async def test_what_stands_alone_is_shaped_as_the_sdks_server_does_and_says_nothing_beside_it() -> None:
    alone = Alone(Server("x", version="1"), "2026-07-28")
    shaped = alone.shaped("tools/call", {"content": [TEXT | {"what": 1}], "resultType": "complete"})
    meta = {"io.modelcontextprotocol/serverInfo": {"name": "x", "version": "1"}}
    assert shaped == {"content": [TEXT], "resultType": "complete", "_meta": meta}
    with pytest.raises(MCPError):
        alone.shaped("tools/call", {"content": 1})
    await alone.session.report_progress(1.0)
    assert not alone.session.can_send_request
