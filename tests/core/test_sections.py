"""What a pack's sections say, to the letter: v0.2's readers know these names, and a verifier makes them again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from agentgate.core.event import Kind, Record
from agentgate.core.evidence.anomalies import anomalies
from agentgate.core.evidence.pack import CHECKPOINT, proves
from agentgate.core.evidence.sections import policy_analysis, summary, timeline

AT = "2026-11-21T09:00:00.000000Z"
ACT = {"event_id": "e-1", "timestamp": AT, "actor": "person:ada"}


def record(kind: Kind, body: dict[str, Any] | None = None, **fields: Any) -> Record:
    leaf = {"id": "e-1", "at": AT, "kind": kind.value, "tenant": "t", "session": "s-1", "principal": "person:ada"}
    return Record(7, 1, 0, leaf | fields, b"{}", b"", orjson.dumps(body or {}))


KILL = {"kill_id": "k", "scope": "session", "target": "s-1"}
KILLED = ACT | KILL | {"reason": None, "drained": None}
ASKED = {
    "event_id": "e-1", "timestamp": AT, "approval_id": "a-1", "verdict": None, "approver": None, "requested_by": None,
    "tool_name": None,
}  # fmt: skip
EDITED = {"quorum": 2, "approvers": ["person:bea"], "on_behalf_of": "eve", "edited_from": "a-0", "edited_by": "ada"}
TOOL = {"tool": "files__read", "server": "files", "pin": "p"}
TOOL_ROW = ACT | {"tool_name": "files__read", "server": "files", "pin": "p", "found": None, "access": None}


@pytest.mark.parametrize(
    ("kind", "fields", "body", "section", "row"),
    [
        (Kind.KILLED, KILL, {"reason": "loops"}, "kills", KILLED | {"what": "killed", "reason": "loops"}),
        (Kind.RELEASE_ASKED, KILL, {}, "kills", KILLED | {"what": "release_asked"}),
        (Kind.DRAINED, KILL | {"drained": False, "excepted": ["m-2"], "attested": ["m-3"]}, {}, "kills",
         KILLED | {"what": "drained", "drained": False, "drained_except": ["m-2"], "attested": ["m-3"]}),
        (Kind.DRAINED, KILL | {"drained": True, "excepted": [], "attested": ["m-3"], "counts": {"attested": 7}}, {},
         "kills", KILLED | {"what": "drained", "drained": True, "drained_except": [], "attested": ["m-3"],
                            "counts": {"attested": 7}}),
        (Kind.RELEASED, KILL | {"why": "release", "forced": True, "asked_by": ["person:bea"]}, {}, "kills",
         KILLED | {"what": "released", "why": "release", "forced": True, "asked_by": ["person:bea"]}),
        (Kind.RELEASED, KILL | {"why": "expiry", "forced": False}, {}, "kills",
         KILLED | {"what": "released", "why": "expiry", "forced": False, "asked_by": []}),
        (Kind.APPROVAL_REQUESTED, {"approval_id": "a-1", "tool": "x", **EDITED}, {"arguments": {"n": 1}}, "approvals",
         ASKED | EDITED | {"what": "requested", "requested_by": "person:ada", "tool_name": "x", "arguments": {"n": 1}}),
        (Kind.APPROVAL_DECIDED, {"approval_id": "a-1", "verdict": "denied"}, {"reason": "no"}, "approvals",
         ASKED | {"what": "denied", "verdict": "denied", "approver": "person:ada", "reason": "no"}),
        (Kind.APPROVAL_DECIDED, {"approval_id": "a-1", "verdict": "approved", "ordinal": 1, "quorum": 2}, {},
         "approvals", ASKED | {"what": "voted", "approver": "person:ada", "ordinal": 1, "quorum": 2}),
        (Kind.APPROVAL_DECIDED, {"approval_id": "a-1", "verdict": "approved", "ordinal": 2, "quorum": 2}, {},
         "approvals",
         ASKED | {"what": "approved", "verdict": "approved", "approver": "person:ada", "ordinal": 2, "quorum": 2}),
        (Kind.APPROVAL_CLOSED, {"approval_id": "a-1", "state": "void", "why": "edited", "edited_to": "a-2"}, {},
         "approvals", ASKED | {"what": "void", "why": "edited", "edited_to": "a-2", "actor": "person:ada"}),
        (Kind.APPROVAL_CLOSED, {"approval_id": "a-1", "state": "void", "kill_id": "k"}, {}, "approvals",
         ASKED | {"what": "void", "kill_id": "k", "actor": "person:ada"}),
        (Kind.EXPORTED, {"format": "pdf", "of_session": "s-1", "until": "2027"}, {}, "exports",
         ACT | {"format": "pdf", "of_session": "s-1", "of_agent": None, "since": None, "until": "2027"}),
        (Kind.HELD, {"hold_id": "h", "of_session": "s-1"}, {"reason": "court"}, "holds",
         ACT | {"what": "held", "hold_id": "h", "of_session": "s-1", "reason": "court"}),
        (Kind.UNHELD, {"hold_id": "h", "of_session": ""}, {}, "holds",
         ACT | {"what": "unheld", "hold_id": "h", "of_session": None, "reason": None}),
        (Kind.PRUNED, {"why": "retention", "bodies": 2, "through": 5}, {}, "prunes",
         ACT | {"session": "s-1", "why": "retention", "bodies": 2, "through": 5}),
        (Kind.TOOL_ACCEPTED, TOOL | {"access": "read", "trust": "operator"}, {}, "tools",
         TOOL_ROW | {"what": "tool_accepted", "access": "read", "trust": "operator"}),
        (Kind.TOOL_QUARANTINED, TOOL | {"found": "q"}, {}, "tools",
         TOOL_ROW | {"what": "tool_quarantined", "found": "q", "trust": None}),
    ],
)  # fmt: skip
def test_an_act_has_its_row(
    kind: Kind, fields: dict[str, Any], body: dict[str, Any], section: str, row: dict[str, Any]
) -> None:
    assert summary([record(kind, body, **fields)], [])[section] == [row]


def test_what_a_clock_has_closed_names_nobody() -> None:
    closed = record(Kind.APPROVAL_CLOSED, approval_id="a-1", state="expired")
    of_nobody = replace(closed, fields={name: closed.fields[name] for name in closed.fields if name != "principal"})
    assert summary([of_nobody], [])["approvals"] == [ASKED | {"what": "expired"}]


CALL = {
    "trace_id": "t-1", "auth": "api_key", "door": "rest", "tool": "x", "decision": "ALLOW", "reason_code": "ok",
    "rule": "r", "policy_revision": "p", "write": True, "arguments_sha256": "a" * 64,
}  # fmt: skip


def test_a_call_tells_what_its_caller_had_sent_where_an_approver_edited_it() -> None:
    decided = record(Kind.DECIDED, **CALL)
    edited = replace(decided, fields=decided.fields | {"edited_from_sha256": "e" * 64})
    [plain], [told] = timeline([decided]), timeline([edited])
    assert told == plain | {"edited_from_sha256": "e" * 64} != plain


def test_a_call_took_all_of_its_latencies_together() -> None:
    latency_us = {"policy": 1_001_000, "upstream": 8_000_000}
    finished = record(Kind.FINISHED, trace_id="t-1", outcome="ok", reason_code="ok", latency_us=latency_us)
    assert [entry["duration_ms"] for entry in timeline([record(Kind.DECIDED, **CALL), finished])] == [9_001]


def test_rules_are_told_with_what_they_decided_in_their_order_and_what_no_rule_matched_is_counted() -> None:
    calls = [("default_deny", "DENY"), ("r", "ALLOW"), ("r", "DENY"), ("r", "ALLOW"), ("default_deny", "DENY")]
    assert policy_analysis([entry(matched_rule=rule, decision=decision) for rule, decision in calls]) == {
        "rules_triggered": {
            "default_deny": {"count": 2, "decisions": ["DENY"]},
            "r": {"count": 3, "decisions": ["ALLOW", "DENY"]},
        },
        "untriggered_rules": [],
        "default_denials": 2,
    }


@pytest.mark.parametrize(
    ("count", "each"), [(0, None), (1, "The one event is"), (2, "Each of the 2"), (1_234, "Each of the 1,234 events")]
)
def test_a_checkpoint_proves_each_event_that_there_is(count: int, each: str | None) -> None:
    said = proves({"event_count": count, "signed_by": [CHECKPOINT], "checkpoint": {"size": 9_999}})
    assert [one["claim"].startswith(each or "") for one in said] == ([] if each is None else [True])


def entry(number: int = 0, **said: Any) -> dict[str, Any]:
    return {
        "event_id": f"e-{number}", "timestamp": AT, "tenant": "t", "session_id": "s-1", "agent_id": "agent:bot",
        "tool_name": "x", "decision": "ALLOW", "reason_code": "ok", "approved_by": None, "policy_version": "r",
        "outcome": "ok", **said,
    }  # fmt: skip


def found(*entries: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    said = anomalies(entries)
    return [(one["type"], one["description"], [name.removeprefix("e-") for name in one["event_ids"]]) for one in said]


def calls_at(*seconds: float) -> list[tuple[str, list[str]]]:
    entries = [entry(n, timestamp=f"2026-11-21T09:00:{at:09.6f}Z") for n, at in enumerate(seconds)]
    return [(text, names) for kind, text, names in found(*entries) if kind == "rapid_fire"]


def names(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


def burst(count: int, start: float = 0.0, apart: float = 0.1) -> list[float]:
    return [start + apart * number for number in range(count)]


TEN = "10 calls, 10 or more of them within 1 s"


@pytest.mark.parametrize(
    ("seconds", "bursts"),
    [
        ([], []),
        (burst(9), []),
        (burst(10), [(TEN, names(0, 9))]),
        ([*burst(9), 1.0], [(TEN, names(0, 9))]),
        ([*burst(9), 1.1], []),
        (burst(13), [(TEN.replace("10", "13", 1), names(0, 12))]),
        ([*burst(10, apart=0.0625), 1.0625], [(TEN.replace("10", "11", 1), names(0, 10))]),
        ([*burst(10, apart=0.0625), 1.09375], [(TEN, names(0, 9))]),
        ([0.0, *burst(10, 5.0)], [(TEN, names(1, 10))]),
        ([*burst(10), 3.0, *burst(11, 5.0)], [(TEN, names(0, 9)), (TEN.replace("10", "11", 1), names(11, 21))]),
    ],
    ids=str,
)
def test_ten_calls_within_a_second_are_a_burst_as_long_as_it_goes_on(
    seconds: list[float], bursts: list[tuple[str, list[str]]]
) -> None:
    assert calls_at(*seconds) == bursts


NO = {"decision": "DENY", "outcome": None}


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([entry()], []),
        ([entry(1, approved_by="person:ada"), entry(2, **NO), entry(3, tool_name="y", **NO)],
         [("denied_after_approval", "x was refused after an approved call of it", ["2"])]),
        ([entry(1, approved_by="person:ada", **NO), entry(2, **NO)], []),
        ([entry(n, **NO) for n in range(4)], []),
        ([*[entry(n, **NO) for n in range(5)], entry(5, tool_name="y", **NO)],
         [("refused_repeatedly", "x was refused 5 times in a row", names(0, 4))]),
        ([entry(n, reason_code="foreign_session", agent_id=f"agent:{by}", **NO) for n, by in enumerate("cac")],
         [("foreign_session", "agent:a, agent:c tried to use a session of somebody else", names(0, 2))]),
        ([entry(1), entry(2, policy_version=""), entry(3), entry(4, policy_version="q"), entry(5, policy_version="q")],
         [("policy_changed", "another policy revision decided from here on", ["4"])]),
        ([entry(1, policy_version="q", session_id="s-2"), entry(2), entry(3, policy_version="p", tenant="u")], []),
        ([entry(n, outcome=end) for n, end in enumerate(["unknown", "ok", "cancelled", "open", "error"])],
         [("effect_unknown", "calls whose upstream effect is not known from these events: 3", ["0", "2", "3"])]),
    ],
)  # fmt: skip
def test_what_somebody_should_look_at_is_told_in_these_words(
    entries: list[dict[str, Any]], told: list[tuple[str, str, list[str]]]
) -> None:
    assert found(*entries) == told
