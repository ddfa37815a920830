"""Pages and exports of the log: who sees what, where pages go on, and what is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.call import MemberId, Principal, Role
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Kind, Record, make
from agentgate.core.query import Query, as_line
from agentgate.pipeline.records.audit import AuditDesk, Page, Span
from agentgate.pipeline.records.record import Recorder
from tests.fakes import ADMIN, REDACTOR, FakeClock, FakeEntropy, MemoryLog, NullMeter, principal
from tests.pipeline.test_whole_calls import own

ALL = ADMIN
OF_A = principal("art", Role.AUDITOR, tenant="a", person=True)


class Counted:
    """An export that says how many records each write had."""

    media_type = "text/plain"
    extension = "txt"

    def start(self) -> bytes:
        return b"<"

    def write(self, records: list[Record]) -> bytes:
        return b"%d " % len(records)

    def end(self) -> bytes:
        return b">"


class Listed(Counted):
    """An export that says which records it has."""

    def write(self, records: list[Record]) -> bytes:
        return b"".join(b"%d " % record.index for record in records)


class Bed:
    def __init__(self, events: int = 0) -> None:
        self.log = MemoryLog()
        self.meter = NullMeter()
        self.recorder = Recorder(
            self.log, FakeClock(), FakeEntropy(), member=MemberId("m-1"), version="test", redactor=REDACTOR
        )
        self.desk = AuditDesk(
            reader=self.log,
            recorder=self.recorder,
            meter=self.meter,
            forms={"count": lambda _: Counted(), "list": lambda _: Listed()},
        )
        for number in range(events):
            self.add("ab"[number % 2], f"tool-{number % 3}")

    def add(self, tenant: str, tool: str = "tool") -> None:
        origin = self.recorder.origin()
        self.log.append_now(make(origin, Kind.REFUSALS, {"tool": tool}, tenant=tenant, principal="agent:bot"))

    async def page(self, who: Principal, query: Query, span: Span, cursor: str | None = None) -> Page:
        page = await self.desk.page(who, query, span, cursor)
        assert isinstance(page, Page)
        return page

    async def export(self, who: Principal, query: Query, span: Span | None = None, form: str = "count") -> bytes:
        begun = await self.desk.export(who, query, span or Span(), form)
        assert not isinstance(begun, Refused)
        return b"".join([part async for part in begun[1]])


def indexes(page: Page) -> list[int]:
    return [record.index for record in page.records]


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 20, 40, 41])
async def test_pages_give_every_event_once_and_in_order_while_more_come(limit: int, newest: bool) -> None:
    bed = Bed(40)
    found: list[int] = []
    cursor = None
    while True:
        page = await bed.page(ALL, Query(kinds=(Kind.REFUSALS,)), Span(limit=limit, newest=newest), cursor)
        found += indexes(page)
        if (cursor := page.next) is None:
            break
        if len(bed.log.events) < 60:
            bed.add("a")
    if newest:
        assert found == list(range(39, -1, -1))
    else:  # what came meanwhile is behind what was there
        assert found == list(range(len(found)))
        assert len(found) >= 40


@pytest.mark.parametrize("limit", [2, 5, 10])
async def test_a_page_says_where_to_ask_for_what_comes_after(limit: int) -> None:
    """Also one that leaves some for the next page."""
    bed = Bed(5)
    page = await bed.page(ALL, Query(), Span(limit=limit))
    assert (len(page.records), page.size) == (min(limit, 5), 5)
    bed.add("a")
    assert indexes(await bed.page(ALL, Query(), Span(first=page.size, limit=10))) == [5]


async def test_a_page_leaves_no_event() -> None:
    bed = Bed(5)
    await bed.page(ALL, Query(), Span(limit=10))
    assert len(bed.log.events) == 5


async def test_an_export_is_on_record_before_its_first_byte_and_not_in_itself() -> None:
    bed = Bed(100)
    since, until = "2026-01-01T00:00:00.000000Z", "2027-01-01T00:00:00.000000Z"
    query = Query(tenant="a", session="s", agent="agent:b", since=since, until=until, text="secret")
    begun = await bed.desk.export(ALL, query, Span(), "count")
    assert not isinstance(begun, Refused)
    [fields] = bed.log.of(Kind.EXPORTED)
    assert own(bed.log.events[-1][0]) == {
        "principal": ALL.id,
        "format": "count",
        "tenant": "a",
        "of_session": "s",
        "of_agent": "agent:b",
        "since": since,
        "until": until,
        "by_text": "yes",
    }
    assert "secret" not in str(fields)
    await bed.export(ALL, Query(kinds=(Kind.KILLED, Kind.RELEASED)))
    assert own(bed.log.events[-1][0]) == {"principal": ALL.id, "format": "count", "of_kinds": "killed,released"}
    assert await bed.export(ALL, Query(tenant="a", kinds=(Kind.REFUSALS,))) == b"<50 >"
    assert bed.meter.counts[("exports", "count")] == 3


async def test_an_export_goes_out_in_pieces_and_ends_with_the_log_as_it_was() -> None:
    bed = Bed(150)
    begun = await bed.desk.export(ALL, Query(), Span(), "count")
    assert not isinstance(begun, Refused)
    for _ in range(20):
        bed.add("a")
    assert [part async for part in begun[1]] == [b"<", b"64 ", b"64 ", b"22 ", b">"]


@pytest.mark.parametrize(
    ("limit", "parts"), [(0, b"<>"), (1, b"<1 >"), (64, b"<64 >"), (65, b"<64 1 >"), (1000, b"<64 36 >")]
)
async def test_an_export_has_at_most_what_was_asked_for(limit: int, parts: bytes) -> None:
    assert await Bed(100).export(ALL, Query(), Span(limit=limit)) == parts


async def test_an_export_is_of_its_part_in_its_order() -> None:
    bed = Bed(5)
    assert await bed.export(ALL, Query(kinds=(Kind.REFUSALS,)), Span(first=2), "list") == b"<2 3 4 >"
    assert await bed.export(ALL, Query(kinds=(Kind.REFUSALS,)), Span(2, newest=True, limit=2), "list") == b"<4 3 >"


async def test_without_a_record_there_is_no_export() -> None:
    bed = Bed(5)
    bed.log.fail_next("append")
    with pytest.raises(LogUnavailable):
        await bed.export(ALL, Query())


# --- tenants ----------------------------------------------------------------------------------------------------


async def test_an_auditor_of_one_tenant_sees_that_tenant_and_nothing_else() -> None:
    bed = Bed(10)
    of_calls = Query(kinds=(Kind.REFUSALS,))
    for query in (of_calls, replace(of_calls, tenant="a")):
        page = await bed.page(OF_A, query, Span(limit=100))
        assert {record.fields["tenant"] for record in page.records} == {"a"}
        assert await bed.export(OF_A, query) == b"<5 >"
    assert {fields["tenant"] for fields in bed.log.of(Kind.EXPORTED)} == {"a"}


@pytest.mark.parametrize("tenant", ["b", ""])
async def test_another_tenants_events_and_those_of_no_tenant_are_refused(tenant: str) -> None:
    bed = Bed(10)
    for answer in (
        await bed.desk.page(OF_A, Query(tenant=tenant), Span(limit=5)),
        await bed.desk.export(OF_A, Query(tenant=tenant), Span(), "count"),
    ):
        assert answer == Refused(ReasonCode.FORBIDDEN, "your key is of another tenant")
    assert bed.log.of(Kind.EXPORTED) == []


# --- cursors ----------------------------------------------------------------------------------------------------


async def cursor_of(bed: Bed, query: Query, span: Span, who: Principal = ALL) -> str:
    cursor = (await bed.page(who, query, span)).next
    assert cursor is not None
    return cursor


@pytest.mark.parametrize(
    ("query", "span", "who"),
    [
        (Query(tool="tool-1"), Span(limit=2), ALL),
        (Query(), Span(limit=2, newest=True), ALL),
        (Query(), Span(limit=2, first=1), ALL),
        (Query(), Span(limit=2), OF_A),
    ],
)
async def test_a_cursor_is_of_its_query_alone(query: Query, span: Span, who: Principal) -> None:
    bed = Bed(20)
    cursor = await cursor_of(bed, Query(), Span(limit=2))
    assert isinstance(await bed.desk.page(ALL, Query(), Span(limit=5), cursor), Page)
    answer = await bed.desk.page(who, query, span, cursor)
    assert answer == Refused(ReasonCode.INVALID_REQUEST, "the cursor is not of this query")


async def test_a_cursor_that_was_altered_anywhere_is_refused() -> None:
    bed = Bed(20)
    cursor = await cursor_of(bed, Query(), Span(limit=2))
    assert len(cursor) == 22, "nothing in it needs to be escaped in an address"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others: list[Any] = [
        cursor[:place] + char + cursor[place + 1 :] for place in range(len(cursor)) for char in alphabet
    ]
    others += ["", "A", cursor[:-1], cursor + "A", cursor + "=", "é", "\0", "A" * 64]
    for other in others:
        if other != cursor:
            assert isinstance(await bed.desk.page(ALL, Query(), Span(limit=2), other), Refused), other


async def test_a_line_of_a_page_is_the_event() -> None:
    bed = Bed(1)
    [record] = (await bed.page(ALL, Query(), Span(limit=1))).records
    assert record.leaf in as_line(record)
