"""The event loop's side of appending: futures, the queue's bound, and the clock that lets nobody wait for ever.

An append costs the loop a list entry. Once per tick the list goes to whoever commits, who takes everything that is
there, commits it as one transaction and answers once. Nobody waits longer than `ANSWER_WITHIN_S`, but for a start.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from agentgate.adapters.log._ledger import Item
from agentgate.core.errors import AgentGateError, LogUnavailable
from agentgate.core.event import Event, Kind
from agentgate.core.projection.effects import WITHOUT_EFFECT, effects
from agentgate.ports.log import Appended

Answer = Appended | AgentGateError

ANSWER_WITHIN_S: Final = 1.0
PATIENT_WITHIN_S: Final = 20.0
"""While no caller waits: a disk that stalls for seconds makes a start longer, and is no reason for not starting."""
MAX_WAITING: Final = 10_000
MAX_BATCH: Final = 1_024
CLOSE_WITHIN_S: Final = 10.0
REOPEN_AFTER_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
"""How long to wait before a store that failed is tried again."""
_WATCH_EVERY_S: Final = 0.1
_SETTLED_EVERY_S: Final = 0.01


class _Sent(NamedTuple):
    """What one tick sent: the items, the count of all items up to and with them, and when."""

    items: list[Item]
    up_to: int
    at: float

    def give_up(self, why: str) -> None:
        for item in self.items:
            if not item.future.done():
                item.future.set_exception(LogUnavailable(why))


class Intake(ABC):
    """Appends for one event loop, in whose thread all of this runs."""

    def __init__(self, medium: str) -> None:
        """`medium` is what may not answer: a disk, a database."""
        self._loop = asyncio.get_running_loop()
        self._medium = medium
        self._within_s = ANSWER_WITHIN_S
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

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Within it an append may take `PATIENT_WITHIN_S`."""
        self._within_s = PATIENT_WITHIN_S
        try:
            yield
        finally:
            self._within_s = ANSWER_WITHIN_S

    def append(self, event: Event) -> asyncio.Future[Appended]:
        _check(event)
        future: asyncio.Future[Appended] = self._loop.create_future()
        refusal = self.refusal()
        if refusal is not None:
            if isinstance(refusal, LogUnavailable):
                refusal.untried = True
            future.set_exception(refusal)
            return future
        if not self._tick:
            self._loop.call_soon(self._flush)
        self._tick.append(Item(event, future))
        return future

    async def settled(self) -> None:
        """Wait for the answers to all that was appended before. Where one of these is a failure of the store, what
        persisted is certain once that is open again, without trouble. Raises LogUnavailable."""
        count = self._count_sent + len(self._tick)
        self.raise_refusal()
        while self._count_answered < count:
            await asyncio.sleep(_SETTLED_EVERY_S)
            self.raise_refusal()

    def refusal(self) -> AgentGateError | None:
        """Why an append need not even be tried now."""
        trouble = self._trouble()
        if trouble is not None:
            return again(trouble)
        if self._closing:
            return LogUnavailable("the log is closed")
        if self._stalled:
            return LogUnavailable(f"{self._medium} has not answered for {self._within_s:g} s")
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
            self._watch_on()
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
        long_ago = self._loop.time() - self._within_s + _WATCH_EVERY_S
        for sent in self._sent:
            if sent.at > long_ago:
                break
            self._stalled = True
            sent.give_up(f"not known to be durable: {self._medium} did not answer")
        self._watching = False
        if self._sent:
            self._watch_on()

    def _watch_on(self) -> None:
        self._watching = True
        # Behind the answers that have come while the loop was busy with something else: uvloop takes what is due first.
        self._loop.call_later(_WATCH_EVERY_S, self._loop.call_soon, self._watch)

    def _abandon(self) -> None:
        """Nobody commits any more; whoever still waits is not known to be recorded."""
        for sent in self._sent:
            sent.give_up("the log was closed first")
        self._sent.clear()


def _check(event: Event) -> None:
    """Raise in the face of who made a malformed event, not in the writer.

    Raises:
        KeyError: a field is missing.
    """
    fields = event.fields
    kind = event.kind
    if kind is Kind.FINISHED:
        fields["trace_id"]
    elif kind is Kind.DECIDED:
        fields["trace_id"], fields["decision"], fields["call_sha256"]
    elif kind not in WITHOUT_EFFECT:
        for _ in effects(fields, 0, 0, event.body, event.projected):
            pass


def in_time(items: list[Item]) -> tuple[list[Item], list[tuple[Item, Answer]]]:
    """The events to append, and the answers to those whose callers were told that it is too late. A cancelled caller's
    event is still appended."""
    wanted: list[Item] = []
    late: list[tuple[Item, Answer]] = []
    for item in items:  # looked at once: a caller may be told so meanwhile, in the loop's thread
        if item.future.done() and not item.future.cancelled():
            late.append((item, LogUnavailable("too late")))
        else:
            wanted.append(item)
    return wanted, late


def refuse_all(items: list[Item], trouble: AgentGateError | None) -> list[tuple[Item, Answer]]:
    """The same refusal for each, an exception of its own for each future."""
    return [(item, again(trouble)) for item in items]


def again(trouble: AgentGateError | None) -> AgentGateError:
    """A new exception that says the same: one instance would collect the tracebacks of all who raise it."""
    return LogUnavailable("the log is not open") if trouble is None else type(trouble)(*trouble.args)


def told(error: BaseException) -> str:
    """The error in a few words; some have none of their own."""
    return str(error) or type(error).__name__
