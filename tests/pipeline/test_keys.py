"""Who was given access when: the log is told of every change of keys that a gateway took over, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agentgate.core.call import KnownKey, Role
from agentgate.core.errors import LogUnavailable
from agentgate.core.event import Kind
from agentgate.pipeline.records.keys import KeyBook
from tests.fakes import principal
from tests.pipeline.conftest import House

SOON = datetime(2026, 12, 24, tzinfo=UTC)
WAYS = ("added", "removed", "disabled", "enabled", "altered")


def key(number: int, **more: Any) -> KnownKey:
    who = replace(principal(f"bot-{number}"), key_id=f"k-{number}")
    return KnownKey(f"{number:064x}", who, **more)


def told(house: House) -> list[dict[str, list[str]]]:
    return [{way: event[way] for way in WAYS if event[way]} for event in house.log.of(Kind.KEYS_CHANGED)]


async def test_what_a_running_gateway_takes_over_is_told_and_its_start_is_not(house: House) -> None:
    book = KeyBook(house.recorder)
    await book.tell()
    book.take([key(1), key(2)], "a")
    await book.tell()
    assert told(house) == []
    book.take([key(1), key(3)], "b")
    await book.tell()
    await book.tell()
    (event,) = house.log.of(Kind.KEYS_CHANGED)
    assert (event["added"], event["removed"]) == (["k-3"], ["k-2"])
    assert event["counts"] == {"added": 1, "removed": 1, "disabled": 0, "enabled": 0, "altered": 0}
    assert "tenant" not in event, "it is for auditors of all tenants"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([key(1)], [key(1, disabled=True)], {"disabled": ["k-1"]}),
        ([key(1, disabled=True)], [key(1)], {"enabled": ["k-1"]}),
        ([], [key(1, disabled=True)], {"added": ["k-1"], "disabled": ["k-1"]}),
        ([key(1, disabled=True)], [], {"removed": ["k-1"]}),
        ([key(1)], [key(1, expires=SOON)], {"altered": ["k-1"]}),
        ([key(1)], [replace(key(1), sha256="f" * 64)], {"altered": ["k-1"]}),
        (
            [key(1)],
            [replace(key(1), principal=replace(key(1).principal, roles=frozenset({Role.ADMIN})))],
            {"altered": ["k-1"]},
        ),
        ([key(1)], [key(1, disabled=True, expires=SOON)], {"disabled": ["k-1"], "altered": ["k-1"]}),
        ([key(1, disabled=True)], [key(1, disabled=True, expires=SOON)], {"altered": ["k-1"]}),
        ([key(1), key(2)], [key(2), key(1)], None),
    ],
)
async def test_how_keys_changed_is_told_by_their_ids(
    house: House, before: list[KnownKey], after: list[KnownKey], expected: dict[str, list[str]] | None
) -> None:
    book = KeyBook(house.recorder)
    book.take(before, "a")
    book.take(after, "b")
    await book.tell()
    assert told(house) == ([] if expected is None else [expected])


async def test_a_change_that_the_log_did_not_take_is_told_later_with_what_came_after(house: House) -> None:
    book = KeyBook(house.recorder)
    book.take([key(1)], "a")
    house.log.is_down = True
    book.take([key(1, disabled=True)], "b")
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            await book.tell()
    book.take([key(1, disabled=True), key(2)], "c")
    house.log.is_down = False
    await book.tell()
    await book.tell()
    assert told(house) == [{"added": ["k-2"], "disabled": ["k-1"]}]


async def test_a_change_that_seemed_to_fail_is_in_the_log_once(house: House) -> None:
    book = KeyBook(house.recorder)
    book.take([], "a")
    book.take([key(1)], "b")
    house.log.fail_next(persist=True)
    with pytest.raises(LogUnavailable):
        await book.tell()
    await book.tell()
    assert told(house) == [{"added": ["k-1"]}]


async def test_of_several_processes_with_one_file_one_tells_and_no_change_is_lost(house: House) -> None:
    books = [KeyBook(house.recorder), KeyBook(house.recorder)]
    for keys, version in (([key(1)], "a"), ([], "b"), ([key(1)], "c"), ([], "d")):
        for book in books:
            book.take(keys, version)
            await book.tell()
    assert told(house) == [{"removed": ["k-1"]}, {"added": ["k-1"]}, {"removed": ["k-1"]}], "also what comes again"


async def test_who_has_seen_a_step_that_another_process_missed_tells_it(house: House) -> None:
    quick, slow = KeyBook(house.recorder), KeyBook(house.recorder)
    for book in (quick, slow):
        book.take([key(1)], "a")
    quick.take([key(1), key(2)], "b")
    await quick.tell()
    for book in (slow, quick):
        book.take([key(3)], "c")
        await book.tell()
    assert told(house) == [
        {"added": ["k-2"]},
        {"added": ["k-3"], "removed": ["k-1"]},
        {"added": ["k-3"], "removed": ["k-1", "k-2"]},
    ]


async def test_what_changes_while_the_log_is_told_is_told_next(house: House) -> None:
    book = KeyBook(house.recorder)
    book.take([], "a")
    book.take([key(1)], "b")
    house.log.on_append = lambda _: book.take([key(1), key(2)], "c")
    await book.tell()
    await book.tell()
    assert told(house) == [{"added": ["k-1"]}, {"added": ["k-2"]}]
