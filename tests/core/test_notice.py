"""Events as they are told: v0.2's names for what it had, and nothing that the log does not say."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentgate.core.event import Kind, Record
from agentgate.core.notice import (
    ALERT_RULE,
    MAX_ARGUMENTS_BYTES,
    NOTICES,
    UNLOGGED,
    notice_of,
    sources,
    wanted,
    with_call,
)


def record(kind: Kind, body: Any = None, index: int = 7, **fields: Any) -> Record:
    leaf = {"id": "event-1", "at": "2026-11-21T00:00:00.000000Z", "kind": str(kind), "member": "m-1", "tenant": "a"}
    leaf |= {"session": "s-1", "principal": "agent:bot"} | fields
    return Record(index, 0, 0, {k: v for k, v in leaf.items() if v is not None}, b"", b"", orjson.dumps(body or {}))


CALL = {"trace_id": "t-1", "tool": "db_insert", "rule": "r", "reason_code": "policy_deny", "decision": "DENY"}
APPROVAL = {"approval_id": "apr-1"}
TOLD = {"session_id": "s-1", "subject_id": "agent:bot", "tool_name": "db_insert", "trace_id": "t-1", "rule": "r"}
"""Of every call."""
ASKED = APPROVAL | {"session_id": "s-1"}


@pytest.mark.parametrize(
    ("kind", "fields", "body", "told", "payload"),
    [
        (
            Kind.KILLED,
            {"kill_id": "k-1", "scope": "session", "target": "s-1", "principal": "person:ada"},
            {"reason": "loops"},
            "kill_switch.activated",
            {"level": "session", "target": "s-1", "reason": "loops", "kill_id": "k-1", "by": "person:ada"},
        ),
        (
            Kind.KILLED,
            {"kill_id": "k-1", "scope": "global", "target": "", "expires_at": "later"},
            {},
            "kill_switch.activated",
            {"level": "global", "target": "", "reason": "", "kill_id": "k-1", "by": "agent:bot", "expires_at": "later"},
        ),
        (
            Kind.RELEASED,
            {"kill_id": "k-1", "scope": "global", "target": "", "why": "expiry", "forced": False, "principal": ""},
            {},
            "kill_switch.released",
            {"level": "global", "target": "", "kill_id": "k-1", "why": "expiry", "forced": False},
        ),
        (
            Kind.RELEASED,
            {"kill_id": "k-1", "scope": "global", "target": "", "why": "release", "forced": True, "principal": "p:ada"},
            {},
            "kill_switch.released",
            {"level": "global", "target": "", "kill_id": "k-1", "why": "release", "forced": True, "by": "p:ada"},
        ),
        (Kind.DECIDED, CALL, {"reason": "no", "arguments": {"secret": 1}}, "policy.denied", TOLD | {"reason": "no"}),
        (
            Kind.DECIDED,
            CALL | {"reason_code": "rate_limited", "limit": 10, "on_behalf_of": "ada"},
            {"reason": "no"},
            "rate_limit.exceeded",
            TOLD | {"reason": "no", "limit": 10, "on_behalf_of": "ada"},
        ),
        (
            Kind.DECIDED,
            CALL | {"reason_code": "budget_spent"},
            {"reason": "day"},
            "budget.spent",
            TOLD | {"reason": "day"},
        ),
        (Kind.DECIDED, CALL | {"reason_code": "unknown_tool"}, {}, "policy.denied", TOLD),
        (
            Kind.DECIDED,
            CALL | {"decision": "REQUIRE_APPROVAL", "rule": ALERT_RULE},
            {},
            "budget.alert",
            TOLD | {"rule": ALERT_RULE},
        ),
        (
            Kind.DECIDED,
            CALL | APPROVAL | {"decision": "ALLOW", "approved_by": "person:ada"},
            {},
            "approval.spent",
            TOLD | APPROVAL | {"approved_by": "person:ada"},
        ),
        (
            Kind.APPROVAL_REQUESTED,
            APPROVAL
            | {"tool": "db_insert", "trace_id": "t-1", "expires_at": "later", "quorum": 2, "approvers": ["person:ada"]},
            {},
            "approval.requested",
            ASKED
            | {"subject_id": "agent:bot", "tool_name": "db_insert", "trace_id": "t-1", "expires_at": "later"}
            | {"quorum": 2, "approvers": ["person:ada"]},
        ),
        (
            Kind.APPROVAL_REQUESTED,
            APPROVAL | {"expires_at": "later", "edited_from": "apr-0", "edited_by": "person:ada"},
            {"arguments": {"n": 1}, "reason": "less"},
            "approval.requested",
            ASKED
            | {"subject_id": "agent:bot", "expires_at": "later", "quorum": 1, "approvers": [], "reason": "less"}
            | {"edited_from": "apr-0", "edited_by": "person:ada", "arguments": {"n": 1}},
        ),
        (
            Kind.APPROVAL_DECIDED,
            APPROVAL | {"verdict": "approved", "ordinal": 1, "quorum": 2, "principal": "person:ada"},
            {"reason": "fine"},
            "approval.voted",
            ASKED | {"votes": 1, "quorum": 2, "by": "person:ada", "reason": "fine"},
        ),
        (
            Kind.APPROVAL_DECIDED,
            APPROVAL | {"verdict": "approved", "ordinal": 2, "quorum": 2},
            {},
            "approval.approved",
            ASKED | {"votes": 2, "quorum": 2, "by": "agent:bot"},
        ),
        (
            Kind.APPROVAL_DECIDED,
            APPROVAL | {"verdict": "denied"},
            {"reason": "no"},
            "approval.denied",
            ASKED | {"by": "agent:bot", "reason": "no"},
        ),
        (
            Kind.APPROVAL_CLOSED,
            APPROVAL | {"state": "void", "why": "edited", "edited_to": "apr-2"},
            {},
            "approval.edited",
            ASKED | {"why": "edited", "edited_to": "apr-2", "by": "agent:bot"},
        ),
        (
            Kind.APPROVAL_CLOSED,
            APPROVAL | {"state": "void", "why": "killed", "kill_id": "k"},
            {},
            "approval.voided",
            ASKED | {"why": "killed", "kill_id": "k"},
        ),
        (
            Kind.APPROVAL_CLOSED,
            APPROVAL | {"state": "void", "why": "withdrawn", "principal": "person:ada"},
            {"reason": "not now"},
            "approval.voided",
            ASKED | {"why": "withdrawn", "by": "person:ada", "reason": "not now"},
        ),
        (Kind.APPROVAL_CLOSED, APPROVAL | {"state": "expired"}, {}, "approval.expired", ASKED),
        (
            Kind.TOOL_QUARANTINED,
            {"server": "files", "of_tool": "read", "tool": "files__read"},
            {"changes": ["description"] * 21},
            "tool.quarantined",
            {"tool_name": "files__read", "server": "files", "of_tool": "read", "changes": ["description"] * 20},
        ),
        (
            Kind.TOOL_QUARANTINED,
            {"server": "files", "of_tool": "read", "tool": "files__read"},
            {},
            "tool.quarantined",
            {"tool_name": "files__read", "server": "files", "of_tool": "read", "changes": []},
        ),
        (
            Kind.GONE,
            {"of": "m-2", "why": "presumed", "principal": None},
            {},
            "member.gone",
            {"member": "m-2", "why": "presumed"},
        ),
        (
            Kind.GONE,
            {"of": "m-2", "why": "attested", "principal": "person:ada"},
            {},
            "member.gone",
            {"member": "m-2", "why": "attested", "by": "person:ada"},
        ),
    ],
)
def test_an_event_is_told_in_v02s_words(
    kind: Kind, fields: dict[str, Any], body: dict[str, Any], told: str, payload: dict[str, Any]
) -> None:
    notice = notice_of(record(kind, body, **fields))
    assert notice is not None
    assert (notice.id, notice.kind, notice.at, notice.tenant) == ("event-1", told, "2026-11-21T00:00:00.000000Z", "a")
    assert notice.payload == payload | {"tenant": "a"}
    assert told in NOTICES
    assert kind in sources((told,))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.DECIDED, CALL | {"decision": "ALLOW"}),
        (Kind.DECIDED, CALL | {"decision": "REQUIRE_APPROVAL"}),
        (Kind.DECIDED, CALL | {"reason_code": "killed"}),
        (Kind.FINISHED, {}),
        (Kind.PRUNED, {}),
    ],
)
def test_what_is_nobodys_business_is_not_told(kind: Kind, fields: dict[str, Any]) -> None:
    assert notice_of(record(kind, **fields)) is None


def test_what_is_of_no_tenant_is_told_without_one() -> None:
    notice = notice_of(record(Kind.GONE, tenant=None, of="m-2", why="presumed", principal=None))
    assert notice is not None
    assert (notice.tenant, notice.payload) == ("", {"member": "m-2", "why": "presumed"})


def test_a_pruned_text_is_missing_and_nothing_else() -> None:
    pruned = Record(7, 0, 0, record(Kind.DECIDED, **CALL).fields, b"", None, None)
    notice = notice_of(pruned)
    assert notice is not None
    assert notice.payload == TOLD | {"tenant": "a"}


def test_a_question_is_told_with_the_call_and_long_arguments_only_by_their_size() -> None:
    asked = notice_of(record(Kind.APPROVAL_REQUESTED, **APPROVAL, tool="x", trace_id="t-1", expires_at="later"))
    assert asked is not None
    whole = with_call(asked, record(Kind.DECIDED, {"arguments": {"a": 1}, "reason": "write"}, **CALL))
    assert (whole.payload["arguments"], whole.payload["rule"], whole.payload["reason"]) == ({"a": 1}, "r", "write")
    assert whole.id == asked.id
    long = with_call(asked, record(Kind.DECIDED, {"arguments": "x" * MAX_ARGUMENTS_BYTES}, **CALL))
    assert "arguments" not in long.payload
    assert long.payload["arguments_bytes"] == MAX_ARGUMENTS_BYTES + 2
    longest = with_call(asked, record(Kind.DECIDED, {"arguments": "x" * (MAX_ARGUMENTS_BYTES - 2)}, **CALL))
    assert "arguments_bytes" not in longest.payload


def test_patterns_name_kinds_and_families() -> None:
    assert wanted("approval.requested", ("approval.*",))
    assert not wanted("policy.denied", ("approval.*", "kill_switch.activated"))
    assert sources(("kill_switch.*",)) == (Kind.KILLED, Kind.RELEASED)
    assert sources(UNLOGGED) == ()
    assert Kind.DECIDED not in sources(("approval.requested",)), "who wants no decisions need not read them"
