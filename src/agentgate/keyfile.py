"""The keys that `agentgate keys` keeps: a file of digests beside the log, and how a running gateway follows it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import ValidationError

from agentgate.core.errors import UnsafeConfiguration
from agentgate.settings import Auth, Key, first_error, load_yaml, refuse_unsafe_keys, where


def key_file(data_dir: Path) -> Path:
    """Where made keys are kept, by digest."""
    return data_dir / "keys.yaml"


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a key file; none when there is no file.

    Raises:
        UnsafeConfiguration: unreadable, readable by others, or not a list of keys.
    """
    found = _read(path)
    return _parse(path, found.raw) if found is not None else ()


class _Found(NamedTuple):
    raw: bytes
    written_ns: int
    """By the disk's clock."""


def _read(path: Path) -> _Found | None:
    """What is in the file; None when there is none. Raises UnsafeConfiguration."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_mode & 0o077:
                raise UnsafeConfiguration(f"{path} can be read by others; run: chmod 600 {path}")
            return _Found(file.read(), stat.st_mtime_ns)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnsafeConfiguration(f"the key file {path} cannot be read: {error.strerror}") from None


def _parse(path: Path, raw: bytes) -> tuple[Key, ...]:
    try:
        entries = load_yaml(raw.decode("utf-8"), quickly=True)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that is none
        raise UnsafeConfiguration(f"the key file {path} is not YAML{where(error)}") from None
    try:
        keys = Auth.model_validate({"keys": entries or []}).keys
    except ValidationError as error:
        raise UnsafeConfiguration(f"the key file {path}: {first_error(error)}") from None
    if any(key.signature is not None for key in keys):
        raise UnsafeConfiguration(f"the key file {path}: keys to sign with belong into the configuration (auth.keys)")
    return keys


class FollowedKeys:
    """All keys of a gateway, configured and made, as they are from one look at the file to the next.

    It compares what is in the file, not when it was written: two changes within one tick of the disk's clock are two.
    While the file cannot be read, its keys are none: one that was disabled must not live on because of it.
    """

    def __init__(self, path: Path, configured: tuple[Key, ...]) -> None:
        self._path = path
        self._configured = configured
        self._seen: bytes | None = None
        self._looked = False
        self.trouble: str | None = None
        """Why the keys of the file count for nothing; None while they do count."""
        self.version = ""
        """Of the file, as it was taken over: another one also where the same content was written anew later."""

    def look(self) -> tuple[Key, ...] | None:
        """The keys that count from now on; None when they are those of the last look. Never raises."""
        try:
            found = _read(self._path)
            raw = found.raw if found is not None else None
            if raw is None and self._seen is not None:
                raise UnsafeConfiguration(f"the key file {self._path} is gone")
            if self._looked and raw == self._seen and self.trouble is None:
                return None
            keys = (*self._configured, *(_parse(self._path, raw) if raw is not None else ()))
            refuse_unsafe_keys(Auth(keys=keys))
        except UnsafeConfiguration as error:
            was, self.trouble = self.trouble, str(error)
            return self._configured if was is None else None
        self._looked, self._seen, self.trouble = True, raw, None
        if found is not None:
            self.version = f"{found.written_ns}/{hashlib.sha256(found.raw).hexdigest()}"
        return keys


def add_key(path: Path, key: Key) -> None:
    """Append a key. Raises UnsafeConfiguration."""
    change_keys(path, lambda keys: (*keys, key))


def change_keys(path: Path, change: Callable[[tuple[Key, ...]], Iterable[Key]]) -> None:
    """Put what `change` makes of the keys in their place; others who change them wait meanwhile.

    The file is replaced as a whole, so that a gateway never reads half of it, and is on the disk when this returns.

    Raises:
        UnsafeConfiguration: the file is unreadable, readable by others, or not a list of keys.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path.parent) as folder:
        keys = tuple(change(read_keys(path)))
        entries = [key.model_dump(mode="json", exclude_defaults=True) for key in keys]
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)  # of somebody who was ended before the end; its mode might be another
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yaml.safe_dump(entries, file, sort_keys=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        os.fsync(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Alone among those who change keys. The folder itself is what is locked: no file is left behind."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
