"""One call's life: every way out of the gate, and what was recorded and sent on that way."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.approval import State
from agentgate.core.call import Call, Role
from agentgate.core.containment import KillChanges, KillState, Scope
from agentgate.core.decision import Decision, NoRuling, Ruling, Verdict, refusal
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.event import Event, Kind, Outcome
from agentgate.core.redaction.redactor import Redactor
from agentgate.core.redaction.sensitive import Span
from agentgate.core.strict_json import parse
from agentgate.pipeline.calls.passage import Answer
from agentgate.ports.ambient import LARGE_BYTES
from agentgate.ports.log import Appended
from agentgate.ports.upstreams import Delivered, Undelivered
from tests.fakes import ADMIN, ALLOW, ALLOW_WRITE, ASK, DENY, REVISION, TOOL, HeldWorker, a_call, a_kill, principal
from tests.pipeline.conftest import STATIC_TOKEN, House, a_moment, given


async def test_allowed_call_is_recorded_before_and_after_it_is_sent(house: House) -> None:
    answer = await house.gate.pass_through(a_call())
    assert answer.success
    assert answer.result_json == b'{"ok":true}'
    assert house.log.kinds() == ["decided", "finished"]
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "ok"
    assert len(house.upstream.sent) == 1
    assert not house.admission.admitted
    assert not list(house.replica.flights())


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (DENY, ReasonCode.POLICY_DENY),
        (NoRuling(ReasonCode.POLICY_UNAVAILABLE, "x"), ReasonCode.POLICY_UNAVAILABLE),
        (NoRuling(ReasonCode.POLICY_TIMEOUT, "x"), ReasonCode.POLICY_TIMEOUT),
        (NoRuling(ReasonCode.POLICY_UNDEFINED, "x"), ReasonCode.POLICY_UNDEFINED),
        (NoRuling(ReasonCode.POLICY_ERROR, "x"), ReasonCode.POLICY_ERROR),
        ("ALLOW", ReasonCode.POLICY_MALFORMED),
        (True, ReasonCode.POLICY_MALFORMED),
        ([], ReasonCode.POLICY_MALFORMED),
        ({**ALLOW, "action": "allow"}, ReasonCode.POLICY_MALFORMED),
        ({**ALLOW, "action": ["ALLOW"]}, ReasonCode.POLICY_MALFORMED),
        ({"action": "ALLOW"}, ReasonCode.POLICY_MALFORMED),
        ({**ALLOW, "credential_ttl": True}, ReasonCode.POLICY_MALFORMED),
        ({**ALLOW, "obligations": "none"}, ReasonCode.POLICY_MALFORMED),
        ({**ALLOW, "obligations": [{"type": "call_mother"}]}, ReasonCode.OBLIGATION_UNKNOWN),
        (Ruling(ALLOW, ""), ReasonCode.POLICY_REVISION_UNKNOWN),
    ],
)
async def test_anything_but_a_well_formed_allow_is_a_recorded_refusal(
    house: House, answer: object, code: ReasonCode
) -> None:
    house.engine.answer = answer if isinstance(answer, NoRuling | Ruling) else Ruling(answer, REVISION)
    said = await house.gate.pass_through(a_call())
    assert (said.success, said.reason_code) == (False, code)
    assert house.upstream.sent == []
    assert house.log.of(Kind.DECIDED)[0]["reason_code"] == code


NEEDS_QUERY = replace(TOOL, check=lambda arguments: None if "query" in arguments else "arguments.query is required")
UNFIT = "Arguments do not fit the tool's schema: arguments.query is required"


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        (a_call(tool=None, tool_name="hack"), "unknown_tool", "Tool not in allowlist"),
        (a_call(tool=replace(NEEDS_QUERY, quarantine="changed")), "tool_quarantined", "Tool is quarantined: changed"),
        (a_call(tool=NEEDS_QUERY), "arguments_invalid", UNFIT),
    ],
    ids=["unknown", "quarantined", "unfit"],
)
async def test_what_does_not_fit_is_refused_in_these_words_before_policy_is_asked(
    house: House, call: Call, code: str, error: str
) -> None:
    answer = await house.gate.pass_through(call)
    assert (answer.reason_code, answer.error) == (code, f"Policy denied: {error}")
    assert house.engine.asked == []
    assert house.log.of(Kind.DECIDED)[0]["reason_code"] == code
    assert (await house.gate.pass_through(a_call(tool=NEEDS_QUERY, arguments={"query": 1}))).success


async def test_unreadable_kill_state_refuses_and_repairs(house: House) -> None:
    house.admission.is_down = True
    answer = await house.gate.pass_through(a_call())
    assert answer.is_outage
    assert house.log.of(Kind.DECIDED)[0]["reason_code"] == "kill_state_unknown"
    await a_moment()  # what was begun to put it right fails
    house.admission.is_down = False
    house.admission.state = None  # it comes back empty
    assert (await house.gate.pass_through(a_call())).is_outage
    await a_moment()
    assert (await house.gate.pass_through(a_call())).success
    assert len(house.upstream.sent) == 1


async def test_kill_store_ahead_of_the_log_refuses(house: House) -> None:
    """The log was rolled back, or is another one: its kills cannot be trusted to be all."""
    house.admission.state = KillState(7, {})
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.KILL_STATE_UNKNOWN
    assert house.upstream.sent == []


async def test_no_record_no_call(house: House) -> None:
    house.log.fail_next("append")
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.LOG_UNAVAILABLE
    assert answer.is_outage
    assert house.upstream.sent == []


async def test_decision_that_persisted_although_its_append_failed_is_closed_as_not_sent(house: House) -> None:
    house.log.fail_next("append", persist=True)
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.LOG_UNAVAILABLE
    assert house.upstream.sent == []
    await house.upkeep.tick()
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "not_sent"


async def test_outcome_that_cannot_be_recorded_is_not_released_and_written_later(house: House) -> None:
    house.upstream.hold()
    task = asyncio.create_task(house.gate.pass_through(a_call()))
    await house.upstream.started.wait()
    house.log.is_down = True
    house.upstream.let_go()
    answer = await task
    assert answer.reason_code is ReasonCode.OUTCOME_UNRECORDED
    assert answer.is_outage
    assert answer.result_json is None
    house.log.is_down = False
    await house.upkeep.tick()
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "ok"


async def test_kill_between_decision_and_send_is_never_sent(house: House) -> None:
    """K5: the kill slips in just before the decision is appended; nobody told this replica."""

    def slip_in(event: Event) -> None:
        if event.kind is Kind.DECIDED and house.log.position == 0:
            house.kill_elsewhere(a_kill())

    house.log.on_append = slip_in
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.KILLED
    assert answer.decision.allowed
    assert house.upstream.sent == []
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "not_sent"


async def test_kill_of_somebody_else_between_decision_and_send_lets_the_call_go(house: House) -> None:
    def slip_in(event: Event) -> None:
        if event.kind is Kind.DECIDED and house.log.position == 0:
            house.kill_elsewhere(a_kill(target="another"))

    house.log.on_append = slip_in
    assert (await house.gate.pass_through(a_call())).success
    assert house.replica.position == 1


async def test_call_that_ends_while_its_replica_reads_of_a_kill_that_came_between_is_recorded_as_not_sent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = asyncio.Event()

    async def kills_since(_: int) -> KillChanges:
        reading.set()
        await asyncio.Event().wait()
        raise AssertionError

    def slip_in(event: Event) -> None:
        if event.kind is Kind.DECIDED:
            house.kill_elsewhere(a_kill(target="another"))

    house.log.on_append = slip_in
    monkeypatch.setattr(house.log, "kills_since", kills_since)
    task = asyncio.create_task(house.gate.pass_through(a_call()))
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.upstream.sent == []
    (end,) = house.log.of(Kind.FINISHED)
    assert (end["outcome"], end["reason_code"]) == ("not_sent", "shutting_down")


async def test_kill_during_policy_evaluation_is_never_sent(house: House) -> None:
    """The peer checked once, before policy; a write that was killed while policy thought still ran."""

    def kill_now(_: object) -> object:
        house.replica.advance(given(a_kill(position=1)))
        return ALLOW

    house.engine.answer = kill_now
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.KILLED
    assert house.upstream.sent == []


async def test_kill_cuts_a_running_call_and_says_that_the_effect_is_unknown(house: House) -> None:
    house.upstream.hold()
    task = asyncio.create_task(house.gate.pass_through(a_call()))
    await house.upstream.started.wait()
    house.replica.advance(given(a_kill(position=1)))
    answer = await task
    assert answer.reason_code is ReasonCode.KILLED
    assert answer.decision.allowed
    assert answer.outcome is Outcome.CANCELLED
    assert "effect unknown" in (answer.error or "")
    assert house.upstream.cancelled == 1
    assert house.log.of(Kind.FINISHED)[0]["kill_id"] == "kill-session-s-1"
    assert task.cancelling() == 0


async def test_kill_and_deadline_at_once_are_told_as_the_kill(house: House) -> None:
    task = await house.running()
    (flight,) = house.replica.flights()
    flight.expire()
    house.replica.advance(given(a_kill(position=1)))
    answer = await task
    assert (answer.reason_code, answer.outcome) == (ReasonCode.KILLED, Outcome.CANCELLED)
    assert house.log.of(Kind.FINISHED)[0]["kill_id"] == "kill-session-s-1"
    assert task.cancelling() == 0


async def test_answer_that_races_with_its_kill_is_not_released(house: House) -> None:
    house.upstream.hold()
    task = asyncio.create_task(house.gate.pass_through(a_call()))
    await house.upstream.started.wait()
    house.upstream.let_go()
    house.replica.advance(given(a_kill(position=1)))
    answer = await task
    assert answer.result_json is None
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "cancelled"


async def test_process_that_ends_during_a_call_records_it_as_cancelled_and_says_so(house: House) -> None:
    task = await house.running()
    house.gate.closing = True
    task.cancel()
    answer = await task
    assert (answer.reason_code, answer.outcome) == (ReasonCode.SHUTTING_DOWN, Outcome.CANCELLED)
    assert answer.error == "Cut while running; upstream effect unknown"
    assert (answer.decision.allowed, answer.is_outage) == (True, False)
    (finished,) = house.log.of(Kind.FINISHED)
    assert (finished["outcome"], finished["reason_code"]) == ("cancelled", "shutting_down")
    assert task.cancelling() == 0


async def test_process_that_ends_cuts_a_call_once(house: House) -> None:
    """A second time would meet it while it records how it ended."""
    task = await house.running()
    house.gate.closing = True
    house.replica.shut()
    house.replica.shut()
    assert task.cancelling() == 1
    answer = await task
    assert (answer.reason_code, answer.outcome) == (ReasonCode.SHUTTING_DOWN, Outcome.CANCELLED)


async def asking_policy(house: House) -> asyncio.Task[Answer]:
    """A call that its policy engine never answers."""
    asked = asyncio.Event()

    async def never(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    house.engine.query = never  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(house.gate.pass_through(a_call()))
    await asked.wait()
    return task


async def test_process_that_ends_before_a_call_is_sent_says_that_it_was_not(house: House) -> None:
    task = await asking_policy(house)
    house.gate.closing = True
    task.cancel()
    answer = await task
    assert (answer.reason_code, answer.outcome, answer.decision.allowed) == (ReasonCode.SHUTTING_DOWN, None, False)
    assert house.upstream.sent == []


async def test_process_that_ends_while_an_outcome_is_written_does_not_say_that_nothing_ran(house: House) -> None:
    task = await house.running()
    house.gate.closing = True
    writing, append = asyncio.Event(), house.log.append

    async def stalled(event: Event) -> Appended:
        if event.kind is Kind.FINISHED:
            writing.set()
            await asyncio.Event().wait()
        return await append(event)

    house.log.append = stalled  # type: ignore[method-assign]
    task.cancel()
    await writing.wait()
    task.cancel()
    answer = await task
    assert (answer.reason_code, answer.outcome) == (ReasonCode.OUTCOME_UNRECORDED, Outcome.UNKNOWN)
    assert answer.decision.allowed


async def test_call_that_is_cancelled_while_the_gateway_is_open_has_nobody_to_answer(house: House) -> None:
    task = await asking_policy(house)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_session_belongs_to_the_principal_that_opened_it(house: House) -> None:
    assert (await house.gate.pass_through(a_call())).success
    answer = await house.gate.pass_through(a_call(caller=principal("thief")))
    assert answer.reason_code is ReasonCode.FOREIGN_SESSION
    assert len(house.upstream.sent) == 1
    assert house.log.of(Kind.DECIDED)[-1]["reason_code"] == "foreign_session"


async def test_question_in_anothers_session_is_refused_and_recorded(house: House) -> None:
    """It used to be answered as pending, and nothing said so anywhere."""
    assert (await house.gate.pass_through(a_call())).success
    house.engine.answer = Ruling(ASK, REVISION)
    answer = await house.gate.pass_through(a_call(caller=principal("thief")))
    assert answer.reason_code is ReasonCode.FOREIGN_SESSION
    assert answer.approval is None
    recorded = house.log.of(Kind.DECIDED)[-1]
    assert (recorded["principal"], recorded["decision"], recorded["reason_code"]) == (
        "agent:thief",
        "DENY",
        "foreign_session",
    )


async def test_secret_arguments_are_not_in_the_record(house: House) -> None:
    query = "SELECT * FROM users WHERE password = 'hunter2-very-secret'"
    await house.gate.pass_through(a_call(arguments={"query": query, "api_key": "sk-abcdefghijklmnopqrstu"}))
    written = b"".join(event.leaf + event.body for event, _ in house.log.events)
    assert b"hunter2" not in written
    assert b"sk-abcdef" not in written
    assert house.engine.asked[0]["arguments"]["query"] == query


async def test_what_a_door_refuses_is_recorded_and_asked_of_nobody(house: House) -> None:
    answer = await house.gate.pass_through(a_call(), refusal(ReasonCode.INVALID_REQUEST, "no", "the door"))
    assert (answer.success, answer.reason_code, answer.decision.matched_rule) == (
        False,
        ReasonCode.INVALID_REQUEST,
        "the door",
    )
    assert (house.engine.asked, house.upstream.sent) == ([], [])
    (recorded,) = house.log.of(Kind.DECIDED)
    assert recorded["reason_code"] == "invalid_request"


async def test_a_door_cannot_allow(house: House) -> None:
    allowed = Decision(Verdict.ALLOW, ReasonCode.POLICY_ALLOW, "yes", "the door")
    answer = await house.gate.pass_through(a_call(), allowed)
    assert answer.reason_code is ReasonCode.INTERNAL
    assert house.upstream.sent == []


# --- approvals ----------------------------------------------------------------------------------------------


def _write_policy(asked: dict[str, object]) -> object:
    return ALLOW_WRITE if asked["has_approval_token"] else ASK


async def _pending(house: House, **call: object) -> str:
    answer = await house.gate.pass_through(a_call(**call))  # type: ignore[arg-type]
    assert answer.approval is not None, answer
    return answer.approval.id


async def _approved(house: House, **call: object) -> str:

    approval_id = await _pending(house, **call)
    verdict = await house.approvals.decide(ADMIN, approval_id, State.APPROVED)
    return verdict.token or ""  # type: ignore[union-attr]


async def test_write_waits_for_approval_and_runs_once(house: House) -> None:
    house.engine.answer = _write_policy
    assert house.upstream.sent == []
    token = await _approved(house)
    assert (await house.gate.pass_through(a_call(approval_token=token))).success
    again = await house.gate.pass_through(a_call(approval_token=token))
    assert not again.success
    assert len(house.upstream.sent) == 1


@pytest.mark.parametrize("state", [State.APPROVED, State.DENIED])
async def test_an_answer_is_heard_at_once_by_who_waits_for_it(house: House, state: State) -> None:
    house.engine.answer = _write_policy
    approval_id = await _pending(house)
    waiting = asyncio.create_task(house.approvals.answered(a_call(), approval_id, 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    await house.approvals.decide(ADMIN, approval_id, state)
    assert await asyncio.wait_for(waiting, 0.4)  # another member's would take longer to be found


async def test_who_waits_for_an_answer_waits_no_longer_than_it_said(house: House) -> None:
    house.engine.answer = _write_policy
    approval_id = await _pending(house)
    assert not await house.approvals.answered(a_call(), approval_id, 0.01)
    assert house.approvals.waiting._awaited == {}


async def test_approved_call_may_be_repeated_without_its_token(house: House) -> None:
    house.engine.answer = _write_policy
    await _approved(house)
    assert (await house.gate.pass_through(a_call())).success


async def test_approval_does_not_carry_other_arguments(house: House) -> None:
    house.engine.answer = _write_policy
    token = await _approved(house)
    answer = await house.gate.pass_through(a_call(arguments={"more": 1}, approval_token=token))
    assert answer.reason_code is ReasonCode.APPROVAL_REQUIRED
    assert house.upstream.sent == []


async def test_approval_does_not_carry_another_agent(house: House) -> None:
    house.engine.answer = _write_policy
    token = await _approved(house)
    answer = await house.gate.pass_through(a_call(caller=principal("thief"), session="s-2", approval_token=token))
    assert not answer.success


async def test_wrong_token_is_not_an_approval(house: House) -> None:
    house.engine.answer = _write_policy
    await _approved(house)
    answer = await house.gate.pass_through(a_call(approval_token="fake_token_12345"))
    assert "Approval required" in (answer.error or "")


async def test_changed_policy_voids_an_approval(house: House) -> None:
    house.engine.answer = _write_policy
    token = await _approved(house)
    house.engine.answer = lambda asked: Ruling(_write_policy(asked), "sha256:another")
    answer = await house.gate.pass_through(a_call(approval_token=token))
    assert answer.reason_code is ReasonCode.APPROVAL_REQUIRED


async def test_expired_approval_is_none_and_its_arguments_go(house: House) -> None:
    house.engine.answer = _write_policy
    token = await _approved(house)
    house.clock.move(901)
    assert not (await house.gate.pass_through(a_call(approval_token=token))).success
    await house.upkeep.tick()
    assert next(row["sealed"] for row in house.log.rows("approvals")) is None


async def test_denied_approval_denies_until_it_expires(house: House) -> None:

    house.engine.answer = _write_policy
    approval_id = await _pending(house)
    await house.approvals.decide(ADMIN, approval_id, State.DENIED)
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.APPROVAL_DENIED
    house.clock.move(901)
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.APPROVAL_REQUIRED


async def test_fifty_parallel_redemptions_run_once(house: House) -> None:
    house.engine.answer = _write_policy
    token = await _approved(house)
    answers = await asyncio.gather(*(house.gate.pass_through(a_call(approval_token=token)) for _ in range(50)))
    assert sum(answer.success for answer in answers) == 1
    assert len(house.upstream.sent) == 1


async def test_agent_cannot_approve_and_neither_can_the_one_who_asked(house: House) -> None:

    house.engine.answer = _write_policy
    approval_id = await _pending(house)
    for who in (principal("bot", Role.AGENT, Role.APPROVER), principal("carl", Role.OPERATOR, person=True)):
        assert isinstance(await house.approvals.decide(who, approval_id, State.APPROVED), Refused)
    asker = principal("dora", Role.AGENT, Role.APPROVER, person=True)
    own = await _pending(house, caller=asker, session="s-dora")
    assert isinstance(await house.approvals.decide(asker, own, State.APPROVED), Refused)


async def test_static_token_works_where_configured_and_is_recorded_as_such(house: House) -> None:
    house.engine.answer = _write_policy
    assert (await house.gate.pass_through(a_call(approval_token=STATIC_TOKEN))).success
    assert house.log.of(Kind.DECIDED)[0]["approved_by"] == "static token"


@pytest.mark.parametrize(("is_needed", "approved_by"), [(True, "static token"), (False, None)])
async def test_a_read_that_the_static_token_has_allowed_says_so(
    house: House, is_needed: bool, approved_by: str | None
) -> None:
    """A pack may want an approval of a read; one that needs none is not said to have been approved."""
    house.engine.answer = lambda asked: ALLOW if asked["has_approval_token"] or not is_needed else ASK
    assert (await house.gate.pass_through(a_call(approval_token=STATIC_TOKEN))).success
    assert house.log.of(Kind.DECIDED)[0].get("approved_by") == approved_by


@pytest.mark.parametrize("token", ["é", "\x00", "a" * 512])
async def test_strange_tokens_are_only_wrong(house: House, token: str) -> None:
    """The peer answered 500 to a non-ASCII token."""
    house.engine.answer = _write_policy
    answer = await house.gate.pass_through(a_call(approval_token=token))
    assert answer.reason_code is ReasonCode.APPROVAL_REQUIRED


async def test_result_is_redacted_where_policy_obliges(house: House) -> None:
    house.engine.answer = Ruling({**ALLOW, "obligations": [{"type": "redact_result"}]}, REVISION)
    house.upstream.answer = Delivered({"email": "a.person@example.org"})
    answer = await house.gate.pass_through(a_call())
    assert answer.result_json is not None
    assert b"a.person" not in answer.result_json


async def test_every_scope_cuts(house: House) -> None:
    scopes = [
        (Scope.SESSION, "s-1"),
        (Scope.AGENT, "bot"),
        (Scope.TOOL, "db_query"),
        (Scope.SERVER, "demo"),
        (Scope.TENANT, "default"),
        (Scope.GLOBAL, ""),
    ]
    for scope, target in scopes:
        fresh = House()
        fresh.upstream.hold()
        task = asyncio.create_task(fresh.gate.pass_through(a_call()))
        await fresh.upstream.started.wait()
        fresh.replica.advance(given(a_kill(scope, target, position=1)))
        assert (await task).reason_code is ReasonCode.KILLED, scope


async def test_a_closing_gateway_takes_no_new_call(house: House) -> None:
    house.gate.closing = True
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.SHUTTING_DOWN
    assert answer.is_outage
    assert house.upstream.sent == []


# --- redaction --------------------------------------------------------------------------------------------------


class BrokenDetector:
    kinds = ("odd",)
    shortest = 1
    is_local = True

    def find(self, text: str) -> list[Span]:
        raise RuntimeError("a detector with a fault")


async def test_call_that_cannot_be_redacted_is_refused_and_recorded_without_its_content() -> None:
    house = House(redactor=Redactor(None, [BrokenDetector()]))
    answer = await house.gate.pass_through(a_call(arguments={"note": "CANARY"}))
    assert answer.reason_code is ReasonCode.REDACTION_FAILED
    assert answer.error == "Policy denied: The call could not be redacted for the log"
    assert answer.is_outage
    assert house.upstream.sent == []
    [event] = [event for event, _ in house.log.events]
    assert house.log.of(Kind.DECIDED)[0]["reason_code"] == "redaction_failed"
    assert parse(event.body)["arguments"] == {"redaction": "failed"}
    assert b"CANARY" not in event.body
    assert house.meter.counts[("redaction_failed", "")] == 1


# --- what is large ------------------------------------------------------------------------------------------------

LARGE = {"note": "password: hunter22 " + "x" * LARGE_BYTES}


def _written(house: House, answer: Answer) -> Any:
    """The arguments of a call, as they were recorded."""
    found = next(event for event, _ in house.log.events if event.fields.get("trace_id") == answer.call.trace_id)
    return parse(found.body)["arguments"]


async def _large() -> tuple[House, HeldWorker, asyncio.Task[Answer]]:
    """A call whose arguments are just about to be redacted."""
    worker = HeldWorker()
    house = House(worker=worker)
    running = asyncio.create_task(house.gate.pass_through(a_call(arguments=LARGE)))
    await worker.asked.wait()
    return house, worker, running


async def test_calls_go_on_while_a_large_one_is_redacted() -> None:
    house, worker, running = await _large()
    assert (await house.gate.pass_through(a_call())).success
    assert not running.done()
    worker.let_go.set()
    answer = await running
    assert answer.success
    assert _written(house, answer)["note"].startswith("password: [redacted] ")


async def test_kill_does_not_wait_until_a_large_call_is_redacted() -> None:
    house, worker, running = await _large()
    drain = await house.killed()
    assert drain.is_drained
    answer = await running
    assert (answer.reason_code, house.upstream.sent) == (ReasonCode.KILLED, [])
    worker.let_go.set()
    await asyncio.sleep(0)
    assert _written(house, answer) == {"redaction": "failed"}, "nothing of what nobody has looked through"


async def test_wider_kill_does_not_wait_for_the_large_calls_of_one_that_is_killed() -> None:
    worker = HeldWorker()
    house = House(worker=worker)
    await house.killed()
    answer = await house.gate.pass_through(a_call(arguments=LARGE))
    assert (answer.reason_code, worker.asked.is_set()) == (ReasonCode.KILLED, False)
    assert (await house.killed(scope=Scope.GLOBAL, target="")).is_drained


async def test_large_call_is_decided_on_when_it_has_been_redacted() -> None:
    """What policy, approvals and budgets said would grow old while it waits."""
    house, worker, running = await _large()
    house.engine.answer = DENY
    worker.let_go.set()
    answer = await running
    assert (answer.reason_code, house.upstream.sent) == (ReasonCode.POLICY_DENY, [])


async def test_large_call_is_not_sent_once_kills_cannot_be_heard() -> None:
    house, _, running = await _large()
    house.replica.lapse()
    answer = await running
    assert (answer.reason_code, house.upstream.sent) == (ReasonCode.KILL_STATE_UNKNOWN, [])


async def test_large_call_whose_caller_is_gone_is_not_sent() -> None:
    house, worker, running = await _large()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    worker.let_go.set()
    assert house.upstream.sent == []
    assert not list(house.replica.flights())


async def _large_answer() -> tuple[House, HeldWorker, asyncio.Task[Answer]]:
    """An answer that is just about to be redacted."""
    worker = HeldWorker()
    house = House(worker=worker)
    house.upstream.answer = Delivered(LARGE)
    house.engine.answer = {**ALLOW, "obligations": [{"type": "redact_result"}]}
    running = asyncio.create_task(house.gate.pass_through(a_call()))
    await worker.asked.wait()
    return house, worker, running


async def test_calls_go_on_while_a_large_answer_is_redacted() -> None:
    house, worker, running = await _large_answer()
    house.upstream.answer = Delivered({"ok": True})
    assert (await house.gate.pass_through(a_call())).success
    assert not running.done()
    worker.let_go.set()
    assert parse((await running).result_json or b"")["note"].startswith("password: [redacted] ")


async def test_kill_does_not_wait_until_a_large_answer_is_redacted() -> None:
    house, _, running = await _large_answer()
    assert (await house.killed()).is_drained
    answer = await running
    assert (answer.reason_code, answer.result_json) == (ReasonCode.KILLED, None)
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "cancelled"


async def test_kill_does_not_wait_until_a_large_failure_is_redacted() -> None:
    worker = HeldWorker()
    house = House(worker=worker)
    fault = {"code": -32000, "message": "no", "data": LARGE}
    house.upstream.answer = Undelivered(ReasonCode.UPSTREAM_ERROR, "no", fault=fault)
    running = asyncio.create_task(house.gate.pass_through(a_call()))
    await worker.asked.wait()
    assert (await house.killed()).is_drained
    assert ((await running).reason_code, (await running).fault_json) == (ReasonCode.KILLED, None)


async def test_large_answer_is_not_told_once_kills_cannot_be_heard() -> None:
    house, _, running = await _large_answer()
    house.replica.lapse()
    answer = await running
    assert (answer.reason_code, answer.result_json) == (ReasonCode.KILL_STATE_UNKNOWN, None)


async def test_outcome_is_recorded_of_a_large_answer_whose_caller_is_gone() -> None:
    house, _, running = await _large_answer()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "cancelled"
    assert not list(house.replica.flights())


class FailsOn(BrokenDetector):
    def __init__(self, word: str) -> None:
        self._word = word

    def find(self, text: str) -> list[Span]:
        return super().find(text) if self._word in text else []


async def test_kill_whose_reason_cannot_be_redacted_is_a_kill_all_the_same(house: House) -> None:
    house.recorder.redactor = Redactor(None, [FailsOn("CANARY")])
    drain = await house.killed(reason="leaks CANARY")
    assert drain.kill.reason == "[redaction failed]"
    assert (await house.gate.pass_through(a_call())).reason_code is ReasonCode.KILLED
