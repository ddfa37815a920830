"""Statements that are asked often, each made once: to make one takes SQLAlchemy longer than most databases the answer.

Their parameters are named; whoever asks one gives the values (`Reader.ask`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, func, or_, select

from agentgate.adapters.log import _schema as schema

Statement = Select[*tuple[Any, ...]]

_log_id: Final[BindParameter[str]] = bindparam("log_id")
_position: Final[BindParameter[int]] = bindparam("position")
_kills, _acks = schema.kills.c, schema.acks.c


@lru_cache(maxsize=256)
def derived(
    name: str, without: str | None, given: tuple[str, ...], null: tuple[str, ...]
) -> tuple[Statement, tuple[str, ...]]:
    """The rows of a derived table where the columns `given` have the values of their names and those in `null` none;
    and the names of its columns, which are all but the log's id and `without`.

    Raises:
        KeyError: no such table or column.
    """
    table = schema.DERIVED[name]
    columns = [column for column in schema.columns_of(table) if column.name != without]
    wanted = [table.c[column] == bindparam(column) for column in given]
    wanted += [table.c[column].is_(None) for column in null]
    statement = select(*columns).where(table.c.log_id == _log_id, *wanted)
    oldest_first = (table.c[column] for column in schema.OLDEST_FIRST.get(name, ("idx",)))
    return statement.order_by(*oldest_first), tuple(column.name for column in columns)


def _kills_where(changed: ColumnElement[bool]) -> Statement:
    """The head's kill position, beside each of those kills; once, beside nothing, where there is none of them."""
    head = schema.head.c
    joined = schema.head.outerjoin(schema.kills, and_(_kills.log_id == head.log_id, changed))
    statement = select(head.kill_position, *schema.columns_of(schema.kills)).select_from(joined)
    return statement.where(head.log_id == _log_id).order_by(_kills.position)


KILLS_IN_FORCE: Final = _kills_where(_kills.released_position.is_(None))
KILLS_SINCE: Final = _kills_where(or_(_kills.position > _position, _kills.released_position > _position))


def _acknowledged() -> Statement:
    enough = select(_acks.member, func.min(_acks.position).label("position"))
    first = enough.where(_acks.log_id == _log_id, _acks.position >= _position).group_by(_acks.member).subquery()
    return (
        select(_acks.member, _acks.position, _acks.cancelled, _acks.finished, _acks.unknown, _acks.took_us)
        .join(first, and_(_acks.member == first.c.member, _acks.position == first.c.position))
        .where(_acks.log_id == _log_id)
        .order_by(_acks.idx)
    )


ACKNOWLEDGED: Final = _acknowledged()
"""Each member's first acknowledgement at or past a position."""
