"""Where a client reads which issuer's tokens are good here (RFC 9728)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from agentgate.core.errors import ReasonCode
from agentgate.edges.desks import TheDesks, anybody
from agentgate.edges.problem import Problem
from agentgate.edges.resource import PATH
from agentgate.edges.schemas import Responses, answers

router = APIRouter(tags=["identity"])
_ANYBODY = [Depends(anybody)]
_RESPONSES: Responses = {
    200: answers("What a client must know to get a token", "ProtectedResource"),
    404: {"description": "No token issuer is configured here"},
}


@router.get(PATH, summary="Which tokens are good here (RFC 9728)", dependencies=_ANYBODY, responses=_RESPONSES)
@router.get(
    f"{PATH}/mcp",
    summary="Which tokens are good at /mcp (RFC 9728)",
    operation_id="protected_resource_mcp",
    dependencies=_ANYBODY,
    responses=_RESPONSES,
)
async def protected_resource(desks: TheDesks) -> dict[str, Any]:
    if desks.resource is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "No token issuer is configured here (auth.oauth)")
    return desks.resource.document()
