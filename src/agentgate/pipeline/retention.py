"""Giving up bodies when their time is over, and keeping them when somebody must: retention and legal hold.

First the `pruned` event, then the deletion: a crash in between leaves bodies that the event says are given up, and the
next run deletes them. Of a legal hold and a prune the first in the log counts: the log itself refuses a prune that a
hold before it covers, in the transaction that would append it, so no reading beforehand has to be right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from agentgate.core.call import Principal
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import rfc3339
from agentgate.core.events.keeping import held, pruned, unheld
from agentgate.core.retention import (
    FLOOR_DAYS,
    LEAP_DAYS,
    MAX_HOLD_REASON_CHARS,
    BelowFloor,
    Hold,
    Kept,
    Place,
    Quiet,
    Rule,
    Standing,
    hold_from_row,
    leapt,
    most_at_a_time,
    standing,
)
from agentgate.pipeline.orders import Refused
from agentgate.pipeline.record import Recorder
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.log import AlreadySpent, Bodies, LogReader, Spend
from agentgate.ports.notices import Meter

logger = logging.getLogger("agentgate.retention")

SESSIONS_AT_ONCE: Final = 32
"""Sessions whose prunes are appended together. A run that dies leaves no more than these half done."""
SESSIONS_PER_ORDER: Final = 256
FIRST_AFTER_S: Final = 60.0
EVERY_S: Final = 86_400.0
AGAIN_AFTER_S: Final = 3_600.0
"""When a daily run is tried again that could not go on."""
OLDEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Times before it have no text that sorts with those of events."""
STEP_EVERY_S: Final = 1.0
PAGES_COUNTED: Final = 40
"""Pages of sessions that a status looks at before it says `at least`."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How bodies are kept, as configured."""

    rule: Rule = field(default_factory=Rule)
    automatic: bool = True
    compress_after_days: int | None = 30
    """None: never."""


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


@dataclass(frozen=True, slots=True)
class _Scan:
    """What is judged by: one moment's view of ages, calls and holds."""

    old_below: int
    open_calls: frozenset[tuple[str, str]]
    holds: tuple[Hold, ...]


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
        self._clock = clock
        self._entropy = entropy
        self._meter = meter
        self._keeping = keeping
        self._busy = asyncio.Lock()
        self._run: AsyncIterator[None] | None = None
        self._next_s = clock.boot_s() + FIRST_AFTER_S
        self._trouble: str | None = None
        self._last_run: str | None = None

    # --- legal hold ---

    async def hold(self, actor: Principal, order: HoldOrder) -> Hold | Refused:
        """Keep what `order` names until the hold is released. The same id again with the same order is one hold.

        Raises:
            LogUnavailable: nothing is held.
        """
        refused = _not_of(actor, order.tenant)
        if refused is not None:
            return refused
        origin = self._recorder.origin()
        hold = Hold(
            id=order.id or f"hold-{self._entropy.token(10).hex()}",
            tenant=order.tenant,
            session=order.session,
            actor=actor.id,
            at=rfc3339(origin.at),
            reason=self._recorder.reason(order.reason, MAX_HOLD_REASON_CHARS),
        )
        event = held(
            origin,
            hold_id=hold.id,
            actor=actor.id,
            auth=actor.auth_method,
            tenant=hold.tenant,
            session=hold.session,
            reason=hold.reason,
        )
        if isinstance(await self._recorder.write(event, (Spend("hold", hold.id),)), Receipt):
            return hold
        known = await self._hold(hold.id)
        if known is None or known.is_released:
            return Refused(ReasonCode.CONFLICT, "a hold of this id was released; choose another id")
        if not known.same_order(hold):
            return Refused(ReasonCode.CONFLICT, "a hold of this id says something else")
        return known

    async def release(self, actor: Principal, hold_id: str, reason: str = "") -> Hold | Refused:
        """End a hold. Raises LogUnavailable."""
        hold = await self._hold(hold_id)
        if hold is None or hold.is_released or (hold.tenant and not actor.sees(hold.tenant)):
            return Refused(ReasonCode.NOT_FOUND, "no such hold is in force")
        refused = _not_of(actor, hold.tenant)
        if refused is not None:
            return refused
        event = unheld(
            self._recorder.origin(),
            hold_id=hold.id,
            actor=actor.id,
            auth=actor.auth_method,
            tenant=hold.tenant,
            session=hold.session,
            reason=self._recorder.reason(reason, MAX_HOLD_REASON_CHARS),
        )
        await self._recorder.write(event, (Spend("unhold", hold.id),))  # or another one has, which is the same
        return hold

    async def holds(self, viewer: Principal) -> list[Hold]:
        """Those in force that the viewer may know of: of its tenant, and of everybody. Why somebody of all tenants gave
        one may be another tenant's affair. Raises LogUnavailable."""
        found = [hold for hold in await self._in_force() if not hold.tenant or viewer.sees(hold.tenant)]
        return [hold if hold.tenant or viewer.tenants_all else replace(hold, reason="", actor="") for hold in found]

    async def _hold(self, hold_id: str) -> Hold | None:
        rows = await self._reader.projection("holds", id=hold_id)
        return hold_from_row(rows[0]) if rows else None

    async def _in_force(self) -> tuple[Hold, ...]:
        return tuple(map(hold_from_row, await self._reader.projection("holds", released_idx=None)))

    # --- what is due ---

    async def status(self, viewer: Principal) -> Status:
        """Raises LogUnavailable."""
        now = self._clock.now()
        limit = self._keeping.rule.limit(now)
        scan = await self._scan(limit, now)
        counts = dict.fromkeys(Standing, 0)
        place: Place | None = None
        for _ in range(PAGES_COUNTED):
            some, place = await self._bodies.quiet(scan.old_below, place)
            for quiet in some:
                if viewer.sees(quiet.tenant):
                    counts[_judged(quiet, scan)] += 1
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
            clock=await self._clock_trouble(now),
            trouble=self._trouble,
            last_run=self._last_run,
        )

    async def _scan(self, limit: datetime, now: datetime) -> _Scan:
        around = await self._bodies.around(rfc3339(limit), rfc3339(now))
        open_calls = {
            (intent.fields.get("tenant", ""), intent.fields.get("session", ""))
            for intent in await self._reader.open_intents()
        }
        return _Scan(around.index, frozenset(open_calls), await self._in_force())

    async def _clock_trouble(self, now: datetime) -> str | None:
        around = await self._bodies.around(rfc3339(now - timedelta(days=LEAP_DAYS)), rfc3339(now))
        before, after = (None if at is None else datetime.fromisoformat(at) for at in (around.before, around.after))
        return leapt(before, after, now)

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
                await self._finish_earlier()
            due = await self._next_due(limit, now, done)
            if due and not order.force and (trouble := await self._clock_trouble(now)) is not None:
                return self._refuse(Refused(ReasonCode.CLOCK_UNTRUSTED, trouble))
            if order.dry_run:
                done.sessions = len(due)
                done.bodies = sum([await self._bodies.count(quiet) for quiet in due])
                return done
            why = "forced" if limit > self._keeping.rule.limit(now) else "retention"
            for at in range(0, len(due), SESSIONS_AT_ONCE):
                await self._give_up(due[at : at + SESSIONS_AT_ONCE], actor.id, why, done)
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

    async def _next_due(self, limit: datetime, now: datetime, done: Pruned) -> list[Quiet]:
        """The next sessions to prune. Sets `done.following`, and counts those that are held or open."""
        scan = await self._scan(limit, now)
        due: list[Quiet] = []
        place = done.following
        while len(due) < SESSIONS_PER_ORDER:
            some, place = await self._bodies.quiet(scan.old_below, place)
            for quiet in some:
                match _judged(quiet, scan):
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

    async def _give_up(self, sessions: Sequence[Quiet], actor: str, why: str, done: Pruned) -> None:
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

    async def _finish_earlier(self) -> None:
        """Delete what prunes say whose process died before it had, or could not. Raises LogUnavailable."""
        lately = await self._bodies.pruned_lately(4 * SESSIONS_AT_ONCE)
        undone = [quiet for quiet in lately if await self._bodies.count(quiet)]
        if undone:
            bodies = await self._bodies.forget(undone)
            logger.warning("%d bodies of %d sessions were deleted that earlier prunes had left", bodies, len(undone))

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
        """A short piece of the daily run, if it is time. What goes wrong is kept for `status`, and tried again."""
        if self._busy.locked():  # somebody's order is being carried out
            return
        if self._run is None:
            if self._clock.boot_s() < self._next_s:
                return
            self._run = self._daily()
        try:
            async with self._busy:
                await anext(self._run)
        except StopAsyncIteration:
            self._run, self._next_s = None, self._clock.boot_s() + EVERY_S
            self._last_run = rfc3339(self._clock.now())
        except LogUnavailable as error:
            self._run, self._next_s = None, self._clock.boot_s() + AGAIN_AFTER_S
            self._stop(f"the log: {error}")

    async def _daily(self) -> AsyncIterator[None]:
        """Compress, finish what was left, prune: a piece between any two yields. Raises LogUnavailable."""
        now = self._clock.now()
        self._trouble = None
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
        await self._finish_earlier()
        yield
        async for _ in self._prune_daily(now):
            yield

    async def _prune_daily(self, now: datetime) -> AsyncIterator[None]:
        limit = self._keeping.rule.limit(now)
        most = most_at_a_time(await self._bodies.session_count())
        done = Pruned(rfc3339(limit))
        while True:
            due = await self._next_due(limit, now, done)
            if due and (trouble := await self._clock_trouble(now)) is not None:
                self._stop(trouble)
                return
            for at in range(0, len(due), SESSIONS_AT_ONCE):
                if done.sessions >= most:
                    self._stop(f"{done.sessions} sessions were pruned, the most for one run; the rest is due tomorrow")
                    return
                await self._give_up(due[at : at + SESSIONS_AT_ONCE], "", "retention", done)
                yield
            if done.following is None:
                break
        if done.sessions:
            logger.info("pruned %d bodies of %d sessions", done.bodies, done.sessions)

    def _stop(self, trouble: str) -> None:
        self._trouble = trouble
        self._meter.count("retention_refused")
        logger.warning("retention: %s", trouble)


def _judged(quiet: Quiet, scan: _Scan) -> Standing:
    return standing(quiet, old_below=scan.old_below, open_calls=scan.open_calls, holds=scan.holds)


def _not_of(actor: Principal, tenant: str) -> Refused | None:
    if not tenant and not actor.tenants_all:
        return Refused(ReasonCode.FORBIDDEN, "a hold of everybody's needs somebody of all tenants")
    if tenant and not actor.sees(tenant):
        return Refused(ReasonCode.FORBIDDEN, "that is another tenant")
    return None
