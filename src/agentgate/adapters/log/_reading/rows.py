"""How an event's row and its body's become a record again, and what the rows of many say together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, and_, select

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._segments import Ask, filled
from agentgate.core.event import Record

_events = schema.events.c
_bodies = schema.bodies.c

COLUMNS: Final = (
    _events.idx, _events.session_number, _events.kill_position, _events.leaf, _bodies.salt, _bodies.body,
)  # fmt: skip
"""What `record` needs, the index first."""
RECORDS_AT_ONCE: Final = 256
WITH_BODIES: Final = schema.events.outerjoin(
    schema.bodies, and_(_bodies.log_id == _events.log_id, _bodies.idx == _events.idx)
)


async def chunk(
    ask: Ask, log_id: str, wanted: Iterable[ColumnElement[bool]], order: Iterable[ColumnElement[Any]] = (_events.idx,)
) -> list[tuple[Any, ...]]:
    """The first `RECORDS_AT_ONCE` rows for `record`, with the bodies that lie in segments."""
    statement = select(*COLUMNS).select_from(WITH_BODIES).where(*wanted)
    return await filled(ask, log_id, await ask(statement.order_by(*order).limit(RECORDS_AT_ONCE)))


def record(row: tuple[Any, ...]) -> Record:
    """A record from a row of `COLUMNS`."""
    index, session_number, kill_position, leaf, salt, body = row
    return Record(
        index=index,
        session_number=session_number,
        kill_position=kill_position,
        fields=orjson.loads(leaf),
        leaf=leaf,
        salt=salt,
        raw_body=body,
    )


def open_intents(rows: Iterable[tuple[int, str, bytes]], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """Trace ids of ALLOW decisions without an outcome, oldest first, from `(index, kind, leaf)` of calls' events.
    `before`: those that were open before these."""
    found = dict(before or {})
    for index, kind, leaf in rows:
        fields: Mapping[str, Any] = orjson.loads(leaf)
        if kind == "finished":
            found.pop(fields["trace_id"], None)
        elif fields["decision"] == "ALLOW":
            found[fields["trace_id"]] = index
    return found
