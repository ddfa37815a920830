"""Appending to a SQLite file: the event loop's side of the thread that commits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar, cast

from agentgate.adapters.log._intake import CLOSE_WITHIN_S, Intake
from agentgate.adapters.log._ledger import Item
from agentgate.adapters.log._sqlite.committer import Committer, Job
from agentgate.adapters.log._sqlite.store import SqliteStore
from agentgate.core.errors import AgentGateError, LogUnavailable

T = TypeVar("T")


class Writer(Intake):
    """Appends for one event loop, in whose thread all of this runs."""

    def __init__(self, connect: Callable[[], SqliteStore]) -> None:
        super().__init__("the disk")
        loop = self._loop
        self._ended = asyncio.Event()
        self._committer = Committer(
            connect,
            tell=lambda answers: _soon(loop, lambda: self._answer(answers)),
            ended=lambda: _soon(loop, self._end),
        )

    async def start(self) -> None:
        """Open the store.

        Raises:
            LogUnavailable, LogBroken, UnsafeConfiguration: with a sentence on why it cannot be used.
        """
        self._committer.start()
        try:
            await self.call(lambda _: None)
        except BaseException:
            await self.aclose()
            raise

    def _send(self, items: list[Item]) -> None:
        self._committer.queue.put(items)

    def _trouble(self) -> AgentGateError | None:
        return self._committer.trouble

    @property
    def size(self) -> int:
        """Events that are durable."""
        return self._committer.size

    @property
    def position(self) -> int:
        """The kill position as of the last commit; only this process writes, so that is the log's."""
        return self._committer.position

    async def call(self, run: Callable[[SqliteStore], T]) -> T:
        """Run something on the writing connection, between two batches.

        Raises:
            LogUnavailable, LogBroken, UnsafeConfiguration: it failed, or the log is not open.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        if self._ended.is_set():
            raise LogUnavailable("the log is closed")
        job = Job(run, lambda result, error: _soon(self._loop, lambda: _settle(future, result, error)))
        self._committer.queue.put(job)
        return cast(T, await future)

    async def drain(self) -> None:
        """Append what was sent, and take nothing more. A disk that does not answer is not waited for."""
        self._flush()
        self._closing = True
        with contextlib.suppress(AgentGateError, TimeoutError):
            await asyncio.wait_for(self.call(lambda _: None), CLOSE_WITHIN_S)

    async def aclose(self) -> None:
        """Close the store, after what was sent. A disk that does not answer is left behind."""
        if self._committer.ident is None:  # never started
            return
        self._flush()
        self._closing = True
        self._committer.queue.put(None)
        try:
            await asyncio.wait_for(self._ended.wait(), CLOSE_WITHIN_S)
        except TimeoutError:
            return
        self._committer.join(CLOSE_WITHIN_S)

    def _end(self) -> None:
        """The thread is gone."""
        self._ended.set()
        self._abandon()


def _settle(future: asyncio.Future[object], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():  # a disk that answers after the end of the process's loop has nobody to tell
        loop.call_soon_threadsafe(call)
