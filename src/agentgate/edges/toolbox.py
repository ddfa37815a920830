"""Control routes of tools: what servers list, what was accepted, and an operator's word on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from agentgate.core.call import Access, AgentId, Principal, PrincipalKind, Role
from agentgate.edges.desks import Desks, Operator, TheDesks, unless_refused
from agentgate.edges.schemas import ID_PATTERN, Responses, answers
from agentgate.pipeline.tools.heard import changes_of
from agentgate.pipeline.tools.offers import Offer

router = APIRouter(tags=["tools"])

_HIDDEN = "hidden"


class AcceptBody(BaseModel):
    """What was looked at, by its digest: `found.sha256` of `GET /tools`."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"sha256": "0" * 64}]})
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    access: Annotated[Access, Field(strict=False)] | None = None


class RejectBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


_RESPONSES: Responses = {
    200: answers("The tool, as it is now", "Tool"),
    403: {"description": "Tools are everybody's: this needs an operator of all tenants"},
    404: {"description": "No server lists a tool of this name, and none was accepted"},
    409: {"description": "It is not what its server describes now, or cannot be offered as it is"},
    503: {"description": "The log cannot be written: nothing has changed"},
}


@router.get("/tools", responses={200: answers("All of them, or the one that was asked for", "Tools")})
async def review_tools(
    desks: TheDesks,
    viewer: Operator,
    name: Annotated[str | None, Query(max_length=256, description="Only this tool, with its definitions")] = None,
    agent: Annotated[str, Query(pattern=ID_PATTERN)] = "agent",
) -> dict[str, Any]:
    """Every tool of every server with its state and what has changed of it, and what policy says of it for `agent`.

    `state`: `offered`, `new` (nobody has accepted it yet), `quarantined`, `rejected`, `refused` (it cannot be offered,
    see `why`), `missing` (accepted, and not listed any more), or `declared` in the configuration.
    """
    ruled = await desks.policy.ruled_for(_an_agent(viewer, agent)) or {}
    offers = [offer for offer in desks.pins.offers() if name in (None, offer.name)]
    views = [_view(desks, offer, ruled, whole=name is not None) for offer in offers]
    return {
        "tools": views if name is not None else [*views, *_declared(desks, ruled)],
        "servers": {
            server: {"up": state.is_up, "detail": state.detail, "protocol": state.protocol}
            for server, state in desks.server_states().items()
        },
        "trouble": desks.pins.trouble,
    }


@router.post("/tools/{name}/accept", responses=_RESPONSES)
async def accept_tool(desks: TheDesks, actor: Operator, name: str, body: AcceptBody) -> dict[str, Any]:
    """Offer a tool as it was found, and in no other form. `served` says whether it can be called already."""
    done = unless_refused(await desks.pins.accept(actor, name, body.sha256, body.access))
    ruled = await desks.policy.ruled_for(_an_agent(actor, "agent")) or {}
    return _view(desks, done, ruled, whole=False) | {"trouble": desks.pins.trouble}


@router.post("/tools/{name}/reject", responses=_RESPONSES)
async def reject_tool(desks: TheDesks, actor: Operator, name: str, body: RejectBody | None = None) -> dict[str, Any]:
    """Do not offer a tool any more, or at all. It can be accepted later."""
    return _view(desks, unless_refused(await desks.pins.reject(actor, name)), {}, whole=False)


def _an_agent(viewer: Principal, name: str) -> Principal:
    """Somebody for whom policy can be asked."""
    return Principal(PrincipalKind.AGENT, AgentId(name), viewer.tenant, frozenset({Role.AGENT}), "none")


def _declared(desks: Desks, ruled: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "server": tool.upstream,
            "name": tool.name,
            "state": "declared",
            "why": "",
            "served": True,
            "policy": ruled.get(tool.name, _HIDDEN),
            "access": tool.access.value,
        }
        for tool in desks.pins.declared.values()
    ]


def _view(desks: Desks, offer: Offer, ruled: Mapping[str, str], *, whole: bool) -> dict[str, Any]:
    pin, found = offer.pin, offer.found
    served = desks.pins.is_served(offer)
    view: dict[str, Any] = {
        "server": offer.server,
        "tool": offer.tool,
        "name": offer.name,
        "state": offer.state.value,
        "why": offer.why,
        "served": served,
        "policy": ruled.get(offer.name, _HIDDEN) if served else _HIDDEN,
        "access": offer.access.value,
        "pin": pin.sha256 or None if pin is not None else None,
        "trust": pin.trust or None if pin is not None else None,
        "by": pin.by or None if pin is not None else None,
        "at": pin.at if pin is not None else None,
        "found": found.sha256 or None if found is not None else (pin.found_sha256 or None if pin is not None else None),
        "changes": changes_of(offer),
    }
    if whole:
        view["definition"] = pin.definition if pin is not None and pin.subject is not None else None
        view["found_definition"] = _found_definition(offer)
    return view


def _found_definition(offer: Offer) -> Any:
    if offer.found is not None:  # and nothing else, where that cannot be shown
        return orjson.loads(offer.found.subject)["tool"] if offer.found.subject else None
    return offer.pin.found["tool"] if offer.pin is not None and offer.pin.found is not None else None
