"""Calls whose server asks something of a client that can only be answered in its next request.

A 2025 server asks in the middle of a call and waits; a 2026 client gets questions as a result and sends the same call
again with answers. Between the two the call is parked: it goes on at the server, in a session of its own, until the
tool's time is over. Whoever answers must be who asked, with the same call.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from agentgate.adapters.upstreams._mcp.calls import Calls, on_the_wire
from agentgate.adapters.upstreams._mcp.link import Link
from agentgate.adapters.upstreams._mcp.orders import LOST, SHARE_TAKEN, Order, of_error, of_result
from agentgate.adapters.upstreams._mcp.relay import Running, mirrored
from agentgate.adapters.upstreams._mcp.sessions import Sessions, ShareTaken
from agentgate.adapters.upstreams._mcp.shared import Shared
from agentgate.core.call import Call
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.peer import Peer, PeerUnable
from agentgate.ports.upstreams import Delivered, Undelivered

_STATE_PREFIX: Final = "agentgate-parked-"
_MAY_ASK: Final = frozenset({"tools/call", "prompts/get", "resources/read"})


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
    """Where calls are parked, each under a state that nobody can guess, until their tool's time is over.

    Args:
        shared: carries what finds no session of its own.
        sessions: lend one to each call.
        calls: what holds for every call.
    """

    def __init__(self, shared: Shared, sessions: Sessions, calls: Calls) -> None:
        self._shared = shared
        self._sessions = sessions
        self._calls = calls
        self._parked: dict[str, tuple[Parked, asyncio.TimerHandle]] = {}

    def is_for(self, link: Link, order: Order, peer: Peer) -> bool:
        """Whether the server may ask something in the middle of this call, or this answers what it asked."""
        if not peer.is_modern or link.wire.is_modern or order.method not in _MAY_ASK:
            return False
        return bool(mirrored(peer.capabilities)) or _state_of(order) is not None

    async def send(self, order: Order, grant: Grant, peer: Peer, header: Mapping[str, str]) -> Delivered | Undelivered:
        """See `Upstream.send`: a call in a session that is lent to it, or the answers to one that is parked."""
        assert grant.call.tool is not None
        whose, state = _whose(grant), _state_of(order)
        if state is not None:
            return await self._go_on(state, whose, order, peer)
        try:
            link = await self._sessions.lend(peer, grant.call)
        except ShareTaken:
            return SHARE_TAKEN
        if link is None:  # no place for one: as a client that can answer nothing
            shared = self._shared.link
            if shared is None:  # any more, after the wait for a place
                return self._shared.down()
            return await self._calls.send(shared, order, grant.call, peer, header)
        try:
            found = await self._calls.refusal(link, order)
        except BaseException:  # cancelled: the server may still be at its list
            self._sessions.give_back(link, is_clean=False)
            raise
        if isinstance(found, Undelivered):
            self._sessions.give_back(link)
            return found
        parked = Parked(whose, grant.call, link, lambda ended: self._sessions.give_back(link, is_clean=ended))
        parked.start(peer, order.method, *on_the_wire(link, order, header))
        return await self._drive(parked, order, grant.call.tool.timeout_s)

    async def _go_on(self, state: str, whose: str, order: Order, peer: Peer) -> Delivered | Undelivered:
        """The answers to what is parked under `state`, which only its caller may give, and only once."""
        found = self._parked.get(state)
        if found is None or found[0].whose != whose:
            fault = {"code": INVALID_PARAMS, "message": "Invalid or expired requestState"}
            detail = "the call that this answers is over, or is not the same"
            return Undelivered(ReasonCode.UPSTREAM_ERROR, detail, reached=False, fault=fault)
        del self._parked[state]
        parked, timer = found
        timer.cancel()
        left_s = max(0.0, timer.when() - asyncio.get_running_loop().time())
        answers = order.params.get("inputResponses")
        parked.answer(peer, answers if isinstance(answers, Mapping) else {})
        return await self._drive(parked, order, left_s)

    async def _drive(self, parked: Parked, order: Order, left_s: float) -> Delivered | Undelivered:
        started = time.monotonic()
        try:
            result = await parked.until_asked()
        except MCPError as error:
            return of_error(error, parked.link.mark, has_ended=not parked.link.is_up)
        except Dropped:
            return LOST
        if result is not None:
            try:
                return of_result(result, order, self._calls.output_check(order))
            except ValueError:
                return Undelivered(ReasonCode.UPSTREAM_ERROR, "the tool's outputSchema cannot be checked")
        state = _STATE_PREFIX + secrets.token_urlsafe(32)
        left_s = max(0.0, left_s - (time.monotonic() - started))
        self._parked[state] = parked, asyncio.get_running_loop().call_later(left_s, self._expire, state)
        parked.running.peer = None
        asked = {"resultType": "input_required", "inputRequests": parked.input_requests(), "requestState": state}
        return of_result(asked, order, None)

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


def _state_of(order: Order) -> str | None:
    state = order.params.get("requestState")
    return state if isinstance(state, str) and state.startswith(_STATE_PREFIX) else None


def _whose(grant: Grant) -> str:
    """Who may answer: the same caller for the same user in the same session, with the same call."""
    call = grant.call
    caller = (call.tenant, call.caller.id, call.caller.on_behalf_of or "")
    parts = (*caller, call.session, call.tool_name, call.arguments_json.decode())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
