"""What a fuzz target is: a function of bytes that raises only where a parser broke its promise.

A parser's documented refusal is caught by its target. Whatever else comes out is a crash, and an `AssertionError` says
that something was accepted that must not be: a forgery, or two readings of one text.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

CORPUS: Final = Path(__file__).parent / "corpus"
_T = TypeVar("_T")
_STEP: Final = 4


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes. `seeds` are inputs that reach deep, besides the kept ones in
    `corpus/NAME.txt`, one in a line, in base64."""

    name: str
    """Its module and its function, `signed.pack_zip`."""
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...] = ()

    def corpus(self) -> list[bytes]:
        """All that is kept, the same in each run."""
        kept = CORPUS / f"{self.name}.txt"
        lines = kept.read_text(encoding="ascii").split() if kept.exists() else []
        return [b"", *self.seeds, *map(base64.b64decode, lines)]


TARGETS: Final[dict[str, Target]] = {}


def target(*seeds: bytes | str) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Registers a function."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        raw = tuple(seed.encode() if isinstance(seed, str) else seed for seed in seeds)
        name = f"{run.__module__.rpartition('.')[2]}.{run.__name__}"
        TARGETS[name] = Target(name, run, raw)
        return run

    return register


def text_of(raw: bytes) -> str:
    """Any bytes as text, with every kind of character a parser may be given: lone surrogates, too."""
    return raw.decode("utf-8", errors="surrogateescape")


def edited(original: bytes, program: bytes) -> bytes:
    """`original` after the edits that `program` says: what is signed is not found by chance, only spoilt by it.

    An edit is four bytes (which kind, where in two bytes, how many) and the bytes that it puts there. No program, no
    change.
    """
    found = bytearray(original)
    at = 0
    while at + _STEP <= len(program):
        kind, size = program[at] % 4, program[at + 3] % 32
        place = int.from_bytes(program[at + 1 : at + 3], "big") % (len(found) + 1)
        data = program[at + _STEP : at + _STEP + size]
        at += _STEP + (size if kind != 2 else 0)
        if kind == 0:
            found[place : place + len(data)] = data
        elif kind == 1:
            found[place:place] = data
        elif kind == 2:
            del found[place : place + size]
        elif place < len(found):
            found[place] ^= 1 << (size % 8)
    return bytes(found)


def edits_of(original: bytes) -> Iterable[bytes]:
    """A few programs for what is to be edited: each kind, at the beginning, in the middle and at the end."""
    for place in (0, len(original) // 2, max(0, len(original) - 2)):
        where = place.to_bytes(2, "big")
        yield from (
            b"\0" + where + b"\x02AB",
            b"\1" + where + b"\x03\n\r ",
            b"\2" + where + b"\x05",
            b"\3" + where + b"\x05",
        )


def finish(running: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine comes to that has nothing to wait for."""
    try:
        running.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    running.close()
    raise AssertionError("it waits for something")
