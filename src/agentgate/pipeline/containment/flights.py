"""The calls that this process has in flight, and how kills cut them.

A call that is between two steps finds `flight.kill` set before it is sent, because no await stands between that look
and the send (DESIGN §4, *Replica*).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentgate.core.call import Call
from agentgate.core.containment import Kill
from agentgate.core.events.calls import KeptAnswer

_Made = TypeVar("_Made")

IsOver = Callable[[Call], bool]
"""Whether a call is one of those that are cut."""


@dataclass(slots=True, eq=False)
class Cutting:
    """One application of kills: the flights that were covered, until the last of them has left."""

    position: int
    since_ns: int
    flights: list[Flight] = field(default_factory=list)
    remaining: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            self.left.set()


@dataclass(slots=True, eq=False)
class Flight:
    """One call on its way through this process."""

    call: Call
    task: asyncio.Task[object]
    kill: Kill | None = None
    """The kill that cut it, if any."""
    has_lapsed: bool = False
    """Cut without a kill: this replica could not hear of kills for longer than its lease, or was declared gone."""
    is_out: bool = False
    """Whether it waits for what a cut must not wait for: then that reaches it by cancellation."""
    cancellations: int = 0
    """How often a kill or the deadline has cancelled the task; `come_back` takes these back."""
    ending: str = ""
    """How it ended, for the acknowledgement's counts."""
    cuttings: list[Cutting] = field(default_factory=list)
    keep: Callable[[Any], KeptAnswer] | None = None
    """What seals its answer, where somebody may ask for that again (`ending.Keep`)."""

    def is_cut(self) -> bool:
        return self.kill is not None or self.has_lapsed

    def expire(self) -> None:
        """The deadline: ends the send as a kill does."""
        self._cancel()

    def cut(self, kill: Kill) -> None:
        """Stop this call for good. Cutting twice is cutting once."""
        if self.kill is None:
            self.kill = kill
            self._cancel()

    def lapse(self) -> None:
        """Stop this call because nobody can say any more whether it was killed."""
        if not self.is_cut():
            self.has_lapsed = True
            self._cancel()

    def _cancel(self) -> None:
        if self.is_out:
            self.cancellations += 1
            self.task.cancel()

    async def outside(self, work: Awaitable[_Made]) -> _Made | None:
        """What `work` comes to, at which a cut or the deadline reaches this call; None where one has.

        Raises:
            asyncio.CancelledError: the caller has withdrawn, or the process ends.
        """
        self.is_out = True
        try:
            return await work
        except asyncio.CancelledError:
            if not self.was_ended():
                raise
            return None
        finally:
            self.come_back()

    def was_ended(self) -> bool:
        """Whether a cancellation that arrived is only ours, and not the end of the process."""
        return 0 < self.cancellations == self.task.cancelling()

    def come_back(self) -> None:
        """That is over, however it ended. Our cancellations were meant for it: the task goes on to record it."""
        self.is_out = False
        for _ in range(self.cancellations):
            self.task.uncancel()
        self.cancellations = 0
