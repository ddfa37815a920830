"""Upstream kind `mcp`: a server of the Model Context Protocol, behind a command (stdio) or a URL (Streamable HTTP).

Both eras: servers with sessions (2024-11-05 to 2025-11-25) and without (2026-07-28). What goes through is passed on
as it is; what a server may do to us is bounded: answers, lists, lines, questions, sessions. Nothing of a client
reaches a server but the arguments that were decided on, and its answers to the server's questions.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from agentgate.adapters.upstreams._answers import CLOSED, NO_GRANT
from agentgate.adapters.upstreams._mcp.link import Link
from agentgate.adapters.upstreams._mcp.listening import Wanted
from agentgate.adapters.upstreams._mcp.listing import EndlessList
from agentgate.adapters.upstreams._mcp.orders import (
    LOST,
    Order,
    check_options,
    down,
    input_requests,
    is_declared,
    not_declared,
    of_error,
    of_result,
    quarantined,
    read_order,
    wants_input,
)
from agentgate.adapters.upstreams._mcp.parking import STATE_PREFIX, Dropped, Parked, Parking
from agentgate.adapters.upstreams._mcp.relay import Running, mirrored
from agentgate.adapters.upstreams._mcp.sessions import Sessions, ShareTaken
from agentgate.adapters.upstreams._mcp.settings import ServerSettings, read_command, read_credential_place, read_env
from agentgate.adapters.upstreams._mcp.wire import parameter_headers
from agentgate.core.call import ArgumentCheck, Call
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.peer import Peer, PeerUnable, peer_of
from agentgate.ports.upstreams import Audience, Credential, Delivered, Schemas, ServerState, Undelivered

_log = logging.getLogger("agentgate.mcp")

_MAX_ROUNDS: Final = 10
_BACKOFF_S: Final = (0.2, 30.0)
_STEADY_S: Final = 10.0
"""A connection that held for so long starts the backoff anew."""
_MAY_ASK: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
_SUBSCRIBING: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})
_MAX_CHECKS: Final = 1_000
_SHARE_TAKEN: Final = down("this caller has as many sessions with the server as it may have")


class McpUpstream:
    """Implements `ToolServer`.

    Args:
        name: the upstream's configured name.
        command: program and arguments of a server on stdio. It sees `env`, and PATH, HOME, LANG and TMPDIR of ours.
        url: of a server on HTTP; https unless the host is loopback or `insecure`.
        check_output: hold structured answers to the tool's `outputSchema`; needs `schemas`.
        max_response_bytes: of one message of the server.
        recheck_s: how old a list of tools may be when a call relies on it.
        max_sessions: with the server beside the shared one: of clients that have sessions themselves, and of calls
            that the server may ask about.
        max_sessions_per_caller: how many of them one caller may have; half of them, if nothing is said.
        inject: how a credential is sent: for a URL as kind `http` (but in a header only), for a command
            `{kind: env, name}`.
        credential: awaited whenever a session begins and when a list is read, which needs it as well.

    Raises:
        ValueError: with a sentence that names the setting.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        name: str,
        *,
        command: Sequence[str] | None = None,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check_output: bool = False,
        max_response_bytes: int = 1 << 20,
        recheck_s: float = 60.0,
        max_sessions: int = 100,
        max_sessions_per_caller: int | None = None,
        connect_timeout_s: float = 10.0,
        insecure: bool = False,
        inject: Mapping[str, Any] | None = None,
        schemas: Schemas | None = None,
        credential: Callable[[], Awaitable[Credential | None]] | None = None,
    ) -> None:
        words, address = read_command(command, url, insecure=insecure)
        if address and (env or cwd):
            raise ValueError("env and cwd are for a command")
        if min(max_response_bytes, max_sessions, recheck_s, connect_timeout_s) <= 0:
            raise ValueError("max_response_bytes, max_sessions, recheck_s and connect_timeout_s must be above zero")
        if check_output and schemas is None:
            raise ValueError("check_output needs something that compiles schemas")
        injection, secret_env = read_credential_place(inject, is_url=bool(address))
        if words and credential is not None and secret_env is None:
            raise ValueError("a credential for a command needs `inject: {kind: env, name: …}`")
        self._settings = ServerSettings(
            name=name,
            command=words,
            url=address,
            env=read_env(env),
            cwd=cwd,
            injection=injection,
            secret_env=secret_env,
            max_response_bytes=max_response_bytes,
            recheck_s=recheck_s,
            connect_timeout_s=connect_timeout_s,
        )
        self._schemas = schemas if check_output else None
        self._checks: dict[str, ArgumentCheck] = {}
        self._credential = credential
        self._audience: Audience | None = None
        self._shared: Link | None = None
        self._wanted: Wanted = {}
        self._sessions = Sessions(self._open_link, max_sessions, max_sessions_per_caller)
        self._parking = Parking()
        self._is_modern_only = False
        self._trouble, self._next_try = "it was not started yet", ""
        self._told = ""
        self._closed = False

    # --- ToolServer -------------------------------------------------------------------------------------------

    def validate_options(self, options: Mapping[str, Any]) -> None:
        """See `Upstream.validate_options`."""
        check_options(options)

    async def run(self, audience: Audience) -> None:
        """See `ToolServer.run`."""
        self._audience = audience
        delay = _BACKOFF_S[0]
        try:
            while not self._closed:
                link = self._shared = self._open_link(None, {})
                trouble = await link.ready()
                since = time.monotonic()
                if trouble is None:
                    self._is_modern_only = False
                    self._trouble, self._next_try = "the connection was lost just now", ""
                    self._told = ""
                    trouble = await link.gone()
                await link.close()
                delay = _BACKOFF_S[0] if time.monotonic() - since > _STEADY_S else delay
                pause = delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, guards nothing
                self._say_once(trouble)
                self._trouble, self._next_try = trouble, f"; next try in {pause:.1f} s"
                await asyncio.sleep(pause)
                delay = min(2 * delay, _BACKOFF_S[1])
        finally:
            if self._shared is not None:
                await self._shared.close()
            await self._sessions.aclose()

    def state(self) -> ServerState:
        """See `ToolServer.state`."""
        link = self._shared
        if link is None or not link.is_up:
            return ServerState(self._settings.name, False, "closed" if self._closed else self._trouble + self._next_try)
        listing = link.tools.listing
        count = len(listing.tools) if listing is not None else 0
        return ServerState(self._settings.name, True, f"connected, {count} tools", link.wire.protocol_version or "")

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        """See `Upstream.send`. A JSON-RPC error is UPSTREAM_ERROR with its `fault`; `isError` results are delivered."""
        if type(grant) is not Grant:
            return NO_GRANT
        if grant.call.tool is None or self._closed:
            return CLOSED
        peer = peer_of(grant.call)
        try:
            order = read_order(grant.call, peer)
            header = self._settings.header_of(credential)
        except ValueError as error:
            return Undelivered(ReasonCode.UPSTREAM_ERROR, f"nothing was sent: {error}", reached=False)
        headers = dict([header]) if header is not None else {}
        link = self._shared
        if link is None or not link.is_up:
            return self._down()
        if peer is not None and self._may_park(link, order, peer):
            return await self._send_parked(order, grant, peer, headers)
        if peer is not None and peer.session_key is not None and not peer.is_modern:
            found = await self._own_session(peer, grant.call)
            if isinstance(found, Undelivered):
                return found
            link = found
        return await self._send(link, order, grant.call, peer, headers)

    def drop(self, is_over: Callable[[Call], bool]) -> None:
        """See `ToolServer.drop`."""
        self._parking.drop(is_over)
        self._sessions.drop(is_over)
        if self._shared is not None:
            self._shared.listening.forget(is_over)

    async def aclose(self) -> None:
        """See `Upstream.aclose`."""
        self._closed = True
        self._parking.close()
        if self._shared is not None:
            await self._shared.close()
        await self._sessions.aclose()

    # --- sessions ---------------------------------------------------------------------------------------------

    def _open_link(self, peer: Peer | None, capabilities: Mapping[str, Any]) -> Link:
        assert self._audience is not None
        known = self._shared.tools.listing if self._shared is not None and self._shared.is_up else None
        link = Link(
            self._settings,
            self._audience,
            peer=peer,
            capabilities=capabilities,
            credential=self._credential,
            named=str(known.identity["name"]) if peer is not None and known is not None else "",
            wanted=self._wanted if peer is None else {},
        )
        link.start()
        return link

    async def _own_session(self, peer: Peer, call: Call) -> Link | Undelivered:
        """The session of a client that has one; the shared one where the server has no such sessions."""
        assert self._shared is not None
        if self._is_modern_only:
            return self._shared
        try:
            link = await self._sessions.of_client(peer, mirrored(peer.capabilities), call)
        except ShareTaken:
            return _SHARE_TAKEN
        if link is None:
            return down("the server has as many sessions as it may have")
        if link.is_up:
            return link
        if self._shared.is_up and self._shared.wire.is_modern and link.was_refused:
            self._is_modern_only = True
            return self._shared
        _log.debug("%s: a client gets no session of its own: %s", self._settings.name, link.failure())
        return down("no session with the server")

    def _down(self) -> Undelivered:
        """For a caller: why, and so where the server is or how it is started, is for operators."""
        return down(f"the server is down{self._next_try}")

    def _say_once(self, trouble: str) -> None:
        if trouble != self._told and not self._closed:
            self._told = trouble
            _log.warning("%s is down: %s", self._settings.name, trouble)

    # --- one call ---------------------------------------------------------------------------------------------

    async def _refusal(self, link: Link, order: Order) -> Undelivered | ArgumentCheck | None:
        """Why this session must not carry it; or how to check its answer, where that is asked for."""
        if order.tool is None:
            return None if is_declared(order.method, link.wire.offers) else not_declared(order.method)
        try:
            await link.tools.fresh()
        except MCPError as error:
            said = of_error(error, link.mark, has_ended=True)
            detail = said.detail if said.fault is None else f"the server answered with error {error.code}"
            return down(f"its list of tools cannot be read: {detail}")
        except EndlessList as error:
            return down(f"its list of tools cannot be read: {error}")
        if link.tools.pin_of(order.tool) != order.pin:
            link.tools.say_again()
            return quarantined(order.tool)
        try:
            return self._output_check(order)
        except ValueError as error:
            detail = f"the tool's outputSchema cannot be checked: {error}"
            return Undelivered(ReasonCode.UPSTREAM_ERROR, detail, reached=False)

    def _output_check(self, order: Order) -> ArgumentCheck | None:
        schema = order.definition.get("outputSchema")
        if self._schemas is None or not isinstance(schema, Mapping):
            return None
        check = self._checks.get(order.pin)
        if check is None:
            if len(self._checks) >= _MAX_CHECKS:
                self._checks.clear()
            check = self._checks[order.pin] = self._schemas.compile(schema)
        return check

    async def _send(
        self, link: Link, order: Order, call: Call, peer: Peer | None, header: Mapping[str, str]
    ) -> Delivered | Undelivered:
        found = await self._refusal(link, order)
        if isinstance(found, Undelivered):
            return found
        if order.method in _SUBSCRIBING and link is self._shared:
            return await self._subscribe(link, order, call, header)
        running = Running(peer)
        for _ in range(_MAX_ROUNDS):
            answer = await self._ask_server(link, running, order, header, found)
            if not isinstance(answer, Delivered) or not wants_input(answer.value):
                return answer
            if peer is None or peer.is_modern:
                return answer
            again = await self._ask_client(order, peer, answer.value)
            if isinstance(again, Undelivered):
                return again
            order = again
        return Undelivered(ReasonCode.UPSTREAM_ERROR, f"the server wants to know more after {_MAX_ROUNDS} rounds")

    async def _ask_server(
        self, link: Link, running: Running, order: Order, header: Mapping[str, str], check: ArgumentCheck | None
    ) -> Delivered | Undelivered:
        params, headers = _on_the_wire(link, order, header)
        if not link.is_up:
            return down("the server has just gone")
        try:
            result = await link.call(running, order.method, params, headers)
        except MCPError as error:
            return of_error(error, link.mark, has_ended=not link.is_up)
        return of_result(result, order, check)

    async def _ask_client(self, order: Order, peer: Peer, result: Mapping[str, Any]) -> Order | Undelivered:
        """What a modern server wants to know, from a client that is asked in the middle of a call."""
        asked = input_requests(result)
        state = result.get("requestState")
        if asked is None or not isinstance(state, str | None):
            return Undelivered(ReasonCode.UPSTREAM_ERROR, "the server wants to know something that is no question")
        answers: dict[str, Any] = {}
        for key, (method, params) in asked.items():
            try:
                answers[key] = dict(await peer.ask(method, params))
            except PeerUnable as unable:
                detail = f"the client could not answer {method[:64]}: {unable}"
                return Undelivered(ReasonCode.UPSTREAM_ERROR, detail[:300])
        return order.with_answers(answers, state)

    async def _subscribe(
        self, link: Link, order: Order, call: Call, header: Mapping[str, str]
    ) -> Delivered | Undelivered:
        """On the shared session the first subscribes and the last ends it."""
        uri = order.params.get("uri")
        if not isinstance(uri, str):
            return Undelivered(ReasonCode.ARGUMENTS_INVALID, "uri must be a text", reached=False)
        try:
            turn = link.listening.add if order.method == "resources/subscribe" else link.listening.drop
            is_turn = turn(uri, call)
        except ValueError as error:
            return Undelivered(ReasonCode.UPSTREAM_ERROR, str(error), reached=False)
        if not is_turn:
            return Delivered({})
        if link.wire.is_modern:
            await link.listening.follow(self._settings.connect_timeout_s)
            return Delivered({})
        answer = await self._ask_server(link, Running(None), order, header, None)
        if isinstance(answer, Undelivered) and order.method == "resources/subscribe":
            link.listening.drop(uri, call)
        return answer

    # --- a client that answers in its next request, a server that asks in the middle of a call ----------------

    def _may_park(self, link: Link, order: Order, peer: Peer) -> bool:
        if not peer.is_modern or link.wire.is_modern or order.method not in _MAY_ASK:
            return False
        return bool(mirrored(peer.capabilities)) or _parked_state(order) is not None

    async def _send_parked(
        self, order: Order, grant: Grant, peer: Peer, header: Mapping[str, str]
    ) -> Delivered | Undelivered:
        assert grant.call.tool is not None
        whose = _whose(grant)
        state = _parked_state(order)
        left_s = grant.call.tool.timeout_s
        if state is not None:
            taken = self._parking.take(state, whose)
            if taken is None:
                fault = {"code": INVALID_PARAMS, "message": "Invalid or expired requestState"}
                detail = "the call that this answers is over, or is not the same"
                return Undelivered(ReasonCode.UPSTREAM_ERROR, detail, reached=False, fault=fault)
            parked, left_s = taken
            answers = order.params.get("inputResponses")
            parked.answer(peer, answers if isinstance(answers, Mapping) else {})
            return await self._drive(parked, order, left_s)
        try:
            link = await self._sessions.lend(peer, mirrored(peer.capabilities), grant.call)
        except ShareTaken:
            return _SHARE_TAKEN
        if link is None:  # no place for one: as a client that can answer nothing
            shared = self._shared
            if shared is None or not shared.is_up:  # any more, after the wait for a place
                return self._down()
            return await self._send(shared, order, grant.call, peer, header)
        found = await self._refusal(link, order)
        if isinstance(found, Undelivered):
            self._sessions.give_back(link)
            return found
        parked = Parked(whose, grant.call, link, lambda ended: self._sessions.give_back(link, is_clean=ended))
        params, headers = _on_the_wire(link, order, header)
        parked.start(peer, order.method, params, headers)
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
                return of_result(result, order, self._output_check(order))
            except ValueError:
                return Undelivered(ReasonCode.UPSTREAM_ERROR, "the tool's outputSchema cannot be checked")
        state = self._parking.park(parked, max(0.0, left_s - (time.monotonic() - started)))
        parked.running.peer = None
        asked = {"resultType": "input_required", "inputRequests": parked.input_requests(), "requestState": state}
        return of_result(asked, order, None)


def _on_the_wire(link: Link, order: Order, header: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    is_modern = link.wire.is_modern
    params = order.params_for(is_modern=is_modern)
    if not is_modern or order.tool is None:
        return params, dict(header)
    # Made from the arguments that were decided on: none of a client's own goes on.
    return params, parameter_headers(order.definition, params["arguments"]) | dict(header)


def _parked_state(order: Order) -> str | None:
    state = order.params.get("requestState")
    return state if isinstance(state, str) and state.startswith(STATE_PREFIX) else None


def _whose(grant: Grant) -> str:
    """Who may answer: the same caller in the same session, with the same call."""
    call = grant.call
    parts = (call.tenant, call.caller.id, call.session, call.tool_name, call.arguments_json.decode())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
