"""Proofs and tiles over a log in memory."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from agentgate.core import merkle
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.note import NoteKey
from agentgate.core.tiles import Tile, parse_bundle, parse_hashes
from agentgate.pipeline.records.tree import Proofs, TreeDesk
from tests.contracts.log import Author
from tests.fakes import LOG_KEY, AtOnce, MemoryLog

WITNESS = NoteKey("witness.example", bytes(32))


@pytest.fixture(scope="module")
def log() -> MemoryLog:
    """300 events of which 290 are signed."""
    made, author = MemoryLog(), Author()
    for number in range(300):
        made.append_now(author.decided(f"s-{number % 3}"))
    made.signed = 290
    return made


@pytest.fixture(scope="module")
def leaves(log: MemoryLog) -> list[bytes]:
    return [event.leaf for event, _ in log.events]


def desk(log: MemoryLog) -> TreeDesk:
    return TreeDesk(log, log, [LOG_KEY], [])


async def test_every_leaf_is_proven_at_every_size(log: MemoryLog, leaves: list[bytes]) -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    for size in (1, 2, 255, 256, 257, 290):
        root = merkle.root(hashes[:size])
        found = await Proofs(log, AtOnce()).inclusions(range(size), size)
        assert all(merkle.includes(root, size, index, hashes[index], found[index]) for index in range(size))


async def test_every_size_continues_every_smaller_one(log: MemoryLog, leaves: list[bytes]) -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    for old, new in itertools.combinations_with_replacement((0, 1, 2, 200, 256, 289, 290), 2):
        proof = await Proofs(log, AtOnce()).consistency(old, new)
        assert merkle.continues(merkle.root(hashes[:old]), old, merkle.root(hashes[:new]), new, proof)


async def test_many_proofs_read_no_hash_twice(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes, reads = log.hashes, Counter[tuple[int, int]]()

    async def watched(level: int, first: int, count: int) -> list[bytes]:
        reads.update((level, at) for at in range(first, first + count))
        return await hashes(level, first, count)

    monkeypatch.setattr(log, "hashes", watched)
    await Proofs(log, AtOnce()).inclusions(range(290), 290)
    assert set(reads.values()) == {1}


async def test_what_is_not_there_is_not_proven(log: MemoryLog) -> None:
    with pytest.raises(ValueError, match="no leaf 290"):
        await Proofs(log, AtOnce()).inclusions([290], 290)
    with pytest.raises(ValueError, match="does not continue"):
        await Proofs(log, AtOnce()).consistency(291, 290)
    with pytest.raises(LogBroken, match="does not reach.*; run `log verify`$"):
        await Proofs(log, AtOnce()).inclusions([0], 291)


@pytest.mark.parametrize("width", [1, 33, 34])
@pytest.mark.parametrize("level", [0, None])
async def test_tiles_are_what_is_signed(log: MemoryLog, leaves: list[bytes], level: int | None, width: int) -> None:
    found = await desk(log).tile(Tile(level, 1, width))
    assert found is not None
    expected = leaves[256 : 256 + width]
    if level is None:
        assert parse_bundle(found) == expected
    else:
        assert parse_hashes(found, width) == [merkle.leaf_hash(leaf) for leaf in expected]


async def test_a_tile_of_the_next_level_has_the_roots_of_whole_ones(log: MemoryLog, leaves: list[bytes]) -> None:
    found = await desk(log).tile(Tile(1, 0, 1))
    assert found == merkle.root([merkle.leaf_hash(leaf) for leaf in leaves[:256]])


def test_the_desk_says_whose_signatures_checkpoints_have(log: MemoryLog) -> None:
    made = TreeDesk(log, log, [LOG_KEY], [WITNESS])
    assert (made.keys, made.witnesses) == ((LOG_KEY,), (WITNESS,))


@pytest.mark.parametrize(
    "tile",
    [Tile(0, 1, 35), Tile(0, 1), Tile(None, 1, 35), Tile(None, 1), Tile(0, 2, 1), Tile(1, 0, 2), Tile(1, 0),
     Tile(2, 0, 1), Tile(63, 0, 1), Tile(0, (1 << 63) - 1), Tile(None, (1 << 63) - 1, 1)],
)  # fmt: skip
async def test_no_tile_reaches_beyond_what_is_signed(
    log: MemoryLog, tile: Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a store asked for it: the numbers may be larger than any that it takes."""
    for read in ("hashes", "records"):
        monkeypatch.setattr(log, read, None)
    assert await desk(log).tile(tile) is None


async def test_a_store_that_has_lost_hashes_gives_no_shorter_tile(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = log.hashes
    monkeypatch.setattr(log, "hashes", lambda level, first, count: hashes(level, first, count - 1))
    assert await desk(log).tile(Tile(0, 0, 200)) is None


async def test_a_log_without_a_checkpoint_has_no_tile() -> None:
    empty = MemoryLog()
    empty.append_now(Author().decided())
    assert await desk(empty).checkpoint() is None
    assert await desk(empty).tile(Tile(0, 0, 1)) is None


async def test_a_log_that_does_not_answer_is_said() -> None:
    down = MemoryLog()
    down.is_down = True
    with pytest.raises(LogUnavailable):
        await desk(down).checkpoint()
    with pytest.raises(LogUnavailable):
        await desk(down).tile(Tile(0, 0, 1))
    with pytest.raises(LogUnavailable):
        await Proofs(down, AtOnce()).inclusions([0], 2)
