"""What a call asks of an MCP server, and what came of it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, LOG_LEVEL_META_KEY, METHOD_NOT_FOUND, PARSE_ERROR, SERVER_INFO_META_KEY

from agentgate.adapters.upstreams._mcp.trouble import Mark
from agentgate.core import strict_json
from agentgate.core.call import ArgumentCheck, Call
from agentgate.core.errors import ReasonCode
from agentgate.ports.peer import Peer
from agentgate.ports.upstreams import Delivered, Undelivered

METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "resources/list": ("resources",),
    "resources/templates/list": ("resources",),
    "resources/read": ("resources",),
    "resources/subscribe": ("resources", "subscribe"),
    "resources/unsubscribe": ("resources", "subscribe"),
    "prompts/list": ("prompts",),
    "prompts/get": ("prompts",),
    "completion/complete": ("completions",),
    "logging/setLevel": ("logging",),
}
"""What may be asked beside `tools/call`, and the capability that the server must have declared for it."""

_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_MAX_DETAIL: Final = 300
_MAX_INPUTS: Final = 32
_ANSWERS: Final = ("inputResponses", "requestState")
"""What a modern client adds to its params when it was asked something."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked, before it is known which session will carry it."""

    method: str
    params: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)
    tool: str | None = None
    """The tool's name at its server."""
    pin: str = ""
    definition: Mapping[str, Any] = field(default_factory=dict)

    def with_answers(self, answers: Mapping[str, Any], state: str | None) -> Order:
        """The same once more, with what the server wanted to know."""
        more: dict[str, Any] = {"inputResponses": dict(answers)}
        if state is not None:
            more["requestState"] = state
        return replace(self, params=self._params_without_answers() | more)

    def params_for(self, *, is_modern: bool) -> dict[str, Any]:
        """What a server of that era understands of them, with their `_meta`."""
        if is_modern:
            return {**self.params, "_meta": self.meta}
        meta = {name: value for name, value in self.meta.items() if name != LOG_LEVEL_META_KEY}
        return self._params_without_answers() | {"_meta": meta}

    def _params_without_answers(self) -> dict[str, Any]:
        return {name: value for name, value in self.params.items() if name not in _ANSWERS}


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError with a sentence when they are not of a tool or an operation of an MCP server."""
    if set(options) == {"method"}:
        if options["method"] not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}")
        return
    if set(options) != {"tool", "pin", "definition"}:
        raise ValueError("a tool of an MCP server has tool, pin and definition; an operation has method")
    if not isinstance(options["tool"], str) or not options["tool"]:
        raise ValueError("tool must be the tool's name at its server")
    if not isinstance(options["pin"], str) or not options["pin"]:
        raise ValueError("pin must be a SHA-256 in hex")
    if not isinstance(options["definition"], Mapping):
        raise ValueError("definition must be the accepted MCP Tool")


def read_order(call: Call, peer: Peer | None) -> Order:
    """Raises ValueError with a sentence where the tool's options make no sense."""
    assert call.tool is not None
    options = call.tool.options
    check_options(options)
    meta = _meta(call, peer)
    extra = _extra(peer)
    strict_json.check([meta, extra])  # an encoder that stumbles would take the session of others down
    if "method" in options:
        return Order(str(options["method"]), {**call.arguments, **extra}, meta)
    params = {"name": options["tool"], "arguments": dict(call.arguments), **extra}
    return Order("tools/call", params, meta, options["tool"], options["pin"], options["definition"])


def _meta(call: Call, peer: Peer | None) -> dict[str, Any]:
    """What the door has put into the call, where policy and the log saw it; and what says only how to serve it."""
    meta: dict[str, Any] = _decided_meta(call) if peer is not None else {}
    if peer is not None and peer.meta.get(LOG_LEVEL_META_KEY) in _LEVELS:
        meta[LOG_LEVEL_META_KEY] = peer.meta[LOG_LEVEL_META_KEY]
    if call.traceparent is not None:
        meta["traceparent"] = call.traceparent
    return meta


def _decided_meta(call: Call) -> dict[str, Any]:
    said = call.context.get("mcp")
    meta = said.get("meta") if isinstance(said, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) else {}


def _extra(peer: Peer | None) -> dict[str, Any]:
    if peer is None or not peer.is_modern:
        return {}
    return {name: peer.extra[name] for name in _ANSWERS if name in peer.extra}


def is_declared(method: str, offers: Mapping[str, Any]) -> bool:
    """Whether the server declared what `method` needs. For tools its list decides."""
    found: Any = offers
    for name in METHODS.get(method, ()):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found is not None and found is not False


def not_declared(method: str) -> Undelivered:
    detail = f"the server does not offer {method}"
    fault = {"code": METHOD_NOT_FOUND, "message": detail}
    return Undelivered(ReasonCode.UPSTREAM_ERROR, detail, reached=False, fault=fault)


def down(detail: str) -> Undelivered:
    return Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, detail, reached=False)


SHARE_TAKEN: Final = down("this caller has as many sessions with the server as it may have")


def quarantined(tool: str) -> Undelivered:
    detail = f"the server no longer describes {tool[:128]!r} as it was accepted"
    return Undelivered(ReasonCode.TOOL_QUARANTINED, detail, reached=False)


_KINDS: Final[Mapping[str, Undelivered]] = {
    "too_large": Undelivered(ReasonCode.UPSTREAM_TOO_LARGE, "the server's answer is larger than allowed"),
    "not_strict": Undelivered(ReasonCode.UPSTREAM_ERROR, "the server's answer is not strict JSON"),
    "not_jsonrpc": Undelivered(ReasonCode.UPSTREAM_ERROR, "the server's answer is not JSON-RPC"),
    "unreached": Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "the server cannot be reached", reached=False),
    "lost": Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "the connection to the server was lost"),
    "encoded": Undelivered(ReasonCode.UPSTREAM_ERROR, "the server compressed its answer unasked"),
}
LOST: Final = _KINDS["lost"]
NOT_STRICT: Final = _KINDS["not_strict"]


def of_error(error: MCPError, mark: Mark, *, has_ended: bool) -> Undelivered:
    """What an error says: of the server itself with its `fault`, of the connection without."""
    kind = mark.heard(error.message)
    if kind is not None:
        if kind.startswith("status_"):
            status = int(kind.removeprefix("status_"))
            return Undelivered(ReasonCode.UPSTREAM_ERROR, f"the server answered {status}", status=status)
        return _KINDS[kind]
    if error.code == CONNECTION_CLOSED:
        if error.message.startswith("SSE stream failed: Server-sent event exceeded"):
            return _KINDS["too_large"]
        if has_ended or error.message.startswith("SSE stream "):
            return LOST
    if error.code == PARSE_ERROR and error.message.startswith("Failed to parse "):
        return _KINDS["not_jsonrpc"]
    fault: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        fault["data"] = error.data
    try:
        strict_json.check(fault)
    except strict_json.NotStrictJson:
        return NOT_STRICT
    detail = f"the server answered with error {error.code}: {error.message[:_MAX_DETAIL]}"
    return Undelivered(ReasonCode.UPSTREAM_ERROR, detail, fault=fault)


def of_result(result: Mapping[str, Any], order: Order, check_output: ArgumentCheck | None) -> Delivered | Undelivered:
    """The result without its server's stamp; its structured content checked where that was asked for."""
    try:
        strict_json.check(result)
    except strict_json.NotStrictJson:
        return NOT_STRICT
    meta = result.get("_meta")
    if isinstance(meta, Mapping) and SERVER_INFO_META_KEY in meta:
        meta = {name: value for name, value in meta.items() if name != SERVER_INFO_META_KEY}
        result = {name: value for name, value in result.items() if name != "_meta"} | ({"_meta": meta} if meta else {})
    if check_output is not None and not wants_input(result) and result.get("isError") is not True:
        misfit = _misfit(result.get("structuredContent"), check_output)
        if misfit is not None:
            detail = f"the answer does not fit the tool's outputSchema: {misfit}"
            return Undelivered(ReasonCode.UPSTREAM_ERROR, detail)
    return Delivered(dict(result))


def _misfit(content: Any, check_output: ArgumentCheck) -> str | None:
    if not isinstance(content, dict):
        return "it has no structured content"
    return check_output(content)


def wants_input(result: Mapping[str, Any]) -> bool:
    return result.get("resultType") == "input_required"


def input_requests(result: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]] | None:
    """Method and params of each thing a server wants to know; None where it says nothing sensible."""
    asked = result.get("inputRequests") or {}
    if not isinstance(asked, Mapping) or len(asked) > _MAX_INPUTS:
        return None
    read: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for key, request in asked.items():
        if not isinstance(request, Mapping) or not isinstance(request.get("method"), str):
            return None
        params = request.get("params")
        read[key] = (request["method"], params if isinstance(params, Mapping) else {})
    return read
