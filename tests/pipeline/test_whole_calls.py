"""What is written down and said of a call, whole: every field of its events, its answer, its times and its counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agentgate.core.approval import State, Void, Why
from agentgate.core.budget import Period
from agentgate.core.call import Call, Clean, Door
from agentgate.core.containment import KillState, Scope
from agentgate.core.decision import Decision, Grant, Ruling, Verdict, refusal
from agentgate.core.errors import KillStateUnknown, ReasonCode
from agentgate.core.event import Event, Kind, Outcome
from agentgate.core.keyed import keyed_sha256
from agentgate.core.redaction.redactor import Redactor
from agentgate.core.strict_json import parse
from agentgate.pipeline.calls.passage import Answer, PendingApproval
from agentgate.pipeline.calls.run import Route
from agentgate.ports.containment import Admitted, BudgetState, Counted, LimitState, NotAdmitted, Quota
from agentgate.ports.upstreams import Credential, Delivered, Undelivered
from tests.fakes import (
    ADMIN,
    ALLOW,
    ALLOW_WRITE,
    ASK,
    DENY,
    REVISION,
    TOOL,
    FakeAdmission,
    FakeClock,
    FakeUpstream,
    a_call,
    a_kill,
    principal,
)
from tests.pipeline.conftest import House, a_moment, ended, given, until
from tests.pipeline.test_gate import FailsOn

_OF_EVENT = {"v", "id", "at", "kind", "member", "counter", "version", "body_sha256"}
NOW_S = 1_795_219_200
"""The fake clock's."""


def own(event: Event) -> dict[str, Any]:
    """What an event says that is not of every event."""
    return {name: value for name, value in event.fields.items() if name not in _OF_EVENT}


def about(call: Call) -> dict[str, Any]:
    found = {
        "trace_id": call.trace_id,
        "door": "rest",
        "tool": call.tool_name,
        "tenant": "default",
        "session": call.session,
        "principal": call.caller.id,
    }
    if call.tool is not None:
        found |= {"server": call.tool.upstream, "tool_sha256": call.tool.definition_sha256}
    return found


def decision_on(call: Call, event: Event, **fields: Any) -> dict[str, Any]:
    return about(call) | {
        "auth": "api_key",
        "call_sha256": call.digest,
        "arguments_sha256": keyed_sha256(b"", event.salt + call.arguments_json),
        "policy_revision": REVISION,
        "write": False,
        "position": 0,
        "latency_us": {"admission": 0, "policy": 0},
        **fields,
    }


def outcome_of(call: Call, event: Event, result: bytes = b"", **fields: Any) -> dict[str, Any]:
    found = {"result_sha256": keyed_sha256(b"", event.salt + result), "result_bytes": len(result)}
    return (
        about(call) | found | {"latency_us": dict.fromkeys(("admission", "policy", "append", "upstream"), 0)} | fields
    )


class SlowAdmission(FakeAdmission):
    """Takes a millisecond."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        self._clock.move(0.001)
        return await super().admit(call, quota, seen)


@dataclass
class SlowUpstream(FakeUpstream):
    """Takes four."""

    clock: FakeClock = field(default_factory=FakeClock)

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        self.clock.move(0.004)
        return await super().send(grant, credential)


async def test_an_allowed_call_is_on_record_in_full_with_its_times() -> None:
    clock = FakeClock()
    house = House(clock=clock, admission=SlowAdmission(clock), upstream=SlowUpstream(clock=clock))
    house.admission.limit = LimitState(10, 9, NOW_S)
    house.upstream.answer = Delivered({"ok": True}, 201)

    def think(_: object) -> object:
        clock.move(0.002)
        return ALLOW

    house.engine.answer = think
    house.log.on_append = lambda _: clock.move(0.003)
    call = replace(a_call(arguments={"b": 1, "a": "x"}), context={"why": "test"}, traceparent="00-1-2-01")
    answer = await house.gate.pass_through(call)
    (decided, _), (finished, _) = house.log.events
    assert own(decided) == decision_on(
        call,
        decided,
        traceparent="00-1-2-01",
        decision="ALLOW",
        reason_code="policy_allow",
        rule="read_only_tools",
        latency_us={"admission": 1000, "policy": 2000},
    )
    assert parse(decided.body) == {"arguments": {"a": "x", "b": 1}, "context": {"why": "test"}, "reason": "read"}
    times = {"admission": 1000, "policy": 2000, "append": 3000, "upstream": 4000}
    assert own(finished) == outcome_of(
        call,
        finished,
        b'{"ok":true}',
        traceparent="00-1-2-01",
        outcome="ok",
        reason_code="ok",
        upstream_status=201,
        latency_us=times,
    )
    assert finished.body == b"{}"
    assert answer == Answer(
        call,
        Decision(Verdict.ALLOW, ReasonCode.POLICY_ALLOW, "read", "read_only_tools", REVISION),
        ReasonCode.OK,
        result_json=b'{"ok":true}',
        outcome=Outcome.OK,
        limit=LimitState(10, 9, NOW_S),
    )
    assert house.meter.steps == [(name, us / 1e6) for name, us in times.items()]
    assert house.meter.finished == [("db_query", "ALLOW", 0.013)]
    assert house.meter.counts == {("calls", "ALLOW"): 1, ("policy ALLOW", "read_only_tools"): 1}
    question = house.engine.asked[0]
    assert (question["arguments"], question["has_approval_token"]) == ({"a": "x", "b": 1}, False)
    assert house.upstream.sent[0].call is call


async def test_a_refused_call_is_on_record_in_full(house: House) -> None:
    house.engine.answer = Ruling({**DENY, "is_write_action": True}, REVISION)
    call = a_call()
    answer = await house.gate.pass_through(call)
    ((decided, _),) = house.log.events
    fields = {"decision": "DENY", "reason_code": "policy_deny", "rule": "default_deny", "write": True}
    assert own(decided) == decision_on(call, decided, **fields)
    decision = Decision(Verdict.DENY, ReasonCode.POLICY_DENY, "No matching rule", "default_deny", REVISION)
    assert answer == Answer(
        call, decision._replace(is_write_action=True), ReasonCode.POLICY_DENY, error="Policy denied: No matching rule"
    )
    assert house.meter.finished == [("db_query", "DENY", 0.0)]


async def test_a_secret_in_policys_reason_is_told_and_not_written_down(house: House) -> None:
    house.engine.answer = Ruling({**DENY, "reason": "no sk-abcdefghijklmnopqrstu"}, REVISION)
    answer = await house.gate.pass_through(a_call())
    assert answer.error == "Policy denied: no sk-abcdefghijklmnopqrstu"
    assert b"sk-abcdef" not in house.log.events[0][0].body
    assert parse(house.log.events[0][0].body)["reason"].startswith("no ")


# --- refused before policy is asked --------------------------------------------------------------------------

_KILLED_BY = "Kill switch is active for "


async def _killed_agent(house: House) -> None:
    await house.killed(scope=Scope.AGENT, target="bot")


async def _killed_all(house: House) -> None:
    await house.killed(scope=Scope.GLOBAL, target="")


async def _killed_here(house: House) -> None:
    """Of a kill in force here the fast path has only the name."""
    drain = await house.killed()
    house.admission.refusal = NotAdmitted(ReasonCode.KILLED, kill_id=drain.kill.id, position=1)


def _refusing(reason: ReasonCode, **more: Any) -> Callable[[House], Any]:
    async def prepare(house: House) -> None:
        house.admission.refusal = NotAdmitted(reason, **more)

    return prepare


async def _ahead(house: House) -> None:
    house.admission.state = KillState(7, {})


async def _closing(house: House) -> None:
    house.gate.closing = True


_AN_HOUR = BudgetState(Period.HOUR, "cost", 2_500_000, 2_400_000, NOW_S + 90)
_REFUSED = [
    (_killed_agent, "killed", "kill_switch", _KILLED_BY + "agent bot", None, {}),
    (_killed_all, "killed", "kill_switch", _KILLED_BY + "global", None, {}),
    (_killed_here, "killed", "kill_switch", _KILLED_BY + "session s-1", None, {}),
    (_refusing(ReasonCode.KILLED, kill_id="kill-unheard"), "killed", "kill_switch", _KILLED_BY + "this call", None, {}),
    (
        _refusing(ReasonCode.KILL_STATE_UNKNOWN, detail="it is empty"),
        "kill_state_unknown",
        "kill_switch",
        "Kill switch state unknown: it is empty",
        None,
        {("kill_state_unknown", ""): 1},
    ),
    (
        _ahead,
        "kill_state_unknown",
        "kill_switch",
        "Kill switch state unknown: the log is older than the kill store",
        None,
        {("kill_state_unknown", ""): 1},
    ),
    (_closing, "shutting_down", "shutting_down", "The gateway is shutting down", None, {}),
    (
        _refusing(ReasonCode.RATE_LIMITED, limit=LimitState(10, 0, NOW_S + 7)),
        "rate_limited",
        "rate_limit",
        "Rate limit exceeded",
        7,
        {("rate_limited", "db_query"): 1},
    ),
    (
        _refusing(ReasonCode.RATE_LIMITED, limit=LimitState(3, 0, NOW_S - 5, Counted.SESSION)),
        "rate_limited",
        "rate_limit_session",
        "Rate limit exceeded: 3 requests per minute of this session (tier default)",
        1,
        {("rate_limited", "db_query"): 1},
    ),
    (
        _refusing(ReasonCode.BUDGET_SPENT, budget=_AN_HOUR, limit=LimitState(10, 4, NOW_S + 7)),
        "budget_spent",
        "budget_hour_cost",
        "Budget spent: this agent's budget for the hour has cost 2.5",
        90,
        {("budget_spent", "hour_cost"): 1},
    ),
    (
        _refusing(ReasonCode.BUDGET_SPENT, budget=BudgetState(Period.SESSION, "calls", 5, 5)),
        "budget_spent",
        "budget_session_calls",
        "Budget spent: this session's budget has 5 calls",
        None,
        {("budget_spent", "session_calls"): 1},
    ),
    (
        _refusing(ReasonCode.BUDGET_UNKNOWN),
        "budget_unknown",
        "budget",
        "What the session or agent has used is not known: the log is being counted",
        None,
        {("budget_unknown", "other"): 1},
    ),
]


@pytest.mark.parametrize(
    ("prepare", "reason", "rule", "text", "retry_after_s", "counts"),
    _REFUSED,
    ids=[f"{rule}-{number}" for number, (_, _, rule, *_) in enumerate(_REFUSED)],
)
async def test_a_call_that_is_not_admitted_is_told_why_and_when_to_come_again(
    house: House,
    prepare: Callable[[House], Any],
    reason: str,
    rule: str,
    text: str,
    retry_after_s: int | None,
    counts: Mapping[tuple[str, str], int],
) -> None:
    await prepare(house)
    call, before, counted = a_call(), len(house.log.events), set(house.meter.counts)
    answer = await house.gate.pass_through(call)
    assert (answer.error, answer.retry_after_s) == (f"Policy denied: {text}", retry_after_s)
    assert answer.decision == refusal(ReasonCode(reason), text, rule)
    assert answer.reason_code == reason
    ((event, _),) = house.log.events[before:]
    assert (event.fields["decision"], event.fields["reason_code"], event.fields["rule"]) == ("DENY", reason, rule)
    is_limit = answer.limit is not None and reason == "rate_limited"
    assert event.fields.get("limit") == (answer.limit.limit if is_limit and answer.limit else None)
    assert parse(event.body) == {"arguments": {}, "context": {}, "reason": text}
    new = {name: count for name, count in house.meter.counts.items() if name not in counted}
    assert new == {("calls", "DENY"): 1, **counts}
    assert (house.engine.asked, house.upstream.sent) == ([], [])
    await a_moment()


async def test_a_refusal_by_the_kill_store_is_heard_as_a_wake_up(house: House) -> None:
    """The wake-up may have been lost: what the store says of its position makes this replica read on."""
    kill = house.kill_elsewhere(a_kill(target="another"))
    house.admission.refusal = NotAdmitted(ReasonCode.RATE_LIMITED, position=kill.position)
    await house.gate.pass_through(a_call())
    await until(lambda: house.replica.position == kill.position)


async def test_a_store_that_does_not_know_its_kills_is_told_at_once(house: House) -> None:
    house.admission.state = None
    await house.gate.pass_through(a_call())
    await a_moment()
    assert house.admission.state == house.replica.state


# --- outages: nothing to record, or no way to ----------------------------------------------------------------


async def _log_is_down(house: House) -> None:
    house.log.is_down = True


async def _expelled(house: House) -> None:
    house.replica.expel()


async def _broken_engine(house: House) -> None:
    def explode(_: object) -> None:
        raise ZeroDivisionError

    house.engine.answer = explode


@pytest.mark.parametrize(
    ("prepare", "reason", "text", "counts"),
    [
        (
            _log_is_down,
            ReasonCode.LOG_UNAVAILABLE,
            "The log cannot be written; nothing runs",
            {("log_unavailable", ""): 1, ("policy ALLOW", "read_only_tools"): 1},
        ),
        (_expelled, ReasonCode.KILL_STATE_UNKNOWN, "Kill switch state unknown", {}),
        (_broken_engine, ReasonCode.INTERNAL, "Internal error", {}),
    ],
)
async def test_an_outage_says_what_is_out_and_leaves_nothing_behind(
    house: House, prepare: Callable[[House], Any], reason: ReasonCode, text: str, counts: Mapping[tuple[str, str], int]
) -> None:
    house.admission.limit = LimitState(10, 9, NOW_S)
    await prepare(house)
    call = a_call()
    answer = await house.gate.pass_through(call)
    limit = None if prepare is _expelled else LimitState(10, 9, NOW_S)
    assert answer == Answer(call, refusal(reason, text), reason, f"Policy denied: {text}", limit=limit)
    assert answer.is_outage
    assert house.meter.counts == {("calls", "DENY"): 1, **counts}
    assert (house.log.events, house.admission.admitted, list(house.replica.flights())) == ([], set(), [])


async def test_a_call_outside_a_task_is_not_taken(house: House) -> None:
    """A kill cuts tasks: what runs in none could not be cut."""
    stepped, loop = house.gate.pass_through(a_call()), asyncio.get_running_loop()
    refused = loop.create_future()

    def step() -> None:
        with pytest.raises(RuntimeError, match="calls run in tasks") as raised:
            stepped.send(None)
        refused.set_result(str(raised.value))

    loop.call_soon(step)
    assert await refused == "calls run in tasks: without one a kill could not cut them"
    assert (house.log.events, list(house.replica.flights())) == ([], [])


# --- approvals -----------------------------------------------------------------------------------------------


def _write_policy(asked: Mapping[str, Any]) -> object:
    return ALLOW_WRITE if asked["has_approval_token"] else ASK


async def test_a_call_that_waits_for_an_approval_is_on_record_in_full(house: House) -> None:
    house.engine.answer = _write_policy
    call = a_call()
    answer = await house.gate.pass_through(call)
    (requested, decided) = (event for event, _ in house.log.events)
    ask = Decision(
        Verdict.REQUIRE_APPROVAL, ReasonCode.APPROVAL_REQUIRED, "a write", "write_requires_approval", REVISION
    )
    approval_id = requested.fields["approval_id"]
    assert requested.body == b"{}"
    assert own(requested) == {
        "approval_id": approval_id,
        "call_sha256": call.digest,
        "policy_revision": REVISION,
        "expires_at": "2026-11-21T00:15:00.000000Z",
        "tool": "db_query",
        "server": "demo",
        "tool_sha256": TOOL.definition_sha256,
        "trace_id": call.trace_id,
        "quorum": 1,
        "approvers": [],
        "tenant": "default",
        "session": "s-1",
        "principal": "agent:bot",
    }
    assert own(decided) == decision_on(
        call,
        decided,
        decision="REQUIRE_APPROVAL",
        reason_code="approval_required",
        rule="write_requires_approval",
        approval_id=approval_id,
    )
    assert answer == Answer(
        call,
        ask._replace(approval_id=approval_id),
        ReasonCode.APPROVAL_REQUIRED,
        "Approval required: a write",
        approval=PendingApproval(approval_id, "pending", "2026-11-21T00:15:00.000000Z", call.trace_id),
    )


async def _asked(house: House) -> str:
    house.engine.answer = _write_policy
    answer = await house.gate.pass_through(a_call())
    assert answer.approval is not None
    return answer.approval.id


async def test_an_approved_call_says_who_approved_it_and_by_which_approval(house: House) -> None:
    approval_id = await _asked(house)
    await house.approvals.decide(ADMIN, approval_id, State.APPROVED)

    def think(asked: Mapping[str, Any]) -> object:
        house.clock.move(0.002)
        return _write_policy(asked)

    house.engine.answer = think
    call = a_call()
    answer = await house.gate.pass_through(call)
    event = house.log.events[-2][0]
    assert own(event) == decision_on(
        call,
        event,
        decision="ALLOW",
        reason_code="policy_allow",
        rule="write_with_approval",
        write=True,
        approval_id=approval_id,
        approved_by=ADMIN.id,
        latency_us={"admission": 0, "policy": 4000},
    )
    assert (answer.approval, answer.edited, answer.success) == (None, None, True)
    assert [question["has_approval_token"] for question in house.engine.asked[-2:]] == [False, True]


async def test_a_denied_call_says_who_denied_it(house: House) -> None:
    approval_id = await _asked(house)
    await house.approvals.decide(ADMIN, approval_id, State.DENIED)
    answer = await house.gate.pass_through(a_call())
    denied = refusal(ReasonCode.APPROVAL_DENIED, "Approval denied", revision=REVISION)
    assert answer.decision == denied._replace(approval_id=approval_id, approved_by=ADMIN.id)
    assert (answer.error, answer.approval) == ("Policy denied: Approval denied", None)
    assert house.log.of(Kind.DECIDED)[-1]["approval_id"] == approval_id


async def test_a_deferred_call_whose_approval_is_gone_says_what_became_of_it(house: House) -> None:
    approval_id = await _asked(house)
    approval = await house.approvals.approval(approval_id)
    assert approval is not None
    await house.approvals.close(approval, State.VOID, Void(Why.REFUSED))
    answer = await house.gate.pass_through(replace(a_call(), deferred=True, carried_by=approval_id))
    over = refusal(ReasonCode.APPROVAL_SPENT, "The approval of this call is void", revision=REVISION)
    assert answer.decision == over._replace(approval_id=approval_id)


async def test_who_loses_the_race_for_an_approval_is_refused_on_record(house: House) -> None:
    approval_id = await _asked(house)
    await house.approvals.decide(ADMIN, approval_id, State.APPROVED)
    first, second = await asyncio.gather(*(house.gate.pass_through(a_call()) for _ in range(2)))
    assert first.success
    spent = refusal(ReasonCode.APPROVAL_SPENT, "Approval already used", revision=REVISION)
    assert (second.decision, second.approval) == (spent, None)
    (recorded,) = (fields for fields in house.log.of(Kind.DECIDED) if fields["trace_id"] == second.call.trace_id)
    assert (recorded["decision"], recorded["reason_code"], recorded["approval_id"]) == (
        "DENY",
        "approval_spent",
        approval_id,
    )


async def test_a_replica_that_was_declared_gone_hears_it_from_the_log_and_grants_nothing(house: House) -> None:
    house.log.tables.rows["members"][("m-1",)]["gone_idx"] = 0  # type: ignore[index]
    answer = await house.gate.pass_through(a_call())
    text = "This replica was declared gone and is joining anew"
    assert answer.decision == refusal(ReasonCode.KILL_STATE_UNKNOWN, text)
    assert house.replica.is_expelled
    assert house.upstream.sent == []


async def test_a_question_of_a_replica_that_was_declared_gone_is_none(house: House) -> None:
    house.engine.answer = _write_policy
    house.log.tables.rows["members"][("m-1",)]["gone_idx"] = 0  # type: ignore[index]
    answer = await house.gate.pass_through(a_call())
    assert (answer.reason_code, answer.approval) == (ReasonCode.KILL_STATE_UNKNOWN, None)
    assert house.replica.is_expelled


async def test_the_session_of_somebody_else_is_refused_in_these_words(house: House) -> None:
    await house.gate.pass_through(a_call())
    answer = await house.gate.pass_through(a_call(caller=principal("thief")))
    text = "The session belongs to another principal"
    assert answer.decision == refusal(ReasonCode.FOREIGN_SESSION, text)
    assert answer.error == f"Policy denied: {text}"


# --- between the record and the send -------------------------------------------------------------------------


def _slips_in(house: House, what: Callable[[], Any]) -> None:
    def slip_in(event: Event) -> None:
        if event.kind is Kind.DECIDED:
            house.log.on_append = lambda _: None
            what()

    house.log.on_append = slip_in


async def _not_sent(house: House, reason: ReasonCode, error: str, **fields: Any) -> None:
    call = a_call()
    answer = await house.gate.pass_through(call)
    assert (answer.decision.allowed, answer.outcome, answer.reason_code) == (True, Outcome.NOT_SENT, reason)
    assert (answer.error, answer.result_json, house.upstream.sent) == (error, None, [])
    event = house.log.events[-1][0]
    expected = outcome_of(call, event, outcome="not_sent", reason_code=reason.value, **fields)
    del expected["latency_us"]
    assert own(event) == expected


async def test_a_kill_before_the_send_is_named_in_the_outcome(house: House) -> None:
    kill = a_kill()
    _slips_in(house, lambda: house.kill_elsewhere(kill))
    await _not_sent(house, ReasonCode.KILLED, "Kill switch is active for session s-1", kill_id=kill.id)


async def test_a_lapse_before_the_send_is_named_in_the_outcome(house: House) -> None:
    _slips_in(house, house.replica.lapse)
    await _not_sent(house, ReasonCode.KILL_STATE_UNKNOWN, "Kill switch state unknown")


async def test_a_receipt_that_is_ahead_of_a_log_that_cannot_be_read_is_not_sent_and_says_so(house: House) -> None:
    _slips_in(house, lambda: house.kill_elsewhere(a_kill(target="another")))

    async def fail(position: int) -> None:
        raise KillStateUnknown("told to fail")

    reach, house.replica.reach = house.replica.reach, fail  # type: ignore[method-assign]
    call = replace(a_call(), idempotency_key="k-1")
    answer = await house.gate.pass_through(call)
    assert (answer.reason_code, answer.outcome) == (ReasonCode.KILL_STATE_UNKNOWN, None)
    assert answer.is_outage
    assert house.upstream.sent == []
    assert house.log.of(Kind.FINISHED)[0]["reason_code"] == "kill_state_unknown"
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "not_sent"
    house.replica.reach = reach  # type: ignore[method-assign]
    again = await house.gate.pass_through(call)
    assert (again.error, again.outcome) == ("Kill switch state unknown", Outcome.NOT_SENT)


# --- with its upstream ---------------------------------------------------------------------------------------


async def _cut(house: House, act: Callable[[], Any]) -> tuple[Answer, Event]:
    house.runner._routes = {"demo": Route(house.upstream, "a", _OneCredential())}
    task = await house.running()
    act()
    answer = await task
    await a_moment()
    return answer, next(event for event, _ in house.log.events if event.kind is Kind.FINISHED)


async def test_a_cut_call_is_on_record_in_full(house: House) -> None:
    kill = a_kill(position=1)
    answer, event = await _cut(house, lambda: house.replica.advance(given(kill)))
    assert own(event) == outcome_of(
        answer.call, event, outcome="cancelled", reason_code="killed", kill_id=kill.id, credential="a"
    )
    assert parse(event.body) == {"error": "upstream effect unknown"}
    assert (answer.outcome, answer.reason_code) == (Outcome.CANCELLED, ReasonCode.KILLED)
    assert answer.error == "Cut by a kill switch while running; upstream effect unknown"


async def test_a_lapsed_call_is_on_record_in_full(house: House) -> None:
    answer, event = await _cut(house, house.replica.lapse)
    fields = {"outcome": "cancelled", "reason_code": "kill_state_unknown", "credential": "a"}
    assert own(event) == outcome_of(answer.call, event, **fields)
    assert (answer.outcome, answer.reason_code) == (Outcome.CANCELLED, ReasonCode.KILL_STATE_UNKNOWN)
    assert answer.error == "Cut: kill switches could not be heard; upstream effect unknown"


_FAULT = {"code": -32000, "message": "no", "data": {"why": "secret-credential"}}


@pytest.mark.parametrize(
    ("sent", "outcome", "error", "written"),
    [
        (
            Undelivered(ReasonCode.UPSTREAM_ERROR, "no such table", status=500, fault=_FAULT),
            Outcome.ERROR,
            "Tool execution failed: no such table",
            "no such table",
        ),
        (
            Undelivered(ReasonCode.UPSTREAM_TIMEOUT, "no answer in time"),
            Outcome.UNKNOWN,
            "Tool execution failed: no answer in time; upstream effect unknown",
            "no answer in time",
        ),
        (
            Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "it hung up"),
            Outcome.UNKNOWN,
            "Tool execution failed: it hung up; upstream effect unknown",
            "it hung up",
        ),
        (
            Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "no connection", reached=False),
            Outcome.NOT_SENT,
            "Tool execution failed: no connection",
            "no connection",
        ),
        (
            Undelivered(ReasonCode.UPSTREAM_ERROR, "it says secret-credential and \udcff"),
            Outcome.ERROR,
            "Tool execution failed: it says [redacted] and ?",
            "it says [redacted] and ?",
        ),
        (Delivered(float("nan"), 200), Outcome.ERROR, None, None),
    ],
)
async def test_what_fails_upstream_is_on_record_in_full(
    house: House, sent: Delivered | Undelivered, outcome: Outcome, error: str | None, written: str | None
) -> None:
    house.runner._routes = {"demo": Route(house.upstream, "a", _OneCredential())}
    house.upstream.answer = sent
    call = a_call()
    answer = await house.gate.pass_through(call)
    event = house.log.events[-1][0]
    reason = sent.reason if isinstance(sent, Undelivered) else ReasonCode.UPSTREAM_ERROR
    status = {"upstream_status": sent.status} if sent.status is not None else {}
    fields = {"outcome": outcome.value, "reason_code": reason.value, "credential": "a", **status}
    assert own(event) == outcome_of(call, event, **fields)
    assert (answer.outcome, answer.reason_code, answer.result_json) == (outcome, reason, None)
    if error is None:
        assert (answer.error or "").startswith("Tool execution failed: the answer is not strict JSON: ")
    else:
        assert (answer.error, parse(event.body)) == (error, {"error": written})
    if isinstance(sent, Undelivered) and sent.fault is not None:
        assert answer.fault_json is not None
        assert parse(answer.fault_json) == _FAULT | {"data": {"why": "[redacted]"}}
    else:
        assert answer.fault_json is None


async def test_a_call_whose_adapter_fails_has_an_outcome_that_nobody_knows(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: object) -> Delivered | Undelivered:
        raise KeyError("result")

    monkeypatch.setattr(house.upstream, "send", fails)
    call = a_call()
    answer = await house.gate.pass_through(call)
    event = house.log.events[-1][0]
    assert own(event) == outcome_of(call, event, outcome="unknown", reason_code="upstream_unavailable")
    assert (answer.decision.verdict, answer.outcome) == (Verdict.ALLOW, Outcome.UNKNOWN)
    assert answer.error == "Tool execution failed: its adapter failed; upstream effect unknown"
    assert "KeyError: 'result'" in caplog.text


async def test_a_call_whose_answer_cannot_be_dealt_with_has_an_outcome_that_nobody_knows(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> tuple[str, ...]:
        raise KeyError("labels")

    monkeypatch.setattr(house.runner._questions, "labels", fails)
    call = a_call()
    answer = await house.gate.pass_through(call)
    event = house.log.events[-1][0]
    assert own(event) == outcome_of(call, event, outcome="unknown", reason_code="upstream_unavailable")
    assert (answer.decision.verdict, answer.outcome) == (Verdict.ALLOW, Outcome.UNKNOWN)
    assert answer.error == "Tool execution failed: its answer could not be dealt with; upstream effect unknown"
    assert "KeyError: 'labels'" in caplog.text


class _OneCredential:
    """A `CredentialSource` of one secret; `asked` is how it was asked."""

    def __init__(self, secret: str | None = "secret-credential") -> None:
        self._secret = secret
        self.asked: list[tuple[Any, ...]] = []

    async def credential(
        self, alias: str, *, scope: str | None, ttl_s: int | None, call: Call | None = None
    ) -> Credential | None:
        await asyncio.sleep(0)
        self.asked.append((alias, scope, ttl_s, call))
        return Credential(alias, self._secret) if self._secret is not None else None


async def test_an_answer_with_a_credential_is_on_record_with_its_alias_alone(house: House) -> None:
    source = _OneCredential()
    house.runner._routes = {"demo": Route(house.upstream, "a", source)}
    house.upstream.answer = Delivered({"said": "secret-credential"})
    call = a_call()
    answer = await house.gate.pass_through(call)
    event = house.log.events[-1][0]
    said = b'{"said":"[redacted]"}'
    assert answer.result_json == said
    assert own(event) == outcome_of(call, event, said, outcome="ok", reason_code="ok", credential="a")
    assert source.asked == [("a", None, None, call)]


async def test_an_answer_is_told_as_it_came_where_policy_obliges_to_nothing(house: House) -> None:
    house.upstream.answer = Delivered({"email": "a.person@example.org"})
    assert (await house.gate.pass_through(a_call())).result_json == b'{"email":"a.person@example.org"}'


async def test_an_answer_that_is_withheld_is_on_record_with_its_status_and_without_its_text() -> None:
    house = House()
    house.engine.answer = Ruling({**ALLOW, "obligations": [{"type": "redact_result"}]}, REVISION)
    house.upstream.answer = Delivered({"note": "CANARY"}, 203)
    house.recorder.redactor = Redactor(None, [FailsOn("CANARY")])
    call = a_call()
    answer = await house.gate.pass_through(call)
    event = house.log.events[-1][0]
    fields = {"outcome": "error", "reason_code": "redaction_failed", "upstream_status": 203}
    assert own(event) == outcome_of(call, event, **fields)
    assert parse(event.body) == {"error": "the answer could not be redacted"}
    assert answer.error == "Tool execution failed: the answer could not be redacted"
    assert house.meter.counts["redaction_failed", ""] == 1


@pytest.mark.parametrize("is_sent", [True, False])
async def test_who_asks_again_for_a_call_that_ended_with_its_process_is_told_so(house: House, is_sent: bool) -> None:
    if not is_sent:
        house.runner._routes = {"demo": Route(house.upstream, "a", _Never())}
    house.upstream.hold()
    call = replace(a_call(), idempotency_key="k-1")
    task = asyncio.create_task(house.gate.pass_through(call))
    await until(lambda: house.upstream.sent or (house.log.events and not is_sent))
    task.cancel()
    await asyncio.wait([task])
    again = await house.gate.pass_through(replace(a_call(), idempotency_key="k-1"))
    text = "Cut while running; upstream effect unknown" if is_sent else "Cut before it was sent"
    outcome = Outcome.CANCELLED if is_sent else Outcome.NOT_SENT
    assert (again.error, again.outcome, again.reason_code) == (text, outcome, ReasonCode.SHUTTING_DOWN)
    assert (again.is_replayed, again.is_outage, again.call.trace_id) == (True, False, call.trace_id)


class _Never:
    """A `CredentialSource` that does not answer."""

    async def credential(self, *args: Any, **more: Any) -> Credential | None:
        return await asyncio.Event().wait() and None


async def test_a_call_without_its_credential_says_which(house: House) -> None:
    house.runner._routes = {"demo": Route(house.upstream, "a", _OneCredential(None))}
    await _not_sent(
        house, ReasonCode.CREDENTIAL_UNAVAILABLE, "Credential broker unavailable: no secret for a", credential="a"
    )


@pytest.mark.parametrize(
    ("cut", "reason", "error", "kill"),
    [
        (
            lambda house: house.replica.advance(given(a_kill(position=1))),
            ReasonCode.KILLED,
            "Cut by a kill switch before it was sent",
            {"kill_id": "kill-session-s-1"},
        ),
        (lambda house: house.replica.lapse(), ReasonCode.KILL_STATE_UNKNOWN, "Kill switch state unknown", {}),
    ],
)
async def test_a_call_that_is_cut_while_its_credential_is_asked_for_says_so(
    house: House, cut: Callable[[House], None], reason: ReasonCode, error: str, kill: dict[str, str]
) -> None:
    class Slow(_Never):
        async def credential(self, *args: Any, **more: Any) -> Credential | None:
            cut(house)
            return await super().credential()

    house.runner._routes = {"demo": Route(house.upstream, "a", Slow())}
    call = a_call()
    answer = await house.gate.pass_through(call)
    await a_moment()
    event = next(event for event, _ in house.log.events if event.kind is Kind.FINISHED)
    expected = outcome_of(call, event, outcome="not_sent", reason_code=reason.value, credential="a", **kill)
    del expected["latency_us"]
    assert own(event) == expected
    assert (answer.error, answer.outcome, house.upstream.sent) == (error, Outcome.NOT_SENT, [])
    acks = house.log.of(Kind.ACKED)
    assert [(ack["cancelled"], ack["finished"]) for ack in acks] == ([(0, 1)] if kill else [])


class _Peer:
    """A caller that has taken its call back; `guarded` is what it was told of what comes beside the answer."""

    withdrawn = True

    def __init__(self) -> None:
        self.guarded: list[bytes] = []

    def guard(self, clean: Clean) -> None:
        self.guarded.append(clean(b'{"x":"secret-credential"}'))


async def test_a_call_that_its_caller_took_back_is_on_record_as_that(house: House) -> None:
    peer = _Peer()
    house.runner._routes = {"demo": Route(house.upstream, "a", _OneCredential())}
    house.upstream.hold()
    call = replace(a_call(), peer=peer)
    task = asyncio.create_task(house.gate.pass_through(call))
    await house.upstream.started.wait()
    assert peer.guarded == [b'{"x":"[redacted]"}']
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    event = house.log.events[-1][0]
    expected = outcome_of(call, event, outcome="cancelled", reason_code="caller_withdrew", credential="a")
    del expected["latency_us"]["upstream"]
    assert own(event) == expected
    assert parse(event.body) == {"error": "upstream effect unknown"}


async def test_a_tool_has_its_own_time_and_no_longer(house: House) -> None:
    house.upstream.hold()
    answer = await house.gate.pass_through(a_call(tool=replace(TOOL, timeout_s=0.01)))
    assert answer.error == "Tool execution failed: no answer in time; upstream effect unknown"
    assert (answer.reason_code, answer.outcome) == (ReasonCode.UPSTREAM_TIMEOUT, Outcome.UNKNOWN)
    assert house.upstream.cancelled == 1


# --- outcomes that the log would not take ---------------------------------------------------------------------


async def test_an_outcome_that_waits_does_not_keep_the_others_back(house: House) -> None:
    tasks = [await house.running(session=f"s-{number}") for number in range(3)]
    house.log.is_down = True
    house.upstream.let_go()
    answers = await asyncio.gather(*tasks)
    unrecorded = "The outcome could not be recorded; upstream effect unknown"
    assert [(answer.outcome, answer.error) for answer in answers] == [(Outcome.UNKNOWN, unrecorded)] * 3
    assert house.meter.counts["log_unavailable", ""] == 3
    house.log.is_down = False
    house.log.fail_next("append")
    assert await house.runner.write_unrecorded() == 1
    assert len(house.log.of(Kind.FINISHED)) == 2
    assert await house.runner.write_unrecorded() == 0
    assert {fields["session"] for fields in house.log.of(Kind.FINISHED)} == {"s-0", "s-1", "s-2"}


# --- what was answered before ---------------------------------------------------------------------------------


async def test_a_kept_answer_is_told_again_whole_and_under_its_own_trace(house: House) -> None:
    house.upstream.answer = Undelivered(ReasonCode.UPSTREAM_ERROR, "no", fault={"code": 1})
    call = replace(a_call(), idempotency_key="k-1", door=Door.REST)
    first = await house.gate.pass_through(call)
    house.admission.limit = LimitState(10, 8, NOW_S)
    repeated = replace(a_call(), idempotency_key="k-1")
    again = await house.gate.pass_through(repeated)
    was_allowed = Decision(Verdict.ALLOW, ReasonCode.POLICY_ALLOW, "", "policy_allow")
    assert again == Answer(
        replace(repeated, trace_id=call.trace_id),
        was_allowed,
        ReasonCode.UPSTREAM_ERROR,
        "Tool execution failed: no",
        None,
        Outcome.ERROR,
        LimitState(10, 8, NOW_S),
        fault_json=b'{"code":1}',
        is_replayed=True,
    )
    assert first.fault_json == again.fault_json
    assert not again.is_outage


async def test_a_kept_answer_is_not_told_once_a_kill_has_come(house: House) -> None:
    call = replace(a_call(), idempotency_key="k-1")
    await house.gate.pass_through(call)
    house.log.on_append = lambda event: (
        house.replica.advance(given(a_kill(position=1))) if event.kind is Kind.ANSWERED else None
    )
    again = await house.gate.pass_through(replace(a_call(), idempotency_key="k-1"))
    assert (again.reason_code, again.result_json) == (ReasonCode.KILLED, None)
    assert again.error == "Policy denied: Kill switch is active for session s-1"
    house.replica.advance(ended(a_kill(position=1), 2))
    house.admission.state = house.replica.state
    house.log.on_append = lambda event: house.replica.lapse() if event.kind is Kind.ANSWERED else None
    again = await house.gate.pass_through(replace(a_call(), idempotency_key="k-1"))
    assert (again.reason_code, again.result_json) == (ReasonCode.KILL_STATE_UNKNOWN, None)
    assert again.error == "Policy denied: Kill switch state unknown"


@pytest.mark.parametrize(
    ("sent", "counts"),
    [
        (Delivered({"ok": True}), (0, 1, 0)),
        (Undelivered(ReasonCode.UPSTREAM_ERROR, "no"), (0, 1, 0)),
        (Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "no", reached=False), (0, 1, 0)),
        (Undelivered(ReasonCode.UPSTREAM_TIMEOUT, "no"), (0, 0, 1)),
    ],
)
async def test_a_kill_that_comes_while_an_outcome_is_recorded_is_acknowledged_with_how_the_call_ended(
    house: House, sent: Delivered | Undelivered, counts: tuple[int, int, int]
) -> None:
    house.upstream.answer = sent
    house.log.on_append = lambda event: (
        house.replica.advance(given(a_kill(position=1))) if event.kind is Kind.FINISHED else None
    )
    await house.gate.pass_through(a_call())
    await until(lambda: house.log.of(Kind.ACKED))
    (ack,) = house.log.of(Kind.ACKED)
    assert (ack["cancelled"], ack["finished"], ack["unknown"]) == counts
