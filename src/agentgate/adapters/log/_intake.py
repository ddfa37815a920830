"""The event loop's side of appending: futures, the queue's bound, and the clock that lets nobody wait for ever.

An append costs the loop a list entry. Once per tick the list goes to whoever commits, who takes everything that is
there, commits it as one transaction and answers once. Nobody waits longer than `ANSWER_WITHIN_S`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Final

from agentgate.adapters.log._ledger import Item, Outcome, check
from agentgate.core.errors import AgentGateError, LogUnavailable
from agentgate.core.event import Event
from agentgate.ports.log import Spend

Answer = Outcome | AgentGateError

ANSWER_WITHIN_S: Final = 1.0
MAX_WAITING: Final = 10_000
MAX_BATCH: Final = 1_024
CLOSE_WITHIN_S: Final = 10.0
REOPEN_AFTER_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
"""How long to wait before a store that failed is tried again."""
_WATCH_EVERY_S: Final = 0.1


class _Sent:
    """What one tick sent: the items, the count of all items up to and with them, and when."""

    __slots__ = ("at", "items", "up_to")

    def __init__(self, items: list[Item], up_to: int, at: float) -> None:
        self.items = items
        self.up_to = up_to
        self.at = at


class Intake(ABC):
    """Appends for one event loop, in whose thread all of this runs."""

    def __init__(self, medium: str) -> None:
        """`medium` is what may not answer: a disk, a database."""
        self._loop = asyncio.get_running_loop()
        self._medium = medium
        self._tick: list[Item] = []
        self._sent: deque[_Sent] = deque()
        self._count_sent = 0
        self._count_answered = 0
        self._watching = False
        self._stalled = False
        self._closing = False

    @abstractmethod
    def _send(self, items: list[Item]) -> None:
        """Hand one tick's events to whoever commits; each will be answered by `_answer`."""

    @abstractmethod
    def _trouble(self) -> AgentGateError | None:
        """What keeps the store from being written now."""

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
        trouble = self._trouble()
        if trouble is not None:
            return again(trouble)
        if self._closing:
            return LogUnavailable("the log is closed")
        if self._stalled:
            return LogUnavailable(f"{self._medium} has not answered for {ANSWER_WITHIN_S:g} s")
        if self._count_sent - self._count_answered + len(self._tick) >= MAX_WAITING:
            return LogUnavailable(f"{MAX_WAITING} events are waiting already")
        return None

    def raise_refusal(self) -> None:
        """For what rests on a log that can be written: what cannot be recorded may not run on its word either.

        Raises:
            LogUnavailable, LogBroken
        """
        refusal = self.refusal()
        if refusal is not None:
            raise refusal

    def _flush(self) -> None:
        items, self._tick = self._tick, []
        if not items:
            return
        self._count_sent += len(items)
        self._sent.append(_Sent(items, self._count_sent, self._loop.time()))
        if not self._watching:
            self._watching = True
            self._loop.call_later(_WATCH_EVERY_S, self._watch)
        self._send(items)

    def _answer(self, answers: list[tuple[Item, Answer]]) -> None:
        """The answers to all items of one transaction."""
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
        """Give up on what was sent too long ago: a store that hangs must not hang callers."""
        long_ago = self._loop.time() - ANSWER_WITHIN_S + _WATCH_EVERY_S
        for sent in self._sent:
            if sent.at > long_ago:
                break
            self._stalled = True
            for item in sent.items:
                if not item.future.done():
                    item.future.set_exception(LogUnavailable(f"not known to be durable: {self._medium} did not answer"))
        self._watching = bool(self._sent)
        if self._watching:
            self._loop.call_later(_WATCH_EVERY_S, self._watch)

    def _abandon(self) -> None:
        """Nobody commits any more; whoever still waits is not known to be recorded."""
        for sent in self._sent:
            for item in sent.items:
                if not item.future.done():
                    item.future.set_exception(LogUnavailable("the log was closed first"))
        self._sent.clear()


def given_up(item: Item) -> bool:
    """Whether its caller was told that it is too late. A cancelled caller's event is still appended."""
    return item.future.done() and not item.future.cancelled()


def refuse_all(items: list[Item], trouble: AgentGateError | None) -> list[tuple[Item, Answer]]:
    """The same refusal for each, an exception of its own for each future."""
    return [(item, again(trouble)) for item in items]


def again(trouble: AgentGateError | None) -> AgentGateError:
    """A new exception that says the same: one instance would collect the tracebacks of all who raise it."""
    return LogUnavailable("the log is not open") if trouble is None else type(trouble)(*trouble.args)
