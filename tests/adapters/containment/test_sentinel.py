"""A Redis that is found by its Sentinels: real ones, real fail-overs, and Sentinels that know nothing or too little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.core.containment import FlagChange, Kill, Scope
from agentgate.core.errors import ReasonCode, UnsafeConfiguration
from agentgate.ports.containment import Admitted, NotAdmitted
from tests.adapters.containment.asking import applies, connected, eventually, reaches, recovers, refusal
from tests.adapters.containment.made_up import MadeUp, Reply
from tests.contracts.admission import MEMBER, a_call, a_kill, state
from tests.redis_server import RedisServer, Sentinel, free_port, is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason="redis-server is not installed")


@asynccontextmanager
async def made_up_sentinel(reply: Reply) -> AsyncIterator[int]:
    """Yields the port of a Sentinel that answers as `reply` says."""
    server = await asyncio.get_running_loop().create_server(lambda: MadeUp(reply), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def naming(server: RedisServer) -> bytes:
    """A Sentinel's answer."""
    return address(b"127.0.0.1", str(server.port).encode())


def address(host: bytes, port: bytes) -> bytes:
    return b"*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(host), host, len(port), port)


def url(*ports: int, login: str = "", options: str = "") -> str:
    return f"redis+sentinel://{login}{','.join(f'127.0.0.1:{port}' for port in ports)}/gate{options}"


async def test_a_fail_over_is_followed_and_what_it_lost_is_refused_until_it_is_put_back() -> None:
    kill = a_kill(Scope.SESSION, "dead", tenant="acme", position=2)
    with RedisServer(tcp=True) as primary, RedisServer(tcp=True) as standby:
        standby.follow(primary)
        with Sentinel(primary) as sentinel:
            sentinel.knows_standbys()
            await _fail_over(primary, standby, sentinel, kill)


async def _fail_over(primary: RedisServer, standby: RedisServer, sentinel: Sentinel, kill: Kill) -> None:
    killed = FlagChange(1, 2, {kill.flag: kill.id})
    async with connected(url(free_port(), sentinel.port)) as admission:
        heard: asyncio.Queue[int] = asyncio.Queue()
        admission.listen(heard.put_nowait)
        await admission.apply(state(1))
        assert await admission.admit(a_call(), None, 1) == Admitted(1)
        await reaches(standby, 1)
        # The kill must not reach the standby, as when the primary dies right after it has answered.
        standby.pause()
        primary.command("CLIENT", "KILL", "TYPE", "replica")
        await admission.apply(state(2, kill), killed)
        primary.kill9()
        standby.resume()

        async def is_failed_over() -> bool:
            answer = await refusal(admission, seen=2)
            return answer.position == 1

        await eventually(is_failed_over, within_s=20)
        assert standby.info("replication")["role"] == "master"
        assert admission.trouble == ""
        await admission.apply(state(2, kill), killed)
        answer = await admission.admit(a_call(session="dead"), None, 2)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILLED
        assert await admission.admit(a_call(), None, 2) == Admitted(2)
        while await asyncio.wait_for(heard.get(), 10) != 2:
            pass
        assert standby.command("PUBSUB", "NUMSUB", "{ag:0}:wake") == ["{ag:0}:wake", 1]


async def test_sentinels_are_asked_in_turn_until_one_knows() -> None:
    with RedisServer(tcp=True) as server, Sentinel(server) as sentinel, Sentinel(server, "else") as ignorant:
        async with connected(url(free_port(), ignorant.port, sentinel.port)) as admission:
            assert admission.trouble == ""
            await admission.apply(state(1))
            assert await admission.admit(a_call(), None, 1) == Admitted(1)


async def test_a_sentinel_that_was_left_behind_and_names_a_standby_is_not_asked_for_ever() -> None:
    with RedisServer(tcp=True) as primary, RedisServer(tcp=True) as standby:
        standby.follow(primary)
        async with (
            made_up_sentinel(lambda _: naming(standby)) as behind,
            made_up_sentinel(lambda _: naming(primary)) as right,
            connected(url(behind, right)) as admission,
        ):
            assert "replica of another" in admission.trouble
            await applies(admission)
            await recovers(admission)


async def test_a_primary_that_was_deposed_and_reconfigured_is_left() -> None:
    with RedisServer(tcp=True) as old, RedisServer(tcp=True) as new:
        named = [old]
        async with made_up_sentinel(lambda _: naming(named[0])) as port, connected(url(port)) as admission:
            heard: asyncio.Queue[int] = asyncio.Queue()
            admission.listen(heard.put_nowait)
            await admission.apply(state(1))
            named[0] = new
            old.follow(new)
            await applies(admission, 1)
            await recovers(admission)
            assert new.command("HGET", "{ag:0}:kills", "#") == "1"
            await admission.apply(state(2))
            while await asyncio.wait_for(heard.get(), 10) != 2:
                pass

            async def is_left() -> bool:
                return old.command("PUBSUB", "NUMSUB", "{ag:0}:wake") == ["{ag:0}:wake", 0]

            await eventually(is_left)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"*-1\r\n", "knows no master of that name"),
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
        (b"*2\r\n$0\r\n\r\n$1\r\n1\r\n", "makes no sense"),
        (b"*2\r\n$1\r\nh\r\n$1\r\nx\r\n", "makes no sense"),
        (b"+OK\r\n", "makes no sense"),
        (b"", "TimeoutError|in time"),
    ],
    ids=["ignorant", "locked", "no host", "no port", "nonsense", "silent"],
)
async def test_without_the_name_of_a_master_calls_are_refused_and_told_why(answer: bytes, why: str) -> None:
    async with made_up_sentinel(lambda _: answer) as port, connected(url(port)) as admission:
        detail = (await refusal(admission)).detail
        assert "no Sentinel names the master of 'gate'" in detail
        assert any(word in detail for word in why.split("|"))


@pytest.mark.parametrize(
    ("host", "port"),
    [
        (b"", b"6379"),
        (b"a" * 70, b"6379"),
        (b"a..b", b"6379"),
        (b"\xff", b"6379"),
        (b"a\0b", b"6379"),
        (b"127.0.0.1", b"0"),
        (b"127.0.0.1", b"65536"),
        (b"127.0.0.1", b"9" * 5000),
    ],
    ids=["none", "long", "empty label", "no text", "NUL", "port 0", "port 65536", "many digits"],
)
async def test_a_sentinel_that_once_names_no_address_is_asked_again(host: bytes, port: bytes) -> None:
    with RedisServer(tcp=True) as server:
        right = naming(server)
        said = iter([right, address(host, port)])
        async with made_up_sentinel(lambda _: next(said, right)) as sentinel, connected(url(sentinel)) as admission:
            await admission.apply(state(1))
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await refusal(admission)
            await recovers(admission)
            assert next(said, None) is None


async def test_a_silent_sentinel_keeps_nobody_from_asking_the_next() -> None:
    with RedisServer(tcp=True) as server:
        async with (
            made_up_sentinel(lambda _: b"") as silent,
            made_up_sentinel(lambda _: naming(server)) as right,
            connected(url(silent, right)) as admission,
        ):
            assert admission.trouble == ""


async def test_sentinel_and_redis_have_passwords_of_their_own() -> None:
    with (
        RedisServer("--requirepass", "redis-pw", tcp=True) as server,
        Sentinel(server, password="sentinel-pw") as sentinel,
    ):
        right = url(sentinel.port, login=":redis-pw@", options="?sentinel_password=sentinel-pw")
        async with connected(right) as admission:
            await admission.apply(state(1))
            assert await admission.admit(a_call(), None, 1) == Admitted(1)
        rights = ("resetchannels", "-@all", "+sentinel|get-master-addr-by-name")
        sentinel.command("ACL", "SETUSER", "agentgate", "on", ">user-pw", *rights)
        user = url(sentinel.port, login=":redis-pw@", options="?sentinel_username=agentgate&sentinel_password=user-pw")
        async with connected(user) as admission:
            assert await admission.admit(a_call(), None, 1) == Admitted(1)
        async with connected(url(sentinel.port, login=":redis-pw@")) as admission:
            assert "NOAUTH" in (await refusal(admission)).detail
        async with connected(right.replace("redis-pw", "wrong")) as admission:
            assert "WRONGPASS" in (await refusal(admission)).detail


async def test_a_sentinel_that_is_taken_for_a_redis_stops_the_start() -> None:
    with RedisServer(tcp=True) as server, Sentinel(server) as sentinel:
        admission = RedisAdmission(f"redis://127.0.0.1:{sentinel.port}", member=MEMBER)
        with pytest.raises(UnsafeConfiguration, match="redis\\+sentinel://"):
            await admission.start()
        await admission.aclose()


async def test_a_cluster_behind_a_sentinel_stops_the_start_too() -> None:
    with RedisServer("--cluster-enabled", "yes", tcp=True) as server:
        async with made_up_sentinel(lambda _: naming(server)) as port:
            admission = RedisAdmission(url(port), member=MEMBER)
            with pytest.raises(UnsafeConfiguration, match="single Redis"):
                await admission.start()
            await admission.aclose()
