"""Evidence: the hashes of the upper tile levels, so that a proof takes a few reads; what witnesses have cosigned;
more than one key in the life of a log; and retention: legal holds, prunes, bodies that are compressed or go.

Written out, so that it stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from alembic import op

from agentgate.core.merkle import Frontier, TileHash

revision = "0002"
down_revision = "0001"

_TABLES: Final = (
    """CREATE TABLE subtrees (
        log_id TEXT COLLATE "C" NOT NULL,
        level BIGINT NOT NULL,
        idx BIGINT NOT NULL,
        hash BYTEA NOT NULL,
        PRIMARY KEY (log_id, level, idx))""",
    """CREATE TABLE cosignatures (
        log_id TEXT COLLATE "C" NOT NULL,
        witness TEXT COLLATE "C" NOT NULL,
        size BIGINT NOT NULL,
        line TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (log_id, witness))""",
    "ALTER TABLE identity ADD COLUMN number BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE identity ALTER COLUMN number DROP DEFAULT",
    "ALTER TABLE identity DROP CONSTRAINT identity_pkey, ADD PRIMARY KEY (log_id, number)",
)
_RETENTION: Final = (
    """CREATE TABLE body_segments (
        log_id TEXT COLLATE "C" NOT NULL,
        first_idx BIGINT NOT NULL,
        last_idx BIGINT NOT NULL,
        newest TEXT COLLATE "C" NOT NULL,
        bodies BIGINT NOT NULL,
        codec TEXT COLLATE "C" NOT NULL,
        content BYTEA NOT NULL,
        PRIMARY KEY (log_id, first_idx))""",
    "ALTER TABLE body_segments ALTER COLUMN content SET STORAGE EXTERNAL",  # it is compressed already
    """CREATE TABLE holds (
        log_id TEXT COLLATE "C" NOT NULL,
        id TEXT COLLATE "C" NOT NULL,
        tenant TEXT COLLATE "C" NOT NULL,
        session TEXT COLLATE "C" NOT NULL,
        reason TEXT COLLATE "C",
        actor TEXT COLLATE "C" NOT NULL,
        at TEXT COLLATE "C" NOT NULL,
        released_idx BIGINT,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, id))""",
    "CREATE INDEX holds_released ON holds (log_id, released_idx)",
    """CREATE TABLE prunes (
        log_id TEXT COLLATE "C" NOT NULL,
        tenant TEXT COLLATE "C" NOT NULL,
        session TEXT COLLATE "C" NOT NULL,
        through BIGINT NOT NULL,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, tenant, session))""",
)
_DROPPED: Final = ("subtrees", "cosignatures", "body_segments", "holds", "prunes")

_NEXT_SUBTREES: Final = """
    CREATE FUNCTION {schema}.agentgate_next_subtrees() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (
            SELECT FROM (SELECT log_id, level, min(idx) AS first, max(idx) AS last, count(*) AS n
                         FROM added GROUP BY log_id, level) a
            WHERE last - first + 1 <> n
               OR first <> coalesce((SELECT max(idx) + 1 FROM {schema}.subtrees s
                                     WHERE s.log_id = a.log_id AND s.level = a.level AND s.idx < a.first), 0)
               OR EXISTS (SELECT FROM {schema}.subtrees s
                          WHERE s.log_id = a.log_id AND s.level = a.level AND s.idx > a.last))
        THEN
            RAISE EXCEPTION 'subtrees are appended, one index after the other' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NULL;
    END $$"""
# As the owner, because whoever deletes bodies reads no events; names with their schema, for no other may be meant.
_FORGET_BODY: Final = """
    CREATE FUNCTION {schema}.agentgate_forget_body() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM {schema}.events e JOIN {schema}.prunes p USING (log_id, tenant, session)
                       WHERE e.log_id = OLD.log_id AND e.idx = OLD.idx AND e.session <> '' AND p.through >= OLD.idx)
           AND coalesce((SELECT last_idx FROM {schema}.body_segments WHERE log_id = OLD.log_id
                         AND first_idx <= OLD.idx ORDER BY first_idx DESC LIMIT 1), -1) < OLD.idx
        THEN
            RAISE EXCEPTION 'a body goes by a prune event, or into a segment: the log is append-only'
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN OLD;
    END $$"""
_NEXT_SEGMENT: Final = """
    CREATE FUNCTION {schema}.agentgate_next_segment() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.last_idx < NEW.first_idx OR NEW.first_idx <= (
            SELECT coalesce(max(last_idx), -1) FROM {schema}.body_segments s WHERE s.log_id = NEW.log_id)
        THEN
            RAISE EXCEPTION 'segments of bodies are appended, one after the other' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END $$"""
_FORGET_OF_SEGMENT: Final = """
    CREATE FUNCTION {schema}.agentgate_forget_of_segment() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (NEW.log_id, NEW.first_idx, NEW.last_idx, NEW.newest)
           <> (OLD.log_id, OLD.first_idx, OLD.last_idx, OLD.newest)
           OR NEW.bodies >= OLD.bodies
        THEN
            RAISE EXCEPTION 'bodies are written once: the log is append-only' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END $$"""
_TRIGGERS: Final = (
    """CREATE TRIGGER subtrees_next AFTER INSERT ON {schema}.subtrees REFERENCING NEW TABLE AS added
       FOR EACH STATEMENT EXECUTE FUNCTION {schema}.agentgate_next_subtrees()""",
    """CREATE TRIGGER subtrees_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {schema}.subtrees
       FOR EACH STATEMENT EXECUTE FUNCTION {schema}.agentgate_refuse()""",
    """CREATE TRIGGER bodies_forget BEFORE DELETE ON {schema}.bodies
       FOR EACH ROW EXECUTE FUNCTION {schema}.agentgate_forget_body()""",
    """CREATE TRIGGER body_segments_next BEFORE INSERT ON {schema}.body_segments
       FOR EACH ROW EXECUTE FUNCTION {schema}.agentgate_next_segment()""",
    """CREATE TRIGGER body_segments_forget BEFORE UPDATE ON {schema}.body_segments
       FOR EACH ROW EXECUTE FUNCTION {schema}.agentgate_forget_of_segment()""",
    """CREATE TRIGGER body_segments_append_only BEFORE DELETE OR TRUNCATE ON {schema}.body_segments
       FOR EACH STATEMENT EXECUTE FUNCTION {schema}.agentgate_refuse()""",
)
_FUNCTIONS: Final = (
    "agentgate_next_subtrees", "agentgate_forget_body", "agentgate_next_segment", "agentgate_forget_of_segment",
)  # fmt: skip

_LEAVES_AT_ONCE: Final = 65_536


def upgrade() -> None:
    connection = op.get_bind()
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for statement in (*_TABLES, *_RETENTION):
        connection.exec_driver_sql(statement)
    _fill_subtrees(connection)
    for statement in (_NEXT_SUBTREES, _FORGET_BODY, _NEXT_SEGMENT, _FORGET_OF_SEGMENT, *_TRIGGERS):
        connection.exec_driver_sql(statement.format(schema=schema))


def _fill_subtrees(connection: Any) -> None:
    """What the integrator would have written with the checkpoints that are there, of every log."""
    signed = connection.exec_driver_sql("SELECT log_id, max(size) FROM checkpoints GROUP BY log_id").all()
    for log_id, size in signed:
        for completed in _completed(connection, log_id, size):
            rows = [(log_id, *found) for found in completed]
            connection.exec_driver_sql("INSERT INTO subtrees (log_id, level, idx, hash) VALUES ($1, $2, $3, $4)", rows)


def _completed(connection: Any, log_id: str, size: int) -> Iterator[list[TileHash]]:
    frontier = Frontier()
    while frontier.size < size:
        end = min(size, frontier.size + _LEAVES_AT_ONCE)
        rows = connection.exec_driver_sql(
            "SELECT leaf_hash FROM events WHERE log_id = $1 AND idx >= $2 AND idx < $3 ORDER BY idx",
            (log_id, frontier.size, end),
        ).scalars()
        leaves = [bytes(leaf) for leaf in rows]
        if not leaves:
            return  # fewer than were signed: the start says so, and `log verify`
        completed = frontier.extend(leaves)
        if completed:
            yield completed


def downgrade() -> None:
    """Raises ValueError when the earlier version could not go on with what is there."""
    connection = op.get_bind()
    if connection.exec_driver_sql("SELECT count(*) FROM identity WHERE number > 0").scalar_one():
        raise ValueError("the log was signed with more than one key, which revision 0001 cannot say")
    for table in ("holds", "prunes", "body_segments"):
        if connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one():  # noqa: S608  # ours
            raise ValueError(f"there are {table.replace('_', ' ')}, of which revision 0001 knows nothing")
    connection.exec_driver_sql("ALTER TABLE identity DROP COLUMN number, ADD PRIMARY KEY (log_id)")
    connection.exec_driver_sql("DROP TRIGGER bodies_forget ON bodies")
    for table in _DROPPED:
        connection.exec_driver_sql(f"DROP TABLE {table}")
    for function in _FUNCTIONS:
        connection.exec_driver_sql(f"DROP FUNCTION {function}()")
