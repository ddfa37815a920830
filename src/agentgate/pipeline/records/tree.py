"""Proofs from the tree's tile hashes: that a leaf is in it, and that it continues an earlier one. And the tiles
themselves, for whoever makes proofs alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agentgate.core.errors import LogBroken
from agentgate.core.merkle import TILE_HEIGHT, Range, consistency_ranges, inclusion_ranges
from agentgate.core.note import NoteKey, checkpoint_of
from agentgate.core.subtrees import HashMissing, Read, Subtrees
from agentgate.core.tiles import Tile, bundle
from agentgate.ports.ambient import Worker
from agentgate.ports.log import LogReader, Tree

_READS_AT_ONCE: Final = 3
"""A store reads in threads or elsewhere; others want to read meanwhile."""


class Proofs:
    """Of a tree of a size that is signed. Reads are shared: many proofs cost little more than one."""

    def __init__(self, tree: Tree, worker: Worker) -> None:
        self._tree = tree
        self._worker = worker

    async def inclusions(self, indexes: Iterable[int], size: int) -> dict[int, list[bytes]]:
        """For each index the proof that its leaf is in the tree of `size` leaves (RFC 6962 §2.1.1), lowest hash first.

        Raises:
            ValueError: there is no such leaf in it.
            LogUnavailable: the hashes cannot be read, or the tree is not signed up to `size`.
        """
        return await self._proofs(lambda: {index: inclusion_ranges(index, size) for index in indexes})

    async def consistency(self, old: int, size: int) -> list[bytes]:
        """The proof that the tree of `size` leaves continues that of the first `old` ones (RFC 6962 §2.1.2).

        Raises:
            ValueError: the old tree is the larger one.
            LogUnavailable: as above.
        """
        return (await self._proofs(lambda: {old: consistency_ranges(old, size)}))[old]

    async def _proofs(self, ask: Callable[[], dict[int, list[Range]]]) -> dict[int, list[bytes]]:
        """Reads on the loop, and in the worker what takes long for thousands."""
        wanted = await self._worker.run(ask)
        subtrees = Subtrees(leaves for ranges in wanted.values() for leaves in ranges)
        reads = await self._worker.run(subtrees.reads)
        for start in range(0, len(reads), _READS_AT_ONCE):
            some = reads[start : start + _READS_AT_ONCE]
            for (level, first, _), found in zip(some, await self._read(some), strict=True):
                subtrees.feed(level, first, found)
        try:
            return await self._worker.run(
                lambda: {about: [subtrees.root(leaves) for leaves in ranges] for about, ranges in wanted.items()}
            )
        except HashMissing as error:
            raise LogBroken(f"{error}; run `log verify`") from error

    async def _read(self, reads: Sequence[Read]) -> list[list[bytes]]:
        return await asyncio.gather(*(self._tree.hashes(*read) for read in reads))


class TreeDesk:
    """The log's read side for monitors (c2sp.org/tlog-tiles): nothing beyond the newest signed checkpoint."""

    def __init__(self, tree: Tree, reader: LogReader, keys: Sequence[NoteKey], witnesses: Sequence[NoteKey]) -> None:
        """`keys`: the one that signs checkpoints now, then those that did earlier."""
        self._tree = tree
        self._reader = reader
        self.keys = tuple(keys)
        self.witnesses = tuple(witnesses)

    async def checkpoint(self) -> bytes | None:
        """The newest one, with its cosignatures. Raises LogUnavailable."""
        return await self._tree.checkpoint()

    async def tile(self, tile: Tile) -> bytes | None:
        """A tile's hashes or an entry bundle; None where the signed tree does not fill it. Raises LogUnavailable."""
        level = tile.level or 0
        note = await self._tree.checkpoint()
        size = 0 if note is None else checkpoint_of(note).size
        if size >> (TILE_HEIGHT * level) < tile.first + tile.width:
            return None
        if tile.level is None:
            return bundle(await self._leaves(tile))
        found = await self._tree.hashes(level, tile.first, tile.width)
        return b"".join(found) if len(found) == tile.width else None

    async def _leaves(self, tile: Tile) -> list[bytes]:
        leaves: list[bytes] = []
        async for record in self._reader.records(first=tile.first):
            leaves.append(record.leaf)
            if len(leaves) == tile.width:
                break
        return leaves
