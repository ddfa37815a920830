"""One answer over HTTP to one request: JSON, or the last event of the stream that it became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from mcp.shared.exceptions import MCPError

from agentgate.edges.wire import Send

_PING: Final = b": ping\r\n\r\n"
_STREAM: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
]


class Reply:
    """`ping` and `tell` make a stream of it; `result` or `error` is its end."""

    def __init__(self, request_id: int | str, send: Send, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._request_id = request_id
        self._send = send
        self._headers = headers
        self._is_stream = self._is_over = False

    async def ping(self) -> None:
        await self._part(_PING)

    async def tell(self, method: str, params: Mapping[str, Any] | None) -> None:
        """A notification before the answer; nothing after it."""
        message = {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}
        await self._part(_event(orjson.dumps(message)))

    async def _part(self, part: bytes) -> None:
        if self._is_over:
            return
        if not self._is_stream:
            self._is_stream = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_STREAM, *self._headers]})
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def result(self, result: Mapping[str, Any]) -> None:
        await self._end(200, {"result": result})

    async def error(self, error: MCPError, status: int = 200) -> None:
        said = {"code": error.code, "message": error.message}
        if error.data is not None:
            said["data"] = error.data
        await self._end(status, {"error": said})

    async def _end(self, status: int, outcome: Mapping[str, Any]) -> None:
        body = orjson.dumps({"jsonrpc": "2.0", "id": self._request_id, **outcome})
        self._is_over = True
        if self._is_stream:
            await self._send({"type": "http.response.body", "body": _event(body), "more_body": False})
            return
        kind = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await self._send({"type": "http.response.start", "status": status, "headers": [*kind, *self._headers]})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _event(message: bytes) -> bytes:
    return b"event: message\r\ndata: %s\r\n\r\n" % message
