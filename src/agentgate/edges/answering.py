"""`POST /approve`: a person answers a call, and hears what became of it in the envelope's words (docs/envelope.md)."""

from __future__ import annotations

from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from agentgate.core.approval import Approval, State
from agentgate.core.errors import ReasonCode, Refused
from agentgate.edges.desks import Approver, TheDesks, refused
from agentgate.edges.envelope import APPROVAL_NEEDED, say
from agentgate.edges.problem import Problem
from agentgate.edges.schemas import Responses, answers
from agentgate.pipeline.approvals.desk import MAX_REASON_CHARS
from agentgate.pipeline.calls.answering import AnswerDesk, Denied, Incomplete
from agentgate.pipeline.calls.fates import Elsewhere, Over, Underway
from agentgate.pipeline.calls.passage import Answer

router = APIRouter(tags=["envelope"])

LOOK_AGAIN_S: Final = 2


class ApproveBody(BaseModel):
    """A person's answer."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"approval_id": "apr-3f9c0a51d2b94e6688aa17c4", "approved": True}]},
    )
    approval_id: str = Field(max_length=64)
    approved: bool
    reason: str = Field("", max_length=MAX_REASON_CHARS)


_RESPONSES: Final[Responses] = {
    200: answers("What became of the call, in the envelope's words; or that it is denied", "EnvelopeResponse"),
    202: answers("More persons must say yes, or the call is running", "EnvelopeResponse"),
    403: {"description": "Not a person who may answer this one: the requester and whom it acts for never may"},
    404: {"description": "No such approval in your tenant"},
    409: {"description": "It is answered otherwise, void or expired; its caller makes the call; or its answer is gone"},
    429: {"description": "The call was refused, with too many others of its caller in this second"},
    503: {"description": "Log or kill state unavailable"},
}


@router.post("/approve", operation_id="answer_call", response_class=Response, responses=_RESPONSES)
async def approve(desks: TheDesks, approver: Approver, body: ApproveBody) -> Response:
    """Say yes or no, and hear what became of the call: the yes that completes the quorum has the gateway make it.

    The same again is answered the same, and runs nothing twice.
    """
    desk = AnswerDesk(desks.approvals, desks.deferred)
    found = await desk.answer(approver, body.approval_id, approved=body.approved, reason=body.reason)
    match found:
        case Refused():
            raise refused(found)
        case Denied():
            return _told(200, found.approval, "denied", "Approval denied", ReasonCode.APPROVAL_DENIED)
        case Incomplete():
            text = f"{APPROVAL_NEEDED}: {found.approval.votes} of {found.approval.quorum} have said yes"
            return _told(202, found.approval, "pending_approval", text, ReasonCode.APPROVAL_REQUIRED)
        case Underway():
            return _told(202, found.approval, "running", "The call is running", ReasonCode.APPROVAL_SPENT)
        case Over():
            raise Problem(409, found.reason, found.detail, success=False, audit_id=found.trace_id)
        case Elsewhere():
            text = "The caller has made the call itself; its answer is not kept"
            raise Problem(409, ReasonCode.APPROVAL_SPENT, text, success=False, audit_id=found.trace_id)
        case Answer():
            status, fields, content = say(found)
            response = Response(content, status)
            response.raw_headers += fields
            return response


def _told(status: int, approval: Approval, word: str, error: str, reason: ReasonCode) -> Response:
    told: dict[str, Any] = {
        "success": False,
        "status": word,
        "approval_id": approval.id,
        "error": error,
        "audit_id": approval.trace_id,
        "reason_code": reason.value,
    }
    if approval.state is State.PENDING:
        told |= {"quorum": approval.quorum, "votes": approval.votes}
    headers = {"Retry-After": str(LOOK_AGAIN_S)} if word == "running" else {}
    return Response(orjson.dumps(told), status, headers, "application/json")
