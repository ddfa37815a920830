"""The log in a PostgreSQL database, for as many processes as share it (DESIGN §5, docs/adr/0007)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._checkpoints.anchors import Anchors, Places
from agentgate.adapters.log._checkpoints.continuity import check_signed
from agentgate.adapters.log._checkpoints.integrator import CHECKPOINT_EVERY_S, CheckpointSigner, Integrator, resume
from agentgate.adapters.log._postgres.audit import verify
from agentgate.adapters.log._postgres.bodies import PostgresBodies
from agentgate.adapters.log._postgres.bookmarks import PostgresBookmarks
from agentgate.adapters.log._postgres.lines import Lines, PostgresReader
from agentgate.adapters.log._postgres.tree import PostgresTree
from agentgate.adapters.log._postgres.writer import PostgresWriter
from agentgate.adapters.log._reading.reader import Reader
from agentgate.adapters.log._stored import StoredLog, all_or_nothing
from agentgate.core.containment import KillChanges
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from agentgate.core.merkle import Frontier
from agentgate.core.note import NoteKey

__all__ = ["PostgresLog", "open_reader", "verify"]

_WATCH: Final = {
    "statement_timeout": "2000",
    "lock_timeout": "800",
    # A process that is frozen with the tree's lock must not keep others from it for long.
    "idle_session_timeout": "5000",
}
_SIGNED_ON_WITHIN_S: Final = 2.0
"""Who has signed last does it every second, and within two another one does."""
_READ: Final = {"statement_timeout": "30000", "idle_session_timeout": "60000"}


class PostgresLog(StoredLog):
    """`ports.Log`, `ports.LogReader` and `ports.Tree`, for one of the processes that share a log."""

    is_shared: Final = True
    _writer: PostgresWriter
    _near: PostgresReader
    bodies: PostgresBodies
    bookmarks: PostgresBookmarks

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
        is_vouched_for: bool = False,
    ) -> PostgresLog:
        """Open the log at `url`, which `agentgate log migrate` has made. `witness` keeps the newest checkpoint that
        this process has signed, to know the database by, and so do `places`; `former_keys` have signed earlier ones.
        `retention_url` is the same database for the role that may delete bodies. `is_vouched_for`: somebody answers for
        what no checkpoint is over.

        Raises:
            UnsafeConfiguration: the server would not keep it, it has no log of this version, or another key signs it.
            LogBroken: it contradicts itself, or the checkpoints that are known of it.
            LogUnavailable: it cannot be read or written.
        """
        keys = (NoteKey(origin, signer.public_key), *former_keys)
        writer = PostgresWriter(url, log_id)
        watch = Lines(url, "watch", _WATCH, size=4, within_s=1.0)
        near = PostgresReader(watch, log_id)
        tree = PostgresTree(writer, watch, near, log_id)
        anchors = Anchors(places.and_files(() if witness is None else (witness,)), tree, keys)
        async with all_or_nothing(anchors, writer, watch):
            await writer.start()
            await _claim(watch, log_id, origin, keys)
            frontier = await _resume(tree, near, anchors, is_vouched_for=is_vouched_for)
        integrator = Integrator(tree, signer, keys, frontier, anchors, writer.distrust)
        integrator.start(checkpoint_every_s)
        far = PostgresReader(Lines(url, "reader", _READ, size=4, within_s=30.0, read_only=True), log_id)
        bodies, bookmarks = PostgresBodies(retention_url, far.ask, log_id), PostgresBookmarks(url, log_id)
        return cls(writer, near, far, integrator, anchors, bodies, bookmarks)

    async def aclose(self) -> None:
        """Append what is waiting, and sign a last checkpoint."""
        await self._writer.aclose()
        await self._integrator.aclose()
        await self._anchors.aclose()
        await self.bodies.aclose()
        await self.bookmarks.aclose()
        await self._far.aclose()
        await self._near.aclose()

    async def kills_since(self, position: int) -> KillChanges:
        self._writer.raise_refusal()
        known = self._writer.position
        changes = await self._near.kills_since(position)
        if changes.position < known:
            raise LogUnavailable(f"the database answered with kill position {changes.position}, and {known} is known")
        return changes

    async def beat(self, member: str) -> Mapping[str, int]:
        self._writer.raise_refusal()  # who can record nothing had better be presumed gone
        async with self._near.lines.line() as line:
            return {row[0]: row[1] for row in await line.fetch(_BEAT, self._near.log_id, member)}


def open_reader(url: str, log_id: str = schema.LOG_ID) -> Reader:
    """Only for reading, whether gateways have the log open or not; also from a standby."""
    lines = Lines(url, "audit", _READ, size=1, within_s=30.0, read_only=True, may_lag=True)
    return PostgresReader(lines, log_id)


async def _resume(tree: PostgresTree, near: PostgresReader, anchors: Anchors, *, is_vouched_for: bool) -> Frontier:
    """The tree to go on from. What ought to have been signed is refused only once nobody signs it: a replica may have
    come back to it, and has a great deal to sign.

    Raises:
        LogBroken, LogUnavailable
    """
    before = -1
    while True:
        size, newest = await tree.newest()
        frontier = await resume(newest if newest.size else None, size, anchors.keys, near.leaf_hashes)
        signed = await anchors.check(frontier, size, newest.note)
        if is_vouched_for:
            return frontier
        try:
            await check_signed(signed, near.records(first=signed))
        except LogBroken:
            if newest.size == before:
                raise
            before = newest.size
            await asyncio.sleep(_SIGNED_ON_WITHIN_S)
        else:
            return frontier


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
