"""The log on PostgreSQL when the server, the network or another replica fails."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from multiprocessing.context import ForkServerContext
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from agentgate.adapters.log._postgres.connection import connect, deadline
from agentgate.adapters.log._postgres.migrate import migrate
from agentgate.adapters.log.postgresql import PostgresLog, open_reader, verify
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from tests.adapters.log import crash_child
from tests.adapters.log.proxy import Proxy
from tests.adapters.log.test_postgresql import KEY, SIGNER, replicas, until
from tests.contracts.log import ORIGIN, Author, a_kill, all_of
from tests.postgres_server import PostgresServer

WITHIN_S = 1.5
"""What a caller waits at most: a second, and what a busy machine adds."""


@pytest.fixture
def url(mortal: PostgresServer, mortal_database: str) -> str:
    return mortal.url(mortal_database)


@pytest.fixture
async def log(url: str) -> AsyncIterator[PostgresLog]:
    async with replicas(url, 1) as (found,):
        yield found


@pytest.fixture
async def proxy(mortal: PostgresServer) -> AsyncIterator[Proxy]:
    async with Proxy(mortal.port) as found:
        yield found


async def refused(awaitable: Any) -> str:
    """Why, and within the time that a caller is promised."""
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(LogUnavailable) as raised:
            await awaitable
    return str(raised.value)


async def accepts(log: PostgresLog, author: Author) -> bool:
    try:
        return isinstance(await log.append(author.decided()), Receipt)
    except LogUnavailable:
        return False


async def recovered(log: PostgresLog, author: Author) -> None:
    await until(lambda: accepts(log, author))


async def check(url: str, acknowledged: list[Receipt]) -> None:
    """Everything that was acknowledged is where it was said to be, and the log holds."""
    report = await verify(url, ORIGIN, [KEY])
    assert report.findings == []
    async with replicas(url, 1) as (log,):
        stored = {record.index: record.fields["id"] for record in await all_of(log.records())}
    assert [receipt for receipt in acknowledged if stored.get(receipt.index) != receipt.event_id] == []


class Load:
    """Appends without a pause, and keeps what was acknowledged."""

    def __init__(self, *logs: PostgresLog) -> None:
        self.acknowledged: list[Receipt] = []
        self.refusals = 0
        self.last_refusal = ""
        self._logs = logs
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        for number, log in enumerate(self._logs):
            author = Author(f"m-{number}")
            self._tasks += [asyncio.create_task(self._one(log, author, f"s-{number}-{n}")) for n in range(8)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome

    async def _one(self, log: PostgresLog, author: Author, session: str) -> None:
        while True:
            try:
                outcome = await log.append(author.decided(session))
            except LogBroken:
                raise
            except LogUnavailable as error:
                self.last_refusal = str(error)
                self.refusals += 1
                await asyncio.sleep(0.01)
            else:
                assert isinstance(outcome, Receipt)
                self.acknowledged.append(outcome)

    async def more(self, count: int = 100) -> None:
        enough = len(self.acknowledged) + count
        until = asyncio.get_running_loop().time() + 15
        while len(self.acknowledged) < enough:
            await asyncio.sleep(0.01)
            assert asyncio.get_running_loop().time() < until, self.last_refusal
            for task in self._tasks:
                if task.done():
                    task.result()


# --- the server -------------------------------------------------------------------------------------------


async def kill_the_server(mortal: PostgresServer, url: str, times: int, every_s: float = 3600) -> None:
    async with replicas(url, 2, every_s) as logs, Load(*logs) as load:
        for _ in range(times):
            await load.more()
            await asyncio.to_thread(mortal.kill9)
            await asyncio.to_thread(mortal.start)
        await load.more()
    assert load.refusals > 0
    await check(url, load.acknowledged)


async def test_a_server_killed_under_load_loses_nothing_that_was_acknowledged(mortal: PostgresServer, url: str) -> None:
    await kill_the_server(mortal, url, 3)


@pytest.mark.torture
@pytest.mark.timeout(3_600)
async def test_a_server_killed_two_hundred_times_loses_nothing(mortal: PostgresServer, url: str) -> None:
    await kill_the_server(mortal, url, 200, every_s=0.02)


async def test_a_restart_in_order_is_survived_without_a_restart_of_ours(mortal: PostgresServer, url: str) -> None:
    async with replicas(url, 2) as logs, Load(*logs) as load:
        await load.more()
        await asyncio.to_thread(mortal.restart)
        await load.more()
    await check(url, load.acknowledged)


async def test_a_connection_lost_while_idle_costs_nobody_a_refusal(
    mortal: PostgresServer, log: PostgresLog, author: Author
) -> None:
    await log.append(author.decided())
    mortal.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'agentgate%'")
    await until(lambda: _lost(log))
    assert isinstance(await log.append(author.decided()), Receipt)
    assert (await log.kills_since(-1)).position == 0


async def _lost(log: PostgresLog) -> bool:
    store = log._writer._committer._store
    return store is None or store.is_closed


async def test_a_server_that_hangs_hangs_nobody(mortal: PostgresServer, log: PostgresLog, author: Author) -> None:
    await log.append(author.joined())
    await log.kills_since(0)
    mortal.pause()
    try:
        said = await asyncio.gather(*(refused(log.append(author.decided())) for _ in range(20)))
        assert set(said) == {"not known to be durable: the database did not answer"}
        await asyncio.gather(refused(log.append(author.decided())), refused(log.beat("m-1")))
        await refused(log.kills_since(0))
        await refused(log.projection("members"))
        await refused(log.settled())
    finally:
        mortal.resume()
    await recovered(log, author)
    await log.settled()
    assert (await log.beat("m-1"))["m-1"] > 0


async def test_closing_does_not_wait_for_a_server_that_hangs(mortal: PostgresServer, url: str, author: Author) -> None:
    log = await PostgresLog.open(url, SIGNER, ORIGIN)
    await log.append(author.decided())
    mortal.pause()
    try:
        waiting = log.append(author.decided())
        async with asyncio.timeout(15):
            await log.aclose()
        await refused(waiting)
    finally:
        mortal.resume()


async def test_a_log_can_be_opened_only_once_its_server_answers(mortal: PostgresServer, url: str) -> None:
    mortal.pause()
    try:
        async with asyncio.timeout(5):
            with pytest.raises(LogUnavailable):
                await PostgresLog.open(url, SIGNER, ORIGIN)
    finally:
        mortal.resume()


async def test_a_deadline_that_passes_between_two_messages_of_one_statement_is_a_failure_like_any_other(
    url: str, log: PostgresLog, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg has lost the half of itself that it goes on with then, and says so by an AttributeError."""
    prepared = asyncpg.Connection._get_statement

    async def dropped_meanwhile(connection: Any, *how: Any, **more: Any) -> Any:
        statement = await prepared(connection, *how, **more)
        connection.terminate()
        return statement

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "_get_statement", dropped_meanwhile)
        assert "no answer within" in await refused(log.kills_since(0))
        assert "no answer within" in await refused(PostgresLog.open(url, SIGNER, ORIGIN))
    assert (await log.kills_since(0)).kills == ()
    assert await accepts(log, author)


async def test_a_mistake_of_ours_is_no_failure_of_the_database(url: str) -> None:
    connection = await connect(url, "test", {})
    with pytest.raises(AttributeError), deadline(connection, 1):
        connection.no_such_method()  # type: ignore[attr-defined]
    await connection.close()


# --- the network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_alone", [True, False], ids=["without the lock", "under the lock"])
async def test_a_commit_whose_answer_was_lost_is_found_and_acknowledged(
    mortal: PostgresServer, mortal_database: str, proxy: Proxy, author: Author, is_alone: bool
) -> None:
    async with replicas(mortal.url(mortal_database, port=proxy.port), 1) as (log,):
        await log.append(author.joined())
        for _ in range(8):
            await log.append(author.decided())
        store = log._writer._committer._store
        assert store is not None
        if is_alone:
            proxy.deafen()
        else:  # four messages, of which the last is the commit
            log._writer._committer._undisturbed = 0
            store.connection = _DeafAtCommit(store.connection, proxy)  # type: ignore[assignment]  # see there
        waiting = log.append(author.decided())
        await until(lambda: _has(mortal, mortal_database, 10))
        proxy.drop()
        proxy.heal()
        outcome = await waiting
        assert isinstance(outcome, Receipt)
        assert outcome.index == 9
        assert await accepts(log, author)
    await check(mortal.url(mortal_database), [outcome])


class _DeafAtCommit:
    """A connection that hears no answer to its COMMIT."""

    def __init__(self, connection: Any, proxy: Proxy) -> None:
        self._connection = connection
        self._proxy = proxy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, query: str, *args: object) -> Any:
        if query == "COMMIT":
            self._proxy.deafen()
        return await self._connection.execute(query, *args)


async def _has(server: PostgresServer, database: str, size: int) -> bool:
    return server.sql("SELECT size FROM head", database=database) == str(size)


async def test_an_append_that_never_reached_the_server_is_refused_and_not_appended_later(
    mortal: PostgresServer, mortal_database: str, proxy: Proxy, author: Author
) -> None:
    async with replicas(mortal.url(mortal_database, port=proxy.port), 1) as (log,):
        for _ in range(8):
            await log.append(author.decided())
        proxy.mute()
        await refused(log.append(author.decided("s-lost")))
        proxy.drop()
        proxy.heal()
        await recovered(log, author)
        assert await all_of(log.records(session="s-lost")) == []


async def test_an_append_that_was_refused_is_not_appended_when_the_server_gets_it_late(
    mortal: PostgresServer, mortal_database: str, proxy: Proxy, author: Author
) -> None:
    async with replicas(mortal.url(mortal_database, port=proxy.port), 1) as (log,):
        await log.append(author.joined())
        for _ in range(8):
            await log.append(author.decided())
        proxy.hold()
        await refused(log.append(author.decided()))  # of a member and a session that are known: one message
        await until(lambda: _is_open_again(log))
        proxy.heal()
        await until(lambda: _is_alone(mortal, mortal_database))
        assert await _has(mortal, mortal_database, 9)
        assert await accepts(log, author)


async def _is_open_again(log: PostgresLog) -> bool:
    return not await _lost(log) and log._writer.refusal() is None


async def _is_alone(server: PostgresServer, database: str) -> bool:
    backends = (
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'agentgate writer'"
    )
    return server.sql(backends) == "1"


async def test_a_replica_that_is_cut_off_holds_nobody_up(
    mortal: PostgresServer, mortal_database: str, proxy: Proxy, author: Author
) -> None:
    direct = mortal.url(mortal_database)
    async with replicas(mortal.url(mortal_database, port=proxy.port), 1) as (cut,), replicas(direct, 1) as (log,):
        store = cut._writer._committer._store
        assert store is not None
        await store.lock()  # the worst moment: it has the log's head
        proxy.mute()
        proxy.deafen()
        async with asyncio.timeout(WITHIN_S):
            assert isinstance(await log.append(author.kill(a_kill())), Receipt)
        await refused(cut.append(author.decided()))
        proxy.drop()
        proxy.heal()
        await recovered(cut, author)
        assert (await cut.kills_since(0)).position == 1
    await check(direct, [])


async def test_a_replica_that_is_frozen_with_the_head_locked_holds_nobody_up(url: str, author: Author) -> None:
    async with replicas(url, 2) as (frozen, log):
        store = frozen._writer._committer._store
        assert store is not None
        await store.lock()
        async with asyncio.timeout(WITHIN_S):
            assert isinstance(await log.append(author.decided()), Receipt)
        await recovered(frozen, author)


async def test_a_process_frozen_at_any_moment_holds_nobody_up(url: str, processes: ForkServerContext) -> None:
    ours, theirs = processes.Pipe(duplex=False)
    chance = random.Random(1)
    async with replicas(url, 1) as (log,):
        child = processes.Process(target=crash_child.append_of_every_kind, args=(url, theirs))
        child.start()
        theirs.close()  # so that a child that has died is heard of
        assert child.pid is not None
        author = Author("m-survivor")
        try:
            for _ in range(25):
                assert await asyncio.to_thread(ours.poll, 20), "the child has stopped appending"
                ours.recv_bytes()
                await asyncio.sleep(chance.uniform(0, 0.03))
                os.kill(child.pid, signal.SIGSTOP)
                async with asyncio.timeout(WITHIN_S):
                    await recovered(log, author)
                os.kill(child.pid, signal.SIGCONT)
                while ours.poll():
                    ours.recv_bytes()
        finally:
            child.kill()
            child.join()
    await check(url, [])


async def flap(mortal: PostgresServer, mortal_database: str, proxy: Proxy, times: int) -> None:
    direct = mortal.url(mortal_database)
    async with replicas(mortal.url(mortal_database, port=proxy.port), 2) as logs, replicas(direct, 1) as others:
        async with Load(*logs, *others) as load:
            for turn in range(times):
                await load.more(50)
                if turn % 3:
                    (proxy.deafen if turn % 2 else proxy.mute)()
                    await load.more(20)
                proxy.drop()
                proxy.heal()
            await load.more()
        assert len({receipt.index for receipt in load.acknowledged}) == len(load.acknowledged)
    await check(direct, load.acknowledged)


async def test_flapping_connections_under_load_lose_nothing(
    mortal: PostgresServer, mortal_database: str, proxy: Proxy
) -> None:
    await flap(mortal, mortal_database, proxy, 12)


@pytest.mark.torture
@pytest.mark.timeout(3_600)
async def test_connections_that_flap_five_hundred_times_lose_nothing(
    mortal: PostgresServer, mortal_database: str, proxy: Proxy
) -> None:
    await flap(mortal, mortal_database, proxy, 500)


# --- a standby that commits wait for ------------------------------------------------------------------------


async def test_no_receipt_is_given_before_the_standby_has_the_event_whoever_ends_the_connection_that_waits(
    author: Author,
) -> None:
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with PostgresServer() as server:
        await migrate(server.url())
        async with replicas(server.url(), 1) as (log,):
            for _ in range(6):
                await log.append(author.decided())
            server.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'", "SELECT pg_reload_conf()")
            await until(lambda: _says(server, "SELECT current_setting('synchronous_standby_names') = 'away'"))
            event = author.decided()
            appending = log.append(event)
            for answer in (appending, None):  # once more where it is found to be there
                await until(lambda: _says(server, f"SELECT count(*) > 0 {waiting}"))
                server.sql(f"SELECT pg_terminate_backend(pid) {waiting}")
                if answer is not None:
                    await refused(answer)
            await refused(log.append(event))
            server.sql("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
            await recovered(log, author)
            outcome = await log.append(event)
            assert isinstance(outcome, Receipt)
            assert outcome.index == 6
        await check(server.url(), [outcome])


# --- another database than it was -------------------------------------------------------------------------


def both(one: PostgresServer, other: PostgresServer, database: str) -> str:
    hosts = f"127.0.0.1:{one.port},127.0.0.1:{other.port}"
    return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=primary"


async def test_a_standby_is_refused_and_verified_and_goes_on_once_it_is_promoted(author: Author) -> None:
    with PostgresServer() as primary:
        await migrate(primary.url())
        with PostgresServer(standby_of=primary) as standby:
            async with replicas(both(primary, standby, "postgres"), 2) as logs:
                acknowledged: Any = [await log.append(author.decided()) for log in logs for _ in range(3)]
                await logs[0].integrate()
                end = primary.sql("SELECT pg_current_wal_lsn()")
                await until(lambda: _says(standby, f"SELECT pg_last_wal_replay_lsn() >= '{end}'"))
                with pytest.raises(UnsafeConfiguration, match="standby"):
                    await PostgresLog.open(standby.url(), SIGNER, ORIGIN)
                report = await verify(standby.url(), ORIGIN, [KEY])
                assert (report.findings, report.size) == ([], 6)
                async with aclosing(open_reader(standby.url())) as reader:
                    assert len(await all_of(reader.records())) == 6
                primary.kill9()
                await asyncio.to_thread(standby.promote)
                for log in logs:
                    await recovered(log, author)
            await check(standby.url(), acknowledged)


async def _says(server: PostgresServer, question: str) -> bool:
    return server.sql(question) == "t"


async def test_a_failover_to_a_standby_that_had_not_followed_stops_the_log(author: Author) -> None:
    with PostgresServer() as primary:
        await migrate(primary.url())
        with PostgresServer(standby_of=primary) as standby:
            async with replicas(both(primary, standby, "postgres"), 1) as (log,):
                await log.append(author.decided())
                standby.sql("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
                await until(lambda: _says(primary, "SELECT count(*) = 0 FROM pg_stat_replication"))
                await log.append(author.kill(a_kill()))
                primary.kill9()
                await asyncio.to_thread(standby.promote)
                await until(lambda: _is_broken(log))
                with pytest.raises(LogBroken, match="lost what was acknowledged"):
                    await log.append(author.decided())
                with pytest.raises(LogBroken):
                    await log.kills_since(0)


async def _is_broken(log: PostgresLog) -> bool:
    return isinstance(log._writer.refusal(), LogBroken)


async def test_a_server_put_back_to_an_older_state_stops_the_log_even_once_it_has_grown(author: Author) -> None:
    with PostgresServer() as server:
        await migrate(server.url())
        async with replicas(server.url(), 2) as (log, other):
            await log.append(author.decided())
            await log.integrate()
            server.stop()
            server.keep("yesterday")
            server.start()
            await recovered(log, author)
            server.stop()
            await until(lambda: _lost(log))
            server.put_back("yesterday")
            server.start()
            async with replicas(server.url(), 1) as (stranger,):  # who knows nothing of what was lost
                for _ in range(5):
                    await stranger.append(author.decided())
            with pytest.raises(LogBroken, match="lost what was acknowledged|not the one that was written"):
                await log.append(author.decided())
            await recovered(other, author)  # it had seen nothing of that either
