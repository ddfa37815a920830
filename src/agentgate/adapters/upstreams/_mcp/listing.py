"""A server's list of tools, read page by page. A server may lie, repeat itself and never end: it is bounded."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from agentgate.core import strict_json

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
    """All tool definitions, as they came. What is no tool is left out, and of two with one name, both.

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
    by_name: dict[str, dict[str, Any] | None] = {}
    for tool in found:
        if not isinstance(tool, dict) or not _is_tool(tool) or not is_usable(tool):
            continue
        by_name[tool["name"]] = tool if tool["name"] not in by_name else None
    tools = tuple(tool for tool in by_name.values() if tool is not None)
    if len(tools) < len(found):
        _log.warning("%s listed %d tools that are none or share a name", server, len(found) - len(tools))
    return tools


def _is_tool(tool: Mapping[str, Any]) -> bool:
    name = tool.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
        return False
    if not isinstance(tool.get("inputSchema"), dict):
        return False
    try:
        strict_json.check(tool)
    except strict_json.NotStrictJson:
        return False
    return True
