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
                "quorum": {"type": "integer", "description": "How many different persons must say yes"},
                "votes": {"type": "integer", "description": "How many have"},
                "url": {"type": "string"},
                "edited": {"type": "boolean", "description": "An approver has changed the arguments"},
                "arguments": {"type": "object", "description": "To these"},
            },
        },
        "context": {
            "type": "object",
            "description": "`approval_required` as a requestable deny of AuthZEN says it: `reason`, `evaluation_id`, "
            "`access_request`",
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
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Your name for this call: it is run once, however often it is sent",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        },
        {
            "name": "Prefer",
            "in": "header",
            "description": "`wait=20`: wait for an approval. `respond-async`: the gateway makes the call once it is "
            "approved; RFC 7240",
            "schema": {"type": "string"},
        },
    ],
    "requestBody": {"required": True, "content": _json("ToolCallRequest", examples=_CALL_EXAMPLES)},
    "responses": {
        "200": {
            "description": "The verdict and its result",
            "content": _json("ToolCallResponse", examples=_ANSWER_EXAMPLES),
        },
        "202": {
            "description": "It waits for an approval, after which the gateway makes it; `Location` has its answer then",
            "content": _json("ToolCallResponse"),
        },
        "400": _problem("Not strict JSON, or no idempotency key"),
        "401": _problem("No valid key or access token"),
        "409": _problem("A call with this idempotency key is running, or its answer is not kept any more"),
        "403": _problem(
            "A key without the role, a token without the scope or of another session, or a web origin that may not call"
        ),
        "413": _problem("The body is too large"),
        "415": _problem("Not application/json"),
        "421": _problem("A host name that is not served here"),
        "422": _problem("Not a call, names outside of the grammar, or an idempotency key of another call"),
        "429": _problem("Too many refused calls in this second"),
        "503": _problem("Kill state, log or token issuer unavailable: nothing was run"),
    },
    "security": [{"ApiKey": []}, {"Bearer": []}, {}],
}

_ENVELOPE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["agent_id", "agent_version", "request_id", "tool", "arguments"],
    "additionalProperties": False,
    "properties": {
        "agent_id": {"type": "string", "pattern": _ID_PATTERN, "description": "Whose key signs, or is sent"},
        "agent_version": {"type": "string", "minLength": 1, "maxLength": 64},
        "request_id": {"type": "string", "pattern": "^[!-~]{1,255}$", "description": "It is run once under this name"},
        "tool": {"type": "string", "pattern": _TOOL_PATTERN},
        "arguments": {"type": "object", "description": "Must fit the tool's declared JSON Schema"},
        "session_id": {"type": "string", "pattern": _ID_PATTERN},
        "context": {"type": "object", "description": "Told to policy; nothing in it is trusted as identity"},
    },
}

_ENVELOPE_ANSWER: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["success", "audit_id", "reason_code"],
    "properties": {
        "success": {"type": "boolean"},
        "result": {"description": "What the tool answered; only with success"},
        "status": {"enum": ["pending_approval", "denied", "failed", "running"]},
        "approval_id": {"type": "string"},
        "error": {"type": ["string", "null"]},
        "audit_id": {"type": "string", "format": "uuid", "description": "The trace id: GET /audit?trace_id="},
        "reason_code": {"enum": [code.value for code in ReasonCode]},
        "approval": {"type": "object"},
        "quorum": {"type": "integer"},
        "votes": {"type": "integer"},
    },
}

_ENVELOPE_EXAMPLE: Final[dict[str, Any]] = {
    "agent_id": "deploy-bot",
    "agent_version": "1.2.0",
    "request_id": "0d2f7a52-1a3b-4c59-8f6e-7f0c4a6a2b11",
    "tool": "db_query",
    "arguments": {"query": "SELECT id, name FROM products LIMIT 5"},
}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


_CALL_ENVELOPE: Final[dict[str, Any]] = {
    "tags": ["envelope"],
    "summary": "Decide on a signed tool call and run it, once",
    "description": "Allowed, denied and waiting for approval are all 200; `success`, `status` and `reason_code` say "
    "which. A call that waits is made by the gateway once it is approved: send the envelope again for its answer.",
    "operationId": "call_tool_envelope",
    "x-agentgate-role": "agent",
    "parameters": [
        _header("Signature-Input", "RFC 9421: one signature over method, address, content-digest and content-type"),
        _header("Signature", "RFC 9421: Ed25519 or HMAC-SHA-256"),
        _header("Content-Digest", "RFC 9530: sha-256 or sha-512 of the body"),
    ],
    "requestBody": {
        "required": True,
        "content": _json("EnvelopeRequest", examples={"read": {"value": _ENVELOPE_EXAMPLE}}),
    },
    "responses": {
        "200": {"description": "The verdict and its result", "content": _json("EnvelopeResponse")},
        "400": _problem("Not strict JSON"),
        "401": _problem("No signature that counts, or no valid key"),
        "403": _problem("Another agent's name, a key without the role, or a web origin that may not call"),
        "409": _problem("This request id's call is running, or its answer is not kept any more"),
        "413": _problem("The body is too large"),
        "415": _problem("Not application/json"),
        "421": _problem("A host name that is not served here"),
        "422": _problem("No envelope, or the request id of another call"),
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


_PERHAPS_TEXT: Final = {"type": ["string", "null"]}
_APPROVAL: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An approval. `call`, `text` and `original` where one is asked for by its id, or was edited; "
    "`approval_token` in the answers to a yes or no",
    "required": ["id", "state", "tool_name", "requested_by", "expires_at", "quorum", "votes", "executes"],
    "properties": {
        "id": {"type": "string", "examples": ["apr-3f9c0a51d2b94e6688aa17c4"]},
        "state": {"enum": ["pending", "approved", "denied", "spent", "void", "expired"]},
        "why": _PERHAPS_TEXT
        | {"description": "Of a void one: killed, policy_changed, tool_changed, edited, withdrawn"},
        "tenant": {"type": "string"},
        "session_id": {"type": "string"},
        "requested_by": {"type": "string", "examples": ["agent:deploy-bot"]},
        "on_behalf_of": _PERHAPS_TEXT,
        "tool_name": {"type": "string"},
        "tool_sha256": {"type": "string", "description": "The definition of the tool that the call is bound to"},
        "arguments_text": _PERHAPS_TEXT | {"description": "The beginning of the arguments"},
        "trace_id": {"type": "string", "format": "uuid"},
        "digest": {"type": "string", "description": "SHA-256 of all that the approval is bound to"},
        "policy_revision": {"type": "string"},
        "requested_at": {"type": "string", "format": "date-time"},
        "expires_at": {"type": "string", "format": "date-time"},
        "quorum": {"type": "integer", "minimum": 1, "maximum": 10},
        "approvers": {"type": "array", "items": {"type": "string"}, "description": "Who may; empty: the role approver"},
        "votes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["by", "at"],
                "properties": {"by": {"type": "string"}, "at": {"type": "string", "format": "date-time"}},
            },
        },
        "decided_by": _PERHAPS_TEXT,
        "executes": {"type": "boolean", "description": "The gateway makes the call itself once it is approved"},
        "edited_from": _PERHAPS_TEXT,
        "edited_to": _PERHAPS_TEXT,
        "call": {"type": ["object", "null"], "description": "What was sent; null when it is not kept any more"},
        "text": _PERHAPS_TEXT | {"description": "`call` as canonical JSON in which nothing hides"},
        "original": {"type": ["object", "null"], "description": "Of an edited call: what the agent had sent"},
        "approval_token": _PERHAPS_TEXT | {"description": "With the yes that completes the quorum, once"},
    },
}

_PARAMETERS: Final = {
    "agent": "Say what policy says of the tools for this agent",
    "approval_id": "As the pending answer and `GET /approvals` tell it: `apr-…`, whole",
    "decision": "What was decided",
    "hold_id": "As `GET /holds` tells it",
    "kill_id": "As the answer to the kill and `GET /kills` tell it",
    "limit": "At most so many",
    "member": "As `GET /members` tells it",
    "name": "As `GET /tools` tells it: SERVER__TOOL",
    "order": "Oldest or newest first",
    "outcome": "How an allowed call ended",
    "reason": "A reason code, such as `killed` or `policy_deny`",
    "server": "The name of an upstream of kind `mcp`",
    "state": "Only those in this state; without it all",
    "tool": "A tool's name",
    "tool_name": "A tool's name",
    "trace_id": "As the answer to the call tells it",
}
"""What a parameter means that a route says nothing of."""

_SECURITY: Final[list[dict[str, list[str]]]] = [{"ApiKey": []}, {"Bearer": []}]


def describe(operation: dict[str, Any], role: Role | None) -> None:
    """Say of one of the framework's operations who may call it, and how it refuses."""
    operation["x-agentgate-role"] = role.value if role is not None else None
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in _PARAMETERS:
            parameter.setdefault("description", _PARAMETERS[parameter["name"]])
    responses = operation["responses"]
    if role is not None:
        operation["security"] = _SECURITY
        responses["401"] = _problem("No key")
        wrong = f"A wrong key, or one without the role {role}; or a web origin that may not call"
        own = responses.get("403", {}).get("description")
        responses["403"] = _problem(f"{wrong}. {own}" if own else wrong)
    responses["421"] = _problem("A host name that is not served here")
    if "requestBody" in operation:
        responses |= {"400": _problem("Not strict JSON"), "413": _problem("The body is too large")}
        responses["415"] = _problem("Not application/json")
    for status in [status for status in responses if status >= "400"]:
        responses[status] = _problem(responses[status]["description"])


def with_hot_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The framework's document with the hot routes, their schemas and the two ways to send a key."""
    hot = {
        "/tools/call": {"post": _CALL},
        "/tools/list": {"get": _LIST},
        "/api/tools/call": {"post": _CALL_ENVELOPE},
    }
    document["paths"] = {**hot, **document["paths"]}
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for ours_instead in ("HTTPValidationError", "ValidationError"):
        schemas.pop(ours_instead, None)
    schemas |= {"ToolCallRequest": _REQUEST, "ToolCallResponse": _RESPONSE, "Problem": _PROBLEM}
    schemas |= {"EnvelopeRequest": _ENVELOPE, "EnvelopeResponse": _ENVELOPE_ANSWER, "Approval": _APPROVAL}
    components["securitySchemes"] = {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    return document
