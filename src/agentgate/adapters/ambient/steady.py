"""A clock that nobody sets back, for what was given for a time: approvals, keys, tokens, signatures (A64)."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from agentgate.ports.ambient import Clock

logger = logging.getLogger("agentgate.clock")

BEHIND: Final = timedelta(seconds=5)
"""What a correction may take back without a word."""
BELIEVED: Final = timedelta(days=1)
"""How far ahead of the wall clock a record may be and still be believed. Beyond that one of the two was wrong by days,
and to believe the record could end every permission for years."""


class SteadyClock:
    """Wall time, or what boot time has made of the wall time at the start, whichever is later.

    So a clock that is set back gives nothing back that had expired, and one that is set forward and put right again
    ends nothing for good.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_s = clock.boot_s()
        self._at = clock.now()

    def not_before(self, recorded: datetime) -> None:
        """Somebody saw `recorded` on a clock before this one was started."""
        ahead = recorded - self._clock.now()
        if ahead > BELIEVED:
            logger.critical(
                "the newest event is of %s, %s ahead of this machine's clock: one of the two is wrong. Set the clock: "
                "until then approvals, keys and tokens end by the earlier one",
                recorded.isoformat(),
                ahead,
            )
            return
        if recorded > self.now():
            if ahead > BEHIND:
                logger.warning(
                    "this machine's clock is %s behind the newest event; approvals, keys and tokens end by that one",
                    ahead,
                )
            self._since_s = self._clock.boot_s()
            self._at = recorded

    def now(self) -> datetime:
        return max(self._clock.now(), self._at + timedelta(seconds=self._clock.boot_s() - self._since_s))

    def ticks_ns(self) -> int:
        return self._clock.ticks_ns()

    def boot_s(self) -> float:
        return self._clock.boot_s()
