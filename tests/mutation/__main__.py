"""`make mutants`: which changes of core/ and pipeline/ no test of their rooms would see.

mutmut (in an environment of its own: `scripts/services --mutants`) puts mutants beside every function of a copy, and
plugin.py runs the tests of the room against each. A mutant that loops or waits without end counts as killed.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.mutation import plugin, switch
from tests.outside.tools import cache, digest

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
ROOMS: Final = ("core", "pipeline")
LEAST: Final = 0.9
"""To reach, of the mutants of each room."""
Verdicts = dict[str, str]
"""killed, timeout, survived or no test, by the mutant's module and name."""


def main() -> None:
    asked = _arguments()
    verdicts: Verdicts = {}
    with tempfile.TemporaryDirectory(prefix="agentgate-mutants-") as name:
        copy = Path(name)
        for room in ROOMS:
            paths = [path for path in _modules(room) if not asked.modules or path.stem in asked.modules]
            if paths:
                mutants = _generated(copy, paths)
                chosen = _chosen(mutants, asked)
                judged = _judged(copy, room, chosen, asked.jobs)
                _show(copy, judged, is_terse=asked.terse)
                verdicts |= judged
    if asked.out:
        asked.out.write_text(json.dumps(verdicts, indent=0), encoding="utf-8")
    sys.exit(not _table(verdicts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help="by name, as `merkle` or `gate`; all of core/ and pipeline/ if none")
    parser.add_argument("--sample", type=int, help="at most so many of each module, by chance")
    parser.add_argument("--seed", type=int, default=1, help="of that chance")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--of", type=Path, help="only what did not die by this file, which --out has written")
    parser.add_argument("--out", type=Path, help="verdicts as JSON")
    parser.add_argument("--terse", action="store_true", help="do not show what survived")
    return parser.parse_args()


def _modules(room: str) -> list[Path]:
    found = sorted((ROOT / "src/agentgate" / room).rglob("*.py"))
    return [path for path in found if path.name != "__init__.py" and "def " in path.read_text(encoding="utf-8")]


def _generated(copy: Path, paths: Sequence[Path]) -> dict[str, list[str]]:
    """The names of the mutants by module, which are in `copy` then."""
    shutil.copytree(ROOT / "src", copy, dirs_exist_ok=True)
    interpreter = cache() / f"mutmut-{digest(HERE, 'mutmut.lock')}" / "bin/python"
    if not interpreter.exists():
        sys.exit("mutmut is not there: run scripts/services --mutants")
    command = [interpreter, HERE / "generate.py", copy, *(path.relative_to(ROOT / "src") for path in paths)]
    made = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(made.stdout))


def _chosen(mutants: Mapping[str, list[str]], asked: argparse.Namespace) -> dict[str, list[str]]:
    if asked.of:
        left = {name for name, verdict in json.loads(asked.of.read_text(encoding="utf-8")).items() if _lives(verdict)}
        mutants = {module: [one for one in names if f"{module}.{one}" in left] for module, names in mutants.items()}
    if asked.sample:
        chance = random.Random(asked.seed)
        mutants = {module: chance.sample(names, min(asked.sample, len(names))) for module, names in mutants.items()}
    return dict(mutants)


def _lives(verdict: str) -> bool:
    return verdict in ("survived", "no test")


def _judged(copy: Path, room: str, mutants: Mapping[str, Sequence[str]], jobs: int) -> Verdicts:
    count = sum(map(len, mutants.values()))
    verdicts = copy / f"{room}.verdicts"
    verdicts.touch()
    order = copy / f"{room}.order"
    order.write_text(json.dumps({"mutants": mutants, "jobs": jobs, "verdicts": str(verdicts)}), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin.__name__, "-p", "no:cacheprovider", "--timeout=0"]
    command += ["-m", "not torture", f"tests/{room}"]
    env = os.environ | {plugin.ORDER: str(order), "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    log = copy / f"{room}.log"
    with log.open("w", encoding="utf-8") as out:
        running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
        while running.poll() is None:
            time.sleep(1)
            done = verdicts.read_text(encoding="utf-8").count("\n")
            print(f"\r{room}: {done:,} of {count:,} mutants", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    found = {f"{module}.{name}": verdict for module, name, verdict in map(json.loads, verdicts.open(encoding="utf-8"))}
    if len(found) != count:
        sys.exit(f"{room}: {count - len(found)} mutants were not looked at:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return found


# --- what is shown -----------------------------------------------------------------------------------------


def _table(verdicts: Verdicts) -> bool:
    """Print it; whether each room has reached what it is to reach."""
    rows: dict[str, Counter[str]] = {}
    for name, verdict in verdicts.items():
        module = name.rpartition(".")[0].removeprefix("agentgate.")
        for of in (module, f"all of {module.partition('.')[0]}"):
            rows.setdefault(of, Counter())[verdict] += 1
    print("| module | mutants | killed | survived | no test | killed |\n|---|---|---|---|---|---|")
    for of, count in sorted(rows.items()):
        killed = count["killed"] + count["timeout"]
        print(
            f"| {of} | {count.total():,} | {killed:,} | {count['survived']:,} | {count['no test']:,} "
            f"| {killed / count.total():.1%} |"
        )
    return all(
        count["killed"] + count["timeout"] >= LEAST * count.total()
        for of, count in rows.items()
        if of.startswith("all of ")
    )


def _show(copy: Path, verdicts: Verdicts, *, is_terse: bool) -> None:
    for name, verdict in sorted(verdicts.items()):
        if _lives(verdict) and not is_terse:
            module, _, mutant = name.rpartition(".")
            source = (copy / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
            print(f"{verdict}: {name}")
            print("".join(f"    {line}\n" for line in _difference(source, mutant)), end="")


def _difference(source: str, mutant: str) -> Iterator[str]:
    before, after = (_body(source, name) for name in (f"{switch.of(mutant)}__mutmut_orig", mutant))
    for line in difflib.unified_diff(before, after, lineterm="", n=0):
        if not line.startswith(("---", "+++", "@@")):
            yield line


def _body(source: str, name: str) -> list[str]:
    """The lines of a function, without the one that names it."""
    begins = re.search(rf"^( *)(?:async )?def {re.escape(name)}\(.*\n", source, re.MULTILINE)
    if begins is None:
        return []
    ends = re.compile(rf"^ {{0,{len(begins[1])}}}[^ \n)]", re.MULTILINE).search(source, begins.end())
    return source[begins.end() : ends.start() if ends else len(source)].rstrip().splitlines()


if __name__ == "__main__":
    main()
