"""What the parts of the MCP door share: its rules, what it knows of the tool servers, and the names of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from agentgate.core.call import Call, Principal, Tool
from agentgate.core.decision import Decision
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.calls.passage import Answer
from agentgate.pipeline.limits.refusals import RefusalLimiter
from agentgate.pipeline.policy.desk import PolicyDesk
from agentgate.ports.ambient import Clock, Entropy, Worker
from agentgate.ports.keys import Sealer

OURS: Final = "dev.agentgate/"
"""Before every `_meta` key of ours. What a client sends under it is for us and goes no further; of what a server says
under it a client hears nothing."""
SESSION: Final = OURS + "session"
_MARK: Final = OURS.encode()
_SCHEMAS: Final = frozenset({"inputSchema", "outputSchema", "requestedSchema"})
_FREE: Final = _SCHEMAS | {"structuredContent", "input", "metadata", "data"}
"""Members that may be any JSON, in which no `_meta` is the protocol's."""
CALLER: Final = "agentgate.caller"
"""Where a request's ASGI scope carries its `Guest`."""

INVALID_PARAMS: Final = -32602
REFUSED: Final = -32001
"""JSON-RPC code of a refusal where no result can carry it: of the range that the protocol leaves to servers."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The configured part of the door."""

    hold_s: float
    """How long a call may wait for its approval; 0: not at all."""
    session_idle_s: float
    max_sessions: int
    max_body_bytes: int
    state_ttl_s: float
    """How long a client may take for its answer to what it was asked."""
    instructions: str | None = None
    meta: tuple[str, ...] = ()
    """Members of a client's `_meta` that belong to its call."""
    base_url: str | None = None
    ping_every_s: float = 15.0
    """After which an answer that has not come becomes a stream, as the SDK has it: proxies cut what says nothing."""
    is_shared: bool = False
    """Whether other processes serve the same address, so that a client's next request may reach another one."""


class Catalogue(Protocol):
    """What the tool servers said of themselves when they were last heard."""

    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        """MCP's ServerCapabilities in JSON of every server that is connected."""
        ...

    def instructions(self) -> str:
        """Of the one transparent server; empty if there is none."""
        ...


async def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Guest:
    """Who sent a request, as the door found out before any of it was understood."""

    principal: Principal
    session: str | None
    """What its `AgentGate-Session` header asks for."""
    traceparent: str | None
    address: str
    """`http://host`, as the client addressed us; the host was allow-listed."""
    bearer: str | None = field(default=None, repr=False)
    """Its access token, for nothing but an exchange."""
    is_still_known: Callable[[], Awaitable[bool]] = field(default=_always, repr=False)
    """Whether its key, token or certificate would be taken now, after it has waited."""
    size: int = 0
    """Bytes of the request's body."""


Through = Callable[[Call, Decision | None], Awaitable[Answer]]


async def _nowhere(call: Call, refused: Decision | None) -> Answer:
    raise RuntimeError("only the door passes calls through the gate")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the door works with."""

    tools: Mapping[str, Tool]
    policy: PolicyDesk
    approvals: ApprovalDesk
    refusals: RefusalLimiter
    sealer: Sealer
    clock: Clock
    entropy: Entropy
    worker: Worker
    catalogue: Catalogue
    rules: Rules
    through: Through = _nowhere
    """The gate, as `Gate.pass_through`; the door puts it here."""
    is_closing: Callable[[], bool] = lambda: False


# What is not a tool of a server but belongs to it, by the method; DESIGN has the names under `mcp.`.
OPERATIONS: Final = {
    "resources/list": "mcp.resources.list",
    "resources/templates/list": "mcp.resources.templates.list",
    "resources/read": "mcp.resources.read",
    "resources/subscribe": "mcp.resources.subscribe",
    "resources/unsubscribe": "mcp.resources.unsubscribe",
    "prompts/list": "mcp.prompts.list",
    "prompts/get": "mcp.prompts.get",
    "completion/complete": "mcp.completion.complete",
    "logging/setLevel": "mcp.logging.level",
}


def operation_of(tool: Tool) -> str | None:
    """The MCP method that a tool stands for; None for tools proper."""
    method = tool.options.get("method")  # kind `http` has a method too: GET, POST, …
    return method if method in OPERATIONS else None


def definition_of(tool: Tool) -> Mapping[str, Any] | None:
    """The accepted definition of a tool that a tool server brought; its result is MCP's as well."""
    definition = tool.options.get("definition")
    return definition if isinstance(definition, Mapping) else None


def is_of_mcp(tool: Tool) -> bool:
    """Whether a tool server answers its calls, in MCP's own terms."""
    return definition_of(tool) is not None or operation_of(tool) is not None


def without_ours(given: object) -> dict[str, Any]:
    """The members of what a server said that do not pass for ours."""
    if not isinstance(given, Mapping):
        return {}
    return {name: value for name, value in given.items() if not name.startswith(OURS)}


def in_their_name(said: dict[str, Any], raw: bytes | None) -> dict[str, Any]:
    """What a server said, without what passes for ours: wherever the protocol has a `_meta`, and among its questions.
    `raw` is the same in JSON, where there is that: hardly any has to be walked."""
    return said if raw is not None and _MARK not in raw else {name: _member(name, one) for name, one in said.items()}


def _in_their_name(said: Any) -> Any:
    if isinstance(said, list):
        return [_in_their_name(one) for one in said]
    return in_their_name(said, None) if isinstance(said, dict) else said


def _member(name: str, value: Any) -> Any:
    if name == "_meta":
        return without_ours(value) if isinstance(value, Mapping) else value
    if name == "inputRequests" and isinstance(value, Mapping):  # by names of the server's choosing
        return {key: _in_their_name(one) for key, one in without_ours(value).items()}
    return value if name in _FREE else _in_their_name(value)
