"""The control route of webhooks: how every endpoint stands."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter

from agentgate.core.errors import ReasonCode
from agentgate.edges.desks import Operator, TheDesks
from agentgate.edges.problem import Problem
from agentgate.edges.schemas import Responses, answers

router = APIRouter(tags=["webhooks"])

_RESPONSES: Final[Responses] = {
    200: answers("All endpoints", "Webhooks"),
    403: {"description": "Endpoints are everybody's: this needs an operator of all tenants"},
}


@router.get("/webhooks", responses=_RESPONSES)
async def list_webhooks(desks: TheDesks, viewer: Operator) -> dict[str, Any]:
    """Who is told of things, how far in the log each endpoint is, and what went wrong last.

    `done` is the index up to which all is told, `behind` how many events come after it. Counts, errors and times are
    those of the process that answers, since its start; one process follows at a time.
    """
    if not viewer.tenants_all:
        raise Problem(403, ReasonCode.FORBIDDEN, "webhooks are told of all tenants: this needs an operator of all")
    found = await desks.notices.standings()
    return {
        "webhooks": [
            {
                "name": one.name,
                "kind": one.kind,
                "url": one.shown,
                "events": list(one.events),
                "tenants": list(one.tenants),
                "done": one.done,
                "behind": one.behind,
                "waiting_since": one.waiting_since,
                "failures": one.failures,
                "last_error": one.error,
                "last_taken_at": one.taken_at,
                "deliveries": dict(one.counts),
            }
            for one in found
        ]
    }
