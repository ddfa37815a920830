"""A real receiver of webhooks, which can be told to refuse, to hang and to send elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass(frozen=True)
class Got:
    body: bytes
    headers: Mapping[str, str]

    @property
    def value(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found


@dataclass
class Receiver:
    """`status` is what it answers."""

    url: str = ""
    status: int = 200
    answer_headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False
    got: list[Got] = field(default_factory=list)
    connections: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.got.append(Got(body, dict(request.headers)))
        self._news.set()
        if self.hangs:
            await asyncio.sleep(60)
        return web.Response(status=self.status, headers=self.answer_headers, body=self.body)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.got) < count:
                self._news.clear()
                await self._news.wait()


class _Counting(web.AppRunner):
    def __init__(self, app: web.Application, receiver: Receiver) -> None:
        super().__init__(app, shutdown_timeout=0.1)
        self._receiver = receiver

    async def _make_server(self) -> Any:
        server = await super()._make_server()
        receiver = self._receiver

        class Counted:
            def __init__(self) -> None:
                self._server = server

            def __call__(self) -> Any:
                receiver.connections += 1
                return self._server()

            def __getattr__(self, name: str) -> Any:
                return getattr(self._server, name)

        return Counted()


@contextlib.asynccontextmanager
async def receiving(ssl_context: Any = None) -> AsyncIterator[Receiver]:
    """A receiver on loopback."""
    found = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.take)
    runner = _Counting(app, found)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
    await site.start()
    scheme = "https" if ssl_context is not None else "http"
    found.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield found
    finally:
        await runner.cleanup()
