"""What carries the requests of one session with an MCP server on HTTP: aiohttp's pool, as under kind `http`.

httpx2's own transport parses in Python and writes head and body apart; a tenth of what a call costs went there.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
import httpx2
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from agentgate.adapters.upstreams._http_exchange import Attempts, noting, open_session

_MOST_CONNECTIONS: Final = 100
_DRAIN_S: Final = 0.05
"""For the end of an answer to come after its last event: then the next call need not connect anew."""


class Transport(httpx2.AsyncBaseTransport):
    """HTTP/1.1, directly. Nothing is sent twice; a connection whose answer was not read to its end is aborted."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._session is None:  # not in __init__: a session belongs to the running loop
            self._session = open_session(max_connections=_MOST_CONNECTIONS, tls=self._tls)
        body = await request.aread()
        timeout = request.extensions.get("timeout", {})
        attempts = Attempts()
        try:
            with _translated(), noting(attempts):
                response = await self._session.request(
                    request.method,
                    URL(str(request.url), encoded=True),
                    headers=request.headers.multi_items(),
                    data=body or None,
                    allow_redirects=False,
                    auto_decompress=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=timeout.get("connect"), sock_read=timeout.get("read")
                    ),
                )
        except BaseException:
            attempts.abort()
            raise
        return httpx2.Response(response.status, headers=list(response.raw_headers), stream=_Stream(response, attempts))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, attempts: Attempts) -> None:
        self._response = response
        self._attempts = attempts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated():
            async for part in self._response.content.iter_any():
                yield part

    async def aclose(self) -> None:
        content = self._response.content
        try:
            if not content.is_eof():
                async with asyncio.timeout(_DRAIN_S):
                    await content.readany()
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        finally:
            if not content.is_eof():  # once it has come to its end, the connection may be another request's
                self._attempts.abort()
            self._response.release()


@contextmanager
def _translated() -> Iterator[None]:
    """aiohttp's errors in httpx2's words. Where nothing can have been sent, it is one of connecting."""
    try:
        yield
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
        raise httpx2.ConnectError(type(error).__name__) from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout(type(error).__name__) from error
    except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError, HttpProcessingError) as error:
        raise httpx2.RemoteProtocolError(type(error).__name__) from error
    except (aiohttp.ClientError, OSError) as error:
        raise httpx2.ReadError(type(error).__name__) from error
    except (ValueError, RuntimeError) as error:  # aiohttp refuses what we ask: a header, a session closed meanwhile
        raise httpx2.LocalProtocolError(type(error).__name__) from error
