"""What this process knows of kills, and the table of the calls that it has in flight.

The replica applies kills in the order of their positions, and cuts every covered call (DESIGN §4, *Replica*).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

from agentgate.core.call import Call, TraceId
from agentgate.core.containment import FlagChange, Kill, KillChanges, KillState, Lease, covering, flags_over
from agentgate.core.errors import KillStateUnknown, LogUnavailable
from agentgate.pipeline.containment.flights import Cutting, Flight, IsOver
from agentgate.ports.ambient import Clock
from agentgate.ports.containment import Admission
from agentgate.ports.log import Log

LEASE_S = 3.0
_NO_KILL = 2**63
"""The position of a cutting that no acknowledgement waits for, or of a wait that cuts nothing."""
_WAKE_UP_AGAIN_AFTER_S = (0.02, 0.05, 0.1, 0.2)
_READS_FOR_A_WAKE_UP = 3
"""A position that was heard of must be in the log; one that is not after so many reads is the heartbeat's affair."""


class Replica:
    """The local table of flights and the kill state applied to it."""

    def __init__(self, log: Log, admission: Admission, clock: Clock, *, lease_s: float = LEASE_S) -> None:
        self._log = log
        self._admission = admission
        self._clock = clock
        self._flights: dict[Flight, None] = {}
        """In their order. Two may be of one trace: a deferred call, and the request that asked for it."""
        self._cuttings: list[Cutting] = []
        self._catching_up: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None
        self._stirred = asyncio.Event()
        self._heard_of = -1
        """The newest position that anybody has told of."""
        self._store_at: int | None = None
        """Where the fast path was when it was last heard; None when it must be told whatever it says."""
        self.lease = Lease(lease_s)
        self._expulsion: Cutting | None = None
        self.is_expelled = False
        """Declared gone: the log takes no decision of this incarnation any more."""
        self.on_kills: Callable[[Cutting], None] = lambda _: None
        """Called for every application of new kills: somebody must acknowledge it."""
        self.on_cut: Callable[[IsOver], None] = lambda _: None
        """Called whenever calls are cut, before anybody acknowledges it: what is kept of calls that were answered
        already (an upstream may hold one open for its next round) must end with those that are running."""
        self.state = KillState(-1, {})
        """Applied here; position -1 before the first."""

    # --- flights ---

    def enter(self, call: Call, task: asyncio.Task[object]) -> Flight:
        """Register a call before anything is asked about it.

        A kill that covers it from its start is noted here: the fast path would say so too, but it can be wrong.
        """
        flight = Flight(call, task, self.state.over(call))
        self._flights[flight] = None
        return flight

    def leave(self, flight: Flight) -> None:
        """The call has ended: nothing of it runs in this process any more."""
        self._flights.pop(flight, None)
        for cutting in flight.cuttings:
            cutting.leave()
            if not cutting.remaining:
                self._cuttings.remove(cutting)

    def flights(self) -> Iterator[Flight]:
        return iter(tuple(self._flights))

    def running(self, kill: Kill) -> list[TraceId]:
        """The calls in this process that `kill` covers and that have not ended."""
        return [flight.call.trace_id for flight in self._flights if kill.flag in flags_over(flight.call)]

    async def gone(self, trace_id: TraceId) -> None:
        """Wait until nothing of that trace is left here that was here before."""
        there = [flight for flight in self._flights if flight.call.trace_id == trace_id]
        await self._follow(_NO_KILL, there).left.wait()

    # --- kills ---

    @property
    def position(self) -> int:
        return self.state.position

    def advance(self, changes: KillChanges) -> None:
        """Take over what is newer in `changes`, and cut at once what its kills cover, also those that were released
        since. What begins after a gap, or is older, changes nothing."""
        before, self.state = self.state, self.state.advanced(changes)
        if self.state is before:
            return
        new = [kill for kill in changes.given() if kill.position > before.position]
        if new:
            cutting = self._cut(new)
            if before.position >= 0:
                self.on_kills(cutting)

    def cut_all(self, kill: Kill) -> None:
        """Cut every flight that `kill` covers, whatever its position, or if it has none yet."""
        for flight in self._flights:
            if kill.flag in flags_over(flight.call):
                flight.cut(kill)
        self.on_cut(lambda call: kill.flag in flags_over(call))

    def lapse(self) -> None:
        """Cut every flight: kills can no longer be heard here."""
        for flight in self._flights:
            flight.lapse()
        self.on_cut(lambda _: True)

    def shut(self) -> None:
        """Cut every flight: the process ends. One that is being cancelled already is left to record how it ended."""
        for flight in self._flights:
            if not flight.task.cancelling():
                flight.task.cancel()

    def expel(self) -> None:
        """This incarnation was declared gone: cut everything, and grant nothing until a new one has joined."""
        if not self.is_expelled:
            self.is_expelled = True
            self.lapse()
            self._expulsion = self._follow(_NO_KILL, list(self._flights))

    def has_ended(self) -> bool:
        """Whether every call has left that was here as this incarnation was expelled."""
        return self._expulsion is None or self._expulsion.left.is_set()

    async def ended(self) -> None:
        """Wait for that."""
        if self._expulsion is not None:
            await self._expulsion.left.wait()

    def readmit(self) -> None:
        """A new incarnation has joined."""
        self.is_expelled, self._expulsion = False, None

    def _cut(self, kills: Sequence[Kill]) -> Cutting:
        by_flag = {kill.flag: kill for kill in reversed(kills)}
        covered = []
        for flight in self._flights:
            kill = covering(by_flag, flight.call)
            if kill is not None:
                flight.cut(kill)
                covered.append(flight)
        self.on_cut(lambda call: covering(by_flag, call) is not None)
        return self._follow(self.position, covered)

    def _follow(self, position: int, flights: list[Flight]) -> Cutting:
        cutting = Cutting(position, self._clock.ticks_ns(), flights, len(flights))
        for flight in flights:
            flight.cuttings.append(cutting)
        if flights:
            self._cuttings.append(cutting)
        else:
            cutting.left.set()
        return cutting

    async def left(self, position: int) -> None:
        """Wait until no call is left here that a kill up to `position` covered."""
        for cutting in [cutting for cutting in self._cuttings if cutting.position <= position]:
            await cutting.left.wait()

    def is_next(self, position: int) -> bool:
        """Whether this replica has applied everything before `position`: only then may one step be added to it."""
        return position == self.position + 1

    def may_grant(self) -> bool:
        """Whether what is known here is fresh enough to act on."""
        return not self.is_expelled and self.lease.holds(self._clock.boot_s())

    # --- the log and the fast path, kept alike ---

    async def take(self, changes: KillChanges) -> None:
        """Advance by what this process itself has appended, and tell the fast path. Raises KillStateUnknown."""
        self.advance(changes)
        await self._tell_store(changes)

    async def catch_up(self) -> None:
        """Apply the log's kill state here and to the fast path. Concurrent callers share one read.

        Raises:
            LogUnavailable, KillStateUnknown
        """
        await asyncio.shield(self._under_way())

    def _under_way(self) -> asyncio.Task[None]:
        """The one read of the log for all who want one now."""
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())
            self._catching_up.add_done_callback(_raise_the_unexpected)
        return self._catching_up

    async def reach(self, position: int) -> None:
        """Catch up until `position` is applied. Raises LogUnavailable; KillStateUnknown when the log has not got it."""
        for _ in range(_READS_FOR_A_WAKE_UP):  # the first may have joined a read that began before
            if self.position >= position:
                return
            await self.catch_up()
        if self.position < position:
            raise KillStateUnknown("the log is older than the kill store")

    async def _catch_up(self) -> None:
        asked_at_s = self._clock.boot_s()
        changes = await self._log.kills_since(self.position)
        self.lease.renew(asked_at_s)
        self.advance(changes)
        await self._tell_store(changes)

    async def _tell_store(self, changes: KillChanges) -> None:
        if self._store_at == self.position:  # equal, not past it: a forged wake-up must not keep us from telling it
            return
        state, delta = self.state, self._delta(changes)
        self._store_at = None
        await self._admission.apply(state, delta)
        self._store_at = state.position

    def _delta(self, changes: KillChanges) -> FlagChange | None:
        """The cheap way to the state in force, if `changes` are what led to it."""
        if changes.since < 0 or changes.position != self.position or not changes.kills:
            return None
        return self.state.flag_change(changes)

    def store_is_at(self, position: int | None) -> None:
        """What the fast path said of itself; None when it does not answer."""
        self._store_at = position

    def woken(self, position: int) -> None:
        """Somebody has applied `position`: read up to it, in the background."""
        self._store_at = position
        if position <= self.position:
            return
        self._heard_of = max(self._heard_of, position)
        self._stirred.set()
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._wake_up())

    async def _wake_up(self) -> None:
        pauses = iter(_WAKE_UP_AGAIN_AFTER_S)
        while self._heard_of > self.position:
            try:
                await self.reach(self._heard_of)
            except (LogUnavailable, KillStateUnknown):
                pause_s = next(pauses, None)
                if pause_s is None:
                    self._heard_of = self.position  # the heartbeat goes on asking
                    return
                self._stirred.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._stirred.wait()

    def repair_soon(self) -> None:
        """Put the fast path right again, in the background; what fails is tried again by the next caller."""
        self._store_at = None
        self._under_way()


def _raise_the_unexpected(read: asyncio.Task[None]) -> None:
    """Who waits for the read hears how it failed, and nobody may: what is no outage is told by the loop at least."""
    with contextlib.suppress(asyncio.CancelledError, LogUnavailable, KillStateUnknown):
        read.result()
