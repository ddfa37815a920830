"""The cheapest HTTP client there is: a connection, one request at a time, and when its answer came."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, NamedTuple

from bench.services import ADMIN_KEY, Server

_END_OF_HEAD = b"\r\n\r\n"


class Answer(NamedTuple):
    """`at_s` is when its last byte was read (perf_counter), before anybody who waits for it has run."""

    status: int
    body: bytes
    at_s: float

    def json(self) -> Any:
        return json.loads(self.body)


class Line(asyncio.Protocol):
    """One connection that is kept alive, and opened again when the server has closed it for being idle."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._waiter: asyncio.Future[Answer] | None = None

    @classmethod
    async def to(cls, server: Server) -> Line:
        line = cls(server)
        await line._open()
        return line

    async def _open(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._server.port)

    async def ask(self, request: bytes) -> Answer:
        """Raises OSError when the server hangs up, or is not there."""
        if self._transport is None:
            await self._open()
        self._waiter = asyncio.get_running_loop().create_future()
        if self._transport is not None:
            self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(_END_OF_HEAD)
        if not end:
            return
        _, _, length = head.lower().partition(b"content-length:")
        if len(body) < int(length.partition(b"\r\n")[0]):
            return
        self._data = b""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(Answer(int(head[9:12]), body, time.perf_counter()))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self._data = None, b""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("bench: the server hung up"))


def post(path: str, body: Any) -> bytes:
    """A whole request, to be sent as often as one likes."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n".encode()
    length = b"content-length: %d\r\n" % len(content)
    return head + length + _OF_ADMIN * (path != CALL) + b"\r\n" + content


CALL = "/tools/call"
_OF_ADMIN = f"x-api-key: {ADMIN_KEY}\r\n".encode()
