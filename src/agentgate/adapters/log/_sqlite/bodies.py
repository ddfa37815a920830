"""Bodies in a SQLite log: deleted and compressed on the connection that writes, between two batches."""

from __future__ import annotations

from collections.abc import Sequence

from agentgate.adapters.log._bodies import BodyStore
from agentgate.adapters.log._segments import Ask, Segment
from agentgate.adapters.log._sqlite.store import SqliteStore
from agentgate.adapters.log._sqlite.writer import Writer


class SqliteBodies(BodyStore):
    """`ports.Bodies`."""

    def __init__(self, writer: Writer, ask: Ask, log_id: str) -> None:
        super().__init__(ask, log_id)
        self._writer = writer

    async def _delete(self, indexes: Sequence[int]) -> int:
        marks = ", ".join("?" * len(indexes))

        def delete(store: SqliteStore) -> int:
            with store.forgetting() as db:
                return db.execute(
                    f"DELETE FROM bodies WHERE log_id = ? AND idx IN ({marks})",  # noqa: S608  # question marks
                    (self._log_id, *indexes),
                ).rowcount

        return await self._writer.call(delete)

    async def _replace(self, first: int, bodies: int, left: int, content: bytes) -> bool:
        def replace(store: SqliteStore) -> bool:
            with store.forgetting() as db:
                changed = db.execute(
                    "UPDATE body_segments SET bodies = ?, content = ? "
                    "WHERE log_id = ? AND first_idx = ? AND bodies = ?",
                    (left, content, self._log_id, first, bodies),
                )
                return changed.rowcount == 1

        return await self._writer.call(replace)

    async def _put(self, segment: Segment) -> bool:
        def put(store: SqliteStore) -> bool:
            with store.forgetting() as db:
                db.execute("INSERT INTO body_segments VALUES (?, ?, ?, ?, ?, ?, ?)", segment.row(self._log_id))
                db.execute(
                    "DELETE FROM bodies WHERE log_id = ? AND idx BETWEEN ? AND ?",
                    (self._log_id, segment.first, segment.last),
                )
            return True  # only this process deletes bodies, and one at a time

        return await self._writer.call(put)
