"""One session with an MCP server, kept by one task: what it listed, what runs in it, and whom its words concern."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from mcp.client.streamable_http import streamable_http_client

from agentgate.adapters.upstreams._mcp import wire as wires
from agentgate.adapters.upstreams._mcp.direct import Direct
from agentgate.adapters.upstreams._mcp.http import Guard, open_client
from agentgate.adapters.upstreams._mcp.listening import Listening, Wanted
from agentgate.adapters.upstreams._mcp.listing import EndlessList, pins_of, read_list
from agentgate.adapters.upstreams._mcp.network import Transport
from agentgate.adapters.upstreams._mcp.settings import ServerSettings
from agentgate.adapters.upstreams._mcp.stdio import child_environment, child_process
from agentgate.adapters.upstreams._mcp.wire import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    Era,
    Mark,
    MCPError,
    Refused,
    Wire,
)
from agentgate.core import strict_json
from agentgate.core.visible import visible
from agentgate.ports.peer import Peer, PeerUnable
from agentgate.ports.upstreams import Audience, Credential, Listing

_LINE_SLACK: Final = 1 << 16
"""What a message has around its result."""
_MAX_TOLD: Final = 256
_MAX_ASKED: Final = 32
_MAX_PROGRESS: Final = 64
_MAX_WITHDRAWN: Final = 1_024
_INTERNAL: Final = -32603
_NO_ANSWER: Final = (CONNECTION_CLOSED, REQUEST_TIMEOUT)
_WITHDRAW_S: Final = 2.0
_CLOSE_S: Final = 3.0
_RELIST_PAUSE_S: Final = 0.2
_CUT_AFTER_S: Final = 0.5
_CALL_COMES_S: Final = 1.0

_NEEDS: Final = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
_UPDATED: Final = "notifications/resources/updated"
_CHANGES: Final = frozenset(
    {
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        _UPDATED,
    }
)

_log = logging.getLogger(__name__)

Ask = Callable[[str, Mapping[str, Any]], Coroutine[Any, Any, Mapping[str, Any]]]


class Running:
    """One call in a session: whose it is."""

    def __init__(self, peer: Peer | None, ask: Ask | None = None) -> None:
        self.peer = peer
        self.asking: set[asyncio.Future[Mapping[str, Any]]] = set()
        """The server's questions that nobody has answered yet. With the call they are over."""
        self.ask = ask
        """Who answers the server instead of the peer, where the peer answers by other means."""
        self.is_alone = True
        """Whether no other call has run beside it: then what the server says uncalled is about it."""
        self._reporting = 0

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Progress is a level: what comes faster than the client reads it is left out."""
        if self.peer is None or self._reporting >= _MAX_PROGRESS or not _is_strict([progress, total, message]):
            return
        self._reporting += 1
        try:
            await self.peer.progress(progress, total, message)
        finally:
            self._reporting -= 1


_CURRENT: contextvars.ContextVar[Running | None] = contextvars.ContextVar("agentgate_mcp_call", default=None)
"""Over HTTP the SDK hands what arrives on a request's own stream on in the context of who sent the request."""


class Link:
    """Implements `Handler`. `start` it, await `ready`; it ends by itself when the connection does, or by `close`.

    Args:
        peer: the client whose session this is; None where all share it.
        capabilities: what is declared to the server.
        credential: awaited at each start, and before a list is read; None where the server has none.
        named: the server's name as another session with it heard it, for servers that tell it only sometimes.
        wanted: the resources that somebody wants to hear of; kept up to date here.
    """

    def __init__(
        self,
        settings: ServerSettings,
        audience: Audience,
        *,
        era: Era,
        tls: ssl.SSLContext,
        peer: Peer | None = None,
        capabilities: Mapping[str, Any] | None = None,
        credential: Callable[[], Awaitable[Credential | None]] | None = None,
        named: str = "",
        wanted: Wanted | None = None,
    ) -> None:
        self._settings = settings
        self._audience = audience
        self._era: Era = era
        self._tls = tls
        self.peer = peer
        self._is_shared = peer is None
        self._capabilities = dict(capabilities or {})
        self._credential = credential
        self._named = named
        self.mark = Mark()
        self.running: dict[int, Running] = {}
        self.last_used = time.monotonic()
        self.listing: Listing | None = None
        self._pins: dict[str, str] = {}
        self._listed_at = 0.0
        self._is_stale = False
        self._listing_lock = asyncio.Lock()
        self._unsaid: Listing | None = None
        self._nudge = asyncio.Event()
        self._withdrawn: asyncio.Queue[int] = asyncio.Queue(_MAX_WITHDRAWN)
        self.listening = Listening(wanted if wanted is not None else {}, self._doubt)
        self._told = self._asked = 0
        self._called = asyncio.Event()
        self._has_strays = self._is_retired = False
        self._wire: Wire | None = None
        self._guard: Guard | None = None
        self._direct: Direct | None = None
        self._ended = asyncio.Event()
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[None] | None = None
        self._owner: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._ready = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(), context=contextvars.Context())
        self._owner.add_done_callback(_see)

    async def ready(self) -> str | None:
        """None when it is up; otherwise why not, in a sentence. Cancelling this does not stop the attempt."""
        assert self._ready is not None
        assert self._owner is not None
        await asyncio.wait({self._ready, self._owner}, return_when=asyncio.FIRST_COMPLETED)
        return None if self.is_up else self.failure()

    async def gone(self) -> str:
        """Wait for its end; why, in a sentence."""
        assert self._owner is not None
        await asyncio.wait({self._owner})
        return self.failure()

    @property
    def is_up(self) -> bool:
        is_ready = self._ready is not None and self._ready.done() and not self._ready.cancelled()
        return is_ready and self._owner is not None and not self._owner.done() and not self._ended.is_set()

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
        error = self._error()
        if error is None:
            return "the connection ended"
        if isinstance(error, TimeoutError):
            return f"no agreement within {self._settings.connect_timeout_s:g} s"
        kind = self.mark.heard(str(error))
        return f"{type(error).__name__}: {kind or visible(str(error)[:200])}"

    def _error(self) -> BaseException | None:
        if self._owner is None or not self._owner.done() or self._owner.cancelled():
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
        self.peer, self._is_retired = None, True
        self._rest()

    def _rest(self) -> None:
        if self._is_retired and not self.running:
            self._stop.set()

    async def close(self) -> None:
        """End it: what runs in it ends with an error, and a child with all its own."""
        if self._owner is None:
            return
        self._stop.set()
        if self._ready is None or not self._ready.done():
            self._owner.cancel()
        _, late = await asyncio.wait({self._owner}, timeout=_CLOSE_S)
        for task in late:
            task.cancel()
        await asyncio.wait({self._owner})

    async def _own(self) -> None:
        """Everything that must be entered and left by one task."""
        async with asyncio.timeout(self._settings.connect_timeout_s) as connecting:
            async with (
                self._transport() as transport,
                wires.open_wire(
                    transport,
                    self,
                    era=self._era,
                    capabilities=self._capabilities,
                    timeout_s=self._settings.connect_timeout_s,
                    ended=self._ended,
                    direct=self._direct,
                ) as wire,
            ):
                self._wire = wire
                await self.relist()
                await self._announce()
                if self._is_shared:
                    await self.listening.subscribe_again(wire)
                connecting.reschedule(None)
                assert self._ready is not None
                self._ready.set_result(None)
                await self._work()

    async def _work(self) -> None:
        works: list[Coroutine[Any, Any, Any]] = [
            self._ended.wait(),
            self._stop.wait(),
            self._withdraw(),
            self._keep_list(),
        ]
        if self._is_shared:
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
        settings = self._settings
        credential = await self._credential() if self._credential is not None else None
        if self._credential is not None and credential is None:
            raise OSError("its credential cannot be had")
        most = settings.max_response_bytes + _LINE_SLACK
        if not settings.url:
            env = child_environment(settings.env)
            if credential is not None and settings.secret_env is not None:
                env[settings.secret_env] = credential.secret
            yield child_process(
                settings.command,
                env=env,
                cwd=settings.cwd,
                max_line_bytes=most,
                say=self.mark.say,
                name=settings.name,
                secrets=credential.secrets if credential is not None else (),
            )
            return
        inner, header = Transport(self._tls), self.header_of(credential)
        self._guard = Guard(inner, credential=header, most=most, say=self.mark.say, on_lost=self.end)
        self._direct = Direct(inner, self._guard, settings.url, settings.connect_timeout_s, self._ended)
        async with open_client(self._guard, connect_timeout_s=settings.connect_timeout_s) as client:
            yield streamable_http_client(settings.url, http_client=client, max_sse_event_size=most)

    def header_of(self, credential: Credential | None) -> tuple[str, str] | None:
        """The header that carries it. Raises ValueError with a sentence when it cannot be sent."""
        injection = self._settings.injection
        if credential is None or injection is None:
            return None
        value = injection.of(credential)
        if value is None:
            raise ValueError(f"the credential {credential.alias} has characters that cannot be sent")
        return injection.name.lower(), value

    # --- its list -------------------------------------------------------------------------------------------

    @property
    def identity(self) -> dict[str, Any]:
        said = self.wire.says_it_is
        return {**said, "name": said["name"] or self._named, **self._settings.place}

    async def relist(self) -> None:
        """Read the list anew. Raises MCPError, EndlessList."""
        async with self._listing_lock:
            await self._read_list()

    async def fresh(self) -> None:
        """Have a list that is no older than `recheck_s`. Raises as `relist`."""
        async with self._listing_lock:
            if self._is_stale or self._age() >= self._settings.recheck_s:
                await self._read_list()

    def _age(self) -> float:
        return time.monotonic() - self._listed_at

    async def _refresh_credential(self) -> None:
        """A session may last longer than what it began with. Without another one the server says what it thinks."""
        if self._guard is None or self._credential is None:
            return
        credential = await self._credential()
        if credential is not None:
            with suppress(ValueError):  # it cannot be sent: as above
                self._guard.credential = self.header_of(credential)

    async def _read_list(self) -> None:
        await self._refresh_credential()
        wire = self.wire
        self._is_stale = False  # before: what changes while it is read makes it stale again
        started = time.monotonic()

        async def page(params: Mapping[str, Any]) -> dict[str, Any]:
            request_id = wire.new_id()
            timeout_s = self._settings.connect_timeout_s
            return await wire.request(request_id, "tools/list", params, timeout_s=timeout_s)

        try:
            usable = wires.may_list if wire.is_modern else _any
            tools = await read_list(self._settings.name, page, usable) if wire.offers.get("tools") is not None else ()
        except BaseException:
            self._is_stale = True
            raise
        identity = self.identity
        self._pins = pins_of(identity, tools)
        self._listed_at = started
        self.listing = self._unsaid = Listing(
            self._settings.name,
            identity,
            tools,
            wire.offers,
            (wire.instructions or "")[: 1 << 16],
            of_client=self.peer is not None,
        )
        self._nudge.set()

    def pin_of(self, tool: str) -> str:
        """The pin of what this session listed last under that name; empty for nothing."""
        return self._pins.get(tool, "")

    def say_again(self) -> None:
        """Have the audience hear the list once more: somebody works with another one."""
        self._unsaid = self.listing
        self._nudge.set()

    def _doubt(self) -> None:
        """Rely on the list no more: read it before the next call, and soon in any case."""
        self._is_stale = True
        self._nudge.set()

    async def _announce(self) -> None:
        listing, self._unsaid = self._unsaid, None
        if listing is not None:
            await self._audience.listed(listing)

    async def _keep_list(self) -> None:
        """Read it anew when it changed, and now and then in any case: a server need not say that it did."""
        while True:
            pause = max(self._settings.recheck_s - self._age(), _RELIST_PAUSE_S) if self._is_shared else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._nudge.wait()
            self._nudge.clear()
            try:
                await self.fresh()
            except MCPError:
                if not self.running or self._ended.is_set():
                    raise
                self._nudge.set()  # a server that does one thing at a time is busy; a call would have to wait as well
            await self._announce()
            if self._is_stale:
                await asyncio.sleep(_RELIST_PAUSE_S)

    # --- calls ----------------------------------------------------------------------------------------------

    async def call(
        self,
        running: Running,
        method: str,
        params: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        capabilities: Mapping[str, Any],
    ) -> dict[str, Any]:
        """One request. Cancelling it withdraws it at the server, in the background and bounded.

        Raises:
            MCPError
        """
        wire = self.wire
        request_id = wire.new_id()
        for other in self.running.values():
            other.is_alone = running.is_alone = False
        self.running[request_id] = running
        self._called.set()
        self.last_used = time.monotonic()
        wants_progress = running.peer is not None and running.peer.wants_progress
        token = _CURRENT.set(running)
        try:
            return await wire.request(
                request_id,
                method,
                params,
                headers=headers,
                capabilities=capabilities,
                on_progress=running.progress if wants_progress else None,
            )
        except MCPError as error:
            if (error.code, error.message) == (CONNECTION_CLOSED, "Connection closed"):
                self.end()  # the SDK's own words; a server that borrows them loses its session
            raise
        except asyncio.CancelledError:
            self._has_strays = True
            try:
                self._withdrawn.put_nowait(request_id)
            except asyncio.QueueFull:
                self.end()
            raise
        finally:
            _CURRENT.reset(token)
            self.running.pop(request_id, None)
            for asking in running.asking:
                asking.cancel()
            self._rest()

    async def _withdraw(self) -> None:
        """Tell the server what nobody waits for any more. One that does not take it loses the session."""
        while True:
            request_id = await self._withdrawn.get()
            try:
                async with asyncio.timeout(_WITHDRAW_S):
                    await self.wire.withdraw(request_id)
            except TimeoutError:
                raise OSError("it takes nothing any more") from None
            if self._guard is not None:  # an older server should end the stream now; one that does not, is hung up on
                asyncio.get_running_loop().call_later(_CUT_AFTER_S, self._guard.cut, request_id)

    def _concerned(self) -> Running | None:
        """Whose call a word of the server is about; None where that is not certain enough to tell anybody."""
        current = _CURRENT.get()
        calls = list(self.running.values())
        if current is not None and current in calls:
            return current
        if not calls:
            return None
        if not self._is_shared:
            return calls[-1]
        # a call that was withdrawn may go on at the server, and speak
        return calls[0] if len(calls) == 1 and calls[0].is_alone and not self._has_strays else None

    # --- what the server says ---------------------------------------------------------------------------------

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """See `Handler`. Goes to the client whose call it is, where that client can do it."""
        if method == "ping":
            return {}
        needed = _NEEDS.get(method)
        if needed is None or needed not in self._capabilities:
            raise Refused(METHOD_NOT_FOUND, "Method not found")
        if not _is_strict(params):
            raise Refused(INVALID_PARAMS, "Invalid params")
        if self._asked >= _MAX_ASKED:
            raise Refused(_INTERNAL, "too many questions at a time")
        self._asked += 1
        try:
            running = self._concerned() or await self._next_call()
            answer = await self._answer(running, needed, method, params)
        finally:
            self._asked -= 1
        if not _is_strict(answer):
            raise Refused(_INTERNAL, "the client's answer is not strict JSON")
        return answer

    async def _next_call(self) -> Running | None:
        """Beside a call nobody is asked: no decision would stand behind the answer. A session begins with a moment
        before its first call, in which some servers ask."""
        self._called.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CALL_COMES_S):
                await self._called.wait()
        return self._concerned()

    async def _answer(
        self, running: Running | None, needed: str, method: str, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the client of a call says, for as long as the call runs: an answer after its end goes nowhere."""
        peer = (running.peer or self.peer) if running is not None else None
        if running is None or peer is None or needed not in peer.capabilities:
            raise Refused(METHOD_NOT_FOUND, "Method not found")
        asking = asyncio.ensure_future((running.ask or peer.ask)(method, params))
        running.asking.add(asking)
        try:
            answer = dict(await asking)
            if running not in self.running.values():
                raise asyncio.CancelledError
            return answer
        except PeerUnable as unable:
            raise Refused(unable.code or METHOD_NOT_FOUND, str(unable)) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Refused(_INTERNAL, "the call that this belongs to is over") from None
        finally:
            running.asking.discard(asking)

    async def told(self, method: str, params: Mapping[str, Any]) -> None:
        """See `Handler`. What comes faster than anybody hears it is left out."""
        if method == "notifications/tools/list_changed":
            self._doubt()
            return
        if self._told >= _MAX_TOLD or not _is_strict(params):
            return
        self._told += 1
        try:
            await self._tell(method, params)
        finally:
            self._told -= 1

    async def _tell(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "notifications/message":
            running = self._concerned()
            if running is not None and running.peer is not None:
                await running.peer.notify(method, params)
            elif self.peer is not None:
                await self.peer.announce(method, params)
        elif method == _UPDATED and not isinstance(params.get("uri"), str):
            return
        elif method in _CHANGES and self._is_shared:
            await self._audience.changed(self._settings.name, method, _without_meta(params))
        elif (method in _CHANGES or method == "notifications/elicitation/complete") and self.peer is not None:
            await self.peer.announce(method, params)


def _is_strict(value: Any) -> bool:
    try:
        strict_json.check(value)
    except strict_json.NotStrictJson:
        return False
    return True


def _see(task: asyncio.Task[None]) -> None:
    """Its end is told by `failure`, to whoever asks."""
    if not task.cancelled():
        task.exception()


def _any(_: Mapping[str, Any]) -> bool:
    return True


def _without_meta(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != "_meta"}


__all__ = ["EndlessList", "Link", "Running"]
