"""The one SQLite connection that writes: how it is made, and what it is not allowed to do; and how others only read."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import sys
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from agentgate.adapters.log._sqlite.ddl import TABLES
from agentgate.adapters.log._sqlite.wal import has_commits
from agentgate.core.errors import LogUnavailable

CHECKPOINT_EVERY_PAGES: Final = 2_000
BUSY_MS: Final = 700
"""How long a commit waits for a stranger's lock: within the second that an append may take."""
_PAGE_BYTES: Final = 4_096
_WAL_LIMIT_BYTES: Final = 2 * CHECKPOINT_EVERY_PAGES * _PAGE_BYTES
"""What the file of the write-ahead log is cut down to once all of it is in the database."""
_ALONE: Final = "&vfs=unix-none"
"""Without locks: then SQLite takes itself for the only one, and needs no -shm to read a -wal. It deletes one without a
commit as it closes the database."""


class _State(NamedTuple):
    st_dev: int
    st_ino: int
    st_size: int
    st_mtime_ns: int


def connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its -wal and -shm files the mode of the database: so make that, private, before it does.
    # Never open one that is there: closing it would drop this process's locks on it (that is how POSIX has it), and
    # the next program that closes the database would take itself for the last and delete the write-ahead log.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if path.is_dir():  # whose mode is not ours to change
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.chmod(0o600)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0"):
            db.execute(f"PRAGMA {pragma}")
        db.execute(f"PRAGMA journal_size_limit={_WAL_LIMIT_BYTES}")
        db.execute("PRAGMA trusted_schema=OFF")
        db.execute("PRAGMA temp_store=MEMORY")  # an INSERT of many rows on a table with triggers goes through one
    except BaseException:
        db.close()
        raise
    return db


class ReadOnly:
    """A database for who never writes."""

    def __init__(self, path: Path, *, is_evidence: bool = False) -> None:
        """`is_evidence`: what lies there stays as it is, to the byte, and nothing comes to it."""
        self._path = Path(os.path.realpath(path))
        self._wal, self._shm = beside(path, "-wal"), beside(path, "-shm")
        self._is_evidence = is_evidence
        self._still: list[_State | None] | None = None
        """What its files were when they were first taken for ones that nobody writes to."""

    def connect(self) -> sqlite3.Connection:
        # To read, SQLite makes a -wal and a -shm beside the database, unless it cannot (a read-only medium, an
        # auditor's mount). Whoever has them reads on when a gateway begins to write.
        may_make = not self._is_evidence and os.access(self._path.parent, os.W_OK)
        how = "" if may_make else self._untouching()
        db = sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro{how}", uri=True, isolation_level=None)
        db.execute("PRAGMA trusted_schema=OFF")  # what lies there may be forged: no view of it asks who reads
        if how == _ALONE:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            if sys.version_info >= (3, 12):
                # Nor does it delete one that a gateway has emptied, and writes to, since it was looked into.
                db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        return db

    def _untouching(self) -> str:
        """How SQLite reads what is there, the last events in a -wal too, and makes no file and writes to none."""
        database, wal, shm = found = self._state()
        has_wal = wal is not None and database is not None and database.st_size  # an empty database's it would delete
        if has_wal and shm is not None:  # a running gateway's, or what one has left: SQLite tells them apart
            return "&readonly_shm=1"
        self._still = self._still or found
        return _ALONE if has_wal and has_commits(self._wal) else "&immutable=1"

    def check(self) -> None:
        """After reading, before what was read is believed: SQLite does not look whether such files change.

        Raises:
            LogUnavailable: it did, or is about to.
        """
        if self._still is not None and self._state() != self._still:
            raise LogUnavailable(f"a gateway has begun to write to {self._path} while it was read; try again")

    def _state(self) -> list[_State | None]:
        return [_state(path) for path in (self._path, self._wal, self._shm)]


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def beside(path: Path, ending: str) -> Path:
    """SQLite has a -wal beside the database itself, not beside a link to it; and so has what else belongs to it."""
    return Path(os.path.realpath(path) + ending)


def pages_left(path: Path) -> int:
    """What earlier processes have left in the write-ahead log: one that is killed before long moves nothing itself."""
    try:
        return beside(path, "-wal").stat().st_size // _PAGE_BYTES
    except FileNotFoundError:
        return 0


def identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


_INSERTABLE: Final = frozenset(table.name for table in TABLES)
_UPDATABLE: Final = frozenset(
    {"head", "kills", "approvals", "members", "cosignatures", "holds", "prunes", "pins", "cursors"}
)
_HARMLESS: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_TRANSACTION}
)
_PRAGMAS: Final = frozenset({"wal_checkpoint", "busy_timeout"})


def authorize(action: int, first: str | None, _second: str | None, _database: str | None, _inner: str | None) -> int:
    """The whole of what this connection may do once the schema stands: append, and keep derived rows current."""
    allowed = (
        action in _HARMLESS
        or (action == sqlite3.SQLITE_INSERT and first in _INSERTABLE)
        or (action == sqlite3.SQLITE_UPDATE and first in _UPDATABLE)
        or (action == sqlite3.SQLITE_DELETE and first == "answers")
        or (action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def authorize_forgetting(
    action: int, first: str | None, second: str | None, database: str | None, inner: str | None
) -> int:
    """What this connection may do besides while it prunes or compresses; triggers still have their say."""
    allowed = (
        (action == sqlite3.SQLITE_DELETE and first == "bodies")
        or (action == sqlite3.SQLITE_UPDATE and first == "body_segments" and second in ("bodies", "content"))
        or (action == sqlite3.SQLITE_PRAGMA and first == "secure_delete")
    )
    return sqlite3.SQLITE_OK if allowed else authorize(action, first, second, database, inner)
