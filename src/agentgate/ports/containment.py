"""The fast path of containment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from agentgate.core.call import Call
from agentgate.core.containment import FlagChange, KillState
from agentgate.core.errors import ReasonCode


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`limit` calls in any `window_s` seconds, counted by tenant, agent and tool."""

    limit: int
    window_s: float


@dataclass(frozen=True, slots=True)
class LimitState:
    """What the X-RateLimit headers say, this call counted. `reset_at` is Unix seconds."""

    limit: int
    remaining: int
    reset_at: int


class Admitted(NamedTuple):
    """The call may go on, as far as flags and limits known at `position` say."""

    position: int
    limit: LimitState | None = None


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """`reason` is KILLED (with the kill's id), RATE_LIMITED (with the state) or KILL_STATE_UNKNOWN."""

    reason: ReasonCode
    detail: str = ""
    kill_id: str | None = None
    limit: LimitState | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """A call between admission and release, as a display shows it. `since` is RFC 3339."""

    trace_id: str
    tenant: str
    session: str
    agent: str
    tool: str
    server: str
    member: str
    since: str


class Admission(Protocol):
    """The fast path of containment: flags, limits and the display of what is in flight.

    It is never the authority (that is the log): everything in it can be lost, and is then refused on until
    `apply` has put it back.
    """

    async def admit(self, call: Call, limit: RateLimit | None, seen: int) -> Admitted | NotAdmitted:
        """One atomic step: refuse if the store's kill position is missing or older than `seen`, if a flag
        covers the call, or if the limit is used up; else count it and register it in flight.

        Never raises; not answering within 100 ms is KILL_STATE_UNKNOWN (K4).
        """
        ...

    def release(self, call: Call) -> None:
        """Take the call out of the in-flight set; not awaited and never raises."""
        ...

    async def apply(self, state: KillState, change: FlagChange | None = None) -> None:
        """Put flags and position in force, if the store's position is absent or lower (DESIGN §4, *Apply*).

        `change` is the cheaper way to `state`, for a store that is exactly at `change.since`. Whoever changes the store
        wakes every member that listens.

        Raises:
            KillStateUnknown: the store could not be written in time.
        """
        ...

    def listen(self, on_wake: Callable[[int], None]) -> None:
        """From now on call `on_wake` with the position whenever somebody has changed the store, and after each
        reconnection. Best effort: a member that misses a wake-up hears of the position by its heartbeat."""
        ...

    async def in_flight(self) -> list[InFlight]:
        """The calls of all members, for display. Raises KillStateUnknown."""
        ...

    async def forget(self, member: str) -> None:
        """Take what a member that is gone had in flight out of the display. Raises KillStateUnknown."""
        ...

    async def position(self) -> int | None:
        """The store's kill position; None when it has none or does not answer. For health and repair."""
        ...

    async def aclose(self) -> None: ...
