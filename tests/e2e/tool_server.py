"""An MCP server on stdio whose tools are what a file says at this moment, for tests of what changes.

python tests/e2e/tool_server.py FOLDER      FOLDER/tools.json: {"name": server, "tools": [definition, …]}
                                            FOLDER/calls: a line for each call that has reached it
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

FOLDER = Path(sys.argv[1])
NAME = json.loads((FOLDER / "tools.json").read_text(encoding="utf-8"))["name"]


def said() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "tools.json").read_text(encoding="utf-8"))
    return found


async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
    if said()["name"] != NAME:  # whoever starts it again finds another server
        os._exit(1)
    return types.ListToolsResult.model_validate({"tools": said()["tools"]})


async def call_tool(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    with (FOLDER / "calls").open("a", encoding="utf-8") as file:
        file.write(f"{params.name} {json.dumps(params.arguments)}\n")
    return types.CallToolResult(content=[types.TextContent(type="text", text=f"did {params.name}")])


async def main() -> None:
    server: Server[Any] = Server(NAME, version="1.0.0", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
