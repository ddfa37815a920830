"""The schema of the log on PostgreSQL: append-only, who may do what, and how it is made."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner

from agentgate.adapters.log import _schema
from agentgate.adapters.log._postgres import migrate as migrating
from agentgate.adapters.log._postgres.bodies import PostgresBodies
from agentgate.adapters.log._postgres.connection import REVISION
from agentgate.adapters.log._postgres.migrate import migrate
from agentgate.adapters.log.postgresql import PostgresLog, verify
from agentgate.cli import cli
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from agentgate.core.event import Event
from agentgate.core.query import Query
from tests.adapters.log.conftest import GATEWAY, READER, RETENTION
from tests.adapters.log.test_postgresql import KEY, OTHER_SIGNER, SIGNER, replicas
from tests.contracts.bodies import LIMIT, LONG_AGO, TODAY, BodiesContract, Historian
from tests.contracts.log import ORIGIN, Author, a_kill, all_of
from tests.postgres_server import PostgresServer


async def three_events(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        for _ in range(3):
            await log.append(author.decided())
        await log.integrate()


# --- append-only, whoever asks ----------------------------------------------------------------------------

COLUMNS = "kind, tenant, session, 9 + idx, at, 0, leaf, leaf_hash"
REWRITES = [
    "UPDATE events SET leaf = ''::bytea WHERE idx = 0",
    "UPDATE events SET kill_position = 7",
    "DELETE FROM events WHERE idx = 1",
    "DELETE FROM events",
    "TRUNCATE events",
    "TRUNCATE events, bodies, checkpoints, head CASCADE",
    f"INSERT INTO events SELECT log_id, 9, 'x', {COLUMNS} FROM events LIMIT 1",
    f"INSERT INTO events SELECT log_id, -1, 'x', {COLUMNS} FROM events LIMIT 1",
    f"INSERT INTO events SELECT log_id, 2 + idx * 2, 'x' || idx, {COLUMNS} FROM events WHERE idx > 0",
    f"INSERT INTO events SELECT 'another', 1, 'x', {COLUMNS} FROM events LIMIT 1",
    "INSERT INTO events SELECT * FROM events WHERE idx = 0 ON CONFLICT (log_id, idx) DO UPDATE SET leaf = ''::bytea",
    "UPDATE bodies SET body = ''::bytea",
    "TRUNCATE bodies",
    "UPDATE checkpoints SET note = ''::bytea",
    "DELETE FROM checkpoints",
    "TRUNCATE checkpoints",
    "INSERT INTO checkpoints SELECT log_id, 2, root, note, frontier FROM checkpoints",
    "INSERT INTO checkpoints SELECT log_id, 99, root, note, frontier FROM checkpoints",
    "DELETE FROM head",
    "TRUNCATE head",
    "UPDATE subtrees SET hash = ''::bytea",
    "DELETE FROM subtrees",
    "TRUNCATE subtrees",
    "INSERT INTO subtrees VALUES ('0', 1, 1, ''::bytea)",
    "INSERT INTO subtrees SELECT '0', 1, n * 2, ''::bytea FROM generate_series(0, 1) n",
    "UPDATE identity SET public_key = ''::bytea",
    "DELETE FROM identity",
]


async def test_nobody_rewrites_the_log(postgres: PostgresServer, database: str, url: str, author: Author) -> None:
    await three_events(url, author)
    for statement in REWRITES:
        with pytest.raises(RuntimeError, match="append-only|appended|only grow"):
            postgres.sql(statement, database=database)
    assert (await verify(url, ORIGIN, [KEY])).ok


async def test_no_temporary_table_misleads_the_triggers(url: str, author: Author) -> None:
    await three_events(url, author)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TEMPORARY TABLE events (LIKE public.events)")
    with pytest.raises(asyncpg.RestrictViolationError, match="appended"):
        await connection.execute(
            f"INSERT INTO public.events SELECT log_id, 9, 'x', {COLUMNS} FROM public.events LIMIT 1"
        )
    await connection.close()


async def test_an_event_that_no_gateway_wrote_stops_the_log(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        for _ in range(6):
            await log.append(author.decided())
        connection = await asyncpg.connect(url)
        await connection.execute(f"INSERT INTO events SELECT log_id, 6, 'x', {COLUMNS} FROM events WHERE idx = 0")
        await connection.close()
        for _ in range(2):
            with pytest.raises(LogBroken, match="head row counts 6 events, and 7 are stored"):
                await log.append(author.decided())
        with pytest.raises(LogBroken):
            await log.kills_since(-1)
    with pytest.raises(LogBroken):
        await _open(url)


async def _open(url: str) -> None:
    log = await PostgresLog.open(url, SIGNER, ORIGIN)
    await log.aclose()


TAMPERINGS = [
    ("UPDATE events SET session_number = 99 WHERE idx = 4", 4),
    ("UPDATE bodies SET body = '{}'::bytea WHERE idx = 4", 4),
    ("DELETE FROM events WHERE idx = 4", 4),
    ("UPDATE head SET kill_position = 9", None),
    ("UPDATE members SET gone_idx = 3", 0),
    ("UPDATE checkpoints SET root = ''::bytea", 7),
]


async def test_verify_names_what_a_superuser_has_tampered_with(
    postgres: PostgresServer, database: str, url: str
) -> None:
    author = Author()
    async with replicas(url, 1) as (log,):
        for event in (author.joined(), author.decided(), author.decided(), author.kill(a_kill())):
            await log.append(event)
        for _ in range(4):
            await log.append(author.decided())
    for number, (statement, index) in enumerate(TAMPERINGS):
        copy = f"{database}_{number}"
        postgres.sql(f"CREATE DATABASE {copy} TEMPLATE {database}")
        postgres.sql(f"SET session_replication_role = replica; {statement}", database=copy)
        report = await verify(postgres.url(copy), ORIGIN, [KEY])
        assert report.findings, statement
        assert report.findings[0].index == index, statement


# --- roles ------------------------------------------------------------------------------------------------


OF_NOBODY = [
    "UPDATE events SET leaf = ''::bytea",
    "DELETE FROM events",
    "TRUNCATE events",
    "ALTER TABLE events DISABLE TRIGGER ALL",
    "DROP TRIGGER events_append_only ON events",
    "DROP TRIGGER events_next ON events",
    "DROP TABLE events",
    "ALTER TABLE events RENAME TO stolen",
    "CREATE OR REPLACE FUNCTION agentgate_refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$",
    "CREATE TABLE mine (a int)",
    "CREATE TEMPORARY TABLE events (a int)",
    "SET session_replication_role = replica",
    "SET ROLE agentgate_owner",
    "UPDATE checkpoints SET note = ''::bytea",
    "DELETE FROM checkpoints",
    "UPDATE bodies SET body = ''::bytea",
    "TRUNCATE bodies",
    "UPDATE identity SET public_key = ''::bytea",
    "DELETE FROM spent",
    "DELETE FROM sessions",
    "UPDATE sessions SET principal = 'agent:thief'",
    "DELETE FROM kills",
    "DELETE FROM body_segments",
    "TRUNCATE body_segments",
    "UPDATE body_segments SET newest = ''",
    "UPDATE holds SET session = 'another'",
    "DELETE FROM holds",
    "DELETE FROM prunes",
    "CREATE OR REPLACE FUNCTION agentgate_forget_body() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN OLD; END$$",
    "UPDATE agentgate_revision SET version_num = '9'",
]
CANNOT = {
    GATEWAY: [
        *OF_NOBODY,
        "DELETE FROM bodies",
        "INSERT INTO body_segments VALUES ('0', 0, 9, '', 0, 'zlib', '')",
        "UPDATE body_segments SET content = ''",
        "UPDATE kills SET position = 0",
        "UPDATE kills SET target = 'another'",
        "UPDATE approvals SET requested_by = 'agent:thief'",
        "UPDATE members SET joined_idx = 0",
        "DELETE FROM members",
        "DELETE FROM head",
        "INSERT INTO head VALUES ('1', 0, 0, 0)",
        "UPDATE acks SET position = 9",
    ],
    READER: [
        *OF_NOBODY,
        "DELETE FROM bodies",
        "INSERT INTO events SELECT * FROM events",
        "INSERT INTO checkpoints SELECT * FROM checkpoints",
        "UPDATE head SET kill_position = 0",
        "SELECT FROM head FOR UPDATE",
        "INSERT INTO kills SELECT * FROM kills",
        "UPDATE beats SET beat = 0",
    ],
    RETENTION: [
        *OF_NOBODY,
        "SELECT * FROM events",
        "SELECT body FROM bodies",
        "INSERT INTO bodies VALUES ('0', 9, '', '')",
        "SELECT content FROM body_segments",
        "SELECT * FROM holds",
        "INSERT INTO prunes VALUES ('0', 'acme', 's-1', 99, 0)",
        "UPDATE prunes SET through = 99",
        "UPDATE head SET kill_position = 0",
    ],
}


@pytest.mark.parametrize("role", CANNOT)
async def test_a_role_cannot_do_what_is_not_its_task(guarded: PostgresServer, guarded_database: str, role: str) -> None:
    connection = await asyncpg.connect(guarded.url(guarded_database, role))
    for statement in CANNOT[role]:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_retention_forgets_bodies_that_were_pruned_and_no_others(
    guarded: PostgresServer, guarded_database: str
) -> None:
    author = Historian()
    async with replicas(guarded.url(guarded_database, GATEWAY), 1) as (log,):
        for _ in range(3):
            await log.append(author.decided())
        await log.append(author.pruned("s-1", 1))
        with pytest.raises(RuntimeError, match="a body goes by a prune event, or into a segment"):
            guarded.sql("DELETE FROM bodies WHERE log_id = '0' AND idx = 2", database=guarded_database, user=RETENTION)
        guarded.sql("DELETE FROM bodies WHERE log_id = '0' AND idx < 2", database=guarded_database, user=RETENTION)
        assert [record.body is None for record in await all_of(log.records())] == [True, True, False, False]
    report = await verify(guarded.url(guarded_database, READER), ORIGIN, [KEY])
    assert (report.findings, report.pruned) == ([], 2)


# --- migrations -------------------------------------------------------------------------------------------

UPGRADES = [f"upgraded to revision {number}" for number in ("0001", "0002", "0003", "0004", "0005")]


@pytest.fixture
def empty(postgres: PostgresServer, database: str) -> str:
    """The URL of a database without a log."""
    postgres.sql(f"CREATE DATABASE {database}_empty")
    return postgres.url(f"{database}_empty")


async def differences(url: str) -> list[object]:
    """What the tables in the database and those that the code knows do not have in common."""

    def compare(connection: Connection) -> list[object]:
        options = {"version_table": migrating.VERSION_TABLE, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), _schema.metadata))

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    async with engine.connect() as connection:
        found = await connection.run_sync(compare)
    await engine.dispose()
    return found


async def test_migrations_lead_to_the_schema_of_the_code_forward_back_and_forward(empty: str, author: Author) -> None:
    assert await migrate(empty) == UPGRADES
    assert await differences(empty) == []
    assert await migrate(empty) == []
    assert await migrate(empty, to="base") == [
        f"went back from revision {number}" for number in ("0005", "0004", "0003", "0002", "0001")
    ]
    connection = await asyncpg.connect(empty)
    left = "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public'"
    functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'agentgate%'"
    assert {row[0] for row in await connection.fetch(left)} <= {"agentgate_revision", "agentgate_revision_pkc"}
    assert await connection.fetchval(functions) == 0
    await connection.close()
    assert await migrate(empty, to="0001") == ["upgraded to revision 0001"]
    assert await migrate(empty) == UPGRADES[1:]
    await three_events(empty, author)


@pytest.mark.parametrize("kind", ["holds", "prunes", "body segments"])
async def test_what_an_earlier_version_would_not_know_keeps_it_from_coming_back(url: str, kind: str) -> None:
    author = Historian().then(LONG_AGO)
    async with replicas(url, 1) as (log,):
        await BodiesContract.fill(log, author, 256)
        if kind == "body segments":
            bodies = PostgresBodies(url, log._far.ask, "0")
            assert await bodies.compress(LIMIT, TODAY)
            await bodies.aclose()
        else:
            await log.append(author.held("h-1") if kind == "holds" else author.pruned("s-1", 9))
    with pytest.raises(UnsafeConfiguration, match=f"there are {kind}, of which revision 0001 knows nothing"):
        await migrate(url, to="0001")


async def test_pins_keep_revision_0002_from_coming_back(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        await log.append(author.accepted("p-1"))
    with pytest.raises(UnsafeConfiguration, match="there are pins of tools, of which revision 0002 knows nothing"):
        await migrate(url, to="0002")


@pytest.mark.parametrize(
    ("what", "event"),
    [("votes of several people", Author().vote("a-1", 1, "person:a")), ("answers", Author().answered("k-1"))],
)
async def test_what_revision_0003_would_not_know_keeps_it_from_coming_back(url: str, what: str, event: Event) -> None:
    async with replicas(url, 1) as (log,):
        await log.append(event)
    with pytest.raises(UnsafeConfiguration, match=f"there are {what}, of which revision 0003 knows nothing"):
        await migrate(url, to="0003")


async def test_approvals_of_revision_0003_are_what_the_events_say(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        await log.append(author.kill(a_kill()))
        for approval in ("a-pending", "a-approved", "a-denied", "a-expired", "a-denied-at-its-end"):
            await log.append(author.requested(approval))
        await log.append(author.verdict("a-approved"))
        await log.append(author.verdict("a-denied", "denied"))
        await log.append(author.closed("a-expired"))
        await log.append(author.verdict("a-denied-at-its-end", "denied"))
        await log.append(author.closed("a-denied-at-its-end"))
    await migrate(url, to="0003")
    await migrate(url)
    async with replicas(url, 1) as (log,):
        found = {row["id"]: (row["votes"], row["position"], row["idx"]) for row in await log.projection("approvals")}
    late = {"a-denied-at-its-end": (0, 1, 5)}
    old = {"a-pending": (0, 1, 1), "a-approved": (1, 1, 2), "a-denied": (0, 1, 3), "a-expired": (0, 1, 4)}
    assert found == old | late
    assert (await verify(url, ORIGIN, [KEY])).findings == []


async def test_a_gateway_of_revision_0003_that_runs_on_can_approve_nothing(url: str, author: Author) -> None:
    """It knows of no quorum and counts no votes, and its connections are those from before the migration."""
    async with replicas(url, 1) as (log,):
        await log.append(author.requested("a-1"))
    as_before = "UPDATE approvals SET state = 'approved', decided_by = 'person:a', token_sha256 = 'f' WHERE id = 'a-1'"
    connection = await asyncpg.connect(url)
    try:
        with pytest.raises(asyncpg.CheckViolationError, match="approvals_quorum"):
            await connection.execute(as_before)
    finally:
        await connection.close()


async def test_a_log_of_the_first_revision_gets_the_hashes_of_its_upper_tiles(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        await asyncio.gather(*(log.append(author.decided()) for _ in range(600)))
        await log.integrate()
        hashes = await log.hashes(1, 0, 256)
    await migrate(url, to="0001")
    await migrate(url)
    async with replicas(url, 1) as (log,):
        assert await log.hashes(1, 0, 256) == hashes
        assert len(hashes) == 2
        await asyncio.gather(*(log.append(author.decided()) for _ in range(200)))
        await log.integrate()
        assert len(await log.hashes(1, 0, 256)) == 3
    assert (await verify(url, ORIGIN, [KEY])).findings == []


async def test_a_log_with_a_second_key_does_not_go_back_to_a_revision_that_knows_one(url: str, author: Author) -> None:
    await three_events(url, author)
    log = await PostgresLog.open(url, OTHER_SIGNER, ORIGIN, former_keys=(KEY,))
    await log.aclose()
    with pytest.raises(UnsafeConfiguration, match="more than one key"):
        await migrate(url, to="0001")


def test_the_code_is_at_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrating._SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


async def test_a_log_is_not_destroyed_by_going_back_unless_that_is_said(url: str, author: Author) -> None:
    await three_events(url, author)
    with pytest.raises(UnsafeConfiguration, match="3 events.*--drop-events"):
        await migrate(url, to="base")
    assert (await verify(url, ORIGIN, [KEY])).size == 3
    await migrate(url, to="base", drop_events=True)
    with pytest.raises(UnsafeConfiguration, match="agentgate log migrate"):
        await verify(url, ORIGIN, [KEY])


async def test_two_migrations_at_once_are_one_after_the_other(empty: str) -> None:
    done = sorted(await asyncio.gather(*(migrate(empty) for _ in range(3))))
    assert done == [[], [], UPGRADES]


async def test_a_missing_or_another_schema_is_refused_with_the_command_that_helps(
    postgres: PostgresServer, empty: str, url: str, database: str
) -> None:
    with pytest.raises(UnsafeConfiguration, match="no log yet.*agentgate log migrate --database-url"):
        await _open(empty)
    postgres.sql("UPDATE agentgate_revision SET version_num = '9999'", database=database)
    with pytest.raises(UnsafeConfiguration, match="revision 9999.*agentgate log migrate"):
        await _open(url)


async def test_an_unknown_revision_and_an_unreachable_database_are_said(empty: str) -> None:
    with pytest.raises(UnsafeConfiguration, match="'7'"):
        await migrate(empty, to="7")
    with pytest.raises(LogUnavailable, match=r"u:\*\*\*@"):
        await migrate("postgresql://u:secret@127.0.0.1:1/x")


def test_the_command_migrates_and_verifies(empty: str, tmp_path: Path) -> None:
    run = CliRunner().invoke
    first = run(cli, ["log", "migrate", "--database-url", empty])
    again = run(cli, ["log", "migrate", "--database-url", empty])
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    back = run(cli, ["log", "migrate", "--database-url", empty, "--to", "base"])
    assert back.exit_code == 0
    sqlite = run(cli, ["log", "migrate", "--database-url", f"sqlite:///{tmp_path}/log.db"])
    assert sqlite.exit_code == 3


async def test_nobody_takes_the_rows_that_a_policy_leaves_for_the_log(
    guarded: PostgresServer, guarded_database: str
) -> None:
    """The owner may have row-level security hide an event from the gateways, and show it to who verifies."""
    author = Historian()
    async with replicas(guarded.url(guarded_database, GATEWAY), 1) as (log,):
        for _ in range(3):
            await log.append(author.decided())
        await log.integrate()
        assert (await verify(guarded.url(guarded_database, READER), ORIGIN, [KEY])).ok
        guarded.sql(
            "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY theirs ON events TO {READER} USING (true)",
            f"CREATE POLICY ours ON events TO {GATEWAY} USING (idx <> 1) WITH CHECK (true)",
            database=guarded_database,
            user="agentgate_owner",
        )
        with pytest.raises(LogUnavailable, match="row-level security"):
            await all_of(log.search(Query(tenant="acme")))
        with pytest.raises(LogUnavailable, match="row-level security"):
            await verify(guarded.url(guarded_database, READER), ORIGIN, [KEY])
        report = await verify(guarded.url(guarded_database), ORIGIN, [KEY])  # as a superuser, who is shown all rows
        assert "events has row-level security" in str(report.findings[0])
        guarded.sql("ALTER TABLE events DISABLE ROW LEVEL SECURITY", database=guarded_database, user="agentgate_owner")
