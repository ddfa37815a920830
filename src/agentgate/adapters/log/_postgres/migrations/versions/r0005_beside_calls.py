"""One index leads to every event that is not of a call; it takes the place of the one over policies.

Written out, so that it stays what it was.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

_NEW = "CREATE INDEX events_beside_calls ON events (log_id, idx, kind) WHERE kind NOT IN ('decided', 'finished')"
_OLD = "CREATE INDEX events_policy ON events (log_id, idx) WHERE kind = 'policy'"


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(_NEW)
    connection.exec_driver_sql("DROP INDEX events_policy")


def downgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(_OLD)
    connection.exec_driver_sql("DROP INDEX events_beside_calls")
