"""Where the gateway of a data directory can be reached: a note that it leaves there, and a lock that dies with it.

The note is `gateway.json`, and whoever serves holds a lock on it (flock) for as long as it lives. So a note without a
lock is a dead gateway's, whatever it says, and no process id has to be believed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

_NOTE = "gateway.json"
_LOOKED_AT_S = 1.0
"""Nobody looks for so long but who was stopped meanwhile."""
_STARTING = "gateway.starting"


def leave(data_dir: Path, url: str) -> int | None:
    """Say where to reach the gateway that serves `data_dir`; None where another one has said so already.

    The file handle that comes back holds the lock. It is meant to stay open until the process ends.

    Raises:
        OSError: the note cannot be written, or is somebody's link to another file.
    """
    handle = os.open(data_dir / _NOTE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        _hold(handle)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"url": url, "pid": os.getpid()}).encode(), 0)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        raise
    return handle


def _hold(handle: int) -> None:
    """Raises BlockingIOError where another gateway holds it. Who only looks (`find`) shares it, for a moment."""
    ends_at = time.monotonic() + _LOOKED_AT_S
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > ends_at:
                raise
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        time.sleep(0.005)


def find(data_dir: Path) -> str | None:
    """The URL of the gateway that serves `data_dir` now, if there is one and it is ready."""
    try:
        handle = os.open(data_dir / _NOTE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(handle).st_uid not in (os.geteuid(), 0):
            return None  # whom it names would be told our key
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(handle)
    finally:
        os.close(handle)
    return None


def _read(handle: int) -> str | None:
    try:
        url = json.loads(os.pread(handle, 4096, 0))["url"]
    except (ValueError, KeyError, TypeError):  # it has the lock and has not written yet
        return None
    return url if isinstance(url, str) else None


@contextlib.contextmanager
def starting(data_dir: Path) -> Iterator[None]:
    """Held by whoever starts a gateway for others, so that two windows that open at once start one. Waits its turn."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(data_dir / _STARTING, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
