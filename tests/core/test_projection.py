"""What each event changes in the derived tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.approval import State, from_row
from agentgate.core.containment import Scope
from agentgate.core.event import Event, Kind
from agentgate.core.projection import KEYS, Tables, effects, kill_from_row, spendings
from tests.contracts.log import Author, a_kill

AUTHOR = Author()


def tables_after(*events: Event) -> Tables:
    """The derived tables after these events, numbered as a log would."""
    tables = Tables()
    position = 0
    for index, event in enumerate(events):
        position += event.kind in (Kind.KILLED, Kind.RELEASED)
        tables.apply(effects(event.fields, index, position, event.body, event.projected))
    return tables


def only(tables: Tables, name: str) -> dict[str, Any]:
    (row,) = tables.rows[name].values()
    return row


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (AUTHOR.decided(), ()),
        (AUTHOR.decided(approval_id="a-1"), (("approval", "a-1"),)),
        (AUTHOR.decided(approval_id="a-1", verdict="DENY"), ()),
        (AUTHOR.decided(approval_id="a-1", verdict="REQUIRE_APPROVAL"), ()),
        (AUTHOR.decided(idempotency_sha256="ab", approval_id="a-1"), (("idempotency", "ab"), ("approval", "a-1"))),
        (AUTHOR.finished("t"), ()),
        (AUTHOR.verdict("a-1"), (("verdict", "a-1"),)),
        (AUTHOR.kill(a_kill("k-1")), (("kill", "k-1"),)),
        (AUTHOR.release(a_kill("k-1")), (("release", "k-1"),)),
        (AUTHOR.joined(), ()),
    ],
)
def test_what_an_event_spends_is_in_its_leaf(event: Event, expected: tuple[tuple[str, str], ...]) -> None:
    assert spendings(event.fields) == expected
    spent = tables_after(event).rows["spent"]
    assert set(spent) == set(expected)


def test_a_session_belongs_to_the_first_decision() -> None:
    tables = tables_after(AUTHOR.decided("s-1", by="agent:one"), AUTHOR.decided("s-1", by="agent:two", verdict="DENY"))
    assert only(tables, "sessions")["principal"] == "agent:one"


def test_a_kill_keeps_its_reason_and_its_release() -> None:
    tables = tables_after(AUTHOR.kill(a_kill()), AUTHOR.drained(a_kill()), AUTHOR.release(a_kill()))
    row = only(tables, "kills")
    assert (row["position"], row["released_position"], row["drained"]) == (1, 2, 1)
    kill = kill_from_row(row)
    assert (kill.scope, kill.tenant, kill.target, kill.actor) == (Scope.SESSION, "acme", "s-1", "person:op")
    assert kill.same_order(a_kill())


def test_a_kill_that_went_on_without_a_member_is_not_drained() -> None:
    assert only(tables_after(AUTHOR.kill(a_kill()), AUTHOR.drained(a_kill(), complete=False)), "kills")["drained"] == 0


def test_members_join_leave_and_join_anew() -> None:
    one, two = Author("m-1"), Author("m-2")
    tables = tables_after(one.joined(), two.joined(), two.left(of="m-1"), two.left())
    assert [row["left_idx"] for row in tables.rows["members"].values()] == [2, 3]
    tables = tables_after(one.joined(), one.left(), one.joined())
    assert only(tables, "members") == {"member": "m-1", "joined_idx": 2, "left_idx": None}


def test_the_first_acknowledgement_of_a_position_stands() -> None:
    row = only(tables_after(AUTHOR.acked(3), AUTHOR.acked(3)), "acks")
    assert (row["member"], row["position"], row["cancelled"], row["idx"]) == ("m-1", 3, 2, 0)


@pytest.mark.parametrize(
    ("events", "state", "is_sealed"),
    [
        ([], State.PENDING, True),
        ([AUTHOR.verdict("a-1")], State.APPROVED, True),
        ([AUTHOR.verdict("a-1", "denied")], State.DENIED, False),
        ([AUTHOR.verdict("a-1"), AUTHOR.decided(approval_id="a-1")], State.SPENT, False),
        ([AUTHOR.closed("a-1")], State.EXPIRED, False),
        ([AUTHOR.verdict("a-1"), AUTHOR.closed("a-1", "void")], State.VOID, False),
        ([AUTHOR.closed("a-1"), AUTHOR.verdict("a-1")], State.EXPIRED, False),
        ([AUTHOR.verdict("a-1"), AUTHOR.decided(approval_id="a-1"), AUTHOR.closed("a-1")], State.SPENT, False),
        ([AUTHOR.decided(approval_id="a-1", verdict="REQUIRE_APPROVAL")], State.PENDING, True),
    ],
)
def test_an_approval_keeps_its_sealed_arguments_while_it_can_still_be_used(
    events: list[Event], state: State, is_sealed: bool
) -> None:
    row = only(tables_after(AUTHOR.requested("a-1"), *events), "approvals")
    assert from_row(row).state is state
    assert (row["sealed"] is not None) is is_sealed


def test_what_is_about_nothing_known_changes_nothing() -> None:
    tables = tables_after(AUTHOR.verdict("a-9"), AUTHOR.closed("a-9"), AUTHOR.left(), AUTHOR.drained(a_kill("k-9")))
    assert [name for name, rows in tables.rows.items() if rows] == ["spent"]


SOME = st.sampled_from(
    [
        AUTHOR.joined(),
        AUTHOR.left(),
        AUTHOR.decided(),
        AUTHOR.decided(approval_id="a-1"),
        AUTHOR.finished("t"),
        AUTHOR.requested("a-1"),
        AUTHOR.verdict("a-1"),
        AUTHOR.closed("a-1"),
        AUTHOR.kill(a_kill()),
        AUTHOR.release(a_kill()),
        AUTHOR.acked(1),
        AUTHOR.drained(a_kill()),
    ]
)


@given(events=st.lists(SOME, max_size=20))
def test_every_row_is_under_its_key_and_has_the_tables_columns(events: list[Event]) -> None:
    for name, rows in tables_after(*events).rows.items():
        assert all(key == tuple(row[column] for column in KEYS[name]) for key, row in rows.items())
        assert len({frozenset(row) for row in rows.values()}) <= 1
