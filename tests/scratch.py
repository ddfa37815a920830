"""Directories for tests and for servers that they start.

In memory where there is room: a killed process loses nothing of a file there either, the calls that it makes are the
same, and no other program's writes make a disk that tests wait for stall.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 2 * 1024**3


def directory(prefix: str, *, on_disk: bool = False) -> Path:
    """A new one, which the caller removes. Not below pytest's tmp_path: the name of a unix socket may have no more
    than 107 bytes."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=None if on_disk else root()))


def root() -> Path:
    """Where they lie, and pytest's `tmp_path`."""
    is_roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
    return _MEMORY if is_roomy else Path(tempfile.gettempdir())
