"""The outermost ASGI layer: what every request must be before any route sees it.

Host and Origin are allow-listed (no web page can post a tool call, no rebound name reaches us), bodies are
strict JSON of a bounded size, and every answer carries its correlation id. Plain ASGI: a middleware of the
framework would cost more than a policy decision (docs/architecture.md, Speed).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from agentgate.core.errors import ReasonCode
from agentgate.core.hosts import in_a_header
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.edges.problem import PROBLEM_JSON, Problem, method_not_allowed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("agentgate.wire")

_SINGLE: Final = frozenset(
    {b"host", b"origin", b"content-type", b"content-length", b"content-encoding", b"authorization", b"x-api-key"}
    | {b"x-correlation-id", b"traceparent", b"transfer-encoding", b"idempotency-key"}
    | {b"x-forwarded-client-cert", b"client-cert", b"x-ssl-client-s-dn"}
)
"""Headers that decide something: sent twice, they are refused rather than chosen from."""

_MAX_LENGTH_DIGITS: Final = 18
_HOST: Final = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DOTS: Final = re.compile(rb"/\.\.?(?:/|$)")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_NEVER_ESCAPED: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\\x7f" + bytes(range(32))
)
"""What has another spelling in a path, or no place in one: `/kill%73` would pass a proxy that guards `/kills`."""
_CORRELATION: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_JSON_TYPE: Final = re.compile(rb'application/json\s*(?:;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)


@dataclass(slots=True)
class Request:
    """One request as the hot route sees it: no framework object, one pass over the headers."""

    scope: Scope
    headers: dict[bytes, bytes]
    correlation_id: bytes

    @property
    def client_host(self) -> str | None:
        client = self.scope.get("client")
        return client[0] if client else None

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that came in; a malformed one is ignored, as the standard says."""
        value = self.headers.get(b"traceparent", b"").decode("latin-1")
        return value if is_traceparent(value) else None


HotRoute = Callable[[Request, Receive], Awaitable[tuple[int, list[tuple[bytes, bytes]], bytes]]]
"""A route outside of the framework: answers status, headers and body; refuses by raising Problem."""

Mounted = Callable[[Request, Receive, Send], Awaitable[None]]
"""Everything on one path, with whatever methods: it reads its own body, and may stream. Refuses by raising Problem
before it has sent anything."""


class Wire:
    """Guards every request, serves the hot routes itself and hands the rest to the framework."""

    def __init__(
        self,
        app: ASGIApp,
        lifespan: ASGIApp,
        hot: dict[tuple[str, str], HotRoute],
        mounted: dict[str, Mounted],
        *,
        hosts: frozenset[str],
        origins: frozenset[str],
        max_body_bytes: int,
        on_fault: Callable[[], None],
        new_id: Callable[[], str],
    ) -> None:
        self._app = app
        self._lifespan = lifespan
        self._hot = hot
        self._mounted = mounted
        self._hosts = hosts
        self._origins = origins
        self._max_body_bytes = max_body_bytes
        self._on_fault = on_fault
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, {}, b"")
        try:
            self._read_head(request)
            _require_plain_path(scope)
            mounted = self._mounted.get(scope["path"])
            if mounted is not None:
                await self._stream(request, send, lambda sending: mounted(request, receive, sending))
                return
            if scope["method"] == "HEAD":  # answered as GET; the server leaves the body out
                request.scope = scope = {**scope, "method": "GET"}
            hot = self._hot.get((scope["method"], scope["path"]))
            if hot is not None:
                status, headers, body = await hot(request, receive)
                await _answer(send, status, [*headers, (b"x-correlation-id", request.correlation_id)], body)
            elif methods := [method for method, path in self._hot if path == scope["path"]]:
                raise method_not_allowed(methods)
            else:
                await self._framework(request, receive, send)
        except Problem as problem:
            await _answer_problem(send, problem, request.correlation_id)
        except Exception:  # the edge's last handler: nobody gets a traceback, and nothing is answered as allowed
            self._on_fault()
            logger.exception("a request failed", extra={"path": scope["path"]})
            text = "Internal error; if it was a call, the log says whether it ran"
            await _answer_problem(send, Problem(503, ReasonCode.INTERNAL, text), request.correlation_id)

    def _read_head(self, request: Request) -> None:
        headers = request.headers
        twice = b""
        for name, value in request.scope["headers"]:
            if name in _SINGLE and name in headers:
                twice = name
            headers[name] = value
        given = headers.get(b"x-correlation-id")
        request.correlation_id = given if given and _CORRELATION.fullmatch(given) else self._new_id().encode()
        if twice:
            raise _two_readings(f"Header {twice.decode('latin-1')} was sent twice")
        if b"transfer-encoding" in headers:
            self._require_plain_chunks(request)
        host = headers.get(b"host", b"").decode("latin-1").lower()
        named = _HOST.fullmatch(host)
        if named is None or in_a_header(named[1]) not in self._hosts:
            raise Problem(421, ReasonCode.HOST_NOT_ALLOWED, "This host name is not served here (server.hosts)")
        origin = headers.get(b"origin")
        if origin is not None and not self._is_own_origin(origin.decode("latin-1").lower(), host):
            raise Problem(403, ReasonCode.ORIGIN_NOT_ALLOWED, "This web origin may not call us (server.origins)")

    @staticmethod
    def _require_plain_chunks(request: Request) -> None:
        """What is chunked and more would be taken as it is, and HTTP/1.0 knows no chunks (RFC 9112 §6.1)."""
        if request.headers[b"transfer-encoding"].lower() != b"chunked" or request.scope.get("http_version") == "1.0":
            raise _two_readings("The only Transfer-Encoding is chunked, and only in HTTP/1.1")

    def _is_own_origin(self, origin: str, host: str) -> bool:
        return origin in self._origins or origin in (f"http://{host}", f"https://{host}")

    async def _framework(self, request: Request, receive: Receive, send: Send) -> None:
        """Everything but the hot routes: the body is read and checked here and replayed to the framework."""
        if request.scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            body = await read_body(request, receive, self._max_body_bytes)
            if body:
                require_json_type(request)
                parsed(body)
            receive = replay(body, receive)
        await self._stream(request, send, lambda sending: self._app(request.scope, receive, sending))

    async def _stream(self, request: Request, send: Send, run: Callable[[Send], Awaitable[None]]) -> None:
        """An answer that somebody else sends, piece by piece."""
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-correlation-id", request.correlation_id)]
            await send(message)

        try:
            await run(sending)
        except Exception:  # the edge's last handler: an answer that has begun can only be cut off
            if not started:
                raise
            self._on_fault()
            logger.exception("an answer broke off", extra={"path": request.scope["path"]})


def _require_plain_path(scope: Scope) -> None:
    """One path, one spelling: whoever looks at requests before us must not see another path than we do.

    Raises:
        Problem: 404.
    """
    raw: bytes = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]  # some servers leave the query
    is_plain = b"%" not in raw or all(one[1] and int(one[1], 16) not in _NEVER_ESCAPED for one in _ESCAPE.finditer(raw))
    if not is_plain or b"//" in raw or _DOTS.search(raw) is not None:
        text = "This path is written in a way that proxies read differently: dots, slashes, or needless escapes"
        raise Problem(404, ReasonCode.NOT_FOUND, text)


def _two_readings(what: str) -> Problem:
    """Of a request whose end is not certain: what follows it is nobody's."""
    return Problem(400, ReasonCode.INVALID_REQUEST, what, headers={"Connection": "close"})


def is_traceparent(value: str) -> bool:
    """Whether it is a trace context as W3C's Trace Context defines it (version 00)."""
    return _TRACEPARENT.fullmatch(value) is not None


async def read_body(request: Request, receive: Receive, limit: int) -> bytes:
    """The body, counted while it streams: no Content-Length is believed, and none is needed.

    Raises:
        Problem: 413 over `limit` bytes, 400 when the client goes away.
    """
    declared = request.headers.get(b"content-length", b"0")
    if not declared.isdigit():
        raise Problem(400, ReasonCode.INVALID_REQUEST, "Content-Length must be a number")
    if len(declared) > _MAX_LENGTH_DIGITS or int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and message["type"] == "http.request":
        if len(body) > limit:
            raise _too_large(limit)
        return body
    chunks = bytearray(body)
    while message.get("more_body"):
        message = await receive()
        chunks += message.get("body", b"")
        if len(chunks) > limit:
            raise _too_large(limit)
    if message["type"] == "http.disconnect":
        raise Problem(400, ReasonCode.INVALID_REQUEST, "The client went away before its body was complete")
    return bytes(chunks)


def require_json_type(request: Request) -> None:
    """Refuse what a web page could send without asking first, and what would need decompression."""
    content_type = request.headers.get(b"content-type", b"")
    if _JSON_TYPE.fullmatch(content_type.strip()) is None:
        raise Problem(415, ReasonCode.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json in UTF-8")
    if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem(415, ReasonCode.UNSUPPORTED_MEDIA_TYPE, "The body must not be compressed")


def parsed(body: bytes) -> Any:
    """Raises Problem where it is not strict JSON."""
    try:
        return parse(body)
    except NotStrictJson as error:
        raise Problem(400, ReasonCode.MALFORMED_JSON, f"Not strict JSON: {error}") from None


def _too_large(limit: int) -> Problem:
    text, headers = f"The body is over {limit} bytes", {"Connection": "close"}
    return Problem(413, ReasonCode.BODY_TOO_LARGE, text, error="Request body too large", headers=headers)


def replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read here, for whoever reads it again."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def until_gone(receive: Receive) -> None:
    """Returns when the client of a request whose body was read has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _answer_problem(send: Send, problem: Problem, correlation_id: bytes) -> None:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    headers.append((b"content-type", PROBLEM_JSON))
    if correlation_id:
        headers.append((b"x-correlation-id", correlation_id))
    await _answer(send, problem.status, headers, problem.body())
