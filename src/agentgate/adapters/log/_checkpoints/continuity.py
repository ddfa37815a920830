"""The log under its checkpoints: what is asked of it, and what is proven from its tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

from agentgate.core.audit.unsigned import Unsigned
from agentgate.core.errors import LogBroken
from agentgate.core.event import Record
from agentgate.core.merkle import Frontier, Range, consistency_ranges, continues
from agentgate.core.note import Checkpoint
from agentgate.core.subtrees import HashMissing, Subtrees

_LEAVES_AT_ONCE: Final = 4_096


class Ground(Protocol):
    """What anchors need of the log. Raises LogUnavailable."""

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]: ...

    async def leaf_hashes(self, first: int, limit: int) -> list[bytes]: ...

    async def durable(self) -> int:
        """How many events are durable now."""
        ...

    async def put_cosignature(self, witness: str, size: int, line: str) -> None: ...


async def prove(ground: Ground, ranges: Sequence[Range]) -> list[bytes]:
    """The roots of ranges of the signed tree. Raises LogUnavailable, LogBroken."""
    subtrees = Subtrees(ranges)
    for level, first, count in subtrees.reads():
        subtrees.feed(level, first, await ground.hashes(level, first, count))
    try:
        return [subtrees.root(leaves) for leaves in ranges]
    except HashMissing as error:
        raise LogBroken(f"{error}; run `log verify`") from error


async def is_continued(known: Checkpoint, frontier: Frontier, size: int, ground: Ground) -> bool:
    """Whether the log continues a checkpoint, which may be newer than the newest that is stored."""
    if known.size > size:
        return False
    if known.size <= frontier.size:
        proof = await prove(ground, consistency_ranges(known.size, frontier.size))
        return continues(known.root, known.size, frontier.root(), frontier.size, proof)
    grown = frontier.copy()  # it was kept, and the process ended before it was stored
    while grown.size < known.size:
        leaves = await ground.leaf_hashes(grown.size, min(_LEAVES_AT_ONCE, known.size - grown.size))
        if not leaves:
            return False
        grown.extend(leaves)
    return grown.root() == known.root


async def check_signed(signed: int, after: AsyncIterator[Record]) -> None:
    """Whether all that no checkpoint is over, `after` the events that are `signed`, can be of the last moment: to sign
    more would make whatever somebody has put there part of the log.

    Raises:
        LogBroken, LogUnavailable
    """
    unsigned = Unsigned(signed)
    try:
        async for record in after:
            unsigned.feed(record.fields)
    except (ValueError, TypeError, KeyError) as error:
        raise LogBroken(f"the events from {signed} on cannot be read; run `log verify`") from error
    fault = unsigned.fault()
    if fault is not None:
        raise LogBroken(
            f"{fault}: checkpoints were taken away, or could not be kept. Look at these events (`agentgate audit`); "
            "if they are meant, `agentgate log sign` signs them as they are"
        )
