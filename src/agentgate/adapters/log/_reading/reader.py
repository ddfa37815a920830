"""Reading the log: what auditors, operators and the start need. The same for every store that SQLAlchemy knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal

from sqlalchemy import ScalarSelect, Select, and_, func, select

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._reading import pages, statements
from agentgate.adapters.log._reading.rows import RECORDS_AT_ONCE, chunk, open_intents, record
from agentgate.adapters.log._reading.search import of_kinds, search, size
from agentgate.adapters.log._reading.stretches import of_session
from agentgate.core.approval import Wanted
from agentgate.core.containment import KillChanges, kill_change_from_row
from agentgate.core.errors import LogBroken
from agentgate.core.event import Record
from agentgate.core.members import Acknowledgement
from agentgate.core.query import Query
from agentgate.ports import log as ports

Derived = Literal[ports.Derived, "sessions"]

_INTENTS_AT_ONCE: Final = 4_096
_MOST_EVENTS: Final = 1 << 62
_MOST_BYTES_DUE: Final = 64 << 20
"""Of answers that are dropped at once: more would hold up everybody's appends for longer than a moment."""
"""No log has so many, and no database a larger number."""

_events = schema.events.c


class Reader(ABC):
    """`ports.LogReader` and `ports.Tree`, on connections that cannot write.

    A read transaction lasts one chunk, so readers hold nobody up.
    """

    def __init__(self, log_id: str) -> None:
        self.log_id = log_id

    @abstractmethod
    async def ask(
        self, statement: Select[*tuple[Any, ...]], values: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """All rows of a statement, of one moment. With `values` for its parameters it is one of `statements`. Raises
        LogUnavailable."""

    @abstractmethod
    async def leaf_hashes(self, first: int, limit: int, *, signed: bool = False) -> list[bytes]:
        """Stored leaf hashes from an index on, at most `limit`; with `signed` none that no checkpoint is over. Raises
        LogUnavailable."""

    @abstractmethod
    async def aclose(self) -> None: ...

    async def records(
        self, *, tenant: str | None = None, session: str | None = None, first: int = 0, kinds: Sequence[str] = ()
    ) -> AsyncIterator[Record]:
        wanted = [_events.log_id == self.log_id]
        if tenant is not None and session is not None:
            wanted += of_session(_events, self.log_id, tenant, session)
        elif tenant is not None:
            wanted.append(_events.tenant == tenant)
        elif session is not None:
            wanted += [_events.session == session, _events.session != ""]
        if kinds:
            wanted += of_kinds(kinds)
        while True:
            rows = await chunk(self.ask, self.log_id, [*wanted, _events.idx >= first])
            for row in rows:
                yield record(row)
            if len(rows) < RECORDS_AT_ONCE:
                return
            first = rows[-1][0] + 1

    def search(
        self, query: Query, *, first: int = 0, below: int | None = None, newest: bool = False
    ) -> AsyncIterator[Record]:
        return search(self.ask, self.log_id, query, first=first, below=below, newest=newest)

    async def size(self) -> int:
        return await size(self.ask, self.log_id)

    async def record(self, index: int) -> Record | None:
        rows = await chunk(self.ask, self.log_id, [_events.log_id == self.log_id, _events.idx == index])
        return record(rows[0]) if rows else None

    async def answers_until(self, moment: str, limit: int) -> int | None:
        answers = schema.answers.c
        due = select(answers.idx, func.coalesce(func.length(answers.sealed), 0))
        due = due.where(answers.log_id == self.log_id, answers.at <= moment)
        through, total = None, 0
        for index, length in await self.ask(due.order_by(answers.idx).limit(limit)):
            total += length
            if through is not None and total > _MOST_BYTES_DUE:
                break
            through = int(index)
        return through

    async def answers_held(self) -> dict[tuple[str, str], int]:
        answers = schema.answers.c
        held = select(answers.tenant, answers.principal, func.sum(func.length(answers.sealed)))
        held = held.where(answers.log_id == self.log_id, answers.sealed.is_not(None))
        rows = await self.ask(held.group_by(answers.tenant, answers.principal))
        return {(tenant, principal): int(size) for tenant, principal, size in rows}

    async def sessions(
        self, tenant: str | None, *, principal: str | None = None, after: str = "", limit: int
    ) -> list[str]:
        return [row[0] for row in await self.ask(pages.sessions(self.log_id, tenant, principal, after, limit))]

    async def approvals(self, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
        if "\0" in wanted.prefix:
            return []  # as `projection` has it
        names = [column.name for column in pages.APPROVAL_COLUMNS]
        rows = await self.ask(pages.approvals(self.log_id, wanted, limit))
        return [dict(zip(names, row, strict=True)) | {"sealed": None} for row in rows]

    async def open_intents(self) -> list[Record]:
        found = sorted((await self._open_indexes()).values())
        records: list[Record] = []
        for start in range(0, len(found), RECORDS_AT_ONCE):
            some = found[start : start + RECORDS_AT_ONCE]
            rows = await chunk(self.ask, self.log_id, [_events.log_id == self.log_id, _events.idx.in_(some)])
            records += map(record, rows)
        return records

    async def _open_indexes(self) -> dict[str, int]:
        head = schema.head.c
        rows = await self.ask(select(head.open_from).where(head.log_id == self.log_id))
        first = int(rows[0][0]) if rows else 0
        of_calls: list[tuple[int, str, bytes]] = []
        while True:
            statement = select(_events.idx, _events.kind, _events.leaf).where(
                _events.log_id == self.log_id, _events.idx >= first, _events.kind.in_(schema.OF_CALLS)
            )
            chunk = await self.ask(statement.order_by(_events.idx).limit(_INTENTS_AT_ONCE))
            of_calls += [(row[0], row[1], row[2]) for row in chunk]
            if len(chunk) < _INTENTS_AT_ONCE:
                return open_intents(of_calls)
            first = chunk[-1][0] + 1

    async def projection(
        self, name: Derived, *, without: str | None = None, **match: str | int | None
    ) -> list[dict[str, Any]]:
        """Raises KeyError when there is no such table or column."""
        if any(isinstance(value, str) and "\0" in value for value in match.values()):
            return []  # no store's text can hold one: it names nothing, and PostgreSQL would not be asked
        given = {column: value for column, value in match.items() if value is not None}
        null = tuple(column for column, value in match.items() if value is None)
        statement, names = statements.derived(name, without, tuple(given), null)
        left_out = {} if without is None else {without: None}
        rows = await self.ask(statement, {"log_id": self.log_id, **given})
        return [dict(zip(names, row, strict=True)) | left_out for row in rows]

    async def kills_since(self, position: int) -> KillChanges:
        """One statement, so one snapshot."""
        statement = statements.KILLS_IN_FORCE if position < 0 else statements.KILLS_SINCE
        given = {} if position < 0 else {"position": position}
        rows = await self.ask(statement, {"log_id": self.log_id, **given})
        if not rows:
            raise LogBroken("the log has no head row; run `log verify`")
        names = [column.name for column in schema.columns_of(schema.kills)]
        found = [dict(zip(names, row[1:], strict=True)) for row in rows if row[1] is not None]
        return KillChanges(position, int(rows[0][0]), tuple(map(kill_change_from_row, found)))

    async def acknowledged(self, position: int) -> list[Acknowledgement]:
        rows = await self.ask(statements.ACKNOWLEDGED, {"log_id": self.log_id, "position": position})
        return [
            Acknowledgement(member, position, cancelled, finished, unknown, took_us / 1000)
            for member, position, cancelled, finished, unknown, took_us in rows
        ]

    async def checkpoint(self) -> bytes | None:
        table, cosigned = schema.checkpoints.c, schema.cosignatures.c
        of_it = and_(cosigned.log_id == table.log_id, cosigned.size == table.size)
        joined = schema.checkpoints.outerjoin(schema.cosignatures, of_it)
        statement = select(table.note, cosigned.line).select_from(joined).order_by(cosigned.witness)
        rows = await self.ask(statement.where(table.log_id == self.log_id, table.size == self._signed_size()))
        if not rows:
            return None
        return bytes(rows[0][0]) + "".join(f"{line}\n" for _, line in rows if line is not None).encode()

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        if first + count > _MOST_EVENTS:
            return []
        if level == 0:
            return await self.leaf_hashes(first, count, signed=True)
        table = schema.subtrees.c
        of_level = (table.log_id == self.log_id, table.level == level, table.idx >= first, table.idx < first + count)
        return [row[0] for row in await self.ask(select(table.hash).where(*of_level).order_by(table.idx))]

    def _signed_size(self) -> ScalarSelect[int]:
        table = schema.checkpoints.c
        newest = select(func.max(table.size)).where(table.log_id == self.log_id)
        return newest.scalar_subquery()
