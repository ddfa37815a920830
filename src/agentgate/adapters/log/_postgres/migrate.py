"""Making the schema of a PostgreSQL log, and changing it: `agentgate log migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # see connection.py
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from agentgate.adapters.log._intake import told
from agentgate.adapters.log._postgres.connection import FAULTS, VERSION_TABLE, shown
from agentgate.core.errors import LogUnavailable, UnsafeConfiguration

_SCRIPTS: Final = Path(__file__).parent / "migrations"
_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtext('agentgate log migrate'))"


async def migrate(url: str, *, to: str = "head", drop_events: bool = False) -> list[str]:
    """Bring the schema to a revision (`head`: the newest, `base`: none), all or nothing; what was done.

    Raises:
        UnsafeConfiguration: there is no such revision, or going back would destroy events.
        LogUnavailable: the database cannot be reached, or refuses.
    """
    done: list[str] = []

    def on_step(*, step: Any, **_: object) -> None:
        what = "upgraded to" if step.is_upgrade else "went back from"
        done.append(f"{what} revision {step.up_revision_id}")

    def run(connection: Connection) -> None:
        connection.exec_driver_sql(_ONE_AT_A_TIME)
        config = Config()
        config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
        config.attributes.update(connection=connection, drop_events=drop_events, on_step=on_step)
        (command.downgrade if _is_back(connection, config, to) else command.upgrade)(config, to)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    except CommandError as error:
        raise UnsafeConfiguration(f"no migration to {to!r}: {error}") from error
    except ValueError as error:
        raise UnsafeConfiguration(str(error)) from error
    except (SQLAlchemyError, *FAULTS) as error:
        raise LogUnavailable(f"{shown(url)} cannot be migrated: {told(error)}") from error
    finally:
        await engine.dispose()
    return done


def _is_back(connection: Connection, config: Config, to: str) -> bool:
    """Whether revision `to` is behind the one that the database has."""
    order = ["base", *(found.revision for found in reversed([*ScriptDirectory.from_config(config).walk_revisions()]))]
    now = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if to != "head" and to not in order:
        raise CommandError(f"there is {', '.join(order)} and head")
    return to != "head" and now in order and order.index(to) < order.index(now)
