"""What a session did before a call: the part of its past that policy may ask about, derived by the gateway alone.

Counted by admission (so that members agree), recounted from the log after a loss. Nothing of it comes from a caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Past:
    """What one tool did for a session: calls that ended well, and when the last of them ended (Unix seconds)."""

    calls: int
    last_s: float


@dataclass(frozen=True, slots=True)
class Facts:
    """A session's past, this call not counted."""

    calls: int = 0
    """Calls that were allowed."""
    bytes: int = 0
    """Of arguments and results together."""
    cost_micros: int = 0
    """What its calls were estimated to cost, in millionths of the currency that `tiers` are written in."""
    labels: frozenset[str] = frozenset()
    """What kinds of data it has touched: of tools that answered, with a failure too, and of what they said. They only
    grow."""
    tools: Mapping[str, Past] = field(default_factory=dict)

    def for_policy(self, now_s: float) -> dict[str, Any]:
        """The members of `input.session` besides `id`; ages in whole seconds, because policy input has no floats."""
        return {
            "calls": self.calls,
            "bytes": self.bytes,
            "cost_micros": self.cost_micros,
            "labels": sorted(self.labels),
            "prior": {
                name: {"calls": past.calls, "age_s": max(0, int(now_s - past.last_s))}
                for name, past in self.tools.items()
            },
        }
