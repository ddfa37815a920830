"""Control routes of retention: what is due, pruning, and legal holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from agentgate.core.call import Principal
from agentgate.core.retention import FLOOR_DAYS, MAX_HOLD_REASON_CHARS, Hold, Place
from agentgate.edges.desks import Admin, Auditor, TheDesks, unless_refused
from agentgate.edges.problem import unfit
from agentgate.edges.schemas import ID_PATTERN, Responses, answers
from agentgate.pipeline.records.pruning import Pruned
from agentgate.pipeline.records.retention import HoldOrder, PruneOrder, Status

router = APIRouter(tags=["retention"])

_NO_LOG: Responses = {503: {"description": "The log cannot be read or written"}}


class PruneBody(BaseModel):
    """What to give up: by the configured rule, or what is older than `days`, or than `before`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"dry_run": True}]})
    days: int | None = Field(default=None, ge=0, le=36_500, strict=True)
    before: AwareDatetime | None = None
    force: bool = Field(default=False, strict=True, description="Even below the configured days and the floor")
    dry_run: bool = Field(default=False, strict=True, description="Say what would go, and change nothing")
    after: str | None = Field(default=None, max_length=600, description="`next` of an answer, to go on from there")


class HoldBody(BaseModel):
    """What to keep: one session, a tenant, or (`all_tenants`) everything. Without `tenant` it is the caller's own."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"session": "s-1", "reason": "case 4711"}]}
    )
    id: str | None = Field(default=None, pattern=ID_PATTERN, max_length=128)
    tenant: str | None = Field(default=None, pattern=ID_PATTERN)
    session: str | None = Field(default=None, pattern=ID_PATTERN)
    all_tenants: bool = False
    reason: str = Field(min_length=1, max_length=MAX_HOLD_REASON_CHARS)


class HoldReleaseBody(BaseModel):
    """Why a hold ends."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: str = Field(default="", max_length=MAX_HOLD_REASON_CHARS)


@router.get("/retention", responses={200: answers("How it stands", "Retention"), **_NO_LOG})
async def get_retention(desks: TheDesks, viewer: Auditor) -> dict[str, Any]:
    """How long bodies are kept, what is due now, what is held, and what keeps pruning from happening."""
    return _status_view(await desks.retention.status(viewer))


@router.post(
    "/retention/prune",
    responses={
        200: answers("What went; `next` where there is more: send it as `after`", "Pruned"),
        409: {"description": "Below the configured days or the floor, or the clock is not believed; `force` goes on"},
        503: {"description": "The log cannot be written, or no role may delete bodies"},
    },
)
async def prune(desks: TheDesks, actor: Admin, body: PruneBody | None = None) -> JSONResponse:
    """Give up bodies of sessions that are due, a few hundred sessions at a time. Needs an admin of all tenants.

    Every session's prune is an event; leaves and proofs stay valid. Nothing that is held goes.
    """
    body = body or PruneBody()
    if body.days is not None and body.before is not None:
        raise unfit("say `days` or `before`")
    order = PruneOrder(
        days=body.days, before=_utc(body.before), force=body.force, dry_run=body.dry_run, after=_place(body.after)
    )
    done = unless_refused(await desks.retention.prune(actor, order))
    return JSONResponse(_pruned_view(done, dry_run=body.dry_run))


def _utc(moment: datetime | None) -> datetime | None:
    """Raises Problem where the calendar ends."""
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        raise unfit("`before` is no time that we can tell") from None


def _place(text: str | None) -> Place | None:
    """Where to go on; the names in it can hold no slash. Raises Problem."""
    if text is None:
        return None
    part, *names = text.split("/")
    if part not in ("0", "1") or len(names) != 2:
        raise unfit("`after` is none that was answered")
    return int(part), names[0], names[1]


def _pruned_view(done: Pruned, *, dry_run: bool) -> dict[str, Any]:
    status: Literal["done", "more"] = "done" if done.following is None else "more"
    return {
        "status": status,
        "dry_run": dry_run,
        "before": done.limit,
        "sessions": done.sessions,
        "bodies": done.bodies,
        "held": done.held,
        "open": done.open,
        "next": None if done.following is None else "/".join(map(str, done.following)),
    }


def _status_view(status: Status) -> dict[str, Any]:
    keeping = status.keeping
    view: dict[str, Any] = {
        "days": keeping.rule.days,
        "floor_days": FLOOR_DAYS,
        "below_floor": keeping.rule.days < FLOOR_DAYS,
        "automatic": keeping.automatic,
        "compress_after_days": keeping.compress_after_days,
        "before": status.limit,
        "due": status.due,
        "held": status.held,
        "open": status.open,
        "counted_all": status.is_all,
        "oldest": status.oldest,
        "cannot_delete": status.refusal,
        "clock": status.clock,
        "trouble": status.trouble,
        "last_run": status.last_run,
    }
    if status.kept is not None:
        view["bodies"] = {
            "single": status.kept.single,
            "compressed": status.kept.compressed,
            "segments": status.kept.segments,
        }
    return view


@router.get("/holds", responses={200: answers("Those that the viewer may see", "Holds"), **_NO_LOG})
async def list_holds(desks: TheDesks, viewer: Auditor) -> dict[str, Any]:
    """The legal holds in force, oldest first: of the viewer's tenants, and of everybody."""
    return {"holds": [_hold_view(hold) for hold in await desks.retention.holds(viewer)]}


@router.post(
    "/holds",
    status_code=201,
    responses={
        201: answers("In force", "Hold"),
        409: {"description": "The id is another hold's"},
        503: {"description": "Nothing is held"},
    },
)
async def create_hold(desks: TheDesks, actor: Auditor, body: HoldBody) -> dict[str, Any]:
    """Keep a session, a tenant or everything from being pruned until the hold is released.

    The same `id` with the same body is one hold, so an order that was not answered can be repeated. The ids of an
    auditor of one tenant are that tenant's own: such a hold is called `TENANT~ID`.
    """
    return _hold_view(unless_refused(await desks.retention.hold(actor, _order(actor, body))))


def _order(actor: Principal, body: HoldBody) -> HoldOrder:
    if body.all_tenants and (body.tenant is not None or body.session is not None):
        raise unfit("`all_tenants` goes with no tenant and session")
    tenant = "" if body.all_tenants else body.tenant or actor.tenant
    return HoldOrder(tenant=tenant, session=body.session or "", reason=body.reason, id=body.id)


@router.post(
    "/holds/{hold_id}/release",
    responses={
        200: answers("Released", "Hold"),
        404: {"description": "No such hold is in force"},
        503: {"description": "Nothing was released"},
    },
)
async def release_hold(
    desks: TheDesks, actor: Admin, hold_id: str, body: HoldReleaseBody | None = None
) -> dict[str, Any]:
    """End a hold: what it kept goes when it is due. Auditors give holds, admins release them."""
    hold = await desks.retention.release(actor, hold_id, body.reason if body else "")
    return _hold_view(unless_refused(hold)) | {"status": "released"}


def _hold_view(hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.id,
        "status": "held",
        "tenant": hold.tenant or None,
        "session_id": hold.session or None,
        "reason": hold.reason,
        "actor": hold.actor,
        "at": hold.at,
    }
