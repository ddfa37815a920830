"""What a kill covers, and when it is drained."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.call import Access, Call, Tool, ToolName
from agentgate.core.containment import Kill, KillId, KillState, Scope, covering, flag, flags_over, unheard
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
    assert (covering([kill], call) is kill) is _covers(kill, call)


@given(st.lists(kills(), max_size=6), calls())
def test_covering_finds_a_kill_if_there_is_one(some: list[Kill], call: Call) -> None:
    assert (covering(some, call) is not None) is any(_covers(kill, call) for kill in some)


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
    assert (
        covering([a_kill(Scope.SESSION, "s-1"), a_kill(Scope.AGENT, "bot"), a_kill(Scope.TENANT, "default")], call)
        is None
    )


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
    assert not one.same_order(replace(later, expires_at=later.since + 2 * hour))
    assert not one.same_order(replace(one, expires_at=None))


@given(
    members=st.lists(st.sampled_from("abcdef"), unique=True),
    acknowledged=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5)),
    position=st.integers(0, 5),
)
def test_unheard_are_the_members_without_a_recent_enough_acknowledgement(
    members: list[str], acknowledged: dict[str, int], position: int
) -> None:
    waiting = unheard(members, acknowledged, position)
    assert all((member in waiting) is (acknowledged.get(member, -1) < position) for member in members)
    assert set(waiting) <= set(members)


def test_kill_knows_its_flag() -> None:
    assert a_kill(Scope.TOOL, "db_query").flag in flags_over(a_call(tool=TOOL))
    assert KillId("k") == "k"
