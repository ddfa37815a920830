"""Segments: the bodies of a run of older events in one compressed row, whose content is `pack`'s.

Readers look into segments for what is not in `bodies`: first at the single ones, then at the segments, because bodies
only ever move that way.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, func, select

from agentgate.adapters.log import _schema as schema
from agentgate.core.errors import LogBroken

CODEC: Final = "zlib"
SEGMENT_EVENTS: Final = 256
"""Few enough that reading one body out of a segment takes about a millisecond."""
SEGMENT_BYTES: Final = 1_048_576
"""A segment ends once its bodies have so many bytes before compression."""
MAX_SEGMENT_BYTES: Final = 1 << 26
"""No bodies of a segment have as many: where one more would make them so, compression ends. What has more was not
written by a log."""
INDEXES_AT_ONCE: Final = 512
_SEGMENTS_AT_ONCE: Final = 16
_HEAD: Final = struct.Struct(">QBI")

_events, _segments = schema.events.c, schema.body_segments.c

Ask = Callable[[Select[*tuple[Any, ...]]], Awaitable[list[tuple[Any, ...]]]]
"""Runs a statement: all its rows, of one moment. Raises LogUnavailable."""
Body = tuple[bytes, bytes]
"""Salt and body."""


def pack(bodies: Mapping[int, Body]) -> bytes:
    """Bodies by their index, compressed: their count, index and two lengths of each, all salts, all bodies."""
    heads = b"".join(_HEAD.pack(index, len(salt), len(body)) for index, (salt, body) in bodies.items())
    salts = b"".join(salt for salt, _ in bodies.values())
    texts = b"".join(body for _, body in bodies.values())
    return zlib.compress(struct.pack(">I", len(bodies)) + heads + salts + texts, 6)


def unpack(first: int, last: int, codec: str, content: bytes) -> dict[int, Body]:
    """What `pack` packed of the events from `first` to `last`. Raises LogBroken."""
    try:
        if codec != CODEC:
            raise ValueError(f"the codec {codec!r} is unknown")
        opener = zlib.decompressobj()  # which stops at a limit: a megabyte may stand for a gigabyte
        raw = opener.decompress(content, MAX_SEGMENT_BYTES + SEGMENT_BYTES)  # for heads and salts
        if not opener.eof:
            raise ValueError("it has no end, or more bytes than any segment")
        count = int.from_bytes(raw[:4], "big")
        if count > SEGMENT_EVENTS:
            raise ValueError(f"it has {count} bodies")
        heads = [_HEAD.unpack_from(raw, 4 + number * _HEAD.size) for number in range(count)]
        salt_at = 4 + count * _HEAD.size
        body_at = salt_at + sum(salt_size for _, salt_size, _ in heads)
        if len(raw) != body_at + sum(body_size for _, _, body_size in heads):
            raise ValueError("it is not as long as it says")
        bodies: dict[int, Body] = {}
        for index, salt_size, body_size in heads:
            if not first <= index <= last:  # it would take the place of the body that is in its own segment
                raise ValueError(f"it has a body of event {index}")
            bodies[index] = (raw[salt_at : salt_at + salt_size], raw[body_at : body_at + body_size])
            salt_at, body_at = salt_at + salt_size, body_at + body_size
    except (zlib.error, struct.error, ValueError) as error:
        raise LogBroken(f"the segment of bodies from event {first} on is damaged: {error}; run `log verify`") from error
    return bodies


class Segment(NamedTuple):
    """A run of events whose bodies are to be compressed."""

    first: int
    last: int
    newest: str
    bodies: Mapping[int, Body]
    content: bytes

    def row(self, log_id: str) -> tuple[Any, ...]:
        return log_id, self.first, self.last, self.newest, len(self.bodies), CODEC, self.content


async def filled(ask: Ask, log_id: str, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows that begin with an index and end with salt and body, with those bodies too that are in segments."""
    missing = [row[0] for row in rows if row[-1] is None]
    if not missing:
        return rows
    found: dict[int, Body] = {}
    async for bodies in compressed(ask, log_id, missing):
        found |= bodies
    return [(*row[:-2], *found[row[0]]) if row[0] in found else row for row in rows]


async def compressed(ask: Ask, log_id: str, indexes: Sequence[int]) -> AsyncIterator[dict[int, Body]]:
    """Those of the bodies of `indexes` that are in segments."""
    wanted = frozenset(indexes)
    begins = await starts(ask, log_id, indexes)
    for at in range(0, len(begins), _SEGMENTS_AT_ONCE):
        some = begins[at : at + _SEGMENTS_AT_ONCE]
        statement = select(_segments.first_idx, _segments.last_idx, _segments.codec, _segments.content)
        rows = await ask(statement.where(_segments.log_id == log_id, _segments.first_idx.in_(some)))
        yield await asyncio.to_thread(_unpacked, rows, wanted)


async def starts(ask: Ask, log_id: str, indexes: Sequence[int]) -> list[int]:
    """Where the segments begin that may have the bodies of `indexes`."""
    own = schema.body_segments.alias()
    start = (
        select(func.max(own.c.first_idx))
        .where(own.c.log_id == log_id, own.c.first_idx <= _events.idx)
        .scalar_subquery()
        .label("start")
    )
    found: set[int] = set()
    for at in range(0, len(indexes), INDEXES_AT_ONCE):
        some = indexes[at : at + INDEXES_AT_ONCE]
        rows = await ask(select(start).where(_events.log_id == log_id, _events.idx.in_(some)).distinct())
        found |= {row[0] for row in rows if row[0] is not None}
    return sorted(found)


def _unpacked(rows: Iterable[tuple[Any, ...]], wanted: Collection[int]) -> dict[int, Body]:
    found: dict[int, Body] = {}
    for first, last, codec, content in rows:
        found |= {index: body for index, body in unpack(first, last, codec, content).items() if index in wanted}
    return found


class Unfolding:
    """Fills rows with the bodies from segments, for an audit that reads everything in order."""

    def __init__(self, segments: Iterator[tuple[Any, ...]]) -> None:
        """`segments`: first and last index, codec and content of all, in order."""
        self._segments = segments
        self._last = -1
        self._bodies: dict[int, Body] = {}

    def fill(self, rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """A damaged segment has no bodies: the audit says which are gone."""
        return [row if row[-1] is not None else (*row[:-2], *self._body(row[0])) for row in rows]

    def _body(self, index: int) -> tuple[bytes | None, bytes | None]:
        while self._last < index:
            following = next(self._segments, None)
            if following is None:
                break
            first, self._last, codec, content = following
            try:
                self._bodies = unpack(first, self._last, codec, content)
            except LogBroken:
                self._bodies = {}
        return self._bodies.get(index, (None, None))
