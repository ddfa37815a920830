"""What a kill is, what it covers, and when it may be released. Rules only; the log and Redis merely carry them.

The *kill position* numbers kills and releases in the log. A scope is dead while any kill on it is active;
a release names kill ids, never scopes (DESIGN §4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NewType

from agentgate.core.call import Call

KillId = NewType("KillId", str)

MAX_REASON_CHARS: Final = 500
_SAME_DURATION: Final = timedelta(seconds=1)
"""A kill that was read from the log has its event's time, a moment after the order's."""


class Scope(StrEnum):
    """How wide a kill is. `session` and `agent` are within a tenant; the last two leave nobody out."""

    SESSION = "session"
    AGENT = "agent"
    TOOL = "tool"
    SERVER = "server"
    TENANT = "tenant"
    GLOBAL = "global"


ALL_TENANTS: Final = frozenset({Scope.TOOL, Scope.SERVER, Scope.GLOBAL})
"""Scopes that reach into every tenant: they need an operator of all tenants."""


@dataclass(frozen=True, slots=True)
class Kill:
    """An order to stop. `target` is empty for `global`; `tenant` is empty where the scope has none."""

    id: KillId
    scope: Scope
    tenant: str
    target: str
    reason: str
    actor: str
    since: datetime
    expires_at: datetime | None = None
    position: int = 0
    """The log's number of it; 0 until it is appended."""

    @property
    def flag(self) -> str:
        return flag(self.scope, self.tenant, self.target)

    def same_order(self, other: Kill) -> bool:
        """Whether both say the same: a repeated id with the same body is one kill (DESIGN §4)."""
        if (self.flag, self.reason) != (other.flag, other.reason):
            return False
        if self.expires_at is None or other.expires_at is None:
            return self.expires_at is other.expires_at
        # what was ordered is a duration; the two orders were given at different times
        mine, theirs = self.expires_at - self.since, other.expires_at - other.since
        return abs(mine - theirs) < _SAME_DURATION


def flag(scope: Scope, tenant: str, target: str) -> str:
    """The one name of a scope: what stores index by. The grammar of names keeps `/` out of every part."""
    match scope:
        case Scope.SESSION | Scope.AGENT:
            return f"{scope}/{tenant}/{target}"
        case Scope.TENANT:
            return f"{scope}/{tenant}"
        case Scope.GLOBAL:
            return str(scope)
        case _:
            return f"{scope}/{target}"


def flags_of(*, tenant: str, tool: str, server: str, agent: str, session: str) -> tuple[str, ...]:
    """Every flag that would stop a call of these names, widest first."""
    return (
        "global",
        f"tenant/{tenant}",
        f"tool/{tool}",
        f"server/{server}",
        f"agent/{tenant}/{agent}",
        f"session/{tenant}/{session}",
    )


def flags_over(call: Call) -> tuple[str, ...]:
    """Every flag that would stop `call`, widest first."""
    return flags_of(tenant=call.tenant, tool=call.tool_name, server=call.server, agent=call.agent, session=call.session)


@dataclass(frozen=True, slots=True)
class KillChange:
    """A kill as the log has it now: in force, or released at a position."""

    kill: Kill
    released_at: int | None = None


def kill_from_row(row: Mapping[str, Any]) -> Kill:
    expires_at = row["expires_at"]
    return Kill(
        id=KillId(row["id"]),
        scope=Scope(row["scope"]),
        tenant=row["tenant"],
        target=row["target"],
        reason=row["reason"] or "",
        actor=row["actor"],
        since=datetime.fromisoformat(row["since"]),
        expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
        position=row["position"],
    )


def kill_change_from_row(row: Mapping[str, Any]) -> KillChange:
    """A kill and its release, from its derived row."""
    return KillChange(kill_from_row(row), row["released_position"])


@dataclass(frozen=True, slots=True)
class KillChanges:
    """What the log says happened after the position `since`, up to `position`.

    Kills that were given and released in between are among them: they cut what they found running (DESIGN §4).
    With `since` below 0 it is the kills in force alone: a replica that just starts has nothing to cut.
    """

    since: int
    position: int
    kills: tuple[KillChange, ...] = ()

    def given(self) -> tuple[Kill, ...]:
        """The kills that are new since then, in the order of their positions."""
        new = (change.kill for change in self.kills if change.kill.position > self.since)
        return tuple(sorted(new, key=lambda kill: kill.position))


@dataclass(frozen=True, slots=True)
class FlagChange:
    """What a fast path that is exactly at `since` must set and clear to be at `position`."""

    since: int
    position: int
    dead: Mapping[str, KillId]
    alive: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KillState:
    """The kills in force at a position. Immutable: a replica swaps one for the next."""

    position: int
    active: Mapping[KillId, Kill]
    on: Mapping[str, tuple[KillId, ...]] = field(default_factory=dict, compare=False, repr=False)
    """For each dead scope the kills on it, oldest first. Derived from `active` when not given."""

    def __post_init__(self) -> None:
        if self.active and not self.on:
            on: dict[str, tuple[KillId, ...]] = {}
            for kill in sorted(self.active.values(), key=lambda kill: kill.position):
                on[kill.flag] = (*on.get(kill.flag, ()), kill.id)
            object.__setattr__(self, "on", on)

    def flags(self) -> dict[str, KillId]:
        """For each dead scope the kill that was first on it."""
        return {flag: kills[0] for flag, kills in self.on.items()}

    def over(self, call: Call) -> Kill | None:
        """The kill in force that covers `call`, the widest if there are several."""
        if not self.on:
            return None
        return next((self.active[self.on[flag][0]] for flag in flags_over(call) if flag in self.on), None)

    def advanced(self, changes: KillChanges) -> KillState:
        """The state after `changes`; this one when they are older, or begin after a gap.

        Its cost grows with the changes, not with the kills in force (but for two copies of a table).
        """
        if changes.since < 0:
            active = {change.kill.id: change.kill for change in changes.kills if change.released_at is None}
            return KillState(changes.position, active) if changes.position > self.position else self
        if changes.position <= self.position or changes.since > self.position:
            return self
        active, on = dict(self.active), dict(self.on)
        for change in sorted(changes.kills, key=lambda change: change.kill.position):
            kill = change.kill
            there = on.get(kill.flag, ())
            if change.released_at is not None:
                active.pop(kill.id, None)
                there = tuple(other for other in there if other != kill.id)
            elif kill.id not in active:
                active[kill.id] = kill
                there = (*there, kill.id)
            if there:
                on[kill.flag] = there
            else:
                on.pop(kill.flag, None)
        return KillState(changes.position, active, on)

    def flag_change(self, changes: KillChanges) -> FlagChange:
        """How the fast path gets here, if it is where `changes` began."""
        touched = {change.kill.flag for change in changes.kills}
        dead = {flag: self.on[flag][0] for flag in touched if flag in self.on}
        return FlagChange(changes.since, self.position, dead, tuple(sorted(touched - dead.keys())))


def covering(kills: Mapping[str, Kill], call: Call) -> Kill | None:
    """The widest of `kills`, given by their flags, that covers `call`; None if none does."""
    return next((kills[flag] for flag in flags_over(call) if flag in kills), None)


class Lease:
    """For how long this replica may act on what it knows (DESIGN §4, *Replica*).

    It counts from when the position was *asked* for: the answer may have been on its way for long. For promptness
    only; K1 rests on acknowledgements, because a process can be paused between any check and any send.
    """

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        self._asked_at_s: float | None = None

    def renew(self, asked_at_s: float) -> None:
        if self._asked_at_s is None or asked_at_s > self._asked_at_s:
            self._asked_at_s = asked_at_s

    def holds(self, now_s: float) -> bool:
        return self._asked_at_s is not None and 0 <= now_s - self._asked_at_s <= self.length_s


def may_release(asked_by: Iterable[str], quorum: int) -> bool:
    """Whether enough different persons have asked for a release (K6)."""
    return len(set(asked_by)) >= quorum
