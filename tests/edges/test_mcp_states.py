"""A request state can only be given back: by whom it was given to, for what, in time, once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentgate.adapters.sealers.chacha import ChaChaSealer
from agentgate.core.call import Principal
from agentgate.edges._mcp.states import BadState, Round, States
from tests.fakes import FakeClock, FakeEntropy, principal

BEFORE = Round("digest", "apr-1", 2, "theirs", {"r": 1})
BOT = principal("bot")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def states(clock: FakeClock) -> States:
    return States(ChaChaSealer(bytes(32)), clock, FakeEntropy(), ttl_s=60)


def test_it_comes_back_as_it_was(states: States, clock: FakeClock) -> None:
    sealed = states.seal(BOT, BEFORE)
    clock.move(59)
    assert states.take(BOT, sealed, "digest") == BEFORE


@pytest.mark.parametrize(
    "thief", [principal("other"), principal("bot", tenant="b"), principal("bot", person=True)], ids=lambda one: one.id
)
def test_it_is_nobody_elses(states: States, thief: Principal) -> None:
    sealed = states.seal(BOT, BEFORE)
    with pytest.raises(BadState, match="not one that this caller was given"):
        states.take(thief, sealed, "digest")
    states.take(BOT, sealed, "digest")


def test_what_one_user_was_given_is_no_other_users(states: States) -> None:
    for_ann, for_ben = (replace(BOT, on_behalf_of=user) for user in ("ann", "ben"))
    for owner, thief in ((for_ann, for_ben), (for_ann, BOT), (BOT, for_ann)):
        sealed = states.seal(owner, BEFORE)
        with pytest.raises(BadState, match="not one that this caller was given"):
            states.take(thief, sealed, "digest")
        states.take(owner, sealed, "digest")


def test_it_is_for_one_call(states: States) -> None:
    sealed = states.seal(BOT, BEFORE)
    with pytest.raises(BadState, match="another call"):
        states.take(BOT, sealed, "other digest")


def test_it_expires(states: States, clock: FakeClock) -> None:
    sealed = states.seal(BOT, BEFORE)
    clock.move(60)
    with pytest.raises(BadState, match="expired"):
        states.take(BOT, sealed, "digest")


def test_it_is_taken_once_unless_it_is_given_back(states: States) -> None:
    sealed = states.seal(BOT, BEFORE)
    states.take(BOT, sealed, "digest")
    with pytest.raises(BadState, match="used before"):
        states.take(BOT, sealed, "digest")
    states.give_back(BOT, sealed)
    states.take(BOT, sealed, "digest")


def test_what_was_taken_is_forgotten_when_it_would_have_expired(states: States, clock: FakeClock) -> None:
    for _ in range(3):
        states.take(BOT, states.seal(BOT, BEFORE), "digest")
    clock.move(60)
    states.take(BOT, states.seal(BOT, BEFORE), "digest")
    assert len(states._taken) == 1


@pytest.mark.parametrize("text", ["", "agw1.", "agw1.AAAA", "agw1.\x00", "agw1.é", "other", "agw1." + "A" * 10_000])
def test_nothing_else_is_a_state(states: States, text: str) -> None:
    with pytest.raises(BadState):
        states.take(BOT, text, "digest")


def test_every_changed_byte_is_noticed(states: States) -> None:
    sealed = states.seal(BOT, BEFORE)
    for at in range(5, len(sealed) - 4):  # the last of base64 has bits that say nothing
        changed = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        with pytest.raises(BadState):
            states.take(BOT, changed, "digest")
