"""The log in a SQLite file for who writes it: what is there, and a transaction for each plan. One thread's alone."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Executable, Table, and_, select, update

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._ledger import Ledger, Plan, Session, SessionKey
from agentgate.adapters.log._reading.rows import open_intents
from agentgate.adapters.log._sqlite import connection, statements
from agentgate.adapters.log._sqlite.upgrade import create_or_upgrade
from agentgate.core.audit.stored import StoredCheckpoint
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken
from agentgate.core.event import Event
from agentgate.core.members import Presence, presence
from agentgate.core.merkle import TileHash, last_leaf
from agentgate.core.projection.spendings import Spending
from agentgate.core.projection.tables import Drop, Effect, Put

_PAGES_PER_COMMIT: Final = 7
_EVENTS_PER_PAGE: Final = 2
_PAGES_TO_FORGET: Final = 100
_PROBE_BUSY_MS: Final = 50


class SqliteStore:
    """Raises sqlite3.Error for whatever goes wrong; the writer knows what that means."""

    def __init__(self, path: Path, log_id: str) -> None:
        self.log_id = log_id
        self._path = path
        self._pages = connection.pages_left(path)
        """About how many pages the write-ahead log has grown by since it was last moved into the database."""
        self._db = connection.connect(path)
        try:
            create_or_upgrade(self._db, path, log_id)
            self._db.set_authorizer(connection.authorize)
            self._file = connection.identity(path)
        except BaseException:
            self._db.close()
            raise

    def check_in_place(self) -> None:
        """Raise LogBroken if what is written here is not what the next start will read."""
        if connection.identity(self._path) != self._file:
            raise LogBroken(f"{self._path} was replaced or removed while it was open; what was written since is lost")

    def close(self) -> None:
        self._db.set_authorizer(None)  # SQLite checkpoints once more as the last connection closes
        self._db.close()

    def abandon(self) -> None:
        """Close a store that failed, whatever it still says."""
        with contextlib.suppress(sqlite3.Error):
            self.close()

    # --- what is there ------------------------------------------------------------------------------------

    def _query(self, statement: Executable) -> sqlite3.Cursor:
        compiled = statement.compile(dialect=statements.DIALECT, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
        return self._db.execute(str(compiled), [compiled.params[name] for name in compiled.positiontup])

    def load(self) -> Ledger:
        """The state to go on from.

        Raises:
            LogBroken: the head row and the events contradict each other.
        """
        head = self._query(select(schema.head).where(schema.head.c.log_id == self.log_id)).fetchone()
        _, size, position, open_from = head if head is not None else (None, -1, -1, -1)
        events = schema.events.c
        of_log = events.log_id == self.log_id
        found = self._query(select(events.idx).where(of_log).order_by(events.idx.desc()).limit(1)).fetchone()
        last = None if found is None else found[0]
        if size != (-1 if last is None else last) + 1:
            raise LogBroken(f"the head row counts {size} events, and the last one stored is {last}; run `log verify`")
        return Ledger(
            self.log_id,
            size=size,
            position=position,
            members=self._members(),
            open_intents=self._open_intents(open_from),
        )

    def _members(self) -> list[tuple[str, Presence]]:
        members = schema.members
        names = [column.name for column in members.columns]
        known = self._query(select(members).where(members.c.log_id == self.log_id).order_by(members.c.joined_idx))
        rows = [dict(zip(names, row, strict=True)) for row in known]
        return [(row["member"], presence(row)) for row in rows]

    def _open_intents(self, first: int) -> dict[str, int]:
        events = schema.events.c
        of_calls = and_(events.log_id == self.log_id, events.idx >= first, events.kind.in_(schema.OF_CALLS))
        rows = self._query(select(events.idx, events.kind, events.leaf).where(of_calls).order_by(events.idx))
        return open_intents(rows)

    def sessions(self, keys: Sequence[SessionKey]) -> Iterator[tuple[SessionKey, Session]]:
        """Owner, last number and last stretch of each; sessions that nobody has seen yet too."""
        for first, size in statements.chunks(len(keys)):
            flat = [part for key in keys[first : first + size] for part in key]
            found = self._db.execute(statements.lookup(size), [self.log_id, *flat])
            for tenant, session, owner, stretch, number in found:
                yield (tenant, session), Session(owner, number or 0, -1 if stretch is None else stretch)

    def spent(self, wanted: Iterable[Spending]) -> set[Spending]:
        spent = schema.spent.c
        found: set[Spending] = set()
        for kind, key in wanted:
            there = select(spent.idx).where(spent.log_id == self.log_id, spent.kind == kind, spent.key == key)
            if self._query(there).fetchone() is not None:
                found.add((kind, key))
        return found

    def holds(self) -> dict[str, SessionKey]:
        """The legal holds in force."""
        holds = schema.holds.c
        wanted = select(holds.id, holds.tenant, holds.session)
        rows = self._query(wanted.where(holds.log_id == self.log_id, holds.released_idx.is_(None)))
        return {hold: (tenant, session) for hold, tenant, session in rows}

    def has(self, plan: Plan) -> bool:
        """Whether a plan whose commit failed is in the log after all."""
        events = schema.events.c
        rows = select(events.event_id).where(events.log_id == self.log_id, events.idx >= plan.first)
        found = [event_id for (event_id,) in self._query(rows.order_by(events.idx).limit(len(plan.ids)))]
        return found == plan.ids

    def receipt(self, event: Event) -> Receipt | None:
        """Of an event that is in the log already, by an append that only seemed to fail."""
        events = schema.events.c
        same = (events.log_id == self.log_id, events.event_id == event.id, events.leaf_hash == event.leaf_hash)
        row = self._query(select(events.idx, events.kill_position).where(*same)).fetchone()
        return None if row is None else Receipt(event.id, row[0], row[1])

    def leaf_hash(self, index: int) -> bytes | None:
        events = schema.events.c
        row = self._query(select(events.leaf_hash).where(events.log_id == self.log_id, events.idx == index)).fetchone()
        return None if row is None else bytes(row[0])

    def checkpoint(self) -> StoredCheckpoint | None:
        """The newest."""
        table = schema.checkpoints.c
        wanted = select(table.size, table.root, table.note, table.frontier).where(table.log_id == self.log_id)
        row = self._query(wanted.order_by(table.size.desc()).limit(1)).fetchone()
        return None if row is None else StoredCheckpoint(*row)

    # --- writing ------------------------------------------------------------------------------------------

    def write(self, plan: Plan, ledger: Ledger) -> None:
        """One transaction; durable when it returns."""
        run = self._db.execute
        run("BEGIN IMMEDIATE")
        self._insert(schema.events, plan.events)
        self._insert(schema.bodies, plan.bodies)
        self._insert(schema.sessions, plan.sessions)
        self._insert(schema.stretches, plan.stretches)
        for effect in plan.effects:
            self._apply(effect)
        run(statements.HEAD, (ledger.size, ledger.position, ledger.open_from, self.log_id))
        run("COMMIT")
        self._pages += _PAGES_PER_COMMIT + len(plan.ids) // _EVENTS_PER_PAGE

    def _insert(self, table: Table, flat: list[Any]) -> None:
        width = len(table.columns)
        for first, size in statements.chunks(len(flat) // width):
            self._db.execute(statements.insert_rows(table, size), flat[first * width : (first + size) * width])

    def _apply(self, effect: Effect) -> None:
        if isinstance(effect, Put):
            self._db.execute(statements.put(effect.table), [self.log_id, *effect.row.values()])
            return
        if isinstance(effect, Drop):
            drop = f"DELETE FROM {effect.table} WHERE log_id = ? AND idx <= ?"  # noqa: S608  # a name of ours
            self._db.execute(drop, (self.log_id, effect.through))
            return
        columns, key = effect.columns, effect.key
        sql = statements.change(effect.table, tuple(columns), len(effect.states))
        self._db.execute(sql, [*columns.values(), self.log_id, *key, *effect.states])

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[sqlite3.Connection]:
        """One transaction on a connection that may, for as long, delete bodies; durable at the end, or nothing is done.

        What is deleted is overwritten in the file.
        """
        self.check_in_place()
        run = self._db.execute
        self._db.set_authorizer(connection.authorize_forgetting)
        try:
            run("PRAGMA secure_delete=ON")
            with self._transaction():
                yield self._db
            run("PRAGMA secure_delete=OFF")
        finally:
            self._db.set_authorizer(connection.authorize)
        self._pages += _PAGES_TO_FORGET

    def put_checkpoint(self, checkpoint: StoredCheckpoint, completed: Sequence[TileHash]) -> None:
        """With the tile hashes that are complete now. What an earlier attempt has stored is left as it is."""
        newest = self.checkpoint()
        known = newest.size if newest is not None else 0
        rows = [(self.log_id, *tile_hash) for tile_hash in completed if last_leaf(tile_hash) >= known]
        values = (self.log_id, checkpoint.size, checkpoint.root, checkpoint.note, checkpoint.frontier)
        with self._transaction():
            if checkpoint.size > known:
                self._db.execute(statements.insert_rows(schema.checkpoints, 1), values)
            self._insert(schema.subtrees, [value for row in rows for value in row])

    def put_cosignature(self, witness: str, size: int, line: str) -> None:
        """Keep it if it is for a newer checkpoint than that witness's last one."""
        self._db.execute(statements.COSIGNED, (self.log_id, witness, size, line))

    def cursor(self, name: str) -> int | None:
        """How far a follower of the log has come; None if it never said."""
        cursors = schema.cursors.c
        wanted = select(cursors.idx).where(cursors.log_id == self.log_id, cursors.name == name)
        row = self._query(wanted).fetchone()
        return None if row is None else row[0]

    def put_cursor(self, name: str, index: int) -> None:
        self._db.execute(statements.CURSOR, (self.log_id, name, index))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise

    def probe(self) -> None:
        """Find out whether a commit would succeed now, changing nothing.

        There and back: for a row that is set to what it is SQLite writes no page, and finds room for that on a
        full disk.
        """
        run = self._db.execute
        run(f"PRAGMA busy_timeout={_PROBE_BUSY_MS}")
        run("BEGIN IMMEDIATE")
        head = schema.head
        for step in (1, -1):
            self._query(update(head).where(head.c.log_id == self.log_id).values(size=head.c.size + step))
        run("COMMIT")
        run(f"PRAGMA busy_timeout={connection.BUSY_MS}")

    def tidy(self) -> None:
        """Move the write-ahead log into the database once it has grown: between commits, where nobody waits."""
        if self._pages >= connection.CHECKPOINT_EVERY_PAGES:
            self._pages = 0
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
