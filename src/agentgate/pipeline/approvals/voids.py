"""What takes an approval away before it is used: a kill that covers it, another policy, another tool definition.

A redemption asks all of this anew, so nothing rests on the sweep; it is what makes the record and the lists say so, and
what has sealed arguments go.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from agentgate.core.approval import Approval, ApprovalId, State, Void
from agentgate.core.errors import LogUnavailable
from agentgate.pipeline.approvals.circumstances import Circumstances
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.ports.ambient import Clock

_EVERY_S: Final = 1.0
_ALONE_S: Final = 0.5
_SHARED_S: Final = 5.0
"""A policy or a tool list that is being rolled out is not the same everywhere for a moment."""


class Voids:
    """Closes approvals that nothing can be done with any more."""

    def __init__(
        self, approvals: ApprovalDesk, circumstances: Circumstances, clock: Clock, *, is_shared: bool = False
    ) -> None:
        self._approvals = approvals
        self._circumstances = circumstances
        self._clock = clock
        self._settles_s = _SHARED_S if is_shared else _ALONE_S
        self._otherwise: dict[ApprovalId, float] = {}
        """Since when policy or tool were found to be others, by the clock of this process."""
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """A kill was applied: look now."""
        self._stirred.set()
        self._approvals.waiting.stir()

    async def look_after(self, is_wanted: Callable[[], bool]) -> None:
        """Once a second and whenever a kill was applied, until cancelled; `is_wanted` says whether it is this member
        that does it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._stirred.wait()
            self._stirred.clear()
            if is_wanted():
                with contextlib.suppress(LogUnavailable):  # the next round tries again
                    await self.sweep()

    async def sweep(self) -> int:
        """Close what is void; how many. Raises LogUnavailable."""
        approvals = await self._approvals.open()
        if not approvals:
            return 0
        killed = await self._circumstances.killed(approvals)
        revision = await self._circumstances.revision()
        closed = 0
        for approval in approvals:
            void = killed.get(approval.id) or self._settled(approval, revision)
            if void is not None:
                closed += await self._approvals.close(approval, State.VOID, void)
        self._otherwise = {one.id: self._otherwise[one.id] for one in approvals if one.id in self._otherwise}
        return closed

    def _settled(self, approval: Approval, revision: str | None) -> Void | None:
        """A change of policy or tool that has lasted."""
        void = self._circumstances.changed(approval, revision)
        if void is None:
            self._otherwise.pop(approval.id, None)
            return None
        now_s = self._clock.boot_s()
        return void if now_s - self._otherwise.setdefault(approval.id, now_s) >= self._settles_s else None
