"""Control routes of approvals: what waits for a person, shown whole, and the person's answer."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from agentgate.core.approval import Approval, State
from agentgate.core.call import Principal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import rfc3339
from agentgate.core.strict_json import canonical
from agentgate.core.visible import visible
from agentgate.edges.approval_page import WithPage
from agentgate.edges.desks import Approver, Desks, TheDesks, unless_refused
from agentgate.edges.problem import Problem
from agentgate.edges.schemas import Responses, answers
from agentgate.pipeline.approvals.book import MOST_LISTED
from agentgate.pipeline.approvals.desk import MAX_REASON_CHARS, Verdict

router = APIRouter(tags=["approvals"])

_USUAL: Final = 100
_SHORT: Final = 200
"""Characters of arguments in a list. Nobody approves by them: `GET /approvals/{id}` has all."""


class AnswerBody(BaseModel):
    """A person's reason, for the record."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "as agreed"}]})
    reason: str = Field("", max_length=MAX_REASON_CHARS)


class EditBody(AnswerBody):
    """The arguments as they may be sent. `approve` says yes to them as well."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"arguments": {"amount": 10}, "approve": True}]}
    )
    arguments: dict[str, Any]
    approve: bool = False


_ONE: Final = answers("The approval", "Approval")
_UNREADABLE: Final = {"description": "The log cannot be read"}
_NOT_FOUND: Final = {"description": "No such approval in your tenant"}
_PAGE: Final = answers("A page", "Approvals")
_RESPONSES: Responses = {
    200: _ONE,
    403: {"description": "Not a person who may answer this one: the requester and whom it acts for never may"},
    404: _NOT_FOUND,
    409: {"description": "It is answered, void or expired, or you have said yes before"},
    503: {"description": "The log cannot be written: nothing has changed"},
}


@router.get(
    "/approvals", responses={200: _PAGE, 404: {"description": "`after` is no approval of yours"}, 503: _UNREADABLE}
)
async def list_approvals(
    desks: TheDesks,
    viewer: Approver,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = _USUAL,
    after: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    prefix: Annotated[str, Query(max_length=64, description="Only ids that begin so")] = "",
) -> dict[str, Any]:
    """Approvals, oldest first; `?state=pending` for what waits. `next` is null on the last page."""
    last = await desks.approvals.get(viewer, after) if after is not None else None
    if after is not None and last is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "no such approval to go on after")
    found = await desks.approvals.list(viewer, state, prefix=prefix, after=last, limit=limit + 1)
    page = found[:limit]
    return {
        # one by one: each may have a megabyte of arguments, of which a list shows the beginning
        "approvals": [await _view(desks, await desks.approvals.approval(one.id) or one) for one in page],
        "next": page[-1].id if len(found) > limit else None,
    }


async def get_approval(desks: TheDesks, viewer: Approver, approval_id: str) -> dict[str, Any]:
    """One approval with the call exactly as it was sent, while it is kept.

    `text` is the same to read: canonical JSON in which nothing hides or turns the order of letters round. A browser
    without a key (`Accept: text/html`) is told what to type instead.
    """
    return await _whole(desks, await _of(desks, viewer, approval_id))


router.add_api_route(
    "/approvals/{approval_id}",
    get_approval,
    responses={200: _ONE, 404: _NOT_FOUND, 503: _UNREADABLE},
    methods=["GET"],
    route_class_override=WithPage,
)


@router.post("/approvals/{approval_id}/approve", responses=_RESPONSES)
async def approve(
    desks: TheDesks, approver: Approver, approval_id: str, body: AnswerBody | None = None
) -> dict[str, Any]:
    """Say yes to a call that waits. The token comes with the yes that completes the quorum.

    It is told here and never again.
    """
    return await _decide(desks, approver, approval_id, State.APPROVED, body)


@router.post("/approvals/{approval_id}/deny", responses=_RESPONSES)
async def deny(desks: TheDesks, approver: Approver, approval_id: str, body: AnswerBody | None = None) -> dict[str, Any]:
    """Say no to a call that waits: the same call is denied until the approval expires."""
    return await _decide(desks, approver, approval_id, State.DENIED, body)


@router.post(
    "/approvals/{approval_id}/edit",
    responses=_RESPONSES | {422: {"description": "The edited arguments do not fit the tool, or are the same"}},
)
async def edit(desks: TheDesks, editor: Approver, approval_id: str, body: EditBody) -> dict[str, Any]:
    """Change the arguments of a call that waits: policy decides on them anew, and a new approval is about them.

    This one is void. Once that is approved, the agent's own call, repeated as it was, runs with the edited arguments.
    """
    if body.approve:
        verdict = await desks.edits.edit_and_approve(editor, approval_id, body.arguments, body.reason)
        return await _answered(desks, unless_refused(verdict))
    edited = await desks.edits.edit(editor, approval_id, body.arguments, body.reason)
    return await _whole(desks, unless_refused(edited))


@router.post(
    "/approvals/{approval_id}/void",
    responses=_RESPONSES | {409: {"description": "It was used before, or is denied, void or expired"}},
)
async def void(desks: TheDesks, approver: Approver, approval_id: str, body: AnswerBody | None = None) -> dict[str, Any]:
    """Take an approval back: what is pending, or approved and not used yet, carries no call any more.

    Of this and a redemption at the same moment the first one in the log counts. It is no denial: the call may be asked
    for again.
    """
    withdrawn = await desks.approvals.withdraw(approver, approval_id, body.reason if body is not None else "")
    return await _view(desks, unless_refused(withdrawn))


async def _decide(
    desks: Desks, approver: Principal, approval_id: str, state: State, body: AnswerBody | None
) -> dict[str, Any]:
    reason = body.reason if body is not None else ""
    verdict = await desks.approvals.decide(approver, approval_id, state, reason)
    return await _answered(desks, unless_refused(verdict))


async def _answered(desks: Desks, verdict: Verdict) -> dict[str, Any]:
    return (await _view(desks, verdict.approval)) | {"approval_token": verdict.token}


async def _of(desks: Desks, viewer: Principal, approval_id: str) -> Approval:
    approval = await desks.approvals.get(viewer, approval_id)
    if approval is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "no such approval")
    return approval


async def _whole(desks: Desks, approval: Approval) -> dict[str, Any]:
    call = desks.approvals.question(approval)
    return (await _view(desks, approval)) | {
        "call": call,
        # in a thread: calls and kills go on while every letter of a megabyte is looked at
        "text": await asyncio.to_thread(visible, canonical(call).decode()) if call is not None else None,
        "original": desks.approvals.original(approval),
    }


def _beginning(arguments: Any) -> str:
    """Cut before it is looked at letter by letter: a megabyte of letters takes a while, and a list has many of them."""
    return visible(canonical(arguments).decode()[:_SHORT])[:_SHORT]


async def _view(desks: Desks, approval: Approval) -> dict[str, Any]:
    call = desks.approvals.question(approval)
    return {
        "id": approval.id,
        "state": desks.approvals.state_now(approval).value,
        "why": approval.why,
        "tenant": approval.tenant,
        "session_id": approval.session,
        "requested_by": approval.requested_by,
        "on_behalf_of": approval.on_behalf_of,
        "tool_name": approval.tool,
        "tool_sha256": approval.tool_sha256,
        "arguments_text": _beginning(call["arguments"]) if call is not None else None,
        "trace_id": approval.trace_id,
        "digest": approval.digest,
        "policy_revision": approval.policy_revision,
        "requested_at": rfc3339(approval.requested_at),
        "expires_at": rfc3339(approval.expires_at),
        "quorum": approval.quorum,
        "approvers": list(approval.approvers),
        "votes": [{"by": vote.by, "at": vote.at} for vote in await desks.approvals.votes(approval)],
        "decided_by": approval.decided_by,
        "executes": approval.executes,
        "edited_from": approval.edited_from,
        "edited_to": approval.edited_to,
    }
