"""What every log answers in the same way, whatever keeps it: its readers and its writer do the work."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Protocol

from agentgate.adapters.log._checkpoints.anchors import Anchors
from agentgate.adapters.log._checkpoints.followers import Standing
from agentgate.adapters.log._checkpoints.integrator import Integrator, Lag
from agentgate.adapters.log._intake import Intake
from agentgate.adapters.log._reading.reader import Derived, Reader
from agentgate.core.approval import Wanted
from agentgate.core.event import Event, Record
from agentgate.core.members import Acknowledgement
from agentgate.core.query import Query
from agentgate.ports.log import Appended, Bodies, Bookmarks


class StoredLog:
    """`ports.LogReader` and `ports.Tree`, and of `ports.Log` what is the same for one process and for many."""

    def __init__(
        self,
        writer: Intake,
        near: Reader,
        far: Reader,
        integrator: Integrator,
        anchors: Anchors,
        bodies: Bodies,
        bookmarks: Bookmarks,
    ) -> None:
        """`near` reads what containment rests on; `far` what auditors want, who may keep it busy."""
        self._writer = writer
        self._near = near
        self._far = far
        self._integrator = integrator
        self._anchors = anchors
        self.bodies = bodies
        self.bookmarks = bookmarks
        self.keys = anchors.keys
        self.witnesses = anchors.witnesses

    # --- ports.Log ----------------------------------------------------------------------------------------

    def append(self, event: Event) -> Awaitable[Appended]:
        return self._writer.append(event)

    async def settled(self) -> None:
        await self._writer.settled()

    def patient(self) -> contextlib.AbstractContextManager[None]:
        return self._writer.patient()

    # --- ports.LogReader ----------------------------------------------------------------------------------

    def records(
        self, *, tenant: str | None = None, session: str | None = None, first: int = 0, kinds: Sequence[str] = ()
    ) -> AsyncIterator[Record]:
        return self._far.records(tenant=tenant, session=session, first=first, kinds=kinds)

    def search(
        self, query: Query, *, first: int = 0, below: int | None = None, newest: bool = False
    ) -> AsyncIterator[Record]:
        return self._far.search(query, first=first, below=below, newest=newest)

    async def size(self) -> int:
        return await self._far.size()

    async def sessions(
        self, tenant: str | None, *, principal: str | None = None, after: str = "", limit: int
    ) -> list[str]:
        return await self._far.sessions(tenant, principal=principal, after=after, limit=limit)

    async def approvals(self, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
        return await self._far.approvals(wanted, limit)

    async def open_intents(self) -> list[Record]:
        return await self._near.open_intents()

    async def projection(
        self, name: Derived, *, without: str | None = None, **match: str | int | None
    ) -> list[dict[str, Any]]:
        return await self._near.projection(name, without=without, **match)

    async def record(self, index: int) -> Record | None:
        return await self._near.record(index)

    async def answers_until(self, moment: str, limit: int) -> int | None:
        return await self._near.answers_until(moment, limit)

    async def answers_held(self) -> dict[tuple[str, str], int]:
        return await self._near.answers_held()

    async def acknowledged(self, position: int) -> list[Acknowledgement]:
        return await self._near.acknowledged(position)

    async def checkpoint(self) -> bytes | None:
        return await self._near.checkpoint()

    # --- ports.Tree ---------------------------------------------------------------------------------------

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        return await self._far.hashes(level, first, count)

    async def integrate(self) -> None:
        """Have a checkpoint over everything that is durable now, whoever signs it. Raises LogUnavailable."""
        await self._integrator.integrate()

    @property
    def lag(self) -> Lag:
        return self._integrator.lag

    @property
    def standings(self) -> list[Standing]:
        return self._anchors.standings


class _Closable(Protocol):
    async def aclose(self) -> None: ...


@contextlib.asynccontextmanager
async def all_or_nothing(*parts: _Closable) -> AsyncIterator[None]:
    """Close `parts` in this order if what is done in here fails."""
    try:
        yield
    except BaseException:
        for part in parts:
            await part.aclose()
        raise
