"""What runs in other processes: writers that are killed, filled up, or in the way. Imported, not collected."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import struct
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgate.adapters.log.postgresql import PostgresLog
from agentgate.adapters.log.sqlite import SqliteLog
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogUnavailable, UnsafeConfiguration
from agentgate.core.event import Origin, rfc3339
from agentgate.core.events.keeping import pruned
from agentgate.core.retention import Quiet
from tests.contracts.log import ORIGIN, Author, a_kill

SIGNER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
ACK = struct.Struct("<Q16s")
"""Index and a salt, which stands for the event's id: small enough that a pipe takes it whole."""


class ChanceAuthor(Author):
    """Ids that no other process makes."""

    def origin(self, at: datetime | None = None) -> Origin:
        origin = super().origin(at)
        salt = os.urandom(16)
        return Origin(salt.hex(), origin.at, self.member, origin.counter, origin.version, salt)


async def _open(path: Path, *, checkpoint_every_s: float = 3600) -> SqliteLog:
    return await SqliteLog.open(path, SIGNER, ORIGIN, checkpoint_every_s=checkpoint_every_s)


def append_until_killed(path: str, acks: Connection) -> None:
    """Eight tasks append for ever; each receipt goes into the pipe `acks` before the next append."""
    asyncio.run(_append_until_killed(Path(path), acks))


def append_to_postgres_until_killed(url: str, acks: Connection) -> None:
    """The same on PostgreSQL, where others append at the same time."""
    asyncio.run(_append_to_postgres_until_killed(url, acks))


async def _append_until_killed(path: Path, acks: Connection) -> None:
    await _append_for_ever(await _open(path, checkpoint_every_s=0.01), acks)


async def _append_to_postgres_until_killed(url: str, acks: Connection) -> None:
    await _append_for_ever(await PostgresLog.open(url, SIGNER, ORIGIN, checkpoint_every_s=0.01), acks)


def append_of_every_kind(url: str, acks: Connection) -> None:
    """Append to PostgreSQL for ever, on a new connection now and then; say so after each round."""
    asyncio.run(_append_of_every_kind(url, acks))


async def _append_of_every_kind(url: str, acks: Connection) -> None:
    author = ChanceAuthor(f"m-{os.getpid()}")
    while True:
        with contextlib.suppress(LogUnavailable):  # its server may have given it up while it was frozen
            await _append_three_rounds(await PostgresLog.open(url, SIGNER, ORIGIN), author, acks)


async def _append_three_rounds(log: PostgresLog, author: ChanceAuthor, acks: Connection) -> None:
    for _ in range(3):
        kill, approval = a_kill(os.urandom(4).hex()), os.urandom(4).hex()
        for event in (
            author.joined(), author.kill(kill), author.acked(1), author.drained(kill), author.release(kill),
            author.requested(approval), author.verdict(approval), author.decided(f"s-{approval}"),
        ):  # fmt: skip
            with contextlib.suppress(LogUnavailable):
                await log.append(event)
        acks.send_bytes(b"round")
    await log.aclose()


async def _append_for_ever(log: SqliteLog | PostgresLog, acks: Connection) -> None:
    author = ChanceAuthor(f"m-{os.getpid()}-{os.urandom(4).hex()}")
    await log.append(author.joined())
    await log.integrate()  # as a gateway does before it serves

    async def one(session: str) -> None:
        while True:
            event = author.decided(session)
            receipt = await log.append(event)
            assert isinstance(receipt, Receipt)
            acks.send_bytes(ACK.pack(receipt.index, event.salt))

    await asyncio.gather(*(one(f"s-{n}") for n in range(8)))


def open_once(path: str, answers: Connection) -> None:
    """Try to open a log that another process has."""

    async def attempt() -> str:
        try:
            log = await _open(Path(path))
        except UnsafeConfiguration as error:
            return str(error)
        await log.aclose()
        return "opened"

    answers.send(asyncio.run(attempt()))


def hold_the_lock(path: str, turns: Connection) -> None:
    """Lock the database as a stranger's tool would; let go when told."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    turns.send("locked")
    turns.recv()
    db.execute("ROLLBACK")
    db.close()
    turns.send("free")


def fill_the_disk(path: str, answers: Connection) -> None:
    """Append under a limit on file sizes until it fails; lift the limit; append again."""
    answers.send(asyncio.run(_fill_the_disk(Path(path))))


async def _fill_the_disk(path: Path) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    log, author = await _open(path), ChanceAuthor()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    acknowledged: list[int] = []

    async def attempt() -> str | None:
        try:
            receipt = await log.append(author.decided())
        except LogUnavailable as error:
            return str(error)
        assert isinstance(receipt, Receipt)
        acknowledged.append(receipt.index)
        return None

    assert await attempt() is None
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    trouble = None
    again = refused_in_s = None
    while trouble is None or again is None:  # closing moves the write-ahead log: that may make room once more
        trouble = await attempt()
        before = loop.time()
        again = await attempt()
        refused_in_s = loop.time() - before
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    before = loop.time()
    while await attempt() is not None:  # noqa: ASYNC110 - as a client that tries again
        await asyncio.sleep(0.01)
    recovered_in_s = loop.time() - before
    await log.aclose()
    return {
        "trouble": trouble,
        "again": again,
        "refused_in_s": refused_in_s,
        "recovered_in_s": recovered_in_s,
        "acknowledged": acknowledged,
    }


def prune_until_killed(path: str, acks: Connection) -> None:
    """Prune one session after the other, and compress, for ever; say so after each event, before the deletion."""
    asyncio.run(_prune_until_killed(Path(path), acks))


async def _prune_until_killed(path: Path, acks: Connection) -> None:
    log = await _open(path)
    now = rfc3339(datetime.now(UTC))
    author = ChanceAuthor(f"m-{os.getpid()}")
    while True:
        session = f"s-{os.urandom(4).hex()}"
        receipts = await asyncio.gather(*(log.append(author.decided(session)) for _ in range(300)))
        last = max(receipt.index for receipt in receipts if isinstance(receipt, Receipt))
        await log.integrate()
        await log.bodies.compress(now, now)
        of = {"tenant": "acme", "session": session, "bodies": 300, "through": last}
        event = pruned(author.origin(), actor="", why="retention", **of)
        assert isinstance(await log.append(event), Receipt)
        acks.send(session)
        await log.bodies.forget([Quiet("acme", session, last)])
