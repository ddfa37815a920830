"""The machine's own clock and randomness."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from typing import Final

_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has a clock that goes on while the machine sleeps; elsewhere the monotonic one has to do."""


class SystemClock:
    """Wall time for records, monotonic time for durations."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def ticks_ns(self) -> int:
        return time.perf_counter_ns()

    def boot_s(self) -> float:
        return time.clock_gettime(_BOOT)


class SystemEntropy:
    """The kernel's generator, read a page at a time: one system call serves about a hundred ids.

    A fork would hand the page to two processes; workers are therefore spawned, and `os.register_at_fork`
    empties it all the same.
    """

    _PAGE_BYTES = 4096

    def __init__(self) -> None:
        self._page = b""
        self._used = 0
        self._turn = threading.Lock()  # large calls are read in a thread, and have ids
        os.register_at_fork(after_in_child=self._forget)

    def token(self, n_bytes: int) -> bytes:
        if n_bytes > self._PAGE_BYTES // 4:
            return os.urandom(n_bytes)
        with self._turn:
            start, end = self._used, self._used + n_bytes
            if end > len(self._page):
                self._page = os.urandom(self._PAGE_BYTES)
                start, end = 0, n_bytes
            self._used = end
            return self._page[start:end]

    def _forget(self) -> None:
        self._page, self._turn = b"", threading.Lock()
        self._used = 0
