"""C2SP `tlog-tiles`, `tlog-proof` and the request of `tlog-witness`: the forms in which the tree is read from outside.

A tile is 256 hashes of one level, or fewer at the tree's right edge; an entry bundle is the leaves of one level-0 tile.
Parsing is strict: one thing has one form. `Subtrees` says which hashes a proof takes, and makes it of them. Sources:
c2sp.org/tlog-tiles, c2sp.org/tlog-proof, c2sp.org/tlog-witness.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentgate.core import base64_text
from agentgate.core.merkle import EMPTY_ROOT, HASH_BYTES, TILE_HEIGHT, Range, node_hash

TILE_WIDTH: Final = 1 << TILE_HEIGHT
MAX_LEVEL: Final = 63
MAX_ENTRY_BYTES: Final = 65_535
"""What a bundle's length prefix of two bytes can say."""
MAX_CONSISTENCY_HASHES: Final = 63
"""c2sp.org/tlog-witness: no more than a tree of 2^63 leaves needs."""

_PROOF_HEADER: Final = "c2sp.org/tlog-proof@v1"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_GROUP: Final = re.compile(r"x[0-9]{3}", re.ASCII)
_LAST_GROUP: Final = re.compile(r"[0-9]{3}", re.ASCII)
_MAX_INDEX: Final = (1 << 63) - 1


class TileInvalid(ValueError):
    """The path, bundle, proof or request is none."""


# --- paths ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tile:
    """Which tile: its level (None: an entry bundle), its index there, and how many of its 256 places are filled."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Relative to the log's prefix."""
        level = "entries" if self.level is None else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{_grouped(self.index)}{partial}"

    @property
    def first(self) -> int:
        """The index, within its level, of its first hash or entry."""
        return self.index * TILE_WIDTH


def parse_tile(path: str) -> Tile:
    """The tile of a path as `Tile.path` makes it. Raises TileInvalid."""
    root, _, rest = path.partition("/")
    level, _, where = rest.partition("/")
    if root != "tile":
        raise TileInvalid("a tile's path starts with tile/")
    if level == "entries":
        found = None
    elif _NUMBER.fullmatch(level) is not None and int(level) <= MAX_LEVEL:
        found = int(level)
    else:
        raise TileInvalid(f"a tile's level is a number from 0 to {MAX_LEVEL}, or entries")
    number, partial, width = where.partition(".p/")
    if not partial:
        return Tile(found, _ungrouped(number))
    if _NUMBER.fullmatch(width) is None or not 0 < int(width) < TILE_WIDTH:
        raise TileInvalid(f"a partial tile's width is a number from 1 to {TILE_WIDTH - 1}")
    return Tile(found, _ungrouped(number), int(width))


def _grouped(number: int) -> str:
    """1234067 as x001/x234/067."""
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03}")
    return "/".join(reversed(groups))


def _ungrouped(text: str) -> int:
    *before, last = text.split("/")
    fits = _LAST_GROUP.fullmatch(last) and all(_GROUP.fullmatch(group) for group in before)
    if not fits or (before and before[0] == "x000") or len(before) > 6:
        raise TileInvalid("a tile's index is in groups of three digits, like x001/x234/067")
    number = int("".join(group[-3:] for group in (*before, last)))
    if number > _MAX_INDEX:
        raise TileInvalid("a tile's index is below 2^63")
    return number


# --- entry bundles ----------------------------------------------------------------------------------------


def bundle(leaves: Iterable[bytes]) -> bytes:
    """Leaves, each after its length. Raises ValueError for a leaf of more than 65,535 bytes."""
    parts: list[bytes] = []
    for leaf in leaves:
        if len(leaf) > MAX_ENTRY_BYTES:
            raise ValueError(f"a leaf has at most {MAX_ENTRY_BYTES} bytes, not {len(leaf)}")
        parts += (len(leaf).to_bytes(2, "big"), leaf)
    return b"".join(parts)


def parse_bundle(raw: bytes) -> list[bytes]:
    """The leaves of an entry bundle. Raises TileInvalid."""
    leaves: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
        if at + 2 > len(raw) or end > len(raw):
            raise TileInvalid("an entry bundle ends within an entry")
        leaves.append(raw[at + 2 : end])
        at = end
    if len(leaves) > TILE_WIDTH:
        raise TileInvalid(f"an entry bundle has at most {TILE_WIDTH} entries")
    return leaves


def parse_hashes(raw: bytes, width: int) -> list[bytes]:
    """The hashes of a tile that should have `width` of them. Raises TileInvalid."""
    if len(raw) != width * HASH_BYTES:
        raise TileInvalid(f"a tile of {width} hashes has {width * HASH_BYTES} bytes, not {len(raw)}")
    return [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)]


# --- proofs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TlogProof:
    """That the leaf at `index` is in the tree that `checkpoint` (a signed note) names. `extra` is not authenticated."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


def tlog_proof(index: int, hashes: Sequence[bytes], checkpoint_note: bytes) -> bytes:
    """A `.tlog-proof` file. The checkpoint is put in as it is."""
    lines = [_PROOF_HEADER, f"index {index}", *map(base64_text.encoded, hashes), "", ""]
    return "\n".join(lines).encode() + checkpoint_note


def parse_tlog_proof(raw: bytes) -> TlogProof:
    """What a `.tlog-proof` file says; nothing of it is verified. Raises TileInvalid."""
    head, note = _head_and_note(raw)
    if head[0] != _PROOF_HEADER:
        raise TileInvalid(f"a proof starts with the line {_PROOF_HEADER}")
    del head[0]
    extra = None
    if head and head[0].startswith("extra "):
        extra = base64_text.decoded(head.pop(0).removeprefix("extra "), TileInvalid)
    if not head:
        raise TileInvalid("a proof without an index")
    index = _number(head.pop(0), "index")
    return TlogProof(index, _hashes(head, MAX_LEVEL), note, extra)


@dataclass(frozen=True, slots=True)
class Consistency:
    """That the tree of `checkpoint` (a signed note) continues one of `old` leaves."""

    old: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes


def consistency_body(old: int, hashes: Sequence[bytes], checkpoint_note: bytes) -> bytes:
    """The body of a witness's `add-checkpoint`. The checkpoint is put in as it is."""
    return "\n".join([f"old {old}", *map(base64_text.encoded, hashes), "", ""]).encode() + checkpoint_note


def parse_consistency_body(raw: bytes) -> Consistency:
    """What an `add-checkpoint` body says; nothing of it is verified. Raises TileInvalid."""
    head, note = _head_and_note(raw)
    old = _number(head.pop(0), "old")
    return Consistency(old, _hashes(head, MAX_CONSISTENCY_HASHES), note)


def _head_and_note(raw: bytes) -> tuple[list[str], bytes]:
    """The lines before the first empty one, at least one, and what comes after it as it is."""
    head, blank, note = raw.partition(b"\n\n")
    if not blank or not note:
        raise TileInvalid("lines, an empty line and a checkpoint are wanted")
    try:
        return head.decode("ascii").split("\n"), note
    except UnicodeDecodeError:
        raise TileInvalid("what comes before the checkpoint is ASCII") from None


def _number(line: str, name: str) -> int:
    word, _, number = line.partition(" ")
    if word != name or _NUMBER.fullmatch(number) is None or int(number) > _MAX_INDEX:
        raise TileInvalid(f"a line «{name} number» is wanted, without leading zeros")
    return int(number)


def _hashes(lines: Sequence[str], limit: int) -> tuple[bytes, ...]:
    if len(lines) > limit:
        raise TileInvalid(f"a proof has at most {limit} hashes")
    found = tuple(base64_text.decoded(line, TileInvalid) for line in lines)
    if any(len(one) != HASH_BYTES for one in found):
        raise TileInvalid(f"a hash has {HASH_BYTES} bytes")
    return found


# --- hashes -----------------------------------------------------------------------------------------------

Read = tuple[int, int, int]
"""A tile level, the first index there, and how many hashes from it on."""

_Node = tuple[int, int]
"""A height h above the leaves and an index there: the leaves from index * 2^h on, 2^h of them."""
_TILES_AT_ONCE: Final = 16
_WIDEST_GAP: Final = 4
"""So many tiles that nobody asked for are read along rather than asking twice."""


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
    """The widest perfect subtrees that make up the range, from left to right."""
    first, end = leaves
    while first < end:
        fits = (end - first).bit_length() - 1
        height = min(fits, (first & -first).bit_length() - 1) if first else fits
        yield height, first >> height
        first += 1 << height
