"""The MCP door, in both of the protocol's eras."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio
from mcp import Client
from mcp.types import CallToolResult, TextContent

from tests.contracts.door import DoorContract, Told
from tests.faults.conftest import Gate, victim

__all__ = ["victim"]


class TestModern(DoorContract):
    """2026-07-28: every request stands alone."""

    mode: ClassVar[Any] = "2026-07-28"

    def call(self, gateway: Gate, tool: str, session: str, number: str) -> Told:
        result = anyio.run(self._call, gateway, tool, session, number)
        meta = result.meta or {}
        text = "".join(part.text for part in result.content if isinstance(part, TextContent))
        return Told(
            success=not result.is_error,
            was_killed=meta.get("dev.agentgate/reasonCode") == "killed" and text.startswith("STOPPED by an operator"),
            says_effect_is_unknown="effect unknown" in text,
            trace_id=meta["dev.agentgate/traceId"],
        )

    async def _call(self, gateway: Gate, tool: str, session: str, number: str) -> CallToolResult:
        async with Client(f"{gateway.url}/mcp", mode=self.mode, cache=None) as client:
            return await client.call_tool(tool, {"n": number}, meta={"dev.agentgate/session": session})


class TestHandshake(TestModern):
    """2025-11-25 and before: a session of the protocol's own."""

    mode = "legacy"
