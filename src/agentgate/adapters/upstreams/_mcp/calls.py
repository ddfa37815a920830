"""One call in a session with a server: what must hold before it is sent, and what the server answers, or asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import mcp_param_headers, x_mcp_header_map

from agentgate.adapters.upstreams._mcp.link import Link
from agentgate.adapters.upstreams._mcp.listing import EndlessList
from agentgate.adapters.upstreams._mcp.orders import (
    Order,
    down,
    input_requests,
    is_declared,
    not_declared,
    of_error,
    of_result,
    quarantined,
    wants_input,
)
from agentgate.adapters.upstreams._mcp.relay import Running
from agentgate.core.call import ArgumentCheck, Call
from agentgate.core.errors import ReasonCode
from agentgate.ports.peer import Peer, PeerUnable
from agentgate.ports.upstreams import Delivered, Schemas, Undelivered

_MAX_ROUNDS: Final = 10
_MAX_CHECKS: Final = 1_000
_SUBSCRIBING: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})


class Calls:
    """Of one server.

    Args:
        schemas: compiles what structured answers are held to; None where they are held to nothing.
        wait_s: how long a modern server may take to listen for one resource more.
    """

    def __init__(self, schemas: Schemas | None, wait_s: float) -> None:
        self._schemas = schemas
        self._wait_s = wait_s
        self._checks: dict[str, ArgumentCheck | str] = {}

    async def send(
        self, link: Link, order: Order, call: Call, peer: Peer | None, header: Mapping[str, str]
    ) -> Delivered | Undelivered:
        found = await self.refusal(link, order)
        if isinstance(found, Undelivered):
            return found
        if order.method in _SUBSCRIBING and link.is_shared:
            return await self._subscribe(link, order, call, header)
        running = Running(peer)
        for _ in range(_MAX_ROUNDS):
            answer = await self._ask_server(link, running, order, header, found)
            if not isinstance(answer, Delivered) or not wants_input(answer.value):
                return answer
            if peer is None or peer.is_modern:
                return answer
            again = await _ask_client(order, peer, answer.value)
            if isinstance(again, Undelivered):
                return again
            order = again
        return Undelivered(ReasonCode.UPSTREAM_ERROR, f"the server wants to know more after {_MAX_ROUNDS} rounds")

    async def refusal(self, link: Link, order: Order) -> Undelivered | ArgumentCheck | None:
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
            return self.output_check(order)
        except ValueError as error:
            detail = f"the tool's outputSchema cannot be checked: {error}"
            return Undelivered(ReasonCode.UPSTREAM_ERROR, detail, reached=False)

    def output_check(self, order: Order) -> ArgumentCheck | None:
        """Raises ValueError with a sentence where the tool's `outputSchema` cannot be checked."""
        schema = order.definition.get("outputSchema")
        if self._schemas is None or not isinstance(schema, Mapping):
            return None
        check = self._checks.get(order.pin)
        if check is None:
            if len(self._checks) >= _MAX_CHECKS:
                self._checks.clear()
            check = self._checks[order.pin] = _compiled(self._schemas, schema)
        if isinstance(check, str):
            raise ValueError(check)
        return check

    async def _ask_server(
        self, link: Link, running: Running, order: Order, header: Mapping[str, str], check: ArgumentCheck | None
    ) -> Delivered | Undelivered:
        params, headers = on_the_wire(link, order, header)
        if not link.is_up:
            return down("the server has just gone")
        try:
            result = await link.call(running, order.method, params, headers)
        except MCPError as error:
            return of_error(error, link.mark, has_ended=not link.is_up)
        return of_result(result, order, check)

    async def _subscribe(
        self, link: Link, order: Order, call: Call, header: Mapping[str, str]
    ) -> Delivered | Undelivered:
        """On the shared session the first subscribes and the last ends it."""
        uri = order.params.get("uri")
        if not isinstance(uri, str):
            return Undelivered(ReasonCode.ARGUMENTS_INVALID, "uri must be a text", reached=False)
        listening = link.listening
        if order.method == "resources/unsubscribe":
            listening.wanted.drop(uri, call)
            return Delivered({})
        try:
            listening.wanted.add(uri, call)
        except ValueError as error:
            return Undelivered(ReasonCode.UPSTREAM_ERROR, str(error), reached=False)
        answer: Delivered | Undelivered | None = None
        try:
            answer = await self._have_told(link, order, uri, header)
            return answer
        finally:
            if not isinstance(answer, Delivered):  # cancelled as well: nobody is told that it was subscribed to
                listening.wanted.drop(uri, call)

    async def _have_told(
        self, link: Link, order: Order, uri: str, header: Mapping[str, str]
    ) -> Delivered | Undelivered:
        """Have the server tell of `uri`, unless it does."""
        if link.listening.tells_of(uri):
            return Delivered({})
        if link.wire.is_modern:
            if await link.listening.follow(uri, self._wait_s):
                return Delivered({})
            return Undelivered(ReasonCode.UPSTREAM_ERROR, "the server did not agree to tell of it")
        answer = await self._ask_server(link, Running(None), order, header, None)
        if isinstance(answer, Delivered):
            link.listening.take(uri)
        return answer


def _compiled(schemas: Schemas, schema: Mapping[str, Any]) -> ArgumentCheck | str:
    """A check, or why there is none: that is kept as well, for to learn it may have taken long."""
    try:
        return schemas.compile(schema)
    except ValueError as error:
        return str(error)


async def _ask_client(order: Order, peer: Peer, result: Mapping[str, Any]) -> Order | Undelivered:
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


def on_the_wire(link: Link, order: Order, header: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Params and headers: `header`, and those (`Mcp-Param-*`) that a modern server wants beside the arguments."""
    is_modern = link.wire.is_modern
    params = order.params_for(is_modern=is_modern)
    if not is_modern or order.tool is None:
        return params, dict(header)
    # Made from the arguments that were decided on: none of a client's own goes on.
    found = mcp_param_headers(x_mcp_header_map(order.definition.get("inputSchema")), params["arguments"])
    return params, {name.lower(): value for name, value in found.items()} | dict(header)
