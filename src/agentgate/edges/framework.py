"""The FastAPI application around the control routes.

Its errors are problem documents, its OpenAPI document has the hot routes and every route's role.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match

from agentgate.core.call import Role
from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode
from agentgate.edges import (
    answering,
    approvals,
    audit,
    calls,
    documentation,
    evidence,
    kills,
    members,
    oauth,
    openapi,
    operator,
    retention,
    tlog,
    toolbox,
    webhooks,
)
from agentgate.edges.problem import PROBLEM_JSON, Problem, method_not_allowed

_ROUTERS: Final = (
    kills.router,
    members.router,
    operator.router,
    approvals.router,
    calls.router,
    answering.router,
    evidence.router,
    audit.router,
    retention.router,
    tlog.router,
    toolbox.router,
    webhooks.router,
    oauth.router,
    documentation.router,
)
ROUTES: Final = tuple(route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute))
"""Every route but the hot ones."""
_HTTP_REASON = {404: ReasonCode.NOT_FOUND}


def make_framework(version: str) -> FastAPI:
    """The control routes, `/docs`, `/redoc` and `/openapi.json`."""
    app = FastAPI(
        title="AgentGate",
        version=version,
        summary="A containment gateway for AI agents: every tool call decided, recorded and stoppable.",
        openapi_url=None,  # documentation.py serves all three, without other people's hosts
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,  # a redirect would carry keys and bodies to an address made of the Host header
    )
    for router in _ROUTERS:
        app.include_router(router)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(LogUnavailable, _on_log_unavailable)
    app.add_exception_handler(KillStateUnknown, _on_kill_state_unknown)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        for route in ROUTES:
            if route.include_in_schema:
                for method in route.methods or ():
                    openapi.describe(document["paths"][route.path_format][method.lower()], route, role_of(route))
        app.openapi_schema = openapi.with_hot_routes(document)
    return app.openapi_schema


class RoleUndeclared(Exception):
    """A route that does not say who may use it; tests/edges/test_routes.py asks every one."""


def role_of(route: APIRoute) -> Role | None:
    """The role that a route declares with `needs(…)`, or None where it says that anybody may.

    Raises:
        RoleUndeclared: it says neither.
    """
    waiting: list[Dependant] = [route.dependant]
    while waiting:
        dependant = waiting.pop()
        role: Role | str | None = getattr(dependant.call, "role", "undeclared")
        if role is None or isinstance(role, Role):
            return role
        waiting += dependant.dependencies
    raise RoleUndeclared(route.path)


def _answer(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, problem.headers, PROBLEM_JSON.decode())


async def _on_problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    return _answer(error)


async def _on_log_unavailable(_: Request, error: Exception) -> Response:
    return _answer(
        Problem(
            503,
            ReasonCode.LOG_UNAVAILABLE,
            "The log does not answer; nothing new can run, and what was ordered is not on record",
            headers={"Retry-After": "1"},
        )
    )


async def _on_kill_state_unknown(_: Request, error: Exception) -> Response:
    text = "The kill store does not answer"
    return _answer(Problem(503, ReasonCode.KILL_STATE_UNKNOWN, text, headers={"Retry-After": "1"}))


async def _on_invalid(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [{"loc": list(item["loc"]), "msg": item["msg"], "type": item["type"]} for item in error.errors()]
    where = ".".join(str(part) for part in errors[0]["loc"]) if errors else "request"
    return _answer(
        Problem(
            422,
            ReasonCode.INVALID_REQUEST,
            f"{where}: {errors[0]['msg']}" if errors else "the request does not fit",
            error="Invalid request",
            message="Request validation failed.",
            errors=errors,
        )
    )


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 405:
        return _answer(method_not_allowed(_methods_at(request)))
    reason = _HTTP_REASON.get(error.status_code, ReasonCode.INVALID_REQUEST)
    detail = str(error.detail) or HTTPStatus(error.status_code).phrase
    return _answer(Problem(error.status_code, reason, detail, headers=dict(error.headers or {})))


def _methods_at(request: Request) -> set[str]:
    """Every method that the path answers to; the framework's own `Allow` names one route's."""
    there = [route for route in ROUTES if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in there for method in route.methods or ()}
