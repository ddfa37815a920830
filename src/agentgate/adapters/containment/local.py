"""Admission for one process without Redis: the same rules, in memory.

Nothing here outlives the process; kills do, because they are in the log, and the first `apply` brings them back.
No method waits, so every `admit` is atomic by being on one event loop.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agentgate.adapters.containment._common import US_PER_S, flight_entry, limit_key, limit_state, shown
from agentgate.adapters.containment._ledgers import Ledgers
from agentgate.core.budget import Tally
from agentgate.core.call import Call, TraceId
from agentgate.core.containment import FlagChange, KillId, KillState, flags_over
from agentgate.core.errors import ReasonCode
from agentgate.ports.ambient import Clock
from agentgate.ports.containment import Admitted, InFlight, LimitState, NotAdmitted, Quota, RateLimit, Spent, Uncounted


@dataclass(slots=True)
class _Window:
    """The times (monotonic ns) of the calls that a limit counts, oldest first: never more than the limit."""

    times: deque[int] = field(default_factory=deque)
    length_ns: int = 0

    def slide(self, now_ns: int) -> None:
        """Forget what has left the window; a call made exactly one window ago has left it."""
        gone = now_ns - self.length_ns
        while self.times and self.times[0] <= gone:
            self.times.popleft()

    def leaves_in_us(self, now_ns: int) -> int:
        """When the oldest call leaves, rounded up."""
        oldest_ns = self.times[0] if self.times else now_ns
        return -(-(oldest_ns + self.length_ns - now_ns) // 1000)


class LocalAdmission:
    """Implements `Admission` for a gateway of one process."""

    def __init__(self, *, member: str, clock: Clock) -> None:
        self._member = member
        self._clock = clock
        self._position: int | None = None
        self._flags: dict[str, KillId] = {}
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._ledgers = Ledgers()
        self._held: dict[TraceId, Quota] = {}
        """What calls in flight were charged to budgets."""
        self._listeners: list[Callable[[int], None]] = []
        self._flight: dict[TraceId, dict[str, str | int]] = {}

    async def start(self) -> None:
        """Nothing to connect; here so that both kinds are started alike."""

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        position = self._position
        if position is None or position < seen:
            detail = f"kill position {seen} is not applied here yet"
            return NotAdmitted(ReasonCode.KILL_STATE_UNKNOWN, detail, position=position)
        for flag in flags_over(call):
            if kill_id := self._flags.get(flag):
                return NotAdmitted(ReasonCode.KILLED, f"killed by {kill_id}", kill_id, position=position)
        answer = Admitted(position)
        if quota is not None:
            counted = self._count(call, quota)
            if isinstance(counted, NotAdmitted):
                return replace(counted, position=position)
            answer = counted._replace(position=position)
        self._flight[call.trace_id] = flight_entry(call, self._member, self._now_us())
        return answer

    def rename(self, member: str) -> None:
        """From now on this process's calls are shown as those of `member`."""
        self._member = member

    def release(self, call: Call, spent: Spent | None = None) -> None:
        self._flight.pop(call.trace_id, None)
        if (quota := self._held.pop(call.trace_id, None)) is not None:
            self._ledgers.settle(call, quota, spent, self._now_us())

    async def settle(self, call: Call, spent: Spent) -> bool:
        if (quota := self._held.pop(call.trace_id, None)) is not None:
            self._ledgers.settle(call, quota, spent, self._now_us())
        return True

    async def restore(self, call: Call, uncounted: Uncounted, tally: Tally) -> bool:
        return self._ledgers.restore(call, uncounted, tally, self._now_us())

    async def apply(self, state: KillState, change: FlagChange | None = None) -> None:
        if self._position is not None and self._position >= state.position:
            return
        if change is not None and (change.since, change.position) == (self._position, state.position):
            for flag in change.alive:
                self._flags.pop(flag, None)
            self._flags.update(change.dead)
        else:
            self._flags = state.flags()
        self._position = state.position
        for on_wake in self._listeners:
            on_wake(state.position)

    def listen(self, on_wake: Callable[[int], None]) -> None:
        self._listeners.append(on_wake)
        if self._position is not None:
            on_wake(self._position)

    async def forget(self, member: str) -> None:
        """Nothing to forget: what a dead process had in memory went with it."""

    async def position(self) -> int | None:
        return self._position

    async def in_flight(self) -> list[InFlight]:
        return [shown(trace_id, entry) for trace_id, entry in self._flight.items()]

    @property
    def windows(self) -> int:
        """How many limits are being counted: what memory depends on."""
        return len(self._windows)

    @property
    def ledgers(self) -> int:
        """How many budgets are being counted: what memory depends on."""
        return len(self._ledgers)

    async def aclose(self) -> None:
        self._flight.clear()
        self._held.clear()

    def _count(self, call: Call, quota: Quota) -> Admitted | NotAdmitted:
        """Count the call if there is room for it everywhere. A refused call counts for nothing."""
        now_ns, now_us = self._clock.ticks_ns(), self._now_us()
        self._drop_idle(now_ns)
        windows = [self._window(call, limit, now_ns) for limit in quota.limits]
        full = [
            limit_state(limit, len(window.times), now_us + window.leaves_in_us(now_ns))
            for limit, window in zip(quota.limits, windows, strict=True)
            if len(window.times) >= limit.limit
        ]
        if full:  # of several that are used up the one that takes longest
            state = max(full, key=lambda state: state.reset_at)
            return NotAdmitted(ReasonCode.RATE_LIMITED, "the limit is used up", limit=state)
        looked = self._ledgers.look(call, quota, now_us) if quota.budgets else (None, None)
        if isinstance(looked, NotAdmitted):
            return looked
        for window in windows:
            window.times.append(now_ns)
        if quota.budgets:
            self._ledgers.charge(call, quota, now_us)
            self._held[call.trace_id] = quota
        states = [
            limit_state(limit, len(window.times), now_us + window.leaves_in_us(now_ns))
            for limit, window in zip(quota.limits, windows, strict=True)
        ]
        tightest: LimitState | None = min(states, key=lambda state: state.remaining, default=None)
        return Admitted(-1, tightest, facts=looked[1], alert=looked[0])

    def _window(self, call: Call, limit: RateLimit, now_ns: int) -> _Window:
        window = self._windows.setdefault(limit_key(call, limit), _Window())
        window.length_ns = round(limit.window_s * 1e9)
        window.slide(now_ns)
        return window

    def _now_us(self) -> int:
        return round(self._clock.now().timestamp() * US_PER_S)

    def _drop_idle(self, now_ns: int) -> None:
        """Look at two windows in turn and drop those that are empty, so that agents who left cost nothing.

        Two for each counted call: memory stays within twice what is in use, and no call pays for all.
        """
        for _ in range(min(2, len(self._windows))):
            key, window = next(iter(self._windows.items()))
            window.slide(now_ns)
            if window.times:
                self._windows.move_to_end(key)
            else:
                del self._windows[key]
