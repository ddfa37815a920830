"""The tables of every store, and what SQLite needs besides them to be append-only (PostgreSQL: `migrations/`).

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

from agentgate.core.projection.tables import STRETCH_BITS

SCHEMA_VERSION: Final = 7
"""SQLite's `user_version`."""
SCHEMA_REVISION: Final = "0005"
"""The migration that PostgreSQL must be at."""
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


_IN_A_SESSION: Final = text("session <> ''")
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
        "events_session",
        "log_id",
        "tenant",
        "session",
        "session_number",
        unique=True,
        postgresql_where=_IN_A_SESSION,
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
"""Bodies of a run of older events, compressed (`_bodies.py`): how many are left of them, and the newest time that any
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
and this once for a session and a stretch. `_stretches.py` reads by both."""
EVENTS_STRETCH: Final = f"""CREATE UNIQUE INDEX events_stretch
       ON events (log_id, idx >> {STRETCH_BITS}, tenant, session, session_number) WHERE {_IN_A_SESSION}"""
STRETCHES_OF_OLD: Final = f"""CREATE TEMPORARY VIEW stretches AS
       SELECT log_id, tenant, session, idx >> {STRETCH_BITS} AS stretch FROM events WHERE {_IN_A_SESSION}"""  # noqa: S608  # a number
"""For reading a log of an earlier version, which has the index over sessions."""
STRETCHES_SINCE: Final = 5
NOT_IN_SQLITE: Final = frozenset({"events_session"})
"""Indexes that PostgreSQL alone has."""

DERIVED: Final = {
    table.name: table
    for table in (
        sessions, spent, kills, approvals, members, acks, release_asks, holds, prunes, pins, votes, answers,
    )
}  # fmt: skip
OLDEST_FIRST: Final = {
    "sessions": ("idx",),
    "spent": ("idx",),
    "kills": ("position",),
    "approvals": ("requested_at", "id"),
    "members": ("joined_idx",),
    "acks": ("idx",),
    "release_asks": ("idx",),
    "holds": ("idx",),
    "prunes": ("idx",),
    "pins": ("idx",),
    "votes": ("idx",),
    "answers": ("idx",),
}
"""The order in which each derived table is read."""

# For a log that several processes write to. A SQLite log is one process's: it needs neither.
identity: Final = _table("identity", _int("number", key=True), _text("origin"), _blob("public_key"))
"""What the log is signed as, and with which key: a row for each key, the newest last, which every replica must have."""
beats: Final = _table("beats", _text("member", key=True), _int("beat"))
"""Heartbeat counters. Neither the log nor derived from it: they only tell who might be gone."""
IN_SQLITE: Final = (
    events, bodies, body_segments, head, checkpoints, subtrees, cosignatures, stretches, cursors, *DERIVED.values(),
)  # fmt: skip
NEW_IN_3: Final = (subtrees, cosignatures, body_segments, holds, prunes)
"""What a SQLite log of schema version 2 lacks."""
NEW_IN_4: Final = (pins,)
NEW_IN_6: Final = (votes, answers, cursors)
APPROVALS_SINCE: Final = 6
_OF_THE_REQUEST: Final = """
    SELECT {of} FROM events e WHERE e.log_id = a.log_id AND e.kind = 'approval_requested'
      AND json_extract(CAST(e.leaf AS TEXT), '$.approval_id') = a.id ORDER BY e.idx LIMIT 1"""
APPROVALS_OF_OLD: Final = f"""
    SELECT a.log_id, a.id, a.tenant, a.session, a.requested_by, a.tool, a.trace_id, a.digest, a.policy_revision,
      a.requested_at, a.expires_at, a.state, a.decided_by, a.token_sha256, a.sealed, 1 AS quorum, '[]' AS approvers,
      CASE WHEN a.token_sha256 IS NOT NULL THEN 1 ELSE 0 END AS votes, NULL AS on_behalf_of,
      '' AS server, '' AS tool_sha256, coalesce(({_OF_THE_REQUEST.format(of="e.kill_position")}), 0) AS position,
      NULL AS edited_from, NULL AS edited_to, 0 AS executes, NULL AS why,
      coalesce(({_OF_THE_REQUEST.format(of="e.idx")}), 0) AS idx"""
"""What the approvals of an earlier version are now: one yes was enough for each, and nobody could edit one."""

BODIES_DELETE: Final = """CREATE TRIGGER bodies_delete BEFORE DELETE ON bodies
       WHEN NOT EXISTS (SELECT 1 FROM events e JOIN prunes p
                          ON p.log_id = e.log_id AND p.tenant = e.tenant AND p.session = e.session
                        WHERE e.log_id = OLD.log_id AND e.idx = OLD.idx AND e.session <> '' AND p.through >= OLD.idx)
        AND coalesce((SELECT last_idx FROM body_segments WHERE log_id = OLD.log_id AND first_idx <= OLD.idx
                      ORDER BY first_idx DESC LIMIT 1), -1) < OLD.idx
       BEGIN SELECT RAISE(ABORT, 'a body goes by a prune event, or into a segment'); END"""
"""That the segment has the body is for `log verify` to see."""

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
    BODIES_DELETE,
    """CREATE TRIGGER body_segments_next BEFORE INSERT ON body_segments
       WHEN NEW.first_idx <= (SELECT coalesce(max(last_idx), -1) FROM body_segments WHERE log_id = NEW.log_id)
         OR NEW.last_idx < NEW.first_idx
       BEGIN SELECT RAISE(ABORT, 'segments of bodies follow one another'); END""",
    """CREATE TRIGGER body_segments_update BEFORE UPDATE ON body_segments
       WHEN (NEW.log_id, NEW.first_idx, NEW.last_idx, NEW.newest) IS NOT
            (OLD.log_id, OLD.first_idx, OLD.last_idx, OLD.newest) OR NEW.bodies >= OLD.bodies
       BEGIN SELECT RAISE(ABORT, 'bodies are written once'); END""",
    """CREATE TRIGGER body_segments_delete BEFORE DELETE ON body_segments
       BEGIN SELECT RAISE(ABORT, 'segments of bodies are append-only'); END""",
    """CREATE TRIGGER checkpoints_next BEFORE INSERT ON checkpoints
       WHEN NEW.size <= (SELECT coalesce(max(size), 0) FROM checkpoints WHERE log_id = NEW.log_id)
       BEGIN SELECT RAISE(ABORT, 'checkpoints only grow'); END""",
    """CREATE TRIGGER checkpoints_update BEFORE UPDATE ON checkpoints
       BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END""",
    """CREATE TRIGGER checkpoints_delete BEFORE DELETE ON checkpoints
       BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END""",
    """CREATE TRIGGER subtrees_next BEFORE INSERT ON subtrees
       WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM subtrees
                            WHERE log_id = NEW.log_id AND level = NEW.level)
       BEGIN SELECT RAISE(ABORT, 'subtrees are appended, one index after the other'); END""",
    """CREATE TRIGGER subtrees_update BEFORE UPDATE ON subtrees
       BEGIN SELECT RAISE(ABORT, 'subtrees are append-only'); END""",
    """CREATE TRIGGER stretches_update BEFORE UPDATE ON stretches
       BEGIN SELECT RAISE(ABORT, 'stretches are append-only'); END""",
    """CREATE TRIGGER stretches_delete BEFORE DELETE ON stretches
       BEGIN SELECT RAISE(ABORT, 'stretches are append-only'); END""",
    """CREATE TRIGGER subtrees_delete BEFORE DELETE ON subtrees
       BEGIN SELECT RAISE(ABORT, 'subtrees are append-only'); END""",
)
