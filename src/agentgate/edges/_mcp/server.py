"""The MCP server itself: the SDK's low-level one, with every request passed through the gate.

The SDK serves both eras on one address; nothing here asks which client it is, only what it declared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import validate_mcp_param_headers, x_mcp_header_map
from mcp.types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    NotificationParams,
    SetLevelRequestParams,
)

from agentgate.core.call import Principal, is_tool_name
from agentgate.core.decision import refusal
from agentgate.core.errors import ReasonCode
from agentgate.edges._mcp import answers, results, sdk
from agentgate.edges._mcp.calls import Calls, Target
from agentgate.edges._mcp.changes import Changes
from agentgate.edges._mcp.lists import PROMPTS, RESOURCES, TEMPLATES, Kind, Lists, Operation, target_of
from agentgate.edges._mcp.message import Unserved
from agentgate.edges._mcp.mirror import Mirror
from agentgate.edges._mcp.parts import CALLER, INVALID_PARAMS, OURS, REFUSED, Guest, Parts, operation_of
from agentgate.edges._mcp.peer import ClientPeer
from agentgate.edges._mcp.plain import PlainCalls
from agentgate.edges._mcp.seated import SeatedCalls
from agentgate.edges.wire import Receive, Scope, Send
from agentgate.pipeline.calls.passage import Answer

_MOST_SCHEMAS: Final = 10_000

# It writes sessions' ids down, also in a warning of who tries another's; they are nobody's business but the client's.
logging.getLogger("mcp").setLevel(logging.ERROR)
results.keep_out_of_the_log()

Handler = Callable[[sdk.Context, Any], Awaitable[dict[str, Any]]]
Work = Callable[[ClientPeer], Coroutine[Any, Any, dict[str, Any]]]


class Hall:
    """Everything behind the door. `open` once."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.calls = Calls(parts)
        self._lists = Lists(parts, self.calls)
        self.changes = Changes(self.calls, self._lists, parts.refusals)
        self._has_headers: dict[str, bool] = {}
        """By a tool's digest, whether its schema has arguments repeated in headers: to see that is to walk it all."""
        rules = parts.rules
        self._server = self._make_server()
        self.plain = PlainCalls(self._server, self.calls, self._call, rules.ping_every_s)
        self._manager = manager = sdk.Sessions(
            self._server,
            self._admit,
            # another process does not know this one's sessions
            stateless=rules.is_shared,
            session_idle_timeout=rules.session_idle_s,
            max_sessions=rules.max_sessions,
            max_request_body_size=rules.max_body_bytes,
        )
        self.seated = SeatedCalls(self._server, manager, self.calls, self._call, rules.ping_every_s)

    def _make_server(self) -> Mirror:
        server = Mirror(
            self._parts,
            # `_call` compares headers: only there is it known who may know the tool
            get_tool_input_schema=lambda _: None,
            on_list_tools=self._served(self._list_tools),
            on_call_tool=self._call_tool,
            on_list_resources=self._lister(RESOURCES),
            on_list_resource_templates=self._lister(TEMPLATES),
            on_list_prompts=self._lister(PROMPTS),
            on_read_resource=self._on_resource("resources/read"),
            on_subscribe_resource=self._on_resource("resources/subscribe"),
            on_unsubscribe_resource=self._on_resource("resources/unsubscribe"),
            on_get_prompt=self._served(self._get_prompt),
            on_completion=self._served(self._complete),
            on_subscriptions_listen=self.changes.listen,
        )
        server.middleware.clear()  # only the SDK's own traces, whose exporter nobody configures here
        # not as an argument: the SDK warns of what the newest revision left out, and the older ones have it
        server.add_request_handler("logging/setLevel", SetLevelRequestParams, self._served(self._set_level))
        server.add_notification_handler("notifications/initialized", NotificationParams, self._remember)
        return server

    async def _remember(self, ctx: sdk.Context, _: NotificationParams) -> None:
        """A client of the handshake era is ready."""
        connection = sdk.connection_of(ctx)
        self.changes.remember(connection)
        self.seated.remember(connection)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        sdk.keep_streams()
        async with self._manager.run():
            yield

    def end_streams(self) -> None:
        """End what is still open in the handshake era: streams on which nobody waits for an answer."""
        sdk.end_streams()

    async def serve(self, scope: Scope, guest: Guest, receive: Receive, send: Send) -> None:
        self._server.instructions = self._parts.rules.instructions or self._parts.catalogue.instructions() or None
        user = AuthenticatedUser(_token_of(guest.principal))
        await self._manager.handle_request({**scope, CALLER: guest, "user": user}, receive, send)

    def _admit(self, open_: int) -> None:
        """Nobody takes more than half of the sessions that there may be: others want to come in as well."""
        if open_ >= max(1, self._parts.rules.max_sessions // 2):
            text = "Too many open sessions of this caller"
            raise Unserved(503, INTERNAL_ERROR, text, ReasonCode.RATE_LIMITED)

    # --- every request ---

    def _served(self, work: Work) -> Handler:
        """A handler that turns away who is refused too often, and works in a task of its own."""

        async def handle(ctx: sdk.Context, _: Any) -> dict[str, Any]:
            peer = ClientPeer(ctx)
            if self._parts.refusals.is_over(peer.caller):
                raise answers.turned_away()
            return await self.calls.apart(peer, work(peer))

        return handle

    # --- tools ---

    async def _list_tools(self, peer: ClientPeer) -> dict[str, Any]:
        tools = await self._lists.tools(peer)
        if tools is None:
            data = {f"{OURS}reasonCode": ReasonCode.POLICY_UNAVAILABLE.value}
            raise MCPError(REFUSED, "Policy does not say which tools there are. Try again later.", data)
        shown = results.tools_of(peer.ctx.protocol_version, tools)
        return {"resultType": "complete", "tools": shown, "ttlMs": 0, "cacheScope": "private"}

    async def _call_tool(self, ctx: sdk.Context, params: CallToolRequestParams) -> dict[str, Any]:
        peer = ClientPeer(ctx)
        return await self.calls.apart(peer, self._call(peer, params.name))

    async def _call(self, peer: ClientPeer, name: str) -> dict[str, Any]:
        if self._parts.refusals.is_over(peer.caller):
            return answers.too_many()
        if not is_tool_name(name):
            self._parts.refusals.refused(peer.caller)
            raise _unknown(name)
        arguments = (peer.ctx.params or {}).get("arguments")
        target = Target(name, self._parts.tools.get(name), arguments if arguments is not None else {})
        if target.tool is not None and operation_of(target.tool) is not None:
            target.refused = refusal(ReasonCode.UNKNOWN_TOOL, "This is no tool, but an operation of a tool server")
        mismatch = self._mismatch(peer, target)
        if mismatch is not None and target.refused is None:
            target.refused = refusal(ReasonCode.INVALID_REQUEST, mismatch, "mcp_headers")
        answer = await self.calls.asked(peer, target)
        if not isinstance(answer, Answer):
            return answer
        if answer.success:
            return answers.tool_result(answer, peer.ctx.protocol_version)
        if answer.outcome is None and not answer.is_outage and await self._is_hidden(peer, answer):
            raise _unknown(name)
        if mismatch is not None and answer.reason_code is ReasonCode.INVALID_REQUEST:
            raise MCPError(HEADER_MISMATCH, mismatch, {f"{OURS}traceId": answer.call.trace_id})
        return self._unsuccessful(peer, answer)

    def _mismatch(self, peer: ClientPeer, target: Target) -> str | None:
        """How the headers of a modern call contradict its arguments: what a proxy before us decides on must be what is
        called."""
        tool = target.tool
        if not peer.is_modern or tool is None or peer.ctx.request is None:
            return None
        has_headers = self._has_headers.get(tool.definition_sha256)
        if has_headers is None:
            has_headers = bool(x_mcp_header_map(tool.input_schema))
            if len(self._has_headers) >= _MOST_SCHEMAS:
                self._has_headers.clear()
            self._has_headers[tool.definition_sha256] = has_headers
        if not has_headers:
            return None
        found = validate_mcp_param_headers(tool.input_schema, target.arguments, peer.ctx.request.headers)
        return found.message if found is not None else None

    async def _is_hidden(self, peer: ClientPeer, answer: Answer) -> bool:
        """Whether a refusal must look like that of a name that nobody has."""
        if answer.reason_code is ReasonCode.UNKNOWN_TOOL:
            return True
        ruled = await self._parts.policy.ruled_for(peer.caller)
        return ruled is not None and answer.call.tool_name not in ruled

    def _unsuccessful(self, peer: ClientPeer, answer: Answer) -> dict[str, Any]:
        """A result for what was refused or failed. Raises MCPError for an upstream's own error."""
        if answer.fault_json is not None:
            raise answers.fault(answer)
        pending = answer.approval
        url = self.calls.approval_url(peer, pending) if pending is not None else None
        return answers.unsuccessful(answer, approval_url=url, now_s=self._parts.clock.now().timestamp())

    # --- what is no tool ---

    def _lister(self, kind: Kind) -> Handler:
        return self._served(lambda peer: self._lists.whole(peer, kind))

    def _on_resource(self, method: str) -> Handler:
        async def work(peer: ClientPeer) -> dict[str, Any]:
            uri = str((peer.ctx.params or {}).get("uri"))
            unknown = MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})
            operation = await self._lists.by_uri(peer, method, uri)
            result = await self._operate(peer, target_of(operation, method, {"uri": uri}), unknown)
            return result if method == "resources/read" else {}

        return self._served(work)

    async def _get_prompt(self, peer: ClientPeer) -> dict[str, Any]:
        params = peer.ctx.params or {}
        unknown = MCPError(INVALID_PARAMS, f"Unknown prompt: {str(params.get('name'))[:256]}")
        operation, name = self._lists.by_prefix("prompts/get", str(params.get("name"))) or (None, "")
        given = params.get("arguments")
        arguments = {"name": name, **({"arguments": given} if given else {})}
        return await self._operate(peer, target_of(operation, "prompts/get", arguments), unknown)

    async def _complete(self, peer: ClientPeer) -> dict[str, Any]:
        params = peer.ctx.params or {}
        ref = dict(params.get("ref") or {})
        operation: Operation | None
        if ref.get("type") == "ref/prompt":
            found = self._lists.by_prefix("completion/complete", str(ref.get("name")))
            operation = found[0] if found is not None else None
            ref["name"] = found[1] if found is not None else ref.get("name")
        else:
            operation = await self._lists.by_uri(peer, "completion/complete", str(ref.get("uri")))
        unknown = MCPError(INVALID_PARAMS, "There is nothing of that name to complete for")
        context = params.get("context")
        arguments = {"ref": ref, "argument": params.get("argument"), **({"context": context} if context else {})}
        return await self._operate(peer, target_of(operation, "completion/complete", arguments), unknown)

    async def _set_level(self, peer: ClientPeer) -> dict[str, Any]:
        operations = self._lists.operations("logging/setLevel")
        if not operations:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", "logging/setLevel")
        level = {"level": (peer.ctx.params or {}).get("level")}
        allowed = await self._lists.allowed(peer, "logging/setLevel")
        await asyncio.gather(*(self.calls.once(peer, one.target(level)) for one in allowed))
        return {}

    async def _operate(self, peer: ClientPeer, target: Target, unknown: MCPError) -> dict[str, Any]:
        """The raw result of one server. Raises MCPError where it was refused or failed: no result could say so. Where
        there is no such server, or none that the caller may know of, it raises `unknown`."""
        answer = await self.calls.asked(peer, target)
        if not isinstance(answer, Answer):
            return answer
        if answer.success:
            result = answers.operation_result(answer, peer.ctx.protocol_version)
            if result is None:
                raise MCPError(REFUSED, answers.UNFIT, answers.meta_of(answer))
            return result
        if answer.fault_json is not None:
            raise answers.fault(answer)
        if answer.outcome is None and not answer.is_outage and await self._is_hidden(peer, answer):
            raise unknown
        refused = self._unsuccessful(peer, answer)
        raise MCPError(REFUSED, refused["content"][0]["text"], refused["_meta"])


def _token_of(principal: Principal) -> AccessToken:
    """No secret is in it: handlers could not leak it."""
    return AccessToken(token="", client_id=sdk.client_id_of(principal), subject=principal.on_behalf_of, scopes=[])


def _unknown(name: str) -> MCPError:
    return MCPError(INVALID_PARAMS, f"Unknown tool: {name[:128]}")
