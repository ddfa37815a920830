"""Appending to PostgreSQL: the queue, and the task that commits what waits in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from agentgate.adapters.log._intake import CLOSE_WITHIN_S, MAX_BATCH, Intake, again, in_time
from agentgate.adapters.log._ledger import Item
from agentgate.adapters.log._postgres.committer import Committer
from agentgate.core.errors import AgentGateError, LogBroken


class PostgresWriter(Intake):
    """Appends of one process."""

    def __init__(self, url: str, log_id: str) -> None:
        super().__init__("the database")
        self._committer = Committer(url, log_id)
        self._waiting: deque[Item] = deque()
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the log.

        Raises:
            LogUnavailable, LogBroken, UnsafeConfiguration: with a sentence on why it cannot be used.
        """
        await self._committer.open()
        if self._committer.trouble is not None:
            raise again(self._committer.trouble)
        self._task = asyncio.create_task(self._run(), name="agentgate-log")

    @property
    def size(self) -> int:
        """Events that are durable, as far as this process has seen."""
        return self._committer.size

    @property
    def position(self) -> int:
        """The newest kill position that this process has seen; another one may have gone on."""
        return self._committer.position

    def distrust(self, trouble: LogBroken) -> None:
        """Refuse everything from here on: what was found elsewhere shows that the log is not to be gone on with."""
        self._committer.distrust(trouble)

    def _send(self, items: list[Item]) -> None:
        self._waiting.extend(items)
        self._work.set()

    def _trouble(self) -> AgentGateError | None:
        return self._committer.trouble

    async def _run(self) -> None:
        try:
            while self._waiting or not self._closing:
                if self._waiting:
                    await self._commit_some()
                elif not await self._has_work_within(self._committer.patience_s):
                    await self._committer.open()
        finally:
            await self._committer.aclose()
            self._abandon()

    async def _has_work_within(self, seconds: float | None) -> bool:
        self._work.clear()
        try:
            await asyncio.wait_for(self._work.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _commit_some(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
        items, answers = in_time(some)
        self._answer(answers + (await self._committer.commit(items) if items else []))

    async def aclose(self) -> None:
        """Append what was sent, and take nothing more. A database that does not answer is not waited for."""
        self._flush()
        self._closing = True
        self._work.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_WITHIN_S)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
