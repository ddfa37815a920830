"""How far the followers of a SQLite log have come."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from agentgate.adapters.log._sqlite.writer import Writer


class SqliteBookmarks:
    """`ports.Bookmarks` of a log that is one process's: it is always its turn."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def load(self, name: str) -> int | None:
        return await self._writer.call(lambda store: store.cursor(name))

    async def save(self, name: str, index: int) -> None:
        await self._writer.call(lambda store: store.put_cursor(name, index))

    @contextlib.asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[bool]:  # the port's
        yield True
