"""What each event leaves in the derived tables, column by column: stores and `log verify` rely on it."""

from __future__ import annotations

from typing import Any

import pytest

from agentgate.core.event import Event, Kind, make
from agentgate.core.projection.effects import effects
from agentgate.core.projection.spendings import spendings
from agentgate.core.projection.tables import Change, Drop, Put, Tables
from tests.core.events import origin

AT = "2026-11-21T09:00:05.000000Z"
OF: dict[str, Any] = {"tenant": "acme", "session": "s-1", "principal": "agent:bot"}
ASKED = {
    "approval_id": "a-1",
    "tool": "db_insert",
    "trace_id": "t-1",
    "call_sha256": "c" * 64,
    "policy_revision": "r-1",
    "expires_at": "2026-11-21T13:00:00.000000Z",
}
ASKED_ROW = {
    "id": "a-1",
    "tenant": "acme",
    "session": "s-1",
    "requested_by": "agent:bot",
    "tool": "db_insert",
    "trace_id": "t-1",
    "digest": "c" * 64,
    "policy_revision": "r-1",
    "requested_at": AT,
    "expires_at": "2026-11-21T13:00:00.000000Z",
    "state": "pending",
    "decided_by": None,
    "token_sha256": None,
    "sealed": b"sealed",
    "quorum": 1,
    "approvers": "[]",
    "votes": 0,
    "on_behalf_of": None,
    "server": "",
    "tool_sha256": "",
    "position": 7,
    "edited_from": None,
    "edited_to": None,
    "executes": 0,
    "why": None,
    "idx": 5,
}
MORE = {
    "quorum": 2,
    "approvers": ["person:a", "person:b"],
    "on_behalf_of": "alice",
    "server": "demo",
    "tool_sha256": "d" * 64,
    "edited_from": "a-0",
    "executes": True,
}
ENDED = {
    "answer_key": "k-1",
    "tool": "db_query",
    "trace_id": "t-1",
    "call_sha256": "c" * 64,
    "outcome": "ok",
    "reason_code": "ok",
}
ENDED_ROW = {
    "key": "k-1",
    "tenant": "acme",
    "principal": "agent:bot",
    "session": "s-1",
    "tool": "db_query",
    "trace_id": "t-1",
    "digest": "c" * 64,
    "outcome": "ok",
    "reason_code": "ok",
    "at": AT,
    "idx": 5,
    "sealed": b"sealed",
}
KILL = {"kill_id": "k-1", "scope": "session", "target": "s-1"}
KILL_ROW = {
    "id": "k-1",
    "scope": "session",
    "tenant": "acme",
    "target": "s-1",
    "reason": "why",
    "actor": "agent:bot",
    "since": AT,
    "expires_at": None,
    "position": 7,
    "released_position": None,
    "drained": 0,
    "receipt": None,
    "idx": 5,
}
HOLD_ROW = {
    "id": "h-1",
    "tenant": "acme",
    "session": "s-9",
    "reason": "why",
    "actor": "agent:bot",
    "at": AT,
    "released_idx": None,
    "idx": 5,
}
PIN = {"server": "files", "of_tool": "read", "tool": "files__read"}
BARE_PIN = {
    "server": "files",
    "tool": "read",
    "name": "files__read",
    "state": "",
    "pin": "",
    "definition": None,
    "access": "",
    "trust": "",
    "found": "",
    "found_definition": None,
}
WHO = {"actor": "agent:bot", "at": AT, "idx": 5}
ACCEPTED = {
    "state": "accepted", "pin": "p", "definition": '{"a":1}', "access": "read", "found": "", "found_definition": None,
    **WHO,
}  # fmt: skip
REJECTED = {"state": "rejected", "found": "q", "found_definition": '{"a":1}', **WHO}
HERE = {"joined_idx": 5, "left_idx": None, "gone_idx": None, "attested_idx": None}
APPROVED = {"state": "approved", "decided_by": "agent:bot", "token_sha256": "f" * 64}
READ = ("files", "read")


def changes(
    kind: Kind, fields: dict[str, Any], body: bytes | None = b'{"reason":"why","subject":{"a":1}}'
) -> list[Any]:
    """The effects of an event at index 5 and kill position 7, without what it spends."""
    event: Event = make(origin(), kind, fields, **OF)
    found = list(effects(event.fields, 5, 7, body, {"sealed": b"sealed", "answer": b"sealed"}))
    spent = [Put("spent", {"kind": what, "key": key, "idx": 5}) for what, key in spendings(event.fields)]
    assert found[: len(spent)] == spent
    return found[len(spent) :]


EFFECTS: list[tuple[Kind, dict[str, Any], list[Any]]] = [
    (Kind.DECIDED, {"decision": "DENY", "approval_id": "a-1"}, [
        Put("sessions", {"tenant": "acme", "session": "s-1", "principal": "agent:bot", "first_at": AT, "idx": 5}),
    ]),
    (Kind.DECIDED, {"decision": "ALLOW", "approval_id": "a-1"}, [
        Put("sessions", {"tenant": "acme", "session": "s-1", "principal": "agent:bot", "first_at": AT, "idx": 5}),
        Change("approvals", ("a-1",), {"state": "spent", "sealed": None}),
    ]),
    (Kind.KILLED, KILL, [Put("kills", KILL_ROW)]),
    (Kind.KILLED, {**KILL, "expires_at": "x"}, [Put("kills", {**KILL_ROW, "expires_at": "x"})]),
    (Kind.RELEASED, KILL, [Change("kills", ("k-1",), {"released_position": 7})]),
    (Kind.DRAINED, {**KILL, "drained": True}, [Change("kills", ("k-1",), {"receipt": "0197-000001", "drained": 1})]),
    (Kind.DRAINED, {**KILL, "drained": False}, [Change("kills", ("k-1",), {"receipt": "0197-000001"})]),
    (Kind.ACKED, {"position": 3, "cancelled": 1, "finished": 2, "unknown": 4, "took_us": 9}, [
        Put("acks", {
            "member": "m-1", "position": 3, "cancelled": 1, "finished": 2, "unknown": 4, "took_us": 9, "at": AT,
            "idx": 5,
        }),
    ]),
    (Kind.RELEASE_ASKED, KILL, [
        Put("release_asks", {"kill_id": "k-1", "person": "agent:bot", "at": AT, "idx": 5}),
    ]),
    (Kind.JOINED, {}, [Put("members", {"member": "m-1", **HERE})]),
    (Kind.GONE, {"of": "m-2", "why": "presumed"}, [Change("members", ("m-2",), {"gone_idx": 5})]),
    (Kind.GONE, {"of": "m-2", "why": "attested"}, [Change("members", ("m-2",), {"attested_idx": 5})]),
    (Kind.LEFT, {}, [Change("members", ("m-1",), {"left_idx": 5})]),
    (Kind.LEFT, {"of": "m-2"}, [Change("members", ("m-2",), {"left_idx": 5})]),
    (Kind.APPROVAL_REQUESTED, ASKED, [Put("approvals", ASKED_ROW)]),
    (Kind.APPROVAL_REQUESTED, ASKED | MORE, [
        Put("approvals", {**ASKED_ROW, **MORE, "approvers": '["person:a","person:b"]', "executes": 1}),
    ]),
    (Kind.APPROVAL_DECIDED, {"approval_id": "a-1", "verdict": "approved", "token_sha256": "f" * 64}, [
        Change("approvals", ("a-1",), {**APPROVED, "votes": 1}, ("pending",)),
    ]),
    (Kind.APPROVAL_DECIDED, {"approval_id": "a-1", "verdict": "denied"}, [
        Change("approvals", ("a-1",), {
            "state": "denied", "decided_by": "agent:bot", "token_sha256": None, "sealed": None,
        }, ("pending",)),
    ]),
    (Kind.APPROVAL_DECIDED, {"approval_id": "a-1", "verdict": "approved", "ordinal": 1, "quorum": 2}, [
        Put("votes", {"approval": "a-1", "person": "agent:bot", "ordinal": 1, "at": AT, "idx": 5}),
        Change("approvals", ("a-1",), {"votes": 1}, ("pending",)),
    ]),
    (Kind.APPROVAL_DECIDED, {
        "approval_id": "a-1", "verdict": "approved", "ordinal": 2, "quorum": 2, "token_sha256": "f" * 64,
    }, [
        Put("votes", {"approval": "a-1", "person": "agent:bot", "ordinal": 2, "at": AT, "idx": 5}),
        Change("approvals", ("a-1",), {**APPROVED, "votes": 2}, ("pending",)),
    ]),
    (Kind.APPROVAL_CLOSED, {"approval_id": "a-1", "state": "void", "why": "edited", "edited_to": "a-2"}, [
        Change("approvals", ("a-1",), {
            "state": "void", "sealed": None, "why": "edited", "edited_to": "a-2",
        }, ("pending", "approved", "denied")),
    ]),
    (Kind.APPROVAL_CLOSED, {"approval_id": "a-1", "state": "expired"}, [
        Change("approvals", ("a-1",), {
            "state": "expired", "sealed": None, "why": None, "edited_to": None,
        }, ("pending", "approved", "denied")),
    ]),
    (Kind.FINISHED, {"trace_id": "t-1", "outcome": "ok"}, []),
    (Kind.FINISHED, ENDED, [Put("answers", ENDED_ROW)]),
    (Kind.FINISHED, {**ENDED, "of": "m-2"}, [Put("answers", {**ENDED_ROW, "sealed": None})]),
    (Kind.ANSWERS_CLOSED, {"through": 4}, [Drop("answers", 4)]),
    (Kind.HELD, {"hold_id": "h-1", "of_session": "s-9"}, [Put("holds", HOLD_ROW)]),
    (Kind.UNHELD, {"hold_id": "h-1"}, [Change("holds", ("h-1",), {"released_idx": 5})]),
    (Kind.PRUNED, {"through": 4}, [
        Put("prunes", {"tenant": "acme", "session": "s-1", "through": 4, "idx": 5}),
        Change("prunes", ("acme", "s-1"), {"through": 4, "idx": 5}),
    ]),
    (Kind.TOOL_ACCEPTED, {**PIN, "pin": "p", "access": "read", "trust": "operator"}, [
        Put("pins", {**BARE_PIN, **ACCEPTED, "trust": "operator"}),
        Change("pins", READ, {"name": "files__read", **ACCEPTED, "trust": "operator"}),
    ]),
    (Kind.TOOL_ACCEPTED, {**PIN, "pin": "p", "access": "read", "trust": "first_use"}, [
        Put("pins", {**BARE_PIN, **ACCEPTED, "trust": "first_use"}),
        Change("pins", READ, {"name": "files__read", **ACCEPTED, "trust": "first_use"}, ("new",)),
    ]),
    (Kind.TOOL_QUARANTINED, {**PIN, "found": "q", "accepted": 3}, [
        Change("pins", READ, {
            "state": "quarantined", "found": "q", "found_definition": '{"a":1}',
        }, ("accepted", "quarantined")),
    ]),
    (Kind.TOOL_REJECTED, {**PIN, "found": "q"}, [
        Put("pins", {**BARE_PIN, **REJECTED}),
        Change("pins", READ, {"name": "files__read", **REJECTED}),
    ]),
    *[(kind, {}, []) for kind in (Kind.REFUSALS, Kind.EXPORTED, Kind.POLICY, Kind.REPAIRED, Kind.KEYED, Kind.ANSWERED)],
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "expected"), EFFECTS)
def test_event_changes_exactly_this(kind: Kind, fields: dict[str, Any], expected: list[Any]) -> None:
    assert changes(kind, fields) == expected


def test_pruned_body_leaves_no_reason_and_no_definition() -> None:
    assert changes(Kind.KILLED, KILL, None) == [Put("kills", {**KILL_ROW, "reason": None})]
    assert changes(Kind.HELD, {"hold_id": "h-1", "of_session": "s-9"}, b"{}") == [
        Put("holds", {**HOLD_ROW, "reason": ""})
    ]
    [first, _] = changes(Kind.TOOL_REJECTED, {**PIN, "found": "q"}, None)
    assert first.row["found_definition"] == "null"


def test_event_of_nobody_leaves_empty_names() -> None:
    nobody = make(origin(), Kind.KILLED, {**KILL, "scope": "global"})
    [_, put] = effects(nobody.fields, 5, 7, b"{}")
    assert put == Put("kills", {**KILL_ROW, "scope": "global", "tenant": "", "actor": "", "reason": ""})
    of_nobody = {"tenant": "", "session": "", "principal": "", "sealed": None}
    assert list(effects(make(origin(), Kind.FINISHED, ENDED).fields, 5, 7, None)) == [
        Put("answers", {**ENDED_ROW, **of_nobody})
    ]


def test_change_of_a_row_that_is_not_there_or_in_another_state_is_none() -> None:
    tables = Tables()
    tables.apply([Put("approvals", dict(ASKED_ROW)), Change("approvals", ("a-2",), {"why": "x"})])
    tables.apply([Change("approvals", ("a-1",), {"why": "x"}, ("approved", "denied"))])
    assert tables.rows["approvals"] == {("a-1",): ASKED_ROW}
    tables.apply([Change("approvals", ("a-1",), {"why": "x"}, ("pending",)), Drop("approvals", 4)])
    assert tables.rows["approvals"] == {("a-1",): {**ASKED_ROW, "why": "x"}}
    tables.apply([Drop("approvals", 5)])
    assert tables.rows["approvals"] == {}
