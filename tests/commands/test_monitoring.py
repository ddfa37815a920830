"""`agentgate log monitor` against logs that grow, stand still, and are not what they were."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from agentgate.cli import cli
from agentgate.commands import monitoring
from agentgate.commands.monitoring import Differs, RemoteLog, Unchecked, follow
from agentgate.core import merkle
from agentgate.core.note import Checkpoint, NoteKey, sign
from agentgate.core.tiles import TileInvalid, parse_tile
from tests.web import Handler, serving

ORIGIN = "gate.test/log"
SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def key_of(secret: Ed25519PrivateKey, origin: str = ORIGIN) -> NoteKey:
    return NoteKey(origin, secret.public_key().public_bytes_raw())


KEY = key_of(SECRET)


class StaticLog:
    """A log's read side in memory. `served` may lie; what is asked is remembered."""

    def __init__(self, leaves: Sequence[bytes], secret: Ed25519PrivateKey = SECRET, origin: str = ORIGIN) -> None:
        self.levels = {0: [merkle.leaf_hash(leaf) for leaf in leaves]}
        frontier = merkle.Frontier()
        for level, _, found in frontier.extend(self.levels[0]):
            self.levels.setdefault(level, []).append(found)
        state = Checkpoint(origin, len(leaves), frontier.root())
        self.note = sign(state.text, key_of(secret, origin), secret.sign)
        self.asked: list[str] = []
        self.keeps_partial = True
        self.served: Callable[[str, bytes], bytes] = lambda _, content: content

    def remote(self) -> RemoteLog:
        return RemoteLog("https://gate.test/log", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/log/")
        self.asked.append(path)
        content = self.note if path == "checkpoint" else self._tile(path)
        return httpx.Response(404) if content is None else httpx.Response(200, content=self.served(path, content))

    def _tile(self, path: str) -> bytes | None:
        try:
            tile = parse_tile(path)
        except TileInvalid:
            return None
        row = self.levels.get(tile.level or 0, [])[tile.first : tile.first + tile.width]
        if len(row) < tile.width or (tile.width < 256 and not self.keeps_partial):
            return None
        return b"".join(row)


def a_log(size: int, change: int | None = None) -> StaticLog:
    return StaticLog([b"%d" % (n if n != change else -1) for n in range(size)])


SIZES = [1, 2, 255, 256, 257, 300, 511, 512, 513, 65_536, 65_600]


def test_a_log_that_grows_is_followed_over_every_edge_of_a_tile() -> None:
    kept = None
    for size in SIZES:
        log = a_log(size)
        kept, found = follow(log.remote(), [KEY], kept)
        assert found.size == size
        assert kept == log.note
        assert len(log.asked) <= 1 + 4


def test_a_log_that_keeps_no_partial_tiles_is_followed_by_its_full_ones() -> None:
    """It has grown since the checkpoint that it shows."""
    shown, log = a_log(300), a_log(65_536)
    log.note, log.keeps_partial = shown.note, False
    log.levels[1] *= 2
    assert follow(log.remote(), [KEY], None)[1].size == 300
    assert {"tile/0/001.p/44", "tile/0/001"} <= set(log.asked)
    shown.keeps_partial = False
    with pytest.raises(Unchecked):  # and this one has not: it had to keep them
        follow(shown.remote(), [KEY], None)


def test_a_log_that_stands_still_holds() -> None:
    kept, _ = follow(a_log(300).remote(), [KEY], None)
    assert follow(a_log(300).remote(), [KEY], kept)[0] == kept


@pytest.mark.parametrize("new", [1, 256, 299])
def test_a_smaller_log_was_rolled_back(new: int) -> None:
    with pytest.raises(Differs, match=f"rolled back: it had 300 events and shows {new}") as found:
        follow(a_log(new).remote(), [KEY], a_log(300).note)
    assert found.value.note == a_log(new).note


@pytest.mark.parametrize("size", [300, 301, 600, 65_600])
@pytest.mark.parametrize("change", [0, 255, 299])
def test_another_history_is_a_fork_whatever_event_was_changed(size: int, change: int) -> None:
    with pytest.raises(Differs, match="forked"):
        follow(a_log(size, change).remote(), [KEY], a_log(300).note)


def test_another_key_is_named() -> None:
    secret = OTHER
    leaves = [b"%d" % n for n in range(3)]
    with pytest.raises(Differs, match="wrong key: the log's checkpoint"):
        follow(StaticLog(leaves, secret).remote(), [KEY], None)
    with pytest.raises(Differs, match="wrong key: the checkpoint that is kept"):
        follow(a_log(3).remote(), [KEY], StaticLog(leaves, secret).note)
    _, found = follow(StaticLog(leaves, secret).remote(), [key_of(secret), KEY], a_log(2).note)
    assert found.size == 3  # a key that was changed, and both are known


def test_tiles_that_are_not_the_signed_tree_are_a_fork() -> None:
    log = a_log(300)
    log.served = lambda path, content: bytes(len(content)) if path.startswith("tile/") else content
    with pytest.raises(Differs, match="its tiles are not the tree"):
        follow(log.remote(), [KEY], a_log(200).note)


@pytest.mark.parametrize("content", [b"", b"x", bytes(31), bytes(8_193)])
def test_a_tile_that_is_none_proves_nothing(content: bytes) -> None:
    log = a_log(300)
    log.served = lambda path, given: content if path.startswith("tile/") else given
    with pytest.raises(Unchecked):
        follow(log.remote(), [KEY], None)


@pytest.mark.parametrize("status", [301, 401, 500, 503])
def test_a_log_that_does_not_answer_proves_nothing(status: int) -> None:
    log = RemoteLog("https://gate.test/log", transport=httpx.MockTransport(lambda _: httpx.Response(status)))
    with pytest.raises(Unchecked, match=str(status)):
        follow(log, [KEY], None)


def test_a_log_that_has_signed_nothing_proves_nothing() -> None:
    log = RemoteLog("https://gate.test/log", transport=httpx.MockTransport(lambda _: httpx.Response(404)))
    with pytest.raises(Unchecked, match="nothing yet"):
        follow(log, [KEY], None)


def test_an_answer_without_an_end_is_not_read_to_it() -> None:
    sent: list[int] = []

    class Flood(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # nobody reads on
                sent.extend(self.wfile.write(bytes(65_536)) for _ in range(1_000))

    with serving(Flood) as url, pytest.raises(Unchecked, match="checkpoint with more than 1000000 bytes"):
        RemoteLog(url).checkpoint()
    assert sum(sent) < 32_000_000, "no more than the buffers between took"


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"])
def test_an_answer_that_drips_has_a_deadline_as_a_whole(begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "_TIMEOUT_S", 0.5)

    class Drip(Handler):
        def do_GET(self) -> None:
            self.wfile.write(begin)
            with suppress(OSError):  # nobody waits
                for _ in range(50):
                    self.wfile.write(b"a")
                    time.sleep(0.05)

    with serving(Drip) as url, pytest.raises(Unchecked, match=r"checkpoint within 0\.5 s"):
        RemoteLog(url).checkpoint()


def test_what_is_compressed_is_not_unpacked() -> None:
    answer = httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=gzip.compress(a_log(3).note))
    log = RemoteLog("https://gate.test/log", transport=httpx.MockTransport(lambda _: answer))
    with pytest.raises(Unchecked, match="compressed"):
        log.checkpoint()


def run(*options: str) -> tuple[int, str]:
    found = CliRunner().invoke(cli, ["log", "monitor", *options])
    return found.exit_code, found.output


def test_what_cannot_be_checked_is_exit_2_and_leaves_the_file(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    assert run("http://127.0.0.1:9/log", "--checkpoint", str(file), "--vkey", KEY.text, "--once")[0] == 2
    assert not file.exists()


@pytest.mark.parametrize("url", ["", "gate.example.org/log", "http://a..b/log", "http://xn--a/log"])
def test_a_url_that_is_none_is_said(tmp_path: Path, url: str) -> None:
    """At once, and not as a fork: a URL that cannot be one is never answered."""
    status, said = run(url, "--checkpoint", str(tmp_path / "c"), "--vkey", KEY.text)
    assert status == 2
    assert "not a URL of a log" in said


@pytest.mark.parametrize("vkey", ["", "x", "name+00000000+AQ=="])
def test_a_key_that_is_none_is_said(tmp_path: Path, vkey: str) -> None:
    status, said = run("http://127.0.0.1:9/log", "--checkpoint", str(tmp_path / "c"), "--vkey", vkey, "--once")
    assert status == 2
    assert "--vkey" in said


def test_keys_of_two_logs_are_refused(tmp_path: Path) -> None:
    other = key_of(SECRET, "another.test/log")
    keys = ("--vkey", KEY.text, "--vkey", other.text)
    status, said = run("http://127.0.0.1:9/log", "--checkpoint", str(tmp_path / "c"), *keys, "--once")
    assert (status, "one log" in said) == (2, True)


def test_nobody_waits_for_ever_between_two_looks(tmp_path: Path) -> None:
    options = ("--checkpoint", str(tmp_path / "c"), "--vkey", KEY.text, "--every", "inf")
    assert run("http://127.0.0.1:9/log", *options)[0] == 2
