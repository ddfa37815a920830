"""The MCP door: `/mcp`, Streamable HTTP for every protocol revision since 2024-11-05 (docs/mcp.md).

This module knows who is calling and that the message is one; what it says is read by the SDK, behind `_mcp/server.py`.
The SDK takes half a second to import, so that waits for the first request, or for a start with tool servers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agentgate.core.call import Call, Principal, is_id
from agentgate.core.decision import Decision
from agentgate.core.errors import ReasonCode
from agentgate.edges._mcp.message import INVALID_REQUEST, Reader, Unserved, request_id_of, require_single_headers
from agentgate.edges._mcp.parts import Guest, Parts
from agentgate.edges.caller import Callers
from agentgate.edges.problem import Problem, method_not_allowed
from agentgate.edges.schemas import ID_PATTERN
from agentgate.edges.wire import Message, Receive, Request, Send, replay
from agentgate.pipeline.calls.gate import Gate
from agentgate.pipeline.calls.passage import Answer
from agentgate.pipeline.containment.flights import IsOver

if TYPE_CHECKING:
    from agentgate.edges._mcp.server import Hall

PATH: Final = "/mcp"
_METHODS: Final = ("DELETE", "GET", "POST")
_LOOK_EVERY_S: Final = 0.25
_OPEN_AGAIN_S: Final = 1.0

_log = logging.getLogger("agentgate.mcp")

Serve = Callable[[Send], Awaitable[None]]
"""Answers a request."""


class McpDoor:
    """Admits requests, and keeps what serves them for as long as `run` runs."""

    def __init__(
        self, gate: Gate, callers: Callers, parts: Parts, *, is_wanted: bool, takes_plain: bool = True
    ) -> None:
        """`parts` without its way through the gate, which is this door's. `is_wanted`: load the SDK at once.
        `takes_plain`: False where a test compares what the SDK's server makes of everything."""
        self._gate = gate
        self._callers = callers
        self._parts = replace(parts, through=self._through, is_closing=lambda: gate.closing)
        self._wanted = asyncio.Event()
        if is_wanted:
            self._wanted.set()
        self._takes_plain = takes_plain
        self._tried = asyncio.Event()
        self._hall: Hall | None = None
        self._in_flight: set[tuple[bytes, str]] = set()
        self._reader = Reader(parts.worker, parts.rules.max_body_bytes)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with AsyncExitStack() as stack:
            self._hall = hall = await self._open(stack)
            self._tried.set()
            try:
                while not self._gate.closing:  # noqa: ASYNC110 - a signal sets it, and nobody is told
                    await asyncio.sleep(_LOOK_EVERY_S)
                hall.changes.end()
                while not hall.calls.is_idle():  # noqa: ASYNC110 - as above
                    await asyncio.sleep(_LOOK_EVERY_S)
                await asyncio.sleep(_LOOK_EVERY_S)  # for the last answers to be written
                hall.end_streams()
                await asyncio.Event().wait()
            finally:
                self._hall = None

    async def _open(self, stack: AsyncExitStack) -> Hall:
        """What serves, as soon as it is wanted. To load it takes files: whoever fills up the descriptors of the process
        must not end it so. Then those who wait hear that it failed, and the next one has it tried again."""
        while True:
            await self._wanted.wait()
            try:
                # in a thread, because calls through other doors and kills go on meanwhile
                hall = await asyncio.to_thread(_load, self._parts)
                await stack.enter_async_context(hall.open())
            except (OSError, ImportError):
                _log.exception("the MCP door cannot be opened; it is tried again for the next request")
                self._wanted.clear()
                self._tried.set()
                self._tried.clear()
                await asyncio.sleep(_OPEN_AGAIN_S)
            else:
                return hall

    def drop(self, is_over: IsOver) -> None:
        """End the streams of announcements of callers that are killed."""
        if self._hall is not None:
            self._hall.changes.drop(is_over)

    async def announce(self, server: str, method: str, params: Mapping[str, Any]) -> None:
        """Tell clients what a tool server announced. Never raises but CancelledError."""
        if self._hall is not None:
            await self._hall.changes.announce(method, params)

    async def serve(self, request: Request, receive: Receive, send: Send) -> None:
        """GET, POST and DELETE on `/mcp`.

        Raises:
            Problem: nobody of ours, or no method of the path.
        """
        if request.scope["method"] not in _METHODS:
            raise method_not_allowed(_METHODS)
        principal, bearer = await self._callers.caller(request.headers, request.client_host)
        try:
            require_single_headers(request)
            guest = _guest(request, principal, bearer, lambda: self._knows(request))
            if request.scope["method"] != "POST":
                await self._pass_on(request, guest, receive, send)
                return
            body, message = await self._reader.read(request, receive)
            guest = replace(guest, size=len(body))
            if not await self._serve_plain(request, message, guest, receive, send):
                passing_on = partial(self._pass_on, request, guest, replay(body, receive))
                await self._once(request, request_id_of(message), passing_on, send)
        except Unserved as unserved:
            self._parts.refusals.refused(principal)
            await unserved.answer(send)

    async def _knows(self, request: Request) -> bool:
        try:
            await self._callers.caller(request.headers, request.client_host)
        except Problem:
            return False
        return True

    async def _serve_plain(
        self, request: Request, message: dict[str, Any], guest: Guest, receive: Receive, send: Send
    ) -> bool:
        """Whether it was a plain call, which the SDK's server need not see."""
        hall = self._hall
        if hall is None or not self._takes_plain:
            return False
        plain = hall.plain.read(request, message)
        if plain is not None:
            await hall.plain.serve(plain, request.scope, guest, receive, send)
            return True
        hall.seated.hear(request, message, guest.principal)
        seated = hall.seated.read(request, message, guest.principal)
        if seated is None:
            return False
        await self._once(
            request, request_id_of(message), partial(hall.seated.serve, seated, request.scope, guest), send
        )
        return True

    async def _once(self, request: Request, request_id: str | None, serve: Serve, send: Send) -> None:
        """In a session an id names one request at a time: the SDK would mix up the answers of two."""
        session = request.headers.get(b"mcp-session-id")
        if session is None or request_id is None:
            await serve(send)
            return
        here = (session, request_id)
        if here in self._in_flight or (
            self._hall is not None and self._hall.calls.serves(session.decode("latin-1"), request_id)
        ):
            text = "A request with this id is being served in this session"
            raise Unserved(400, INVALID_REQUEST, text, ReasonCode.INVALID_REQUEST, request_id=None)

        async def sending(message: Message) -> None:
            if not message.get("more_body", True):  # from its last byte on the client may think that it is over
                self._in_flight.discard(here)
            await send(message)

        self._in_flight.add(here)
        try:
            await serve(sending)
        finally:
            self._in_flight.discard(here)

    async def _pass_on(self, request: Request, guest: Guest, receive: Receive, send: Send) -> None:
        if self._hall is None:
            self._wanted.set()
            await self._tried.wait()
        hall = self._hall
        if hall is None:
            ending = ReasonCode.SHUTTING_DOWN, "The gateway is shutting down"
            failed = ReasonCode.INTERNAL, "MCP cannot be served just now"
            raise Problem(503, *(ending if self._gate.closing else failed), headers={"Retry-After": "1"})
        await hall.serve(request.scope, guest, receive, send)

    async def _through(self, call: Call, refused: Decision | None) -> Answer:
        answer = await self._gate.pass_through(call, refused)
        if answer.outcome is None:
            self._parts.refusals.refused(call.caller)
        return answer


def _guest(
    request: Request, principal: Principal, bearer: str | None, is_still_known: Callable[[], Awaitable[bool]]
) -> Guest:
    session = request.headers.get(b"agentgate-session")
    named = session.decode("latin-1") if session is not None else None
    if named is not None and not is_id(named):
        text = f"AgentGate-Session must match {ID_PATTERN}"
        raise Unserved(400, INVALID_REQUEST, text, ReasonCode.INVALID_REQUEST)
    address = f"{request.scope.get('scheme', 'http')}://{request.headers[b'host'].decode('latin-1')}"
    return Guest(principal, named, request.traceparent, address, bearer, is_still_known)


def _load(parts: Parts) -> Hall:
    from agentgate.edges._mcp.server import Hall  # half a second, which no start without MCP should pay

    return Hall(parts)
