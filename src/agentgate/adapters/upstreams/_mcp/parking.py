"""Calls whose server asks something of a client that can only be answered in its next request.

A 2025 server asks in the middle of a call and waits; a 2026 client gets questions as a result and sends the same call
again with answers. Between the two the call is parked: it goes on at the server, in a session of its own, until the
tool's time is over. Whoever answers must be who asked, with the same call.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp_types import INTERNAL_ERROR

from agentgate.adapters.upstreams._mcp.link import Link
from agentgate.adapters.upstreams._mcp.relay import Running
from agentgate.core.call import Call
from agentgate.ports.peer import Peer, PeerUnable

STATE_PREFIX: Final = "agentgate-parked-"


class Dropped(Exception):
    """The call was ended from here while somebody waited for it."""


class Parked:
    """One call at its server, and what the server wants to know.

    Args:
        whose: what the next request must have in common with the first.
        call: what the gate let through, for kills.
        free: called once when the call is over and its session is free; with whether it came to its own end.
    """

    def __init__(self, whose: str, call: Call, link: Link, free: Callable[[bool], None]) -> None:
        self.whose = whose
        self.call = call
        self.link = link
        self._free = free
        self._questions: dict[str, tuple[str, Mapping[str, Any], asyncio.Future[Mapping[str, Any]]]] = {}
        self._came = asyncio.Event()
        self._number = 0
        self.running = Running(None, self._ask)
        self._task: asyncio.Task[dict[str, Any]] | None = None

    def start(self, peer: Peer, method: str, params: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.running.peer = peer
        self._task = asyncio.create_task(self.link.call(self.running, method, params, headers))
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[dict[str, Any]]) -> None:
        if not task.cancelled():
            task.exception()  # seen, even where nobody comes back for it
        self._free(not task.cancelled())

    async def until_asked(self) -> dict[str, Any] | None:
        """The server's result, or None when it wants to know something. Cancelling this ends the call for good.

        Raises:
            MCPError: the server's or the connection's.
            Dropped
        """
        assert self._task is not None
        came = asyncio.ensure_future(self._came.wait())
        try:
            await asyncio.wait({self._task, came}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.drop()
            raise
        finally:
            came.cancel()
        if self._task.cancelled():
            raise Dropped
        return self._task.result() if self._task.done() else None

    def input_requests(self) -> dict[str, Any]:
        return {key: {"method": method, "params": dict(params)} for key, (method, params, _) in self._questions.items()}

    def answer(self, peer: Peer, answers: Mapping[str, Any]) -> None:
        """Hand the answers on. A question without one stays open."""
        self.running.peer = peer
        for key in tuple(self._questions):
            given = answers.get(key)
            if isinstance(given, Mapping):
                _, _, future = self._questions.pop(key)
                if not future.done():
                    future.set_result(given)
        if not self._questions:
            self._came.clear()

    def drop(self) -> None:
        """End the call at its server."""
        if self._task is not None:
            self._task.cancel()

    async def _ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        if len(self._questions) >= 32:
            raise PeerUnable("too many questions at a time", INTERNAL_ERROR)
        self._number += 1
        key = f"q{self._number}"
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._questions[key] = (method, params, future)
        self._came.set()
        try:
            return await future
        finally:
            self._questions.pop(key, None)


class Parking:
    """Where calls are parked, each under a state that nobody can guess, for `most_s` from being parked first."""

    def __init__(self) -> None:
        self._parked: dict[str, tuple[Parked, asyncio.TimerHandle]] = {}

    def park(self, parked: Parked, most_s: float) -> str:
        state = STATE_PREFIX + secrets.token_urlsafe(32)
        timer = asyncio.get_running_loop().call_later(most_s, self._expire, state)
        self._parked[state] = (parked, timer)
        return state

    def take(self, state: str, whose: str) -> tuple[Parked, float] | None:
        """The call parked under `state` and what is left of its time; None for nobody's, or another's. Only once."""
        found = self._parked.get(state)
        if found is None or found[0].whose != whose:
            return None
        del self._parked[state]
        parked, timer = found
        timer.cancel()
        return parked, max(0.0, timer.when() - asyncio.get_running_loop().time())

    def _expire(self, state: str) -> None:
        parked, _ = self._parked.pop(state)
        parked.drop()

    def drop(self, is_over: Callable[[Call], bool]) -> None:
        """End the calls that are."""
        for state, (parked, timer) in tuple(self._parked.items()):
            if is_over(parked.call):
                del self._parked[state]
                timer.cancel()
                parked.drop()

    def close(self) -> None:
        self.drop(lambda _: True)
