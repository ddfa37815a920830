"""Answers that are kept, votes on approvals, cursors of those who follow the log.

Written out, so that it stays what it was.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

_NEW = (
    """CREATE TABLE votes (
        log_id TEXT COLLATE "C" NOT NULL,
        approval TEXT COLLATE "C" NOT NULL,
        person TEXT COLLATE "C" NOT NULL,
        ordinal BIGINT NOT NULL,
        at TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, approval, person))""",
    """CREATE TABLE answers (
        log_id TEXT COLLATE "C" NOT NULL,
        key TEXT COLLATE "C" NOT NULL,
        tenant TEXT COLLATE "C" NOT NULL,
        principal TEXT COLLATE "C" NOT NULL,
        session TEXT COLLATE "C" NOT NULL,
        tool TEXT COLLATE "C" NOT NULL,
        trace_id TEXT COLLATE "C" NOT NULL,
        digest TEXT COLLATE "C" NOT NULL,
        outcome TEXT COLLATE "C" NOT NULL,
        reason_code TEXT COLLATE "C" NOT NULL,
        at TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        sealed BYTEA,
        PRIMARY KEY (log_id, key))""",
    "CREATE INDEX answers_trace ON answers (log_id, trace_id)",
    "CREATE INDEX answers_at ON answers (log_id, at)",
    "CREATE INDEX answers_idx ON answers (log_id, idx)",
    """CREATE TABLE cursors (
        log_id TEXT COLLATE "C" NOT NULL,
        name TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, name))""",
)
_APPROVALS = (
    """ALTER TABLE approvals
        ADD COLUMN quorum BIGINT NOT NULL DEFAULT 1,
        ADD COLUMN approvers TEXT COLLATE "C" NOT NULL DEFAULT '[]',
        ADD COLUMN votes BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN on_behalf_of TEXT COLLATE "C",
        ADD COLUMN server TEXT COLLATE "C" NOT NULL DEFAULT '',
        ADD COLUMN tool_sha256 TEXT COLLATE "C" NOT NULL DEFAULT '',
        ADD COLUMN position BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN edited_from TEXT COLLATE "C",
        ADD COLUMN edited_to TEXT COLLATE "C",
        ADD COLUMN executes BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN why TEXT COLLATE "C",
        ADD COLUMN idx BIGINT NOT NULL DEFAULT 0""",
    "UPDATE approvals SET votes = 1 WHERE token_sha256 IS NOT NULL",
    "CREATE INDEX approvals_trace ON approvals (log_id, trace_id)",
    # A gateway of the version before that runs on takes one yes for all: this statement of it is refused.
    "ALTER TABLE approvals ADD CONSTRAINT approvals_quorum CHECK (state <> 'approved' OR votes >= quorum)",
    """UPDATE approvals a SET position = r.kill_position, idx = r.idx FROM (
        SELECT DISTINCT ON (log_id, id) log_id, convert_from(leaf, 'UTF8')::jsonb ->> 'approval_id' AS id,
          kill_position, idx
        FROM events WHERE kind = 'approval_requested' ORDER BY log_id, id, idx) r
       WHERE a.log_id = r.log_id AND a.id = r.id""",
    """ALTER TABLE approvals
        ALTER COLUMN quorum DROP DEFAULT, ALTER COLUMN approvers DROP DEFAULT, ALTER COLUMN votes DROP DEFAULT,
        ALTER COLUMN server DROP DEFAULT, ALTER COLUMN tool_sha256 DROP DEFAULT, ALTER COLUMN position DROP DEFAULT,
        ALTER COLUMN executes DROP DEFAULT, ALTER COLUMN idx DROP DEFAULT""",
)
_COLUMNS = (
    "quorum", "approvers", "votes", "on_behalf_of", "server", "tool_sha256", "position", "edited_from", "edited_to",
    "executes", "why", "idx",
)  # fmt: skip
_UNKNOWN = {
    "votes of several people": "SELECT EXISTS (SELECT FROM votes)",
    "answers": "SELECT EXISTS (SELECT FROM answers)",
    "approvals that were closed with a reason": "SELECT EXISTS (SELECT FROM approvals WHERE why IS NOT NULL)",
    "approvals that the gateway is to execute": "SELECT EXISTS (SELECT FROM approvals WHERE executes = 1)",
}
"""What an earlier version would neither know nor keep."""


def upgrade() -> None:
    for statement in (*_NEW, *_APPROVALS):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Raises ValueError when the earlier version could not go on with what is there."""
    connection = op.get_bind()
    for what, there in _UNKNOWN.items():
        if connection.exec_driver_sql(there).scalar_one():
            raise ValueError(f"there are {what}, of which revision 0003 knows nothing")
    for table in ("votes", "answers", "cursors"):
        connection.exec_driver_sql(f"DROP TABLE {table}")
    connection.exec_driver_sql("DROP INDEX approvals_trace")
    dropped = ", ".join(f"DROP COLUMN {column}" for column in _COLUMNS)
    connection.exec_driver_sql(f"ALTER TABLE approvals {dropped}")
