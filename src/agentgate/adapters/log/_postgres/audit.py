"""Feeds core/audit/ from PostgreSQL: read-only, one snapshot, in chunks; nothing is decided here.

The audit itself is synchronous and busy. It runs in a thread and asks the loop for each chunk, so that neither the
connection nor whoever else uses the loop is held up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._intake import told
from agentgate.adapters.log._postgres.connection import (
    FAULTS,
    VERSION_TABLE,
    Connection,
    check_revision,
    connect,
    shown,
)
from agentgate.adapters.log._segments import Unfolding
from agentgate.core.audit.auditor import Auditor
from agentgate.core.audit.report import Report
from agentgate.core.audit.stored import StoredCheckpoint, StoredHead, StoredSegment
from agentgate.core.errors import LogUnavailable
from agentgate.core.merkle import TileHash
from agentgate.core.note import NoteKey
from agentgate.core.projection.tables import Row

_ROWS_AT_ONCE: Final = 1_000
_SEGMENTS_AT_ONCE: Final = 8
_DISGUISED: Final = """
    SELECT t.name, CASE WHEN c.relkind = 'r' THEN 'has row-level security' ELSE 'is no table' END
    FROM unnest($1::text[]) AS t(name) JOIN pg_class c ON c.oid = to_regclass(t.name)
    WHERE c.relkind <> 'r' OR c.relrowsecurity ORDER BY t.name"""
_SEGMENTS: Final = """
    SELECT first_idx, last_idx, codec, content FROM body_segments WHERE log_id = $1 ORDER BY first_idx"""
_EVENTS: Final = """
    SELECT e.idx, e.event_id, e.kind, e.tenant, e.session, e.session_number, e.at, e.kill_position, e.leaf, e.leaf_hash,
           b.salt, b.body
    FROM events e LEFT JOIN bodies b ON b.log_id = e.log_id AND b.idx = e.idx
    WHERE e.log_id = $1 ORDER BY e.idx"""


async def verify(
    url: str, origin: str, keys: Sequence[NoteKey], log_id: str = schema.LOG_ID, *, kept: Sequence[bytes] = ()
) -> Report:
    """Derive the whole log again, whether gateways write to it or not; also from a standby. Locks nobody out.

    `kept` are checkpoints from elsewhere that the log must continue.

    Raises:
        LogUnavailable, UnsafeConfiguration: the database cannot be read, or has no log of this version.
    """
    connection: Connection | None = None
    try:
        connection = await connect(url, "verify", {"default_transaction_read_only": "on", "idle_session_timeout": "0"})
        has_log = await connection.fetchval(f"SELECT to_regclass('{VERSION_TABLE}') IS NOT NULL")
        check_revision(await connection.fetchval(f"SELECT max(version_num) FROM {VERSION_TABLE}") if has_log else None)  # noqa: S608  # ours
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")  # all below is of one moment
        disguised = await connection.fetch(_DISGUISED, list(schema.metadata.tables))
        flaws = [f"readers may be shown another log than this: {name} {how}" for name, how in disguised]
        source = _Source(connection, log_id, asyncio.get_running_loop())
        return await asyncio.to_thread(_audit, source, origin, keys, kept, flaws)
    except FAULTS as error:
        raise LogUnavailable(f"{shown(url)} cannot be read: {told(error)}") from error
    finally:
        if connection is not None:
            connection.terminate()


class _Source:
    """Rows of the snapshot, for a thread that is not the loop's."""

    def __init__(self, connection: Connection, log_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._log_id = log_id
        self._loop = loop

    def chunks(self, statement: str, rows_at_once: int = _ROWS_AT_ONCE) -> Iterator[list[tuple[Any, ...]]]:
        cursor = self._wait(self._connection.cursor(statement, self._log_id))
        while rows := self._wait(cursor.fetch(rows_at_once)):
            yield [tuple(row) for row in rows]

    def rows(self, table: str, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for chunk in self.chunks(f"SELECT {', '.join(names)} FROM {table} WHERE log_id = $1"):  # noqa: S608  # names of ours
            yield from chunk

    def _wait(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()


def _audit(
    source: _Source, origin: str, keys: Sequence[NoteKey], kept: Sequence[bytes], flaws: Sequence[str]
) -> Report:
    checkpoints = source.rows("checkpoints", ("size", "root", "note", "frontier"))
    tile_hashes = source.rows("subtrees", ("level", "idx", "hash"))
    segments = source.rows("body_segments", ("first_idx", "last_idx", "newest"))
    auditor = Auditor(
        origin,
        keys,
        [StoredCheckpoint(*row) for row in checkpoints],
        kept,
        tile_hashes=list(map(_tile, tile_hashes)),
        segments=[StoredSegment(*row) for row in segments],
    )
    unfolding = Unfolding(chain.from_iterable(source.chunks(_SEGMENTS, _SEGMENTS_AT_ONCE)))
    for chunk in source.chunks(_EVENTS):
        auditor.feed(unfolding.fill(chunk))
    heads = [StoredHead(*row) for row in source.rows("head", ("size", "kill_position", "open_from"))]
    derived = {name: _named(source, name) for name in schema.DERIVED}
    return auditor.finish(heads[0] if heads else None, derived, flaws)


def _tile(row: tuple[Any, ...]) -> TileHash:
    return row[0], row[1], bytes(row[2])


def _named(source: _Source, table: str) -> Iterator[Row]:
    names = [column.name for column in schema.columns_of(schema.DERIVED[table])]
    return (dict(zip(names, row, strict=True)) for row in source.rows(table, names))
