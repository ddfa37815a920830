"""The FastAPI application around the control routes: its errors as problem documents, its OpenAPI with the hot routes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode
from agentgate.edges import openapi
from agentgate.edges.operator import router
from agentgate.edges.problem import Problem

_MEDIA_TYPE = "application/problem+json"
_HTTP_REASON = {404: ReasonCode.NOT_FOUND, 405: ReasonCode.METHOD_NOT_ALLOWED}


def make_framework(version: str) -> FastAPI:
    """The control routes, `/docs`, `/redoc` and `/openapi.json`."""
    app = FastAPI(
        title="AgentGate",
        version=version,
        summary="A containment gateway for AI agents: every tool call decided, recorded and stoppable.",
    )
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
        app.openapi_schema = openapi.with_hot_routes(document)
    return app.openapi_schema


def _answer(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, problem.headers, _MEDIA_TYPE)


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


async def _on_http(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    reason = _HTTP_REASON.get(error.status_code, ReasonCode.INVALID_REQUEST)
    detail = str(error.detail) or HTTPStatus(error.status_code).phrase
    return _answer(Problem(error.status_code, reason, detail, headers=dict(error.headers or {})))
