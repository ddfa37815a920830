"""An approval carries one call of one principal under one policy until its time is over (A26, A28, A64)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.approval import Approval, ApprovalId, State, Void, Why, carries, from_row, may_not_answer
from agentgate.core.call import Digest, Principal, PrincipalKind, Role
from agentgate.core.containment import Scope
from agentgate.core.decision import Terms
from agentgate.core.event import rfc3339
from tests.core.strategies import OBJECTS
from tests.fakes import REVISION, a_call, a_kill, principal

NOW = datetime(2026, 11, 21, tzinfo=UTC)
CALL = a_call(arguments={"table": "orders"})
YES = Approval(
    id=ApprovalId("apr-1"),
    tenant="default",
    session="s-1",
    requested_by="agent:bot",
    tool="db_query",
    digest=CALL.digest,
    policy_revision=REVISION,
    requested_at=NOW,
    expires_at=NOW + timedelta(seconds=900),
    state=State.APPROVED,
    decided_by="person:alice",
)


def _carries(approval: Approval = YES, **changes: Any) -> bool:
    about = {"call": CALL, "revision": REVISION, "now": NOW, **changes}
    return carries(approval, about["call"], revision=about["revision"], now=about["now"])


def test_yes_carries_its_call() -> None:
    assert _carries()


@pytest.mark.parametrize("state", [state for state in State if state is not State.APPROVED])
def test_only_a_yes_carries(state: State) -> None:
    assert not _carries(replace(YES, state=state))


def test_yes_does_not_carry_another_policy() -> None:
    assert not _carries(revision="sha256:another")


def test_yes_does_not_carry_the_call_of_another_principal_or_tenant() -> None:
    assert not _carries(call=a_call(arguments={"table": "orders"}, caller=principal("thief")))
    assert not _carries(replace(YES, requested_by="person:bot"))
    assert not _carries(replace(YES, tenant="other"))


@given(OBJECTS)
def test_yes_carries_no_other_arguments(arguments: dict[str, Any]) -> None:
    assert _carries(call=a_call(arguments=arguments)) is (arguments == {"table": "orders"})


@given(st.integers(0, 63), st.sampled_from("0123456789abcdef"))
def test_yes_carries_no_other_digest(place: int, digit: str) -> None:
    digest = Digest(CALL.digest[:place] + digit + CALL.digest[place + 1 :])
    assert _carries(replace(YES, digest=digest)) is (digest == CALL.digest)


@given(st.integers(-2_000_000_000, 2_000_000_000))
def test_yes_ends_at_its_time_to_the_microsecond(microseconds: int) -> None:
    now = YES.expires_at + timedelta(microseconds=microseconds)
    assert _carries(now=now) is (microseconds < 0)


@pytest.mark.parametrize("state", [State.PENDING, State.APPROVED, State.DENIED])
def test_open_state_expires(state: State) -> None:
    approval = replace(YES, state=state)
    assert approval.state_at(NOW) is state
    assert approval.state_at(YES.expires_at) is State.EXPIRED


@pytest.mark.parametrize("state", [State.SPENT, State.VOID])
def test_final_state_stays(state: State) -> None:
    assert replace(YES, state=state).state_at(YES.expires_at + timedelta(days=1)) is state


def test_of_a_void_one_is_said_what_made_it_so() -> None:
    withdrawn = replace(YES, state=State.VOID, why=Why.WITHDRAWN)
    assert withdrawn.said_to_be(State.VOID) == f"the approval is void: {withdrawn.closed_because}"
    assert withdrawn.said_to_be(State.SPENT) == "the approval is spent"


def test_row_gives_the_approval_back() -> None:
    row = {name: getattr(YES, name) for name in Approval.__slots__}
    row |= {"approvers": "[]", "executes": 0}
    row |= {"requested_at": rfc3339(YES.requested_at), "expires_at": rfc3339(YES.expires_at), "state": "approved"}
    assert from_row(row) == YES
    whole = replace(
        YES, token_sha256="f" * 64, sealed=b"sealed", trace_id="t-1", quorum=2, approvers=("person:a",), votes=1,
        on_behalf_of="alice", server="demo", tool_sha256="d" * 64, position=7, idx=9, edited_from="e" * 64,
        edited_to="apr-2", executes=True, why="edited",
    )  # fmt: skip
    row |= {name: getattr(whole, name) for name in Approval.__slots__ if getattr(whole, name) != getattr(YES, name)}
    assert from_row({**row, "approvers": '["person:a"]', "executes": 1}) == whole


ALICE = principal("alice", Role.APPROVER, person=True)


@pytest.mark.parametrize(
    ("approval", "person", "why_not"),
    [
        (YES, ALICE, None),
        (replace(YES, approvers=("person:bob", "person:alice")), ALICE, None),
        (replace(YES, on_behalf_of="bob"), ALICE, None),
        (YES, replace(ALICE, kind=PrincipalKind.AGENT), "an approval is given by a person with the role approver"),
        (YES, replace(ALICE, roles=frozenset()), "an approval is given by a person with the role approver"),
        (replace(YES, requested_by="person:alice"), ALICE, "nobody approves a call of their own"),
        (replace(YES, on_behalf_of="alice"), ALICE, "nobody approves a call that is made for them"),
        (replace(YES, on_behalf_of="person:alice"), ALICE, "nobody approves a call that is made for them"),
        (replace(YES, approvers=("person:bob",)), ALICE, "policy names who may approve this call"),
    ],
)
def test_who_may_not_answer_is_told_why(approval: Approval, person: Principal, why_not: str | None) -> None:
    assert may_not_answer(approval, person) == why_not


@pytest.mark.parametrize(
    ("own", "wanted", "is_enough"),
    [
        (Terms(1), Terms(1), True),
        (Terms(2), Terms(1), True),
        (Terms(1), Terms(2), False),
        (Terms(1, ("person:a",)), Terms(1), True),
        (Terms(1), Terms(1, ("person:a",)), False),
        (Terms(1, ("person:a",)), Terms(1, ("person:a",)), True),
        (Terms(1, ("person:a",)), Terms(1, ("person:a", "person:b")), True),
        (Terms(1, ("person:a", "person:b")), Terms(1, ("person:a",)), False),
    ],
)
def test_yes_counts_under_terms_that_are_no_stricter(own: Terms, wanted: Terms, is_enough: bool) -> None:
    assert replace(YES, quorum=own.quorum, approvers=own.approvers).is_as_strict_as(wanted) is is_enough


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        (Scope.GLOBAL, ""),
        (Scope.TENANT, "default"),
        (Scope.TOOL, "db_query"),
        (Scope.SERVER, "demo"),
        (Scope.AGENT, "team:bot"),
        (Scope.SESSION, "s-1"),
    ],
)
def test_later_kill_of_any_scope_makes_it_void_and_no_other_does(scope: Scope, target: str) -> None:
    asked = replace(YES, requested_by="agent:team:bot", server="demo", position=7)
    kill, elsewhere = a_kill(scope, target, position=8), a_kill(Scope.SESSION, "s-2", position=9)
    assert asked.killed_by([elsewhere, kill]) == Void(Why.KILLED, kill.id)
    assert asked.killed_by([elsewhere, replace(kill, position=7)]) is None
