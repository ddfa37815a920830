"""Grows the Merkle tree over what was appended, and signs its state once a second while events arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from agentgate.core.audit import StoredCheckpoint
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.merkle import Frontier, root
from agentgate.core.note import Checkpoint, NoteInvalid, NoteKey, open_checkpoint, sign
from agentgate.ports import Signer

CHECKPOINT_EVERY_S: Final = 1.0
_LEAVES_AT_ONCE: Final = 4_096
_LEAVES_PER_SLICE: Final = 256
"""Hashing so many takes the event loop about a quarter of a millisecond."""
_LEAVES_CHECKED_AT_START: Final = 2_048


class CheckpointSigner(Signer, Protocol):
    """An Ed25519 signer: C2SP notes name the public key."""

    public_key: bytes


class TreeStore(Protocol):
    """What the integrator needs of a store."""

    async def leaf_hashes(self, first: int, limit: int) -> list[bytes]: ...

    async def put_checkpoint(self, checkpoint: StoredCheckpoint) -> None: ...

    @property
    def size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the signed tree is behind the log, and what keeps it there."""

    events: int
    trouble: str | None


class Integrator:
    """One per log. It never holds an append up; what it could not do, it does a second later."""

    def __init__(self, store: TreeStore, signer: CheckpointSigner, origin: str, frontier: Frontier) -> None:
        self._store = store
        self._signer = signer
        self._key = NoteKey(origin, signer.public_key)
        self._origin = origin
        self._frontier = frontier
        self._signed_size = frontier.size
        self._trouble: str | None = None
        self._busy = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def lag(self) -> Lag:
        return Lag(self._store.size - self._signed_size, self._trouble)

    def start(self, every_s: float) -> None:
        self._task = asyncio.create_task(self._run(every_s), name="agentgate-integrator")

    async def _run(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.integrate()
            except (LogUnavailable, LogBroken):
                continue  # `lag` says so, and the log itself refuses what it must

    async def integrate(self) -> None:
        """Sign a checkpoint over everything that is durable now, unless there is one.

        Raises:
            LogUnavailable: leaf hashes could not be read, or the checkpoint not be written.
        """
        async with self._busy:
            try:
                await self._integrate(self._store.size)
            except (LogUnavailable, LogBroken) as error:
                self._trouble = str(error)
                raise
            self._trouble = None

    async def _integrate(self, size: int) -> None:
        if size == self._signed_size:
            return
        frontier = self._frontier
        while frontier.size < size:
            leaves = await self._store.leaf_hashes(frontier.size, min(_LEAVES_AT_ONCE, size - frontier.size))
            if not leaves:
                raise LogBroken(f"the log has {size} events, but event {frontier.size} cannot be read")
            for start in range(0, len(leaves), _LEAVES_PER_SLICE):
                frontier.extend(leaves[start : start + _LEAVES_PER_SLICE])
                await asyncio.sleep(0)  # others first: an append must not wait for the tree
        checkpoint = Checkpoint(self._origin, size, frontier.root())
        note = sign(checkpoint.text, self._key, self._signer.sign)
        await self._store.put_checkpoint(StoredCheckpoint(size, checkpoint.root, note, frontier.to_bytes()))
        self._signed_size = size

    async def aclose(self) -> None:
        """Stop, after a last checkpoint if one can be made."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            await self.integrate()
        except (LogUnavailable, LogBroken):
            return


async def resume(
    newest: StoredCheckpoint | None,
    size: int,
    key: NoteKey,
    leaf_hashes: Callable[[int, int], Awaitable[list[bytes]]],
) -> Frontier:
    """The tree to go on from, once the newest checkpoint agrees with what is stored.

    This reads a few thousand leaves at most: `log verify` reads them all.

    Raises:
        LogBroken: the checkpoint is another key's or another log's, or the log is not what was signed.
    """
    if newest is None:
        return Frontier()
    try:
        signed = open_checkpoint(newest.note, [key], key.name)
        frontier = Frontier.from_bytes(newest.frontier)
    except ValueError as error:
        raise LogBroken(
            f"the newest checkpoint does not hold: {error}; is this the key that the log was made with?"
        ) from error
    if (signed.size, signed.root) != (frontier.size, frontier.root()) or signed.size != newest.size:
        raise LogBroken(f"the stored tree of {frontier.size} events is not the one that was signed")
    if signed.size > size:
        raise LogBroken(f"{signed.size} events were signed, and only {size} are stored: the database is an older one")
    for (first, end), expected in reversed(frontier.subtrees()):
        if signed.size - first > _LEAVES_CHECKED_AT_START:
            break
        if root(await leaf_hashes(first, end - first)) != expected:
            raise LogBroken(f"events {first} to {end - 1} are not those that were signed; run `log verify`")
    return frontier


def check_witness(note: bytes, key: NoteKey, stored: Callable[[int], StoredCheckpoint | None]) -> None:
    """A copy of a checkpoint kept outside of the database must be one of the database's own.

    Raises:
        LogBroken: it is not: the database was rolled back or replaced.
    """
    try:
        known = open_checkpoint(note, [key], key.name)
    except NoteInvalid as error:
        raise LogBroken(f"the checkpoint kept beside the database does not hold: {error}") from error
    own = stored(known.size)
    if own is None or own.root != known.root:
        raise LogBroken(
            f"a checkpoint of {known.size} events is known that this database does not have: "
            "it was rolled back or replaced"
        )
