"""Numbered lock files in the data directory: whoever holds one knows that its last holder is dead (DESIGN §4).

A worker process takes the first free of `slot-0.lock`, `slot-1.lock`, … and keeps it until it ends. The file's one
line says which lock it is (the kernel's boot id, the file's own number) and as which members its holder wrote to the
log. A lock proves a death only to the kernel that kept it, and only itself: a line from another boot, of a copied
directory or a moved volume, is not believed. Such members fall silent, and an admin attests that they are gone.

The directory must be on a file system of this machine: a lock over the network can be lost while its holder lives.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from agentgate.core.call import is_id
from agentgate.core.errors import UnsafeConfiguration

MAX_SLOTS: Final = 256
_MAX_BYTES: Final = 4096
"""A line within one page is written whole or not at all, whenever the process is killed."""
_OTHERS: Final = 0o077


class Slot:
    """One lock, held until `release` or the end of the process, however it ends."""

    def __init__(self, number: int, handle: int, boot: str) -> None:
        self.number = number
        self._handle = handle
        file = os.fstat(handle)
        self._lock = f"{boot}/{file.st_dev}:{file.st_ino}"
        self._members = _members(handle, self._lock) if boot else ()
        self.predecessors = self._members
        """The members, oldest first, whose processes were certainly dead when the slot was taken."""

    @classmethod
    def take(cls, data_dir: Path) -> Slot:
        """The first slot that nobody holds; what dead processes left in the other free ones moves into it.

        Raises:
            UnsafeConfiguration: a slot's file is not this user's own, or cannot be written, or none is free.
        """
        boot = _boot_id()
        taken: Slot | None = None
        try:
            for number in range(MAX_SLOTS):
                path = data_dir / f"slot-{number}.lock"
                if taken is not None and not os.path.lexists(path):
                    break
                handle = _lock(path)
                if handle is None:
                    continue
                free = cls(number, handle, boot)
                if taken is None:
                    taken = free
                else:
                    taken._adopt(free)
                    taken.predecessors = taken._members
        except BaseException:
            if taken is not None:
                taken.release()
            raise
        if taken is None:
            raise UnsafeConfiguration(f"all {MAX_SLOTS} slots in {data_dir} are held: too many workers share it")
        return taken

    def occupy(self, member: str) -> None:
        """Say that this process is `member`; to be called before it joins, and before it joins anew.

        Earlier ids stay beside it until `settle`, so that a process that dies on the way loses none of them.

        Raises:
            UnsafeConfiguration: the file cannot be written.
        """
        self._write((*(other for other in self._members if other != member), member))

    def settle(self) -> None:
        """The log knows that every member but the last is no more: their ids can go. Raises UnsafeConfiguration."""
        self._write(self._members[-1:])

    def release(self) -> None:
        """Let go of the slot; what it says stays, for whoever takes it next. Twice is once."""
        if self._handle >= 0:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # a child that was just being started may still share the handle
            os.close(self._handle)
            self._handle = -1

    def _adopt(self, other: Slot) -> None:
        try:
            if other._members:
                self._write((*other._members, *self._members))
                other._write(())
        finally:
            other.release()

    def _write(self, members: tuple[str, ...]) -> None:
        line = _line(self._lock, members)
        while len(line) > _MAX_BYTES:
            members = members[1:]
            line = _line(self._lock, members)
        try:
            os.pwrite(self._handle, line, 0)
        except OSError as error:
            raise UnsafeConfiguration(f"slot-{self.number}.lock cannot be written: {error.strerror}") from None
        self._members = members


def _line(lock: str, members: tuple[str, ...]) -> bytes:
    return f"{' '.join((lock, *members))}\n".encode("ascii")


def _members(handle: int, lock: str) -> tuple[str, ...]:
    """What the first line says; nothing when it is of another lock, or no such line. What follows it is of old."""
    line, newline, _ = os.pread(handle, _MAX_BYTES, 0).partition(b"\n")
    said, *members = line.decode("ascii", "replace").split(" ")
    if not newline or said != lock or not all(map(is_id, members)):
        return ()
    return tuple(members)


def _lock(path: Path) -> int | None:
    """An open, locked handle on the file at `path`; None when another process holds it.

    Raises:
        UnsafeConfiguration: it cannot be opened (a symbolic link is not followed), or is not this user's alone.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnsafeConfiguration(f"the lock file {path} cannot be opened: {error.strerror}") from None
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS:
                raise UnsafeConfiguration(f"{path} must be a plain file of this user alone; run: chmod 600 {path}")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, found):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was removed meanwhile: a lock on what nobody else will find is none


def _is_at(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), found)
    except FileNotFoundError:
        return False


def _boot_id() -> str:
    """This run of the kernel; empty where it does not say, and then no death is ever taken for proven."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
