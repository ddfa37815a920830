"""Control routes: approvals, policy, health. Those of containment are in `edges/kills.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from agentgate.core.approval import Approval, State
from agentgate.core.call import Principal
from agentgate.core.errors import PolicyExternal, PolicyInvalid, PolicyNotEnforced, ReasonCode
from agentgate.core.event import rfc3339
from agentgate.edges.desks import (
    Admin,
    Approver,
    Desks,
    EmptyBody,
    Opa,
    TheDesks,
    anybody,
    refused,
)
from agentgate.edges.problem import Problem
from agentgate.pipeline.approvals import CannotDecide

router = APIRouter()

# --- approvals --------------------------------------------------------------------------------------------


@router.get("/approvals", tags=["approvals"])
async def list_approvals(desks: TheDesks, viewer: Approver, state: State | None = None) -> dict[str, Any]:
    """Approvals, oldest first; `?state=pending` for what waits."""
    found = await desks.approvals.list(viewer, state)
    return {"approvals": [_approval_view(desks, approval) for approval in found]}


@router.get("/approvals/{approval_id}", tags=["approvals"])
async def get_approval(desks: TheDesks, viewer: Approver, approval_id: str) -> dict[str, Any]:
    """One approval with the call exactly as it was sent, while it is kept."""
    approval = await desks.approvals.get(viewer, approval_id)
    if approval is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "no such approval")
    return _approval_view(desks, approval) | {"call": desks.approvals.question(approval)}


@router.post("/approvals/{approval_id}/approve", tags=["approvals"])
async def approve(
    desks: TheDesks, approver: Approver, approval_id: str, body: EmptyBody | None = None
) -> dict[str, Any]:
    """Say yes, once. The token is told here and never again."""
    return await _decide(desks, approver, approval_id, State.APPROVED)


@router.post("/approvals/{approval_id}/deny", tags=["approvals"])
async def deny(desks: TheDesks, approver: Approver, approval_id: str, body: EmptyBody | None = None) -> dict[str, Any]:
    """Say no: the same call is denied until the approval expires."""
    return await _decide(desks, approver, approval_id, State.DENIED)


async def _decide(desks: Desks, approver: Principal, approval_id: str, state: State) -> dict[str, Any]:
    verdict = await desks.approvals.decide(approver, approval_id, state)
    if isinstance(verdict, CannotDecide):
        raise refused(verdict)
    return _approval_view(desks, verdict.approval) | {
        "state": verdict.state.value,
        "decided_by": approver.id,
        "approval_token": verdict.token,
    }


def _approval_view(desks: Desks, approval: Approval) -> dict[str, Any]:
    return {
        "id": approval.id,
        "state": desks.approvals.state_now(approval).value,
        "tenant": approval.tenant,
        "session_id": approval.session,
        "requested_by": approval.requested_by,
        "tool_name": approval.tool,
        "digest": approval.digest,
        "policy_revision": approval.policy_revision,
        "requested_at": rfc3339(approval.requested_at),
        "expires_at": rfc3339(approval.expires_at),
        "decided_by": approval.decided_by,
    }


# --- policy -----------------------------------------------------------------------------------------------


@router.post("/admin/policies/reload", tags=["policy"])
async def reload_policy(desks: TheDesks, actor: Admin, body: EmptyBody | None = None) -> dict[str, Any]:
    """Read the policy directory again and answer which revision is enforced now."""
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


@router.get("/bundles/agentgate.tar.gz", tags=["policy"])
async def bundle(request: Request, desks: TheDesks, _reader: Opa) -> Response:
    """The policy bundle that an OPA server pulls (its bundle service API)."""
    published = desks.bundle()
    if published is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "no bundle is published: the policy engine is not an OPA server")
    raw, etag = published
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(raw, media_type="application/gzip", headers={"ETag": etag})


# --- health -----------------------------------------------------------------------------------------------

_ANYBODY = [Depends(anybody)]


@router.get("/healthz", tags=["health"], dependencies=_ANYBODY)
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/health", tags=["health"], dependencies=_ANYBODY)
async def health(request: Request) -> dict[str, Any]:
    """v0.2's health: always 200, `degraded` when a dependency does not answer."""
    state: Mapping[str, Any] = await request.app.state.health()
    return dict(state)


@router.get(
    "/readyz", tags=["health"], dependencies=_ANYBODY, responses={503: {"description": "Calls would be refused"}}
)
async def readyz(request: Request) -> JSONResponse:
    """Whether a call could be allowed now: log, kill state and policy all answer."""
    state: Mapping[str, Any] = await request.app.state.health()
    status: Literal[200, 503] = 200 if state["status"] == "ok" else 503
    return JSONResponse({"status": "ready" if status == 200 else "not ready", **state["checks"]}, status)


@router.get("/metrics", tags=["health"], dependencies=_ANYBODY)
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    return Response(request.app.state.metrics(), media_type=request.app.state.metrics_type)
