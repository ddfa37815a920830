"""Control routes: kills, approvals, sessions, evidence, policy, health. Served by the framework, each with its role.

The role of a route is declared where the route is; `tests/edges/test_routes.py` fails on one without.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from agentgate.core.approval import Approval, State
from agentgate.core.call import Principal, Role, is_id, is_tool_name
from agentgate.core.containment import MAX_REASON_CHARS, Kill, KillId, Scope
from agentgate.core.errors import PolicyExternal, PolicyInvalid, PolicyNotEnforced, ReasonCode
from agentgate.core.event import rfc3339
from agentgate.edges.caller import Callers
from agentgate.edges.problem import Problem
from agentgate.pipeline.approvals import ApprovalDesk, CannotDecide
from agentgate.pipeline.control import Containment, Drain, Order, Refused
from agentgate.pipeline.evidence import EvidenceDesk
from agentgate.pipeline.policy import PolicyDesk

Bundle = tuple[bytes, str]
"""A policy bundle's bytes and its ETag."""


@dataclass(frozen=True, slots=True)
class Desks:
    """What the control routes work with."""

    callers: Callers
    containment: Containment
    approvals: ApprovalDesk
    evidence: EvidenceDesk
    policy: PolicyDesk
    bundle: Callable[[], Bundle | None]
    policy_path: str


class KillRequest(BaseModel):
    """A kill by a short form: only why and for how long; `tenant` if it is not the caller's own."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "loops on the order table"}]}
    )
    id: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$")
    tenant: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,255}$")
    reason: str | None = Field(None, max_length=MAX_REASON_CHARS)
    expires_in_s: float | None = Field(None, gt=0, le=366 * 86_400)


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


class EmptyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


def needs(role: Role) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that admits callers with `role`, and shows the role to the route table test."""

    async def admit(request: Request) -> Principal:
        desks: Desks = request.app.state.desks
        return desks.callers.person(dict(request.scope["headers"]), role)

    admit.role = role  # type: ignore[attr-defined]
    return admit


async def anybody() -> None:
    """The dependency of a route that wants no key: said, not forgotten."""


anybody.role = None  # type: ignore[attr-defined]


async def _desks(request: Request) -> Desks:
    desks: Desks = request.app.state.desks
    return desks


TheDesks = Annotated[Desks, Depends(_desks)]
Operator = Annotated[Principal, Depends(needs(Role.OPERATOR))]
Approver = Annotated[Principal, Depends(needs(Role.APPROVER))]
Auditor = Annotated[Principal, Depends(needs(Role.AUDITOR))]
Admin = Annotated[Principal, Depends(needs(Role.ADMIN))]
Opa = Annotated[Principal, Depends(needs(Role.OPA))]
Id = Annotated[str, Path(description="^[A-Za-z0-9][A-Za-z0-9._:@-]{0,255}$")]

router = APIRouter()

# --- kills ------------------------------------------------------------------------------------------------

_KILL_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"description": "In force; not everything has drained within the drain timeout"},
    409: {"description": "The id is another kill's"},
    503: {"description": "The log cannot be written; what ran here was cut"},
}


@router.get("/kills", tags=["containment"])
async def list_kills(desks: TheDesks, viewer: Operator) -> dict[str, Any]:
    """The kills in force, oldest first."""
    return {"kills": [_kill_view(kill, _drain(desks, viewer, kill.id)) for kill in desks.containment.in_force(viewer)]}


@router.post("/kills", tags=["containment"], responses=_KILL_RESPONSES)
async def create_kill(desks: TheDesks, actor: Operator, body: AnyKillRequest) -> JSONResponse:
    """Stop a session, an agent, a tool, a server, a tenant or everything."""
    return await _kill(desks, actor, body.scope, body.target or "", body)


@router.get("/kills/{kill_id}", tags=["containment"])
async def get_kill(desks: TheDesks, viewer: Operator, kill_id: str) -> dict[str, Any]:
    """One kill, and how far it has come."""
    found = desks.containment.progress(viewer, kill_id)
    if found is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "no such kill")
    kill, drain = found
    return _kill_view(kill, drain) | {"active": desks.containment.is_active(kill_id)}


@router.post("/kills/{kill_id}/release", tags=["containment"])
async def release_kill(desks: TheDesks, actor: Admin, kill_id: str, body: ReleaseBody | None = None) -> dict[str, Any]:
    """End a kill. What it cut stays cut."""
    outcome = await desks.containment.release(actor, kill_id, force=body.force if body else False)
    if isinstance(outcome, Refused):
        raise _refused(outcome)
    return _kill_view(outcome, None) | {"status": "released"}


@router.post("/sessions/{session_id}/kill", tags=["containment"], responses=_KILL_RESPONSES)
async def kill_session(
    desks: TheDesks, actor: Operator, session_id: Id, body: KillRequest | None = None
) -> JSONResponse:
    """Stop one session, whether it exists yet or not."""
    return await _kill(desks, actor, Scope.SESSION, session_id, body)


@router.post("/agents/{agent_id}/kill", tags=["containment"], responses=_KILL_RESPONSES)
async def kill_agent(desks: TheDesks, actor: Operator, agent_id: Id, body: KillRequest | None = None) -> JSONResponse:
    """Stop an agent in all its sessions, present and to come."""
    return await _kill(desks, actor, Scope.AGENT, agent_id, body)


@router.post("/tools/{tool_name}/kill", tags=["containment"], responses=_KILL_RESPONSES)
async def kill_tool(desks: TheDesks, actor: Operator, tool_name: str, body: KillRequest | None = None) -> JSONResponse:
    """Stop a tool for everybody."""
    return await _kill(desks, actor, Scope.TOOL, tool_name, body)


@router.post("/servers/{server}/kill", tags=["containment"], responses=_KILL_RESPONSES)
async def kill_server(desks: TheDesks, actor: Operator, server: str, body: KillRequest | None = None) -> JSONResponse:
    """Stop every tool of an upstream."""
    return await _kill(desks, actor, Scope.SERVER, server, body)


@router.post("/tenants/{tenant_id}/kill", tags=["containment"], responses=_KILL_RESPONSES)
async def kill_tenant(desks: TheDesks, actor: Operator, tenant_id: Id, body: KillRequest | None = None) -> JSONResponse:
    """Stop a tenant."""
    return await _kill(desks, actor, Scope.TENANT, tenant_id, body)


@router.post("/system/pause", tags=["containment"], responses=_KILL_RESPONSES)
async def pause(desks: TheDesks, actor: Operator, body: KillRequest | None = None) -> JSONResponse:
    """Stop everything."""
    return await _kill(desks, actor, Scope.GLOBAL, "", body)


@router.post("/system/resume", tags=["containment"])
async def resume(desks: TheDesks, actor: Admin, body: ReleaseBody | None = None) -> dict[str, Any]:
    """Release what pause killed. Calls that were cut stay cut."""
    outcome = await desks.containment.release_global(actor, force=body.force if body else False)
    if isinstance(outcome, Refused):
        raise _refused(outcome)
    return {"status": "resumed", "released": [kill.id for kill in outcome]}


async def _kill(desks: Desks, actor: Principal, scope: Scope, target: str, body: KillRequest | None) -> JSONResponse:
    _check_target(scope, target)
    body = body or KillRequest(id=None, tenant=None, reason=None, expires_in_s=None)
    if body.tenant is not None and scope not in (Scope.SESSION, Scope.AGENT):
        raise Problem(422, ReasonCode.INVALID_REQUEST, f"a kill by {scope} takes no tenant", error="Invalid request")
    order = Order(
        scope=scope,
        target=target,
        tenant=body.tenant,
        reason=body.reason or "",
        kill_id=KillId(body.id) if body.id is not None else None,
        expires_in_s=body.expires_in_s,
    )
    drain = await desks.containment.kill(actor, order)
    if isinstance(drain, Refused):
        raise _refused(drain)
    return JSONResponse(_kill_view(drain.kill, drain), 200 if drain.is_drained else 202)


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
        raise Problem(422, ReasonCode.INVALID_REQUEST, f"target is not a name of a {scope}", error="Invalid request")


_STATUS = {Scope.GLOBAL: "paused"}
_NAMES = {Scope.SESSION: "session_id", Scope.TOOL: "tool_name", Scope.AGENT: "agent_id", Scope.TENANT: "tenant_id"}


def _kill_view(kill: Kill, drain: Drain | None) -> dict[str, Any]:
    """v0.2's `status` and name, and the kill itself (DESIGN §6)."""
    view: dict[str, Any] = {"status": _STATUS.get(kill.scope, "killed")}
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
    if drain is not None:
        view |= {
            "drained": drain.is_drained,
            "replicas": [_ack_view(drain, member) for member in drain.members],
            "running": list(drain.running),
            "receipt": drain.receipt_event,
        }
    return view


def _ack_view(drain: Drain, member: str) -> dict[str, Any]:
    ack = drain.acks.get(member)
    if ack is None:
        return {"member": member, "acked": False}
    return {
        "member": member,
        "acked": True,
        "cancelled": ack.cancelled,
        "finished": ack.finished,
        "unknown": ack.unknown,
        "took_ms": round(ack.took_ms, 3),
    }


def _drain(desks: Desks, viewer: Principal, kill_id: str) -> Drain | None:
    found = desks.containment.progress(viewer, kill_id)
    return found[1] if found is not None else None


_REFUSED_STATUS = {
    ReasonCode.FORBIDDEN: 403,
    ReasonCode.NOT_FOUND: 404,
    ReasonCode.CONFLICT: 409,
    ReasonCode.EXPIRED: 409,
}


def _refused(refused: Refused | CannotDecide) -> Problem:
    return Problem(_REFUSED_STATUS[refused.reason], refused.reason, refused.detail)


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
        raise _refused(verdict)
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


# --- sessions and evidence --------------------------------------------------------------------------------


@router.get("/sessions", tags=["evidence"])
async def list_sessions(desks: TheDesks, viewer: Operator) -> dict[str, Any]:
    """Every session in the log that the viewer may see, sorted by id."""
    rows = await desks.evidence.sessions(viewer)
    return {"sessions": sorted({row.session for row in rows})}


@router.get("/sessions/{session_id}/evidence", tags=["evidence"])
async def evidence(
    desks: TheDesks,
    auditor: Auditor,
    session_id: Id,
    form: Annotated[str, Query(alias="format", description="json")] = "json",
    tenant: str | None = None,
) -> Response:
    """The evidence pack of one session."""
    if not is_id(session_id) or (tenant is not None and not is_id(tenant)):
        raise Problem(422, ReasonCode.INVALID_REQUEST, "not a session or tenant id", error="Invalid request")
    if form not in ("json", "html", "pdf", "zip"):
        raise Problem(
            400,
            ReasonCode.INVALID_REQUEST,
            "format must be json",
            error="Invalid format",
            hint="Use format=json",
            received=form[:64],
        )
    if form != "json":
        raise Problem(501, ReasonCode.NOT_IMPLEMENTED, f"format {form} is not offered by this version; use json")
    if tenant is not None and not auditor.sees(tenant):
        raise Problem(404, ReasonCode.NOT_FOUND, "no such session")
    pack = await desks.evidence.pack(auditor, tenant or auditor.tenant, session_id)
    name = f"evidence-{session_id}.json"
    return Response(
        pack, media_type="application/json", headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


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
