"""A few connections besides the writer's: for what must not wait for appends, nor they for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # see connection.py
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql import asyncpg as dialect

from agentgate.adapters.log._postgres.connection import FAULTS, Connection, check_server, connect, deadline, unavailable
from agentgate.adapters.log._reading.reader import Reader
from agentgate.core.errors import LogUnavailable, UnsafeConfiguration

_DIALECT: Final = dialect.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has not typed it


class Lines:
    """At most `size` connections, opened when they are needed and kept. What is asked must not take `within_s`."""

    def __init__(
        self,
        url: str,
        purpose: str,
        settings: Mapping[str, str],
        *,
        size: int,
        within_s: float,
        read_only: bool = False,
        may_lag: bool = False,
    ) -> None:
        """`may_lag`: also to a standby, or as a role that may only read."""
        self._url = url
        self._read_only = read_only
        self._may_lag = may_lag
        self._purpose = purpose
        self._settings = settings
        self._within_s = within_s
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._closed = False

    @contextlib.asynccontextmanager
    async def line(self, within_s: float | None = None) -> AsyncIterator[Connection]:
        """A connection for one use, of `within_s` instead of what is usual.

        Raises:
            LogUnavailable: there is none, or it failed within.
        """
        try:
            async with asyncio.timeout(self._within_s):
                await self._free.acquire()
        except TimeoutError:
            raise LogUnavailable(f"all connections to the log's database are busy ({self._purpose})") from None
        try:
            connection = await self._take()
            try:
                with deadline(connection, within_s or self._within_s):
                    yield connection
            except asyncpg.PostgresError:  # the server has refused a statement: the connection is as it was
                raise
            except BaseException:
                connection.terminate()
                raise
            finally:
                self._give_back(connection)
        except FAULTS as error:
            raise unavailable(error) from error
        except UnsafeConfiguration as error:
            raise LogUnavailable(str(error)) from error
        finally:
            self._free.release()

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        if self._closed:
            raise LogUnavailable("the log is closed")
        connection = await connect(self._url, self._purpose, self._settings)
        try:
            with deadline(connection, self._within_s):
                await check_server(connection, to_write=not self._may_lag)
                if self._read_only:
                    await connection.execute("SET default_transaction_read_only = on")
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _give_back(self, connection: Connection) -> None:
        if self._closed:
            connection.terminate()
        elif not connection.is_closed():
            self._idle.append(connection)

    async def aclose(self) -> None:
        self._closed = True
        while self._idle:
            connection = self._idle.pop()
            with contextlib.suppress(*FAULTS):
                await connection.close(timeout=1)
            connection.terminate()


class PostgresReader(Reader):
    """`Reader` on `Lines`: the same statements, without an engine that would hide when it waits."""

    def __init__(self, lines: Lines, log_id: str) -> None:
        super().__init__(log_id)
        self.lines = lines

    async def ask(
        self, statement: Select[*tuple[Any, ...]], values: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        sql, names, own = (_compiled if values is None else _compiled_once)(statement)
        given = {**own, **(values or {})}
        async with self.lines.line() as line:
            return [tuple(row) for row in await line.fetch(sql, *(given[name] for name in names))]

    async def leaf_hashes(self, first: int, limit: int, *, signed: bool = False) -> list[bytes]:
        """All in one value: a row for each would cost the event loop ten times as much."""
        async with self.lines.line() as line:
            joined = await line.fetchval(_LEAF_HASHES, self.log_id, first, first + limit, signed)
        return [joined[at : at + 32] for at in range(0, len(joined or b""), 32)]

    async def aclose(self) -> None:
        await self.lines.aclose()


_LEAF_HASHES: Final = """
    SELECT string_agg(leaf_hash, ''::bytea ORDER BY idx) FROM events
    WHERE log_id = $1 AND idx >= $2 AND idx < $3
      AND (NOT $4 OR idx < (SELECT max(size) FROM checkpoints WHERE log_id = $1))"""


def _compiled(statement: Select[*tuple[Any, ...]]) -> tuple[str, Sequence[str], Mapping[str, Any]]:
    """The text, its parameters' names in their order, and the values of those that are not asked for."""
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    return str(compiled), compiled.positiontup or (), compiled.params


_compiled_once: Final = lru_cache(maxsize=512)(_compiled)
"""Of `_reading.statements`, of which each is one object for good."""
