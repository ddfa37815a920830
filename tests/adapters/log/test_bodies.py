"""Bodies in both stores: the contract, and what only one of them can suffer."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.log import _bodies, postgresql, sqlite
from agentgate.adapters.log._segments import CODEC, MAX_SEGMENT_BYTES, SEGMENT_BYTES, pack, unpack
from agentgate.adapters.log._sqlite.earlier import NEW_IN
from agentgate.adapters.log._sqlite.store import SqliteStore
from agentgate.adapters.log.postgresql import PostgresLog
from agentgate.adapters.log.sqlite import SqliteLog
from agentgate.core.audit.report import Report
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.note import NoteKey
from agentgate.core.retention import Quiet
from tests.adapters.log import crash_child
from tests.adapters.log.conftest import GATEWAY, READER, RETENTION
from tests.adapters.log.test_sqlite import KEY, SIGNER, before_stretches, raw
from tests.contracts.bodies import LIMIT, LONG_AGO, TODAY, BodiesContract, Historian
from tests.contracts.log import ORIGIN, all_of, opener, patient
from tests.postgres_server import PostgresServer


class TestSqliteBodies(BodiesContract):
    @pytest.fixture
    def opened(self, path: Path) -> Any:
        return patient(lambda: SqliteLog.open(path, SIGNER, ORIGIN, checkpoint_every_s=3600))

    @pytest.fixture
    def audit(self, path: Path) -> Callable[[], Awaitable[Report]]:
        return lambda: sqlite.verify(path, ORIGIN, [KEY])

    @pytest.fixture
    def key(self) -> NoteKey:
        return KEY


class TestPostgresBodies(BodiesContract):
    """With the roles of docs/operating.md."""

    @pytest.fixture
    def opened(self, guarded: PostgresServer, guarded_database: str) -> Any:
        return patient(
            lambda: PostgresLog.open(
                guarded.url(guarded_database, GATEWAY),
                SIGNER,
                ORIGIN,
                retention_url=guarded.url(guarded_database, RETENTION),
                checkpoint_every_s=3600,
            )
        )

    @pytest.fixture
    def audit(self, guarded: PostgresServer, guarded_database: str) -> Callable[[], Awaitable[Report]]:
        return lambda: postgresql.verify(guarded.url(guarded_database, READER), ORIGIN, [KEY])

    @pytest.fixture
    def key(self) -> NoteKey:
        return KEY


# --- SQLite ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def log(path: Path) -> AsyncIterator[SqliteLog]:
    found = await SqliteLog.open(path, SIGNER, ORIGIN, checkpoint_every_s=3600)
    yield found
    await found.aclose()


@pytest.fixture
def author() -> Historian:
    return Historian().then(LONG_AGO)


async def with_a_past(log: SqliteLog, author: Historian) -> None:
    """Three sessions of 200 events: two segments, 88 single bodies, and s-1 was pruned up to event 300."""
    await BodiesContract.fill(log, author, 600, sessions=3)
    while await log.bodies.compress(LIMIT, TODAY):
        pass
    await log.append(author.pruned("s-1", 300))
    await log.integrate()


TAKINGS = [
    "DELETE FROM bodies",
    "DELETE FROM bodies WHERE idx = 598",  # of s-1, but after the prune
    "DELETE FROM bodies WHERE idx = 599",
    "DELETE FROM bodies WHERE idx = 600",  # the prune's own
    "REPLACE INTO bodies SELECT log_id, idx, salt, x'00' FROM bodies WHERE idx = 599",
    "DELETE FROM body_segments",
    "UPDATE body_segments SET content = x'00'",
    "UPDATE body_segments SET bodies = bodies + 1",
    "UPDATE body_segments SET bodies = 0, last_idx = 9999",
    "UPDATE body_segments SET bodies = 0, first_idx = first_idx + 1000",
    "UPDATE body_segments SET bodies = 0, newest = '1970'",
    "REPLACE INTO body_segments SELECT * FROM body_segments",
    "INSERT INTO body_segments SELECT log_id, 100, 9999, newest, 0, codec, content FROM body_segments LIMIT 1",
    "INSERT INTO body_segments SELECT log_id, 9999, 9998, newest, 0, codec, content FROM body_segments LIMIT 1",
]


@pytest.mark.parametrize("statement", TAKINGS)
async def test_nobodys_connection_takes_a_body(log: SqliteLog, author: Historian, path: Path, statement: str) -> None:
    await with_a_past(log, author)
    with raw(path) as db, pytest.raises(sqlite3.IntegrityError, match="bod"):
        db.execute(statement)
    assert (await sqlite.verify(path, ORIGIN, [KEY])).ok


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM bodies",
        "DELETE FROM body_segments",
        "UPDATE body_segments SET bodies = 0",
        "UPDATE holds_of_nobody SET id = ''",
        "PRAGMA secure_delete = OFF",
    ],
)
async def test_the_writing_connection_may_delete_only_while_it_prunes(
    log: SqliteLog, author: Historian, statement: str
) -> None:
    await with_a_past(log, author)
    assert await log.bodies.forget([Quiet("acme", "s-1", 300)]) == 100
    with pytest.raises(LogUnavailable, match=r"not authorized|no such table"):
        await log._writer.call(lambda store: store._db.execute(statement))


async def test_what_was_pruned_is_not_in_the_file_any_more(path: Path, author: Historian) -> None:
    log = await SqliteLog.open(path, SIGNER, ORIGIN)
    canary = b'{"arguments":"CANARY-%02d"}'
    for n in range(40):
        await log.append(author.decided(f"s-{n % 2}", body=canary % n))
    await log.append(author.pruned("s-1", 39))
    await log.bodies.forget([Quiet("acme", "s-1", 39)])
    await log.aclose()
    content = path.read_bytes()
    assert [content.count(b"CANARY-%02d" % n) > 0 for n in range(40)] == [n % 2 == 0 for n in range(40)]
    assert not path.with_name("log.db-wal").exists()


async def test_a_damaged_segment_is_refused_and_verify_names_what_is_gone(
    log: SqliteLog, author: Historian, path: Path
) -> None:
    await with_a_past(log, author)
    with raw(path) as db:
        db.execute("DROP TRIGGER body_segments_update")
        db.execute("UPDATE body_segments SET content = substr(content, 1, 999) WHERE first_idx = 256")
    with pytest.raises(LogBroken, match="segment of bodies from event 256 on is damaged"):
        await all_of(log.records())
    report = await sqlite.verify(path, ORIGIN, [KEY])
    assert str(report.findings[0]) == "event 257: its body is gone, and no prune event took it"
    assert isinstance(await log.append(author.decided()), Receipt)


async def test_a_body_that_was_altered_in_its_segment_is_named(log: SqliteLog, author: Historian, path: Path) -> None:
    await with_a_past(log, author)
    with raw(path) as db:
        content = db.execute("SELECT content FROM body_segments WHERE first_idx = 0").fetchone()[0]
        bodies = unpack(0, 255, CODEC, content)
        bodies[7] = (bodies[7][0], b'{"n":8}')
        db.execute("UPDATE body_segments SET bodies = 255, content = ? WHERE first_idx = 0", (pack(bodies),))
    report = await sqlite.verify(path, ORIGIN, [KEY])
    assert [str(finding) for finding in report.findings] == ["event 7: the body is not the one that the leaf binds"]


async def with_segments(path: Path, statement: str, *values: Any) -> list[str]:
    """What the audit says once somebody has changed segments; no trigger is in force while he does."""
    with raw(path) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        db.execute(statement, values)
        for _, trigger in triggers:
            db.execute(trigger)
    report = await sqlite.verify(path, ORIGIN, [KEY])
    return [*map(str, report.findings), *report.notes]


async def test_a_body_in_a_segment_of_other_events_takes_no_bodys_place(
    log: SqliteLog, author: Historian, path: Path
) -> None:
    await with_a_past(log, author)
    with raw(path) as db:
        content = db.execute("SELECT content FROM body_segments WHERE first_idx = 256").fetchone()[0]
    bodies = unpack(256, 511, CODEC, content)
    bodies.pop(max(bodies))
    change = "UPDATE body_segments SET content = ? WHERE first_idx = 256"
    said = await with_segments(path, change, pack({**bodies, 7: (bytes(16), b'{"n":8}')}))
    assert "event 257: its body is gone, and no prune event took it" in said
    with pytest.raises(LogBroken, match="from event 256 on is damaged: it has a body of event 7"):
        await all_of(log.records())


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "INSERT INTO body_segments SELECT log_id, 9, 9, newest, 0, codec, content FROM body_segments LIMIT 1",
            "event 9: its body is in two segments",
        ),
        ("UPDATE body_segments SET last_idx = 9999 WHERE first_idx = 256", "event 256: a segment of bodies from here"),
        ("UPDATE body_segments SET newest = '9' WHERE first_idx = 256", "event 511: the segment of bodies up to here"),
        ("UPDATE body_segments SET newest = ''", "segments of bodies that say they are older than an event of theirs"),
    ],
)
async def test_what_a_segment_says_of_itself_is_held_against_the_events(
    log: SqliteLog, author: Historian, path: Path, statement: str, words: str
) -> None:
    await with_a_past(log, author)
    assert words in "; ".join(await with_segments(path, statement))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (bytes(2 * MAX_SEGMENT_BYTES), "more bytes than any segment"),
        (b"\x00\x0f\xff\xff" + bytes(0x0FFFFF * 13), "1048575 bodies"),  # all of them of event 0, and empty
    ],
    ids=["bytes", "heads"],
)
async def test_a_segment_that_would_take_all_memory_is_damaged(
    log: SqliteLog, author: Historian, path: Path, content: bytes, why: str
) -> None:
    await with_a_past(log, author)
    with raw(path) as db:
        db.execute("UPDATE body_segments SET bodies = 255, content = ? WHERE first_idx = 0", (zlib.compress(content),))
    with pytest.raises(LogBroken, match=why):
        await all_of(log.records())
    report = await sqlite.verify(path, ORIGIN, [KEY])
    assert str(report.findings[0]) == "event 0: its body is gone, and no prune event took it"


async def test_what_could_not_be_read_out_of_a_segment_stays_single(
    log: SqliteLog, author: Historian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bodies, "MAX_SEGMENT_BYTES", 2 * SEGMENT_BYTES)
    await log.append(author.decided(body=b'"%s"' % bytes(2 * SEGMENT_BYTES)))
    assert not await log.bodies.compress(LIMIT, TODAY)
    assert len((await BodiesContract.texts(log))[0]) > 2 * SEGMENT_BYTES


async def test_a_file_that_a_stranger_has_locked_is_pruned_later(log: SqliteLog, author: Historian, path: Path) -> None:
    await with_a_past(log, author)
    with raw(path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="locked"):
            await log.bodies.forget([Quiet("acme", "s-1", 300)])
        db.execute("ROLLBACK")
    assert isinstance(await log.append(author.decided()), Receipt)
    assert await log.bodies.forget([Quiet("acme", "s-1", 300)]) == 100


async def test_a_full_disk_stops_compression_and_loses_nothing(log: SqliteLog, author: Historian, path: Path) -> None:
    for n in range(256):  # nothing that compresses well: a segment needs new pages
        await log.append(author.decided(body=b'"%s"' % random.Random(n).randbytes(200).hex().encode()))
    await log.integrate()

    def fill(store: SqliteStore) -> None:
        store._db.set_authorizer(None)
        store._db.execute("PRAGMA max_page_count = 1")

    def make_room(store: SqliteStore) -> None:
        store._db.set_authorizer(None)
        store._db.execute("PRAGMA max_page_count = 1000000")

    before = await BodiesContract.texts(log)
    await log._writer.call(fill)
    with pytest.raises(LogUnavailable, match="full"):
        await log.bodies.compress(LIMIT, TODAY)
    assert await BodiesContract.texts(log) == before
    assert (await sqlite.verify(path, ORIGIN, [KEY])).ok
    await log._writer.call(make_room)
    assert await log.bodies.compress(LIMIT, TODAY)
    assert await BodiesContract.texts(log) == before


async def test_a_process_that_is_killed_in_the_middle_leaves_what_the_next_one_ends(
    path: Path, processes: ForkServerContext
) -> None:
    """kill -9 between the event and the deletion, in the middle of it, in the middle of a compression."""
    for wait_s in (0, 0.002, 0.005, 0.01, 0.03, 0.05):
        ours, theirs = processes.Pipe()
        child = processes.Process(target=crash_child.prune_until_killed, args=(str(path), theirs))
        child.start()
        for _ in range(2):
            await asyncio.to_thread(ours.recv)
        await asyncio.sleep(wait_s)  # somewhere in what follows the event
        child.kill()
        child.join()
        report = await sqlite.verify(path, ORIGIN, [KEY])
        assert report.findings == []
        log = await SqliteLog.open(path, SIGNER, ORIGIN)
        await log.bodies.forget(await log.bodies.pruned_lately(100))
        assert [await log.bodies.count(quiet) for quiet in await log.bodies.pruned_lately(100)].count(0) >= 2
        await log.aclose()
        report = await sqlite.verify(path, ORIGIN, [KEY])
        assert (report.findings, [note for note in report.notes if "body is there" in note]) == ([], [])


async def test_a_log_of_version_2_is_brought_up_to_date(path: Path, author: Historian) -> None:
    log = await SqliteLog.open(path, SIGNER, ORIGIN)
    await BodiesContract.fill(log, author, 20)
    await log.aclose()
    with raw(path) as db:
        db.execute("DROP TRIGGER bodies_delete")
        before_stretches(db)
        for table in (*NEW_IN[3], *NEW_IN[4]):
            db.execute(f"DROP TABLE {table.name}")
        db.execute("PRAGMA user_version = 2")
    log = await SqliteLog.open(path, SIGNER, ORIGIN)
    with raw(path) as db, pytest.raises(sqlite3.IntegrityError, match="by a prune event"):
        db.execute("DELETE FROM bodies")
    assert await BodiesContract.prune(log, author, Quiet("acme", "s-1", 17)) == 5
    await log.aclose()
    assert (await sqlite.verify(path, ORIGIN, [KEY])).ok


# --- PostgreSQL -----------------------------------------------------------------------------------------------


def connected(server: PostgresServer, database: str, role: str | None) -> Any:
    return PostgresLog.open(
        server.url(database, GATEWAY),
        SIGNER,
        ORIGIN,
        retention_url=None if role is None else server.url(database, role),
        checkpoint_every_s=3600,
    )


async def test_without_a_role_for_it_nothing_is_deleted(guarded: PostgresServer, guarded_database: str) -> None:
    author = Historian().then(LONG_AGO)
    async with opener(lambda: connected(guarded, guarded_database, None))() as log:
        assert "AGENTGATE_RETENTION_DATABASE_URL" in log.bodies.refusal
        await BodiesContract.fill(log, author, 300)
        await log.append(author.pruned("s-1", 297))
        with pytest.raises(LogUnavailable, match="no role may delete"):
            await log.bodies.forget([Quiet("acme", "s-1", 297)])
        with pytest.raises(LogUnavailable, match="no role may delete"):
            await log.bodies.compress(LIMIT, TODAY)
        assert await log.bodies.count(Quiet("acme", "s-1", 297)) == 75


async def test_the_gateways_own_role_deletes_nothing(guarded: PostgresServer, guarded_database: str) -> None:
    author = Historian()
    async with opener(lambda: connected(guarded, guarded_database, GATEWAY))() as log:
        await BodiesContract.fill(log, author, 8)
        await log.append(author.pruned("s-1", 5))
        with pytest.raises(LogUnavailable, match="permission denied for table bodies"):
            await log.bodies.forget([Quiet("acme", "s-1", 5)])
        assert isinstance(await log.append(author.decided()), Receipt)


async def test_two_replicas_compress_and_prune_at_the_same_time(guarded: PostgresServer, guarded_database: str) -> None:
    author = Historian().then(LONG_AGO)
    whole = opener(lambda: connected(guarded, guarded_database, RETENTION))
    async with whole() as one, whole() as other:
        await BodiesContract.fill(one, author, 1_200, sessions=3)
        quiet = Quiet("acme", "s-1", 1_198)
        await one.append(author.pruned("s-1", quiet.last))

        async def compress(log: Any) -> None:
            for _ in range(8):
                await log.bodies.compress(LIMIT, TODAY)

        await asyncio.gather(compress(one), compress(other), one.bodies.forget([quiet]), other.bodies.forget([quiet]))
        await one.bodies.forget([quiet])
        assert set(await BodiesContract.texts(one)) == {n for n in range(1_201) if n % 3 != 1 or n == 1_200}
        kept = await one.bodies.kept()
        assert (kept.segments, kept.single + kept.compressed) == (4, 801)
    report = await postgresql.verify(guarded.url(guarded_database, READER), ORIGIN, [KEY])
    assert (report.findings, report.pruned) == ([], 400)


async def test_a_database_that_is_gone_is_an_outage_and_nothing_else(
    mortal: PostgresServer, mortal_database: str
) -> None:
    author = Historian()
    url = mortal.url(mortal_database)
    async with opener(lambda: PostgresLog.open(url, SIGNER, ORIGIN, retention_url=url))() as log:
        await BodiesContract.fill(log, author, 8)
        await log.append(author.pruned("s-1", 5))
        mortal.kill9()
        with pytest.raises(LogUnavailable):
            await log.bodies.forget([Quiet("acme", "s-1", 5)])
        mortal.start()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await log.bodies.forget([Quiet("acme", "s-1", 5)]) == 2
                    break
                except LogUnavailable:
                    await asyncio.sleep(0.1)
