"""An MCP server with one tool that does next to nothing, in both eras: what a gateway for MCP is measured before.

python -m bench.mcp_echo PORT
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import uvicorn
from mcp import types
from mcp.server import Server

ECHO = types.Tool(
    name="echo",
    description="Says it again.",
    input_schema={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)


async def _list_tools(_: Any, __: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[ECHO])


async def _call_tool(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    text = str((params.arguments or {})["text"])
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


if __name__ == "__main__":
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # wrk hangs up in the middle of things
    server = Server(
        "echo",
        version="1",
        get_tool_input_schema={ECHO.name: ECHO.input_schema}.get,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
    )
    uvicorn.run(server.streamable_http_app(), port=int(sys.argv[1]), log_level="critical", access_log=False)
