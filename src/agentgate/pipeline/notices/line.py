"""One endpoint: its way through the log, and what it is told that is in no log."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from agentgate.core.errors import LogUnavailable
from agentgate.core.event import Kind, Record, rfc3339
from agentgate.core.notice import Notice, notice_of, with_call
from agentgate.core.query import Query
from agentgate.pipeline.notices.endpoint import Account, Office, Patience, Subscription
from agentgate.ports.notices import Failure

logger = logging.getLogger("agentgate.notices")

_AT_ONCE: Final = 256
_MOST_TOLD: Final = 100
"""What is in no log and waits for one endpoint; the oldest goes first."""
_TRIES_FOR_GOOD: Final = 5
"""So often a notice is brought to who answers that it is not well-formed: then the next one."""
_LOOKS_FOR_CALL: Final = 10
_LOOK_FOR_CALL_S: Final = 0.2
_SAVE_EVERY_S: Final = 1.0
_FAULTS: Final = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError, OverflowError)
"""What an event of another version, or a courier that meets what nobody foresaw, can come to."""


@dataclass(slots=True, eq=False)
class Line:
    """How far one endpoint is, and what brings it on."""

    of: Subscription
    office: Office
    account: Account
    kinds: tuple[Kind, ...]
    done: int = -1
    """Up to this index there is nothing left to tell."""
    saved: int = -2
    saved_at_s: float = 0.0
    patience: Patience = field(default_factory=Patience)
    took_s: float = 0.0
    """The last delivery. One that takes as long begins only where the turn lasts: all wait for the last at its end."""
    tried: tuple[str, int] = ("", 0)
    """The notice that is tried now, and how often it was refused for good."""
    hopeless_before: str = ""
    """Notices of before are not tried any more; empty while the endpoint takes notices."""
    waiting_since: str | None = None
    told: deque[Notice] = field(default_factory=lambda: deque(maxlen=_MOST_TOLD))
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    told_patience: Patience = field(default_factory=Patience)

    async def follow(self, until_s: float) -> None:
        """Bring what the log has, for one turn."""
        try:
            await self.open()
            while self.office.clock.boot_s() < self._until(until_s):
                has_more = await self._go_on(until_s)
                pause_s = min(self.patience.not_before_s, self._until(until_s)) - self.office.clock.boot_s()
                if pause_s > 0:
                    await self.office.sleep(pause_s)
                elif not has_more:
                    if self.account.taken_at is not None:  # else the turn's end is soon enough
                        await self._save_if_due()
                    await self.office.sleep(self.office.rules.look_every_s)
            await self.save()
        except LogUnavailable as error:
            logger.warning("webhook %s waits for the log: %s", self.of.name, error)

    def _until(self, until_s: float) -> float:
        return until_s - min(self.took_s, self.office.rules.round_s / 2)

    async def open(self) -> None:
        """Where it is: another member may have followed meanwhile."""
        stored = await self.office.bookmarks.load(self.of.name)
        if stored is None:
            stored = await self.office.reader.size() - 1
            await self.office.bookmarks.save(self.of.name, stored)
        if stored > self.done:
            self.patience.succeeded()  # another member has brought, or given up, what was tried here
            self.waiting_since = None
        self.done = max(self.done, stored)
        self.saved = stored

    async def _go_on(self, until_s: float) -> bool:
        """Bring some of what is new; False if there was nothing."""
        size = await self.office.reader.size()
        if size - 1 <= self.done:
            return False
        records = await self._next()
        for record in records:
            notice = self._notice(record)
            if notice is not None and not await self._pass(notice, record):
                await self.save()
                return True
            self.done = record.index
            if notice is not None:
                self.waiting_since = None
                await self._save_if_due()
            if self.office.clock.boot_s() >= self._until(until_s):
                return True
        if len(records) < _AT_ONCE:
            self.done = max(self.done, size - 1)
        return True

    async def _next(self) -> Sequence[Record]:
        found: list[Record] = []
        if self.kinds:
            records = self.office.reader.records(first=self.done + 1, kinds=[str(kind) for kind in self.kinds])
            async for record in records:
                found.append(record)
                if len(found) == _AT_ONCE:
                    break
        return found

    def _notice(self, record: Record) -> Notice | None:
        try:
            notice = notice_of(record)
        except _FAULTS as error:  # an event of another version: no reason to stand still
            logger.error("event %d cannot be told: %s: %s", record.index, type(error).__name__, error)
            self.account.count("skipped")
            return None
        if notice is None or not self.of.wants(notice):
            return None
        approval = notice.payload.get("approval_id")
        if approval is None or self.office.rules.base_url is None:
            return notice
        url = f"{self.office.rules.base_url.rstrip('/')}/approvals/{approval}"
        return replace(notice, payload={**notice.payload, "url": url})

    async def _pass(self, notice: Notice, record: Record) -> bool:
        """Whether there is nothing more to do for this one: it was taken, or given up."""
        if notice.at < self.hopeless_before:
            self.account.count("skipped")  # the first of them was logged
            return True
        self.waiting_since = notice.at
        if self.office.clock.boot_s() < self.patience.not_before_s:
            return False
        failure = await self._deliver(notice, record)
        if failure is None:
            self.patience.succeeded()
            self.hopeless_before = ""
            self.account.taken()
            return True
        self.account.failed(self.patience, failure)
        return self._is_given_up(notice, failure)

    async def _deliver(self, notice: Notice, record: Record | None = None) -> Failure | None:
        began_s = self.office.clock.boot_s()
        try:
            if record is not None and notice.kind == "approval.requested":
                notice = await self._with_call(notice, record)
            return await self.of.courier.deliver(notice)
        except _FAULTS as error:  # it would end the gateway, and meet it again after the next start
            logger.error("%s %s cannot be told: %s", notice.kind, notice.id, type(error).__name__)
            return Failure(f"it cannot be told ({type(error).__name__})", for_good=True)
        finally:
            if record is not None:
                self.took_s = self.office.clock.boot_s() - began_s

    def _is_given_up(self, notice: Notice, failure: Failure) -> bool:
        if failure.for_good:
            tried = self.tried[1] + 1 if self.tried[0] == notice.id else 1
            self.tried = (notice.id, tried)
            if tried >= _TRIES_FOR_GOOD:
                self.account.skipped(notice, failure.detail)
                return True
        oldest = rfc3339(self.office.clock.now() - timedelta(seconds=self.office.rules.give_up_after_s))
        if notice.at >= oldest:
            return False
        self.hopeless_before = oldest
        self.account.skipped(notice, failure.detail)
        return True

    async def _with_call(self, notice: Notice, record: Record) -> Notice:
        """The question with what is asked: its decision is recorded right after it, or never if a process died."""
        tenant, session = record.fields.get("tenant"), record.fields.get("session")
        trace_id = record.fields["trace_id"]
        query = Query(tenant=tenant, session=session, trace_id=trace_id, kinds=(Kind.DECIDED,))
        for _ in range(_LOOKS_FOR_CALL):
            async for found in self.office.reader.search(query, first=record.index):
                return with_call(notice, found)
            if notice.payload.get("edited_from"):
                break  # nobody has sent this call yet
            await self.office.sleep(_LOOK_FOR_CALL_S)
        return notice

    async def _save_if_due(self) -> None:
        if self.office.clock.boot_s() - self.saved_at_s >= _SAVE_EVERY_S:
            await self.save()

    async def save(self) -> None:
        if self.done > self.saved:
            await self.office.bookmarks.save(self.of.name, self.done)
            self.saved = self.done
            self.saved_at_s = self.office.clock.boot_s()

    def tell(self, notice: Notice) -> None:
        if len(self.told) == _MOST_TOLD:
            self.account.skipped(self.told[0], "too many wait")
        self.told.append(notice)
        self.heard.set()

    async def tell_all(self) -> None:
        while True:
            await self.heard.wait()
            self.heard.clear()
            while self.told:
                notice = self.told[0]
                failure = await self._deliver(notice)
                is_over = failure is None or failure.for_good
                if is_over and self.told and self.told[0] is notice:
                    self.told.popleft()
                if failure is None:
                    self.told_patience.succeeded()
                    self.account.taken()
                    continue
                self.account.failed(self.told_patience, failure)
                await self.office.sleep(self.told_patience.not_before_s - self.office.clock.boot_s())
