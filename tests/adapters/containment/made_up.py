"""Servers that speak RESP as a test says: what no honest Redis would do."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import hiredis

Reply = Callable[[list[bytes]], bytes]
"""What a made-up server answers to a command; a reply that ends in CUT ends the connection after it."""
CUT = b"<cut>"
HONEST_INFO = b"cluster_enabled:0\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n"
ADMITTED = b"*5\r\n:0\r\n:1\r\n$-1\r\n:0\r\n:0\r\n"


class MadeUp(asyncio.Protocol):
    """Speaks RESP to whoever connects, as `reply` says."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._more = object()
        self._parser = hiredis.Reader(notEnoughData=self._more)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        while (command := self._parser.gets()) is not self._more:
            answer = self._reply(command)
            self._transport.write(answer.removesuffix(CUT))
            if answer.endswith(CUT):
                self._transport.close()
                return


@asynccontextmanager
async def made_up_server(reply: Reply) -> AsyncIterator[str]:
    """Yields the URL of a server that answers as `reply` says."""
    with tempfile.TemporaryDirectory(prefix="agentgate-fake-") as directory:
        server = await asyncio.get_running_loop().create_unix_server(lambda: MadeUp(reply), f"{directory}/s")
        async with server:
            yield f"unix://{directory}/s"


def honest(answer: bytes) -> Reply:
    """A server that is fit for use and says `answer` to the admission script."""

    def reply(command: list[bytes]) -> bytes:
        match command[0]:
            case b"INFO":
                return b"$%d\r\n%s\r\n" % (len(HONEST_INFO), HONEST_INFO)
            case b"HGETALL":
                return b"*0\r\n"
            case b"EVALSHA" if command[2] == b"2":  # admit.lua has two keys, apply.lua one
                return answer
            case b"EVALSHA":
                return b":%s\r\n" % command[4]
            case _:
                return b":0\r\n"

    return reply
