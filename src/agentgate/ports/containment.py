"""The fast path of containment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from agentgate.core.amounts import ONE_CALL, Amounts
from agentgate.core.budget import Budget, Period, Tally
from agentgate.core.call import Call
from agentgate.core.containment import FlagChange, KillState
from agentgate.core.errors import ReasonCode
from agentgate.core.facts import Facts

UNDECIDED_S: Final = 3.0
"""A call with budgets is recorded within this time of its admission, or not sent. So a count of the log that begins so
long after a loss has every call in it that the loss could have hidden."""


class Counted(StrEnum):
    """Whose calls a rate limit counts, always within a tenant: an agent's of one tool, all of an agent's, or all of a
    session's."""

    TOOL = "tool"
    AGENT = "agent"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`limit` calls in any `window_s` seconds."""

    limit: int
    window_s: float
    of: Counted = Counted.TOOL


@dataclass(frozen=True, slots=True)
class Quota:
    """All that one call is counted against: at most one limit of each kind, and one budget of each period.

    A session's budget comes first, and is there (with no limits) where `wants_facts`.
    """

    limits: tuple[RateLimit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    charge: Amounts = ONE_CALL
    """What this call takes, as far as it is known before it runs."""
    wants_facts: bool = False


@dataclass(frozen=True, slots=True)
class LimitState:
    """What the X-RateLimit headers say, this call counted: of the limit that has least left, or that is used up.
    `reset_at` is Unix seconds."""

    limit: int
    remaining: int
    reset_at: int
    of: Counted = Counted.TOOL


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget that is used up, or past its alert threshold. `used` is without this call."""

    period: Period
    what: str
    """`calls`, `bytes` or `cost`."""
    limit: int
    used: int
    reset_at: int | None = None
    """When its period ends, in Unix seconds; a session's does not."""


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A budget of which the store does not know what is used: nothing is admitted before `restore` has told it."""

    period: Period
    number: int
    """Which period it is, counted from 1970; 0 for a session."""
    epoch: str
    """Names this ignorance: the store forgets it as soon as a count from before it could be wrong."""


class Admitted(NamedTuple):
    """The call may go on, as far as flags and limits known at `position` say."""

    position: int
    limit: LimitState | None = None
    facts: Facts | None = None
    """The session's past without this call, where the quota wants it."""
    alert: BudgetState | None = None
    """A budget that this call takes past its threshold: somebody must approve it."""


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """`reason` is KILLED (with the kill's id), RATE_LIMITED (with the state), BUDGET_SPENT (with the budget),
    BUDGET_UNKNOWN (with what must be counted first) or KILL_STATE_UNKNOWN."""

    reason: ReasonCode
    detail: str = ""
    kill_id: str | None = None
    limit: LimitState | None = None
    position: int | None = None
    budget: BudgetState | None = None
    uncounted: tuple[Uncounted, ...] = ()


@dataclass(frozen=True, slots=True)
class Spent:
    """What an allowed call came to, beyond what it was charged when it was admitted."""

    allowed_at: int
    """The index of its recorded ALLOW: what counted the log through a later one has this call in it."""
    ended_at: int | None = None
    """The index of its recorded outcome; None where there is none yet."""
    result_bytes: int = 0
    more_cost: int = 0
    """Micros; negative where policy estimated less than was declared."""
    is_ok: bool = False
    labels: tuple[str, ...] = ()
    """What kinds of data the session has touched by it."""


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

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        """One atomic step: refuse if the store's kill position is missing or older than `seen`, if a flag
        covers the call, or if a limit or budget of the quota is used up or not known; else count it in all of them and
        register it in flight.

        Never raises; not answering within 100 ms is KILL_STATE_UNKNOWN (K4).
        """
        ...

    def release(self, call: Call, spent: Spent | None = None) -> None:
        """Take the call out of the in-flight set; not awaited and never raises.

        Budgets are told what it came to in the end, unless `settle` has told them. None: it was not allowed, and what
        it was charged is given back.
        """
        ...

    async def settle(self, call: Call, spent: Spent) -> bool:
        """Tell budgets what an allowed call came to, before its answer is released: whether it is certain that every
        call that is admitted from now on, by any member, has its labels among its facts.

        Answers within the deadline of `admit` and never raises. After False what the session did counts as unknown as
        soon as the store can be reached, and is counted from the log. `release` is still to be called.
        """
        ...

    async def restore(self, call: Call, uncounted: Uncounted, tally: Tally) -> bool:
        """Put what the log says was used into the budget that the store did not know, for a call of its session or
        agent; whether it was. False: somebody else has, or it must be counted again.

        `tally` was read after the store's answer that named `uncounted`. Never raises.
        """
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
