"""Approvals inside one member: who is first in the log, what a sweep closes, and who is kept waiting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.approval import Approval, State, Void, Why
from agentgate.core.call import Call, Role
from agentgate.core.containment import Scope
from agentgate.core.decision import Ruling
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Event, Kind
from agentgate.pipeline.approvals import CannotDecide, Verdict
from agentgate.pipeline.edits import EditDesk
from tests.fakes import ADMIN, ALLOW_WRITE, ASK, REVISION, TOOL, a_call, a_kill, principal
from tests.pipeline.conftest import House, a_moment

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


async def test_a_yes_to_what_is_void_already_is_not_taken(house: House) -> None:
    approval = await asked_for(house)
    assert await house.approvals.close(approval, State.VOID, Void(Why.TOOL_CHANGED))
    verdict = await house.approvals.decide(ADA, approval.id, State.APPROVED)
    assert isinstance(verdict, CannotDecide)
    assert verdict.detail == "the approval is void"


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
    ("change", "why"),
    [("policy", "policy_changed"), ("tool", "tool_changed"), ("quarantine", "tool_changed")],
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
    assert isinstance(refused, CannotDecide)
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


async def test_a_reason_is_redacted_before_it_is_written(house: House) -> None:
    approval = await asked_for(house)
    secret = "AKIA" + "IOSFODNN7EXAMPLE"
    await house.approvals.decide(ADA, approval.id, State.DENIED, f"because of {secret}\0")
    event = next(event for event, _ in house.log.events if event.kind is Kind.APPROVAL_DECIDED)
    assert b"because of" in event.body
    assert secret.encode() not in event.body


async def test_an_edit_whose_request_is_lost_leaves_nothing_that_runs(house: House) -> None:
    approval = await asked_for(house)
    edits = EditDesk(house.approvals, house.recorder, house.tools, house.entropy, house.gate.opinion)

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
    edits = EditDesk(house.approvals, house.recorder, house.tools, house.entropy, house.gate.opinion)
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
    edits = EditDesk(house.approvals, house.recorder, house.tools, house.entropy, house.gate.opinion)
    refused = await edits.edit(ADA, approval.id, {"n": 2})
    assert isinstance(refused, CannotDecide)
    assert refused.reason is ReasonCode.POLICY_MALFORMED
    assert await house.approvals.approval(approval.id) == approval


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
