"""What a kill is, what it covers, and when it is drained. Rules only; the log and Redis merely carry them.

The *kill position* numbers kills and releases in the log. A scope is dead while any kill on it is active;
a release names kill ids, never scopes (DESIGN §4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NewType

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


def flags_over(call: Call) -> tuple[str, ...]:
    """Every flag that would stop `call`, widest first."""
    return (
        "global",
        f"tenant/{call.tenant}",
        f"tool/{call.tool_name}",
        f"server/{call.server}",
        f"agent/{call.tenant}/{call.agent}",
        f"session/{call.tenant}/{call.session}",
    )


@dataclass(frozen=True, slots=True)
class KillState:
    """The kills in force at a position. Immutable: a replica swaps one for the next."""

    position: int
    active: Mapping[KillId, Kill]

    def flags(self) -> dict[str, KillId]:
        """For each dead scope the kill that was first on it."""
        found: dict[str, KillId] = {}
        for kill in sorted(self.active.values(), key=lambda kill: kill.position):
            found.setdefault(kill.flag, kill.id)
        return found


def covering(kills: Iterable[Kill], call: Call) -> Kill | None:
    """The first of `kills` that covers `call`, or None."""
    over = flags_over(call)
    return next((kill for kill in kills if kill.flag in over), None)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A member's word that every kill up to `position` is applied to its table and that no covered call is left.

    The counts are for the kill's receipt: how its covered calls ended in that member.
    """

    member: str
    position: int
    cancelled: int = 0
    finished: int = 0
    unknown: int = 0
    took_ms: float = 0.0


def unheard(members: Iterable[str], acknowledged: Mapping[str, int], position: int) -> list[str]:
    """Members that have not acknowledged `position`; the kill is drained when there are none (K1)."""
    return [member for member in members if acknowledged.get(member, -1) < position]
