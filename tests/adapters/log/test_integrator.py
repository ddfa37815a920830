"""The integrator over a store that loses what it had."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from agentgate.adapters.log._checkpoints.integrator import Integrator
from agentgate.core.audit.stored import StoredCheckpoint
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.merkle import Frontier, TileHash
from agentgate.core.note import NoteKey
from tests.adapters.log.crash_child import SIGNER
from tests.contracts.log import ORIGIN


class _Nowhere:
    async def keep(self, note: bytes) -> None: ...

    def tell(self, size: int, root: bytes, note: bytes) -> None: ...


class _Shrinking:
    """A database that cannot take a checkpoint, and is then put back to an older state."""

    size = 11

    def __init__(self) -> None:
        self.signed: list[int] = []
        self.is_down = True

    @contextlib.asynccontextmanager
    async def turn(self, *, patient: bool) -> AsyncIterator[bool]:
        yield True

    async def newest(self) -> tuple[int, StoredCheckpoint | None]:
        return self.size, None

    async def leaf_hashes(self, first: int, limit: int) -> list[bytes]:
        return [bytes([index]) * 32 for index in range(first, min(self.size, first + limit))]

    async def put_checkpoint(self, checkpoint: StoredCheckpoint, completed: Sequence[TileHash]) -> None:
        if self.is_down:
            raise LogUnavailable("told to fail")
        self.signed.append(checkpoint.size)


async def test_nothing_is_signed_over_a_log_that_is_shorter_than_the_tree_that_was_read() -> None:
    """A checkpoint of the shorter size with the longer tree's root would be a signed lie."""
    store, found = _Shrinking(), []
    integrator = Integrator(store, SIGNER, [NoteKey(ORIGIN, SIGNER.public_key)], Frontier(), _Nowhere(), found.append)
    with pytest.raises(LogUnavailable):
        await integrator.integrate()
    store.size, store.is_down = 4, False
    with pytest.raises(LogBroken, match="had 11 events and has 4 now"):
        await integrator.integrate()
    assert store.signed == []
    assert len(found) == 1
