"""Wake-ups through a real Redis: a member hears of every change, and what happens to its subscription harms no call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from agentgate.adapters.containment._link import Link
from agentgate.adapters.containment._url import parse_url
from agentgate.adapters.containment._wake import Ear
from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.core.containment import FlagChange
from agentgate.core.errors import KillStateUnknown
from agentgate.ports.containment import Admitted
from tests.adapters.containment.asking import applies, connected, eventually, recovers
from tests.adapters.containment.made_up import made_up_server
from tests.contracts.admission import a_call, state
from tests.redis_server import RedisServer, is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason="redis-server is not installed")


class Heard:
    """The positions that a member was woken with."""

    def __init__(self) -> None:
        self._positions: asyncio.Queue[int] = asyncio.Queue()

    def __call__(self, position: int) -> None:
        self._positions.put_nowait(position)

    async def next(self) -> int:
        return await asyncio.wait_for(self._positions.get(), 10)

    async def until(self, position: int) -> None:
        while await self.next() != position:
            pass


@pytest.fixture
async def other(server: RedisServer, admission: RedisAdmission) -> AsyncIterator[RedisAdmission]:
    """Another member on the same server, which is at position 1."""
    async with connected(server.url, "m-2") as other:
        yield other


@pytest.fixture
async def heard(admission: RedisAdmission) -> Heard:
    heard = Heard()
    admission.listen(heard)
    assert await heard.next() == 1
    return heard


async def test_a_member_hears_what_another_applied(other: RedisAdmission, heard: Heard) -> None:
    await other.apply(state(2), FlagChange(1, 2, {}))
    assert await heard.next() == 2
    await other.apply(state(5))
    assert await heard.next() == 5


async def test_two_logs_on_one_redis_do_not_wake_each_other(server: RedisServer, heard: Heard) -> None:
    stranger = RedisAdmission(server.url, log_id="other", member="m")
    await stranger.start()
    await stranger.apply(state(7))
    server.command("PUBLISH", "{ag:0}:wake", 2)
    assert await heard.next() == 2
    await stranger.aclose()


async def test_one_that_listened_before_it_was_connected_hears(server: RedisServer) -> None:
    heard = Heard()
    server.stop()
    async with connected(server.url) as admission:
        admission.listen(heard)
        server.start()
        await applies(admission, 3)
        await heard.until(3)


async def test_a_lost_subscription_is_made_again_and_refuses_nothing(
    server: RedisServer, admission: RedisAdmission, heard: Heard, other: RedisAdmission
) -> None:
    for position in (2, 3, 4):
        assert server.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        # Whether this one comes before the new subscription or after it, it is heard of.
        await other.apply(state(position))
        assert await admission.admit(a_call(), None, position) == Admitted(position)
        await heard.until(position)

        async def is_subscribed() -> bool:
            return server.command("PUBSUB", "NUMSUB", "{ag:0}:wake") == ["{ag:0}:wake", 1]

        await eventually(is_subscribed)


async def test_a_restarted_redis_is_listened_to_again(
    server: RedisServer, admission: RedisAdmission, heard: Heard, other: RedisAdmission
) -> None:
    server.kill9()
    server.start()
    await applies(other, 2)
    await heard.until(2)
    await recovers(admission, 2)
    assert server.command("PUBSUB", "NUMSUB", "{ag:0}:wake") == ["{ag:0}:wake", 1]


async def test_a_redis_that_hung_for_long_is_listened_to_again(
    server: RedisServer, admission: RedisAdmission, heard: Heard, other: RedisAdmission
) -> None:
    server.pause()

    async def is_given_up() -> bool:
        await admission.admit(a_call(), None, 1)
        return admission.trouble != ""

    await eventually(is_given_up)
    server.resume()
    await applies(other, 2)
    await heard.until(2)


async def test_nonsense_on_the_channel_wakes_nobody(server: RedisServer, heard: Heard) -> None:
    for word in ("", "nonsense", "-1", "1.5", "9" * 30, "\u0661"):
        assert server.command("PUBLISH", "{ag:0}:wake", word) == 1
    server.command("PUBLISH", "{ag:0}:wake", 2)
    assert await heard.next() == 2


async def test_a_listener_that_fails_harms_no_other(
    admission: RedisAdmission, heard: Heard, other: RedisAdmission
) -> None:
    def fail(_: int) -> None:
        raise ValueError("told to fail")

    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context["exception"])))
    admission.listen(fail)
    late = Heard()
    admission.listen(late)
    for position in (2, 3):
        await other.apply(state(position))
        assert await late.next() == await heard.next() == position
    assert faults == ["told to fail"] * 2


async def test_a_member_that_closes_listens_no_more(server: RedisServer) -> None:
    async with connected(server.url) as admission:
        await admission.apply(state(1))
        heard = Heard()
        admission.listen(heard)
        await heard.until(1)

    async def is_gone() -> bool:
        return server.command("PUBSUB", "NUMSUB", "{ag:0}:wake") == ["{ag:0}:wake", 0]

    await eventually(is_gone)


async def test_who_may_not_subscribe_is_told_once_and_calls_go_on(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.command("ACL", "SETUSER", "gate", "on", ">pw", "~*", "&*", "+@all", "-subscribe")
    with caplog.at_level(logging.WARNING):
        async with connected(f"unix://gate:pw@{server.socket}") as admission:
            admission.listen(Heard())
            await admission.apply(state(1))

            async def has_tried_thrice() -> bool:
                refused = server.info("commandstats").get("cmdstat_subscribe", "rejected_calls=0")
                return int(refused.split("rejected_calls=")[1].split(",")[0]) >= 3

            await eventually(has_tried_thrice)
            assert await admission.admit(a_call(), None, 1) == Admitted(1)
    assert sum("NOPERM" in record.getMessage() for record in caplog.records) == 1


async def test_a_user_who_may_not_publish_changes_nothing_and_is_told(server: RedisServer) -> None:
    server.command("ACL", "SETUSER", "gate", "on", ">pw", "~*", "resetchannels", "+@all")
    async with connected(f"unix://gate:pw@{server.socket}") as admission:
        for change in (None, FlagChange(0, 1, {})):
            with pytest.raises(KillStateUnknown, match="publish"):
                await admission.apply(state(1), change)
        assert await admission.position() is None


async def test_a_subscription_that_went_silent_is_made_again() -> None:
    """A path that was cut without a word shows only in a PING that is not answered."""
    subscribed = asyncio.Event()
    again = asyncio.Event()

    def reply(command: list[bytes]) -> bytes:
        if command[0] != b"SUBSCRIBE":
            return b""
        (again if subscribed.is_set() else subscribed).set()
        return b"*3\r\n$9\r\nsubscribe\r\n$4\r\nwake\r\n:1\r\n"

    async def fit(_: object) -> None: ...

    async def position() -> int | None:
        return None

    async with made_up_server(reply) as url:
        link = Link(parse_url(url), deadline_s=1.0, check=fit, check_every_s=60.0)
        ear = Ear(link, "wake", position, ping_every_s=0.05, answer_within_s=0.1)
        await link.start()
        ear.add(Heard())
        await asyncio.wait_for(again.wait(), 10)
        await ear.aclose()
        await link.aclose()
