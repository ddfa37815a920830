"""What a message must be before the SDK sees it, and how a refusal of it is said: JSON-RPC, as its client expects.

The SDK's parsers take the last of two equal names, and batches in one of the eras; what policy sees must be what the
client's own log shows.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Final

import orjson

from agentgate.core.errors import ReasonCode
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.edges._mcp.parts import OURS
from agentgate.edges.problem import Problem
from agentgate.edges.wire import Receive, Request, Send, read_body, require_json_type
from agentgate.ports.ambient import LARGE_BYTES, Worker, beside

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
_ONCE: Final = (b"mcp-", b"agentgate-session")
"""How headers begin that say what a message is and whose: sent twice, they are refused rather than chosen from."""


class Unserved(Exception):
    """A message that is not served, as HTTP status and JSON-RPC error."""

    def __init__(self, status: int, code: int, message: str, reason: ReasonCode, request_id: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.reason = reason
        self.request_id = request_id

    def body(self) -> bytes:
        error = {"code": self.code, "message": self.message, "data": {f"{OURS}reasonCode": self.reason.value}}
        return orjson.dumps({"jsonrpc": "2.0", "id": self.request_id, "error": error})

    async def answer(self, send: Send) -> None:
        body = self.body()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def require_single_headers(request: Request) -> None:
    """Raises Unserved where a header that the protocol is read from was sent twice."""
    counts = Counter(name for name, _ in request.scope["headers"] if name.startswith(_ONCE))
    for name, count in counts.items():
        if count > 1:
            text = f"Header {name.decode('latin-1')} was sent twice"
            raise Unserved(400, INVALID_REQUEST, text, ReasonCode.INVALID_REQUEST)


class Reader:
    """Reads messages, those of a session in their order: what cancels a call must not overtake it."""

    def __init__(self, worker: Worker, limit: int) -> None:
        self._worker = worker
        self._limit = limit
        self._waiting: Counter[bytes] = Counter()
        """Messages that the worker reads or will read, by session."""

    async def read(self, request: Request, receive: Receive) -> tuple[bytes, dict[str, Any]]:
        """One JSON-RPC message: as it came, and parsed. Raises Unserved."""
        body = await _body(request, receive, self._limit)
        session = request.headers.get(b"mcp-session-id")
        if session is None:
            return body, _message(await beside(self._worker, len(body), partial(_parsed, body)))
        size = LARGE_BYTES + 1 if self._waiting[session] else len(body)
        self._waiting[session] += 1
        try:
            return body, _message(await beside(self._worker, size, partial(_parsed, body)))
        finally:
            self._waiting -= Counter({session: 1})


async def _body(request: Request, receive: Receive, limit: int) -> bytes:
    try:
        require_json_type(request)
        return await read_body(request, receive, limit)
    except Problem as problem:
        raise Unserved(problem.status, INVALID_REQUEST, problem.detail, problem.reason) from None


def _parsed(body: bytes) -> Any:
    try:
        return parse(body)
    except NotStrictJson as error:
        raise Unserved(400, PARSE_ERROR, f"Not strict JSON: {error}", ReasonCode.MALFORMED_JSON) from None


def _message(said: Any) -> dict[str, Any]:
    if isinstance(said, list):
        text = "Batches are not served: send one message at a time"
        raise Unserved(400, INVALID_REQUEST, text, ReasonCode.INVALID_REQUEST)
    if not isinstance(said, dict):
        raise Unserved(400, INVALID_REQUEST, "The body must be one JSON-RPC message", ReasonCode.INVALID_REQUEST)
    return said


def request_id_of(message: dict[str, Any]) -> str | None:
    """How a request is told from others of its session; None for a notification or a response.

    As text: the SDK does not tell 7 from "7" either.
    """
    if "method" not in message or "id" not in message:
        return None
    return str(message["id"])
