"""Tells people and systems elsewhere what the log says. The log is the queue, and each endpoint has its place in it.

One member at a time follows (`Bookmarks.turn`). It reads on from where an endpoint is, brings what is to be told in
order, each until it is taken, and then notes how far it is: after a crash something may be told twice, with the same
id, and nothing is lost. A notice that nobody takes for days is skipped, counted and logged.

What is in no log (`tell`) is kept in memory, a few at a time, and each member tells its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from agentgate.core.errors import LogUnavailable
from agentgate.core.event import Kind, Record, rfc3339
from agentgate.core.notice import Notice, notice_of, sources, wanted, with_call
from agentgate.core.query import Query
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.log import Bookmarks, LogReader
from agentgate.ports.notices import Courier, Failure, Meter

logger = logging.getLogger("agentgate.notices")

TURN: Final = "notices"
_AT_ONCE: Final = 256
_MOST_TOLD: Final = 100
"""What is in no log and waits for one endpoint; the oldest goes first."""
_TRIES_FOR_GOOD: Final = 5
"""So often a notice is brought to who answers that it is not well-formed: then the next one."""
_LOOKS_FOR_CALL: Final = 10
_LOOK_FOR_CALL_S: Final = 0.2
_SAVE_EVERY_S: Final = 1.0
_FAULTS: Final = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError)
"""What an event of another version, or a courier that meets what nobody foresaw, can come to."""
_OVERTIME_S: Final = 20.0
"""For what is under way at the end of a turn."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """An endpoint, and what it wants to hear."""

    name: str
    courier: Courier
    events: tuple[str, ...] = ("*",)
    tenants: tuple[str, ...] = ()
    """Empty: all of them, and what is of none."""

    def wants(self, notice: Notice) -> bool:
        return wanted(notice.kind, self.events) and (not self.tenants or notice.tenant in self.tenants)


@dataclass(frozen=True, slots=True)
class Rules:
    """Times, in seconds."""

    give_up_after_s: float = 3 * 86_400.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 600.0
    look_every_s: float = 0.5
    round_s: float = 30.0
    """For how long one member follows before another one may. A turn must be less than a minute, and the delivery that
    is under way at its end may take ten seconds."""
    rest_s: float = 1.0
    """Between two turns."""
    base_url: str | None = None
    """Where people find the gateway."""


@dataclass(slots=True)
class _Patience:
    """When to try again: later each time, and never at the same moment as everybody else."""

    failures: int = 0
    not_before_s: float = 0.0

    def failed(self, now_s: float, rules: Rules, chance: float, at_least_s: float) -> None:
        pause_s = min(rules.longest_pause_s, rules.first_pause_s * 2.0 ** min(self.failures, 30))
        asked_s = min(at_least_s, rules.longest_pause_s)
        self.failures += 1
        self.not_before_s = now_s + max(pause_s * (0.5 + chance / 2), asked_s)

    def succeeded(self) -> None:
        self.failures = 0
        self.not_before_s = 0.0


@dataclass(slots=True)
class _Line:
    """One endpoint, and how it stands."""

    of: Subscription
    kinds: tuple[Kind, ...]
    done: int = -1
    """Up to this index there is nothing left to tell."""
    saved: int = -2
    saved_at_s: float = 0.0
    patience: _Patience = field(default_factory=_Patience)
    took_s: float = 0.0
    """The last delivery. One that takes as long begins only where the turn lasts: all wait for the last at its end."""
    tried: tuple[str, int] = ("", 0)
    """The notice that is tried now, and how often it was refused for good."""
    hopeless_before: str = ""
    """Notices of before are not tried any more; empty while the endpoint takes notices."""
    waiting_since: str | None = None
    error: str | None = None
    taken_at: str | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"delivered": 0, "failed": 0, "skipped": 0})
    told: deque[Notice] = field(default_factory=lambda: deque(maxlen=_MOST_TOLD))
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    told_patience: _Patience = field(default_factory=_Patience)


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
        rules: Rules = Rules(),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lines = [_Line(one, sources(one.events)) for one in subscriptions]
        self._reader = reader
        self._bookmarks = bookmarks
        self._clock = clock
        self._entropy = entropy
        self._meter = meter
        self._rules = rules
        self._sleep = sleep

    def tell(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Tell what is in no log. Neither waits nor raises; what a restart finds untold is lost."""
        notice = Notice(self._entropy.token(16).hex(), kind, rfc3339(self._clock.now()), dict(payload))
        for line in self._lines:
            if line.of.wants(notice):
                if len(line.told) == _MOST_TOLD:
                    self._skip(line, line.told[0], "too many wait")
                line.told.append(notice)
                line.heard.set()

    async def start(self) -> None:
        """Give new endpoints their place: where the log ends now. What happened before is not theirs to hear."""
        if not self._lines:
            return
        try:
            async with self._bookmarks.turn(TURN) as is_ours:
                if is_ours:
                    for line in self._lines:
                        await self._open(line)
        except LogUnavailable as error:
            logger.warning("webhooks get their place in the log later: %s", error)

    async def run(self) -> None:
        """Until cancelled."""
        if not self._lines:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            for line in self._lines:
                tasks.create_task(self._tell_all(line))

    async def stop(self) -> None:
        """Note how far all have come, and close. To be called once nothing of `run` goes on."""
        for line in self._lines:
            try:
                await self._save(line)
            except LogUnavailable:
                break  # something is told again after the start
        for line in self._lines:
            await line.of.courier.aclose()

    def lags(self) -> dict[str, float]:
        """Of each endpoint for how many seconds its oldest notice waits; 0 if this process knows of none."""
        now = rfc3339(self._clock.now())
        return {line.of.name: _seconds(line.waiting_since, now) for line in self._lines}

    async def standings(self) -> list[Standing]:
        """How every endpoint stands. Raises LogUnavailable."""
        size = await self._reader.size() if self._lines else 0
        return [await self._standing(line, size) for line in self._lines]

    async def _standing(self, line: _Line, size: int) -> Standing:
        stored = await self._bookmarks.load(line.of.name)
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
            error=line.error,
            taken_at=line.taken_at,
            counts=dict(line.counts),
        )

    # --- following ---

    async def _follow(self) -> None:
        while True:
            try:
                async with self._bookmarks.turn(TURN) as is_ours:
                    if is_ours:
                        await self._round()
                    else:
                        self._forget()
            except LogUnavailable as error:
                logger.warning("webhooks wait for the log: %s", error)
            await self._sleep(self._rules.rest_s)

    def _forget(self) -> None:
        """Another member follows: it knows what waits."""
        for line in self._lines:
            line.waiting_since = None

    async def _round(self) -> None:
        """One turn: every endpoint for itself, so that none waits for another."""
        until_s = self._clock.boot_s() + self._rules.round_s
        try:
            async with asyncio.timeout(self._rules.round_s + _OVERTIME_S), asyncio.TaskGroup() as tasks:
                for line in self._lines:
                    tasks.create_task(self._serve(line, until_s))
        except TimeoutError:  # a turn that is too long is lost without a word
            logger.error("a webhook took longer than it may; what was under way is sent again")

    async def _serve(self, line: _Line, until_s: float) -> None:
        try:
            await self._open(line)
            while (now_s := self._clock.boot_s()) < self._until(line, until_s):
                if now_s < line.patience.not_before_s:
                    await self._sleep(min(line.patience.not_before_s, self._until(line, until_s)) - now_s)
                elif not await self._go_on(line, until_s):
                    await self._save_if_due(line)
                    await self._sleep(self._rules.look_every_s)
            await self._save(line)
        except LogUnavailable as error:
            logger.warning("webhook %s waits for the log: %s", line.of.name, error)

    def _until(self, line: _Line, until_s: float) -> float:
        return until_s - min(line.took_s, self._rules.round_s / 2)

    async def _open(self, line: _Line) -> None:
        """Where it is: another member may have followed meanwhile."""
        stored = await self._bookmarks.load(line.of.name)
        if stored is None:
            stored = await self._reader.size() - 1
            await self._bookmarks.save(line.of.name, stored)
        line.done = max(line.done, stored)
        line.saved = stored

    async def _go_on(self, line: _Line, until_s: float) -> bool:
        """Bring some of what is new; False if there was nothing."""
        size = await self._reader.size()
        if size - 1 <= line.done:
            return False
        records = await self._next(line)
        for record in records:
            notice = self._notice(line, record)
            if notice is not None and not await self._pass(line, notice, record):
                await self._save(line)
                return True
            line.done = record.index
            if notice is not None:
                line.waiting_since = None
                if self._clock.boot_s() - line.saved_at_s >= _SAVE_EVERY_S:
                    await self._save(line)
            if self._clock.boot_s() >= self._until(line, until_s):
                return True
        if len(records) < _AT_ONCE:
            line.done = max(line.done, size - 1)
        return True

    async def _next(self, line: _Line) -> Sequence[Record]:
        found: list[Record] = []
        if line.kinds:
            records = self._reader.records(first=line.done + 1, kinds=[str(kind) for kind in line.kinds])
            async for record in records:
                found.append(record)
                if len(found) == _AT_ONCE:
                    break
        return found

    def _notice(self, line: _Line, record: Record) -> Notice | None:
        try:
            notice = notice_of(record)
        except _FAULTS as error:  # an event of another version: no reason to stand still
            logger.error("event %d cannot be told: %s: %s", record.index, type(error).__name__, error)
            self._count(line, "skipped")
            return None
        if notice is None or not line.of.wants(notice):
            return None
        approval = notice.payload.get("approval_id")
        if approval is None or self._rules.base_url is None:
            return notice
        url = f"{self._rules.base_url.rstrip('/')}/approvals/{approval}"
        return replace(notice, payload={**notice.payload, "url": url})

    async def _pass(self, line: _Line, notice: Notice, record: Record) -> bool:
        """Whether there is nothing more to do for this one: it was taken, or given up."""
        if notice.at < line.hopeless_before:
            self._count(line, "skipped")  # the first of them was logged
            return True
        if self._clock.boot_s() < line.patience.not_before_s:
            return False
        line.waiting_since = notice.at
        failure = await self._deliver(line, notice, record)
        if failure is None:
            line.patience.succeeded()
            line.hopeless_before = ""
            self._taken(line)
            return True
        self._failed(line, line.patience, failure)
        return self._is_given_up(line, notice, failure)

    async def _deliver(self, line: _Line, notice: Notice, record: Record | None = None) -> Failure | None:
        began_s = self._clock.boot_s()
        try:
            if record is not None and notice.kind == "approval.requested":
                notice = await self._with_call(notice, record)
            return await line.of.courier.deliver(notice)
        except _FAULTS as error:  # it would end the gateway, and meet it again after the next start
            logger.error("%s %s cannot be told: %s", notice.kind, notice.id, type(error).__name__)
            return Failure(f"it cannot be told ({type(error).__name__})", for_good=True)
        finally:
            if record is not None:
                line.took_s = self._clock.boot_s() - began_s

    def _is_given_up(self, line: _Line, notice: Notice, failure: Failure) -> bool:
        if failure.for_good:
            tried = line.tried[1] + 1 if line.tried[0] == notice.id else 1
            line.tried = (notice.id, tried)
            if tried >= _TRIES_FOR_GOOD:
                self._skip(line, notice, failure.detail)
                return True
        oldest = rfc3339(self._clock.now() - timedelta(seconds=self._rules.give_up_after_s))
        if notice.at >= oldest:
            return False
        line.hopeless_before = oldest
        self._skip(line, notice, failure.detail)
        return True

    async def _with_call(self, notice: Notice, record: Record) -> Notice:
        """The question with what is asked: its decision is recorded right after it, or never if a process died."""
        tenant, session = record.fields.get("tenant"), record.fields.get("session")
        trace_id = record.fields["trace_id"]
        query = Query(tenant=tenant, session=session, trace_id=trace_id, kinds=(Kind.DECIDED,))
        for _ in range(_LOOKS_FOR_CALL):
            async for found in self._reader.search(query, first=record.index):
                return with_call(notice, found)
            if notice.payload.get("edited_from"):
                break  # nobody has sent this call yet
            await self._sleep(_LOOK_FOR_CALL_S)
        return notice

    async def _save_if_due(self, line: _Line) -> None:
        """Soon after something was told, and at the end of a turn for what was not worth telling."""
        if line.taken_at is not None and self._clock.boot_s() - line.saved_at_s >= _SAVE_EVERY_S:
            await self._save(line)

    async def _save(self, line: _Line) -> None:
        if line.done > line.saved:
            await self._bookmarks.save(line.of.name, line.done)
            line.saved = line.done
            line.saved_at_s = self._clock.boot_s()

    # --- what is in no log ---

    async def _tell_all(self, line: _Line) -> None:
        while True:
            await line.heard.wait()
            line.heard.clear()
            while line.told:
                notice = line.told[0]
                failure = await self._deliver(line, notice)
                is_over = failure is None or failure.for_good
                if is_over and line.told and line.told[0] is notice:
                    line.told.popleft()
                if failure is None:
                    line.told_patience.succeeded()
                    self._taken(line)
                    continue
                self._failed(line, line.told_patience, failure)
                await self._sleep(line.told_patience.not_before_s - self._clock.boot_s())

    # --- accounts ---

    def _taken(self, line: _Line) -> None:
        line.error = None
        line.taken_at = rfc3339(self._clock.now())
        self._count(line, "delivered")

    def _failed(self, line: _Line, patience: _Patience, failure: Failure) -> None:
        chance = int.from_bytes(self._entropy.token(4), "big") / 2**32
        patience.failed(self._clock.boot_s(), self._rules, chance, failure.retry_after_s)
        line.error = failure.detail
        self._count(line, "failed")
        if patience.failures == 1:
            logger.warning("webhook %s does not take notices: %s", line.of.name, failure.detail)

    def _skip(self, line: _Line, notice: Notice, why: str) -> None:
        self._count(line, "skipped")
        logger.error("webhook %s never heard of %s %s: %s", line.of.name, notice.kind, notice.id, why)

    def _count(self, line: _Line, result: str) -> None:
        line.counts[result] += 1
        self._meter.count("webhook_deliveries", result)


def _seconds(since: str | None, now: str) -> float:
    if since is None:
        return 0.0
    return max(0.0, (datetime.fromisoformat(now) - datetime.fromisoformat(since)).total_seconds())
