"""Whom the upstream of a running call may talk back to: the client that made the call, as its door shows it.

Only doors of protocols that talk both ways have one (MCP: progress, log messages, sampling, elicitation). Nothing in it
is part of a call's digest. What of it reaches an upstream as content are answers to the upstream's questions: those of
a client that `is_modern` are in the call's context, where policy and the log see them; what `ask` returns goes straight
to the upstream, and is in no record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, cast

from agentgate.core.call import Call, Clean, Withdrawable


class PeerUnable(Exception):
    """The client did not declare what is asked of it, has gone away, or answered with an error (then `code` is its
    JSON-RPC code)."""

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


class Peer(Withdrawable, Protocol):
    """One request of a client, for as long as it runs."""

    @property
    def session_key(self) -> str | None:
        """Names the client's connection where its protocol has one: an upstream that keeps sessions opens one for each.
        Of a client whose requests stand alone (`is_modern`), the stream on which it listens, where this is of that.
        None: there is nothing that it could hear on beside the answer."""
        ...

    @property
    def is_modern(self) -> bool:
        """Whether the client's revision has no server-to-client requests, but answers `input_required` results
        (MCP 2026-07-28 and later). Then `ask` always raises."""
        ...

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What the client declared, as MCP's ClientCapabilities in JSON."""
        ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """The request's `_meta` as it may go on: without progressToken, protocol version, client info, capabilities."""
        ...

    @property
    def extra(self) -> Mapping[str, Any]:
        """Further members of the request's params that belong to the upstream: inputResponses, requestState."""
        ...

    @property
    def wants_progress(self) -> bool: ...

    def share(self, cleaners: dict[Clean, None]) -> None:
        """Be one of those who speak for the same client in a session with an upstream: all that each was guarded with
        is in `cleaners`, and what the upstream says beside an answer goes through all of these. It may be about
        another call than the one that it is told with."""
        ...

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Tell how far it is; does nothing where the client did not ask. Never raises but CancelledError."""
        ...

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """A notification that belongs to this request (`notifications/message`). Never raises but CancelledError."""
        ...

    async def announce(self, method: str, params: Mapping[str, Any]) -> None:
        """A notification on the client's session, beside any request. Never raises but CancelledError."""
        ...

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request to the client (`sampling/createMessage`, `elicitation/create`, `roots/list`); its result.

        Raises:
            PeerUnable
        """
        ...

    def on_session_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have `close` awaited once when what the `session_key` names ends. Only where there is one."""
        ...


def peer_of(call: Call) -> Peer | None:
    """The client's side of a call, where its door's protocol has one."""
    return cast("Peer | None", call.peer)  # core has no async, so it knows only the half that it needs
