"""What both stores say in the same way: the state of a limit, and a call in flight."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from agentgate.core.call import Call
from agentgate.core.event import rfc3339
from agentgate.ports.containment import InFlight, LimitState, RateLimit

US_PER_S: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def limit_state(limit: RateLimit, used: int, reset_us: int) -> LimitState:
    """`reset_us` is when the oldest call leaves the window, in µs since 1970; rounded up to a whole second, so that
    a caller who waits until then finds room."""
    return LimitState(limit.limit, max(0, limit.limit - used), -(-reset_us // US_PER_S))


def flight_entry(call: Call, member: str, since_us: int) -> dict[str, str | int]:
    """What a display of calls in flight wants to know. No arguments: they may hold secrets."""
    return {
        "tenant": call.tenant,
        "session": call.session,
        "agent": call.agent,
        "tool": call.tool_name,
        "server": call.server,
        "since_us": since_us,
        "member": member,
    }


def shown(trace_id: str, entry: Mapping[str, str | int]) -> InFlight:
    """An entry as people read it. The time is written out only here: few entries are ever looked at.

    Raises:
        KeyError, TypeError, ValueError: it is not an entry of ours, or of another version.
    """
    since = rfc3339(_EPOCH + timedelta(microseconds=int(entry["since_us"])))
    names = {name: str(entry[name]) for name in ("tenant", "session", "agent", "tool", "server", "member")}
    return InFlight(trace_id=trace_id, since=since, **names)
