"""`agentgate log monitor`: follows a log from outside (C2SP tlog-tiles), and says when it is not what it was."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated, Final, NoReturn

import httpx
import typer

from agentgate.commands.remote import host_of
from agentgate.commands.terminal import Status, die, err, out, safe
from agentgate.core.merkle import HASH_BYTES, consistency_ranges, continues
from agentgate.core.note import Checkpoint, NoteInvalid, NoteKey, checkpoint_of, open_checkpoint, parse_key
from agentgate.core.subtrees import HashMissing, Subtrees
from agentgate.core.tiles import TILE_WIDTH, Tile, TileInvalid, parse_hashes

cli = typer.Typer()

EXIT_UNCHECKED: Final = 2
_TIMEOUT_S: Final = 30.0
_MAX_NOTE_BYTES: Final = 1_000_000
_MAX_TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES


class Unchecked(Exception):
    """The log does not answer, or not with what C2SP says: nothing is proven, in either direction."""


class Differs(Exception):
    """The log is not what it was, or not whose it was. `note` is what it showed, if anything: the evidence."""

    def __init__(self, what: str, note: bytes | None = None) -> None:
        super().__init__(what)
        self.note = note


class RemoteLog:
    """A log's read side. `prefix` is its URL without `/checkpoint`."""

    def __init__(self, prefix: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._prefix = prefix.rstrip("/") + "/"
        self._transport = transport
        self._tls = httpx.create_ssl_context(trust_env=False)

    def checkpoint(self) -> bytes:
        """Raises Unchecked."""
        found = self._get("checkpoint", _MAX_NOTE_BYTES)
        if found is None:
            raise Unchecked("it has signed nothing yet")
        return found

    def hashes(self, level: int, first: int, count: int, size: int) -> list[bytes]:
        """Those of a tile level from `first` on, where a tile starts, as the tree of `size` leaves has them. Raises
        Unchecked."""
        found: list[bytes] = []
        end = min(first + count, size >> (8 * level))
        for index in range(first // TILE_WIDTH, -(-end // TILE_WIDTH)):
            found += self._tile(Tile(level, index, min(TILE_WIDTH, (size >> (8 * level)) - index * TILE_WIDTH)))
        return found

    def _tile(self, tile: Tile) -> list[bytes]:
        raw = self._get(tile.path, _MAX_TILE_BYTES)
        if raw is None and tile.width < TILE_WIDTH:  # it has grown since, and keeps no partial ones
            raw = self._get(Tile(tile.level, tile.index).path, _MAX_TILE_BYTES)
            raw = (raw or b"")[: tile.width * HASH_BYTES]
        try:
            return parse_hashes(raw or b"", tile.width)
        except TileInvalid as error:
            raise Unchecked(f"{tile.path}: {error}") from error

    def _get(self, path: str, max_bytes: int) -> bytes | None:
        try:
            return asyncio.run(self._ask(path, max_bytes))
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Unchecked(f"it has not answered {path} within {_TIMEOUT_S:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unchecked(f"it does not answer: {error}") from error

    async def _ask(self, path: str, max_bytes: int) -> bytes | None:
        """What a hostile log sends costs neither more memory nor more time than an honest answer may."""
        client = httpx.AsyncClient(
            base_url=self._prefix,
            headers={"Accept-Encoding": "identity"},  # hashes do not compress, and nothing here is unpacked
            timeout=_TIMEOUT_S,
            transport=self._transport,
            verify=self._tls,
            trust_env=False,
        )
        # the whole of it: the client's own is for each read
        async with asyncio.timeout(_TIMEOUT_S), client, client.stream("GET", path) as answer:
            if answer.status_code == 404:
                return None
            if answer.status_code != 200:
                raise Unchecked(f"it answers {answer.status_code} to {path}")
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise Unchecked(f"it answers {path} compressed, which it was not asked to")
            found = bytearray()
            async for part in answer.aiter_bytes():
                found += part
                if len(found) > max_bytes:
                    raise Unchecked(f"it answers {path} with more than {max_bytes} bytes")
            return bytes(found)


def follow(log: RemoteLog, keys: list[NoteKey], kept: bytes | None) -> tuple[bytes, Checkpoint]:
    """The log's newest checkpoint, which continues the `kept` one.

    Raises:
        Differs: it was signed by another key, is smaller, or is another history.
        Unchecked: it cannot be told.
    """
    old = None if kept is None else _opened(kept, keys, "the checkpoint that is kept")
    note = log.checkpoint()
    new = _opened(note, keys, "the log's checkpoint")
    if old is not None and new.size < old.size:
        raise Differs(f"rolled back: it had {old.size} events and shows {new.size} now", note)
    if old is not None and new.size == old.size and new.root != old.root:
        raise Differs(f"forked: of {old.size} events it shows another tree than before", note)
    ranges = [] if old is None else consistency_ranges(old.size, new.size)
    subtrees = Subtrees([*ranges, (0, new.size)])
    for level, first, count in subtrees.reads():
        subtrees.feed(level, first, log.hashes(level, first, count, new.size))
    try:
        is_the_tree = subtrees.root((0, new.size)) == new.root
        proof = [subtrees.root(leaves) for leaves in ranges]
    except HashMissing as error:
        raise Unchecked(str(error)) from error
    if not is_the_tree:
        raise Differs(f"forked: its tiles are not the tree of {new.size} events that it has signed", note)
    if old is not None and not continues(old.root, old.size, new.root, new.size, proof):
        raise Differs(f"forked: its {new.size} events do not continue the {old.size} that it had", note)
    return note, new


def _opened(note: bytes, keys: list[NoteKey], what: str) -> Checkpoint:
    try:
        return open_checkpoint(note, keys, keys[0].name)
    except NoteInvalid as error:
        raise Differs(f"wrong key: {what} does not hold ({error})", note) from error


@cli.command("monitor")
def monitor(
    url: Annotated[str, typer.Argument(metavar="URL", help="The log's prefix, such as https://gate.example.org/log")],
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Where the newest one that held is kept")],
    vkey: Annotated[
        list[str], typer.Option("--vkey", help="The log's verifier key, or a file with it; one for each key it has had")
    ],
    once: Annotated[bool, typer.Option("--once", help="Look once; exit 2 when nothing could be checked")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.1, max=604_800, help="Seconds between two looks")] = 10.0,
) -> None:
    """Follow a log from outside: its signature, and that it only grows. Exit 1 on a fork, a rollback or a wrong key."""
    keys = _keys(vkey)
    if host_of(url) is None:
        die(f"{url!r} is not a URL of a log, such as https://gate.example.org/log", Status.USAGE)
    log = RemoteLog(url)
    while True:
        try:
            kept = checkpoint.read_bytes() if checkpoint.exists() else None
            note, found = follow(log, keys, kept)
        except OSError as error:
            die(f"{checkpoint}: {error.strerror}", EXIT_UNCHECKED)
        except Differs as error:
            _end(error, checkpoint)
        except Unchecked as error:
            if once:
                die(f"{url}: {error}", EXIT_UNCHECKED)
            err.print(f"[yellow]–[/] {safe(f'{url}: {error}')}")
        else:
            _say(kept, found)
            _keep(checkpoint, note)
        if once:
            return
        time.sleep(every_s)


def _keys(given: list[str]) -> list[NoteKey]:
    lines = [line for one in given for line in _lines(one)]
    try:
        keys = [parse_key(line) for line in lines]
    except NoteInvalid as error:
        die(f"--vkey: {error}", Status.USAGE)
    if len({key.name for key in keys}) != 1:
        die("--vkey: give the keys of one log", Status.USAGE)
    return keys


def _lines(given: str) -> list[str]:
    path = Path(given)
    try:
        return path.read_text(encoding="utf-8").split() if path.is_file() else [given]
    except (OSError, UnicodeDecodeError):
        die(f"--vkey: {given} cannot be read", Status.USAGE)


def _say(kept: bytes | None, found: Checkpoint) -> None:
    before = 0 if kept is None else checkpoint_of(kept).size
    if kept is None or found.size > before:
        held = "first look" if kept is None else f"{found.size - before} more"
        out.print(f"[green]✓[/] {safe(found.origin)}: {found.size} events, {held}, root {found.root.hex()}")


def _keep(path: Path, note: bytes) -> None:
    """Whatever happens, the old checkpoint or the new one is there."""
    new = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        die(f"{path} cannot be written: {error.strerror}", EXIT_UNCHECKED)


def _end(error: Differs, path: Path) -> NoReturn:
    """Say what it is, and keep what the log showed: with the checkpoint before, two signed notes that contradict."""
    sentence = str(error)
    if error.note is not None:
        evidence = path.with_name(f"{path.name}.refused")
        _keep(evidence, error.note)
        sentence += f"; what it showed is in {evidence}"
    die(sentence, Status.REFUSED)
