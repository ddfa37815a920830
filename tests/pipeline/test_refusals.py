"""A principal that is refused too often is turned away, and the log says how often, once a second (DESIGN §6)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.call import Principal
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Event, Kind
from agentgate.ports.log import Appended
from tests.fakes import ASK, a_call, principal
from tests.pipeline.conftest import House

BOT = principal()
LIMIT = 20


def _refuse(house: House, times: int, who: Principal = BOT) -> int:
    """That many refused tries; how many of them were turned away before they could be refused."""
    turned_away = 0
    for _ in range(times):
        if house.refusals.is_over(who):
            turned_away += 1
        else:
            house.refusals.refused(who)
    return turned_away


async def test_twenty_refusals_in_a_second_are_taken_and_the_next_is_turned_away(house: House) -> None:
    assert _refuse(house, LIMIT - 1) == 0
    house.clock.move(0.9)
    assert _refuse(house, 1) == 0
    assert house.refusals.is_over(BOT)


async def test_caller_without_refusals_is_never_turned_away(house: House) -> None:
    assert not any(house.refusals.is_over(BOT) for _ in range(1000))


async def test_next_second_starts_anew(house: House) -> None:
    assert _refuse(house, 100) == 80
    house.clock.move(1)
    assert _refuse(house, LIMIT) == 0


async def test_principals_are_counted_apart(house: House) -> None:
    _refuse(house, 100)
    for other in (principal("other"), principal(tenant="other"), principal(person=True)):
        assert not house.refusals.is_over(other)


async def test_count_is_written_once_after_its_second(house: House) -> None:
    _refuse(house, 100)
    await house.refusals.write_counts()
    assert house.log.kinds() == []
    house.clock.move(1)
    await house.refusals.write_counts()
    await house.refusals.write_counts()
    events = house.log.of(Kind.REFUSALS)
    assert [(event["principal"], event["tenant"], event["count"]) for event in events] == [("agent:bot", "default", 80)]


async def test_the_last_count_is_of_the_second_that_is_not_over_too(house: House) -> None:
    _refuse(house, 100)
    house.clock.move(1)
    _refuse(house, 50)
    _refuse(house, 30, principal("other"))
    for _ in range(2):
        await house.refusals.write_counts(is_last=True)
    counts = {event["principal"]: event["count"] for event in house.log.of(Kind.REFUSALS)}
    assert (counts, len(house.log.events)) == ({"agent:bot": 80 + 30, "agent:other": 10}, 2)


async def test_a_stop_writes_the_count_of_the_second_in_which_it_comes(house: House) -> None:
    _refuse(house, 100)
    await house.stop()
    assert [event["count"] for event in house.log.of(Kind.REFUSALS)] == [80]


async def test_refused_but_not_turned_away_needs_no_event(house: House) -> None:
    _refuse(house, LIMIT)
    house.clock.move(1)
    await house.refusals.write_counts()
    assert house.log.kinds() == []


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans()), max_size=12))
def test_no_count_is_lost_whatever_the_log_does(seconds: list[tuple[int, bool, bool]]) -> None:
    async def scenario() -> None:
        house = House()
        turned_away = 0
        for tries, is_down, writes in seconds:
            turned_away += _refuse(house, tries)
            house.clock.move(1)
            house.log.is_down = is_down
            if not writes:
                continue
            try:
                await house.refusals.write_counts()
            except LogUnavailable:
                assert is_down
        house.log.is_down = False
        await house.refusals.write_counts()
        assert sum(event["count"] for event in house.log.of(Kind.REFUSALS)) == turned_away

    asyncio.run(scenario())


async def test_count_that_comes_while_another_is_being_written_is_kept(house: House) -> None:
    _refuse(house, 100)
    house.clock.move(1)
    _refuse(house, 50)

    def while_writing(_: Event) -> None:
        house.log.on_append = lambda _: None
        house.clock.move(1)
        _refuse(house, 1)

    house.log.on_append = while_writing
    await house.refusals.write_counts()
    house.clock.move(1)
    await house.refusals.write_counts()
    assert sum(event["count"] for event in house.log.of(Kind.REFUSALS)) == 80 + 30


@pytest.mark.parametrize("is_durable", [False, True])
async def test_a_count_is_in_the_log_once_where_its_first_append_is_in_doubt(house: House, is_durable: bool) -> None:
    _refuse(house, 100)
    house.clock.move(1)
    house.log.fail_next(persist=is_durable)
    with pytest.raises(LogUnavailable):
        await house.refusals.write_counts()
    _refuse(house, 30)
    await house.refusals.write_counts(is_last=True)
    assert [event["count"] for event in house.log.of(Kind.REFUSALS)] == [80, 10]


async def test_a_count_that_a_stop_cuts_while_it_is_written_is_in_the_log_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse(house, 100)
    house.clock.move(1)

    async def cut(event: Event) -> Appended:
        house.log.append_now(event)
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(house.log, "append", cut)
        with pytest.raises(asyncio.CancelledError):
            await house.refusals.write_counts()
    await house.refusals.write_counts(is_last=True)
    assert [event["count"] for event in house.log.of(Kind.REFUSALS)] == [80]


async def test_log_that_is_down_raises_and_forgets_nothing(house: House) -> None:
    _refuse(house, 100)
    house.clock.move(1)
    house.log.is_down = True
    with pytest.raises(LogUnavailable):
        await house.refusals.write_counts()
    house.log.is_down = False
    await house.refusals.write_counts()
    assert house.log.of(Kind.REFUSALS)[0]["count"] == 80


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"tool": None}, ReasonCode.UNKNOWN_TOOL),
        ({"session": "s-other"}, ReasonCode.FOREIGN_SESSION),
        ({"session": "s-killed"}, ReasonCode.KILLED),
    ],
    ids=str,
)
async def test_of_refusals_that_come_at_once_no_more_are_recorded(
    house: House, call: dict[str, Any], reason: ReasonCode
) -> None:
    house.gate.takes_refusal = house.refusals.takes
    await house.gate.pass_through(a_call(caller=principal("other"), session="s-other"))
    await house.killed(target="s-killed")
    answers = await asyncio.gather(*(house.gate.pass_through(a_call(**call)) for _ in range(100)))
    assert Counter(answer.reason_code for answer in answers) == {reason: LIMIT, ReasonCode.TOO_MANY_REFUSALS: 80}
    assert [fields["decision"] for fields in house.log.of(Kind.DECIDED)].count("DENY") == LIMIT
    assert not any(answer.is_outage or answer.outcome for answer in answers)
    house.clock.move(1)
    await house.refusals.write_counts()
    assert [event["count"] for event in house.log.of(Kind.REFUSALS)] == [80]


async def test_a_question_to_a_person_is_recorded_with_its_call_and_a_repetition_counts(house: House) -> None:
    """Else a person would be asked about what nobody has on record, and the call be made that was turned away."""
    house.gate.takes_refusal = house.refusals.takes
    house.engine.answer = ASK
    new = [a_call(arguments={"n": number}) for number in range(LIMIT + 5)]
    answers = await asyncio.gather(*map(house.gate.pass_through, new))
    assert {answer.reason_code for answer in answers} == {ReasonCode.APPROVAL_REQUIRED}
    again = await asyncio.gather(*(house.gate.pass_through(a_call(arguments={"n": 0})) for _ in range(LIMIT + 5)))
    assert Counter(answer.reason_code for answer in again) == {
        ReasonCode.APPROVAL_REQUIRED: LIMIT,
        ReasonCode.TOO_MANY_REFUSALS: 5,
    }


async def test_memory_is_given_back_for_everybody_who_is_quiet(house: House) -> None:
    for number in range(1000):
        _refuse(house, LIMIT + 5, principal(f"bot-{number}"))
    house.clock.move(1)
    await house.upkeep.tick()
    assert len(house.log.of(Kind.REFUSALS)) == 1000
    assert not vars(house.refusals)["_seconds"]
    assert not vars(house.refusals)["_uncounted"]


async def test_ten_thousand_tries_of_a_killed_agent_leave_one_event(house: House) -> None:
    assert _refuse(house, 10_000) == 10_000 - LIMIT
    house.clock.move(1)
    await house.upkeep.tick()
    assert [event["count"] for event in house.log.of(Kind.REFUSALS)] == [10_000 - LIMIT]
