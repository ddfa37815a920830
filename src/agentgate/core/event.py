"""The closed set of events, and the one byte form of each.

A *leaf* is what the Merkle tree commits to: RFC 8785 bytes that hold no arguments, results, context or free
text, only names, codes, digests and numbers. What people wrote or sent is in the *body*, which is kept
apart, redacted and prunable; the leaf binds it as SHA-256(salt ‖ body), so that a pruned body can be
neither guessed nor replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import orjson

from agentgate.core.amounts import Amounts
from agentgate.core.call import Call, Door, Principal
from agentgate.core.containment import Acknowledgement, Kill, Progress, Scope
from agentgate.core.decision import Decision
from agentgate.core.errors import ReasonCode
from agentgate.core.merkle import leaf_hash
from agentgate.core.strict_json import canonical_plain

LEAF_VERSION: Final = 1
MAX_LEAF_BYTES: Final = 65_535
"""The limit of a C2SP tlog-tiles entry (its length prefix has 16 bits)."""
SALT_BYTES: Final = 16
MAX_KEY_IDS: Final = 100
MAX_KEY_ID_CHARS: Final = 10_000
"""Of each way in which keys changed; their ids fit into a leaf, however long they are."""
_NOBODY_LEFT: Final = Progress((), (), ())


class Kind(StrEnum):
    """Everything that can happen. A reader that meets another kind must stop, not skip."""

    DECIDED = "decided"
    FINISHED = "finished"
    REFUSALS = "refusals"
    KILLED = "killed"
    RELEASED = "released"
    ACKED = "acked"
    DRAINED = "drained"
    JOINED = "joined"
    LEFT = "left"
    GONE = "gone"
    RELEASE_ASKED = "release_asked"
    APPROVAL_REQUESTED = "approval_requested"
    APPROVAL_DECIDED = "approval_decided"
    APPROVAL_CLOSED = "approval_closed"
    EXPORTED = "exported"
    POLICY = "policy"
    REPAIRED = "repaired"
    PRUNED = "pruned"
    HELD = "held"
    UNHELD = "unheld"
    KEYED = "keyed"
    KEYS_CHANGED = "keys_changed"
    TOOL_ACCEPTED = "tool_accepted"
    TOOL_QUARANTINED = "tool_quarantined"
    TOOL_REJECTED = "tool_rejected"
    ANSWERED = "answered"
    ANSWERS_CLOSED = "answers_closed"


class Outcome(StrEnum):
    """How an allowed call ended. `unknown`: it may have reached the upstream and nobody heard the answer."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"


@dataclass(slots=True)
class Origin:
    """Where an event comes from: the member that wrote it, and the member's own count of its events.

    Written to by nobody; not `frozen` because a frozen one takes a microsecond to make, four times a call.
    """

    id: str
    at: datetime
    member: str
    counter: int
    version: str
    salt: bytes


@dataclass(slots=True)
class Event:
    """One event, final: `leaf` is what is hashed. The other fields repeat what stores index by.

    Not `frozen` for the same reason as `Origin`; a change after `make` would not be in the leaf.
    """

    id: str
    at: str
    kind: Kind
    tenant: str
    session: str
    principal: str
    leaf: bytes
    salt: bytes
    body: bytes
    fields: Mapping[str, Any]
    """The leaf as a value; `log verify` compares it with the bytes."""
    projected: Mapping[str, Any] | None = None
    """What only a projection needs (sealed arguments); never in the leaf or the body."""

    @property
    def leaf_hash(self) -> bytes:
        return leaf_hash(self.leaf)


@dataclass(frozen=True, slots=True)
class Record:
    """An event as the log gives it back. `body` is None once it was pruned."""

    index: int
    session_number: int
    kill_position: int
    fields: Mapping[str, Any]
    leaf: bytes
    salt: bytes | None
    raw_body: bytes | None
    """The body's bytes, as the leaf binds them."""

    @property
    def body(self) -> Mapping[str, Any] | None:
        """The body as a value."""
        return None if self.raw_body is None else orjson.loads(self.raw_body)

    @property
    def kind(self) -> Kind:
        return Kind(self.fields["kind"])


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and a `Z`, always the same length so that it sorts as text."""
    utc = moment.astimezone(UTC)
    minute = _minute(utc.year, utc.month, utc.day, utc.hour, utc.minute)
    return f"{minute}:{utc.second:02d}.{utc.microsecond:06d}Z"


@lru_cache(maxsize=16)
def _minute(year: int, month: int, day: int, hour: int, minute: int) -> str:
    """Remembered, because every event asks for the same one."""
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}"


def body_sha256(salt: bytes, body: bytes) -> str:
    return hashlib.sha256(salt + body).hexdigest()


def make(
    origin: Origin,
    kind: Kind,
    fields: Mapping[str, Any],
    *,
    tenant: str = "",
    session: str = "",
    principal: str = "",
    body: bytes = b"{}",
    projected: Mapping[str, Any] | None = None,
) -> Event:
    """An event from its parts. `fields` has ASCII names and neither floats nor None."""
    at = rfc3339(origin.at)
    leaf = {
        "v": LEAF_VERSION,
        "id": origin.id,
        "at": at,
        "kind": str(kind),
        "member": origin.member,
        "counter": origin.counter,
        "version": origin.version,
        "body_sha256": body_sha256(origin.salt, body),
        **fields,
    }
    if tenant:
        leaf["tenant"] = tenant
    if session:
        leaf["session"] = session
    if principal:
        leaf["principal"] = principal
    raw = canonical_plain(leaf)
    if len(raw) > MAX_LEAF_BYTES:  # names are bounded, so only a fault of ours gets here
        raise ValueError(f"a leaf of {len(raw)} bytes")
    return Event(origin.id, at, kind, tenant, session, principal, raw, origin.salt, body, leaf, projected)


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
        "arguments_sha256": body_sha256(origin.salt, call.arguments_json),
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
            approval_id=decision.approval_id,
            approved_by=decision.approved_by,
            edited_from_sha256=decision.edited_from,
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
    """The outcome of an allowed call. `error` is redacted text; of `result` only a salted hash and the size remain.

    `labels` are the kinds of data that the session has touched by it.
    """
    fields: dict[str, Any] = {
        "outcome": str(outcome),
        "reason_code": str(reason),
        "result_sha256": body_sha256(origin.salt, result),
        "result_bytes": len(result),
        **_known(upstream_status=upstream_status, credential=credential, kill_id=kill_id),
    }
    if latency_us is not None:
        fields["latency_us"] = dict(latency_us)
    if labels:
        fields["labels"] = sorted(labels)
    if answer is not None:
        fields |= {"answer_key": answer.key, "call_sha256": answer.digest}
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
    return make(
        origin,
        Kind.FINISHED,
        fields,
        tenant=intent.fields["tenant"],
        session=intent.fields["session"],
        principal=intent.fields["principal"],
        body=canonical_plain({"error": why}),
    )


def killed(origin: Origin, kill: Kill, *, auth: str) -> Event:
    """A kill. Its number is assigned by the append that makes it durable."""
    fields = {"auth": auth}
    if kill.expires_at is not None:
        fields["expires_at"] = rfc3339(kill.expires_at)
    return _of_kill(origin, Kind.KILLED, kill, kill.actor, fields, canonical_plain({"reason": kill.reason}))


def _of_kill(
    origin: Origin, kind: Kind, kill: Kill, actor: str, fields: Mapping[str, Any], body: bytes = b"{}"
) -> Event:
    """In the session that the kill is of, if it is of one."""
    session = kill.target if kill.scope is Scope.SESSION else ""
    about = {"kill_id": kill.id, "scope": kill.scope.value, "target": kill.target}
    return make(origin, kind, {**about, **fields}, tenant=kill.tenant, session=session, principal=actor, body=body)


def released(
    origin: Origin, kill: Kill, *, actor: str, auth: str, why: str, forced: bool, asked_by: Sequence[str] = ()
) -> Event:
    """The end of a kill, by an admin or by its own expiry (`why` is `release` or `expiry`).

    `asked_by` names all who asked for it, where more than one person is needed.
    """
    fields: dict[str, Any] = {"auth": auth, "why": why, "forced": forced}
    if asked_by:
        fields["asked_by"] = list(asked_by)
    return _of_kill(origin, Kind.RELEASED, kill, actor, fields)


def acked(origin: Origin, ack: Acknowledgement) -> Event:
    return make(
        origin,
        Kind.ACKED,
        {
            "position": ack.position,
            "cancelled": ack.cancelled,
            "finished": ack.finished,
            "unknown": ack.unknown,
            "took_us": round(ack.took_ms * 1000),
        },
    )


def drained(
    origin: Origin, kill: Kill, *, position: int, members: Sequence[str], progress: Progress = _NOBODY_LEFT
) -> Event:
    """A kill's receipt: who was there, and who of them did not acknowledge it."""
    fields = {
        "position": position,
        "members": list(members),
        "drained": progress.drained,
        "excepted": list(progress.excepted),
        "attested": list(progress.attested),
    }
    return _of_kill(origin, Kind.DRAINED, kill, kill.actor, fields)


def gone(origin: Origin, member: str, *, why: str, actor: str = "", auth: str = "") -> Event:
    """`member` was not heard (`why` is `presumed`), or an admin attests that its host is destroyed (`attested`)."""
    fields = {"of": member, "why": why}
    if auth:
        fields["auth"] = auth
    return make(origin, Kind.GONE, fields, principal=actor)


def release_asked(origin: Origin, kill: Kill, *, actor: str, auth: str) -> Event:
    """One person's wish to release a kill, where more than one is needed (K6)."""
    return _of_kill(origin, Kind.RELEASE_ASKED, kill, actor, {"auth": auth})


def exported(origin: Origin, *, actor: str, tenant: str, form: str, what: Mapping[str, str]) -> Event:
    """Evidence was taken. `what` says of what: `of_session`, `of_agent`, `since`, `until`, where they apply."""
    return make(origin, Kind.EXPORTED, {"format": form, **what}, tenant=tenant, principal=actor)


def pruned(origin: Origin, *, actor: str, tenant: str, session: str, why: str, bodies: int, through: int) -> Event:
    """The bodies of a session's events up to index `through` are given up; their leaves and proofs stay.

    `why` is `retention` (its time was over) or `forced` (an admin shortened it); `bodies` counts what went. The event
    is in the session, so that the session's own pack says what is not there any more.
    """
    fields = {"why": why, "bodies": bodies, "through": through}
    return make(origin, Kind.PRUNED, fields, tenant=tenant, session=session, principal=actor)


def held(origin: Origin, *, hold_id: str, actor: str, auth: str, tenant: str, session: str, reason: str) -> Event:
    """A legal hold: nothing of `session` (empty: of the whole tenant; both empty: of anybody) is pruned."""
    fields = {"hold_id": hold_id, "of_session": session, "auth": auth}
    body = canonical_plain({"reason": reason})
    return make(origin, Kind.HELD, fields, tenant=tenant, principal=actor, body=body)


def unheld(
    origin: Origin, *, hold_id: str, actor: str, auth: str, tenant: str, session: str, reason: str = ""
) -> Event:
    """The end of a legal hold."""
    fields = {"hold_id": hold_id, "of_session": session, "auth": auth}
    body = canonical_plain({"reason": reason}) if reason else b"{}"
    return make(origin, Kind.UNHELD, fields, tenant=tenant, principal=actor, body=body)


def keyed(origin: Origin, *, use: str, algorithm: str, key_id: str, public: str) -> Event:
    """A signing key was taken into use: for `checkpoints` or for `envelopes`. `public` is its vkey or base64 SPKI."""
    return make(origin, Kind.KEYED, {"use": use, "algorithm": algorithm, "key_id": key_id, "public": public})


def keys_changed(origin: Origin, ids: Mapping[str, Sequence[str]], change: str) -> Event:
    """A running gateway took over a changed key file. `ids` are the keys that were `added`, `removed`, `disabled`,
    `enabled`, or `altered` otherwise; `counts` says how many, for not all may be named. `change` is the same for all
    processes that took over the same change of the same file: the first of them tells it."""
    fields: dict[str, Any] = {how: _some(found) for how, found in ids.items()}
    counts = {how: len(found) for how, found in ids.items()}
    return make(origin, Kind.KEYS_CHANGED, fields | {"counts": counts, "change": change})


def _some(ids: Sequence[str]) -> list[str]:
    """As many of the first as a leaf has room for."""
    room, some = MAX_KEY_ID_CHARS, list[str]()
    for one in ids[:MAX_KEY_IDS]:
        room -= len(one)
        if room < 0:
            break
        some.append(one)
    return some


@dataclass(frozen=True, slots=True)
class OfTool:
    """Which tool of which server an event is about, and the name under which it is offered here."""

    server: str
    tool: str
    name: str

    @property
    def fields(self) -> dict[str, Any]:
        return {"server": self.server, "of_tool": self.tool, "tool": self.name}


def tool_accepted(
    origin: Origin, of: OfTool, *, pin: str, access: str, trust: str, subject: bytes, actor: str = "", auth: str = ""
) -> Event:
    """A server's tool may be offered as `subject` (canonical JSON, see `core.pin`) describes it; `pin` is its SHA-256.

    `trust` says who took that on: an `operator` who has seen it, or the setting `first_use`. The body is not redacted:
    it must be restored to the byte, and nobody's call put anything into it.
    """
    fields = of.fields | {"pin": pin, "access": access, "trust": trust}
    if auth:
        fields["auth"] = auth
    return make(origin, Kind.TOOL_ACCEPTED, fields, principal=actor, body=b'{"subject":%s}' % subject)


def tool_quarantined(
    origin: Origin, of: OfTool, *, pin: str, found: str, accepted: int, subject: bytes, changes: Sequence[str]
) -> Event:
    """An accepted tool (by the event at index `accepted`) is described otherwise now, and may not be called.

    `found` is the pin of what it is now; of what has none, the word of `core.pin.Unpinned` that stands for it.
    `subject` is `null` where there is none to keep.
    """
    fields = of.fields | {"pin": pin, "found": found, "accepted": accepted}
    body = b'{"changes":%s,"subject":%s}' % (orjson.dumps(list(changes)), subject)
    return make(origin, Kind.TOOL_QUARANTINED, fields, body=body)


def tool_rejected(origin: Origin, of: OfTool, *, found: str, subject: bytes, actor: str, auth: str) -> Event:
    """An operator does not want a tool, as it was found or at all."""
    fields = of.fields | {"found": found, "auth": auth}
    return make(origin, Kind.TOOL_REJECTED, fields, principal=actor, body=b'{"subject":%s}' % subject)


def answered(origin: Origin, caller: Principal, row: Mapping[str, Any], door: Door) -> Event:
    """A kept answer was handed out again, or fetched. `row` is its row of `answers`."""
    fields = {name: row[name] for name in ("trace_id", "tool")} | {"answer_key": row["key"], "door": str(door)}
    fields["auth"] = caller.auth_method
    return make(origin, Kind.ANSWERED, fields, tenant=caller.tenant, session=row["session"], principal=caller.id)


def answers_closed(origin: Origin, through: int) -> Event:
    """The answers of calls that ended up to index `through` are not kept any more; their keys stay used."""
    return make(origin, Kind.ANSWERS_CLOSED, {"through": through})
