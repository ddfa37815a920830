"""The broker: what is kept for whom and for how long, what is taken back, and how sources fail."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agentgate.core.call import Call, Clean
from agentgate.core.containment import flags_over
from agentgate.core.redaction.scrub import MIN_SECRET_CHARS
from agentgate.pipeline.credentials import broker as module
from agentgate.pipeline.credentials import sources
from agentgate.pipeline.credentials.broker import Broker
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Issuer, Serves
from agentgate.ports.upstreams import Credential
from tests.contracts.credential_source import broker_of
from tests.fakes import FakeClock, NullMeter, a_call, principal
from tests.pipeline.conftest import a_moment, until


@dataclass
class FakeIssuer:
    """Numbers what it gives: `secret-1`, `secret-2`. `hold()` lets askers wait."""

    serves: Serves = Serves.TENANT
    lasts_s: float = 100.0
    leases: bool = True
    prolongs: bool = False
    asks: list[tuple[Ask, Issued | None]] = field(default_factory=list)
    revoked: list[str | None] = field(default_factory=list)
    failures: int = 0
    """Of revocations, before one succeeds."""
    error: Exception | None = None
    free: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def __post_init__(self) -> None:
        self.free.set()

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        self.asks.append((ask, before))
        number = len(self.asks)
        await self.free.wait()
        if self.error is not None:
            raise self.error
        if before is not None and self.prolongs:
            return replace(before, expires_in_s=self.lasts_s)
        lease = f"lease-{number}" if self.leases else None
        return Issued(Credential(ask.alias, f"secret-{number}"), self.lasts_s, lease)

    async def revoke(self, issued: Issued) -> None:
        if self.failures:
            self.failures -= 1
            raise CredentialRefused("not now")
        self.revoked.append(issued.revocation)

    async def aclose(self) -> None:
        self.closed = True


_: type[Issuer] = FakeIssuer


@dataclass
class World:
    issuer: FakeIssuer
    clock: FakeClock
    broker: Broker

    async def get(
        self, call: Call | None = None, *, scope: str | None = "read", ttl_s: int | None = None
    ) -> str | None:
        credential = await self.broker.credential("a", scope=scope, ttl_s=ttl_s, call=call)
        return credential.secret if credential is not None else None

    def count(self, name: str) -> int:
        assert isinstance(self.broker.meter, NullMeter)
        return self.broker.meter.counts[name, "a"]


def world_of(issuer: FakeIssuer, **more: Any) -> World:
    clock = FakeClock()
    return World(issuer, clock, broker_of({"a": issuer}, clock=clock, **more))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = world_of(FakeIssuer())
    yield world
    await world.broker.aclose()


# --- kept ---


async def test_one_credential_serves_the_calls_of_a_tenant(world: World) -> None:
    assert [await world.get(a_call(session=one)) for one in ("s-1", "s-2")] == ["secret-1"] * 2


@pytest.mark.parametrize("other", [a_call(caller=principal(tenant="other")), None])
async def test_another_tenant_and_the_gateway_itself_have_their_own(world: World, other: Call | None) -> None:
    assert await world.get(a_call()) == "secret-1"
    assert await world.get(other) == "secret-2"
    assert await world.get(a_call()) == "secret-1"


@pytest.mark.parametrize("call", [a_call(), None])
@pytest.mark.parametrize("more", [{"scope": "write"}, {"scope": None}, {"ttl_s": 60}])
async def test_another_scope_or_lifetime_has_its_own(world: World, call: Call | None, more: Any) -> None:
    assert await world.get(call) == "secret-1"
    assert await world.get(call, **more) == "secret-2"
    assert await world.get(call) == "secret-1"


@pytest.mark.parametrize("after_s", [2, 3])
async def test_one_whose_lifetime_is_over_when_it_comes_is_used_by_nobody(world: World, after_s: int) -> None:
    world.issuer.free.clear()
    asking = [asyncio.create_task(world.get(a_call(), ttl_s=2)) for _ in range(2)]
    await until(lambda: world.issuer.asks)
    world.clock.move(after_s)
    world.issuer.free.set()
    assert await asyncio.gather(*asking) == [None, None]
    await until(lambda: world.issuer.revoked == ["lease-1"])
    assert await world.get(a_call(), ttl_s=2) == "secret-2"


BEARER = replace(a_call(), bearer="token-of-alice")


@pytest.mark.parametrize(
    "other",
    [
        replace(BEARER, bearer="token-of-bob"),
        replace(BEARER, bearer=None),
        replace(BEARER, caller=replace(BEARER.caller, on_behalf_of="bob")),
        replace(BEARER, caller=principal("another-bot")),
    ],
)
async def test_what_was_got_for_a_token_serves_that_token_alone(other: Call) -> None:
    world = world_of(FakeIssuer(serves=Serves.TOKEN))
    assert await world.get(BEARER) == "secret-1"
    assert await world.get(other) == "secret-2"
    assert await world.get(BEARER) == "secret-1"


async def test_what_bears_a_session_serves_that_session_alone() -> None:
    world = world_of(FakeIssuer(serves=Serves.SESSION))
    assert [await world.get(a_call(session=one)) for one in ("s-1", "s-2", "s-1")] == [
        "secret-1",
        "secret-2",
        "secret-1",
    ]


async def test_who_asks_meanwhile_waits_for_the_same_answer(world: World) -> None:
    world.issuer.free.clear()
    tasks = [asyncio.create_task(world.get(a_call(session=f"s-{number}"))) for number in range(50)]
    await a_moment()
    world.issuer.free.set()
    assert await asyncio.gather(*tasks) == ["secret-1"] * 50
    assert len(world.issuer.asks) == 1


async def test_one_that_is_cancelled_takes_the_answer_from_nobody(world: World) -> None:
    world.issuer.free.clear()
    first, second = (asyncio.create_task(world.get(a_call(session=one))) for one in ("s-1", "s-2"))
    await a_moment()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.issuer.free.set()
    assert await second == "secret-1"


async def test_shortly_before_it_expires_nobody_is_given_it(world: World) -> None:
    await world.get(a_call())
    world.clock.move(89)
    assert await world.get(a_call()) == "secret-1"
    world.clock.move(2)
    assert await world.get(a_call()) == "secret-2"


async def test_it_is_given_for_no_longer_than_policy_says(world: World) -> None:
    await world.get(a_call(), ttl_s=10)
    world.clock.move(10)
    assert await world.get(a_call(), ttl_s=10) == "secret-2"
    assert [ask.ttl_s for ask, _ in world.issuer.asks] == [10, 10]


async def test_what_its_source_does_not_prolong_is_asked_for_anew_for_all_of_policys_time() -> None:
    world = world_of(FakeIssuer(leases=False))
    await world.get(a_call(), ttl_s=10)
    world.clock.move(9)
    assert await world.get(a_call(), ttl_s=10) == "secret-2"
    assert [ask.ttl_s for ask, _ in world.issuer.asks] == [10, 10]
    await world.broker.aclose()


async def test_it_is_taken_back_when_policys_time_is_over() -> None:
    class Moving(FakeClock):
        def boot_s(self) -> float:
            return asyncio.get_running_loop().time()

    issuer = FakeIssuer()
    broker = broker_of({"a": issuer}, clock=Moving())
    await broker.credential("a", scope=None, ttl_s=1, call=a_call())
    assert issuer.revoked == []
    await asyncio.wait_for(_revoked(issuer), 10)
    assert issuer.revoked == ["lease-1"]
    await broker.aclose()


async def _revoked(issuer: FakeIssuer) -> None:
    while not issuer.revoked:  # noqa: ASYNC110 - of a timer there is nothing to await
        await asyncio.sleep(0.01)


async def test_a_lease_is_prolonged_within_policys_time_and_not_beyond(world: World) -> None:
    world.issuer.prolongs = True
    world.clock.move(1000)
    assert await world.get(a_call(), ttl_s=150) == "secret-1"
    world.clock.move(95)
    assert await world.get(a_call(), ttl_s=150) == "secret-1"
    assert world.issuer.asks[-1][0].ttl_s == 55
    world.clock.move(55)
    assert await world.get(a_call(), ttl_s=150) == "secret-3"
    assert world.issuer.asks[-1] == (Ask("a", "read", 150, world.issuer.asks[-1][0].call), None)


async def test_a_kill_of_one_who_used_a_lease_before_it_was_prolonged_takes_it_back(world: World) -> None:
    world.issuer.prolongs = True
    await world.get(a_call(session="s-1"))
    world.clock.move(95)
    await world.get(a_call(session="s-2"))
    world.broker.drop(lambda call: call.session == "s-1")
    await until(lambda: world.issuer.revoked == ["lease-1"])


async def test_past_the_most_that_are_kept_the_oldest_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    for tenant in ("t-1", "t-2", "t-3"):
        await world.get(a_call(caller=principal(tenant=tenant)))
    await until(lambda: world.issuer.revoked == ["lease-1"])
    assert len(world.broker._live) == 2


async def test_a_tenant_that_takes_all_the_room_takes_it_from_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    modest, greedy = (a_call(caller=principal(tenant=tenant)) for tenant in ("t-1", "t-2"))
    assert await world.get(modest) == "secret-1"
    for ttl_s in (50, 60, 70, 80):
        await world.get(greedy, ttl_s=ttl_s)
    await until(lambda: world.issuer.revoked == ["lease-2", "lease-3"])
    assert await world.get(modest) == "secret-1"


async def test_past_the_most_users_there_is_another_one_and_both_can_be_taken_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_USERS", 2)
    given = [await world.get(a_call(session=f"s-{number}")) for number in range(3)]
    assert given == ["secret-1", "secret-1", "secret-2"]
    world.broker.drop(lambda call: True)
    await until(lambda: world.issuer.revoked == ["lease-1", "lease-2"])


async def test_a_fixed_secret_is_read_for_each_call() -> None:
    world = world_of(FakeIssuer(serves=Serves.ALL, leases=False))
    assert [await world.get(a_call()) for _ in range(2)] == ["secret-1", "secret-2"]


# --- taken back ---


async def test_a_kill_takes_back_what_its_calls_were_given_and_nothing_else(world: World) -> None:
    await world.get(a_call(session="s-1"))
    await world.get(a_call(session="s-9"), scope="write")
    killed = flags_over(a_call(session="s-1"))[-1]
    world.broker.drop(lambda call: killed in flags_over(call))
    await until(lambda: world.issuer.revoked == ["lease-1"])
    assert await world.get(a_call(session="s-2")) == "secret-3"
    assert await world.get(a_call(session="s-2"), scope="write") == "secret-2"
    assert world.count("credentials_revoked") == 1


async def test_a_kill_while_it_is_asked_for_takes_it_back_as_it_arrives(world: World) -> None:
    world.issuer.free.clear()
    killed, other = (asyncio.create_task(world.get(a_call(session=one))) for one in ("s-1", "s-2"))
    await a_moment()
    world.broker.drop(lambda call: call.session == "s-1")
    killed.cancel()  # as its flight does
    world.issuer.free.set()
    assert await other == "secret-2", "whose call goes on has another one"
    await until(lambda: world.issuer.revoked == ["lease-1"])


async def test_taking_back_is_not_waited_for_and_is_tried_until_it_is_done(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_RETRY_S", (0.0,))
    world.issuer.failures = 3
    await world.get(a_call())
    with caplog.at_level(logging.ERROR):
        world.broker.drop(lambda call: True)
        assert world.issuer.revoked == []
        await until(lambda: world.issuer.revoked)
    assert world.issuer.revoked == ["lease-1"]
    assert (world.count("credential_revocations_failed"), world.count("credentials_revoked")) == (3, 1)
    assert "credential a is not taken back: not now" in caplog.text
    assert "secret-1" not in caplog.text
    assert "lease-1" not in caplog.text


async def test_an_attempt_to_take_back_that_hangs_is_followed_by_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_REVOCATION_S", 0.01)
    monkeypatch.setattr(sources, "_RETRY_S", (0.0,))
    attempts = []

    async def hanging(issued: Issued) -> None:
        attempts.append(issued.revocation)
        await asyncio.sleep(3600 if len(attempts) == 1 else 0)

    monkeypatch.setattr(world.issuer, "revoke", hanging)
    await world.get(a_call())
    world.broker.drop(lambda call: True)
    await until(lambda: not world.broker._revocations.running)
    assert attempts == ["lease-1", "lease-1"]
    assert world.count("credential_revocations_failed") == 1


async def test_what_has_expired_by_itself_is_not_tried_for_ever(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.issuer.failures = 1_000_000
    await world.get(a_call())
    world.clock.move(100)
    world.broker.drop(lambda call: True)
    await until(lambda: not world.broker._revocations.running)
    assert "was not taken back" in caplog.text


async def test_everything_is_taken_back_at_the_end(world: World) -> None:
    await world.get(a_call())
    await world.get(a_call(), scope="write")
    await world.broker.aclose()
    assert world.issuer.revoked == ["lease-1", "lease-2"]
    assert world.issuer.closed


class _Peer:
    withdrawn = False

    def guard(self, clean: Clean) -> None: ...


async def test_what_is_kept_of_a_user_has_no_arguments_no_token_and_no_connection(world: World) -> None:
    sent = {"arguments": {"password": "hunter2"}, "context": {"note": "hunter3"}}
    await world.get(replace(a_call(), **sent, bearer="token-of-alice", approval_token="wf:1", peer=_Peer()))
    (entry,) = world.broker._live
    (kept,) = (vars_of(user) for user in entry.users.values())
    assert kept["peer"] is None
    assert not [word for word in ("hunter", "token-of-alice", "wf:1") if word in str(kept)]


def vars_of(call: Call) -> dict[str, Any]:
    return {name: getattr(call, name) for name in Call.__slots__}


# --- failing ---


@pytest.mark.parametrize(
    "error",
    [
        CredentialRefused("down"),
        ConnectionResetError("secret in it"),
        ValueError("secret in it"),
        KeyError("secret in it"),
        TimeoutError(),
    ],
)
async def test_a_source_that_fails_gives_none_and_is_asked_again(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.issuer.error = error
    assert await world.get(a_call()) is None
    assert "secret in it" not in caplog.text
    assert "no credential a: " in caplog.text
    assert world.count("credentials_unavailable") == 1
    world.issuer.error = None
    assert await world.get(a_call()) == "secret-2"
    assert len(world.broker._live) == 1


async def test_while_its_source_is_down_what_is_kept_is_used_until_it_expires(world: World) -> None:
    assert await world.get(a_call()) == "secret-1"
    world.issuer.error = CredentialRefused("down")
    assert await world.get(a_call()) == "secret-1"
    world.clock.move(100)
    assert await world.get(a_call()) is None


async def test_a_source_that_is_down_fills_no_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.issuer.error = CredentialRefused("down")
    for _ in range(10):
        await world.get(a_call())
    assert caplog.text.count("no credential a: down") == 1
    world.clock.move(1)
    await world.get(a_call())
    assert caplog.text.count("no credential a: down") == 2
    assert world.count("credentials_unavailable") == 11


async def test_of_each_source_that_is_down_the_log_hears(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_of({name: FakeIssuer(error=CredentialRefused("down")) for name in "ab"}, clock=FakeClock())
    for name in "abab":
        assert await broker.credential(name, scope=None, ttl_s=None, call=a_call()) is None
    assert caplog.messages == ["no credential a: down", "no credential b: down"]
    await broker.aclose()


async def test_a_source_that_is_silent_is_waited_for_no_longer_than_its_time() -> None:
    world = world_of(FakeIssuer(), timeout_s=0.01)
    world.issuer.free.clear()
    assert await world.get(a_call()) is None
    assert not world.broker._live


@pytest.mark.parametrize("lasts_s", [0.0, -1.0, float("nan")])
async def test_one_that_has_expired_is_not_given(lasts_s: float) -> None:
    world = world_of(FakeIssuer(lasts_s=lasts_s))
    assert await world.get(a_call()) is None


@pytest.mark.parametrize("secret", ["", "abc"])
async def test_one_that_is_empty_or_too_short_to_be_taken_out_of_answers_is_not_given(secret: str) -> None:
    class Lying(FakeIssuer):
        async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
            return Issued(Credential(ask.alias, secret), 100)

    assert await world_of(Lying()).get(a_call()) is None


async def test_names_that_nobody_configured_fill_no_log_and_no_memory(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        assert await world.broker.credential("b", scope=None, ttl_s=None, call=a_call()) is None
        assert await world.broker.credential(f"c-{number}", scope=None, ttl_s=None, call=a_call()) is None
    assert caplog.messages == ["no credential b: there is no such alias"]
    assert isinstance(world.broker.meter, NullMeter)
    assert world.broker.meter.counts == {("credentials_unavailable", "other"): 20}
    assert len(world.broker._told) == 1


async def refused(world: World, ask: Ask | None = None) -> str:
    with pytest.raises(CredentialRefused) as raised:
        await world.broker.obtain(ask or Ask("a", "read", None, a_call()))
    return str(raised.value)


class _Giving(FakeIssuer):
    """Gives what it is told to."""

    gives = Issued(Credential("a", "secret"), 100)

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        return self.gives


@pytest.mark.parametrize(
    ("gives", "why"),
    [
        (Issued(Credential("a", ""), 100), "its source gave an empty one"),
        (
            Issued(Credential("a", "x" * (MIN_SECRET_CHARS - 1)), 100),
            f"it is shorter than {MIN_SECRET_CHARS} characters, so no answer could be rid of it",
        ),
        (Issued(Credential("a", "x" * MIN_SECRET_CHARS), 0), "its source gave one that has expired"),
    ],
)
async def test_one_that_cannot_be_used_is_refused_in_these_words(gives: Issued, why: str) -> None:
    issuer = _Giving()
    issuer.gives = gives
    assert await refused(world_of(issuer)) == why


@pytest.mark.parametrize(
    "error", [OverflowError("too large"), asyncio.IncompleteReadError(b"", 4), struct.error("short")]
)
async def test_a_source_gives_none_whatever_it_fails_at(world: World, error: Exception) -> None:
    world.issuer.error = error
    assert await refused(world) == f"its source failed ({type(error).__name__})"


async def test_what_it_fails_at_in_taking_back_ends_no_attempt_after_it_and_is_not_quoted(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "_RETRY_S", (0.0,))
    attempts = []

    async def failing(issued: Issued) -> None:
        attempts.append(issued.revocation)
        if len(attempts) == 1:
            raise EOFError("secret in it")

    monkeypatch.setattr(world.issuer, "revoke", failing)
    await world.get(a_call())
    world.broker.drop(lambda call: True)
    await until(lambda: not world.broker._revocations.running)
    assert attempts == ["lease-1", "lease-1"]
    assert caplog.messages == ["credential a is not taken back: EOFError"]


async def test_why_there_is_none_is_said_without_what_the_source_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await refused(world, Ask("b", None, None, a_call())) == "there is no such alias"
    world.issuer.error = KeyError("secret in it")
    assert await refused(world) == "its source failed (KeyError)"
    hasty = world_of(FakeIssuer(), timeout_s=0.01)
    hasty.issuer.free.clear()
    assert await refused(hasty) == "its source did not answer within 0.01 s"
    monkeypatch.setattr(module, "MAX_KEPT", 1)
    world.issuer.error = None
    world.issuer.free.clear()
    waiting = asyncio.create_task(refused(world))
    await until(lambda: len(world.issuer.asks) == 2)
    assert await refused(world, Ask("a", "write", None, a_call())) == "too many are being asked for at once"
    world.clock.move(100)
    world.issuer.free.set()
    assert await waiting == "it was over before it came"
    await world.broker.aclose()
    assert await refused(world) == "the gateway is ending"


async def test_before_the_gateway_is_put_together_nobody_counts() -> None:
    broker = Broker({}, FakeClock())
    assert await broker.credential("a", scope=None, ttl_s=None) is None


@pytest.mark.parametrize(("lasts_s", "until_s"), [(100.0, 90), (300.0, 270), (10_000.0, 9_970)])
async def test_the_last_part_of_a_lifetime_is_a_tenth_and_at_most_half_a_minute(lasts_s: float, until_s: int) -> None:
    world = world_of(FakeIssuer(lasts_s=lasts_s))
    await world.get(a_call())
    world.clock.move(until_s - 1)
    assert await world.get(a_call()) == "secret-1"
    world.clock.move(1)
    assert await world.get(a_call()) == "secret-2"
    await world.broker.aclose()


async def test_attempts_to_take_back_are_ever_more_seldom_and_end_with_the_lifetime(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.issuer.failures = 1_000
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        world.clock.move(seconds)

    await world.get(a_call())
    monkeypatch.setattr(sources.asyncio, "sleep", sleep)
    world.broker.drop(lambda call: True)
    await asyncio.wait(world.broker._revocations.running)
    monkeypatch.undo()
    assert pauses == [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 30.0]
    assert caplog.messages[-1] == "credential a was not taken back; it expires by itself"
    assert world.count("credential_revocations_failed") == 9


# --- sessions of the gateway's own ---


async def test_what_a_tool_server_was_given_for_its_session_is_kept_out_of_answers_too(world: World) -> None:
    await world.get(None, scope=None)
    credential = await world.broker.credential("a", scope="read", ttl_s=None, call=a_call())
    assert credential is not None
    assert credential.secrets == ("secret-2", "secret-1")
    assert "secret" not in repr(credential)


async def test_what_a_tool_server_was_given_under_one_name_is_none_of_anothers(world: World) -> None:
    both = broker_of({"a": world.issuer, "b": FakeIssuer()}, clock=world.clock)
    assert repr(both) == "Broker(a, b)"
    await both.credential("a", scope=None, ttl_s=None)
    credential = await both.credential("b", scope=None, ttl_s=None, call=a_call())
    assert credential is not None
    assert credential.others == ()
    await both.aclose()


async def test_one_that_lasts_less_than_a_second_is_given() -> None:
    world = world_of(FakeIssuer(lasts_s=0.5))
    assert await world.get(a_call()) == "secret-1"
    await world.broker.aclose()


async def test_a_source_that_takes_nothing_back_does_not_hold_up_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_LAST_REVOCATIONS_S", 0.01)

    async def hanging(issued: Issued) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.issuer, "revoke", hanging)
    await world.get(a_call())
    async with asyncio.timeout(4):  # an attempt itself may take longer
        await world.broker.aclose()
    assert world.broker._revocations.running == set()
    assert world.issuer.closed
