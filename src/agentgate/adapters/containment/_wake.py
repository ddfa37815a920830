"""Hears of every change of the kill store, on a second connection: a subscription takes no other commands.

For promptness only. Whoever misses a wake-up hears of the position by the heartbeat, so nothing here is refused on and
nothing raises: the connection is made again for as long as the process lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from agentgate.adapters.containment._link import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, OPEN_S, Link
from agentgate.adapters.containment._resp import Connection, connect, explain
from agentgate.core.errors import KillStateUnknown

_log = logging.getLogger(__name__)

PING_EVERY_S: Final = 2.0
MOST_DIGITS: Final = 18


class Ear:
    """Listens beside a `Link`: to the server that it is connected to, and anew whenever it has connected anew."""

    def __init__(
        self,
        link: Link,
        channel: str,
        position: Callable[[], Awaitable[int | None]],
        *,
        ping_every_s: float = PING_EVERY_S,
        answer_within_s: float = OPEN_S,
    ) -> None:
        """`position` asks the store where it is: what was said before the subscription is not lost."""
        self._link = link
        self._channel = channel
        self._position = position
        self._ping_every_s = ping_every_s
        self._answer_within_s = answer_within_s
        self._listeners: list[Callable[[int], None]] = []
        self._stir = asyncio.Event()
        """Set when either connection has come or gone."""
        self._keeper: asyncio.Task[None] | None = None
        self._trouble = ""
        link.on_change = self._stir.set

    def add(self, on_wake: Callable[[int], None]) -> None:
        self._listeners.append(on_wake)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="agentgate-redis-ear")

    async def aclose(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._stir.clear()
            beside = self._link.connection
            if beside is None:
                await self._stir.wait()
                continue
            try:
                await self._listen(beside)
            except FAILURES as error:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                if self._link.connection is beside:  # else the link has lost it too, and says so
                    self._failed(str(error) or type(error).__name__)
            else:
                pause_s = FIRST_PAUSE_S

    async def _listen(self, beside: Connection) -> None:
        """Listen until the link has another connection, or none. Raises one of FAILURES when it cannot."""
        async with asyncio.timeout(OPEN_S):
            connection = await connect(
                self._link.address,
                deadline_s=self._answer_within_s,
                login_s=OPEN_S,
                on_lost=lambda *_: self._stir.set(),
                on_message=self._heard,
            )
        try:
            answer = await connection.command("SUBSCRIBE", self._channel)
            if not isinstance(answer, list):
                raise KillStateUnknown(f"SUBSCRIBE: {explain(answer)}")
            self._trouble = ""
            position = await self._position()
            if position is not None:
                self._tell(position)
            while await self._is_quiet(beside, connection):
                answer = await connection.command("PING")
                if not isinstance(answer, list):
                    raise KillStateUnknown(f"PING: {explain(answer)}")
        finally:
            connection.abort("it is listened to no more")

    async def _is_quiet(self, beside: Connection, connection: Connection) -> bool:
        """Wait a while; False when the link has moved on. Raises KillStateUnknown when our connection is lost."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ping_every_s):
                while self._link.connection is beside:
                    self._stir.clear()
                    if not connection.is_usable:
                        raise KillStateUnknown("the connection that hears of changes was lost")
                    await self._stir.wait()
        return self._link.connection is beside

    def _heard(self, payload: bytes) -> None:
        # Whoever may publish can say what he likes; only the log is believed.
        if payload.isdigit() and len(payload) <= MOST_DIGITS:
            self._tell(int(payload))

    def _tell(self, position: int) -> None:
        for on_wake in self._listeners:
            # Not from here: a fault of theirs must not end the connection.
            asyncio.get_running_loop().call_soon(on_wake, position)

    def _failed(self, why: str) -> None:
        if why != self._trouble:
            _log.warning("wake-ups are not heard, kills are heard of by the heartbeat alone: %s", why)
        self._trouble = why
