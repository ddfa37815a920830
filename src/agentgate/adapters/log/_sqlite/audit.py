"""Feeds core/audit/ from a SQLite file: read-only, one snapshot, whole chunks; nothing is decided here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, Table, bindparam, select

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._reading.rows import WITH_BODIES
from agentgate.adapters.log._segments import Unfolding
from agentgate.adapters.log._sqlite.connection import ReadOnly
from agentgate.adapters.log._sqlite.earlier import STRETCHES_SINCE, SUBTREES_SINCE, stand_ins
from agentgate.adapters.log._sqlite.soundness import unsound
from agentgate.adapters.log._sqlite.statements import DIALECT
from agentgate.core.audit.auditor import Auditor
from agentgate.core.audit.report import Report
from agentgate.core.audit.stored import RawRow, StoredCheckpoint, StoredHead, StoredSegment
from agentgate.core.note import NoteKey
from agentgate.core.projection.tables import Row

_ROWS_AT_ONCE: Final = 250
_events = schema.events.c
_bodies = schema.bodies.c
_segments = schema.body_segments.c
_SEGMENTS: Final = (
    select(_segments.first_idx, _segments.last_idx, _segments.codec, _segments.content)
    .where(_segments.log_id == bindparam("log_id"))
    .order_by(_segments.first_idx)
)
_RANGES: Final = select(_segments.first_idx, _segments.last_idx, _segments.newest).where(
    _segments.log_id == bindparam("log_id")
)


def audit(path: Path, origin: str, keys: Sequence[NoteKey], log_id: str, kept: Sequence[bytes] = ()) -> Report:
    """Raises sqlite3.Error when the file cannot be read, and LogUnavailable when it changes meanwhile."""
    file = ReadOnly(path, is_evidence=True)
    with closing(file.connect()) as db:
        db.execute("BEGIN")  # everything below is of one moment
        version = db.execute("PRAGMA user_version").fetchone()[0]
        flaws = list(unsound(db, version))
        for make in stand_ins(version):
            db.execute(make)
        tile_hashes = None if version < SUBTREES_SINCE else _rows(db, _of(schema.subtrees), log_id)
        checkpoints = [StoredCheckpoint(*row) for row in _rows(db, _of(schema.checkpoints), log_id)]
        segments = [StoredSegment(*row) for row in _rows(db, _RANGES, log_id)]
        stretches = None if version < STRETCHES_SINCE else _rows(db, _of(schema.stretches), log_id)
        auditor = Auditor(
            origin, keys, checkpoints, kept, tile_hashes=tile_hashes, stretches=stretches, segments=segments
        )
        for chunk in _events_in(db, log_id):
            auditor.feed(chunk)
        heads = [StoredHead(*row) for row in _rows(db, _of(schema.head), log_id)]
        derived = {name: _named(db, name, log_id) for name in schema.DERIVED}
        report = auditor.finish(heads[0] if heads else None, derived, flaws)
    file.check()
    return report


def _events_in(db: sqlite3.Connection, log_id: str) -> Iterator[list[RawRow]]:
    statement = select(*schema.columns_of(schema.events), _bodies.salt, _bodies.body).select_from(WITH_BODIES)
    cursor = _rows(db, statement.where(_events.log_id == bindparam("log_id")).order_by(_events.idx), log_id)
    unfolding = Unfolding(_rows(db, _SEGMENTS, log_id))
    while chunk := cursor.fetchmany(_ROWS_AT_ONCE):
        yield unfolding.fill(chunk)


def _of(table: Table) -> Select[Any]:
    return select(*schema.columns_of(table)).where(table.c.log_id == bindparam("log_id"))


def _named(db: sqlite3.Connection, name: str, log_id: str) -> Iterator[Row]:
    names = [column.name for column in schema.columns_of(schema.DERIVED[name])]
    return (dict(zip(names, row, strict=True)) for row in _rows(db, _of(schema.DERIVED[name]), log_id))


def _rows(db: sqlite3.Connection, statement: Select[Any], log_id: str) -> sqlite3.Cursor:
    return db.execute(str(statement.compile(dialect=DIALECT)), (log_id,))
