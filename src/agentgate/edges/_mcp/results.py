"""What clients of a protocol revision can be given of what tool servers said.

The SDK's server judges that as well. But its refusal takes the place of a call's answer, without a word that there was
a call; and it writes down what it refuses, as a tool server wrote it, with every fault of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args

import orjson
from mcp.types import CORE_RESULT_TYPES, methods
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from agentgate.edges._mcp import sdk

_FREE: Final = frozenset({"structuredContent", "_meta"})
"""Of a result: what may be any JSON."""
_MOST_ITEMS: Final = 10_000
"""Of all lists in a result, unless it is nothing but texts: who judges one writes up all its faults, ten an item."""
_ITEMS: Final = {"tools/call": "content", "resources/read": "contents", "prompts/get": "messages"}
"""By the method, where most of a result is."""
_AT_ONCE: Final = 100


def is_modern(version: str) -> bool:
    return version in MODERN_PROTOCOL_VERSIONS


def is_result(method: str, version: str, result: Mapping[str, Any]) -> bool:
    """Whether the SDK's server would send this, and all of it."""
    if method == "tools/call" and sdk.is_text(result):
        return is_modern(version) or isinstance(result.get("structuredContent", {}), dict)
    kind = result.get("resultType")
    if is_modern(version) and isinstance(kind, str) and kind not in CORE_RESULT_TYPES:
        return True  # an extension's, which alone knows what is in it
    return not is_long(result, _MOST_ITEMS) and all(
        _is_valid(method, version, piece) for piece in _pieces(method, result)
    )


def _pieces(method: str, result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The result with its first items, then with some more at a time and nothing else that is large: of one that is
    wrong throughout, the first are looked at."""
    name = _ITEMS.get(method, "")
    items = result.get(name)
    if not isinstance(items, list) or len(items) <= _AT_ONCE or result.get("resultType") == "input_required":
        yield result
        return
    yield {**result, name: items[:_AT_ONCE]}
    rest = {key: value for key, value in result.items() if not isinstance(value, dict | list)}
    for start in range(_AT_ONCE, len(items), _AT_ONCE):
        yield {**rest, name: items[start : start + _AT_ONCE]}


def _is_valid(method: str, version: str, result: Mapping[str, Any]) -> bool:
    surface: Any = methods.SERVER_RESULTS.get((method, version))
    models: tuple[type[BaseModel], ...] = get_args(surface) or (surface,)  # what is complete, and what asks for input
    model = models[-1] if result.get("resultType") == "input_required" else models[0]
    try:
        model.model_validate(result, by_name=False)
    except ValidationError:
        return False
    return True


def is_long(result: Mapping[str, Any], most: int) -> bool:
    """Whether all lists in it have more items than that."""
    items, waiting = 0, [value for name, value in result.items() if name not in _FREE]
    questions = result.get("inputRequests")
    if isinstance(questions, dict):
        waiting.append(list(questions))  # the one object that is a list by its nature
    while waiting and items <= most:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            items += len(one)
            waiting += one
    return items > most


def in_objects(result: dict[str, Any]) -> dict[str, Any]:
    """A tool's result for the handshake era, whose structured content is an object. What is none is said by the text
    that servers are to give beside it, or becomes that."""
    given = result.get("structuredContent")
    if isinstance(given, dict) or given is None:
        return result
    rest = {name: value for name, value in result.items() if name != "structuredContent"}
    if rest.get("content") == []:
        rest["content"] = [{"type": "text", "text": orjson.dumps(given).decode()}]
    return rest


def tools_of(version: str, tools: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those definitions that a revision has a form for. With another among them the SDK would show none of a list."""
    shown = tools if is_modern(version) else map(_with_output_in_objects, tools)
    page = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    return [tool for tool in shown if _is_valid("tools/list", version, {**page, "tools": [tool]})]


def _with_output_in_objects(tool: dict[str, Any]) -> dict[str, Any]:
    schema = tool.get("outputSchema")
    if not isinstance(schema, dict) or schema.get("type") == "object":
        return tool
    return {name: value for name, value in tool.items() if name != "outputSchema"}


def keep_out_of_the_log() -> None:
    """Have the SDK's server say nothing of what it does not take."""
    logging.getLogger("mcp.server.runner").addFilter(_is_of_ours)


def _is_of_ours(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], ValidationError)
