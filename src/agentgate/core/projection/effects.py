"""What must be looked up fast, derived from the events and from nothing else.

A log applies these changes in the transaction that appends the event; `log verify` derives them again from the
first event on and compares. So a derived table can be lost or altered, but not without being noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from agentgate.core.event import Kind
from agentgate.core.projection.spendings import spendings
from agentgate.core.projection.tables import Change, Drop, Effect, Put, Row
from agentgate.core.strict_json import canonical, canonical_plain

WITHOUT_EFFECT: Final = frozenset({Kind.REFUSALS, Kind.EXPORTED, Kind.POLICY, Kind.REPAIRED, Kind.KEYED, Kind.ANSWERED})
"""Kinds that no table is derived from."""


def effects(
    fields: Mapping[str, Any], index: int, position: int, body: bytes | None, projected: Mapping[str, Any] | None = None
) -> Iterator[Effect]:
    """The changes of one event, in order. `body` is None once it was pruned."""
    for kind, key in spendings(fields):
        yield Put("spent", {"kind": kind, "key": key, "idx": index})
    match fields["kind"]:
        case Kind.DECIDED:
            yield from _decided(fields, index)
        case Kind.KILLED:
            yield _killed(fields, index, position, body)
        case Kind.RELEASED:
            yield Change("kills", (fields["kill_id"],), {"released_position": position})
        case Kind.DRAINED:
            receipt: Row = {"receipt": fields["id"]}
            if fields["drained"]:  # another member's late `except` does not take this back
                receipt["drained"] = 1
            yield Change("kills", (fields["kill_id"],), receipt)
        case Kind.ACKED:
            names = ("member", "position", "cancelled", "finished", "unknown", "took_us", "at")
            yield Put("acks", {name: fields[name] for name in names} | {"idx": index})
        case Kind.RELEASE_ASKED:
            asked: Row = {"kill_id": fields["kill_id"], "person": fields["principal"], "at": fields["at"], "idx": index}
            yield Put("release_asks", asked)
        case Kind.JOINED | Kind.GONE | Kind.LEFT:
            yield _membership(fields, index)
        case Kind.APPROVAL_REQUESTED:
            yield _requested(fields, index, position, projected)
        case Kind.APPROVAL_DECIDED:
            yield from _verdict(fields, index)
        case Kind.APPROVAL_CLOSED:
            yield _closed(fields)
        case Kind.FINISHED if "answer_key" in fields:
            yield _answer(fields, index, projected)
        case Kind.ANSWERS_CLOSED:
            yield Drop("answers", fields["through"])
        case Kind.HELD | Kind.UNHELD | Kind.PRUNED | Kind.TOOL_ACCEPTED | Kind.TOOL_QUARANTINED | Kind.TOOL_REJECTED:
            yield from _kept(fields, index, body)


_STANDING: Final = {"presumed": "gone_idx", "attested": "attested_idx"}


def _membership(fields: Mapping[str, Any], index: int) -> Effect:
    match fields["kind"]:
        case Kind.JOINED:
            here: Row = {"joined_idx": index, "left_idx": None, "gone_idx": None, "attested_idx": None}
            return Put("members", {"member": fields["member"], **here})
        case Kind.GONE:
            return Change("members", (fields["of"],), {_STANDING[fields["why"]]: index})
        case _:
            return Change("members", (leaver(fields),), {"left_idx": index})


def leaver(fields: Mapping[str, Any]) -> str:
    """Whom a `left` event is about: the writer itself, or a dead predecessor that it closes (`of`)."""
    return str(fields.get("of", fields["member"]))


def _decided(fields: Mapping[str, Any], index: int) -> Iterator[Effect]:
    if "session" in fields:
        yield Put("sessions", session_row(fields, index))
    if "approval_id" in fields and fields["decision"] == "ALLOW":
        yield Change("approvals", (fields["approval_id"],), {"state": "spent", "sealed": None})


def _answer(fields: Mapping[str, Any], index: int, projected: Mapping[str, Any] | None) -> Put:
    """How a call ended for which somebody may ask again. Who closes another's call does not know its answer."""
    return Put(
        "answers",
        {
            "key": fields["answer_key"],
            "tenant": fields.get("tenant", ""),
            "principal": fields.get("principal", ""),
            "session": fields.get("session", ""),
            "tool": fields["tool"],
            "trace_id": fields["trace_id"],
            "digest": fields["call_sha256"],
            "outcome": fields["outcome"],
            "reason_code": fields["reason_code"],
            "at": fields["at"],
            "idx": index,
            "sealed": None if "of" in fields else (projected or {}).get("answer"),
        },
    )


def session_row(fields: Mapping[str, Any], index: int) -> Row:
    """A session belongs to whom its first decision was about."""
    return {
        "tenant": fields.get("tenant", ""),
        "session": fields["session"],
        "principal": fields.get("principal", ""),
        "first_at": fields["at"],
        "idx": index,
    }


def _killed(fields: Mapping[str, Any], index: int, position: int, body: bytes | None) -> Put:
    return Put(
        "kills",
        {
            "id": fields["kill_id"],
            "scope": fields["scope"],
            "tenant": fields.get("tenant", ""),
            "target": fields["target"],
            "reason": _reason(body),
            "actor": fields.get("principal", ""),
            "since": fields["at"],
            "expires_at": fields.get("expires_at"),
            "position": position,
            "released_position": None,
            "drained": 0,
            "receipt": None,
            "idx": index,
        },
    )


def _reason(body: bytes | None) -> str | None:
    return None if body is None else orjson.loads(body).get("reason", "")


def _kept(fields: Mapping[str, Any], index: int, body: bytes | None) -> Iterator[Effect]:
    """What legal holds, prunes and pins change. A session that is pruned again has its newest prune's row."""
    match fields["kind"]:
        case Kind.HELD:
            yield _held(fields, index, body)
        case Kind.UNHELD:
            yield Change("holds", (fields["hold_id"],), {"released_idx": index})
        case Kind.PRUNED:
            of = (fields.get("tenant", ""), fields["session"])
            done: Row = {"through": fields["through"], "idx": index}
            yield Put("prunes", {"tenant": of[0], "session": of[1], **done})
            yield Change("prunes", of, done)
        case _:
            yield from _pinned(fields, index, body)


def _held(fields: Mapping[str, Any], index: int, body: bytes | None) -> Put:
    return Put(
        "holds",
        {
            "id": fields["hold_id"],
            "tenant": fields.get("tenant", ""),
            "session": fields["of_session"],
            "reason": _reason(body),
            "actor": fields.get("principal", ""),
            "at": fields["at"],
            "released_idx": None,
            "idx": index,
        },
    )


def _pinned(fields: Mapping[str, Any], index: int, body: bytes | None) -> Iterator[Effect]:
    """What is known of a server's tools. First use accepts only what nobody has said anything of."""
    of = (fields["server"], fields["of_tool"])
    said = canonical(orjson.loads(body or b"{}").get("subject")).decode()
    who: Row = {"actor": fields.get("principal", ""), "at": fields["at"], "idx": index}
    match fields["kind"]:
        case Kind.TOOL_ACCEPTED:
            now: Row = {"state": "accepted", "pin": fields["pin"], "definition": said, "access": fields["access"]}
            now |= {"trust": fields["trust"], "found": "", "found_definition": None, **who}
            states: tuple[str, ...] = () if fields["trust"] == "operator" else ("new",)
        case Kind.TOOL_REJECTED:
            now, states = {"state": "rejected", "found": fields["found"], "found_definition": said, **who}, ()
        case _:
            found: Row = {"state": "quarantined", "found": fields["found"], "found_definition": said}
            yield Change("pins", of, found, ("accepted", "quarantined"))
            return
    row: Row = {
        "server": of[0],
        "tool": of[1],
        "name": fields["tool"],
        "state": "",
        "pin": "",
        "definition": None,
        "access": "",
        "trust": "",
        "found": "",
        "found_definition": None,
    }
    yield Put("pins", row | now)
    yield Change("pins", of, {"name": fields["tool"], **now}, states)


def _requested(fields: Mapping[str, Any], index: int, position: int, projected: Mapping[str, Any] | None) -> Put:
    """Of an edited call the position is that of the question that was edited."""
    return Put(
        "approvals",
        {
            "id": fields["approval_id"],
            "tenant": fields.get("tenant", ""),
            "session": fields.get("session", ""),
            "requested_by": fields.get("principal", ""),
            "tool": fields["tool"],
            "trace_id": fields["trace_id"],
            "digest": fields["call_sha256"],
            "policy_revision": fields["policy_revision"],
            "requested_at": fields["at"],
            "expires_at": fields["expires_at"],
            "state": "pending",
            "decided_by": None,
            "token_sha256": None,
            "sealed": (projected or {}).get("sealed"),
            "quorum": fields.get("quorum", 1),
            "approvers": canonical_plain(fields.get("approvers", [])).decode(),
            "votes": 0,
            "on_behalf_of": fields.get("on_behalf_of"),
            "server": fields.get("server", ""),
            "tool_sha256": fields.get("tool_sha256", ""),
            "position": fields.get("position", position),
            "edited_from": fields.get("edited_from"),
            "edited_to": None,
            "executes": int(fields.get("executes", False)),
            "why": None,
            "idx": index,
        },
    )


def _verdict(fields: Mapping[str, Any], index: int) -> Iterator[Effect]:
    """A no, or one of the yeses that the approval needs."""
    of = (fields["approval_id"],)
    if "ordinal" in fields:
        vote: Row = {"approval": of[0], "person": fields["principal"], "ordinal": fields["ordinal"]}
        yield Put("votes", {**vote, "at": fields["at"], "idx": index})
        if fields["ordinal"] < fields["quorum"]:
            yield Change("approvals", of, {"votes": fields["ordinal"]}, ("pending",))
            return
    columns: Row = {
        "state": fields["verdict"],
        "decided_by": fields.get("principal", ""),
        "token_sha256": fields.get("token_sha256"),
    }
    if fields["verdict"] == "approved":
        columns["votes"] = fields.get("ordinal", 1)
    else:
        columns["sealed"] = None  # nobody will send these arguments any more
    yield Change("approvals", of, columns, ("pending",))


def _closed(fields: Mapping[str, Any]) -> Change:
    columns: Row = {"state": fields["state"], "sealed": None}
    columns |= {"why": fields.get("why"), "edited_to": fields.get("edited_to")}
    return Change("approvals", (fields["approval_id"],), columns, ("pending", "approved", "denied"))
