"""What the configuration says of one alias, read with a sentence for each misfit; and the secrets that it refers to."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agentgate.core.hosts import is_host, is_loopback
from agentgate.ports.credentials import CredentialRefused

MAX_SECRET_BYTES: Final = 1 << 16


def read_private(path: Path) -> str:
    """The text of a file that only its owner can read, without its last line break.

    Raises:
        CredentialRefused: it is not there, not a file, not ours, too large, or others can read it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would hold us up
    except OSError as error:
        raise CredentialRefused(f"{path}: {error.strerror}") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise CredentialRefused(f"{path} is not a regular file")
    with os.fdopen(handle, "rb") as file:
        if found.st_mode & 0o077:
            raise CredentialRefused(f"{path} can be read by others; run: chmod 600 {path}")
        if found.st_uid not in (os.geteuid(), 0):
            raise CredentialRefused(f"{path} belongs to another user")
        raw = file.read(MAX_SECRET_BYTES + 1)
    return _text(raw, path)


def read_public(path: Path) -> str:
    """As `read_private`, of a file whose place is its protection: a Kubernetes service account token.

    Raises:
        CredentialRefused
    """
    try:
        with path.open("rb") as file:
            return _text(file.read(MAX_SECRET_BYTES + 1), path)
    except OSError as error:
        raise CredentialRefused(f"{path}: {error.strerror}") from None


def _text(raw: bytes, path: Path) -> str:
    if len(raw) > MAX_SECRET_BYTES:
        raise CredentialRefused(f"{path} is larger than {MAX_SECRET_BYTES} bytes")
    try:
        return raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise CredentialRefused(f"{path} is not UTF-8") from None


class SecretRef:
    """A secret that the configuration names and does not hold: `{env: NAME}` or `{file: PATH}`. Read whenever it is
    needed: a rotated one is used at once."""

    def __init__(self, name: str | None, path: Path | None, environ: Mapping[str, str]) -> None:
        self._name = name
        self._environ = environ
        self.path = path

    def read(self) -> str:
        """Raises CredentialRefused where there is none."""
        value = read_private(self.path) if self.path is not None else self._environ.get(self._name or "", "")
        if not value:
            raise CredentialRefused(f"{self.path or f'the variable {self._name}'} is empty or not set")
        return value


class Options:
    """The members of one alias. What nobody has read by the end is refused."""

    def __init__(self, members: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._left = dict(members)
        self.environ = environ

    def text(self, name: str, default: str | None = None) -> str:
        value = self._left.pop(name, default)
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(f"{name} must be a text" if value is not None else f"{name} is missing")
        return value

    def maybe_text(self, name: str) -> str | None:
        return self.text(name) if name in self._left else None

    def seconds(self, name: str, default: float, *, most: float = 86_400.0) -> float:
        value = self._left.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise ValueError(f"{name} must be a number of seconds above 0, at most {most:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._left.pop(name, False)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false")
        return value

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        value = self.text(name, known[0])
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}")
        return value

    def url(self, name: str) -> str:
        """An https address, or one of this host: what is secret goes there."""
        value = self.text(name)
        parts = urlsplit(value)
        host = parts.hostname
        if parts.scheme not in ("http", "https") or not host or not is_host(host) or not value.isascii():
            raise ValueError(f"{name} must be https://host[:port][/path]")
        if parts.username is not None or parts.fragment or any(sign in value for sign in " \\{}"):
            raise ValueError(f"{name} must not have a user or a fragment")
        if parts.scheme == "http" and not is_loopback(host):
            raise ValueError(f"{name} must be https unless the host is loopback")
        return value.rstrip("/")

    def maybe_url(self, name: str) -> str | None:
        return self.url(name) if name in self._left else None

    def texts(self, name: str) -> dict[str, str] | None:
        """Texts by `allowed_scope`."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if (
            not isinstance(value, Mapping)
            or not value
            or not all(isinstance(one, str) and isinstance(other, str) and other for one, other in value.items())
        ):
            raise ValueError(f"{name} must be texts by the allowed_scope of a decision")
        return dict(value)

    def value(self, name: str) -> Any:
        return self._left.pop(name, None)

    def part(self, name: str) -> Options:
        value = self._left.pop(name, None)
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a mapping")
        return Options(value, self.environ)

    def secret(self, name: str) -> SecretRef:
        value = self._left.pop(name, None)
        if not isinstance(value, Mapping) or len(value) != 1 or not set(value) <= {"env", "file"}:
            raise ValueError(f"{name} must be {{env: NAME}} or {{file: PATH}}: no secret stands in a configuration")
        if not all(isinstance(one, str) and one for one in value.values()):
            raise ValueError(f"{name} must be {{env: NAME}} or {{file: PATH}}")
        path = value.get("file")
        return SecretRef(value.get("env"), Path(path) if path is not None else None, self.environ)

    def maybe_secret(self, name: str) -> SecretRef | None:
        return self.secret(name) if name in self._left else None

    def end(self) -> None:
        if self._left:
            raise ValueError(f"there is no option {', '.join(sorted(map(str, self._left)))}")


def scoped(by_scope: Mapping[str, str] | None, plain: str | None, scope: str | None) -> str | None:
    """What stands for a decision's scope. Where the configuration says it by scope, one that it does not name is
    refused: it could only be guessed.

    Raises:
        CredentialRefused
    """
    if by_scope is None or (scope is None and plain is not None):
        return plain
    if scope is None or scope not in by_scope:
        raise CredentialRefused(f"nothing is configured for the scope {scope!r}" if scope else "policy names no scope")
    return by_scope[scope]
