"""A policy bundle in OPA's own form: the `bundle.tar.gz` that an OPA server pulls from the gateway."""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentgate.core.errors import PolicyOvertaken
from agentgate.core.policy import ROOTS, PolicyBundle
from agentgate.core.strict_json import canonical


@dataclass(frozen=True, slots=True)
class PublishedBundle:
    """What GET /bundles/agentgate.tar.gz answers. The same content has the same bytes and the same tag."""

    content: bytes
    etag: str
    revision: str


def render(bundle: PolicyBundle) -> PublishedBundle:
    """`bundle` as OPA reads it: .manifest, data.json and the modules.

    Deterministic, so that the ETag of equal policies is equal on every replica and after every restart. The modules
    lie in a folder named after the revision: OPA's errors name files, and so they tell which bundle they are about.
    """
    revision = bundle.revision
    folder = folder_of(revision)
    named = {
        f"{folder}/{name}" if name in bundle.modules else name: content
        for name, content in files_of(bundle, revision).items()
    }
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(named.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return PublishedBundle(gzip.compress(tar_bytes.getvalue(), mtime=0), f'"{revision}"', revision)


class SharedShelf:
    """Where the workers of a service keep the bundle that OPA is to have: whichever of them OPA asks, that is it.

    OPA asks on one kept-alive connection, and so one worker alone. All methods raise OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._found: PublishedBundle | None = None

    def put(self, bundle: PublishedBundle | None, instead_of: str | None = None) -> None:
        """Nothing is changed when it raises.

        Raises:
            PolicyOvertaken: there is another one than that with the revision `instead_of`.
            BlockingIOError: another worker puts one there.
        """
        with self._alone():
            there = self.get()
            if instead_of is not None and there != bundle and revision_of(there) != instead_of:
                raise PolicyOvertaken(revision_of(bundle), revision_of(there))
            self._write(bundle)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Does not wait: a worker that stands still here must not hold up the others."""
        handle = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)

    def _write(self, bundle: PublishedBundle | None) -> None:
        if bundle is None:
            self._path.unlink(missing_ok=True)
            return
        new = self._path.with_name(f"{self._path.name}.new-{os.getpid()}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(f"{bundle.revision}\n".encode() + bundle.content)
        new.replace(self._path)

    def get(self) -> PublishedBundle | None:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if self._seen != (found.st_ino, found.st_mtime_ns):
                    revision = file.readline().decode().rstrip("\n")
                    self._found = PublishedBundle(file.read(), f'"{revision}"', revision)
                    self._seen = (found.st_ino, found.st_mtime_ns)
        except FileNotFoundError:
            self._seen = self._found = None
        return self._found


def revision_of(bundle: PublishedBundle | None) -> str:
    return bundle.revision if bundle is not None else ""


def folder_of(revision: str) -> str:
    return revision.rpartition(":")[2]


def files_of(bundle: PolicyBundle, revision: str = "") -> dict[str, bytes]:
    """The bundle as files. The manifest's roots make OPA refuse what would write elsewhere in its documents."""
    manifest = {"revision": revision, "roots": list(ROOTS), "rego_version": 1}
    return {".manifest": canonical(manifest), "data.json": canonical(dict(bundle.data)), **bundle.modules}
