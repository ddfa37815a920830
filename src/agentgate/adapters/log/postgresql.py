"""The log in a PostgreSQL database, for as many processes as share it (DESIGN §5, docs/adr/0007)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

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
from agentgate.adapters.log._postgres_audit import audit
from agentgate.adapters.log._postgres_lines import Lines, PostgresReader
from agentgate.adapters.log._postgres_tree import PostgresTree
from agentgate.adapters.log._postgres_writer import PostgresWriter
from agentgate.adapters.log._reader import Derived
from agentgate.adapters.log._witness import read_file
from agentgate.core.audit import Report, StoredCheckpoint
from agentgate.core.containment import Acknowledgement, KillChanges
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from agentgate.core.event import Event, Record
from agentgate.core.note import NoteKey
from agentgate.ports import SessionRow, Spend

_WATCH: Final = {
    "statement_timeout": "2000",
    "lock_timeout": "800",
    # A process that is frozen with the tree's lock must not keep others from it for long.
    "idle_session_timeout": "5000",
}
_READ: Final = {"statement_timeout": "30000", "idle_session_timeout": "60000"}


class PostgresLog:
    """`ports.Log` and `ports.LogReader`, for one of the processes that share a log."""

    is_shared: Final = True

    def __init__(
        self, writer: PostgresWriter, watch: Lines, near: PostgresReader, far: PostgresReader, integrator: Integrator
    ) -> None:
        """`near` reads what containment rests on; `far` what auditors want, who may keep it busy."""
        self._writer = writer
        self._watch = watch
        self._near = near
        self._far = far
        self._integrator = integrator

    @classmethod
    async def open(
        cls,
        url: str,
        signer: CheckpointSigner,
        origin: str,
        log_id: str = schema.LOG_ID,
        *,
        witness: Path | None = None,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    ) -> PostgresLog:
        """Open the log at `url`, which `agentgate log migrate` has made. `witness` keeps the newest checkpoint that
        this process has signed, to know the database by.

        Raises:
            UnsafeConfiguration: the server would not keep it, it has no log of this version, or another key signs it.
            LogBroken: it contradicts itself, or the checkpoints that are known of it.
            LogUnavailable: it cannot be read or written.
        """
        key = NoteKey(origin, signer.public_key)
        writer = PostgresWriter(url, log_id)
        watch = Lines(url, "watch", _WATCH, size=4, within_s=1.0)
        near = PostgresReader(watch, log_id)
        far = PostgresReader(Lines(url, "reader", _READ, size=4, within_s=30.0, read_only=True), log_id)
        tree = PostgresTree(writer, watch, near, log_id, witness)
        try:
            await writer.start()
            await _claim(watch, log_id, origin, signer.public_key)
            size, newest = await tree.newest()
            if witness is not None:
                await _recognise(watch, log_id, witness, key)
            frontier = await resume(newest if newest is not None and newest.size else None, size, key, near.leaf_hashes)
        except BaseException:
            await writer.aclose()
            await watch.aclose()
            raise
        integrator = Integrator(tree, signer, origin, frontier, writer.distrust)
        integrator.start(checkpoint_every_s)
        return cls(writer, watch, near, far, integrator)

    async def aclose(self) -> None:
        """Append what is waiting, and sign a last checkpoint."""
        await self._writer.aclose()
        await self._integrator.aclose()
        await self._far.aclose()
        await self._near.aclose()

    # --- ports.Log ----------------------------------------------------------------------------------------

    def append(self, event: Event, spends: Sequence[Spend] = ()) -> Awaitable[Outcome]:
        return self._writer.append(event, spends)

    async def kills_since(self, position: int) -> KillChanges:
        self._writer.raise_refusal()
        known = self._writer.position
        changes = await self._near.kills_since(position)
        if changes.position < known:
            raise LogUnavailable(f"the database answered with kill position {changes.position}, and {known} is known")
        return changes

    async def beat(self, member: str) -> Mapping[str, int]:
        self._writer.raise_refusal()  # who can record nothing had better be presumed gone
        async with self._watch.line() as line:
            return {row[0]: row[1] for row in await line.fetch(_BEAT, self._near.log_id, member)}

    # --- ports.LogReader ----------------------------------------------------------------------------------

    def records(
        self,
        *,
        tenant: str | None = None,
        session: str | None = None,
        first: int = 0,
        kinds: Sequence[str] = (),
    ) -> AsyncIterator[Record]:
        return self._far.records(tenant=tenant, session=session, first=first, kinds=kinds)

    async def sessions(self, tenant: str | None) -> list[SessionRow]:
        return await self._far.sessions(tenant)

    async def open_intents(self) -> list[Record]:
        return await self._near.open_intents()

    async def projection(self, name: Derived, **match: str | int | None) -> list[dict[str, Any]]:
        return await self._near.projection(name, **match)

    async def acknowledged(self, position: int) -> list[Acknowledgement]:
        return await self._near.acknowledged(position)

    async def checkpoint(self) -> bytes | None:
        return await self._near.checkpoint()

    # --- the tree -----------------------------------------------------------------------------------------

    async def integrate(self) -> None:
        """Have a checkpoint over everything that is durable now, whoever signs it. Raises LogUnavailable."""
        await self._integrator.integrate()

    @property
    def lag(self) -> Lag:
        return self._integrator.lag


async def verify(url: str, origin: str, keys: Sequence[NoteKey], log_id: str = schema.LOG_ID) -> Report:
    """Derive the whole log again, whether gateways write to it or not; reads one snapshot, locks nobody out.

    Raises:
        LogUnavailable, UnsafeConfiguration: the database cannot be read, or has no log of this version.
    """
    return await audit(url, origin, keys, log_id)


async def _claim(lines: Lines, log_id: str, origin: str, public_key: bytes) -> None:
    """Be the first to sign this log, or have the key of who was. Raises UnsafeConfiguration."""
    async with lines.line() as line:
        await line.execute(
            "INSERT INTO identity (log_id, origin, public_key) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            log_id,
            origin,
            public_key,
        )
        first_origin, first_key = await line.fetchrow(
            "SELECT origin, public_key FROM identity WHERE log_id = $1", log_id
        )
    if first_origin != origin:
        raise UnsafeConfiguration(f"this log's origin is {first_origin!r}, and log.origin says {origin!r}")
    if bytes(first_key) != public_key:
        raise UnsafeConfiguration(
            "this log is signed with another key: give every replica the same one (log.checkpoint_key, or copy "
            "log-key.pem from the data directory of the first)"
        )


async def _recognise(lines: Lines, log_id: str, witness: Path, key: NoteKey) -> None:
    """Raise LogBroken if the checkpoint that was signed here last is not in the database."""
    note = await asyncio.to_thread(read_file, witness)
    if note is None:
        return
    try:
        known = read_witness(note, key)
        async with lines.line() as line:
            row = await line.fetchrow(_CHECKPOINT, log_id, known.size)
        check_witness(known, None if row is None else StoredCheckpoint(*row))
    except LogBroken as error:
        raise LogBroken(f"{error}. If the older database is meant, remove {witness} on every replica") from error


_CHECKPOINT: Final = "SELECT size, root, note, frontier FROM checkpoints WHERE log_id = $1 AND size = $2"
_BEAT: Final = """
    WITH mine AS (
      INSERT INTO beats AS b (log_id, member, beat) VALUES ($1, $2, 1)
      ON CONFLICT (log_id, member) DO UPDATE SET beat = b.beat + 1 RETURNING member, beat)
    SELECT m.member, coalesce(mine.beat, b.beat, 0) FROM members m
    LEFT JOIN mine ON mine.member = m.member
    LEFT JOIN beats b ON b.log_id = m.log_id AND b.member = m.member
    WHERE m.log_id = $1 AND m.left_idx IS NULL"""
