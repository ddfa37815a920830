"""What both stores say in the same way: the state of a limit, and a call in flight."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from agentgate.core.call import Call
from agentgate.core.event import rfc3339
from agentgate.ports import LimitState, RateLimit

US_PER_S: Final = 1_000_000


def limit_state(limit: RateLimit, used: int, reset_us: int) -> LimitState:
    """`reset_us` is when the oldest call leaves the window, in µs since 1970; rounded up to a whole second, so that
    a caller who waits until then finds room."""
    return LimitState(limit.limit, max(0, limit.limit - used), -(-reset_us // US_PER_S))


def flight_entry(call: Call, member: str, since: datetime) -> dict[str, str]:
    """What a display of calls in flight wants to know. No arguments: they may hold secrets."""
    return {
        "tenant": call.tenant,
        "session": call.session,
        "agent": call.agent,
        "tool": call.tool_name,
        "since": rfc3339(since),
        "member": member,
    }
