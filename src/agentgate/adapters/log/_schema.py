"""The tables of every store, and what SQLite needs besides them to be append-only (PostgreSQL: `migrations/`).

`events` and `bodies` are the log. `head` and the derived tables can be made again from them (core/projection.py),
and `log verify` does. `log_id` is everywhere, so that a store can hold several logs one day (DESIGN §8).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.ext.compiler import compiles

SCHEMA_VERSION: Final = 2
"""SQLite's `user_version`."""
SCHEMA_REVISION: Final = "0001"
"""The migration that PostgreSQL must be at."""
APPLICATION_ID: Final = 0x41474154
"""`AGAT`: what `file` and SQLite tell our databases by."""

LOG_ID: Final = "0"
"""The one log of a database."""

metadata: Final = MetaData()

# By bytes, as SQLite does: an order that a library update changes would break the indexes that decide who was first.
_Text: Final = Text().with_variant(Text(collation="C"), "postgresql")
_Int: Final = BigInteger().with_variant(Integer(), "sqlite")  # STRICT tables know INTEGER alone


def _table(name: str, *columns: Column[object] | Index, rowid: str | None = None) -> Table:
    """`rowid` names the column that alone is the key in SQLite, where one file is one log: the row then lies in the
    table's own tree, and a commit writes a page less for each such table."""
    log_id: Column[str] = Column("log_id", _Text, primary_key=True)
    return Table(name, metadata, log_id, *columns, sqlite_strict=True, info={"rowid": rowid})


@compiles(PrimaryKeyConstraint, "sqlite")
def _sqlite_key(key: PrimaryKeyConstraint, compiler: Any, **options: Any) -> str:
    rowid = key.table.info.get("rowid")
    return f"PRIMARY KEY ({rowid})" if rowid else str(compiler.visit_primary_key_constraint(key, **options))


def _text(name: str, *, key: bool = False, null: bool = False) -> Column[object]:
    return Column(name, _Text, primary_key=key, nullable=null)


def _int(name: str, *, key: bool = False, null: bool = False) -> Column[object]:
    return Column(name, _Int, primary_key=key, nullable=null, autoincrement=False)


def _blob(name: str, *, null: bool = False) -> Column[object]:
    return Column(name, LargeBinary, nullable=null)


_IN_A_SESSION: Final = text("session <> ''")
_OF_POLICY: Final = text("kind = 'policy'")

events: Final = _table(
    "events",
    _int("idx", key=True),
    _text("event_id"),
    _text("kind"),
    _text("tenant"),
    _text("session"),
    _int("session_number"),
    _text("at"),
    _int("kill_position"),
    _blob("leaf"),
    _blob("leaf_hash"),
    Index("events_id", "event_id", unique=True),
    Index(
        "events_session",
        "log_id",
        "tenant",
        "session",
        "session_number",
        unique=True,
        sqlite_where=_IN_A_SESSION,
        postgresql_where=_IN_A_SESSION,
    ),
    # Every member asks once a second whether another one enforces a new policy.
    Index("events_policy", "log_id", "idx", sqlite_where=_OF_POLICY, postgresql_where=_OF_POLICY),
    rowid="idx",
)
bodies: Final = _table("bodies", _int("idx", key=True), _blob("salt"), _blob("body"), rowid="idx")
head: Final = _table("head", _int("size"), _int("kill_position"), _int("open_from"))
"""One row. `open_from`: no intent before this index is open, so a start need not scan from 0."""
checkpoints: Final = _table("checkpoints", _int("size", key=True), _blob("root"), _blob("note"), _blob("frontier"))

sessions: Final = _table(
    "sessions",
    _text("tenant", key=True),
    _text("session", key=True),
    _text("principal"),
    _text("first_at"),
    _int("idx"),
)
spent: Final = _table("spent", _text("kind", key=True), _text("key", key=True), _int("idx"))
kills: Final = _table(
    "kills",
    _text("id", key=True),
    _text("scope"),
    _text("tenant"),
    _text("target"),
    _text("reason", null=True),
    _text("actor"),
    _text("since"),
    _text("expires_at", null=True),
    _int("position"),
    _int("released_position", null=True),
    _int("drained"),
    _text("receipt", null=True),
    _int("idx"),
    Index("kills_position", "log_id", "position"),
    Index("kills_released", "log_id", "released_position"),
    Index("kills_drained", "log_id", "drained", "released_position"),
)
approvals: Final = _table(
    "approvals",
    _text("id", key=True),
    _text("tenant"),
    _text("session"),
    _text("requested_by"),
    _text("tool"),
    _text("trace_id"),
    _text("digest"),
    _text("policy_revision"),
    _text("requested_at"),
    _text("expires_at"),
    _text("state"),
    _text("decided_by", null=True),
    _text("token_sha256", null=True),
    _blob("sealed", null=True),
    Index("approvals_state", "log_id", "state", "requested_at"),
    Index("approvals_digest", "log_id", "digest"),
)
members: Final = _table(
    "members",
    _text("member", key=True),
    _int("joined_idx"),
    _int("left_idx", null=True),
    _int("gone_idx", null=True),
    _int("attested_idx", null=True),
    Index("members_left", "log_id", "left_idx"),
)
acks: Final = _table(
    "acks",
    _text("member", key=True),
    _int("position", key=True),
    _int("cancelled"),
    _int("finished"),
    _int("unknown"),
    _int("took_us"),
    _text("at"),
    _int("idx"),
    Index("acks_position", "log_id", "position"),
)
release_asks: Final = _table(
    "release_asks", _text("kill_id", key=True), _text("person", key=True), _text("at"), _int("idx")
)

DERIVED: Final = {table.name: table for table in (sessions, spent, kills, approvals, members, acks, release_asks)}
OLDEST_FIRST: Final = {
    "sessions": ("idx",),
    "spent": ("idx",),
    "kills": ("position",),
    "approvals": ("requested_at", "id"),
    "members": ("joined_idx",),
    "acks": ("idx",),
    "release_asks": ("idx",),
}
"""The order in which each derived table is read."""

# For a log that several processes write to. A SQLite log is one process's: it needs neither.
identity: Final = _table("identity", _text("origin"), _blob("public_key"))
"""One row: what the log is signed as, and with which key. Every replica must have the same."""
beats: Final = _table("beats", _text("member", key=True), _int("beat"))
"""Heartbeat counters. Neither the log nor derived from it: they only tell who might be gone."""
IN_SQLITE: Final = (events, bodies, head, checkpoints, *DERIVED.values())

SQLITE_TRIGGERS: Final = (
    # The index must be the next one. This also refuses INSERT OR REPLACE, upserts and gaps, whatever the pragmas say.
    """CREATE TRIGGER events_next BEFORE INSERT ON events
       WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM events)
       BEGIN SELECT RAISE(ABORT, 'events are appended, one index after the other'); END""",
    "CREATE TRIGGER events_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
    "CREATE TRIGGER events_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
    """CREATE TRIGGER bodies_once BEFORE INSERT ON bodies
       WHEN EXISTS (SELECT 1 FROM bodies WHERE idx = NEW.idx)
       BEGIN SELECT RAISE(ABORT, 'bodies are written once'); END""",
    "CREATE TRIGGER bodies_update BEFORE UPDATE ON bodies BEGIN SELECT RAISE(ABORT, 'bodies are written once'); END",
    """CREATE TRIGGER checkpoints_next BEFORE INSERT ON checkpoints
       WHEN NEW.size <= (SELECT coalesce(max(size), 0) FROM checkpoints WHERE log_id = NEW.log_id)
       BEGIN SELECT RAISE(ABORT, 'checkpoints only grow'); END""",
    """CREATE TRIGGER checkpoints_update BEFORE UPDATE ON checkpoints
       BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END""",
    """CREATE TRIGGER checkpoints_delete BEFORE DELETE ON checkpoints
       BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END""",
)
