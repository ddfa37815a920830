"""The hot routes' part of the OpenAPI document: they are outside of the framework, not outside of the contract."""

from __future__ import annotations

from typing import Any, Final

from agentgate.core.call import Role
from agentgate.core.errors import ReasonCode

_ID_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,255}$"
_TOOL_PATTERN: Final = "^[A-Za-z0-9_.-]{1,128}$"

_REQUEST: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["session_id", "tool_name", "arguments"],
    "additionalProperties": False,
    "properties": {
        "session_id": {"type": "string", "pattern": _ID_PATTERN},
        "tool_name": {"type": "string", "pattern": _TOOL_PATTERN},
        "arguments": {"type": "object", "description": "Must fit the tool's declared JSON Schema"},
        "context": {"type": "object", "description": "Told to policy; nothing in it is trusted as identity"},
        "approval_token": {"type": ["string", "null"], "maxLength": 512},
    },
}

_RESPONSE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["success", "result", "error", "trace_id", "decision", "reason_code"],
    "properties": {
        "success": {"type": "boolean"},
        "result": {"description": "What the tool answered; null unless success"},
        "error": {"type": ["string", "null"]},
        "trace_id": {"type": "string", "format": "uuid"},
        "decision": {"enum": ["ALLOW", "DENY", "REQUIRE_APPROVAL"]},
        "reason_code": {"enum": [code.value for code in ReasonCode]},
        "approval": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "state": {"type": "string"},
                "expires_at": {"type": "string", "format": "date-time"},
                "url": {"type": "string"},
            },
        },
    },
}

_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason_code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason_code": {"enum": [code.value for code in ReasonCode]},
        "error": {"type": ["string", "null"]},
    },
}

_CALL_EXAMPLES: Final[dict[str, Any]] = {
    "read": {
        "summary": "A read, allowed",
        "value": {
            "session_id": "demo",
            "tool_name": "db_query",
            "arguments": {"query": "SELECT id, name FROM products LIMIT 5"},
        },
    },
    "write": {
        "summary": "A write, which needs an approval",
        "value": {
            "session_id": "demo",
            "tool_name": "db_insert",
            "arguments": {"table": "products", "data": {"name": "Gadget"}},
        },
    },
}

_TRACE: Final = "0b7c1a52-6c1f-4d55-9d2e-2f6f2d0c9a11"

_ANSWER_EXAMPLES: Final[dict[str, Any]] = {
    "allowed": {
        "value": {
            "success": True,
            "result": {"rows": [{"id": 1, "name": "Widget"}], "query": "SELECT id, name FROM products LIMIT 1"},
            "error": None,
            "trace_id": _TRACE,
            "decision": "ALLOW",
            "reason_code": "ok",
        }
    },
    "denied": {
        "value": {
            "success": False,
            "result": None,
            "error": "Policy denied: Tool not in allowlist",
            "trace_id": _TRACE,
            "decision": "DENY",
            "reason_code": "unknown_tool",
        }
    },
}


def _problem(description: str) -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": reference}}}


def _json(reference: str, **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{reference}"}, **more}}


_CALL: Final[dict[str, Any]] = {
    "tags": ["tools"],
    "summary": "Decide on a tool call and run it",
    "description": "Allowed, denied and waiting for approval are all 200; `decision` and `reason_code` say which.",
    "operationId": "call_tool",
    "x-agentgate-role": "agent",
    "requestBody": {"required": True, "content": _json("ToolCallRequest", examples=_CALL_EXAMPLES)},
    "responses": {
        "200": {
            "description": "The verdict and its result",
            "content": _json("ToolCallResponse", examples=_ANSWER_EXAMPLES),
        },
        "400": _problem("Not strict JSON"),
        "401": _problem("No valid key or access token"),
        "403": _problem(
            "A key without the role, a token without the scope or of another session, or a web origin that may not call"
        ),
        "413": _problem("The body is too large"),
        "415": _problem("Not application/json"),
        "421": _problem("A host name that is not served here"),
        "422": _problem("Not a call, or names outside of the grammar"),
        "429": _problem("Too many refused calls in this second"),
        "503": _problem("Kill state, log or token issuer unavailable: nothing was run"),
    },
    "security": [{"ApiKey": []}, {"Bearer": []}, {}],
}

_LIST: Final[dict[str, Any]] = {
    "tags": ["tools"],
    "summary": "Tools that this caller may call without approval and that are not killed",
    "operationId": "list_tools",
    "x-agentgate-role": "agent",
    "responses": {
        "200": {
            "description": "Names",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["tools"],
                        "properties": {"tools": {"type": "array", "items": {"type": "string"}}},
                    }
                }
            },
        },
        "401": _problem("No valid key or access token"),
        "403": _problem("A key without the role, or a token without the scope"),
        "421": _problem("A host name that is not served here"),
        "503": _problem("Policy engine or token issuer unavailable"),
    },
    "security": [{"ApiKey": []}, {"Bearer": []}, {}],
}


_SECURITY: Final[list[dict[str, list[str]]]] = [{"ApiKey": []}, {"Bearer": []}]


def describe(operation: dict[str, Any], role: Role | None) -> None:
    """Say of one of the framework's operations who may call it, and how it refuses."""
    operation["x-agentgate-role"] = role.value if role is not None else None
    responses = operation["responses"]
    if role is not None:
        operation["security"] = _SECURITY
        responses["401"] = _problem("No key")
        responses["403"] = _problem(f"A wrong key, or one without the role {role}; or a web origin that may not call")
    responses["421"] = _problem("A host name that is not served here")
    if "requestBody" in operation:
        responses |= {"400": _problem("Not strict JSON"), "413": _problem("The body is too large")}
        responses["415"] = _problem("Not application/json")
    for status in [status for status in responses if status >= "400"]:
        responses[status] = _problem(responses[status]["description"])


def with_hot_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The framework's document with the hot routes, their schemas and the two ways to send a key."""
    document["paths"] = {"/tools/call": {"post": _CALL}, "/tools/list": {"get": _LIST}, **document["paths"]}
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for ours_instead in ("HTTPValidationError", "ValidationError"):
        schemas.pop(ours_instead, None)
    schemas |= {"ToolCallRequest": _REQUEST, "ToolCallResponse": _RESPONSE, "Problem": _PROBLEM}
    components["securitySchemes"] = {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    return document
