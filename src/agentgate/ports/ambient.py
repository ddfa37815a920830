"""Time, chance and threads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol, TypeVar

Made = TypeVar("Made")

LARGE_BYTES: Final = 8192
"""Of something foreign. To read, compare or redact what is longer may take so long that kills would wait for it."""


class Worker(Protocol):
    """Somewhere to compute for a while without holding up the calls."""

    async def run(self, work: Callable[[], Made]) -> Made:
        """What `work` returns, or raises. One at a time; it is finished even if nobody waits for it any more."""
        ...


async def beside(worker: Worker, size: int, work: Callable[[], Made]) -> Made:
    """What `work` on so many bytes comes to: here and now, or by `worker` if they are many."""
    return work() if size <= LARGE_BYTES else await worker.run(work)


class Clock(Protocol):
    """Time, injected so that rules can be tested at any hour."""

    def now(self) -> datetime:
        """Aware, UTC."""
        ...

    def ticks_ns(self) -> int:
        """Monotonic nanoseconds, for durations."""
        ...

    def boot_s(self) -> float:
        """Seconds of a clock that also runs while the machine sleeps (CLOCK_BOOTTIME), for leases."""
        ...


class Entropy(Protocol):
    """Unpredictable bytes, injected because core rolls no dice."""

    def token(self, n_bytes: int) -> bytes: ...
