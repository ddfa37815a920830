"""The demo's files: one directory that no path leads out of.

A path is walked from the sandbox's own descriptor, one name at a time, and no link is followed: there is no
moment between checking a path and using it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agentgate.adapters.upstreams._answers import ToolError

MAX_FILE_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 8

_SAMPLES: Final = {
    "README.txt": "This directory is the sandbox of AgentGate's demo tools. Nothing outside it can be reached.\n",
    "notes.txt": "Order more sprockets.\nAsk Ada about the flange.\n",
    "reports/2026-q3.txt": "Third quarter: 212 widgets sold, 14 returned.\n",
    "tmp/test.txt": "just a test\n",
}


class Sandbox:
    """Reads and writes text files under `root`. Everything it refuses is a `ToolError` or an `OSError`."""

    def __init__(self, root: Path) -> None:
        is_new = not root.exists()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if is_new:
            for path, content in _SAMPLES.items():
                self.write(path, content)

    def read(self, path: str) -> dict[str, Any]:
        """`{path, content}`; the content must be UTF-8 text of at most 1 MiB."""
        with self._open(path, os.O_RDONLY, make=False) as file:
            raw = _read(file)
        try:
            return {"path": path, "content": raw.decode()}
        except UnicodeDecodeError:
            raise ToolError("the file is not UTF-8 text") from None

    def write(self, path: str, content: str) -> dict[str, Any]:
        """`{path, status: "written"}`; directories on the way are made."""
        raw = content.encode()
        if len(raw) > MAX_FILE_BYTES:
            raise ToolError(f"the content is larger than {MAX_FILE_BYTES} bytes")
        with self._open(path, os.O_WRONLY | os.O_CREAT, make=True) as file:
            os.ftruncate(file, 0)
            written = 0
            while written < len(raw):
                written += os.write(file, raw[written:])
        return {"path": path, "status": "written"}

    def close(self) -> None:
        os.close(self._root)

    @contextmanager
    def _open(self, path: str, flags: int, *, make: bool) -> Iterator[int]:
        """A descriptor of the regular file at `path`."""
        *folders, name = _names(path)
        with self._folder(folders, make=make) as folder:
            # O_NONBLOCK: opening a FIFO must not wait for its other end.
            file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ToolError("the path does not name a file")
            yield file
        finally:
            os.close(file)

    @contextmanager
    def _folder(self, names: list[str], *, make: bool) -> Iterator[int]:
        folder = os.dup(self._root)
        try:
            for name in names:
                if make:
                    _make_folder(name, folder)
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)


def _names(path: str) -> list[str]:
    """The steps of a path below the sandbox; `/tmp/x` means `tmp/x`."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not names or path.endswith("/"):
        raise ToolError("the path does not name a file")
    if ".." in names or "\x00" in path:
        raise ToolError("the path must not have .. or NUL")
    if len(names) > _MAX_DEPTH:
        raise ToolError(f"the path is deeper than {_MAX_DEPTH} levels")
    return names


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return


def _read(file: int) -> bytes:
    parts: list[bytes] = []
    left = MAX_FILE_BYTES + 1
    while left and (part := os.read(file, left)):
        parts.append(part)
        left -= len(part)
    if not left:
        raise ToolError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    return b"".join(parts)
