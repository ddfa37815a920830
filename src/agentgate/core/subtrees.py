"""Roots of parts of the tree, from the hashes of its tiles: what a proof is made of, and what a monitor checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from agentgate.core.merkle import EMPTY_ROOT, TILE_HEIGHT, Range, node_hash
from agentgate.core.tiles import TILE_WIDTH

Read = tuple[int, int, int]
"""A tile level, the first index there, and how many hashes from it on."""

_Node = tuple[int, int]
"""A height h above the leaves and an index there: the leaves from index * 2^h on, 2^h of them."""
_TILES_AT_ONCE: Final = 16
_WIDEST_GAP: Final = 4
"""What lies between two tiles that are so close together is read along rather than asking twice."""


class HashMissing(ValueError):
    """The tree that was read does not have a hash that was asked for."""


class Subtrees:
    """The roots of ranges of leaves, from tile hashes: make it, `feed` it what `reads` says, then ask for `root`.

    The ranges are those of a proof (core/merkle.py) or of a whole tree: perfect subtrees, or rows of them that end
    where a tree ends.
    """

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._wanted: dict[tuple[int, int], set[_Node]] = defaultdict(set)
        """Of each tile, by level and index, the nodes that are needed of it."""
        for node in {node for leaves in ranges for node in _perfect(leaves)}:
            level, height = divmod(node[0], TILE_HEIGHT)
            self._wanted[level, node[1] >> (TILE_HEIGHT - height)].add(node)
        self._found: dict[_Node, bytes] = {}
        self._roots: dict[Range, bytes] = {(0, 0): EMPTY_ROOT}

    def reads(self) -> list[Read]:
        """What to read; where a tree ends there may be less. Tiles that lie close together are one read."""
        found: list[Read] = []
        first_of, last_of = (-1, 0), -1
        for level, index in sorted(self._wanted):
            level_of, first = first_of
            if level == level_of and index - last_of <= _WIDEST_GAP and index - first < _TILES_AT_ONCE:
                found.pop()
            else:
                first_of, first = (level, index), index
            last_of = index
            found.append((level, first * TILE_WIDTH, (index - first + 1) * TILE_WIDTH))
        return found

    def feed(self, level: int, first: int, hashes: Sequence[bytes]) -> None:
        """The hashes of a tile level from index `first` on, which is where a tile starts."""
        for start in range(0, len(hashes), TILE_WIDTH):
            tile = (first + start) // TILE_WIDTH
            wanted = self._wanted.get((level, tile))
            if wanted:
                self._keep(level, tile, wanted, hashes[start : start + TILE_WIDTH])

    def _keep(self, level: int, tile: int, wanted: set[_Node], row: Sequence[bytes]) -> None:
        bottom = level * TILE_HEIGHT
        highest = max(height for height, _ in wanted)
        for height in range(bottom, highest + 1):
            if height > bottom:
                row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)]
            offset = tile << (TILE_HEIGHT + bottom - height)
            for node in wanted:
                if node[0] == height and node[1] - offset < len(row):
                    self._found[node] = row[node[1] - offset]

    def root(self, leaves: Range) -> bytes:
        """Raises HashMissing."""
        known = self._roots.get(leaves)
        if known is None:
            try:
                *rest, known = [self._found[node] for node in _perfect(leaves)]
            except KeyError:
                raise HashMissing(f"the tree that is read does not reach leaf {leaves[1] - 1}") from None
            for left in reversed(rest):
                known = node_hash(left, known)
            self._roots[leaves] = known
        return known


def _perfect(leaves: Range) -> Iterator[_Node]:
    """The widest perfect subtrees that make up the range, from left to right. It starts where one begins that is at
    least as wide as the range: what fits into it lies where a subtree does."""
    first, end = leaves
    while first < end:
        height = (end - first).bit_length() - 1
        yield height, first >> height
        first += 1 << height
