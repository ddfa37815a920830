"""What is written down and said of approvals, edits and deferred calls, whole: every field, every refusal."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.approval import Approval, State, Void, Vote, Why
from agentgate.core.call import Role, SessionId
from agentgate.core.decision import refusal
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Event, Kind
from agentgate.core.redaction.redactor import Redactor
from agentgate.core.strict_json import parse
from agentgate.pipeline.approvals.desk import MAX_REASON_CHARS, Verdict
from agentgate.pipeline.calls.deferred import DeferredDesk
from agentgate.pipeline.calls.fates import Elsewhere, Over, Progress, Underway
from agentgate.pipeline.calls.passage import Answer, PendingApproval
from tests.fakes import ADMIN, ASK, DENY, REVISION, TOOL, a_call, a_kill, principal
from tests.pipeline.conftest import House, a_moment, edit_desk, last, until
from tests.pipeline.test_approvals import ADA, BOB, asked_for
from tests.pipeline.test_approvals import approved as said_yes
from tests.pipeline.test_deferred import BOT, approve, asked
from tests.pipeline.test_gate import FailsOn
from tests.pipeline.test_whole_calls import own

_OF = {"tenant": "default", "session": "s-1"}


async def now(house: House, approval: Approval) -> Approval:
    found = await house.approvals.approval(approval.id)
    assert found is not None
    return found


# --- answers -------------------------------------------------------------------------------------------------


async def test_a_completing_yes_is_on_record_in_full_and_its_token_told_once(house: House) -> None:
    approval = await asked_for(house)
    verdict = await house.approvals.decide(ADA, approval.id, State.APPROVED, "fine" + "!" * MAX_REASON_CHARS)
    assert isinstance(verdict, Verdict)
    assert verdict.token is not None
    assert (len(verdict.token), verdict.token[:4]) == (52, "apt_")
    assert (verdict.state, verdict.approval.votes, verdict.approval.decided_by) == (State.APPROVED, 1, ADA.id)
    digest = hashlib.sha256(verdict.token.encode()).hexdigest()
    assert verdict.approval.token_sha256 == digest
    event = last(house, Kind.APPROVAL_DECIDED)
    assert own(event) == _OF | {
        "approval_id": approval.id,
        "verdict": "approved",
        "auth": "api_key",
        "ordinal": 1,
        "quorum": 1,
        "token_sha256": digest,
        "principal": ADA.id,
    }
    assert parse(event.body) == {"reason": ("fine" + "!" * MAX_REASON_CHARS)[:MAX_REASON_CHARS]}


async def test_a_first_yes_of_two_is_on_record_in_full_and_brings_no_token(house: House) -> None:
    approval = await asked_for(house, quorum=2)
    verdict = await house.approvals.decide(ADA, approval.id, State.APPROVED)
    assert isinstance(verdict, Verdict)
    assert (verdict.state, verdict.token, verdict.approval.votes) == (State.PENDING, None, 1)
    event = last(house, Kind.APPROVAL_DECIDED)
    fields = {"verdict": "approved", "auth": "api_key", "ordinal": 1, "quorum": 2, "principal": ADA.id}
    assert own(event) == _OF | fields | {"approval_id": approval.id}
    assert event.body == b"{}"
    again = await house.approvals.decide(ADA, approval.id, State.APPROVED)
    assert again == Refused(ReasonCode.CONFLICT, "you have said yes already: this needs several persons")
    pending = (await house.gate.pass_through(a_call())).approval
    assert pending == PendingApproval(approval.id, "pending", pending.expires_at, approval.trace_id, 2, 1)
    house.clock.move(60)
    assert isinstance(await house.approvals.decide(BOB, approval.id, State.APPROVED), Verdict)
    assert await house.approvals.votes(await now(house, approval)) == (
        Vote(ADA.id, "2026-11-21T00:00:00.000000Z"),
        Vote(BOB.id, "2026-11-21T00:01:00.000000Z"),
    )
    assert (await house.gate.pass_through(a_call())).decision.approved_by == f"{ADA.id},{BOB.id}"


async def test_a_no_is_on_record_in_full(house: House) -> None:
    approval = await asked_for(house)
    verdict = await house.approvals.decide(ADA, approval.id, State.DENIED, "no")
    assert isinstance(verdict, Verdict)
    assert (verdict.state, verdict.token) == (State.DENIED, None)
    event = last(house, Kind.APPROVAL_DECIDED)
    fields = {"approval_id": approval.id, "verdict": "denied", "auth": "api_key", "principal": ADA.id}
    assert own(event) == _OF | fields
    assert parse(event.body) == {"reason": "no"}


async def test_an_answer_that_is_not_taken_says_why(house: House) -> None:
    decide = house.approvals.decide
    nobody = Refused(ReasonCode.NOT_FOUND, "no such approval")
    assert await decide(ADA, "apr-none", State.APPROVED) == nobody
    approval = await asked_for(house)
    stranger = principal("eve", Role.APPROVER, person=True, tenant="b")
    assert await decide(stranger, approval.id, State.APPROVED) == nobody
    robot = Refused(ReasonCode.FORBIDDEN, "an approval is given by a person with the role approver")
    assert await decide(principal("x", Role.APPROVER), approval.id, State.APPROVED) == robot
    house.clock.move(901)
    expired = Refused(ReasonCode.EXPIRED, "the approval is expired")
    assert await decide(ADA, approval.id, State.APPROVED) == expired


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("kill", "a kill covered it"),
        ("policy", "the policy has changed since it was asked for"),
        ("tool", "the tool is described otherwise than when it was asked for"),
    ],
)
async def test_a_yes_that_is_worth_nothing_says_why(house: House, change: str, sentence: str) -> None:
    approval = await asked_for(house)
    if change == "kill":
        house.kill_elsewhere(a_kill())
    elif change == "policy":
        house.engine.enforced = "sha256:another"
    else:
        house.tools[TOOL.name] = replace(TOOL, description="another")
    said = await house.approvals.decide(ADA, approval.id, State.APPROVED)
    assert said == Refused(ReasonCode.CONFLICT, f"the approval is void: {sentence}")
    assert (await now(house, approval)).state is (State.VOID if change == "kill" else State.PENDING)
    assert house.log.of(Kind.APPROVAL_DECIDED) == []


async def test_who_is_second_is_told_so(house: House) -> None:
    approval = await asked_for(house)

    def deny_first(event: Event) -> None:
        if event.kind is Kind.APPROVAL_DECIDED:
            house.log.on_append = lambda _: None
            no, _ = house.approvals._answer(BOB, approval, State.DENIED, "")
            house.log.append_now(no)

    house.log.on_append = deny_first
    second = await house.approvals.decide(ADA, approval.id, State.APPROVED)
    assert second == Refused(ReasonCode.CONFLICT, "somebody else answered first")


# --- closing --------------------------------------------------------------------------------------------------


async def test_an_expiry_is_on_record_in_full_once(house: House) -> None:
    approval = await asked_for(house)
    approved = (await said_yes(house, await asked_for(house, a_call(session="s-2")))).approval
    assert await house.approvals.close_expired() == 0
    house.clock.move(900)
    assert await house.approvals.close_expired() == 2
    assert await house.approvals.close_expired() == 0
    first, second = (event for event, _ in house.log.events if event.kind is Kind.APPROVAL_CLOSED)
    expired = {"state": "expired", "why": "expired"}
    assert own(first) == _OF | expired | {"approval_id": approval.id, "closes": "pending"}
    assert own(second) == expired | {
        "approval_id": approved.id,
        "closes": "approved",
        "tenant": "default",
        "session": "s-2",
    }
    assert first.body == b"{}"


async def test_a_withdrawal_is_on_record_in_full(house: House) -> None:
    approval = await asked_for(house)
    await house.approvals.withdraw(ADA, approval.id, "not now")
    event = last(house, Kind.APPROVAL_CLOSED)
    assert own(event) == _OF | {
        "approval_id": approval.id,
        "state": "void",
        "closes": "pending",
        "why": "withdrawn",
        "auth": "api_key",
        "principal": ADA.id,
    }
    assert parse(event.body) == {"reason": "not now"}
    told = await house.approvals.withdrawn(a_call(), approval.id)
    assert told == refusal(ReasonCode.APPROVAL_DENIED, "The approval was taken back")


async def test_a_withdrawal_that_another_beats_each_time_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    approval = await asked_for(house)

    async def never(*_: Any) -> bool:
        return False

    monkeypatch.setattr(house.approvals, "close", never)
    lost = Refused(ReasonCode.CONFLICT, "somebody else was first")
    assert await house.approvals.withdraw(ADA, approval.id) == lost


async def test_what_is_taken_back_is_not_told_while_the_log_is_away(house: House) -> None:
    approval = await asked_for(house)
    await house.approvals.withdraw(ADA, approval.id)
    house.log.is_down = True
    assert await house.approvals.withdrawn(a_call(), approval.id) is None


async def test_approvals_are_listed_by_state_prefix_and_tenant(house: House) -> None:
    pending = await asked_for(house)
    approved = (await said_yes(house, await asked_for(house, a_call(session="s-2")))).approval
    denied = await asked_for(house, a_call(session="s-3"))
    await house.approvals.decide(ADA, denied.id, State.DENIED)
    desk = house.approvals
    assert [one.id for one in await desk.list(ADMIN)] == [pending.id, approved.id, denied.id]
    assert [one.id for one in await desk.list(ADA, State.APPROVED)] == [approved.id]
    assert [one.id for one in await desk.list(ADA, State.DENIED)] == [denied.id]
    assert [one.id for one in await desk.list(ADA, prefix=denied.id)] == [denied.id]
    assert {one.id for one in await desk.open()} == {pending.id, approved.id}
    house.clock.move(900)
    assert await desk.list(ADA, State.PENDING) == await desk.list(ADA, State.APPROVED) == []
    assert [one.id for one in await desk.list(ADA, State.EXPIRED)] == [pending.id, approved.id, denied.id]
    assert await desk.open() == ()


# --- edits ---------------------------------------------------------------------------------------------------


async def test_an_edit_is_on_record_in_full(house: House) -> None:
    sent = a_call(arguments={"n": 1})
    old = await asked_for(house, sent)
    long = "less" + "!" * MAX_REASON_CHARS
    new = await edit_desk(house).edit(ADA, old.id, {"n": 2}, long)
    assert isinstance(new, Approval)
    closed, requested = last(house, Kind.APPROVAL_CLOSED), last(house, Kind.APPROVAL_REQUESTED)
    assert own(closed) == _OF | {
        "approval_id": old.id,
        "state": "void",
        "closes": "pending",
        "why": "edited",
        "edited_to": new.id,
        "auth": "api_key",
        "principal": ADA.id,
    }
    assert parse(closed.body) == {"reason": long[:MAX_REASON_CHARS]}
    assert own(requested) == _OF | {
        "approval_id": new.id,
        "call_sha256": a_call(arguments={"n": 2}).digest,
        "policy_revision": REVISION,
        "expires_at": "2026-11-21T00:15:00.000000Z",
        "tool": "db_query",
        "server": "demo",
        "tool_sha256": TOOL.definition_sha256,
        "trace_id": sent.trace_id,
        "quorum": 1,
        "approvers": [],
        "edited_from": old.id,
        "edited_by": ADA.id,
        "position": old.position,
        "auth": "api_key",
        "principal": "agent:bot",
    }
    assert parse(requested.body) == {"arguments": {"n": 2}, "reason": long[:MAX_REASON_CHARS]}
    assert house.approvals.question(new) == {"arguments": {"n": 2}, "context": {}}
    assert house.approvals.original(new) == {"arguments": {"n": 1}, "context": {}}
    assert house.approvals.original(old) is None
    gone = await now(house, old)
    assert (gone.sealed, house.approvals.original(gone), house.approvals.question(gone)) == (None, None, None)
    pending = (await house.gate.pass_through(a_call(arguments={"n": 1}))).approval
    assert pending == PendingApproval(
        new.id, "pending", "2026-11-21T00:15:00.000000Z", sent.trace_id, arguments={"n": 2}
    )
    await said_yes(house, new)
    answer = await house.gate.pass_through(a_call(arguments={"n": 1}))
    assert answer.edited == replace(pending, state="spent", votes=1)
    assert answer.call.arguments == {"n": 2}
    asked = [question for question in house.engine.asked if question["arguments"] == {"n": 2}]
    assert asked[-1]["has_approval_token"] is True


async def test_an_edit_that_could_not_be_written_down_is_not_taken() -> None:
    house = House(redactor=Redactor(None, [FailsOn("poison")]))
    old = await asked_for(house, a_call(arguments={"n": 1}))
    unfit = Refused(ReasonCode.REDACTION_FAILED, "the arguments could not be redacted for the log")
    assert await edit_desk(house).edit(ADA, old.id, {"n": "poison"}) == unfit
    assert await now(house, old) == old


async def test_an_edit_that_is_not_taken_says_why(house: House) -> None:
    old = await asked_for(house, a_call(arguments={"n": 1}))
    edit = edit_desk(house).edit
    same = Refused(ReasonCode.INVALID_REQUEST, "these are the arguments that were asked for")
    assert await edit(ADA, old.id, {"n": 1}) == same
    house.tools[TOOL.name] = replace(TOOL, description="another")
    changed = Refused(ReasonCode.CONFLICT, "the tool is not the one any more that it was asked for")
    assert await edit(ADA, old.id, {"n": 2}) == changed
    house.tools[TOOL.name] = TOOL
    house.engine.answer = lambda _: DENY
    denied = Refused(ReasonCode.POLICY_DENY, "the edited call is refused: No matching rule")
    assert await edit(ADA, old.id, {"n": 2}) == denied
    house.engine.answer = lambda _: ASK

    def answer_first(event: Event) -> None:
        if event.kind is Kind.APPROVAL_CLOSED:
            house.log.on_append = lambda _: None
            no, _ = house.approvals._answer(BOB, old, State.DENIED, "")
            house.log.append_now(no)

    house.log.on_append = answer_first
    lost = Refused(ReasonCode.CONFLICT, "somebody else answered first")
    assert await edit(ADA, old.id, {"n": 2}) == lost
    gone = Refused(ReasonCode.CONFLICT, "the approval is denied")
    assert await edit(ADA, old.id, {"n": 3}) == gone


# --- deferred calls -------------------------------------------------------------------------------------------


async def _denied(house: House, approval: Approval) -> None:
    await house.approvals.decide(ADA, approval.id, State.DENIED)


async def _expired(house: House, _: Approval) -> None:
    house.clock.move(901)


async def _killed(house: House, approval: Approval) -> None:
    await house.approvals.close(approval, State.VOID, Void(Why.KILLED))


async def _withdrawn(house: House, approval: Approval) -> None:
    await house.approvals.withdraw(ADA, approval.id)


async def _nothing(house: House, _: Approval) -> None: ...


@pytest.mark.parametrize(
    ("act", "reason", "detail"),
    [
        (_nothing, ReasonCode.APPROVAL_REQUIRED, "The approval is pending"),
        (_denied, ReasonCode.APPROVAL_DENIED, "Approval denied"),
        (_expired, ReasonCode.EXPIRED, "The approval has expired"),
        (_killed, ReasonCode.KILLED, "The approval is void: a kill covered it"),
        (_withdrawn, ReasonCode.CONFLICT, "The approval is void: a person who may answer it took it back"),
    ],
)
async def test_a_deferred_call_that_cannot_run_says_why(
    house: House, desk: DeferredDesk, act: Callable[[House, Approval], Any], reason: ReasonCode, detail: str
) -> None:
    first = await asked(house)
    assert first.approval is not None
    approval = await house.approvals.approval(first.approval.id)
    assert approval is not None
    await act(house, approval)
    trace, after = first.call.trace_id, await now(house, approval)
    assert await desk.execute(approval.id) == Over(trace, reason, detail, after)
    pending = Underway(trace, Progress.PENDING, approval)
    assert await desk.fetch(BOT, trace) == (pending if act is _nothing else Over(trace, reason, detail, after))
    assert house.upstream.sent == []


async def test_an_approval_that_there_is_not_is_said_to_be_none(house: House, desk: DeferredDesk) -> None:
    none = Over("", ReasonCode.NOT_FOUND, "no such approval")
    assert await desk.execute("apr-none") == none
    assert await desk.answer_of(ADA, "apr-none") == none


async def test_a_deferred_call_of_another_tool_by_now_is_said_not_to_be_kept(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    house.tools[TOOL.name] = replace(TOOL, description="another")
    over = await desk.execute(approval_id)
    approval = await house.approvals.approval(approval_id)
    detail = "the call is not kept as it was approved"
    assert over == Over(first.call.trace_id, ReasonCode.CONFLICT, detail, approval)


async def test_a_deferred_call_that_a_kill_stops_closes_its_approval_as_that(house: House, desk: DeferredDesk) -> None:
    approval_id = await approve(house, await asked(house))
    await house.killed()
    made = await desk.execute(approval_id)
    assert isinstance(made, Answer)
    assert made.reason_code is ReasonCode.KILLED
    assert last(house, Kind.APPROVAL_CLOSED).fields["why"] == "killed"


@pytest.mark.parametrize(("is_eldest", "first_s"), [(True, 2.0), (False, 10.0)])
async def test_a_call_that_fails_for_now_is_tried_again_ever_more_seldom(
    house: House, desk: DeferredDesk, is_eldest: bool, first_s: float
) -> None:
    await approve(house, await asked(house))
    house.admission.is_down = True
    tries: list[float] = []
    for tick in range(400):
        if await desk.make_due(is_eldest=is_eldest):
            tries.append(tick / 2)
            await until(lambda: not desk._running)
        house.clock.move(0.5)
        house.replica.lease.renew(house.clock.boot_s())
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert (tries[0], pauses[:6]) == (first_s, [1.0, 2.0, 5.0, 15.0, 60.0, 60.0])
    assert house.upstream.sent == []


async def test_a_closing_gateway_makes_no_deferred_call(house: House, desk: DeferredDesk) -> None:
    approval_id = await approve(house, await asked(house))
    house.clock.move(60)
    house.gate.closing = True
    assert await desk.make_due(is_eldest=True) == 0
    assert await desk.make_due(is_eldest=True) == 0
    approval = await house.approvals.approval(approval_id)
    assert approval is not None
    desk.soon(approval)
    assert desk._running == {}


async def test_what_the_desk_leaves_behind_is_cut_and_recorded_as_cut(
    house: House, desk: DeferredDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentgate.pipeline.calls.deferred._CLOSE_WITHIN_S", 0.01)
    approval_id = await approve(house, await asked(house))
    house.upstream.hold()
    making = asyncio.create_task(desk.execute(approval_id))
    await house.upstream.started.wait()
    await desk.aclose()
    await asyncio.wait([making])
    assert house.log.of(Kind.FINISHED)[-1]["reason_code"] == "shutting_down"
    assert desk._running == {}
    await desk.aclose()


async def test_a_call_that_was_made_is_told_to_its_caller_and_to_who_may_answer_it(
    house: House, desk: DeferredDesk
) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    trace = first.call.trace_id
    underway = await desk.answer_of(ADA, approval_id)
    assert isinstance(underway, Underway)
    assert (underway.progress, underway.trace_id) == (Progress.APPROVED, trace)
    await desk.execute(approval_id)
    own_token = replace(BOT, session=SessionId("s-1"))
    for told in (await desk.fetch(own_token, trace), await desk.answer_of(ADA, approval_id)):
        assert isinstance(told, Answer)
        assert (told.result_json, told.call.trace_id, told.call.tool) == (b'{"ok":true}', trace, TOOL)
    assert [fields["principal"] for fields in house.log.of(Kind.ANSWERED)] == [BOT.id, ADA.id]


@pytest.mark.parametrize("reason", ["", "less will do"])
async def test_a_deferred_call_that_was_edited_says_so_in_its_answer(
    house: House, desk: DeferredDesk, reason: str
) -> None:
    context = {"why": "to see"}
    first = await asked(house, call={"arguments": {"n": 1}}, context=context)
    assert first.approval is not None
    done = await edit_desk(house).edit_and_approve(ADA, first.approval.id, {"n": 2}, *([reason] if reason else []))
    assert isinstance(done, Verdict)
    assert parse(last(house, Kind.APPROVAL_REQUESTED).body)["reason"] == reason
    assert parse(last(house, Kind.APPROVAL_DECIDED).body) == ({"reason": reason} if reason else {})
    made = await desk.execute(done.approval.id)
    assert isinstance(made, Answer)
    assert made.edited == PendingApproval(
        done.approval.id, "spent", "2026-11-21T00:15:00.000000Z", first.call.trace_id, 1, 1, True, {"n": 2}
    )
    decided = last(house, Kind.DECIDED).fields
    assert decided["edited_from_sha256"] == replace(a_call(arguments={"n": 1}), context=context).digest
    told = await desk.fetch(BOT, first.call.trace_id)
    assert isinstance(told, Answer)
    assert told.edited == made.edited


async def test_an_answer_that_is_gone_says_what_became_of_the_call(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    await desk.execute(approval_id)
    house.log.tables.rows["answers"][next(iter(house.log.tables.rows["answers"]))]["sealed"] = None  # type: ignore[index]
    trace = first.call.trace_id
    detail = "The call was run (outcome ok); its answer is not kept"
    assert await desk.fetch(BOT, trace) == Over(trace, ReasonCode.IDEMPOTENCY_FORGOTTEN, detail)
    house.log.tables.rows["answers"].clear()
    running = await desk.fetch(BOT, trace)
    assert isinstance(running, Underway)
    assert running.progress is Progress.RUNNING, "decided, and no answer yet"
    house.clock.move(3601)
    detail = "The call was run; its answer is not kept any more"
    forgotten = await desk.fetch(BOT, trace)
    approval = await house.approvals.approval(approval_id)
    assert forgotten == Over(trace, ReasonCode.IDEMPOTENCY_FORGOTTEN, detail, approval)


async def test_a_call_that_its_caller_has_made_itself_is_told_as_that(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    itself = await house.gate.pass_through(a_call())
    assert itself.success
    told = await desk.fetch(BOT, first.call.trace_id)
    detail = "The same call was sent again, and has used the approval: it got the answer"
    approval = await house.approvals.approval(approval_id)
    assert told == Over(first.call.trace_id, ReasonCode.APPROVAL_SPENT, detail, approval)
    assert not isinstance(told, Elsewhere)


async def test_those_that_nobody_has_made_are_looked_for_until_the_end(
    house: House, desk: DeferredDesk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentgate.pipeline.calls.deferred._LOOK_EVERY_S", 0.001)
    await approve(house, await asked(house))
    house.log.is_down = True
    looking = asyncio.create_task(desk.look_after(lambda: True))
    await until(lambda: caplog.records)
    assert "the log does not answer, deferred calls wait: told to fail" in caplog.messages
    house.log.is_down = False
    await until(lambda: desk._tries)
    house.clock.move(2)
    await until(lambda: house.upstream.sent)
    looking.cancel()
    await asyncio.wait([looking])


async def test_a_fault_in_making_a_call_is_logged_and_a_log_that_is_away_is_not(
    house: House, desk: DeferredDesk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    approval_id = await approve(house, await asked(house))
    house.log.is_down = True
    with pytest.raises(LogUnavailable):
        await desk.execute(approval_id)
    assert caplog.records == []
    house.log.is_down = False

    async def explode(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(house.gate, "pass_through", explode)
    with pytest.raises(ZeroDivisionError):
        await desk.execute(approval_id)
    await a_moment()
    assert "a deferred call could not be made" in caplog.messages
    assert caplog.records[-1].__dict__["approval_id"] == approval_id
