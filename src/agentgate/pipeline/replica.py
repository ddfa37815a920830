"""What this process knows of kills, and the calls that it has in flight.

The replica applies kills in the order of their positions. Applying cuts every covered call; a call that is
between two steps finds `flight.kill` set before it is sent, because no await stands between that look and
the send (DESIGN §4, *Replica*).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from agentgate.core.call import Call, TraceId
from agentgate.core.containment import Kill, KillId, KillState, covering, flags_over
from agentgate.core.errors import KillStateUnknown, LogUnavailable
from agentgate.ports import Admission, Log


@dataclass(slots=True, eq=False)
class Flight:
    """One call on its way through this process."""

    call: Call
    task: asyncio.Task[object]
    since_ns: int
    kill: Kill | None = None
    """The kill that cut it, if any."""
    is_out: bool = False
    """Whether it is with its upstream, where a cut must reach it by cancellation."""
    cancellations: int = 0
    """How often a kill or the deadline has cancelled the task; `come_back` takes these back."""
    ending: str = ""
    """How it ended, for the acknowledgement's counts."""

    def is_cut(self) -> bool:
        return self.kill is not None

    def expire(self) -> None:
        """The deadline: ends the send as a kill does."""
        self._cancel()

    def cut(self, kill: Kill) -> None:
        """Stop this call for good. Cutting twice is cutting once."""
        if self.kill is None:
            self.kill = kill
            self._cancel()

    def _cancel(self) -> None:
        if self.is_out:
            self.cancellations += 1
            self.task.cancel()

    def was_ended(self) -> bool:
        """Whether a cancellation that arrived is only ours, and not the end of the process."""
        return 0 < self.cancellations == self.task.cancelling()

    def come_back(self) -> None:
        """The send is over, however it ended. Our cancellations were meant for it: the task goes on to record it."""
        self.is_out = False
        for _ in range(self.cancellations):
            self.task.uncancel()
        self.cancellations = 0


@dataclass(slots=True, eq=False)
class Cutting:
    """One application of kills: the flights it cut, until the last of them has left."""

    flights: list[Flight]
    left: asyncio.Event = field(default_factory=asyncio.Event)


class Replica:
    """The local table of flights and the kill state applied to it."""

    def __init__(self, log: Log, admission: Admission) -> None:
        self._log = log
        self._admission = admission
        self._flights: dict[TraceId, Flight] = {}
        self._cuttings: list[Cutting] = []
        self._catching_up: asyncio.Task[None] | None = None
        self._dead: dict[str, Kill] = {}
        self.state = KillState(-1, {})
        """Applied here; position -1 before the first."""

    # --- flights ---

    def enter(self, call: Call, task: asyncio.Task[object], now_ns: int) -> Flight:
        """Register a call before anything is asked about it."""
        flight = Flight(call, task, now_ns, self._kill_over(call))
        self._flights[call.trace_id] = flight
        return flight

    def _kill_over(self, call: Call) -> Kill | None:
        """The kill that covers a call from its start: the fast path would say so too, but it can be wrong."""
        if not self._dead:
            return None
        return next((self._dead[flag] for flag in flags_over(call) if flag in self._dead), None)

    def leave(self, flight: Flight) -> None:
        """The call has ended: nothing of it runs in this process any more."""
        self._flights.pop(flight.call.trace_id, None)
        if flight.kill is not None:
            for cutting in tuple(self._cuttings):
                if not any(other.call.trace_id in self._flights for other in cutting.flights):
                    cutting.left.set()
                    self._cuttings.remove(cutting)

    def flights(self) -> Iterator[Flight]:
        return iter(tuple(self._flights.values()))

    def is_in_flight(self, trace_id: str) -> bool:
        return trace_id in self._flights

    # --- kills ---

    @property
    def position(self) -> int:
        return self.state.position

    def apply(self, state: KillState) -> Cutting:
        """Take over a newer kill state and cut what it covers, at once and without waiting.

        Kills that were released in the meantime cut too when they are in `state.active`; an older state
        changes nothing.
        """
        if state.position > self.state.position:
            self.state = state
            self._dead = {flag: state.active[kill_id] for flag, kill_id in state.flags().items()}
        return self.cut_all(*self.state.active.values())

    def cut_all(self, *kills: Kill) -> Cutting:
        """Cut every flight that one of `kills` covers, whatever the position."""
        cut: list[Flight] = []
        for flight in self._flights.values():
            kill = covering(kills, flight.call) if kills else None
            if kill is not None:
                flight.cut(kill)
                cut.append(flight)
        cutting = Cutting(cut)
        if cut:
            self._cuttings.append(cutting)
        else:
            cutting.left.set()
        return cutting

    async def left(self, cutting: Cutting) -> None:
        """Wait until no flight of `cutting` is left in this process."""
        await cutting.left.wait()

    def is_next(self, position: int) -> bool:
        """Whether this replica has applied everything before `position`: only then may one step be added to it."""
        return position == self.position + 1

    def with_kill(self, kill: Kill) -> KillState:
        return KillState(max(kill.position, self.position), {**self.state.active, kill.id: kill})

    def without_kill(self, kill_id: KillId, position: int) -> KillState:
        active = {key: kill for key, kill in self.state.active.items() if key != kill_id}
        return KillState(max(position, self.position), active)

    # --- the log and the fast path, kept alike ---

    async def catch_up(self) -> None:
        """Apply the log's kill state here and to the fast path. Concurrent callers share one read.

        Raises:
            LogUnavailable, KillStateUnknown
        """
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())
        await asyncio.shield(self._catching_up)

    async def _catch_up(self) -> None:
        state = await self._log.kill_state()
        self.apply(state)
        await self._admission.apply(self.state)

    def repair_soon(self) -> None:
        """Put the fast path right again, in the background; what fails is tried again by the next caller."""
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._repair())

    async def _repair(self) -> None:
        try:
            await self._catch_up()
        except (LogUnavailable, KillStateUnknown):
            return
