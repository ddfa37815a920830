"""The Merkle tree of RFC 6962: roots, the compact range that grows one, proofs, and their verification.

Everything here works on *leaf hashes*; what a leaf holds is core/event.py's matter. Proofs are described as the
ranges of leaves whose roots they consist of, so that whoever keeps tiles need not keep leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves (RFC 6962 §2.1)."""

TILE_HEIGHT: Final = 8
"""Levels of the tree that lie in one tile (C2SP tlog-tiles): it is 256 hashes wide."""

Range = tuple[int, int]
"""Leaves from the first index up to, not including, the second."""

TileHash = tuple[int, int, bytes]
"""A tile level from 1 on, an index in it, and the root of the 256^level leaves that lie there."""


def last_leaf(tile_hash: TileHash) -> int:
    """The index of the last leaf that a tile hash is over."""
    level, index, _ = tile_hash
    return ((index + 1) << (TILE_HEIGHT * level)) - 1


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 6962 §2.1: SHA-256(0x00 ‖ leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 §2.1: SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree's compact range: the roots of its perfect subtrees, widest first, at most one per bit of its size.

    That is all one needs to append to a tree and to know its root.
    """

    __slots__ = ("_roots", "size")

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def append(self, leaf: bytes) -> Sequence[TileHash]:
        """Add one leaf hash; the tile hashes above the leaves that this completes, lowest level first."""
        roots = self._roots
        carry, height = self.size, 0
        completed: list[TileHash] = []
        while carry & 1:
            leaf = node_hash(roots.pop(), leaf)
            carry >>= 1
            height += 1
            if not height % TILE_HEIGHT:
                completed.append((height // TILE_HEIGHT, carry, leaf))
        roots.append(leaf)
        self.size += 1
        return completed

    def extend(self, leaves: Iterable[bytes]) -> list[TileHash]:
        """Add leaf hashes; the tile hashes that they complete, as they come."""
        return [completed for leaf in leaves for completed in self.append(leaf)]

    def root(self) -> bytes:
        if not self._roots:
            return EMPTY_ROOT
        found = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            found = node_hash(left, found)
        return found

    def subtrees(self) -> list[tuple[Range, bytes]]:
        """Each perfect subtree with the leaves it covers, widest first."""
        found: list[tuple[Range, bytes]] = []
        first = 0
        for width, root in zip(_widths(self.size), self._roots, strict=True):
            found.append(((first, first + width), root))
            first += width
        return found

    def copy(self) -> Frontier:
        twin = Frontier()
        twin.size, twin._roots = self.size, list(self._roots)
        return twin

    def to_bytes(self) -> bytes:
        """Eight bytes of size, then the subtree roots."""
        return self.size.to_bytes(8, "big") + b"".join(self._roots)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Frontier:
        """Raises ValueError for bytes that `to_bytes` cannot have made."""
        found = cls()
        found.size = int.from_bytes(raw[:8], "big")
        found._roots = [raw[at : at + HASH_BYTES] for at in range(8, len(raw), HASH_BYTES)]
        if len(raw) != 8 + HASH_BYTES * found.size.bit_count():
            raise ValueError(f"a frontier of size {found.size} does not have {len(raw)} bytes")
        return found


def root(leaves: Iterable[bytes]) -> bytes:
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The subtrees whose roots are the inclusion proof of `index`, lowest first (RFC 6962 §2.1.1).

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    found: list[Range] = []
    first, end = 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((first, middle))
            first = middle
    return found[::-1]


def consistency_ranges(old: int, size: int) -> list[Range]:
    """The subtrees whose roots prove that a tree of `size` continues one of `old` (RFC 6962 §2.1.2).

    Raises:
        ValueError: the old tree is larger than the new one.
    """
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {size} does not continue one of {old}")
    if old in (0, size):
        return []
    found: list[Range] = []
    first, end = 0, size
    while end != old:
        middle = first + _split(end - first)
        if old <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((first, middle))
            first = middle
    if first:  # else the verifier knows this subtree: it is the whole old tree
        found.append((first, end))
    return found[::-1]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    return [root(leaves[first:end]) for first, end in inclusion_ranges(index, len(leaves))]


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    return [root(leaves[first:end]) for first, end in consistency_ranges(old, len(leaves))]


def includes(tree_root: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that leaf hash `leaf` is at `index` of the tree (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size or not _are_hashes((leaf, *proof)):
        return False
    node, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            node, last = _to_right_child(node, last)
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and found == tree_root


def continues(old_root: bytes, old: int, new_root: bytes, new: int, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the new tree starts with the whole old one (RFC 9162 §2.1.4.2)."""
    if not 0 <= old <= new or not _are_hashes((old_root, new_root, *proof)):
        return False
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old.bit_count() == 1 else list(proof)
    if not path:
        return False
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    from_old = from_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            from_old, from_new = node_hash(sibling, from_old), node_hash(sibling, from_new)
            node, last = _to_right_child(node, last)
        else:
            from_new = node_hash(from_new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and from_old == old_root and from_new == new_root


def _to_right_child(node: int, last: int) -> tuple[int, int]:
    """Skip the levels at which `node` has no right sibling: there it is promoted, not hashed."""
    while node and not node & 1:
        node, last = node >> 1, last >> 1
    return node, last


def _split(size: int) -> int:
    """The largest power of two below `size`: where RFC 6962 cuts a tree in two."""
    return 1 << ((size - 1).bit_length() - 1)


def _widths(size: int) -> list[int]:
    """The widths of a tree's perfect subtrees: its bits, highest first."""
    return [1 << bit for bit in range(size.bit_length() - 1, -1, -1) if size >> bit & 1]


def _are_hashes(values: Iterable[bytes]) -> bool:
    return all(len(value) == HASH_BYTES for value in values)
