"""The OpenAPI document: what every route is for, how it refuses, which schemas there are, and the hot routes."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any, Final

from fastapi.routing import APIRoute

from agentgate.core.call import Role
from agentgate.edges._openapi.calls import CALLS
from agentgate.edges._openapi.control import APPROVALS, GATEWAY, KILLS, RECORDS
from agentgate.edges._openapi.hot import HOT, TWICE
from agentgate.edges._openapi.links import link
from agentgate.edges.schemas import problem

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
        refusal = problem(responses[status]["description"])
        own = route.responses.get(int(status), {}).get("content", {})
        responses[status] |= refusal | {"content": refusal["content"] | own}


def _refusals(role: Role | None, *, has_body: bool, has_name: bool) -> dict[str, str]:
    """How every such route refuses, whatever it is for."""
    said = {
        "400": TWICE,
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
        said["400"] = f"Not strict JSON; or: {TWICE.lower()}"
        said |= {"413": "The body is too large", "415": "Not application/json"}
    return said


def with_hot_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The framework's document with the hot routes, all schemas, the links and the two ways to send a key."""
    document["paths"] = deepcopy(HOT) | document["paths"]
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for ours_instead in ("HTTPValidationError", "ValidationError"):
        schemas.pop(ours_instead, None)
    schemas |= CALLS | APPROVALS | KILLS | GATEWAY | RECORDS
    components["securitySchemes"] = {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    for item in document["paths"].values():
        for operation in item.values():
            for status, description in _TRANSPORT.items():
                operation["responses"][status] = problem(description)
            link(operation)
    return document
