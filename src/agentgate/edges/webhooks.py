"""The control route of webhooks: how every endpoint stands."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter

from agentgate.core.errors import ReasonCode
from agentgate.edges.desks import Operator, TheDesks
from agentgate.edges.problem import Problem

router = APIRouter(tags=["webhooks"])

_TEXT: Final = {"type": "string"}
_PERHAPS_TEXT: Final = {"type": ["string", "null"]}
_NUMBER: Final = {"type": "integer", "minimum": 0}
_ENDPOINT: Final = {
    "name": _TEXT,
    "kind": {"enum": ["webhook", "slack"]},
    "url": {"type": "string", "description": "Scheme, host and port: the rest may be a secret"},
    "events": {"type": "array", "items": _TEXT},
    "tenants": {"type": "array", "items": _TEXT, "description": "Empty: all"},
    "done": {"type": ["integer", "null"]},
    "behind": _NUMBER,
    "waiting_since": _PERHAPS_TEXT,
    "failures": _NUMBER,
    "last_error": _PERHAPS_TEXT,
    "last_taken_at": _PERHAPS_TEXT,
    "deliveries": {"type": "object", "properties": dict.fromkeys(("delivered", "failed", "skipped"), _NUMBER)},
}
_LIST: Final = {
    "type": "object",
    "required": ["webhooks"],
    "properties": {"webhooks": {"type": "array", "items": {"type": "object", "properties": _ENDPOINT}}},
}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "All endpoints", "content": {"application/json": {"schema": _LIST}}},
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
