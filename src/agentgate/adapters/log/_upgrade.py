"""Bringing a SQLite log of an earlier schema version up to date where it lies: at the start, all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from agentgate.adapters.log import _schema as schema
from agentgate.core.merkle import Frontier
from agentgate.core.projection.tables import STRETCH_BITS

_LEAVES_AT_ONCE: Final = 65_536


def make(db: sqlite3.Connection, tables: tuple[Table, ...]) -> None:
    """The tables, their indexes and their triggers."""
    names = {table.name for table in tables}
    for table in tables:
        db.execute(str(CreateTable(table).compile(dialect=dialect.dialect())))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in schema.NOT_IN_SQLITE:
                db.execute(str(CreateIndex(index).compile(dialect=dialect.dialect())))
        if table is schema.events:
            db.execute(schema.EVENTS_STRETCH)
    for trigger in schema.SQLITE_TRIGGERS:
        if trigger.split(" ON ", 1)[1].split()[0] in names:
            db.execute(trigger)


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Go from schema version `version` to today's, in one transaction. Raises sqlite3.Error, with nothing done."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, schema.SCHEMA_VERSION):
            UPGRADES[step](db)
        db.execute(f"PRAGMA user_version={schema.SCHEMA_VERSION}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _to_3(db: sqlite3.Connection) -> None:
    make(db, schema.NEW_IN_3)
    db.execute(schema.BODIES_DELETE)
    for log_id, size in db.execute("SELECT log_id, max(size) FROM checkpoints GROUP BY log_id").fetchall():
        _fill_subtrees(db, log_id, size)


def _fill_subtrees(db: sqlite3.Connection, log_id: str, size: int) -> None:
    """What the integrator would have written with the checkpoints that are there."""
    frontier = Frontier()
    leaves = "SELECT leaf_hash FROM events WHERE log_id = ? AND idx >= ? AND idx < ? ORDER BY idx"
    while frontier.size < size:
        end = min(size, frontier.size + _LEAVES_AT_ONCE)
        found = [leaf for (leaf,) in db.execute(leaves, (log_id, frontier.size, end))]
        if not found:
            return  # fewer than were signed: the start says so, and `log verify`
        rows = [(log_id, *completed) for completed in frontier.extend(found)]
        db.executemany("INSERT INTO subtrees (log_id, level, idx, hash) VALUES (?, ?, ?, ?)", rows)


def _to_4(db: sqlite3.Connection) -> None:
    make(db, schema.NEW_IN_4)


def _to_5(db: sqlite3.Connection) -> None:
    make(db, (schema.stretches,))
    db.execute("DROP INDEX events_session")
    db.execute(schema.EVENTS_STRETCH)
    db.execute(_STRETCHES)


def _to_6(db: sqlite3.Connection) -> None:
    make(db, schema.NEW_IN_6)
    db.execute("DROP INDEX approvals_state")
    db.execute("DROP INDEX approvals_digest")
    db.execute("ALTER TABLE approvals RENAME TO approvals_of_old")
    make(db, (schema.approvals,))
    db.execute(f"INSERT INTO approvals {schema.APPROVALS_OF_OLD} FROM approvals_of_old a")
    db.execute("DROP TABLE approvals_of_old")


def _to_7(db: sqlite3.Connection) -> None:
    db.execute("DROP INDEX events_policy")
    (index,) = (one for one in schema.events.indexes if one.name == "events_beside_calls")
    db.execute(str(CreateIndex(index).compile(dialect=dialect.dialect())))


_STRETCHES: Final = f"""
    INSERT INTO stretches (log_id, tenant, session, stretch)
    SELECT DISTINCT log_id, tenant, session, idx >> {STRETCH_BITS} FROM events WHERE session <> ''
    ORDER BY 1, 2, 3, 4"""  # noqa: S608  # a number
UPGRADES: Final[Mapping[int, Callable[[sqlite3.Connection], None]]] = {2: _to_3, 3: _to_4, 4: _to_5, 5: _to_6, 6: _to_7}
"""The step from each version that can still be upgraded to the next one."""
