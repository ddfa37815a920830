"""The end of a log that no checkpoint is over: whether it is the last moment's, or ought to have been signed.

A gateway signs its log before it serves for the first time, and once a second from then on. So a moment is all that
there is to be signed yet of a log that somebody looks at, or whose gateway was killed. Who writes the log anew without
its key can only take checkpoints away, and then it is more.

A moment is one member's: the clocks of two need not agree. And an outcome says when its call ended, however much later
the log has taken it, so it says nothing of when it could have been signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from agentgate.core.event import Kind

SIGNED_WITHIN: Final = timedelta(minutes=1)
"""More than a second: the database may have failed over, or the machine have slept in the middle of it."""
_OF_WHO_IS_SERVED: Final = frozenset({Kind.DECIDED, Kind.KILLED})


class Unsigned:
    """Feed it the events from the first one that is not signed on, and tell it of each checkpoint that is met."""

    def __init__(self, signed: int = 0) -> None:
        self.signed = signed
        """Events that a checkpoint of a known key is over, whether or not it holds: that is another finding."""
        self.count = 0
        """Those that came after."""
        self._spans: dict[str, tuple[str, str]] = {}
        """Of each member the earliest and the latest time."""
        self._has_served = False

    def feed(self, fields: Mapping[str, Any]) -> None:
        kind, at, member = fields["kind"], fields["at"], fields["member"]
        self._has_served = self._has_served or kind in _OF_WHO_IS_SERVED
        self.count += 1
        if kind != Kind.FINISHED:
            earliest, latest = self._spans.get(member, (at, at))
            self._spans[member] = min(earliest, at), max(latest, at)

    def sign(self, size: int) -> None:
        self.signed, self.count = size, 0
        self._spans.clear()

    def fault(self) -> str | None:
        """Why a checkpoint ought to be over these events; None where they may be the last moment's."""
        if not self.count:
            return None
        if not self.signed and self._has_served:
            return f"no checkpoint is over any of the {self.count} events, and a gateway signs before it serves"
        for member, (earliest, latest) in self._spans.items():
            if not _is_a_moment(earliest, latest):
                which = f"the last {self.count} events, those of {member} of {earliest} to {latest}"
                return f"no checkpoint is over {which}, and a gateway signs every second"
        return None

    def note(self) -> str | None:
        """What to say of a last moment's events, which nothing shows to be as they were recorded."""
        if not self.count or self.fault() is not None:
            return None
        return (
            f"no checkpoint is over the last {self.count} events yet: a gateway signs within a second, or as it starts"
        )


def _is_a_moment(earliest: str, latest: str) -> bool:
    try:
        return datetime.fromisoformat(latest) - datetime.fromisoformat(earliest) <= SIGNED_WITHIN
    except (ValueError, TypeError):  # written by somebody else: no time, or one without its zone
        return False
