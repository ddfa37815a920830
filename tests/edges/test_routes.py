"""The route table: every route says who may use it, and everybody else is refused."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from agentgate.core.call import Role
from agentgate.edges.framework import ROUTES, RoleUndeclared, make_framework, role_of
from tests.edges.conftest import ROLES, key_of
from tests.gateway import GatewayProcess

FOR_ANYBODY = {
    *["/health", "/healthz", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json", "/docs/assets/{name}"],
    *["/log/checkpoint", "/log/keys", "/log/tile/{level}/{index}"],
    *["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"],
}
HOT = [("POST", "/tools/call", Role.AGENT), ("GET", "/tools/list", Role.AGENT), ("POST", "/api/tools/call", Role.AGENT)]
TABLE = [
    *[(method, route.path_format, role_of(route)) for route in ROUTES for method in sorted(route.methods or ())],
    *HOT,
]
GUARDED = [(method, path, role) for method, path, role in TABLE if role is not None]


def test_every_route_declares_its_role() -> None:
    for route in ROUTES:
        role_of(route)


def test_only_these_routes_are_for_anybody() -> None:
    assert {path for _, path, role in TABLE if role is None} == FOR_ANYBODY


def test_a_route_that_forgets_to_say_is_found() -> None:
    app = FastAPI()

    @app.get("/forgotten")
    async def forgotten() -> None: ...

    route = next(route for route in app.routes if isinstance(route, APIRoute))
    with pytest.raises(RoleUndeclared):
        role_of(route)


def test_the_table_is_the_documents_and_the_document_is_the_applications() -> None:
    document = make_framework("0").openapi()
    said = {
        (method.upper(), path): operation["x-agentgate-role"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    shown = {
        (method, path): role for method, path, role in TABLE if not path.startswith(("/docs", "/redoc", "/openapi"))
    }
    assert said == {place: role.value if role else None for place, role in shown.items()}


def test_every_parameter_of_the_document_is_described_and_a_routes_own_refusals_stay() -> None:
    paths = make_framework("0").openapi()["paths"]
    silent = [
        (path, parameter["name"])
        for path, item in paths.items()
        for operation in item.values()
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert silent == []
    refused = paths["/approvals/{approval_id}/approve"]["post"]["responses"]["403"]["description"]
    assert "without the role approver" in refused
    assert "the requester and whom it acts for never may" in refused


def ask(gateway: GatewayProcess, method: str, path: str, key: str | None, **headers: str) -> int:
    place = re.sub(r"{\w+}", "none", path)
    body: dict[str, object] = {"scope": "session", "target": "none"} if path == "/kills" else {}
    if path == "/tools/call":
        body = {"session_id": "none", "tool_name": "db_query", "arguments": {}}
    client = gateway.client(key, **headers)
    return client.request(method, place, json=body if method == "POST" else None).status_code


@pytest.mark.parametrize(("method", "path", "role"), GUARDED, ids=[f"{m} {p}" for m, p, _ in GUARDED])
def test_a_guarded_route_refuses_everybody_else(gateway: GatewayProcess, method: str, path: str, role: Role) -> None:
    assert ask(gateway, method, path, None) == 401
    assert ask(gateway, method, path, "wrong-key") == (401 if role is Role.AGENT else 403)
    for other in ("agent", *ROLES):
        if other not in (role, "admin"):
            assert ask(gateway, method, path, key_of(other)) == 403, other
            assert ask(gateway, method, path, None, Authorization=f"Bearer {key_of(other)}") == 403, other


@pytest.mark.parametrize(("method", "path", "role"), GUARDED, ids=[f"{m} {p}" for m, p, _ in GUARDED])
def test_a_guarded_route_lets_its_role_and_the_admin_in(
    gateway: GatewayProcess, method: str, path: str, role: Role
) -> None:
    try:
        for holder in (role.value, "admin"):
            assert ask(gateway, method, path, key_of(holder)) not in (401, 403), holder
    finally:
        admin = gateway.client(key_of("admin"))
        for kill in admin.get("/kills").json()["kills"]:
            admin.post(f"/kills/{kill['id']}/release")


@pytest.mark.parametrize("header", ["X-Forwarded-User", "X-Agent-Id", "X-AgentGate-Tenant-ID", "X-Role", "Cookie"])
def test_no_other_header_makes_anybody_somebody(gateway: GatewayProcess, header: str) -> None:
    assert ask(gateway, "GET", "/kills", None, **{header: key_of("admin")}) == 401
    assert ask(gateway, "GET", "/kills", key_of("agent"), **{header: "admin"}) == 403
