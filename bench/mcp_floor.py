"""Passes requests on and does two durable writes for each: the least that a gateway with a log adds to a server.

python -m bench.mcp_floor URL PORT FILE
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from queue import SimpleQueue
from typing import Any

import aiohttp
import uvicorn

WRITE_BYTES, FILE_BYTES = 5 * 4_096, 4_096 * 4_096
"""The pages that a commit of the log writes, as a rule; and a file that does not grow."""
_DROPPED = ("connection", "content-length", "date", "host", "server", "transfer-encoding")
"""Headers that are of one connection."""


class Disk(threading.Thread):
    """Makes writes durable, one after the other, as the log's thread does."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.pwrite(self._file, bytes(FILE_BYTES), 0)
        os.fsync(self._file)
        self._asked = SimpleQueue[asyncio.Future[None]]()

    def write(self) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        self._asked.put(done)
        return done

    def run(self) -> None:
        at = 0
        while True:
            done = self._asked.get()
            os.pwrite(self._file, bytes(WRITE_BYTES), at)
            os.fdatasync(self._file)
            at = (at + WRITE_BYTES) % (FILE_BYTES - WRITE_BYTES)
            done.get_loop().call_soon_threadsafe(_settle, done)


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class PassOn:
    """An ASGI application."""

    def __init__(self, url: str, disk: Disk) -> None:
        self._url = url
        self._disk = disk
        self._client: aiohttp.ClientSession | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if self._client is None:
            self._client = aiohttp.ClientSession(auto_decompress=False)
        body = b""
        is_whole = False
        while not is_whole:
            message = await receive()
            body += message.get("body", b"")
            is_whole = not message.get("more_body")
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"] if name.decode() not in _DROPPED]
        await self._disk.write()
        async with self._client.request(scope["method"], self._url + scope["path"], data=body, headers=headers) as said:
            answer = await said.read()
        await self._disk.write()
        told = [(name.lower().encode(), value.encode()) for name, value in said.headers.items()]
        told = [(name, value) for name, value in told if name.decode() not in _DROPPED]
        length = (b"content-length", b"%d" % len(answer))
        await send({"type": "http.response.start", "status": said.status, "headers": [*told, length]})
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    thread = Disk(sys.argv[3])
    thread.start()
    uvicorn.run(
        PassOn(sys.argv[1], thread),
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
    )
