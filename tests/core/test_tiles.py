"""Tiles, entry bundles, proofs and witness requests as C2SP has them, and what a proof takes of the tiles."""

from __future__ import annotations

import base64
import string
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentgate.core import merkle
from agentgate.core.subtrees import HashMissing, Subtrees
from agentgate.core.tiles import (
    MAX_ENTRY_BYTES,
    MAX_LEVEL,
    Consistency,
    Tile,
    TileInvalid,
    TlogProof,
    bundle,
    consistency_body,
    parse_bundle,
    parse_consistency_body,
    parse_hashes,
    parse_tile,
    parse_tlog_proof,
    tlog_proof,
)

NUMBERS = st.integers(0, (1 << 63) - 1)
HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=63)
NOTES = st.binary(min_size=1, max_size=200)
TILES = st.builds(Tile, st.none() | st.integers(0, MAX_LEVEL), NUMBERS, st.integers(1, 256))

# --- paths ---


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 999), "tile/0/999"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(0, 273, 112), "tile/0/273.p/112"),
        (Tile(63, 1_234_067, 1), "tile/63/x001/x234/067.p/1"),
        (Tile(None, 1_234_067), "tile/entries/x001/x234/067"),
        (Tile(0, (1 << 63) - 1), "tile/0/x009/x223/x372/x036/x854/x775/807"),
    ],
)
def test_a_tile_has_the_path_that_c2sp_gives_it(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_tile(path) == tile


@given(TILES)
def test_every_tile_is_read_back_from_its_path(tile: Tile) -> None:
    assert parse_tile(tile.path) == tile


HOSTILE = [
    "",
    "/",
    "tile",
    "tile/",
    "tile/0",
    "tile/0/",
    "tile//000",
    "/tile/0/000",
    "tile/0/000/",
    "tiles/0/000",
    "tile/00/000",
    "tile/64/000",
    "tile/-1/000",
    "tile/+1/000",
    "tile/0x0/000",
    "tile/٠/000",
    "tile/0/٠٠٠",
    "tile/data/000",
    "tile/0/0",
    "tile/0/00",
    "tile/0/0000",
    "tile/0/x000/000",
    "tile/0/x000/x001/000",
    "tile/0/001/000",
    "tile/0/x001",
    "tile/0/X001/000",
    "tile/0/x001//000",
    "tile/0/000.p",
    "tile/0/000.p/",
    "tile/0/000.p/0",
    "tile/0/000.p/256",
    "tile/0/000.p/01",
    "tile/0/000.p/1/",
    "tile/0/000.p/1.p/1",
    "tile/0/000.P/1",
    "tile/0/000.p/+1",
    "tile/0/../entries/000",
    "tile/0/%30%30%30",
    "tile/0/000\n",
    "tile/0/000 ",
    "tile/0/000\x00",
    "tile/0/" + "x999/" * 6 + "999",
    "tile/0/" + "x999/" * 40 + "999",
    "tile/0/x009/x223/x372/x036/x854/x775/808",
    "tile/" + "9" * 5000 + "/000",
    "tile/0/000.p/" + "9" * 5000,
    "tile/entries",
    "tile/Entries/000",
    "tile/entries/0",
]


@pytest.mark.parametrize("path", HOSTILE, ids=[ascii(path)[:40] for path in HOSTILE])
def test_a_path_that_is_no_tiles_is_refused(path: str) -> None:
    with pytest.raises(TileInvalid):
        parse_tile(path)


@given(st.text(alphabet="tile/0x19.p" + string.ascii_lowercase, max_size=30))
def test_what_is_read_from_a_path_is_written_the_same_way(path: str) -> None:
    """One tile has one path: else a cache would keep several."""
    for text in (path, f"tile/0/{path}", f"tile/{path}/000"):
        try:
            tile = parse_tile(text)
        except TileInvalid:
            continue
        assert tile.path == text


# --- bundles ---


@given(st.lists(st.binary(max_size=300), max_size=256))
@example([b"a"] * 256)
def test_a_bundle_gives_its_leaves_back(leaves: list[bytes]) -> None:
    assert parse_bundle(bundle(leaves)) == leaves


def test_a_leaf_is_as_long_as_two_bytes_can_say_and_no_longer() -> None:
    assert parse_bundle(bundle([bytes(MAX_ENTRY_BYTES)])) == [bytes(MAX_ENTRY_BYTES)]
    with pytest.raises(ValueError, match="at most 65535"):
        bundle([bytes(MAX_ENTRY_BYTES + 1)])


@pytest.mark.parametrize("raw", [b"\0", b"\0\2a", b"\0\1ab", b"\xff\xff", b"\0\0" * 257])
def test_a_bundle_that_ends_within_a_leaf_or_is_too_long_is_refused(raw: bytes) -> None:
    with pytest.raises(TileInvalid):
        parse_bundle(raw)


def test_a_tile_of_hashes_has_exactly_its_width() -> None:
    assert parse_hashes(bytes(64), 2) == [bytes(32)] * 2
    for raw in (b"", bytes(32), bytes(63), bytes(65), bytes(96)):
        with pytest.raises(TileInvalid):
            parse_hashes(raw, 2)


# --- proofs ---

LARGEST = ((1 << 63) - 1, [bytes(32)] * 63, b"note")
"""As many leaves as a tree may have, and as many hashes as it takes to prove something of it."""


@given(NUMBERS, HASHES, NOTES)
@example(*LARGEST)
def test_a_proof_is_read_back_as_it_was_written(index: int, hashes: list[bytes], note: bytes) -> None:
    assert parse_tlog_proof(tlog_proof(index, hashes, note)) == TlogProof(index, tuple(hashes), note)


@given(NUMBERS, HASHES, NOTES)
@example(*LARGEST)
def test_a_witness_request_is_read_back_as_it_was_written(old: int, hashes: list[bytes], note: bytes) -> None:
    assert parse_consistency_body(consistency_body(old, hashes, note)) == Consistency(old, tuple(hashes), note)


def test_a_proof_is_what_the_specification_shows() -> None:
    raw = tlog_proof(73_894, [bytes(32)], b"example.com/fancylog\n109482\n")
    zeros = base64.b64encode(bytes(32)).decode()
    assert raw.decode() == (f"c2sp.org/tlog-proof@v1\nindex 73894\n{zeros}\n\nexample.com/fancylog\n109482\n")
    extra = raw.replace(b"\nindex", b"\nextra aGk=\nindex")
    assert parse_tlog_proof(extra).extra == b"hi"


H = base64.b64encode(bytes(32))
BROKEN = [
    b"",
    b"\n\n",
    b"old 1",
    b"old 1\n\n",
    b"old 1\nx",
    b"old 01\n\nc",
    b"old -1\n\nc",
    b"old\n\nc",
    b"old 1 \n\nc",
    b"new 1\n\nc",
    b"old 1\n" + H[:-2] + b"\n\nc",
    b"old 1\n" + H[:-4] + b"\n\nc",
    b"old 1\n " + H + b"\n\nc",
    b"old 1\r\n\r\nc",
    b"old \xd9\xa1\n\nc",
    b"old 9999999999999999999\n\nc",
    b"old 1\n" + (H + b"\n") * 64 + b"\nc",
    b"\nold 1\n\nc",
]


@pytest.mark.parametrize("raw", BROKEN)
def test_a_witness_request_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(TileInvalid):
        parse_consistency_body(raw)


@pytest.mark.parametrize(
    "raw",
    [
        *(raw.replace(b"old", b"c2sp.org/tlog-proof@v1\nindex") for raw in BROKEN),
        b"index 1\n\nc",
        b"c2sp.org/tlog-proof@v2\nindex 1\n\nc",
        b"c2sp.org/tlog-proof@v1\n\nc",
        b"c2sp.org/tlog-proof@v1\nextra aGk=\n\nc",
        b"c2sp.org/tlog-proof@v1\nindex 1\nextra aGk=\n\nc",
        b"c2sp.org/tlog-proof@v1\nextra aGk\nindex 1\n\nc",
        b"c2sp.org/tlog-proof@v1 \nindex 1\n\nc",
    ],
)
def test_a_proof_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(TileInvalid):
        parse_tlog_proof(raw)


# --- hashes ---


class Levels:
    """A tree by its tile levels, which counts what is read of it."""

    def __init__(self, size: int) -> None:
        self.leaves = [merkle.leaf_hash(b"%d" % index) for index in range(size)]
        frontier = merkle.Frontier()
        self.levels: dict[int, list[bytes]] = {0: self.leaves}
        for level, index, found in frontier.extend(self.leaves):
            assert len(self.levels.setdefault(level, [])) == index
            self.levels[level].append(found)
        self.root = frontier.root()
        self.read = 0

    def prove(self, ranges: list[merkle.Range]) -> list[bytes]:
        subtrees = Subtrees(ranges)
        for level, first, count in subtrees.reads():
            assert first % 256 == 0
            found = self.levels.get(level, [])[first : first + count]
            self.read += len(found)
            subtrees.feed(level, first, found)
        return [subtrees.root(leaves) for leaves in ranges]


SIZES = [1, 2, 3, 7, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 66_049, 70_000]
TREES = {size: Levels(size) for size in SIZES}


@pytest.mark.parametrize(
    ("tiles", "reads"),
    [
        ([], []),
        ([0], [(0, 0, 1)]),
        ([7], [(0, 7, 1)]),
        ([1, 5], [(0, 1, 5)]),
        ([1, 6], [(0, 1, 1), (0, 6, 1)]),
        (range(16), [(0, 0, 16)]),
        (range(3, 21), [(0, 3, 16), (0, 19, 2)]),
    ],
)
def test_tiles_that_lie_close_together_are_one_read(tiles: Iterable[int], reads: list[tuple[int, int, int]]) -> None:
    leaves = [(tile * 256 + 9, tile * 256 + 10) for tile in tiles]
    assert Subtrees(leaves).reads() == [(level, first * 256, count * 256) for level, first, count in reads]


def test_each_level_is_a_read_of_its_own() -> None:
    """A subtree of a whole tile is one hash of the level above it."""
    ranges = [(3, 4), (256, 512), (65_536, 131_072), (131_072, 131_072 + 65_536 + 256 + 2)]
    assert Subtrees(ranges).reads() == [(0, 0, 256), (0, 769 * 256, 256), (1, 0, 4 * 256), (2, 0, 256)]


def test_tile_hashes_are_the_roots_of_their_subtrees() -> None:
    tree = Levels(66_049)
    assert [len(tree.levels[level]) for level in sorted(tree.levels)] == [66_049, 258, 1]
    for at in (0, 1, 255, 256, 257):
        assert tree.levels[1][at] == merkle.root(tree.leaves[at * 256 : at * 256 + 256])
    assert tree.levels[2][0] == merkle.root(tree.leaves[:65_536])
    assert merkle.last_leaf((2, 0, b"")) == 65_535


@given(st.sampled_from(SIZES), st.data())
def test_inclusion_is_proven_from_tiles_at_every_edge(size: int, data: st.DataObject) -> None:
    tree, index = TREES[size], data.draw(st.integers(0, size - 1) | st.just(size - 1))
    proof = tree.prove(merkle.inclusion_ranges(index, size))
    assert merkle.includes(tree.root, size, index, tree.leaves[index], proof)


@given(st.sampled_from(SIZES), st.data())
def test_consistency_is_proven_from_tiles_of_any_older_size(size: int, data: st.DataObject) -> None:
    tree, old = (
        TREES[size],
        data.draw(st.integers(0, size) | st.sampled_from([found for found in SIZES if found <= size])),
    )
    proof = tree.prove(merkle.consistency_ranges(old, size))
    assert merkle.continues(merkle.root(tree.leaves[:old]), old, tree.root, size, proof)


def test_a_proof_reads_a_few_tiles_of_a_large_tree() -> None:
    tree = TREES[70_000]
    tree.read = 0
    tree.prove([leaves for index in range(1_000, 1_100) for leaves in merkle.inclusion_ranges(index, 70_000)])
    assert tree.read <= 6 * 256


def test_a_hash_that_the_tree_does_not_have_is_missed() -> None:
    with pytest.raises(HashMissing):
        Levels(300).prove([(0, 301)])
    assert Levels(300).prove([(0, 0)]) == [merkle.EMPTY_ROOT]
