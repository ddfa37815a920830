"""Events of a pack against each other: which row of them is whole, and what is said of one that is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.event import Kind, body_sha256
from agentgate.core.evidence.pack import SECTIONS
from agentgate.core.merkle import leaf_hash
from agentgate.core.strict_json import canonical, parse
from agentgate.core.verification import body as verify_body
from agentgate.core.verification.body import Leaf
from agentgate.core.verification.findings import Fault, Finding, Standing
from tests.core.test_verify import PACK

BODY: dict[str, Any] = parse(PACK.files["pack.json"])
SESSION = {"tenant": "default", "session": "s-1"}
LATE = SESSION | {"since": "2026-11-21T00:00:00.000000Z"}
EARLY = SESSION | {"until": "2026-11-21T00:00:00.000000Z"}
TENANT = {"tenant": "default"}
BOT = {"tenant": "default", "agent": "agent:bot"}


def leaf(number: int, kind: Kind = Kind.DECIDED, *, at: int | None = None, name: str = "", **fields: Any) -> Leaf:
    """Event `e<number>` at index ten times that."""
    said = {"id": name or f"e{number}", "kind": kind.value, "tenant": "default", "session": "s-1"} | fields
    return Leaf(10 * number if at is None else at, number, b"", None, said)


def act(number: int, **fields: Any) -> Leaf:
    """One that may be there from before or after a time range."""
    return leaf(number, Kind.KILLED, **fields)


def check(scope: dict[str, str], leaves: list[Leaf], count: object = None) -> Finding:
    count = len(leaves) if count is None else count
    return verify_body.events({"metadata": {"scope": scope}, "integrity": {"event_count": count}}, leaves)


@pytest.mark.parametrize(
    ("scope", "leaves"),
    [
        (SESSION, []),
        (SESSION, [leaf(1), leaf(2), act(3)]),
        (SESSION, [leaf(1), act(0, session="", tenant="", at=11), act(7, session="s-2", at=12), leaf(2)]),
        (LATE, [leaf(5), leaf(6)]),
        (LATE, [act(2), leaf(5), leaf(6), act(9)]),
        (EARLY, [leaf(1), leaf(2), act(9)]),
        (LATE, [act(9)]),
        (TENANT, [leaf(1), leaf(1, name="x", session="s-2", at=11), leaf(2), leaf(2, name="y", session="s-2", at=21)]),
        (BOT, [leaf(1, principal="agent:bot"), leaf(17, session="s-9", principal="agent:bot", decision="DENY")]),
        (BOT, [leaf(1, principal="agent:bot"), leaf(17, session="s-9", principal="agent:eve", decision="ALLOW")]),
    ],
)
def test_a_row_without_a_gap_is_whole(scope: dict[str, str], leaves: list[Leaf]) -> None:
    found = check(scope, leaves)
    assert (found.fault, found.detail) == (
        None,
        f"{len(leaves)} leaves have their hashes, in the log's order, numbered without a gap",
    )


@pytest.mark.parametrize(
    ("scope", "leaves", "fault", "told"),
    [
        (SESSION, [leaf(1), leaf(2, at=30), leaf(3, at=40, name="e1")], Fault.INSERTED,
         "event e1 is there twice: one of them was put in"),
        (SESSION, [leaf(1), leaf(2, at=10)], Fault.INSERTED, "event e2 has the index 10 of the one before it"),
        (SESSION, [leaf(1), leaf(2, at=0)], Fault.REORDERED, "event e2 stands behind one with a larger index"),
        (SESSION, [leaf(1), leaf(2, session="s-2")], Fault.INSERTED,
         "event e2 is of session s-2 of default, and the pack is not"),
        (TENANT, [leaf(1, tenant="other")], Fault.INSERTED, "event e1 is of session s-1 of other, and the pack is not"),
        (TENANT, [leaf(1), act(2, tenant="other")], Fault.INSERTED,
         "event e2 is of session s-1 of other, and the pack is not"),
        (SESSION, [leaf(1), leaf(2), leaf(2, at=30, name="x")], Fault.REORDERED,
         "event x is number 2 of its session, and stands behind number 2"),
        (SESSION, [leaf(1), leaf(3), leaf(2, at=40)], Fault.REORDERED,
         "event e3 stands before number 2 of its session"),
        (SESSION, [leaf(2)], Fault.REMOVED, "number 1 of session s-1 was removed: event e2 is number 2"),
        (SESSION, [leaf(1), leaf(2), leaf(5)], Fault.REMOVED,
         "number 3 of session s-1 was removed: event e5 is number 5"),
        (SESSION, [leaf(1), act(0, session="", tenant="", at=11), leaf(3)], Fault.REMOVED,
         "number 2 of session s-1 was removed: event e3 is number 3"),
        (SESSION, [act(0)], Fault.REORDERED, "event e0 is number 0 of its session, and stands behind number 0"),
        (LATE, [leaf(5), leaf(7)], Fault.REMOVED, "number 6 of session s-1 was removed: event e7 is number 7"),
        (EARLY, [leaf(1), leaf(3)], Fault.REMOVED, "number 2 of session s-1 was removed: event e3 is number 3"),
        (LATE, [leaf(5), act(7), leaf(8)], Fault.REMOVED, "number 6 of session s-1 was removed: event e7 is number 7"),
        (TENANT, [leaf(1), leaf(2, session="s-2")], Fault.REMOVED,
         "number 1 of session s-2 was removed: event e2 is number 2"),
        (BOT, [leaf(1, principal="agent:bot", decision="DENY"), leaf(3)], Fault.REMOVED,
         "number 2 of session s-1 was removed: event e3 is number 3"),
        (BOT, [leaf(2, principal="agent:bot", decision="ALLOW")], Fault.REMOVED,
         "number 1 of session s-1 was removed: event e2 is number 2"),
    ],
)  # fmt: skip
def test_of_a_row_that_is_not_whole_the_first_flaw_is_told(
    scope: dict[str, str], leaves: list[Leaf], fault: Fault, told: str
) -> None:
    found = check(scope, leaves)
    assert (found.check, found.fault, found.detail) == ("events", fault, told)


@pytest.mark.parametrize(
    ("count", "fault", "told"),
    [
        (4, Fault.TRUNCATED, "the pack was of 4 events, and the last 2 are gone"),
        (1, Fault.INSERTED, "there are 2 events, and the pack says 1"),
        ("9", Fault.INSERTED, "there are 2 events, and the pack says 9"),
    ],
)
def test_events_are_as_many_as_the_pack_says(count: object, fault: Fault, told: str) -> None:
    found = check(SESSION, [leaf(1), leaf(2)], count)
    assert (found.check, found.fault, found.detail) == ("events", fault, told)


# --- bodies that are not there ----------------------------------------------------------------------------

SALT = bytes(16)


def prune(number: int, through: object, kind: Kind = Kind.PRUNED, **fields: str) -> Leaf:
    """One whose own body, `{}`, is there."""
    told = leaf(number, kind, through=through, body_sha256=body_sha256(SALT, b"{}"), **fields)
    return replace(told, salt=SALT)


@pytest.mark.parametrize(
    ("leaves", "count", "missing"),
    [
        ([leaf(1), leaf(2), prune(3, 20)], 0, 0),
        ([leaf(1), leaf(2), prune(3, 20), prune(4, 10)], 0, 0),  # a later one takes nothing back
        ([leaf(1), leaf(2), prune(3, 19)], 1, 20),
        ([leaf(0), leaf(1, at=1), prune(3, 0)], 1, 1),
        ([leaf(1), prune(2, 1000), leaf(3)], 1, 30),  # none speaks of what comes later
        ([leaf(1), prune(2, 10, session="s-2")], 1, 10),
        ([leaf(1), prune(2, 10, Kind.REFUSALS)], 1, 10),
        ([leaf(1), prune(2, "10")], 1, 10),
        ([leaf(0), leaf(1, at=1)], 2, 0),
    ],
)
def test_a_body_that_is_gone_is_explained_by_a_prune_of_its_session_up_to_there(
    leaves: list[Leaf], count: int, missing: int
) -> None:
    there = {one.index: b"{}" for one in leaves if one.salt is not None}
    (found,) = verify_body.bodies(leaves, there)
    gone = f"{count} bodies are not there, and no prune in the pack says why, first that of event {missing}"
    bound = f"{len(there)} bodies are the ones that their leaves bind"
    assert (found.standing, found.detail) == ((Standing.NOT_CHECKED, gone) if count else (Standing.HOLDS, bound))


# --- each event by itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "at", "kind", "body_sha256", "tenant", "session"])
@pytest.mark.parametrize("value", [7, None, [], "x"])
def test_a_leaf_that_no_gateway_has_written_is_none(name: str, value: object) -> None:
    """Its hash was put right: then it is the leaf that has to be read."""
    body = copy.deepcopy(BODY)
    event = body["integrity"]["events"][0]
    event["leaf"] = canonical(parse(event["leaf"].encode()) | {name: value}).decode()
    event["leaf_hash"] = leaf_hash(event["leaf"].encode()).hex()
    found = verify_body.leaves(body)
    if value == "x" and name not in ("id", "kind"):
        assert isinstance(found, list), "it is only another one"
        return
    assert isinstance(found, Finding)
    told = f"event {event['event_id']} was altered: its leaf is none, or another event's"
    assert (found.check, found.fault, found.detail) == ("events", Fault.ALTERED, told)


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.update(leaf=event["leaf"].replace(",", ", ", 1)),
        lambda event: event.update(salt=event["salt"].upper()),
        lambda event: event.update(salt="zz"),
    ],
    ids=["not canonical", "salt in capitals", "salt of other letters"],
)
def test_one_leaf_and_one_salt_have_one_form(change: Callable[[dict[str, Any]], None]) -> None:
    body = copy.deepcopy(BODY)
    event = body["integrity"]["events"][0]
    event["salt"] = "ab" * 16
    assert isinstance(verify_body.leaves(body), list)
    change(event)
    event["leaf_hash"] = leaf_hash(event["leaf"].encode()).hex()
    found = verify_body.leaves(body)
    assert isinstance(found, Finding)
    assert found.fault is Fault.ALTERED


# --- the shape that all of it needs -----------------------------------------------------------------------

SCOPE = "metadata.scope is missing or malformed"
EVENT = "an entry of integrity.events is malformed"
SEALS = "integrity.signed_by is missing, or names a signature that no pack has"
NOTE = "integrity.checkpoint has no note"


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("more",), 1, f"a pack has exactly the sections {', '.join(SECTIONS)}"),
        (("metadata",), [], SCOPE),
        (("metadata", "scope"), [], SCOPE),
        (("metadata", "scope"), {"session": "s-1"}, SCOPE),
        (("metadata", "scope", "more"), "x", SCOPE),
        (("metadata", "scope", "tenant"), 7, SCOPE),
        (("metadata", "version"), "2." + "0" * 30, f"a pack of version 2.{'0' * 18}, and this verifier knows 1.2.0"),
        (("integrity",), [], "integrity.events is missing"),
        (("integrity", "events"), {}, "integrity.events is missing"),
        (("integrity", "events", 1), "x", EVENT),
        (("integrity", "events", 1, "more"), 1, EVENT),
        *[(("integrity", "events", 1, name), True, EVENT) for name in ("index", "number", "event_id", "leaf", "salt")],
        *[(("integrity", "events", 1, name), -1, EVENT) for name in ("index", "number", "leaf_hash")],
        (("integrity", "signed_by"), "hmac-sha256", SEALS),
        (("integrity", "signed_by"), ["hmac-sha256", "x"], SEALS),
        (("integrity", "checkpoint"), [], NOTE),
        (("integrity", "checkpoint"), {}, NOTE),
        (("integrity", "checkpoint", "note"), 7, NOTE),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_pack_is_told_why(place: tuple[Any, ...], value: object, told: str) -> None:
    body = holder = copy.deepcopy(BODY)
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    found = verify_body.shape(body)
    assert (found.check, found.fault, found.detail) == ("shape", Fault.MALFORMED, told)


def test_numbers_may_start_at_nought_and_a_pack_may_have_no_checkpoint() -> None:
    body = copy.deepcopy(BODY)
    body["integrity"] |= {"checkpoint": None, "signed_by": []}
    body["integrity"]["events"][0] |= {"index": 0, "number": 0, "salt": None}
    body["metadata"]["scope"] = LATE | EARLY | BOT
    assert verify_body.shape(body).fault is None
    del body["integrity"]["checkpoint"]
    assert verify_body.shape(body).detail == NOTE
