"""Connections to PostgreSQL: how they are made, and which servers are refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]  # it has no types; `Connection` below is what we use of it

from agentgate.adapters.log._intake import told
from agentgate.core.errors import LogUnavailable, UnsafeConfiguration

FAULTS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What goes wrong with a connection or a statement. `TimeoutError` is an OSError; it is named because it matters."""
VERSION_TABLE: Final = "agentgate_revision"
REVISION: Final = "0005"
"""The migration that the database must be at."""
CONNECT_WITHIN_S: Final = 1.0
_OLDEST_SERVER: Final = 140_000

UNSAFE: Final = """
    CASE
      WHEN pg_is_in_recovery() THEN 'the server is a standby: name the primary, or all servers, in the URL'
      WHEN current_setting('transaction_read_only') <> 'off' THEN 'the database is read-only'
      WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN 'synchronous_commit is ' || current_setting('synchronous_commit')
             || ': a commit that was answered could be lost; set it to on'
      WHEN current_setting('fsync') <> 'on' THEN 'fsync is off: a commit that was answered could be lost; set it to on'
      WHEN current_setting('full_page_writes') <> 'on'
        THEN 'full_page_writes is off: a crash could damage the log; set it to on'
    END"""
"""An SQL expression: why a log must not be written here now, or NULL."""

_COMMON: Final = {
    "default_transaction_isolation": "read committed",
    "jit": "off",
    # Who is shown only some rows is told so, instead of taking them for the log: nobody's reading has a policy here.
    "row_security": "off",
    # A client that is gone without a word must not hold locks for longer than a few seconds.
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5000",
}


class Statement(Protocol):
    """What is used of an asyncpg statement that is prepared. Raises `FAULTS`."""

    async def fetch(self, *args: object) -> list[Any]: ...

    async def fetchrow(self, *args: object) -> Any: ...

    async def fetchval(self, *args: object) -> Any: ...

    def get_statusmsg(self) -> str: ...


class Connection(Protocol):
    """What is used of an asyncpg connection. Raises `FAULTS`."""

    async def execute(self, query: str, *args: object) -> str: ...

    async def fetch(self, query: str, *args: object) -> list[Any]: ...

    async def fetchrow(self, query: str, *args: object) -> Any: ...

    async def fetchval(self, query: str, *args: object) -> Any: ...

    async def prepare(self, query: str) -> Statement: ...

    def cursor(self, query: str, *args: object) -> Awaitable[Any]: ...

    def is_closed(self) -> bool: ...

    def terminate(self) -> None: ...

    async def close(self, *, timeout: float | None = None) -> None: ...


async def connect(url: str, purpose: str, settings: Mapping[str, str]) -> Connection:
    """A connection for `purpose`, which the server's own views show.

    Raises:
        UnsafeConfiguration: the URL is none.
        OSError, asyncpg's errors: nobody answers, or not us.
    """
    try:
        connection = await asyncpg.connect(
            url, timeout=CONNECT_WITHIN_S, server_settings={"application_name": f"agentgate {purpose}"}
        )
    except asyncpg.ClientConfigurationError as error:
        raise UnsafeConfiguration(f"log.url cannot be used: {error}") from None
    except ValueError:  # whose text might quote a part of the password
        raise UnsafeConfiguration(
            "log.url is not a PostgreSQL URL; is every special character percent-encoded?"
        ) from None
    try:
        with deadline(connection, CONNECT_WITHIN_S):
            # Not in the message that opens the connection: there a pooler refuses them, or is told to leave them out.
            ours = {**_COMMON, **settings}
            await connection.execute(";".join(f"SET {name} = '{value}'" for name, value in ours.items()))
    except BaseException:
        connection.terminate()
        raise
    return cast(Connection, connection)


async def check_server(connection: Connection, *, to_write: bool = True) -> None:
    """Raise UnsafeConfiguration with a sentence if this server has no log of this version, or would not keep one that
    is to be written."""
    version, encoding, unsafe, has_log = await connection.fetchrow(
        f"""SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), {UNSAFE},
                   to_regclass('{VERSION_TABLE}') IS NOT NULL"""  # constants of this module
    )
    if version < _OLDEST_SERVER:
        raise UnsafeConfiguration(f"the log needs PostgreSQL {_OLDEST_SERVER // 10_000} or newer, this is {version}")
    if encoding != "UTF8":
        raise UnsafeConfiguration(f"the log needs a database with the encoding UTF8, this one has {encoding}")
    if to_write and unsafe is not None:
        raise UnsafeConfiguration(f"the log cannot be kept here: {unsafe}")
    revision = None
    if has_log:
        revision = await connection.fetchval(f"SELECT max(version_num) FROM {VERSION_TABLE}")  # noqa: S608  # as above
    check_revision(revision)


def check_revision(revision: str | None) -> None:
    if revision is None:
        raise UnsafeConfiguration("the database has no log yet: make one with `agentgate log migrate --database-url …`")
    if revision != REVISION:
        raise UnsafeConfiguration(
            f"the log is at schema revision {revision}, this gateway needs {REVISION}: migrate it with "
            "`agentgate log migrate --database-url …`, or start the version that it belongs to"
        )


def shown(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@", 1)).geturl()


@contextlib.contextmanager
def deadline(connection: Connection, seconds: float) -> Iterator[None]:
    """Drop the connection if what is done in here takes longer; it then raises.

    Not by cancelling: asyncpg would then ask the server to cancel, and a commit that waits for its standby would take
    that as leave not to wait.
    """
    timer = asyncio.get_running_loop().call_later(seconds, connection.terminate)
    try:
        yield
    except AttributeError as error:  # asyncpg was between two messages, and found its connection dropped at the second
        if not connection.is_closed():
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from error
    finally:
        timer.cancel()


def unavailable(error: BaseException) -> LogUnavailable:
    return LogUnavailable(f"the log's database does not serve: {told(error)}")
