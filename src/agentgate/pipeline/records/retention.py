"""Giving up bodies when their time is over, and keeping them when somebody must: retention and legal hold.

First the `pruned` event, then the deletion: a crash in between leaves bodies that the event says are given up, and the
next run deletes them. Of a legal hold and a prune the first in the log counts: the log itself refuses a prune that a
hold before it covers, in the transaction that would append it, so no reading beforehand has to be right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from agentgate.core.call import Principal
from agentgate.core.decision import Receipt
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.event import rfc3339
from agentgate.core.events.keeping import held, unheld
from agentgate.core.retention import (
    FLOOR_DAYS,
    MAX_HOLD_REASON_CHARS,
    BelowFloor,
    Hold,
    Kept,
    Place,
    Standing,
    hold_from_row,
)
from agentgate.pipeline.records.pruning import SESSIONS_AT_ONCE, DailyRun, Keeping, Pruned, Pruner, in_force
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.log import Bodies, LogReader
from agentgate.ports.notices import Meter

OLDEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Times before it have no text that sorts with those of events."""
STEP_EVERY_S: Final = 1.0
PAGES_COUNTED: Final = 40
"""Pages of sessions that a status looks at before it says `at least`."""


@dataclass(frozen=True, slots=True)
class HoldOrder:
    """A wish to keep a session, a tenant (without `session`) or everything (without both)."""

    tenant: str
    session: str
    reason: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class PruneOrder:
    """A wish to give up what is older than `days`, or than `before`, instead of what is configured.

    `after` continues an order that was not done at once.
    """

    days: int | None = None
    before: datetime | None = None
    force: bool = False
    dry_run: bool = False
    after: Place | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """How retention stands. Counts are of the viewer's tenants; `is_all` is False where they are only `at least`."""

    keeping: Keeping
    limit: str
    due: int
    held: int
    open: int
    is_all: bool
    oldest: str | None
    kept: Kept | None
    """None for who does not see all tenants."""
    refusal: str | None
    """Why nothing can be deleted here."""
    clock: str | None
    """Why the clock is not believed."""
    trouble: str | None
    """What kept the last daily run of this process from its end."""
    last_run: str | None
    """When this process has last ended one."""


class RetentionDesk:
    """Prunes, holds, and the daily run of the member that does it."""

    def __init__(
        self,
        *,
        reader: LogReader,
        bodies: Bodies,
        recorder: Recorder,
        clock: Clock,
        entropy: Entropy,
        meter: Meter,
        keeping: Keeping,
    ) -> None:
        self._reader = reader
        self._bodies = bodies
        self._recorder = recorder
        self._pruner = Pruner(reader, bodies, recorder, meter)
        self._daily = DailyRun(self._pruner, bodies, clock, meter, keeping)
        self._clock = clock
        self._entropy = entropy
        self._meter = meter
        self._keeping = keeping
        self._busy = asyncio.Lock()

    # --- legal hold ---

    async def hold(self, actor: Principal, order: HoldOrder) -> Hold | Refused:
        """Keep what `order` names until the hold is released. The same id again with the same order is one hold. Raises
        LogUnavailable: nothing is held."""
        if (refused := _not_of(actor, order.tenant)) is not None:
            return refused
        origin = self._recorder.origin()
        hold = Hold(
            id=actor.own_id(order.id) if order.id else f"hold-{self._entropy.token(10).hex()}",
            tenant=order.tenant,
            session=order.session,
            actor=actor.id,
            at=rfc3339(origin.at),
            reason=self._recorder.reason(order.reason, MAX_HOLD_REASON_CHARS),
        )
        event = held(origin, hold, auth=actor.auth_method)
        if isinstance(await self._recorder.write(event), Receipt):
            return hold
        known = await self._hold(hold.id)
        if known is None or known.is_released:
            return Refused(ReasonCode.CONFLICT, "a hold of this id was released; choose another id")
        if not known.same_order(hold):
            return Refused(ReasonCode.CONFLICT, "a hold of this id says something else")
        return known

    async def release(self, actor: Principal, hold_id: str, reason: str = "") -> Hold | Refused:
        """End a hold, by its id, or as its tenant's people gave it where they see none that is called so: said again,
        it never ends another one. Raises LogUnavailable."""
        named = [await self._hold(name) for name in dict.fromkeys((hold_id, actor.own_id(hold_id)))]
        seen = [hold for hold in named if hold is not None and (not hold.tenant or actor.sees(hold.tenant))]
        if not seen or seen[0].is_released:
            others = "".join(f"; {hold.id} is another one" for hold in seen[1:] if not hold.is_released)
            return Refused(ReasonCode.NOT_FOUND, f"no such hold is in force{others}")
        hold = seen[0]
        if (refused := _not_of(actor, hold.tenant)) is not None:
            return refused
        reason = self._recorder.reason(reason, MAX_HOLD_REASON_CHARS)
        event = unheld(self._recorder.origin(), hold, actor=actor.id, auth=actor.auth_method, reason=reason)
        await self._recorder.write(event)  # or another one has, which is the same
        return hold

    async def holds(self, viewer: Principal) -> list[Hold]:
        """Those in force that the viewer may know of: of its tenant, and of everybody. Why somebody of all tenants gave
        one may be another tenant's affair. Raises LogUnavailable."""
        found = [hold for hold in await in_force(self._reader) if not hold.tenant or viewer.sees(hold.tenant)]
        return [hold if hold.tenant or viewer.tenants_all else replace(hold, reason="", actor="") for hold in found]

    async def _hold(self, hold_id: str) -> Hold | None:
        rows = await self._reader.projection("holds", id=hold_id)
        return hold_from_row(rows[0]) if rows else None

    # --- what is due ---

    async def status(self, viewer: Principal) -> Status:
        """Raises LogUnavailable."""
        now = self._clock.now()
        limit = self._keeping.rule.limit(now)
        scan = await self._pruner.scan(limit, now)
        counts = dict.fromkeys(Standing, 0)
        place: Place | None = None
        for _ in range(PAGES_COUNTED):
            some, place = await self._bodies.quiet(scan.old_below, place)
            for quiet in some:
                if viewer.sees(quiet.tenant):
                    counts[scan.judged(quiet)] += 1
            if place is None:
                break
        return Status(
            keeping=self._keeping,
            limit=rfc3339(limit),
            due=counts[Standing.DUE],
            held=counts[Standing.HELD],
            open=counts[Standing.OPEN],
            is_all=place is None,
            oldest=await self._bodies.oldest(None if viewer.tenants_all else viewer.tenant),
            kept=await self._bodies.kept() if viewer.tenants_all else None,
            refusal=self._bodies.refusal,
            clock=await self._pruner.clock_trouble(now),
            trouble=self._daily.trouble,
            last_run=self._daily.last_run,
        )

    # --- pruning by order ---

    async def prune(self, actor: Principal, order: PruneOrder) -> Pruned | Refused:
        """Give up bodies of sessions that are due, some at a time: `following` says how to go on.

        Raises:
            LogUnavailable: the log cannot be written. What an event says is given up by then, is deleted by the next.
        """
        if not actor.tenants_all:
            return Refused(ReasonCode.FORBIDDEN, "pruning concerns every tenant: it needs an admin of all tenants")
        now = self._clock.now()
        limit = self._limit_of(order, now)
        if isinstance(limit, Refused):
            return self._refuse(limit)
        if self._bodies.refusal is not None and not order.dry_run:
            return self._refuse(Refused(ReasonCode.RETENTION_UNAVAILABLE, self._bodies.refusal))
        done = Pruned(rfc3339(limit), following=order.after)
        async with self._busy:
            if order.after is None and not order.dry_run:
                await self._pruner.finish_earlier()
            due = await self._pruner.next_due(limit, now, done)
            if due and not order.force and (trouble := await self._pruner.clock_trouble(now)) is not None:
                return self._refuse(Refused(ReasonCode.CLOCK_UNTRUSTED, trouble))
            if order.dry_run:
                done.sessions = len(due)
                done.bodies = sum([await self._bodies.count(quiet) for quiet in due])
                return done
            why = "forced" if limit > self._keeping.rule.limit(now) else "retention"
            for at in range(0, len(due), SESSIONS_AT_ONCE):
                await self._pruner.give_up(due[at : at + SESSIONS_AT_ONCE], actor.id, why, done)
        return done

    def _limit_of(self, order: PruneOrder, now: datetime) -> datetime | Refused:
        """Up to when things may go: never later than the rule says, unless that is forced."""
        usual = self._keeping.rule.limit(now)
        limit = usual
        if order.before is not None:
            limit = max(order.before, OLDEST)
        elif order.days is not None:
            limit = now - timedelta(days=order.days)
        if limit > now:
            return Refused(ReasonCode.INVALID_REQUEST, "nothing is pruned before it has happened")
        if limit > usual and not order.force:
            days = (now - limit) / timedelta(days=1)
            if days < FLOOR_DAYS:
                return Refused(ReasonCode.RETENTION_FLOOR, str(BelowFloor(round(days, 1))))
            return Refused(
                ReasonCode.RETENTION_FLOOR,
                f"bodies are kept for {self._keeping.rule.days} days here (retention.days); force it if you mean less",
            )
        return limit

    def _refuse(self, refused: Refused) -> Refused:
        self._meter.count("retention_refused")
        return refused

    # --- the daily run ---

    async def look_after(self, is_mine: Callable[[], bool]) -> None:
        """A piece of the daily run once a second, until cancelled; by itself, because a large session takes seconds.

        `is_mine` says whether this member is the one that does it.
        """
        while True:
            await asyncio.sleep(STEP_EVERY_S)
            if is_mine():
                await self.step()

    async def step(self) -> None:
        """A short piece of the daily run, if it is time and nobody's order is being carried out."""
        if not self._busy.locked():
            async with self._busy:
                await self._daily.step()


def _not_of(actor: Principal, tenant: str) -> Refused | None:
    if not tenant and not actor.tenants_all:
        return Refused(ReasonCode.FORBIDDEN, "a hold of everybody's needs somebody of all tenants")
    if tenant and not actor.sees(tenant):
        return Refused(ReasonCode.FORBIDDEN, "that is another tenant")
    return None
