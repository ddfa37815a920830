"""What is written down and said of people's and members' acts, whole: every field, every refusal, every count."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.core.call import AgentId, MemberId, Principal, Role, TenantId
from agentgate.core.containment import MAX_REASON_CHARS, KillId, KillState, Scope
from agentgate.core.dsse import PublicKey
from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode, Refused
from agentgate.core.event import SALT_BYTES, Event, Kind, Outcome, make
from agentgate.core.evidence.scope import Scope as EvidenceScope
from agentgate.core.members import Acknowledgement, Presence
from agentgate.core.strict_json import parse
from agentgate.pipeline.containment import acknowledge
from agentgate.pipeline.containment.control import Rules
from agentgate.pipeline.containment.drains import Drain
from agentgate.pipeline.containment.flights import Cutting
from agentgate.pipeline.containment.members import HEARTBEAT_S, PRESUMED_GONE_AFTER_S, Member, new_member
from agentgate.pipeline.containment.orders import Order, ReleasePending
from agentgate.pipeline.containment.replica import LEASE_S, Replica
from agentgate.pipeline.records.books import Books
from agentgate.pipeline.records.record import Recorder, new_trace_id
from agentgate.ports.containment import InFlight
from tests.fakes import ADMIN, LOG_KEY, REDACTOR, a_call, a_kill, principal
from tests.pipeline.conftest import House, a_moment, given, last, until
from tests.pipeline.test_whole_calls import own

OPERATOR = principal("op", Role.OPERATOR, person=True)
STRANGER = replace(OPERATOR, tenant=TenantId("other"))


# --- kills ---------------------------------------------------------------------------------------------------

_KILLED_BY = {
    Scope.SESSION: ("s-1", "default", "s-1"),
    Scope.AGENT: ("bot", "default", "bot"),
    Scope.TENANT: ("acme", "acme", "acme"),
    Scope.TOOL: ("db_query", "", "db_query"),
    Scope.SERVER: ("demo", "", "demo"),
    Scope.GLOBAL: ("whatever", "", ""),
}


@pytest.mark.parametrize("scope", _KILLED_BY)
async def test_a_kill_is_on_record_in_full(house: House, scope: Scope) -> None:
    given_target, tenant, target = _KILLED_BY[scope]
    drain = await house.killed(scope=scope, target=given_target, reason="loops", expires_in_s=60)
    kill = drain.kill
    assert kill.id == "kill-00000000000000000001"
    assert (kill.scope, kill.tenant, kill.target, kill.reason) == (scope, tenant, target, "loops")
    assert (kill.actor, kill.since, kill.position) == (ADMIN.id, house.clock.now(), 1)
    assert kill.expires_at == house.clock.now() + timedelta(seconds=60)
    event = last(house, Kind.KILLED)
    of = {"kill_id": kill.id, "scope": scope.value, "target": target, "principal": ADMIN.id}
    of |= {"tenant": tenant} if tenant else {}
    of |= {"session": target} if scope is Scope.SESSION else {}
    assert own(event) == of | {"auth": "admin_key", "expires_at": "2026-11-21T00:01:00.000000Z"}
    assert parse(event.body) == {"reason": "loops"}
    assert own(last(house, Kind.ACKED)) == {"position": 1, "cancelled": 0, "finished": 0, "unknown": 0, "took_us": 0}
    receipt = last(house, Kind.DRAINED)
    settled: dict[str, Any] = {"members": ["m-1"], "drained": True, "excepted": [], "attested": [], "position": 1}
    assert own(receipt) == of | settled
    assert (drain.receipt, drain.running, drain.released_at) == (receipt.id, (), None)
    assert drain.acks == {"m-1": Acknowledgement("m-1", 1, 0, 0, 0, 0.0)}
    assert house.meter.counts == {("kills", scope.value): 1}
    assert house.containment.in_force(ADMIN) == [kill]


async def test_a_kill_of_a_session_elsewhere_is_of_the_tenant_that_is_named(house: House) -> None:
    kill = (await house.killed(tenant="acme", reason="x" * 2 * MAX_REASON_CHARS + "\0")).kill
    assert (kill.tenant, kill.expires_at) == ("acme", None)
    assert kill.reason == "x" * MAX_REASON_CHARS
    assert "expires_at" not in last(house, Kind.KILLED).fields


@pytest.mark.parametrize(
    ("order", "detail"),
    [
        (Order(Scope.TOOL, "db_query"), "a kill by tool needs an operator of all tenants"),
        (Order(Scope.GLOBAL, ""), "a kill by global needs an operator of all tenants"),
        (Order(Scope.TENANT, "acme"), "that is another tenant"),
        (Order(Scope.SESSION, "s-1", tenant="acme"), "that is another tenant"),
    ],
)
async def test_who_may_not_give_a_kill_is_told_so(house: House, order: Order, detail: str) -> None:
    assert await house.containment.kill(OPERATOR, order) == Refused(ReasonCode.FORBIDDEN, detail)
    assert house.log.events == []


async def test_an_id_that_was_used_is_refused_in_these_words(house: House) -> None:
    order = Order(Scope.SESSION, "s-1", "loops", KillId("k-1"))
    await house.containment.kill(ADMIN, order)
    other = await house.containment.kill(ADMIN, replace(order, target="s-2"))
    assert other == Refused(ReasonCode.CONFLICT, "a kill of this id says something else")
    await house.containment.release(ADMIN, "k-1")
    again = await house.containment.kill(ADMIN, order)
    assert again == Refused(ReasonCode.CONFLICT, "a kill of this id was released; choose another id")
    assert house.meter.counts["kills", "session"] == 1


async def test_a_kill_that_the_log_took_but_cannot_be_read_back_cuts_here(house: House) -> None:
    """A position is missing here: it would have to be read, and the log is away by then."""
    running = await house.running()
    house.kill_elsewhere(a_kill(target="another"))

    async def fail(position: int) -> None:
        raise LogUnavailable("told to fail")

    house.log.kills_since = fail  # type: ignore[assignment]
    drain = await house.hasty.kill(ADMIN, Order(Scope.SESSION, "s-1"))
    assert isinstance(drain, Drain)
    assert (await running).reason_code is ReasonCode.KILLED
    assert house.replica.position == 0


async def test_a_kill_that_the_fast_path_does_not_take_is_told_to_it_as_soon_as_it_answers(house: House) -> None:
    house.admission.is_down = True
    await house.killed()
    assert house.meter.counts["kill_state_unknown", ""] == 1
    house.admission.is_down = False
    await house.beat()
    assert house.admission.state == house.replica.state


async def test_a_kill_that_is_repeated_while_the_fast_path_is_away_goes_on(house: House) -> None:
    house.log.append_now(make(_elsewhere(house).origin(), Kind.JOINED, {}))
    order = Order(Scope.SESSION, "s-1", kill_id=KillId("k-1"))
    await house.killed_without("m-2", kill_id=KillId("k-1"))
    house.replica.store_is_at(None)
    house.admission.is_down = True
    again = await house.hasty.kill(ADMIN, order)
    assert isinstance(again, Drain)
    assert (again.kill.id, again.progress.unheard) == ("k-1", ("m-2",))


async def test_kills_in_force_are_listed_in_their_order_to_who_may_know_of_them(house: House) -> None:
    for number in (3, 1, 2):
        await house.killed(target=f"s-{number}")
    everybodys = await house.killed(scope=Scope.TOOL, target="another_tool")
    assert [kill.target for kill in house.containment.in_force(OPERATOR)] == ["s-3", "s-1", "s-2", "another_tool"]
    assert house.containment.in_force(STRANGER) == [replace(everybodys.kill, actor="")]
    assert await house.containment.progress(STRANGER, everybodys.kill.id) is not None
    assert await house.containment.undrained() == frozenset()
    stuck = house.kill_elsewhere(a_kill(target="s-9"))
    assert await house.containment.undrained() == {stuck.id}


async def test_calls_in_flight_are_listed_by_age_to_their_own_tenant(house: House) -> None:
    def flight(trace_id: str, since: str, tenant: str = "default") -> InFlight:
        return InFlight(trace_id, tenant, "s-1", "bot", "db_query", "demo", "m-1", since)

    house.admission.display = [flight("t-2", "2"), flight("t-1", "1"), flight("t-3", "0", "acme")]
    assert [one.trace_id for one in await house.containment.in_flight(OPERATOR)] == ["t-1", "t-2"]
    assert [one.trace_id for one in await house.containment.in_flight(ADMIN)] == ["t-3", "t-1", "t-2"]


# --- releases ------------------------------------------------------------------------------------------------


async def test_a_release_by_two_is_on_record_in_full() -> None:
    house = House(rules=Rules(release_quorum=2))
    kill = (await house.killed()).kill
    pending = await house.containment.release(ADMIN, kill.id)
    assert pending == ReleasePending(kill, (ADMIN.id,), 2)
    bea = replace(ADMIN, name=AgentId("bea"))
    assert await house.containment.release(bea, kill.id) == kill
    of = {"kill_id": kill.id, "scope": "session", "target": "s-1", "tenant": "default", "session": "s-1"}
    asked, also = (event for event, _ in house.log.events if event.kind is Kind.RELEASE_ASKED)
    assert own(asked) == of | {"auth": "admin_key", "principal": ADMIN.id}
    assert own(also) == of | {"auth": "admin_key", "principal": bea.id}
    assert own(last(house, Kind.RELEASED)) == of | {
        "auth": "admin_key",
        "why": "release",
        "forced": False,
        "asked_by": [ADMIN.id, bea.id],
        "principal": bea.id,
    }
    assert house.replica.state == KillState(2, {})
    assert house.admission.state == house.replica.state


async def test_an_expiry_is_on_record_in_full_and_nobodys(house: House) -> None:
    kill = (await house.killed(expires_in_s=60)).kill
    assert await house.containment.release_expired() == 0
    house.clock.move(60)
    assert await house.containment.release_expired() == 1
    assert own(last(house, Kind.RELEASED)) == {
        "kill_id": kill.id,
        "scope": "session",
        "target": "s-1",
        "tenant": "default",
        "session": "s-1",
        "auth": "",
        "why": "expiry",
        "forced": False,
    }
    assert await house.containment.release_expired() == 0


async def test_a_release_that_is_not_done_says_why(house: House) -> None:
    paused = (await house.killed(scope=Scope.GLOBAL, target="")).kill
    refused = await house.containment.release(OPERATOR, paused.id)
    detail = "releasing a kill by global needs an admin of all tenants"
    assert refused == Refused(ReasonCode.FORBIDDEN, detail)
    assert await house.containment.release_global(OPERATOR) == Refused(ReasonCode.FORBIDDEN, detail)
    nobody = Refused(ReasonCode.NOT_FOUND, "no such kill is in force")
    assert await house.containment.release(ADMIN, "kill-nobody") == nobody
    assert await house.containment.release(ADMIN, paused.id) == paused
    assert await house.containment.release(ADMIN, paused.id) == nobody
    house.log.append_now(make(_elsewhere(house).origin(), Kind.JOINED, {}))
    waiting = (await house.killed_without("m-2")).kill
    undrained = Refused(ReasonCode.CONFLICT, "the kill has not drained yet; release it with force")
    assert await house.containment.release(ADMIN, waiting.id) == undrained
    assert await house.containment.release(ADMIN, waiting.id, force=True) == waiting
    assert last(house, Kind.RELEASED).fields["forced"] is True
    assert house.log.of(Kind.RELEASE_ASKED) == [], "where one person is enough, nobody is asked"


async def test_an_agents_key_is_no_person_in_these_words() -> None:
    house = House(rules=Rules(release_quorum=2))
    kill = (await house.killed()).kill
    robot = replace(principal("robot", Role.ADMIN), tenants_all=True)
    text = "a release needs several persons, and an agent's key is none"
    assert await house.containment.release(robot, kill.id) == Refused(ReasonCode.FORBIDDEN, text)


def _elsewhere(house: House) -> Recorder:
    return Recorder(house.log, house.clock, house.entropy, member=MemberId("m-2"), version="test", redactor=REDACTOR)


# --- notes of other acts ---------------------------------------------------------------------------------------


async def test_other_acts_are_on_record_in_full(house: House) -> None:
    books = Books(house.recorder)
    await books.policy("person:ada", "sha256:1", "reload")
    assert own(last(house, Kind.POLICY)) == {"policy_revision": "sha256:1", "what": "reload", "principal": "person:ada"}
    key = PublicKey(
        Ed25519PrivateKey.from_private_bytes(bytes(32))
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    await books.keyed("envelopes", key)
    assert own(last(house, Kind.KEYED)) == {
        "use": "envelopes",
        "algorithm": "ed25519",
        "key_id": key.key_id,
        "public": base64.b64encode(key.spki).decode(),
    }
    await books.checkpoints_keyed(LOG_KEY)
    assert own(last(house, Kind.KEYED)) == {
        "use": "checkpoints",
        "algorithm": "ed25519",
        "key_id": LOG_KEY.hash.hex(),
        "public": LOG_KEY.text,
    }


@pytest.mark.parametrize(
    ("scope", "what"),
    [
        ({"session": "s-1"}, {"of_session": "s-1"}),
        ({"agent": "agent:bot", "since": "1", "until": "2"}, {"of_agent": "agent:bot", "since": "1", "until": "2"}),
        ({}, {}),
    ],
)
async def test_an_export_is_on_record_with_what_it_is_of(
    house: House, scope: dict[str, str], what: Mapping[str, str]
) -> None:
    await Books(house.recorder).exported(ADMIN, EvidenceScope("acme", **scope), "zip")
    assert own(last(house, Kind.EXPORTED)) == {"format": "zip", "tenant": "acme", "principal": ADMIN.id, **what}


# --- acknowledgements -----------------------------------------------------------------------------------------


async def test_an_acknowledgement_counts_how_what_it_covers_ended_and_how_long_that_took(house: House) -> None:
    task = asyncio.current_task()
    assert task is not None
    endings = (Outcome.CANCELLED, "", Outcome.OK, Outcome.ERROR, Outcome.NOT_SENT, Outcome.UNKNOWN, Outcome.UNKNOWN)
    flights = [house.replica.enter(a_call(), task) for _ in (*endings, Outcome.OK)]
    house.clock.move(7)
    house.replica.advance(given(a_kill(position=1)))
    house.clock.move(0.25)
    for flight, ending in zip(flights, (*endings, Outcome.OK), strict=True):
        flight.ending = ending
        house.replica.leave(flight)
    await until(lambda: house.log.of(Kind.ACKED))
    assert own(last(house, Kind.ACKED)) == {
        "position": 1,
        "cancelled": 2,
        "finished": 4,
        "unknown": 2,
        "took_us": 250_000,
    }
    word = house.acknowledger.word_on(1)
    assert word is not None
    assert await word == Acknowledgement("m-1", 1, 2, 4, 2, 250.0)


async def test_a_word_at_a_later_position_is_one_on_every_earlier_kill(house: House) -> None:
    house.replica.advance(given(a_kill(position=1)))
    house.replica.advance(given(a_kill(target="s-2", position=2)))
    words = [house.acknowledger.word_on(position) for position in (0, 1, 2, 3)]
    assert all(words[:3])
    assert words[0] is words[1] is not words[2]
    assert words[3] is None


async def test_no_more_words_are_remembered_than_some_and_none_that_is_owed_is_forgotten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledge, "REMEMBERED", 2)
    cutting = Cutting(1, 0)
    house.acknowledger.owe(cutting)
    for position in (2, 3):
        later = Cutting(position, 0)
        later.left.set()
        house.acknowledger.owe(later)
    await a_moment()
    assert house.acknowledger.word_on(1) is not house.acknowledger.word_on(2), "it is owed still"
    cutting.left.set()
    await until(lambda: len(house.log.of(Kind.ACKED)) == 3)
    later = Cutting(4, 0)
    later.left.set()
    house.acknowledger.owe(later)
    assert house.acknowledger.word_on(1) is house.acknowledger.word_on(2), "the oldest is forgotten"
    house.acknowledger.owe(Cutting(5, 0))
    owed = house.acknowledger.word_on(5)
    await house.acknowledger.aclose()
    assert owed is not None
    assert owed.cancelled(), "nothing of it runs any more"


# --- members -------------------------------------------------------------------------------------------------


async def test_joining_and_leaving_are_on_record_in_full(house: House) -> None:
    other = await house.another("m-2")
    assert own(last(house, Kind.JOINED)) == {"of": "m-2"}
    assert last(house, Kind.JOINED).fields["member"] == "m-2"
    await other.stop()
    assert own(last(house, Kind.LEFT)) == {"of": "m-2"}
    assert other.replica.is_expelled


async def test_who_has_the_whole_log_closes_what_those_left_open_who_have_left(house: House) -> None:
    house.log.fail_next("append", persist=True)
    await house.gate.pass_through(a_call())
    house.recorder.take_orphans()  # it knows nothing of it any more
    await house.stop()
    heir = house.beside("m-2")
    assert await heir.membership.join(None) == 1
    assert last(house, Kind.FINISHED).fields["outcome"] == "unknown"


async def test_who_cannot_end_its_calls_says_all_else_and_leaves_without_a_last_event(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentgate.pipeline.containment.members.LEAVE_WITHIN_S", 0.2)
    house.log.fail_next("append", persist=True)
    await house.gate.pass_through(a_call())
    task = asyncio.current_task()
    assert task is not None
    flight = house.replica.enter(a_call(), task)
    await house.membership.leave(house.upkeep.last_words)
    assert [end["outcome"] for end in house.log.of(Kind.FINISHED)] == ["not_sent"]
    assert caplog.messages == ["left without a last event: calls had not ended, or the log did not take their outcomes"]
    house.replica.leave(flight)
    house.log.is_down = True
    await house.membership.leave(house.upkeep.last_words)
    assert caplog.messages[-1] == "left without a last event: the log cannot be written"
    assert house.log.of(Kind.LEFT) == []


async def test_a_member_is_heard_again_and_again_until_it_is_stopped(house: House) -> None:
    house.membership._interval_s = 0.001
    beating = asyncio.create_task(house.membership.look_after())
    await until(lambda: house.log.beats.get("m-1", 0) > 2)
    beating.cancel()


async def test_a_heartbeat_says_what_does_not_answer(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.log.is_down = house.admission.is_down = True
    await house.beat()
    assert caplog.messages == [
        "the kill store lost kills or does not answer; calls are refused until it has them again",
        "kill state could not be put right, the next round tries again: told to fail",
        "the log does not answer; other members are not heard",
    ]


async def test_open_calls_are_looked_for_only_after_somebody_went(house: House) -> None:
    looks = 0
    open_intents = house.log.open_intents

    async def counted() -> Any:
        nonlocal looks
        looks += 1
        return await open_intents()

    house.log.open_intents = counted  # type: ignore[method-assign]
    await _silent(house, 2)
    other = await house.another("m-3")
    await house.beat()
    await other.stop()
    for _ in range(3):
        await house.beat()
        await house.membership.close_left_behind()
    assert looks == 1


async def _silent(house: House, seconds: int, *, member: str = "m-2") -> None:
    house.log.is_shared = True
    house.log.append_now(make(_elsewhere(house).origin(), Kind.JOINED, {"of": member}))
    for _ in range(seconds):
        await house.beat()
        house.clock.move(1)


async def test_a_member_that_is_given_up_is_on_record_in_full_and_said_aloud(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await _silent(house, 62)
    assert own(last(house, Kind.GONE)) == {"of": "m-2", "why": "presumed"}
    (said,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert said.getMessage() == (
        "member m-2 was not heard for 60 s and is presumed gone: kills go on without it and say so. "
        "If its host is destroyed, `agentgate members gone m-2` attests that"
    )


async def test_a_member_that_is_attested_gone_is_on_record_in_full(house: House) -> None:
    await _silent(house, 5)
    shown = await house.membership.members()
    assert shown == [Member("m-1", Presence.HERE, 0.0, is_me=True), Member("m-2", Presence.HERE, 4.0, is_me=False)]
    attested = await house.membership.attest(ADMIN, "m-2")
    assert attested == Member("m-2", Presence.ATTESTED, 4.0, is_me=False)
    assert own(last(house, Kind.GONE)) == {"of": "m-2", "why": "attested", "auth": "admin_key", "principal": ADMIN.id}


@pytest.mark.parametrize(
    ("actor", "member", "refused"),
    [
        (
            OPERATOR,
            "m-2",
            Refused(ReasonCode.FORBIDDEN, "that concerns every tenant: it needs an admin of all tenants"),
        ),
        (ADMIN, "m-9", Refused(ReasonCode.NOT_FOUND, "no such member, or it has left")),
        (
            ADMIN,
            "m-1",
            Refused(
                ReasonCode.CONFLICT,
                "that member was heard within the last 3 s, or nobody has listened here for so long yet",
            ),
        ),
    ],
)
async def test_who_may_not_attest_is_told_so(house: House, actor: Principal, member: str, refused: Refused) -> None:
    await _silent(house, 5)
    assert await house.membership.attest(actor, member) == refused
    assert house.log.of(Kind.GONE) == []


async def test_what_a_dead_member_left_open_is_closed_in_these_words(house: House) -> None:
    await (await house.another("m-2")).running()
    await _silent(house, 5)
    await house.membership.attest(ADMIN, "m-2")
    closed = last(house, Kind.FINISHED)
    assert (closed.fields["of"], closed.fields["outcome"], closed.fields["reason_code"]) == (
        "m-2",
        "unknown",
        "outcome_unrecorded",
    )
    assert parse(closed.body) == {"error": "the process ended before it could record the outcome"}


async def test_what_was_refused_in_doubt_is_closed_in_these_words(house: House) -> None:
    house.log.fail_next("append", persist=True)
    await house.gate.pass_through(a_call())
    await house.upkeep.tick()
    closed = last(house, Kind.FINISHED)
    assert closed.fields["outcome"] == "not_sent"
    assert parse(closed.body) == {"error": "refused, because its record was in doubt"}


async def test_ghosts_leave_the_display_as_soon_as_the_store_answers(house: House) -> None:
    for name in ("m-8", "m-9"):
        recorder = Recorder(
            house.log, house.clock, house.entropy, member=MemberId(name), version="test", redactor=REDACTOR
        )
        house.log.append_now(make(recorder.origin(), Kind.JOINED, {"of": name}))
    heir = house.beside("m-10")
    forget = heir.admission.forget
    is_away = True

    async def forgets(member: str) -> None:
        if is_away:
            raise KillStateUnknown("told to fail")
        await forget(member)

    heir.admission.forget = forgets  # type: ignore[method-assign]
    await heir.membership.join(["m-8", "m-9"])
    assert heir.admission.forgotten == []
    is_away = False
    await heir.beat()
    await heir.beat()
    assert heir.admission.forgotten == ["m-8", "m-9"]


def test_times_of_members_are_what_the_design_says() -> None:
    """A lease ends long before anybody is given up, and is renewed several times in between."""
    assert 2 * HEARTBEAT_S < LEASE_S < PRESUMED_GONE_AFTER_S
    assert (HEARTBEAT_S, LEASE_S, PRESUMED_GONE_AFTER_S) == (1.0, 3.0, 60.0)


# --- a replica at its start ----------------------------------------------------------------------------------


def test_a_replica_that_has_read_nothing_knows_nothing_and_grants_nothing(house: House) -> None:
    fresh = Replica(house.log, house.admission, house.clock)
    assert (fresh.state, fresh.position, fresh.is_expelled) == (KillState(-1, {}), -1, False)
    assert fresh.has_ended()
    assert not fresh.may_grant()
    assert fresh.is_next(0)
    assert list(fresh.flights()) == []
    assert fresh.lease.length_s == 3.0


async def test_an_expelled_replica_has_ended_once_its_calls_have(house: House) -> None:
    running = await house.running()
    house.replica.expel()
    house.replica.expel()
    assert (house.replica.is_expelled, house.replica.has_ended()) == (True, False)
    ended = asyncio.create_task(house.replica.ended())
    await running
    await asyncio.wait_for(ended, 5)
    assert house.replica.has_ended()
    house.replica.readmit()
    assert (house.replica.is_expelled, house.replica.has_ended()) == (False, True)
    await house.replica.ended()
    house.upstream.let_go()
    assert (await house.gate.pass_through(a_call())).success


async def test_who_keeps_things_for_calls_hears_of_every_cut_before_anybody_acknowledges_it(house: House) -> None:
    heard: list[tuple[bool, bool]] = []

    def on_cut(is_over: Any) -> None:
        heard.append((is_over(a_call()), is_over(a_call(session="s-2"))))
        assert house.log.of(Kind.ACKED) == []

    house.replica.on_cut = on_cut
    house.replica.advance(given(a_kill(position=1)))
    house.replica.cut_all(a_kill(target="s-2"))
    house.replica.lapse()
    assert heard == [(True, False), (False, True), (True, True)]


# --- this process's own writing --------------------------------------------------------------------------------


def test_an_event_begins_with_its_member_number_version_time_and_chance(house: House) -> None:
    origin = house.recorder.origin()
    assert (origin.member, origin.counter, origin.version, origin.at) == ("m-1", 1, "test", house.clock.now())
    assert origin.salt == (1).to_bytes(SALT_BYTES + 10, "big")[:SALT_BYTES]
    assert origin.id == "01a1fb67-1800-7000-8000-000000000001"
    house.recorder.become(MemberId("m-2"))
    assert (house.recorder.origin().member, house.recorder.origin().counter) == ("m-2", 2)


def test_ids_use_all_the_chance_that_they_are_given() -> None:
    class Chance:
        def token(self, n_bytes: int) -> bytes:
            return bytes(range(0x10, 0x10 + n_bytes))

    assert new_trace_id(Chance()) == "10111213-1415-4617-9819-1a1b1c1d1e1f"
    assert new_member(Chance()) == "1011121314151617"


async def test_a_note_that_claims_nothing_cannot_be_refused(house: House) -> None:
    await house.killed(kill_id=KillId("k-1"))
    kill = last(house, Kind.KILLED)

    def again(origin: Any) -> Event:
        fields = {name: value for name, value in own(kill).items() if name not in ("tenant", "session", "principal")}
        return make(origin, Kind.KILLED, fields, tenant="default", session="s-1", body=kill.body)

    with pytest.raises(TypeError, match="the log refused an event that claims nothing: AlreadySpent"):
        await house.recorder.note(again)
