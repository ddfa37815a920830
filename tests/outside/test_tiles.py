"""A log as tiles (C2SP tlog-tiles), every entry and every tile of it read by Go's sumdb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentgate.core.merkle import root
from agentgate.core.tiles import TILE_WIDTH, Tile, bundle
from tests.outside import tools
from tests.outside.tools import flipped
from tests.packs import Maker, a_secret, log_key

VKEY = log_key().text


def publish(maker: Maker, folder: Path) -> Path:
    """The files of a log, by the plainest code there is."""

    def put(path: str, content: bytes) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

    put("checkpoint", maker.checkpoint())
    level, hashes = 0, maker.hashes
    while hashes:
        for index, first in enumerate(range(0, len(hashes), TILE_WIDTH)):
            some = hashes[first : first + TILE_WIDTH]
            put(Tile(level, index, len(some)).path, b"".join(some))
            if level == 0:
                put(Tile(None, index, len(some)).path, bundle(maker.leaves[first : first + TILE_WIDTH]))
        whole = range(0, len(hashes) - TILE_WIDTH + 1, TILE_WIDTH)
        level, hashes = level + 1, [root(hashes[first : first + TILE_WIDTH]) for first in whole]
    return folder


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 512, 700, 66_000])
def test_go_reads_every_entry_of_a_log_of_any_size(size: int, tmp_path: Path) -> None:
    folder = publish(Maker([], size=size, leaves=[b"leaf %d" % n for n in range(size)] or []), tmp_path)
    status, said = tools.run([tools.go(), "tiles", folder, VKEY])
    assert (status, said) == (0, f"OK {size} entries are the ones that gateway.test/log/1 signed\n")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(Maker([], size=700), tmp_path_factory.mktemp("log"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an entry": flipped("tile/entries/001", 5),
    "an entry of the last bundle": flipped("tile/entries/002.p/188", -3),
    "a length": flipped("tile/entries/000", 1),
    "a hash": flipped("tile/0/001", 5),
    "a hash of the last tile": flipped("tile/0/002.p/188", -1),
    "an upper hash": flipped("tile/1/000.p/2", 5),
    "the root": flipped("checkpoint", 30),
    "a tile gone": lambda folder: (folder / "tile/0/001").unlink(),
    "a bundle gone": lambda folder: (folder / "tile/entries/000").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_go_notices_what_was_done_to_a_log(served: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = tmp_path / "log"
    for path in served.rglob("*"):
        if path.is_file():
            copy = folder / path.relative_to(served)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    damage(folder)
    status, said = tools.run([tools.go(), "tiles", folder, VKEY])
    assert (status, said[:4]) == (1, "FAIL")


def test_go_refuses_another_key(served: Path) -> None:
    assert tools.run([tools.go(), "tiles", served, log_key(a_secret(9)).text])[0] == 1
