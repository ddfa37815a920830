"""Callers that wait for what a person may say, and who wakes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from agentgate.core.call import Principal

_LOOK_AGAIN_S: Final = 0.5
"""Another member's answer is found by looking."""
_MOST_WAITING: Final = 1_000
"""Callers that wait for an answer in this process; any more are told at once that it is pending."""
_MOST_WAITING_OF_ONE: Final = 100
"""Of these one caller's, so that none is in all the others' way."""


class Waiting:
    """Of one process. What somebody waits for goes by its id."""

    def __init__(self) -> None:
        self._awaited: dict[str, list[asyncio.Event]] = {}
        self._waiting: Counter[tuple[str, str]] = Counter()

    async def until_not(
        self, is_pending: Callable[[], Awaitable[bool]], caller: Principal, awaited_id: str, within_s: float
    ) -> bool:
        """Ask `is_pending` until it is not, at each wake-up and twice a second; whether that was so in time."""
        who = caller.tenant, caller.id
        if self._waiting[who] >= _MOST_WAITING_OF_ONE or self._waiting.total() >= _MOST_WAITING:
            return False
        self._waiting[who] += 1
        heard = asyncio.Event()
        self._awaited.setdefault(awaited_id, []).append(heard)
        time = asyncio.get_running_loop().time
        until = time() + within_s
        try:
            while await is_pending():
                left = until - time()
                if left <= 0:
                    return False
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(heard.wait(), min(left, _LOOK_AGAIN_S))
                heard.clear()
        finally:
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]
            waiting = self._awaited[awaited_id]
            waiting.remove(heard)
            if not waiting:
                del self._awaited[awaited_id]
        return True

    def stir(self) -> None:
        """Have everybody who waits look again."""
        for awaited_id in self._awaited:
            self.wake(awaited_id)

    def wake(self, awaited_id: str) -> None:
        for heard in self._awaited.get(awaited_id, ()):
            heard.set()
