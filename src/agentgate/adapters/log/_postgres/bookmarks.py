"""How far the followers of a log in PostgreSQL have come, and whose turn it is to follow it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._postgres.lines import Lines

_WITHIN_S: Final = 60.0
_SETTINGS: Final = {"statement_timeout": "2000", "lock_timeout": "800", "idle_session_timeout": "90000"}


class PostgresBookmarks:
    """`ports.Bookmarks` of a shared log. An advisory lock says whose turn it is; the server frees it with the
    connection."""

    def __init__(self, url: str, log_id: str) -> None:
        self._lines = Lines(url, "follower", _SETTINGS, size=4, within_s=2.0)
        self._log_id = log_id

    async def load(self, name: str) -> int | None:
        async with self._lines.line() as line:
            found = await line.fetchval(_LOAD, self._log_id, name)
        return None if found is None else int(found)

    async def save(self, name: str, index: int) -> None:
        async with self._lines.line() as line:
            await line.execute(_SAVE, self._log_id, name, index)

    @contextlib.asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[bool]:
        async with self._lines.line(_WITHIN_S) as line:
            if not await line.fetchval(_TRY_LOCK, schema.APPLICATION_ID, f"{self._log_id}/{name}"):
                yield False
                return
            yield True  # whatever is raised there closes the line, and that frees the lock as well
            await line.fetchval(_UNLOCK, schema.APPLICATION_ID, f"{self._log_id}/{name}")

    async def aclose(self) -> None:
        await self._lines.aclose()


_LOAD: Final = "SELECT idx FROM cursors WHERE log_id = $1 AND name = $2"
_SAVE: Final = """
    INSERT INTO cursors AS c (log_id, name, idx) VALUES ($1, $2, $3)
    ON CONFLICT (log_id, name) DO UPDATE SET idx = greatest(c.idx, excluded.idx)"""
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1, hashtext($2))"
_UNLOCK: Final = "SELECT pg_advisory_unlock($1, hashtext($2))"
