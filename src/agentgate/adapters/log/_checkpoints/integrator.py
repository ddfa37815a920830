"""Grows the Merkle tree over what was appended, and signs its state once a second while events arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from agentgate.core.audit.stored import StoredCheckpoint
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.merkle import Frontier, TileHash, last_leaf, root
from agentgate.core.note import Checkpoint, NoteKey, open_checkpoint, sign
from agentgate.ports.keys import Signer

CHECKPOINT_EVERY_S: Final = 1.0
_LEAVES_AT_ONCE: Final = 4_096
_LEAVES_PER_TURN: Final = 65_536
_LEAVES_PER_SLICE: Final = 256
"""Hashing so many takes the event loop about a quarter of a millisecond."""
_LEAVES_CHECKED_AT_START: Final = 2_048


class CheckpointSigner(Signer, Protocol):
    """An Ed25519 signer: C2SP notes name the public key."""

    public_key: bytes


class TreeStore(Protocol):
    """What the integrator needs of a store. Everything raises LogUnavailable, or LogBroken."""

    @property
    def size(self) -> int:
        """Durable events, as far as is known without asking."""
        ...

    def turn(self, *, patient: bool) -> AbstractAsyncContextManager[bool]:
        """Whether it is ours to sign now, and nobody else does until the end of the context. A patient one waits for
        that, and raises LogUnavailable if it takes too long."""
        ...

    async def newest(self) -> tuple[int, StoredCheckpoint | None]:
        """How many events are durable, and the newest checkpoint; None where nobody else makes any."""
        ...

    async def leaf_hashes(self, first: int, limit: int) -> list[bytes]: ...

    async def put_checkpoint(self, checkpoint: StoredCheckpoint, completed: Sequence[TileHash]) -> None:
        """Publish a checkpoint, with the tile hashes that were completed since the last one; both or neither."""
        ...


class Anchoring(Protocol):
    """Where checkpoints are kept besides the store."""

    async def keep(self, note: bytes) -> None:
        """Before it is published. Raises LogUnavailable: then it is not."""
        ...

    def tell(self, size: int, root: bytes, note: bytes) -> None:
        """After it was published."""
        ...


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the signed tree is behind the log, and what keeps it there."""

    events: int
    trouble: str | None


class Integrator:
    """One per log, or one per process of which one at a time does the work: who signed last goes on, and another one
    takes over when it does not. It never holds an append up; what it could not do, it does a second later."""

    def __init__(
        self,
        store: TreeStore,
        signer: CheckpointSigner,
        keys: Sequence[NoteKey],
        frontier: Frontier,
        anchors: Anchoring,
        on_broken: Callable[[LogBroken], None] = lambda _: None,
    ) -> None:
        """`keys`: the signer's, under the log's origin, then those that have signed what is there and sign no more."""
        self._store = store
        self._anchors = anchors
        self._signer = signer
        self._keys = keys
        self._frontier = frontier
        self._signed = (frontier.size, frontier.root())
        """The newest checkpoint that is known, whoever signed it."""
        self._completed: list[TileHash] = []
        """What the frontier has completed and no stored checkpoint covers."""
        self._on_broken = on_broken
        self._trouble: str | None = None
        self._busy = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def lag(self) -> Lag:
        return Lag(max(0, self._store.size - self._signed[0]), self._trouble)

    def start(self, every_s: float) -> None:
        self._task = asyncio.create_task(self._run(every_s), name="agentgate-integrator")

    async def _run(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._once(self._take_turn)
            except (LogUnavailable, LogBroken):
                continue  # `lag` says so, and the log itself refuses what it must

    async def integrate(self) -> None:
        """Have a checkpoint over everything that is durable now, whoever signs it.

        Raises:
            LogUnavailable: leaf hashes could not be read, or the checkpoint not be written.
        """
        await self._once(self._take_turns)

    async def _once(self, work: Callable[[], Awaitable[None]]) -> None:
        """One at a time in this process; what went wrong is kept for `lag`."""
        async with self._busy:
            try:
                await work()
            except LogUnavailable as error:
                self._trouble = str(error)
                if isinstance(error, LogBroken):
                    self._on_broken(error)
                raise
            self._trouble = None

    async def _take_turn(self) -> None:
        """A regular turn: nothing, if another process has signed since the last one."""
        _, newest = await self._store.newest()
        if newest is not None and newest.size > self._signed[0]:
            self._note(newest)
            return
        async with self._store.turn(patient=False) as is_ours:
            if is_ours:
                await self._integrate()

    async def _take_turns(self) -> None:
        wanted, _ = await self._store.newest()
        while self._signed[0] < wanted:
            async with self._store.turn(patient=True):
                await self._integrate()

    async def _integrate(self) -> None:
        """Sign a checkpoint over what is durable, or over a good part of it: a turn is short."""
        size, newest = await self._store.newest()
        if newest is not None:
            await self._follow(newest, size)
        if size < self._frontier.size:  # read for a turn that failed: to sign it now would say what never was
            raise LogBroken(
                f"the log had {self._frontier.size} events and has {size} now: the database is an older one"
            )
        size = min(size, self._signed[0] + _LEAVES_PER_TURN)
        if size <= self._signed[0]:
            return
        await self._extend(size)
        checkpoint = Checkpoint(self._keys[0].name, size, self._frontier.root())
        note = sign(checkpoint.text, self._keys[0], self._signer.sign)
        stored = StoredCheckpoint(size, checkpoint.root, note, self._frontier.to_bytes())
        await self._anchors.keep(note)  # first: what is published is known outside
        await self._store.put_checkpoint(stored, self._completed)
        self._completed.clear()
        self._signed = (size, checkpoint.root)
        self._anchors.tell(size, checkpoint.root, note)

    async def _follow(self, newest: StoredCheckpoint, size: int) -> None:
        """Go on from another process's checkpoint, once it agrees with the tree that is known here."""
        if newest.size - self._frontier.size > _LEAVES_PER_TURN:
            self._frontier = await resume(newest, size, self._keys, self._store.leaf_hashes)
        elif newest.size >= self._frontier.size:
            await self._extend(newest.size)
            if self._frontier.root() != newest.root:
                raise LogBroken(f"another tree of {newest.size} events was signed; run `log verify`")
        self._completed = [tile_hash for tile_hash in self._completed if last_leaf(tile_hash) >= newest.size]
        self._note(newest)

    def _note(self, newest: StoredCheckpoint) -> None:
        size, root_then = self._signed
        if newest.size < size or (newest.size == size and size and newest.root != root_then):
            raise LogBroken(f"a checkpoint of {size} events is known that the database does not have any more")
        self._signed = (newest.size, newest.root)

    async def _extend(self, size: int) -> None:
        frontier = self._frontier
        while frontier.size < size:
            leaves = await self._store.leaf_hashes(frontier.size, min(_LEAVES_AT_ONCE, size - frontier.size))
            if not leaves:
                raise LogBroken(f"the log has {size} events, but event {frontier.size} cannot be read")
            for start in range(0, len(leaves), _LEAVES_PER_SLICE):
                self._completed += frontier.extend(leaves[start : start + _LEAVES_PER_SLICE])
                await asyncio.sleep(0)  # others first: an append must not wait for the tree

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
    keys: Sequence[NoteKey],
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
        signed = open_checkpoint(newest.note, keys, keys[0].name)
        frontier = Frontier.from_bytes(newest.frontier)
    except ValueError as error:
        raise LogBroken(
            f"the newest checkpoint does not hold: {error}; is this the key that the log was made with? "
            "An earlier one is named in log.former_keys"
        ) from error
    if not (signed.size, signed.root) == (frontier.size, frontier.root()) == (newest.size, newest.root):
        raise LogBroken(f"the stored tree of {frontier.size} events is not the one that was signed")
    if signed.size > size:
        raise LogBroken(f"{signed.size} events were signed, and only {size} are stored: the database is an older one")
    for (first, end), expected in reversed(frontier.subtrees()):
        if signed.size - first > _LEAVES_CHECKED_AT_START:
            break
        if root(await leaf_hashes(first, end - first)) != expected:
            raise LogBroken(f"events {first} to {end - 1} are not those that were signed; run `log verify`")
    return frontier
