"""Budgets through a real Redis: over two members, and when Redis does not do what it was asked."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.adapters.containment.redis import CHECK_EVERY_S, RedisAdmission
from agentgate.core.amounts import Amounts
from agentgate.core.budget import Period, Tally
from agentgate.core.containment import KillState
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind
from agentgate.core.tiers import read_rules
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.limits.recount import Recount
from agentgate.ports.containment import Admitted, NotAdmitted, Spent
from tests.adapters.containment.asking import PROMPT_S, applies, connected, eventually
from tests.contracts.admission import a_call, state
from tests.contracts.budgets import FACTS, ask, facts_of, known, quota
from tests.fakes import a_call as pipeline_call
from tests.pipeline.conftest import House
from tests.redis_server import RedisServer, is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason="redis-server is not installed")


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(limit=st.integers(1, 20), used=st.integers(0, 20), refused=st.integers(0, 10), calls=st.integers(1, 60))
async def test_of_any_number_at_once_at_two_members_exactly_the_limit_is_let_through(
    shared_server: RedisServer, limit: int, used: int, refused: int, calls: int
) -> None:
    """After whatever the log says was used, and after calls that policy refused gave back what they were charged."""
    shared_server.command("FLUSHALL")
    asked = quota(calls=limit)
    async with connected(shared_server.url, "m-1", 2.0) as one, connected(shared_server.url, "m-2", 2.0) as two:
        await known(one, asked, tally=Tally(0, Amounts(used)))
        for _ in range(refused):
            call = a_call()
            if isinstance(await ask(two, asked, call), Admitted):
                two.release(call)
        await asyncio.gather(*two._settling)
        answers = await asyncio.gather(*(ask((one, two)[n % 2], asked) for n in range(calls)))
    admitted = sum(isinstance(answer, Admitted) for answer in answers)
    assert admitted == min(calls, max(0, limit - used))


async def test_nothing_that_is_kept_of_a_made_up_session_is_kept_for_ever(shared_server: RedisServer) -> None:
    shared_server.command("FLUSHALL")
    async with connected(shared_server.url, deadline_s=2.0) as admission:
        await admission.apply(state(0))
        assert isinstance(await ask(admission, FACTS, a_call(session="unknown")), NotAdmitted)
        for session in ("refused", "allowed"):
            call = a_call(session=session)
            await known(admission, FACTS, call)
            assert isinstance(await ask(admission, FACTS, call), Admitted)
            admission.release(call, Spent(1, 2) if session == "allowed" else None)
        await asyncio.gather(*admission._settling)

    def life_s(session: str) -> int:
        (key,) = shared_server.command("KEYS", f"*used:session/acme/{session}/*")  # type: ignore[misc]
        return int(str(shared_server.command("TTL", key)))

    assert 0 < life_s("unknown") <= 60
    assert 0 < life_s("refused") <= 60
    assert 60 < life_s("allowed") <= 3_600


async def test_scripts_that_redis_forgot_are_told_again(server: RedisServer, admission: RedisAdmission) -> None:
    server.command("SCRIPT", "FLUSH")
    await known(admission, FACTS)
    server.command("SCRIPT", "FLUSH")
    call = a_call()
    assert isinstance(await admission.admit(call, FACTS, 1), Admitted)
    server.command("SCRIPT", "FLUSH")
    admission.release(call, Spent(1, 2, result_bytes=100))
    await asyncio.gather(*admission._settling)
    assert (await facts_of(admission)).bytes == 110


async def test_what_redis_was_not_told_is_counted_from_the_log(server: RedisServer, admission: RedisAdmission) -> None:
    """A hung Redis hears of no end of a call: what it holds of that budget is forgotten, once it answers again."""
    await known(admission, FACTS)
    call = a_call()
    assert isinstance(await admission.admit(call, FACTS, 1), Admitted)
    server.pause()
    admission.release(call, Spent(1, 2, result_bytes=100))
    await asyncio.gather(*admission._settling)
    server.resume()

    async def is_unknown() -> bool:
        answer = await ask(admission, FACTS)
        return isinstance(answer, NotAdmitted) and answer.reason is ReasonCode.BUDGET_UNKNOWN

    await eventually(is_unknown, CHECK_EVERY_S + 5)


async def test_what_one_member_has_settled_the_other_knows_at_once(shared_server: RedisServer) -> None:
    shared_server.command("FLUSHALL")
    async with connected(shared_server.url, "m-1", 2.0) as one, connected(shared_server.url, "m-2", 2.0) as two:
        await known(one, FACTS)
        for n in range(20):
            call = a_call()
            assert isinstance(await ask(one, FACTS, call), Admitted)
            assert await one.settle(call, Spent(2 * n, 2 * n + 1, is_ok=True, labels=(f"label-{n}",)))
            answer = await ask(two, FACTS)
            assert isinstance(answer, Admitted)
            assert answer.facts is not None
            assert f"label-{n}" in answer.facts.labels


@pytest.mark.parametrize("loss", ["hung", "gone"])
async def test_labels_that_redis_does_not_take_are_never_lost(
    server: RedisServer, admission: RedisAdmission, loss: str
) -> None:
    """It says so within the deadline, and from then on nothing is let in that does not know of them."""
    await known(admission, FACTS)
    call = a_call()
    assert isinstance(await ask(admission, FACTS, call), Admitted)
    begin, end = {"hung": (server.pause, server.resume), "gone": (server.stop, server.start)}[loss]
    begin()
    before = time.monotonic()
    assert not await admission.settle(call, Spent(1, 2, is_ok=True, labels=("private",)))
    assert time.monotonic() - before < PROMPT_S
    admission.release(call)
    end()
    if loss == "gone":
        await applies(admission, 1)

    async def is_unknown() -> bool:
        answer = await ask(admission, FACTS)
        if isinstance(answer, Admitted):
            assert answer.facts is not None
            assert "private" in answer.facts.labels
        return isinstance(answer, NotAdmitted) and answer.reason is ReasonCode.BUDGET_UNKNOWN

    await eventually(is_unknown, CHECK_EVERY_S + 5)


async def test_a_full_redis_admits_nothing_and_counts_nothing(server: RedisServer, admission: RedisAdmission) -> None:
    await known(admission, FACTS)
    server.command("CONFIG", "SET", "maxmemory", "1")
    answer = await ask(admission, FACTS)
    assert isinstance(answer, NotAdmitted)
    assert answer.reason is ReasonCode.KILL_STATE_UNKNOWN
    server.command("CONFIG", "SET", "maxmemory", "0")

    async def is_right() -> bool:
        asked = await ask(admission, FACTS)
        if isinstance(asked, NotAdmitted) and asked.uncounted:
            await admission.restore(a_call(), asked.uncounted[0], Tally(0))
        return isinstance(asked, Admitted)

    await eventually(is_right)


@pytest.mark.parametrize("broken", [("SET", "nonsense"), ("HSET", "calls", "many")], ids=["type", "number"])
async def test_a_budget_that_somebody_wrote_into_admits_nothing(
    server: RedisServer, admission: RedisAdmission, broken: tuple[str, ...]
) -> None:
    asked = quota(Period.DAY, calls=5)
    await known(admission, asked)
    (key,) = server.command("KEYS", "*used:day/*")  # type: ignore[misc]
    if broken[0] == "SET":
        server.command("DEL", key)
    server.command(broken[0], key, *broken[1:])
    answer = await ask(admission, asked)
    assert isinstance(answer, NotAdmitted)
    assert answer.reason is ReasonCode.KILL_STATE_UNKNOWN
    assert isinstance(await admission.admit(a_call(), None, 1), Admitted)


async def test_what_was_counted_under_another_server_is_counted_again(
    server: RedisServer, admission: RedisAdmission
) -> None:
    """A standby that took over, or the same server after a restart, may have lost the last calls."""
    await known(admission, FACTS)
    (key,) = server.command("KEYS", "*used:session/*")  # type: ignore[misc]
    server.command("HSET", key, "term", "another")
    answer = await ask(admission, FACTS)
    assert isinstance(answer, NotAdmitted)
    assert answer.reason is ReasonCode.BUDGET_UNKNOWN
    assert await admission.restore(a_call(), answer.uncounted[0], Tally(9, Amounts(4)))
    assert (await facts_of(admission)).calls == 4


async def test_after_a_loss_the_log_is_counted_when_all_from_before_it_are_in_there(server: RedisServer) -> None:
    async with connected(server.url, deadline_s=2.0, settled_s=0.5) as admission:
        await admission.apply(state(0))

        async def is_counted() -> bool:
            answer = await ask(admission, FACTS)
            assert isinstance(answer, NotAdmitted)
            assert answer.reason is ReasonCode.BUDGET_UNKNOWN
            return bool(answer.uncounted)

        for lose in (("DEL", "{ag:0}:kept"), ("HSET", "{ag:0}:kept", "run", "another")):
            before = time.monotonic()
            assert not await is_counted()
            await eventually(is_counted)
            assert time.monotonic() - before >= 0.49
            assert await is_counted(), "a session that nobody has asked for does not wait again"
            server.command(*lose)
            server.command("DEL", *server.command("KEYS", "*used:*"))  # type: ignore[misc]


async def test_a_hung_redis_withholds_the_answer_whose_labels_it_was_not_told(server: RedisServer) -> None:
    """Through the whole gate: nobody is given what is private and is then judged as if they had not seen it."""
    house = House()
    limits = RateLimits(60, Recount(house.log, house.meter))
    limits.load(read_rules({"session_facts": True}))
    house.questions.load(house.questions.read({"labels": {"tools": {"db_query": ["private"]}}}))
    async with connected(server.url) as admission:
        house.gate._limits, house.gate._admission = limits, admission
        await admission.apply(KillState(0, {}))
        running = await house.running()
        server.pause()
        house.upstream.let_go()
        withheld = await running
        server.resume()
        assert (withheld.reason_code, withheld.result_json) == (ReasonCode.OUTCOME_UNRECORDED, None)

        async def goes_on() -> bool:
            return (await house.gate.pass_through(pipeline_call())).success

        await eventually(goes_on)
        await limits.aclose()
    assert house.log.of(Kind.FINISHED)[0]["outcome"] == "ok"
    assert [asked["session"]["labels"] for asked in house.engine.asked] == [[], ["private"]]


async def test_what_is_to_be_forgotten_stays_so_when_the_time_to_connect_is_over(server: RedisServer) -> None:
    """Else a session that was not told its labels would be judged as if it had none."""
    async with connected(server.url, deadline_s=2.0) as admission:
        connection = admission._link.current()
        assert connection is not None
        admission._unsettled["budget"] = None
        server.pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await admission._forget_unsettled(connection)
        assert [*admission._unsettled] == ["budget"]
        server.resume()

        async def is_forgotten() -> bool:
            return not admission._unsettled

        await eventually(is_forgotten)
