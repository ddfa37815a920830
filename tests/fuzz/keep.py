"""Puts the smallest of the inputs that a run has grown into the corpora: `python -m tests.fuzz.keep fuzz-out`."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS

_MOST = 24
_MOST_BYTES = 400


def keep(out: Path) -> None:
    """`out` has the folders `NAME/grown` and, of what was found, `NAME/crash-…`."""
    for name, target in TARGETS.items():
        known = set(target.corpus())
        found = [path.read_bytes() for path in (out / name).glob("crash-*")]
        grown = [path.read_bytes() for path in (out / name / "grown").glob("*") if path.is_file()]
        small = sorted((raw for raw in grown if len(raw) <= _MOST_BYTES), key=lambda raw: (len(raw), raw))
        spread = small[:: max(1, len(small) // _MOST)][:_MOST]
        fresh = [raw for raw in (*found, *spread) if raw not in known]
        if fresh:
            CORPUS.mkdir(exist_ok=True)
            with (CORPUS / f"{name}.txt").open("a", encoding="ascii") as file:
                file.writelines(f"{base64.b64encode(raw).decode()}\n" for raw in fresh)


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
