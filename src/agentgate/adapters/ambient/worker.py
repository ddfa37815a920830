"""A thread of its own for work that takes long, so that the loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Made = TypeVar("_Made")


class ThreadWorker:
    """One thread: two packs, or two large calls, at once would only take each other's time, and twice the memory."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"agentgate-{name}")
        self._pool.submit(int)  # has the thread started now: where none is left, later is too late to say so

    async def run(self, work: Callable[[], _Made]) -> _Made:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def aclose(self) -> None:
        """What runs ends by itself; what waits is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)
