"""What `agentgate mcp` takes for the end of its gateway, and what for a tool's own word."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
)

from agentgate.commands._bridge import Relay


class Window(NamedTuple):
    """The ends of a relay that its client and its gateway have."""

    queue: MemoryObjectSendStream[SessionMessage]
    heard: MemoryObjectReceiveStream[SessionMessage]
    sent: MemoryObjectReceiveStream[SessionMessage]
    from_gateway: MemoryObjectSendStream[SessionMessage]


@contextlib.asynccontextmanager
async def carried() -> AsyncIterator[Window]:
    """A relay between the two, for at most five seconds."""
    to_client, heard = anyio.create_memory_object_stream[SessionMessage](9)
    to_gateway, sent = anyio.create_memory_object_stream[SessionMessage](9)
    from_gateway, queue = (anyio.create_memory_object_stream[SessionMessage](9) for _ in range(2))
    with anyio.fail_after(5):
        streams = (to_client, heard, to_gateway, sent, *from_gateway, *queue)
        async with contextlib.AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            for stream in streams:
                await stack.enter_async_context(stream)
            tasks.start_soon(Relay(to_client).carry, queue[1], from_gateway[1], to_gateway)
            yield Window(queue[0], heard, sent, from_gateway[0])
            queue[0].close()


@pytest.mark.parametrize(("data", "is_lost"), [(None, True), ({"dev.agentgate/traceId": "t"}, False)])
async def test_an_error_that_a_tool_gives_is_not_the_end_of_the_gateway(data: object, *, is_lost: bool) -> None:
    """Servers use the code that the SDK has for a lost connection: one of them must not end the calls of all."""
    error = ErrorData(code=CONNECTION_CLOSED, message="file is locked", data=data)
    async with carried() as window:
        for number in (1, 2):
            await window.queue.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=number, method="tools/call")))
            await window.sent.receive()
        await window.from_gateway.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=2, error=error)))
        answer = (await window.heard.receive()).message
    assert isinstance(answer, JSONRPCError)
    assert (answer.id, answer.error.code) == (2, INTERNAL_ERROR if is_lost else CONNECTION_CLOSED)
    assert (answer.error == error) is not is_lost


@pytest.mark.parametrize(
    ("method", "meta"),
    [
        ("tools/list", "x"),
        ("tools/list", ["x"]),
        ("té", {PROTOCOL_VERSION_META_KEY: "2026-07-28"}),
        ("tools/list", {PROTOCOL_VERSION_META_KEY: "2026-07-28é"}),
        ("tools/list", {PROTOCOL_VERSION_META_KEY: "2026\r\n"}),
    ],
)
async def test_what_no_header_can_repeat_is_refused_and_the_window_goes_on(method: str, meta: object) -> None:
    odd = {"jsonrpc": "2.0", "method": method, "params": {"_meta": meta}}
    async with carried() as window:
        await window.queue.send(SessionMessage(JSONRPCNotification.model_validate(odd)))
        await window.queue.send(SessionMessage(JSONRPCRequest.model_validate(odd | {"id": 1})))
        await window.queue.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=2, method="ping")))
        answer, passed_on = (await window.heard.receive()).message, (await window.sent.receive()).message
    assert isinstance(answer, JSONRPCError)
    assert (answer.id, answer.error.code) == (1, INVALID_REQUEST)
    assert isinstance(passed_on, JSONRPCRequest)
    assert passed_on.id == 2
