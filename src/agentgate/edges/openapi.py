"""The OpenAPI document: the hot routes, which are outside of the framework but not of the contract, how every route
refuses, and which answers lead to which operations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from fastapi.routing import APIRoute

from agentgate.core.call import Role
from agentgate.edges.schemas import COMPONENTS, ref

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


_TWICE: Final = "A header that decides something was sent twice"


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/problem+json": {"schema": ref("Problem")}}}


def _json(reference: str, **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": ref(reference), **more}}


_OF_AGENTS: Final[dict[str, Any]] = {
    "x-agentgate-role": "agent",
    "security": [{"ApiKey": []}, {"Bearer": []}, {}],
}
_REFUSALS_OF_CALLS: Final = {
    "400": _problem(f"Not strict JSON, or no idempotency key; or: {_TWICE.lower()}"),
    "413": _problem("The body is too large"),
    "415": _problem("Not application/json"),
    "421": _problem("A host name that is not served here"),
    "429": _problem("Too many refused calls in this second"),
    "503": _problem("Kill state, log or token issuer unavailable: nothing was run"),
}

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
        "401": _problem("No valid key or access token"),
        "409": _problem("A call with this idempotency key is running, or its answer is not kept any more"),
        "403": _problem(
            "A key without the role, a token without the scope or of another session, or a web origin that may not call"
        ),
        "422": _problem("Not a call, names outside of the grammar, or an idempotency key of another call"),
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


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


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
    "requestBody": {
        "required": True,
        "content": _json("EnvelopeRequest", examples={"read": {"value": _ENVELOPE_EXAMPLE}}),
    },
    "responses": {
        "200": {"description": "The verdict and its result", "content": _json("EnvelopeResponse")},
        "401": _problem("No signature that counts, or no valid key"),
        "403": _problem("Another agent's name, a key without the role, or a web origin that may not call"),
        "409": _problem("This request id's call is running, or its answer is not kept any more"),
        "422": _problem("No envelope, or the request id of another call"),
        **_REFUSALS_OF_CALLS,
    },
}

_LIST: Final[dict[str, Any]] = {
    "tags": ["tools"],
    "summary": "Tools that this caller may call without approval and that are not killed",
    "operationId": "list_tools",
    **_OF_AGENTS,
    "responses": {
        "200": {"description": "Names", "content": _json("ToolNames")},
        "400": _problem(_TWICE),
        "401": _problem("No valid key or access token"),
        "403": _problem("A key without the role, or a token without the scope"),
        "421": _problem("A host name that is not served here"),
        "503": _problem("Policy engine or token issuer unavailable"),
    },
}


_PARAMETERS: Final = {
    "agent": "Say what policy says of the tools for this agent",
    "agent_id": "An agent's name",
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
    "session_id": "As its calls name it",
    "state": "Only those in this state; without it all",
    "tenant_id": "A tenant's name",
    "tool": "A tool's name",
    "tool_name": "A tool's name",
    "trace_id": "As the answer to the call tells it",
}
"""What a parameter means that a route says nothing of."""

_TRANSPORT: Final = {"408": "The request was not there as a whole in time", "431": "A head that is too large"}
_CLAUSE: Final = re.compile(r"[.;:](?:\s|$)")
_SECURITY: Final[list[dict[str, list[str]]]] = [{"ApiKey": []}, {"Bearer": []}]


def describe(operation: dict[str, Any], route: APIRoute, role: Role | None) -> None:
    """Say of one of the framework's operations what it is for, who may call it, what it answers and how it refuses."""
    operation["x-agentgate-role"] = role.value if role is not None else None
    if route.summary is None:
        operation["summary"] = _CLAUSE.split(operation["description"], 1)[0].replace("\n", " ")
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in _PARAMETERS:
            parameter.setdefault("description", _PARAMETERS[parameter["name"]])
    responses = operation["responses"]
    for status, declared in route.responses.items():
        if "content" in declared:  # and not what the framework has read from the function's type besides
            responses[str(status)]["content"] = declared["content"]
    if role is not None:
        operation["security"] = _SECURITY
    has_body, has_name = "requestBody" in operation, bool(route.param_convertors)
    for status, description in _refusals(role, has_body=has_body, has_name=has_name).items():
        own = responses.get(status, {}).get("description")
        responses[status] = {"description": f"{description}. {own}" if own else description}
    for status in [status for status in responses if status >= "400"]:
        problem = _problem(responses[status]["description"])
        own = route.responses.get(int(status), {}).get("content", {})
        responses[status] = responses[status] | problem | {"content": problem["content"] | own}


def _refusals(role: Role | None, *, has_body: bool, has_name: bool) -> dict[str, str]:
    """How every such route refuses, whatever it is for."""
    said = {
        "400": _TWICE,
        "403": "A web origin that may not call",
        "421": "A host name that is not served here",
        "503": "What the gateway rests on does not answer",
    }
    if role is not None:
        said["401"] = "No key"
        said["403"] = f"A wrong key, or one without the role {role}; or a web origin that may not call"
    if has_name:
        said["404"] = "A name that is escaped in a way that proxies read differently"
    if has_body:
        said["400"] = f"Not strict JSON; or: {_TWICE.lower()}"
        said |= {"413": "The body is too large", "415": "Not application/json"}
    return said


# --- what leads where -----------------------------------------------------------------------------------------------

_Link = tuple[str, str, str]
"""The operation that it leads to, its parameter, and where the answer (or the request) has the value of that."""

_OF_CALL: Final[tuple[_Link, ...]] = (
    ("get_call", "trace_id", "$response.body#/trace_id"),
    ("session_evidence", "session_id", "$request.body#/session_id"),
    ("kill_session", "session_id", "$request.body#/session_id"),
)
_ANSWERS: Final = ("get_approval", "approve", "deny", "edit", "void")
_OF_PENDING: Final[tuple[_Link, ...]] = tuple((name, "approval_id", "$response.body#/approval/id") for name in _ANSWERS)
_OF_APPROVAL: Final[tuple[_Link, ...]] = (
    *((name, "approval_id", "$response.body#/id") for name in _ANSWERS),
    ("get_call", "trace_id", "$response.body#/trace_id"),
)
_OF_KILL: Final[tuple[_Link, ...]] = tuple(
    (name, "kill_id", "$response.body#/id") for name in ("get_kill", "release_kill")
)
_KILLS: Final = ("create_kill", "kill_session", "kill_agent", "kill_tool", "kill_server", "kill_tenant", "pause")

_LINKS: Final[Mapping[str, tuple[_Link, ...]]] = {
    "call_tool": (*_OF_CALL, *_OF_PENDING),
    "call_tool_envelope": (("get_call", "trace_id", "$response.body#/audit_id"), *_OF_PENDING),
    "get_call": (("get_call", "trace_id", "$response.body#/trace_id"), *_OF_PENDING),
    "list_tools": (("kill_tool", "tool_name", "$response.body#/tools/0"),),
    "get_approval": _OF_APPROVAL,
    "approve": _OF_APPROVAL,
    "edit": _OF_APPROVAL,
    "list_approvals": (
        *((name, "approval_id", "$response.body#/approvals/0/id") for name in _ANSWERS),
        ("list_approvals", "after", "$response.body#/next"),
    ),
    **dict.fromkeys((*_KILLS, "get_kill"), _OF_KILL),
    "list_kills": tuple((name, "kill_id", "$response.body#/kills/0/id") for name in ("get_kill", "release_kill")),
    "list_members": (("attest_gone", "member", "$response.body#/members/0/member"),),
    "list_calls": (("kill_session", "session_id", "$response.body#/calls/0/session"),),
    "list_sessions": (
        ("session_evidence", "session_id", "$response.body#/sessions/0"),
        ("kill_session", "session_id", "$response.body#/sessions/0"),
    ),
    "audit": (("audit", "cursor", "$response.body#/next"),),
    "create_hold": (("release_hold", "hold_id", "$response.body#/id"),),
    "list_holds": (("release_hold", "hold_id", "$response.body#/holds/0/id"),),
    "review_tools": tuple((name, "name", "$response.body#/tools/0/name") for name in ("accept_tool", "reject_tool")),
}
"""By the operation whose answers they are in: every one below 300."""


def _link(operation: dict[str, Any]) -> None:
    for target, parameter, value in _LINKS.get(operation["operationId"], ()):
        for status in [status for status in operation["responses"] if status < "300"]:
            links = operation["responses"][status].setdefault("links", {})
            links[target] = {"operationId": target, "parameters": {parameter: value}}


def with_hot_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The framework's document with the hot routes, all schemas, the links and the two ways to send a key."""
    hot = {
        "/tools/call": {"post": _CALL},
        "/tools/list": {"get": _LIST},
        "/api/tools/call": {"post": _CALL_ENVELOPE},
    }
    document["paths"] = deepcopy(hot) | document["paths"]
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for ours_instead in ("HTTPValidationError", "ValidationError"):
        schemas.pop(ours_instead, None)
    schemas |= COMPONENTS
    components["securitySchemes"] = {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    for item in document["paths"].values():
        for operation in item.values():
            for status, description in _TRANSPORT.items():
                operation["responses"][status] = _problem(description)
            _link(operation)
    return document
