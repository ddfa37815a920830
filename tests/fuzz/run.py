"""Runs one fuzz target for a time: `python -m tests.fuzz.run signed.pack_zip --seconds 600`.

Guided by coverage where atheris is installed (`pip install atheris`: it is no dependency, since it is there for few
machines), and with the mutations below where it is not. What it finds is written to `--found` (a folder), inputs that
reach further than the known ones to `--grown`; `python -m tests.fuzz.keep FOLDER` puts the small ones of these into the
corpora.
"""

from __future__ import annotations

import argparse
import importlib
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.target import TARGETS, Target

_INSTRUMENTED = ("agentgate", "http_sf", "http_message_signatures", "jwt", "idna")
_MOST_BYTES = 4_096
_CRUMBS = (
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff",
    b'"',
    b"\\",
    b"{",
    b"[",
    b"..",
    b"9" * 30,
    b"-1",
    b"\xe2\x80\xae",
    b"=",
    b";",
    b",",
)


def mutated(dice: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One input made of another: bits turned, pieces moved, left out, doubled, or taken from elsewhere."""
    found = bytearray(dice.choice(corpus))
    for _ in range(dice.randint(1, 6)):
        first = dice.randrange(len(found) + 1)
        last = min(len(found), first + dice.randrange(1, 17))
        match dice.randrange(7):
            case 0 if found:
                found[first % len(found)] ^= 1 << dice.randrange(8)
            case 1:
                del found[first:last]
            case 2:
                found[first:first] = dice.randbytes(dice.randrange(1, 9))
            case 3:
                found[first:first] = dice.choice(_CRUMBS)
            case 4:
                found[first:first] = found[first:last]
            case 5:
                other = dice.choice(corpus)
                start = dice.randrange(len(other) + 1)
                found[first:last] = other[start : start + dice.randrange(1, 65)]
            case _:
                found[first:last] = dice.choice(_CRUMBS)
    return bytes(found[:_MOST_BYTES])


def run_plainly(name: str, seconds: float, dice: random.Random) -> int:
    """How many inputs the target took in that time, its corpus first. Raises what the target raises, with the input."""
    target = _target(name)
    corpus = target.corpus()
    until, count = time.monotonic() + seconds, 0
    for raw in corpus:
        _try(target.run, raw)
    while time.monotonic() < until:
        _try(target.run, mutated(dice, corpus))
        count += 1
    return count + len(corpus)


def _try(run: object, raw: bytes) -> None:
    try:
        run(raw)  # type: ignore[operator]
    except BaseException as error:
        error.add_note(f"the input: {raw!r}")
        raise


def run_guided(name: str, seconds: int, found: Path, grown: Path) -> None:
    """Ends the process: it is libFuzzer's."""
    import atheris  # for who has it

    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        target = _target(name)
    seeds = grown / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    for number, raw in enumerate(target.corpus()):
        (seeds / str(number)).write_bytes(raw)
    flags = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/",
        f"-max_len={_MOST_BYTES}",
        "-timeout=20",
        "-len_control=0",
    ]
    atheris.Setup(
        [sys.argv[0], *flags, "-rss_limit_mb=2048", "-print_final_stats=1", str(grown), str(seeds)], target.run
    )
    atheris.Fuzz()


def _target(name: str) -> Target:
    """Loads what it needs and no more: instrumenting takes its time."""
    importlib.import_module(f"tests.fuzz.{name.partition('.')[0]}")
    return TARGETS[name]


def is_guided() -> bool:
    """Whether atheris is there."""
    return subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True, check=False).returncode == 0


def main() -> None:
    options = argparse.ArgumentParser(description="Runs one fuzz target for a time.")
    options.add_argument("name")
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--found", type=Path, default=Path("fuzz-out"))
    options.add_argument("--grown", type=Path)
    given = options.parse_args()
    found = given.found / given.name
    found.mkdir(parents=True, exist_ok=True)
    if is_guided():
        run_guided(given.name, given.seconds, found, given.grown or found / "grown")
    count = run_plainly(given.name, given.seconds, random.Random())
    print(f"{given.name}: {count} inputs in {given.seconds} s")


if __name__ == "__main__":
    main()
