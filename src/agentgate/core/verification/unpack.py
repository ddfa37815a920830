"""Reads the zip of a pack strictly: what does not come out again byte for byte from `archive` is damaged.

So a name that leads elsewhere, a second entry of one name, a flag, a time, a comment or a byte between two entries is
refused without a rule for each; and as nothing is compressed, no entry is larger than the archive.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentgate.core import archive

SIGNATURE: Final = b"PK\x03\x04"
"""How a zip starts."""
_LOCAL: Final = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True, slots=True)
class Unpacked:
    """`flaw` says what is wrong with the container; the files are then those that could be made out before it."""

    files: Mapping[str, bytes]
    flaw: str | None


def unpack(raw: bytes) -> Unpacked:
    """The files of an archive, in its order. Never raises: there is always something to say."""
    files: dict[str, bytes] = {}
    at = 0
    while raw.startswith(SIGNATURE, at):
        if at + _LOCAL.size > len(raw):
            return Unpacked(files, "the archive ends inside an entry")
        head = _LOCAL.unpack_from(raw, at)
        size, first = head[7], at + _LOCAL.size + head[9]
        name = raw[at + _LOCAL.size : first].decode("latin-1")
        if name in files:
            return Unpacked(files, f"the archive has {name} twice: two readers would see two packs")
        try:
            archive.place(name)
        except archive.NotAMember:
            return Unpacked(files, f"the archive has an entry {name[:80]!r}: a pack has no such file")
        if head[3] or first + size > len(raw):
            return Unpacked(files, f"the entry {name} is compressed or cut off")
        files[name] = raw[first : first + size]
        at = first + size
    if archive.canonical_zip(files) != raw:
        return Unpacked(files, "the archive is not the one that its files make: it was changed, or packed anew")
    return Unpacked(files, None)


def numbered(files: Mapping[str, bytes], before: str, after: str) -> dict[int, bytes]:
    """The files of one folder by their number; `archive` has seen that it is one."""
    return {
        int(name.removeprefix(before).removesuffix(after)): content
        for name, content in files.items()
        if name.startswith(before)
    }
