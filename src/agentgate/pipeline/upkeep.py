"""What a member does once a second besides its heartbeat: late outcomes, receipts, expiries."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.event import Event, Outcome, Record
from agentgate.core.events.calls import closed
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.calls.answers import AnswerBook
from agentgate.pipeline.calls.run import Runner
from agentgate.pipeline.containment.control import Containment
from agentgate.pipeline.containment.drains import Drains
from agentgate.pipeline.containment.members import Membership
from agentgate.pipeline.limits.refusals import RefusalLimiter
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.log import LogReader

logger = logging.getLogger("agentgate.upkeep")

_AGAIN_AFTER_S: Final = 0.1


class Upkeep:
    """The member's housekeeping."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        reader: LogReader,
        membership: Membership,
        drains: Drains,
        containment: Containment,
        approvals: ApprovalDesk,
        answers: AnswerBook,
        refusals: RefusalLimiter,
        runner: Runner,
    ) -> None:
        self._recorder = recorder
        self._reader = reader
        self._membership = membership
        self._drains = drains
        self._containment = containment
        self._approvals = approvals
        self._answers = answers
        self._refusals = refusals
        self._runner = runner

    async def tick(self) -> None:
        """One round. What needs the log is left for the next round when it does not answer."""
        try:
            await self._runner.write_unrecorded()
            await self._close_orphans()
            await self._refusals.write_counts()
            if self._membership.is_eldest:  # once is enough, however many members there are
                await self._membership.close_left_behind()
                await self._drains.close_open()
                await self._containment.release_expired()
                await self._approvals.close_expired()
                await self._answers.forget()
            await self._answers.recount()
        except LogUnavailable as error:
            logger.warning("the log does not answer, upkeep waits: %s", error)

    async def last_words(self) -> None:
        """All that only this process knows of its calls, before it ends. A log that does not take it is asked again,
        until cancelled. Raises LogBroken."""
        while not await self._has_said_all():  # noqa: ASYNC110 - nothing tells when a log is back
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _has_said_all(self) -> bool:
        try:
            left = await self._runner.write_unrecorded()
            await self._close_orphans()
            await self._refusals.write_counts(is_last=True)
        except LogBroken:
            raise
        except LogUnavailable:
            return False
        return left == 0

    async def _close_orphans(self) -> None:
        """Outcomes for calls that the log has as running although nothing of them runs: their decision reached it
        although its append seemed to fail, or their outcome did not, and nobody waited for it."""
        orphans = self._recorder.take_orphans()
        if not orphans:
            return
        try:
            await self._recorder.settled()  # one that is on its way still would be found by nobody
            for intent in await self._reader.open_intents():
                outcome = orphans.get(intent.fields["trace_id"])
                if outcome is None and intent.fields["id"] in orphans:
                    outcome = self._never_sent(intent)
                if outcome is not None:
                    await self._recorder.write(outcome)  # or another one has
        except (LogUnavailable, asyncio.CancelledError):  # the process ends: its last words are of them
            for key, outcome in orphans.items():
                self._recorder.orphaned(key, outcome)
            raise

    def _never_sent(self, intent: Record) -> Event:
        why = "refused, because its record was in doubt"
        return closed(self._recorder.origin(), intent, Outcome.NOT_SENT, why)
