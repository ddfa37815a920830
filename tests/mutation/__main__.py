"""`make mutants`: which changes of core/ and pipeline/ no test of their rooms would see.

mutmut (in an environment of its own: `scripts/services --mutants`) puts mutants beside every function of a copy, and
plugin.py runs the tests of the room against each. A mutant that loops or waits without end counts as killed.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import hashlib
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
Mutants = Mapping[str, Sequence[str]]
"""Their names, by the module that they are of."""


def main() -> None:
    asked = _arguments()
    verdicts: Verdicts = {}
    with tempfile.TemporaryDirectory(prefix="agentgate-mutants-") as name:
        copy = Path(name)
        kept = asked.out or copy / "verdicts"
        for room in ROOMS:
            paths = [path for path in _modules(room) if not asked.modules or path.stem in asked.modules]
            if paths:
                mutants = _chosen(_generated(copy, paths), asked)
                _judge(copy, room, mutants, kept, asked.jobs)
                judged = {name: verdict for name, verdict in _known(kept).items() if name in _names(mutants)}
                _show(copy, judged, is_terse=asked.terse)
                verdicts |= judged
    sys.exit(not _table(verdicts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help="by name, as `merkle` or `gate`; all of core/ and pipeline/ if none")
    parser.add_argument("--sample", type=int, help="at most so many of each module, by chance")
    parser.add_argument("--seed", type=int, default=1, help="of that chance")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--of", type=Path, help="only what did not die by this file, which --out has written")
    parser.add_argument("--out", type=Path, help="verdicts, a line each; what is there is not judged again")
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


def _chosen(mutants: Mutants, asked: argparse.Namespace) -> Mutants:
    if asked.of:
        left = {name for name, verdict in _known(asked.of).items() if _lives(verdict)}
        mutants = {module: [one for one in names if f"{module}.{one}" in left] for module, names in mutants.items()}
    if asked.sample:
        chance = random.Random(asked.seed)
        mutants = {module: chance.sample(names, min(asked.sample, len(names))) for module, names in mutants.items()}
    return mutants


def _names(mutants: Mutants) -> set[str]:
    return {f"{module}.{name}" for module, names in mutants.items() for name in names}


def _lives(verdict: str) -> bool:
    return verdict in ("survived", "no test")


def _known(kept: Path) -> Verdicts:
    """What was found out before, of modules that are as they were then."""
    if not kept.exists():
        return {}
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    return {f"{module}.{name}": verdict for module, name, verdict, sha256 in lines if sha256 == _sha256(module)}


@functools.cache
def _sha256(module: str) -> str:
    path = (ROOT / "src" / module.replace(".", "/")).with_suffix(".py")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _judge(copy: Path, room: str, mutants: Mutants, kept: Path, jobs: int) -> None:
    """Have the verdicts on all of these in `kept`."""
    known = _known(kept)
    left = {module: [one for one in names if f"{module}.{one}" not in known] for module, names in mutants.items()}
    if not _names(left):
        return
    sources = {module: _sha256(module) for module in left}
    order = copy / f"{room}.order"
    what = {"mutants": left, "jobs": jobs, "verdicts": str(kept.absolute()), "sources": sources}
    order.write_text(json.dumps(what), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin.__name__, "-p", "no:cacheprovider", "--timeout=0"]
    command += ["-m", "not torture", f"tests/{room}"]
    env = os.environ | {plugin.ORDER: str(order), "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    log = copy / f"{room}.log"
    with log.open("w", encoding="utf-8") as out:
        running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
        while running.poll() is None:
            time.sleep(1)
            done = len(_known(kept).keys() & _names(mutants))
            print(f"\r{room}: {done:,} of {len(_names(mutants)):,} mutants", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    missing = len(_names(mutants) - _known(kept).keys())
    if missing:
        sys.exit(f"{room}: {missing} mutants were not looked at:\n{log.read_text(encoding='utf-8')[-2000:]}")


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
