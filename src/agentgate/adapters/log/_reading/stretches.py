"""A session's events, by the index that the store has for them.

PostgreSQL's is over tenant, session and number. SQLite's has the stretch of the log before them (`_schema.stretches`),
so a statement must say which stretches to look into, and names them first in its order. What is said for the one store
is nothing for the other.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnCollection, FunctionElement
from sqlalchemy.types import BigInteger

from agentgate.core.projection.tables import STRETCH_BITS

Events = ColumnCollection[str, ColumnElement[Any]]
"""Columns of `events`, or of an alias of it."""


def of_session(events: Events, log_id: str, tenant: Any, session: Any) -> tuple[ColumnElement[bool], ...]:
    """The conditions for events of one session: none fits where `session` is empty. `tenant` and `session` are
    values, or columns of another table."""
    return (
        events.log_id == log_id,
        events.tenant == tenant,
        events.session == session,
        events.session != "",  # what lets a store use its index
        _InItsStretches(events.idx, literal(log_id), _value(tenant), _value(session)),
    )


def in_its_order(events: Events) -> tuple[ColumnElement[Any], ...]:
    """The order of one session's events that costs nothing: that of the log."""
    return _Stretch(events.idx), events.session_number


def _value(one: Any) -> ColumnElement[Any]:
    return literal(one) if isinstance(one, str) else one


class _InItsStretches(FunctionElement[bool]):
    """Whether an index lies in a stretch that the session has events in.

    Not typed as a boolean: SQLAlchemy would compare it to 1, and SQLite not use its index.
    """

    inherit_cache = True


@compiles(_InItsStretches, "sqlite")
def _in_sqlite(condition: _InItsStretches, compiler: Any, **options: Any) -> str:
    index, log_id, tenant, session = (compiler.process(clause, **options) for clause in condition.clauses)
    # The plus: a column's affinity would keep SQLite from using an index over an expression, which has none.
    found = f"SELECT +s.stretch FROM stretches s WHERE s.log_id = {log_id}"  # noqa: S608  # values are bound
    return f"{index} >> {STRETCH_BITS} IN ({found} AND s.tenant = {tenant} AND s.session = {session})"


@compiles(_InItsStretches, "postgresql")
def _in_postgresql(_condition: _InItsStretches, _compiler: Any, **_options: Any) -> str:
    return "true"


class _Stretch(FunctionElement[int]):
    """The stretch that an index lies in."""

    type = BigInteger()
    inherit_cache = True


@compiles(_Stretch, "sqlite")
def _stretch_in_sqlite(stretch: _Stretch, compiler: Any, **options: Any) -> str:
    (index,) = stretch.clauses
    return f"{compiler.process(index, **options)} >> {STRETCH_BITS}"


@compiles(_Stretch, "postgresql")
def _stretch_in_postgresql(_stretch: _Stretch, _compiler: Any, **_options: Any) -> str:
    return "0::bigint"
