"""This member's word on each kill: applied to my table, and nothing covered is left in this process.

An acknowledgement is an event in the log, so neither a loss nor a forger in the fast path can drain a kill (DESIGN §4).
"""

from __future__ import annotations

import asyncio

from agentgate.core.errors import LogUnavailable
from agentgate.core.event import Outcome
from agentgate.core.events.kills import acked
from agentgate.core.members import Acknowledgement
from agentgate.pipeline.containment.flights import Cutting
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock

REMEMBERED = 10_000
_AGAIN_AFTER_S = 0.2
"""The log's own back-off decides when it answers again."""


class Acknowledger:
    """Follows every application of kills in the replica to its end, and says so in the log."""

    def __init__(self, replica: Replica, recorder: Recorder, clock: Clock) -> None:
        self._replica = replica
        self._recorder = recorder
        self._clock = clock
        self._words: dict[int, asyncio.Task[Acknowledgement]] = {}
        """By kill position, oldest first; each is done once its event is durable."""
        replica.on_kills = self.owe

    def owe(self, cutting: Cutting) -> None:
        """From now on this member owes an acknowledgement of `cutting`."""
        self._words[cutting.position] = asyncio.create_task(self._acknowledge(cutting))
        oldest = next(iter(self._words))
        if len(self._words) > REMEMBERED and self._words[oldest].done():  # one that is not is still owed
            del self._words[oldest]

    def word_on(self, position: int) -> asyncio.Task[Acknowledgement] | None:
        """The first acknowledgement at or past a position, given or coming; None if nothing was applied here since."""
        exact = self._words.get(position)  # else every kill would walk over thousands
        return exact or next((word for at, word in self._words.items() if at >= position), None)

    async def _acknowledge(self, cutting: Cutting) -> Acknowledgement:
        """Earlier kills are in it too, so their calls must have left as well."""
        await self._replica.left(cutting.position)
        await cutting.left.wait()
        word = self._word(cutting)
        while True:
            try:
                await self._recorder.note(lambda origin: acked(origin, word))
            except LogUnavailable:  # the kill stays undrained until it is said
                await asyncio.sleep(_AGAIN_AFTER_S)
            else:
                return word

    def _word(self, cutting: Cutting) -> Acknowledgement:
        endings = [flight.ending for flight in cutting.flights]
        cutting.flights.clear()
        return Acknowledgement(
            member=self._recorder.member,
            position=cutting.position,
            cancelled=sum(ending in (Outcome.CANCELLED, "") for ending in endings),
            finished=sum(ending in (Outcome.OK, Outcome.ERROR, Outcome.NOT_SENT) for ending in endings),
            unknown=endings.count(Outcome.UNKNOWN),
            took_ms=(self._clock.ticks_ns() - cutting.since_ns) / 1e6,
        )

    async def aclose(self) -> None:
        """Stop waiting: what is not acknowledged yet is settled by this member's `left`."""
        for task in self._words.values():
            task.cancel()
        await asyncio.gather(*self._words.values(), return_exceptions=True)
