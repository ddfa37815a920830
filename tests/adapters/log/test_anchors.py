"""Checkpoints outside of the database: files, a webhook and witnesses; what a start does with them; and another key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web

from agentgate.adapters.log._checkpoints import followers
from agentgate.adapters.log._checkpoints.anchors import Places
from agentgate.adapters.log._checkpoints.exchange import Webhook, Witness
from agentgate.adapters.log._checkpoints.followers import Follower, Signed, Standing
from agentgate.adapters.log.postgresql import PostgresLog
from agentgate.adapters.log.postgresql import verify as verify_postgres
from agentgate.adapters.log.sqlite import SqliteLog, verify
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core import merkle
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken, LogUnavailable, UnsafeConfiguration
from agentgate.core.note import Checkpoint, NoteKey, cosign, cosignatures, open_checkpoint, sign
from agentgate.core.tiles import parse_consistency_body
from tests.adapters.log.crash_child import SIGNER
from tests.adapters.log.test_sqlite import KEY, OTHER_SIGNER, tamper
from tests.contracts.log import ORIGIN, Author, append_all
from tests.postgres_server import PostgresServer
from tests.witness import SEEN_AT, TestKeeper, TestWitness, answering, garbled, serving

OTHER_KEY = NoteKey(ORIGIN, OTHER_SIGNER.public_key)
SECRET = "a-secret-of-the-checkpoint-webhook"


@pytest.fixture
def witness() -> TestWitness:
    return TestWitness([KEY, OTHER_KEY])


async def open_log(path: Path, places: Places, signer: Ed25519Signer = SIGNER, *former: NoteKey) -> SqliteLog:
    return await SqliteLog.open(path, signer, ORIGIN, places=places, former_keys=former, checkpoint_every_s=3600)


async def grow(log: SqliteLog | PostgresLog, author: Author, count: int) -> bytes:
    """So many events, and the checkpoint over them."""
    await append_all(log, (author.decided(f"s-{n % 5}") for n in range(count)))
    await log.integrate()
    return await log.checkpoint() or b""


async def yesterday(path: Path, places: Places, author: Author) -> None:
    """Put a database back to where it was three events before its newest checkpoint, with what lies beside it."""
    log = await open_log(path, places)
    await grow(log, author, 300)
    await log.aclose()
    kept = path.parent.with_name("yesterday")
    shutil.copytree(path.parent, kept)
    log = await open_log(path, places)
    await grow(log, author, 3)
    await log.aclose()
    shutil.rmtree(path.parent)
    shutil.copytree(kept, path.parent)


def standing(log: SqliteLog | PostgresLog, kind: str) -> Standing:
    return next(one for one in log.standings if one.kind == kind)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - it comes from elsewhere
            await asyncio.sleep(0.01)


async def until_cosigned(log: SqliteLog | PostgresLog, key: NoteKey) -> bytes:
    async with asyncio.timeout(10):
        while not cosignatures(note := await log.checkpoint() or b"", [key]):  # noqa: ASYNC110 - it comes from elsewhere
            await asyncio.sleep(0.01)
    return note


# --- files ------------------------------------------------------------------------------------------------


async def test_a_checkpoint_is_in_the_file_before_it_is_published(path: Path, author: Author, tmp_path: Path) -> None:
    file = tmp_path / "another disk"
    log = await open_log(path, Places(files=(file,)))
    note = await grow(log, author, 3)
    assert file.read_bytes() == note
    file.unlink()
    file.mkdir()
    with pytest.raises(LogUnavailable, match="cannot be kept"):
        await grow(log, author, 1)
    assert await log.checkpoint() == note
    assert await log.hashes(0, 0, 256) == await log.hashes(0, 0, 3)
    assert isinstance(await log.append(author.decided()), Receipt)
    assert (log.lag.events, standing(log, "file").failures) == (2, 1)
    file.rmdir()
    await log.integrate()
    assert open_checkpoint(file.read_bytes(), [KEY], ORIGIN).size == 5
    assert (log.lag.trouble, standing(log, "file").trouble) == (None, None)
    await log.aclose()


async def test_a_directory_that_was_put_back_as_a_whole_is_known_by_the_file_elsewhere(
    path: Path, author: Author, tmp_path: Path
) -> None:
    file = tmp_path / "another disk"
    await yesterday(path, Places(files=(file,)), author)
    with pytest.raises(LogBroken, match=rf"303 events.*rolled back.*remove {file}"):
        await open_log(path, Places(files=(file,)))
    log = await open_log(path, Places())
    await log.aclose()


async def test_a_file_that_somebody_else_wrote_or_that_cannot_be_read_stops_the_start(
    path: Path, author: Author, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(LogBroken, match="does not hold"):
        await open_log(path, Places(files=(file,)))
    file.unlink()
    file.mkdir()
    with pytest.raises(LogUnavailable, match="cannot be read"):
        await open_log(path, Places(files=(file,)))


async def test_a_checkpoint_that_was_kept_and_not_stored_is_continued(path: Path, author: Author) -> None:
    """The process ended between the two."""
    log = await open_log(path, Places())
    await grow(log, author, 255)
    await grow(log, author, 3)
    await log.aclose()
    tamper(path, "DELETE FROM checkpoints WHERE size = 258;DELETE FROM subtrees")
    log = await open_log(path, Places())
    assert open_checkpoint(await grow(log, author, 1), [KEY], ORIGIN).size == 259
    await log.aclose()
    assert (await verify(path, ORIGIN, [KEY])).findings == []


async def test_a_log_that_was_written_anew_after_the_kept_checkpoint_is_refused(path: Path, author: Author) -> None:
    """It has as many events, and even more: only the roots tell."""
    log = await open_log(path, Places())
    await grow(log, author, 5)
    await log.aclose()
    beside = path.with_name("log.db.checkpoint")
    note = beside.read_bytes()
    shutil.rmtree(path.parent)
    log = await open_log(path, Places())
    await grow(log, author, 9)
    await log.aclose()
    beside.write_bytes(note)
    with pytest.raises(LogBroken, match=r"5 events.*replaced"):
        await open_log(path, Places())


# --- a webhook --------------------------------------------------------------------------------------------


async def test_a_webhook_is_sent_the_newest_checkpoint_signed_by_its_secret(path: Path, author: Author) -> None:
    keeper = TestKeeper()
    async with serving(keeper):
        log = await open_log(path, Places(webhook=Webhook(keeper.url, SECRET)))
        note = await grow(log, author, 2)
        body, signature = await asyncio.wait_for(keeper.got.get(), 10)
        assert body == note
        assert signature == "sha256=" + hmac.new(SECRET.encode(), note, hashlib.sha256).hexdigest()
        for _ in range(3):
            last = await grow(log, author, 1)
        await log.aclose()  # within ten seconds of the first: only the newest of those is sent
        assert [found for found, _ in _all(keeper.got)] == [last]


def _all(queue: asyncio.Queue[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def test_a_rolled_back_database_is_known_by_a_webhook(path: Path, author: Author) -> None:
    keeper = TestKeeper()
    async with serving(keeper):
        for optional in (False, True):
            places = Places(webhook=Webhook(keeper.url, optional=optional))
            shutil.rmtree(path.parent.parent)
            keeper.kept = None
            await yesterday(path, places, author)
            with pytest.raises(LogBroken, match=r"303 events.*rolled back.*webhook http://127"):
                await open_log(path, places)


async def test_a_webhook_that_does_not_answer_stops_the_start_unless_it_is_optional(path: Path, author: Author) -> None:
    keeper = TestKeeper()
    async with serving(keeper):
        nowhere = "http://127.0.0.1:9/checkpoint?token=secret"
        with pytest.raises(
            LogUnavailable, match=r"checkpoint_webhook http://127.0.0.1/checkpoint .*optional"
        ) as refused:
            await open_log(path, Places(webhook=Webhook(nowhere)))
        assert "secret" not in str(refused.value)
        keeper.status, keeper.kept = 500, b""
        with pytest.raises(LogUnavailable, match="500"):
            await open_log(path, Places(webhook=Webhook(keeper.url)))
        log = await open_log(path, Places(webhook=Webhook(nowhere, optional=True)))
        await grow(log, author, 1)
        assert isinstance(await log.append(author.decided()), Receipt)
        assert standing(log, "webhook").failures >= 1
        await log.aclose()


async def test_what_a_webhook_shows_must_be_this_logs(path: Path) -> None:
    keeper = TestKeeper()
    async with serving(keeper):
        keeper.kept = b"hello"
        with pytest.raises(LogBroken, match="does not hold"):
            await open_log(path, Places(webhook=Webhook(keeper.url, optional=True)))


# --- witnesses --------------------------------------------------------------------------------------------


async def test_a_checkpoint_is_served_with_the_cosignature_of_its_witness(
    path: Path, author: Author, witness: TestWitness
) -> None:
    async with serving(witness):
        places = Places(witnesses=(Witness(witness.url, witness.key),))
        log = await open_log(path, places)
        for count in (1, 299, 12):
            await grow(log, author, count)
            note = await until_cosigned(log, witness.key)
            (found,) = cosignatures(note, [witness.key])
            assert found.at == SEEN_AT
            assert open_checkpoint(note, [KEY], ORIGIN).size == witness.seen[ORIGIN][0]
        assert [parse_consistency_body(body).old for body in witness.asked] == [0, 1, 300]
        assert standing(log, "witness") == Standing("witness", "witness.test/w1", 312)
        await log.aclose()
        log = await open_log(path, places)  # asked at the start, before anything is signed: what it has seen
        assert await until_cosigned(log, witness.key) == note
        assert [parse_consistency_body(body).old for body in witness.asked[3:]] == [0, 312]
        await log.aclose()


async def test_a_rolled_back_database_is_known_by_its_witness(path: Path, author: Author, witness: TestWitness) -> None:
    async with serving(witness):
        places = Places(witnesses=(Witness(witness.url, witness.key),))
        await yesterday(path, places, author)
        with pytest.raises(
            LogBroken, match=r"w1 has cosigned 303 events, and this database has signed 300: it was rolled"
        ):
            await open_log(path, places)


@pytest.mark.parametrize("events", [300, 400])
async def test_another_history_is_known_by_its_witness(
    path: Path, author: Author, witness: TestWitness, events: int
) -> None:
    """As long as the one that was cosigned, or longer."""
    async with serving(witness):
        places = Places(witnesses=(Witness(witness.url, witness.key),))
        log = await open_log(path, places)
        await grow(log, author, 300)
        await until_cosigned(log, witness.key)
        await log.aclose()
        shutil.rmtree(path.parent)
        log = await open_log(path, Places())
        await grow(log, author, events)
        await log.aclose()
        with pytest.raises(LogBroken, match="cosigned another tree of 300 events"):
            await open_log(path, places)


async def test_a_witness_that_is_down_or_lies_stops_neither_start_nor_calls(
    path: Path, author: Author, witness: TestWitness
) -> None:
    stranger = TestWitness([KEY], bytes(range(9, 41)))
    async with serving(witness, stranger):
        log = await open_log(path, Places())
        note = await grow(log, author, 2)
        await log.aclose()
        state = Checkpoint(ORIGIN, 2, open_checkpoint(note, [KEY], ORIGIN).root)
        line = cosign(state.text, stranger.key, stranger._secret.sign, 1).encode()
        ours = cosign(state.text, witness.key, witness._secret.sign, 1).encode()
        for instead in (
            answering(500), answering(404), answering(403), answering(301), answering(200), answering(200, line),
            answering(200, garbled(ours)), answering(200, b"\x00" * 100_000), answering(200, "— x".encode()),
            answering(409, b"two\n", "text/x.tlog.size"), answering(409, b"2\n"),
                answering(409, b"0\n", "text/x.tlog.size"),
            answering(422), answering(204), witness.cosigning_more(), witness.cosigning_more(line),
        ):  # fmt: skip
            witness.instead = instead
            log = await open_log(path, Places(witnesses=(Witness(witness.url, witness.key),)))
            assert isinstance(await log.append(author.decided()), Receipt)
            assert standing(log, "witness").failures == 1
            assert standing(log, "witness").trouble
            assert cosignatures(await log.checkpoint() or b"", [witness.key]) == []
            await log.aclose()
        log = await open_log(path, Places(witnesses=(Witness("http://127.0.0.1:9", witness.key),)))
        assert standing(log, "witness").failures == 1
        await log.aclose()


async def test_a_witness_that_comes_back_cosigns_what_came_meanwhile(
    path: Path, author: Author, witness: TestWitness
) -> None:
    async with serving(witness):
        log = await open_log(path, Places(witnesses=(Witness(witness.url, witness.key),)))
        witness.instead = answering(500)
        await grow(log, author, 7)
        witness.instead = None
        await until_cosigned(log, witness.key)
        assert witness.seen[ORIGIN][0] == 7
        await log.aclose()


async def test_a_size_that_only_the_witness_knows_does_not_stop_a_running_log(
    path: Path, author: Author, witness: TestWitness
) -> None:
    """At a start it would; who runs knows better."""
    async with serving(witness):
        log = await open_log(path, Places(witnesses=(Witness(witness.url, witness.key),)))
        witness.instead = answering(409, b"99\n", "text/x.tlog.size")
        await grow(log, author, 2)
        await until(lambda: standing(log, "witness").failures > 0)
        assert isinstance(await log.append(author.decided()), Receipt)
        await log.aclose()


class Stumbling(Follower):
    """Fails in a way that nobody foresaw, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__(Standing("witness", "w1"), 0.0)
        self.times = times

    async def take(self, signed: Signed) -> None:
        if self.times:
            self.times -= 1
            raise ValueError(f"no tree of {signed.size}")


async def test_what_nobody_foresaw_is_told_and_tried_again_and_stops_no_close(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(followers, "_PAUSES_S", (0.01,))
    follower = Stumbling(times=2)
    follower.tell(Signed(1, b"", b""))
    await until(lambda: follower.standing.size == 1)
    assert follower.standing == Standing("witness", "w1", 1, failures=2)
    assert [(record.message, record.exc_info is not None) for record in caplog.records] == [
        ("witness w1: no tree of 1", True)
    ]
    follower.times = 1_000_000
    follower.tell(Signed(2, b"", b""))
    await until(lambda: follower.standing.failures > 2)
    await follower.aclose()
    assert (follower.standing.size, follower.standing.trouble) == (1, "no tree of 2")


# --- another key ------------------------------------------------------------------------------------------


async def test_a_new_key_goes_on_where_a_former_one_ended(path: Path, author: Author, witness: TestWitness) -> None:
    async with serving(witness):
        places = Places(witnesses=(Witness(witness.url, witness.key),))
        log = await open_log(path, places)
        await grow(log, author, 3)
        await until_cosigned(log, witness.key)
        await log.aclose()
        path.with_name("log.db.checkpoint").unlink()
        with pytest.raises(LogBroken, match="former_keys"):
            await open_log(path, Places(), OTHER_SIGNER)
        log = await open_log(path, places, OTHER_SIGNER, KEY)
        assert log.keys == (OTHER_KEY, KEY)
        note = await grow(log, author, 1)
        assert open_checkpoint(note, [OTHER_KEY], ORIGIN).size == 4
        await until_cosigned(log, witness.key)
        await log.aclose()
        await (await open_log(path, places, OTHER_SIGNER, KEY)).aclose()
    assert (await verify(path, ORIGIN, [OTHER_KEY, KEY])).findings == []
    assert not (await verify(path, ORIGIN, [OTHER_KEY])).ok


async def test_replicas_take_a_new_key_only_with_the_former_one_listed(
    postgres: PostgresServer, database: str, author: Author
) -> None:
    url = postgres.url(database)
    log = await PostgresLog.open(url, SIGNER, ORIGIN)
    await grow(log, author, 300)
    await log.aclose()
    for signer, former in ((OTHER_SIGNER, ()), (OTHER_SIGNER, (OTHER_KEY,))):
        with pytest.raises(UnsafeConfiguration, match=r"another key.*log\.former_keys"):
            await PostgresLog.open(url, signer, ORIGIN, former_keys=former)
    log = await PostgresLog.open(url, OTHER_SIGNER, ORIGIN, former_keys=(KEY,))
    other = await PostgresLog.open(url, OTHER_SIGNER, ORIGIN, former_keys=(KEY,))
    assert open_checkpoint(await grow(log, author, 300), [OTHER_KEY], ORIGIN).size == 600
    assert open_checkpoint(await grow(other, author, 1), [OTHER_KEY], ORIGIN).size == 601
    for one in (log, other):
        await one.aclose()
    with pytest.raises(UnsafeConfiguration, match="another key"):
        await PostgresLog.open(url, SIGNER, ORIGIN)
    assert (await verify_postgres(url, ORIGIN, [OTHER_KEY, KEY])).findings == []


# --- replicas ---------------------------------------------------------------------------------------------


async def test_replicas_share_a_witness(
    postgres: PostgresServer, database: str, author: Author, witness: TestWitness
) -> None:
    """Each sends it what it has signed itself, from whatever the witness has seen last."""
    url = postgres.url(database)
    async with serving(witness):
        places = Places(witnesses=(Witness(witness.url, witness.key),))
        logs = [await PostgresLog.open(url, SIGNER, ORIGIN, places=places, checkpoint_every_s=3600) for _ in range(2)]
        for count in (1, 300, 20, 3):
            logs.reverse()
            await grow(logs[0], author, count)
            await until_cosigned(logs[1], witness.key)
        assert witness.seen[ORIGIN][0] == 324
        assert [standing(log, "witness").failures for log in logs] == [0, 0]
        for log in logs:
            await log.aclose()


async def test_a_replica_goes_on_telling_a_slow_witness_that_another_one_has_told_more(
    postgres: PostgresServer, database: str, author: Author, witness: TestWitness
) -> None:
    """What it has signed meanwhile does not continue what the witness has: that is no failure, nor at the end."""
    url, slow = postgres.url(database), asyncio.Event()

    async def slowly(request: web.Request) -> web.Response:
        witness.instead = None
        await slow.wait()
        return await witness.add_checkpoint(request)

    async with serving(witness):
        places = Places(witnesses=(Witness(witness.url, witness.key),))
        logs = [await PostgresLog.open(url, SIGNER, ORIGIN, places=places, checkpoint_every_s=3600) for _ in range(2)]
        await grow(logs[0], author, 5)
        await until_cosigned(logs[0], witness.key)
        witness.instead = slowly
        await grow(logs[0], author, 5)
        await until(lambda: witness.instead is None)
        await grow(logs[0], author, 5)  # kept until the witness has answered
        await grow(logs[1], author, 5)
        await until_cosigned(logs[1], witness.key)
        slow.set()
        await until(lambda: standing(logs[0], "witness").size == 15)
        await grow(logs[0], author, 5)
        await until_cosigned(logs[0], witness.key)
        assert witness.seen[ORIGIN][0] == 25
        assert standing(logs[0], "witness") == Standing("witness", "witness.test/w1", 25)
        for log in logs:
            await log.aclose()


async def test_a_restored_postgresql_is_known_by_a_file_on_another_disk(
    postgres: PostgresServer, database: str, author: Author, tmp_path: Path
) -> None:
    url, file = postgres.url(database), tmp_path / "checkpoint"
    log = await PostgresLog.open(url, SIGNER, ORIGIN, places=Places(files=(file,)))
    await grow(log, author, 3)
    await log.aclose()
    postgres.sql(f"CREATE DATABASE {database}_yesterday TEMPLATE {database}")
    log = await PostgresLog.open(url, SIGNER, ORIGIN, places=Places(files=(file,)))
    await grow(log, author, 3)
    await log.aclose()
    with pytest.raises(LogBroken, match=r"6 events.*rolled back"):
        await PostgresLog.open(postgres.url(f"{database}_yesterday"), SIGNER, ORIGIN, places=Places(files=(file,)))


# --- version 2 --------------------------------------------------------------------------------------------


def as_version_2(path: Path) -> None:
    """Put a log's rows into a database as version 0.3 made it."""
    old = path.with_name("old.db")
    schema = (Path(__file__).parent / "schema_v2.sql").read_text(encoding="utf-8")
    tables = [line.split()[2] for line in schema.splitlines() if line.startswith("CREATE TABLE")]
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        db.executescript(schema)
        db.execute("DELETE FROM head")
        db.execute("ATTACH ? AS new", (str(path),))
        for table in tables:
            columns = ", ".join(column for _, column, *_ in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    old.replace(path)


def the_schema(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {(name, " ".join(sql.split())) for name, sql in rows}


async def test_a_log_of_version_2_is_brought_up_to_date_where_it_lies(
    path: Path, author: Author, tmp_path: Path
) -> None:
    log = await open_log(path, Places())
    await grow(log, author, 600)
    await grow(log, author, 1)
    proofs = await log.hashes(1, 0, 256)
    await log.aclose()
    as_version_2(path)
    assert (await verify(path, ORIGIN, [KEY])).findings == []  # an old backup is verified as it is
    log = await open_log(path, Places())
    assert await log.hashes(1, 0, 256) == proofs
    await grow(log, author, 300)
    leaves = [merkle.leaf_hash(record.leaf) async for record in log.records()]
    assert await log.hashes(1, 0, 256) == [merkle.root(leaves[at : at + 256]) for at in (0, 256, 512)]
    await log.aclose()
    assert (await verify(path, ORIGIN, [KEY])).findings == []
    new = tmp_path / "new.db"
    await (await open_log(new, Places())).aclose()
    assert the_schema(path) == the_schema(new)


async def test_an_upgrade_that_fails_changes_nothing(path: Path, author: Author) -> None:
    log = await open_log(path, Places())
    await grow(log, author, 300)
    await log.aclose()
    as_version_2(path)
    before = the_schema(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE subtrees (in_the_way TEXT)")
    with pytest.raises(LogUnavailable, match="subtrees"):
        await open_log(path, Places())
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TABLE subtrees")
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert the_schema(path) == before
    log = await open_log(path, Places())
    assert len(await log.hashes(1, 0, 256)) == 1
    await log.aclose()


# --- what a forged checkpoint would need --------------------------------------------------------------------


async def test_nobody_without_the_key_makes_a_checkpoint_that_counts(
    path: Path, author: Author, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    log = await open_log(path, Places())
    await grow(log, author, 2)
    await log.aclose()
    forged = Checkpoint(ORIGIN, 1_000, bytes(32))
    file.write_bytes(sign(forged.text, OTHER_KEY, OTHER_SIGNER.sign))
    with pytest.raises(LogBroken, match="no known key"):
        await open_log(path, Places(files=(file,)))
