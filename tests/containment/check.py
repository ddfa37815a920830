"""Judge a history that was kept as a file: `python -m tests.containment.check FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.containment.checker import check
from tests.containment.history import History


def main(paths: list[str]) -> int:
    broken = 0
    for path in paths:
        violations = check(History.read(Path(path)))
        broken += bool(violations)
        print(f"{path}: {len(violations)} violations")
        for violation in violations:
            print(f"  {violation}")
    return 1 if broken or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
