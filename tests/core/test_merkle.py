"""The tree against RFC 6962's own vectors, and properties that no vector can show."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    continues,
    includes,
    inclusion_proof,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    root,
)

# The inputs and roots of the reference implementation of Certificate Transparency (merkletree/merkle_tree_test).
INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(data) for data in INPUTS]

sizes = st.integers(1, 80)


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % n) for n in range(count)]


def reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(reference_root(leaves[:k]), reference_root(leaves[k:]))


def test_the_empty_tree() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root([]) == EMPTY_ROOT


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_of_the_reference_implementation(size: int) -> None:
    assert root(LEAVES[:size]).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (
            0,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    ],
)
def test_inclusion_paths_of_the_reference_implementation(index: int, size: int, path: list[str]) -> None:
    proof = inclusion_proof(LEAVES[:size], index)
    assert [node.hex() for node in proof] == path
    assert includes(root(LEAVES[:size]), size, index, LEAVES[index], proof)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (1, 1, []),
        (
            1,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            [
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_consistency_paths_of_the_reference_implementation(old: int, new: int, path: list[str]) -> None:
    proof = consistency_proof(LEAVES[:new], old)
    assert [node.hex() for node in proof] == path
    assert continues(root(LEAVES[:old]), old, root(LEAVES[:new]), new, proof)


@given(size=st.integers(0, 200))
def test_the_frontier_has_the_root_that_the_rfc_defines(size: int) -> None:
    leaves = some_leaves(size)
    assert root(leaves) == reference_root(leaves)


@given(size=sizes)
def test_a_frontier_that_was_stored_goes_on_as_if_it_had_not_been(size: int) -> None:
    leaves = some_leaves(size + 9)
    frontier = Frontier()
    frontier.extend(leaves[:size])
    again = Frontier.from_bytes(frontier.to_bytes())
    again.extend(leaves[size:])
    assert (again.size, again.root()) == (size + 9, root(leaves))
    assert frontier.root() == root(leaves[:size])


@given(size=sizes)
def test_a_frontiers_subtrees_are_the_roots_of_the_leaves_they_cover(size: int) -> None:
    leaves = some_leaves(size)
    frontier = Frontier()
    frontier.extend(leaves)
    ranges = [covered for covered, _ in frontier.subtrees()]
    assert [index for first, end in ranges for index in range(first, end)] == list(range(size))
    assert all(root(leaves[first:end]) == found for (first, end), found in frontier.subtrees())


@pytest.mark.parametrize(
    "raw", [b"", b"\0" * 9, b"\0" * 7 + b"\1", b"\0" * 7 + b"\1" + b"x" * 33, b"\0" * 8 + b"x" * 32]
)
def test_a_frontier_with_stray_bytes_is_refused(raw: bytes) -> None:
    if raw == b"":
        assert Frontier.from_bytes(bytes(8)).size == 0
    with pytest.raises(ValueError, match="frontier"):
        Frontier.from_bytes(raw)


def test_every_inclusion_proof_up_to_seventy_leaves_verifies_and_no_other_place_does() -> None:
    for size in range(1, 70):
        leaves = some_leaves(size)
        whole = root(leaves)
        for index in range(size):
            proof = inclusion_proof(leaves, index)
            assert includes(whole, size, index, leaves[index], proof)
            assert not includes(whole, size, (index + 1) % size, leaves[index], proof) or size == 1
            assert len(proof) == len(inclusion_ranges(index, size))


def test_every_consistency_proof_up_to_fifty_leaves_verifies() -> None:
    for new in range(1, 50):
        leaves = some_leaves(new)
        for old in range(new + 1):
            proof = consistency_proof(leaves, old)
            assert continues(root(leaves[:old]), old, root(leaves), new, proof)


@given(size=st.integers(2, 60), data=st.data())
def test_any_changed_bit_of_an_inclusion_proof_is_noticed(size: int, data: st.DataObject) -> None:
    leaves = some_leaves(size)
    index = data.draw(st.integers(0, size - 1))
    parts = [leaves[index], root(leaves), *inclusion_proof(leaves, index)]
    changed = _flip_one_bit(parts, data)
    assert not includes(changed[1], size, index, changed[0], changed[2:])


@given(new=st.integers(2, 60), data=st.data())
def test_any_changed_bit_of_a_consistency_proof_is_noticed(new: int, data: st.DataObject) -> None:
    leaves = some_leaves(new)
    old = data.draw(st.integers(1, new))
    parts = [root(leaves[:old]), root(leaves), *consistency_proof(leaves, old)]
    changed = _flip_one_bit(parts, data)
    assert not continues(changed[0], old, changed[1], new, changed[2:])


@given(new=st.integers(2, 60), data=st.data())
def test_a_proof_with_a_hash_more_or_less_is_refused(new: int, data: st.DataObject) -> None:
    leaves = some_leaves(new)
    index = data.draw(st.integers(0, new - 1))
    old = data.draw(st.integers(1, new - 1))
    inclusion, consistency = inclusion_proof(leaves, index), consistency_proof(leaves, old)
    for proof in (inclusion[:-1], inclusion[1:], [*inclusion, leaves[0]], [leaves[0], *inclusion]):
        assert not includes(root(leaves), new, index, leaves[index], proof)
    for proof in (consistency[:-1], consistency[1:], [*consistency, leaves[0]], [leaves[0], *consistency]):
        assert not continues(root(leaves[:old]), old, root(leaves), new, proof)


@given(new=st.integers(2, 40), data=st.data())
def test_a_rewritten_past_cannot_be_proven_consistent(new: int, data: st.DataObject) -> None:
    leaves = some_leaves(new)
    old = data.draw(st.integers(1, new))
    rewritten = list(leaves)
    rewritten[data.draw(st.integers(0, old - 1))] = leaf_hash(b"another")
    assert not continues(root(leaves[:old]), old, root(rewritten), new, consistency_proof(rewritten, old))


def test_impossible_places_are_refused() -> None:
    leaves = some_leaves(4)
    for index, size in itertools.product((-1, 4, 5), (0, 4)):
        assert not includes(root(leaves), size, index, leaves[0], [])
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_ranges(index, size)
    with pytest.raises(ValueError, match="does not continue"):
        consistency_proof(leaves, 5)
    assert not continues(root(leaves), 5, root(leaves), 4, [])
    assert not continues(root(leaves), 4, root(leaves), 4, [leaves[0]])
    assert not continues(EMPTY_ROOT, 0, root(leaves), 4, [leaves[0]])
    assert not continues(root(leaves[:1]), 1, root(leaves), 4, [b"short"])
    assert not continues(root(leaves[:3]), 3, root(leaves), 4, [])


def _flip_one_bit(parts: list[bytes], data: st.DataObject) -> list[bytes]:
    changed = list(parts)
    which = data.draw(st.integers(0, len(parts) - 1))
    bit = data.draw(st.integers(0, 255))
    turned = bytearray(changed[which])
    turned[bit // 8] ^= 1 << bit % 8
    changed[which] = bytes(turned)
    return changed


def test_hashes_cut_at_another_place_prove_nothing() -> None:
    """Their concatenation is the same, and so would be what is made of it."""
    one, two = LEAVES[:2]
    whole = root([one, two])
    assert includes(whole, 2, 0, one, [two])
    assert not includes(whole, 2, 0, one + two[:1], [two[1:]])
    assert continues(one, 1, whole, 2, [two])
    assert not continues(one + two[:1], 1, whole, 2, [two[1:]])
    assert not includes(one, 1, 1, one, [])


def test_copy_grows_without_its_original() -> None:
    frontier = Frontier()
    frontier.extend(LEAVES[:3])
    twin = frontier.copy()
    twin.extend(LEAVES[3:5])
    assert (frontier.size, frontier.root()) == (3, root(LEAVES[:3]))
    assert (twin.size, twin.root()) == (5, root(LEAVES[:5]))
