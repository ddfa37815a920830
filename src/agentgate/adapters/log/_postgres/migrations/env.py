"""What Alembic runs for every migration: on the connection that it was given, all or nothing."""

from __future__ import annotations

from alembic import context

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._postgres.connection import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
    on_version_apply=context.config.attributes["on_step"],
)
with context.begin_transaction():
    context.run_migrations()
