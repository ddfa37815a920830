"""A SQLite log of an earlier version: what happens to it on the way, and what can be done to what the way makes."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.adapters.log._sqlite.earlier import NEW_IN
from agentgate.adapters.log._sqlite.upgrade import UPGRADES, upgrade
from agentgate.adapters.log.sqlite import SqliteLog, open_reader, verify
from agentgate.core.events.tools import OfTool
from agentgate.core.projection.tables import STRETCH_BITS
from agentgate.core.query import Query
from tests.adapters.log.test_sqlite import (
    KEY,
    SIGNER,
    before_answers,
    before_stretches,
    before_the_index_beside_calls,
    raw,
    tamper,
)
from tests.contracts.log import ORIGIN, Author, a_kill, all_of, append_all, opener

VERSIONS = (2, 3, 4, 5, 6)


def opened(path: Path) -> Any:
    return opener(lambda: SqliteLog.open(path, SIGNER, ORIGIN, checkpoint_every_s=3600))()


def make_older(db: sqlite3.Connection, version: int) -> None:
    """What that version left behind: it knew nothing of what came later."""
    if version >= 5:
        (before_answers if version == 5 else before_the_index_beside_calls)(db)
        return
    before_stretches(db)
    later = (*(NEW_IN[3] if version < 3 else ()), *(NEW_IN[4] if version < 4 else ()))
    for table in later:
        db.execute(f"DROP TABLE {table.name}")
    if version < 3:
        db.execute("DROP TRIGGER bodies_delete")
    db.execute(f"PRAGMA user_version = {version}")


async def a_log(path: Path, version: int) -> list[str]:
    """A log of `version`; the statements of a newest one, which it is to become."""
    author = Author()
    async with opened(path) as log:
        for number in range(40):
            await log.append(author.decided(f"s-{number % 3}"))
        await log.append(author.kill(a_kill("k-1", "s-9")))
        for approval in ("a-pending", "a-approved", "a-spent", "a-denied", "a-expired", "a-denied-at-its-end"):
            await log.append(author.requested(approval))
        for approval in ("a-approved", "a-spent"):
            await log.append(author.verdict(approval))
        await log.append(author.verdict("a-denied", "denied"))
        await log.append(author.decided("s-1", approval_id="a-spent"))
        await log.append(author.closed("a-expired"))
        await log.append(author.verdict("a-denied-at-its-end", "denied"))
        await log.append(author.closed("a-denied-at-its-end"))
        await log.integrate()
    with raw(path) as db:
        newest = shape(db)
        make_older(db, version)
    return newest


def shape(db: sqlite3.Connection) -> list[str]:
    return sorted(sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))


class Interrupted:
    """A connection that goes no further than so many statements."""

    def __init__(self, db: sqlite3.Connection, most: int, end: Callable[[], None]) -> None:
        self._db, self.left, self._end = db, most, end

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._db, name)
        if name not in ("execute", "executemany"):
            return method

        def run(statement: str, *rest: Any) -> Any:
            self.left -= 1
            if self.left < 0 and statement != "ROLLBACK":
                self._end()
            return method(statement, *rest)

        return run


def fail() -> None:
    raise sqlite3.OperationalError("database or disk is full")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def steps(path: Path, version: int) -> int:
    """How many statements the upgrade has; undone."""
    counted = Interrupted(sqlite3.connect(":memory:"), 10**6, fail)
    counted._db.isolation_level = None
    with raw(path) as db:
        db.backup(counted._db)
    upgrade(counted, version)  # type: ignore[arg-type]
    return 10**6 - counted.left


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("end", [fail, die])
async def test_an_upgrade_that_is_cut_off_anywhere_has_not_begun(path: Path, version: int, end: Any) -> None:
    newest = await a_log(path, version)
    with raw(path) as db:
        before = shape(db)
    for most in range(1, steps(path, version)):
        child = os.fork() if end is die else 0
        if child == 0:
            with raw(path) as db:
                if end is die:
                    upgrade(Interrupted(db, most, end), version)  # type: ignore[arg-type]
                    os._exit(0)
                with pytest.raises(sqlite3.OperationalError):
                    upgrade(Interrupted(db, most, end), version)  # type: ignore[arg-type]
        else:
            assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        with raw(path) as db:
            assert shape(db) == before
            assert db.execute("PRAGMA user_version").fetchone() == (version,)
    assert (await verify(path, ORIGIN, [KEY])).findings == []
    async with opened(path) as log:
        await log.append(Author("m-2").accepted("p-1"))
    with raw(path) as db:
        assert shape(db) == newest
    assert (await verify(path, ORIGIN, [KEY])).findings == []


def test_every_version_that_can_be_upgraded_is_tried() -> None:
    assert set(VERSIONS) == set(UPGRADES)


@pytest.mark.parametrize("version", [version for version in VERSIONS if version > 2])
async def test_who_reads_while_the_log_is_upgraded_reads_on(path: Path, version: int) -> None:
    await a_log(path, version)
    reader = open_reader(path)
    before = await all_of(reader.records(tenant="acme", session="s-1"))
    assert len(before) == 26
    async with opened(path) as log:
        await log.append(Author("m-2").decided("s-1"))
        after = await all_of(reader.records(tenant="acme", session="s-1"))
        assert after[:-1] == before
        assert await all_of(reader.search(Query(tenant="acme", session="s-1"))) == after
    await reader.aclose()


# --- sessions ---------------------------------------------------------------------------------------------


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 1 << STRETCH_BITS)), min_size=1, max_size=3))
async def test_pages_of_a_session_are_a_plain_scans_before_and_after_an_upgrade(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[str, int]]
) -> None:
    """Runs of events of one session after another, over the borders of stretches; cursors at every border."""
    path = tmp_path_factory.mktemp("log") / "log.db"
    author = Author()
    async with opened(path) as log:
        for session, count in runs:
            await append_all(log, [author.decided(f"s-{session}") for _ in range(count)])
    with raw(path) as db:
        scan = db.execute("SELECT session, idx FROM events ORDER BY idx").fetchall()
        before_stretches(db)
    for is_upgraded in (False, True):
        if is_upgraded:
            async with opened(path):
                pass
        reader = open_reader(path)
        for session in ("s-a", "s-b", "s-c"):
            expected = [index for found, index in scan if found == session]
            for newest in (False, True):
                query = Query(tenant="acme", session=session)
                found = [record.index async for record in reader.search(query, newest=newest)]
                assert found == (expected[::-1] if newest else expected)
            for border in {0, *(at << STRETCH_BITS for at in range(1, (len(scan) >> STRETCH_BITS) + 1)), len(scan) - 1}:
                found = [r.index async for r in reader.records(first=border, tenant="acme", session=session)]
                assert found == [index for index in expected if index >= border]
        await reader.aclose()
    assert (await verify(path, ORIGIN, [KEY])).findings == []


# --- tampering --------------------------------------------------------------------------------------------

WRITE = OfTool("files", "write", "files__write")


class TestTampering:
    ROWS: ClassVar[dict[str, str]] = {
        "a definition": "UPDATE pins SET definition = replace(definition, 'p-1', 'p-9') WHERE tool = 'read'",
        "a pin": "UPDATE pins SET pin = 'p-9' WHERE tool = 'read'",
        "a name": "UPDATE pins SET name = 'files__write' WHERE tool = 'read'",
        "a state": "UPDATE pins SET state = 'accepted', found = '', found_definition = NULL WHERE tool = 'write'",
        "an access": "UPDATE pins SET access = 'read' WHERE tool = 'read'",
        "who was trusted": "UPDATE pins SET trust = 'first_use', actor = '' WHERE tool = 'read'",
        "when": "UPDATE pins SET at = '2020-01-01T00:00:00.000Z' WHERE tool = 'read'",
        "by which event": "UPDATE pins SET idx = 0 WHERE tool = 'write'",
        "what was found": "UPDATE pins SET found_definition = '{}' WHERE tool = 'write'",
        "a pin deleted": "DELETE FROM pins WHERE tool = 'write'",
        "all pins deleted": "DELETE FROM pins",
        "a pin inserted": "INSERT INTO pins SELECT log_id, server, 'more', 'files__more', state, pin, definition,"
        " access, trust, found, found_definition, actor, at, idx FROM pins WHERE tool = 'read'",
        "a pin moved": "UPDATE pins SET server = 'other' WHERE tool = 'read'",
        "a stretch moved": "UPDATE stretches SET stretch = 1",
        "a stretch of another tenant": "UPDATE stretches SET tenant = 'other'",
        "a stretch deleted": "DELETE FROM stretches",
        "a stretch inserted": "INSERT INTO stretches VALUES ('0', 'acme', 's-1', 3)",
        "a first use forgotten": "DELETE FROM spent",
    }

    @pytest.mark.parametrize("what", ROWS)
    async def test_verify_finds_what_was_done_to_pins_and_stretches(self, path: Path, what: str) -> None:
        author = Author()
        async with opened(path) as log:
            await log.append(author.accepted("p-1"))
            await log.append(author.accepted("p-2", of=WRITE, trust="first_use"))
            await log.append(author.quarantined("p-2", "p-3", 1, of=WRITE))
            await log.append(author.decided("s-1"))
        assert (await verify(path, ORIGIN, [KEY])).findings == []
        tamper(path, self.ROWS[what])
        report = await verify(path, ORIGIN, [KEY])
        assert report.findings
        word = "spent" if "first use" in what else "stretches" if "stretch" in what else "pins"
        assert word in str(report.findings[0]), report.findings
