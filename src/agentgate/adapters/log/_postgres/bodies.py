"""Bodies in a PostgreSQL log: deleted and compressed by a role of its own, which can do nothing else (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg  # type: ignore[import-untyped]  # see connection.py

from agentgate.adapters.log._bodies import BodyStore
from agentgate.adapters.log._postgres.lines import Lines
from agentgate.adapters.log._segments import Ask, Segment
from agentgate.core.errors import LogUnavailable

NO_ROLE: Final = (
    "no role may delete bodies here: set log.retention_url (AGENTGATE_RETENTION_DATABASE_URL) to the log's database "
    "with the role agentgate_retention"
)
_SETTINGS: Final = {
    "statement_timeout": "10000",
    "lock_timeout": "2000",
    "idle_in_transaction_session_timeout": "2000",
    "idle_session_timeout": "60000",
}


class PostgresBodies(BodyStore):
    """`ports.Bodies`. Never takes the head row, which is what appends wait for."""

    def __init__(self, url: str | None, ask: Ask, log_id: str) -> None:
        """`url` is the retention role's; without one nothing can be deleted, and `refusal` says so."""
        super().__init__(ask, log_id)
        self._lines = None if url is None else Lines(url, "retention", _SETTINGS, size=1, within_s=30.0)
        self.refusal = NO_ROLE if url is None else None

    def _line(self) -> Lines:
        if self._lines is None:
            raise LogUnavailable(NO_ROLE)
        return self._lines

    async def _delete(self, indexes: Sequence[int]) -> int:
        async with self._line().line() as line:
            return _count(await line.execute(_DELETE, self._log_id, list(indexes)))

    async def _replace(self, first: int, bodies: int, left: int, content: bytes) -> bool:
        async with self._line().line() as line:
            return _count(await line.execute(_REPLACE, self._log_id, first, bodies, left, content)) == 1

    async def _put(self, segment: Segment) -> bool:
        """False too when another process compresses the same events at this moment."""
        async with self._line().line() as line:
            await line.execute("BEGIN")
            try:
                await line.execute(_PUT, *segment.row(self._log_id))
                deleted = await line.execute(_DELETE_RUN, self._log_id, segment.first, segment.last)
                is_all = _count(deleted) == len(segment.bodies)  # else a prune has come in between
            except (asyncpg.UniqueViolationError, asyncpg.RestrictViolationError):
                is_all = False
            except asyncpg.PostgresError:
                await line.execute("ROLLBACK")
                raise
            await line.execute("COMMIT" if is_all else "ROLLBACK")
        return is_all

    async def aclose(self) -> None:
        if self._lines is not None:
            await self._lines.aclose()


def _count(status: str) -> int:
    """How many rows a command tag speaks of."""
    return int(status.rpartition(" ")[2])


_DELETE: Final = "DELETE FROM bodies WHERE log_id = $1 AND idx = ANY ($2::bigint[])"
_DELETE_RUN: Final = "DELETE FROM bodies WHERE log_id = $1 AND idx BETWEEN $2 AND $3"
_PUT: Final = "INSERT INTO body_segments VALUES ($1, $2, $3, $4, $5, $6, $7)"
_REPLACE: Final = """
    UPDATE body_segments SET bodies = $4, content = $5 WHERE log_id = $1 AND first_idx = $2 AND bodies = $3"""
