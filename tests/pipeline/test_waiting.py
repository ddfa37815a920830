"""Callers that wait: how many may, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agentgate.pipeline.approvals.waiting import Waiting
from tests.fakes import principal


def answers(*pending: bool) -> Callable[[], Awaitable[bool]]:
    left = iter(pending)

    async def is_pending() -> bool:
        return next(left)

    return is_pending


async def test_who_waits_gives_the_place_back() -> None:
    """Also where it was in vain: a hundred at a time of one caller, however often."""
    waiting, bot = Waiting(), principal("bot")
    for _ in range(101):
        assert await waiting.until_not(answers(False), bot, "a-1", 1.0)
        assert not await waiting.until_not(answers(True), bot, "a-1", 0.0)


async def test_a_place_that_is_given_back_is_one_place() -> None:
    waiting, bot = Waiting(), principal("bot")

    async def is_pending() -> bool:
        return True

    tasks = [asyncio.create_task(waiting.until_not(is_pending, bot, "a-1", 30.0)) for _ in range(100)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    tasks[0] = asyncio.create_task(waiting.until_not(is_pending, bot, "a-1", 30.0))
    await asyncio.sleep(0)
    assert not await waiting.until_not(answers(False), bot, "a-1", 30.0), "told at once"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_who_waits_for_less_than_a_second_hears_what_is_said_meanwhile() -> None:
    waiting = Waiting()
    task = asyncio.create_task(waiting.until_not(answers(True, False), principal("bot"), "a-1", 0.9))
    await asyncio.sleep(0)
    waiting.wake("a-1")
    assert await task


async def test_a_hundred_of_one_caller_and_a_thousand_of_all_wait_and_any_more_are_told_at_once() -> None:
    waiting, is_over = Waiting(), False

    async def is_pending() -> bool:
        return not is_over

    def wait(number: int) -> asyncio.Task[bool]:
        who = principal(f"bot-{number // 100}")
        return asyncio.create_task(waiting.until_not(is_pending, who, f"a-{number}", 30.0))

    some = [wait(number) for number in range(100)]
    await asyncio.sleep(0)
    assert not await waiting.until_not(is_pending, principal("bot-0"), "a", 30.0)
    rest = [wait(number) for number in range(100, 1000)]
    await asyncio.sleep(0)
    assert not await waiting.until_not(is_pending, principal("bot-11"), "a", 30.0)
    is_over = True
    waiting.stir()
    assert await asyncio.gather(*some, *rest) == [True] * 1000
    assert await waiting.until_not(is_pending, principal("bot-0"), "a", 30.0)
