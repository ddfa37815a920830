"""The event loop's side of appending: futures, the queue's bound, and the clock that lets nobody wait for ever.

An append costs the loop a list entry. Once per tick the list goes to the committing thread, which takes everything
that is there, commits it as one transaction and wakes the loop once. Nobody waits longer than `ANSWER_WITHIN_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast

from agentgate.adapters.log._committer import Answer, Committer, Job, again, settle
from agentgate.adapters.log._ledger import Item, Outcome, check
from agentgate.adapters.log._store import SqliteStore
from agentgate.core.containment import KillState
from agentgate.core.errors import AgentGateError, LogUnavailable
from agentgate.core.event import Event
from agentgate.ports import Spend

T = TypeVar("T")

ANSWER_WITHIN_S: Final = 1.0
MAX_WAITING: Final = 10_000
_WATCH_EVERY_S: Final = 0.1
_CLOSE_WITHIN_S: Final = 10.0


class _Sent:
    """What one tick sent: the items, the count of all items up to and with them, and when."""

    __slots__ = ("at", "items", "up_to")

    def __init__(self, items: list[Item], up_to: int, at: float) -> None:
        self.items = items
        self.up_to = up_to
        self.at = at


class Writer:
    """Appends for one event loop, in whose thread all of this runs."""

    def __init__(self, connect: Callable[[], SqliteStore]) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._tick: list[Item] = []
        self._sent: deque[_Sent] = deque()
        self._count_sent = 0
        self._count_answered = 0
        self._watching = False
        self._stalled = False
        self._closing = False
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

    # --- appending ----------------------------------------------------------------------------------------

    def append(self, event: Event, spends: Sequence[Spend]) -> asyncio.Future[Outcome]:
        check(event, spends)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        refusal = self.refusal()
        if refusal is not None:
            future.set_exception(refusal)
            return future
        if not self._tick:
            self._loop.call_soon(self._flush)
        self._tick.append(Item(event, future))
        return future

    def refusal(self) -> AgentGateError | None:
        """Why an append need not even be tried now."""
        if self._committer.trouble is not None:
            return again(self._committer.trouble)
        if self._closing:
            return LogUnavailable("the log is closed")
        if self._stalled:
            return LogUnavailable(f"the disk has not answered for {ANSWER_WITHIN_S:g} s")
        if self._count_sent - self._count_answered + len(self._tick) >= MAX_WAITING:
            return LogUnavailable(f"{MAX_WAITING} events are waiting already")
        return None

    def _flush(self) -> None:
        items, self._tick = self._tick, []
        if not items:
            return
        self._count_sent += len(items)
        self._sent.append(_Sent(items, self._count_sent, self._loop.time()))
        if not self._watching:
            self._watching = True
            self._loop.call_later(_WATCH_EVERY_S, self._watch)
        self._committer.queue.put(items)

    def _answer(self, answers: list[tuple[Item, Answer]]) -> None:
        """The thread's answers to all items of one transaction."""
        for item, answer in answers:
            future = item.future
            if future.done():  # its caller was cancelled, or has been told to give up
                continue
            if isinstance(answer, AgentGateError):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._stalled = False
        self._count_answered += len(answers)
        while self._sent and self._sent[0].up_to <= self._count_answered:
            self._sent.popleft()

    def _watch(self) -> None:
        """Give up on what the thread has had for too long: a hung disk must not hang callers."""
        long_ago = self._loop.time() - ANSWER_WITHIN_S + _WATCH_EVERY_S
        for sent in self._sent:
            if sent.at > long_ago:
                break
            self._stalled = True
            for item in sent.items:
                if not item.future.done():
                    item.future.set_exception(LogUnavailable("not known to be durable: the disk did not answer"))
        self._watching = bool(self._sent)
        if self._watching:
            self._loop.call_later(_WATCH_EVERY_S, self._watch)

    # --- the rest -----------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Events that are durable."""
        return self._committer.size

    def kill_state(self) -> KillState:
        """The kills in force as of the last commit; only this process writes, so that is the log's.

        Raises:
            LogUnavailable, LogBroken: the log cannot be written now: then nothing may run on its word either.
        """
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        return self._committer.kill_state

    async def call(self, run: Callable[[SqliteStore], T]) -> T:
        """Run something on the writing connection, between two batches.

        Raises:
            LogUnavailable, LogBroken, UnsafeConfiguration: it failed, or the log is not open.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        if self._ended.is_set():
            raise LogUnavailable("the log is closed")
        job = Job(run, lambda result, error: _soon(self._loop, lambda: settle(future, result, error)))
        self._committer.queue.put(job)
        return cast(T, await future)

    async def drain(self) -> None:
        """Append what was sent, and take nothing more. A disk that does not answer is not waited for."""
        self._flush()
        self._closing = True
        with contextlib.suppress(AgentGateError, TimeoutError):
            await asyncio.wait_for(self.call(lambda _: None), _CLOSE_WITHIN_S)

    async def aclose(self) -> None:
        """Close the store, after what was sent. A disk that does not answer is left behind."""
        if self._committer.ident is None:  # never started
            return
        self._flush()
        self._closing = True
        self._committer.queue.put(None)
        try:
            await asyncio.wait_for(self._ended.wait(), _CLOSE_WITHIN_S)
        except TimeoutError:
            return
        self._committer.join(_CLOSE_WITHIN_S)

    def _end(self) -> None:
        """The thread is gone; whoever still waits is not known to be recorded."""
        self._ended.set()
        for sent in self._sent:
            for item in sent.items:
                if not item.future.done():
                    item.future.set_exception(LogUnavailable("the log was closed first"))
        self._sent.clear()


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():  # a disk that answers after the end of the process's loop has nobody to tell
        loop.call_soon_threadsafe(call)
