"""What may be forgotten, and when: the rules of retention and of legal hold.

Only bodies are ever given up, by whole sessions; leaves and proofs stay. An event is as old as the newest time that any
event up to it in the log says, times that have not come yet not counted: so neither a clock that ran behind nor one
that ran ahead makes anything older than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

DEFAULT_DAYS: Final = 365
FLOOR_DAYS: Final = 183
"""Six months: what Regulation (EU) 2024/1689, Art. 19(1) and 26(6), asks for at least."""
LEAP_DAYS: Final = 31
"""A silence of the log that is longer than this is not told from a clock that leapt."""
FEWEST_AT_A_TIME: Final = 1_000
"""So many sessions may go in one automatic run, however few there are."""
MAX_HOLD_REASON_CHARS: Final = 500


class BelowFloor(ValueError):
    """Somebody wants to keep bodies for a shorter time than the floor, and has not said that it is meant."""

    def __init__(self, days: float) -> None:
        super().__init__(
            f"{days:g} days is below the floor of {FLOOR_DAYS}: logs are to be kept for six months (EU AI Act, "
            "Art. 19 and 26); force it if other law lets you"
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """For how many days bodies are kept. Raises BelowFloor."""

    days: int = DEFAULT_DAYS
    forced: bool = False
    """Whether it may be less than the floor."""

    def __post_init__(self) -> None:
        if self.days < FLOOR_DAYS and not self.forced:
            raise BelowFloor(self.days)

    def limit(self, now: datetime) -> datetime:
        """What happened up to here may go."""
        return now - timedelta(days=self.days)


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold: nothing of `session` (empty: of the whole tenant; both empty: of anybody) is pruned."""

    id: str
    tenant: str
    session: str
    actor: str
    at: str
    reason: str = ""
    is_released: bool = False

    def covers(self, tenant: str, session: str) -> bool:
        return covers(self.tenant, self.session, tenant, session)

    def same_order(self, other: Hold) -> bool:
        """Whether somebody has said the same again, whenever."""
        return (self.tenant, self.session, self.actor, self.reason) == (
            other.tenant,
            other.session,
            other.actor,
            other.reason,
        )


def covers(of_tenant: str, of_session: str, tenant: str, session: str) -> bool:
    """Whether a hold of `of_tenant` and `of_session` is one of this session too."""
    return of_tenant in ("", tenant) and of_session in ("", session)


def hold_from_row(row: Mapping[str, Any]) -> Hold:
    return Hold(
        id=row["id"],
        tenant=row["tenant"],
        session=row["session"],
        actor=row["actor"],
        at=row["at"],
        reason=row["reason"] or "",
        is_released=row["released_idx"] is not None,
    )


@dataclass(frozen=True, slots=True)
class Quiet:
    """A session with something that was not pruned yet. `last` is the index of its last event that is no prune, `at`
    what time that one says."""

    tenant: str
    session: str
    last: int
    at: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Around:
    """The log at a moment. `index` is the first event after it; `before` and `after` are the RFC 3339 times that the
    events there say, None where there is none."""

    index: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Kept:
    """How much is kept of bodies: single ones, those in compressed segments, and the segments."""

    single: int
    compressed: int
    segments: int


Place = tuple[int, str, str]
"""How far an enumeration of sessions has come; for the store to read."""


class Standing(StrEnum):
    """Whether a session's bodies may go."""

    DUE = "due"
    YOUNG = "young"
    OPEN = "open"
    """It has a call without an outcome."""
    HELD = "held"


def standing(
    quiet: Quiet,
    *,
    old_below: int,
    between: tuple[str, str],
    open_calls: Set[tuple[str, str]],
    holds: Iterable[Hold] = (),
) -> Standing:
    """Of one session. All events below index `old_below` are older than the limit; `holds` are those in force.

    `between` are the limit and now, and are asked once more of what the session's own last event says: below which
    index all is older may come from what a segment of bodies says of itself, which nothing has signed.
    """
    if quiet.last >= old_below or first_young([(quiet.last, quiet.at)], *between) is not None:
        return Standing.YOUNG
    if (quiet.tenant, quiet.session) in open_calls:
        return Standing.OPEN
    if any(hold.covers(quiet.tenant, quiet.session) for hold in holds):
        return Standing.HELD
    return Standing.DUE


def first_young(times: Iterable[tuple[int, str]], limit: str, now: str) -> int | None:
    """The index of the first event that says a time after `limit` which has come: it and all after it are young.

    `times` are indexes in order, with what each event says; the texts are those of `event.rfc3339`, which sort by time.
    """
    return next((index for index, at in times if limit < at <= now), None)


def leapt(before: datetime | None, after: datetime | None, now: datetime) -> str | None:
    """Why the clock is not believed, or None.

    `before` and `after` are what the events say that the log has on both sides of the moment `LEAP_DAYS` ago. Where the
    log was silent for longer than that between them, the clock may have leapt instead: until the log has gone on for
    `LEAP_DAYS`, nobody can tell.
    """
    if before is None:
        return None
    silent = (after or now) - before
    if silent <= timedelta(days=LEAP_DAYS):
        return None
    return (
        f"the log has nothing between {before:%Y-%m-%d} and {after or now:%Y-%m-%d}: either nothing happened for "
        f"{silent.days} days, or the clock leapt ahead; force it if the clock is right"
    )


def most_at_a_time(sessions: int) -> int:
    """How many of `sessions` one automatic run may prune: a fault that makes all of them due is then seen in time."""
    return max(FEWEST_AT_A_TIME, sessions // 10)
