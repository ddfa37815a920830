"""The two floors that the gateway is measured against: the same server and body, and nothing governed.

`asgi` is a raw ASGI function: the server's limit. `fastapi` is what a user would write without a gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI
from pydantic import BaseModel, Field

_ANSWER = orjson.dumps({"success": True, "result": {"rows": [{"id": 1, "name": "Widget"}]}, "error": None})
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    orjson.loads(body)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


class ToolCall(BaseModel):
    session_id: str = Field(max_length=256)
    tool_name: str = Field(max_length=128)
    arguments: dict[str, Any]
    context: dict[str, Any] = {}


fastapi = FastAPI()


@fastapi.post("/tools/call")
async def call(_: ToolCall) -> dict[str, Any]:
    return {"success": True, "result": {"rows": [{"id": 1, "name": "Widget"}]}, "error": None}
