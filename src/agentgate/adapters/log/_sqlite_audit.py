"""Feeds core/audit/ from a SQLite file: read-only, one snapshot, whole chunks; nothing is decided here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Select, Table, and_, bindparam, select
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.schema import CreateTable

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._bodies import Unfolding
from agentgate.core.audit.auditor import Auditor
from agentgate.core.audit.report import Report
from agentgate.core.audit.stored import RawRow, StoredCheckpoint, StoredHead
from agentgate.core.note import NoteKey
from agentgate.core.projection.tables import Row

_ROWS_AT_ONCE: Final = 1_000
_events = schema.events.c
_bodies = schema.bodies.c
_segments = schema.body_segments.c


_SEGMENTS: Final = (
    select(_segments.first_idx, _segments.last_idx, _segments.codec, _segments.content)
    .where(_segments.log_id == bindparam("log_id"))
    .order_by(_segments.first_idx)
)


def audit(path: Path, origin: str, keys: Sequence[NoteKey], log_id: str, kept: Sequence[bytes] = ()) -> Report:
    """Raises sqlite3.Error when the file cannot be read."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)) as db:
        db.execute("BEGIN")  # everything below is of one moment
        version = db.execute("PRAGMA user_version").fetchone()[0]
        is_old = version < 3
        for table in _lacked(version):  # by a log that nobody has opened since: nothing is in them
            make = str(CreateTable(table).compile(dialect=dialect.dialect()))
            db.execute(make.replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1))
        if version < schema.APPROVALS_SINCE:
            db.execute(f"CREATE TEMPORARY TABLE approvals AS {schema.APPROVALS_OF_OLD} FROM main.approvals a")
        tile_hashes = None if is_old else _rows(db, _of(schema.subtrees), log_id)
        checkpoints = [StoredCheckpoint(*row) for row in _rows(db, _of(schema.checkpoints), log_id)]
        stretches = None if version < schema.STRETCHES_SINCE else _rows(db, _of(schema.stretches), log_id)
        auditor = Auditor(origin, keys, checkpoints, kept, tile_hashes=tile_hashes, stretches=stretches)
        for chunk in _events_in(db, log_id):
            auditor.feed(chunk)
        heads = [StoredHead(*row) for row in _rows(db, _of(schema.head), log_id)]
        tables = {name: _named(db, name, log_id) for name in schema.DERIVED}
        return auditor.finish(heads[0] if heads else None, tables)


def _lacked(version: int) -> tuple[Table, ...]:
    since = {3: schema.NEW_IN_3, 4: schema.NEW_IN_4, 6: schema.NEW_IN_6}
    return tuple(table for number, tables in since.items() if version < number for table in tables)


def _events_in(db: sqlite3.Connection, log_id: str) -> Iterator[list[RawRow]]:
    of_event = and_(_bodies.log_id == _events.log_id, _bodies.idx == _events.idx)
    statement = select(*schema.columns_of(schema.events), _bodies.salt, _bodies.body).select_from(
        schema.events.outerjoin(schema.bodies, of_event)
    )
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
    return db.execute(str(statement.compile(dialect=dialect.dialect())), (log_id,))
