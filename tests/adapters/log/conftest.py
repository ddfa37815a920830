"""A file for a log; real PostgreSQL servers, and a migrated database of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import re
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from agentgate.adapters.log._postgres.migrate import migrate
from tests.contracts.log import Author
from tests.postgres_server import PostgresServer, is_installed

_numbers = itertools.count(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log on SQLite may be."""
    return tmp_path / "data" / "log.db"


def _fresh_database(server: PostgresServer) -> str:
    name = f"log_{next(_numbers)}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE migrated")
    return name


def _server() -> Iterator[PostgresServer]:
    if not is_installed():
        pytest.skip("PostgreSQL is not installed (scripts/services)")
    with PostgresServer() as server:
        server.sql("CREATE DATABASE migrated")
        asyncio.run(migrate(server.url("migrated")))
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Shared by tests that leave the server alone."""
    yield from _server()


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The name of a fresh database with an empty log."""
    return _fresh_database(postgres)


@pytest.fixture
def url(postgres: PostgresServer, database: str) -> str:
    return postgres.url(database)


# --- as docs/operating.md says ---

GATEWAY, READER, RETENTION = "agentgate_gateway", "agentgate_reader", "agentgate_retention"


def _statements() -> tuple[list[str], list[str]]:
    """The SQL of docs/operating.md: a superuser's, and the owner's after the migration."""
    document = (Path(__file__).parents[3] / "docs" / "operating.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```sql\n(.*?)```", document, re.DOTALL)
    return _split(first), _split(second)


def _split(block: str) -> list[str]:
    return [part.strip() for part in re.sub(r"--.*", "", block).split(";") if part.strip()]


@pytest.fixture(scope="session")
def guarded() -> Iterator[PostgresServer]:
    """A server with the database and the roles that docs/operating.md makes."""
    if not is_installed():
        pytest.skip("PostgreSQL is not installed (scripts/services)")
    superusers, owners = _statements()
    with PostgresServer() as server:
        server.sql(*superusers)
        asyncio.run(migrate(server.url("agentgate", "agentgate_owner")))
        server.sql(*owners, database="agentgate", user="agentgate_owner")
        yield server


@pytest.fixture
def guarded_log(guarded: PostgresServer) -> str:
    """The id of an empty log beside others in the database `agentgate`: quicker than a database of its own."""
    log_id = f"log-{next(_numbers)}"
    guarded.sql(f"INSERT INTO head VALUES ('{log_id}', 0, 0, 0)", database="agentgate")
    return log_id


@pytest.fixture
def guarded_database(guarded: PostgresServer) -> str:
    """A fresh database that is what `agentgate` was when it was made."""
    name = f"log_{next(_numbers)}"
    guarded.sql(
        f"CREATE DATABASE {name} TEMPLATE agentgate OWNER agentgate_owner",
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {name} TO {GATEWAY}, {READER}, {RETENTION}",
    )
    return name


# --- as tests that break servers want it ---


@pytest.fixture(scope="session")
def _mortal() -> Iterator[PostgresServer]:
    yield from _server()


@pytest.fixture
def mortal(_mortal: PostgresServer) -> Iterator[PostgresServer]:
    """A server that tests may freeze, stop, kill and start: it runs again for the next one."""
    yield _mortal
    if _mortal.is_running:
        _mortal.resume()
    else:
        _mortal.start()


@pytest.fixture
def mortal_database(mortal: PostgresServer) -> str:
    return _fresh_database(mortal)


@pytest.fixture
def author() -> Author:
    return Author()


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Children that start at once: a server has the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.adapters.log.crash_child"])
    return context
