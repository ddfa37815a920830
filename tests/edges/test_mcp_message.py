"""What is read of messages, and in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from agentgate.edges._mcp.message import Reader, Unserved
from agentgate.edges.wire import Request
from agentgate.ports.ambient import LARGE_BYTES
from tests.fakes import AtOnce, HeldWorker

LARGE = b'{"id":1,"pad":"%s"}' % (b"x" * LARGE_BYTES)
SMALL = b'{"method":"notifications/cancelled"}'


async def _read(reader: Reader, body: bytes, session: str | None = "s-1") -> Any:
    headers = {b"content-type": b"application/json"}
    if session is not None:
        headers[b"mcp-session-id"] = session.encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return await reader.read(Request({"type": "http"}, headers, b""), receive)


async def test_what_follows_a_large_message_in_its_session_does_not_overtake_it() -> None:
    """It may be what cancels that."""
    worker = HeldWorker()
    reader = Reader(worker, 100_000)
    order: list[str] = []

    async def read(name: str, body: bytes) -> None:
        await _read(reader, body)
        order.append(name)

    large = asyncio.create_task(read("large", LARGE))
    await worker.asked.wait()
    small = asyncio.create_task(read("small", SMALL))
    await asyncio.sleep(0)
    assert (await _read(reader, SMALL, "s-2"))[1] == orjson.loads(SMALL)
    assert (await _read(reader, SMALL, None))[1] == orjson.loads(SMALL)
    assert not small.done()
    worker.let_go.set()
    await asyncio.gather(large, small)
    assert order == ["large", "small"]
    assert (await _read(reader, SMALL))[0] == SMALL, "and then nothing waits"


async def test_a_large_message_that_nobody_waits_for_holds_up_no_other() -> None:
    worker = HeldWorker()
    reader = Reader(worker, 100_000)
    large = asyncio.create_task(_read(reader, LARGE))
    await worker.asked.wait()
    large.cancel()
    await asyncio.wait({large})
    assert (await _read(reader, SMALL))[0] == SMALL


@pytest.mark.parametrize("body", [b"[]", b"1", b'{"a":1,"a":2}', b"{"])
async def test_what_is_no_message_is_not_served(body: bytes) -> None:
    reader = Reader(AtOnce(), 100_000)
    for _ in range(2):
        with pytest.raises(Unserved):
            await _read(reader, body)
