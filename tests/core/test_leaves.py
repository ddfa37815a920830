"""What each event says, to the letter: stored logs and foreign verifiers read these names for years."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson

from agentgate.core.amounts import Amounts
from agentgate.core.call import Door
from agentgate.core.decision import Verdict
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Event, Outcome
from agentgate.core.events.calls import KeptAnswer, answered, answers_closed, closed, decided, finished
from agentgate.core.events.keeping import exported, held, keyed, keys_changed, pruned, unheld
from agentgate.core.events.kills import acked, drained, gone, killed, release_asked, released
from agentgate.core.events.tools import tool_accepted, tool_quarantined, tool_rejected
from agentgate.core.members import Acknowledgement, Progress
from agentgate.core.retention import Hold
from tests.core.events import READ, START, allow, origin, record_of
from tests.fakes import REVISION, TOOL, a_call, a_kill, principal

TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
KEY = b"of the deployment"
CALL = replace(a_call(), caller=replace(principal(), on_behalf_of="alice"), traceparent=TRACEPARENT, digest_key=KEY)
NAMED = replace(CALL, idempotency_key="again")
DEFERRED = replace(CALL, deferred=True)
KILL = replace(a_kill(), expires_at=START + timedelta(hours=1))
BY: dict[str, Any] = {"actor": "person:op", "auth": "api_key"}
SUBJECT = b'{"tool":{}}'
WHOLE = allow()._replace(
    approval_id="apr-1",
    approved_by="person:alice",
    edited_from="e" * 64,
    matched_rule="r" * 129,
    policy_revision="p" * 129,
)


def an_intent(call: Any = CALL, decision: Any = None, **more: Any) -> Event:
    about: dict[str, Any] = {"arguments": b'{"a":1}', "context": b'{"c":2}', "latency_us": {"policy": 12}, **more}
    return decided(origin(), call, decision or allow(), position=3, **about)


def salted(raw: bytes) -> str:
    return hashlib.sha256(origin().salt + raw).hexdigest()


def blind(raw: bytes) -> str:
    return hmac.new(KEY, origin().salt + raw, hashlib.sha256).hexdigest()


WHOSE = {"tenant": "default", "session": "s-1", "principal": "agent:bot"}
OF_CALL = {
    **WHOSE,
    "trace_id": CALL.trace_id,
    "door": "rest",
    "tool": "db_query",
    "server": "demo",
    "tool_sha256": TOOL.definition_sha256,
    "traceparent": TRACEPARENT,
}
DECIDED = {
    **OF_CALL,
    "auth": "api_key",
    "call_sha256": CALL.digest,
    "arguments_sha256": blind(b"{}"),
    "decision": "ALLOW",
    "reason_code": "policy_allow",
    "rule": "read_only_tools",
    "policy_revision": REVISION,
    "write": False,
    "position": 3,
    "latency_us": {"policy": 12},
    "on_behalf_of": "alice",
}
ASKED = b'{"arguments":{"a":1},"context":{"c":2},"reason":"read"}'
ANSWER = {"answer_key": NAMED.answer_key, "idempotency_sha256": NAMED.answer_key}
OF_KILL = {"tenant": "default", "session": "s-1", "kill_id": KILL.id, "scope": "session", "target": "s-1"}
OF_TOOL = {"server": "files", "of_tool": "read", "tool": "files__read"}
HOLD = Hold("h-1", "acme", "s-1", BY["actor"], "", "court")
OF_HOLD = {"tenant": "acme", "principal": "person:op", "auth": "api_key", "hold_id": "h-1", "of_session": "s-1"}
UNRECORDED = {**OF_CALL, "reason_code": "outcome_unrecorded", "of": "m-1"}


def said() -> list[tuple[Event, str, dict[str, Any], bytes]]:
    return [
        (an_intent(), "decided", DECIDED, ASKED),
        (an_intent(limit=5, charge=Amounts(1, 10, 20)), "decided", {
            **DECIDED, "limit": 5, "arguments_bytes": 10, "cost_micros": 20,
        }, ASKED),
        (an_intent(decision=WHOLE), "decided", {
            **DECIDED, "approval_id": "apr-1", "approved_by": "person:alice", "edited_from_sha256": "e" * 64,
            "rule": "r" * 128, "policy_revision": "p" * 128,
        }, ASKED),
        (an_intent(NAMED), "decided", {**DECIDED, **ANSWER}, ASKED),
        (an_intent(NAMED, allow()._replace(verdict=Verdict.DENY)), "decided", {**DECIDED, "decision": "DENY"}, ASKED),
        (an_intent(DEFERRED), "decided", {**DECIDED, "answer_key": CALL.trace_id}, ASKED),
        (finished(origin(), CALL, Outcome.OK, ReasonCode.OK), "finished", {
            **OF_CALL, "outcome": "ok", "reason_code": "ok", "result_sha256": blind(b""), "result_bytes": 0,
        }, b"{}"),
        (finished(
            origin(), CALL, Outcome.ERROR, ReasonCode.UPSTREAM_ERROR, error="it broke", result=b"12345",
            answer=KeptAnswer("k-1", "d" * 64, b"sealed"), upstream_status=502, credential="db", kill_id="k-9",
            latency_us={"upstream": 5}, labels=["secret", "pii"],
        ), "finished", {
            **OF_CALL, "outcome": "error", "reason_code": "upstream_error", "result_sha256": blind(b"12345"),
            "result_bytes": 5, "answer_key": "k-1", "call_sha256": "d" * 64, "on_behalf_of": "alice",
            "upstream_status": 502, "credential": "db", "kill_id": "k-9", "latency_us": {"upstream": 5},
            "labels": ["pii", "secret"],
        }, b'{"error":"it broke"}'),
        (closed(origin(), record_of(an_intent()), Outcome.UNKNOWN, "it died"), "finished", {
            **UNRECORDED, "outcome": "unknown",
        }, b'{"error":"it died"}'),
        (closed(origin(), record_of(an_intent(DEFERRED)), Outcome.NOT_SENT, "no"), "finished", {
            **UNRECORDED, "outcome": "not_sent", "answer_key": CALL.trace_id, "call_sha256": CALL.digest,
            "on_behalf_of": "alice",
        }, b'{"error":"no"}'),
        (closed(origin(), record_of(an_intent(NAMED, WHOLE)), Outcome.UNKNOWN, "no"), "finished", {
            **UNRECORDED, "outcome": "unknown", "answer_key": NAMED.answer_key, "call_sha256": "e" * 64,
            "on_behalf_of": "alice",
        }, b'{"error":"no"}'),
        (killed(origin(), KILL, auth="api_key"), "killed", {
            **OF_KILL, "principal": "person:op", "auth": "api_key", "expires_at": "2026-11-21T10:00:00.000000Z",
        }, b'{"reason":"because"}'),
        (released(
            origin(), KILL, actor="person:b", auth="key", why="release", forced=True, asked_by=("x", "y")
        ), "released", {
            **OF_KILL, "principal": "person:b", "auth": "key", "why": "release", "forced": True, "asked_by": ["x", "y"],
        }, b"{}"),
        (acked(origin(), Acknowledgement("m-1", 3, 1, 2, 4, 4.5)), "acked", {
            "position": 3, "cancelled": 1, "finished": 2, "unknown": 4, "took_us": 4500,
        }, b"{}"),
        (drained(
            origin(), KILL, position=7, members=("m-1", "m-2"), progress=Progress((), ("m-2",), ("m-3",))
        ), "drained", {
            **OF_KILL, "principal": "person:op", "position": 7, "members": ["m-1", "m-2"], "drained": False,
            "excepted": ["m-2"], "attested": ["m-3"],
        }, b"{}"),
        (gone(origin(), "m-2", why="attested", **BY), "gone", {
            "principal": "person:op", "of": "m-2", "why": "attested", "auth": "api_key",
        }, b"{}"),
        (gone(origin(), "m-2", why="presumed"), "gone", {"of": "m-2", "why": "presumed"}, b"{}"),
        (release_asked(origin(), KILL, actor="person:a", auth="key"), "release_asked", {
            **OF_KILL, "principal": "person:a", "auth": "key",
        }, b"{}"),
        (exported(origin(), actor="person:aud", tenant="acme", form="zip", what={"of_session": "s-1"}), "exported", {
            "tenant": "acme", "principal": "person:aud", "format": "zip", "of_session": "s-1",
        }, b"{}"),
        (pruned(
            origin(), actor="person:op", tenant="acme", session="s-1", why="forced", bodies=3, through=9
        ), "pruned", {
            "tenant": "acme", "session": "s-1", "principal": "person:op", "why": "forced", "bodies": 3, "through": 9,
        }, b"{}"),
        (held(origin(), HOLD, auth=BY["auth"]), "held", OF_HOLD,
         b'{"reason":"court"}'),
        (unheld(origin(), HOLD, **BY, reason="over"), "unheld", OF_HOLD,
         b'{"reason":"over"}'),
        (unheld(origin(), HOLD, **BY), "unheld", OF_HOLD, b"{}"),
        (keyed(origin(), use="checkpoints", algorithm="ed25519", key_id="ab", public="log+ab+cd"), "keyed", {
            "use": "checkpoints", "algorithm": "ed25519", "key_id": "ab", "public": "log+ab+cd",
        }, b"{}"),
        (keys_changed(origin(), {"added": ["k-1", "k-2"], "removed": []}, "f" * 64), "keys_changed", {
            "added": ["k-1", "k-2"], "removed": [], "counts": {"added": 2, "removed": 0}, "change": "f" * 64,
        }, b"{}"),
        (tool_accepted(
            origin(), READ, pin="p", access="read", trust="operator", subject=SUBJECT, **BY
        ), "tool_accepted", {
            **OF_TOOL, "principal": "person:op", "auth": "api_key", "pin": "p", "access": "read", "trust": "operator",
        }, b'{"subject":{"tool":{}}}'),
        (tool_accepted(origin(), READ, pin="p", access="read", trust="first_use", subject=SUBJECT), "tool_accepted", {
            **OF_TOOL, "pin": "p", "access": "read", "trust": "first_use",
        }, b'{"subject":{"tool":{}}}'),
        (tool_quarantined(origin(), READ, pin="p", found="q", accepted=3, subject=SUBJECT, changes=["one"]),
         "tool_quarantined", {**OF_TOOL, "pin": "p", "found": "q", "accepted": 3},
         b'{"changes":["one"],"subject":{"tool":{}}}'),
        (tool_rejected(origin(), READ, found="q", subject=SUBJECT, **BY), "tool_rejected", {
            **OF_TOOL, "principal": "person:op", "auth": "api_key", "found": "q",
        }, b'{"subject":{"tool":{}}}'),
        (answered(
            origin(), principal(), {"trace_id": "t", "tool": "x", "key": "k", "session": "s-1"}, Door.MCP
        ), "answered", {
            **WHOSE, "trace_id": "t", "tool": "x", "answer_key": "k", "door": "mcp", "auth": "api_key",
        }, b"{}"),
        (answers_closed(origin(), 9), "answers_closed", {"through": 9}, b"{}"),
    ]  # fmt: skip


COMMON = {
    "v": 1,
    "id": "0197-000001",
    "at": "2026-11-21T09:00:05.000000Z",
    "member": "m-1",
    "counter": 1,
    "version": "0.3.0",
}


def test_every_event_says_exactly_this() -> None:
    for event, kind, fields, body in said():
        wanted = {**COMMON, "kind": kind, "body_sha256": salted(body), **fields}
        assert orjson.loads(event.leaf) == event.fields == wanted
        assert (event.body, event.salt) == (body, origin().salt)
        about = (event.id, event.at, event.kind.value, event.tenant, event.session, event.principal)
        names = ("id", "at", "kind", "tenant", "session", "principal")
        assert about == tuple(wanted.get(name, "") for name in names)


def test_a_receipt_of_very_many_members_names_the_newest_and_counts_all() -> None:
    """Members that die without a word stay in every later kill: their names must not outgrow a leaf."""
    names = tuple(f"{number:016x}" for number in range(3_000))
    here, dead, attested = names[2_900:], names[1_400:2_900], names[:1_400]
    event = drained(origin(), KILL, position=7, members=names, progress=Progress((), dead, attested))
    found = [event.fields[name] for name in ("members", "excepted", "attested")]
    assert found == [list(some[-1_000:]) for some in (names, dead, attested)]
    assert set(here) <= set(found[0])
    assert event.fields["counts"] == {"members": 3_000, "excepted": 1_500, "attested": 1_400}
    few = drained(origin(), KILL, position=7, members=names[:1_000], progress=Progress((), names[:1_000], ()))
    assert "counts" not in few.fields


def test_answer_that_is_kept_goes_beside_the_event_and_not_into_it() -> None:
    answer = KeptAnswer("k-1", "d" * 64, b"sealed")
    assert finished(origin(), CALL, Outcome.OK, ReasonCode.OK, answer=answer).projected == {"answer": b"sealed"}
    assert finished(origin(), CALL, Outcome.OK, ReasonCode.OK).projected is None
