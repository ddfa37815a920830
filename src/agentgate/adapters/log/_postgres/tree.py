"""The tree over a log that several processes append to: whose turn it is to sign, and what is done on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._postgres.lines import Lines, PostgresReader
from agentgate.adapters.log._postgres.writer import PostgresWriter
from agentgate.adapters.log._reading.rows import open_intents
from agentgate.core import merkle
from agentgate.core.audit.stored import StoredCheckpoint
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.merkle import TileHash

_TURN_WITHIN_S: Final = 3.0
_TRY_EVERY_S: Final = 0.02
_SWEEP_AFTER: Final = 20_000
_CALLS_AT_ONCE: Final = 2_000


class PostgresTree:
    """`integrator.TreeStore` and `ground.Ground`. An advisory lock says whose turn it is; the server frees it with
    the connection."""

    def __init__(self, writer: PostgresWriter, lines: Lines, reader: PostgresReader, log_id: str) -> None:
        self._writer = writer
        self._lines = lines
        self._reader = reader
        self._log_id = log_id
        self._open: dict[str, int] = {}
        self._swept_to: int | None = None

    @property
    def size(self) -> int:
        return self._writer.size

    @contextlib.asynccontextmanager
    async def turn(self, *, patient: bool) -> AsyncIterator[bool]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _TURN_WITHIN_S
        while True:
            async with self._lines.line(_TURN_WITHIN_S) as line:
                if await line.fetchval(_TRY_LOCK, schema.APPLICATION_ID, self._log_id):
                    yield True  # whatever is raised there closes the line, and that frees the lock as well
                    # one plain message: see `PostgresStore._prepare`
                    await line.execute(_UNLOCK.format(schema.APPLICATION_ID, self._log_id))
                    return
            if not patient:
                yield False
                return
            if loop.time() >= until:
                raise LogUnavailable("another process has been at the tree for too long")
            await asyncio.sleep(_TRY_EVERY_S)

    async def newest(self) -> tuple[int, StoredCheckpoint]:
        async with self._lines.line() as line:
            row = await line.fetchrow(_NEWEST, self._log_id)
        if row is None:
            raise LogBroken("the log has no head row; run `log verify`")
        size, *checkpoint = row
        return size, _NOTHING if checkpoint[0] is None else StoredCheckpoint(*checkpoint)

    async def leaf_hashes(self, first: int, limit: int) -> list[bytes]:
        return await self._reader.leaf_hashes(first, limit)

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        return await self._reader.hashes(level, first, count)

    async def durable(self) -> int:
        return (await self.newest())[0]

    async def put_checkpoint(self, checkpoint: StoredCheckpoint, completed: Sequence[TileHash]) -> None:
        async with self._lines.line() as line:
            await line.execute(
                _PUT_CHECKPOINT,
                self._log_id,
                checkpoint.size,
                checkpoint.root,
                checkpoint.note,
                checkpoint.frontier,
                [level for level, _, _ in completed],
                [index for _, index, _ in completed],
                [found for _, _, found in completed],
            )
        await self._sweep(checkpoint.size)

    async def put_cosignature(self, witness: str, size: int, line: str) -> None:
        async with self._lines.line() as connection:
            await connection.execute(_PUT_COSIGNATURE, self._log_id, witness, size, line)

    async def _sweep(self, size: int) -> None:
        """Now and then find out which intents are open, so that a start need not read the log from its beginning."""
        async with self._lines.line() as line:
            if self._swept_to is None:
                self._swept_to = int(await line.fetchval("SELECT open_from FROM head WHERE log_id = $1", self._log_id))
            if size - self._swept_to < _SWEEP_AFTER:
                return
        while self._swept_to < size:
            end = min(size, self._swept_to + _CALLS_AT_ONCE)
            async with self._lines.line() as line:
                rows = await line.fetch(_CALLS, self._log_id, self._swept_to, end)
            self._open = open_intents(rows, self._open)
            self._swept_to = end
        async with self._lines.line() as line:
            await line.execute(_OPEN_FROM, self._log_id, min(self._open.values(), default=self._swept_to))
            await line.execute(_FORGET_BEATS, self._log_id)


_NOTHING: Final = StoredCheckpoint(0, merkle.root([]), b"", b"")
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1, hashtext($2))"
_UNLOCK: Final = "SELECT pg_advisory_unlock({}, hashtext('{}'))"
_NEWEST: Final = """
    SELECT h.size, c.size, c.root, c.note, c.frontier FROM head h
    LEFT JOIN LATERAL (SELECT * FROM checkpoints WHERE log_id = h.log_id ORDER BY size DESC LIMIT 1) c ON true
    WHERE h.log_id = $1"""
_PUT_CHECKPOINT: Final = """
    WITH completed AS (
      INSERT INTO subtrees (log_id, level, idx, hash)
      SELECT $1, level, idx, hash FROM unnest($6::bigint[], $7::bigint[], $8::bytea[]) AS c (level, idx, hash))
    INSERT INTO checkpoints (log_id, size, root, note, frontier) VALUES ($1, $2, $3, $4, $5)"""
_PUT_COSIGNATURE: Final = """
    INSERT INTO cosignatures AS c (log_id, witness, size, line) VALUES ($1, $2, $3, $4)
    ON CONFLICT (log_id, witness) DO UPDATE SET size = excluded.size, line = excluded.line
    WHERE excluded.size > c.size"""
_CALLS: Final = """
    SELECT idx, kind, leaf FROM events
    WHERE log_id = $1 AND idx >= $2 AND idx < $3 AND kind IN ('decided', 'finished') ORDER BY idx"""
_OPEN_FROM: Final = "UPDATE head SET open_from = $2 WHERE log_id = $1 AND open_from < $2"
_FORGET_BEATS: Final = """
    DELETE FROM beats b USING members m
    WHERE b.log_id = $1 AND m.log_id = b.log_id AND m.member = b.member AND m.left_idx IS NOT NULL"""
