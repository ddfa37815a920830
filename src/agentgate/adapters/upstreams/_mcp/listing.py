"""A server's list of tools: read page by page, and kept up to date in each session.

A server may lie, repeat itself and never end: it is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import find_invalid_x_mcp_header

from agentgate.adapters.upstreams._mcp.settings import ServerSettings
from agentgate.adapters.upstreams._mcp.trouble import Trouble
from agentgate.adapters.upstreams._mcp.wire import Wire
from agentgate.core import strict_json
from agentgate.core.pin import pin_sha256
from agentgate.ports.upstreams import Audience, Listing

MAX_PAGES: Final = 100
MAX_TOOLS: Final = 5_000
MAX_BYTES: Final = 8 << 20
"""Of all pages together."""
_MAX_NAME_CHARS: Final = 256
_MAX_INSTRUCTIONS_CHARS: Final = 1 << 16
_PAUSE_S: Final = 0.2

_log = logging.getLogger(__name__)

Page = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Ask for one page with these params."""


class EndlessList(Trouble):
    """The server's list is longer than anybody reads, or goes round in circles. The text is a sentence."""


async def read_list(
    server: str, ask: Page, is_usable: Callable[[Mapping[str, Any]], bool]
) -> tuple[dict[str, Any], ...]:
    """All tool definitions, as they came. What has no name is left out; whether the others are fit to be offered is
    for the audience to say, which must hear of every change: also that a tool is no longer one, or is listed twice.

    Raises:
        EndlessList: nothing of it is used then: half a list would look like a change.
    """
    found: list[Any] = []
    cursors: set[str] = set()
    size = 0
    params: dict[str, Any] = {}
    for _ in range(MAX_PAGES):
        page = await ask(params)
        tools = page.get("tools")
        if isinstance(tools, list):
            found += tools
        size += _size(page)
        if len(found) > MAX_TOOLS or size > MAX_BYTES:
            raise EndlessList(f"its list is longer than {MAX_TOOLS} tools or {MAX_BYTES} bytes")
        cursor = page.get("nextCursor")
        if cursor is None or cursor == "":
            return _only_tools(server, found, is_usable)
        if not isinstance(cursor, str) or cursor in cursors:
            raise EndlessList("its list goes round in circles")
        cursors.add(cursor)
        params = {"cursor": cursor}
    raise EndlessList(f"its list is longer than {MAX_PAGES} pages")


def _size(page: Mapping[str, Any]) -> int:
    try:
        return len(orjson.dumps(page))
    except TypeError:  # a lone surrogate, a number beyond 64 bits: not countable, and not usable either
        return len(repr(page))


def _only_tools(
    server: str, found: list[Any], is_usable: Callable[[Mapping[str, Any]], bool]
) -> tuple[dict[str, Any], ...]:
    tools = tuple(tool for tool in found if _is_tool(tool, is_usable))
    if len(tools) < len(found):
        _log.warning("%s listed %d tools that are none", server, len(found) - len(tools))
    return tools


def _is_tool(tool: Any, is_usable: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Nobody but the audience looks into what has a name and is no definition at all."""
    name = tool.get("name") if isinstance(tool, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
        return False
    try:
        strict_json.check(tool)
    except strict_json.NotStrictJson:
        return True
    return not isinstance(tool.get("inputSchema"), dict) or is_usable(tool)


def _has_valid_headers(tool: Mapping[str, Any]) -> bool:
    """Whether a modern client may use the tool: one whose `x-mcp-header` is wrong must be dropped."""
    return find_invalid_x_mcp_header(tool.get("inputSchema")) is None


def pins_of(identity: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The pin of each tool by its name; empty, and so nobody's, for one that has none or is listed twice."""
    pins: dict[str, str] = {}
    for tool in tools:
        pins[tool["name"]] = pin_sha256(identity, tool) if tool["name"] not in pins else ""
    return pins


class KeptList:
    """What the server of one session listed last, and whether anybody may still rely on it.

    Args:
        is_shared: whether all share the session; only then it is read now and then without being asked for.
        named: the server's name as another session with it heard it, for servers that tell it only sometimes.
        prepare: awaited before the list is read.
        is_busy: whether calls run in the session. A server that does one thing at a time cannot list meanwhile.
    """

    def __init__(
        self,
        settings: ServerSettings,
        audience: Audience,
        *,
        is_shared: bool,
        named: str,
        prepare: Callable[[], Awaitable[None]],
        is_busy: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._audience = audience
        self._is_shared = is_shared
        self._named = named
        self._prepare = prepare
        self._is_busy = is_busy
        self.listing: Listing | None = None
        self._wire: Wire | None = None
        self._pins: dict[str, str] = {}
        self._read_at = 0.0
        self._is_stale = False
        self._reading = asyncio.Lock()
        self._unsaid: Listing | None = None
        self._nudge = asyncio.Event()

    async def begin(self, wire: Wire) -> None:
        """Read it for the first time, and let the audience hear it. Raises MCPError, EndlessList."""
        self._wire = wire
        async with self._reading:
            await self._read(wire)
        await self._announce()

    async def fresh(self) -> None:
        """Have a list that is no older than `recheck_s`. Raises as `begin`."""
        assert self._wire is not None
        async with self._reading:
            if self._is_stale or self._age() >= self._settings.recheck_s:
                await self._read(self._wire)

    def pin_of(self, tool: str) -> str:
        """The pin of what this session listed last under that name; empty for nothing."""
        return self._pins.get(tool, "")

    def say_again(self) -> None:
        """Have the audience hear the list once more: somebody works with another one."""
        self._unsaid = self.listing
        self._nudge.set()

    def doubt(self) -> None:
        """Rely on the list no more: read it before the next call, and soon in any case."""
        self._is_stale = True
        self._nudge.set()

    async def keep(self) -> None:
        """Read it anew when it changed, and now and then in any case: a server need not say that it did. Until
        cancelled; raises as `begin`."""
        while True:
            pause = max(self._settings.recheck_s - self._age(), _PAUSE_S) if self._is_shared else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._nudge.wait()
            self._nudge.clear()
            try:
                await self.fresh()
            except MCPError:
                if not self._is_busy():
                    raise
                self._nudge.set()  # a call would have to wait as well
            await self._announce()
            if self._is_stale:
                await asyncio.sleep(_PAUSE_S)

    def _age(self) -> float:
        return time.monotonic() - self._read_at

    async def _announce(self) -> None:
        listing, self._unsaid = self._unsaid, None
        if listing is not None:
            await self._audience.listed(listing)

    async def _read(self, wire: Wire) -> None:
        await self._prepare()
        self._is_stale = False  # before: what changes while it is read makes it stale again
        started = time.monotonic()
        try:
            tools = await self._tools(wire)
        except BaseException:
            self._is_stale = True
            raise
        said = wire.says_it_is
        identity = {**said, "name": said["name"] or self._named, **self._settings.place.shown}
        self._pins = pins_of(identity, tools)
        self._read_at = started
        instructions = (wire.instructions or "")[:_MAX_INSTRUCTIONS_CHARS]
        self.listing = self._unsaid = Listing(
            self._settings.name, identity, tools, wire.offers, instructions, of_client=not self._is_shared
        )
        self._nudge.set()

    async def _tools(self, wire: Wire) -> tuple[dict[str, Any], ...]:
        if wire.offers.get("tools") is None:
            return ()

        async def page(params: Mapping[str, Any]) -> dict[str, Any]:
            return await wire.request(wire.new_id(), "tools/list", params, timeout_s=self._settings.connect_timeout_s)

        return await read_list(self._settings.name, page, _has_valid_headers if wire.is_modern else lambda _: True)
