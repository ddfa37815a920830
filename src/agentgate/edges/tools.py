"""The REST door: `POST /tools/call` and `GET /tools/list` (DESIGN §6), with v0.2's fields.

Called on every tool call, so it is a plain ASGI route; `openapi.py` documents it beside the framework's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import orjson

from agentgate.core.call import Call, Door, Principal, Tool, ToolName, is_id, is_tool_name
from agentgate.core.decision import Decision
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.strict_json import canonical
from agentgate.edges import idempotency, prefer, sessions
from agentgate.edges.caller import Callers
from agentgate.edges.intake import Intake
from agentgate.edges.problem import PROBLEM_JSON, Problem
from agentgate.edges.schemas import ID_PATTERN
from agentgate.edges.wire import Receive, Request, parsed, require_json_type, until_gone
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.calls.gate import Gate
from agentgate.pipeline.calls.passage import Answer, PendingApproval
from agentgate.pipeline.limits.refusals import TOO_MANY, RefusalLimiter
from agentgate.pipeline.policy.desk import PolicyDesk

_JSON: Final = (b"content-type", b"application/json")
_FIELDS: Final = frozenset({"session_id", "tool_name", "arguments", "context", "approval_token"})
_MAX_TOKEN_CHARS: Final = 512

Response = tuple[int, list[tuple[bytes, bytes]], bytes]


class ToolsDoor:
    """Parses a call, passes it through the gate, and says the answer in v0.2's words."""

    def __init__(
        self,
        *,
        gate: Gate,
        tools: Mapping[str, Tool],
        callers: Callers,
        policy: PolicyDesk,
        approvals: ApprovalDesk,
        refusals: RefusalLimiter,
        intake: Intake,
    ) -> None:
        self._gate = gate
        self._tools = tools
        self._callers = callers
        self._policy = policy
        self._approvals = approvals
        self._refusals = refusals
        self._intake = intake

    async def call(self, request: Request, receive: Receive) -> Response:
        """`POST /tools/call`."""
        caller, bearer = await self._callers.caller(request.headers, request.client_host)
        if self._refusals.is_over(caller):
            raise too_many_refusals()
        require_json_type(request)
        body = await self._intake.body(request, receive)
        try:
            call, foreign = await self._intake.read(body, partial(self._parse, body, caller, request, bearer))
        except Problem:
            self._refusals.refused(caller)
            raise
        answer = await self._gate.pass_through(call, foreign)
        wait_s = prefer.read(request.headers).wait_s
        applied: list[tuple[bytes, bytes]] = []
        if wait_s is not None and answer.approval is not None and not call.deferred:
            answer = await self._waited(request, receive, call, answer, wait_s)
            applied = [(b"preference-applied", b"wait=%d" % wait_s)]
        if answer.outcome is None:
            self._refusals.refused(caller)
        status, headers, said = say(answer)
        if call.deferred and answer.approval is not None and answer.approval.executes:
            return 202, [*headers, *applied, *_later(answer.approval)], said
        return status, [*headers, *applied], said

    async def _waited(self, request: Request, receive: Receive, call: Call, answer: Answer, wait_s: float) -> Answer:
        """The answer once a person has answered or a kill has come; the pending one when the time is over before, or
        the client has gone away: the yes is for who asks again. Raises Problem: its key or token is no good any more.
        """
        time = asyncio.get_running_loop().time
        until = time() + wait_s
        gone = asyncio.create_task(until_gone(receive))
        try:
            while answer.approval is not None and (left := until - time()) > 0:
                if not await self._answered(call, answer.approval.id, left, gone):
                    break
                await self._callers.caller(request.headers, request.client_host)
                withdrawn = await self._approvals.withdrawn(call, answer.approval.id)
                answer = await self._gate.pass_through(call.under(self._intake.trace_id()), withdrawn)
        finally:
            gone.cancel()
        return answer

    async def _answered(self, call: Call, approval_id: str, within_s: float, gone: asyncio.Task[None]) -> bool:
        """Whether there is more to say than that it is pending, and somebody to say it to."""
        answered = asyncio.create_task(self._approvals.answered(call, approval_id, within_s))
        try:
            await asyncio.wait({answered, gone}, return_when=asyncio.FIRST_COMPLETED)
            return not gone.done() and await answered
        except LogUnavailable:  # the gate says so, if it is so still
            return True
        finally:
            if not answered.cancel() and not answered.cancelled():
                answered.exception()  # of one whose client has gone nobody asks

    def _parse(
        self, raw: bytes, caller: Principal, request: Request, bearer: str | None
    ) -> tuple[Call, Decision | None]:
        """The call, and why it is refused whatever policy says."""
        body = parsed(raw)
        _check(body, caller)
        session, foreign = sessions.placed(body["session_id"], caller, Door.MCP)
        call = Call(
            trace_id=self._intake.trace_id(),
            door=Door.REST,
            caller=caller,
            session=session,
            tool_name=ToolName(body["tool_name"]),
            tool=self._tools.get(body["tool_name"]),
            arguments=body["arguments"],
            context=body.get("context") or {},
            approval_token=body.get("approval_token"),
            bearer=bearer,
            traceparent=request.traceparent,
            idempotency_key=idempotency.of_header(request.headers),
            deferred=prefer.read(request.headers).respond_async,
            digest_key=self._intake.digest_key,
        )
        return call, foreign

    async def list(self, request: Request, receive: Receive) -> Response:
        """`GET /tools/list`: what this caller may call without approval and that is not killed."""
        caller = await self._callers.agent(request.headers, request.client_host)
        names = await self._policy.tools_for(caller)
        if names is None:
            raise Problem(503, ReasonCode.POLICY_UNAVAILABLE, "Policy engine unavailable", headers={"Retry-After": "1"})
        return 200, [_JSON], orjson.dumps({"tools": names})


def _check(body: Any, caller: Principal) -> None:
    """Raises Problem where it is no call that this caller can make."""
    if not isinstance(body, dict):
        raise _invalid("the body must be an object")
    session, tool_name = body.get("session_id"), body.get("tool_name")
    if not isinstance(session, str) or not is_id(session):
        raise _invalid(f"session_id must match {ID_PATTERN}")
    if caller.session is not None and session != caller.session:
        raise Problem(403, ReasonCode.FOREIGN_SESSION, "The access token is for another session")
    if not isinstance(tool_name, str) or not is_tool_name(tool_name):
        raise Problem(
            422,
            ReasonCode.INVALID_TOOL_NAME,
            "tool_name must match ^[A-Za-z0-9_.-]{1,128}$ without '..'",
            error="Policy denied: Invalid tool name",
            success=False,
        )
    context, token = body.get("context"), body.get("approval_token")
    if not isinstance(body.get("arguments"), dict):
        raise _invalid("arguments must be an object")
    if context is not None and not isinstance(context, dict):
        raise _invalid("context must be an object")
    if token is not None and not (isinstance(token, str) and 0 < len(token) <= _MAX_TOKEN_CHARS):
        raise _invalid(f"approval_token must be text of at most {_MAX_TOKEN_CHARS} characters")
    if not body.keys() <= _FIELDS:
        raise _invalid(f"unknown member {min(body.keys() - _FIELDS)[:64]!r}")


def too_many_refusals() -> Problem:
    return Problem(429, ReasonCode.TOO_MANY_REFUSALS, TOO_MANY, headers={"Retry-After": "1"})


def _invalid(what: str) -> Problem:
    return Problem(
        422,
        ReasonCode.INVALID_REQUEST,
        what,
        error="Invalid request",
        message="Request validation failed.",
        hint="POST /tools/call takes session_id, tool_name, arguments, context?, approval_token?; see /docs",
    )


def say(answer: Answer) -> Response:
    """v0.2's four members, then ours; an outage is a problem document with the same members."""
    headers = limit_headers(answer)
    if answer.is_replayed:
        headers.append(REPLAYED)
    if answer.success and answer.result_json is not None:
        # the result is canonical JSON already: it is not parsed and written a second time
        body = b'{"success":true,"result":%s,"error":null,"trace_id":"%s","decision":"ALLOW","reason_code":"ok"%s}' % (
            answer.result_json,
            answer.call.trace_id.encode(),
            b',"approval":%s' % canonical(told_approval(answer.edited)) if answer.edited is not None else b"",
        )
        return 200, [_JSON, *headers], body
    members: dict[str, Any] = {
        "success": False,
        "result": None,
        "error": answer.error,
        "trace_id": answer.call.trace_id,
        "decision": answer.decision.verdict.value,
        "reason_code": answer.reason_code.value,
    }
    if answer.approval is not None:
        members["approval"] = told_approval(answer.approval)
        members["context"] = _access_request(answer)
    elif answer.edited is not None:
        members["approval"] = told_approval(answer.edited)
    status = STATUS.get(answer.reason_code) if answer.outcome is None else None
    if status is None and answer.is_outage:
        status = 503
    if status is None:
        return 200, [_JSON, *headers], orjson.dumps(members)
    problem = Problem(status, answer.reason_code, answer.error or "", **members)
    return status, [(b"content-type", PROBLEM_JSON), *soon(status, answer), *headers], problem.body()


def soon(status: int, answer: Answer) -> list[tuple[bytes, bytes]]:
    """Whether it is worth asking again at once."""
    is_worth_it = status in (429, 503) or answer.reason_code is ReasonCode.IDEMPOTENCY_IN_PROGRESS
    return [(b"retry-after", b"1")] if is_worth_it else []


STATUS: Final[dict[ReasonCode, int]] = {
    ReasonCode.IDEMPOTENCY_MISMATCH: 422,
    ReasonCode.IDEMPOTENCY_IN_PROGRESS: 409,
    ReasonCode.IDEMPOTENCY_FORGOTTEN: 409,
    ReasonCode.TOO_MANY_REFUSALS: 429,
}
REPLAYED: Final = (b"idempotency-replayed", b"true")


def _later(approval: PendingApproval) -> list[tuple[bytes, bytes]]:
    """Where the answer of a deferred call will be (RFC 7240 §4.1)."""
    return [
        (b"location", b"/calls/%s" % approval.trace_id.encode()),
        (b"preference-applied", b"respond-async"),
        (b"retry-after", b"2"),
    ]


def told_approval(approval: PendingApproval) -> dict[str, Any]:
    """What a caller hears of an approval."""
    told: dict[str, Any] = {
        "id": approval.id,
        "state": approval.state,
        "expires_at": approval.expires_at,
        "quorum": approval.quorum,
        "votes": approval.votes,
        "url": f"/approvals/{approval.id}",
    }
    if approval.arguments is not None:
        told |= {"edited": True, "arguments": approval.arguments}
    return told


def _access_request(answer: Answer) -> dict[str, Any]:
    """The same as a requestable deny of AuthZEN says it (draft "Access Request and Approval" 1.0 of the OpenID
    AuthZEN working group: `context.reason`, `context.evaluation_id`, `context.access_request`). Its rule that an
    approval never becomes an allow without being evaluated again is ours as well.
    """
    if answer.approval is None:
        return {}
    return {
        "reason": "approval_required",
        "evaluation_id": answer.call.trace_id,
        "access_request": {
            "id": answer.approval.id,
            "endpoint": f"/approvals/{answer.approval.id}",
            "expires_at": answer.approval.expires_at,
        },
    }


def limit_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    """Of the limit that has least left, and when a refused call can be made."""
    headers: list[tuple[bytes, bytes]] = []
    if (limit := answer.limit) is not None:
        headers = [
            (b"x-ratelimit-limit", b"%d" % limit.limit),
            (b"x-ratelimit-remaining", b"%d" % limit.remaining),
            (b"x-ratelimit-reset", b"%d" % limit.reset_at),
        ]
    if answer.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % answer.retry_after_s))
    return headers
