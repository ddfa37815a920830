"""Puts mutants beside every function of some modules, and prints their names as JSON. mutmut's interpreter runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mutmut.mutation.file_mutation import mutate_file_contents

THEIRS = "from mutmut.mutation.trampoline import wrap_in_trampoline as _mutmut_mutated, MutantDict"
OURS = "from tests.mutation.switch import wrap as _mutmut_mutated, MutantDict"


def main(root: Path, paths: list[str]) -> None:
    """`paths` are modules below `root`; they are overwritten."""
    names: dict[str, list[str]] = {}
    for path in paths:
        file = root / path
        mutated = mutate_file_contents(path, file.read_text(encoding="utf-8"))
        file.write_text(mutated.code.replace(THEIRS, OURS), encoding="utf-8")
        names[path.removesuffix(".py").replace("/", ".")] = list(mutated.mutant_names)
    print(json.dumps(names))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
