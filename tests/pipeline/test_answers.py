"""One key, one execution: what is kept of it, who gets it again, and what is said when it is gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.approval import State
from agentgate.core.call import Access, Call, Role, SessionId, Tool, ToolName
from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Event, Kind, Outcome
from agentgate.core.events.calls import closed
from agentgate.pipeline.calls import answers
from agentgate.pipeline.calls.passage import Answer
from agentgate.ports.policy import Rule
from agentgate.ports.upstreams import Delivered, Undelivered
from tests.fakes import ALLOW, ALLOW_WRITE, ASK, DENY, REVISION, FakeEngine, a_call, a_kill, principal
from tests.pipeline.conftest import House, a_moment

ADA = principal("ada", Role.APPROVER, person=True)
WRITE = Tool(ToolName("db_insert"), "demo", Access.WRITE, {"type": "object"})


def keyed(key: str = "k-1", **more: Any) -> Call:
    return replace(a_call(**more), idempotency_key=key)


def said(answer: Answer) -> tuple[Any, ...]:
    """Everything that a door tells of an answer."""
    return (
        answer.call.trace_id,
        answer.success,
        answer.result_json,
        answer.error,
        answer.decision.verdict,
        answer.reason_code,
        answer.outcome,
        answer.fault_json,
        answer.edited,
    )


# --- the same answer, without a second execution ----------------------------------------------------------


@pytest.mark.parametrize(
    "upstream",
    [
        Delivered({"rows": [1, "zwei\n", None, 1.5]}),
        Undelivered(ReasonCode.UPSTREAM_ERROR, "it said no", reached=True, status=500, fault={"code": 7}),
        Undelivered(ReasonCode.UPSTREAM_TIMEOUT, "no answer in time", reached=True),
        Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "no connection", reached=False),
    ],
    ids=["ok", "error", "unknown", "not sent"],
)
async def test_the_same_call_under_the_same_key_is_answered_the_same_and_not_sent_again(
    house: House, upstream: Delivered | Undelivered
) -> None:
    house.upstream.answer = upstream
    first = await house.gate.pass_through(keyed())
    house.upstream.answer = Delivered("another")
    again = await house.gate.pass_through(keyed())
    assert said(again) == said(first)
    assert (first.is_replayed, again.is_replayed) == (False, True)
    assert len(house.upstream.sent) == 1
    assert house.meter.counts["idempotency", "replayed"] == 1


async def test_an_answer_that_is_handed_out_again_is_recorded_with_who_got_it(house: House) -> None:
    first = await house.gate.pass_through(keyed())
    await house.gate.pass_through(keyed())
    (handed,) = house.log.of(Kind.ANSWERED)
    assert (handed["trace_id"], handed["principal"]) == (first.call.trace_id, "agent:bot")


async def test_an_answer_that_cannot_be_recorded_as_handed_out_is_not(house: House) -> None:
    await house.gate.pass_through(keyed())
    house.log.on_append = lambda event: setattr(house.log, "is_down", event.kind is Kind.ANSWERED)
    again = await house.gate.pass_through(keyed())
    assert (again.reason_code, again.result_json) == (ReasonCode.LOG_UNAVAILABLE, None)


async def test_of_fifty_at_once_one_runs(house: House) -> None:
    answers = await asyncio.gather(*(house.gate.pass_through(keyed()) for _ in range(50)))
    assert len(house.upstream.sent) == 1
    assert {answer.reason_code for answer in answers} <= {ReasonCode.OK, ReasonCode.IDEMPOTENCY_IN_PROGRESS}
    assert len({answer.call.trace_id for answer in answers if answer.success}) == 1


async def test_of_two_members_one_runs(house: House) -> None:
    other = await house.another("m-2")
    answers = await asyncio.gather(house.gate.pass_through(keyed()), other.gate.pass_through(keyed()))
    assert len(house.upstream.sent) + len(other.upstream.sent) == 1
    assert Counter(answer.success for answer in answers)[True] >= 1
    again = await other.gate.pass_through(keyed())
    assert again.success


async def test_who_claims_a_key_once_its_call_has_run_elsewhere_gets_that_answer(house: House) -> None:
    class Slow(FakeEngine):
        async def query(self, rule: Rule, question: bytes) -> Ruling | NoRuling:
            await ran.wait()
            return await super().query(rule, question)

    ran, other = asyncio.Event(), await house.another("m-2", engine=Slow())
    late = asyncio.create_task(other.gate.pass_through(keyed()))
    await a_moment()
    first = await house.gate.pass_through(keyed())
    ran.set()
    answer = await late
    assert (answer.is_replayed, said(answer)) == (True, said(first))
    assert (len(house.upstream.sent), other.upstream.sent) == (1, [])


async def test_while_the_first_is_running_another_is_told_so(house: House) -> None:
    house.upstream.hold()
    first = asyncio.create_task(house.gate.pass_through(keyed()))
    await house.upstream.started.wait()
    second = await house.gate.pass_through(keyed())
    assert second.reason_code is ReasonCode.IDEMPOTENCY_IN_PROGRESS
    house.upstream.let_go()
    answer = await first
    assert said(await house.gate.pass_through(keyed())) == said(answer)


async def test_a_key_is_the_principals_own(house: House) -> None:
    for caller in (principal("bot"), principal("other"), principal("bot", tenant="b")):
        await house.gate.pass_through(keyed(caller=caller, session=f"s-{caller.tenant}-{caller.name}"))
    assert len(house.upstream.sent) == 3
    assert house.log.of(Kind.ANSWERED) == []


@pytest.mark.parametrize(
    "other",
    [{"arguments": {"q": 2}}, {"session": "s-2"}, {"tool": replace(WRITE)}],
    ids=["arguments", "session", "tool"],
)
async def test_a_key_that_was_used_for_another_call_is_refused(house: House, other: dict[str, Any]) -> None:
    await house.gate.pass_through(keyed())
    answer = await house.gate.pass_through(keyed(**other))
    assert (answer.reason_code, answer.outcome) == (ReasonCode.IDEMPOTENCY_MISMATCH, None)
    assert len(house.upstream.sent) == 1
    assert house.log.of(Kind.DECIDED)[-1]["reason_code"] == "idempotency_mismatch"


async def test_the_key_itself_is_not_in_the_log(house: House) -> None:
    await house.gate.pass_through(keyed("secret-name-of-a-call"))
    assert not any(b"secret-name" in event.leaf + event.body for event, _ in house.log.events)


async def test_a_call_without_a_key_is_kept_nowhere(house: House) -> None:
    await house.gate.pass_through(a_call())
    assert house.log.rows("answers") == []
    assert "answer_key" not in house.log.of(Kind.FINISHED)[0]


# --- refusals do not use a key up -------------------------------------------------------------------------


async def test_a_refused_call_may_come_again_under_its_key(house: House) -> None:
    house.engine.answer = Ruling(DENY, REVISION)
    assert (await house.gate.pass_through(keyed())).reason_code is ReasonCode.POLICY_DENY
    house.engine.answer = NoRuling(ReasonCode.POLICY_UNAVAILABLE, "down")
    assert (await house.gate.pass_through(keyed())).reason_code is ReasonCode.POLICY_UNAVAILABLE
    house.engine.answer = Ruling(ALLOW_WRITE, REVISION)
    assert (await house.gate.pass_through(keyed())).success


async def test_a_call_that_needs_an_approval_runs_once_under_its_key(house: House) -> None:
    house.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else ASK
    asked = await house.gate.pass_through(keyed())
    assert asked.approval is not None
    await house.approvals.decide(ADA, asked.approval.id, State.APPROVED)
    first = await house.gate.pass_through(keyed())
    again = await house.gate.pass_through(keyed())
    assert first.success
    assert said(again) == said(first), "and no new question is asked, although the approval is spent"
    assert len(house.log.of(Kind.APPROVAL_REQUESTED)) == 1


# --- kills ------------------------------------------------------------------------------------------------


async def test_a_killed_session_does_not_get_the_old_answer(house: House) -> None:
    assert (await house.gate.pass_through(keyed())).success
    await house.killed()
    answer = await house.gate.pass_through(keyed())
    assert (answer.reason_code, answer.result_json) == (ReasonCode.KILLED, None)
    assert house.log.of(Kind.ANSWERED) == []


@pytest.mark.parametrize(("target", "reason"), [("s-1", ReasonCode.KILLED), ("another", ReasonCode.OK)])
async def test_a_kill_that_nobody_told_of_and_that_is_in_the_log_before_it_withholds_the_old_answer(
    house: House, target: str, reason: ReasonCode
) -> None:
    """The same fence as before a call is sent (K5)."""
    assert (await house.gate.pass_through(keyed())).success

    def slip_in(event: Event) -> None:
        if event.kind is Kind.ANSWERED and house.log.position == 0:
            house.kill_elsewhere(a_kill(target=target))

    house.log.on_append = slip_in
    answer = await house.gate.pass_through(keyed())
    assert (answer.reason_code, house.replica.position) == (reason, 1)
    assert (answer.result_json is None) == (reason is ReasonCode.KILLED)


async def test_what_cuts_a_call_while_its_old_answer_is_recorded_withholds_that(house: House) -> None:
    assert (await house.gate.pass_through(keyed())).success

    def kill(event: Event) -> None:
        if event.kind is Kind.ANSWERED:
            house.replica.lapse()

    house.log.on_append = kill
    answer = await house.gate.pass_through(keyed())
    assert (answer.reason_code, answer.result_json) == (ReasonCode.KILL_STATE_UNKNOWN, None)


async def test_a_call_that_was_killed_while_it_ran_never_runs_again(house: House) -> None:
    house.upstream.hold()
    task = asyncio.create_task(house.gate.pass_through(keyed()))
    await house.upstream.started.wait()
    drain = await house.killed()
    first = await task
    assert first.outcome is Outcome.CANCELLED
    house.release_elsewhere(drain.kill)
    await house.replica.catch_up()
    assert said(await house.gate.pass_through(keyed())) == said(first)
    assert len(house.upstream.sent) == 1


# --- nobody knows -----------------------------------------------------------------------------------------


async def test_a_call_whose_process_died_is_unknown_for_good(house: House) -> None:
    house.upstream.hold()
    task = asyncio.create_task(house.gate.pass_through(keyed()))
    await house.upstream.started.wait()
    (intent,) = await house.log.open_intents()
    other = await house.another("m-2")
    await other.recorder.write(closed(other.recorder.origin(), intent, Outcome.UNKNOWN, "the process died"))
    told = await other.gate.pass_through(keyed())
    assert (told.outcome, told.reason_code, told.success) == (Outcome.UNKNOWN, ReasonCode.OUTCOME_UNRECORDED, False)
    text = "The gateway's process ended before it could record how the call ended; upstream effect unknown"
    assert told.error == text
    assert told.call.trace_id == intent.fields["trace_id"]
    assert not told.is_outage, "to try again would be no use"
    house.upstream.let_go()
    await task
    assert said(await other.gate.pass_through(keyed())) == said(told), "what was told first stays"
    assert other.upstream.sent == []


async def test_a_call_whose_record_was_in_doubt_is_told_as_not_sent(house: House) -> None:
    house.log.fail_next(persist=True)
    assert (await house.gate.pass_through(keyed())).reason_code is ReasonCode.LOG_UNAVAILABLE
    assert (await house.gate.pass_through(keyed())).reason_code is ReasonCode.IDEMPOTENCY_IN_PROGRESS
    await house.upkeep.tick()
    told = await house.gate.pass_through(keyed())
    assert (told.outcome, told.success) == (Outcome.NOT_SENT, False)
    assert told.error == "The call was not sent: its record was in doubt"
    assert house.upstream.sent == []


async def test_an_outcome_that_is_written_late_brings_its_answer_along(house: House) -> None:
    house.log.on_append = lambda event: setattr(house.log, "is_down", event.kind is Kind.FINISHED)
    first = await house.gate.pass_through(keyed())
    assert first.reason_code is ReasonCode.OUTCOME_UNRECORDED
    house.log.on_append = lambda _: None
    house.log.is_down = False
    await house.runner.write_unrecorded()
    again = await house.gate.pass_through(keyed())
    assert (again.success, again.result_json) == (True, b'{"ok":true}')
    assert len(house.upstream.sent) == 1


async def test_an_answer_sealed_with_another_key_is_forgotten_and_the_call_not_run(house: House) -> None:
    await house.gate.pass_through(keyed())
    (row,) = house.log.tables.rows["answers"].values()
    row["sealed"] = b"sealed with another key"
    answer = await house.gate.pass_through(keyed())
    assert answer.reason_code is ReasonCode.IDEMPOTENCY_FORGOTTEN
    assert "outcome ok" in (answer.error or "")
    assert len(house.upstream.sent) == 1


async def test_an_answer_that_was_put_in_anothers_place_is_not_told(house: House) -> None:
    await house.gate.pass_through(keyed("k-1"))
    house.upstream.answer = Delivered("the other one")
    await house.gate.pass_through(keyed("k-2"))
    one, other = house.log.tables.rows["answers"].values()
    one["sealed"] = other["sealed"]
    assert (await house.gate.pass_through(keyed("k-1"))).reason_code is ReasonCode.IDEMPOTENCY_FORGOTTEN


async def test_a_result_that_is_too_large_is_not_kept_and_not_fetched_again(house: House) -> None:
    house.upstream.answer = Delivered("x" * 9_998)  # and its quotation marks
    assert (await house.gate.pass_through(keyed("fits"))).success
    assert (await house.gate.pass_through(keyed("fits"))).is_replayed
    house.upstream.answer = Delivered("x" * 9_999)
    assert (await house.gate.pass_through(keyed())).success
    assert [row["sealed"] is None for row in house.log.rows("answers")] == [False, True]
    again = await house.gate.pass_through(keyed())
    assert again.reason_code is ReasonCode.IDEMPOTENCY_FORGOTTEN
    fault = {"why": "y" * 9_991}
    house.upstream.answer = Undelivered(ReasonCode.UPSTREAM_ERROR, "no", reached=True, status=500, fault=fault)
    assert (await house.gate.pass_through(keyed("failed"))).outcome is Outcome.ERROR
    assert house.log.rows("answers")[-1]["sealed"] is None
    assert len(house.upstream.sent) == 3


def roomy(house: House, answers: int) -> None:
    """Room for so many answers of each caller, of the size that `keyed` calls have."""
    (row,) = house.log.rows("answers")
    house.answers._max_held = answers * len(row["sealed"])


async def test_fresh_keys_do_not_fill_the_database_and_what_is_not_kept_is_not_run_again(house: House) -> None:
    await house.gate.pass_through(keyed("k-0"))
    roomy(house, 3)
    for number in range(1, 10):
        assert (await house.gate.pass_through(keyed(f"k-{number}"))).success
    assert len([row for row in house.log.rows("answers") if row["sealed"] is not None]) == 3
    sent = len(house.upstream.sent)
    assert (await house.gate.pass_through(keyed("k-2"))).is_replayed
    assert (await house.gate.pass_through(keyed("k-3"))).reason_code is ReasonCode.IDEMPOTENCY_FORGOTTEN
    assert len(house.upstream.sent) == sent
    assert house.meter.counts["idempotency", "not_kept"] == 7
    other = replace(keyed("k-0"), caller=principal("other", Role.AGENT), session=SessionId("s-other"))
    assert (await house.gate.pass_through(other)).success
    assert (await house.gate.pass_through(replace(other))).is_replayed, "one caller's answers are not another's"


async def test_of_many_at_once_no_more_are_kept_than_there_is_room_for(house: House) -> None:
    await house.gate.pass_through(keyed("k-0"))
    roomy(house, 5)
    await asyncio.gather(*(house.gate.pass_through(keyed(f"k-{number}")) for number in range(1, 30)))
    assert len([row for row in house.log.rows("answers") if row["sealed"] is not None]) == 5


async def test_a_new_process_counts_what_the_log_keeps_and_dropping_makes_room(house: House) -> None:
    await house.gate.pass_through(keyed("old"))
    other = await house.another("m-2")
    roomy(other, 1)
    await other.answers.recount()
    await other.gate.pass_through(keyed("more"))
    assert [row["sealed"] is None for row in house.log.rows("answers")] == [False, True]
    house.clock.move(3590)
    await other.answers.recount()
    house.clock.move(20)
    other.replica.lease.renew(house.clock.boot_s())
    assert await other.answers.forget() is not None
    assert await other.answers.forget() is None
    await other.answers.recount()
    await other.gate.pass_through(keyed("new"))
    assert [row["sealed"] is None for row in house.log.rows("answers")] == [False]


async def test_what_is_kept_while_it_is_counted_counts(house: House) -> None:
    await house.gate.pass_through(keyed("k-0"))
    roomy(house, 2)
    counted = house.log.answers_held

    async def slow() -> dict[tuple[str, str], int]:
        held = await counted()
        await house.gate.pass_through(keyed("k-1"))
        return held

    house.log.answers_held = slow  # type: ignore[method-assign]
    await house.answers.recount()
    await house.gate.pass_through(keyed("k-2"))
    assert [row["sealed"] is None for row in house.log.rows("answers")] == [False, False, True]


async def test_answers_are_counted_when_it_is_time_and_not_for_each_call(house: House) -> None:
    await house.answers.recount()
    house.log.is_down = True
    await house.answers.recount()  # asks nobody
    house.clock.move(37)
    with pytest.raises(LogUnavailable):
        await house.answers.recount()


# --- forgetting -------------------------------------------------------------------------------------------


async def test_answers_are_dropped_when_their_time_is_over_and_their_keys_stay_used(house: House) -> None:
    await house.gate.pass_through(keyed("old"))
    house.clock.move(3000)
    await house.gate.pass_through(keyed("new"))
    house.clock.move(700)
    house.replica.lease.renew(house.clock.boot_s())
    assert await house.answers.forget() is not None
    assert len(house.log.rows("answers")) == 1
    assert (await house.gate.pass_through(keyed("old"))).reason_code is ReasonCode.IDEMPOTENCY_FORGOTTEN
    assert (await house.gate.pass_through(keyed("new"))).success
    assert (await house.gate.pass_through(keyed("old", arguments={"q": 2}))).reason_code is (
        ReasonCode.IDEMPOTENCY_MISMATCH
    )
    assert len(house.upstream.sent) == 2


async def test_dropping_is_recorded_only_when_there_is_something_to_drop(house: House) -> None:
    assert await house.answers.forget() is None
    await house.gate.pass_through(keyed())
    house.clock.move(35)
    house.log.is_down = True
    assert await house.answers.forget() is None, "it is not time yet: nobody is asked"
    house.clock.move(1)
    with pytest.raises(LogUnavailable):
        await house.answers.forget()
    house.log.is_down = False
    house.clock.move(3700)
    assert await house.answers.forget() is not None
    assert await house.answers.forget() is None
    assert len(house.log.of(Kind.ANSWERS_CLOSED)) == 1


async def test_of_many_answers_some_are_dropped_at_a_time_until_none_is_left(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_DROP_AT_ONCE", 2)
    for number in range(5):
        await house.gate.pass_through(keyed(f"k-{number}"))
    house.clock.move(1)
    await house.gate.pass_through(keyed("k-5"))
    house.clock.move(3599)
    left = []
    while await house.answers.forget() is not None:
        left.append(len(house.log.rows("answers")))
        house.clock.move(1)  # and the last one is due
    assert left == [4, 2, 1]
    house.clock.move(35)
    assert await house.answers.forget() is None, "it is not time yet"
    house.clock.move(1)
    assert await house.answers.forget() is not None
    assert house.log.rows("answers") == []


async def test_a_key_is_that_of_one_user_of_an_agent(house: House) -> None:
    """Policy has not said that another user may have this answer."""
    for_eve, for_bob = (replace(principal(), on_behalf_of=user) for user in ("eve", "bob"))
    first = await house.gate.pass_through(keyed(caller=for_eve))
    house.engine.answer = lambda asked: DENY if asked["agent"].get("on_behalf_of") == "bob" else ALLOW
    other = await house.gate.pass_through(keyed(caller=for_bob))
    assert (other.reason_code, other.is_replayed) == (ReasonCode.POLICY_DENY, False)
    again = await house.gate.pass_through(keyed(caller=for_eve))
    assert (again.is_replayed, again.result_json) == (True, first.result_json)


async def test_a_key_that_brings_no_answer_is_refused_in_these_words_and_counted(house: House) -> None:
    async def told(**more: Any) -> tuple[str | None, str, str]:
        answer = await house.gate.pass_through(keyed(**more))
        return answer.error, answer.reason_code.value, answer.decision.matched_rule

    running = asyncio.create_task(house.gate.pass_through(keyed()))
    house.upstream.hold()
    await house.upstream.started.wait()
    text = "Policy denied: A call with this idempotency key is still running"
    assert await told() == (text, "idempotency_in_progress", "idempotency")
    text = "Policy denied: This idempotency key was used for another call"
    assert await told(arguments={"n": 1}) == (text, "idempotency_mismatch", "idempotency")
    house.upstream.let_go()
    trace_id = (await running).call.trace_id
    house.log.tables.rows["answers"][next(iter(house.log.tables.rows["answers"]))]["sealed"] = None  # type: ignore[index]
    ran = f"The call was run under this idempotency key (trace {trace_id}, outcome ok)"
    gone = ("idempotency_forgotten", "idempotency")
    assert await told() == (f"Policy denied: {ran}; its answer is not kept", *gone)
    house.log.tables.rows["answers"].clear()
    house.clock.move(3601)
    house.replica.lease.renew(house.clock.boot_s())
    ran = "The call was run under this idempotency key"
    assert await told() == (f"Policy denied: {ran}; its answer is not kept", *gone)
    found = {label: count for (name, label), count in house.meter.counts.items() if name == "idempotency"}
    assert found == {"in_progress": 1, "mismatched": 1, "forgotten": 2}
