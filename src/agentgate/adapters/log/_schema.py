"""The tables of every store. What keeps them append-only is each store's own: `_sqlite/ddl.py`, and the migrations.

`events` and `bodies` are the log. `head` and the derived tables can be made again from them (core/projection/),
and `log verify` does. `log_id` is everywhere, so that a store can hold several logs one day (DESIGN §8).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    literal_column,
    text,
)
from sqlalchemy.ext.compiler import compiles

APPLICATION_ID: Final = 0x41474154
"""`AGAT`: what `file` and SQLite tell our databases by."""

LOG_ID: Final = "0"
"""The one log of a database."""

metadata: Final = MetaData()

# By bytes, as SQLite does: an order that a library update changes would break the indexes that decide who was first.
_Text: Final = Text().with_variant(Text(collation="C"), "postgresql")
_Int: Final = BigInteger().with_variant(Integer(), "sqlite")  # STRICT tables know INTEGER alone


def _table(
    name: str, *columns: Column[object] | Index, rowid: str | None = None, of: MetaData = metadata, **options: Any
) -> Table:
    """`rowid` names the column that alone is the key in SQLite, where one file is one log: the row then lies in the
    table's own tree, and a commit writes a page less for each such table."""
    log_id: Column[str] = Column("log_id", _Text, primary_key=True)
    return Table(name, of, log_id, *columns, sqlite_strict=True, info={"rowid": rowid}, **options)


@compiles(PrimaryKeyConstraint, "sqlite")
def _sqlite_key(key: PrimaryKeyConstraint, compiler: Any, **options: Any) -> str:
    rowid = key.table.info.get("rowid")
    return f"PRIMARY KEY ({rowid})" if rowid else str(compiler.visit_primary_key_constraint(key, **options))


def columns_of(table: Table) -> list[Column[Any]]:
    """All but the log's id, in the table's order."""
    return [column for column in table.columns if column.name != "log_id"]


def _text(name: str, *, key: bool = False, null: bool = False) -> Column[object]:
    return Column(name, _Text, primary_key=key, nullable=null)


def _int(name: str, *, key: bool = False, null: bool = False) -> Column[object]:
    return Column(name, _Int, primary_key=key, nullable=null, autoincrement=False)


def _blob(name: str, *, null: bool = False) -> Column[object]:
    return Column(name, LargeBinary, nullable=null)


IN_A_SESSION: Final = text("session <> ''")
OF_CALLS: Final = ("decided", "finished")
"""The kinds of nearly all events."""
BESIDE_CALLS: Final[ColumnElement[bool]] = literal_column("kind NOT IN ('decided', 'finished')")
"""What a statement about other kinds says in these words, so that a store uses the index over them."""

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
        "events_session", "log_id", "tenant", "session", "session_number", unique=True, postgresql_where=IN_A_SESSION
    ),  # SQLite has `EVENTS_STRETCH` instead
    # Packs name every kill and hold, and every member asks once a second for a new policy: among millions of calls.
    Index("events_beside_calls", "log_id", "idx", "kind", sqlite_where=BESIDE_CALLS, postgresql_where=BESIDE_CALLS),
    rowid="idx",
)
bodies: Final = _table("bodies", _int("idx", key=True), _blob("salt"), _blob("body"), rowid="idx")
body_segments: Final = _table(
    "body_segments",
    _int("first_idx", key=True),
    _int("last_idx"),
    _text("newest"),
    _int("bodies"),
    _text("codec"),
    _blob("content"),
    rowid="first_idx",
)
"""Bodies of a run of older events, compressed (`_segments.py`): how many are left of them, and the newest time that any
event up to the last one says. A segment stays when nothing is left in it: its time is what later ages go by."""
head: Final = _table("head", _int("size"), _int("kill_position"), _int("open_from"))
"""One row. `open_from`: no intent before this index is open, so a start need not scan from 0."""
checkpoints: Final = _table("checkpoints", _int("size", key=True), _blob("root"), _blob("note"), _blob("frontier"))
subtrees: Final = _table("subtrees", _int("level", key=True), _int("idx", key=True), _blob("hash"))
"""The tile hashes above the leaves: of level L the roots of all complete subtrees of 256^L leaves that are signed."""
cosignatures: Final = _table("cosignatures", _text("witness", key=True), _int("size"), _text("line"))
"""Of each witness its newest cosignature: a signature line, and the size of the checkpoint that it is for."""

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
    _int("quorum"),
    _text("approvers"),
    _int("votes"),
    _text("on_behalf_of", null=True),
    _text("server"),
    _text("tool_sha256"),
    _int("position"),
    _text("edited_from", null=True),
    _text("edited_to", null=True),
    _int("executes"),
    _text("why", null=True),
    _int("idx"),
    Index("approvals_state", "log_id", "state", "requested_at"),
    Index("approvals_digest", "log_id", "digest"),
    Index("approvals_trace", "log_id", "trace_id"),
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
holds: Final = _table(
    "holds",
    _text("id", key=True),
    _text("tenant"),
    _text("session"),
    _text("reason", null=True),
    _text("actor"),
    _text("at"),
    _int("released_idx", null=True),
    _int("idx"),
    Index("holds_released", "log_id", "released_idx"),
)
prunes: Final = _table("prunes", _text("tenant", key=True), _text("session", key=True), _int("through"), _int("idx"))
pins: Final = _table(
    "pins",
    _text("server", key=True),
    _text("tool", key=True),
    _text("name"),
    _text("state"),
    _text("pin"),
    _text("definition", null=True),
    _text("access"),
    _text("trust"),
    _text("found"),
    _text("found_definition", null=True),
    _text("actor"),
    _text("at"),
    _int("idx"),
)
votes: Final = _table(
    "votes", _text("approval", key=True), _text("person", key=True), _int("ordinal"), _text("at"), _int("idx")
)
answers: Final = _table(
    "answers",
    _text("key", key=True),
    _text("tenant"),
    _text("principal"),
    _text("session"),
    _text("tool"),
    _text("trace_id"),
    _text("digest"),
    _text("outcome"),
    _text("reason_code"),
    _text("at"),
    _int("idx"),
    _blob("sealed", null=True),
    Index("answers_trace", "log_id", "trace_id"),
    Index("answers_at", "log_id", "at"),
    Index("answers_idx", "log_id", "idx"),
)
cursors: Final = _table("cursors", _text("name", key=True), _int("idx"))
"""How far each of those has come who follow the log. Neither the log nor derived from it."""

stretches: Final = _table(
    "stretches",
    _text("tenant", key=True),
    _text("session", key=True),
    _int("stretch", key=True),
    of=MetaData(),  # PostgreSQL has none
    sqlite_with_rowid=False,
)
"""In which stretches of a SQLite log each session has events. An index over sessions would have a place of its own for
each, and a commit of a hundred sessions' events write a hundred pages of it; `EVENTS_STRETCH` is written in one place,
and this once for a session and a stretch. `_reading/stretches.py` reads by both."""

DERIVED: Final = {
    table.name: table
    for table in (
        sessions, spent, kills, approvals, members, acks, release_asks, holds, prunes, pins, votes, answers,
    )
}  # fmt: skip
OLDEST_FIRST: Final = {"kills": ("position",), "members": ("joined_idx",)}
"""The order in which a derived table is read; all others are by `idx`."""

# For a log that several processes write to. A SQLite log is one process's: it needs neither.
identity: Final = _table("identity", _int("number", key=True), _text("origin"), _blob("public_key"))
"""What the log is signed as, and with which key: a row for each key, the newest last, which every replica must have."""
beats: Final = _table("beats", _text("member", key=True), _int("beat"))
"""Heartbeat counters. Neither the log nor derived from it: they only tell who might be gone."""
