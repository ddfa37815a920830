"""langchain-mcp-adapters as an agent uses it, without a model: `langchain_client.py URL HEADERS`, then calls.

Each line asks for a call as JSON, each answer is a line. Run by the interpreter that has it (tests/mcp/peers.py), so it
imports nothing of this project.
"""

import asyncio
import json
import sys

from langchain_core.messages import ToolMessage
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools


async def main(url: str, headers: dict[str, str]) -> None:
    client = MultiServerMCPClient({"gate": {"transport": "streamable_http", "url": url, "headers": headers}})
    async with client.session("gate") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        print(json.dumps({"tools": list(tools)}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            call = {"type": "tool_call", "id": "1", "name": asked["tool"], "args": asked["arguments"]}
            message = await tools[asked["tool"]].ainvoke(call)
            assert isinstance(message, ToolMessage)
            answer = {"error": message.status == "error", "text": text_of(message)}
            print(json.dumps(answer), flush=True)


def text_of(message: ToolMessage) -> str:
    """What the model reads."""
    if isinstance(message.content, str):
        return message.content
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in message.content)


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
