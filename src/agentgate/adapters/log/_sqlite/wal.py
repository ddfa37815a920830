"""Whether there is anything in a write-ahead log, as SQLite finds it out (https://sqlite.org/fileformat2.html, § 4)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_PAGES_BYTES: Final = frozenset(2**bits for bits in range(9, 17))
_LITTLE_ENDIAN: Final = 0x377F0682
"""Of a log whose checksums are over little-endian words; 1 more: big-endian ones."""


def has_commits(path: Path) -> bool:
    """Whether a transaction in it was committed: until then its frames are nothing."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
        if len(header) < _HEADER:
            return False
        magic, _, page_bytes = struct.unpack_from(">3I", header)
        order = {_LITTLE_ENDIAN: "<", _LITTLE_ENDIAN + 1: ">"}.get(magic)
        if order is None or page_bytes not in _PAGES_BYTES:
            return False
        sums = _checksum(order, header[:24], (0, 0))
        if sums != struct.unpack_from(">2I", header, 24):
            return False
        while len(frame := file.read(_FRAME_HEADER + page_bytes)) == _FRAME_HEADER + page_bytes:
            page, size_after_commit = struct.unpack_from(">2I", frame)
            sums = _checksum(order, frame[:8] + frame[_FRAME_HEADER:], sums)
            if not page or frame[8:16] != header[16:24] or sums != struct.unpack_from(">2I", frame, 16):
                return False  # what is left of a log before this one, or half written
            if size_after_commit:
                return True
    return False


def _checksum(order: str, content: bytes, before: tuple[int, int]) -> tuple[int, int]:
    first, second = before
    for even, odd in struct.iter_unpack(f"{order}2I", content):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
