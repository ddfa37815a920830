"""What SQLite needs besides the tables of every store to be append-only, and how all of it is made."""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy import Table
from sqlalchemy.schema import CreateIndex, CreateTable

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._sqlite.statements import DIALECT
from agentgate.core.projection.tables import STRETCH_BITS

VERSION: Final = 7
"""`user_version`."""
TABLES: Final = (
    schema.events, schema.bodies, schema.body_segments, schema.head, schema.checkpoints, schema.subtrees,
    schema.cosignatures, schema.stretches, schema.cursors, *schema.DERIVED.values(),
)  # fmt: skip
EVENTS_STRETCH: Final = f"""CREATE UNIQUE INDEX events_stretch
       ON events (log_id, idx >> {STRETCH_BITS}, tenant, session, session_number) WHERE {schema.IN_A_SESSION}"""
"""Instead of the index over sessions: see `_schema.stretches`."""
_NOT_HERE: Final = frozenset({"events_session"})
"""Indexes that PostgreSQL alone has."""


def _never(doing: str, table: str, why: str) -> str:
    return f"""CREATE TRIGGER {table}_{doing.lower()} BEFORE {doing} ON {table}
       BEGIN SELECT RAISE(ABORT, '{why}'); END"""


BODIES_DELETE: Final = """CREATE TRIGGER bodies_delete BEFORE DELETE ON bodies
       WHEN NOT EXISTS (SELECT 1 FROM events e JOIN prunes p
                          ON p.log_id = e.log_id AND p.tenant = e.tenant AND p.session = e.session
                        WHERE e.log_id = OLD.log_id AND e.idx = OLD.idx AND e.session <> '' AND p.through >= OLD.idx)
        AND coalesce((SELECT last_idx FROM body_segments WHERE log_id = OLD.log_id AND first_idx <= OLD.idx
                      ORDER BY first_idx DESC LIMIT 1), -1) < OLD.idx
       BEGIN SELECT RAISE(ABORT, 'a body goes by a prune event, or into a segment'); END"""
"""That the segment has the body is for `log verify` to see."""

TRIGGERS: Final = (
    *(
        _never(doing, table, f"{table} are append-only")
        for table in ("events", "checkpoints", "subtrees", "stretches")
        for doing in ("UPDATE", "DELETE")
    ),
    # The index must be the next one. This also refuses INSERT OR REPLACE, upserts and gaps, whatever the pragmas say.
    """CREATE TRIGGER events_next BEFORE INSERT ON events
       WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM events)
       BEGIN SELECT RAISE(ABORT, 'events are appended, one index after the other'); END""",
    """CREATE TRIGGER bodies_once BEFORE INSERT ON bodies
       WHEN EXISTS (SELECT 1 FROM bodies WHERE idx = NEW.idx)
       BEGIN SELECT RAISE(ABORT, 'bodies are written once'); END""",
    _never("UPDATE", "bodies", "bodies are written once"),
    BODIES_DELETE,
    """CREATE TRIGGER body_segments_next BEFORE INSERT ON body_segments
       WHEN NEW.first_idx <= (SELECT coalesce(max(last_idx), -1) FROM body_segments WHERE log_id = NEW.log_id)
         OR NEW.last_idx < NEW.first_idx
       BEGIN SELECT RAISE(ABORT, 'segments of bodies follow one another'); END""",
    """CREATE TRIGGER body_segments_update BEFORE UPDATE ON body_segments
       WHEN (NEW.log_id, NEW.first_idx, NEW.last_idx, NEW.newest) IS NOT
            (OLD.log_id, OLD.first_idx, OLD.last_idx, OLD.newest) OR NEW.bodies >= OLD.bodies
       BEGIN SELECT RAISE(ABORT, 'bodies are written once'); END""",
    _never("DELETE", "body_segments", "segments of bodies are append-only"),
    """CREATE TRIGGER checkpoints_next BEFORE INSERT ON checkpoints
       WHEN NEW.size <= (SELECT coalesce(max(size), 0) FROM checkpoints WHERE log_id = NEW.log_id)
       BEGIN SELECT RAISE(ABORT, 'checkpoints only grow'); END""",
    """CREATE TRIGGER subtrees_next BEFORE INSERT ON subtrees
       WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM subtrees
                            WHERE log_id = NEW.log_id AND level = NEW.level)
       BEGIN SELECT RAISE(ABORT, 'subtrees are appended, one index after the other'); END""",
)


def make(db: sqlite3.Connection, tables: tuple[Table, ...] = TABLES) -> None:
    """The tables, their indexes and their triggers."""
    names = {table.name for table in tables}
    for table in tables:
        db.execute(str(CreateTable(table).compile(dialect=DIALECT)))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in _NOT_HERE:
                db.execute(str(CreateIndex(index).compile(dialect=DIALECT)))
        if table is schema.events:
            db.execute(EVENTS_STRETCH)
    for trigger in TRIGGERS:
        if trigger.split(" ON ", 1)[1].split()[0] in names:
            db.execute(trigger)
