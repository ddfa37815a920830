"""The hot routes as the document says them: they are outside of the framework, but not of the contract."""

from __future__ import annotations

from typing import Any, Final

from agentgate.edges.schemas import answers, problem, ref

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

TWICE: Final = "A header that decides something was sent twice"
_OF_AGENTS: Final[dict[str, Any]] = {"x-agentgate-role": "agent", "security": [{"ApiKey": []}, {"Bearer": []}, {}]}
_REFUSALS_OF_CALLS: Final = {
    "400": problem(f"Not strict JSON, or no idempotency key; or: {TWICE.lower()}"),
    "413": problem("The body is too large"),
    "415": problem("Not application/json"),
    "421": problem("A host name that is not served here"),
    "429": problem("Too many refused calls in this second"),
    "503": problem("Kill state, log or token issuer unavailable: nothing was run"),
}


def _json(reference: str, examples: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": ref(reference), "examples": examples}}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


_CALL: Final[dict[str, Any]] = {
    "tags": ["tools"],
    "summary": "Decide on a tool call and run it",
    "description": "Allowed, denied and waiting for approval are all 200; `decision` and `reason_code` say which.",
    "operationId": "call_tool",
    **_OF_AGENTS,
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Your name for this call: it is run once, however often it is sent",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        },
        _header(
            "Prefer",
            "`wait=20`: wait for an approval. `respond-async`: the gateway makes the call once it is approved; "
            "RFC 7240",
        ),
    ],
    "requestBody": {"required": True, "content": _json("ToolCallRequest", _CALL_EXAMPLES)},
    "responses": {
        "200": {"description": "The verdict and its result", "content": _json("ToolCallResponse", _ANSWER_EXAMPLES)},
        "202": answers(
            "It waits for an approval, after which the gateway makes it; `Location` has its answer then",
            "ToolCallResponse",
        ),
        "401": problem("No valid key or access token"),
        "409": problem("A call with this idempotency key is running, or its answer is not kept any more"),
        "403": problem(
            "A key without the role, a token without the scope or of another session, or a web origin that may not call"
        ),
        "422": problem("Not a call, names outside of the grammar, or an idempotency key of another call"),
        **_REFUSALS_OF_CALLS,
    },
}

_ENVELOPE_EXAMPLE: Final[dict[str, Any]] = {
    "agent_id": "deploy-bot",
    "agent_version": "1.2.0",
    "request_id": "0d2f7a52-1a3b-4c59-8f6e-7f0c4a6a2b11",
    "tool": "db_query",
    "arguments": {"query": "SELECT id, name FROM products LIMIT 5"},
}

_CALL_ENVELOPE: Final[dict[str, Any]] = {
    "tags": ["envelope"],
    "summary": "Decide on a signed tool call and run it, once",
    "description": "Allowed, denied and waiting for approval are all 200; `success`, `status` and `reason_code` say "
    "which. A call that waits is made by the gateway once it is approved: send the envelope again for its answer.",
    "operationId": "call_tool_envelope",
    **_OF_AGENTS,
    "parameters": [
        _header("Signature-Input", "RFC 9421: one signature over method, address, content-digest and content-type"),
        _header("Signature", "RFC 9421: Ed25519 or HMAC-SHA-256"),
        _header("Content-Digest", "RFC 9530: sha-256 or sha-512 of the body"),
    ],
    "requestBody": {"required": True, "content": _json("EnvelopeRequest", {"read": {"value": _ENVELOPE_EXAMPLE}})},
    "responses": {
        "200": answers("The verdict and its result", "EnvelopeResponse"),
        "401": problem("No signature that counts, or no valid key"),
        "403": problem("Another agent's name, a key without the role, or a web origin that may not call"),
        "409": problem("This request id's call is running, or its answer is not kept any more"),
        "422": problem("No envelope, or the request id of another call"),
        **_REFUSALS_OF_CALLS,
    },
}

_LIST: Final[dict[str, Any]] = {
    "tags": ["tools"],
    "summary": "Tools that this caller may call without approval and that are not killed",
    "operationId": "list_tools",
    **_OF_AGENTS,
    "responses": {
        "200": answers("Names", "ToolNames"),
        "400": problem(TWICE),
        "401": problem("No valid key or access token"),
        "403": problem("A key without the role, or a token without the scope"),
        "421": problem("A host name that is not served here"),
        "503": problem("Policy engine or token issuer unavailable"),
    },
}

HOT: Final[dict[str, dict[str, Any]]] = {
    "/tools/call": {"post": _CALL},
    "/tools/list": {"get": _LIST},
    "/api/tools/call": {"post": _CALL_ENVELOPE},
}
"""By path and method."""
