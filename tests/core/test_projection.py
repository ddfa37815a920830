"""What each event changes in the derived tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.approval import State, from_row
from agentgate.core.call import Access
from agentgate.core.containment import Scope, kill_change_from_row, kill_from_row
from agentgate.core.event import Event, Kind, make
from agentgate.core.events.kills import drained
from agentgate.core.members import Presence, Progress, presence
from agentgate.core.pin import PinState, Unpinned, pin_from_row
from agentgate.core.projection.effects import effects
from agentgate.core.projection.spendings import spendings
from agentgate.core.projection.tables import KEYS, Tables
from agentgate.core.retention import Hold, hold_from_row
from tests.contracts.bodies import Historian
from tests.contracts.log import READ, Author, a_kill, subject_of

AUTHOR = Author()
HISTORIAN = Historian()


WHOLE = AUTHOR.drained(a_kill())
EXCEPT_ONE = drained(AUTHOR.origin(), a_kill(), position=1, members=["m-1"], progress=Progress((), ("m-1",), ()))


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


def closed(closes: str) -> Event:
    return make(AUTHOR.origin(), Kind.APPROVAL_CLOSED, {"approval_id": "a-1", "state": "void", "closes": closes})


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
        (AUTHOR.left(), ()),
        (AUTHOR.acked(1), ()),
        (AUTHOR.gone("m-2"), (("gone", "m-2/presumed"),)),
        (AUTHOR.gone("m-2", "attested"), (("gone", "m-2/attested"),)),
        (AUTHOR.release_asked(a_kill("k-1"), "person:a"), (("release_ask", "k-1/person:a"),)),
        (AUTHOR.drained(a_kill("k-1")), (("receipt", "k-1/complete"),)),
        (EXCEPT_ONE, (("receipt", "k-1/except"),)),
        (HISTORIAN.held("h-1"), (("hold", "h-1"),)),
        (HISTORIAN.unheld("h-1"), (("unhold", "h-1"),)),
        (HISTORIAN.pruned("s-1", 7), (("prune", "acme/s-1/7"),)),
        (AUTHOR.accepted("p-1"), ()),
        (AUTHOR.accepted("p-1", trust="first_use"), (("first_use", "files/read"),)),
        (AUTHOR.quarantined("p-1", "p-2", 5), (("quarantine", "5/p-2"),)),
        (AUTHOR.rejected("p-1"), ()),
        (AUTHOR.vote("a-1", 1, "person:a"), (("vote", "a-1/person:a"), ("vote", "a-1#1"))),
        (AUTHOR.vote("a-1", 2, "person:a"), (("vote", "a-1/person:a"), ("vote", "a-1#2"), ("verdict", "a-1"))),
        (AUTHOR.answered("k-1"), ()),
        (AUTHOR.answered("k-1", of="m-2"), (("outcome", "trace-k-1"),)),
        (AUTHOR.closed("a-1"), ()),
        (closed("pending"), (("verdict", "a-1"), ("approval", "a-1"))),
        (closed("approved"), (("approval", "a-1"),)),
        (AUTHOR.answers_closed(3), ()),
        (AUTHOR.keys_changed("ab"), (("keys", "ab"),)),
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


@pytest.mark.parametrize("expires_at", [None, datetime(2026, 11, 22, 9, 0, 0, 7, UTC)])
def test_of_its_row_a_kill_is_what_it_was(expires_at: datetime | None) -> None:
    kill = replace(a_kill(), expires_at=expires_at)
    given = AUTHOR.kill(kill)
    row = only(tables_after(given), "kills")
    assert kill_from_row(row) == replace(kill, position=1, since=datetime.fromisoformat(given.at))
    assert kill_from_row(row | {"reason": None}).reason == ""


def test_a_kill_that_went_on_without_a_member_is_not_drained() -> None:
    row = only(tables_after(AUTHOR.kill(a_kill()), EXCEPT_ONE), "kills")
    assert (row["drained"], row["receipt"]) == (0, EXCEPT_ONE.id)


def test_a_kill_that_went_on_without_a_member_is_drained_by_its_second_receipt() -> None:
    row = only(tables_after(AUTHOR.kill(a_kill()), EXCEPT_ONE, WHOLE), "kills")
    assert (row["drained"], row["receipt"]) == (1, WHOLE.id)


def test_a_receipt_that_comes_late_does_not_undo_a_whole_one() -> None:
    """Two members look at the same time; one of them has seen the last acknowledgement, the other has not."""
    assert only(tables_after(AUTHOR.kill(a_kill()), WHOLE, EXCEPT_ONE), "kills")["drained"] == 1


def test_members_join_and_leave_and_never_come_back_under_the_same_name() -> None:
    one, two = Author("m-1"), Author("m-2")
    tables = tables_after(one.joined(), two.joined(), two.left(of="m-1"), two.left())
    assert [row["left_idx"] for row in tables.rows["members"].values()] == [2, 3]
    again = only(tables_after(one.joined(), one.left(), one.joined()), "members")
    assert (again["joined_idx"], presence(again)) == (0, Presence.LEFT)


@pytest.mark.parametrize(
    ("events", "standing"),
    [
        ([], Presence.HERE),
        ([AUTHOR.gone("m-2")], Presence.GONE),
        ([AUTHOR.gone("m-2", "attested")], Presence.ATTESTED),
        ([AUTHOR.gone("m-2"), AUTHOR.gone("m-2", "attested")], Presence.ATTESTED),
        ([AUTHOR.gone("m-2"), AUTHOR.left("m-2")], Presence.LEFT),
        ([AUTHOR.gone("m-2", "attested"), AUTHOR.left("m-2")], Presence.LEFT),
        ([AUTHOR.gone("m-3"), AUTHOR.left("m-3")], Presence.HERE),
    ],
)
def test_what_the_log_says_of_a_member(events: list[Event], standing: Presence) -> None:
    assert presence(only(tables_after(Author("m-2").joined(), *events), "members")) is standing


def test_who_asked_for_a_release_is_kept_once_for_each_person() -> None:
    asked = [AUTHOR.release_asked(a_kill(), by) for by in ("person:a", "person:b", "person:a")]
    rows = tables_after(*asked).rows["release_asks"].values()
    assert [(row["kill_id"], row["person"], row["idx"]) for row in rows] == [
        ("k-1", "person:a", 0),
        ("k-1", "person:b", 1),
    ]


def test_a_change_says_whether_its_kill_is_still_in_force() -> None:
    tables = tables_after(AUTHOR.kill(a_kill("k-1")), AUTHOR.kill(a_kill("k-2")), AUTHOR.release(a_kill("k-1")))
    changes = [kill_change_from_row(row) for row in tables.rows["kills"].values()]
    assert [(change.kill.id, change.kill.position, change.released_at) for change in changes] == [
        ("k-1", 1, 3),
        ("k-2", 2, None),
    ]


def test_a_hold_keeps_its_reason_and_its_release() -> None:
    held = HISTORIAN.held("h-1", "acme", "s-1")
    row = only(tables_after(held, AUTHOR.decided(), HISTORIAN.unheld("h-1")), "holds")
    hold = hold_from_row(row)
    assert hold == Hold("h-1", "acme", "s-1", "person:a", held.at, "a lawsuit", is_released=True)
    assert hold_from_row(row | {"reason": None, "released_idx": None}) == replace(hold, reason="", is_released=False)
    assert (row["idx"], row["released_idx"]) == (0, 2)


@pytest.mark.parametrize(
    ("events", "state", "pins", "unpinned"),
    [
        ([], PinState.ACCEPTED, ("p-1", ""), None),
        ([AUTHOR.quarantined("p-1", "p-2", 0)], PinState.QUARANTINED, ("p-1", "p-2"), None),
        ([AUTHOR.quarantined("p-0", "p-1", 0)], PinState.ACCEPTED, ("p-1", "p-1"), None),
        *[([AUTHOR.unpinned("p-1", why, 0)], PinState.QUARANTINED, ("p-1", ""), why) for why in Unpinned],
        ([AUTHOR.rejected("p-2")], PinState.REJECTED, ("p-1", "p-2"), None),
        ([AUTHOR.rejected("p-1")], PinState.REJECTED, ("p-1", "p-1"), None),
    ],
)
def test_a_pin_says_what_was_accepted_and_what_was_found_since(
    events: list[Event], state: PinState, pins: tuple[str, str], unpinned: Unpinned | None
) -> None:
    """Who found another description may not have heard that it was accepted meanwhile: then nothing is wrong."""
    accepted = AUTHOR.accepted("p-1", access="read")
    pin = pin_from_row(only(tables_after(accepted, *events), "pins"))
    assert (pin.server, pin.tool, pin.name, pin.access) == ("files", "read", READ.name, Access.READ)
    assert (pin.state, (pin.sha256, pin.found_sha256), pin.unpinned) == (state, pins, unpinned)
    assert (pin.subject, pin.definition) == (orjson.loads(subject_of("p-1")), orjson.loads(subject_of("p-1"))["tool"])
    found = orjson.loads(subject_of(pins[1])) if pins[1] else None
    assert pin.found == found
    by = accepted if state is not PinState.REJECTED else events[-1]
    assert (pin.by, pin.at, pin.trust, pin.index) == ("person:op", by.at, "operator", int(by is not accepted))


def test_of_a_tool_that_was_only_rejected_nothing_is_accepted_and_it_counts_as_one_that_writes() -> None:
    pin = pin_from_row(only(tables_after(AUTHOR.rejected("p-2")), "pins"))
    assert (pin.state, pin.sha256, pin.subject, pin.definition) == (PinState.REJECTED, "", None, {})
    assert (pin.access, pin.trust) == (Access.WRITE, "")


def test_the_last_prune_of_a_session_says_how_far_it_went() -> None:
    tables = tables_after(HISTORIAN.pruned("s-1", 3), HISTORIAN.pruned("s-2", 4), HISTORIAN.pruned("s-1", 9))
    assert [(row["session"], row["through"], row["idx"]) for row in tables.rows["prunes"].values()] == [
        ("s-1", 9, 2),
        ("s-2", 4, 1),
    ]


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


def test_an_edited_call_stands_where_the_one_did_that_was_asked_about_first() -> None:
    """So a kill in between counts for it as well."""
    edited = AUTHOR.requested("a-2", edited_from="a-1", position=0)
    tables = tables_after(AUTHOR.requested("a-1"), AUTHOR.kill(a_kill()), edited, AUTHOR.requested("a-3"))
    assert [row["position"] for row in tables.rows["approvals"].values()] == [0, 0, 1]


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
        AUTHOR.gone("m-1"),
        AUTHOR.release_asked(a_kill(), "person:a"),
        AUTHOR.accepted("p-1"),
        AUTHOR.accepted("p-2", trust="first_use"),
        AUTHOR.quarantined("p-1", "p-2", 0),
        AUTHOR.rejected("p-2"),
    ]
)


@given(events=st.lists(SOME, max_size=20))
def test_every_row_is_under_its_key_and_has_the_tables_columns(events: list[Event]) -> None:
    for name, rows in tables_after(*events).rows.items():
        assert all(key == tuple(row[column] for column in KEYS[name]) for key, row in rows.items())
        assert len({frozenset(row) for row in rows.values()}) <= 1


# --- answers and votes ------------------------------------------------------------------------------------


def test_the_first_answer_under_a_key_stays() -> None:
    row = only(tables_after(AUTHOR.answered("k-1", of="m-2"), AUTHOR.answered("k-1")), "answers")
    assert (row["outcome"], row["sealed"], row["idx"]) == ("unknown", None, 0)


def test_who_closes_anothers_call_seals_no_answer() -> None:
    assert only(tables_after(AUTHOR.answered("k-1", b"forged", of="m-2")), "answers")["sealed"] is None


def test_answers_are_dropped_up_to_an_index() -> None:
    tables = tables_after(*(AUTHOR.answered(f"k-{n}") for n in range(3)), AUTHOR.answers_closed(1))
    assert set(tables.rows["answers"]) == {("k-2",)}


def test_votes_are_counted_until_the_last_one_approves() -> None:
    asked, first, second = AUTHOR.requested("a-1"), AUTHOR.vote("a-1", 1, "person:a"), AUTHOR.vote("a-1", 2, "person:b")
    row = only(tables_after(asked, first), "approvals")
    assert (row["state"], row["votes"], row["decided_by"]) == ("pending", 1, None)
    tables = tables_after(asked, first, second)
    row = only(tables, "approvals")
    assert (row["state"], row["votes"], row["decided_by"]) == ("approved", 2, "person:b")
    assert list(tables.rows["votes"]) == [("a-1", "person:a"), ("a-1", "person:b")]
