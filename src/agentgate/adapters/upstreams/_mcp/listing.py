"""A server's list of tools, read page by page. A server may lie, repeat itself and never end: it is bounded."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from agentgate.core import strict_json
from agentgate.core.pin import pin_sha256

MAX_PAGES: Final = 100
MAX_TOOLS: Final = 5_000
MAX_BYTES: Final = 8 << 20
"""Of all pages together."""
_MAX_NAME_CHARS: Final = 256

_log = logging.getLogger(__name__)

Page = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Ask for one page with these params."""


class EndlessList(ValueError):
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
    tools = tuple(tool for tool in found if isinstance(tool, dict) and _has_name(tool) and _may_list(tool, is_usable))
    if len(tools) < len(found):
        _log.warning("%s listed %d tools that are none", server, len(found) - len(tools))
    return tools


def _has_name(tool: Mapping[str, Any]) -> bool:
    name = tool.get("name")
    return isinstance(name, str) and 0 < len(name) <= _MAX_NAME_CHARS


def _may_list(tool: Mapping[str, Any], is_usable: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Nobody but the audience looks into what is no definition at all."""
    try:
        strict_json.check(tool)
    except strict_json.NotStrictJson:
        return True
    return not isinstance(tool.get("inputSchema"), dict) or is_usable(tool)


def pins_of(identity: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The pin of each tool by its name; empty, and so nobody's, for one that has none or is listed twice."""
    pins: dict[str, str] = {}
    for tool in tools:
        pins[tool["name"]] = pin_sha256(identity, tool) if tool["name"] not in pins else ""
    return pins
