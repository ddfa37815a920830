"""One session with an MCP server, kept by one task: how it begins, what is asked in it, and how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

from agentgate.adapters.upstreams._mcp.direct import Direct
from agentgate.adapters.upstreams._mcp.http import Guard, open_client
from agentgate.adapters.upstreams._mcp.listening import Listening, Wanted
from agentgate.adapters.upstreams._mcp.listing import KeptList
from agentgate.adapters.upstreams._mcp.network import Transport
from agentgate.adapters.upstreams._mcp.orders import of_error
from agentgate.adapters.upstreams._mcp.relay import Relay, Running
from agentgate.adapters.upstreams._mcp.settings import ServerSettings
from agentgate.adapters.upstreams._mcp.stdio import child_process
from agentgate.adapters.upstreams._mcp.trouble import Mark, Trouble, ended, not_started
from agentgate.adapters.upstreams._mcp.wire import Wire, open_wire
from agentgate.ports.peer import Peer
from agentgate.ports.upstreams import Audience, Credential

_LINE_SLACK: Final = 1 << 16
"""What a message has around its result."""
_MAX_WITHDRAWN: Final = 1_024
_NO_ANSWER: Final = (CONNECTION_CLOSED, REQUEST_TIMEOUT)
_TIMED_OUT: Final = ("Request '", "no answer to ")
"""How the SDK and `open_wire` begin; servers use the code of that for other things, too."""
_WITHDRAW_S: Final = 2.0
_CLOSE_S: Final = 3.0
_CUT_AFTER_S: Final = 0.5


class Link:
    """It begins at once: await `ready`. It ends by itself when the connection does, or by `close`.

    Args:
        peer: the client whose session this is; None where all share it.
        credential: awaited at each start, and before a list is read; None where the server has none.
        named: see `KeptList`.
        wanted: the resources that somebody wants to hear of.
    """

    def __init__(
        self,
        settings: ServerSettings,
        audience: Audience,
        *,
        peer: Peer | None,
        credential: Callable[[], Awaitable[Credential | None]] | None,
        named: str,
        wanted: Wanted,
    ) -> None:
        self._settings = settings
        self._credential = credential
        self.is_shared = peer is None
        self.mark = Mark()
        self.tools = KeptList(
            settings,
            audience,
            is_shared=self.is_shared,
            named=named,
            prepare=self._refresh_credential,
            is_busy=lambda: bool(self.relay.running) and not self._ended.is_set(),
        )
        self.relay = Relay(settings.name, audience, peer, self.tools.doubt)
        self.listening = Listening(wanted, self.tools.doubt)
        self.last_used = time.monotonic()
        self._withdrawn: asyncio.Queue[int] = asyncio.Queue(_MAX_WITHDRAWN)
        self._is_retired = False
        self._wire: Wire | None = None
        self._guard: Guard | None = None
        self._direct: Direct | None = None
        self._exit_status: int | None = None
        self._connecting: asyncio.Timeout | None = None
        self._ended = asyncio.Event()
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(), context=contextvars.Context())
        # `failure` tells how it ended, to whoever asks.
        self._owner.add_done_callback(lambda owner: owner.cancelled() or owner.exception())

    # --- life -----------------------------------------------------------------------------------------------

    async def ready(self) -> str | None:
        """None when it is up; otherwise why not, in a sentence. Cancelling this does not stop the attempt."""
        await asyncio.wait({self._ready, self._owner}, return_when=asyncio.FIRST_COMPLETED)
        return None if self.is_up else self.failure()

    async def gone(self) -> str:
        """Wait for its end; why, in a sentence."""
        await asyncio.wait({self._owner})
        return self.failure()

    @property
    def is_up(self) -> bool:
        return self._ready.done() and not self._owner.done() and not self._ended.is_set()

    @property
    def is_starting(self) -> bool:
        return not (self._ready.done() or self._owner.done())

    @property
    def wire(self) -> Wire:
        assert self._wire is not None
        return self._wire

    @property
    def was_refused(self) -> bool:
        """Whether the server itself said no to this kind of session."""
        error = self._error()
        if not isinstance(error, MCPError):
            return False
        kind = self.mark.heard(error.message)
        return error.code not in _NO_ANSWER if kind is None else kind.startswith("status_4")

    def failure(self) -> str:
        """Why there is no session, for operators: no words of the server, no address, no path. An agent hears less."""
        error = self._error()
        if self._exit_status is not None:
            return ended(self._exit_status)
        if error is None:
            return "the connection ended"
        has_timed_out = isinstance(error, MCPError) and error.message.startswith(_TIMED_OUT)
        is_late = self._connecting is not None and self._connecting.expired()  # whatever it met while it was given up
        if is_late or isinstance(error, TimeoutError) or has_timed_out:
            return f"it timed out: no session within {self._settings.connect_timeout_s:g} s"
        if isinstance(error, MCPError):
            said, cause = of_error(error, self.mark, has_ended=True), self.mark.cause(error.message)
            if said.fault is not None:  # in its own words there may be what it was given
                return f"the server answered with error {error.code}"
            return f"{said.detail}: {cause}" if cause else said.detail
        if isinstance(error, OSError) and error.errno is not None:
            return not_started(error, self._settings.place.cwd)
        return str(error) if isinstance(error, Trouble) else f"its answers make no sense ({type(error).__name__})"

    def _error(self) -> BaseException | None:
        if not self._owner.done() or self._owner.cancelled():
            return None
        error = self._owner.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return error

    def end(self) -> None:
        """Have it end soon: for a session that no longer answers."""
        self._ended.set()

    def retire(self) -> None:
        """Have it end with the last of the calls that run in it. Its client hears nothing more beside those."""
        self.relay.peer, self._is_retired = None, True
        self._rest()

    def _rest(self) -> None:
        if self._is_retired and not self.relay.running:
            self._stop.set()

    async def close(self) -> None:
        """End it: what runs in it ends with an error, and a child with all its own."""
        self._stop.set()
        if not self._ready.done():
            self._owner.cancel()
        _, late = await asyncio.wait({self._owner}, timeout=_CLOSE_S)
        for task in late:
            task.cancel()
        await asyncio.wait({self._owner})

    async def _own(self) -> None:
        """Everything that must be entered and left by one task."""
        async with asyncio.timeout(self._settings.connect_timeout_s) as connecting:
            self._connecting = connecting
            async with (
                self._transport() as transport,
                open_wire(
                    transport,
                    self.relay,
                    direct=self._direct,
                    timeout_s=self._settings.connect_timeout_s,
                    ended=self._ended,
                ) as wire,
            ):
                self._wire = wire
                await self.tools.begin(wire)
                if self.is_shared:
                    await self.listening.subscribe_again(wire)
                connecting.reschedule(None)
                self._ready.set_result(None)
                await self._work()

    async def _work(self) -> None:
        works: list[Coroutine[Any, Any, Any]] = [
            self._ended.wait(),
            self._stop.wait(),
            self._withdraw(),
            self.tools.keep(),
        ]
        if self.is_shared:
            works.append(self.listening.run(self.wire))
        workers = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._ended.set()
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[Any]:
        settings, place = self._settings, self._settings.place
        credential = await self._credential() if self._credential is not None else None
        if self._credential is not None and credential is None:
            raise Trouble("its credential cannot be had")
        most = settings.max_response_bytes + _LINE_SLACK
        if not place.url:
            yield child_process(settings, credential, max_line_bytes=most, say=self.mark.say, on_exit=self._has_exited)
            return
        inner, header = Transport(), place.header_of(credential)
        self._guard = Guard(inner, credential=header, most=most, say=self.mark.say, on_lost=self.end)
        self._direct = Direct(inner, self._guard, place.url, settings.connect_timeout_s, self._ended)
        async with open_client(self._guard, connect_timeout_s=settings.connect_timeout_s) as client:
            yield streamable_http_client(place.url, http_client=client, max_sse_event_size=most)

    def _has_exited(self, status: int) -> None:
        self._exit_status = status

    # --- calls ----------------------------------------------------------------------------------------------

    async def call(
        self, running: Running, method: str, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """One request. Cancelling it withdraws it at the server, in the background and bounded.

        Raises:
            MCPError
        """
        request_id = self.wire.new_id()
        self.last_used = time.monotonic()
        try:
            with self.relay.carrying(request_id, running):
                return await self.wire.request(
                    request_id,
                    method,
                    params,
                    headers=headers,
                    capabilities=running.capabilities,
                    on_progress=running.progress if running.wants_progress else None,
                )
        except MCPError as error:
            if (error.code, error.message) == (CONNECTION_CLOSED, "Connection closed"):
                self.end()  # the SDK's own words; a server that borrows them loses its session
            raise
        except asyncio.CancelledError:
            try:
                self._withdrawn.put_nowait(request_id)
            except asyncio.QueueFull:
                self.end()
            raise
        finally:
            self._rest()

    async def _withdraw(self) -> None:
        """Tell the server what nobody waits for any more. One that does not take it loses the session."""
        while True:
            request_id = await self._withdrawn.get()
            try:
                async with asyncio.timeout(_WITHDRAW_S):
                    await self.wire.withdraw(request_id)
            except TimeoutError:
                raise Trouble("it takes nothing any more") from None
            if self._guard is not None:  # an older server should end the stream now; one that does not, is hung up on
                asyncio.get_running_loop().call_later(_CUT_AFTER_S, self._guard.cut, request_id)

    async def _refresh_credential(self) -> None:
        """A session may last longer than what it began with. Without another one the server says what it thinks."""
        if self._guard is None or self._credential is None:
            return
        credential = await self._credential()
        if credential is not None:
            with suppress(ValueError):  # it cannot be sent: as above
                self._guard.credential = self._settings.place.header_of(credential)
