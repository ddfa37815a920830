"""Calls that the gateway makes itself once they are approved: once, by whoever lives, told to their caller alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.approval import Approval, State
from agentgate.core.call import Principal, Role
from agentgate.core.decision import refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, Outcome
from agentgate.core.events.calls import closed
from agentgate.pipeline.approvals.desk import Verdict
from agentgate.pipeline.calls.deferred import DeferredDesk
from agentgate.pipeline.calls.fates import Elsewhere, Over, Progress, Underway
from agentgate.pipeline.calls.passage import Answer
from tests.fakes import ALLOW_WRITE, DENY, TOOL, a_call, principal
from tests.pipeline.conftest import House, a_moment, desk_of, edit_desk, until

ADA = principal("ada", Role.APPROVER, person=True)
BOT = principal()


async def asked(house: House, **more: Any) -> Answer:
    """A deferred call that waits for a person."""
    call = replace(a_call(**more.pop("call", {})), deferred=True, **more)
    answer = await house.gate.pass_through(call)
    assert answer.approval is not None
    assert answer.approval.executes
    return answer


async def approve(house: House, answer: Answer) -> str:
    assert answer.approval is not None
    await house.approvals.decide(ADA, answer.approval.id, State.APPROVED)
    return answer.approval.id


# --- made once --------------------------------------------------------------------------------------------


async def test_an_approved_call_is_made_with_the_callers_arguments_and_its_answer_kept(
    house: House, desk: DeferredDesk
) -> None:
    first = await asked(house, call={"arguments": {"q": "select"}})
    made = await desk.execute(await approve(house, first))
    assert isinstance(made, Answer)
    assert (made.success, made.call.trace_id) == (True, first.call.trace_id)
    (sent,) = house.upstream.sent
    assert (sent.call.arguments, sent.call.caller.id) == ({"q": "select"}, "agent:bot")
    fetched = await desk.fetch(BOT, first.call.trace_id)
    assert isinstance(fetched, Answer)
    assert (fetched.result_json, fetched.call.trace_id) == (b'{"ok":true}', first.call.trace_id)


async def test_of_many_attempts_at_two_members_one_makes_the_call(house: House, desk: DeferredDesk) -> None:
    other = await house.another("m-2")
    other.engine.answer = house.engine.answer
    approval_id = await approve(house, await asked(house))
    elsewhere = desk_of(other)
    attempts = [one.execute(approval_id) for one in (desk, elsewhere) for _ in range(25)]
    await asyncio.gather(*attempts)
    assert len(house.upstream.sent) + len(other.upstream.sent) == 1
    decided = [fields["decision"] for fields in house.log.of(Kind.DECIDED)]
    assert sorted(decided) == ["ALLOW", "DENY", "REQUIRE_APPROVAL"], "those at one member are one"


async def test_a_call_that_nobody_has_made_is_made_by_who_lives(house: House, desk: DeferredDesk) -> None:
    """The member that heard the yes died before it could do anything."""
    first = await asked(house)
    await approve(house, first)
    assert await desk.make_due(is_eldest=True) == 0, "the one that heard it may be about to"
    house.clock.move(2.5)
    house.replica.lease.renew(house.clock.boot_s())
    assert await desk.make_due(is_eldest=True) == 1
    await until(lambda: house.upstream.sent)
    await until(lambda: house.log.rows("answers"))
    assert await desk.make_due(is_eldest=True) == 0
    assert isinstance(await desk.fetch(BOT, first.call.trace_id), Answer)


async def test_each_of_several_that_nobody_has_made_is_made_and_those_without_a_yes_are_not(
    house: House, desk: DeferredDesk
) -> None:
    for number in range(3):
        first = await asked(house, call={"arguments": {"n": number}})
        if number:
            await approve(house, first)
    assert await desk.make_due(is_eldest=True) == 0
    house.clock.move(2.5)
    house.replica.lease.renew(house.clock.boot_s())
    assert await desk.make_due(is_eldest=True) == 2
    await until(lambda: len(house.log.rows("answers")) == 2)
    assert sorted(sent.call.arguments["n"] for sent in house.upstream.sent) == [1, 2]


async def test_the_yes_itself_has_the_call_made(house: House, desk: DeferredDesk) -> None:
    house.approvals.on_approved = desk.soon
    first = await asked(house)
    await approve(house, first)
    await until(lambda: house.log.rows("answers"))
    assert len(house.upstream.sent) == 1


async def test_a_yes_that_comes_while_the_call_is_still_being_asked_for_makes_a_call_that_can_be_cut(
    house: House, desk: DeferredDesk
) -> None:
    house.approvals.on_approved = desk.soon
    read, waits, may_go_on = house.log.projection, asyncio.Event(), asyncio.Event()

    async def slow_once(name: str, **match: Any) -> Any:
        rows = await read(name, **match)
        if rows and "id" in match and not waits.is_set():
            waits.set()
            await may_go_on.wait()
        return rows

    house.log.projection = slow_once  # type: ignore[assignment]
    house.upstream.hold()
    asking = asyncio.create_task(asked(house))
    await waits.wait()
    (request,) = house.log.of(Kind.APPROVAL_REQUESTED)
    await house.approvals.decide(ADA, request["approval_id"], State.APPROVED)
    await a_moment()
    assert house.admission.admitted == {request["trace_id"]}
    assert house.upstream.sent == [], "else its release would be the end of both"
    may_go_on.set()
    await asking
    await house.upstream.started.wait()
    assert house.admission.admitted == {request["trace_id"]}
    assert (await house.killed()).is_drained
    assert house.upstream.cancelled == 1


async def test_who_stops_waiting_does_not_stop_the_call(house: House, desk: DeferredDesk) -> None:
    house.upstream.hold()
    first = await asked(house)
    waiting = asyncio.create_task(desk.execute(await approve(house, first)))
    await house.upstream.started.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    house.upstream.let_go()
    await until(lambda: house.log.rows("answers"))
    assert house.upstream.cancelled == 0


async def test_a_call_whose_process_died_on_the_way_is_unknown_and_not_made_again(
    house: House, desk: DeferredDesk
) -> None:
    house.upstream.hold()
    first = await asked(house)
    running = asyncio.create_task(desk.execute(await approve(house, first)))
    await house.upstream.started.wait()
    (intent,) = await house.log.open_intents()
    other = await house.another("m-2")
    await other.recorder.write(closed(other.recorder.origin(), intent, Outcome.UNKNOWN, "the process died"))
    elsewhere = desk_of(other)
    assert await elsewhere.make_due(is_eldest=True) == 0
    told = await elsewhere.fetch(BOT, first.call.trace_id)
    assert isinstance(told, Answer)
    assert told.outcome is Outcome.UNKNOWN
    house.upstream.let_go()
    await running


@pytest.mark.parametrize("is_made_elsewhere", [False, True])
async def test_a_call_that_runs_is_not_closed_for_an_earlier_try_of_it_whose_record_was_lost(
    house: House, desk: DeferredDesk, is_made_elsewhere: bool
) -> None:
    """Each try has the call's trace id. Of the first nobody could say whether it was durable, and it was not."""
    maker = house
    if is_made_elsewhere:
        maker = await house.another("m-2")
        maker.engine.answer = house.engine.answer
    approval_id = await approve(house, await asked(house))
    house.log.fail_next("append")
    refused = await desk.execute(approval_id)
    assert isinstance(refused, Answer)
    assert refused.reason_code is ReasonCode.LOG_UNAVAILABLE
    maker.upstream.hold()
    running = asyncio.create_task(desk_of(maker).execute(approval_id))
    await maker.upstream.started.wait()
    await house.upkeep.tick()
    assert [intent.fields["member"] for intent in await house.log.open_intents()] == [maker.recorder.member]
    maker.upstream.let_go()
    assert isinstance(await running, Answer)
    assert [(end["outcome"], end["member"]) for end in house.log.of(Kind.FINISHED)] == [("ok", maker.recorder.member)]


async def test_an_idempotency_key_goes_with_the_deferred_call(house: House, desk: DeferredDesk) -> None:
    first = await asked(house, idempotency_key="k-1")
    made = await desk.execute(await approve(house, first))
    assert isinstance(made, Answer)
    again = await house.gate.pass_through(replace(a_call(), idempotency_key="k-1"))
    assert (again.is_replayed, again.call.trace_id) == (True, first.call.trace_id)
    assert len(house.upstream.sent) == 1
    assert isinstance(await desk.fetch(BOT, first.call.trace_id), Answer)


async def test_who_repeats_a_deferred_call_that_was_edited_twice_gets_its_answer(
    house: House, desk: DeferredDesk
) -> None:
    first = await asked(house, call={"arguments": {"n": 1}}, idempotency_key="k-1")
    assert first.approval is not None
    edits = edit_desk(house)
    once = await edits.edit(ADA, first.approval.id, {"n": 2})
    assert isinstance(once, Approval)
    twice = await edits.edit_and_approve(ADA, once.id, {"n": 3})
    assert isinstance(twice, Verdict)
    made = await desk.execute(twice.approval.id)
    assert isinstance(made, Answer)
    assert made.success, made.error
    assert house.log.of(Kind.DECIDED)[-1]["edited_from_sha256"] == first.call.digest
    again = await house.gate.pass_through(replace(a_call(arguments={"n": 1}), idempotency_key="k-1"))
    assert again.is_replayed, again.error
    assert [one.call.arguments for one in house.upstream.sent] == [{"n": 3}]


async def test_an_approval_that_policy_does_not_want_any_more_is_spent_all_the_same(
    house: House, desk: DeferredDesk
) -> None:
    """Else the call would be made once by policy's leave, and once by the approval's."""
    approval_id = await approve(house, await asked(house))
    house.engine.answer = lambda _: ALLOW_WRITE
    await desk.execute(approval_id)
    house.clock.move(60)
    house.replica.lease.renew(house.clock.boot_s())
    assert await desk.make_due(is_eldest=True) == 0
    assert [row["state"] for row in house.log.rows("approvals")] == ["spent"]
    assert len(house.upstream.sent) == 1


async def test_a_call_that_has_run_under_its_key_is_not_tried_for_its_approval_again(
    house: House, desk: DeferredDesk
) -> None:
    approval_id = await approve(house, await asked(house, idempotency_key="k-1"))
    ask, house.engine.answer = house.engine.answer, lambda _: ALLOW_WRITE
    assert (await house.gate.pass_through(replace(a_call(), idempotency_key="k-1"))).success
    house.engine.answer = ask
    made = await desk.execute(approval_id)
    assert isinstance(made, Answer)
    assert made.is_replayed
    assert [row["state"] for row in house.log.rows("approvals")] == ["void"]
    assert len(house.upstream.sent) == 1


async def test_another_approval_of_the_same_call_is_not_spent_for_it(house: House, desk: DeferredDesk) -> None:
    plain = await house.gate.pass_through(a_call())
    assert plain.approval is not None
    assert not plain.approval.executes
    first = await asked(house)
    await house.approvals.decide(ADA, plain.approval.id, State.APPROVED)
    await desk.execute(await approve(house, first))
    states = {row["id"]: row["state"] for row in house.log.rows("approvals")}
    assert first.approval is not None
    assert states == {plain.approval.id: "approved", first.approval.id: "spent"}


async def test_an_answer_is_fetched_of_a_tool_that_wants_arguments(house: House, desk: DeferredDesk) -> None:
    strict = replace(TOOL, check=lambda arguments: None if arguments else "arguments: must not be empty")
    house.tools[TOOL.name] = strict
    first = await asked(house, call={"tool": strict, "arguments": {"q": 1}})
    await desk.execute(await approve(house, first))
    fetched = await desk.fetch(BOT, first.call.trace_id)
    assert isinstance(fetched, Answer)
    assert fetched.success


# --- refused ----------------------------------------------------------------------------------------------


async def test_a_caller_whose_key_is_disabled_meanwhile_gets_nothing_made(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    made = await desk_of(house, lambda who: who.id != BOT.id).execute(approval_id)
    assert isinstance(made, Answer)
    text = "Who asked for the call may not make it any more"
    assert (made.decision, house.upstream.sent) == (refusal(ReasonCode.FORBIDDEN, text, "identity"), [])
    assert house.log.of(Kind.APPROVAL_CLOSED)[-1]["why"] == "refused"
    assert [row["state"] for row in house.log.rows("approvals")] == ["void"], "nobody tries it again"


async def test_what_policy_refuses_by_now_is_not_made_and_not_tried_again(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    house.engine.answer = lambda _: DENY
    made = await desk.execute(approval_id)
    assert isinstance(made, Answer)
    assert made.reason_code is ReasonCode.POLICY_DENY
    told = await desk.fetch(BOT, first.call.trace_id)
    assert isinstance(told, Over)
    assert "refused" in told.detail


async def test_an_outage_leaves_the_call_for_later(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    house.admission.is_down = True
    await desk.execute(approval_id)
    assert isinstance(await desk.fetch(BOT, first.call.trace_id), Underway)
    house.admission.is_down = False
    made = await desk.execute(approval_id)
    assert isinstance(made, Answer)
    assert made.success


async def test_a_refusal_beyond_what_is_recorded_leaves_the_call_for_later(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    house.engine.answer = DENY
    house.gate.takes_refusal = lambda _: False
    await desk.execute(approval_id)
    assert isinstance(await desk.fetch(BOT, first.call.trace_id), Underway)


async def test_a_killed_session_makes_no_deferred_call(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    await house.killed()
    await desk.execute(approval_id)
    assert house.upstream.sent == []
    assert await desk.make_due(is_eldest=True) == 0


# --- told -------------------------------------------------------------------------------------------------


async def test_a_call_is_told_from_its_question_to_its_answer(house: House, desk: DeferredDesk) -> None:
    house.upstream.hold()
    first = await asked(house)
    trace = first.call.trace_id
    seen = [await desk.fetch(BOT, trace)]
    approval_id = await approve(house, first)
    seen.append(await desk.fetch(BOT, trace))
    running = asyncio.create_task(desk.execute(approval_id))
    await house.upstream.started.wait()
    seen.append(await desk.fetch(BOT, trace))
    progress = [(one.progress, one.approval.id) for one in seen if isinstance(one, Underway)]
    steps = [Progress.PENDING, Progress.APPROVED, Progress.RUNNING]
    assert progress == [(step, approval_id) for step in steps]
    house.upstream.let_go()
    await running
    assert isinstance(await desk.fetch(BOT, trace), Answer)


@pytest.mark.parametrize(
    "stranger",
    [
        principal("other"),
        principal("bot", tenant="b"),
        principal("bot", person=True),
        replace(BOT, session="s-9"),  # type: ignore[arg-type]
        replace(BOT, on_behalf_of="alice"),
    ],
    ids=["agent", "tenant", "person", "token of another session", "itself for a user"],
)
async def test_nobody_else_hears_of_a_call(house: House, desk: DeferredDesk, stranger: Principal) -> None:
    first = await asked(house)
    assert await desk.fetch(stranger, first.call.trace_id) is None
    await desk.execute(await approve(house, first))
    assert await desk.fetch(stranger, first.call.trace_id) is None
    assert await desk.fetch(BOT, "00000000-0000-4000-8000-999999999999") is None
    assert house.log.of(Kind.ANSWERED) == []


ALICE = replace(BOT, on_behalf_of="alice")


async def heard(desk: DeferredDesk, trace_id: str) -> list[bool]:
    """Whether the agent hears of a call for Alice, for Bob, and on its own behalf."""
    whom = (ALICE, replace(BOT, on_behalf_of="bob"), BOT)
    return [await desk.fetch(caller, trace_id) is not None for caller in whom]


async def test_a_call_for_a_user_is_told_for_that_user_alone(house: House, desk: DeferredDesk) -> None:
    first = await asked(house, call={"caller": ALICE})
    assert await heard(desk, first.call.trace_id) == [True, False, False]
    await desk.execute(await approve(house, first))
    assert await heard(desk, first.call.trace_id) == [True, False, False]


async def test_a_call_for_a_user_whose_process_died_is_told_for_that_user_alone(house: House) -> None:
    call = replace(a_call(caller=ALICE), idempotency_key="k-1")
    house.upstream.hold()
    running = asyncio.create_task(house.gate.pass_through(call))
    await house.upstream.started.wait()
    (intent,) = await house.log.open_intents()
    other = await house.another("m-2")
    await other.recorder.write(closed(other.recorder.origin(), intent, Outcome.UNKNOWN, "the process died"))
    assert await heard(desk_of(other), call.trace_id) == [True, False, False]
    house.upstream.let_go()
    await running


async def test_a_token_of_the_calls_own_session_hears_of_it(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    own = replace(BOT, session=first.call.session)
    assert isinstance(await desk.fetch(own, first.call.trace_id), Underway)
    assert isinstance(await desk.execute(await approve(house, first)), Answer)
    assert isinstance(await desk.fetch(own, first.call.trace_id), Answer)


async def test_a_call_that_its_caller_makes_itself_is_neither_made_nor_told_here(
    house: House, desk: DeferredDesk
) -> None:
    plain = await house.gate.pass_through(a_call())
    await approve(house, plain)
    assert await desk.fetch(BOT, plain.call.trace_id) is None
    house.clock.move(2.5)
    house.replica.lease.renew(house.clock.boot_s())
    assert await desk.make_due(is_eldest=True) == 0


async def test_a_killed_caller_does_not_get_the_answer(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    await desk.execute(await approve(house, first))
    await house.killed()
    told = await desk.fetch(BOT, first.call.trace_id)
    assert isinstance(told, Answer)
    assert (told.reason_code, told.result_json) == (ReasonCode.KILLED, None)


async def test_a_caller_that_has_made_the_call_itself_is_sent_there(house: House, desk: DeferredDesk) -> None:
    for number in range(2):
        first = await asked(house, call={"arguments": {"n": number}})
        await approve(house, first)
        itself = await house.gate.pass_through(replace(a_call(arguments={"n": number}), deferred=True))
        assert itself.success
        assert await desk.fetch(BOT, first.call.trace_id) == Elsewhere(itself.call.trace_id)
        assert isinstance(await desk.fetch(BOT, itself.call.trace_id), Answer)


async def test_an_answer_that_was_dropped_is_told_as_gone(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    await desk.execute(await approve(house, first))
    house.clock.move(3700)
    await house.answers.forget()
    told = await desk.fetch(BOT, first.call.trace_id)
    assert isinstance(told, Over)
    assert told.reason is ReasonCode.IDEMPOTENCY_FORGOTTEN


async def test_a_deferred_call_whose_approval_is_taken_back_is_not_made(house: House, desk: DeferredDesk) -> None:
    first = await asked(house)
    approval_id = await approve(house, first)
    assert isinstance(await house.approvals.withdraw(ADA, approval_id), Approval)
    assert isinstance(await desk.execute(approval_id), Over)
    house.clock.move(60)
    house.replica.lease.renew(house.clock.boot_s())
    assert await desk.make_due(is_eldest=True) == 0
    assert not house.upstream.sent
    told = await desk.fetch(BOT, first.call.trace_id)
    assert isinstance(told, Over)
    assert (told.reason, "took it back" in told.detail) == (ReasonCode.CONFLICT, True)
