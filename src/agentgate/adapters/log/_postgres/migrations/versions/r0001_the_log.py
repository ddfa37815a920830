"""The log: its tables, and the triggers that keep it append-only. Written out, so that it stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from alembic import context, op

revision = "0001"
down_revision = None

_TABLES: Final = (
    """CREATE TABLE events (
        log_id TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        event_id TEXT COLLATE "C" NOT NULL,
        kind TEXT COLLATE "C" NOT NULL,
        tenant TEXT COLLATE "C" NOT NULL,
        session TEXT COLLATE "C" NOT NULL,
        session_number BIGINT NOT NULL,
        at TEXT COLLATE "C" NOT NULL,
        kill_position BIGINT NOT NULL,
        leaf BYTEA NOT NULL,
        leaf_hash BYTEA NOT NULL,
        PRIMARY KEY (log_id, idx))""",
    "CREATE UNIQUE INDEX events_id ON events (event_id)",
    """CREATE UNIQUE INDEX events_session ON events (log_id, tenant, session, session_number) WHERE session <> ''""",
    "CREATE INDEX events_policy ON events (log_id, idx) WHERE kind = 'policy'",
    """CREATE TABLE bodies (
        log_id TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        salt BYTEA NOT NULL,
        body BYTEA NOT NULL,
        PRIMARY KEY (log_id, idx))""",
    # Room on its page for the versions of the one row that every commit makes anew.
    """CREATE TABLE head (
        log_id TEXT COLLATE "C" NOT NULL,
        size BIGINT NOT NULL,
        kill_position BIGINT NOT NULL,
        open_from BIGINT NOT NULL,
        PRIMARY KEY (log_id)) WITH (fillfactor = 10)""",
    "INSERT INTO head VALUES ('0', 0, 0, 0)",
    """CREATE TABLE checkpoints (
        log_id TEXT COLLATE "C" NOT NULL,
        size BIGINT NOT NULL,
        root BYTEA NOT NULL,
        note BYTEA NOT NULL,
        frontier BYTEA NOT NULL,
        PRIMARY KEY (log_id, size))""",
    """CREATE TABLE sessions (
        log_id TEXT COLLATE "C" NOT NULL,
        tenant TEXT COLLATE "C" NOT NULL,
        session TEXT COLLATE "C" NOT NULL,
        principal TEXT COLLATE "C" NOT NULL,
        first_at TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, tenant, session))""",
    """CREATE TABLE spent (
        log_id TEXT COLLATE "C" NOT NULL,
        kind TEXT COLLATE "C" NOT NULL,
        key TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, kind, key))""",
    """CREATE TABLE kills (
        log_id TEXT COLLATE "C" NOT NULL,
        id TEXT COLLATE "C" NOT NULL,
        scope TEXT COLLATE "C" NOT NULL,
        tenant TEXT COLLATE "C" NOT NULL,
        target TEXT COLLATE "C" NOT NULL,
        reason TEXT COLLATE "C",
        actor TEXT COLLATE "C" NOT NULL,
        since TEXT COLLATE "C" NOT NULL,
        expires_at TEXT COLLATE "C",
        position BIGINT NOT NULL,
        released_position BIGINT,
        drained BIGINT NOT NULL,
        receipt TEXT COLLATE "C",
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, id))""",
    "CREATE INDEX kills_position ON kills (log_id, position)",
    "CREATE INDEX kills_released ON kills (log_id, released_position)",
    "CREATE INDEX kills_drained ON kills (log_id, drained, released_position)",
    """CREATE TABLE approvals (
        log_id TEXT COLLATE "C" NOT NULL,
        id TEXT COLLATE "C" NOT NULL,
        tenant TEXT COLLATE "C" NOT NULL,
        session TEXT COLLATE "C" NOT NULL,
        requested_by TEXT COLLATE "C" NOT NULL,
        tool TEXT COLLATE "C" NOT NULL,
        trace_id TEXT COLLATE "C" NOT NULL,
        digest TEXT COLLATE "C" NOT NULL,
        policy_revision TEXT COLLATE "C" NOT NULL,
        requested_at TEXT COLLATE "C" NOT NULL,
        expires_at TEXT COLLATE "C" NOT NULL,
        state TEXT COLLATE "C" NOT NULL,
        decided_by TEXT COLLATE "C",
        token_sha256 TEXT COLLATE "C",
        sealed BYTEA,
        PRIMARY KEY (log_id, id))""",
    "CREATE INDEX approvals_state ON approvals (log_id, state, requested_at)",
    "CREATE INDEX approvals_digest ON approvals (log_id, digest)",
    """CREATE TABLE members (
        log_id TEXT COLLATE "C" NOT NULL,
        member TEXT COLLATE "C" NOT NULL,
        joined_idx BIGINT NOT NULL,
        left_idx BIGINT,
        gone_idx BIGINT,
        attested_idx BIGINT,
        PRIMARY KEY (log_id, member))""",
    "CREATE INDEX members_left ON members (log_id, left_idx)",
    """CREATE TABLE acks (
        log_id TEXT COLLATE "C" NOT NULL,
        member TEXT COLLATE "C" NOT NULL,
        position BIGINT NOT NULL,
        cancelled BIGINT NOT NULL,
        finished BIGINT NOT NULL,
        unknown BIGINT NOT NULL,
        took_us BIGINT NOT NULL,
        at TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, member, position))""",
    "CREATE INDEX acks_position ON acks (log_id, position)",
    """CREATE TABLE release_asks (
        log_id TEXT COLLATE "C" NOT NULL,
        kill_id TEXT COLLATE "C" NOT NULL,
        person TEXT COLLATE "C" NOT NULL,
        at TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, kill_id, person))""",
    """CREATE TABLE identity (
        log_id TEXT COLLATE "C" NOT NULL,
        origin TEXT COLLATE "C" NOT NULL,
        public_key BYTEA NOT NULL,
        PRIMARY KEY (log_id))""",
    # Unlogged: a heartbeat is worth no disk write, and after a crash all start anew.
    """CREATE UNLOGGED TABLE beats (
        log_id TEXT COLLATE "C" NOT NULL,
        member TEXT COLLATE "C" NOT NULL,
        beat BIGINT NOT NULL,
        PRIMARY KEY (log_id, member)) WITH (fillfactor = 50)""",
)
_DROPPED: Final = (
    "events bodies head checkpoints sessions spent kills approvals members acks release_asks identity beats"
)

_APPEND_ONLY: Final = {
    "events": "UPDATE OR DELETE OR TRUNCATE",
    "checkpoints": "UPDATE OR DELETE OR TRUNCATE",
    "identity": "UPDATE OR DELETE OR TRUNCATE",
    "bodies": "UPDATE OR TRUNCATE",  # single bodies may go, by whom the database's owner lets
    "head": "DELETE OR TRUNCATE",
}

_REFUSE: Final = """
    CREATE FUNCTION {schema}.agentgate_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the log is append-only: no % of %', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END $$"""

# A trigger for each statement, however many rows it adds. Names with their schema, so that no temporary table of
# the same name is asked instead.
_NEXT_EVENTS: Final = """
    CREATE FUNCTION {schema}.agentgate_next_events() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (
            SELECT FROM (SELECT log_id, min(idx) AS first, max(idx) AS last, count(*) AS n FROM added GROUP BY log_id) a
            WHERE last - first + 1 <> n
               OR first <> coalesce((SELECT max(idx) + 1 FROM {schema}.events e
                                     WHERE e.log_id = a.log_id AND e.idx < a.first), 0)
               OR EXISTS (SELECT FROM {schema}.events e WHERE e.log_id = a.log_id AND e.idx > a.last))
        THEN
            RAISE EXCEPTION 'events are appended, one index after the other' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NULL;
    END $$"""
_NEXT_CHECKPOINT: Final = """
    CREATE FUNCTION {schema}.agentgate_next_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM {schema}.checkpoints c WHERE c.log_id = NEW.log_id AND c.size >= NEW.size)
           OR NEW.size > (SELECT h.size FROM {schema}.head h WHERE h.log_id = NEW.log_id)
        THEN
            RAISE EXCEPTION 'checkpoints only grow, with the log' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END $$"""
_TRIGGERS: Final = (
    """CREATE TRIGGER events_next AFTER INSERT ON {schema}.events REFERENCING NEW TABLE AS added
       FOR EACH STATEMENT EXECUTE FUNCTION {schema}.agentgate_next_events()""",
    """CREATE TRIGGER checkpoints_next BEFORE INSERT ON {schema}.checkpoints
       FOR EACH ROW EXECUTE FUNCTION {schema}.agentgate_next_checkpoint()""",
)


def _functions_and_triggers() -> Iterator[str]:
    yield _REFUSE
    yield _NEXT_EVENTS
    yield _NEXT_CHECKPOINT
    yield from _TRIGGERS
    for table, changes in _APPEND_ONLY.items():
        yield f"""CREATE TRIGGER {table}_append_only BEFORE {changes} ON {{schema}}.{table}
                  FOR EACH STATEMENT EXECUTE FUNCTION {{schema}}.agentgate_refuse()"""


def upgrade() -> None:
    connection = op.get_bind()
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for statement in _TABLES:
        connection.exec_driver_sql(statement)
    for statement in _functions_and_triggers():
        connection.exec_driver_sql(statement.format(schema=schema))


def downgrade() -> None:
    """Raises ValueError when that would destroy a log and nobody said that it may."""
    connection = op.get_bind()
    count = connection.exec_driver_sql("SELECT coalesce(sum(size), 0) FROM head").scalar_one()
    if count and not context.config.attributes["drop_events"]:
        raise ValueError(f"the log has {count} events, which this would destroy: say --drop-events if you mean it")
    for table in _DROPPED.split():
        connection.exec_driver_sql(f"DROP TABLE {table}")
    for function in ("agentgate_refuse", "agentgate_next_events", "agentgate_next_checkpoint"):
        connection.exec_driver_sql(f"DROP FUNCTION {function}()")
