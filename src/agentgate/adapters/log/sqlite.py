"""The log in one SQLite file: for one process, which holds an OS lock on it (DESIGN §5)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiosqlite
from sqlalchemy import Select, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._integrator import (
    CHECKPOINT_EVERY_S,
    CheckpointSigner,
    Integrator,
    Lag,
    check_witness,
    read_witness,
    resume,
)
from agentgate.adapters.log._ledger import Outcome
from agentgate.adapters.log._reader import Derived, Reader
from agentgate.adapters.log._sqlite_audit import audit
from agentgate.adapters.log._store import SqliteStore
from agentgate.adapters.log._witness import replace_file
from agentgate.adapters.log._writer import Writer
from agentgate.core.audit import Report, StoredCheckpoint
from agentgate.core.containment import Acknowledgement, KillChanges
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from agentgate.core.event import Event, Record
from agentgate.core.note import NoteKey
from agentgate.ports import SessionRow, Spend


class SqliteLog:
    """`ports.Log` and `ports.LogReader`."""

    is_shared: Final = False

    def __init__(self, writer: Writer, reader: _SqliteReader, integrator: Integrator, lock: _ProcessLock) -> None:
        self._writer = writer
        self._reader = reader
        self._integrator = integrator
        self._lock = lock

    @classmethod
    async def open(
        cls,
        path: Path,
        signer: CheckpointSigner,
        origin: str,
        log_id: str = schema.LOG_ID,
        *,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    ) -> SqliteLog:
        """Open the log at `path`, or make one.

        Raises:
            UnsafeConfiguration: another process has it open, or it is no log of this version.
            LogBroken: it contradicts itself, or the checkpoints that are known of it.
            LogUnavailable: it cannot be read or written.
        """
        lock = _ProcessLock(path)
        key = NoteKey(origin, signer.public_key)
        witness = path.with_name(path.name + ".checkpoint")
        writer = Writer(lambda: SqliteStore(path, log_id))
        reader = _SqliteReader(_engine(path), log_id)
        try:
            _check_not_lost(path, witness)
            await writer.start()
            newest = await writer.call(lambda store: _known(store, witness, key))
            frontier = await resume(newest, writer.size, key, reader.leaf_hashes)
        except BaseException:
            await writer.aclose()
            await reader.aclose()
            lock.release()
            raise
        integrator = Integrator(_Tree(writer, reader, witness), signer, origin, frontier)
        integrator.start(checkpoint_every_s)
        return cls(writer, reader, integrator, lock)

    async def aclose(self) -> None:
        """Append what is waiting, sign a last checkpoint, and let another process have the log."""
        await self._writer.drain()
        await self._integrator.aclose()
        await self._reader.aclose()  # before the writer: SQLite tidies up as the last connection closes
        await self._writer.aclose()
        self._lock.release()

    # --- ports.Log ----------------------------------------------------------------------------------------

    def append(self, event: Event, spends: Sequence[Spend] = ()) -> Awaitable[Outcome]:
        return self._writer.append(event, spends)

    async def kills_since(self, position: int) -> KillChanges:
        self._writer.raise_refusal()
        if position == self._writer.position:  # what it is nearly always
            return KillChanges(position, position)
        return await self._reader.kills_since(position)

    async def beat(self, member: str) -> Mapping[str, int]:
        """Nobody: there is no other process."""
        self._writer.raise_refusal()
        return {}

    # --- ports.LogReader ----------------------------------------------------------------------------------

    def records(
        self,
        *,
        tenant: str | None = None,
        session: str | None = None,
        first: int = 0,
        kinds: Sequence[str] = (),
    ) -> AsyncIterator[Record]:
        return self._reader.records(tenant=tenant, session=session, first=first, kinds=kinds)

    async def sessions(self, tenant: str | None) -> list[SessionRow]:
        return await self._reader.sessions(tenant)

    async def open_intents(self) -> list[Record]:
        return await self._reader.open_intents()

    async def projection(self, name: Derived, **match: str | int | None) -> list[dict[str, Any]]:
        return await self._reader.projection(name, **match)

    async def acknowledged(self, position: int) -> list[Acknowledgement]:
        return await self._reader.acknowledged(position)

    async def checkpoint(self) -> bytes | None:
        return await self._reader.checkpoint()

    # --- the tree -----------------------------------------------------------------------------------------

    async def integrate(self) -> None:
        """Have a checkpoint over everything that is durable now. Raises LogUnavailable."""
        await self._integrator.integrate()

    @property
    def lag(self) -> Lag:
        return self._integrator.lag


async def verify(path: Path, origin: str, keys: Sequence[NoteKey], log_id: str = schema.LOG_ID) -> Report:
    """Derive the whole log again, whether a gateway has it open or not; reads one snapshot, locks nobody out.

    Raises:
        LogUnavailable: the file cannot be read.
    """
    try:
        return await asyncio.to_thread(audit, path, origin, keys, log_id)
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(f"{path} cannot be read: {error}") from error


class _SqliteReader(Reader):
    """On connections that cannot write."""

    def __init__(self, engine: AsyncEngine, log_id: str) -> None:
        super().__init__(log_id)
        self._engine = engine

    async def _all(self, statement: Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        try:
            async with self._engine.connect() as connection:
                return [tuple(row) for row in await connection.execute(statement)]
        except (SQLAlchemyError, OSError) as error:
            raise LogUnavailable(f"the log cannot be read: {error}") from error

    async def aclose(self) -> None:
        await self._engine.dispose()

    async def leaf_hashes(self, first: int, limit: int) -> list[bytes]:
        """All in one row of hexadecimals: a row for each would cost the event loop ten times as much."""
        events = schema.events.c
        wanted: Select[Any] = select(events.leaf_hash).where(events.log_id == self.log_id, events.idx >= first)
        some = wanted.order_by(events.idx).limit(limit).subquery()
        rows = await self._all(select(func.group_concat(func.hex(some.c.leaf_hash), "")))
        joined = bytes.fromhex(rows[0][0] or "")
        return [joined[at : at + 32] for at in range(0, len(joined), 32)]


class _Tree:
    """`_integrator.TreeStore`: reads beside the writer, writes through it."""

    def __init__(self, writer: Writer, reader: Reader, witness: Path) -> None:
        self._writer = writer
        self._reader = reader
        self._witness = witness

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

    async def put_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        def put(store: SqliteStore) -> None:
            store.check_in_place()
            known = store.checkpoint(checkpoint.size)
            if known is None:  # else an earlier attempt got that far
                store.put_checkpoint(checkpoint)
            replace_file(self._witness, checkpoint.note)

        await self._writer.call(put)


def _engine(path: Path) -> AsyncEngine:
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"

    async def connect() -> aiosqlite.Connection:
        connection = aiosqlite.connect(uri, uri=True, isolation_level=None)
        connection._thread.daemon = True  # as SQLAlchemy does for connections of its own
        return await connection

    return create_async_engine("sqlite+aiosqlite://", async_creator=connect)


def _check_not_lost(path: Path, witness: Path) -> None:
    if witness.exists() and not path.exists():
        raise LogBroken(
            f"{path} is gone, but {witness} says that there was a log; put it back, or remove both to start anew"
        )


def _known(store: SqliteStore, witness: Path, key: NoteKey) -> StoredCheckpoint | None:
    """The newest checkpoint, once the copy beside the database agrees that nothing newer was signed."""
    if witness.exists():
        try:
            known = read_witness(witness.read_bytes(), key)
            check_witness(known, store.checkpoint(known.size))
        except LogBroken as error:
            raise LogBroken(f"{error}. If the older database is meant, remove {witness}") from error
    return store.checkpoint()


class _ProcessLock:
    """An OS lock on a file beside the database: gone with the process, whatever ends it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file of its own: SQLite's locks on the database would go when any descriptor of it is closed.
        self._file = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise UnsafeConfiguration(
                f"another process has {path} open; a SQLite log is one process's. For several workers or replicas, "
                "set AGENTGATE_DATABASE_URL to a PostgreSQL database"
            ) from None

    def release(self) -> None:
        os.close(self._file)
