"""An endpoint: what it wants to hear, when it is tried again, and what came of its deliveries."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentgate.core.event import rfc3339
from agentgate.core.notice import Notice, wanted
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.log import Bookmarks, LogReader
from agentgate.ports.notices import Courier, Failure, Meter

logger = logging.getLogger("agentgate.notices")


@dataclass(frozen=True, slots=True)
class Subscription:
    """An endpoint, and what it wants to hear."""

    name: str
    courier: Courier
    events: tuple[str, ...] = ("*",)
    tenants: tuple[str, ...] = ()
    """Empty: all of them, and what is of none."""

    def wants(self, notice: Notice) -> bool:
        return wanted(notice.kind, self.events) and (not self.tenants or notice.tenant in self.tenants)


@dataclass(frozen=True, slots=True)
class Rules:
    """Times, in seconds."""

    give_up_after_s: float = 3 * 86_400.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 600.0
    look_every_s: float = 0.5
    round_s: float = 30.0
    """For how long one member follows before another one may. A turn must be less than a minute, and the delivery that
    is under way at its end may take ten seconds."""
    rest_s: float = 1.0
    """Between two turns."""
    base_url: str | None = None
    """Where people find the gateway."""


@dataclass(frozen=True, slots=True)
class Office:
    """What all endpoints have in common."""

    reader: LogReader
    bookmarks: Bookmarks
    clock: Clock
    entropy: Entropy
    meter: Meter
    rules: Rules
    sleep: Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Patience:
    """When to try again: later each time, and never at the same moment as everybody else."""

    failures: int = 0
    not_before_s: float = 0.0

    def failed(self, now_s: float, rules: Rules, chance: float, at_least_s: float) -> None:
        pause_s = min(rules.longest_pause_s, rules.first_pause_s * 2.0 ** min(self.failures, 30))
        asked_s = min(at_least_s, rules.longest_pause_s)
        self.failures += 1
        self.not_before_s = now_s + max(pause_s * (0.5 + chance / 2), asked_s)

    def succeeded(self) -> None:
        self.failures = 0
        self.not_before_s = 0.0


@dataclass(slots=True)
class Account:
    """What came of the deliveries to one endpoint, in this process."""

    name: str
    office: Office
    error: str | None = None
    taken_at: str | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"delivered": 0, "failed": 0, "skipped": 0})

    def taken(self) -> None:
        self.error = None
        self.taken_at = rfc3339(self.office.clock.now())
        self.count("delivered")

    def failed(self, patience: Patience, failure: Failure) -> None:
        office = self.office
        chance = int.from_bytes(office.entropy.token(4), "big") / 2**32
        patience.failed(office.clock.boot_s(), office.rules, chance, failure.retry_after_s)
        self.error = failure.detail
        self.count("failed")
        if patience.failures == 1:
            logger.warning("webhook %s does not take notices: %s", self.name, failure.detail)

    def skipped(self, notice: Notice, why: str) -> None:
        self.count("skipped")
        logger.error("webhook %s never heard of %s %s: %s", self.name, notice.kind, notice.id, why)

    def count(self, result: str) -> None:
        self.counts[result] += 1
        self.office.meter.count("webhook_deliveries", result)
