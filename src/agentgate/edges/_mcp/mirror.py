"""What the gateway declares to MCP clients: what the connected tool servers declare."""

from __future__ import annotations

from typing import Any

from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.types import (
    CompletionsCapability,
    LoggingCapability,
    PromptsCapability,
    ResourcesCapability,
    ServerCapabilities,
    ToolsCapability,
)
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from agentgate import __version__
from agentgate.edges._mcp.parts import Parts


class Mirror(Server[Any]):
    """Declares what the connected tool servers declare, when it is asked, and nothing else."""

    def __init__(self, parts: Parts, **handlers: Any) -> None:
        super().__init__("agentgate", version=__version__, title="AgentGate", **handlers)
        self._parts = parts

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> ServerCapabilities:
        declared = list(self._parts.catalogue.capabilities().values())
        hears = protocol_version in MODERN_PROTOCOL_VERSIONS
        # without a session of its own an older client has no stream on which it would be told
        can_hear = hears or not self._parts.rules.is_shared

        def flag(capability: str, name: str) -> bool:
            return can_hear and any((one.get(capability) or {}).get(name) for one in declared if capability in one)

        def has(capability: str) -> bool:
            return any(capability in one for one in declared)

        return ServerCapabilities(
            tools=ToolsCapability(list_changed=can_hear),
            prompts=PromptsCapability(list_changed=hears or flag("prompts", "listChanged")) if has("prompts") else None,
            resources=ResourcesCapability(
                subscribe=flag("resources", "subscribe"), list_changed=hears or flag("resources", "listChanged")
            )
            if has("resources")
            else None,
            completions=CompletionsCapability() if has("completions") else None,
            logging=LoggingCapability() if has("logging") else None,
        )
