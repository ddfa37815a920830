"""Finds the sessions whose bodies are due, and gives them up: some at once by order, and all of them day by day."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from agentgate.core.decision import Receipt
from agentgate.core.errors import LogUnavailable
from agentgate.core.event import rfc3339
from agentgate.core.events.keeping import pruned
from agentgate.core.retention import (
    LEAP_DAYS,
    Hold,
    Place,
    Quiet,
    Rule,
    Standing,
    hold_from_row,
    leapt,
    most_at_a_time,
    standing,
)
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock
from agentgate.ports.log import AlreadySpent, Bodies, LogReader
from agentgate.ports.notices import Meter

logger = logging.getLogger("agentgate.retention")

SESSIONS_AT_ONCE: Final = 32
"""Sessions whose prunes are appended together. A run that dies leaves no more than these half done."""
SESSIONS_PER_ORDER: Final = 256
FIRST_AFTER_S: Final = 60.0
EVERY_S: Final = 86_400.0
AGAIN_AFTER_S: Final = 3_600.0
"""When a daily run is tried again that could not go on."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How bodies are kept, as configured."""

    rule: Rule = field(default_factory=Rule)
    automatic: bool = True
    compress_after_days: int | None = 30
    """None: never."""


@dataclass(slots=True)
class Pruned:
    """What one order has done, or (`dry_run`) would do. `following` is None once all is done."""

    limit: str
    sessions: int = 0
    bodies: int = 0
    held: int = 0
    open: int = 0
    following: Place | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """What is judged by: one moment's view of ages, calls and holds."""

    old_below: int
    between: tuple[str, str]
    open_calls: frozenset[tuple[str, str]]
    holds: tuple[Hold, ...]

    def judged(self, quiet: Quiet) -> Standing:
        return standing(
            quiet, old_below=self.old_below, between=self.between, open_calls=self.open_calls, holds=self.holds
        )


async def in_force(reader: LogReader) -> tuple[Hold, ...]:
    """The legal holds. Raises LogUnavailable."""
    return tuple(map(hold_from_row, await reader.projection("holds", released_idx=None)))


class Pruner:
    """First the event, then the deletion."""

    def __init__(self, reader: LogReader, bodies: Bodies, recorder: Recorder, meter: Meter) -> None:
        self._reader = reader
        self._bodies = bodies
        self._recorder = recorder
        self._meter = meter

    async def scan(self, limit: datetime, now: datetime) -> Scan:
        between = rfc3339(limit), rfc3339(now)
        around = await self._bodies.around(*between)
        open_calls = {
            (intent.fields.get("tenant", ""), intent.fields.get("session", ""))
            for intent in await self._reader.open_intents()
        }
        return Scan(around.index, between, frozenset(open_calls), await in_force(self._reader))

    async def clock_trouble(self, now: datetime) -> str | None:
        around = await self._bodies.around(rfc3339(now - timedelta(days=LEAP_DAYS)), rfc3339(now))
        before, after = (None if at is None else datetime.fromisoformat(at) for at in (around.before, around.after))
        return leapt(before, after, now)

    async def next_due(self, limit: datetime, now: datetime, done: Pruned) -> list[Quiet]:
        """The next sessions to prune. Sets `done.following`, and counts those that are held or open."""
        scan = await self.scan(limit, now)
        due: list[Quiet] = []
        place = done.following
        while len(due) < SESSIONS_PER_ORDER:
            some, place = await self._bodies.quiet(scan.old_below, place)
            for quiet in some:
                match scan.judged(quiet):
                    case Standing.DUE:
                        due.append(quiet)
                    case Standing.HELD:
                        done.held += 1
                    case Standing.OPEN:
                        done.open += 1
            if place is None:
                break
        done.following = place
        return due

    async def give_up(self, sessions: Sequence[Quiet], actor: str, why: str, done: Pruned) -> None:
        """Append the prunes, and delete what those that are in the log then say. Raises LogUnavailable."""
        counts = [await self._bodies.count(quiet) for quiet in sessions]
        outcomes = await asyncio.gather(
            *(self._append(quiet, actor, why, count) for quiet, count in zip(sessions, counts, strict=True)),
            return_exceptions=True,
        )
        given_up = [quiet for quiet, outcome in zip(sessions, outcomes, strict=True) if outcome is True]
        done.bodies += await self._bodies.forget(given_up)
        done.sessions += len(given_up)
        done.held += sum(outcome is False for outcome in outcomes)
        self._meter.count("pruned_sessions", by=len(given_up))
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _append(self, quiet: Quiet, actor: str, why: str, bodies: int) -> bool:
        """Whether a prune of the session through its last event is in the log now; a hold forbids it. Another member
        that was first has said the same. Raises LogUnavailable."""
        event = pruned(
            self._recorder.origin(),
            actor=actor,
            tenant=quiet.tenant,
            session=quiet.session,
            why=why,
            bodies=bodies,
            through=quiet.last,
        )
        return isinstance(await self._recorder.write(event), Receipt | AlreadySpent)

    async def finish_earlier(self) -> None:
        """Delete what prunes say whose process died before it had, or could not. Raises LogUnavailable."""
        lately = await self._bodies.pruned_lately(4 * SESSIONS_AT_ONCE)
        undone = [quiet for quiet in lately if await self._bodies.count(quiet)]
        if undone:
            bodies = await self._bodies.forget(undone)
            logger.warning("%d bodies of %d sessions were deleted that earlier prunes had left", bodies, len(undone))


class DailyRun:
    """Of one process; which member's it is, others say."""

    def __init__(self, pruner: Pruner, bodies: Bodies, clock: Clock, meter: Meter, keeping: Keeping) -> None:
        self._pruner = pruner
        self._bodies = bodies
        self._clock = clock
        self._meter = meter
        self._keeping = keeping
        self._run: AsyncIterator[None] | None = None
        self._next_s = clock.boot_s() + FIRST_AFTER_S
        self.trouble: str | None = None
        self.last_run: str | None = None

    async def step(self) -> None:
        """A short piece of the daily run, if it is time. What goes wrong is kept for `status`, and tried again."""
        if self._run is None:
            if self._clock.boot_s() < self._next_s:
                return
            self._run = self._daily()
        try:
            await anext(self._run)
        except StopAsyncIteration:
            self._run, self._next_s = None, self._clock.boot_s() + EVERY_S
            self.last_run = rfc3339(self._clock.now())
        except LogUnavailable as error:
            self._run, self._next_s = None, self._clock.boot_s() + AGAIN_AFTER_S
            self._stop(f"the log: {error}")

    async def _daily(self) -> AsyncIterator[None]:
        """Compress, finish what was left, prune: a piece between any two yields. Raises LogUnavailable."""
        now = self._clock.now()
        self.trouble = None
        keeping = self._keeping
        if self._bodies.refusal is not None:
            self._stop(self._bodies.refusal)
            return
        if keeping.compress_after_days is not None:
            old = rfc3339(now - timedelta(days=keeping.compress_after_days))
            while await self._bodies.compress(old, rfc3339(now)):
                yield
        if not keeping.automatic:
            return
        await self._pruner.finish_earlier()
        yield
        async for _ in self._prune_daily(now):
            yield

    async def _prune_daily(self, now: datetime) -> AsyncIterator[None]:
        limit = self._keeping.rule.limit(now)
        most = most_at_a_time(await self._bodies.session_count())
        done = Pruned(rfc3339(limit))
        while True:
            due = await self._pruner.next_due(limit, now, done)
            if due and (trouble := await self._pruner.clock_trouble(now)) is not None:
                self._stop(trouble)
                return
            for at in range(0, len(due), SESSIONS_AT_ONCE):
                if done.sessions >= most:
                    self._stop(f"{done.sessions} sessions were pruned, the most for one run; the rest is due tomorrow")
                    return
                await self._pruner.give_up(due[at : at + SESSIONS_AT_ONCE], "", "retention", done)
                yield
            if done.following is None:
                break
        if done.sessions:
            logger.info("pruned %d bodies of %d sessions", done.bodies, done.sessions)

    def _stop(self, trouble: str) -> None:
        self.trouble = trouble
        self._meter.count("retention_refused")
        logger.warning("retention: %s", trouble)
