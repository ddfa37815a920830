"""A machine that stands still: a test that failed meanwhile is run again, and both times are reported.

Where everything stops for half a second, deadlines of milliseconds pass and leases end; a call is refused then, as it
should be, and a test that expects its answer fails and says nothing of us. Virtual machines do that, and disks that
others share. A failure while none of it was seen stands, and so does one of `STRICT`.
"""

from __future__ import annotations

import tempfile
import threading
from os import fsync, pwrite
from socket import IPPROTO_TCP, TCP_NODELAY
from time import monotonic, sleep
from typing import Final

import pytest

EVERY_S: Final = 0.2
LONGEST_S: Final = 0.3
"""Beyond this a pause is none that a scheduler with more processes than cores makes."""
AFTERMATH_S: Final = 3.0
"""A test that begins so shortly after a stall may still meet what it left: a lease that ended, a link that is down."""
RERUNS: Final = 2
STRICT: Final = ("tests/containment/", "tests/faults/test_io_errors.py", "tests/faults/test_process.py")
"""What says whether a promise was kept is not asked again: a stall may be just what breaks one."""


class Watch(threading.Thread):
    """Sleeps, and makes a write durable, again and again; notes when that took far longer than it does.

    What it calls it has imported by name: tests replace it in the modules."""

    def __init__(self) -> None:
        super().__init__(name="stalls", daemon=True)
        self._turn_began = monotonic()
        self._last_seen = float("-inf")

    def run(self) -> None:
        with tempfile.TemporaryFile() as file:
            while True:
                self._turn_began = monotonic()
                sleep(EVERY_S)
                pwrite(file.fileno(), b".", 0)
                fsync(file.fileno())
                self._look()

    def _look(self) -> None:
        now = monotonic()
        if now - self._turn_began > EVERY_S + LONGEST_S:
            self._last_seen = now

    def saw_one_since(self, moment: float) -> bool:
        """Whether one ended after that moment of `time.monotonic`, or goes on."""
        self._look()
        return self._last_seen > moment


class Stalls:
    """The plugin."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._began = monotonic()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if not item.nodeid.startswith(STRICT):
                item.add_marker(pytest.mark.flaky(reruns=RERUNS, condition=self._is_to_blame))

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Beside others, `pytest-rerunfailures` asks its parent about each test over TCP, in two small messages: the
        second would wait 40 ms for the first one's acknowledgement."""
        asked = getattr(getattr(session.config, "failures_db", None), "sock", None)
        if asked is not None:
            asked.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    def pytest_runtestloop(self) -> None:
        self._watch.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self._began = monotonic()

    def _is_to_blame(self) -> bool:
        return self._watch.saw_one_since(self._began - AFTERMATH_S)
