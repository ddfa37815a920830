"""A server written with the SDK, of both eras: `python mcp_sdk_server.py` on stdio, `… PORT` on HTTP."""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import Any

import anyio
import uvicorn
from mcp import MCPDeprecationWarning, types
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.subscriptions import ToolsListChanged

warnings.filterwarnings("ignore", category=MCPDeprecationWarning)
Context = ServerRequestContext[Any]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
bus = InMemorySubscriptionBus()
log: list[str] = []
extra: list[types.Tool] = []


def tools() -> list[types.Tool]:
    names = ("count", "ask_user", "ask_roots", "hang", "fail", "report", "log_of", "grow")
    return [types.Tool(name=name, input_schema=SCHEMA) for name in names] + extra


async def list_tools(_: Context, __: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=tools())


def result(**content: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[], structured_content=content)


async def call_tool(
    ctx: Context, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    match params.name:
        case "count":
            for n in range(3):
                await ctx.session.report_progress(n + 1, 3)
            await ctx.session.send_log_message("info", "counted", related_request_id=ctx.request_id)
            return result(n=3)
        case "ask_user":
            if ctx.protocol_version == "2026-07-28":
                if params.input_responses:
                    return result(action=params.input_responses["a"].action)
                ask = types.ElicitRequest(params=types.ElicitRequestFormParams(message="who?", requested_schema=SCHEMA))
                return types.InputRequiredResult(input_requests={"a": ask}, request_state="st")
            answer = await ctx.session.elicit("who?", SCHEMA, related_request_id=ctx.request_id)
            return result(action=answer.action)
        case "ask_roots":
            found = await ctx.session.list_roots()
            return result(roots=[str(root.uri) for root in found.roots])
        case "hang":
            await ctx.session.report_progress(1)
            try:
                await anyio.sleep_forever()
            finally:
                log.append("cancelled")
        case "report":
            return result(meta=dict(ctx.meta or {}))
        case "log_of":
            return result(log=log)
        case "grow":
            extra.append(types.Tool(name=f"more{len(extra)}", input_schema=SCHEMA))
            await bus.publish(ToolsListChanged())
            await ctx.session.send_tool_list_changed()
            return result()
    raise types_error()


def types_error() -> Exception:
    from mcp.shared.exceptions import MCPError  # as late as it is needed

    return MCPError(code=-32050, message="it failed", data={"why": "asked to"})


async def read(_: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, text="read")])


async def resources(_: Context, __: Any) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=[types.Resource(uri="test://a", name="a")])


async def prompts(_: Context, __: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[types.Prompt(name="p")])


async def prompt(_: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    text = types.TextContent(type="text", text=str(params.arguments))
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text)])


server: Server[Any] = Server(
    "sdk",
    version="1",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=resources,
    on_read_resource=read,
    on_list_prompts=prompts,
    on_get_prompt=prompt,
    on_subscriptions_listen=ListenHandler(bus),
)


async def on_stdio() -> None:
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def main() -> None:
    if len(sys.argv) == 1:
        asyncio.run(on_stdio())
    else:
        uvicorn.run(server.streamable_http_app(), port=int(sys.argv[1]), log_level="error")


if __name__ == "__main__":
    main()
