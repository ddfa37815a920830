"""The MCP servers of the configuration, as the desk for pins knows them: names, rules, and what is no tool."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.upstreams._mcp.settings import read_access, read_labels, read_tools, read_trust
from agentgate.core.call import Access, Tool, ToolName, is_tool_name
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.pin import skeleton
from agentgate.pipeline.tools.offers import ServerRules
from agentgate.pipeline.tools.serving import Served
from agentgate.settings import Settings, UpstreamPart

KIND: Final = "mcp"
RULES: Final = frozenset({"transparent", "trust", "access", "labels", "tools"})
"""What a server's settings say of its tools, and not of how it is reached."""
SEPARATOR: Final = "__"
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]|_(?!_|$)){0,62}")
"""Of a server: then no two servers with prefixes can have a tool of one name."""

_TEXT: Final = {"type": "string"}
_KEPT: Final = {"type": "string", "maxLength": 2_048}
"""It is remembered for as long as somebody wants to hear of it."""
_OBJECT: Final = {"type": "object"}
_CURSOR: Final = {"cursor": _TEXT}
_OPERATIONS: Final[Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]]] = {
    "mcp.resources.list": ("resources/list", _CURSOR, ()),
    "mcp.resources.templates.list": ("resources/templates/list", _CURSOR, ()),
    "mcp.resources.read": ("resources/read", {"uri": _TEXT}, ("uri",)),
    "mcp.resources.subscribe": ("resources/subscribe", {"uri": _KEPT}, ("uri",)),
    "mcp.resources.unsubscribe": ("resources/unsubscribe", {"uri": _KEPT}, ("uri",)),
    "mcp.prompts.list": ("prompts/list", _CURSOR, ()),
    "mcp.prompts.get": (
        "prompts/get",
        {"name": _TEXT, "arguments": {"type": "object", "additionalProperties": _TEXT}},
        ("name",),
    ),
    "mcp.completion.complete": (
        "completion/complete",
        {"ref": _OBJECT, "argument": _OBJECT, "context": _OBJECT},
        ("ref", "argument"),
    ),
    "mcp.logging.level": ("logging/setLevel", {"level": _TEXT}, ("level",)),
}
"""What a server can be asked beside its tools: our name, MCP's method, its arguments, and which of them it needs."""


def names(config: Settings) -> tuple[str, ...]:
    """The upstreams that bring their own tools."""
    return tuple(name for name, part in config.upstreams.items() if part.kind == KIND)


def make_servers(config: Settings, declared: Sequence[str]) -> list[Served]:
    """`declared` are the names of the tools that the configuration declares itself.

    Raises:
        UnsafeConfiguration: names would collide, or a setting is wrong; the text says which.
    """
    servers = names(config)
    for name in servers:
        _check_name(name, config.upstreams[name], servers, declared)
    return [_served(name, config.upstreams[name]) for name in servers]


def _check_name(name: str, part: UpstreamPart, servers: Sequence[str], declared: Sequence[str]) -> None:
    where = f"upstreams.{name}"
    prefix = _prefix(name, part)
    if not prefix:
        if len(servers) > 1:
            raise UnsafeConfiguration(
                f"{where}: transparent is for a single MCP server, and there is {', '.join(servers)}: two servers "
                "could bring tools of one name"
            )
        return
    if _NAME.fullmatch(name) is None or not is_tool_name(prefix):
        raise UnsafeConfiguration(
            f"{where}: the name of an MCP server has at most 63 ASCII letters, digits, '-', '.' and '_', no '__' or "
            "'..', and no '_' at its end: its tools are named NAME__TOOL"
        )
    for other in servers:
        if other != name and skeleton(other) == skeleton(name):
            raise UnsafeConfiguration(f"{where}: its name is too much like that of the MCP server {other}")
    for tool in declared:
        if tool.startswith(prefix):
            raise UnsafeConfiguration(f"tools.{tool}: names with {prefix} are those of the MCP server {name}")


def _prefix(name: str, part: UpstreamPart) -> str:
    return "" if part.options.get("transparent") is True else name + SEPARATOR


def _served(name: str, part: UpstreamPart) -> Served:
    prefix = _prefix(name, part)
    try:
        rules = ServerRules(
            name=name,
            prefix=prefix,
            trust=cast(Literal["accepted", "first_use"], read_trust(part.options.get("trust", "accepted"))),
            access=read_access(part.options.get("access", "write")),
            labels=read_labels(part.options.get("labels", ())),
            timeout_s=part.timeout_ms / 1000,
            tools=read_tools(part.options.get("tools")),
        )
    except (TypeError, ValueError) as error:  # YAML has values of all kinds everywhere
        raise UnsafeConfiguration(f"upstreams.{name}: {error}") from None
    return Served(rules, {prefix + operation: _operation(rules, prefix + operation) for operation in _OPERATIONS})


def _operation(rules: ServerRules, name: str) -> Tool:
    method, arguments, required = _OPERATIONS[name.removeprefix(rules.prefix)]
    schema = {"type": "object", "properties": arguments, "required": list(required), "additionalProperties": False}
    return Tool(
        name=ToolName(name),
        upstream=rules.name,
        access=Access.READ,
        input_schema=schema,
        description=f"MCP's {method} at the server {rules.name}",
        labels=rules.labels,
        timeout_s=rules.timeout_s,
        check=JsonSchemas().compile(schema),
        options={"method": method},
    )
