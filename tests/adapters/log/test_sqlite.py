"""The log on SQLite: the contract, and what only a file can suffer."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import stat
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, closing, contextmanager
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from sqlalchemy.dialects import sqlite as sqlite_dialect

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._checkpoints.integrator import Lag
from agentgate.adapters.log._intake import ANSWER_WITHIN_S, MAX_WAITING, in_time
from agentgate.adapters.log._ledger import Item, Ledger, Plan
from agentgate.adapters.log._reading.reader import Reader
from agentgate.adapters.log._reading.stretches import in_its_order, of_session
from agentgate.adapters.log._sqlite.connection import ReadOnly, pages_left
from agentgate.adapters.log._sqlite.ddl import TRIGGERS
from agentgate.adapters.log._sqlite.earlier import NEW_IN
from agentgate.adapters.log._sqlite.store import SqliteStore
from agentgate.adapters.log._sqlite.wal import _checksum, has_commits
from agentgate.adapters.log._sqlite.writer import Writer
from agentgate.adapters.log.sqlite import SqliteLog, open_reader, verify
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.approval import State, Wanted
from agentgate.core.audit.auditor import Auditor
from agentgate.core.audit.report import Report
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from agentgate.core.event import Kind, Record
from agentgate.core.note import NoteKey
from agentgate.core.projection.tables import STRETCH_BITS
from agentgate.core.query import Query
from agentgate.ports.log import Appended
from tests.adapters.log import crash_child
from tests.adapters.log.crashes import one_crash
from tests.contracts.log import (
    ORIGIN,
    START,
    Author,
    LogContract,
    Opened,
    Searcher,
    a_kill,
    all_of,
    append_all,
    opener,
    patient,
)
from tests.pipeline.conftest import until

SIGNER = crash_child.SIGNER
KEY = NoteKey(ORIGIN, SIGNER.public_key)
OTHER_SIGNER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))


@pytest.fixture
def opened(path: Path) -> Opened:
    return opener(lambda: SqliteLog.open(path, SIGNER, ORIGIN, checkpoint_every_s=3600))


@pytest.fixture
async def log(opened: Opened) -> AsyncIterator[SqliteLog]:
    async with opened() as found:
        assert isinstance(found, SqliteLog)
        yield found


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The database as a stranger's tool opens it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


class TestSqliteLog(LogContract):
    @pytest.fixture
    def opened(self, path: Path) -> Opened:
        return patient(lambda: SqliteLog.open(path, SIGNER, ORIGIN, checkpoint_every_s=3600))

    @pytest.fixture
    def audit(self, path: Path) -> Callable[[], Awaitable[Report]]:
        return lambda: verify(path, ORIGIN, [KEY])

    @pytest.fixture
    def beside(self, path: Path) -> Callable[[], Searcher]:
        return lambda: open_reader(path)

    @pytest.fixture
    def key(self) -> NoteKey:
        return KEY


# --- where a session's events are ---------------------------------------------------------------------------


OF_ONE_YES = (
    "quorum", "approvers", "votes", "on_behalf_of", "server", "tool_sha256", "position", "edited_from", "edited_to",
    "executes", "why", "idx",
)  # fmt: skip
"""Columns of approvals that version 5 lacked."""


def before_the_index_beside_calls(db: sqlite3.Connection) -> None:
    """Make it a log of version 6, which knew an index over policies alone."""
    for statement in (
        "DROP INDEX events_beside_calls",
        "CREATE INDEX events_policy ON events (log_id, idx) WHERE kind = 'policy'",
        "PRAGMA user_version = 6",
    ):
        db.execute(statement)


def before_answers(db: sqlite3.Connection) -> None:
    """Make it a log of version 5, for which one yes was an approval, and which kept no answers."""
    before_the_index_beside_calls(db)
    for table in NEW_IN[6]:
        db.execute(f"DROP TABLE {table.name}")
    db.execute("DROP INDEX approvals_trace")
    for column in OF_ONE_YES:
        db.execute(f"ALTER TABLE approvals DROP COLUMN {column}")
    db.execute("PRAGMA user_version = 5")


def before_stretches(db: sqlite3.Connection) -> None:
    """Make it a log of version 4, for which a session's events were found by an index over sessions."""
    before_answers(db)
    for statement in (
        "DROP TABLE stretches",
        "DROP INDEX events_stretch",
        "CREATE UNIQUE INDEX events_session ON events (log_id, tenant, session, session_number) WHERE session <> ''",
        "PRAGMA user_version = 4",
    ):
        db.execute(statement)


async def over_three_stretches(log: SqliteLog, author: Author) -> list[int]:
    """A session with events far apart, among many of another one; their indexes."""
    found = []
    for size in (1, 2 << STRETCH_BITS, 5):
        receipt = await log.append(author.decided("s-rare"))
        assert isinstance(receipt, Receipt)
        found.append(receipt.index)
        await append_all(log, (author.decided("s-often") for _ in range(size)))
    return found


async def the_rare(reader: Reader) -> list[tuple[int, int]]:
    """Index and number of its events, whichever way they are asked for."""
    of_it = Query(tenant="acme", session="s-rare")
    records = await all_of(reader.records(tenant="acme", session="s-rare"))
    assert await all_of(reader.search(of_it)) == records
    assert await all_of(reader.search(of_it, newest=True)) == records[::-1]
    assert await all_of(reader.records(session="s-rare")) == records
    return [(record.index, record.session_number) for record in records]


async def test_a_session_is_found_in_every_stretch_that_it_has_events_in(
    opened: Opened, author: Author, path: Path
) -> None:
    async with opened() as log:
        first, second, third = await over_three_stretches(log, author)
        assert third >> STRETCH_BITS == (second >> STRETCH_BITS) + 2
    async with opened() as log:  # which remembers nothing of it
        receipt = await log.append(author.decided("s-rare"))
        reader = open_reader(path)
        assert await the_rare(reader) == [(first, 1), (second, 2), (third, 3), (receipt.index, 4)]
        await reader.aclose()
    assert (await verify(path, ORIGIN, [KEY])).findings == []


async def test_a_log_without_stretches_is_read_as_it_is_and_gets_them_when_it_is_opened(
    opened: Opened, author: Author, path: Path
) -> None:
    async with opened() as log:
        indexes = await over_three_stretches(log, author)
    with raw(path) as db:
        made = set(db.execute("SELECT * FROM stretches"))
        before_stretches(db)
    reader = open_reader(path)
    assert [index for index, _ in await the_rare(reader)] == indexes
    await reader.aclose()
    assert (await verify(path, ORIGIN, [KEY])).findings == []
    async with opened() as log:
        receipt = await log.append(author.decided("s-rare"))
    with raw(path) as db:
        assert set(db.execute("SELECT * FROM stretches")) == made
    reader = open_reader(path)
    assert await the_rare(reader) == [*((index, at + 1) for at, index in enumerate(indexes)), (receipt.index, 4)]
    await reader.aclose()
    assert (await verify(path, ORIGIN, [KEY])).findings == []


async def test_a_session_is_read_by_the_index_and_in_its_order(log: SqliteLog, path: Path) -> None:
    events = schema.events.c
    one = select(events.idx).where(*of_session(events, "0", "acme", "s-1")).order_by(*in_its_order(events)).limit(9)
    text = str(one.compile(dialect=sqlite_dialect.dialect(), compile_kwargs={"literal_binds": True}))
    with raw(path) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}")]
    assert "events_stretch (log_id=? AND <expr>=? AND tenant=? AND session=?)" in plan[0]
    assert not any("TEMP B-TREE" in step for step in plan)


KILLS = Query(kinds=frozenset({Kind.KILLED, Kind.HELD}))


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.search(KILLS),
        lambda reader: reader.search(KILLS, newest=True),
        lambda reader: reader.records(kinds=(Kind.KILLED, Kind.HELD)),
    ],
    ids=["search", "search newest", "records"],
)
async def test_what_is_not_of_calls_is_found_by_an_index_however_many_calls_there_are(
    log: SqliteLog, path: Path, author: Author, read: Callable[[Reader], AsyncIterator[Record]], monkeypatch: Any
) -> None:
    """Every pack asks for kills and holds, and every member once a second for policies."""
    monkeypatch.setattr("agentgate.adapters.log._reading.search._EVENTS_AT_ONCE", 1)
    for number in range(3):
        await log.append(author.decided(f"s-{number}"))
        await log.append(author.kill(a_kill(f"k-{number}", f"s-{number}")))
    reader = open_reader(path)
    asked: list[str] = []
    ask = reader.ask

    async def overheard(statement: Any) -> list[tuple[Any, ...]]:
        compiled = statement.compile(dialect=sqlite_dialect.dialect(), compile_kwargs={"literal_binds": True})
        asked.append(str(compiled))
        return await ask(statement)

    monkeypatch.setattr(reader, "ask", overheard)
    assert sorted([record.fields["kill_id"] async for record in read(reader)]) == ["k-0", "k-1", "k-2"]
    await reader.aclose()
    (statement,) = [one for one in asked if "leaf" in one]
    with raw(path) as db:
        first, *rest = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert first.startswith("SEARCH events USING INDEX events_beside_calls (log_id=? AND idx>?")
    assert not any("TEMP B-TREE" in step for step in rest)


async def test_a_page_is_all_that_is_read_of_what_agents_make_as_much_of_as_they_like(
    log: SqliteLog, path: Path, author: Author, monkeypatch: Any
) -> None:
    """A row costs the event loop twenty microseconds, and nobody's call goes on meanwhile."""
    for number in range(20):
        await log.append(author.decided(f"s-{number:02}"))
        await log.append(author.requested(f"apr-{number:02}"))
    reader = open_reader(path)
    read: list[tuple[Any, ...]] = []
    ask = reader.ask

    async def counted(statement: Any) -> list[tuple[Any, ...]]:
        rows = await ask(statement)
        read.extend(rows)
        return rows

    monkeypatch.setattr(reader, "ask", counted)
    for state in (None, State.PENDING, State.EXPIRED):
        assert len(await reader.approvals(Wanted(START + timedelta(days=state is State.EXPIRED), None, state), 2)) == 2
    assert len(await reader.approvals(Wanted(START, prefix="apr-1"), 2)) == 2
    assert await reader.sessions(None, limit=2) == await reader.sessions("acme", limit=2) == ["s-00", "s-01"]
    await reader.aclose()
    assert len(read) == 6 * 2


@pytest.mark.parametrize("column", ["digest", "state", "trace_id"])
async def test_what_callers_ask_of_approvals_is_found_by_an_index(log: SqliteLog, path: Path, column: str) -> None:
    """Approvals are as many as the log is old, and anybody may ask."""
    with raw(path) as db:
        (step,) = db.execute(f"EXPLAIN QUERY PLAN SELECT id FROM approvals WHERE log_id = '0' AND {column} = 'x'")
    assert f"(log_id=? AND {column}=?)" in step[3]


# --- append-only ------------------------------------------------------------------------------------------

REWRITES = [
    "UPDATE events SET leaf = x'00' WHERE idx = 0",
    "UPDATE events SET kill_position = 7",
    "DELETE FROM events WHERE idx = 1",
    "DELETE FROM events",
    "INSERT OR REPLACE INTO events SELECT log_id, 0, 'x', kind, tenant, session, 9, at, 0, leaf, leaf_hash FROM events",
    "REPLACE INTO events SELECT * FROM events WHERE idx = 0",
    "INSERT INTO events SELECT log_id, 9, 'x', kind, tenant, session, 9, at, 0, leaf, leaf_hash FROM events LIMIT 1",
    "INSERT INTO events SELECT * FROM events WHERE idx = 0 ON CONFLICT DO UPDATE SET leaf = x'00'",
    "UPDATE bodies SET body = x'00'",
    "REPLACE INTO bodies SELECT log_id, idx, salt, x'00' FROM bodies",
    "UPDATE checkpoints SET note = x'00'",
    "DELETE FROM checkpoints",
    "UPDATE stretches SET stretch = 7",
    "DELETE FROM stretches",
    "REPLACE INTO checkpoints SELECT log_id, size, x'00', note, frontier FROM checkpoints",
    "INSERT INTO subtrees VALUES ('0', 1, 1, x'00')",
]


@pytest.mark.parametrize("statement", REWRITES)
async def test_nobodys_connection_rewrites_the_log(log: SqliteLog, author: Author, path: Path, statement: str) -> None:
    for _ in range(3):
        await log.append(author.decided())
    await log.integrate()
    with raw(path) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(statement)
    assert (await verify(path, ORIGIN, [KEY])).ok


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE events",
        "DROP TRIGGER events_next",
        "DELETE FROM events",
        "DELETE FROM bodies",
        "DELETE FROM spent",
        "UPDATE events SET at = ''",
        "UPDATE sessions SET principal = 'x'",
        "UPDATE spent SET key = 'x'",
        "ATTACH ':memory:' AS other",
        "PRAGMA writable_schema = 1",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA synchronous = OFF",
        "ALTER TABLE events RENAME TO stolen",
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN SELECT 1; END",
        "DELETE FROM sqlite_master",
    ],
)
def test_the_writing_connection_may_append_and_nothing_else(path: Path, statement: str) -> None:
    store = SqliteStore(path, "0")
    try:
        with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited|may not be modified"):
            store._db.execute(statement)
    finally:
        store.close()


async def test_reading_connections_cannot_write(log: SqliteLog) -> None:
    with pytest.raises(Exception, match="readonly"):  # SQLAlchemy's wrapper of SQLite's own word
        async with log._far._engine.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO spent VALUES ('0', 'approval', 'x', 0)")


async def test_files_are_private(log: SqliteLog, author: Author, path: Path) -> None:
    await log.append(author.decided())
    await log.integrate()
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert {"log.db", "log.db-wal", "log.db-shm", "log.db.lock", "log.db.checkpoint"} <= set(modes)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_commits_are_synced_to_disk(log: SqliteLog) -> None:
    def pragmas(store: SqliteStore) -> tuple[Any, ...]:
        store._db.set_authorizer(None)
        names = ("journal_mode", "synchronous", "wal_autocheckpoint")
        return tuple(store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)

    assert await log._writer.call(pragmas) == ("wal", 2, 0)


async def test_the_write_ahead_log_does_not_grow_without_end(log: SqliteLog, author: Author, path: Path) -> None:
    wal = path.with_name("log.db-wal")
    for _ in range(12):
        await append_all(log, (author.decided(f"s-{n}") for n in range(1_000)))
    assert wal.stat().st_size < 24_000_000
    assert path.stat().st_size > 2_000_000


# --- one process, one file --------------------------------------------------------------------------------


async def test_what_killed_processes_left_in_the_write_ahead_log_is_moved_by_the_next(
    opened: Opened, author: Author, path: Path, tmp_path: Path
) -> None:
    """One that is killed before it moves anything leaves its pages to the next, which may be killed as soon."""
    async with opened():
        pass
    later = tmp_path / "later" / "log.db"
    later.parent.mkdir()
    with raw(path) as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE junk (bytes BLOB)")
        db.executemany("INSERT INTO junk VALUES (randomblob(4000))", [()] * 6_000)
        db.execute("DROP TABLE junk")
        for file in path.parent.iterdir():
            shutil.copy2(file, later.parent)
    wal = later.with_name("log.db-wal")
    assert wal.stat().st_size > 20_000_000
    log = await SqliteLog.open(later, SIGNER, ORIGIN, checkpoint_every_s=3600)
    try:
        await log.append(author.decided())
        await until(lambda: later.stat().st_size > 4096 * 10)
        await log.append(author.decided())
        await until(lambda: wal.stat().st_size < 20_000_000)
    finally:
        await log.aclose()


async def test_a_second_process_is_refused(log: SqliteLog, path: Path, processes: ForkServerContext) -> None:
    ours, theirs = processes.Pipe()
    child = processes.Process(target=crash_child.open_once, args=(str(path), theirs))
    child.start()
    answer = await asyncio.to_thread(ours.recv)
    child.join()
    assert "another process has" in answer
    assert "PostgreSQL" in answer


async def test_the_same_process_is_refused_too_and_a_closed_log_opens_again(opened: Opened, path: Path) -> None:
    async with opened():
        with pytest.raises(UnsafeConfiguration, match="another process"):
            await SqliteLog.open(path, SIGNER, ORIGIN)
    async with opened():
        pass


async def test_a_foreign_file_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with raw(path) as db:
        db.execute("CREATE TABLE customers (name TEXT)")
    with pytest.raises(UnsafeConfiguration, match="not a log of AgentGate"):
        await SqliteLog.open(path, SIGNER, ORIGIN)


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to look like one " * 100)
    with pytest.raises((LogUnavailable, LogBroken), match="not a database"):
        await SqliteLog.open(path, SIGNER, ORIGIN)


async def test_a_directory_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises((LogUnavailable, LogBroken), match="Is a directory"):
        await SqliteLog.open(tmp_path, SIGNER, ORIGIN)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


async def test_another_schema_version_is_refused(opened: Opened, path: Path) -> None:
    async with opened():
        pass
    with raw(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UnsafeConfiguration, match="schema version 99"):
        await SqliteLog.open(path, SIGNER, ORIGIN)


# --- what is found at the start ---------------------------------------------------------------------------


async def two_generations(opened: Opened, author: Author, path: Path) -> Path:
    """A log that went on after a copy was taken; the copy."""
    async with opened() as log:
        await log.append(author.decided())
    copy = path.with_name("yesterday.db")
    shutil.copy(path, copy)
    async with opened() as log:
        await log.append(author.decided())
    return copy


async def test_a_rolled_back_database_is_refused(opened: Opened, author: Author, path: Path) -> None:
    copy = await two_generations(opened, author, path)
    shutil.copy(copy, path)
    with pytest.raises(LogBroken, match=r"2 events.*rolled back.*remove .*checkpoint"):
        await SqliteLog.open(path, SIGNER, ORIGIN)
    path.with_name("log.db.checkpoint").unlink()  # what the sentence offers to who means it
    async with opened() as log:
        assert len(await all_of(log.records())) == 1


async def test_a_replaced_database_is_refused(opened: Opened, author: Author, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "log.db"
    log = await SqliteLog.open(other, SIGNER, ORIGIN)
    await log.append(author.decided("s-other"))
    await log.append(author.decided("s-other"))
    await log.aclose()
    async with opened() as log_of_ours:
        await log_of_ours.append(author.decided())
        await log_of_ours.append(author.decided())
    shutil.copy(other, path)
    with pytest.raises(LogBroken, match="replaced"):
        await SqliteLog.open(path, SIGNER, ORIGIN)


async def test_a_vanished_database_is_not_started_anew(opened: Opened, author: Author, path: Path) -> None:
    await two_generations(opened, author, path)
    path.unlink()
    with pytest.raises(LogBroken, match="is gone"):
        await SqliteLog.open(path, SIGNER, ORIGIN)
    assert not path.exists()


async def test_another_checkpoint_key_is_refused(opened: Opened, author: Author, path: Path) -> None:
    await two_generations(opened, author, path)
    with pytest.raises(LogBroken, match="no known key"):
        await SqliteLog.open(path, OTHER_SIGNER, ORIGIN)
    path.with_name("log.db.checkpoint").unlink()
    with pytest.raises(LogBroken, match="is this the key"):
        await SqliteLog.open(path, OTHER_SIGNER, ORIGIN)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DELETE FROM events WHERE idx = 1", "head row counts 2"),
        ("UPDATE head SET size = 1", "head row counts 1"),
        ("DELETE FROM head", "head row"),
        ("UPDATE events SET leaf_hash = zeroblob(32) WHERE idx = 1", "events 0 to 1 are not those that were signed"),
        ("UPDATE checkpoints SET frontier = zeroblob(40) WHERE size = 2", "does not hold"),
        ("UPDATE checkpoints SET root = zeroblob(32) WHERE size = 2", "not the one that was signed"),
        ("DELETE FROM events WHERE idx = 1; UPDATE head SET size = 1", "only 1 are stored"),
    ],
)
async def test_a_log_that_contradicts_itself_is_refused(
    opened: Opened, author: Author, path: Path, statement: str, sentence: str
) -> None:
    await two_generations(opened, author, path)
    tamper(path, statement)
    with pytest.raises(LogBroken, match=sentence):
        await SqliteLog.open(path, SIGNER, ORIGIN)


def tamper(path: Path, statements: str) -> None:
    """What somebody does who has the file and knows SQLite: triggers off, change, triggers on."""
    with raw(path) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements.split(";"):
            db.execute(statement)
        for trigger in TRIGGERS:
            db.execute(trigger)


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("UPDATE events SET event_id = 'x' WHERE idx = 4", 4),
        ("UPDATE events SET kind = 'finished' WHERE idx = 4", 4),
        ("UPDATE events SET tenant = 'other' WHERE idx = 4", 4),
        ("UPDATE events SET session = 's-9' WHERE idx = 4", 4),
        ("UPDATE events SET session_number = 99 WHERE idx = 4", 4),
        ("UPDATE events SET at = '2020' WHERE idx = 4", 4),
        ("UPDATE events SET kill_position = 0 WHERE idx = 4", 4),
        ("UPDATE events SET leaf = CAST(replace(leaf, 'acme', 'ACME') AS BLOB) WHERE idx = 4", 4),
        ("UPDATE events SET leaf_hash = zeroblob(32) WHERE idx = 4", 4),
        ("UPDATE bodies SET body = CAST('{}' AS BLOB) WHERE idx = 4", 4),
        ("UPDATE bodies SET salt = zeroblob(16) WHERE idx = 4", 4),
        ("DELETE FROM events WHERE idx = 4", 4),
        ("UPDATE events SET idx = 99 WHERE idx = 7", 7),
        ("UPDATE head SET kill_position = 9", None),
        ("UPDATE kills SET reason = 'a nicer one'", 3),
        ("UPDATE kills SET released_position = 2", 3),
        ("UPDATE sessions SET principal = 'agent:thief'", 1),
        ("UPDATE members SET left_idx = 3", 0),
        ("DELETE FROM spent", 3),
        ("DELETE FROM stretches", 1),
        ("UPDATE stretches SET session = 's-9'", 1),
        ("INSERT INTO stretches VALUES ('0', 'acme', 's-9', 0)", None),
        ("UPDATE checkpoints SET root = zeroblob(32)", 7),
        ("UPDATE checkpoints SET note = CAST(replace(note, '8', '7') AS BLOB)", 7),
    ],
)
async def test_verify_names_what_was_tampered_with(
    opened: Opened, author: Author, path: Path, statement: str, index: int | None
) -> None:
    async with opened() as log:
        await log.append(author.joined())
        await log.append(author.decided())
        await log.append(author.decided())
        await log.append(author.kill(a_kill()))
        for _ in range(4):
            await log.append(author.decided())
    assert (await verify(path, ORIGIN, [KEY])).ok
    tamper(path, statement)
    report = await verify(path, ORIGIN, [KEY])
    assert report.findings[0].index == index


async def test_verify_says_when_there_is_nothing_to_read(path: Path) -> None:
    with pytest.raises(LogUnavailable, match="cannot be read"):
        await verify(path, ORIGIN, [KEY])


@pytest.fixture
def on_a_read_only_medium(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as can be asked: root may write whatever modes say."""
    monkeypatch.setattr(
        os, "access", lambda asked, mode: not (Path(asked).is_relative_to(path.parent) and mode & os.W_OK)
    )


def as_it_lies(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir() if file.is_file()}


async def test_a_closed_log_is_read_without_writing_beside_it(opened: Opened, author: Author, path: Path) -> None:
    async with opened() as log:
        await log.append(author.decided())
    there = as_it_lies(path.parent)
    assert (await verify(path, ORIGIN, [KEY])).ok
    assert as_it_lies(path.parent) == there


@pytest.mark.usefixtures("on_a_read_only_medium")
async def test_nor_does_a_reader_write_beside_it_there(opened: Opened, author: Author, path: Path) -> None:
    for left in (path, await without_end(opened, author, path, ("-wal",))):
        there = as_it_lies(left.parent)
        async with aclosing(open_reader(left)) as reader:
            assert len(await reader.leaf_hashes(0, 9)) == 2
        assert as_it_lies(left.parent) == there


async def without_end(opened: Opened, author: Author, path: Path, left: tuple[str, ...]) -> Path:
    """What is there of a log of two events whose process was killed, the second of them in its -wal alone."""
    copy = path.parent / "evidence" / path.name
    copy.parent.mkdir(parents=True)
    async with opened() as log:
        await log.append(author.decided())
    async with opened() as log:
        await log.append(author.decided())
        await log.integrate()
        for ending in ("", ".checkpoint", *left):
            shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    return copy


@pytest.mark.parametrize("left", [("-wal", "-shm"), ("-wal",)])
async def test_the_write_ahead_log_is_read_and_left_as_it_is(
    opened: Opened, author: Author, path: Path, monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...]
) -> None:
    copy = await without_end(opened, author, path, left)
    there = as_it_lies(copy.parent)
    meanwhile: list[dict[str, tuple[bytes, int]]] = []
    feed = Auditor.feed

    def observed(auditor: Auditor, chunk: Any) -> None:
        meanwhile.append(as_it_lies(copy.parent))
        feed(auditor, chunk)

    monkeypatch.setattr(Auditor, "feed", observed)
    for _ in range(2):
        report = await verify(copy, ORIGIN, [KEY])
        assert (report.ok, report.size, as_it_lies(copy.parent)) == (True, 2, there)
    assert meanwhile == [there, there], "there is nothing to take away of one that is interrupted"


@pytest.mark.parametrize("of_wal", [0, 31, 5_000])
async def test_a_write_ahead_log_without_a_commit_stays_as_well(
    opened: Opened, author: Author, path: Path, of_wal: int
) -> None:
    copy = await without_end(opened, author, path, ("-wal",))
    copy.with_name("log.db.checkpoint").unlink()  # it is of what is not there any more
    os.truncate(f"{copy}-wal", of_wal)
    there = as_it_lies(copy.parent)
    assert (await verify(copy, ORIGIN, [KEY])).size == 1
    assert as_it_lies(copy.parent) == there


async def test_a_write_ahead_log_that_a_gateway_has_begun_to_write_to_is_told_and_not_deleted(
    opened: Opened, author: Author, path: Path
) -> None:
    copy = await without_end(opened, author, path, ("-wal",))
    file = ReadOnly(copy, is_evidence=True)
    reading = file.connect()
    with closing(sqlite3.connect(copy, isolation_level=None)) as gateway:
        gateway.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert reading.execute("SELECT count(*) FROM events").fetchone() == (2,)
        gateway.execute("CREATE TABLE last (word)")
        with pytest.raises(LogUnavailable, match="a gateway has begun to write"):
            file.check()
        reading.close()
        if sys.version_info >= (3, 12):  # before, SQLite cannot be told
            assert has_commits(Path(f"{copy}-wal"))


async def test_a_write_ahead_log_that_is_none_is_read_as_sqlite_reads_it(
    opened: Opened, author: Author, path: Path
) -> None:
    copy = await without_end(opened, author, path, ("-wal",))
    wal = Path(f"{copy}-wal")
    whole = wal.read_bytes()
    for page_bytes in (0, 100, 2**31):
        header = struct.pack(">4I", *struct.unpack(">2I", whole[:8]), page_bytes, 0) + whole[16:24]
        wal.write_bytes(header + struct.pack(">2I", *_checksum("<", header, (0, 0))) + whole[32:])
        assert not has_commits(wal)
    for at in (4, 24, 32, 40, 48, 56):  # of the header, its sum, a page's number, salt, sum and content
        wal.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert not has_commits(wal)
    wal.write_bytes(whole)
    assert has_commits(wal)


async def test_the_write_ahead_log_of_an_empty_database_stays(opened: Opened, author: Author, path: Path) -> None:
    copy = await without_end(opened, author, path, ("-wal",))
    os.truncate(copy, 0)
    there = as_it_lies(copy.parent)
    with pytest.raises(LogUnavailable):
        await verify(copy, ORIGIN, [KEY])
    assert as_it_lies(copy.parent) == there


async def test_what_belongs_to_a_database_is_beside_it_and_not_beside_a_link_to_it(
    opened: Opened, author: Author, path: Path
) -> None:
    link = path.parent / "elsewhere" / "a-link"
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    async with opened() as log:
        await log.append(author.decided())
        await log.integrate()
        assert pages_left(link) == pages_left(path) > 0
        async with aclosing(open_reader(link)) as reader:
            assert len(await reader.leaf_hashes(0, 9)) == 1
        assert (await verify(link, ORIGIN, [KEY])).size == 1
        with pytest.raises(UnsafeConfiguration, match="another process"):
            await SqliteLog.open(link, SIGNER, ORIGIN)
    log = await SqliteLog.open(link, SIGNER, ORIGIN)
    await log.append(author.decided())
    await log.aclose()
    assert list(link.parent.iterdir()) == [link]
    checkpoint = path.with_name("log.db.checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n2\n", b"\n3\n"))
    assert not (await verify(link, ORIGIN, [KEY])).ok


async def test_a_checkpoint_that_an_earlier_version_kept_beside_a_link_is_held_against_the_log_and_kept_up(
    opened: Opened, author: Author, path: Path, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere" / "log.db"
    link.parent.mkdir()
    link.symlink_to(path)
    backup = tmp_path / "backup.db"
    async with opened() as log:
        await log.append(author.decided())
    shutil.copy(path, backup)
    async with opened() as log:
        await log.append(author.decided())
    old = path.with_name("log.db.checkpoint").rename(link.with_name("log.db.checkpoint"))
    log = await SqliteLog.open(link, SIGNER, ORIGIN)
    await log.append(author.decided())
    await log.aclose()
    assert old.read_bytes() == path.with_name("log.db.checkpoint").read_bytes()
    path.with_name("log.db.checkpoint").unlink()

    shutil.copy(backup, path)
    assert not (await verify(link, ORIGIN, [KEY])).ok
    with pytest.raises(LogBroken, match=f"of 3 events.*remove {old}"):
        await SqliteLog.open(link, SIGNER, ORIGIN)

    path.unlink()
    path.parent.rename(tmp_path / "not-mounted")
    with pytest.raises(LogBroken, match="is gone, but"):
        await SqliteLog.open(link, SIGNER, ORIGIN)
    assert not path.parent.exists(), "nothing is made where the disk belongs"


@pytest.mark.usefixtures("on_a_read_only_medium")
async def test_what_a_gateway_begins_to_write_while_it_is_read_there_is_not_overlooked(
    opened: Opened, author: Author, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as log:
        await log.append(author.decided())
    feed = Auditor.feed

    def meanwhile(auditor: Auditor, chunk: Any) -> None:
        path.with_name(path.name + "-wal").touch()
        feed(auditor, chunk)

    async with aclosing(open_reader(path)) as reader:
        assert len(await reader.leaf_hashes(0, 9)) == 1
        with monkeypatch.context() as patch:
            patch.setattr(Auditor, "feed", meanwhile)
            with pytest.raises(LogUnavailable, match="begun to write"):
                await verify(path, ORIGIN, [KEY])
        for ask in (reader.leaf_hashes(0, 9), reader.size()):
            with pytest.raises(LogUnavailable, match="begun to write"):
                await ask
        async with opened() as log:
            await log.append(author.decided())
        with pytest.raises(LogUnavailable, match="begun to write"):
            await reader.leaf_hashes(0, 9)
    assert (await verify(path, ORIGIN, [KEY])).size == 2


# --- the integrator ---------------------------------------------------------------------------------------


async def test_checkpoints_come_by_themselves_while_events_arrive(path: Path, author: Author) -> None:
    log = await SqliteLog.open(path, SIGNER, ORIGIN, checkpoint_every_s=0.01)
    try:
        await log.append(author.decided())
        await until(lambda: log.lag.events == 0)
        assert await log.checkpoint() is not None
        assert log.lag == Lag(0, None)
    finally:
        await log.aclose()


async def test_an_integrator_that_fails_says_so_and_holds_nobody_up(log: SqliteLog, author: Author, path: Path) -> None:
    in_the_way = path.with_name("log.db.checkpoint")
    in_the_way.mkdir()
    await log.append(author.decided())
    with pytest.raises(LogUnavailable):
        await log.integrate()
    assert isinstance(await log.append(author.decided()), Receipt)
    assert log.lag.events == 2
    assert log.lag.trouble is not None
    in_the_way.rmdir()
    await log.integrate()
    assert log.lag == Lag(0, None)


AT_ONCE_S = ANSWER_WITHIN_S / 2
"""Far from the time for which an append may wait, and of it on a busy machine as well."""


# --- faults of the disk -----------------------------------------------------------------------------------


class FaultyStore(SqliteStore):
    """A store that can be told to fail, before or after a commit persisted, or to hang."""

    faults: ClassVar[list[tuple[bool, sqlite3.Error]]]
    hold: threading.Event | None = None
    entered: threading.Event

    def write(self, plan: Plan, ledger: Ledger) -> None:
        self.entered.set()
        if self.hold is not None:
            self.hold.wait()
        fault = self.faults.pop(0) if self.faults else None
        if fault is None or fault[0]:
            super().write(plan, ledger)
        if fault is not None:
            raise fault[1]


def io_error(code: int = sqlite3.SQLITE_IOERR) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.fixture
async def faulty(path: Path) -> AsyncIterator[tuple[Writer, type[FaultyStore]]]:
    """A writer on a store with faults to come; every store that it opens again shares them."""

    class Faulty(FaultyStore):
        faults: ClassVar[list[tuple[bool, sqlite3.Error]]] = []
        entered = threading.Event()

    writer = Writer(lambda: Faulty(path, "0"))
    await writer.start()
    yield writer, Faulty
    if Faulty.hold is not None:
        Faulty.hold.set()
    await writer.aclose()


Faulty = tuple[Writer, type[FaultyStore]]


async def test_an_event_whose_caller_is_told_meanwhile_that_it_is_too_late_is_answered_all_the_same(
    author: Author,
) -> None:
    """The committing thread sorts events while the loop gives up on some: one that is lost there is waited for ever."""

    class GivenUpMeanwhile(asyncio.Future[Appended]):
        looks = 0

        def done(self) -> bool:
            self.looks += 1
            return self.looks > 1

    item = Item(author.decided("s-1"), GivenUpMeanwhile())
    wanted, late = in_time([item])
    assert [*wanted, *(found for found, _ in late)] == [item]


async def test_a_commit_that_failed_is_refused_and_the_next_one_succeeds(faulty: Faulty, author: Author) -> None:
    writer, store = faulty
    await writer.append(author.decided())
    store.faults.append((False, io_error()))
    outcomes = await asyncio.gather(*(writer.append(author.decided()) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LogUnavailable] * 3
    receipt = await writer.append(author.decided())
    assert isinstance(receipt, Receipt)
    assert receipt.index == 1  # no gap


async def test_a_commit_that_persisted_although_it_failed_is_acknowledged(faulty: Faulty, author: Author) -> None:
    writer, store = faulty
    store.faults.append((True, io_error()))
    receipts = await asyncio.gather(*(writer.append(author.decided()) for _ in range(3)))
    assert [receipt.index for receipt in receipts if isinstance(receipt, Receipt)] == [0, 1, 2]
    receipt = await writer.append(author.decided())
    assert isinstance(receipt, Receipt)
    assert receipt.index == 3


async def test_what_a_failed_commit_would_have_spent_is_not_spent(faulty: Faulty, author: Author) -> None:
    writer, store = faulty
    store.faults.append((False, io_error()))
    with pytest.raises(LogUnavailable):
        await writer.append(author.decided("s-1", approval_id="a-1"))
    assert isinstance(await writer.append(author.decided("s-1", by="agent:x", approval_id="a-1")), Receipt)


async def test_a_damaged_database_is_refused_until_somebody_looked(faulty: Faulty, author: Author) -> None:
    writer, store = faulty
    store.faults.append((False, io_error(sqlite3.SQLITE_CORRUPT)))
    for _ in range(2):
        with pytest.raises(LogBroken, match="damaged"):
            await writer.append(author.decided())
    with pytest.raises(LogBroken):
        writer.raise_refusal()


async def test_a_hung_disk_hangs_nobody(faulty: Faulty, author: Author) -> None:
    writer, store = faulty
    loop = asyncio.get_running_loop()
    store.hold = threading.Event()
    before = loop.time()
    first, second = writer.append(author.decided()), writer.append(author.decided())
    for waiting in (first, second):
        with pytest.raises(LogUnavailable, match="not known to be durable"):
            await waiting
    assert loop.time() - before < 1.5
    before = loop.time()
    with pytest.raises(LogUnavailable):
        await writer.append(author.decided())
    assert loop.time() - before < AT_ONCE_S
    store.hold.set()
    await until(lambda: writer.refusal() is None)
    assert isinstance(await writer.append(author.decided()), Receipt)


async def test_what_a_hung_disk_was_given_is_settled_once_it_answers(
    faulty: Faulty, author: Author, path: Path
) -> None:
    writer, store = faulty
    await writer.settled()
    store.hold = threading.Event()
    waiting = writer.append(author.decided())
    await asyncio.to_thread(store.entered.wait)
    outcomes = await asyncio.gather(waiting, writer.settled(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LogUnavailable] * 2
    with raw(path) as db:
        assert db.execute("SELECT count(*) FROM events").fetchone() == (0,)
    store.hold.set()
    await until(lambda: writer.refusal() is None)
    await writer.settled()
    with raw(path) as db:
        assert db.execute("SELECT count(*) FROM events").fetchone() == (1,)


async def test_what_a_store_was_given_that_cannot_be_opened_is_not_settled(
    faulty: Faulty, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, store = faulty
    with monkeypatch.context() as patched:
        patched.setattr(store, "probe", _fail)
        store.faults.append((True, io_error()))
        with pytest.raises(LogUnavailable, match="cannot be written") as tried:
            await writer.append(author.decided())
        with pytest.raises(LogUnavailable) as refused:
            await writer.append(author.decided())
        assert [error.value.untried for error in (tried, refused)] == [False, True]
        with pytest.raises(LogUnavailable):
            await writer.settled()
    await until(lambda: writer.refusal() is None)
    await writer.settled()
    assert writer.size == 1


def _fail(_: SqliteStore) -> None:
    raise io_error()


async def test_what_waited_too_long_is_not_appended_later(faulty: Faulty, author: Author, path: Path) -> None:
    writer, store = faulty
    store.hold = threading.Event()
    taken = writer.append(author.decided("s-taken"))
    await asyncio.to_thread(store.entered.wait)
    waiting = writer.append(author.decided("s-waiting"))
    outcomes = await asyncio.gather(taken, waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LogUnavailable] * 2
    store.hold.set()
    await writer.call(lambda _: None)
    with raw(path) as db:
        assert db.execute("SELECT session FROM events").fetchall() == [("s-taken",)]


async def test_the_queue_is_bounded(faulty: Faulty, author: Author) -> None:
    writer, store = faulty
    store.hold = threading.Event()
    waiting = [writer.append(author.decided()) for _ in range(MAX_WAITING)]
    with pytest.raises(LogUnavailable, match="waiting already"):
        await writer.append(author.decided())
    for future in waiting:
        future.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_one_event_that_the_store_refuses_does_not_refuse_its_neighbours(log: SqliteLog, author: Author) -> None:
    first, clash = author.decided(), author.decided()
    clash.id = first.id
    outcomes = await asyncio.gather(
        log.append(author.decided()), log.append(first), log.append(clash), log.append(author.decided()),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(outcome) for outcome in outcomes] == [Receipt, Receipt, LogUnavailable, Receipt]
    assert [record.index for record in await all_of(log.records())] == [0, 1, 2]


async def test_a_strangers_event_in_the_file_stops_the_log(log: SqliteLog, author: Author, path: Path) -> None:
    await log.append(author.decided())
    with raw(path) as db:
        db.execute(
            "INSERT INTO events SELECT log_id, 1, 'x', kind, tenant, session, 9, at, 0, leaf, leaf_hash FROM events"
        )
    for _ in range(2):
        with pytest.raises(LogBroken):
            await log.append(author.decided())
    with pytest.raises(LogBroken):
        await log.kills_since(-1)


@pytest.mark.parametrize("by", ["removed", "replaced"])
async def test_a_file_that_is_taken_away_stops_the_log(log: SqliteLog, author: Author, path: Path, by: str) -> None:
    await log.append(author.decided())
    if by == "replaced":
        shutil.copy(path, path.with_name("copy.db"))
        path.with_name("copy.db").replace(path)
    else:
        path.unlink()
    with pytest.raises(LogBroken, match="replaced or removed"):
        await log.integrate()
    with pytest.raises(LogBroken):
        await log.append(author.decided())


async def test_a_lock_held_by_another_process_is_waited_for_a_second_at_most(
    log: SqliteLog, author: Author, path: Path, processes: ForkServerContext
) -> None:
    loop = asyncio.get_running_loop()
    await log.append(author.decided())
    ours, theirs = processes.Pipe()
    child = processes.Process(target=crash_child.hold_the_lock, args=(str(path), theirs))
    child.start()
    assert await asyncio.to_thread(ours.recv) == "locked"
    before = loop.time()
    with pytest.raises(LogUnavailable):
        await log.append(author.decided())
    assert loop.time() - before < 1.5
    for _ in range(3):
        before = loop.time()
        with pytest.raises(LogUnavailable):
            await log.append(author.decided())
        assert loop.time() - before < AT_ONCE_S
    ours.send("let go")
    assert await asyncio.to_thread(ours.recv) == "free"
    child.join()
    await until(lambda: log._writer.refusal() is None)
    receipt = await log.append(author.decided())
    assert isinstance(receipt, Receipt)
    assert receipt.index == 1


async def test_a_full_disk_refuses_at_once_and_recovers_without_a_restart(
    path: Path, processes: ForkServerContext
) -> None:
    ours, theirs = processes.Pipe()
    child = processes.Process(target=crash_child.fill_the_disk, args=(str(path), theirs))
    child.start()
    found = await asyncio.to_thread(ours.recv)
    child.join()
    assert found["trouble"]
    assert found["again"]
    assert found["refused_in_s"] < AT_ONCE_S
    assert found["recovered_in_s"] < 2.0
    assert found["acknowledged"] == list(range(len(found["acknowledged"])))
    report = await verify(path, ORIGIN, [KEY])
    assert (report.ok, report.size) == (True, len(found["acknowledged"]))


# --- kill -9 ----------------------------------------------------------------------------------------------


async def crashes(path: Path, processes: ForkServerContext, cycles: int, seed: int) -> None:
    """Nothing that was acknowledged is lost, whenever the writer was killed, and every log verifies."""
    chance = random.Random(seed)
    acknowledged: dict[int, bytes] = {}
    for _ in range(cycles):
        for index, salt in await asyncio.to_thread(
            one_crash, crash_child.append_until_killed, str(path), processes, chance.randint(1, 300)
        ):
            assert acknowledged.setdefault(index, salt) == salt, "one index was given twice"
    with raw(path) as db:
        stored = dict(db.execute("SELECT idx, salt FROM bodies"))
    lost = [index for index, salt in acknowledged.items() if stored.get(index) != salt]
    assert lost == []
    report = await verify(path, ORIGIN, [KEY])
    assert report.findings == []
    assert report.size >= len(acknowledged)


async def test_no_acknowledged_event_is_lost_in_twenty_kills(path: Path, processes: ForkServerContext) -> None:
    await crashes(path, processes, 20, seed=1)


@pytest.mark.torture
@pytest.mark.timeout(3_600)
async def test_no_acknowledged_event_is_lost_in_five_hundred_kills(path: Path, processes: ForkServerContext) -> None:
    await crashes(path, processes, 500, seed=2)


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_a_loop_that_was_busy_is_not_taken_for_a_disk_that_does_not_answer(
    run: Callable[[Coroutine[Any, Any, None]], None], tmp_path: Path
) -> None:
    """A large call of one agent's would refuse those of all others."""

    async def busy() -> None:
        log = await SqliteLog.open(tmp_path / "log.db", SIGNER, ORIGIN)
        append = asyncio.ensure_future(log.append(Author().decided()))
        await asyncio.sleep(0.0005)  # it is on its way, and the watch over it as well
        time.sleep(ANSWER_WITHIN_S + 0.2)  # noqa: ASYNC251 - that is what is tried
        await append
        await log.aclose()

    run(busy())
