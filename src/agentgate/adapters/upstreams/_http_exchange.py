"""One HTTP request and its bounded answer on aiohttp, ended for good by cancellation.

aiohttp closes a cancelled connection politely: bytes of the request that still wait in the transport are
flushed first, so a killed call could be delivered after it was reported cut. Here every connection that a
request was given is noted, and aborted unless its answer was read to the end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Undelivered

_KEEPALIVE_S: Final = 4.0
"""Shorter than the 5 s after which common servers close an idle connection: so we rarely write into one."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request, ready to be written. `url` is encoded already and taken as it is."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float
    max_response_bytes: int
    repeatable: bool = False
    """Whether it may be written a second time if a kept-alive connection turns out to be dead (reads only)."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """An answer, read to its end."""

    status: int
    body: bytes


@dataclass(slots=True)
class Attempts:
    """The connections that one request was given."""

    repeatable: bool = False
    transports: list[asyncio.Transport] = field(default_factory=list)

    def abort(self) -> None:
        for transport in self.transports:
            transport.abort()


_attempts: ContextVar[Attempts] = ContextVar("_attempts")


@contextmanager
def noting(attempts: Attempts) -> Iterator[None]:
    """Note there what connections a request of `open_session`'s is given meanwhile. It must have one."""
    token = _attempts.set(attempts)
    try:
        yield
    finally:
        _attempts.reset(token)


class _Connector(aiohttp.TCPConnector):
    """Notes each connection it hands out, and hands a write no second one: aiohttp would resend PUT and DELETE."""

    async def connect(self, req: ClientRequest, *args: Any, **kwargs: Any) -> Connection:
        attempts = _attempts.get()
        if attempts.transports and not attempts.repeatable:
            raise aiohttp.ServerDisconnectedError("the connection broke; a write is not sent twice")
        connection = await super().connect(req, *args, **kwargs)
        if connection.transport is not None:
            attempts.transports.append(connection.transport)
        return connection


def open_session(*, max_connections: int, tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """A pool that keeps connections and nothing else: no cookies, no proxy or netrc from the environment.

    Must be called on the running loop.
    """
    return aiohttp.ClientSession(
        connector=_Connector(
            limit=max_connections, keepalive_timeout=_KEEPALIVE_S, ssl=tls if tls is not None else True
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        # The one deadline is exchange()'s; aiohttp would round longer ones up to whole seconds.
        timeout=aiohttp.ClientTimeout(total=None),
        # Compression saves us nothing and makes bombs; an answer that comes compressed is counted decoded.
        headers={"Accept-Encoding": "identity", "User-Agent": "agentgate"},
    )


async def exchange(session: aiohttp.ClientSession, request: Outgoing) -> Incoming | Undelivered:
    """Send and read to the end, within the deadline. Never raises but CancelledError.

    Details are fixed sentences: neither a URL nor a header value can get into them.
    """
    attempts = Attempts(request.repeatable)
    read_to_end = False
    try:
        with noting(attempts):
            async with asyncio.timeout(request.timeout_s):
                answer = await _exchange(session, request)
        read_to_end = isinstance(answer, Incoming)
        return answer
    except TimeoutError:
        reason, detail = ReasonCode.UPSTREAM_TIMEOUT, f"no answer within {request.timeout_s:g} s"
    except aiohttp.ClientConnectorError as error:
        reason, detail = ReasonCode.UPSTREAM_UNAVAILABLE, f"no connection ({type(error).__name__})"
    except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError, HttpProcessingError) as error:
        # Cut short or not HTTP at all: either way nothing was heard of what the upstream did.
        reason, detail = ReasonCode.UPSTREAM_UNAVAILABLE, f"the answer is not well-formed HTTP ({type(error).__name__})"
    except (aiohttp.ClientError, OSError) as error:
        reason, detail = ReasonCode.UPSTREAM_UNAVAILABLE, f"the connection broke ({type(error).__name__})"
    except (ValueError, RuntimeError) as error:
        # aiohttp refusing what we ask (a header it finds malformed, a session that was closed meanwhile).
        reason, detail = ReasonCode.UPSTREAM_ERROR, f"the request could not be made ({type(error).__name__})"
    finally:
        if not read_to_end:
            attempts.abort()
    return Undelivered(reason, detail, reached=bool(attempts.transports))


async def _exchange(session: aiohttp.ClientSession, request: Outgoing) -> Incoming | Undelivered:
    async with session.request(
        request.method, request.url, headers=request.headers, data=request.body, allow_redirects=False
    ) as response:
        body = await _read(response, request.max_response_bytes)
        if body is None:
            detail = f"the answer is larger than {request.max_response_bytes} bytes"
            return Undelivered(ReasonCode.UPSTREAM_TOO_LARGE, detail, status=response.status)
        return Incoming(response.status, body)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """The decoded body, or None as soon as it is longer than `max_bytes`."""
    if response.content_length is not None and response.content_length > max_bytes and response.method != "HEAD":
        return None
    parts: list[bytes] = []
    total = 0
    async for part in response.content.iter_any():
        total += len(part)
        if total > max_bytes:
            return None
        parts.append(part)
    return b"".join(parts)
