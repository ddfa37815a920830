"""What a kill covers, and when it is drained."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.call import Access, Call, Tool, ToolName
from agentgate.core.containment import (
    FlagChange,
    Kill,
    KillChange,
    KillChanges,
    KillId,
    KillState,
    Lease,
    Scope,
    covering,
    flag,
    flags_over,
    may_release,
)
from agentgate.core.members import Hearing, Presence, progress
from tests.fakes import TOOL, a_call, a_kill, principal

FEW = st.sampled_from(["a", "b", "tool", "global", "default"])


@st.composite
def calls(draw: st.DrawFn) -> Call:
    name = draw(FEW)
    tool = draw(st.sampled_from([Tool(ToolName(name), draw(FEW), Access.READ, {}), None]))
    caller = principal(draw(FEW), tenant=draw(FEW))
    return a_call(session=draw(FEW), caller=caller, tool=tool, tool_name=name)


@st.composite
def kills(draw: st.DrawFn) -> Kill:
    scope = draw(st.sampled_from(Scope))
    return replace(a_kill(scope, draw(FEW), id=f"k-{draw(st.integers(0, 99))}"), tenant=draw(FEW))


def _covers(kill: Kill, call: Call) -> bool:
    """Written a second time, by fields and not by flags."""
    match kill.scope:
        case Scope.SESSION:
            return (kill.tenant, kill.target) == (call.tenant, call.session)
        case Scope.AGENT:
            return (kill.tenant, kill.target) == (call.tenant, call.agent)
        case Scope.TENANT:
            return kill.tenant == call.tenant
        case Scope.TOOL:
            return kill.target == call.tool_name
        case Scope.SERVER:
            return call.tool is not None and kill.target == call.tool.upstream
        case Scope.GLOBAL:
            return True


@given(kills(), calls())
def test_kill_covers_a_call_exactly_if_its_flag_is_over_it(kill: Kill, call: Call) -> None:
    assert (kill.flag in flags_over(call)) is _covers(kill, call)
    assert (covering({kill.flag: kill}, call) is kill) is _covers(kill, call)


@given(st.lists(kills(), max_size=6), calls())
def test_covering_finds_a_kill_if_there_is_one(some: list[Kill], call: Call) -> None:
    by_flag = {kill.flag: kill for kill in some}
    assert (covering(by_flag, call) is not None) is any(_covers(kill, call) for kill in some)


@given(st.lists(kills(), max_size=8, unique_by=lambda kill: kill.id), calls())
def test_state_names_a_kill_over_a_call_if_there_is_one(some: list[Kill], call: Call) -> None:
    state = KillState(len(some), {kill.id: replace(kill, position=place) for place, kill in enumerate(some, 1)})
    found = state.over(call)
    assert (found is not None) is any(_covers(kill, call) for kill in some)
    assert found is None or _covers(found, call)


@given(st.lists(kills(), max_size=8, unique_by=lambda kill: kill.id), calls())
def test_flags_of_a_state_stop_exactly_what_its_kills_cover(some: list[Kill], call: Call) -> None:
    placed = {kill.id: replace(kill, position=place) for place, kill in enumerate(some, 1)}
    flags = KillState(len(some), placed).flags()
    assert any(name in flags for name in flags_over(call)) is any(_covers(kill, call) for kill in some)


def test_flag_names_the_first_kill_on_it() -> None:
    late, early = a_kill(position=2, id="late"), a_kill(position=1, id="early")
    assert KillState(2, {late.id: late, early.id: early}).flags() == {early.flag: "early"}


def test_unknown_tool_is_not_stopped_by_a_kill_of_a_nameless_server() -> None:
    assert "server/" in flags_over(a_call(tool=None))
    assert flag(Scope.SERVER, "", "demo") not in flags_over(a_call(tool=None))


def test_kill_of_one_tenant_does_not_touch_the_same_names_of_another() -> None:
    call = a_call(caller=principal(tenant="other"))
    theirs = [a_kill(Scope.SESSION, "s-1"), a_kill(Scope.AGENT, "bot"), a_kill(Scope.TENANT, "default")]
    assert covering({kill.flag: kill for kill in theirs}, call) is None


def test_scopes_do_not_mix() -> None:
    """A session named like a tool, or like a tenant and session in one, is only a session."""
    assert flag(Scope.SESSION, "default", "db_query") not in flags_over(a_call())
    assert len({flag(scope, "t", "x") for scope in Scope}) == len(Scope)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"actor": "person:other"}, True),
        ({"reason": "another"}, False),
        ({"target": "s-2"}, False),
        ({"tenant": "other"}, False),
        ({"scope": Scope.AGENT}, False),
        ({"expires_at": a_kill().since + timedelta(hours=1)}, False),
    ],
)
def test_same_order_is_the_same_scope_reason_and_duration(changes: dict[str, object], same: bool) -> None:
    assert a_kill().same_order(replace(a_kill(), **changes)) is same  # type: ignore[arg-type]


def test_same_duration_at_another_time_is_the_same_order() -> None:
    hour, day = timedelta(hours=1), timedelta(days=1)
    one = replace(a_kill(), expires_at=a_kill().since + hour)
    later = replace(one, since=one.since + day, expires_at=one.since + day + hour)
    assert one.same_order(later)
    assert one.same_order(replace(later, since=later.since + timedelta(microseconds=999_999)))
    assert not one.same_order(replace(later, since=later.since + timedelta(seconds=1)))
    assert not one.same_order(replace(later, expires_at=later.since + 2 * hour))
    assert not one.same_order(replace(one, expires_at=None))


# --- when a kill is drained -----------------------------------------------------------------------------------


@given(
    members=st.lists(st.sampled_from("abcdef"), unique=True),
    presence=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(Presence)),
    acknowledged=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5)),
    position=st.integers(0, 5),
)
def test_every_member_is_done_waited_for_excepted_or_attested(
    members: list[str], presence: dict[str, Presence], acknowledged: dict[str, int], position: int
) -> None:
    """Nobody is left out: a member is in exactly one list unless it has acknowledged, or left."""
    state = progress(members, presence, acknowledged, position)
    owing = [member for member in members if acknowledged.get(member, -1) < position]
    for standing, named in (
        (Presence.HERE, state.unheard),
        (Presence.GONE, state.excepted),
        (Presence.ATTESTED, state.attested),
    ):
        assert list(named) == [member for member in owing if presence.get(member, Presence.HERE) is standing]
    assert state.is_waiting is bool(state.unheard)
    assert state.drained is not any(presence.get(m, Presence.HERE) in (Presence.HERE, Presence.GONE) for m in owing)


def test_later_acknowledgement_covers_earlier_kills_and_not_the_other_way_round() -> None:
    assert progress(["m-1"], {}, {"m-1": 2}, 1).drained
    assert not progress(["m-1"], {}, {"m-1": 1}, 2).drained


def test_admin_attests_and_a_guess_does_not() -> None:
    """A member that was only presumed gone may still run something (K1)."""
    assert not progress(["m-1"], {"m-1": Presence.GONE}, {}, 1).drained
    assert progress(["m-1"], {"m-1": Presence.ATTESTED}, {}, 1).drained
    assert progress(["m-1"], {"m-1": Presence.LEFT}, {}, 1).drained


# --- from one position to the next ----------------------------------------------------------------------------


class _Book:
    """A log's kills and releases, by the simplest code: what is in force is counted out anew each time."""

    def __init__(self, steps: list[tuple[Scope, str] | int]) -> None:
        self.kills: list[Kill] = []
        self.released: dict[KillId, int] = {}
        self.position = 0
        for step in steps:
            if not isinstance(step, int):
                self.position += 1
                kill = a_kill(*step, position=self.position, id=f"k-{self.position}")
                self.kills.append(kill)
            elif self.kills and self.kills[step % len(self.kills)].id not in self.released:
                self.position += 1
                self.released[self.kills[step % len(self.kills)].id] = self.position

    def state(self, at: int) -> KillState:
        there = (kill for kill in self.kills if kill.position <= at)
        return KillState(at, {kill.id: kill for kill in there if self.released.get(kill.id, at + 1) > at})

    def changes(self, since: int, upto: int) -> KillChanges:
        found = []
        for kill in self.kills:
            released = self.released.get(kill.id)
            released = released if released is not None and released <= upto else None
            if since < 0:
                is_in = kill.position <= upto and released is None
            else:
                is_in = since < kill.position <= upto or since < (released or 0)
            if is_in and kill.position <= upto:
                found.append(KillChange(kill, released))
        return KillChanges(since, upto, tuple(found))


STEPS = st.lists(
    st.sampled_from([(Scope.SESSION, "s-1"), (Scope.SESSION, "s-2"), (Scope.GLOBAL, "")]) | st.integers(0, 5),
    max_size=12,
)


@given(steps=STEPS, data=st.data())
def test_advancing_leads_to_what_the_log_has_in_force(
    steps: list[tuple[Scope, str] | int], data: st.DataObject
) -> None:
    """By any number of reads, whether they overlap or not."""
    book = _Book(steps)
    state = KillState(-1, {})
    for upto in [*data.draw(st.lists(st.integers(0, book.position), max_size=5)), book.position]:
        state = state.advanced(book.changes(data.draw(st.integers(-1, state.position)), upto))
        assert state == book.state(state.position)
        assert state.on == book.state(state.position).on
    assert state.position == book.position


@given(steps=STEPS, data=st.data())
def test_flag_change_makes_the_fast_path_the_same_as_the_whole_state(
    steps: list[tuple[Scope, str] | int], data: st.DataObject
) -> None:
    """Also where one of two kills on a scope is released: the scope stays dead, under the other's name."""
    book = _Book(steps)
    since = data.draw(st.integers(0, book.position))
    flags = book.state(since).flags()
    changes = book.changes(since, book.position)
    change = book.state(since).advanced(changes).flag_change(changes)
    assert (change.since, change.position) == (since, book.position)
    assert not change.dead.keys() & set(change.alive)
    flags = {name: kill for name, kill in (flags | dict(change.dead)).items() if name not in change.alive}
    assert flags == book.state(book.position).flags()


def test_state_does_not_go_back_and_does_not_jump_over_a_gap() -> None:
    kill = a_kill(position=3)
    state = KillState(3, {kill.id: kill})
    assert state.advanced(KillChanges(1, 2)) is state
    assert state.advanced(KillChanges(-1, 3)) is state
    assert state.advanced(KillChanges(3, 3)) is state
    assert state.advanced(KillChanges(4, 5, (KillChange(a_kill(target="s-2", position=5)),))) is state


def test_state_that_was_advanced_from_is_unchanged() -> None:
    """Others hold it: the fast path may be writing it down."""
    kill, other = a_kill(position=1), a_kill(target="s-2", position=2)
    before = KillState(1, {kill.id: kill})
    after = before.advanced(KillChanges(1, 3, (KillChange(other), KillChange(kill, 3))))
    assert (dict(before.active), before.flags()) == ({kill.id: kill}, {kill.flag: kill.id})
    assert dict(after.active) == {other.id: other}


def test_given_are_the_new_kills_also_those_that_were_released_since() -> None:
    old, short, new = (a_kill(target=f"s-{n}", position=n) for n in (1, 2, 4))
    changes = KillChanges(1, 5, (KillChange(new), KillChange(old, 5), KillChange(short, 3)))
    assert changes.given() == (short, new)


def test_one_more_kill_among_ten_thousand_touches_one_flag() -> None:
    many = {kill.id: kill for kill in (a_kill(target=f"s-{n}", position=n) for n in range(1, 10_001))}
    kill = a_kill(target="s-new", position=10_001)
    changes = KillChanges(10_000, 10_001, (KillChange(kill),))
    after = KillState(10_000, many).advanced(changes)
    assert len(after.active) == 10_001
    assert after.flag_change(changes) == FlagChange(10_000, 10_001, {kill.flag: kill.id})
    gone = KillChanges(10_001, 10_002, (KillChange(kill, 10_002),))
    assert after.advanced(gone).flag_change(gone) == FlagChange(10_001, 10_002, {}, (kill.flag,))


# --- who is heard ---------------------------------------------------------------------------------------------


def _heard(*looks: tuple[float, dict[str, int]]) -> Hearing:
    hearing = Hearing()
    for now_s, beats in looks:
        hearing.hear(beats, now_s)
    return hearing


def test_silence_counts_from_the_last_new_beat() -> None:
    hearing = _heard((0, {"a": 1, "b": 1}), (1, {"a": 2, "b": 1}), (2, {"a": 3, "b": 1}), (3, {"a": 3, "b": 2}))
    assert (hearing.silent_s("a"), hearing.silent_s("b")) == (1, 0)


def test_member_is_not_silent_before_anybody_has_listened() -> None:
    assert _heard((1000, {"a": 5})).silent_s("a") == 0
    assert _heard().silent_s("a") == 0
    assert _heard((0, {"a": 5})).silent_s("never-heard-of") == 0


def test_pause_of_the_listener_is_not_silence() -> None:
    """One that slept for an hour has heard nobody, and it was not their fault."""
    hearing = _heard((0, {"a": 1}), (1, {"a": 1}), (3601, {"a": 1}), (3602, {"a": 1}))
    assert hearing.silent_s("a") == 2
    assert _heard((10, {"a": 1}), (13, {"a": 1})).silent_s("a") == 3
    assert _heard((10, {"a": 1}), (5, {"a": 1})).silent_s("a") == 0, "nor is a clock that was set back"


def test_member_that_comes_back_or_starts_anew_is_heard() -> None:
    hearing = _heard((0, {"a": 9}), (2, {"a": 9}), (4, {"a": 1}))
    assert hearing.silent_s("a") == 0
    hearing = _heard((0, {"a": 9}), (2, {"a": 9}), (4, {}), (6, {"a": 9}))
    assert hearing.silent_s("a") == 0, "one that had left the list is new"


def test_silent_for_longer_names_those_alone() -> None:
    hearing = _heard(*((n, {"a": 1, "b": n}) for n in range(62)))
    assert hearing.silent_for(60) == ["a"]
    assert hearing.silent_for(61) == []


@given(
    looks=st.lists(
        st.tuples(st.floats(0, 10), st.dictionaries(st.sampled_from("ab"), st.integers(0, 3))), min_size=1, max_size=20
    )
)
def test_nobody_is_silent_for_longer_than_was_listened(looks: list[tuple[float, dict[str, int]]]) -> None:
    hearing, now_s, listened_s = Hearing(), 0.0, 0.0
    for number, (passed_s, beats) in enumerate(looks):
        now_s += passed_s
        hearing.hear(beats, now_s)
        listened_s += passed_s if number and passed_s <= Hearing.MOST_BETWEEN_S else 0
        assert all(hearing.silent_s(member) <= listened_s + 1e-6 for member in "ab")
        assert all(hearing.silent_s(member) == 0 for member in "ab" if member not in beats)


# --- the lease ------------------------------------------------------------------------------------------------


def test_lease_holds_from_the_asking_and_not_a_moment_longer() -> None:
    lease = Lease(3)
    assert not lease.holds(0), "nothing was ever heard"
    lease.renew(10)
    assert lease.holds(10)
    assert lease.holds(13)
    assert not lease.holds(13.001)


def test_answer_that_was_long_on_its_way_does_not_shorten_or_lengthen_a_lease() -> None:
    lease = Lease(3)
    lease.renew(10)
    lease.renew(8)
    assert lease.holds(13)
    assert not lease.holds(13.5)


def test_lease_does_not_hold_on_a_clock_that_went_back() -> None:
    lease = Lease(3)
    lease.renew(10)
    assert not lease.holds(9)


@given(asked=st.lists(st.floats(0, 1000)), now_s=st.floats(0, 1000))
def test_lease_holds_exactly_for_its_length_after_the_latest_asking(asked: list[float], now_s: float) -> None:
    lease = Lease(3)
    for asked_at_s in asked:
        lease.renew(asked_at_s)
    assert lease.holds(now_s) is (bool(asked) and 0 <= now_s - max(asked) <= 3)


# --- a release by several -------------------------------------------------------------------------------------


@given(asked_by=st.lists(st.sampled_from(["person:a", "person:b", "person:c"])), quorum=st.integers(1, 3))
def test_release_needs_as_many_different_persons(asked_by: list[str], quorum: int) -> None:
    assert may_release(asked_by, quorum) is (len({*asked_by}) >= quorum)


def test_kill_knows_its_flag() -> None:
    assert a_kill(Scope.TOOL, "db_query").flag in flags_over(a_call(tool=TOOL))
    assert KillId("k") == "k"
