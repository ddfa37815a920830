"""What is listened to at a server: changes of its lists, and resources that somebody subscribed to.

On the shared session the first who wants a resource subscribes and the last ends it. A modern server tells by one
stream, which names all that is wanted; an older one is asked for each, and speaks up by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
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
_LISTS: Final = ("tools", "prompts", "resources")


@dataclass(frozen=True, slots=True)
class _Wish:
    """A call that subscribed, and the session of its client where that has one: with it the wish is over."""

    call: Call
    client: str | None

    def is_of(self, call: Call) -> bool:
        return _is_of(call, self.call) and (self.call.session, self.client) == (call.session, _client_of(call))


Wanted = dict[str, list[_Wish]]
"""By URI, who subscribed to it and has not taken that back."""


class Listening:
    """One session's. `wanted` outlives the session.

    Args:
        on_doubt: called when something may have changed that nobody said.
    """

    def __init__(self, wanted: Wanted, on_doubt: Callable[[], None]) -> None:
        self._uris = wanted
        self._taken: set[str] = set()
        """Of those, what the server of this session has agreed to tell of."""
        self._awaited: set[str] = set()
        """The clients whose end we are told of."""
        self._on_doubt = on_doubt
        self._changed = asyncio.Event()
        self._is_open = asyncio.Event()

    def add(self, uri: str, call: Call) -> bool:
        """One more who wants to hear of it. Returns whether the server is still to be asked, and then `take` is to be
        told that it agreed; or `drop`, that it did not. Raises ValueError: too many."""
        if uri not in self._uris and len(self._uris) >= _MAX_URIS:
            raise ValueError(f"more than {_MAX_URIS} resources are subscribed to")
        if sum(_is_of(call, wish.call) for there in self._uris.values() for wish in there) >= _MAX_OF_ONE:
            raise ValueError(f"more than {_MAX_OF_ONE} subscriptions of one caller")
        # only for whom it is: what came with the request could be large
        kept = replace(call, arguments={}, context={}, peer=None, bearer=None)
        self._uris.setdefault(uri, []).append(_Wish(kept, _client_of(call)))
        self._await_end(call)
        return uri not in self._taken

    def _await_end(self, call: Call) -> None:
        peer, client = peer_of(call), _client_of(call)
        if peer is not None and client is not None and client not in self._awaited:
            self._awaited.add(client)
            peer.on_session_end(partial(self._left, client))

    async def _left(self, client: str) -> None:
        self._awaited.discard(client)
        self._forget_where(lambda wish: wish.client == client)

    def take(self, uri: str) -> None:
        """The server tells of it. Whoever asked may have gone meanwhile."""
        if uri in self._uris:
            self._taken.add(uri)

    def drop(self, uri: str, call: Call) -> bool:
        """One less, where it is the caller's own. Returns whether it was the last."""
        there = self._uris.get(uri, [])
        own = next((wish for wish in there if wish.is_of(call)), None)
        if own is None:
            return False
        there.remove(own)
        if not there:
            self._forget(uri)
        return not there

    def forget(self, is_over: Callable[[Call], bool]) -> None:
        """Drop those whose callers were killed. An older server is told nothing: what it says then nobody hears."""
        self._forget_where(lambda wish: is_over(wish.call))

    def _forget_where(self, is_over: Callable[[_Wish], bool]) -> None:
        for uri, there in tuple(self._uris.items()):
            there[:] = [wish for wish in there if not is_over(wish)]
            if not there:
                self._forget(uri)

    def _forget(self, uri: str) -> None:
        del self._uris[uri]
        self._taken.discard(uri)
        self._changed.set()

    async def subscribe_again(self, wire: Wire) -> None:
        """What an earlier session had subscribed to; a modern server's stream begins with it anyway."""
        if not wire.is_modern:
            for uri in tuple(self._uris):
                with suppress(MCPError):  # it is no longer there; who asks for it will see
                    await wire.request(wire.new_id(), "resources/subscribe", {"uri": uri})
                    self.take(uri)

    async def follow(self, most_s: float) -> None:
        """Have a modern server's stream carry what is counted now; returns when it does, or cannot within `most_s`."""
        self._is_open.clear()
        self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._is_open.wait()

    async def run(self, wire: Wire) -> None:
        """Hold a modern server's stream open until cancelled."""
        offers = wire.offers
        lists = {name: bool(offers.get(name, {}).get("listChanged")) for name in _LISTS}
        while wire.is_modern and await self._listen(wire, lists):
            pass
        self._is_open.set()
        await asyncio.Event().wait()

    async def _listen(self, wire: Wire, lists: dict[str, bool]) -> bool:
        """One stream, as long as it holds. Returns whether to try another one."""
        uris = tuple(self._uris)
        self._changed.clear()
        if not uris and not any(lists.values()):
            self._is_open.set()
            await self._changed.wait()
            return True
        try:
            async with listen(
                wire,
                tools_list_changed=lists["tools"],
                prompts_list_changed=lists["prompts"],
                resources_list_changed=lists["resources"],
                resource_subscriptions=uris,
            ) as stream:
                self._is_open.set()
                self._taken = {uri for uri in uris if uri in self._uris}
                self._on_doubt()  # what changed before it was open, nobody has said
                await _until(_drain(stream), self._changed)
        except MCPError as error:
            if error.code == METHOD_NOT_FOUND:
                return False
        except (SubscriptionLost, TimeoutError):
            pass
        if not self._changed.is_set():
            self._on_doubt()  # reads the list, and so sees whether the server is there at all
            await asyncio.sleep(_PAUSE_S)
        return True


def _client_of(call: Call) -> str | None:
    peer = peer_of(call)
    return peer.session_key if peer is not None else None


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
