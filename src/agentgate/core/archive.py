"""The zip container of a pack, in one form only: the same files are the same bytes, and no other bytes are these files.

Nothing is compressed, so that no compressor's version is part of the form. The reader walks the entries and then
holds the whole against what the writer makes of them: a flag, a time, a comment, a second directory or a byte between
two entries is refused like a changed file. Any `unzip` reads it. Source: PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from zlib import crc32

MAX_BYTES: Final = 0xFFFF_FFFE
"""A longer archive would need 64-bit offsets everywhere, and whoever reads one has it in memory."""
_MAX_ENTRIES: Final = 0xFFFE
"""More entries than this are counted in the 64-bit record, too."""

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64: Final = struct.Struct("<4sLQL")
_MADE_BY_UNIX: Final = 3 << 8 | 45
_PLAIN_FILE: Final = 0o100644 << 16
_NEEDS: Final = 10
_DATE: Final = 0x0021  # 1 January 1980: the first one there is
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Archive:
    """What was read. `flaw` says what is wrong with the container; the files are then what could be made out."""

    files: Mapping[str, bytes]
    flaw: str | None


def is_name(name: str) -> bool:
    """Whether a pack may hold a file of that name: plain ASCII, relative, nothing hidden, no way up."""
    return len(name) <= 255 and _NAME.fullmatch(name) is not None


def write(files: Mapping[str, bytes]) -> bytes:
    """The archive of these files, in their order. Raises ValueError for a name that `is_name` refuses or too much."""
    entries: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, content in files.items():
        if not is_name(name):
            raise ValueError(f"no name for a file of a pack: {name!r}")
        raw_name = name.encode()
        about = (_NEEDS, 0, 0, 0, _DATE, crc32(content), len(content), len(content), len(raw_name), 0)
        if offset + len(content) > MAX_BYTES:
            raise ValueError("a pack of 4 GiB or more does not fit a zip file; take a shorter time range")
        entries += (_LOCAL.pack(b"PK\x03\x04", *about), raw_name, content)
        head = _CENTRAL.pack(b"PK\x01\x02", _MADE_BY_UNIX, *about, 0, 0, 0, _PLAIN_FILE, offset)
        directory += (head, raw_name)
        offset += _LOCAL.size + len(raw_name) + len(content)
    return b"".join((*entries, *directory, _end(len(files), sum(map(len, directory)), offset)))


def _end(count: int, size: int, offset: int) -> bytes:
    if max(size, offset) > MAX_BYTES:
        raise ValueError("a pack of 4 GiB or more does not fit a zip file; take a shorter time range")
    if count <= _MAX_ENTRIES:
        return _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, 0)
    wide = _END_64.pack(b"PK\x06\x06", _END_64.size - 12, _MADE_BY_UNIX, 45, 0, 0, count, count, size, offset)
    where = _LOCATOR_64.pack(b"PK\x06\x07", 0, offset + size, 1)
    return wide + where + _END.pack(b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, size, offset, 0)


def read(raw: bytes) -> Archive:
    """The files of an archive, and what is wrong with it. Never raises: there is always something to say."""
    files: dict[str, bytes] = {}
    at = 0
    while raw.startswith(b"PK\x03\x04", at):
        if at + _LOCAL.size > len(raw):
            return Archive(files, "the archive ends inside an entry")
        head = _LOCAL.unpack_from(raw, at)
        size, name_size = head[7], head[9]
        first = at + _LOCAL.size + name_size
        name = raw[at + _LOCAL.size : first].decode("latin-1")
        if not is_name(name):
            return Archive(files, f"the archive has an entry named {name[:80]!r}, which leads elsewhere or hides")
        if name in files:
            return Archive(files, f"the archive has {name} twice: two readers would see two packs")
        if head[3] or first + size > len(raw):
            return Archive(files, f"the entry {name} is compressed or cut off")
        files[name] = raw[first : first + size]
        at = first + size
    if not files:
        return Archive(files, "not a zip archive of a pack")
    if write(files) != raw:
        return Archive(files, "the archive is not byte for byte what its files make: it was changed or packed anew")
    return Archive(files, None)
