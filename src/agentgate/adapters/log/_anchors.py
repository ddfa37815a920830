"""Where checkpoints are kept besides the database, so that a database that was rolled back is noticed.

Files are written before a checkpoint is published: one that cannot be written holds publication up, never a call. A
webhook and witnesses (c2sp.org/tlog-witness) are told afterwards, beside the calls, and the newest checkpoint wins.
At the start all of them are asked what they know, and the log must continue it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from agentgate.adapters.log._anchor_http import (
    Conflict,
    Exchange,
    NotKnown,
    Unproven,
    Webhook,
    Witness,
)
from agentgate.adapters.log._intake import told
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.merkle import Frontier, Range, consistency_ranges, continues
from agentgate.core.note import Checkpoint, NoteInvalid, NoteKey, open_checkpoint
from agentgate.core.subtrees import HashMissing, Subtrees
from agentgate.core.tiles import consistency_body

logger = logging.getLogger("agentgate.checkpoints")

_WRITE_WITHIN_S: Final = 2.0
_ASK_WITHIN_S: Final = 5.0
_PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
_LEAVES_AT_ONCE: Final = 4_096

ReadHashes = Callable[[int, int, int], Awaitable[list[bytes]]]
"""`ports.Tree.hashes`."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where checkpoints are to be kept."""

    files: tuple[Path, ...] = ()
    webhook: Webhook | None = None
    witnesses: tuple[Witness, ...] = ()

    def and_file(self, path: Path | None) -> Places:
        return self if path is None else Places((path, *self.files), self.webhook, self.witnesses)


@dataclass(slots=True)
class Standing:
    """How it stands with the files, the webhook or one witness. `failures` only grows."""

    kind: Literal["file", "webhook", "witness"]
    name: str
    size: int = 0
    """Of the newest checkpoint that it has taken."""
    failures: int = 0
    trouble: str | None = None

    def fail(self, error: BaseException) -> None:
        why = told(error)
        if self.trouble != why:
            logger.warning("%s %s: %s", self.kind, self.name, why)
        self.failures += 1
        self.trouble = why


class Ground(Protocol):
    """What anchors need of the log. Raises LogUnavailable."""

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]: ...

    async def leaf_hashes(self, first: int, limit: int) -> list[bytes]: ...

    async def durable(self) -> int:
        """How many events are durable now."""
        ...

    async def put_cosignature(self, witness: str, size: int, line: str) -> None: ...


class Anchors:
    """All places, and what each is told. `check` once, then `keep` and `tell` each checkpoint."""

    def __init__(self, places: Places, ground: Ground, keys: Sequence[NoteKey]) -> None:
        """`keys` may have signed what is known; the first one's name is the log's origin."""
        self._places = places
        self._ground = ground
        self.keys = tuple(keys)
        self.witnesses = tuple(witness.key for witness in places.witnesses)
        self._write: asyncio.Task[None] | None = None
        self._files = Standing("file", ", ".join(map(str, places.files)))
        self._exchange = Exchange(_ASK_WITHIN_S)
        self._followers: list[_Follower] = []
        if places.webhook is not None:
            self._followers.append(_WebhookFollower(places.webhook, self._exchange))
        self._followers += [_WitnessFollower(witness, self._exchange, ground) for witness in places.witnesses]

    @property
    def standings(self) -> list[Standing]:
        return [self._files, *(follower.standing for follower in self._followers)]

    # --- the start ----------------------------------------------------------------------------------------

    async def check(self, frontier: Frontier, size: int, note: bytes | None) -> None:
        """Raise LogBroken if anybody knows a checkpoint that the log does not continue.

        `frontier` is the tree of the newest stored checkpoint, which is `note`; `size` events are durable.

        Raises:
            LogUnavailable: a webhook that must be asked does not answer.
        """
        for path in self._places.files:
            known = await asyncio.to_thread(_read, path)
            if known is not None:
                await self._recognise(known, frontier, size, f"If the older database is meant, remove {path}")
        for follower in self._followers:
            known = await follower.newest()
            if known is not None:
                hint = f"The {follower.standing.kind} {follower.standing.name} has it"
                await self._recognise(known, frontier, size, hint)
        if note is not None and frontier.size:
            checks = [one.recognise(Signed(frontier.size, frontier.root(), note)) for one in self._followers]
            await asyncio.gather(*checks)

    async def _recognise(self, note: bytes, frontier: Frontier, size: int, hint: str) -> None:
        try:
            known = open_checkpoint(note, self.keys, self.keys[0].name)
        except NoteInvalid as error:
            raise LogBroken(f"the checkpoint kept outside of the database does not hold: {error}. {hint}") from error
        if not await _continues(known, frontier, size, self._ground):
            raise LogBroken(
                f"a checkpoint of {known.size} events is known that this database does not have: "
                f"it was rolled back or replaced. {hint}"
            )

    # --- afterwards ---------------------------------------------------------------------------------------

    async def keep(self, note: bytes) -> None:
        """Write the files. Raises LogUnavailable when one cannot be written."""
        if self._write is None or self._write.done():
            self._write = asyncio.create_task(asyncio.to_thread(_write, self._places.files, note))
            written, _ = await asyncio.wait([self._write], timeout=_WRITE_WITHIN_S)
        else:  # one thread that waits for a disk is enough
            written = set()
        trouble = self._write.exception() if written else OSError("its disk does not answer")
        if trouble is not None:
            error = LogUnavailable(f"the checkpoint cannot be kept: {trouble}")
            self._files.fail(error)
            raise error from trouble
        self._files.trouble = None

    def tell(self, size: int, root: bytes, note: bytes) -> None:
        """Let webhook and witnesses have a checkpoint that is published."""
        for follower in self._followers:
            follower.tell(Signed(size, root, note))

    async def aclose(self) -> None:
        """Give everybody a moment to hear of the last checkpoint."""
        await asyncio.gather(*(follower.aclose() for follower in self._followers))
        await self._exchange.aclose()


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint and its note."""

    size: int
    root: bytes
    note: bytes


class _Follower:
    """Takes the newest checkpoint that there is, one at a time, and again after a pause when that failed."""

    def __init__(self, standing: Standing, every_s: float) -> None:
        self.standing = standing
        self._every_s = every_s
        self._newest: Signed | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def newest(self) -> bytes | None:
        """The newest checkpoint that it can show."""
        return None

    async def recognise(self, signed: Signed) -> None:
        """Raise LogBroken if it has seen what `signed` does not continue."""

    async def take(self, signed: Signed) -> None:
        """Raises OSError, LogUnavailable, or what `Exchange` raises."""
        raise NotImplementedError

    def tell(self, signed: Signed) -> None:
        self._newest = signed
        self._news.set()
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name=f"agentgate-{self.standing.kind}")

    async def _follow(self) -> None:
        failed = 0
        while True:
            await self._news.wait()
            self._news.clear()
            if await self._try():
                failed = 0
                await asyncio.sleep(self._every_s)
            else:
                self._news.set()
                await asyncio.sleep(_PAUSES_S[min(failed, len(_PAUSES_S) - 1)])
                failed += 1

    async def _try(self) -> bool:
        signed = self._newest
        if signed is None or signed.size <= self.standing.size:
            return True
        try:
            await self.take(signed)
        except FAULTS as error:
            self.standing.fail(error)
            return False
        self.standing.size, self.standing.trouble = signed.size, None
        return True

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WRITE_WITHIN_S):
                    await self._try()


class _WebhookFollower(_Follower):
    def __init__(self, webhook: Webhook, exchange: Exchange) -> None:
        super().__init__(Standing("webhook", webhook.shown), webhook.every_s)
        self._webhook = webhook
        self._exchange = exchange

    async def newest(self) -> bytes | None:
        """Raises LogUnavailable when it must be asked and does not answer."""
        try:
            return await self._exchange.fetch(self._webhook)
        except FAULTS as error:
            if not self._webhook.optional:
                raise LogUnavailable(
                    f"log.checkpoint_webhook {self._webhook.shown} cannot say which checkpoint is the newest: "
                    f"{told(error)}; make it answer, or set its `optional: true`"
                ) from error
            self.standing.fail(error)
            return None

    async def take(self, signed: Signed) -> None:
        await self._exchange.post(self._webhook, signed.note)


class _WitnessFollower(_Follower):
    def __init__(self, witness: Witness, exchange: Exchange, ground: Ground) -> None:
        super().__init__(Standing("witness", witness.key.name), 0.0)
        self._witness = witness
        self._exchange = exchange
        self._ground = ground
        self._old = 0
        """The size that the witness has cosigned last, as far as is known."""

    async def recognise(self, signed: Signed) -> None:
        try:
            await self.take(signed)
        except Conflict as error:
            raise LogBroken(
                f"witness {self.standing.name} has cosigned {error.size} events, and this database has signed "
                f"{signed.size}: it was rolled back or replaced"
            ) from error
        except Unproven as error:
            raise LogBroken(
                f"witness {self.standing.name} has cosigned another tree of {self._old} events: "
                "the database was replaced, or somebody else signs with its key"
            ) from error
        except FAULTS as error:
            self.standing.fail(error)
        else:
            self.standing.size = signed.size

    async def take(self, signed: Signed) -> None:
        for _ in range(2):
            try:
                lines = await self._exchange.add_checkpoint(self._witness, await self._body(signed))
            except Conflict as error:
                if error.size > signed.size:
                    if error.size > await self._ground.durable():
                        raise
                    self._old = error.size  # another replica was quicker
                    return
                if error.size == self._old == signed.size:
                    raise Unproven("it has cosigned another tree of the same size") from error
                self._old = error.size
                continue
            except Unproven as error:
                if self._old == 0:  # nothing had to be proven
                    raise NotKnown("it does not accept a first checkpoint") from error
                raise
            self._old = signed.size
            for line in self._witness.verified(signed.note, lines):
                await self._ground.put_cosignature(self._witness.id, signed.size, line)
            return
        raise NotKnown("it keeps naming another size")

    async def _body(self, signed: Signed) -> bytes:
        ranges = [] if self._old == 0 else consistency_ranges(self._old, signed.size)
        proof = await prove(self._ground.hashes, ranges)
        return consistency_body(self._old, proof, signed.note)


FAULTS: Final = (OSError, TimeoutError, LogUnavailable, NotKnown, Conflict, Unproven)


async def prove(hashes: ReadHashes, ranges: Sequence[Range]) -> list[bytes]:
    """The roots of ranges of the signed tree. Raises LogUnavailable, LogBroken."""
    subtrees = Subtrees(ranges)
    for level, first, count in subtrees.reads():
        subtrees.feed(level, first, await hashes(level, first, count))
    try:
        return [subtrees.root(leaves) for leaves in ranges]
    except HashMissing as error:
        raise LogBroken(f"{error}; run `log verify`") from error


async def _continues(known: Checkpoint, frontier: Frontier, size: int, ground: Ground) -> bool:
    """Whether the log continues a checkpoint, which may be newer than the newest that is stored."""
    if known.size > size:
        return False
    if known.size <= frontier.size:
        proof = await prove(ground.hashes, consistency_ranges(known.size, frontier.size))
        return continues(known.root, known.size, frontier.root(), frontier.size, proof)
    grown = frontier.copy()  # it was kept, and the process ended before it was stored
    while grown.size < known.size:
        leaves = await ground.leaf_hashes(grown.size, min(_LEAVES_AT_ONCE, known.size - grown.size))
        if not leaves:
            return False
        grown.extend(leaves)
    return grown.root() == known.root


# --- files ------------------------------------------------------------------------------------------------


def read_file(path: Path) -> bytes | None:
    """The checkpoint that it keeps, or None where there is none yet. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError as error:
        raise LogUnavailable(f"the checkpoint in {path} cannot be read: {error.strerror}") from error


def _write(paths: Iterable[Path], note: bytes) -> None:
    """Whatever happens, each has the old checkpoint or the new one, never a part."""
    for path in paths:
        new = path.with_name(f"{path.name}.new-{os.getpid()}")  # workers may share a directory
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(note)
            file.flush()
            os.fdatasync(file.fileno())
        new.replace(path)
