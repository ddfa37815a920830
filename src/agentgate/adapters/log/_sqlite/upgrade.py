"""A SQLite log at the start: a new one is made, an earlier version's upgraded where it lies. All or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from sqlalchemy.schema import CreateIndex

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._sqlite.ddl import BODIES_DELETE, EVENTS_STRETCH, VERSION, make
from agentgate.adapters.log._sqlite.earlier import APPROVALS_OF_OLD, NEW_IN
from agentgate.adapters.log._sqlite.statements import DIALECT, insert_rows
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.merkle import Frontier
from agentgate.core.projection.tables import STRETCH_BITS

_LEAVES_AT_ONCE: Final = 65_536


def create_or_upgrade(db: sqlite3.Connection, path: Path, log_id: str) -> None:
    """Raises UnsafeConfiguration for what is no log, or one that cannot be upgraded."""
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if (application, version) == (0, 0) and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        _create(db, log_id)
    elif application != schema.APPLICATION_ID:
        raise UnsafeConfiguration(f"{path} is not a log of AgentGate; name another file")
    elif version in UPGRADES:
        upgrade(db, version)
    elif version != VERSION:
        raise UnsafeConfiguration(
            f"{path} has schema version {version}, this gateway writes {VERSION}; start the version that made it"
        )


def _create(db: sqlite3.Connection, log_id: str) -> None:
    db.execute("BEGIN IMMEDIATE")
    make(db)
    db.execute(insert_rows(schema.head, 1), (log_id, 0, 0, 0))
    db.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={VERSION}")
    db.execute("COMMIT")


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Go from schema version `version` to today's, in one transaction. Raises sqlite3.Error, with nothing done."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, VERSION):
            UPGRADES[step](db)
        db.execute(f"PRAGMA user_version={VERSION}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _to_3(db: sqlite3.Connection) -> None:
    make(db, NEW_IN[3])
    db.execute(BODIES_DELETE)
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
    make(db, NEW_IN[4])


def _to_5(db: sqlite3.Connection) -> None:
    make(db, (schema.stretches,))
    db.execute("DROP INDEX events_session")
    db.execute(EVENTS_STRETCH)
    db.execute(_STRETCHES)


def _to_6(db: sqlite3.Connection) -> None:
    make(db, NEW_IN[6])
    db.execute("DROP INDEX approvals_state")
    db.execute("DROP INDEX approvals_digest")
    db.execute("ALTER TABLE approvals RENAME TO approvals_of_old")
    make(db, (schema.approvals,))
    db.execute(f"INSERT INTO approvals {APPROVALS_OF_OLD} FROM approvals_of_old a")
    db.execute("DROP TABLE approvals_of_old")


def _to_7(db: sqlite3.Connection) -> None:
    db.execute("DROP INDEX events_policy")
    (index,) = (one for one in schema.events.indexes if one.name == "events_beside_calls")
    db.execute(str(CreateIndex(index).compile(dialect=DIALECT)))


_STRETCHES: Final = f"""
    INSERT INTO stretches (log_id, tenant, session, stretch)
    SELECT DISTINCT log_id, tenant, session, idx >> {STRETCH_BITS} FROM events WHERE session <> ''
    ORDER BY 1, 2, 3, 4"""  # noqa: S608  # a number
UPGRADES: Final[Mapping[int, Callable[[sqlite3.Connection], None]]] = {2: _to_3, 3: _to_4, 4: _to_5, 5: _to_6, 6: _to_7}
"""The step from each version that can still be upgraded to the next one."""
