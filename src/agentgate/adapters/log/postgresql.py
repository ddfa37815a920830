"""The log in a PostgreSQL database, for as many processes as share it (DESIGN §5, docs/adr/0007)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._anchors import Anchors, Places, Standing
from agentgate.adapters.log._integrator import (
    CHECKPOINT_EVERY_S,
    CheckpointSigner,
    Integrator,
    Lag,
    resume,
)
from agentgate.adapters.log._ledger import Outcome
from agentgate.adapters.log._postgres_audit import audit
from agentgate.adapters.log._postgres_bodies import PostgresBodies
from agentgate.adapters.log._postgres_bookmarks import PostgresBookmarks
from agentgate.adapters.log._postgres_lines import Lines, PostgresReader
from agentgate.adapters.log._postgres_tree import PostgresTree
from agentgate.adapters.log._postgres_writer import PostgresWriter
from agentgate.adapters.log._reader import Derived, Reader
from agentgate.core.audit import Report
from agentgate.core.containment import Acknowledgement, KillChanges
from agentgate.core.errors import LogUnavailable, UnsafeConfiguration
from agentgate.core.event import Event, Record
from agentgate.core.note import NoteKey, is_signed_by
from agentgate.core.query import Query
from agentgate.ports.log import Bodies, Bookmarks, SessionRow, Spend

_WATCH: Final = {
    "statement_timeout": "2000",
    "lock_timeout": "800",
    # A process that is frozen with the tree's lock must not keep others from it for long.
    "idle_session_timeout": "5000",
}
_READ: Final = {"statement_timeout": "30000", "idle_session_timeout": "60000"}


class PostgresLog:
    """`ports.Log`, `ports.LogReader` and `ports.Tree`, for one of the processes that share a log."""

    is_shared: Final = True

    def __init__(
        self,
        writer: PostgresWriter,
        watch: Lines,
        near: PostgresReader,
        far: PostgresReader,
        integrator: Integrator,
        anchors: Anchors,
        bodies: PostgresBodies,
        bookmarks: PostgresBookmarks,
        is_newly_keyed: bool,
    ) -> None:
        """`near` reads what containment rests on; `far` what auditors want, who may keep it busy."""
        self._writer = writer
        self._watch = watch
        self._near = near
        self._far = far
        self._integrator = integrator
        self._anchors = anchors
        self.keys: tuple[NoteKey, ...] = anchors.keys
        self.witnesses: tuple[NoteKey, ...] = anchors.witnesses
        self.is_newly_keyed = is_newly_keyed
        self._bodies = bodies
        self.bodies: Bodies = bodies
        self._bookmarks = bookmarks
        self.bookmarks: Bookmarks = bookmarks

    @classmethod
    async def open(
        cls,
        url: str,
        signer: CheckpointSigner,
        origin: str,
        log_id: str = schema.LOG_ID,
        *,
        witness: Path | None = None,
        places: Places = Places(),  # noqa: B008  # frozen
        former_keys: Sequence[NoteKey] = (),
        retention_url: str | None = None,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    ) -> PostgresLog:
        """Open the log at `url`, which `agentgate log migrate` has made. `witness` keeps the newest checkpoint that
        this process has signed, to know the database by, and so do `places`; `former_keys` have signed earlier ones.
        `retention_url` is the same database for the role that may delete bodies.

        Raises:
            UnsafeConfiguration: the server would not keep it, it has no log of this version, or another key signs it.
            LogBroken: it contradicts itself, or the checkpoints that are known of it.
            LogUnavailable: it cannot be read or written.
        """
        keys = (NoteKey(origin, signer.public_key), *former_keys)
        writer = PostgresWriter(url, log_id)
        watch = Lines(url, "watch", _WATCH, size=4, within_s=1.0)
        near = PostgresReader(watch, log_id)
        far = PostgresReader(Lines(url, "reader", _READ, size=4, within_s=30.0, read_only=True), log_id)
        tree = PostgresTree(writer, watch, near, log_id)
        anchors = Anchors(places.and_file(witness), tree, keys)
        try:
            await writer.start()
            await _claim(watch, log_id, origin, keys)
            size, newest = await tree.newest()
            frontier = await resume(newest if newest.size else None, size, keys, near.leaf_hashes)
            await anchors.check(frontier, size, newest.note)
        except BaseException:
            await anchors.aclose()
            await writer.aclose()
            await watch.aclose()
            raise
        integrator = Integrator(tree, signer, origin, frontier, anchors, writer.distrust, former_keys=former_keys)
        integrator.start(checkpoint_every_s)
        bodies = PostgresBodies(retention_url, far.ask, log_id)
        is_new = newest.size > 0 and not is_signed_by(newest.note, keys[0])
        return cls(writer, watch, near, far, integrator, anchors, bodies, PostgresBookmarks(url, log_id), is_new)

    async def aclose(self) -> None:
        """Append what is waiting, and sign a last checkpoint."""
        await self._writer.aclose()
        await self._integrator.aclose()
        await self._anchors.aclose()
        await self._bodies.aclose()
        await self._bookmarks.aclose()
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

    def search(
        self, query: Query, *, first: int = 0, below: int | None = None, newest: bool = False
    ) -> AsyncIterator[Record]:
        return self._far.search(query, first=first, below=below, newest=newest)

    async def size(self) -> int:
        return await self._far.size()

    async def sessions(self, tenant: str | None) -> list[SessionRow]:
        return await self._far.sessions(tenant)

    async def open_intents(self) -> list[Record]:
        return await self._near.open_intents()

    async def projection(
        self, name: Derived, *, without: str | None = None, **match: str | int | None
    ) -> list[dict[str, Any]]:
        return await self._near.projection(name, without=without, **match)

    async def record(self, index: int) -> Record | None:
        return await self._near.record(index)

    async def answers_until(self, moment: str) -> int | None:
        return await self._near.answers_until(moment)

    async def answers_held(self) -> dict[tuple[str, str], int]:
        return await self._near.answers_held()

    async def acknowledged(self, position: int) -> list[Acknowledgement]:
        return await self._near.acknowledged(position)

    async def checkpoint(self) -> bytes | None:
        return await self._near.checkpoint()

    # --- ports.Tree ---------------------------------------------------------------------------------------

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        return await self._far.hashes(level, first, count)

    async def integrate(self) -> None:
        """Have a checkpoint over everything that is durable now, whoever signs it. Raises LogUnavailable."""
        await self._integrator.integrate()

    @property
    def lag(self) -> Lag:
        return self._integrator.lag

    @property
    def standings(self) -> list[Standing]:
        return self._anchors.standings


def open_reader(url: str, log_id: str = schema.LOG_ID) -> Reader:
    """Only for reading, whether gateways have the log open or not; also from a standby."""
    return PostgresReader(Lines(url, "audit", _READ, size=1, within_s=30.0, read_only=True), log_id)


async def verify(
    url: str, origin: str, keys: Sequence[NoteKey], log_id: str = schema.LOG_ID, *, kept: Sequence[bytes] = ()
) -> Report:
    """Derive the whole log again, whether gateways write to it or not; reads one snapshot, locks nobody out.

    `kept` are checkpoints from elsewhere that the log must continue.

    Raises:
        LogUnavailable, UnsafeConfiguration: the database cannot be read, or has no log of this version.
    """
    return await audit(url, origin, keys, log_id, kept)


async def _claim(lines: Lines, log_id: str, origin: str, keys: Sequence[NoteKey]) -> None:
    """Be the first to sign this log, or have the key of who was last, or name that as a former one.

    Raises:
        UnsafeConfiguration
    """
    ours, *former = keys
    number, last = await _last_key(lines, log_id, origin)
    if last != ours.public and (last is None or last in {key.public for key in former}):
        async with lines.line() as line:
            await line.execute(_TAKE_KEY, log_id, number + 1, origin, ours.public)
        _, last = await _last_key(lines, log_id, origin)  # somebody else may have been first
    if last != ours.public:
        raise UnsafeConfiguration(
            "this log is signed with another key: give every replica the same one (log.checkpoint_key, or copy "
            "log-key.pem from the data directory of the first), or name the other one in log.former_keys"
        )


async def _last_key(lines: Lines, log_id: str, origin: str) -> tuple[int, bytes | None]:
    """Number and public key of who has taken a key into use last. Raises UnsafeConfiguration for another origin."""
    async with lines.line() as line:
        last = await line.fetchrow(_LAST_IDENTITY, log_id)
    if last is None:
        return -1, None
    if last[1] != origin:
        raise UnsafeConfiguration(f"this log's origin is {last[1]!r}, and log.origin says {origin!r}")
    return last[0], bytes(last[2])


_LAST_IDENTITY: Final = """
    SELECT number, origin, public_key FROM identity WHERE log_id = $1 ORDER BY number DESC LIMIT 1"""
_TAKE_KEY: Final = """
    INSERT INTO identity (log_id, number, origin, public_key) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"""
_BEAT: Final = """
    WITH mine AS (
      INSERT INTO beats AS b (log_id, member, beat) VALUES ($1, $2, 1)
      ON CONFLICT (log_id, member) DO UPDATE SET beat = b.beat + 1 RETURNING member, beat)
    SELECT m.member, coalesce(mine.beat, b.beat, 0) FROM members m
    LEFT JOIN mine ON mine.member = m.member
    LEFT JOIN beats b ON b.log_id = m.log_id AND b.member = m.member
    WHERE m.log_id = $1 AND m.left_idx IS NULL"""
