"""What carries the requests of one session with an MCP server on HTTP: aiohttp's pool, as under kind `http`.

httpx2's own transport parses in Python and writes head and body apart; a tenth of what a call costs went there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._open: set[Stream] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        timeout = request.extensions.get("timeout", {})
        stream = await self.exchange(
            request.method,
            URL(str(request.url), encoded=True),
            request.headers.multi_items(),
            await request.aread(),
            timeout=aiohttp.ClientTimeout(total=None, connect=timeout.get("connect"), sock_read=timeout.get("read")),
        )
        return httpx2.Response(stream.status, headers=stream.raw_headers, stream=stream)

    async def exchange(
        self, method: str, url: URL, headers: Sequence[tuple[str, str]], body: bytes, *, timeout: aiohttp.ClientTimeout
    ) -> Stream:
        """The answer to a request, its body still to be read. Cancelling this aborts the connection.

        Raises:
            httpx2.TransportError
        """
        if self._session is None:  # not in __init__: a session belongs to the running loop
            self._session = open_session(max_connections=_MOST_CONNECTIONS)
        attempts = Attempts()
        try:
            with _translated(), noting(attempts):
                response = await self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=body or None,
                    allow_redirects=False,
                    auto_decompress=False,
                    timeout=timeout,
                )
        except BaseException:
            attempts.abort()
            raise
        return Stream(response, attempts, self._open)

    async def aclose(self) -> None:
        for stream in tuple(self._open):
            stream.abort()  # aiohttp's own closing wakes nobody who reads
        if self._session is not None:
            await self._session.close()


class Stream(httpx2.AsyncByteStream):
    """The body of an answer, which comes with its status and headers. Close or abort it."""

    def __init__(self, response: aiohttp.ClientResponse, attempts: Attempts, open_: set[Stream]) -> None:
        """It is in `open_` for as long as it is neither closed nor aborted."""
        self._response = response
        self._attempts = attempts
        self._open = open_
        open_.add(self)
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        """By names in any case."""
        self.raw_headers = list(response.raw_headers)

    @property
    def is_at_end(self) -> bool:
        return self._response.content.at_eof()

    def abort(self) -> None:
        """Hang up, unless all of it was read: then the connection may be another request's. Who reads, hears of it."""
        self._open.discard(self)
        if not self._response.content.is_eof():
            self._attempts.abort()
        self._response.release()

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
            self.abort()


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
