"""What people may want of containment, and what they are told when it is not done."""

from __future__ import annotations

from dataclasses import dataclass

from agentgate.core.containment import Kill, KillId, Scope


@dataclass(frozen=True, slots=True)
class Order:
    """A wish to stop something, as a door understood it."""

    scope: Scope
    target: str
    reason: str = ""
    kill_id: KillId | None = None
    expires_in_s: float | None = None
    tenant: str | None = None
    """Of a session or an agent: the tenant it is in, where that is not the actor's own."""


@dataclass(frozen=True, slots=True)
class ReleasePending:
    """A release that more persons have to ask for (K6). `asked_by` are those who have, the first one first."""

    kill: Kill
    asked_by: tuple[str, ...]
    quorum: int
