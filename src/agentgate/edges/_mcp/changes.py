"""What tool servers announce, told to clients: lists that have changed, and resources that somebody subscribed to."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import anyio
from mcp.server.connection import Connection
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp.types import SubscriptionsListenRequestParams, SubscriptionsListenResult

from agentgate.core.call import Call
from agentgate.edges._mcp import answers, sdk
from agentgate.edges._mcp.calls import Calls, Target
from agentgate.edges._mcp.lists import Lists, target_of
from agentgate.edges._mcp.parts import INVALID_PARAMS
from agentgate.edges._mcp.peer import ClientPeer
from agentgate.pipeline.containment.flights import IsOver
from agentgate.pipeline.limits.refusals import RefusalLimiter

_TELL_WITHIN_S: Final = 1.0
"""For a client to take an announcement; one that does not read has itself to ask again."""
_MOST_URIS: Final = 100
_MOST_LISTENING: Final = 32
"""Streams of announcements for one caller, so that nobody takes all there are."""


class Changes:
    """Who listens, and for what."""

    def __init__(self, calls: Calls, lists: Lists, refusals: RefusalLimiter) -> None:
        self._calls = calls
        self._lists = lists
        self._refusals = refusals
        self._bus = InMemorySubscriptionBus()
        self._handler = ListenHandler(self._bus)
        self._connections: set[Connection] = set()
        self._listening: Counter[tuple[str, str]] = Counter()
        self._streams: dict[anyio.CancelScope, list[Call]] = {}
        """What listens, each with the calls that a kill would have to cover to end it."""

    def end(self) -> None:
        """End the streams on which nothing but announcements come: what shuts down would wait for them."""
        self._handler.close()

    def remember(self, connection: Connection) -> None:
        """A client of the handshake era is ready to hear of changes."""
        if connection in self._connections:
            return
        self._connections.add(connection)
        connection.exit_stack.callback(self._connections.discard, connection)

    async def listen(self, ctx: sdk.Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Changes for a modern client: of the resources that it may subscribe to, and of lists."""
        peer = ClientPeer(ctx)
        self._turn_away(peer)
        asked = params.notifications.resource_subscriptions or []
        whose = (peer.caller.tenant, peer.caller.id)
        if len(asked) > _MOST_URIS or self._listening[whose] >= _MOST_LISTENING:
            text = f"At most {_MOST_URIS} resources on a stream, and {_MOST_LISTENING} streams"
            raise MCPError(INVALID_PARAMS, text)
        call = self._calls.call_of(peer, Target("subscriptions.listen", None, {}))
        peer.stream = call.trace_id  # what is subscribed to is given up with it, however it ends
        self._listening[whose] += 1
        stream = anyio.CancelScope()
        self._streams[stream] = [call]
        try:
            with stream:
                taken = [uri for uri in asked if await self._calls.apart(peer, self._subscribe(peer, uri, stream))]
                honoured = params.notifications.model_copy(update={"resource_subscriptions": taken or None})
                return await self._handler(ctx, params.model_copy(update={"notifications": honoured}))
            return SubscriptionsListenResult(_meta={SUBSCRIPTION_ID_META_KEY: ctx.request_id})
        finally:
            del self._streams[stream]
            self._listening[whose] -= 1
            if not self._listening[whose]:
                del self._listening[whose]

    def _turn_away(self, peer: ClientPeer) -> None:
        if self._refusals.is_over(peer.caller):
            raise answers.turned_away()

    async def _subscribe(self, peer: ClientPeer, uri: str, stream: anyio.CancelScope) -> bool:
        self._turn_away(peer)  # each is a call of its own
        method = "resources/subscribe"
        operation = await self._lists.by_uri(peer, method, uri)
        answer = await self._calls.once(peer, target_of(operation, method, {"uri": uri}))
        if answer.success:
            self._streams[stream].append(answer.call)
        return answer.success

    def drop(self, is_over: IsOver) -> None:
        """End the streams of callers that are killed, and those on which a killed server would be heard."""
        for stream, calls in tuple(self._streams.items()):
            if any(map(is_over, calls)):
                stream.cancel()

    async def announce(self, method: str, params: Mapping[str, Any]) -> None:
        """What changed, to everybody who listens; of a resource, to those who subscribed to it."""
        event = _event(method, params.get("uri"))
        if event is None:
            return
        await self._bus.publish(event)
        if not isinstance(event, ResourceUpdated):  # a client of the handshake era hears of those from its own session
            await asyncio.gather(*(_tell(one, method) for one in tuple(self._connections)))


async def _tell(connection: Connection, method: str) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TELL_WITHIN_S):
            await connection.notify(method, None)


def _event(method: str, uri: Any) -> ServerEvent | None:
    if method == "notifications/resources/updated":
        return ResourceUpdated(uri=uri) if isinstance(uri, str) else None
    lists: dict[str, ServerEvent] = {
        "notifications/tools/list_changed": ToolsListChanged(),
        "notifications/prompts/list_changed": PromptsListChanged(),
        "notifications/resources/list_changed": ResourcesListChanged(),
    }
    return lists.get(method)
