"""A policy bundle in OPA's own form: the `bundle.tar.gz` that an OPA server pulls from the gateway."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass

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
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(named.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return PublishedBundle(gzip.compress(tar_bytes.getvalue(), mtime=0), f'"{revision}"', revision)


def folder_of(revision: str) -> str:
    return revision.rpartition(":")[2]


def files_of(bundle: PolicyBundle, revision: str = "") -> dict[str, bytes]:
    """The bundle as files. The manifest's roots make OPA refuse what would write elsewhere in its documents."""
    manifest = {"revision": revision, "roots": list(ROOTS), "rego_version": 1}
    return {
        ".manifest": canonical(manifest),
        "data.json": canonical(dict(bundle.data)),
        **bundle.modules,
    }
