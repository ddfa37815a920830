"""The keys that `agentgate keys create` made: a file of digests beside the log."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from agentgate.core.errors import UnsafeConfiguration
from agentgate.settings import Auth, Key, first_error, where


def key_file(data_dir: Path) -> Path:
    """Where made keys are kept, by digest."""
    return data_dir / "keys.yaml"


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a key file; none when there is no file.

    Raises:
        UnsafeConfiguration: unreadable, readable by others, or not a list of keys.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise UnsafeConfiguration(f"{path} can be read by others; run: chmod 600 {path}")
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UnsafeConfiguration(f"the key file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UnsafeConfiguration(f"the key file {path} is not YAML{where(error)}") from None
    try:
        return Auth.model_validate({"keys": entries or []}).keys
    except ValidationError as error:
        raise UnsafeConfiguration(f"the key file {path}: {first_error(error)}") from None


def add_key(path: Path, key: Key) -> None:
    """Append a key. The file is replaced as a whole, so that a gateway never reads half of it."""
    keys = [*read_keys(path), key]
    entries = [item.model_dump(mode="json", exclude_defaults=True) for item in keys]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        yaml.safe_dump(entries, file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
