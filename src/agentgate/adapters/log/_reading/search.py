"""Searching the log: as much as a store can say cheaply by its columns, the rest by `Query.matches`.

A statement looks at a bounded number of events and returns a few, so that no search holds up a store. No index is
kept for searches, because every append would pay for it: a session is found by the index that exists, a time by
bisection (`at` grows with the index, nearly), and a leaf says its fields in one byte form (RFC 8785), so that the
store can look for `"tool":"db_query"` in it without anybody parsing a million leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, LargeBinary, func, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import Boolean

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._reading.rows import RECORDS_AT_ONCE, chunk, record
from agentgate.adapters.log._reading.stretches import in_its_order, of_session
from agentgate.adapters.log._segments import Ask
from agentgate.core.event import Record, rfc3339
from agentgate.core.query import Query
from agentgate.core.strict_json import canonical_plain

CLOCKS_WITHIN: Final = timedelta(minutes=30)
"""How far from the truth an event's `at` may be and still be found by its time: what replicas differ by, what a
clock was set back by, and what an append waited. A search within a session does not rest on it."""

_EVENTS_AT_ONCE: Final = 16_384
_PROBES_AT_ONCE: Final = 64

_events = schema.events.c


async def search(
    ask: Ask, log_id: str, query: Query, *, first: int = 0, below: int | None = None, newest: bool = False
) -> AsyncIterator[Record]:
    """See `ports.LogReader`."""
    low, high = max(0, first), await size(ask, log_id)
    if below is not None:
        high = min(high, below)
    if not query.session:
        low, high = await _time(ask, log_id, query, low, high)
    wanted = [_events.log_id == log_id, *_conditions(query, log_id)]
    # By an index there is nothing to wade through; in that over sessions, a session's own numbers are the order.
    has_index = query.session or (query.kinds is not None and is_beside_calls(query.kinds))
    at_once = high - low if has_index else _EVENTS_AT_ONCE
    in_one = query.session and query.tenant is not None
    order: Sequence[ColumnElement[Any]] = in_its_order(_events) if in_one else (_events.idx,)
    if newest:
        order = [part.desc() for part in order]
    while low < high:
        start, end = (max(low, high - at_once), high) if newest else (low, min(high, low + at_once))
        rows = await chunk(ask, log_id, [*wanted, _events.idx >= start, _events.idx < end], order)
        for row in rows:
            found = record(row)
            if query.matches(found):
                yield found
        is_all = len(rows) < RECORDS_AT_ONCE
        if newest:
            high = start if is_all else rows[-1][0]
        else:
            low = end if is_all else rows[-1][0] + 1


def _conditions(query: Query, log_id: str) -> Iterator[ColumnElement[bool]]:
    """What every event that fits says of itself. Values are bound, never written into a statement."""
    if query.session and query.tenant is not None:
        yield from of_session(_events, log_id, query.tenant, query.session)
    else:
        if query.tenant is not None:
            yield _events.tenant == query.tenant
        if query.session is not None:
            yield _events.session == query.session
    if query.kinds is not None:
        yield from of_kinds(query.kinds)
    if query.since is not None:
        yield _events.at >= query.since
    if query.until is not None:
        yield _events.at < query.until
    in_the_leaf = {
        "principal": query.agent,
        "tool": query.tool,
        "decision": query.decision,
        "reason_code": query.reason_code,
        "outcome": query.outcome,
        "trace_id": query.trace_id,
    }
    for name, value in in_the_leaf.items():
        if value:
            yield _Holds(_events.leaf, literal(canonical_plain({name: value})[1:-1], LargeBinary))


def is_beside_calls(kinds: Collection[str]) -> bool:
    """Whether these are kinds that an index leads to."""
    return not any(kind in schema.OF_CALLS for kind in kinds)


def of_kinds(kinds: Collection[str]) -> Iterator[ColumnElement[bool]]:
    """The conditions for events of these kinds, said so that a store uses what index it has."""
    yield _events.kind.in_(sorted(str(kind) for kind in kinds))
    if is_beside_calls(kinds):
        yield schema.BESIDE_CALLS


class _Holds(FunctionElement[bool]):
    """Whether some bytes are within others."""

    type = Boolean()
    inherit_cache = True


@compiles(_Holds, "sqlite")
def _holds_in_sqlite(holds: _Holds, compiler: Any, **options: Any) -> str:
    whole, part = holds.clauses
    return f"instr({compiler.process(whole, **options)}, {compiler.process(part, **options)}) > 0"


@compiles(_Holds, "postgresql")
def _holds_in_postgresql(holds: _Holds, compiler: Any, **options: Any) -> str:
    whole, part = holds.clauses
    return f"position({compiler.process(part, **options)} IN {compiler.process(whole, **options)}) > 0"


async def size(ask: Ask, log_id: str) -> int:
    """The index of the next event."""
    rows = await ask(select(func.max(_events.idx)).where(_events.log_id == log_id))
    return 0 if rows[0][0] is None else int(rows[0][0]) + 1


async def _time(ask: Ask, log_id: str, query: Query, low: int, high: int) -> tuple[int, int]:
    """The part of `low` to `high` that holds all events from `since` to `until`, if clocks were not worse than
    `CLOCKS_WITHIN`: then twice that is where nothing of the one side can be on the other."""
    if query.since is not None:
        low = await _first_at(ask, log_id, _moved(query.since, -2 * CLOCKS_WITHIN), low, high)
    if query.until is not None:
        high = await _first_at(ask, log_id, _moved(query.until, 2 * CLOCKS_WITHIN), low, high)
    return low, high


async def _first_at(ask: Ask, log_id: str, moment: str, low: int, high: int) -> int:
    """An index whose event is at `moment` or later and the one before is not; `high` if there is none."""
    while low < high:
        step = max(1, (high - low) // _PROBES_AT_ONCE)
        probes = range(low, high, step)
        rows = await ask(
            select(_events.idx, _events.at)
            .where(_events.log_id == log_id, _events.idx.in_(probes))
            .order_by(_events.idx)
        )
        later = next((index for index, at in rows if at >= moment), None)
        before = [index for index, _ in rows if later is None or index < later]
        if later is not None:
            high = later
        if before:
            low = before[-1] + 1
        elif later is None or later == low:
            return high
    return high


def _moved(moment: str, by: timedelta) -> str:
    """Raises ValueError when `moment` is no time; what leaves the calendar stays at its end."""
    parsed = datetime.fromisoformat(moment)
    try:
        return rfc3339(parsed + by)
    except OverflowError:
        return moment
