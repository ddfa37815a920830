"""A principal that is refused too often is turned away before the pipeline, and not recorded as refused if it was in
there already, so that it cannot fill the log.

More than `per_second` refusals in a second: 429 until the second is over, and one event a second carries the
count (DESIGN §6).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from agentgate.core.call import Principal
from agentgate.core.event import Event, Kind, make
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock

TOO_MANY: Final = "Too many refused calls in this second; stop repeating them"


@dataclass(slots=True)
class _Second:
    number: int
    refused: int = 0
    recorded: int = 0
    turned_away: int = 0


class RefusalLimiter:
    """Counts refusals by principal and second. Forgets everybody who was quiet, so its memory is bounded."""

    def __init__(self, recorder: Recorder, clock: Clock, per_second: int) -> None:
        self._recorder = recorder
        self._clock = clock
        self._per_second = per_second
        self._seconds: dict[tuple[str, str], _Second] = {}
        self._uncounted: dict[tuple[str, str], int] = {}
        self._unwritten: deque[Event] = deque()
        """Events that are not known to be in the log; no others are made before they are."""

    def is_over(self, caller: Principal) -> bool:
        """Whether to turn `caller` away now; counts it if so."""
        if not self._seconds:
            return False
        second = self._seconds.get((caller.tenant, caller.id))
        if second is None or second.number != self._now() or second.refused < self._per_second:
            return False
        second.turned_away += 1
        return True

    def takes(self, caller: Principal) -> bool:
        """Whether one more refusal of `caller` is recorded now; counts it either way. Calls that come at once have all
        been let in before the first of them is refused."""
        second = self._this_second(caller)
        if second.recorded >= self._per_second:
            second.turned_away += 1
            return False
        second.recorded += 1
        return True

    def refused(self, caller: Principal) -> None:
        self._this_second(caller).refused += 1

    def _this_second(self, caller: Principal) -> _Second:
        key = (caller.tenant, caller.id)
        now = self._now()
        second = self._seconds.get(key)
        if second is None or second.number != now:
            if second is not None:
                self._keep(key, second)
            second = self._seconds[key] = _Second(now)
        return second

    async def write_counts(self, *, is_last: bool = False) -> None:
        """Once a second: record how many were turned away, the last time in this second too. Raises LogUnavailable;
        nothing is forgotten then, and nothing counted twice."""
        now = self._now()
        for key in [key for key, second in self._seconds.items() if is_last or second.number != now]:
            self._keep(key, self._seconds.pop(key))
        await self._write()
        for tenant, principal in list(self._uncounted):
            said = {"count": self._uncounted.pop((tenant, principal))}
            event = make(self._recorder.origin(), Kind.REFUSALS, said, tenant=tenant, principal=principal)
            self._unwritten.append(event)
        await self._write()

    async def _write(self) -> None:
        """An event stays until its append has been answered: said again, the same one is in the log once."""
        while self._unwritten:
            await self._recorder.write(self._unwritten[0])
            self._unwritten.popleft()

    def _keep(self, key: tuple[str, str], second: _Second) -> None:
        if second.turned_away:
            self._uncounted[key] = self._uncounted.get(key, 0) + second.turned_away

    def _now(self) -> int:
        return self._clock.ticks_ns() // 1_000_000_000
