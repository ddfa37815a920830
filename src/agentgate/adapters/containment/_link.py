"""Keeps one connection to Redis open for as long as the process lives, and says why when there is none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Final

from agentgate.adapters.containment._resp import Connection, NoAnswer, Word, connect
from agentgate.adapters.containment._sentinel import locator
from agentgate.adapters.containment._url import Address, Service
from agentgate.core.errors import KillStateUnknown, UnsafeConfiguration

_log = logging.getLogger(__name__)

OPEN_S: Final = 2.0
"""The time for connecting, logging in and looking at the server."""
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 1.0
HURRIED_PAUSE_S: Final = 0.1
"""Between two attempts while callers are being refused: they want it back sooner than an idle gateway does."""

FAILURES: Final = (OSError, KillStateUnknown, UnsafeConfiguration)
"""What connecting and looking at a server can come to (a timeout is an OSError)."""

Check = Callable[[Connection], Awaitable[None]]
"""Raises UnsafeConfiguration or KillStateUnknown when the server must not be relied on."""


class Link:
    """The current connection, if it can be relied on.

    A server that fails a check is treated as one that is not there: there is one state to reason about, and
    one way back, which is the next attempt.
    """

    def __init__(self, place: Address | Service, *, deadline_s: float, check: Check, check_every_s: float) -> None:
        self._place = place
        self._locate = locator(place)
        self._deadline_s = deadline_s
        self._check = check
        self._check_every_s = check_every_s
        self._lost = asyncio.Event()
        self._tried = asyncio.Event()
        """Set once the first attempt after a loss is over, either way."""
        self._hurry = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        """The one that is attended, also while it does not answer."""
        self.address = Address()
        """Where that one leads to."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a connection has come or gone."""
        self.trouble = "the kill store was not connected yet"
        """Why there is no connection; empty while there is one."""

    async def start(self) -> None:
        """Try once, then keep trying in the background.

        Raises:
            UnsafeConfiguration: the server is there and must not be used. One that is not there yet is no
                reason not to start: everything is refused until it comes.
        """
        try:
            await self._open()
        except UnsafeConfiguration:
            raise
        except FAILURES as error:
            self._failed(error)
        self._keeper = asyncio.create_task(self._keep(), name="agentgate-redis-link")

    def current(self) -> Connection | None:
        """The connection, when it is open and answering."""
        connection = self.connection
        return connection if connection is not None and connection.is_usable else None

    def fire(self, *words: Word) -> None:
        """Send one command and do not care for its answer, nor whether it was sent."""
        if self.connection is not None:
            # Also when it is stalled: commands are carried out in order, and what was asked before may yet be.
            self.connection.fire(*words)

    async def wait(self) -> Connection | NoAnswer:
        """The connection, once the attempt that follows a loss has brought it back, or why there is none.

        It waits for half a deadline, so that the command has the other half; and not at all when that attempt has
        failed already or the server is silent.
        """
        self._hurry.set()
        # A caller that is refused at once and asks again must not keep the loop from hearing the server.
        await asyncio.sleep(0)
        if self.connection is not None and self.connection.is_stalled:
            return NoAnswer("the kill store does not answer")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadline_s / 2):
                await self._tried.wait()
        return self.current() or NoAnswer(self.trouble or "the kill store does not answer")

    async def aclose(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        connection, self.connection = self.connection, None
        self.trouble = "the gateway is shutting down"
        self._tried.set()
        if connection is not None:
            connection.close(self.trouble)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S if self.connection is None else 0.0
        while True:
            if self.connection is not None:
                since = loop.time()
                await self._attend(self.connection)
                if loop.time() - since > LONGEST_PAUSE_S:
                    pause_s = 0.0
            await self._pause(pause_s)
            pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            try:
                await self._open()
            except FAILURES as error:
                self._failed(error)

    async def _attend(self, connection: Connection) -> None:
        """Look at the server again and again; return when the connection is lost."""
        while not self._lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check_every_s):
                    await self._lost.wait()
                return
            try:
                await self._check(connection)
            except (KillStateUnknown, UnsafeConfiguration) as error:
                connection.abort(str(error))
                self._on_lost(connection, str(error))

    async def _open(self) -> None:
        address = await self._locate()
        async with asyncio.timeout(OPEN_S):
            connection = await connect(address, deadline_s=self._deadline_s, login_s=OPEN_S, on_lost=self._on_lost)
            with ExitStack() as undo:
                undo.callback(connection.abort, "it is not fit for use")
                await self._check(connection)
                if not connection.is_usable:
                    raise KillStateUnknown("the connection to the kill store was lost as soon as it was made")
                undo.pop_all()
        self.connection, self.address = connection, address
        self._lost.clear()
        self.trouble = ""
        self._tried.set()
        self.on_change()
        _log.info("kill store %s is connected", address)

    def _on_lost(self, connection: Connection, why: str) -> None:
        if connection is self.connection:
            self.connection = None
            self._tried.clear()
            self._lost.set()
            self._in_trouble(why)
            self.on_change()

    def _failed(self, error: Exception) -> None:
        self._in_trouble(str(error) or f"the kill store could not be connected: {type(error).__name__}")
        self._tried.set()

    def _in_trouble(self, why: str) -> None:
        if why != self.trouble:
            # Once for each new reason, not for each attempt.
            _log.warning("kill store %s is not usable, calls are refused: %s", self._place, why)
        self.trouble = why

    async def _pause(self, pause_s: float) -> None:
        self._hurry.clear()
        await asyncio.sleep(min(pause_s, HURRIED_PAUSE_S))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, pause_s - HURRIED_PAUSE_S)):
                await self._hurry.wait()
