"""Counting the log, for budgets that admission does not know: Redis lost them, or never heard of the session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from agentgate.core.budget import Count, Period, Tally
from agentgate.core.call import Call
from agentgate.core.errors import LogUnavailable
from agentgate.core.event import Kind, rfc3339
from agentgate.core.facts import Facts
from agentgate.core.query import Query
from agentgate.ports.containment import Admission, Uncounted
from agentgate.ports.log import LogReader
from agentgate.ports.notices import Meter

logger = logging.getLogger("agentgate.limits")

COUNT_WAIT_S: Final = 1.0
"""How long a call waits for the log to be counted; the counting goes on without it."""
_COUNTS_AT_ONCE: Final = 8
_MOST_COUNTS: Final = 1_000
"""Waiting ones among them. Beyond, calls are refused at once: names of sessions can be made up."""


class Recount:
    """Counts the log for budgets that admission does not know. One count for all who wait for the same."""

    def __init__(self, reader: LogReader, meter: Meter) -> None:
        self._reader = reader
        self._meter = meter
        self._running: dict[tuple[str, Period], asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(_COUNTS_AT_ONCE)

    async def fill(self, admission: Admission, call: Call, uncounted: Sequence[Uncounted]) -> bool:
        """Whether all of them have been counted, in the time that a call can wait."""
        tasks = [task for what in uncounted if (task := self._task(admission, call, what)) is not None]
        if len(tasks) < len(uncounted):
            return False
        done, _ = await asyncio.wait(tasks, timeout=COUNT_WAIT_S)
        return len(done) == len(tasks) and not any(task.cancelled() or task.exception() for task in tasks)

    async def aclose(self) -> None:
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, admission: Admission, call: Call, what: Uncounted) -> asyncio.Task[None] | None:
        key = what.epoch, what.period
        if (task := self._running.get(key)) is not None:
            return task
        if len(self._running) >= _MOST_COUNTS:
            return None
        task = self._running[key] = asyncio.create_task(self._count(admission, call, what), name="agentgate-recount")
        task.add_done_callback(lambda done: self._done(key, done))
        return task

    def _done(self, key: tuple[str, Period], task: asyncio.Task[None]) -> None:
        del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, LogUnavailable):
                logger.error("a budget could not be counted", exc_info=error)
            self._meter.count("budget_recount_failures")

    async def facts(self, call: Call) -> Facts:
        """Raises LogUnavailable."""
        try:
            async with asyncio.timeout(COUNT_WAIT_S):
                return (await self._tally(call, Uncounted(Period.SESSION, 0, ""))).facts
        except TimeoutError:
            raise LogUnavailable("the log takes too long to say what the session did") from None

    async def _count(self, admission: Admission, call: Call, what: Uncounted) -> None:
        """Raises LogUnavailable."""
        if await admission.restore(call, what, await self._tally(call, what)):
            self._meter.count("budget_recounts")

    async def _tally(self, call: Call, what: Uncounted) -> Tally:
        """Raises LogUnavailable."""
        async with self._turn:
            through = await self._reader.size()
            count = Count()
            async for record in self._reader.search(_events_of(call, what), below=through):
                count.add(record)
        return count.tally(through)


def _events_of(call: Call, what: Uncounted) -> Query:
    since = None
    if what.period.seconds:
        since = rfc3339(datetime.fromtimestamp(what.number * what.period.seconds, UTC))
    return Query(
        tenant=call.tenant,
        session=call.session if what.period is Period.SESSION else None,
        agent=call.caller.id,
        kinds=(Kind.DECIDED, Kind.FINISHED),
        since=since,
    )
