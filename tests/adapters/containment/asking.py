"""What the tests of this folder ask of an admission, and how long they wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.core.errors import KillStateUnknown, ReasonCode
from agentgate.ports.containment import Admitted, NotAdmitted
from tests.contracts.admission import MEMBER, a_call, state
from tests.redis_server import RedisServer

DEADLINE_S = 0.1
PROMPT_S = 0.25
"""The deadline and what a busy test machine adds to it."""


@asynccontextmanager
async def connected(
    url: str, member: str = MEMBER, deadline_s: float = DEADLINE_S, *, settled_s: float = 0.0
) -> AsyncIterator[RedisAdmission]:
    """`settled_s`: nobody here waits after a loss, because nothing was on its way to a log."""
    admission = RedisAdmission(url, member=member, deadline_s=deadline_s, settled_s=settled_s)
    await admission.start()
    try:
        yield admission
    finally:
        await admission.aclose()


async def refusal(admission: RedisAdmission, seen: int = 1) -> NotAdmitted:
    """Admit a call, which must be refused for want of a kill state, and soon."""
    before = time.monotonic()
    answer = await admission.admit(a_call(), None, seen)
    assert time.monotonic() - before < PROMPT_S
    assert isinstance(answer, NotAdmitted)
    assert answer.reason is ReasonCode.KILL_STATE_UNKNOWN
    assert answer.detail
    return answer


async def eventually(claim: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not await claim():
        assert time.monotonic() < until, "it did not become true"
        await asyncio.sleep(0.01)


async def recovers(admission: RedisAdmission, seen: int = 1) -> None:
    """Calls are admitted again, without a restart and without help."""

    async def is_admitted() -> bool:
        return isinstance(await admission.admit(a_call(), None, seen), Admitted)

    await eventually(is_admitted)


async def applies(admission: RedisAdmission, position: int = 1) -> None:
    """What the pipeline does when it is told that the store has no position: put the log's state there, again
    and again until it is."""

    async def is_applied() -> bool:
        try:
            await admission.apply(state(position))
        except KillStateUnknown:
            return False
        return True

    await eventually(is_applied)


async def reaches(standby: RedisServer, position: int) -> None:
    """What the primary was told has been replicated."""

    async def is_there() -> bool:
        return standby.command("HGET", "{ag:0}:kills", "#") == str(position)

    await eventually(is_there)
