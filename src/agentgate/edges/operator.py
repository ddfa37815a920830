"""Control routes: policy and health. Kills are in `edges/kills.py`, approvals in `edges/approvals.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from agentgate.core.errors import PolicyExternal, PolicyInvalid, PolicyNotEnforced, ReasonCode
from agentgate.edges.desks import Admin, EmptyBody, Opa, TheDesks, anybody
from agentgate.edges.problem import Problem
from agentgate.edges.schemas import Responses, answers

router = APIRouter()


_RELOAD_RESPONSES: Responses = {
    200: answers("In force", "Policy"),
    409: {"description": "The policy engine runs policies of its own"},
    422: {"description": "The policy does not compile; the one in force stays"},
    504: {"description": "It is published, but the engine still answers from another revision"},
}
_BUNDLE_RESPONSES: Responses = {
    200: {
        "description": "The bundle",
        "content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "The client has it already (`If-None-Match`)"},
    404: {"description": "No bundle is published: the policy engine is not an OPA server"},
}


@router.post("/admin/policies/reload", tags=["policy"], responses=_RELOAD_RESPONSES)
async def reload_policy(desks: TheDesks, actor: Admin, body: EmptyBody | None = None) -> dict[str, Any]:
    """Read the policy directory again and answer which revision is enforced now, for all tenants."""
    if not actor.tenants_all:
        raise Problem(403, ReasonCode.FORBIDDEN, "the policy is everybody's: this needs an admin of all tenants")
    try:
        enforced = await desks.policy.load(actor.id, "reload")
    except PolicyInvalid as error:
        raise Problem(422, ReasonCode.POLICY_INVALID, str(error)) from None
    except PolicyNotEnforced as error:
        reason = ReasonCode.POLICY_NOT_ENFORCED
        raise Problem(504, reason, str(error), wanted=error.wanted, enforced=error.enforced) from None
    except PolicyExternal as error:
        raise Problem(409, ReasonCode.POLICY_EXTERNAL, str(error)) from None
    return {
        "status": "reloaded",
        "policy_path": desks.policy_path,
        "policy_revision": enforced.revision,
        "tools_count": enforced.tools_count,
    }


@router.get("/bundles/agentgate.tar.gz", tags=["policy"], response_class=Response, responses=_BUNDLE_RESPONSES)
async def bundle(request: Request, desks: TheDesks, _reader: Opa) -> Response:
    """The policy bundle that an OPA server pulls (its bundle service API)."""
    published = desks.bundle()
    if published is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "no bundle is published: the policy engine is not an OPA server")
    raw, etag = published
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(raw, media_type="application/gzip", headers={"ETag": etag})


_ANYBODY = [Depends(anybody)]
_METRICS_RESPONSES: Responses = {
    200: {"description": "Since the process's start", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/healthz", tags=["health"], dependencies=_ANYBODY, responses={200: answers("It does", "Alive")})
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/health", tags=["health"], dependencies=_ANYBODY, responses={200: answers("How it is", "Health")})
async def health(request: Request) -> dict[str, Any]:
    """v0.2's health: always 200, `degraded` when a dependency does not answer."""
    state: Mapping[str, Any] = await request.app.state.health()
    return dict(state)


@router.get(
    "/readyz",
    tags=["health"],
    dependencies=_ANYBODY,
    responses={200: answers("Yes", "Readiness"), 503: answers("Calls would be refused", "Readiness")},
)
async def readyz(request: Request) -> JSONResponse:
    """Whether a call could be allowed now: log, kill state and policy all answer."""
    state: Mapping[str, Any] = await request.app.state.health()
    status: Literal[200, 503] = 200 if state["status"] == "ok" else 503
    return JSONResponse({"status": "ready" if status == 200 else "not ready", **state["checks"]}, status)


@router.get("/metrics", tags=["health"], dependencies=_ANYBODY, response_class=Response, responses=_METRICS_RESPONSES)
async def metrics(request: Request) -> Response:
    """Metrics, in the text format of Prometheus."""
    return Response(request.app.state.metrics(), media_type=request.app.state.metrics_type)
