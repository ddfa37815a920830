"""A copy of the newest checkpoint outside of the database: what a database that was rolled back cannot take back."""

from __future__ import annotations

import os
from pathlib import Path


def read_file(path: Path) -> bytes | None:
    """Its content, or None where there is none yet."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def replace_file(path: Path, content: bytes) -> None:
    """Whatever happens, the old content or the new one is there, never a part."""
    new = path.with_name(f"{path.name}.new-{os.getpid()}")  # workers may share a directory
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fdatasync(file.fileno())
    new.replace(path)
