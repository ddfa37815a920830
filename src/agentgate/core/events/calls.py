"""Events of calls: what was decided, how each ended, and the answers that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgate.core.amounts import Amounts
from agentgate.core.call import Call, Door, Principal
from agentgate.core.decision import Decision
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Event, Kind, Origin, Outcome, Record, make
from agentgate.core.keyed import keyed_sha256
from agentgate.core.strict_json import canonical_plain


def _of_call(
    origin: Origin,
    kind: Kind,
    call: Call,
    fields: Mapping[str, Any],
    body: bytes,
    projected: Mapping[str, Any] | None = None,
) -> Event:
    """With the fields that every event of a call repeats."""
    about: dict[str, Any] = {"trace_id": call.trace_id, "door": str(call.door), "tool": call.tool_name}
    if call.tool is not None:
        about["server"] = call.tool.upstream
        about["tool_sha256"] = call.tool.definition_sha256
    if call.traceparent is not None:
        about["traceparent"] = call.traceparent
    of, by = call.session, call.caller.id
    return make(
        origin, kind, {**about, **fields}, tenant=call.tenant, session=of, principal=by, body=body, projected=projected
    )


def _known(**fields: Any) -> dict[str, Any]:
    """Those that are not None: a leaf has no null."""
    return {name: value for name, value in fields.items() if value is not None}


def decided(
    origin: Origin,
    call: Call,
    decision: Decision,
    *,
    position: int,
    arguments: bytes,
    context: bytes,
    latency_us: Mapping[str, int],
    charge: Amounts | None = None,
    limit: int | None = None,
) -> Event:
    """A decision on a call. `arguments` and `context` are redacted JSON bytes for the body.

    `position` is the kill position that admission knew; the receipt's may be newer. `charge` is what budgets count of
    the call; None where there are none. `limit` is the rate limit that refused it.
    """
    fields = _verdict(decision) | {
        "auth": call.caller.auth_method,
        "call_sha256": call.digest,
        "arguments_sha256": keyed_sha256(call.digest_key, origin.salt + call.arguments_json),
        "position": position,
        "latency_us": dict(latency_us),
        **_known(on_behalf_of=call.caller.on_behalf_of, limit=limit),
    }
    if charge is not None:
        fields |= {"arguments_bytes": charge.bytes, "cost_micros": charge.cost}
    if decision.allowed and (key := call.answer_key) is not None:
        fields["answer_key"] = key
        if call.idempotency_key is not None:
            fields["idempotency_sha256"] = key
    body = b'{"arguments":%s,"context":%s,"reason":%s}' % (arguments, context, canonical_plain(decision.reason))
    return _of_call(origin, Kind.DECIDED, call, fields, body)


def _verdict(decision: Decision) -> dict[str, Any]:
    return {
        "decision": str(decision.verdict),
        "reason_code": str(decision.reason_code),
        "rule": decision.matched_rule[:128],
        "policy_revision": decision.policy_revision[:128],
        "write": decision.is_write_action,
        **_known(
            approval_id=decision.approval_id, approved_by=decision.approved_by, edited_from_sha256=decision.edited_from
        ),
    }


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a call was answered, for who asks again."""

    key: str
    digest: str
    """Of the call as it was asked for."""
    sealed: bytes | None
    """None: it could not be sealed, or is too large."""


def finished(  # noqa: PLR0913  # what an outcome consists of
    origin: Origin,
    call: Call,
    outcome: Outcome,
    reason: ReasonCode,
    *,
    error: str = "",
    answer: KeptAnswer | None = None,
    result: bytes = b"",
    upstream_status: int | None = None,
    credential: str | None = None,
    kill_id: str | None = None,
    latency_us: Mapping[str, int] | None = None,
    labels: Sequence[str] = (),
) -> Event:
    """The outcome of an allowed call. `error` is redacted text; of `result` only a keyed hash and the size remain.

    `labels` are the kinds of data that the session has touched by it.
    """
    fields: dict[str, Any] = {
        "outcome": str(outcome),
        "reason_code": str(reason),
        "result_sha256": keyed_sha256(call.digest_key, origin.salt + result),
        "result_bytes": len(result),
        **_known(upstream_status=upstream_status, credential=credential, kill_id=kill_id),
    }
    if latency_us is not None:
        fields["latency_us"] = dict(latency_us)
    if labels:
        fields["labels"] = sorted(labels)
    if answer is not None:
        fields |= {"answer_key": answer.key, "call_sha256": answer.digest}
        fields |= _known(on_behalf_of=call.caller.on_behalf_of)  # what was answered for one user is not for another
    body = canonical_plain({"error": error}) if error else b"{}"
    projected = {"answer": answer.sealed} if answer is not None else None
    return _of_call(origin, Kind.FINISHED, call, fields, body, projected)


def closed(origin: Origin, intent: Record, outcome: Outcome, why: str) -> Event:
    """The outcome of a recorded ALLOW, written by somebody else than the call itself.

    `unknown` when the process died with it; `not_sent` when its append only seemed to fail. `of` names the member whose
    call it was: of those who find it open at the same time, the log lets one close it. Whoever asks again for the
    answer of such a call is told this outcome.
    """
    kept = ("trace_id", "door", "tool", "server", "tool_sha256", "traceparent")
    fields = {name: intent.fields[name] for name in kept if name in intent.fields}
    fields |= {
        "outcome": str(outcome),
        "reason_code": ReasonCode.OUTCOME_UNRECORDED.value,
        "of": intent.fields["member"],
    }
    if (key := intent.fields.get("answer_key")) is not None:
        digest = intent.fields.get("edited_from_sha256", intent.fields["call_sha256"])
        fields |= {"answer_key": key, "call_sha256": digest}
        fields |= _known(on_behalf_of=intent.fields.get("on_behalf_of"))
    return make(
        origin,
        Kind.FINISHED,
        fields,
        tenant=intent.fields["tenant"],
        session=intent.fields["session"],
        principal=intent.fields["principal"],
        body=canonical_plain({"error": why}),
    )


def answered(origin: Origin, caller: Principal, row: Mapping[str, Any], door: Door) -> Event:
    """A kept answer was handed out again, or fetched. `row` is its row of `answers`."""
    fields = {name: row[name] for name in ("trace_id", "tool")} | {"answer_key": row["key"], "door": str(door)}
    fields["auth"] = caller.auth_method
    return make(origin, Kind.ANSWERED, fields, tenant=caller.tenant, session=row["session"], principal=caller.id)


def answers_closed(origin: Origin, through: int) -> Event:
    """The answers of calls that ended up to index `through` are not kept any more; their keys stay used."""
    return make(origin, Kind.ANSWERS_CLOSED, {"through": through})
