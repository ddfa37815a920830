"""The session with a server that all callers share: opened, and opened anew for as long as the gateway lives."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from agentgate.adapters.upstreams._mcp.link import Link
from agentgate.adapters.upstreams._mcp.orders import down
from agentgate.ports.upstreams import ServerState, Undelivered

_BACKOFF_S: Final = (0.2, 30.0)
_STEADY_S: Final = 10.0
"""A connection that held for so long starts the backoff anew."""

_log = logging.getLogger("agentgate.mcp")


class Shared:
    """Of the server `name`; `open_` begins one session."""

    def __init__(self, name: str, open_: Callable[[], Link]) -> None:
        self._name = name
        self._open = open_
        self._link: Link | None = None
        self._trouble, self._next_try = "it was not started yet", ""
        self._told = ""
        self.is_closed = False
        self.is_modern_only = False
        """Whether the server, since it was connected last, has refused a session of the older eras."""

    @property
    def link(self) -> Link | None:
        """The session, where it stands."""
        return self._link if self._link is not None and self._link.is_up else None

    async def run(self) -> None:
        """Keep it until `aclose`."""
        delay = _BACKOFF_S[0]
        try:
            while not self.is_closed:
                link = self._link = self._open()
                trouble = await link.ready()
                since = time.monotonic()
                if trouble is None:
                    self.is_modern_only = False
                    self._trouble, self._next_try = "the connection was lost just now", ""
                    self._told = ""
                    trouble = await link.gone()
                await link.close()
                delay = _BACKOFF_S[0] if time.monotonic() - since > _STEADY_S else delay
                pause = delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, guards nothing
                if trouble != self._told and not self.is_closed:
                    self._told = trouble
                    _log.warning("%s is down: %s", self._name, trouble)
                self._trouble, self._next_try = trouble, f"; next try in {pause:.1f} s"
                await asyncio.sleep(pause)
                delay = min(2 * delay, _BACKOFF_S[1])
        finally:
            if self._link is not None:
                await self._link.close()

    def state(self) -> ServerState:
        link = self.link
        if link is None:
            return ServerState(self._name, False, "closed" if self.is_closed else self._trouble + self._next_try)
        listing = link.tools.listing
        count = len(listing.tools) if listing is not None else 0
        return ServerState(self._name, True, f"connected, {count} tools", link.wire.protocol_version or "")

    def down(self) -> Undelivered:
        """For a caller: why, and so where the server is or how it is started, is for operators."""
        return down(f"the server is down{self._next_try}")

    async def aclose(self) -> None:
        self.is_closed = True
        if self._link is not None:
            await self._link.close()
