"""One client's connection: uvicorn's, and stricter about what a request is.

What two readers could take for two things is refused here, because behind `Wire` it is one thing already: a target
that names another host than `Host`, trailers, a body behind an `Upgrade`, versions that nobody speaks. A head has a
size, and a request a time in which it must be there. Whatever is refused ends the connection: what follows it on the
wire is nobody's request.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from agentgate.core.errors import ReasonCode
from agentgate.edges.problem import PROBLEM_JSON, Problem

MAX_HEAD_BYTES: Final = 65_536
MAX_HEADERS: Final = 128
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]+)/[^#]*", re.IGNORECASE)
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_BODIED: Final = frozenset({b"content-length", b"transfer-encoding"})
_MALFORMED: Final = Problem(400, ReasonCode.INVALID_REQUEST, "This is not a well-formed HTTP/1.1 request")


class Connection(HttpToolsProtocol):
    """Implements `asyncio.Protocol`. `patience_s`: within that time, a request is there as a whole."""

    patience_s = 30.0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._deadline: asyncio.TimerHandle | None = None
        self._has_head = False
        self._is_whole = False
        """Whether nothing is missing of the request that was begun last."""
        self._is_deaf = False
        """What comes now is not listened to any more."""
        self._heard = 0
        """Bytes since the last whole request, but for those that came with its end: they are of one read."""
        self._running: RequestResponseCycle | None = None
        self._problem: Problem | None = None

    # --- what the transport tells ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.patience_s, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._heard += len(data)
        super().data_received(data)
        if self._is_whole:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif not self._is_deaf:
            if self._deadline is None:
                self._deadline = self.loop.call_later(self.patience_s, self._give_up)
            if not self._has_head and self._heard > MAX_HEAD_BYTES:
                self._refuse(_too_long())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self._deadline = None
        if not self._heard and self._running is None:
            self.transport.close()  # nothing was asked: an answer might be taken for that to a request on its way
            return
        text = f"The request was not there as a whole within {self.patience_s:g} s"
        self._refuse(Problem(408, ReasonCode.INVALID_REQUEST, text))

    # --- what the parser tells ---

    def on_message_begin(self) -> None:
        self._has_head = self._is_whole = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        upgrade = self.parser.should_upgrade()
        if (
            upgrade
            or self._heard > MAX_HEAD_BYTES
            or len(self.headers) > MAX_HEADERS
            or not self.url.startswith(b"/")
            or b"#" in self.url
            or self.parser.get_http_version() not in _VERSIONS
        ):
            self._problem = self._objection()
            if self._problem is not None:
                raise ValueError  # the parser stops, and `send_400_response` says why
        self._has_head = True
        super().on_headers_complete()
        self.headers = []  # the scope has the head's; of what comes in trailers nobody may think that it was checked
        if upgrade:
            self.cycle.keep_alive = False  # what follows would not be parsed

    def on_message_complete(self) -> None:
        self._is_whole = True
        self._heard = 0
        super().on_message_complete()

    def _objection(self) -> Problem | None:
        """To what is not as plain as nearly all heads are."""
        headers = self.headers
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
        if len(headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
            return _too_long()
        if self.parser.get_http_version() not in _VERSIONS:
            return Problem(505, ReasonCode.INVALID_REQUEST, "HTTP/1.1 and HTTP/1.0 are served here")
        if not self.url.startswith(b"/") and self.url != b"*":
            named = _ABSOLUTE.fullmatch(self.url)
            hosts = [value.lower() for name, value in headers if name == b"host"]
            if named is None or [named[1].lower()] != hosts:
                text = "The request's target must be a path, or a URL of the very host that Host names"
                return Problem(400, ReasonCode.INVALID_REQUEST, text)
        if b"#" in self.url:
            return Problem(400, ReasonCode.INVALID_REQUEST, "A fragment is no part of a request's target")
        if self.parser.should_upgrade() and any(name in _BODIED and value != b"0" for name, value in headers):
            text = "No other protocol is spoken here, and with an Upgrade the body is lost: leave it out"
            return Problem(400, ReasonCode.INVALID_REQUEST, text)
        return None

    # --- refusing ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """In the place of uvicorn's, which would answer before those that came first."""
        self._refuse(self._problem or _MALFORMED)

    def _refuse(self, problem: Problem) -> None:
        """The last answer of the connection, after those to requests that were whole."""
        self._is_deaf = True
        if self._has_head and not self._is_whole and self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()  # it waits for its turn, and will never be whole
        elif self._has_head and not self._is_whole and self._running is self.cycle:
            self._break_off(problem)
            return
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None and not last.response_complete:
            last.keep_alive = False
        else:
            self._say(problem)

    def _break_off(self, problem: Problem) -> None:
        """Answer whom the application still waits for, and have it hear that nothing more comes."""
        cycle = self.cycle
        if cycle.response_started:
            self.transport.close()
        else:
            self._say(problem)
        cycle.disconnected = True
        cycle.message_event.set()

    def _say(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        body = problem.body()
        head = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (PROBLEM_JSON, len(body))
        self.transport.write(STATUS_LINE[problem.status] + head + body)
        self.transport.close()


def _too_long() -> Problem:
    text = f"The request's head has more than {MAX_HEAD_BYTES} bytes, or more than {MAX_HEADERS} fields"
    return Problem(431, ReasonCode.INVALID_REQUEST, text)
