"""The HTTP client of one session with an MCP server: nothing inherited, everything bounded, failures as answers.

An exception from one request would end the SDK's whole session and every call in it. Here it becomes the answer to
that request alone, in words that no server can forge.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeVar

import httpx2
import orjson

from agentgate.adapters.upstreams._mcp.trouble import why

_T = TypeVar("_T")

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
LOST: Final = -32000
"""The code of errors of our own; what they say, only their text does."""
NEVER_SENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)
_REQUEST: Final = re.compile(rb'\{"jsonrpc":\s*"2\.0",\s*"id":\s*(?:(\d+)|"[\w-]*"),\s*"method"')
"""How the SDK writes a request; those that we number can be cut. Nothing else has an answer worth waiting for long."""
_UNANSWERED_S: Final = 5.0
LEAST_RESUME_S: Final = 0.1
"""Whatever a server says: it may break its streams off as often as it likes, and have us ask for the rest each time."""


class Cut:
    """Ends whatever waits in it, from outside; for good."""

    def __init__(self) -> None:
        self._is_cut = False
        self._waiting: asyncio.Timeout | None = None

    def cut(self) -> None:
        self._is_cut = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def wait(self, work: Awaitable[_T]) -> _T:
        """Raises httpx2.ReadError when it was cut."""
        try:
            async with asyncio.timeout(0 if self._is_cut else None) as timeout:
                self._waiting = timeout
                try:
                    return await work
                finally:
                    self._waiting = None
        except TimeoutError:
            raise httpx2.ReadError("nobody waits for it any more") from None


class _Refused(httpx2.StreamError):
    """The SDK answers the one request with this, and goes on."""


class _Body(httpx2.AsyncByteStream):
    """A response's body: up to `most` bytes (None: the SDK bounds it), and until it is cut."""

    def __init__(
        self,
        inner: httpx2.AsyncByteStream,
        cut: Cut,
        most: int | None,
        say: Callable[[str], str],
        over: Callable[[], None],
    ) -> None:
        self._inner = inner
        self._cut = cut
        self._most = most
        self._say = say
        self._over = over

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        chunks = aiter(self._inner)
        while True:
            try:
                chunk = await self._cut.wait(anext(chunks, None))
            except httpx2.TransportError:
                raise _Refused(self._say("lost")) from None
            if chunk is None:
                return
            size += len(chunk)
            if self._most is not None and size > self._most:
                raise _Refused(self._say("too_large"))
            yield chunk

    async def aclose(self) -> None:
        self._over()
        await self._inner.aclose()


class Guard(httpx2.AsyncBaseTransport):
    """What every request and response of one session passes.

    Args:
        credential: the header that goes on each request that brings none of that name itself.
        say: makes the text of an error of ours that no server can forge.
        on_lost: told when the server no longer knows the session.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        *,
        credential: tuple[str, str] | None,
        most: int,
        say: Callable[[str], str],
        on_lost: Callable[[], None],
    ) -> None:
        self._inner = inner
        self.credential = credential
        self.most = most
        self.say = say
        self.on_lost = on_lost
        self._open: dict[int, Cut] = {}
        self._next_stream_at = 0.0
        self.session_id: str | None = None
        """What the server calls this session, once the handshake was had."""

    def cut(self, request_id: int) -> None:
        """Close what is still open of a request; nothing where it is over."""
        found = self._open.pop(request_id, None)
        if found is not None:
            found.cut()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.credential is not None and self.credential[0] not in request.headers:
            request.headers[self.credential[0]] = self.credential[1]
        request.headers.pop("cookie", None)  # a server that marks callers apart would mark those who share a session
        self.session_id = request.headers.get("mcp-session-id")
        if request.method == "GET":
            await self._pause()
            return await self._inner.handle_async_request(request)
        found = _REQUEST.match(await request.aread()) if request.method == "POST" else None
        if found is None:
            # The SDK sends these one after the other: without a bound, one would stop them all.
            request.extensions["timeout"] = request.extensions.get("timeout", {}) | {"read": _UNANSWERED_S}
        number, cut = int(found[1]) if found is not None and found[1] else -1, Cut()
        self._open[number] = cut
        try:
            response = await cut.wait(self._inner.handle_async_request(request))
        except NEVER_SENT as error:
            return self._over(number, cut, 503, f"unreached: {why(error.__cause__)}")
        except httpx2.TransportError:
            return self._over(number, cut, 503, "lost")
        except BaseException:
            self._forget(number, cut)
            raise
        return await self._checked(request, response, number, cut)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _pause(self) -> None:
        """Before a stream is taken up: the SDK does that as soon as the server says, one time after the other."""
        now_s = asyncio.get_running_loop().time()
        at_s = max(now_s, self._next_stream_at)
        self._next_stream_at = at_s + LEAST_RESUME_S
        await asyncio.sleep(at_s - now_s)

    async def _checked(
        self, request: httpx2.Request, response: httpx2.Response, number: int, cut: Cut
    ) -> httpx2.Response:
        status = response.status_code
        has_session = "mcp-session-id" in request.headers
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        if status == 404 and has_session:
            self.on_lost()
        if is_encoded(response.headers):
            await response.stream.aclose()
            return self._over(number, cut, 502, "encoded")
        is_fallback = status == 404 and not has_session  # to the SDK: this server does not know the method
        if status >= 400 and not is_of_type(response.headers, JSON) and not is_fallback:
            await response.stream.aclose()
            return self._over(number, cut, status, f"status_{status}")
        most = None if is_of_type(response.headers, EVENTS) else self.most
        return httpx2.Response(
            status,
            headers=response.headers,
            stream=_Body(response.stream, cut, most, self.say, lambda: self._forget(number, cut)),
            extensions=response.extensions,
        )

    def _over(self, number: int, cut: Cut, status: int, kind: str) -> httpx2.Response:
        """The answer to a request that has no other."""
        self._forget(number, cut)
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": LOST, "message": self.say(kind)}}
        return httpx2.Response(status, headers={"content-type": JSON}, content=orjson.dumps(error))

    def _forget(self, number: int, cut: Cut) -> None:
        if self._open.get(number) is cut:
            del self._open[number]


def is_encoded(headers: Mapping[str, str]) -> bool:
    """Whether an answer came compressed, which we ask no server to do: what it inflates to has no bound here."""
    return headers.get("content-encoding", "identity") != "identity"


def is_of_type(headers: Mapping[str, str], content_type: str) -> bool:
    return headers.get("content-type", "").lower().startswith(content_type)


def open_client(guard: Guard, *, connect_timeout_s: float) -> httpx2.AsyncClient:
    """A client for one session. Neither proxies nor .netrc nor anybody else's cookies; the gate sets deadlines."""
    return httpx2.AsyncClient(
        transport=guard,
        trust_env=False,
        headers={"accept-encoding": "identity", "user-agent": "agentgate"},
        timeout=httpx2.Timeout(None, connect=connect_timeout_s, pool=connect_timeout_s),
    )
