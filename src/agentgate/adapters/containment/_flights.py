"""The calls in flight as Redis shows them. Nothing is decided by it: it is put right every few seconds."""

from __future__ import annotations

import time
from contextlib import suppress

import orjson

from agentgate.adapters.containment._common import flight_entry, shown
from agentgate.adapters.containment._link import OPEN_S, Link
from agentgate.adapters.containment._resp import Connection, NoAnswer, explain
from agentgate.core.call import Call, TraceId
from agentgate.core.errors import KillStateUnknown
from agentgate.ports.containment import InFlight


class Flights:
    """The hash `key`: an entry for each call of all members, of which `member` is this process."""

    def __init__(self, link: Link, key: str, member: str) -> None:
        self._link = link
        self.key = key
        self.member = member
        self.mine: dict[TraceId, bytes | None] = {}
        """Calls of this member that were admitted, with their entries; None while that is being asked."""

    def begin(self, call: Call) -> bytes:
        """Its entry, which admit.lua adds."""
        entry = orjson.dumps(flight_entry(call, self.member, time.time_ns() // 1000))
        self.mine[call.trace_id] = None
        return entry

    def end(self, call: Call) -> None:
        self.mine.pop(call.trace_id, None)
        self._link.fire("HDEL", self.key, call.trace_id)

    async def all(self) -> list[InFlight]:
        connection = await self._connected()
        found = []
        for trace_id, entry in await self._read(connection):
            # Another version's entry, or a stranger's, must not hide the others.
            with suppress(KeyError, TypeError, ValueError):
                found.append(shown(trace_id, orjson.loads(entry)))
        return found

    async def forget(self, member: str) -> None:
        connection = await self._connected()
        mark = _mark(member)
        left = [trace_id for trace_id, entry in await self._read(connection) if mark in entry]
        if left:
            connection.fire("HDEL", self.key, *left)

    async def correct(self, connection: Connection) -> None:
        """Remove this member's entries whose release was lost, and put back those that Redis lost."""
        mark = _mark(self.member)
        there = {trace_id for trace_id, entry in await self._read(connection) if mark in entry}
        if ended := there - self.mine.keys():
            connection.fire("HDEL", self.key, *ended)
        lost = [(key, entry) for key, entry in self.mine.items() if entry is not None and key not in there]
        if lost:
            connection.fire("HSET", self.key, *(word for pair in lost for word in pair))

    async def _connected(self) -> Connection:
        connection = self._link.current() or await self._link.wait()
        if isinstance(connection, NoAnswer):
            raise KillStateUnknown(connection.detail)
        return connection

    async def _read(self, connection: Connection) -> list[tuple[TraceId, bytes]]:
        answer = await connection.command("HGETALL", self.key, deadline_s=OPEN_S)
        if not isinstance(answer, list) or not all(isinstance(word, bytes) for word in answer):
            raise KillStateUnknown(explain(answer))
        pairs = zip(answer[::2], answer[1::2], strict=False)
        return [(TraceId(key.decode(errors="replace")), entry) for key, entry in pairs]


def _mark(member: str) -> bytes:
    """What an entry of `member` contains, so that others need not be parsed."""
    return b'"member":%s' % orjson.dumps(member)
