"""What runs in one session with a server, and whom the server's words beside its answers concern.

Beside a call nobody is asked: no decision would stand behind the answer.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND

from agentgate.core import strict_json
from agentgate.core.call import Clean
from agentgate.ports.peer import Peer, PeerUnable
from agentgate.ports.upstreams import Audience

_MAX_TOLD: Final = 256
_MAX_ASKED: Final = 32
_MAX_PROGRESS: Final = 64
_CALL_COMES_S: Final = 1.0

_NEEDS: Final = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}
"""What a server may ask of a client, and the capability that the client must have. What else a client declares, we
could not answer for it."""
_UPDATED: Final = "notifications/resources/updated"
_CHANGES: Final = frozenset({"notifications/prompts/list_changed", "notifications/resources/list_changed", _UPDATED})

Ask = Callable[[str, Mapping[str, Any]], Coroutine[Any, Any, Mapping[str, Any]]]


def mirrored(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a client declared, what we carry."""
    return {name: capabilities[name] for name in _NEEDS.values() if isinstance(capabilities.get(name), Mapping)}


class Running:
    """One call in a session: whose it is."""

    def __init__(self, peer: Peer | None, ask: Ask | None = None) -> None:
        self.peer = peer
        self.asking: set[asyncio.Future[Mapping[str, Any]]] = set()
        """The server's questions that nobody has answered yet. With the call they are over."""
        self.ask = ask
        """Who answers the server instead of the peer, where the peer answers by other means."""
        self.is_alone = True
        """Whether no other call has run beside it: then what the server says uncalled is about it."""
        self._reporting = 0

    @property
    def capabilities(self) -> dict[str, Any]:
        return mirrored(self.peer.capabilities) if self.peer is not None else {}

    @property
    def wants_progress(self) -> bool:
        return self.peer is not None and self.peer.wants_progress

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Progress is a level: what comes faster than the client reads it is left out."""
        if self.peer is None or self._reporting >= _MAX_PROGRESS or not _is_strict([progress, total, message]):
            return
        self._reporting += 1
        try:
            await self.peer.progress(progress, total, message)
        finally:
            self._reporting -= 1


_CURRENT: contextvars.ContextVar[Running | None] = contextvars.ContextVar("agentgate_mcp_call", default=None)
"""Over HTTP the SDK hands what arrives on a request's own stream on in the context of who sent the request."""


class Relay:
    """Hears what a server says beside its answers.

    Args:
        peer: the client whose session this is; None where all share it.
        on_doubt: called when the server says that its list of tools has changed.
    """

    def __init__(self, server: str, audience: Audience, peer: Peer | None, on_doubt: Callable[[], None]) -> None:
        self._server = server
        self._audience = audience
        self.peer: Peer | None = None
        self.is_shared = peer is None
        self._cleaners: dict[Clean, None] = {}
        """Of all calls that this session had, where it is one client's: who knows which of them a word is about."""
        if peer is not None:
            self.serve(peer)
        self.capabilities = {} if peer is None else mirrored(peer.capabilities)
        """What is declared to the server."""
        self._on_doubt = on_doubt
        self.running: dict[int, Running] = {}
        self._called = asyncio.Event()
        self._has_strays = False
        self._told = self._asked = 0

    def serve(self, peer: Peer) -> None:
        """What the server says beside all calls is for this one."""
        self.peer = peer
        peer.share(self._cleaners)

    @contextmanager
    def carrying(self, request_id: int, running: Running) -> Iterator[None]:
        """The call runs meanwhile. What it was asked and has not answered is over with it."""
        for other in self.running.values():
            other.is_alone = running.is_alone = False
        self.running[request_id] = running
        if running.peer is not None and not self.is_shared:
            running.peer.share(self._cleaners)
        self._called.set()
        token = _CURRENT.set(running)
        try:
            yield
        except asyncio.CancelledError:
            self._has_strays = True
            raise
        finally:
            _CURRENT.reset(token)
            self.running.pop(request_id, None)
            for asking in running.asking:
                asking.cancel()

    def _concerned(self) -> Running | None:
        """Whose call a word of the server is about; None where that is not certain enough to tell anybody."""
        current = _CURRENT.get()
        calls = list(self.running.values())
        if current is not None and current in calls:
            return current
        if not calls:
            return None
        if not self.is_shared:
            return calls[-1]
        # a call that was withdrawn may go on at the server, and speak
        return calls[0] if len(calls) == 1 and calls[0].is_alone and not self._has_strays else None

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request of the server: the client whose call it is does, where it can. Raises MCPError."""
        if method == "ping":
            return {}
        needed = _NEEDS.get(method)
        if needed is None or needed not in self.capabilities:
            raise MCPError(METHOD_NOT_FOUND, "Method not found")
        if not _is_strict(params):
            raise MCPError(INVALID_PARAMS, "Invalid params")
        if self._asked >= _MAX_ASKED:
            raise MCPError(INTERNAL_ERROR, "too many questions at a time")
        self._asked += 1
        try:
            running = self._concerned() or await self._next_call()
            answer = await self._answer(running, needed, method, params)
        finally:
            self._asked -= 1
        if not _is_strict(answer):
            raise MCPError(INTERNAL_ERROR, "the client's answer is not strict JSON")
        return answer

    async def _next_call(self) -> Running | None:
        """A session begins with a moment before its first call, in which some servers ask."""
        self._called.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CALL_COMES_S):
                await self._called.wait()
        return self._concerned()

    async def _answer(
        self, running: Running | None, needed: str, method: str, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the client of a call says, for as long as the call runs: an answer after its end goes nowhere."""
        peer = (running.peer or self.peer) if running is not None else None
        if running is None or peer is None or needed not in peer.capabilities:
            raise MCPError(METHOD_NOT_FOUND, "Method not found")
        asking = asyncio.ensure_future((running.ask or peer.ask)(method, params))
        running.asking.add(asking)
        try:
            answer = dict(await asking)
            if running not in self.running.values():
                raise asyncio.CancelledError
            return answer
        except PeerUnable as unable:
            raise MCPError(unable.code or METHOD_NOT_FOUND, str(unable)) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise MCPError(INTERNAL_ERROR, "the call that this belongs to is over") from None
        finally:
            running.asking.discard(asking)

    async def told(self, method: str, params: Mapping[str, Any]) -> None:
        """Hand a notification on. What comes faster than anybody hears it is left out."""
        if method == "notifications/tools/list_changed":
            self._on_doubt()
            return
        if self._told >= _MAX_TOLD or not _is_strict(params):
            return
        self._told += 1
        try:
            await self._tell(method, params)
        finally:
            self._told -= 1

    async def _tell(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "notifications/message":
            running = self._concerned()
            if running is not None and running.peer is not None:
                await running.peer.notify(method, params)
            elif self.peer is not None:
                await self.peer.announce(method, params)
        elif method == _UPDATED and not isinstance(params.get("uri"), str):
            return
        elif method in _CHANGES and self.is_shared:
            without_meta = {name: value for name, value in params.items() if name != "_meta"}
            await self._audience.changed(self._server, method, without_meta)
        elif (method in _CHANGES or method == "notifications/elicitation/complete") and self.peer is not None:
            await self.peer.announce(method, params)


def _is_strict(value: Any) -> bool:
    try:
        strict_json.check(value)
    except strict_json.NotStrictJson:
        return False
    return True
