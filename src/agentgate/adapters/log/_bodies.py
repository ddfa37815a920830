"""Bodies: compressed in segments once they are older, and deleted where a prune event says so."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select, exists, func, select, tuple_

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._reading.stretches import in_its_order, of_session
from agentgate.adapters.log._segments import (
    INDEXES_AT_ONCE,
    MAX_SEGMENT_BYTES,
    SEGMENT_BYTES,
    SEGMENT_EVENTS,
    Ask,
    Body,
    Segment,
    compressed,
    pack,
    starts,
    unpack,
)
from agentgate.core.retention import Around, Kept, Place, Quiet, first_young

DELETED_AT_ONCE: Final = 128
"""Bodies in one transaction, which an append may have to wait for."""
_TIMES_AT_ONCE: Final = 8_192
_SESSIONS_AT_ONCE: Final = 256

_events, _bodies, _segments = schema.events.c, schema.bodies.c, schema.body_segments.c
_sessions, _kills, _prunes = schema.sessions.c, schema.kills.c, schema.prunes.c


class BodyStore(ABC):
    """`ports.Bodies`, but for the statements that change something: those are each store's own."""

    refusal: str | None = None

    def __init__(self, ask: Ask, log_id: str) -> None:
        """`ask` reads."""
        self._ask = ask
        self._log_id = log_id
        self._busy = asyncio.Lock()
        """One at a time in this process: what it reads of a segment is still so when it writes it."""

    @abstractmethod
    async def _delete(self, indexes: Sequence[int]) -> int:
        """Delete single bodies, a few; how many there were."""

    @abstractmethod
    async def _replace(self, first: int, bodies: int, left: int, content: bytes) -> bool:
        """Give the segment that begins at `first` another content, if it still has as many `bodies`; whether it had."""

    @abstractmethod
    async def _put(self, segment: Segment) -> bool:
        """Add a segment and delete the single bodies that it has: all of them, or nothing is done and it is False."""

    async def around(self, moment: str, now: str) -> Around:
        index = await self._first_young(moment, now)
        times = await self._times([index - 1, index])
        return Around(index, times.get(index - 1), times.get(index))

    async def _first_young(self, moment: str, now: str) -> int:
        """Reads on from the first segment with a time after `moment`: of those before it is known that they are older.

        Without segments that is all of the log, in steps.
        """
        of_log = _segments.log_id == self._log_id
        young = select(func.min(_segments.first_idx)).where(of_log, _segments.newest > moment)
        behind = select(func.max(_segments.last_idx)).where(of_log)
        (start,), (end,), size = (await self._ask(young))[0], (await self._ask(behind))[0], await self._size()
        first = start if start is not None else 0 if end is None else end + 1
        while first < size:
            step = select(func.min(_events.idx)).where(
                _events.log_id == self._log_id,
                _events.idx >= first,
                _events.idx < first + _TIMES_AT_ONCE,
                _events.at > moment,
                _events.at <= now,
            )
            ((found,),) = await self._ask(step)
            if found is not None:
                return int(found)
            first += _TIMES_AT_ONCE
        return size

    async def _times(self, indexes: Sequence[int]) -> dict[int, str]:
        statement = select(_events.idx, _events.at)
        rows = await self._ask(statement.where(_events.log_id == self._log_id, _events.idx.in_(indexes)))
        return {row[0]: row[1] for row in rows}

    async def _size(self) -> int:
        rows = await self._ask(select(schema.head.c.size).where(schema.head.c.log_id == self._log_id))
        return int(rows[0][0]) if rows else 0

    async def quiet(self, below: int, after: Place | None) -> tuple[list[Quiet], Place | None]:
        """Sessions that decisions opened first, then those that only a kill names."""
        part, *names = after or (0, "", "")
        rows = await self._ask((self._killed_after if part else self._decided_after)(*names))
        following: Place | None = (part, *rows[-1][:2]) if len(rows) == _SESSIONS_AT_ONCE else None
        if following is None and not part:
            following = (1, "", "")
        times = await self._times([last for *_, last in rows if last is not None])
        found = [
            Quiet(tenant, session, last, times.get(last, ""))
            for tenant, session, through, last in rows
            if last is not None and last < below and (through is None or last > through)
        ]
        return found, following

    def _decided_after(self, tenant: str, session: str) -> Select[Any]:
        of, through = _sessions, self._through_of(_sessions.tenant, _sessions.session)
        return (
            select(of.tenant, of.session, through, self._last_of(of.tenant, of.session))
            .where(of.log_id == self._log_id, tuple_(of.tenant, of.session) > tuple_(tenant, session))
            .order_by(of.tenant, of.session)
            .limit(_SESSIONS_AT_ONCE)
        )

    def _killed_after(self, tenant: str, session: str) -> Select[Any]:
        of, own = _kills, schema.sessions.alias().c
        is_decided = exists().where(own.log_id == self._log_id, own.tenant == of.tenant, own.session == of.target)
        through = self._through_of(of.tenant, of.target)
        return (
            select(of.tenant, of.target, through, self._last_of(of.tenant, of.target))
            .where(of.log_id == self._log_id, of.scope == "session", ~is_decided)
            .where(tuple_(of.tenant, of.target) > tuple_(tenant, session))
            .distinct()
            .order_by(of.tenant, of.target)
            .limit(_SESSIONS_AT_ONCE)
        )

    def _through_of(self, tenant: Any, session: Any) -> Any:
        """Through which index a session was pruned."""
        of = (_prunes.log_id == self._log_id, _prunes.tenant == tenant, _prunes.session == session)
        return select(_prunes.through).where(*of).scalar_subquery().label("through")

    def _last_of(self, tenant: Any, session: Any) -> Any:
        """The index of a session's last event that is no prune."""
        own = schema.events.alias().c
        of_it = of_session(own, self._log_id, tenant, session)
        newest_first = [part.desc() for part in in_its_order(own)]
        newest = select(own.idx).where(*of_it, own.kind != "pruned").order_by(*newest_first)
        return newest.limit(1).scalar_subquery().label("last")

    async def count(self, session: Quiet) -> int:
        indexes = await self._indexes(session)
        there = 0
        for at in range(0, len(indexes), INDEXES_AT_ONCE):
            some = indexes[at : at + INDEXES_AT_ONCE]
            counted = select(func.count()).where(_bodies.log_id == self._log_id, _bodies.idx.in_(some))
            there += (await self._ask(counted))[0][0]
        async for bodies in compressed(self._ask, self._log_id, indexes):
            there += len(bodies)
        return there

    async def _indexes(self, session: Quiet) -> list[int]:
        """Of a session's events up to its last one."""
        of_it = of_session(_events, self._log_id, session.tenant, session.session)
        statement = select(_events.idx).where(*of_it, _events.idx <= session.last)
        return [row[0] for row in await self._ask(statement.order_by(*in_its_order(_events)))]

    async def pruned_lately(self, count: int) -> list[Quiet]:
        newest = select(_prunes.tenant, _prunes.session, _prunes.through).where(_prunes.log_id == self._log_id)
        return [Quiet(*row) for row in await self._ask(newest.order_by(_prunes.idx.desc()).limit(count))]

    async def oldest(self, tenant: str | None) -> str | None:
        of = (_prunes.log_id == self._log_id, _prunes.tenant == _sessions.tenant, _prunes.session == _sessions.session)
        first = select(func.min(_sessions.first_at)).where(_sessions.log_id == self._log_id, ~exists().where(*of))
        if tenant is not None:
            first = first.where(_sessions.tenant == tenant)
        found: str | None = (await self._ask(first))[0][0]
        return found

    async def session_count(self) -> int:
        return int((await self._ask(select(func.count()).where(_sessions.log_id == self._log_id)))[0][0])

    async def kept(self) -> Kept:
        single = select(func.count()).where(_bodies.log_id == self._log_id)
        packed = select(func.coalesce(func.sum(_segments.bodies), 0), func.count()).where(
            _segments.log_id == self._log_id
        )
        (count,), (bodies, segments) = (await self._ask(single))[0], (await self._ask(packed))[0]
        return Kept(int(count), int(bodies), int(segments))

    async def forget(self, sessions: Sequence[Quiet]) -> int:
        indexes = sorted({index for session in sessions for index in await self._indexes(session)})
        gone = 0
        async with self._busy:
            for at in range(0, len(indexes), DELETED_AT_ONCE):
                gone += await self._delete(indexes[at : at + DELETED_AT_ONCE])
            # after the single ones: whatever another process compressed before we came to it, is in a segment now
            for start in await starts(self._ask, self._log_id, indexes):
                gone += await self._thin(start, frozenset(indexes))
        return gone

    async def _thin(self, first: int, indexes: Collection[int]) -> int:
        """Delete bodies in the segment that begins at `first`; how many there were."""
        wanted = select(_segments.last_idx, _segments.codec, _segments.content).where(
            _segments.log_id == self._log_id, _segments.first_idx == first
        )
        while True:
            ((last, codec, content),) = await self._ask(wanted)
            left, bodies, content = await asyncio.to_thread(_thinned, first, last, codec, content, indexes)
            gone = bodies - len(left)
            if gone == 0 or await self._replace(first, bodies, len(left), content):
                return gone  # else another process has taken something out of it meanwhile

    async def compress(self, moment: str, now: str) -> bool:
        """Only full segments are made."""
        async with self._busy:
            last = select(_segments.last_idx, _segments.newest).where(_segments.log_id == self._log_id)
            before = await self._ask(last.order_by(_segments.first_idx.desc()).limit(1))
            first, newest = (before[0][0] + 1, before[0][1]) if before else (0, "")
            times = await self._times(range(first, first + SEGMENT_EVENTS))
            young = first_young(sorted(times.items()), moment, now)
            end = min(first + len(times), first + SEGMENT_EVENTS if young is None else young)
            single = select(_bodies.idx, _bodies.salt, _bodies.body).where(
                _bodies.log_id == self._log_id, _bodies.idx >= first, _bodies.idx < end
            )
            bodies = {index: (salt, body) for index, salt, body in await self._ask(single.order_by(_bodies.idx))}
            end, is_full = _end_of(first, end, bodies)
            if not is_full:
                return False
            bodies = {index: body for index, body in bodies.items() if index < end}
            newest = max(newest, *(at for index, at in times.items() if index < end and at <= now), "")
            content = await asyncio.to_thread(pack, bodies)
            return await self._put(Segment(first, end - 1, newest, bodies, content))


def _thinned(
    first: int, last: int, codec: str, content: bytes, indexes: Collection[int]
) -> tuple[dict[int, Body], int, bytes]:
    """What is left of a segment without `indexes`, how many bodies it had, and its new content. Raises LogBroken."""
    bodies = unpack(first, last, codec, content)
    left = {index: body for index, body in bodies.items() if index not in indexes}
    return left, len(bodies), pack(left)


def _end_of(first: int, end: int, bodies: Mapping[int, Body]) -> tuple[int, bool]:
    """Where a segment from `first` on ends, at `end` at the latest, and whether it is full, and can be read again."""
    size = 0
    for index in range(first, end):
        size += len(bodies[index][1]) if index in bodies else 0
        if size >= SEGMENT_BYTES:
            return index + 1, size < MAX_SEGMENT_BYTES
    return end, end - first == SEGMENT_EVENTS
