"""Words of JSON Schema that the OpenAPI document is written in, and how a route says which schema its answers have.

Answers are described in `edges/_openapi/` and made where their routes are; `tests/attacks/test_openapi_fuzz.py` holds
one against the other, and finds members of an answer that are not named there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

ID_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,255}$"
TOOL_PATTERN: Final = r"^(?!.*\.\.)[A-Za-z0-9_.-]{1,128}$"
TRACE_PATTERN: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
TEXT: Final[Schema] = {"type": "string"}
BOOL: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
AMOUNT: Final[Schema] = {"type": "number", "minimum": 0}
ID: Final[Schema] = {"type": "string", "pattern": ID_PATTERN}
TOOL: Final[Schema] = {"type": "string", "pattern": TOOL_PATTERN}
OBJECT: Final[Schema] = {"type": "object"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def answers(description: str, name: str) -> Schema:
    """A response with a JSON body of the schema of that name."""
    return {"description": description, "content": {"application/json": {"schema": ref(name)}}}


def problem(description: str) -> Schema:
    """A refusal."""
    return {"description": description, "content": {"application/problem+json": {"schema": ref("Problem")}}}


def record(needed: Mapping[str, Schema], maybe: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    """An object with members that are always there and members that may be. Others may come in later versions."""
    return {"type": "object", "required": list(needed), "properties": {**needed, **(maybe or {})}, **more}


def list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def perhaps(schema: Schema) -> Schema:
    """Or null."""
    return schema | {"type": [schema["type"], "null"]}


def said(schema: Schema, description: str) -> Schema:
    return schema | {"description": description}
