"""Who is told elsewhere of what. The peer documented five notices, sent one, and let a kill wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from agentgate.core.approval import Approval
from agentgate.core.call import Call, TraceId
from agentgate.core.containment import Scope
from agentgate.core.decision import Ruling
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Event, Kind, Record, rfc3339
from agentgate.core.notice import Notice
from agentgate.pipeline.containment.orders import Order
from agentgate.pipeline.notices import desk as desk_module
from agentgate.pipeline.notices import line as module
from agentgate.pipeline.notices.desk import TURN, NoticeDesk, Standing
from agentgate.pipeline.notices.endpoint import Rules, Subscription
from agentgate.ports.ambient import Entropy
from agentgate.ports.containment import LimitState, NotAdmitted
from agentgate.ports.notices import Failure
from tests.fakes import ADMIN, DENY, REVISION, FakeCourier, FakeEntropy, MemoryBookmarks, NullMeter, a_call, principal
from tests.pipeline.conftest import House, edit_desk, last, until
from tests.pipeline.test_approvals import ADA, asked_for

DAY_S = 86_400.0
SLOW = Rules(base_url="https://gate.example")


@dataclass
class Post:
    """A desk with endpoints, on a house's log, whose clock goes as fast as it is waited for."""

    house: House
    bookmarks: MemoryBookmarks = field(default_factory=MemoryBookmarks)
    rules: Rules = SLOW
    pauses: list[float] = field(default_factory=list)
    meter: NullMeter = field(default_factory=NullMeter)
    entropy: Entropy = field(default_factory=FakeEntropy)
    is_still: bool = False
    """Whether the clock stands though it is waited for."""

    def desk(self, *endpoints: Subscription) -> NoticeDesk:
        return NoticeDesk(
            endpoints,
            reader=self.house.log,
            bookmarks=self.bookmarks,
            clock=self.house.clock,
            entropy=self.entropy,
            meter=self.meter,
            rules=self.rules,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if not self.is_still:
            self.house.clock.move(max(seconds, 1e-6))  # its ticks are whole nanoseconds
        await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def running(self, *endpoints: Subscription) -> AsyncIterator[NoticeDesk]:
        desk = self.desk(*endpoints)
        await desk.start()
        task = asyncio.create_task(desk.run())
        try:
            yield desk
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def post(house: House) -> Post:
    return Post(house)


async def denied(house: House, count: int = 1) -> list[str]:
    """Calls that policy denies; their trace ids."""
    house.engine.answer = Ruling(DENY, REVISION)
    return [(await house.gate.pass_through(a_call())).call.trace_id for _ in range(count)]


def to(courier: FakeCourier, name: str = "one", **more: Any) -> Subscription:
    return Subscription(name, courier, **more)


def traces(courier: FakeCourier) -> list[str]:
    return [notice.payload["trace_id"] for notice in courier.got]


# --- what is told --------------------------------------------------------------------------------------------


async def test_a_kill_and_its_release_are_told(house: House, post: Post) -> None:
    courier = FakeCourier()
    async with post.running(to(courier)):
        drain = await house.containment.kill(ADMIN, Order(Scope.SESSION, "s-1", "loops"))
        assert drain is not None
        await house.containment.release(ADMIN, drain.kill.id)  # type: ignore[union-attr]
        await until(lambda: len(courier.got) == 2)
    first, second = courier.got
    assert (first.kind, second.kind) == ("kill_switch.activated", "kill_switch.released")
    assert (first.payload["level"], first.payload["target"], first.payload["reason"]) == ("session", "s-1", "loops")


async def test_a_denial_is_told_and_an_allowed_call_is_not(house: House, post: Post) -> None:
    courier = FakeCourier()
    async with post.running(to(courier)):
        await house.gate.pass_through(a_call())
        (trace_id,) = await denied(house)
        await until(lambda: courier.got)
    assert [(notice.kind, notice.payload["trace_id"]) for notice in courier.got] == [("policy.denied", trace_id)]


async def test_a_used_up_limit_is_told_with_the_limit(house: House, post: Post) -> None:
    courier = FakeCourier()
    house.admission.refusal = NotAdmitted(ReasonCode.RATE_LIMITED, limit=LimitState(10, 0, 1))
    async with post.running(to(courier)):
        await house.gate.pass_through(a_call())
        await until(lambda: courier.got)
    assert courier.got[0].kind == "rate_limit.exceeded"
    assert courier.got[0].payload["limit"] == 10
    assert house.meter.counts[("rate_limited", "db_query")] == 1


@pytest.mark.parametrize("error", [TypeError, AttributeError, RuntimeError, OverflowError])
async def test_what_nobody_foresaw_in_one_notice_costs_that_one_alone(
    house: House, post: Post, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the desk, with it the gateway, and was met again after every start."""
    courier, traces_told = FakeCourier(), []

    def fails_for_the_first(notice: Notice) -> None:
        traces_told.append(notice.payload["trace_id"])
        if notice.payload["trace_id"] == traces_told[0]:
            raise error

    courier.on_deliver = fails_for_the_first
    async with post.running(to(courier)) as desk:
        first, second = await denied(house, 2)
        await until(lambda: courier.got)
        assert (await desk.standings())[0].counts["skipped"] == 1
    assert (traces_told[0], traces(courier)) == (first, [second])
    assert caplog.messages[-1].endswith(f"it cannot be told ({error.__name__})")


async def test_an_event_of_another_version_is_counted_and_the_next_is_told(
    house: House, post: Post, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, odd = module.notice_of, 1

    def reads_all_but_one(record: Record) -> Notice | None:
        if record.index == odd:
            raise KeyError("decision")
        return read(record)

    monkeypatch.setattr(module, "notice_of", reads_all_but_one)
    courier = FakeCourier()
    async with post.running(to(courier)) as desk:
        trace_ids = await denied(house, 3)
        await until(lambda: len(courier.got) == 2)
        assert (await desk.standings())[0].counts["skipped"] == 1
    assert traces(courier) == [trace_ids[0], trace_ids[2]]
    assert caplog.messages == ["event 1 cannot be told: KeyError: 'decision'"]


async def test_who_is_quick_is_told_until_the_end_of_a_turn(house: House, post: Post) -> None:
    courier, began = FakeCourier(), list[float]()

    def takes_a_second(_: Notice) -> None:
        began.append(house.clock.boot_s())
        house.clock.move(1)

    courier.on_deliver = takes_a_second
    started = house.clock.boot_s()
    async with post.running(to(courier)):
        await denied(house, 30)
        await until(lambda: len(courier.got) == 30)
    assert max(at - started for at in began if at - started < SLOW.round_s) >= SLOW.round_s - 2


async def test_who_is_slow_begins_nothing_at_the_end_of_a_turn_for_which_all_would_wait(
    house: House, post: Post
) -> None:
    """Others heard of kills ten seconds later in every turn, because of an endpoint that took nine for each notice."""
    slow, prompt = FakeCourier(), FakeCourier()
    began: list[float] = []

    def takes_nine_seconds(_: Notice) -> None:
        began.append(house.clock.boot_s())
        house.clock.move(9)

    turns: list[float] = []

    class Turns(MemoryBookmarks):
        @contextlib.asynccontextmanager
        async def turn(self, name: str) -> AsyncIterator[bool]:
            async with super().turn(name) as is_ours:
                turns.append(house.clock.boot_s())
                yield is_ours

    slow.on_deliver = takes_nine_seconds
    post.bookmarks = Turns()
    async with post.running(to(slow), to(prompt, "two", events=("kill_switch.*",))):
        await denied(house, 8)
        await until(lambda: len(slow.got) == 8)
    into_turn = [at - max(turn for turn in turns if turn <= at) for at in began[1:]]
    assert max(into_turn) <= SLOW.round_s - 9


async def test_a_question_comes_with_the_call_and_a_link(house: House, post: Post) -> None:
    courier = FakeCourier()
    house.engine.answer = Ruling(ASK, REVISION)
    async with post.running(to(courier, events=("approval.*",))):
        answer = await house.gate.pass_through(a_call())
        await until(lambda: courier.got)
    (notice,) = courier.got
    assert answer.approval is not None
    assert notice.kind == "approval.requested"
    assert notice.payload["url"] == f"https://gate.example/approvals/{answer.approval.id}"
    assert notice.payload["arguments"] == a_call().arguments
    assert notice.payload["rule"] == ASK["matched_rule"]


ASK = {"action": "REQUIRE_APPROVAL", "reason": "Write", "matched_rule": "write", "is_write_action": True}


@pytest.mark.parametrize(
    "other",
    [
        a_call(arguments={"of": "other"}),
        replace(a_call(session="s-2", arguments={"of": "other"}), trace_id=TraceId("the-same")),
        replace(a_call(arguments={"of": "other"}, caller=principal(tenant="b")), trace_id=TraceId("the-same")),
    ],
    ids=["trace", "session", "tenant"],
)
async def test_a_question_comes_with_no_other_call(house: House, post: Post, other: Call) -> None:
    """Whoever hears of one tenant alone would be told what another one sends."""
    elsewhere = House()
    elsewhere.engine.answer = house.engine.answer = Ruling(ASK, REVISION)
    await elsewhere.gate.pass_through(other)

    def slip_in(event: Event) -> None:
        if event.kind is Kind.DECIDED:
            house.log.on_append = lambda _: None
            house.log.append_now(last(elsewhere, Kind.DECIDED))

    house.log.on_append = slip_in
    courier = FakeCourier()
    async with post.running(to(courier, events=("approval.*",))):
        await house.gate.pass_through(replace(a_call(arguments={"of": "mine"}), trace_id=TraceId("the-same")))
        await until(lambda: courier.got)
    assert house.log.kinds() == ["approval_requested", "decided", "decided"]
    assert courier.got[0].payload["arguments"] == {"of": "mine"}


async def test_an_edited_question_is_told_at_once(house: House, post: Post) -> None:
    """There is no decision on it to wait for: nobody has sent this call yet."""
    courier, at = FakeCourier(), list[float]()
    courier.on_deliver = lambda _: at.append(house.clock.boot_s())
    endpoint = to(courier, events=("approval.*",))
    await post.desk(endpoint).start()
    old = await asked_for(house, a_call(arguments={"n": 1}))
    assert isinstance(await edit_desk(house).edit(ADA, old.id, {"n": 2}), Approval)
    edited = house.clock.boot_s()
    async with post.running(endpoint):
        await until(lambda: len(courier.got) == 3)
    assert (courier.got[2].kind, courier.got[2].payload["arguments"]) == ("approval.requested", {"n": 2})
    assert at == [edited] * 3


async def test_secrets_are_told_no_more_than_the_log_tells_them(house: House, post: Post) -> None:
    courier = FakeCourier()
    async with post.running(to(courier)):
        await house.containment.kill(ADMIN, Order(Scope.SESSION, "s-1", "leaked AKIAIOSFODNN7EXAMPLE"))
        await until(lambda: courier.got)
    assert "AKIAIOSFODNN7EXAMPLE" not in str(courier.got[0].payload)


async def test_an_endpoint_hears_what_it_asked_for(house: House, post: Post) -> None:
    kills, others_tenant, own_tenant = FakeCourier(), FakeCourier(), FakeCourier()
    endpoints = (
        to(kills, "kills", events=("kill_switch.*",)),
        to(others_tenant, "b", tenants=("b",)),
        to(own_tenant, "default", tenants=("default",)),
    )
    async with post.running(*endpoints):
        await denied(house)
        await house.containment.kill(ADMIN, Order(Scope.SESSION, "s-1", "x"))
        await until(lambda: kills.got and len(own_tenant.got) == 2)
    assert [notice.kind for notice in kills.got] == ["kill_switch.activated"]
    assert others_tenant.got == []


# --- the queue -----------------------------------------------------------------------------------------------


async def test_a_new_endpoint_starts_where_the_log_ends(house: House, post: Post) -> None:
    await denied(house, 3)
    courier = FakeCourier()
    async with post.running(to(courier)):
        new = await denied(house)
        await until(lambda: courier.got)
    assert traces(courier) == new


async def test_what_came_while_nobody_followed_is_told_in_order(house: House, post: Post) -> None:
    courier = FakeCourier()
    async with post.running(to(courier)):
        first = await denied(house)
        await until(lambda: courier.got)
        await until(lambda: post.bookmarks.saved["one"] >= 0)
    missed = await denied(house, 600)  # more than are read at once
    async with post.running(to(courier)):
        await until(lambda: len(courier.got) >= 601)
    assert traces(courier)[-600:] == missed
    assert traces(courier)[0] == first[0]


async def test_a_crash_between_telling_and_noting_tells_again_under_the_same_id(house: House, post: Post) -> None:
    first, second = FakeCourier(), FakeCourier()
    tasks: list[asyncio.Task[None]] = []
    first.on_deliver = lambda _: tasks[0].cancel() and None  # type: ignore[func-returns-value]
    desk = post.desk(to(first))
    await desk.start()
    tasks.append(asyncio.create_task(desk.run()))
    await denied(house)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert first.tries == 1
    async with post.running(to(second)):
        await until(lambda: second.got)
    assert second.got[0].id == house.log.events[-1][0].id


async def test_stopping_in_order_tells_nothing_twice(house: House, post: Post) -> None:
    courier = FakeCourier()
    post.is_still = True  # nothing is noted on the way
    async with post.running(to(courier)) as desk:
        await denied(house)
        await until(lambda: courier.got)
    await desk.stop()
    async with post.running(to(courier)):
        await denied(house)
        await until(lambda: len(courier.got) == 2)
    assert len(set(traces(courier))) == 2


async def test_pauses_grow_from_a_second_to_ten_minutes_and_a_success_ends_them(
    house: House, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    courier = FakeCourier()
    waits: list[float] = []
    last = [0.0]

    def note(_: Notice) -> None:
        now = house.clock.boot_s()
        waits.append(now - last[0])
        last[0] = now

    courier.on_deliver = note
    courier.failures.extend([*[Failure("down")] * 14, None, Failure("down")])
    async with post.running(to(courier)):
        await denied(house, 2)
        await until(lambda: len(courier.got) == 2)
    for number, pause in enumerate(waits[1:12]):
        wanted = min(600.0, 2.0**number)
        assert wanted / 2 <= pause <= wanted + 2 * SLOW.rest_s, (number, pause)
    assert max(waits[1:]) <= 600 + SLOW.rest_s
    assert waits[15] < 1, "the next one is brought at once"
    assert waits[16] <= 1 + SLOW.rest_s, "and waits a second again"
    assert caplog.messages == ["webhook one does not take notices: down"] * 2, "however often it is tried"
    assert post.meter.counts[("webhook_deliveries", "failed")] == 15
    assert post.meter.counts[("webhook_deliveries", "delivered")] == 2


@pytest.mark.parametrize(("chance", "pause"), [(b"\0\0\0\0", 0.5), (b"\x80\0\0\0", 0.75), (b"\xff\xff\xff\xff", 1.0)])
async def test_chance_makes_a_pause_up_to_half_as_short(house: House, post: Post, chance: bytes, pause: float) -> None:
    """Else all who found a receiver down would come back to it at the same moment."""

    class Chance:
        def token(self, n_bytes: int) -> bytes:
            return chance[:n_bytes]

    courier, at = FakeCourier(), list[float]()
    courier.failures.append(Failure("down"))
    courier.on_deliver = lambda _: at.append(house.clock.boot_s())
    post.entropy = Chance()
    async with post.running(to(courier)):
        await denied(house)
        await until(lambda: courier.got)
    assert at[1] - at[0] == pytest.approx(pause, abs=1e-5)


async def test_a_receiver_that_wants_to_be_left_alone_is(house: House, post: Post) -> None:
    courier = FakeCourier()
    courier.failures.append(Failure("busy", retry_after_s=90))
    at: list[float] = []
    courier.on_deliver = lambda _: at.append(house.clock.boot_s())
    async with post.running(to(courier)):
        await denied(house)
        await until(lambda: courier.got)
    assert at[1] - at[0] >= 90


async def test_what_nobody_takes_for_three_days_is_skipped_and_counted(house: House, post: Post) -> None:
    courier = FakeCourier()
    courier.always = Failure("down")
    async with post.running(to(courier)) as desk:
        tried: set[str] = set()
        courier.on_deliver = lambda notice: tried.add(notice.payload["trace_id"])
        old = await denied(house, 3)
        started = house.clock.now()
        await until(lambda: post.meter.counts.get(("webhook_deliveries", "skipped"), 0) == 3)
        assert timedelta(days=3) <= house.clock.now() - started <= timedelta(days=3, hours=1)
        assert tried == set(old[:1]), "what is as old is not tried: nobody is there"
        new = await denied(house)
        courier.always = None
        await until(lambda: courier.got)
        assert desk.lags() == {"one": 0.0}
    assert traces(courier) == new != old


async def test_what_waits_for_less_than_three_days_is_told_after_all(house: House, post: Post) -> None:
    courier = FakeCourier()
    courier.always = Failure("down")
    async with post.running(to(courier)) as desk:
        trace_ids = await denied(house, 3)
        started = house.clock.now()
        await until(lambda: house.clock.now() - started > timedelta(days=2))
        assert desk.lags()["one"] > 1.9 * DAY_S
        courier.always = None
        await until(lambda: len(courier.got) == 3)
    assert traces(courier) == trace_ids


async def test_what_a_receiver_calls_malformed_does_not_hold_up_the_rest(house: House, post: Post) -> None:
    courier = FakeCourier()
    courier.failures.extend([Failure("it answers 422", for_good=True)] * 5)
    async with post.running(to(courier)):
        trace_ids = await denied(house, 2)
        await until(lambda: courier.got)
    assert courier.tries == 6
    assert traces(courier) == trace_ids[1:]
    assert post.meter.counts[("webhook_deliveries", "skipped")] == 1


async def test_what_is_malformed_is_so_by_the_tries_of_this_notice_alone(house: House, post: Post) -> None:
    courier = FakeCourier()
    malformed = [Failure("it answers 422", for_good=True)] * 4
    courier.failures.extend([*malformed, None, *malformed, None])
    async with post.running(to(courier)):
        trace_ids = await denied(house, 2)
        await until(lambda: courier.tries == 10)
        await until(lambda: len(courier.got) == 2)
    assert traces(courier) == trace_ids
    assert ("webhook_deliveries", "skipped") not in post.meter.counts


async def test_what_is_under_way_at_the_end_of_a_turn_is_waited_for(house: House, post: Post) -> None:
    class Slow(FakeCourier):
        async def deliver(self, notice: Notice) -> Failure | None:
            self.tries += 1
            await asyncio.sleep(0.05)
            self.got.append(notice)
            return None

    courier = Slow()
    post.rules = Rules(round_s=0.01)
    async with post.running(to(courier)):
        trace_ids = await denied(house)
        await until(lambda: courier.got)
    assert (traces(courier), courier.tries) == (trace_ids, 1)


async def test_a_delivery_without_an_end_is_given_up_with_its_turn_and_made_again(
    house: House, post: Post, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else nobody would be told of anything any more, by any member: it is the turn of one at a time."""

    class HangsOnce(FakeCourier):
        async def deliver(self, notice: Notice) -> Failure | None:
            if not self.tries:
                self.tries += 1
                await asyncio.Event().wait()
            return await super().deliver(notice)

    monkeypatch.setattr(desk_module, "_OVERTIME_S", 0.5)
    post.rules = Rules(round_s=0.05)
    courier = HangsOnce()
    async with post.running(to(courier)):
        trace_ids = await denied(house, 2)
        await until(lambda: len(courier.got) == 2)
    assert traces(courier) == trace_ids
    assert "a webhook took longer than it may; what was under way is sent again" in caplog.messages


async def test_a_dead_endpoint_holds_up_nobody(house: House, post: Post) -> None:
    class Hanging(FakeCourier):
        async def deliver(self, notice: Notice) -> Failure | None:
            await post.sleep(10)
            return Failure("no answer within 10 s")

    dead, alive = FakeCourier(), FakeCourier()
    dead.always = Failure("down")
    async with post.running(to(dead, "dead"), to(Hanging(), "hanging"), to(alive, "alive")):
        trace_ids = await denied(house, 20)
        await until(lambda: len(alive.got) == 20)
    assert traces(alive) == trace_ids
    assert dead.got == []


async def test_of_two_members_one_tells_and_the_other_goes_on_where_it_stopped(house: House, post: Post) -> None:
    one, two = FakeCourier(), FakeCourier()
    async with post.running(to(one)), post.running(to(two)):
        for _ in range(10):
            await denied(house)
            await until(lambda: len(one.got) + len(two.got) == len(house.log.events))
    told = [*traces(one), *traces(two)]
    assert len(told) == len(set(told)) == 10


async def test_the_member_that_follows_says_how_long_a_notice_waits(house: House, post: Post) -> None:
    """Also while it may not be tried again yet: of two that took turns neither said so for minutes on end."""
    courier, is_ours = FakeCourier(), False
    courier.always = Failure("down", retry_after_s=600)
    post.is_still = True
    async with post.running(to(courier)) as desk:
        await denied(house)
        await until(lambda: courier.tries)
        house.clock.move(SLOW.round_s)
        while not is_ours:
            await asyncio.sleep(0)
            async with post.bookmarks.turn(TURN) as is_ours:
                await until(lambda: not is_ours or desk.lags() == {"one": 0.0})
        await until(lambda: desk.lags() == {"one": SLOW.round_s})
        assert courier.tries == 1


async def test_what_another_member_has_told_ends_the_pause_of_this_one(house: House, post: Post) -> None:
    """A receiver that was back heard nothing in every second turn, for ten minutes."""
    courier = FakeCourier()
    courier.failures.append(Failure("down", retry_after_s=600))
    post.is_still = True
    async with post.running(to(courier)):
        await denied(house)
        await until(lambda: courier.tries)
        await post.bookmarks.save("one", 0)
        new = await denied(house)
        house.clock.move(SLOW.round_s)
        await until(lambda: courier.got)
    assert traces(courier) == new


async def test_a_member_that_starts_while_another_follows_gives_no_endpoint_its_place(post: Post) -> None:
    async with post.bookmarks.turn(TURN):
        await post.desk(to(FakeCourier())).start()
    assert post.bookmarks.saved == {}


async def test_a_log_that_is_down_is_waited_for(house: House, post: Post, caplog: pytest.LogCaptureFixture) -> None:
    courier = FakeCourier()
    async with post.running(to(courier)):
        trace_ids = await denied(house)
        house.log.is_down = post.bookmarks.is_down = True
        for _ in range(50):
            await asyncio.sleep(0)
        house.log.is_down = post.bookmarks.is_down = False
        await until(lambda: courier.got)
    assert traces(courier) == trace_ids
    assert "webhooks wait for the log: told to fail" in caplog.messages


async def test_a_call_and_a_kill_wait_for_no_webhook(house: House, post: Post) -> None:
    """A54, A55: the peer answered a kill 3 s late because its webhook was dead."""
    is_asked, never = asyncio.Event(), asyncio.Event()

    class Silent(FakeCourier):
        async def deliver(self, notice: Notice) -> Failure | None:
            is_asked.set()
            await never.wait()
            return None

    async with post.running(to(Silent(), "silent")):
        await denied(house)
        await asyncio.wait_for(is_asked.wait(), 5)
        await denied(house)
        assert (await house.killed(reason="loops")).progress.drained


# --- what is in no log ---------------------------------------------------------------------------------------


async def test_health_is_told_though_no_event_says_it(house: House, post: Post) -> None:
    courier = FakeCourier()
    courier.failures.append(Failure("down"))
    async with post.running(to(courier)) as desk:
        desk.tell("health.degraded", {"dependency": "opa", "healthy": False})
        desk.tell("health.recovered", {"dependency": "opa", "healthy": True})
        await until(lambda: len(courier.got) == 2)
    assert [notice.kind for notice in courier.got] == ["health.degraded", "health.recovered"]
    assert courier.got[0].payload["dependency"] == "opa"
    assert len({notice.id for notice in courier.got}) == 2


async def test_of_what_is_in_no_log_only_so_much_waits(post: Post) -> None:
    desk = post.desk(to(FakeCourier()))
    for _ in range(150):
        desk.tell("health.degraded", {})
    assert post.meter.counts[("webhook_deliveries", "skipped")] == 50


async def test_of_what_was_never_told_the_log_says_which_and_why(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    desk = post.desk(to(FakeCourier()))
    desk.tell("health.degraded", {})
    lost = desk._lines[0].told[0].id
    for _ in range(100):
        desk.tell("health.degraded", {})
    assert caplog.messages == [f"webhook one never heard of health.degraded {lost}: too many wait"]


async def test_endpoints_get_their_place_later_while_the_log_is_down(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    post.bookmarks.is_down = True
    await post.desk(to(FakeCourier())).start()
    assert caplog.messages == ["webhooks get their place in the log later: told to fail"]


async def test_without_endpoints_the_log_is_not_asked(house: House, post: Post) -> None:
    house.log.is_down = True
    assert await post.desk().standings() == []


async def test_a_webhook_without_a_place_yet_is_behind_with_nothing(house: House, post: Post) -> None:
    """Nobody's turn has come to it: how it stands is asked all the same."""
    await denied(house, 3)
    (standing,) = await post.desk(to(FakeCourier())).standings()
    assert (standing.name, standing.done, standing.behind) == ("one", None, 0)


async def test_standings_say_how_far_each_is_and_what_went_wrong(house: House, post: Post) -> None:
    courier = FakeCourier()
    courier.always = Failure("it answers 500")
    async with post.running(to(courier)) as desk:
        await denied(house, 2)
        await until(lambda: courier.tries >= 3)
        (standing,) = await desk.standings()
    assert (standing.name, standing.done, standing.behind, standing.error) == ("one", -1, 2, "it answers 500")
    assert standing.failures >= 3
    assert standing.waiting_since is not None


async def test_an_endpoint_lags_by_the_time_that_its_oldest_notice_waits(house: House, post: Post) -> None:
    courier = FakeCourier()
    courier.always = Failure("down")
    post.is_still = True
    async with post.running(to(courier)) as desk:
        await denied(house)
        await until(lambda: courier.tries)
        for seconds, lag in ((0, 0.0), (0.25, 0.25), (-10, 0.0)):  # a clock may be set back
            house.clock.move(seconds)
            assert desk.lags() == {"one": lag}


async def test_who_has_taken_all_stands_well_and_its_place_is_noted_a_second_later(house: House, post: Post) -> None:
    courier = FakeCourier()
    courier.failures.append(Failure("down"))
    post.is_still = True
    async with post.running(to(courier, events=("call.*", "policy.*"), tenants=("default",))) as desk:
        await denied(house, 2)
        await until(lambda: courier.tries)
        house.clock.move(600)
        await until(lambda: len(courier.got) == 2)
        (standing,) = await desk.standings()
        now = rfc3339(house.clock.now())
        counts = {"delivered": 2, "failed": 1, "skipped": 0}
        told = ("one", "fake", "https://receiver.example", ("call.*", "policy.*"), ("default",))
        assert standing == Standing(*told, 1, 0, None, 0, None, now, counts)
        assert desk.lags() == {"one": 0.0}
        assert post.bookmarks.saved == {"one": 0}
        house.clock.move(1)
        await until(lambda: post.bookmarks.saved == {"one": 1})
