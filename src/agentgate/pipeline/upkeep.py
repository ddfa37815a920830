"""What a member does once a second, and when it starts and ends."""

from __future__ import annotations

import asyncio
import logging

from agentgate.core.errors import KillStateUnknown, LogUnavailable
from agentgate.core.event import Kind, Outcome, Record, closed, make
from agentgate.pipeline.approvals import ApprovalDesk
from agentgate.pipeline.control import Containment
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.refusals import RefusalLimiter
from agentgate.pipeline.replica import Replica
from agentgate.pipeline.run import Runner
from agentgate.ports import Admission, LogReader

logger = logging.getLogger("agentgate.upkeep")


class Upkeep:
    """The member's own life: it joins before its first call, looks after things, and leaves."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        reader: LogReader,
        replica: Replica,
        admission: Admission,
        containment: Containment,
        approvals: ApprovalDesk,
        refusals: RefusalLimiter,
        runner: Runner,
        interval_s: float = 1.0,
    ) -> None:
        self._recorder = recorder
        self._reader = reader
        self._replica = replica
        self._admission = admission
        self._containment = containment
        self._approvals = approvals
        self._refusals = refusals
        self._runner = runner
        self._interval_s = interval_s
        self._ghosts: list[str] = []

    async def join(self) -> int:
        """Close what a dead predecessor left open, join, and apply the kill state. How many were closed.

        The caller holds the OS lock that the predecessor held, so nothing of it runs any more (DESIGN §4).

        Raises:
            LogUnavailable: there is no start without the log.
        """
        closed = await self._close_open_intents()
        for row in await self._reader.projection("members"):
            if row["left_idx"] is None:
                await self._bury(row["member"])
        await self._recorder.note(lambda origin: make(origin, Kind.JOINED, {"of": self._recorder.member}))
        try:
            await self._replica.catch_up()
        except KillStateUnknown:
            logger.warning("the kill store does not answer yet; calls are refused until it does")
        await self._forget_ghosts()
        return closed

    async def _bury(self, member: str) -> None:
        """A predecessor that did not leave by itself."""
        await self._recorder.note(lambda origin: make(origin, Kind.LEFT, {"of": member}))
        self._ghosts.append(member)

    async def _forget_ghosts(self) -> None:
        """What dead members had in flight leaves the display, as soon as the kill store answers."""
        while self._ghosts:
            try:
                await self._admission.forget(self._ghosts[0])
            except KillStateUnknown:
                return
            self._ghosts.pop(0)

    async def leave(self) -> None:
        """The last event of this member; best effort, because a successor closes what is missing."""
        try:
            await self._runner.write_unrecorded()
            await self._recorder.note(lambda origin: make(origin, Kind.LEFT, {"of": self._recorder.member}))
        except LogUnavailable:
            logger.warning("left without a last event: the log cannot be written")

    async def look_after(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.tick()

    async def tick(self) -> None:
        """One round. What needs the log is left for the next round when it does not answer."""
        try:
            await self._runner.write_unrecorded()
            await self._close_orphans()
            await self._refusals.write_counts()
            await self._containment.release_expired()
            await self._approvals.close_expired()
        except LogUnavailable:
            logger.warning("the log does not answer; upkeep waits")
        await self._keep_alike()
        await self._forget_ghosts()

    async def _keep_alike(self) -> None:
        """Apply what the log says here and to the fast path, whatever either of them missed (DESIGN §4, *Replica*)."""
        stored = await self._admission.position()
        if stored is None or stored < self._replica.position:
            logger.warning("the kill store lost kills or does not answer; calls are refused until it has them again")
        try:
            await self._replica.catch_up()
        except (LogUnavailable, KillStateUnknown) as error:
            logger.warning("kill state could not be put right, the next round tries again: %s", error)

    async def _close_open_intents(self) -> int:
        intents = await self._reader.open_intents()
        for intent in intents:
            await self._close(intent, Outcome.UNKNOWN, "the process ended before it could record the outcome")
        return len(intents)

    async def _close_orphans(self) -> None:
        """Outcomes for decisions that reached the log although their append seemed to fail; nothing was sent."""
        orphans = self._recorder.take_orphans()
        if not orphans:
            return
        try:
            for intent in await self._reader.open_intents():
                if intent.fields["trace_id"] in orphans:
                    await self._close(intent, Outcome.NOT_SENT, "refused, because its record was in doubt")
        except LogUnavailable:
            self._recorder.orphaned(*orphans)
            raise

    async def _close(self, intent: Record, outcome: Outcome, why: str) -> None:
        await self._recorder.note(lambda origin: closed(origin, intent, outcome, why))
