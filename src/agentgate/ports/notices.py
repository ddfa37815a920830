"""What is told to others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol


class Notifier(Protocol):
    """Tells people elsewhere. Never raises, never waits, never stands in a call's way."""

    def notify(self, kind: str, payload: Mapping[str, Any]) -> None:
        """`kind` is v0.2's event type, such as `kill_switch.activated`. Nothing in `payload` is secret."""
        ...

    async def aclose(self) -> None: ...


class Meter(Protocol):
    """Counts and times for operators. Never raises, never blocks."""

    def call_finished(self, tool: str, decision: str, seconds: float) -> None: ...

    def step(self, name: Literal["admission", "policy", "append", "upstream"], seconds: float) -> None: ...

    def policy_evaluated(self, result: str, rule: str) -> None: ...

    def count(self, name: str, label: str = "", by: int = 1) -> None: ...
