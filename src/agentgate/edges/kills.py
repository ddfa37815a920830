"""Control routes of containment: kills and their release."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from agentgate.core.call import Principal, is_id, is_tool_name
from agentgate.core.containment import MAX_REASON_CHARS, Kill, KillId, Scope
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import rfc3339
from agentgate.core.members import Presence
from agentgate.edges.desks import Admin, Desks, Id, Operator, TheDesks, unless_refused
from agentgate.edges.problem import Problem, unfit
from agentgate.edges.schemas import ID_PATTERN, TOOL_PATTERN, Responses, answers
from agentgate.pipeline.containment.drains import Drain
from agentgate.pipeline.containment.orders import Order, ReleasePending

MOST_DETAILED = 100
"""Of so many kills a list also says how far each has come, where that is not simply `drained`: every one costs a few
reads of the log."""

router = APIRouter(tags=["containment"])


class WideKillRequest(BaseModel):
    """A kill of what is not in one tenant: only why and for how long."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "loops on the order table"}]}
    )
    id: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$")
    reason: str | None = Field(None, max_length=MAX_REASON_CHARS)
    expires_in_s: float | None = Field(None, gt=0, le=366 * 86_400)


class KillRequest(WideKillRequest):
    """A kill of a session or an agent: why and for how long; `tenant` if it is not the caller's own."""

    tenant: str | None = Field(None, pattern=ID_PATTERN)


class AnyKillRequest(KillRequest):
    """A kill of any scope."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"scope": "agent", "target": "research-bot", "reason": "key leaked"}]},
    )
    scope: Annotated[Scope, Field(strict=False)]
    target: str | None = Field(None, max_length=256)


class ReleaseBody(BaseModel):
    """`force` releases a kill that has not drained; its event says so."""

    model_config = ConfigDict(extra="forbid", strict=True)
    force: bool = False


_KILL_RESPONSES: Responses = {
    200: answers("In force and drained: no replica runs a covered call, and none will until the release", "Kill"),
    202: answers("In force, not drained within the drain timeout. `GET /kills/{id}` shows the rest happen", "Kill"),
    409: {"description": "The id is another kill's"},
    503: {"description": "The log cannot be written; what ran here was cut"},
}
_RELEASE_RESPONSES: Responses = {
    200: answers("Released; what the kill cut stays cut", "Release"),
    202: answers("Noted; more persons have to ask for it (`asked_by`, `quorum`)", "Release"),
    404: {"description": "No such kill is in force"},
    409: {"description": "The kill has not drained; `force` releases it all the same"},
    503: {"description": "The log cannot be written: nothing was released"},
}
_RESUME_RESPONSES: Responses = {status: said for status, said in _RELEASE_RESPONSES.items() if status != 404} | {
    200: answers("Released: every kill of scope `global`", "Resumed")
}
_Name = Annotated[str, Path(json_schema_extra={"pattern": TOOL_PATTERN})]
_KILLS = answers("Those that the viewer may see", "Kills") | {
    "headers": {"X-Total-Count": {"description": "How many are in force", "schema": {"type": "integer"}}}
}


@router.get("/kills", responses={200: _KILLS})
async def list_kills(
    desks: TheDesks,
    viewer: Operator,
    response: Response,
    limit: Annotated[int | None, Query(ge=1, description="Only so many of them, the newest")] = None,
) -> dict[str, Any]:
    """The kills in force, oldest first; `X-Total-Count` says how many. `GET /kills/{id}` has what each replica said.

    Of a kill of a tool, a server or everything, people of one tenant are not told reason, actor and what it cut.
    """
    kills = desks.containment.in_force(viewer)
    response.headers["X-Total-Count"] = str(len(kills))
    shown = kills[-(limit or len(kills)) :]
    try:
        undrained = await desks.containment.undrained()
        is_whole = all(member.presence is not Presence.ATTESTED for member in await desks.membership.members())
        details = await _details(desks, viewer, [kill.id for kill in shown if kill.id in undrained or not is_whole])
    except LogUnavailable:  # what is in force is known all the same, how far it has come is not
        return {"kills": [_kill_view(kill) | {"drained": None} for kill in shown]}
    views = [_kill_view(kill) | details.get(kill.id, {"drained": kill.id not in undrained}) for kill in shown]
    return {"kills": views}


async def _details(desks: Desks, viewer: Principal, kill_ids: list[KillId]) -> dict[KillId, dict[str, Any]]:
    """Of the newest of these kills, how far each has come. Raises LogUnavailable."""
    found = [await desks.containment.progress(viewer, kill_id) for kill_id in kill_ids[-MOST_DETAILED:]]
    return {drain.kill.id: _drain_view(drain) for drain in found if drain is not None}


@router.post("/kills", responses=_KILL_RESPONSES)
async def create_kill(desks: TheDesks, actor: Operator, body: AnyKillRequest) -> JSONResponse:
    """Stop a session, an agent, a tool, a server, a tenant or everything.

    The same `id` with the same body is one kill, so an order that was not answered can be repeated. The ids of an
    operator of one tenant are that tenant's own: such a kill is called `TENANT~ID`, and its people may leave out the
    tenant.
    """
    return await _kill(desks, actor, body.scope, body.target or "", body)


@router.get(
    "/kills/{kill_id}",
    responses={
        200: answers("The kill", "Kill"),
        404: {"description": "No such kill, or not for this viewer"},
        503: {"description": "The log cannot be read"},
    },
)
async def get_kill(desks: TheDesks, viewer: Operator, kill_id: str) -> dict[str, Any]:
    """One kill, in force or released (`active`), and how far it has come. Every replica gives the same answer."""
    drain = await desks.containment.progress(viewer, kill_id)
    if drain is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "no such kill")
    return _kill_view(drain.kill) | _drain_view(drain) | {"active": drain.released_at is None}


@router.post("/kills/{kill_id}/release", responses=_RELEASE_RESPONSES)
async def release_kill(desks: TheDesks, actor: Admin, kill_id: str, body: ReleaseBody | None = None) -> JSONResponse:
    """End a kill. What it cut stays cut. May need several persons (`containment.release_quorum`)."""
    outcome = await desks.containment.release(actor, kill_id, force=body.force if body else False)
    if isinstance(outcome, ReleasePending):
        return _pending(outcome)
    return JSONResponse(_kill_view(unless_refused(outcome)) | {"status": "released"})


@router.post("/sessions/{session_id}/kill", responses=_KILL_RESPONSES)
async def kill_session(
    desks: TheDesks, actor: Operator, session_id: Id, body: KillRequest | None = None
) -> JSONResponse:
    """Stop one session, whether it exists yet or not."""
    return await _kill(desks, actor, Scope.SESSION, session_id, body)


@router.post("/agents/{agent_id}/kill", responses=_KILL_RESPONSES)
async def kill_agent(desks: TheDesks, actor: Operator, agent_id: Id, body: KillRequest | None = None) -> JSONResponse:
    """Stop an agent in all its sessions, present and to come."""
    return await _kill(desks, actor, Scope.AGENT, agent_id, body)


@router.post("/tools/{tool_name}/kill", responses=_KILL_RESPONSES)
async def kill_tool(
    desks: TheDesks, actor: Operator, tool_name: _Name, body: WideKillRequest | None = None
) -> JSONResponse:
    """Stop a tool for everybody."""
    return await _kill(desks, actor, Scope.TOOL, tool_name, body)


@router.post("/servers/{server}/kill", responses=_KILL_RESPONSES)
async def kill_server(
    desks: TheDesks, actor: Operator, server: _Name, body: WideKillRequest | None = None
) -> JSONResponse:
    """Stop every tool of an upstream."""
    return await _kill(desks, actor, Scope.SERVER, server, body)


@router.post("/tenants/{tenant_id}/kill", responses=_KILL_RESPONSES)
async def kill_tenant(
    desks: TheDesks, actor: Operator, tenant_id: Id, body: WideKillRequest | None = None
) -> JSONResponse:
    """Stop a tenant."""
    return await _kill(desks, actor, Scope.TENANT, tenant_id, body)


@router.post("/system/pause", responses=_KILL_RESPONSES)
async def pause(desks: TheDesks, actor: Operator, body: WideKillRequest | None = None) -> JSONResponse:
    """Stop everything."""
    return await _kill(desks, actor, Scope.GLOBAL, "", body)


@router.post("/system/resume", responses=_RESUME_RESPONSES)
async def resume(desks: TheDesks, actor: Admin, body: ReleaseBody | None = None) -> JSONResponse:
    """Release what pause killed. Calls that were cut stay cut."""
    outcome = await desks.containment.release_global(actor, force=body.force if body else False)
    if isinstance(outcome, ReleasePending):
        return _pending(outcome)
    return JSONResponse({"status": "resumed", "released": [kill.id for kill in unless_refused(outcome)]})


async def _kill(
    desks: Desks, actor: Principal, scope: Scope, target: str, body: WideKillRequest | None
) -> JSONResponse:
    _check_target(scope, target)
    body = body or WideKillRequest(id=None, reason=None, expires_in_s=None)
    tenant = body.tenant if isinstance(body, KillRequest) else None
    if tenant is not None and scope not in (Scope.SESSION, Scope.AGENT):
        raise unfit(f"a kill by {scope} takes no tenant")
    order = Order(
        scope=scope,
        target=target,
        tenant=tenant,
        reason=body.reason or "",
        kill_id=KillId(body.id) if body.id is not None else None,
        expires_in_s=body.expires_in_s,
    )
    drain = unless_refused(await desks.containment.kill(actor, order))
    return JSONResponse(_kill_view(drain.kill) | _drain_view(drain), 200 if drain.is_drained else 202)


def _check_target(scope: Scope, target: str) -> None:
    """Whatever can be called can be killed, and nothing else: the same grammar as the tool door's."""
    match scope:
        case Scope.GLOBAL:
            fits = target == ""
        case Scope.TOOL | Scope.SERVER:
            fits = is_tool_name(target)
        case _:
            fits = is_id(target)
    if not fits:
        raise unfit(f"target is not a name of a {scope}")


# --- how kills are said -------------------------------------------------------------------------------------

_NAMES = {Scope.SESSION: "session_id", Scope.TOOL: "tool_name", Scope.AGENT: "agent_id", Scope.TENANT: "tenant_id"}


def _kill_view(kill: Kill) -> dict[str, Any]:
    """v0.2's `status` and name, and the kill itself (DESIGN §6)."""
    view: dict[str, Any] = {"status": "paused" if kill.scope is Scope.GLOBAL else "killed"}
    if kill.scope in _NAMES:
        view[_NAMES[kill.scope]] = kill.target
    view |= {
        "id": kill.id,
        "scope": kill.scope.value,
        "target": kill.target,
        "tenant": kill.tenant,
        "reason": kill.reason,
        "actor": kill.actor,
        "since": rfc3339(kill.since),
    }
    if kill.expires_at is not None:
        view["expires_at"] = rfc3339(kill.expires_at)
    return view


def _drain_view(drain: Drain) -> dict[str, Any]:
    """How far it has come (K1): members that had to be left out are named, whether somebody attests for them or not."""
    return {
        "drained": drain.is_drained,
        "drained_except": list(drain.progress.excepted),
        "attested": list(drain.progress.attested),
        "replicas": [_ack_view(drain, member) for member in drain.members],
        "running": list(drain.running),
        "receipt": drain.receipt,
    }


def _ack_view(drain: Drain, member: str) -> dict[str, Any]:
    ack = drain.acks.get(member)
    if ack is None:
        return {"member": member, "acked": False}
    if not drain.tells_calls:
        return {"member": member, "acked": True}
    return {
        "member": member,
        "acked": True,
        "cancelled": ack.cancelled,
        "finished": ack.finished,
        "unknown": ack.unknown,
        "took_ms": round(ack.took_ms, 3),
    }


def _pending(pending: ReleasePending) -> JSONResponse:
    view = {"status": "pending", "asked_by": list(pending.asked_by), "quorum": pending.quorum}
    return JSONResponse(_kill_view(pending.kill) | view, 202)
