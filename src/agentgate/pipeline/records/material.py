"""What the log has of a pack's scope: a signed state of it, and the events in that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Record
from agentgate.core.evidence.scope import NAMED, WIDER, Concern, Scope, ended_before
from agentgate.core.note import Checkpoint, checkpoint_of
from agentgate.core.query import Query
from agentgate.ports.ambient import Worker
from agentgate.ports.log import LogReader, Tree

_SESSIONS_AT_ONCE: Final = 4_096
MAX_BYTES: Final = 1 << 28
"""Of leaves and bodies: a pack is made in memory."""


@dataclass(frozen=True, slots=True)
class Material:
    """What the log has of a scope: its events and what concerns it, in log order, and the state that proves them."""

    records: Sequence[Record]
    note: bytes

    @property
    def checkpoint(self) -> Checkpoint:
        return checkpoint_of(self.note)


class Gatherer:
    """Reads them, and no more of them than a pack may have."""

    def __init__(self, reader: LogReader, tree: Tree, worker: Worker, max_events: int) -> None:
        self._reader = reader
        self._tree = tree
        self._worker = worker
        self._max_events = max_events

    async def read(self, scope: Scope) -> Material | Refused:
        """A signed state of the log, and the scope's events in it."""
        await self._tree.integrate()
        note = await self._tree.checkpoint()
        if note is None:
            raise LogUnavailable("the log has no checkpoint")
        size = checkpoint_of(note).size
        own = await self._own(scope, size)
        if isinstance(own, Refused):
            return own
        wider = await self._wider(scope, size, own)
        if isinstance(wider, Refused):
            return wider
        return Material(sorted([*own, *wider], key=lambda record: record.index), note)

    async def _own(self, scope: Scope, size: int) -> list[Record] | Refused:
        sessions = await self._sessions_of(scope.tenant, scope.agent) if scope.agent is not None else frozenset()
        first, below = 0, size
        if scope.since is not None or scope.until is not None:  # by time, and then all of it by index: see `Scope`
            within = [r.index async for r in self._reader.search(scope.query, below=size) if scope.owns(r, sessions)]
            first, below = (within[0], within[-1] + 1) if within else (0, 0)
        timeless = Query(tenant=scope.tenant, session=scope.session)
        found = self._reader.search(timeless, first=first, below=below)
        return await self._within_limits(found, lambda record: scope.owns(record, sessions))

    async def _sessions_of(self, tenant: str, principal: str) -> frozenset[str]:
        """In parts: calls and kills go on while millions are read."""
        found: set[str] = set()
        last = ""
        while True:
            part = await self._reader.sessions(tenant, principal=principal, after=last, limit=_SESSIONS_AT_ONCE)
            found.update(part)
            if len(part) < _SESSIONS_AT_ONCE:
                return frozenset(found)
            last = part[-1]

    async def _wider(self, scope: Scope, size: int, own: Sequence[Record]) -> list[Record] | Refused:
        """What concerns the scope without being in its sessions. Chosen before it is counted: others' kills and exports
        grow with the log, and no narrower scope would have fewer of them."""
        ends, below = ended_before(scope, own, size)
        found = self._reader.search(ends, below=below)
        over = {(name, record.fields[name]) async for record in found for name in NAMED if name in record.fields}
        concern = await self._worker.run(partial(Concern, scope, own, over))
        return await self._within_limits(self._reader.search(Query(kinds=WIDER), below=size), concern.keeps)

    async def _within_limits(
        self, found: AsyncIterator[Record], belongs: Callable[[Record], bool]
    ) -> list[Record] | Refused:
        kept: list[Record] = []
        n_bytes = 0
        async for record in found:
            if not belongs(record):
                continue
            kept.append(record)
            n_bytes += len(record.leaf) + len(record.raw_body or b"")
            if len(kept) > self._max_events or n_bytes > MAX_BYTES:
                text = (
                    f"a pack has at most {self._max_events} events and {MAX_BYTES >> 20} MiB of them; "
                    "narrow it with since and until"
                )
                return Refused(ReasonCode.PACK_TOO_LARGE, text)
        return kept
