"""The REST door: `POST /tools/call` and `GET /tools/list` (DESIGN §6), with v0.2's fields.

Called on every tool call, so it is a plain ASGI route; `openapi.py` documents it beside the framework's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from agentgate.core.call import Call, Door, Principal, SessionId, Tool, ToolName, is_id, is_tool_name
from agentgate.core.errors import ReasonCode
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.edges.caller import Callers
from agentgate.edges.problem import PROBLEM_JSON, Problem
from agentgate.edges.wire import Receive, Request, malformed, read_body, require_json_type
from agentgate.pipeline.gate import Answer, Gate
from agentgate.pipeline.policy import PolicyDesk
from agentgate.pipeline.record import new_trace_id
from agentgate.pipeline.refusals import RefusalLimiter
from agentgate.ports.ambient import Entropy
from agentgate.ports.containment import LimitState

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
        refusals: RefusalLimiter,
        entropy: Entropy,
        max_body_bytes: int,
    ) -> None:
        self._gate = gate
        self._tools = tools
        self._callers = callers
        self._policy = policy
        self._refusals = refusals
        self._entropy = entropy
        self._max_body_bytes = max_body_bytes

    async def call(self, request: Request, receive: Receive) -> Response:
        """`POST /tools/call`."""
        caller = await self._callers.agent(request.headers, request.client_host)
        if self._refusals.is_over(caller):
            raise Problem(
                429,
                ReasonCode.TOO_MANY_REFUSALS,
                "Too many refused calls in this second; stop repeating them",
                headers={"Retry-After": "1"},
            )
        require_json_type(request)
        body = await read_body(request, receive, self._max_body_bytes)
        try:
            call = self._parse(body, caller, request.traceparent)
        except NotStrictJson as error:
            self._refusals.refused(caller)
            raise malformed(error) from None
        except Problem:
            self._refusals.refused(caller)
            raise
        answer = await self._gate.pass_through(call)
        if answer.outcome is None:
            self._refusals.refused(caller)
        return _say(answer)

    def _parse(self, raw: bytes, caller: Principal, traceparent: str | None) -> Call:
        body = parse(raw)
        if not isinstance(body, dict):
            raise _invalid("the body must be an object")
        session, tool_name = body.get("session_id"), body.get("tool_name")
        if not isinstance(session, str) or not is_id(session):
            raise _invalid("session_id must match ^[A-Za-z0-9][A-Za-z0-9._:@-]{0,255}$")
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
        arguments, context, token = body.get("arguments"), body.get("context"), body.get("approval_token")
        if not isinstance(arguments, dict):
            raise _invalid("arguments must be an object")
        if context is not None and not isinstance(context, dict):
            raise _invalid("context must be an object")
        if token is not None and not (isinstance(token, str) and 0 < len(token) <= _MAX_TOKEN_CHARS):
            raise _invalid(f"approval_token must be text of at most {_MAX_TOKEN_CHARS} characters")
        if not body.keys() <= _FIELDS:
            strange = min(body.keys() - _FIELDS)
            raise _invalid(f"unknown member {strange[:64]!r}")
        return Call(
            trace_id=new_trace_id(self._entropy),
            door=Door.REST,
            caller=caller,
            session=SessionId(session),
            tool_name=ToolName(tool_name),
            tool=self._tools.get(tool_name),
            arguments=arguments,
            context=context or {},
            approval_token=token,
            traceparent=traceparent,
        )

    async def list(self, request: Request, receive: Receive) -> Response:
        """`GET /tools/list`: what this caller may call without approval and that is not killed."""
        caller = await self._callers.agent(request.headers, request.client_host)
        names = await self._policy.tools_for(caller)
        if names is None:
            raise Problem(503, ReasonCode.POLICY_UNAVAILABLE, "Policy engine unavailable", headers={"Retry-After": "1"})
        return 200, [_JSON], orjson.dumps({"tools": names})


def _invalid(what: str) -> Problem:
    return Problem(
        422,
        ReasonCode.INVALID_REQUEST,
        what,
        error="Invalid request",
        message="Request validation failed.",
        hint="POST /tools/call takes session_id, tool_name, arguments, context?, approval_token?; see /docs",
    )


def _say(answer: Answer) -> Response:
    """v0.2's four members, then ours; an outage is a problem document with the same members."""
    headers = [*_limit_headers(answer.limit)]
    if answer.success and answer.result_json is not None:
        # the result is canonical JSON already: it is not parsed and written a second time
        body = b'{"success":true,"result":%s,"error":null,"trace_id":"%s","decision":"ALLOW","reason_code":"ok"}' % (
            answer.result_json,
            answer.call.trace_id.encode(),
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
        members["approval"] = {
            "id": answer.approval.id,
            "state": answer.approval.state,
            "expires_at": answer.approval.expires_at,
            "url": f"/approvals/{answer.approval.id}",
        }
    if answer.is_outage:
        problem = Problem(503, answer.reason_code, answer.error or "", **members)
        return 503, [(b"content-type", PROBLEM_JSON), (b"retry-after", b"1"), *headers], problem.body()
    return 200, [_JSON, *headers], orjson.dumps(members)


def _limit_headers(limit: LimitState | None) -> list[tuple[bytes, bytes]]:
    if limit is None:
        return []
    return [
        (b"x-ratelimit-limit", b"%d" % limit.limit),
        (b"x-ratelimit-remaining", b"%d" % limit.remaining),
        (b"x-ratelimit-reset", b"%d" % limit.reset_at),
    ]
