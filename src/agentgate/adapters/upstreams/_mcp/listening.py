"""What is listened to at a server: changes of its lists, and resources that somebody subscribed to.

On the shared session the first who wants a resource subscribes and the last ends it. A modern server tells by one
stream, which names all that is wanted; an older one is asked for each, and speaks up by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from mcp.client.subscriptions import SubscriptionLost, listen
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND

from agentgate.adapters.upstreams._mcp.wire import Wire
from agentgate.core.call import Call
from agentgate.ports.peer import peer_of

_MAX_URIS: Final = 1_000
_MAX_OF_ONE: Final = 250
"""So that no caller takes all there are."""
_PAUSE_S: Final = 1.0
_GIVE_UP_WITHIN_S: Final = 5.0
"""For an older server to answer that it tells no more."""
_LISTS: Final = ("tools", "prompts", "resources")

_Whose = tuple[str | None, str]
"""The client's key, and the session of ours that its call was in."""


class Wanted:
    """By URI, who subscribed to it, for as long as nobody takes that back and the client hears. It outlives sessions
    with the server."""

    def __init__(self) -> None:
        self._wishes: dict[str, dict[_Whose, Call]] = {}
        self._awaited: set[str] = set()
        """The clients whose end we are told of."""
        self.changed = asyncio.Event()
        """Set when the server is to be told; cleared by who tells it."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._wishes)

    def __contains__(self, uri: str) -> bool:
        return uri in self._wishes

    def add(self, uri: str, call: Call) -> None:
        """Raises ValueError: there are too many, or it could not be told when this one is over, and nobody hears."""
        peer = peer_of(call)
        if peer is None or peer.session_key is None:
            raise ValueError("the client has no session, and no stream, on which it would hear of a change")
        if uri not in self._wishes and len(self._wishes) >= _MAX_URIS:
            raise ValueError(f"more than {_MAX_URIS} resources are subscribed to")
        if sum(_is_of(call, wish) for there in self._wishes.values() for wish in there.values()) >= _MAX_OF_ONE:
            raise ValueError(f"more than {_MAX_OF_ONE} subscriptions of one caller")
        # only for whom it is: what came with the request could be large
        kept = replace(call, arguments={}, context={}, peer=None, bearer=None)
        self._wishes.setdefault(uri, {})[_whose(call)] = kept
        if peer.session_key not in self._awaited:
            self._awaited.add(peer.session_key)
            peer.on_session_end(partial(self._left, peer.session_key))

    async def _left(self, client: str) -> None:
        self._awaited.discard(client)
        self._forget(lambda whose, _: whose[0] == client)

    def drop(self, uri: str, call: Call) -> None:
        """What the caller itself subscribed to."""
        own = _whose(call)
        self._forget(lambda whose, _: whose == own, uri)

    def forget(self, is_over: Callable[[Call], bool]) -> None:
        """Drop those whose callers were killed."""
        self._forget(lambda _, wish: is_over(wish))

    def _forget(self, is_over: Callable[[_Whose, Call], bool], only: str | None = None) -> None:
        for uri in tuple(self._wishes) if only is None else [only]:
            there = self._wishes.get(uri, {})
            for whose in [whose for whose, wish in there.items() if is_over(whose, wish)]:
                del there[whose]
                if not there:
                    del self._wishes[uri]
                    self.changed.set()


class Listening:
    """One session's.

    Args:
        on_doubt: called when something may have changed that nobody said.
    """

    def __init__(self, wanted: Wanted, on_doubt: Callable[[], None]) -> None:
        self.wanted = wanted
        self._agreed: dict[str, bool] = {}
        """What the server of this session said to each that it was asked to tell of."""
        self._on_doubt = on_doubt
        self._has_answered = asyncio.Event()
        self._is_deaf = False
        """Whether it is a modern server that cannot be listened to."""

    def tells_of(self, uri: str) -> bool:
        return self._agreed.get(uri, False)

    def take(self, uri: str) -> None:
        """An older server tells of it. Whoever asked may have gone meanwhile."""
        self._agreed[uri] = True
        if uri not in self.wanted:
            self.wanted.changed.set()

    async def subscribe_again(self, wire: Wire) -> None:
        """What an earlier session had subscribed to; a modern server's stream begins with it anyway."""
        if not wire.is_modern:
            for uri in tuple(self.wanted):
                with suppress(MCPError):  # it is no longer there; who asks for it will see
                    await wire.request(wire.new_id(), "resources/subscribe", {"uri": uri})
                    self.take(uri)

    async def follow(self, uri: str, most_s: float) -> bool:
        """Have a modern server's stream carry `uri` as well. Returns whether it agreed to that within `most_s`."""
        self._agreed.pop(uri, None)
        self.wanted.changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                while uri not in self._agreed and not self._is_deaf:
                    await self._has_answered.wait()
        return self.tells_of(uri)

    def _answered(self, agreed: Mapping[str, bool]) -> None:
        self._agreed = dict(agreed)
        self._has_answered.set()
        self._has_answered = asyncio.Event()

    async def run(self, wire: Wire) -> None:
        """Keep to what is wanted until cancelled: hold a modern server's stream open, tell an older one what it need
        not tell any more."""
        while not wire.is_modern:
            await self._give_up(wire)
        offers = wire.offers
        lists = {name: bool(offers.get(name, {}).get("listChanged")) for name in _LISTS}
        while await self._listen(wire, lists):
            pass
        self._is_deaf = True
        self._answered({})
        await asyncio.Event().wait()

    async def _give_up(self, wire: Wire) -> None:
        self.wanted.changed.clear()
        for uri in tuple(self._agreed):
            if uri not in self.wanted:
                del self._agreed[uri]
                with suppress(MCPError):  # then it is told for nobody
                    asked = "resources/unsubscribe", {"uri": uri}
                    await wire.request(wire.new_id(), *asked, timeout_s=_GIVE_UP_WITHIN_S)
        await self.wanted.changed.wait()

    async def _listen(self, wire: Wire, lists: dict[str, bool]) -> bool:
        """One stream, as long as it holds. Returns whether to try another one."""
        uris = tuple(self.wanted)
        self.wanted.changed.clear()
        if not uris and not any(lists.values()):
            await self.wanted.changed.wait()
            return True
        try:
            async with listen(
                wire,
                tools_list_changed=lists["tools"],
                prompts_list_changed=lists["prompts"],
                resources_list_changed=lists["resources"],
                resource_subscriptions=uris,
            ) as stream:
                agreed = set(stream.honored.resource_subscriptions or ())
                self._answered({uri: uri in agreed for uri in uris})
                self._on_doubt()  # what changed before it was open, nobody has said
                await _until(_drain(stream), self.wanted.changed)
        except MCPError as error:
            if error.code == METHOD_NOT_FOUND:
                return False
        except (SubscriptionLost, TimeoutError):
            pass
        if not self.wanted.changed.is_set():
            self._answered(dict.fromkeys(uris, False))
            self._on_doubt()  # reads the list, and so sees whether the server is there at all
            await asyncio.sleep(_PAUSE_S)
        return True


def _whose(call: Call) -> _Whose:
    peer = peer_of(call)
    return peer.session_key if peer is not None else None, call.session


def _is_of(one: Call, other: Call) -> bool:
    return (one.tenant, one.caller.id) == (other.tenant, other.caller.id)


async def _drain(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:  # the session hears each one itself
        pass


async def _until(work: Coroutine[Any, Any, None], event: asyncio.Event) -> None:
    """Work until it is done or the event is set. Raises what the work does."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
