"""The demo tools' declarations, as data. The composition root makes `core.call.Tool` values from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentgate.core.call import Access


@dataclass(frozen=True, slots=True)
class DemoTool:
    """What a `tools:` entry of the configuration would say."""

    name: str
    access: Access
    description: str
    input_schema: Mapping[str, Any]
    timeout_s: float = 30.0


def _object(properties: Mapping[str, Any], *required: str, more: bool = False) -> Mapping[str, Any]:
    schema = {"type": "object", "properties": dict(properties), "additionalProperties": more}
    return {**schema, "required": list(required)} if required else schema


_TABLE: Final = {"type": "string", "minLength": 1, "maxLength": 64, "description": "A table of the sample database."}
_COLUMNS: Final = {
    "type": "object",
    "maxProperties": 16,
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    "description": "Column names and values.",
}
_PATH: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 1024,
    "description": "A path in the sandbox; a leading / means the sandbox itself.",
}
_ENDPOINT: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 2048,
    "description": "A path such as /users. Of a full URL only the path is used: the demo calls its own local service.",
}

DEMO_TOOLS: Final[tuple[DemoTool, ...]] = (
    DemoTool(
        "db_query",
        Access.READ,
        "Runs one SELECT on the sample database (products, customers, orders, users, logs, items, test, widgets) "
        "over a read-only connection; one subquery at most, no WITH, up to 200 rows.",
        _object({"query": {"type": "string", "minLength": 1, "maxLength": 4096}}, "query"),
    ),
    DemoTool(
        "db_insert",
        Access.WRITE,
        "Inserts one row into a table of the sample database.",
        _object({"table": _TABLE, "data": _COLUMNS}, "table"),
    ),
    DemoTool(
        "db_update",
        Access.WRITE,
        "Changes rows of a table of the sample database: those whose columns equal `where`; without it, the first row. "
        "`data` is v0.2's name for `set`.",
        _object({"table": _TABLE, "set": _COLUMNS, "data": _COLUMNS, "where": _COLUMNS}, "table"),
    ),
    DemoTool(
        "file_read", Access.READ, "Reads a text file of the sandbox, up to 1 MiB.", _object({"path": _PATH}, "path")
    ),
    DemoTool(
        "file_write",
        Access.WRITE,
        "Writes a text file in the sandbox, up to 1 MiB.",
        _object({"path": _PATH, "content": {"type": "string"}}, "path"),
    ),
    DemoTool(
        "api_get", Access.READ, "GETs JSON from the demo's local service.", _object({"endpoint": _ENDPOINT}, "endpoint")
    ),
    DemoTool(
        "api_post",
        Access.WRITE,
        "POSTs a JSON payload to the demo's local service.",
        _object({"endpoint": _ENDPOINT, "payload": {}}, "endpoint"),
    ),
    DemoTool(
        "rate_limited_tool",
        Access.READ,
        "Echoes its arguments; the shipped policy data limits it to 10 calls a minute.",
        _object({}, more=True),
    ),
    DemoTool(
        "slow",
        Access.READ,
        "Takes as many seconds as it is told: something to kill while it runs.",
        _object({"seconds": {"type": "number", "minimum": 0, "maximum": 60}}, "seconds"),
        timeout_s=65.0,
    ),
)
