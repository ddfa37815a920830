"""Finds the master that Sentinels know by a name (Redis, *Guidelines for Sentinel clients*).

Sentinels may disagree: one that was cut off goes on naming a master that was deposed. So every attempt begins with
another Sentinel than the last, and whether what it names is a master at all is for the caller to check. What cannot
be checked, two servers that both take themselves for the master, is what kill positions are for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from agentgate.adapters.containment._resp import connect, explain
from agentgate.adapters.containment._url import Address, Service
from agentgate.core.errors import KillStateUnknown
from agentgate.core.hosts import is_host

ASK_S: Final = 0.5
"""The time that one Sentinel is given, with connecting and logging in."""


def locator(place: Address | Service) -> Callable[[], Awaitable[Address]]:
    """What finds the server at `place`. Sentinels are asked each time: a connection may be lost by a fail-over."""

    async def stay(address: Address) -> Address:
        return address

    return partial(stay, place) if isinstance(place, Address) else Sentinels(place).master


class Sentinels:
    """The Sentinels of one service, in the order in which they will be asked."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._order = deque(service.sentinels)

    async def master(self) -> Address:
        """The address of the master, as the first Sentinel says that answers. Raises KillStateUnknown."""
        reasons = []
        for _ in range(len(self._order)):
            sentinel = self._order[0]
            self._order.rotate(-1)
            try:
                return await self._ask(sentinel)
            except (OSError, KillStateUnknown) as error:
                reasons.append(f"{sentinel}: {str(error) or type(error).__name__}")
        raise KillStateUnknown(f"no Sentinel names the master of {self._service.name!r} ({'; '.join(reasons)})")

    async def _ask(self, sentinel: Address) -> Address:
        """Raises OSError, KillStateUnknown."""
        async with asyncio.timeout(ASK_S):
            connection = await connect(sentinel, deadline_s=ASK_S, login_s=ASK_S, on_lost=lambda *_: None)
            try:
                answer = await connection.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service.name)
            finally:
                connection.abort("it was asked")
        match answer:
            case [bytes(name), bytes(port)] if name and _is_port(port):
                host = name.decode(errors="replace")
                if is_host(host):
                    return replace(self._service.master, host=host, port=int(port))
            case None:
                raise KillStateUnknown("it knows no master of that name")
        raise KillStateUnknown(explain(answer))


def _is_port(text: bytes) -> bool:
    """Its length first: to read thousands of digits is an error of its own."""
    return text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536
