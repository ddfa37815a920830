"""What `agentgate log verify` says to somebody who has the database in his hands, and with it all but the log's key.

Two hands: one changes rows with a SQL tool, the other knows the schema and writes the whole database anew around his
change, so that every hash, number, position and table fits. The first is named by what does not fit, the second by the
checkpoint that was signed before, and by its absence where it was taken away. Who has even the key is named by a
checkpoint that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgate.adapters.log._sqlite.ddl import TRIGGERS
from agentgate.adapters.log.sqlite import SqliteLog, verify
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.audit.report import Report
from agentgate.core.errors import LogBroken
from agentgate.core.event import Event
from agentgate.core.note import NoteKey
from tests.contracts.log import ORIGIN, START, Author

SIGNER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
THIEF = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
KEY = NoteKey(ORIGIN, SIGNER.public_key)
YESTERDAY, TODAY = 6, 12
PLACE = 4
"""The event that everything is done to."""


async def write(path: Path, events: Iterable[Event], signer: Ed25519Signer = SIGNER) -> bytes:
    """A log of these events; its checkpoint."""
    log = await SqliteLog.open(path, signer, ORIGIN, checkpoint_every_s=3600)
    try:
        for event in events:
            await log.append(event)
        await log.integrate()
        note = await log.checkpoint()
        assert note is not None
        return note
    finally:
        await log.aclose()


@dataclass
class Case:
    """A log of today, what it was yesterday, and what somebody does to it."""

    path: Path
    yesterday: Path
    events: list[Event]
    kept: tuple[bytes, ...] = ()

    @property
    def beside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.checkpoint")

    async def report(self) -> Report:
        return await verify(self.path, ORIGIN, [KEY], kept=self.kept)

    def sql(self, statements: str) -> None:
        """Triggers off, change, triggers on."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.create_function("leaf_hash", 1, lambda leaf: hashlib.sha256(b"\0" + leaf).digest())
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {name}")
            for statement in statements.split(";"):
                db.execute(statement)
            for trigger in TRIGGERS:
                db.execute(trigger)

    async def anew(self, events: list[Event], signer: Ed25519Signer = THIEF, *, keep_checkpoints: bool = True) -> None:
        """The database written anew, with the checkpoints that were signed in it, as far as they go."""
        forged = self.path.with_name("forged.db")
        await write(forged, events, signer)
        if keep_checkpoints:
            with closing(sqlite3.connect(forged, isolation_level=None)) as db:
                db.execute("ATTACH ? AS honest", (str(self.path),))
                for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                    db.execute(f"DROP TRIGGER {name}")
                db.execute("DELETE FROM main.checkpoints")
                db.execute("INSERT INTO main.checkpoints SELECT * FROM honest.checkpoints")
        shutil.copy(forged, self.path)


@pytest.fixture
async def case(tmp_path: Path) -> Case:
    author = Author()
    moments = [START + timedelta(hours=n) for n in range(TODAY - 1)]
    events = [author.joined(), *(author.decided(f"s-{n % 2}", moment=at) for n, at in enumerate(moments))]
    path = tmp_path / "data" / "log.db"
    early = await write(path, events[:YESTERDAY])
    yesterday = tmp_path / "yesterday.db"
    shutil.copy(path, yesterday)
    await write(path, events[YESTERDAY:])
    found = Case(path, yesterday, events, (early,))
    report = await found.report()
    assert (report.findings, report.size) == ([], TODAY)
    return found


def instead(event: Event) -> Event:
    """Another event with the same number of the same member."""
    author = Author()
    author._counter = event.fields["counter"] - 1
    return author.decided(session=event.session, verdict="DENY")


SIGNED = "are not those that were signed"
EDITED = "replace(CAST(leaf AS TEXT), 'agent:bot', 'agent:bob')"

Attack = Callable[[Case], Awaitable[None]]


def disguised(index: str, out: str) -> Attack:
    """An index that leaves something out, with the text of the one that does not: what goes by it is shown less."""

    async def attack(case: Case) -> None:
        with closing(sqlite3.connect(case.path, isolation_level=None)) as db:
            (text,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (index,)).fetchone()
            db.execute(f"DROP INDEX {index}")
            db.execute(f"{text} AND {out}")
            db.execute("PRAGMA writable_schema=ON")
            db.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (text, index))
            db.execute("PRAGMA writable_schema=RESET")

    return attack


def planted(kind: str, name: str) -> Attack:
    """A trigger under a type or a name that SQLite would not make it with, and takes all the same."""
    text = f"CREATE TRIGGER {name} BEFORE INSERT ON kills BEGIN SELECT RAISE(IGNORE); END"
    row = f"INSERT INTO sqlite_master VALUES ('{kind}', '{name}', 'kills', 0, '{text}')"
    return by_script(f"PRAGMA writable_schema=ON; {row}; PRAGMA writable_schema=RESET")


def by_script(statements: str) -> Attack:
    """With nothing put back."""

    async def attack(case: Case) -> None:
        with closing(sqlite3.connect(case.path)) as db:
            db.executescript(statements)

    return attack


def by_sql(statements: str) -> Attack:
    async def attack(case: Case) -> None:
        case.sql(statements)

    return attack


def anew(change: Callable[[list[Event]], list[Event]]) -> Attack:
    async def attack(case: Case) -> None:
        await case.anew(change(case.events))

    return attack


async def rewrite_without_checkpoints(case: Case) -> None:
    """And nothing beside the database or elsewhere that would say so."""
    await case.anew([*case.events[:PLACE], instead(case.events[PLACE]), *case.events[PLACE + 1 :]])
    case.sql("DELETE FROM checkpoints")
    case.beside.unlink()
    case.kept = ()


async def rewrite_what_the_oldest_checkpoint_leaves(case: Case) -> None:
    """It is left alone, and put beside the database as if it were the newest."""
    await case.anew([*case.events[:YESTERDAY], instead(case.events[YESTERDAY]), *case.events[YESTERDAY + 1 :]])
    case.sql(f"DELETE FROM checkpoints WHERE size > {YESTERDAY}")
    case.beside.write_bytes(*case.kept)


async def cut_with_its_checkpoints(case: Case) -> None:
    await case.anew(case.events[:10])
    case.sql("DELETE FROM checkpoints WHERE size > 10")


async def restore_yesterday(case: Case) -> None:
    shutil.copy(case.yesterday, case.path)


async def resign(case: Case) -> None:
    await case.anew(case.events, keep_checkpoints=False)


ROWS: dict[str, tuple[Attack, int, str]] = {
    "edited": (
        by_sql(f"UPDATE events SET leaf = CAST({EDITED} AS BLOB) WHERE idx = 4"), PLACE, "leaf_hash is not the leaf's"
    ),
    "edited, with its hash": (
        by_sql(
            f"UPDATE events SET leaf = CAST({EDITED} AS BLOB) WHERE idx = 4;"
            "UPDATE events SET leaf_hash = leaf_hash(leaf) WHERE idx = 4"
        ),
        PLACE, "in a session of",
    ),
    "edited, all anew": (anew(lambda e: [*e[:4], instead(e[4]), *e[5:]]), YESTERDAY - 1, SIGNED),
    "body edited": (
        by_sql("UPDATE bodies SET body = CAST(replace(CAST(body AS TEXT), '1', '2') AS BLOB) WHERE idx = 4"),
        PLACE, "the body is not the one that the leaf binds",
    ),
    "deleted": (by_sql("DELETE FROM events WHERE idx = 4"), PLACE, "missing: the next event stored is 5"),
    "deleted, all anew": (anew(lambda e: [*e[:4], *e[5:]]), YESTERDAY - 1, SIGNED),
    "inserted": (
        by_sql(
            "UPDATE events SET idx = idx + 100 WHERE idx >= 4; UPDATE events SET idx = idx - 99 WHERE idx >= 104;"
            "INSERT INTO events SELECT log_id, 4, 'made-up', kind, tenant, session, 99, at, kill_position,"
            " leaf, leaf_hash FROM events WHERE idx = 3; UPDATE head SET size = size + 1"
        ),
        PLACE, "the leaf says another event_id than the column",
    ),
    "inserted, all anew": (anew(lambda e: [*e[:4], instead(e[4]), *e[4:]]), YESTERDAY - 1, SIGNED),
    "swapped": (
        by_sql(
            "UPDATE events SET idx = 99 WHERE idx = 4; UPDATE events SET idx = 4 WHERE idx = 6;"
            "UPDATE events SET idx = 6 WHERE idx = 99"
        ),
        PLACE, "session_number is 3, not 2",
    ),
    "swapped, all anew": (anew(lambda e: [*e[:4], e[5], e[4], *e[6:]]), YESTERDAY - 1, SIGNED),
    "cut": (by_sql("DELETE FROM events WHERE idx >= 10; UPDATE head SET size = 10"), 10, "has signed more events"),
    "cut, all anew": (anew(lambda e: e[:10]), 10, "has signed more events"),
    "cut, with its checkpoints": (
        cut_with_its_checkpoints, 10, "rolled back or cut: checkpoint 12 has signed more events than the 10 stored"
    ),
    "yesterday's row again": (
        by_sql(
            "INSERT INTO events SELECT log_id, 12, 'again', kind, tenant, session, 7, at, kill_position, leaf,"
            " leaf_hash FROM events WHERE idx = 4; UPDATE head SET size = 13"
        ),
        TODAY, "the leaf says another event_id than the column",
    ),
    "yesterday's database again": (
        restore_yesterday, YESTERDAY, "rolled back or cut: checkpoint 12 has signed more events than the 6 stored"
    ),
    "all anew, without checkpoints": (rewrite_without_checkpoints, 0, "not signed: no checkpoint is over any"),
    "all anew after the oldest checkpoint": (
        rewrite_what_the_oldest_checkpoint_leaves, YESTERDAY, "not signed: no checkpoint is over the last 6 events"
    ),
    "signed with another key": (resign, TODAY - 1, "checkpoint 12: no known key has signed this note"),
}  # fmt: skip


DISGUISES: dict[str, tuple[Attack, str]] = {
    "an index that leaves out what is beside calls": (
        disguised("events_beside_calls", "idx <> 0"), "events: row 1 missing from index events_beside_calls"
    ),
    "an index that leaves out a session's last call": (
        disguised("events_stretch", "idx <> 11"), "events: row 12 missing from index events_stretch"
    ),
    "an index that says so": (
        by_sql("DROP INDEX events_beside_calls; CREATE INDEX events_beside_calls ON events (idx) WHERE idx > 1"),
        "the index events_beside_calls is not made as a gateway makes it",
    ),
    "a view that can tell readers apart": (
        by_script(
            "DROP TRIGGER bodies_once; DROP TRIGGER bodies_update; DROP TRIGGER bodies_delete;"
            "ALTER TABLE bodies RENAME TO bodies_; CREATE VIEW bodies AS SELECT * FROM bodies_"
        ),
        "the schema has a view bodies that no gateway made",
    ),
    "no index": (by_sql("DROP INDEX events_beside_calls"), "the index events_beside_calls is missing"),
    "a trigger less": (by_script("DROP TRIGGER events_next"), "the trigger events_next is missing from the schema"),
    "a trigger more": (
        by_script("CREATE TRIGGER more AFTER INSERT ON kills BEGIN SELECT 1; END"),
        "the schema has a trigger more that no gateway made",
    ),
    "a trigger that is named as SQLite's own": (planted("trigger", "sqlite_more"), "has a trigger sqlite_more that no"),
    "a trigger in capitals": (planted("TRIGGER", "more"), "has a TRIGGER more that no gateway made"),
}  # fmt: skip


async def test_how_a_schema_is_laid_out_says_nothing(case: Case) -> None:
    """Earlier versions have broken their lines elsewhere."""
    laid_out = "UPDATE sqlite_master SET sql = replace(sql, char(10), '  ')"
    await by_script(f"PRAGMA writable_schema=ON; {laid_out}; PRAGMA writable_schema=RESET")(case)
    assert (await case.report()).ok


@pytest.mark.parametrize(("attack", "words"), DISGUISES.values(), ids=DISGUISES.keys())
async def test_what_shows_others_another_log_than_the_audit_is_named(case: Case, attack: Attack, words: str) -> None:
    await attack(case)
    report = await case.report()
    assert words in "; ".join(map(str, report.findings))


@pytest.mark.parametrize(("attack", "index", "words"), ROWS.values(), ids=ROWS.keys())
async def test_what_was_done_to_the_database_is_named(case: Case, attack: Attack, index: int, words: str) -> None:
    await attack(case)
    report = await case.report()
    assert not report.ok
    assert report.findings[0].index == index, report.findings
    assert any(finding.index == index and words in finding.what for finding in report.findings), report.findings


@pytest.mark.parametrize("attack", [rewrite_without_checkpoints, rewrite_what_the_oldest_checkpoint_leaves])
async def test_what_was_written_anew_without_checkpoints_is_signed_only_for_who_answers_for_it(
    case: Case, attack: Attack
) -> None:
    await attack(case)
    with pytest.raises(LogBroken, match="no checkpoint is over .*`agentgate log sign`"):
        await SqliteLog.open(case.path, SIGNER, ORIGIN)
    log = await SqliteLog.open(case.path, SIGNER, ORIGIN, is_vouched_for=True)
    await log.aclose()
    report = await case.report()
    assert (report.findings, report.notes, report.signed) == ([], [], TODAY)
    await (await SqliteLog.open(case.path, SIGNER, ORIGIN)).aclose()


async def test_who_has_even_the_logs_key_is_named_by_a_checkpoint_that_was_kept_elsewhere(case: Case) -> None:
    """The whole past written anew and signed truly, and no file beside the database: only who kept one knows."""
    await case.anew([*case.events[:4], instead(case.events[4]), *case.events[5:]], SIGNER, keep_checkpoints=False)
    case.beside.unlink()
    kept, case.kept = case.kept, ()
    assert (await case.report()).ok, "nothing in the database contradicts it"
    case.kept = kept
    report = await case.report()
    assert [finding.index for finding in report.findings] == [YESTERDAY - 1]
    assert "kept elsewhere" in report.findings[0].what
    assert "forked" in report.findings[0].what


async def test_a_checkpoint_of_another_log_is_none_of_ours(case: Case, tmp_path: Path) -> None:
    case.kept = (await write(tmp_path / "other" / "log.db", case.events[:3], THIEF), b"not even a note")
    report = await case.report()
    assert len(report.findings) == 2
    assert all("kept elsewhere" in finding.what for finding in report.findings)
