"""An approval carries one call of one principal under one policy until its time is over (A26, A28, A64)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.approval import Approval, ApprovalId, State, carries, from_row
from agentgate.core.call import Digest
from agentgate.core.event import rfc3339
from tests.core.strategies import OBJECTS
from tests.fakes import REVISION, a_call, principal

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


def test_row_gives_the_approval_back() -> None:
    row = {name: getattr(YES, name) for name in Approval.__slots__}
    row |= {"approvers": "[]", "executes": 0}
    row |= {"requested_at": rfc3339(YES.requested_at), "expires_at": rfc3339(YES.expires_at), "state": "approved"}
    assert from_row(row) == YES
