"""The zip of an evidence pack: which files it may have, in which order, and its one byte form.

Files are stored, not deflated: two releases of a deflate library need not write the same bytes, and a verifier must be
able to make the archive again from its files and compare, so that nothing hides between them. For the same reason the
records are written here, field by field, and not by a library whose defaults may change. HTTP may compress on the way.
Source: PKWARE APPNOTE.TXT 6.3.10, §4.3.7 (local header), §4.3.12 (central directory), §4.3.14-16 (its end, also Zip64).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

ENVELOPE_FILES: Final = ("pack.dsse.json", "pack.sigstore.json", "pack.dsse.tsr")
"""What is made of the digests of all other files, and so is no subject of the statement."""

_SINGLE: Final = (
    "VERIFY.md",
    "pack.json",
    "pack.json.hmac",
    "pack.html",
    "pack.html.hmac",
    "pack.pdf",
    "pack.pdf.hmac",
    *ENVELOPE_FILES,
    "checkpoint",
    "keys/log.vkey",
    "keys/envelope.pub.pem",
)
_NUMBER: Final = r"(0|[1-9][0-9]{0,17})"
_MANY: Final = (
    re.compile(r"keys/retired-[0-9a-f]{8}\.vkey", re.ASCII),
    re.compile(r"keys/retired-[0-9a-f]{64}\.pub\.pem", re.ASCII),
    re.compile(rf"consistency/{_NUMBER}", re.ASCII),
    re.compile(rf"leaves/{_NUMBER}\.json", re.ASCII),
    re.compile(rf"bodies/{_NUMBER}\.json", re.ASCII),
    re.compile(rf"proofs/{_NUMBER}\.tlog-proof", re.ASCII),
)

PLACES: Final = len(_SINGLE) + len(_MANY)
"""How many kinds of files there are."""

_LOCAL: Final = struct.Struct("<IHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<IHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<IHHHHIIH")
_END64: Final = struct.Struct("<IQHHIIQQQQ")
_LOCATOR: Final = struct.Struct("<IIQI")
_OFFSET64: Final = struct.Struct("<HHQ")
_VERSION: Final = 20
_VERSION64: Final = 45
_UNIX: Final = 3 << 8
_MODE: Final = 0o100644 << 16
_DATE: Final = 0x0021  # 1980-01-01, the first day that a zip knows; its time 0 is midnight
_MANY_ENTRIES: Final = 0xFFFF
_FAR: Final = 0xFFFFFFFF
_CHUNK_BYTES: Final = 1 << 18


class NotAMember(ValueError):
    """A pack has no file of that name, or the file is too large for one."""


def place(name: str) -> tuple[int, int, str]:
    """Where a file stands in the archive: sorts by it. Raises NotAMember."""
    if name in _SINGLE:
        return _SINGLE.index(name), 0, ""
    for at, pattern in enumerate(_MANY, len(_SINGLE)):
        if (found := pattern.fullmatch(name)) is not None:
            return at, int(found[1]) if pattern.groups else 0, name
    raise NotAMember(f"a pack has no file {name!r}")


def ordered(names: Iterable[str]) -> list[str]:
    """Names as they stand in the archive. Raises NotAMember."""
    return sorted(names, key=place)


def canonical_zip(files: Mapping[str, bytes]) -> bytes:
    """The one archive of these files, whatever order they are given in. Raises NotAMember."""
    return b"".join(_pieces(files))


def size_of(files: Mapping[str, bytes]) -> int:
    """How many bytes the archive of these files has, without making it. Raises NotAMember."""
    offset = directory = 0
    for name in ordered(files):
        directory += _CENTRAL.size + len(name) + (_OFFSET64.size if offset >= _FAR else 0)
        offset += _LOCAL.size + len(name) + len(files[name])
    return offset + directory + len(_end(len(files), directory, offset))


def chunks(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """The archive in pieces of a quarter of a megabyte or so, for a wire. Raises NotAMember."""
    waiting: list[bytes] = []
    size = 0
    for piece in _pieces(files):
        waiting.append(piece)
        size += len(piece)
        if size >= _CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _pieces(files: Mapping[str, bytes]) -> Iterator[bytes]:
    directory: list[bytes] = []
    offset = 0
    for name in ordered(files):
        content = files[name]
        if len(content) >= _FAR:
            raise NotAMember(f"{name} has {len(content)} bytes, which no reader expects in a pack")
        sizes = (zlib.crc32(content), len(content), len(content), len(name))
        directory.append(_central(name, sizes, offset))
        yield _LOCAL.pack(0x04034B50, _VERSION, 0, 0, 0, _DATE, *sizes, 0) + name.encode()
        yield content
        offset += _LOCAL.size + len(name) + len(content)
    yield from directory
    yield _end(len(directory), sum(map(len, directory)), offset)


def _central(name: str, sizes: tuple[int, int, int, int], offset: int) -> bytes:
    """A file's entry in the central directory, with where it starts apart from it if that is beyond 4 GiB."""
    if offset < _FAR:
        made = (0x02014B50, _UNIX | _VERSION64, _VERSION, 0, 0, 0, _DATE)
        return _CENTRAL.pack(*made, *sizes, 0, 0, 0, 0, _MODE, offset) + name.encode()
    made = (0x02014B50, _UNIX | _VERSION64, _VERSION64, 0, 0, 0, _DATE)
    entry = _CENTRAL.pack(*made, *sizes, _OFFSET64.size, 0, 0, 0, _MODE, _FAR)
    return entry + name.encode() + _OFFSET64.pack(1, 8, offset)


def _end(entries: int, size: int, offset: int) -> bytes:
    """The end of the central directory, with Zip64's own before it where the numbers want one."""
    large = b""
    if entries >= _MANY_ENTRIES or size >= _FAR or offset >= _FAR:
        large = _END64.pack(
            0x06064B50, _END64.size - 12, _UNIX | _VERSION64, _VERSION64, 0, 0, entries, entries, size, offset
        ) + _LOCATOR.pack(0x07064B50, 0, offset + size, 1)  # fmt: skip
    some = min(entries, _MANY_ENTRIES)
    return large + _END.pack(0x06054B50, 0, 0, some, some, min(size, _FAR), min(offset, _FAR), 0)
