"""The envelope door: `POST /api/tools/call`, signed (RFC 9421).

Who calls is whose key has signed; `agent_id` is compared with that and never believed. `request_id` is the idempotency
key, and whatever needs an approval is the gateway's to make once it is approved (docs/envelope.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import orjson

from agentgate.core.call import Call, Door, Principal, SessionId, Tool, ToolName, is_id, is_tool_name
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.signature import NotSigned, SignatureKey
from agentgate.core.strict_json import canonical
from agentgate.edges import idempotency, sessions, tools
from agentgate.edges.caller import Caller, Callers, Keyring
from agentgate.edges.intake import Intake
from agentgate.edges.problem import PROBLEM_JSON, Problem
from agentgate.edges.schemas import ID_PATTERN
from agentgate.edges.wire import Receive, Request, parsed, require_json_type
from agentgate.pipeline.calls.gate import Gate
from agentgate.pipeline.calls.passage import Answer
from agentgate.pipeline.limits.refusals import RefusalLimiter
from agentgate.ports.identity import SignatureVerifier, SignedRequest
from agentgate.ports.notices import Meter

PATH: Final = "/api/tools/call"
APPROVAL_NEEDED: Final = "Human approval required"
MAX_VERSION_CHARS: Final = 64
_JSON: Final = (b"content-type", b"application/json")
_NEEDED: Final = ("agent_id", "agent_version", "request_id", "tool", "arguments")
_FIELDS: Final = frozenset({*_NEEDED, "session_id", "context"})
_OURS: Final = ("agent_version", "agent_id")
"""Members of the context that the gateway writes."""
_HOW: Final = {
    "WWW-Authenticate": 'Signature realm="agentgate"',
    "Accept-Signature": 'sig=("@method" "@target-uri" "content-digest" "content-type");created;keyid',
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What is configured of the door."""

    base_url: str | None = None
    """Where clients reach the gateway."""
    mode: Literal["signed", "optional"] | None = None
    """None: envelopes must be signed as soon as there is a key to sign with."""


class EnvelopeDoor:
    """Finds out whose a signed envelope is, passes the call through the gate, and says the answer in its own words."""

    def __init__(
        self,
        *,
        gate: Gate,
        tools: Mapping[str, Tool],
        callers: Callers,
        keyring: Keyring,
        verifier: SignatureVerifier | None,
        refusals: RefusalLimiter,
        intake: Intake,
        meter: Meter,
        rules: Rules,
    ) -> None:
        """Without a `verifier` there are no keys to sign with, and no signature counts."""
        self._gate = gate
        self._tools = tools
        self._callers = callers
        self._keyring = keyring
        self._verifier = verifier
        self._refusals = refusals
        self._intake = intake
        self._meter = meter
        self._rules = rules

    @property
    def _must_be_signed(self) -> bool:
        return self._rules.mode == "signed" or (self._rules.mode is None and self._keyring.has_signing_keys)

    async def call(self, request: Request, receive: Receive) -> tools.Response:
        """`POST /api/tools/call`."""
        require_json_type(request)
        if b"signature" in request.headers or b"signature-input" in request.headers:
            body = await self._intake.body(request, receive)
            caller = Caller(self._signer(request, body))
            await self._callers.agree(caller.principal, request.headers, request.client_host)
            self._turn_away(caller.principal)
        elif self._must_be_signed:
            raise self._not_signed(NotSigned(ReasonCode.SIGNATURE_INVALID, "there is none, and envelopes need one"))
        else:
            caller = await self._callers.caller(request.headers, request.client_host)
            self._turn_away(caller.principal)
            body = await self._intake.body(request, receive)
        try:
            call, refused = await self._intake.read(body, partial(self._parse, body, caller, request))
        except Problem:
            self._refusals.refused(caller.principal)
            raise
        answer = await self._gate.pass_through(call, refused)
        if answer.outcome is None:
            self._refusals.refused(caller.principal)
        return say(answer)

    def _turn_away(self, caller: Principal) -> None:
        if self._refusals.is_over(caller):
            raise tools.too_many_refusals()

    # --- whose it is ---

    def _signer(self, request: Request, body: bytes) -> Principal:
        """Raises Problem: 401."""
        if self._verifier is None:
            raise self._not_signed(NotSigned(ReasonCode.SIGNATURE_INVALID, "its key is not known"))
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]]
        signed = SignedRequest(request.scope["method"], self._url(request), fields, body)
        asked: list[Principal] = []

        def key_of(key_id: str) -> SignatureKey | None:
            known = self._keyring.signing(key_id)
            if known is None:
                return None
            asked.append(known.principal)
            return known.signature

        found = self._verifier.signer(signed, key_of)
        if isinstance(found, NotSigned):
            raise self._not_signed(found)
        (signer,) = [principal for principal in asked if principal.key_id == found]
        return signer

    def _url(self, request: Request) -> str:
        """As the client knows it. Behind a proxy that ends TLS only `server.base_url` says that it was https."""
        scope, host = request.scope, request.headers.get(b"host", b"").decode("latin-1")
        scheme = scope.get("scheme", "http")
        ours, _, rest = (self._rules.base_url or "").partition("://")
        if rest.partition("/")[0].lower() == host.lower():
            scheme = ours
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        query = scope.get("query_string", b"").decode("latin-1")
        return f"{scheme}://{host}{path}{'?' if query else ''}{query}"

    def _not_signed(self, why: NotSigned) -> Problem:
        self._meter.count("signatures_refused", why.reason.value)
        return Problem(401, why.reason, f"The signature does not count: {why.detail}", headers=_HOW)

    # --- what it says ---

    def _parse(self, raw: bytes, caller: Caller, request: Request) -> tuple[Call, Decision | None]:
        """The call, and why it is refused whatever policy says."""
        body = parsed(raw)
        _check(body)
        who, agent, tool = caller.principal, body["agent_id"], body["tool"]
        is_nameless = who.auth_method == "loopback"
        context = _context(body.get("context"))
        context |= {"agent_version": body["agent_version"], **({"agent_id": agent} if is_nameless else {})}
        session, refused = _session(body.get("session_id"), who)
        if not is_nameless and agent != who.name:
            refused = refusal(ReasonCode.FORBIDDEN, "agent_id is not whose key this is", "identity")
        call = Call(
            trace_id=self._intake.trace_id(),
            door=Door.ENVELOPE,
            caller=who,
            session=session,
            tool_name=ToolName(tool),
            tool=self._tools.get(tool),
            arguments=body["arguments"],
            context=context,
            bearer=caller.bearer,
            traceparent=request.traceparent,
            idempotency_key=_request_id(body["request_id"], request),
            deferred=True,
            digest_key=self._intake.digest_key,
        )
        return call, refused


def _check(body: Any) -> None:
    """Raises Problem where it is no envelope."""
    if not isinstance(body, dict):
        raise _invalid("the body must be an object")
    missing = [name for name in _NEEDED if name not in body]
    if missing:
        raise _invalid(f"{missing[0]} is missing")
    if not body.keys() <= _FIELDS:
        raise _invalid(f"unknown member {min(body.keys() - _FIELDS)[:64]!r}")
    agent, version, tool = body["agent_id"], body["agent_version"], body["tool"]
    if not isinstance(agent, str) or not is_id(agent):
        raise _invalid(f"agent_id must match {ID_PATTERN}")
    if not isinstance(version, str) or not (0 < len(version) <= MAX_VERSION_CHARS and version.isprintable()):
        raise _invalid(f"agent_version must be 1 to {MAX_VERSION_CHARS} printable characters")
    if not isinstance(tool, str) or not is_tool_name(tool):
        text = "tool must match ^[A-Za-z0-9_.-]{1,128}$ without '..'"
        raise Problem(422, ReasonCode.INVALID_TOOL_NAME, text, success=False)
    if not isinstance(body["arguments"], dict):
        raise _invalid("arguments must be an object")


def _context(given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, dict):
        raise _invalid("context must be an object")
    found = dict(given or {})
    if any(name in found for name in _OURS):
        raise _invalid("context must not have agent_id or agent_version: they are the envelope's own")
    return found


def _session(asked: Any, caller: Principal) -> tuple[SessionId, Decision | None]:
    if asked is None:
        return sessions.placed(caller.session, caller, Door.ENVELOPE)
    if not isinstance(asked, str) or not is_id(asked):
        raise _invalid(f"session_id must match {ID_PATTERN}")
    if caller.session is not None and asked != caller.session:
        raise Problem(403, ReasonCode.FOREIGN_SESSION, "The access token is for another session")
    return sessions.placed(asked, caller, Door.ENVELOPE)


def _request_id(given: Any, request: Request) -> str:
    key = idempotency.checked(given)
    if key is None:
        raise _invalid("request_id must be 1 to 255 visible ASCII characters")
    if idempotency.of_header(request.headers) not in (None, key):
        raise _invalid("Idempotency-Key is another one than request_id")
    return key


def _invalid(what: str) -> Problem:
    return Problem(422, ReasonCode.INVALID_REQUEST, what, success=False)


# --- answers ---


def say(answer: Answer) -> tools.Response:
    """`success`, `result`, `status`, `approval_id`, `error` and `audit_id`, with our `reason_code`."""
    headers = tools.limit_headers(answer)
    if answer.is_replayed:
        headers.append(tools.REPLAYED)
    edited = answer.edited
    if answer.success and answer.result_json is not None:
        body = b'{"success":true,"result":%s,"audit_id":"%s","reason_code":"ok"%s}' % (
            answer.result_json,
            answer.call.trace_id.encode(),
            b',"approval":%s' % canonical(tools.told_approval(edited)) if edited is not None else b"",
        )
        return 200, [_JSON, *headers], body
    told: dict[str, Any] = {
        "success": False,
        "status": "failed" if answer.outcome is not None else "denied",
        "error": answer.error,
        "audit_id": answer.call.trace_id,
        "reason_code": answer.reason_code.value,
    }
    pending = answer.approval
    if pending is not None:
        told |= {"status": "pending_approval", "approval_id": pending.id, "error": APPROVAL_NEEDED}
    if (shown := pending or edited) is not None:
        told["approval"] = tools.told_approval(shown)
    status = _status(answer)
    if status == 200:
        return 200, [_JSON, *headers], orjson.dumps(told)
    del told["status"]  # a problem document has its own
    problem = Problem(status, answer.reason_code, answer.error or "", **told)
    return status, [(b"content-type", PROBLEM_JSON), *headers, *tools.soon(status, answer)], problem.body()


def _status(answer: Answer) -> int:
    if answer.is_outage:
        return 503
    if answer.outcome is None and answer.reason_code is ReasonCode.FORBIDDEN:
        return 403
    return tools.STATUS.get(answer.reason_code, 200) if answer.outcome is None else 200
