"""One Redis connection, shared by every call of the process.

What makes it fast: the commands of one loop tick leave in one write, and a call costs one future, no task and
no timer of its own. What makes it safe: answers are matched to commands by order alone, so a command that was
given up on keeps its slot until its late answer has come and is thrown away; and a connection that has said
one thing that we do not understand is never listened to again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from typing import Final, cast

import hiredis

from agentgate.adapters.containment._url import Address
from agentgate.core.errors import KillStateUnknown

Answer = object
"""What a command comes to: `bytes`, `int`, `list` or None as RESP2 says it, a `hiredis.ReplyError` that the
server answered, or `NoAnswer`. Errors are values here: each is one more reason to refuse, none is a surprise."""
Word = str | bytes | int

_MORE: Final = object()
"""The parser's word for "not a whole answer yet": an object that no answer can equal."""
_MOST_UNSENT: Final = 64
"""A tick with more commands than this is sent in parts, so that the server works while we still write."""
_GRACE_S: Final = 0.001
_HUNG_S: Final = 1.0
"""This long after the deadline of the oldest command the connection is given up: a path that was cut without a
word (a lost host, a firewall) shows in no other way."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The command was not answered, and may or may not have been carried out."""

    detail: str


class Connection(asyncio.Protocol):
    """A connected socket with the commands that wait on it, in order."""

    def __init__(
        self,
        deadline_s: float,
        on_lost: Callable[[Connection, str], None],
        on_message: Callable[[bytes], None] | None = None,
    ) -> None:
        """`on_message` gets what is published on the channels that this connection has subscribed to."""
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._on_message = on_message
        self._next_answer = self._reader.gets if on_message is None else self._next_that_is_no_message
        self._slots: deque[tuple[asyncio.Future[Answer] | None, float]] = deque()
        """Who waits (None: nobody ever did) and until when; the oldest first, as answers come."""
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = inf
        self._why_closed = ""
        self.is_stalled = False
        """A deadline has passed and nothing was heard since. Whoever asks now would only wait in vain."""

    # --- commands ---

    @property
    def is_usable(self) -> bool:
        return not (self.is_stalled or self._why_closed)

    def command(self, *words: Word, deadline_s: float | None = None) -> asyncio.Future[Answer]:
        """Send one command; the future gets its answer, or `NoAnswer` at the deadline. It never raises."""
        waiter: asyncio.Future[Answer] = self._loop.create_future()
        if self._why_closed:
            waiter.set_result(NoAnswer(self._why_closed))
            return waiter
        due = self._loop.time() + (self._deadline_s if deadline_s is None else deadline_s)
        self._send(words, waiter, due)
        return waiter

    def fire(self, *words: Word) -> None:
        """Send one command and do not care for its answer."""
        if not self._why_closed:
            self._send(words, None, self._loop.time() + self._deadline_s)

    def close(self, why: str) -> None:
        """End it: what waits is answered `NoAnswer(why)` now, what was said before is still sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
        self._give_up(why)

    def abort(self, why: str) -> None:
        """End it at once. A server that hangs would never take what `close` still has to send."""
        if self._transport is not None:
            self._transport.abort()
        self._give_up(why)

    def _send(self, words: tuple[Word, ...], waiter: asyncio.Future[Answer] | None, due: float) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        elif len(self._unsent) >= _MOST_UNSENT:
            self._flush()
        self._unsent.append(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub wants a tuple of one
        self._slots.append((waiter, due))
        if due < self._timer_due:
            self._arm(due)

    def _flush(self) -> None:
        if self._unsent and self._transport is not None and not self._why_closed:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    # --- what the transport tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and not an assert: uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._why_closed:
            return
        self.is_stalled = False
        self._reader.feed(data)
        try:
            while (answer := self._next_answer()) is not _MORE:
                if not self._slots:
                    self.abort(_unasked(answer))
                    return
                waiter, _ = self._slots.popleft()
                if waiter is not None and not waiter.done():
                    waiter.set_result(answer)
        except (hiredis.ProtocolError, TypeError):  # TypeError: a map with a list for a key
            self.abort("the kill store answered something that is not RESP")

    def _next_that_is_no_message(self) -> Answer:
        while True:
            match self._reader.gets():
                case [b"message", bytes(), bytes(payload)] if self._on_message is not None:
                    self._on_message(payload)
                case answer:
                    return answer

    def eof_received(self) -> None:
        # `connection_lost` comes a turn of the loop later: what were sent until then would be lost, and refused.
        self._give_up(_lost())

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up(_lost(exc))
        self._on_lost(self, self._why_closed)

    def _give_up(self, why: str) -> None:
        """Nothing more is said or heard here; the first reason stands."""
        self._why_closed = self._why_closed or why
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, inf
        for waiter, _ in self._slots:
            if waiter is not None and not waiter.done():
                waiter.set_result(NoAnswer(self._why_closed))
        self._slots.clear()

    # --- deadlines ---

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._look_once_more)

    def _look_once_more(self) -> None:
        """Read before refusing: after a pause of our own (the loop was busy) the answers lie in the socket,
        but timers may run before reading does."""
        self._timer = self._loop.call_later(_GRACE_S, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        self._timer, self._timer_due = None, inf
        if not self._slots:
            return
        next_due = self._slots[0][1] + _HUNG_S
        if next_due <= now:
            self.abort(f"the kill store has not answered for {_HUNG_S:.0f} s")
            return
        for waiter, due in self._slots:
            if waiter is None or waiter.done():
                continue
            if due > now:
                next_due = min(next_due, due)
                continue
            waiter.set_result(NoAnswer("the kill store did not answer in time"))
            self.is_stalled = True
        self._arm(next_due)


async def connect(
    address: Address,
    *,
    deadline_s: float,
    login_s: float,
    on_lost: Callable[[Connection, str], None],
    on_message: Callable[[bytes], None] | None = None,
) -> Connection:
    """Open a connection and log in.

    Raises:
        OSError: nobody listens there, or not with the TLS that was asked for.
        KillStateUnknown: the server does not let us in.
    """
    loop = asyncio.get_running_loop()

    def protocol() -> Connection:
        return Connection(deadline_s, on_lost, on_message)

    if address.path:
        _, connection = await loop.create_unix_connection(protocol, address.path)
    else:
        _, connection = await loop.create_connection(protocol, address.host, address.port, ssl=address.tls)
    with ExitStack() as undo:
        # Also when we are cancelled: a connection that nobody holds would stay open for ever.
        undo.callback(connection.abort, "it could not log in")
        if address.password is not None:
            user = (address.username,) if address.username else ()
            _must("AUTH", await connection.command("AUTH", *user, address.password, deadline_s=login_s))
        if address.db:
            _must("SELECT", await connection.command("SELECT", address.db, deadline_s=login_s))
        undo.pop_all()
    return connection


def _must(what: str, answer: Answer) -> None:
    if isinstance(answer, (NoAnswer, hiredis.ReplyError)):
        raise KillStateUnknown(f"{what}: {explain(answer)}")


def _lost(exc: Exception | None = None) -> str:
    return f"the connection to the kill store was lost: {exc or 'closed by the other side'}"


def _unasked(answer: Answer) -> str:
    """A server that is full says so before it is asked, and hangs up."""
    return (
        explain(answer) if isinstance(answer, hiredis.ReplyError) else "the kill store answered what nobody had asked"
    )


def explain(answer: Answer) -> str:
    """A sentence about an answer that is not the one that was hoped for."""
    match answer:
        case NoAnswer(detail):
            return detail
        case hiredis.ReplyError():
            return f"the kill store answered {str(answer)[:200]}"
        case _:
            return "the kill store answered something that makes no sense"
