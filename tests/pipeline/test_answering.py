"""`POST /approve`: what a person's answer comes to. The same answer again changes nothing, whoever was in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.approval import Approval, State
from agentgate.core.call import Principal, Role
from agentgate.core.containment import Scope
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.event import Event, Kind
from agentgate.core.strict_json import parse
from agentgate.pipeline.calls.answering import AnswerDesk, Denied, Incomplete
from agentgate.pipeline.calls.fates import Fetched, Over, Progress, Underway
from agentgate.pipeline.calls.passage import Answer
from tests.fakes import ADMIN, ALLOW_WRITE, ASK, DENY, TOOL, a_call, principal
from tests.pipeline.conftest import House, desk_of
from tests.pipeline.test_approvals import ADA, BOB, asked_for
from tests.pipeline.test_deferred import asked

Told = Refused | Incomplete | Denied | Fetched


class Letters:
    """A desk, and one approval of a deferred call that waits."""

    def __init__(self, house: House, approval: Approval) -> None:
        self.house = house
        self.approval = approval
        self.desk = AnswerDesk(house.approvals, desk_of(house))

    async def yes(self, person: Principal = ADA) -> Told:
        return await self.desk.answer(person, self.approval.id, approved=True, reason="fine")

    async def no(self, person: Principal = ADA) -> Told:
        return await self.desk.answer(person, self.approval.id, approved=False, reason="not so")

    async def now(self) -> Approval:
        found = await self.house.approvals.approval(self.approval.id)
        assert found is not None
        return found

    def before_this_is_written(self, person: Principal, state: State) -> None:
        """Have another answer reach the log first."""

        def slip_in(event: Event) -> None:
            if event.kind is Kind.APPROVAL_DECIDED:
                self.house.log.on_append = lambda _: None
                other, _ = self.house.approvals._answer(person, self.approval, state, "")
                self.house.log.append_now(other)

        self.house.log.on_append = slip_in

    def said(self) -> list[str]:
        return [fields["verdict"] for fields in self.house.log.of(Kind.APPROVAL_DECIDED)]


async def letters_of(house: House, quorum: int = 1, **call: Any) -> Letters:
    terms = {**ASK, "approval": {"quorum": quorum}}
    house.engine.answer = lambda question: ALLOW_WRITE if question["has_approval_token"] else terms
    pending = (await asked(house, call=call)).approval
    assert pending is not None
    approval = await house.approvals.approval(pending.id)
    assert approval is not None
    return Letters(house, approval)


@pytest.fixture
async def letters(house: House) -> Letters:
    return await letters_of(house)


async def test_a_yes_is_recorded_and_the_call_made_and_another_one_tells_its_answer(letters: Letters) -> None:
    told = [await letters.yes(), await letters.yes(), await letters.yes(BOB)]
    for answer in told:
        assert isinstance(answer, Answer)
        assert (answer.success, answer.result_json) == (True, b'{"ok":true}')
    assert letters.said() == ["approved"]
    decided = [event for event, _ in letters.house.log.events if event.kind is Kind.APPROVAL_DECIDED]
    assert parse(decided[0].body) == {"reason": "fine"}
    assert len(letters.house.upstream.sent) == 1


async def test_a_no_is_recorded_once_and_no_yes_comes_after_it(letters: Letters) -> None:
    for told in (await letters.no(), await letters.no(), await letters.no(BOB)):
        assert told == Denied(await letters.now())
    assert (await letters.now()).decided_by == ADA.id
    assert await letters.yes(BOB) == Refused(ReasonCode.CONFLICT, "the approval is denied")
    assert letters.said() == ["denied"]
    assert letters.house.upstream.sent == []


async def test_a_yes_of_several_is_told_to_need_more_until_they_are_there(house: House) -> None:
    letters = await letters_of(house, quorum=2)
    for told in (await letters.yes(), await letters.yes()):
        assert told == Incomplete(await letters.now())
    assert (await letters.now()).votes == 1
    assert isinstance(await letters.yes(BOB), Answer)
    assert letters.said() == ["approved", "approved"]


async def test_a_no_ends_what_somebody_has_said_yes_to(house: House) -> None:
    letters = await letters_of(house, quorum=2)
    await letters.yes()
    assert await letters.no(ADA) == Denied(await letters.now())


async def test_a_no_to_a_call_that_was_made_is_too_late(letters: Letters) -> None:
    await letters.yes()
    assert await letters.no(BOB) == Refused(ReasonCode.CONFLICT, "the approval is spent")


async def test_an_answer_after_the_time_is_over_is_told_so(letters: Letters) -> None:
    letters.house.clock.move(901)
    for told in (await letters.yes(), await letters.no()):
        assert told == Refused(ReasonCode.EXPIRED, "the approval is expired")
    assert letters.said() == []


async def test_who_may_not_answer_is_told_why_and_no_answer_of_the_call_either(letters: Letters) -> None:
    nobody = Refused(ReasonCode.NOT_FOUND, "no such approval")
    robot = Refused(ReasonCode.FORBIDDEN, "an approval is given by a person with the role approver")
    for said in ([], ["approved"]):
        assert await letters.yes(principal("eve", Role.APPROVER, person=True, tenant="b")) == nobody
        assert await letters.yes(principal("x", Role.APPROVER)) == robot
        assert letters.said() == said
        await letters.yes()


async def test_a_yes_to_what_policy_refuses_by_now_says_so(letters: Letters) -> None:
    letters.house.engine.answer = lambda _: DENY
    told = await letters.yes()
    assert isinstance(told, Answer)
    assert (told.reason_code, told.success) == (ReasonCode.POLICY_DENY, False)


async def test_a_yes_again_to_a_call_whose_tool_has_changed_since_says_why_it_is_not_made(letters: Letters) -> None:
    await letters.house.approvals.decide(ADA, letters.approval.id, State.APPROVED)
    letters.house.tools[TOOL.name] = replace(TOOL, description="another")
    text = "the call is not kept as it was approved"
    approval = await letters.now()
    assert await letters.yes() == Over(approval.trace_id, ReasonCode.CONFLICT, text, approval)
    assert letters.house.upstream.sent == []


async def test_a_call_that_its_caller_makes_itself_is_not_made_here_but_can_be_denied(house: House) -> None:
    letters = Letters(house, await asked_for(house, a_call()))
    text = "the caller makes this call itself: POST /approvals/{id}/approve"
    assert await letters.yes() == Refused(ReasonCode.CONFLICT, text)
    assert letters.said() == []
    assert await letters.no() == Denied(await letters.now())


async def test_the_same_yes_twice_at_once_is_one_yes_and_one_call(letters: Letters) -> None:
    for told in await asyncio.gather(letters.yes(), letters.yes()):
        assert isinstance(told, Answer)
        assert told.result_json == b'{"ok":true}'
    assert letters.said() == ["approved"]
    assert len(letters.house.upstream.sent) == 1


async def test_the_same_first_yes_twice_at_once_is_one_vote(house: House) -> None:
    letters = await letters_of(house, quorum=2)
    for told in await asyncio.gather(letters.yes(), letters.yes()):
        assert told == Incomplete(await letters.now())
    assert (await letters.now()).votes == 1


async def test_a_yes_that_a_no_beats_is_not_taken(letters: Letters) -> None:
    letters.before_this_is_written(BOB, State.DENIED)
    assert await letters.yes() == Refused(ReasonCode.CONFLICT, "somebody else answered first")
    assert (await letters.no(), letters.house.upstream.sent) == (Denied(await letters.now()), [])


async def test_a_yes_that_anothers_yes_beats_is_not_taken(letters: Letters) -> None:
    letters.before_this_is_written(BOB, State.APPROVED)
    assert await letters.yes() == Refused(ReasonCode.CONFLICT, "the approval is approved")
    assert (await letters.now()).decided_by == BOB.id
    assert letters.house.upstream.sent == []


async def test_a_no_that_a_no_beats_is_that_no(letters: Letters) -> None:
    letters.before_this_is_written(BOB, State.DENIED)
    assert await letters.no() == Denied(await letters.now())
    assert (await letters.now()).decided_by == BOB.id


async def test_a_no_that_a_yes_beats_is_not_taken(letters: Letters) -> None:
    letters.before_this_is_written(BOB, State.APPROVED)
    assert await letters.no() == Refused(ReasonCode.CONFLICT, "somebody else answered first")


async def test_the_same_yes_at_two_members_is_one_call_and_neither_is_told_that_it_failed(letters: Letters) -> None:
    elsewhere = Letters(await letters.house.another("m-2"), letters.approval)
    elsewhere.house.engine.answer = letters.house.engine.answer
    told = await asyncio.gather(letters.yes(), elsewhere.yes())
    assert len(letters.house.upstream.sent) + len(elsewhere.house.upstream.sent) == 1
    for one in told:
        if isinstance(one, Underway):
            assert one.progress is Progress.RUNNING
        else:
            assert isinstance(one, Answer)
            assert one.success, one.error


async def test_who_answers_for_all_tenants_is_told_the_answer_in_the_tenant_of_the_call(house: House) -> None:
    letters = await letters_of(house, caller=principal(tenant="acme"))
    for _ in range(2):
        answer = await letters.yes(ADMIN)
        assert isinstance(answer, Answer)
        assert answer.success
    (handed,) = house.log.of(Kind.ANSWERED)
    assert (handed["tenant"], handed["principal"]) == ("acme", "person:admin")


@pytest.mark.parametrize("order", [{"tenant": "acme"}, {"scope": Scope.TENANT, "target": "acme"}], ids=str)
async def test_a_kill_in_the_tenant_of_the_call_withholds_its_answer_from_who_answers_for_all_tenants(
    house: House, order: dict[str, Any]
) -> None:
    letters = await letters_of(house, caller=principal(tenant="acme"))
    await letters.yes(ADMIN)
    await house.killed(**order)
    withheld = await letters.yes(ADMIN)
    assert isinstance(withheld, Answer)
    assert (withheld.reason_code, withheld.result_json) == (ReasonCode.KILLED, None)
    refused = house.log.of(Kind.DECIDED)[-1]
    assert (refused["tenant"], refused["principal"]) == ("acme", "person:admin")
    owners = {(row["tenant"], row["principal"]) for row in house.log.rows("sessions")}
    assert owners == {("acme", "agent:bot")}, "the refusal takes no session of the person's own tenant"
