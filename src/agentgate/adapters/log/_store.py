"""The one SQLite connection that writes, and what it is not allowed to do. Used by the writer's thread alone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Executable, Insert, Table, and_, bindparam, insert, select, update
from sqlalchemy.dialects import sqlite as dialect

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._ledger import Ledger, Plan, Session, SessionKey, open_intents
from agentgate.adapters.log._upgrade import UPGRADES, make, upgrade
from agentgate.core.audit.stored import StoredCheckpoint
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken, UnsafeConfiguration
from agentgate.core.event import Event
from agentgate.core.members import Presence, presence
from agentgate.core.merkle import TileHash, last_leaf
from agentgate.core.projection.spendings import Spending
from agentgate.core.projection.tables import KEYS, STRETCH_BITS, Drop, Effect, Put

_DIALECT: Final = dialect.dialect()
_CHUNKS: Final = (256, 64, 16, 4, 1)
"""Rows in one INSERT. sqlite3 lets go of the interpreter lock once per statement, so few statements are fast;
a handful of sizes keeps them all prepared."""
_CHECKPOINT_EVERY_PAGES: Final = 2_000
_PAGE_BYTES: Final = 4_096
_WAL_LIMIT_BYTES: Final = 2 * _CHECKPOINT_EVERY_PAGES * _PAGE_BYTES
"""What the file of the write-ahead log is cut down to once all of it is in the database."""
_PAGES_PER_COMMIT: Final = 7
_EVENTS_PER_PAGE: Final = 2
_PAGES_TO_FORGET: Final = 100
_BUSY_MS: Final = 700
"""How long a commit waits for a stranger's lock: within the second that an append may take."""
_PROBE_BUSY_MS: Final = 50


class SqliteStore:
    """Raises sqlite3.Error for whatever goes wrong; the writer knows what that means."""

    def __init__(self, path: Path, log_id: str) -> None:
        self.log_id = log_id
        self._path = path
        self._pages = _pages_left(path)
        """About how many pages the write-ahead log has grown by since it was last moved into the database."""
        self._db = _connect(path)
        try:
            self._create_or_check()
            self._db.set_authorizer(_authorize)
            self._file = _identity(path)
        except BaseException:
            self._db.close()
            raise

    def _create_or_check(self) -> None:
        run = self._db.execute
        application, version = run("PRAGMA application_id").fetchone()[0], run("PRAGMA user_version").fetchone()[0]
        if (application, version) == (0, 0) and run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            _create(self._db, self.log_id)
        elif application != schema.APPLICATION_ID:
            raise UnsafeConfiguration(f"{self._path} is not a log of AgentGate; name another file")
        elif version in UPGRADES:
            upgrade(self._db, version)
        elif version != schema.SCHEMA_VERSION:
            raise UnsafeConfiguration(
                f"{self._path} has schema version {version}, this gateway writes {schema.SCHEMA_VERSION}; "
                "start the version that made it"
            )

    def check_in_place(self) -> None:
        """Raise LogBroken if what is written here is not what the next start will read."""
        if _identity(self._path) != self._file:
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
        compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
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
        of_calls = and_(events.log_id == self.log_id, events.idx >= first, events.kind.in_(("decided", "finished")))
        rows = self._query(select(events.idx, events.kind, events.leaf).where(of_calls).order_by(events.idx))
        return open_intents(rows)

    def sessions(self, keys: Sequence[SessionKey]) -> Iterator[tuple[SessionKey, Session]]:
        """Owner, last number and last stretch of each; sessions that nobody has seen yet too."""
        for first, size in _chunks(len(keys)):
            flat = [part for key in keys[first : first + size] for part in key]
            for tenant, session, owner, stretch, number in self._db.execute(_lookup(size), [self.log_id, *flat]):
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
        run(_HEAD, (ledger.size, ledger.position, ledger.open_from, self.log_id))
        run("COMMIT")
        self._pages += _PAGES_PER_COMMIT + len(plan.ids) // _EVENTS_PER_PAGE

    def _insert(self, table: Table, flat: list[Any]) -> None:
        width = len(table.columns)
        for first, size in _chunks(len(flat) // width):
            self._db.execute(_insert_rows(table, size), flat[first * width : (first + size) * width])

    def _apply(self, effect: Effect) -> None:
        if isinstance(effect, Put):
            self._db.execute(_put(effect.table), [self.log_id, *effect.row.values()])
            return
        if isinstance(effect, Drop):
            drop = f"DELETE FROM {effect.table} WHERE log_id = ? AND idx <= ?"  # noqa: S608  # a name of ours
            self._db.execute(drop, (self.log_id, effect.through))
            return
        columns, key = effect.columns, effect.key
        sql = _change(effect.table, tuple(columns), len(effect.states))
        self._db.execute(sql, [*columns.values(), self.log_id, *key, *effect.states])

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[sqlite3.Connection]:
        """One transaction on a connection that may, for as long, delete bodies; durable at the end, or nothing is done.

        What is deleted is overwritten in the file.
        """
        self.check_in_place()
        run = self._db.execute
        self._db.set_authorizer(_authorize_forgetting)
        try:
            run("PRAGMA secure_delete=ON")
            with self._transaction():
                yield self._db
            run("PRAGMA secure_delete=OFF")
        finally:
            self._db.set_authorizer(_authorize)
        self._pages += _PAGES_TO_FORGET

    def put_checkpoint(self, checkpoint: StoredCheckpoint, completed: Sequence[TileHash]) -> None:
        """With the tile hashes that are complete now. What an earlier attempt has stored is left as it is."""
        newest = self.checkpoint()
        known = newest.size if newest is not None else 0
        rows = [(self.log_id, *tile_hash) for tile_hash in completed if last_leaf(tile_hash) >= known]
        values = (self.log_id, checkpoint.size, checkpoint.root, checkpoint.note, checkpoint.frontier)
        with self._transaction():
            if checkpoint.size > known:
                self._db.execute(_insert_rows(schema.checkpoints, 1), values)
            self._insert(schema.subtrees, [value for row in rows for value in row])

    def put_cosignature(self, witness: str, size: int, line: str) -> None:
        """Keep it if it is for a newer checkpoint than that witness's last one."""
        self._db.execute(_COSIGNED, (self.log_id, witness, size, line))

    def cursor(self, name: str) -> int | None:
        """How far a follower of the log has come; None if it never said."""
        cursors = schema.cursors.c
        wanted = select(cursors.idx).where(cursors.log_id == self.log_id, cursors.name == name)
        row = self._query(wanted).fetchone()
        return None if row is None else row[0]

    def put_cursor(self, name: str, index: int) -> None:
        self._db.execute(_CURSOR, (self.log_id, name, index))

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
        run(f"PRAGMA busy_timeout={_BUSY_MS}")

    def tidy(self) -> None:
        """Move the write-ahead log into the database once it has grown: between commits, where nobody waits."""
        if self._pages >= _CHECKPOINT_EVERY_PAGES:
            self._pages = 0
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")


# --- connecting -------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its -wal and -shm files the mode of the database: so make that, private, before it does.
    # Never open one that is there: closing it would drop this process's locks on it (that is how POSIX has it), and
    # the next program that closes the database would take itself for the last and delete the write-ahead log.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    path.chmod(0o600)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0"):
            db.execute(f"PRAGMA {pragma}")
        db.execute(f"PRAGMA journal_size_limit={_WAL_LIMIT_BYTES}")
        db.execute("PRAGMA trusted_schema=OFF")
        db.execute("PRAGMA temp_store=MEMORY")  # an INSERT of many rows on a table with triggers goes through one
    except BaseException:
        db.close()
        raise
    return db


def _pages_left(path: Path) -> int:
    """What earlier processes have left in the write-ahead log: one that is killed before long moves nothing itself."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size // _PAGE_BYTES
    except FileNotFoundError:
        return 0


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _create(db: sqlite3.Connection, log_id: str) -> None:
    """All of the schema, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    make(db, schema.IN_SQLITE)
    db.execute(_insert_rows(schema.head, 1), (log_id, 0, 0, 0))
    db.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={schema.SCHEMA_VERSION}")
    db.execute("COMMIT")


_INSERTABLE: Final = frozenset(table.name for table in schema.IN_SQLITE)
_UPDATABLE: Final = frozenset(
    {"head", "kills", "approvals", "members", "cosignatures", "holds", "prunes", "pins", "cursors"}
)
_HARMLESS: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_TRANSACTION}
)
_PRAGMAS: Final = frozenset({"wal_checkpoint", "busy_timeout"})


def _authorize(action: int, first: str | None, _second: str | None, _database: str | None, _inner: str | None) -> int:
    """The whole of what this connection may do once the schema stands: append, and keep derived rows current."""
    allowed = (
        action in _HARMLESS
        or (action == sqlite3.SQLITE_INSERT and first in _INSERTABLE)
        or (action == sqlite3.SQLITE_UPDATE and first in _UPDATABLE)
        or (action == sqlite3.SQLITE_DELETE and first == "answers")
        or (action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _authorize_forgetting(
    action: int, first: str | None, second: str | None, database: str | None, inner: str | None
) -> int:
    """What this connection may do besides while it prunes or compresses; triggers still have their say."""
    allowed = (
        (action == sqlite3.SQLITE_DELETE and first == "bodies")
        or (action == sqlite3.SQLITE_UPDATE and first == "body_segments" and second in ("bodies", "content"))
        or (action == sqlite3.SQLITE_PRAGMA and first == "secure_delete")
    )
    return sqlite3.SQLITE_OK if allowed else _authorize(action, first, second, database, inner)


# --- statements -------------------------------------------------------------------------------------------


def _chunks(rows: int) -> Iterator[tuple[int, int]]:
    """Where each chunk of so many rows starts, and its size."""
    first = 0
    for size in _CHUNKS:
        while rows - first >= size:
            yield first, size
            first += size


@lru_cache(maxsize=64)
def _insert_rows(table: Table, rows: int) -> str:
    """An INSERT of that many rows, with a parameter for each column in the table's order."""
    one = str(insert(table).compile(dialect=_DIALECT))
    before, values, row = one.rpartition(" VALUES ")
    return before + values + ", ".join([row] * rows)


@lru_cache
def _put(name: str) -> str:
    table = schema.DERIVED[name]
    statement: Insert = dialect.insert(table).on_conflict_do_nothing(index_elements=["log_id", *KEYS[name]])
    return str(statement.compile(dialect=_DIALECT))


@lru_cache
def _change(name: str, columns: tuple[str, ...], states: int) -> str:
    table = schema.DERIVED[name]
    where = [table.c[key] == bindparam(f"key_{key}") for key in ("log_id", *KEYS[name])]
    if states:
        where.append(table.c.state.in_([bindparam(f"state_{number}") for number in range(states)]))
    values: list[Any] = [(table.c[column], bindparam(f"to_{column}")) for column in columns]
    statement = update(table).where(*where).ordered_values(*values)  # `values` would follow the table's own order
    return str(statement.compile(dialect=_DIALECT))


@lru_cache
def _lookup(keys: int) -> str:
    """Owner, last stretch and last number of so many sessions, in one statement."""
    wanted = ", ".join(["(?, ?)"] * keys)
    return f"""
        WITH log(id) AS (VALUES (?)), wanted(tenant, session) AS (VALUES {wanted}), found AS MATERIALIZED (
          SELECT log.id, tenant, session, (SELECT max(stretch) FROM stretches s WHERE s.log_id = log.id
            AND s.tenant = wanted.tenant AND s.session = wanted.session) AS stretch FROM wanted, log)
        SELECT tenant, session,
          (SELECT principal FROM sessions s WHERE s.log_id = found.id AND s.tenant = found.tenant
             AND s.session = found.session),
          stretch,
          (SELECT max(session_number) FROM events e WHERE e.log_id = found.id AND e.idx >> {STRETCH_BITS} = +stretch
             AND e.tenant = found.tenant AND e.session = found.session AND e.session <> '')
        FROM found"""  # noqa: S608  # nothing but question marks and a number is put in


_HEAD: Final = "UPDATE head SET size = ?, kill_position = ?, open_from = ? WHERE log_id = ?"
_COSIGNED: Final = """
    INSERT INTO cosignatures (log_id, witness, size, line) VALUES (?, ?, ?, ?)
    ON CONFLICT (log_id, witness) DO UPDATE SET size = excluded.size, line = excluded.line WHERE excluded.size > size"""
_CURSOR: Final = """
    INSERT INTO cursors (log_id, name, idx) VALUES (?, ?, ?)
    ON CONFLICT (log_id, name) DO UPDATE SET idx = max(idx, excluded.idx)"""
