"""The MCP client of openai-agents as an agent uses it, without a model: `openai_client.py URL HEADERS`, then calls.

Each line asks for a call as JSON, each answer is a line. Run by the interpreter that has it (tests/mcp/peers.py), so it
imports nothing of this project.
"""

import asyncio
import json
import sys

from agents import RunContextWrapper
from agents.mcp import MCPServerStreamableHttp, MCPUtil


async def main(url: str, headers: dict[str, str]) -> None:
    async with MCPServerStreamableHttp(params={"url": url, "headers": headers}) as server:
        tools = {tool.name: tool for tool in await server.list_tools()}
        print(json.dumps({"tools": list(tools)}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            arguments = json.dumps(asked["arguments"])
            output = await MCPUtil.invoke_mcp_tool(server, tools[asked["tool"]], RunContextWrapper(None), arguments)
            # Its model is not told that a call failed: it reads the text, and that is all.
            print(json.dumps({"error": False, "text": json.dumps(output, ensure_ascii=False)}), flush=True)


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
