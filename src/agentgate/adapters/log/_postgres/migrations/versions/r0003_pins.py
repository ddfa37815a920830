"""Pins: which tools of which servers were accepted, quarantined, rejected.

Written out, so that it stays what it was.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_PINS = """CREATE TABLE pins (
        log_id TEXT COLLATE "C" NOT NULL,
        server TEXT COLLATE "C" NOT NULL,
        tool TEXT COLLATE "C" NOT NULL,
        name TEXT COLLATE "C" NOT NULL,
        state TEXT COLLATE "C" NOT NULL,
        pin TEXT COLLATE "C" NOT NULL,
        definition TEXT COLLATE "C",
        access TEXT COLLATE "C" NOT NULL,
        trust TEXT COLLATE "C" NOT NULL,
        found TEXT COLLATE "C" NOT NULL,
        found_definition TEXT COLLATE "C",
        actor TEXT COLLATE "C" NOT NULL,
        at TEXT COLLATE "C" NOT NULL,
        idx BIGINT NOT NULL,
        PRIMARY KEY (log_id, server, tool))"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(_PINS)


def downgrade() -> None:
    """Raises ValueError when the earlier version could not go on with what is there."""
    connection = op.get_bind()
    if connection.exec_driver_sql("SELECT count(*) FROM pins").scalar_one():
        raise ValueError("there are pins of tools, of which revision 0002 knows nothing")
    connection.exec_driver_sql("DROP TABLE pins")
