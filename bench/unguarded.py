"""A gateway whose admission says yes without looking: what containment is compared with, and good for nothing else.

python -m bench.unguarded serve --port 8000 --data-dir …
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentgate import opening, starting
from agentgate.core.budget import Tally
from agentgate.core.call import Call
from agentgate.core.containment import FlagChange, KillState
from agentgate.ports.containment import Admitted, InFlight, Quota, Spent, Uncounted


class Unguarded:
    """Implements `Admission` by not admitting: no flag is read, nothing counted, nothing displayed."""

    def __init__(self) -> None:
        self._position: int | None = None

    async def start(self) -> None:
        pass

    def rename(self, member: str) -> None:
        pass

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted:
        return Admitted(seen, None)

    def release(self, call: Call, spent: Spent | None = None) -> None:
        pass

    async def restore(self, call: Call, uncounted: Uncounted, tally: Tally) -> bool:
        return True

    async def apply(self, state: KillState, change: FlagChange | None = None) -> None:
        self._position = state.position

    def listen(self, on_wake: Callable[[int], None]) -> None:
        pass

    async def position(self) -> int | None:
        return self._position

    async def in_flight(self) -> list[InFlight]:
        return []

    async def forget(self, member: str) -> None:
        pass

    async def aclose(self) -> None:
        pass


def _make_admission(*_: Any, **__: Any) -> Unguarded:
    return Unguarded()


if __name__ == "__main__":
    opening.make_admission = _make_admission
    starting.cli()
