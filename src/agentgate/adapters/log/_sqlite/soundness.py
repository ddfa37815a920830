"""Whether a SQLite file is one that a gateway has made: its schema, and that each index leads to every row.

An audit reads the events in their order; packs, searches and the start of a gateway go by indexes. Who has the file
can make one that leaves something out, and write its honest text beside it; or a view that asks who reads it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from agentgate.adapters.log._sqlite.ddl import TABLES, VERSION, make
from agentgate.adapters.log._sqlite.upgrade import UPGRADES, upgrade

_Shape = dict[tuple[str, str], str]
"""The statements that make a schema, by type and name."""
_IDLE: Final = frozenset({"table", "index"})
"""They may lie beside what is ours: somebody's own table is read by nobody, and an index of ours is checked. Others
act, also where somebody has written TRIGGER: SQLite takes that as well."""


def unsound(db: sqlite3.Connection, version: int) -> Iterator[str]:
    """What is not as a gateway of that schema version makes it, and keeps it."""
    stored = _shape(db)
    yield from _differences(stored, version)
    for name in (table.name for table in TABLES if ("table", table.name) in stored):
        for (found,) in db.execute(f"PRAGMA main.integrity_check({name})"):
            if found != "ok":
                yield f"readers may be shown another log than this, for the file is damaged: {name}: {found}"


def _differences(stored: _Shape, version: int) -> Iterator[str]:
    """Of an earlier version it is what the upgrade would make of it that must be today's."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        make(db)
        ours = _shape(db)
    found = stored
    if version in UPGRADES:
        try:
            found = _upgraded(stored, version)
        except sqlite3.Error as error:
            yield f"the schema is not that of version {version}: {error}"
            return
    elif version != VERSION:
        yield f"the schema is of version {version}, which no gateway of this version writes or upgrades"
    for kind, name in sorted(ours.keys() - found.keys()):
        yield f"the {kind} {name} is missing from the schema"
    for kind, name in sorted(found.keys() - ours.keys()):
        if kind not in _IDLE:
            yield f"the schema has a {kind} {name} that no gateway made"
    for kind, name in sorted(key for key in ours.keys() & found.keys() if ours[key].split() != found[key].split()):
        yield f"the {kind} {name} is not made as a gateway makes it"


def _upgraded(stored: _Shape, version: int) -> _Shape:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("PRAGMA trusted_schema=OFF")
        for statement in stored.values():  # tables come before what is on them, as they were made
            db.execute(statement)
        upgrade(db, version)
        return _shape(db)


def _shape(db: sqlite3.Connection) -> _Shape:
    """Without what SQLite makes for itself: the indexes of keys, which have no statement, and tables of statistics."""
    rows = db.execute(
        "SELECT type, name, sql FROM main.sqlite_master WHERE sql IS NOT NULL "
        "AND NOT (type = 'table' AND name LIKE 'sqlite@_%' ESCAPE '@')"
    )
    return {(kind, name): sql for kind, name, sql in rows}
