"""What is told to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from agentgate.core.notice import Notice


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a notice was not taken. `detail` says nothing secret."""

    detail: str
    for_good: bool = False
    """The receiver does not want this one: it will not take it later either."""
    retry_after_s: float = 0.0
    """What the receiver wants to be left alone for."""


class Courier(Protocol):
    """Brings notices to one endpoint."""

    @property
    def kind(self) -> str: ...

    @property
    def shown(self) -> str:
        """Where to, without what may be secret in it."""
        ...

    async def deliver(self, notice: Notice) -> Failure | None:
        """None once the receiver has said that it has it. Raises nothing; an answer is waited for ten seconds."""
        ...

    async def aclose(self) -> None: ...


class Meter(Protocol):
    """Counts and times for operators. Never raises, never blocks."""

    def call_finished(self, tool: str, decision: str, seconds: float) -> None: ...

    def step(self, name: Literal["admission", "policy", "append", "upstream"], seconds: float) -> None: ...

    def policy_evaluated(self, result: str, rule: str) -> None: ...

    def count(self, name: str, label: str = "", by: int = 1) -> None: ...
