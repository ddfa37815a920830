"""Real replication: a standby that was promoted too early, and two servers that both take themselves for the primary.

What a member has seen is the fence: a store that is older is refused on until it was put right, and never admits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.core.containment import FlagChange, Scope
from agentgate.core.errors import KillStateUnknown, ReasonCode
from agentgate.ports.containment import Admitted, NotAdmitted
from tests.adapters.containment.asking import applies, connected, eventually, reaches, recovers, refusal
from tests.contracts.admission import a_call, a_kill, state
from tests.contracts.budgets import FACTS, ask, known
from tests.redis_server import RedisServer, is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason="redis-server is not installed")

KILL = a_kill(Scope.GLOBAL, position=2)
KILLED = FlagChange(1, 2, {KILL.flag: KILL.id})


@dataclass(frozen=True)
class Pair:
    """A primary with its standby, and an address that leads to one of them: what a fail-over by a service, a virtual
    address or a proxy looks like from a gateway."""

    primary: RedisServer
    standby: RedisServer

    @property
    def url(self) -> str:
        return f"unix://{self.primary.directory}/either.sock"

    def lead_to(self, server: RedisServer) -> None:
        new = self.primary.directory / "new.sock"
        new.symlink_to(server.socket)
        new.replace(self.primary.directory / "either.sock")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with RedisServer(tcp=True) as primary, RedisServer(tcp=True) as standby:
        standby.follow(primary)
        pair = Pair(primary, standby)
        pair.lead_to(primary)
        yield pair


async def is_killed(admission: RedisAdmission, seen: int) -> bool:
    answer = await admission.admit(a_call(), None, seen)
    assert isinstance(answer, NotAdmitted)
    return answer.reason is ReasonCode.KILLED


async def test_a_standby_is_not_relied_on_until_it_is_promoted(pair: Pair) -> None:
    async with connected(pair.primary.url) as one, connected(pair.standby.url) as other:
        await one.apply(state(1))
        assert "replica of another" in (await refusal(other)).detail
        with pytest.raises(KillStateUnknown, match="replica of another"):
            await other.apply(state(2))
        pair.standby.promote()
        await applies(other, 2)
        await recovers(other, 2)
        assert other.trouble == ""


async def test_a_redis_that_became_a_standby_refuses(server: RedisServer, admission: RedisAdmission) -> None:
    server.command("REPLICAOF", "127.0.0.1", "1")
    assert "READONLY" in (await refusal(admission)).detail

    async def is_given_up() -> bool:
        return "replica of another" in (await refusal(admission)).detail

    await eventually(is_given_up)
    server.command("REPLICAOF", "NO", "ONE")
    await recovers(admission)


async def test_a_kill_that_was_replicated_is_in_force_after_the_fail_over(pair: Pair) -> None:
    async with connected(pair.url) as admission:
        await admission.apply(state(1))
        await admission.apply(state(2, KILL), KILLED)
        await reaches(pair.standby, 2)
        pair.standby.promote()
        pair.lead_to(pair.standby)
        pair.primary.kill9()

        async def is_in_force() -> bool:
            return await is_killed(admission, 2)

        await eventually(is_in_force)


async def test_a_standby_that_missed_the_last_kill_is_refused_until_it_is_told(pair: Pair) -> None:
    async with connected(pair.url) as admission:
        await admission.apply(state(1))
        await reaches(pair.standby, 1)
        pair.standby.promote()
        await admission.apply(state(2, KILL), KILLED)
        assert await is_killed(admission, 2)
        pair.lead_to(pair.standby)
        pair.primary.kill9()

        async def is_reached() -> bool:
            answer = await refusal(admission, seen=2)
            return answer.position == 1

        await eventually(is_reached)
        assert await admission.position() == 1
        # The change that was told before the fail-over is told again: here it fits.
        await admission.apply(state(2, KILL), KILLED)
        assert await is_killed(admission, 2)
        assert await admission.position() == 2


async def test_of_two_primaries_the_one_that_missed_the_kill_admits_nobody_who_knows_of_it(pair: Pair) -> None:
    async with connected(pair.primary.url, "m-1") as deposed, connected(pair.url, "m-2") as moved:
        await deposed.apply(state(1))
        await moved.apply(state(1))
        pair.standby.promote()
        pair.lead_to(pair.standby)
        pair.primary.command("CLIENT", "KILL", "TYPE", "normal")
        await applies(moved, 1)
        await moved.apply(state(2, KILL), KILLED)
        assert await is_killed(moved, 2)

        # To one that has not heard of the kill this store is as good as ever: its record is what stops the call.
        await recovers(deposed, 1)
        for _ in range(10):
            assert (await refusal(deposed, seen=2)).position == 1
        await deposed.apply(state(2, KILL), KILLED)
        assert await is_killed(deposed, 2)
        assert await is_killed(moved, 2)


async def test_a_release_that_one_primary_missed_is_not_forgotten_by_the_other(pair: Pair) -> None:
    async with connected(pair.primary.url, "m-1") as deposed:
        await deposed.apply(state(2, KILL))
        await reaches(pair.standby, 2)
        pair.standby.promote()
        async with connected(pair.standby.url, "m-2") as moved:
            await moved.apply(state(3), FlagChange(2, 3, {}, (KILL.flag,)))
            assert await moved.admit(a_call(), None, 3) == Admitted(3)
            assert await is_killed(deposed, 2)
            await refusal(deposed, seen=3)
            await deposed.apply(state(4, KILL), FlagChange(3, 4, {KILL.flag: KILL.id}))
            assert await is_killed(deposed, 4)


async def is_unknown(admission: RedisAdmission) -> bool:
    answer = await ask(admission, FACTS)
    return isinstance(answer, NotAdmitted) and answer.reason is ReasonCode.BUDGET_UNKNOWN


async def test_what_a_server_kept_while_its_members_were_at_another_is_counted_again(pair: Pair) -> None:
    """There and back, and the first was up all the time: what was used at the second is only in the log."""

    async def goes(to: RedisServer, leaves: RedisServer) -> None:
        pair.lead_to(to)
        leaves.command("CLIENT", "KILL", "TYPE", "normal")
        await recovers(moved, 0)

    async with connected(pair.primary.url, "m-1") as stays, connected(pair.url, "m-2") as moved:
        await known(moved, FACTS)
        for member in (stays, moved):
            assert isinstance(await ask(member, FACTS), Admitted)
        await reaches(pair.standby, 0)
        pair.standby.promote()
        await goes(pair.standby, pair.primary)
        assert await is_unknown(moved)
        await recovers(stays, 0)
        assert not await is_unknown(stays)
        await goes(pair.primary, pair.standby)
        assert await is_unknown(stays)
        assert await is_unknown(moved)


async def test_a_server_that_does_not_forget_what_it_kept_is_not_relied_on(pair: Pair) -> None:
    async with connected(pair.url) as moved:
        await known(moved, FACTS)
        await reaches(pair.standby, 0)
        pair.standby.promote()
        pair.standby.command("ACL", "SETUSER", "default", "-del")
        pair.lead_to(pair.standby)
        pair.primary.command("CLIENT", "KILL", "TYPE", "normal")

        async def is_refused_for_that() -> bool:
            return "NOPERM" in (await refusal(moved, 0)).detail

        await eventually(is_refused_for_that)
        pair.standby.command("ACL", "SETUSER", "default", "+del")
        await recovers(moved, 0)
        assert await is_unknown(moved)
