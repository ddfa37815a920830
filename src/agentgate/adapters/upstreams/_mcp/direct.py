"""Calls of tools in one session with a server on HTTP, each sent and read by who waits for it.

The SDK hands a message through two streams, three tasks and httpx2 before it is on the wire, and its answer as far
back: half a millisecond each way. Everything else stays with it: the handshake, the era, lists, announcements, and
the answers to questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import aiohttp
import httpx2
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from yarl import URL

from agentgate.adapters.upstreams._mcp.http import (
    EVENTS,
    JSON,
    LEAST_RESUME_S,
    LOST,
    NEVER_SENT,
    Guard,
    is_encoded,
    is_of_type,
)
from agentgate.adapters.upstreams._mcp.network import Stream, Transport

Answer = JSONRPCResponse | JSONRPCError
Hear = Callable[[JSONRPCRequest | JSONRPCNotification], Awaitable[None]]
"""Who hears what a server says on a request's stream before its answer."""

_ELSEWHERE: Final = (301, 302, 303, 307, 308)
_RESUME_AFTER_S: Final = 1.0
_MOST_FAILURES: Final = 2
_KINDS: Final = [("Accept", f"{JSON}, {EVENTS}"), ("Content-Type", JSON)]


class Elsewhere(Exception):
    """The server has it asked at another address, and did nothing."""


class TooLarge(Exception):
    """An event is larger than allowed."""


class Events:
    """Reads a stream of server-sent events (HTML, 9.2) part by part; none may have more than `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.last_id = b""
        """From where the stream can be taken up again; empty: from nowhere."""
        self.resume_after_s = _RESUME_AFTER_S
        self.begin()

    def begin(self) -> None:
        """A stream begins: what an earlier one broke off in, comes again."""
        self._rest: list[bytes] = []
        self._rest_bytes = self._event_bytes = 0
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, part: bytes) -> Iterator[bytes]:
        """The data of each message that `part` completes. Raises TooLarge."""
        self._rest.append(part)
        self._rest_bytes += len(part)
        if b"\n" in part or b"\r" in part:
            text = b"".join(self._rest)
            end = max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1  # a last \r may be half of a line's end
            self._rest, self._rest_bytes = [text[end:]], len(text) - end
            for line in text[:end].splitlines():
                data = self._line(line)
                if data:  # without, it only says from where to take up the stream
                    yield data
        self._check(self._rest_bytes)

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            name, data = self._name, b"\n".join(self._data)
            self._name, self._data, self._event_bytes = b"", [], 0
            return data if name in (b"", b"message") else None
        self._event_bytes += len(line)
        self._check(0)
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif field == b"id" and b"\0" not in value:
            self.last_id = value
        elif field == b"retry" and value.isdigit():
            self.resume_after_s = max(int(value[:9]) / 1000, LEAST_RESUME_S)
        return None

    def _check(self, more: int) -> None:
        if self._event_bytes + more > self._most:
            raise TooLarge


class Direct:
    """Sends the requests of one session.

    Args:
        transport: what carries the SDK's requests as well.
        guard: what they pass, with what it holds requests to and what it knows of the session.
        ended: set when the session is over.
    """

    def __init__(
        self, transport: Transport, guard: Guard, url: str, connect_timeout_s: float, ended: asyncio.Event
    ) -> None:
        self._transport = transport
        self._guard = guard
        self._url = URL(url, encoded=True)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._ended = ended
        self._closing: set[asyncio.Task[None]] = set()

    async def request(self, request_id: int, body: bytes, headers: Mapping[str, str], hear: Hear) -> Answer:
        """The answer to `body`, a request with that id. Cancelling this hangs up.

        Raises:
            MCPError: there is no answer, in the words of `say` where no server said so.
            Elsewhere
        """
        events = Events(self._guard.most)
        answer = await self._exchange("POST", request_id, body, self._headers(headers), events, hear)
        failures = 0
        while answer is None:
            if not events.last_id or failures == _MOST_FAILURES:
                raise self._error("lost")
            with suppress(TimeoutError):
                async with asyncio.timeout(events.resume_after_s):
                    await self._ended.wait()
                    raise self._error("lost")
            again = self._headers({**headers, "Last-Event-ID": events.last_id.decode("latin-1")})
            try:
                answer = await self._exchange("GET", request_id, b"", again, events, hear)
            except (MCPError, Elsewhere):
                failures += 1
            else:
                failures = 0
        return answer

    def _headers(self, given: Mapping[str, str]) -> list[tuple[str, str]]:
        headers = [*_KINDS, *given.items()]
        if self._guard.session_id is not None:
            headers.append(("Mcp-Session-Id", self._guard.session_id))
        if self._guard.credential is not None and self._guard.credential[0] not in given:
            headers.append(self._guard.credential)
        return headers

    def _error(self, kind: str) -> MCPError:
        return MCPError(code=LOST, message=self._guard.say(kind))

    async def _exchange(
        self, method: str, request_id: int, body: bytes, headers: list[tuple[str, str]], events: Events, hear: Hear
    ) -> Answer | None:
        """None: its stream ended before its answer came. Raises as `request`."""
        try:
            stream = await self._transport.exchange(method, self._url, headers, body, timeout=self._timeout)
        except NEVER_SENT:
            raise self._error("unreached") from None
        except httpx2.TransportError:
            raise self._error("lost") from None
        try:
            answer = await self._read(stream, request_id, events, hear)
        except BaseException:
            stream.abort()
            raise
        self._close(stream)
        return answer

    async def _read(self, stream: Stream, request_id: int, events: Events, hear: Hear) -> Answer | None:
        if is_encoded(stream.headers):
            raise self._error("encoded")
        if stream.status in _ELSEWHERE:
            raise Elsewhere
        if stream.status == 202:
            raise MCPError(code=INVALID_REQUEST, message="the server took a request for something without an answer")
        if stream.status >= 400:
            raise await self._refusal(stream)
        if is_of_type(stream.headers, EVENTS):
            return await self._read_events(stream, events, hear)
        if not is_of_type(stream.headers, JSON):
            raise self._error("not_jsonrpc")
        message = self._parsed(await self._whole(stream))
        if isinstance(message, JSONRPCError) and message.id is None:
            return message
        if isinstance(message, Answer) and str(message.id) == str(request_id):
            return message
        raise self._error("not_jsonrpc")

    async def _refusal(self, stream: Stream) -> MCPError:
        """What a status above 400 says: the server's own error, where it sends one."""
        has_session = self._guard.session_id is not None
        if stream.status == 404 and has_session:
            self._guard.on_lost()
        if is_of_type(stream.headers, JSON):
            with suppress(ValidationError):
                message = jsonrpc_message_adapter.validate_json(await self._whole(stream), by_name=False)
                if isinstance(message, JSONRPCError):
                    return MCPError(code=message.error.code, message=message.error.message, data=message.error.data)
        if stream.status == 404 and not has_session:
            return MCPError(code=METHOD_NOT_FOUND, message="Not Found")
        return self._error(f"status_{stream.status}")

    async def _whole(self, stream: Stream) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async for part in stream:
                parts.append(part)
                size += len(part)
                if size > self._guard.most:
                    raise self._error("too_large")
        except httpx2.TransportError:
            raise self._error("lost") from None
        return b"".join(parts)

    async def _read_events(self, stream: Stream, events: Events, hear: Hear) -> Answer | None:
        events.begin()
        try:
            async for part in stream:
                for data in events.feed(part):
                    message = self._parsed(data)
                    if isinstance(message, Answer):  # whatever its id: the stream is this request's
                        return message
                    await hear(message)
        except TooLarge:
            raise self._error("too_large") from None
        except httpx2.TransportError:
            pass
        return None

    def _parsed(self, data: bytes) -> JSONRPCMessage:
        try:
            return jsonrpc_message_adapter.validate_json(data, by_name=False)
        except ValidationError:
            raise self._error("not_jsonrpc") from None

    def _close(self, stream: Stream) -> None:
        """Leave the connection to the next request, whose end need not wait for this one's."""
        if stream.is_at_end:
            stream.abort()
            return
        task = asyncio.create_task(stream.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
