"""`GET /calls/{trace_id}`: what became of a call that its caller did not wait for, or whose answer got lost."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
from fastapi import APIRouter, Response

from agentgate.core.approval import Approval
from agentgate.core.errors import ReasonCode
from agentgate.core.event import rfc3339
from agentgate.edges.desks import Agent, TheDesks
from agentgate.edges.problem import Problem
from agentgate.edges.schemas import TRACE_PATTERN, answers
from agentgate.edges.tools import say, told_approval, too_many_refusals
from agentgate.pipeline.calls.fates import Elsewhere, Over, Underway
from agentgate.pipeline.calls.passage import Answer, PendingApproval

router = APIRouter(tags=["tools"])

LOOK_AGAIN_S: Final = 2
_TRACE: Final = re.compile(TRACE_PATTERN)


@router.get(
    "/calls/{trace_id}",
    response_class=Response,
    responses={
        200: answers("The answer of `POST /tools/call`; a refusal that ended it is one as well", "ToolCallResponse"),
        202: answers("It has no answer yet", "CallUnderway"),
        303: {"description": "The caller has made the call again itself; its answer is there"},
        404: {"description": "No call of yours, or none whose answer is kept"},
        409: {"description": "The call was run, and its answer is not kept any more"},
        429: {"description": "Too many refused calls in this second"},
        503: {"description": "Log or kill state unavailable: nothing is told"},
    },
)
async def get_call(desks: TheDesks, caller: Agent, trace_id: str) -> Response:
    """The answer of a deferred call, or of one with an idempotency key, for the caller that sent it.

    A kill that covers the caller or the session withholds it.
    """
    if desks.refusals.is_over(caller):
        raise too_many_refusals()
    found = await desks.deferred.fetch(caller, trace_id) if _TRACE.fullmatch(trace_id) is not None else None
    match found:
        case None:
            desks.refusals.refused(caller)  # ids can be made up as fast as one likes
            raise Problem(404, ReasonCode.NOT_FOUND, "no such call")
        case Elsewhere():
            return Response(status_code=303, headers={"Location": f"/calls/{found.trace_id}"})
        case Underway():
            body = {"trace_id": found.trace_id, "state": found.progress.value, "approval": _told(found.approval)}
            headers = {"Retry-After": str(LOOK_AGAIN_S)}
            return Response(orjson.dumps(body), 202, headers, "application/json")
        case Over():
            return _refusal(found)
        case Answer():
            if found.outcome is None:
                desks.refusals.refused(caller)
            status, fields, content = say(found)
            answer = Response(content, status)
            answer.raw_headers += fields
            return answer


def _told(approval: Approval) -> dict[str, Any]:
    state, expires_at = approval.state.value, rfc3339(approval.expires_at)
    return told_approval(PendingApproval(approval.id, state, expires_at, quorum=approval.quorum, votes=approval.votes))


def _refusal(over: Over) -> Response:
    if over.reason is ReasonCode.IDEMPOTENCY_FORGOTTEN:
        raise Problem(409, over.reason, over.detail)
    body: dict[str, Any] = {
        "success": False,
        "result": None,
        "error": over.detail,
        "trace_id": over.trace_id,
        "decision": "DENY",
        "reason_code": over.reason.value,
    }
    if over.approval is not None:
        body["approval"] = _told(over.approval)
    return Response(orjson.dumps(body), 200, media_type="application/json")
