"""The log in one SQLite file: for one process, which holds an OS lock on it (DESIGN §5)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiosqlite
from sqlalchemy import AsyncAdaptedQueuePool, Select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._checkpoints.anchors import Anchors, Places, read_file
from agentgate.adapters.log._checkpoints.continuity import check_signed
from agentgate.adapters.log._checkpoints.integrator import CHECKPOINT_EVERY_S, CheckpointSigner, Integrator, resume
from agentgate.adapters.log._reading.reader import Reader
from agentgate.adapters.log._sqlite.audit import audit
from agentgate.adapters.log._sqlite.bodies import SqliteBodies
from agentgate.adapters.log._sqlite.bookmarks import SqliteBookmarks
from agentgate.adapters.log._sqlite.connection import ReadOnly, beside
from agentgate.adapters.log._sqlite.earlier import views
from agentgate.adapters.log._sqlite.store import SqliteStore
from agentgate.adapters.log._sqlite.writer import Writer
from agentgate.adapters.log._stored import StoredLog, all_or_nothing
from agentgate.core.audit.report import Report
from agentgate.core.audit.stored import StoredCheckpoint
from agentgate.core.containment import KillChanges
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from agentgate.core.merkle import TileHash
from agentgate.core.note import NoteKey

_READERS: Final = 4
"""Connections that read at once; a fifth reader waits for one of them."""
_READ_WITHIN_S: Final = 10.0


class SqliteLog(StoredLog):
    """`ports.Log`, `ports.LogReader` and `ports.Tree`."""

    is_shared: Final = False
    _writer: Writer

    def __init__(
        self, writer: Writer, reader: Reader, integrator: Integrator, anchors: Anchors, lock: _ProcessLock
    ) -> None:
        bodies = SqliteBodies(writer, reader.ask, reader.log_id)
        super().__init__(writer, reader, reader, integrator, anchors, bodies, SqliteBookmarks(writer))
        self._lock = lock

    @classmethod
    async def open(
        cls,
        path: Path,
        signer: CheckpointSigner,
        origin: str,
        log_id: str = schema.LOG_ID,
        *,
        places: Places = Places(),  # noqa: B008  # frozen
        former_keys: Sequence[NoteKey] = (),
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        is_vouched_for: bool = False,
    ) -> SqliteLog:
        """Open the log at `path`, or make one. `places` keep checkpoints besides a file next to it; `former_keys` have
        signed earlier ones. `is_vouched_for`: somebody answers for what no checkpoint is over.

        Raises:
            UnsafeConfiguration: another process has it open, or it is no log of this version.
            LogBroken: it contradicts itself, or the checkpoints that are known of it.
            LogUnavailable: it cannot be read or written.
        """
        witnesses = _witnesses(path)
        _check_not_lost(path, witnesses)  # before the lock, which makes the directory of a disk that is not there
        lock = _ProcessLock(path)
        keys = (NoteKey(origin, signer.public_key), *former_keys)
        writer = Writer(lambda: SqliteStore(path, log_id))
        reader = _SqliteReader(path, log_id)
        tree = _Tree(writer, reader)
        anchors = Anchors(places.and_files(witnesses), tree, keys)
        async with all_or_nothing(anchors, writer, reader, lock):
            await writer.start()
            newest = await writer.call(lambda store: store.checkpoint())
            frontier = await resume(newest, writer.size, keys, reader.leaf_hashes)
            signed = await anchors.check(frontier, writer.size, None if newest is None else newest.note)
            if not is_vouched_for:
                await check_signed(signed, reader.records(first=signed))
        integrator = Integrator(tree, signer, keys, frontier, anchors)
        integrator.start(checkpoint_every_s)
        return cls(writer, reader, integrator, anchors, lock)

    async def aclose(self) -> None:
        """Append what is waiting, sign a last checkpoint, and let another process have the log."""
        await self._writer.drain()
        await self._integrator.aclose()
        await self._anchors.aclose()
        await self._near.aclose()  # before the writer: SQLite tidies up as the last connection closes
        await self._writer.aclose()
        await self._lock.aclose()

    async def kills_since(self, position: int) -> KillChanges:
        self._writer.raise_refusal()
        if position == self._writer.position:  # what it is nearly always
            return KillChanges(position, position)
        return await self._near.kills_since(position)

    async def beat(self, member: str) -> Mapping[str, int]:
        """Nobody: there is no other process."""
        self._writer.raise_refusal()
        return {}


def open_reader(path: Path, log_id: str = schema.LOG_ID) -> Reader:
    """Only for reading, whether a gateway has the log open or not."""
    return _SqliteReader(path, log_id)


async def verify(
    path: Path, origin: str, keys: Sequence[NoteKey], log_id: str = schema.LOG_ID, *, kept: Sequence[bytes] = ()
) -> Report:
    """Derive the whole log again, whether a gateway has it open or not; reads one snapshot, locks nobody out.

    `kept` are checkpoints from elsewhere that the log must continue; what lies beside the file, or a link to it, is
    held against it, too.

    Raises:
        LogUnavailable: the file cannot be read.
    """
    try:
        known = (note for witness in _witnesses(path) if (note := read_file(witness)) is not None)
        return await asyncio.to_thread(audit, path, origin, keys, log_id, (*kept, *known))
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(f"{path} cannot be read: {error}") from error


def _why(error: SQLAlchemyError | OSError) -> str:
    """In SQLite's words, without SQLAlchemy's about them."""
    return str(getattr(error, "orig", None) or error)


class _SqliteReader(Reader):
    """On connections that cannot write."""

    def __init__(self, path: Path, log_id: str) -> None:
        super().__init__(log_id)
        self._file = ReadOnly(path)
        self._engine = _engine(self._file)

    async def ask(
        self, statement: Select[*tuple[Any, ...]], values: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        try:
            async with self._engine.connect() as connection:
                rows = [tuple(row) for row in await connection.execute(statement, values)]
        except (SQLAlchemyError, OSError) as error:
            raise LogUnavailable(f"the log cannot be read: {_why(error)}") from error
        self._file.check()
        return rows

    async def aclose(self) -> None:
        await self._engine.dispose()

    async def leaf_hashes(self, first: int, limit: int, *, signed: bool = False) -> list[bytes]:
        """All in one row of hexadecimals: a row for each would cost the event loop ten times as much."""
        try:
            async with self._engine.connect() as connection:
                asked = {"log_id": self.log_id, "first": first, "signed": signed, "limit": limit}
                found = await connection.exec_driver_sql(_LEAF_HASHES, asked)
                joined = bytes.fromhex(found.scalar_one() or "")
        except (SQLAlchemyError, OSError) as error:
            raise LogUnavailable(f"the log cannot be read: {_why(error)}") from error
        self._file.check()
        return [joined[at : at + 32] for at in range(0, len(joined), 32)]


_LEAF_HASHES: Final = """
    SELECT group_concat(hex(leaf_hash), '') FROM (
      SELECT leaf_hash FROM events WHERE log_id = :log_id AND idx >= :first
        AND (NOT :signed OR idx < (SELECT max(size) FROM checkpoints WHERE log_id = :log_id))
      ORDER BY idx LIMIT :limit)"""


class _Tree:
    """`integrator.TreeStore` and `ground.Ground`: reads beside the writer, writes through it."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    @property
    def size(self) -> int:
        return self._writer.size

    @contextlib.asynccontextmanager
    async def turn(self, *, patient: bool) -> AsyncIterator[bool]:
        """Always ours: the log is this process's."""
        yield True

    async def newest(self) -> tuple[int, None]:
        return self._writer.size, None

    async def leaf_hashes(self, first: int, limit: int) -> list[bytes]:
        try:
            return await self._reader.leaf_hashes(first, limit)
        except LogUnavailable:
            await self._writer.call(SqliteStore.check_in_place)  # nobody can open a file that is gone
            raise

    async def put_checkpoint(self, checkpoint: StoredCheckpoint, completed: Sequence[TileHash]) -> None:
        def put(store: SqliteStore) -> None:
            store.check_in_place()
            store.put_checkpoint(checkpoint, completed)

        await self._writer.call(put)

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        return await self._reader.hashes(level, first, count)

    async def durable(self) -> int:
        return self._writer.size

    async def put_cosignature(self, witness: str, size: int, line: str) -> None:
        await self._writer.call(lambda store: store.put_cosignature(witness, size, line))


def _engine(file: ReadOnly) -> AsyncEngine:
    async def connect() -> aiosqlite.Connection:
        connection = aiosqlite.Connection(file.connect, iter_chunk_size=64)
        connection._thread.daemon = True  # as SQLAlchemy does for connections of its own
        await connection
        found = await (await connection.execute("PRAGMA user_version")).fetchone()
        for view in () if found is None else views(found[0]):
            await connection.execute(view)
        return connection

    # Each reader on a connection of its own: SQLAlchemy ends the connection of one that is cancelled, and whoever else
    # had asked something on it would wait for ever. Nothing is to be rolled back, since nothing here begins anything.
    return create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=connect,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=_READERS,
        max_overflow=0,
        pool_timeout=_READ_WITHIN_S,
        pool_reset_on_return=None,
    )


def _witnesses(path: Path) -> tuple[Path, ...]:
    """Where checkpoints lie without being asked for: beside the database; and beside a link to it, where there is one:
    earlier versions had no other."""
    own, of_link = beside(path, ".checkpoint"), path.with_name(f"{path.name}.checkpoint")
    return (own, of_link) if path.is_symlink() and of_link.exists() else (own,)


def _check_not_lost(path: Path, witnesses: Sequence[Path]) -> None:
    for witness in witnesses:
        if witness.exists() and not path.exists():
            raise LogBroken(
                f"{path} is gone, but {witness} says that there was a log; put it back, or remove both to start anew"
            )


class _ProcessLock:
    """An OS lock on a file beside the database: gone with the process, whatever ends it."""

    def __init__(self, path: Path) -> None:
        # A file of its own: SQLite's locks on the database would go when any descriptor of it is closed.
        lock = beside(path, ".lock")
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise UnsafeConfiguration(
                f"another process has {path} open; a SQLite log is one process's. For several workers or replicas, "
                "set AGENTGATE_DATABASE_URL to a PostgreSQL database"
            ) from None

    async def aclose(self) -> None:
        os.close(self._file)
