"""Approvals inside one member: who is first in the log, what a sweep closes, and who is kept waiting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agentgate.core.approval import Approval, State, Void, Why
from agentgate.core.call import Call, Role
from agentgate.core.containment import Scope
from agentgate.core.decision import Ruling, refusal
from agentgate.core.decision import Verdict as PolicySays
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.event import Event, Kind
from agentgate.core.strict_json import MAX_DEPTH, canonical, parse
from agentgate.pipeline.approvals.desk import Verdict
from agentgate.pipeline.approvals.finder import MOST_PENDING
from agentgate.ports.containment import LimitState
from tests.fakes import ADMIN, ALLOW_WRITE, ASK, DENY, REVISION, TOOL, a_call, a_kill, principal
from tests.pipeline.conftest import House, a_moment, edit_desk

ADA, BOB = (principal(name, Role.APPROVER, person=True) for name in ("ada", "bob"))


async def asked_for(house: House, call: Call | None = None, **terms: Any) -> Approval:
    """A pending approval of `call`."""
    house.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else {**ASK, "approval": terms}
    answer = await house.gate.pass_through(call or a_call())
    assert answer.approval is not None, answer.error
    found = await house.approvals.approval(answer.approval.id)
    assert found is not None
    return found


async def approved(house: House, approval: Approval) -> Verdict:
    verdict = await house.approvals.decide(ADA, approval.id, State.APPROVED)
    assert isinstance(verdict, Verdict), verdict
    return verdict


async def test_a_void_that_is_first_in_the_log_beats_a_redemption(house: House) -> None:
    approval = (await approved(house, await asked_for(house))).approval

    def void_first(event: Event) -> None:
        if event.kind is Kind.DECIDED and event.fields["decision"] == "ALLOW":
            house.log.on_append = lambda _: None
            closing = house.approvals._event(
                Kind.APPROVAL_CLOSED,
                approval,
                {"approval_id": approval.id, "state": "void", "closes": "approved", "why": "killed"},
                None,
                "",
            )
            house.log.append_now(closing)

    house.log.on_append = void_first
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.APPROVAL_SPENT
    assert not house.upstream.sent


async def test_a_redemption_that_is_first_in_the_log_beats_a_void(house: House) -> None:
    approval = (await approved(house, await asked_for(house))).approval
    assert (await house.gate.pass_through(a_call())).success
    assert not await house.approvals.close(approval, State.VOID, Void(Why.KILLED))
    found = await house.approvals.approval(approval.id)
    assert found is not None
    assert found.state is State.SPENT


async def test_what_is_taken_back_carries_nothing_and_its_arguments_go(house: House) -> None:
    approval = (await approved(house, await asked_for(house))).approval
    secret = "AKIA" + "IOSFODNN7EXAMPLE"
    taken = await house.approvals.withdraw(ADA, approval.id, f"not now: {secret}")
    assert isinstance(taken, Approval)
    assert (taken.state, taken.why, taken.sealed) == (State.VOID, "withdrawn", None)
    (closing,) = house.log.of(Kind.APPROVAL_CLOSED)
    assert (closing["principal"], closing["auth"], closing["closes"]) == (ADA.id, ADA.auth_method, "approved")
    (body,) = (event.body for event, _ in house.log.events if event.kind is Kind.APPROVAL_CLOSED)
    assert b"not now" in body
    assert secret.encode() not in body
    again = await house.gate.pass_through(a_call())
    assert (again.success, again.reason_code) == (False, ReasonCode.APPROVAL_REQUIRED)
    assert again.approval is not None
    assert again.approval.id != approval.id


async def test_of_withdrawals_and_redemptions_at_once_one_counts(house: House) -> None:
    for number in range(20):
        call = a_call(session=f"s-{number}")
        approval = (await approved(house, await asked_for(house, call))).approval
        sent = len(house.upstream.sent)
        taken, answer, other = await asyncio.gather(
            house.approvals.withdraw(ADA, approval.id),
            house.gate.pass_through(call),
            house.approvals.withdraw(BOB, approval.id),
        )
        won = [isinstance(taken, Approval), answer.success, isinstance(other, Approval)]
        assert sum(won) == 1, won
        assert len(house.upstream.sent) - sent == answer.success


async def test_what_is_approved_while_it_is_taken_back_is_taken_back(house: House) -> None:
    approval = await asked_for(house)

    def approve_first(event: Event) -> None:
        if event.kind is Kind.APPROVAL_CLOSED:
            house.log.on_append = lambda _: None
            yes, _ = house.approvals._answer(BOB, approval, State.APPROVED, "")
            house.log.append_now(yes)

    house.log.on_append = approve_first
    taken = await house.approvals.withdraw(ADA, approval.id)
    assert isinstance(taken, Approval)
    assert (taken.state, taken.decided_by) == (State.VOID, BOB.id)
    assert not (await house.gate.pass_through(a_call())).success


async def test_what_some_have_said_yes_to_can_be_taken_back_and_not_completed(house: House) -> None:
    approval = await asked_for(house, quorum=2)
    await approved(house, approval)
    assert isinstance(await house.approvals.withdraw(BOB, approval.id), Approval)
    late = await house.approvals.decide(BOB, approval.id, State.APPROVED)
    assert isinstance(late, Refused)
    assert not (await house.gate.pass_through(a_call())).success


@pytest.mark.parametrize("ended", ["spent", "denied", "void", "expired"])
async def test_what_is_over_cannot_be_taken_back(house: House, ended: str) -> None:
    approval = await asked_for(house)
    if ended == "denied":
        await house.approvals.decide(ADA, approval.id, State.DENIED)
    elif ended == "void":
        await house.approvals.withdraw(ADA, approval.id)
    else:
        await approved(house, approval)
    if ended == "spent":
        assert (await house.gate.pass_through(a_call())).success
    elif ended == "expired":
        house.clock.move(901)
    events = len(house.log.events)
    refused = await house.approvals.withdraw(ADA, approval.id)
    assert isinstance(refused, Refused)
    assert refused.reason is (ReasonCode.EXPIRED if ended == "expired" else ReasonCode.CONFLICT)
    why = ": a person who may answer it took it back" if ended == "void" else ""
    assert refused.detail == f"the approval is {ended}{why}"
    assert len(house.log.events) == events


async def test_who_waits_for_what_is_edited_looks_when_the_new_question_is_there(house: House) -> None:
    call = a_call(arguments={"q": 1})
    approval = await asked_for(house, call)
    waiting = asyncio.create_task(house.approvals.answered(call, approval.id, 30))
    await a_moment()
    (heard,) = house.approvals.waiting._awaited[approval.id]
    seen: list[tuple[Kind, bool]] = []
    house.log.on_append = lambda event: seen.append((event.kind, heard.is_set()))
    edits = edit_desk(house)
    assert isinstance(await edits.edit(ADA, approval.id, {"q": 2}), Approval)
    assert seen == [(Kind.APPROVAL_CLOSED, False), (Kind.APPROVAL_REQUESTED, False)]
    assert await waiting is True


async def test_who_waited_for_what_is_taken_back_is_told_and_asks_nobody_anew(house: House) -> None:
    call = a_call()
    approval = await asked_for(house, call)
    waiting = asyncio.create_task(house.approvals.answered(call, approval.id, 30))
    await a_moment()
    assert await house.approvals.withdrawn(call, approval.id) is None
    await house.approvals.withdraw(ADA, approval.id)
    async with asyncio.timeout(0.4):  # before it would look by itself
        assert await waiting is True
    refused = await house.approvals.withdrawn(call, approval.id)
    assert refused is not None
    answer = await house.gate.pass_through(call, refused)
    assert (answer.reason_code, answer.approval) == (ReasonCode.APPROVAL_DENIED, None)
    strangers = replace(call, caller=principal("other", Role.AGENT))
    assert await house.approvals.withdrawn(strangers, approval.id) is None


@pytest.mark.parametrize("why", [why for why in Why if why is not Why.EXPIRED])
async def test_an_answer_to_what_is_void_already_is_not_taken_and_says_why(house: House, why: Why) -> None:
    approval = await asked_for(house)
    assert await house.approvals.close(approval, State.VOID, Void(why, kill_id="kill-of-somebody"))
    refused = Refused(ReasonCode.CONFLICT, f"the approval is void: {Void(why).sentence}")
    assert await house.approvals.decide(ADA, approval.id, State.APPROVED) == refused
    assert await house.approvals.withdraw(ADA, approval.id) == refused


async def test_two_who_say_yes_at_once_are_two_votes(house: House) -> None:
    approval = await asked_for(house, quorum=2)
    verdicts = await asyncio.gather(
        *(house.approvals.decide(person, approval.id, State.APPROVED) for person in (ADA, BOB))
    )
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    assert sorted(bool(verdict.token) for verdict in verdicts if isinstance(verdict, Verdict)) == [False, True]
    found = await house.approvals.approval(approval.id)
    assert found is not None
    assert [vote.by for vote in await house.approvals.votes(found)] in (
        ["person:ada", "person:bob"],
        ["person:bob", "person:ada"],
    )


async def test_a_kill_that_nobody_here_has_heard_of_voids_a_redemption(house: House) -> None:
    """Given and released elsewhere, and the store says nothing: the log is looked at."""
    await approved(house, await asked_for(house))
    kill = house.kill_elsewhere(a_kill(Scope.AGENT, "bot"))
    house.release_elsewhere(kill)
    answer = await house.gate.pass_through(a_call())
    assert (answer.success, answer.reason_code) == (False, ReasonCode.APPROVAL_REQUIRED)


async def test_a_sweep_closes_what_a_kill_covers_and_says_which_kill(house: House) -> None:
    covered = (await approved(house, await asked_for(house))).approval
    other = await asked_for(house, a_call(session="s-2"))
    drain = await house.killed()
    assert await house.voids.sweep() == 1
    assert await house.voids.sweep() == 0
    (closed,) = house.log.of(Kind.APPROVAL_CLOSED)
    assert (closed["approval_id"], closed["why"], closed["kill_id"]) == (covered.id, "killed", drain.kill.id)
    assert (await house.approvals.approval(other.id)) == other


@pytest.mark.parametrize(
    ("change", "why"), [("policy", "policy_changed"), ("tool", "tool_changed"), ("quarantine", "tool_changed")]
)
async def test_a_sweep_closes_what_policy_or_tool_have_left_behind_once_that_lasts(
    house: House, change: str, why: str
) -> None:
    approval = await asked_for(house)
    before = dict(house.tools)
    if change == "policy":
        house.engine.enforced = "sha256:another"
    elif change == "tool":
        house.tools[TOOL.name] = replace(TOOL, description="another")
    else:
        house.tools[TOOL.name] = replace(TOOL, quarantine="its server describes it otherwise")
    assert await house.voids.sweep() == 0, "a roll-out is not the same everywhere for a moment"
    refused = await house.approvals.decide(ADA, approval.id, State.APPROVED)
    assert isinstance(refused, Refused)
    house.tools.update(before)
    house.engine.enforced = REVISION
    house.clock.move(10)
    assert await house.voids.sweep() == 0, "it came back"
    house.engine.enforced = "sha256:another" if change == "policy" else REVISION
    if change != "policy":
        house.tools[TOOL.name] = replace(TOOL, description="another", quarantine=None if change == "tool" else "x")
    assert await house.voids.sweep() == 0
    house.clock.move(1)
    assert await house.voids.sweep() == 1
    assert house.log.of(Kind.APPROVAL_CLOSED)[0]["why"] == why


async def test_a_policy_engine_that_is_silent_voids_nothing(house: House) -> None:
    await asked_for(house)
    house.engine.enforced = None
    assert await house.voids.sweep() == 0
    house.clock.move(100)
    assert await house.voids.sweep() == 0


async def test_policy_that_wants_more_by_now_does_not_take_a_weaker_approval(house: House) -> None:
    await approved(house, await asked_for(house))
    house.engine.answer = lambda asked: (
        ALLOW_WRITE if asked["has_approval_token"] else {**ASK, "approval": {"quorum": 2}}
    )
    answer = await house.gate.pass_through(a_call())
    assert answer.approval is not None
    assert (answer.success, answer.approval.quorum) == (False, 2)


async def test_a_yes_under_one_policy_carries_nothing_that_the_next_one_allows(house: House) -> None:
    """Policy changes between its two answers; the next one wants more than this yes."""
    approval = (await approved(house, await asked_for(house))).approval
    read = house.log.projection
    stricter = {**ASK, "approval": {"quorum": 2}}

    async def reloaded(name: str, **match: Any) -> Any:
        house.engine.enforced = "sha256:00000000000000ff"
        house.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else stricter
        return await read(name, **match)

    house.log.projection = reloaded  # type: ignore[assignment]
    answer = await house.gate.pass_through(a_call())
    assert (answer.reason_code, house.upstream.sent) == (ReasonCode.APPROVAL_REQUIRED, [])
    assert answer.approval is not None
    assert (answer.approval.id != approval.id, answer.approval.quorum) == (True, 2)


async def test_a_policy_that_is_another_at_each_question_allows_nothing_by_approvals(house: House) -> None:
    """As of several OPA servers that were not loaded alike."""
    await approved(house, await asked_for(house))
    other = "sha256:00000000000000ff"
    house.engine.answer = lambda asked: (
        Ruling(ALLOW_WRITE, other) if asked["has_approval_token"] else Ruling(ASK, REVISION)
    )
    answer = await house.gate.pass_through(a_call())
    assert (answer.reason_code, house.upstream.sent) == (ReasonCode.POLICY_UNAVAILABLE, [])
    house.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else ASK
    assert (await house.gate.pass_through(a_call())).success


async def test_a_deferred_call_is_carried_by_its_own_approval_or_by_none(house: House) -> None:
    approval = (await approved(house, await asked_for(house, replace(a_call(), deferred=True)))).approval
    assert approval.executes
    ran = replace(a_call(), deferred=True, carried_by=approval.id)
    assert (await house.gate.pass_through(ran)).success
    again = await house.gate.pass_through(replace(a_call(), deferred=True, carried_by=approval.id))
    assert (again.success, again.reason_code, again.approval) == (False, ReasonCode.APPROVAL_SPENT, None)
    assert len(house.log.rows("approvals")) == 1, "no new question"


async def test_who_does_not_wait_gets_an_approval_that_the_gateway_carries_out(house: House) -> None:
    told: list[str] = []
    house.approvals.on_approved = lambda approval: told.append(approval.id)
    held = await asked_for(house)
    left = await asked_for(house, replace(a_call(), deferred=True))
    assert (held.executes, left.executes) == (False, True)
    await approved(house, held)
    assert told == []
    await approved(house, left)
    assert told == [left.id]


async def test_a_yes_carries_the_call_although_another_question_about_it_waits(house: House) -> None:
    held = await asked_for(house)
    left = await asked_for(house, replace(a_call(), deferred=True))
    await approved(house, held)
    answer = await house.gate.pass_through(a_call())
    assert (answer.success, answer.decision.approval_id) == (True, held.id)
    assert (await house.approvals.approval(left.id)) == left


async def test_a_reason_is_redacted_before_it_is_written(house: House) -> None:
    approval = await asked_for(house)
    secret = "AKIA" + "IOSFODNN7EXAMPLE"
    await house.approvals.decide(ADA, approval.id, State.DENIED, f"because of {secret}\0")
    event = next(event for event, _ in house.log.events if event.kind is Kind.APPROVAL_DECIDED)
    assert b"because of" in event.body
    assert secret.encode() not in event.body


async def test_an_edit_whose_request_is_lost_leaves_nothing_that_runs(house: House) -> None:
    approval = await asked_for(house)
    edits = edit_desk(house)

    def fail_after(event: Event) -> None:
        if event.kind is Kind.APPROVAL_REQUESTED:
            house.log.on_append = lambda _: None
            house.log.fail_next()

    house.log.on_append = fail_after
    with pytest.raises(Exception, match="told to fail"):
        await edits.edit(ADA, approval.id, {"n": 1})
    found = await house.approvals.approval(approval.id)
    assert found is not None
    assert found.state is State.VOID
    answer = await house.gate.pass_through(a_call())
    assert answer.approval is not None
    assert answer.approval.id not in (approval.id, found.edited_to)


async def test_an_edited_call_is_decided_and_recorded_as_itself_and_names_the_original(house: House) -> None:
    sent = a_call(arguments={"n": 1})
    approval = await asked_for(house, sent)
    edits = edit_desk(house)
    done = await edits.edit_and_approve(BOB, approval.id, {"n": 2}, "less")
    assert isinstance(done, Verdict)
    answer = await house.gate.pass_through(a_call(arguments={"n": 1}))
    assert answer.success
    decided = house.log.of(Kind.DECIDED)[-1]
    assert decided["call_sha256"] == a_call(arguments={"n": 2}).digest
    assert decided["edited_from_sha256"] == sent.digest
    assert house.upstream.sent[0].call.arguments == {"n": 2}
    policy_saw = house.engine.asked[-1]
    assert (policy_saw["arguments"], policy_saw["has_approval_token"]) == ({"n": 2}, True)


async def test_an_edit_when_policy_does_not_answer_changes_nothing(house: House) -> None:
    approval = await asked_for(house)
    house.engine.answer = Ruling("nonsense", REVISION)
    edits = edit_desk(house)
    refused = await edits.edit(ADA, approval.id, {"n": 2})
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.POLICY_MALFORMED
    assert await house.approvals.approval(approval.id) == approval


async def test_what_was_edited_twice_shows_and_names_what_its_caller_sent(house: House) -> None:
    sent = replace(a_call(arguments={"n": 1}), idempotency_key="k-1")
    approval = await asked_for(house, sent)
    edits = edit_desk(house)
    once = await edits.edit(ADA, approval.id, {"n": 2})
    assert isinstance(once, Approval)
    twice = await edits.edit_and_approve(BOB, once.id, {"n": 3})
    assert isinstance(twice, Verdict)
    assert house.approvals.original(twice.approval)["arguments"] == {"n": 1}
    first = await house.gate.pass_through(sent)
    assert house.log.of(Kind.DECIDED)[-1]["edited_from_sha256"] == sent.digest
    again = await house.gate.pass_through(replace(sent, trace_id=a_call().trace_id))
    assert (first.success, again.is_replayed) == (True, True), again.error
    assert [one.call.arguments for one in house.upstream.sent] == [{"n": 3}]


async def test_what_a_kill_covered_is_not_edited_before_anybody_has_closed_it(house: House) -> None:
    approval = await asked_for(house)
    kill = house.kill_elsewhere(a_kill())
    edits = edit_desk(house)
    refused = await edits.edit(ADA, approval.id, {"n": 2})
    assert refused == Refused(ReasonCode.CONFLICT, "the approval is void: a kill covered it")
    assert house.log.of(Kind.APPROVAL_CLOSED)[-1]["kill_id"] == kill.id
    assert len(house.log.of(Kind.APPROVAL_REQUESTED)) == 1


@pytest.mark.parametrize("before", [Kind.APPROVAL_CLOSED, Kind.APPROVAL_REQUESTED])
async def test_a_kill_between_the_steps_of_an_edit_covers_the_edited_call_released_or_not(
    house: House, before: Kind
) -> None:
    approval = await asked_for(house)

    def kill_first(event: Event) -> None:
        if event.kind is before:
            house.log.on_append = lambda _: None
            house.release_elsewhere(house.kill_elsewhere(a_kill()))

    house.log.on_append = kill_first
    edits = edit_desk(house)
    edited = await edits.edit(ADA, approval.id, {"n": 2})
    assert isinstance(edited, Approval)
    again = await edits.edit(ADA, edited.id, {"n": 3})
    refused = Refused(ReasonCode.CONFLICT, "the approval is void: a kill covered it")
    assert again == await house.approvals.decide(ADA, edited.id, State.APPROVED) == refused


async def test_who_waits_is_woken_by_a_kill_although_the_log_is_slow_to_say_void(house: House) -> None:
    call = a_call()
    approval = await asked_for(house, call)
    house.approvals.is_over = lambda one: house.replica.state.over(one) is not None
    house.replica.on_cut = lambda _: house.voids.stir()
    waiting = asyncio.create_task(house.approvals.answered(call, approval.id, 30))
    await a_moment()
    assert not waiting.done()
    await house.killed()
    async with asyncio.timeout(0.4):  # before it would look by itself
        assert await waiting


async def test_who_looks_at_an_approval_of_another_call_does_not_wait(house: House) -> None:
    approval = await asked_for(house)
    stranger = a_call(caller=principal("other"))
    assert await house.approvals.answered(stranger, approval.id, 30)


async def test_listing_and_admin_see_what_is_theirs(house: House) -> None:
    approval = await asked_for(house)
    stranger = principal("eve", Role.APPROVER, person=True, tenant="b")
    assert await house.approvals.list(stranger) == []
    assert await house.approvals.get(stranger, approval.id) is None
    assert [one.id for one in await house.approvals.list(ADMIN, State.PENDING)] == [approval.id]
    assert await house.approvals.list(ADA, prefix="apr-none") == []


async def test_pages_have_what_a_member_whose_clock_is_behind_asked_meanwhile(house: House) -> None:
    first = await asked_for(house, a_call(arguments={"n": 1}))
    house.clock.moment -= timedelta(seconds=10)
    second = await asked_for(house, a_call(arguments={"n": 2}))
    assert [one.id for one in await house.approvals.list(ADMIN, State.PENDING)] == [first.id, second.id]
    assert [one.id for one in await house.approvals.list(ADMIN, State.PENDING, after=first)] == [second.id]
    assert await house.approvals.list(ADMIN, State.PENDING, after=second) == []
    assert [one.id for one in await house.approvals.list(ADMIN, limit=1)] == [first.id]


# --- what it is bound to, and how many there may be ---------------------------------------------------------


def for_user(user: str | None, **about: Any) -> Call:
    """A call of the one agent, for a user of its."""
    return a_call(caller=replace(principal(), on_behalf_of=user), **about)


@pytest.mark.parametrize("other", ["bob", None])
@pytest.mark.parametrize("with_token", [True, False])
async def test_a_yes_to_what_is_done_for_one_user_is_none_for_another(
    house: House, other: str | None, with_token: bool
) -> None:
    """Else who may not approve what is done for them approves it as somebody else's."""
    given = await approved(house, await asked_for(house, for_user("eve")))
    call = for_user(other, approval_token=given.token if with_token else None)
    answer = await house.gate.pass_through(call)
    assert answer.decision.verdict is PolicySays.REQUIRE_APPROVAL
    assert answer.approval is not None
    assert answer.approval.id != given.approval.id
    assert house.upstream.sent == []
    assert (await house.gate.pass_through(for_user("eve"))).success


async def test_an_edit_into_what_policy_wants_less_for_runs_when_the_call_is_repeated(house: House) -> None:
    def by_amount(asked: dict[str, Any]) -> Any:
        quorum = 2 if asked["arguments"]["n"] > 100 else 1
        return ALLOW_WRITE if asked["has_approval_token"] else {**ASK, "approval": {"quorum": quorum}}

    house.engine.answer = by_amount
    asked = await house.gate.pass_through(a_call(arguments={"n": 500}))
    assert asked.approval is not None
    edits = edit_desk(house)
    done = await edits.edit_and_approve(ADA, asked.approval.id, {"n": 50})
    assert isinstance(done, Verdict)
    assert done.state is State.APPROVED
    answer = await house.gate.pass_through(a_call(arguments={"n": 500}))
    assert answer.success, answer.error
    assert [sent.call.arguments for sent in house.upstream.sent] == [{"n": 50}]


async def test_an_edited_call_that_policy_wants_more_for_by_now_is_not_carried(house: House) -> None:
    wanted = {1: 1, 2: 1}
    house.engine.answer = lambda asked: (
        ALLOW_WRITE if asked["has_approval_token"] else {**ASK, "approval": {"quorum": wanted[asked["arguments"]["n"]]}}
    )
    asked = await house.gate.pass_through(a_call(arguments={"n": 1}))
    assert asked.approval is not None
    edits = edit_desk(house)
    await edits.edit_and_approve(ADA, asked.approval.id, {"n": 2})
    wanted[2] = 2
    answer = await house.gate.pass_through(a_call(arguments={"n": 1}))
    assert (answer.reason_code, house.upstream.sent) == (ReasonCode.APPROVAL_REQUIRED, [])
    assert answer.approval is not None
    assert answer.approval.arguments is None, "what is asked for anew is the call as it was sent"


async def test_an_edit_into_what_policy_allows_outright_needs_all_who_were_to_answer(house: House) -> None:
    """Else one of two persons makes the other one needless by an edit."""
    strict = {**ASK, "approval": {"quorum": 2, "approvers": [ADA.id, BOB.id]}}
    house.engine.answer = lambda asked: strict if asked["arguments"]["n"] == 1 else ALLOW_WRITE
    asked = await house.gate.pass_through(a_call(arguments={"n": 1}))
    assert asked.approval is not None
    edits = edit_desk(house)
    edited = await edits.edit(ADA, asked.approval.id, {"n": 2})
    assert isinstance(edited, Approval)
    assert (edited.quorum, edited.approvers) == (2, (ADA.id, BOB.id))


async def test_a_no_to_an_edited_call_is_one_to_the_call_as_it_was_sent(house: House) -> None:
    sent = a_call(arguments={"n": 1})
    approval = await asked_for(house, sent)
    edits = edit_desk(house)
    edited = await edits.edit(ADA, approval.id, {"n": 2})
    assert isinstance(edited, Approval)
    await house.approvals.decide(BOB, edited.id, State.DENIED)
    answer = await house.gate.pass_through(sent)
    assert (answer.reason_code, answer.approval) == (ReasonCode.APPROVAL_DENIED, None)
    assert (answer.decision.approval_id, answer.decision.approved_by) == (edited.id, BOB.id)


async def test_an_edited_call_that_policy_refuses_by_now_is_refused_as_that(house: House) -> None:
    approval = await asked_for(house, a_call(arguments={"n": 1}))
    edits = edit_desk(house)
    assert isinstance(await edits.edit_and_approve(ADA, approval.id, {"n": 2}), Verdict)
    house.engine.answer = lambda asked: DENY if asked["arguments"]["n"] == 2 else ASK
    answer = await house.gate.pass_through(a_call(arguments={"n": 1}))
    assert (answer.reason_code, house.upstream.sent) == (ReasonCode.POLICY_DENY, [])


async def test_an_edited_call_that_policy_asks_nobody_for_by_now_needs_whom_the_call_as_it_was_sent_does(
    house: House,
) -> None:
    approval = await asked_for(house, a_call(arguments={"n": 1}))
    edits = edit_desk(house)
    assert isinstance(await edits.edit_and_approve(ADA, approval.id, {"n": 2}), Verdict)
    without = {1: {**ASK, "approval": {"quorum": 2}}, 2: DENY}
    house.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else without[asked["arguments"]["n"]]
    answer = await house.gate.pass_through(a_call(arguments={"n": 1}))
    assert answer.approval is not None
    assert (answer.approval.quorum, house.upstream.sent) == (2, [])


async def test_one_caller_cannot_pile_up_questions_and_others_can_ask(house: House) -> None:
    house.admission.limit = LimitState(1_000, 9, 0)
    for number in range(MOST_PENDING):
        await asked_for(house, a_call(arguments={"n": number}))
    answer = await house.gate.pass_through(a_call(arguments={"n": "one more"}))
    text = "200 calls of this caller wait for an approval already: no more are asked for"
    assert answer.decision == refusal(ReasonCode.RATE_LIMITED, text, "approvals_pending", REVISION)
    assert (answer.approval, answer.limit, answer.retry_after_s) == (None, None, None), "it is not one of calls"
    assert "limit" not in house.log.of(Kind.DECIDED)[-1]
    assert (await house.gate.pass_through(a_call(arguments={"n": 0}))).approval is not None, "it is asked already"
    other = a_call(session="s-2", caller=principal("other"))
    assert (await house.gate.pass_through(other)).approval is not None
    house.clock.move(901)
    assert (await house.gate.pass_through(a_call(arguments={"n": "later"}))).approval is not None


async def test_what_looks_often_or_at_many_approvals_reads_no_arguments(house: House) -> None:
    """They may be a megabyte each, and sweeps and those who wait look every second."""
    call = replace(a_call(), deferred=True)
    approval = await asked_for(house, call)
    read, found = house.log.projection, []

    async def listening(name: str, **how: Any) -> Any:
        rows = await read(name, **how)
        found.extend((row["id"], row["sealed"]) for row in rows)
        return rows

    house.log.projection = listening  # type: ignore[method-assign]
    assert not await house.approvals.answered(call, approval.id, 0)
    assert not await house.approvals._finder.has_too_many(call.caller)
    assert await house.approvals.withdrawn(call, approval.id) is None
    assert await house.approvals.close_expired() == 0
    assert await house.voids.sweep() == 0
    assert set(found) == {(approval.id, None)}
    assert [(one.id, one.sealed) for one in await house.approvals.list(ADMIN)] == [(approval.id, None)]
    whole = await house.approvals.approval(approval.id)
    assert whole is not None
    assert whole.sealed is not None


async def test_one_caller_cannot_take_all_places_of_those_who_wait(house: House) -> None:
    approval = await asked_for(house)
    mine = [asyncio.create_task(house.approvals.answered(a_call(), approval.id, 30)) for _ in range(100)]
    await asyncio.sleep(0)
    assert not await house.approvals.answered(a_call(), approval.id, 30), "told at once"
    house.engine.answer = lambda _: ASK
    others = a_call(session="s-2", caller=principal("other"))
    pending = (await house.gate.pass_through(others)).approval
    assert pending is not None
    waits = asyncio.create_task(house.approvals.answered(others, pending.id, 30))
    await approved(house, approval)
    assert all(await asyncio.gather(*mine))
    assert not waits.done()
    waits.cancel()


async def test_an_edit_of_the_deepest_call_that_is_taken_can_be_read_and_run(house: House) -> None:
    """What is kept of it is nested deeper than anything that may come in."""
    deep: Any = 1
    for _ in range(MAX_DEPTH - 2):
        deep = [deep]
    sent = a_call(arguments=parse(canonical({"arguments": {"k": deep}}))["arguments"])
    approval = await asked_for(house, sent)
    edits = edit_desk(house)
    done = await edits.edit_and_approve(ADA, approval.id, {"k": deep, "n": 2})
    assert isinstance(done, Verdict)
    assert house.approvals.original(done.approval)["arguments"] == sent.arguments
    first = await house.gate.pass_through(replace(sent, idempotency_key="k-1"))
    again = await house.gate.pass_through(replace(sent, idempotency_key="k-1", trace_id=a_call().trace_id))
    assert (first.success, again.is_replayed) == (True, True), first.error
    assert again.edited == first.edited


async def test_an_approval_from_before_schema_6_goes_on_and_a_kill_of_its_server_ends_it(house: House) -> None:
    """Nobody wrote down then which server and which definition: that is no change of either."""
    approval = replace(await asked_for(house), server="", tool_sha256="")
    assert house.circumstances.changed(approval, REVISION) is None
    assert await house.circumstances.killed((approval,)) == {}
    await house.killed(scope=Scope.SERVER, target=TOOL.upstream)
    assert (await house.circumstances.killed((approval,)))[approval.id].why is Why.KILLED


async def test_many_that_come_at_once_ask_once(house: House) -> None:
    """Else a person who answers all that waits runs one call many times."""
    house.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else ASK
    answers = await asyncio.gather(*(house.gate.pass_through(a_call()) for _ in range(20)))
    assert len({answer.approval.id for answer in answers if answer.approval is not None}) == 1
    assert len(house.log.rows("approvals")) == 1


async def test_many_that_come_at_once_are_not_more_than_may_wait(house: House) -> None:
    house.engine.answer = lambda _: ASK
    calls = (a_call(arguments={"n": number}) for number in range(MOST_PENDING + 20))
    answers = await asyncio.gather(*(house.gate.pass_through(call) for call in calls))
    assert sum(answer.approval is not None for answer in answers) == MOST_PENDING
