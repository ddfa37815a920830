"""The client behind one MCP request, as the upstream of its call sees it (`ports.peer.Peer`), in both eras."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
import orjson
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
)
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from agentgate.core.call import Clean, Door, SessionId, is_id
from agentgate.core.strict_json import canonical
from agentgate.edges import idempotency, sessions
from agentgate.edges._mcp import sdk
from agentgate.edges._mcp.parts import CALLER, INVALID_PARAMS, OURS, SESSION, Guest, in_their_name
from agentgate.edges.schemas import ID_PATTERN
from agentgate.edges.wire import is_traceparent
from agentgate.ports.peer import PeerUnable

_STAYS_HERE: Final = frozenset(
    {
        "progressToken",
        PROTOCOL_VERSION_META_KEY,
        CLIENT_INFO_META_KEY,
        CLIENT_CAPABILITIES_META_KEY,
        SERVER_INFO_META_KEY,
    }
)
"""`_meta` of this hop alone."""
_ANNOUNCED: Final = frozenset(
    {
        "notifications/message",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/elicitation/complete",
    }
)
_DECLARED_AS: Final = {"sampling/createMessage": "sampling", "roots/list": "roots"}
_ASK_WITHIN_S: Final = 300.0
"""At most, for a question to somebody before the screen; the call's own deadline is usually nearer."""
_MOST_CLEANERS: Final = 64
_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class ClientPeer:
    """One request: who sent it, in which session of ours, and the way back."""

    def __init__(self, ctx: sdk.Context) -> None:
        """Raises MCPError where what it says of its session, or of its idempotency key, cannot be one."""
        self.ctx = ctx
        self.guest: Guest = ctx.request.scope[CALLER]  # type: ignore[union-attr]
        self.caller = self.guest.principal
        self.stream: str | None = None
        """Names what a modern client listens on, where this is its request for that: a session of one request."""
        self._cleaners: dict[Clean, None] = {}
        self.withdrawn = False
        """Set when the client cancelled the request or closed its stream."""
        self.is_modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        given = (ctx.params or {}).get("_meta")
        self._given: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        self.meta: Mapping[str, Any] = {
            key: value for key, value in self._given.items() if key not in _STAYS_HERE and not key.startswith(OURS)
        }
        self.extra: Mapping[str, Any] = {}
        """What of the request's params is the upstream's; set before the call goes out."""
        self.session, self.refused = sessions.placed(self._asked(), self.caller, Door.MCP, self.session_key)
        """The session of ours that its calls are in, and why they are refused."""
        self.idempotency_key = self._idempotency_key()

    def _idempotency_key(self) -> str | None:
        """The client's own name for this call. What is no call of a tool has none: many are made for one list."""
        if self.ctx.method != "tools/call":
            return None
        named = self._given.get(idempotency.META)
        if named is not None and idempotency.checked(named) is None:
            raise MCPError(INVALID_PARAMS, f"_meta {idempotency.META}: {idempotency.WHAT}")
        return named

    def _asked(self) -> str | None:
        """The session that the request is to belong to, by the order that docs/mcp.md states; None: it names none."""
        if self.caller.session is not None:
            return SessionId(self.caller.session)
        named = self._given.get(SESSION)
        if named is not None:
            if not isinstance(named, str) or not is_id(named):
                raise MCPError(INVALID_PARAMS, f"_meta {SESSION} must match {ID_PATTERN}")
            return SessionId(named)
        return self.guest.session

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context: of the message, else of its transport."""
        given = self._given.get("traceparent")
        return given if isinstance(given, str) and is_traceparent(given) else self.guest.traceparent

    def guard(self, clean: Clean) -> None:
        self._cleaners.pop(clean, None)
        self._cleaners[clean] = None
        if len(self._cleaners) > _MOST_CLEANERS:  # credentials that came and went: the oldest is over first
            del self._cleaners[next(iter(self._cleaners))]

    def share(self, cleaners: dict[Clean, None]) -> None:
        cleaners.update(self._cleaners)
        self._cleaners = cleaners

    @property
    def session_key(self) -> str | None:
        return self.stream or sdk.connection_of(self.ctx).session_id

    @property
    def capabilities(self) -> Mapping[str, Any]:
        if self.is_modern:
            declared = self._given.get(CLIENT_CAPABILITIES_META_KEY)
            return declared if isinstance(declared, Mapping) else {}
        known = self.ctx.session.client_capabilities
        return known.model_dump(by_alias=True, mode="json", exclude_none=True) if known is not None else {}

    @property
    def wants_progress(self) -> bool:
        return "progressToken" in self._given

    def opens_urls(self) -> bool:
        """Whether the client can be asked to have its user open a page."""
        elicitation = self.capabilities.get("elicitation")
        return isinstance(elicitation, Mapping) and isinstance(elicitation.get("url"), Mapping)

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        shown = self._cleaned({"message": message}) if message is not None else None
        with contextlib.suppress(*_GONE):
            await self.ctx.session.report_progress(progress, total, shown["message"] if shown is not None else None)

    def _cleaned(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """What of it the client may be told; None: nothing."""
        try:
            raw = canonical(params)
            for clean in tuple(self._cleaners):
                raw = clean(raw)
        except ValueError:
            return None
        return in_their_name(orjson.loads(raw), raw)

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "notifications/message" and sdk.takes_log_message(self.ctx, params.get("level")):
            shown = self._cleaned(params)
            with contextlib.suppress(*_GONE):
                if shown is not None:
                    await sdk.send_notification(self.ctx, method, shown)

    async def announce(self, method: str, params: Mapping[str, Any]) -> None:
        if method in _ANNOUNCED and not self.is_modern:  # a modern client hears on the stream that it opened for it
            shown = self._cleaned(params)
            if shown is not None:
                await sdk.connection_of(self.ctx).notify(method, shown)

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.is_modern:
            raise PeerUnable("this client takes questions as results that want input")
        if not self._can_be_asked(method, params):
            raise PeerUnable(f"the client did not declare that it takes {method}")
        shown = self._cleaned(params)
        if shown is None:
            raise PeerUnable("the question could not be redacted")
        try:
            return await sdk.send_request(self.ctx, method, shown, _ASK_WITHIN_S)
        except MCPError as error:
            raise PeerUnable(error.message, error.code) from None
        except _GONE:
            raise PeerUnable("the client has gone away") from None

    def _can_be_asked(self, method: str, params: Mapping[str, Any]) -> bool:
        declared = self.capabilities
        if method == "elicitation/create":
            if params.get("mode") == "url":
                return self.opens_urls()
            modes = declared.get("elicitation")
            return isinstance(modes, Mapping) and ("form" in modes or "url" not in modes)
        return _DECLARED_AS.get(method) in declared

    def on_session_end(self, close: Callable[[], Awaitable[None]]) -> None:
        sdk.on_end(sdk.connection_of(self.ctx), close)
