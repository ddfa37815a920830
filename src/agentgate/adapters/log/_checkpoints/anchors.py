"""Where checkpoints are kept besides the database, so that a database that was rolled back is noticed.

Files are written before a checkpoint is published: one that cannot be written holds publication up, never a call. A
webhook and witnesses (c2sp.org/tlog-witness) are told afterwards, beside the calls, and the newest checkpoint wins.
At the start all of them are asked what they know, and the log must continue it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentgate.adapters.log._checkpoints.continuity import Ground, is_continued
from agentgate.adapters.log._checkpoints.exchange import Exchange, Webhook, Witness
from agentgate.adapters.log._checkpoints.followers import Follower, Signed, Standing, WebhookFollower, WitnessFollower
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.merkle import Frontier
from agentgate.core.note import NoteInvalid, NoteKey, open_checkpoint

_WRITE_WITHIN_S: Final = 2.0
_ASK_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where checkpoints are to be kept."""

    files: tuple[Path, ...] = ()
    webhook: Webhook | None = None
    witnesses: tuple[Witness, ...] = ()

    def and_files(self, paths: Iterable[Path]) -> Places:
        return Places((*paths, *self.files), self.webhook, self.witnesses)


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
        self._followers: list[Follower] = []
        if places.webhook is not None:
            self._followers.append(WebhookFollower(places.webhook, self._exchange))
        self._followers += [WitnessFollower(witness, self._exchange, ground) for witness in places.witnesses]

    @property
    def standings(self) -> list[Standing]:
        return [self._files, *(follower.standing for follower in self._followers)]

    async def check(self, frontier: Frontier, size: int, note: bytes | None) -> int:
        """Raise LogBroken if anybody knows a checkpoint that the log does not continue; how many events are signed.

        `frontier` is the tree of the newest stored checkpoint, which is `note`; `size` events are durable.

        Raises:
            LogUnavailable: a webhook that must be asked does not answer.
        """
        signed = [frontier.size]
        for path in self._places.files:
            known = await asyncio.to_thread(_read, path)
            if known is not None:
                signed.append(
                    await self._recognise(known, frontier, size, f"If the older database is meant, remove {path}")
                )
        for follower in self._followers:
            known = await follower.newest()
            if known is not None:
                hint = f"The {follower.standing.kind} {follower.standing.name} has it"
                signed.append(await self._recognise(known, frontier, size, hint))
        if note is not None and frontier.size:
            checks = [one.recognise(Signed(frontier.size, frontier.root(), note)) for one in self._followers]
            await asyncio.gather(*checks)
        return max(signed)

    async def _recognise(self, note: bytes, frontier: Frontier, size: int, hint: str) -> int:
        try:
            known = open_checkpoint(note, self.keys, self.keys[0].name)
        except NoteInvalid as error:
            raise LogBroken(f"the checkpoint kept outside of the database does not hold: {error}. {hint}") from error
        if not await is_continued(known, frontier, size, self._ground):
            raise LogBroken(
                f"a checkpoint of {known.size} events is known that this database does not have: "
                f"it was rolled back or replaced. {hint}"
            )
        return known.size

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
