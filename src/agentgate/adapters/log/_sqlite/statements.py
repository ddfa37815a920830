"""The statements of who writes to a SQLite file: each made once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Insert, Table, bindparam, insert, update
from sqlalchemy.dialects import sqlite as dialect

from agentgate.adapters.log import _schema as schema
from agentgate.core.projection.tables import KEYS, STRETCH_BITS

DIALECT: Final = dialect.dialect()
_CHUNKS: Final = (256, 64, 16, 4, 1)
"""Rows in one INSERT. sqlite3 lets go of the interpreter lock once per statement, so few statements are fast;
a handful of sizes keeps them all prepared."""


def chunks(rows: int) -> Iterator[tuple[int, int]]:
    """Where each chunk of so many rows starts, and its size."""
    first = 0
    for size in _CHUNKS:
        while rows - first >= size:
            yield first, size
            first += size


@lru_cache(maxsize=64)
def insert_rows(table: Table, rows: int) -> str:
    """An INSERT of that many rows, with a parameter for each column in the table's order."""
    one = str(insert(table).compile(dialect=DIALECT))
    before, values, row = one.rpartition(" VALUES ")
    return before + values + ", ".join([row] * rows)


@lru_cache
def put(name: str) -> str:
    table = schema.DERIVED[name]
    statement: Insert = dialect.insert(table).on_conflict_do_nothing(index_elements=["log_id", *KEYS[name]])
    return str(statement.compile(dialect=DIALECT))


@lru_cache
def change(name: str, columns: tuple[str, ...], states: int) -> str:
    table = schema.DERIVED[name]
    where = [table.c[key] == bindparam(f"key_{key}") for key in ("log_id", *KEYS[name])]
    if states:
        where.append(table.c.state.in_([bindparam(f"state_{number}") for number in range(states)]))
    values: list[Any] = [(table.c[column], bindparam(f"to_{column}")) for column in columns]
    statement = update(table).where(*where).ordered_values(*values)  # `values` would follow the table's own order
    return str(statement.compile(dialect=DIALECT))


@lru_cache
def lookup(keys: int) -> str:
    """Owner, last stretch and last number of so many sessions, in one statement."""
    wanted = ", ".join(["(?, ?)"] * keys)
    return f"""
        WITH log(id) AS (VALUES (?)), wanted(tenant, session) AS (VALUES {wanted}), found AS MATERIALIZED (
          SELECT log.id, tenant, session, (SELECT max(stretch) FROM stretches s WHERE s.log_id = log.id
            AND s.tenant = wanted.tenant AND s.session = wanted.session) AS stretch FROM wanted, log)
        SELECT tenant, session,
          (SELECT principal FROM sessions s WHERE s.log_id = found.id AND s.tenant = found.tenant
             AND s.session = found.session),
          stretch,
          (SELECT max(session_number) FROM events e WHERE e.log_id = found.id AND e.idx >> {STRETCH_BITS} = +stretch
             AND e.tenant = found.tenant AND e.session = found.session AND e.session <> '')
        FROM found"""  # noqa: S608  # nothing but question marks and a number is put in


HEAD: Final = "UPDATE head SET size = ?, kill_position = ?, open_from = ? WHERE log_id = ?"
COSIGNED: Final = """
    INSERT INTO cosignatures (log_id, witness, size, line) VALUES (?, ?, ?, ?)
    ON CONFLICT (log_id, witness) DO UPDATE SET size = excluded.size, line = excluded.line WHERE excluded.size > size"""
CURSOR: Final = """
    INSERT INTO cursors (log_id, name, idx) VALUES (?, ?, ?)
    ON CONFLICT (log_id, name) DO UPDATE SET idx = max(idx, excluded.idx)"""
