"""The log on PostgreSQL: the contract, replicas that share one log, and servers that are refused."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.sql.elements import ClauseElement

from agentgate.adapters.log._postgres import statements
from agentgate.adapters.log._postgres.connection import Connection
from agentgate.adapters.log.postgresql import PostgresLog, open_reader, verify
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.audit.report import Report
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from agentgate.core.note import NoteKey, open_checkpoint
from agentgate.ports.log import AlreadySpent, MemberGone
from tests.adapters.log import crash_child
from tests.adapters.log.conftest import GATEWAY, READER
from tests.adapters.log.crashes import one_crash
from tests.adapters.log.proxy import Pooler
from tests.contracts.log import ORIGIN, START, Author, LogContract, Opened, Searcher, a_kill, all_of, patient, receipts
from tests.postgres_server import PostgresServer

SIGNER = crash_child.SIGNER
KEY = NoteKey(ORIGIN, SIGNER.public_key)
OTHER_SIGNER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))


@asynccontextmanager
async def replicas(url: str, count: int, every_s: float = 3600) -> AsyncIterator[list[PostgresLog]]:
    """As many processes as share a log, in one."""
    async with AsyncExitStack() as stack:
        logs = [await PostgresLog.open(url, SIGNER, ORIGIN, checkpoint_every_s=every_s) for _ in range(count)]
        for log in logs:
            stack.push_async_callback(log.aclose)
        yield logs


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - the other side tells nobody
            await asyncio.sleep(0.01)


class TestPostgresLog(LogContract):
    """As the role that docs/operating.md gives to gateways, and verified as its reader; one log of several."""

    @pytest.fixture
    def opened(self, guarded: PostgresServer, guarded_log: str) -> Opened:
        url = guarded.url("agentgate", GATEWAY)
        return patient(lambda: PostgresLog.open(url, SIGNER, ORIGIN, guarded_log, checkpoint_every_s=3600))

    @pytest.fixture
    def audit(self, guarded: PostgresServer, guarded_log: str) -> Callable[[], Awaitable[Report]]:
        return lambda: verify(guarded.url("agentgate", READER), ORIGIN, [KEY], guarded_log)

    @pytest.fixture
    def beside(self, guarded: PostgresServer, guarded_log: str) -> Callable[[], Searcher]:
        return lambda: open_reader(guarded.url("agentgate", READER), guarded_log)

    @pytest.fixture
    def key(self) -> NoteKey:
        return KEY


# --- several replicas -------------------------------------------------------------------------------------


async def test_three_replicas_number_everything_without_gaps(url: str) -> None:
    async with replicas(url, 3) as logs:
        authors = [Author(f"m-{n}") for n in range(3)]

        async def one(log: PostgresLog, author: Author, task: int) -> list[Receipt]:
            found = []
            for n in range(15):
                kill = a_kill(f"k-{author.member}-{task}-{n}", "s-9")
                event = author.kill(kill) if n % 7 == 3 else author.decided(f"s-{n % 4}", by="agent:bot")
                found += receipts([await log.append(event)])
            return found

        await asyncio.gather(*(log.append(author.joined()) for log, author in zip(logs, authors, strict=True)))
        tasks = [one(log, author, task) for log, author in zip(logs, authors, strict=True) for task in range(4)]
        found = list(itertools.chain(*await asyncio.gather(*tasks)))

        assert sorted(receipt.index for receipt in found) == list(range(3, 3 + 12 * 15))
        kills = sorted(receipt.index for receipt in found if receipt.members)
        assert len(kills) == 12 * 2
        for receipt in found:
            assert receipt.kill_position == sum(index <= receipt.index for index in kills)
            assert receipt.members in ((), *itertools.permutations(("m-0", "m-1", "m-2")))
        states = [await log.kills_since(-1) for log in logs]
        assert states[0] == states[1] == states[2]
        assert [change.kill.position for change in states[0].kills] == list(range(1, len(kills) + 1))
        records = await all_of(logs[0].records())
        assert [record.index for record in records] == list(range(len(records)))
    report = await verify(url, ORIGIN, [KEY])
    assert report.findings == []


async def test_of_spends_in_three_replicas_exactly_one_wins(url: str) -> None:
    async with replicas(url, 3) as logs:
        for turn in range(10):
            outcomes = await asyncio.gather(
                *(
                    log.append(Author(f"m-{n}").decided(f"s-{n}-{turn}", idempotency_sha256=f"{turn:064x}"))
                    for n in range(5)
                    for log in logs
                )
            )
            assert Counter(type(outcome) for outcome in outcomes) == {Receipt: 1, AlreadySpent: 14}


async def test_a_session_opened_at_one_replica_is_foreign_at_the_next(url: str, author: Author) -> None:
    async with replicas(url, 2) as (one, two):
        for n in range(8):  # also while a replica believes itself alone
            assert isinstance(await one.append(author.decided(f"s-{n}", by="agent:bot")), Receipt)
        outcomes = [await two.append(author.decided(f"s-{n}", by="agent:thief")) for n in range(8)]
        assert not any(isinstance(outcome, Receipt) for outcome in outcomes)


async def test_a_member_declared_gone_by_one_replica_decides_nothing_at_another(url: str) -> None:
    one, two = Author("m-1"), Author("m-2")
    async with replicas(url, 2) as (log, other):
        await log.append(one.joined())
        await other.append(two.joined())
        for _ in range(8):  # now the other one has been alone for a while
            assert isinstance(await other.append(two.decided()), Receipt)
        await log.append(one.gone("m-2"))
        assert await other.append(two.decided()) == MemberGone("m-2")
        (receipt,) = receipts([await other.append(two.kill(a_kill()))])
        assert receipt.members == ("m-1", "m-2")


async def test_a_receipt_carries_the_kill_that_another_replica_gave(url: str, author: Author) -> None:
    async with replicas(url, 2) as (log, other):
        for n in range(1, 12):
            for _ in range(n):
                await log.append(author.decided())
            kill = a_kill(f"k-{n}")
            await other.append(author.kill(kill))
            (receipt,) = receipts([await log.append(author.decided())])
            assert receipt.kill_position == n
            assert (await log.kills_since(n - 1)).given()[0].id == kill.id


async def test_of_two_replicas_one_follows_the_log_at_a_time(url: str) -> None:
    async with replicas(url, 2) as (one, other):
        async with (
            one.bookmarks.turn("webhooks") as first,
            other.bookmarks.turn("webhooks") as second,
            other.bookmarks.turn("exports") as elsewhere,
        ):
            assert (first, second, elsewhere) == (True, False, True)
        await one.bookmarks.save("webhooks", 3)
        async with other.bookmarks.turn("webhooks") as now:
            assert now
        assert await other.bookmarks.load("webhooks") == 3


async def test_what_is_asked_on_a_kills_way_is_compiled_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_ = ClauseElement.compile

    def counted(statement: ClauseElement, *args: Any, **more: Any) -> Any:
        compiled.append(str(type(statement)))
        return compile_(statement, *args, **more)

    async with replicas(url, 1) as [log]:
        for position in (1, 2):
            await log.kills_since(position)
            await log.acknowledged(position)
            await log.projection("members", left_idx=None)
            await log.projection("kills", id=f"kill-{position}")
            monkeypatch.setattr(ClauseElement, "compile", counted)
    assert not compiled


async def test_heartbeats_are_heard_at_the_other_replica(url: str) -> None:
    one, two = Author("m-1"), Author("m-2")
    async with replicas(url, 2) as (log, other):
        await log.append(one.joined())
        await other.append(two.joined())
        before = await log.beat("m-1")
        await other.beat("m-2")
        await other.beat("m-2")
        after = await log.beat("m-1")
        assert (after["m-1"], after["m-2"]) == (before["m-1"] + 1, before["m-2"] + 2)


async def test_no_acknowledged_event_is_lost_when_replicas_are_killed(url: str, processes: ForkServerContext) -> None:
    acknowledged: dict[int, bytes] = {}
    is_over = asyncio.Event()
    writer = crash_child.append_to_postgres_until_killed
    async with replicas(url, 1, every_s=0.01) as (log,):

        async def survivor() -> None:
            author = crash_child.ChanceAuthor("m-survivor")
            while not is_over.is_set():
                event = author.decided("s-survivor")
                (receipt,) = receipts([await log.append(event)])
                assert acknowledged.setdefault(receipt.index, event.salt) == event.salt

        async def victims(first: int) -> None:
            for turn in range(3):
                after = 40 + 60 * first + 30 * turn
                for index, salt in await asyncio.to_thread(one_crash, writer, url, processes, after):
                    assert acknowledged.setdefault(index, salt) == salt, "one index was given twice"

        task = asyncio.create_task(survivor())
        await asyncio.gather(victims(0), victims(1))
        is_over.set()
        await task
    connection = await asyncpg.connect(url)
    stored = dict(await connection.fetch("SELECT idx, salt FROM bodies"))
    await connection.close()
    assert [index for index, salt in acknowledged.items() if stored.get(index) != salt] == []
    report = await verify(url, ORIGIN, [KEY])
    assert report.findings == []
    assert report.size >= len(acknowledged)


# --- one tree ---------------------------------------------------------------------------------------------


async def sizes(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT size FROM checkpoints ORDER BY size")
    await connection.close()
    return [row[0] for row in rows]


async def test_any_replica_can_have_a_checkpoint_over_everything(url: str, author: Author) -> None:
    async with replicas(url, 3) as logs:
        for n in range(1, 13):
            await logs[n % 3].append(author.decided())
            await logs[(n + 1) % 3].integrate()
            note = await logs[n % 3].checkpoint()
            assert note is not None
            assert open_checkpoint(note, [KEY], ORIGIN).size == n
        await asyncio.gather(*(log.integrate() for log in logs))
    assert await sizes(url) == list(range(1, 13))
    assert (await verify(url, ORIGIN, [KEY])).checkpoints == 12


async def test_another_replica_goes_on_with_the_tree_when_the_first_is_gone(url: str, author: Author) -> None:
    async def is_signed(size: int) -> bool:
        return (await sizes(url))[-1:] == [size]

    async with replicas(url, 1, every_s=0.02) as (survivor,):
        first = await PostgresLog.open(url, SIGNER, ORIGIN, checkpoint_every_s=0.01)
        for n in range(1, 6):
            await first.append(author.decided())
            await until(lambda n=n: is_signed(n))  # type: ignore[misc]  # mypy does not infer a default's type
        await first.aclose()
        for n in range(6, 11):
            await survivor.append(author.decided())
            await until(lambda n=n: is_signed(n))  # type: ignore[misc]  # as above
        await until(lambda: _is_zero(survivor))
    assert (await verify(url, ORIGIN, [KEY])).checkpoints == 10


async def _is_zero(log: PostgresLog) -> bool:
    return log.lag.events == 0


async def test_the_lock_of_a_frozen_integrator_is_freed(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        await log.append(author.decided())
        frozen = await asyncpg.connect(url, server_settings={"idle_session_timeout": "300"})
        await frozen.execute("SELECT pg_advisory_lock($1, hashtext('0'))", 0x41474154)
        await log.integrate()
        assert await sizes(url) == [1]


async def test_a_checkpoint_that_contradicts_the_tree_stops_the_log(url: str, author: Author) -> None:
    async with replicas(url, 2) as (log, other):
        await log.append(author.decided())
        await other.append(author.decided())
        connection = await asyncpg.connect(url)
        await connection.execute("INSERT INTO checkpoints VALUES ('0', 2, $1, ''::bytea, ''::bytea)", bytes(32))
        await connection.close()
        with pytest.raises(LogBroken, match="another tree"):
            await log.integrate()
        with pytest.raises(LogBroken, match="another tree"):
            await log.append(author.decided())


async def test_a_start_signs_what_no_checkpoint_is_over_only_where_somebody_answers_for_it(
    url: str, author: Author
) -> None:
    async with replicas(url, 1) as (log,):
        await log.append(author.decided())
        with pytest.raises(LogBroken, match="no checkpoint is over any of the 1 events.*`agentgate log sign`"):
            await PostgresLog.open(url, SIGNER, ORIGIN)
        await log.integrate()
        for seconds in (0, 61):
            await log.append(author.decided(moment=START + timedelta(seconds=seconds)))
        with pytest.raises(LogBroken, match="over the last 2 events, .*`agentgate log sign`"):
            await PostgresLog.open(url, SIGNER, ORIGIN)
        report = await verify(url, ORIGIN, [KEY])
        assert [(found.index, found.what[:11]) for found in report.findings] == [(1, "not signed:")]
        await (await PostgresLog.open(url, SIGNER, ORIGIN, is_vouched_for=True)).aclose()
    report = await verify(url, ORIGIN, [KEY])
    assert (report.findings, report.notes, report.signed) == ([], [], 3)


async def test_a_start_gives_a_replica_that_signs_the_time_for_what_it_has_to_sign(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        await log.append(author.joined())
        await log.integrate()
        for seconds in (0, 61):
            await log.append(author.decided(moment=START + timedelta(seconds=seconds)))
        starting = asyncio.create_task(PostgresLog.open(url, SIGNER, ORIGIN))
        await asyncio.sleep(0.5)
        assert not starting.done()
        await log.integrate()
        await (await starting).aclose()


async def test_a_start_minds_no_replicas_clock_that_differs_from_anothers(url: str) -> None:
    fast, slow = Author("m-1"), Author("m-2")
    async with replicas(url, 1) as (log,):
        await log.append(fast.joined())
        await log.integrate()
        for author, seconds in ((fast, 120), (slow, 0), (fast, 120)):
            await log.append(author.decided(moment=START + timedelta(seconds=seconds)))
        assert (await verify(url, ORIGIN, [KEY])).findings == []
        await (await PostgresLog.open(url, SIGNER, ORIGIN)).aclose()


async def test_a_replica_with_another_key_or_origin_is_refused_from_the_first_start_on(url: str) -> None:
    async with replicas(url, 1):
        with pytest.raises(UnsafeConfiguration, match=r"another key.*log\.checkpoint_key"):
            await PostgresLog.open(url, OTHER_SIGNER, ORIGIN)
        with pytest.raises(UnsafeConfiguration, match="origin is"):
            await PostgresLog.open(url, SIGNER, "agentgate.test/log/1")


async def test_open_intents_are_found_without_reading_the_log_from_its_beginning(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        await log.append(author.decided(trace="t-closed"))
        await log.append(author.finished("t-closed"))
        await log.append(author.decided(trace="t-open"))
        for _ in range(20):
            events = [author.decided(trace=f"t-{n}") for n in range(500)]
            await asyncio.gather(*(log.append(event) for event in events))
            await asyncio.gather(*(log.append(author.finished(f"t-{n}")) for n in range(500)))
        await log.integrate()
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT open_from FROM head") == 2
        await connection.close()
        assert [record.fields["trace_id"] for record in await log.open_intents()] == ["t-open"]
    report = await verify(url, ORIGIN, [KEY])
    assert (report.findings, report.open_intents) == ([], 1)


# --- one event among others -------------------------------------------------------------------------------


async def test_events_that_the_store_refuses_do_not_refuse_their_neighbours(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        for _ in range(6):
            await log.append(author.decided())
        first, clash, nul = author.decided(), author.decided(), author.decided("s-\0")
        clash.id = first.id
        events = [author.decided(), first, author.decided(), clash, nul, author.decided(), author.kill(a_kill())]
        outcomes = await asyncio.gather(*(log.append(event) for event in events), return_exceptions=True)
        ok, no = Receipt, LogUnavailable
        assert [type(outcome) for outcome in outcomes] == [ok, ok, ok, no, no, ok, ok]
        assert isinstance(await log.append(author.decided()), Receipt)
        assert [record.index for record in await all_of(log.records())] == list(range(12))
    assert (await verify(url, ORIGIN, [KEY])).findings == []


async def test_answers_that_are_kept_go_with_the_events_in_one_message(url: str, author: Author) -> None:
    async with replicas(url, 1) as (log,):
        for _ in range(8):
            await log.append(author.decided())
        store = log._writer._committer._store
        assert store is not None
        events = [author.answered(f"k-{n // 2}", b"%d" % n) for n in range(100)]
        await asyncio.gather(*(log.append(event) for event in events))
        assert set(store._prepared) == set(statements.OFTEN)
        rows = await log.projection("answers")
        assert [(row["idx"], row["sealed"]) for row in rows] == [(8 + n, b"%d" % n) for n in range(0, 100, 2)]
    assert (await verify(url, ORIGIN, [KEY])).findings == []


# --- servers that are refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("synchronous_commit = off", "synchronous_commit is off"),
        ("synchronous_commit = local", "synchronous_commit is local"),
        ("default_transaction_read_only = on", "read-only"),
    ],
)
async def test_a_database_that_would_not_keep_the_log_is_refused(
    postgres: PostgresServer, database: str, author: Author, setting: str, sentence: str
) -> None:
    postgres.sql(f"ALTER DATABASE {database} SET {setting}")
    with pytest.raises(UnsafeConfiguration, match=sentence):
        await PostgresLog.open(postgres.url(database), SIGNER, ORIGIN)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_would_not_keep_the_log_is_refused(setting: str) -> None:
    with PostgresServer(f"{setting}=off") as server, pytest.raises(UnsafeConfiguration, match=f"{setting} is off"):
        await PostgresLog.open(server.url(), SIGNER, ORIGIN)


async def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    postgres.sql("DROP DATABASE IF EXISTS ascii", "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII'")
    with pytest.raises(UnsafeConfiguration, match="UTF8"):
        await PostgresLog.open(postgres.url("ascii"), SIGNER, ORIGIN)


async def test_a_server_that_becomes_unsafe_is_not_written_to_until_it_is_safe_again(
    mortal: PostgresServer, mortal_database: str, author: Author
) -> None:
    async with replicas(mortal.url(mortal_database), 1) as (log,):
        for _ in range(6):
            await log.append(author.decided())
        mortal.sql("ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()")
        try:

            async def is_refused() -> bool:
                try:
                    await log.append(author.decided())
                except LogUnavailable as error:
                    return "synchronous_commit" in str(error)
                return False

            await until(is_refused)
        finally:
            mortal.sql("ALTER SYSTEM RESET synchronous_commit", "SELECT pg_reload_conf()")

        async def is_accepted() -> bool:
            return log._writer.refusal() is None and isinstance(await log.append(author.decided()), Receipt)

        await until(is_accepted)


@pytest.mark.parametrize(
    ("url", "error", "sentence"),
    [
        ("postgresql://nobody@/nowhere?host=/nonexistent", LogUnavailable, "does not serve"),
        ("postgresql://u:secret@127.0.0.1:1/x", LogUnavailable, "does not serve"),
        ("postgresql://u@[::1/x", UnsafeConfiguration, "not a PostgreSQL URL"),
        ("postgresql://u:secret#1@127.0.0.1/x", UnsafeConfiguration, "not a PostgreSQL URL"),
        ("postgresql://u@127.0.0.1/x?sslmode=perhaps", UnsafeConfiguration, "cannot be used"),
    ],
)
async def test_an_address_where_nothing_serves_is_said(url: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as raised:
        await PostgresLog.open(url, SIGNER, ORIGIN)
    assert "secret" not in str(raised.value)


async def test_reading_connections_cannot_write(url: str) -> None:
    async with replicas(url, 1) as (log,), log._far.lines.line() as line:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await line.execute("INSERT INTO spent VALUES ('0', 'approval', 'x', 0)")


async def test_a_role_that_may_only_read_reads(postgres: PostgresServer, database: str, author: Author) -> None:
    async with replicas(postgres.url(database), 1) as (log,):
        await log.append(author.decided())
    postgres.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    async with aclosing(open_reader(postgres.url(database))) as reader:
        assert len(await all_of(reader.records())) == 1


async def test_behind_a_pooler_in_session_mode_every_connection_has_its_settings(
    postgres: PostgresServer, database: str, author: Author
) -> None:
    async with (
        Pooler(postgres.port) as pooler,
        replicas(postgres.url(database, port=pooler.port) + "?sslmode=disable", 1) as (log,),
        log._near.lines.line() as near,
        log._far.lines.line() as far,
    ):
        assert isinstance(await log.append(author.decided()), Receipt)
        store = log._writer._committer._store
        assert store is not None
        assert await _shown(store.connection) == ("800ms", "2s", "500ms", "0", "off")
        assert await _shown(near) == ("800ms", "2s", "0", "5s", "on")
        assert await _shown(far) == ("0", "30s", "0", "1min", "on")


async def _shown(connection: Connection) -> tuple[str, ...]:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")
    found = await connection.fetchrow(
        "SELECT " + ", ".join(f"current_setting('{n}')" for n in (*names, "enable_seqscan"))
    )
    return tuple(found)


# --- a database that was put back -------------------------------------------------------------------------


async def test_a_database_restored_from_yesterday_is_known_by_the_checkpoint_beside_the_keys(
    postgres: PostgresServer, database: str, author: Author, tmp_path: Path
) -> None:
    witness = tmp_path / "log.checkpoint"

    async def opened(database: str) -> Any:
        return await PostgresLog.open(postgres.url(database), SIGNER, ORIGIN, witness=witness)

    log = await opened(database)
    await log.append(author.decided())
    await log.aclose()
    postgres.sql(f"CREATE DATABASE {database}_yesterday TEMPLATE {database}")
    log = await opened(database)
    await log.append(author.decided())
    await log.aclose()
    with pytest.raises(LogBroken, match=r"2 events.*rolled back.*remove .*log\.checkpoint"):
        await opened(f"{database}_yesterday")
    witness.unlink()  # what the sentence offers to who means it
    log = await opened(f"{database}_yesterday")
    assert len(await all_of(log.records())) == 1
    await log.aclose()
