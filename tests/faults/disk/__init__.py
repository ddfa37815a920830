"""Disks that fail or stall on command: libraries to be preloaded (LD_PRELOAD), which need Linux and a C compiler."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_COMPILER = shutil.which("cc")

needs_compiler = pytest.mark.skipif(
    _COMPILER is None or sys.platform != "linux", reason="a disk that fails on command needs Linux and a C compiler"
)


def compiled(source: str, folder: Path) -> Path:
    """The library made of a `source` that lies here."""
    assert _COMPILER is not None
    library = folder / f"{source}.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror"]
    subprocess.run([_COMPILER, *flags, "-o", library, Path(__file__).parent / source, "-ldl"], check=True)
    return library
