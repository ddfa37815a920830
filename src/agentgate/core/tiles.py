"""C2SP `tlog-tiles`, `tlog-proof` and the request of `tlog-witness`: the forms in which the tree is read from outside.

A tile is 256 hashes of one level, or fewer at the tree's right edge; an entry bundle is the leaves of one level-0 tile.
Parsing is strict: one thing has one form. Sources: c2sp.org/tlog-tiles, c2sp.org/tlog-proof, c2sp.org/tlog-witness.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agentgate.core import base64_text
from agentgate.core.merkle import HASH_BYTES, TILE_HEIGHT

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
        if end > len(raw):
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
