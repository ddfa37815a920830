"""The one PostgreSQL connection that appends: what it finds there, and one transaction for each plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from agentgate.adapters.log._ledger import Item, Ledger, Plan, Session, SessionKey
from agentgate.adapters.log._postgres import statements
from agentgate.adapters.log._postgres.connection import (
    CONNECT_WITHIN_S,
    Connection,
    Statement,
    check_server,
    connect,
    deadline,
)
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.event import Event, Kind
from agentgate.core.members import Presence, presence
from agentgate.core.projection.effects import effects
from agentgate.core.projection.spendings import Spending
from agentgate.core.projection.tables import Drop, Effect, Put, Row

_SETTINGS: Final = {
    "lock_timeout": "800",  # within the second that an append may take
    "statement_timeout": "2000",  # does not cut a commit short: the server disarms it before
    # A replica that is frozen between two statements holds the head row: not for so long that others must refuse.
    "idle_in_transaction_session_timeout": "500",
    # Everything is looked up by key: no plan made while a table was empty may read all of it later.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
Backend = tuple[int, datetime]
"""A process of the server's that serves one connection: its id, and when it was started, for ids come again."""
_EVENT_WIDTH: Final = 11
_BODY_WIDTH: Final = 4
_SESSION_WIDTH: Final = 6


@dataclass(frozen=True, slots=True)
class Questions:
    """What a batch needs to know of the store."""

    sessions: Sequence[SessionKey] = ()
    spendings: Sequence[Spending] = ()
    deciders: Sequence[str] | None = None
    """Members whose standing is asked for, besides the roll of all that have not left; None: not even that."""
    holds: bool = False

    def any(self) -> bool:
        return bool(self.sessions or self.spendings or self.deciders is not None or self.holds)


@dataclass(slots=True)
class Found:
    """The answers, of one moment."""

    size: int
    position: int
    unsafe: str | None
    sessions: list[tuple[SessionKey, Session]] = field(default_factory=list)
    spent: set[Spending] = field(default_factory=set)
    members: list[tuple[int, str, Presence]] = field(default_factory=list)
    """With the index at which each joined."""
    holds: dict[str, SessionKey] = field(default_factory=dict)


class PostgresStore:
    """Raises asyncpg's errors and OSError for whatever goes wrong; the committer knows what that means."""

    def __init__(self, connection: Connection, backend: Backend, log_id: str) -> None:
        self.connection = connection
        self.backend = backend
        self._log_id = log_id
        self._prepared: dict[str, Statement] = {}

    @classmethod
    async def open(cls, url: str, log_id: str) -> PostgresStore:
        """Raises UnsafeConfiguration besides what the class says: the server or its log is not one to write to."""
        connection = await connect(url, "writer", _SETTINGS)
        try:
            with deadline(connection, CONNECT_WITHIN_S):
                await check_server(connection)
                store = cls(connection, await connection.fetchrow(statements.BACKEND), log_id)
                for sql in statements.OFTEN:
                    await store._prepare(sql)
        except BaseException:
            connection.terminate()
            raise
        return store

    async def _prepare(self, sql: str) -> None:
        """Before a transaction, never in one: between preparing a statement and running it the server waits without any
        of its timeouts, and a process that is frozen there would keep the head row locked for as long."""
        if sql not in self._prepared:
            self._prepared[sql] = await self.connection.prepare(sql)

    async def prepare_for(self, items: Iterable[Item]) -> None:
        """Have the statements ready that the rare kinds among these events will need."""
        for item in items:
            event = item.event
            if event.kind is Kind.FINISHED:
                continue
            if event.kind is Kind.DECIDED and "approval_id" not in event.fields:
                continue
            for effect in effects(event.fields, 0, 0, event.body, event.projected):
                if not statements.is_bulk(effect):
                    await self._prepare(statements.of_effect(effect))

    @property
    def is_closed(self) -> bool:
        return self.connection.is_closed()

    async def close(self) -> None:
        try:
            await self.connection.close(timeout=1)
        finally:
            self.connection.terminate()

    async def lock(self) -> None:
        """Begin a transaction in which nobody else appends: what it looks up from here on is the newest state."""
        # one message, and no parameters: the name of the log is a constant of ours
        await self.connection.execute(f"BEGIN; SELECT FROM head WHERE log_id = '{self._log_id}' FOR UPDATE")

    async def end(self, backend: Backend) -> None:
        """End a connection that this process had before, unless it is over: what was sent there is not done later."""
        pid, start = backend
        await self.connection.execute(statements.END.format(pid, start.isoformat()))  # one message, as `lock`

    async def confirm(self) -> None:
        """Commit without a change. Then all that was found is as durable as what is answered with a receipt: a commit
        is seen before the standby has it, if who ended the connection that waited for that was a person."""
        await self.connection.execute(f"UPDATE head SET size = size WHERE log_id = '{self._log_id}'; COMMIT")  # noqa: S608  # as `lock`

    async def rollback(self) -> None:
        await self.connection.execute("ROLLBACK")

    async def look(self, questions: Questions) -> Found:
        """All answers in one statement, hence of one moment.

        Raises:
            LogBroken: there is no head row.
        """
        rows = await self._prepared[statements.LOOK].fetch(
            self._log_id,
            [tenant for tenant, _ in questions.sessions],
            [session for _, session in questions.sessions],
            [kind for kind, _ in questions.spendings],
            [key for _, key in questions.spendings],
            questions.deciders is not None,
            list(questions.deciders or ()),
            questions.holds,
        )
        head = next((row for row in rows if row[0] == statements.OF_HEAD), None)
        if head is None:
            raise LogBroken("the log has no head row; run `log verify`")
        found = Found(size=head[4], position=head[5], unsafe=head[3])
        for what, a, b, c, n, _, standing in rows:
            if what == statements.OF_SESSION:
                found.sessions.append(((a, b), Session(c, n or 0)))
            elif what == statements.OF_SPENT:
                found.spent.add((a, b))
            elif what == statements.OF_MEMBER:
                found.members.append((n, a, presence(dict(zip(statements.STANDING, standing, strict=True)))))
            elif what == statements.OF_HOLD:
                found.holds[a] = (b, c)
        found.members.sort(key=lambda member: member[0])
        return found

    async def has(self, plan: Plan) -> bool:
        """Whether a plan whose commit failed is in the log after all. Ask under the lock: then it is for good."""
        rows = await self._prepared[statements.IDS].fetch(self._log_id, plan.first, plan.first + len(plan.ids))
        return [row[0] for row in rows] == plan.ids

    async def next_index(self) -> int:
        """How many events there are, by the events themselves."""
        found = await self._prepared[statements.COUNT].fetchval(self._log_id)
        return 0 if found is None else int(found) + 1

    async def receipt(self, event: Event) -> Receipt | None:
        """Of an event that is in the log already, by an append that only seemed to fail."""
        row = await self._prepared[statements.RECEIPT].fetchrow(self._log_id, event.id, event.leaf_hash)
        return None if row is None else Receipt(event.id, row[0], row[1])

    async def leaf_hash(self, index: int) -> bytes | None:
        found = await self._prepared[statements.LEAF_HASH].fetchval(self._log_id, index)
        return None if found is None else bytes(found)

    async def write(self, plan: Plan, ledger: Ledger, *, locked: bool) -> bool:
        """Append a plan and commit: durable when it returns True.

        Without the lock it is appended only if nobody else has appended since it was made: False if somebody has.

        Raises:
            LogUnavailable: nothing was appended; the server has become one that must not be written to.
        """
        rare = [effect for effect in plan.effects if not statements.is_bulk(effect)]
        if rare and not locked:
            await self.connection.execute("BEGIN")
        append = self._prepared[statements.APPEND]
        await append.fetch(*self._columns(plan, ledger))
        if append.get_statusmsg() == "INSERT 0 0":
            if rare or locked:
                await self.rollback()
            if locked:
                raise LogUnavailable("the log's head row is not what it was a moment ago")
            return False
        for effect in rare:
            await self._apply(effect)
        if (rare or locked) and await self.connection.execute("COMMIT") != "COMMIT":
            raise LogUnavailable("the server has rolled the transaction back")
        return True

    def _columns(self, plan: Plan, ledger: Ledger) -> list[Any]:
        """The parameters of `statements.APPEND`: of each table a list for each column."""
        added: dict[str, list[Row]] = {"spent": [], "answers": []}
        for effect in plan.effects:
            if isinstance(effect, Put) and effect.table in added:
                added[effect.table].append(effect.row)
        return [
            self._log_id,
            plan.first,
            ledger.size,
            ledger.position,
            *(plan.events[column::_EVENT_WIDTH] for column in range(1, _EVENT_WIDTH)),
            *(plan.bodies[column::_BODY_WIDTH] for column in range(2, _BODY_WIDTH)),
            *(plan.sessions[column::_SESSION_WIDTH] for column in range(1, _SESSION_WIDTH)),
            *([row[column] for row in added["spent"]] for column in statements.SPENT),
            *([row[column] for row in added["answers"]] for column in statements.ANSWER),
        ]

    async def _apply(self, effect: Effect) -> None:
        if isinstance(effect, Put):
            values = [*effect.row.values()]
        elif isinstance(effect, Drop):
            values = [effect.through]
        else:
            values = [*effect.key, *effect.columns.values(), *([list(effect.states)] if effect.states else ())]
        await self._prepared[statements.of_effect(effect)].fetch(self._log_id, *values)
