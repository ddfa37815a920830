"""`make bench`: everything that is measured, as ratios or beside its target, into bench/RESULTS.md.

Whatever machine this is, its own speed drifts: throughput is compared within one run, in interleaved rounds.
`--only` measures some sections anew and keeps the others; notes that were written by hand are always kept.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

from bench import admission, calls, identity, kills, log, mcp, packs, redaction, replicas

HERE = Path(__file__).parent
HEAD = """# What containment costs, and how fast it stops things

`make bench` writes the tables; each section says on what it was measured. The absolute numbers are that machine's.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(TITLES), help="sections to measure anew; default all")
    parser.add_argument("--seconds", type=float, default=3, help="of one round of wrk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-calls", type=int, default=200_000, help="0 leaves the memory run out")
    parser.add_argument("--trials", type=int, default=200, help="kills of each situation")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    seconds, rounds = options.seconds, options.rounds
    measures: dict[str, Callable[[], list[str]]] = {
        "calls": lambda: calls.measure(rounds=rounds, seconds=seconds, memory_calls=options.memory_calls),
        "admission": lambda: admission.measure(rounds=3 * rounds, seconds=seconds),
        "identity": lambda: identity.measure(rounds=3 * rounds, seconds=seconds),
        "replicas": lambda: replicas.measure(rounds=rounds, seconds=seconds),
        "kills": lambda: kills.measure(trials=options.trials),
        "mcp": lambda: mcp.measure(rounds=rounds, seconds=seconds),
        "log": lambda: log.measure(rounds=rounds, seconds=seconds),
        "packs": lambda: packs.measure(rounds=rounds),
        "redaction": lambda: redaction.measure(rounds=3 * rounds),
    }
    sections = _sections(options.out.read_text(encoding="utf-8") if options.out.exists() else "")
    for name in options.only or TITLES:
        began_s = time.monotonic()
        print(f"--- {name}", flush=True)
        lines = measures[name]()
        text = "\n".join([_machine(), "", *lines]).rstrip() + "\n"
        sections[TITLES[name]] = text
        _write(options.out, sections)
        print(text)
        print(f"--- {name} took {time.monotonic() - began_s:.0f} s", flush=True)


TITLES = {
    "calls": "What a governed call costs",
    "admission": "What admission costs",
    "identity": "What it costs to know who calls",
    "replicas": "One, two, three replicas",
    "kills": "How fast a kill is",
    "mcp": "What a governed call over MCP costs",
    "log": "What the log does",
    "packs": "How long a pack takes",
    "redaction": "What redaction costs",
}


def _machine() -> str:
    today = time.strftime("%Y-%m-%d")
    return f"CPython {platform.python_version()}, {os.cpu_count()} cores shared with the client, {today}."


def _sections(text: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return {title: body.strip() + "\n" for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def _write(path: Path, sections: dict[str, str]) -> None:
    """Ours first, in their order; then what was written by hand."""
    order = [title for title in TITLES.values() if title in sections]
    order += [title for title in sections if title not in order]
    path.write_text(HEAD + "".join(f"\n## {title}\n\n{sections[title]}" for title in order), encoding="utf-8")


if __name__ == "__main__":
    main()
