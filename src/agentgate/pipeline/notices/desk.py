"""Tells people and systems elsewhere what the log says. The log is the queue, and each endpoint has its place in it.

One member at a time follows (`Bookmarks.turn`). It reads on from where an endpoint is, brings what is to be told in
order, each until it is taken, and then notes how far it is: after a crash something may be told twice, with the same
id, and nothing is lost. A notice that nobody takes for days is skipped, counted and logged.

What is in no log (`tell`) is kept in memory, a few at a time, and each member tells its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from agentgate.core.errors import LogUnavailable
from agentgate.core.event import rfc3339
from agentgate.core.notice import Notice, sources
from agentgate.pipeline.notices.endpoint import Account, Office, Rules, Subscription
from agentgate.pipeline.notices.line import Line
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.log import Bookmarks, LogReader
from agentgate.ports.notices import Meter

logger = logging.getLogger("agentgate.notices")

TURN: Final = "notices"
_OVERTIME_S: Final = 20.0
"""For what is under way at the end of a turn."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an endpoint stands. Counts, errors and times are those of this process."""

    name: str
    kind: str
    shown: str
    events: tuple[str, ...]
    tenants: tuple[str, ...]
    done: int | None
    """Up to which index all is told; None before the first turn."""
    behind: int
    """How many events of the log were not looked at yet."""
    waiting_since: str | None
    failures: int
    error: str | None
    taken_at: str | None
    counts: Mapping[str, int]


class NoticeDesk:
    """Follows the log for all endpoints."""

    def __init__(
        self,
        subscriptions: Iterable[Subscription],
        *,
        reader: LogReader,
        bookmarks: Bookmarks,
        clock: Clock,
        entropy: Entropy,
        meter: Meter,
        rules: Rules,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._office = office = Office(reader, bookmarks, clock, entropy, meter, rules, sleep)
        self._lines = [Line(one, office, Account(one.name, office), sources(one.events)) for one in subscriptions]

    def tell(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Tell what is in no log. Neither waits nor raises; what a restart finds untold is lost."""
        notice = Notice(self._office.entropy.token(16).hex(), kind, rfc3339(self._office.clock.now()), dict(payload))
        for line in self._lines:
            if line.of.wants(notice):
                line.tell(notice)

    async def start(self) -> None:
        """Give new endpoints their place: where the log ends now. What happened before is not theirs to hear."""
        if not self._lines:
            return
        try:
            async with self._office.bookmarks.turn(TURN) as is_ours:
                if is_ours:
                    for line in self._lines:
                        await line.open()
        except LogUnavailable as error:
            logger.warning("webhooks get their place in the log later: %s", error)

    async def run(self) -> None:
        """Until cancelled."""
        if not self._lines:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            for line in self._lines:
                tasks.create_task(line.tell_all())

    async def stop(self) -> None:
        """Note how far all have come, and close. To be called once nothing of `run` goes on."""
        for line in self._lines:
            try:
                await line.save()
            except LogUnavailable:
                break  # something is told again after the start
        for line in self._lines:
            await line.of.courier.aclose()

    def lags(self) -> dict[str, float]:
        """Of each endpoint for how many seconds its oldest notice waits; 0 if this process knows of none."""
        now = rfc3339(self._office.clock.now())
        return {line.of.name: _seconds(line.waiting_since, now) for line in self._lines}

    async def standings(self) -> list[Standing]:
        """How every endpoint stands. Raises LogUnavailable."""
        size = await self._office.reader.size() if self._lines else 0
        return [await self._standing(line, size) for line in self._lines]

    async def _standing(self, line: Line, size: int) -> Standing:
        stored = await self._office.bookmarks.load(line.of.name)
        done = max(stored, line.done) if stored is not None else None
        return Standing(
            name=line.of.name,
            kind=line.of.courier.kind,
            shown=line.of.courier.shown,
            events=line.of.events,
            tenants=line.of.tenants,
            done=done,
            behind=size - 1 - done if done is not None else 0,
            waiting_since=line.waiting_since,
            failures=line.patience.failures,
            error=line.account.error,
            taken_at=line.account.taken_at,
            counts=dict(line.account.counts),
        )

    async def _follow(self) -> None:
        while True:
            try:
                async with self._office.bookmarks.turn(TURN) as is_ours:
                    if is_ours:
                        await self._round()
                    else:
                        for line in self._lines:  # another member follows: it knows what waits
                            line.waiting_since = None
            except LogUnavailable as error:
                logger.warning("webhooks wait for the log: %s", error)
            await self._office.sleep(self._office.rules.rest_s)

    async def _round(self) -> None:
        """One turn: every endpoint for itself, so that none waits for another."""
        until_s = self._office.clock.boot_s() + self._office.rules.round_s
        try:
            async with asyncio.timeout(self._office.rules.round_s + _OVERTIME_S), asyncio.TaskGroup() as tasks:
                for line in self._lines:
                    tasks.create_task(line.follow(until_s))
        except TimeoutError:  # a turn that is too long is lost without a word
            logger.error("a webhook took longer than it may; what was under way is sent again")


def _seconds(since: str | None, now: str) -> float:
    if since is None:
        return 0.0
    return max(0.0, (datetime.fromisoformat(now) - datetime.fromisoformat(since)).total_seconds())
