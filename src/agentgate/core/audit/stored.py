"""What a store reads out for an audit, as it is kept there: nothing of it is believed."""

from __future__ import annotations

from dataclasses import dataclass

RawRow = tuple[int, str, str, str, str, int, str, int, bytes, bytes, bytes | None, bytes | None]
"""index, event_id, kind, tenant, session, session_number, at, kill_position, leaf, leaf_hash, salt, body."""

Stretch = tuple[str, str, int]
"""Tenant, session, and the number of a stretch of `2 ** STRETCH_BITS` events."""


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    size: int
    root: bytes
    note: bytes
    frontier: bytes


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A run of bodies: its first and last event, and the newest time that any event up to the last one says."""

    first: int
    last: int
    newest: str


@dataclass(frozen=True, slots=True)
class StoredHead:
    """The head row. `open_from` promises that no intent before it is open."""

    size: int
    kill_position: int
    open_from: int
