"""A TCP connection that can be cut, stop carrying one way, or carry late, without either end being told."""

from __future__ import annotations

import asyncio


class Proxy:
    """async with Proxy(server.port) as proxy: server.url("…", port=proxy.port)"""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._asking = asyncio.Event()
        self._answering = asyncio.Event()
        self._held: list[asyncio.Event] = []
        self._asking.set()
        self._answering.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.heal()
        self.drop()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def mute(self) -> None:
        """From now on nothing reaches the server."""
        self._asking.clear()

    def hold(self) -> None:
        """What is asked on the connections there are arrives after `heal`, also when they were given up meanwhile."""
        self._asking.clear()
        self._held.append(self._asking)
        self._asking = asyncio.Event()
        self._asking.set()

    def deafen(self) -> None:
        """From now on nothing comes back from the server."""
        self._answering.clear()

    def heal(self) -> None:
        """Carry again, also what has been held back."""
        for asking in (self._asking, *self._held):
            asking.set()
        self._answering.set()

    def drop(self) -> None:
        """Reset every connection there is; what was held back is lost."""
        for writer in self._writers:
            writer.transport.abort()

    async def _opening(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """What is read of a connection before there is one to the server, and goes there first."""
        return b""

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opening = await self._opening(reader, writer)
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        to_writer.write(opening)
        self._writers |= {writer, to_writer}
        for source, sink, may in ((reader, to_writer, self._asking), (to_reader, writer, self._answering)):
            task = asyncio.create_task(self._pump(source, sink, may))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, may: asyncio.Event) -> None:
        try:
            while data := await source.read(65_536):
                await may.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()


class Pooler(Proxy):
    """As a pooler in session mode: it opens no session with settings that it does not know."""

    _KNOWN = frozenset({b"user", b"database", b"client_encoding", b"application_name"})

    async def _opening(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        size = await reader.readexactly(4)
        opening = await reader.readexactly(int.from_bytes(size) - 4)
        unknown = set(opening[4:].split(b"\0")[:-2:2]) - self._KNOWN
        if unknown:
            fields = b"SFATAL\0C08P01\0Munsupported startup parameter: " + min(unknown) + b"\0\0"
            writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
            writer.close()
        return size + opening
