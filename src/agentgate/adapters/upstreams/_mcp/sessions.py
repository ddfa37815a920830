"""The sessions with one server beside the shared one: of clients that have a session themselves, and lent ones.

A lent session carries one call at a time. It is for a client without a session that can answer questions, at a server
that asks them in the middle of a call: only so is it certain whose call a question is about.

No caller has more than a share of them, however many clients it runs and calls it leaves parked: others need some too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import orjson

from agentgate.adapters.upstreams._mcp.link import Link
from agentgate.adapters.upstreams._mcp.relay import mirrored
from agentgate.core.call import Call, ToolName
from agentgate.ports.peer import Peer

Open = Callable[[Peer], Link]
"""Start a session for a client."""

_IDLE_S: Final = 120.0
"""How long a lent session is kept for the next call of the same kind."""

_Holder = tuple[str, str]
"""A caller: its tenant and its principal's id."""
_Whose = tuple[_Holder, str | None, bytes]
"""Whom a lent session is kept for: a caller, for one user, whose client declared just these capabilities."""


class ShareTaken(Exception):
    """The caller has its share of the sessions, and something goes on in each of them."""


class Sessions:
    """At most `most` sessions, and `most_of_one` of one caller. The one that nobody has used for longest makes place
    for a new one; where a caller has its share, one of its own does."""

    def __init__(self, open_: Open, most: int, most_of_one: int | None) -> None:
        """Where `most_of_one` is not said it is half of `most`. Raises ValueError when it is none of them, or more."""
        self._open = open_
        self._most = most
        self._most_of_one = (most + 1) // 2 if most_of_one is None else most_of_one
        if not 1 <= self._most_of_one <= most:
            raise ValueError("max_sessions_per_caller must be from 1 to max_sessions")
        self._of_clients: dict[str, Link] = {}
        self._last_calls: dict[str, Call] = {}
        """Of each of these."""
        self._awaited: set[str] = set()
        """The clients whose end we are told of."""
        self._lent: dict[Link, _Whose] = {}
        self._idle: dict[Link, _Whose] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def of_client(self, peer: Peer, call: Call) -> Link | None:
        """The client's session for `call`, up or not; None where there is no place for one.

        Raises:
            ShareTaken
        """
        key = peer.session_key
        assert key is not None
        link = self._of_clients.get(key)
        if link is None:
            if not self._has_place(_holder(call)):
                return None
            link = self._of_clients[key] = self._open(peer)
            if key not in self._awaited:  # once for the client's session, however often ours breaks meanwhile
                self._awaited.add(key)
                peer.on_session_end(lambda: self._client_left(key))
        link.relay.serve(peer)
        link.last_used = time.monotonic()
        self._last_calls[key] = call
        if await link.ready() is not None:
            await self._end(key, link)
        return link

    async def lend(self, peer: Peer, call: Call) -> Link | None:
        """A session for `call` alone; None where there is none to be had.

        Raises:
            ShareTaken
        """
        declared = orjson.dumps(mirrored(peer.capabilities), option=orjson.OPT_SORT_KEYS)
        whose = _holder(call), call.caller.on_behalf_of, declared
        self._sweep()
        for link, owner in tuple(self._idle.items()):
            if owner == whose:
                del self._idle[link]
                if link.is_up:
                    link.relay.serve(peer)
                    self._lent[link] = whose
                    return link
                self._close_soon(link)
        if not self._has_place(_holder(call)):
            return None
        link = self._open(peer)
        self._lent[link] = whose
        try:
            trouble = await link.ready()
        except BaseException:
            self.give_back(link)
            raise
        if trouble is not None:
            self.give_back(link)
            return None
        return link

    def give_back(self, link: Link, *, is_clean: bool = True) -> None:
        """`is_clean`: nothing of the call goes on in it. A server may not care that a call was withdrawn, and what it
        asks then would be taken for a question of the next one."""
        whose = self._lent.pop(link, None)
        if whose is not None and link.is_up and is_clean:
            link.last_used = time.monotonic()
            self._idle[link] = whose
        else:
            self._close_soon(link)

    def drop(self, is_over: Callable[[Call], bool]) -> None:
        """Give up the sessions of clients that were killed. A kill of a tool kills nobody who uses it."""
        for key, call in tuple(self._last_calls.items()):
            if is_over(replace(call, tool_name=ToolName(""))):
                self._of_clients[key].retire()
                self._forget(key)

    def _forget(self, key: str) -> Link:
        self._last_calls.pop(key, None)
        return self._of_clients.pop(key)

    async def aclose(self) -> None:
        links = {*self._of_clients.values(), *self._lent, *self._idle}
        self._of_clients.clear()
        self._last_calls.clear()
        self._lent.clear()
        self._idle.clear()
        await asyncio.gather(*(link.close() for link in links), *self._closing, return_exceptions=True)

    async def _client_left(self, key: str) -> None:
        self._awaited.discard(key)
        await self._end(key)

    async def _end(self, key: str, link: Link | None = None) -> None:
        """Close the client's session, or only `link` where it is that one."""
        found = self._of_clients.get(key)
        if found is not None and link in (None, found):
            await self._forget(key).close()

    def _has_place(self, holder: _Holder) -> bool:
        """Whether there is place for one more of this caller, if need be because a quiet one has just gone.

        Raises:
            ShareTaken
        """
        own = sum(1 for one in self._holders() if one == holder)
        if own >= self._most_of_one and not self._close_quiet(holder):
            raise ShareTaken
        return len(self._of_clients) + len(self._lent) + len(self._idle) < self._most or self._close_quiet(None)

    def _holders(self) -> Iterator[_Holder]:
        yield from (_holder(self._last_calls[key]) for key in self._of_clients)
        yield from (holder for holder, *_ in (*self._lent.values(), *self._idle.values()))

    def _close_quiet(self, holder: _Holder | None) -> bool:
        """Close the session, of this caller or of anybody, that was of no use to anybody for longest; lent ones first,
        then those that have ended by themselves, whose clients may not have noticed. False where there is none."""
        idle = [link for link, (whose, *_) in self._idle.items() if holder in (None, whose)]
        if idle:
            oldest = min(idle, key=lambda link: link.last_used)
            del self._idle[oldest]
            self._close_soon(oldest)
            return True
        quiet = [
            key
            for key, link in self._of_clients.items()
            if not link.is_starting and not link.relay.running and holder in (None, _holder(self._last_calls[key]))
        ]
        if not quiet:
            return False
        links = self._of_clients
        self._close_soon(self._forget(min(quiet, key=lambda key: (links[key].is_up, links[key].last_used))))
        return True

    def _sweep(self) -> None:
        for link in [link for link in self._idle if time.monotonic() - link.last_used > _IDLE_S]:
            del self._idle[link]
            self._close_soon(link)

    def _close_soon(self, link: Link) -> None:
        task = asyncio.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _holder(call: Call) -> _Holder:
    return call.tenant, call.caller.id
