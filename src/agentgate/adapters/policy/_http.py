"""A small HTTP/1.1 client for one server: kept-alive connections, strict answers, nothing else.

A policy question is one small request to a server next door; with a general client it costs more than OPA itself.
Answers must have a Content-Length or be chunked, and stay below a cap; whatever else arrives ends the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

from agentgate.core.hosts import is_host

MAX_BODY_BYTES: Final = 1024 * 1024
_MAX_HEAD_BYTES: Final = 32 * 1024


class Unreachable(Exception):
    """No answer: refused, reset, or closed in the middle."""


class Nonsense(Exception):
    """Bytes that are not an HTTP answer as it has to be."""


class _ClosedUnheard(Unreachable):
    """The connection ended before the first byte of an answer: on a kept-alive one, the request was not taken."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is: a unix socket, or host and port with or without TLS."""

    host_header: str
    unix_path: str | None = None
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None


def parse_url(url: str, ca_file: Path | None = None) -> Address:
    """`unix:///run/opa.sock`, `http://host:port` or `https://…`.

    Raises:
        ValueError: naming what is wrong with it.
    """
    parts = urlsplit(url)
    if parts.username or parts.query or parts.fragment:
        raise ValueError("the OPA url may not hold a user, a query or a fragment")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("a unix OPA url is unix:///absolute/path")
        return Address("localhost", unix_path=parts.path)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not is_host(parts.hostname):
        raise ValueError("the OPA url must be http://, https:// or unix:///path")
    if parts.path not in {"", "/"}:
        raise ValueError("the OPA url may not have a path")
    tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
    return Address(parts.netloc, host=parts.hostname, port=parts.port or (443 if tls else 80), tls=tls)


class HttpClient:
    """Requests to one address over at most `connections` kept-alive connections."""

    def __init__(self, address: Address, *, headers: Mapping[str, str], connections: int) -> None:
        if any(character in value for value in headers.values() for character in "\r\n\0"):
            raise ValueError("a header value may not hold a line break")
        self._address = address
        self._fixed = "".join(
            f"{name}: {value}\r\n" for name, value in {"Host": address.host_header, **headers}.items()
        ).encode()
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(connections)
        self._closed = False

    def head(self, method: str, target: str) -> bytes:
        """The unchanging part of a request, to be made once: all but the length and the body."""
        return f"{method} {target} HTTP/1.1\r\n".encode() + self._fixed + b"Accept: application/json\r\n"

    async def send(self, head: bytes, body: bytes | None, timeout_s: float, *, cap: int = MAX_BODY_BYTES) -> Answer:
        """One answer.

        Raises:
            TimeoutError: not all of it within `timeout_s`, waiting for a connection included.
            Unreachable, Nonsense
        """
        request = head + (
            b"\r\n"
            if body is None
            else b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        async with asyncio.timeout(timeout_s), self._places:
            while self._idle:
                connection = self._idle.pop()
                if connection.usable:
                    try:
                        return await self._exchange(connection, request, cap)
                    except _ClosedUnheard:
                        break  # the server had closed it; this once, on a new connection
            return await self._exchange(await self._connect(), request, cap)

    async def _exchange(self, connection: _Connection, request: bytes, cap: int) -> Answer:
        try:
            answer = await connection.ask(request, cap)
        except BaseException:
            connection.abort()
            raise
        if connection.usable and not self._closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return answer

    async def _connect(self) -> _Connection:
        address, loop = self._address, asyncio.get_running_loop()
        try:
            if address.unix_path is not None:
                _, connection = await loop.create_unix_connection(_Connection, address.unix_path)
            else:
                _, connection = await loop.create_connection(_Connection, address.host, address.port, ssl=address.tls)
        except (OSError, ssl.SSLError) as error:
            raise Unreachable(str(error)) from error
        return connection

    async def aclose(self) -> None:
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """One connection, one request at a time. httptools calls the `on_…` methods while it parses."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._lost = False
        self.usable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.usable = True

    def ask(self, request: bytes, cap: int) -> asyncio.Future[Answer]:
        """The answer to `request`, to be awaited at once."""
        self._parser = httptools.HttpResponseParser(self)
        self._cap = cap
        self._received = 0
        self._framed = False
        self._in_body = False
        self._content_type = ""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self.usable = False
        self._waiter = asyncio.get_running_loop().create_future()
        if self._lost:
            self._fail(_ClosedUnheard("the connection was closed"))
        else:
            self._transport.write(request)
        return self._waiter

    def abort(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.abort()  # bytes that nobody asked for would be taken for the next answer
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
            if not self._in_body and self._received > _MAX_HEAD_BYTES:
                raise Nonsense("the head of the answer is too long")
        except Nonsense as nonsense:
            self._fail(nonsense)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._fail(cause if isinstance(cause, Nonsense) else Nonsense(str(error)))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Nonsense(f"not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.usable = False
        if self._waiter is not None and not self._waiter.done():
            why = str(exc) if exc else "closed"
            self._fail(Unreachable(f"{why} in the middle of an answer") if self._received else _ClosedUnheard(why))

    def on_message_begin(self) -> None:
        if self._waiter is None or self._waiter.done():
            raise Nonsense("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"content-type":
            self._content_type = value.decode("latin-1")
        elif lower == b"content-length" and value.isdigit():
            self._framed = True
            if int(value) > self._cap:
                raise Nonsense(f"the answer has more than {self._cap} bytes")
        elif lower == b"transfer-encoding" and value.lower() == b"chunked":
            self._framed = True

    def on_headers_complete(self) -> None:
        self._in_body = True
        if not self._framed:
            raise Nonsense("the answer has neither a length nor chunks")
        if self._parser.get_http_version() != "1.1":
            raise Nonsense("not HTTP/1.1")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._cap:
            raise Nonsense(f"the answer has more than {self._cap} bytes")
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._waiter is not None
        self.usable = self._parser.should_keep_alive() and not self._lost
        self._waiter.set_result(Answer(self._parser.get_status_code(), self._content_type, b"".join(self._body)))

    def _fail(self, why: Exception) -> None:
        self.usable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(why)
        if self._transport is not None:
            self._transport.abort()
