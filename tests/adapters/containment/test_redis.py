"""Admission through a real Redis: the contract, and every fault that Redis can have.

After each fault the same two things are asked: was everything refused while it lasted, and did the gateway come
back by itself?
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import hiredis
import pytest

from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.core.containment import FlagChange, Scope
from agentgate.core.errors import KillStateUnknown, ReasonCode, UnsafeConfiguration
from agentgate.ports.containment import Admission, Admitted, NotAdmitted, Quota, Spent
from tests.adapters.containment.asking import DEADLINE_S, PROMPT_S, applies, connected, eventually, recovers, refusal
from tests.contracts.admission import (
    EVERY_SCOPE,
    MEMBER,
    AdmissionContract,
    UnreadState,
    a_call,
    a_kill,
    at_most,
    state,
)
from tests.contracts.budgets import FACTS, BudgetContract, facts_of, known
from tests.redis_server import RedisServer, is_installed

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "configuration.md"

pytestmark = pytest.mark.skipif(not is_installed(), reason="redis-server is not installed")


class TestRedis(AdmissionContract):
    @pytest.fixture
    async def admission(self, shared_server: RedisServer) -> AsyncIterator[RedisAdmission]:
        shared_server.command("FLUSHALL")
        self.server = shared_server
        # What is right must not depend on how busy a test machine is; the deadline has tests of its own.
        async with connected(shared_server.url, deadline_s=2.0) as admission:
            yield admission

    async def lose_everything(self) -> bool:
        self.server.command("FLUSHALL")
        return True


class TestRedisBudgets(BudgetContract):
    @pytest.fixture
    async def admission(self, shared_server: RedisServer) -> AsyncIterator[RedisAdmission]:
        shared_server.command("FLUSHALL")
        self.server = shared_server
        async with connected(shared_server.url, deadline_s=2.0) as admission:
            yield admission

    async def forget(self, admission: Admission) -> None:
        self.server.command("FLUSHALL")
        await admission.apply(state(0))


async def test_256_callers_are_served_within_the_deadline(shared_server: RedisServer) -> None:
    shared_server.command("FLUSHALL")
    async with connected(shared_server.url) as admission:
        await admission.apply(state(1))
        for _ in range(4):
            calls = [a_call() for _ in range(256)]
            answers = await asyncio.gather(*(admission.admit(call, None, 1) for call in calls))
            assert set(answers) == {Admitted(1)}
            for call in calls:
                admission.release(call)
        assert await admission.in_flight() == []


# --- several members, one store ---


async def test_members_share_kills_limits_and_the_display(shared_server: RedisServer) -> None:
    shared_server.command("FLUSHALL")
    async with connected(shared_server.url, "m-1") as one, connected(shared_server.url, "m-2") as two:
        await one.apply(state(1))
        assert isinstance(await one.admit(a_call(), at_most(2, 60), 1), Admitted)
        assert isinstance(await two.admit(a_call(), at_most(2, 60), 1), Admitted)
        assert isinstance(await one.admit(a_call(), at_most(2, 60), 1), NotAdmitted)
        assert sorted(flight.member for flight in await two.in_flight()) == ["m-1", "m-2"]
        await two.apply(state(2, a_kill(Scope.GLOBAL)))
        answer = await one.admit(a_call(), None, 1)
        assert isinstance(answer, NotAdmitted)
        assert answer.reason is ReasonCode.KILLED


async def test_two_logs_on_one_redis_know_nothing_of_each_other(shared_server: RedisServer) -> None:
    shared_server.command("FLUSHALL")
    other = RedisAdmission(shared_server.url, log_id="other", member=MEMBER)
    await other.start()
    async with connected(shared_server.url) as admission:
        await admission.apply(state(1, a_kill(Scope.GLOBAL)))
        await refusal(other)
        await other.apply(state(1))
        assert await other.admit(a_call(), None, 1) == Admitted(1)
    await other.aclose()


async def test_what_a_dead_member_left_in_flight_can_be_forgotten(shared_server: RedisServer) -> None:
    shared_server.command("FLUSHALL")
    async with connected(shared_server.url, "m-1") as one, connected(shared_server.url, "m-2") as two:
        await one.apply(state(1))
        await one.admit(a_call(), None, 1)
        mine = a_call()
        await two.admit(mine, None, 1)
        await two.forget("m-1")
        assert [flight.trace_id for flight in await two.in_flight()] == [mine.trace_id]


OLDER_ENTRY = '{"tenant":"acme","session":"s","agent":"a","tool":"t","since_us":1767225600000000,"member":"m"}'
"""As a gateway of another version wrote it."""
OUR_ENTRY = OLDER_ENTRY.replace('"tool"', '"server":"x","tool"')
FORGED_ENTRIES = [
    OUR_ENTRY.replace("1767225600000000", "1e18"),  # no date can be so late
    OUR_ENTRY.replace("1767225600000000", "-1e300"),
    OUR_ENTRY.replace('"tool":"t"', f'"tool":{"[" * 1000}{"]" * 1000}'),  # nor can that be written out
]


async def test_entries_that_nobody_can_read_do_not_hide_the_others(shared_server: RedisServer) -> None:
    shared_server.command("FLUSHALL")
    async with connected(shared_server.url) as admission:
        await admission.apply(state(1))
        call = a_call()
        await admission.admit(call, None, 1)
        for n, entry in enumerate(["", "nonsense", "7", "{}", '{"since_us":"x"}', "[]", OLDER_ENTRY, *FORGED_ENTRIES]):
            shared_server.command("HSET", "{ag:0}:flight", f"t-{n}", entry)
        assert [flight.trace_id for flight in await admission.in_flight()] == [call.trace_id]
        await admission.forget("another")


# --- faults ---


async def test_a_redis_that_is_not_there_at_start_is_waited_for(server: RedisServer) -> None:
    server.stop()
    async with connected(server.url) as admission:
        assert admission.trouble
        await refusal(admission)
        with pytest.raises(KillStateUnknown):
            await admission.apply(state(1))
        with pytest.raises(KillStateUnknown):
            await admission.in_flight()
        assert await admission.position() is None
        server.start()
        await applies(admission)
        await recovers(admission)
        assert admission.trouble == ""


async def test_a_stopped_redis_refuses_at_once(server: RedisServer, admission: RedisAdmission) -> None:
    server.stop()
    await refusal(admission)
    await refusal(admission)
    with pytest.raises(KillStateUnknown):
        await admission.apply(state(2))
    assert await admission.position() is None
    server.start()
    await applies(admission)
    await recovers(admission)


async def test_a_hung_redis_refuses_within_the_deadline_and_its_late_answers_are_nobodys(
    server: RedisServer, admission: RedisAdmission
) -> None:
    await admission.apply(state(2, a_kill(Scope.SESSION, "dead", tenant="acme")))
    server.pause()
    before = time.monotonic()
    late = [admission.admit(a_call(session="dead" if n % 2 else "alive"), None, 2) for n in range(20)]
    answers = await asyncio.gather(*late)
    assert DEADLINE_S * 0.9 < time.monotonic() - before < PROMPT_S
    assert {answer.reason for answer in answers if isinstance(answer, NotAdmitted)} == {ReasonCode.KILL_STATE_UNKNOWN}
    await refusal(admission)
    server.resume()
    await recovers(admission, 2)
    # The 20 late answers have arrived by now; were one taken for another's, the pattern would be shifted.
    for n in range(20):
        answer = await admission.admit(a_call(session="dead" if n % 2 else "alive"), None, 2)
        assert isinstance(answer, NotAdmitted) == bool(n % 2)


async def test_while_redis_hangs_only_the_first_callers_wait(server: RedisServer, admission: RedisAdmission) -> None:
    server.pause()
    await refusal(admission)
    before = time.monotonic()
    for _ in range(20):
        await refusal(admission)
    assert time.monotonic() - before < DEADLINE_S
    server.resume()
    await recovers(admission)


async def test_a_caller_that_asks_again_at_once_does_not_keep_the_gateway_from_hearing_redis(
    server: RedisServer, admission: RedisAdmission
) -> None:
    server.pause()
    await refusal(admission)
    asyncio.get_running_loop().call_later(0.2, server.resume)
    until = time.monotonic() + 10
    while isinstance(await admission.admit(a_call(), None, 1), NotAdmitted):
        assert time.monotonic() < until, "nothing else ran meanwhile"


async def test_a_redis_that_hangs_for_long_is_connected_anew(server: RedisServer, admission: RedisAdmission) -> None:
    assert admission.trouble == ""
    server.pause()

    async def is_given_up() -> bool:
        await refusal(admission)
        return admission.trouble != ""

    await eventually(is_given_up)
    server.resume()
    await recovers(admission)


async def test_calls_refused_by_a_hung_redis_do_not_stay_in_flight(
    server: RedisServer, admission: RedisAdmission
) -> None:
    before = await admission.in_flight()
    server.pause()
    await asyncio.gather(*(refusal(admission) for _ in range(5)))
    server.resume()

    async def is_clean() -> bool:
        try:
            return await admission.in_flight() == before
        except KillStateUnknown:
            return False

    await eventually(is_clean)


async def test_a_cancelled_admit_does_not_stay_in_flight(server: RedisServer, admission: RedisAdmission) -> None:
    before = await admission.in_flight()
    server.pause()
    asking = asyncio.create_task(admission.admit(a_call(), None, 1))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    server.resume()
    assert await admission.in_flight() == before


async def test_a_redis_killed_and_restarted_empty_is_refused_until_repaired(
    server: RedisServer, admission: RedisAdmission
) -> None:
    running = (await admission.in_flight())[0]
    server.kill9()
    await refusal(admission)
    server.start()

    async def is_back() -> bool:
        return (await refusal(admission)).detail == "the kill store has no kill position"

    await eventually(is_back)
    assert await admission.position() is None
    await admission.apply(state(1))
    assert await admission.admit(a_call(), None, 1) == Admitted(1)
    assert running in await admission.in_flight(), "what still runs is shown again"


async def test_flushall_refuses_until_repaired(server: RedisServer, admission: RedisAdmission) -> None:
    server.command("FLUSHALL")
    assert (await refusal(admission)).position is None
    await admission.apply(state(1))
    assert await admission.admit(a_call(), None, 1) == Admitted(1)


async def test_a_change_puts_an_emptied_redis_right(server: RedisServer, admission: RedisAdmission) -> None:
    kills = [a_kill(Scope.SESSION, f"s-{n}", tenant="acme", id=f"k-{n}", position=n) for n in (1, 2)]
    await admission.apply(state(1, kills[0]))
    server.command("FLUSHALL")
    await admission.apply(state(2, *kills), FlagChange(1, 2, {kills[1].flag: kills[1].id}))
    assert server.command("HLEN", "{ag:0}:kills") == 3
    assert await admission.position() == 2


async def test_with_ten_thousand_kills_in_force_one_more_is_a_small_message(
    server: RedisServer, admission: RedisAdmission
) -> None:
    kills = [a_kill(Scope.SESSION, f"d-{n}", tenant="acme", id=f"k-{n}", position=n) for n in range(1, 10_001)]
    await admission.apply(state(10_000, *kills))
    before = int(server.info("stats")["total_net_input_bytes"])
    await admission.apply(UnreadState(10_001, {}), FlagChange(10_000, 10_001, {"session/acme/d-0": kills[0].id}))
    await admission.apply(UnreadState(10_002, {}), FlagChange(10_001, 10_002, {}, ("session/acme/d-0",)))
    # The second text of the script included, which is sent when Redis has not got it.
    assert int(server.info("stats")["total_net_input_bytes"]) - before < 10_000
    assert server.command("HLEN", "{ag:0}:kills") == 10_001


async def test_forgotten_scripts_are_sent_again(server: RedisServer, admission: RedisAdmission) -> None:
    server.command("SCRIPT", "FLUSH")
    answers = await asyncio.gather(*(admission.admit(a_call(), None, 1) for _ in range(50)))
    assert set(answers) == {Admitted(1)}
    server.command("SCRIPT", "FLUSH")
    await admission.apply(state(2))
    assert await admission.position() == 2


async def test_a_redis_that_becomes_evicting_is_refused_until_that_is_changed(
    server: RedisServer, admission: RedisAdmission
) -> None:
    server.command("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")

    async def is_refused() -> bool:
        answer = await admission.admit(a_call(), None, 1)
        return isinstance(answer, NotAdmitted) and "noeviction" in answer.detail

    await eventually(is_refused)
    assert "noeviction" in admission.trouble
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await recovers(admission)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_an_evicting_redis_stops_the_start(policy: str) -> None:
    with RedisServer("--maxmemory", "100mb", "--maxmemory-policy", policy) as server:
        admission = RedisAdmission(server.url, member=MEMBER)
        with pytest.raises(UnsafeConfiguration, match="maxmemory-policy noeviction"):
            await admission.start()
        await admission.aclose()


@pytest.mark.parametrize("flags", [("--maxmemory", "100mb"), ("--maxmemory-policy", "allkeys-lru")])
async def test_a_redis_that_cannot_evict_is_taken(flags: tuple[str, ...]) -> None:
    with RedisServer(*flags) as server:
        async with connected(server.url) as admission:
            assert admission.trouble == ""


async def test_a_cluster_stops_the_start_and_is_told_why() -> None:
    with RedisServer("--cluster-enabled", "yes", tcp=True) as server:
        admission = RedisAdmission(server.url, member=MEMBER)
        with pytest.raises(UnsafeConfiguration, match="single Redis"):
            await admission.start()
        await admission.aclose()


@pytest.mark.parametrize(("appendonly", "n_warnings"), [("no", 1), ("yes", 0)])
async def test_without_an_append_only_file_the_start_warns(
    caplog: pytest.LogCaptureFixture, appendonly: str, n_warnings: int
) -> None:
    with RedisServer("--appendonly", appendonly) as server, caplog.at_level(logging.WARNING):
        async with connected(server.url):
            assert sum("append-only" in record.getMessage() for record in caplog.records) == n_warnings


async def test_a_redis_out_of_connections_refuses_until_one_is_free() -> None:
    with RedisServer("--maxclients", "2") as server:
        others = [server.connect() for _ in range(2)]
        async with connected(server.url) as admission:
            assert "max number of clients" in (await refusal(admission)).detail
            for other in others:
                other.close()
            await applies(admission)
            await recovers(admission)


async def test_an_open_connection_goes_on_when_others_find_none() -> None:
    with RedisServer("--maxclients", "3") as server:
        async with connected(server.url) as admission:
            await admission.apply(state(1))
            others = [server.connect() for _ in range(4)]
            assert await admission.admit(a_call(), None, 1) == Admitted(1)
            for other in others:
                other.close()


@pytest.mark.parametrize("limit", [None, at_most(1_000, 60)], ids=["unlimited", "limited"])
async def test_a_full_redis_refuses_but_still_takes_kills(
    server: RedisServer, admission: RedisAdmission, limit: Quota | None
) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")
    answer = await admission.admit(a_call(), limit, 1)
    assert isinstance(answer, NotAdmitted)
    assert answer.reason is ReasonCode.KILL_STATE_UNKNOWN
    assert "OOM" in answer.detail
    await admission.apply(state(2, *EVERY_SCOPE[1:]))
    killed = await admission.admit(a_call(), limit, 2)
    assert isinstance(killed, NotAdmitted)
    assert killed.reason is ReasonCode.KILLED
    await admission.apply(UnreadState(3, {}), FlagChange(2, 3, {"global": EVERY_SCOPE[0].id}))
    killed = await admission.admit(a_call(), limit, 3)
    assert isinstance(killed, NotAdmitted)
    assert killed.kill_id == EVERY_SCOPE[0].id
    await admission.apply(state(4))
    server.command("CONFIG", "SET", "maxmemory", "0")
    answer = await admission.admit(a_call(), limit, 4)
    assert isinstance(answer, Admitted)
    if limit:
        assert answer.limit is not None
        assert answer.limit.remaining == 999, "what was refused for want of memory was not counted"


async def test_a_slow_redis_refuses_while_it_is_slow(server: RedisServer, admission: RedisAdmission) -> None:
    sleeping = asyncio.create_task(asyncio.to_thread(server.command, "DEBUG", "SLEEP", "0.4"))

    async def is_refused() -> bool:
        return isinstance(await admission.admit(a_call(), None, 1), NotAdmitted)

    await eventually(is_refused)
    await recovers(admission)
    await sleeping


async def test_a_busy_redis_refuses(server: RedisServer, admission: RedisAdmission) -> None:
    server.command("CONFIG", "SET", "busy-reply-threshold", "1")
    endless = asyncio.create_task(asyncio.to_thread(server.command, "EVAL", "while true do end", 0))

    async def is_busy() -> bool:
        answer = await admission.admit(a_call(), None, 1)
        return isinstance(answer, NotAdmitted) and "BUSY" in answer.detail

    await eventually(is_busy)
    server.command("SCRIPT", "KILL")
    with pytest.raises(hiredis.ReplyError, match="killed"):
        await endless
    await recovers(admission)


async def test_a_key_of_the_wrong_type_refuses(server: RedisServer, admission: RedisAdmission) -> None:
    server.command("SET", "{ag:0}:kills", "nonsense")
    assert "WRONGTYPE" in (await refusal(admission)).detail
    with pytest.raises(KillStateUnknown, match="WRONGTYPE"):
        await admission.apply(state(2))


async def test_a_position_of_more_digits_than_anybody_reads_is_none(
    server: RedisServer, admission: RedisAdmission
) -> None:
    server.command("HSET", "{ag:0}:kills", "#", "9" * 5_000)
    assert await admission.position() is None


async def test_a_position_that_is_no_number_is_none(server: RedisServer, admission: RedisAdmission) -> None:
    server.command("HSET", "{ag:0}:kills", "#", "nonsense")
    await refusal(admission)
    assert await admission.position() is None
    await admission.apply(state(2))
    assert await admission.admit(a_call(), None, 2) == Admitted(2)


async def test_a_connection_that_is_cut_between_calls_costs_no_refusal(
    server: RedisServer, admission: RedisAdmission
) -> None:
    await asyncio.to_thread(cut_everyone, server)
    assert await admission.admit(a_call(), None, 1) == Admitted(1)


def cut_everyone(server: RedisServer) -> None:
    """Redis answers CLIENT KILL first and closes the connections after that: wait until it has."""

    def connected_ids() -> set[str]:
        return set(re.findall(r"^id=(\d+)", str(server.command("CLIENT", "LIST", "TYPE", "normal")), re.MULTILINE))

    before = connected_ids()
    server.command("CLIENT", "KILL", "TYPE", "normal")
    while before & connected_ids():
        time.sleep(0.001)


# --- who may come in ---


async def test_a_password_is_used_and_a_wrong_one_refused(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer("--requirepass", "s3cr3t:/@ö") as server:
        right = f"unix://:s3cr3t%3A%2F%40%C3%B6@{server.socket}"
        async with connected(right) as admission, connected(right.replace("s3", "hunter")) as wrong:
            await admission.apply(state(1))
            assert await admission.admit(a_call(), None, 1) == Admitted(1)
            assert "WRONGPASS" in (await refusal(wrong)).detail
        async with connected(f"unix://{server.socket}") as keyless:
            assert "NOAUTH" in (await refusal(keyless)).detail
    assert "s3cr3t" not in caplog.text
    assert "hunter" not in caplog.text


async def test_a_user_with_no_more_rights_than_documented_is_enough(server: RedisServer) -> None:
    documented = re.search(r"^ACL SETUSER agentgate .*$", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert documented is not None
    server.command(*documented[0].replace("PASSWORD", "pw").split())
    async with connected(f"unix://agentgate:pw@{server.socket}?db=1") as admission:
        heard: asyncio.Queue[int] = asyncio.Queue()
        admission.listen(heard.put_nowait)
        await admission.apply(state(1, *EVERY_SCOPE))
        await admission.apply(state(2), FlagChange(1, 2, {}, tuple(kill.flag for kill in EVERY_SCOPE)))
        while await asyncio.wait_for(heard.get(), 5) != 2:
            pass
        for _ in range(2):
            call = a_call()
            assert isinstance(await admission.admit(call, at_most(1, 60), 2), Admitted | NotAdmitted)
            admission.release(call)
        assert (await admission.admit(a_call(agent="b"), at_most(1, 60), 2)).limit is not None
        await known(admission, FACTS, position=2)
        call = a_call()
        assert isinstance(await admission.admit(call, FACTS, 2), Admitted)
        admission.release(call, Spent(1, 2, is_ok=True, labels=("web",)))
        await asyncio.gather(*admission._settling)
        assert (await facts_of(admission)).labels == {"web"}
        assert await admission.position() == 2
        assert len(await admission.in_flight()) == 1


async def test_another_database_and_tcp(shared_server: RedisServer) -> None:
    with RedisServer(tcp=True) as server:
        async with connected(server.tcp_url[:-1] + "3") as admission:
            await admission.apply(state(1))
            assert await admission.admit(a_call(), None, 1) == Admitted(1)
        assert "db3:" in str(server.command("INFO", "keyspace"))
        assert "db0:" not in str(server.command("INFO", "keyspace"))
