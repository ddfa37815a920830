"""What every log promises. A store's test subclasses `LogContract` and says how to open one.

class TestMyLog(LogContract):
    @pytest.fixture
    def opened(self, tmp_path): ...     # a function that opens the same log again and again
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from agentgate.core import merkle
from agentgate.core.approval import State, Wanted, from_row
from agentgate.core.audit.report import Report
from agentgate.core.containment import Kill, KillChange, KillChanges, KillId, KillState, Scope
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.event import Event, Kind, Origin, Outcome, Record, make, rfc3339
from agentgate.core.events.calls import answers_closed, closed
from agentgate.core.events.keeping import keys_changed
from agentgate.core.events.kills import acked, drained, gone, killed, release_asked, released
from agentgate.core.events.tools import OfTool, tool_accepted, tool_quarantined, tool_rejected
from agentgate.core.members import Acknowledgement, progress
from agentgate.core.note import Checkpoint, NoteKey, open_checkpoint
from agentgate.core.pin import PinState, Unpinned, pin_from_row
from agentgate.core.projection.effects import effects
from agentgate.core.projection.tables import Tables
from agentgate.core.query import Query
from agentgate.pipeline.records.tree import Proofs
from agentgate.ports.log import AlreadySpent, Appended, Bookmarks, ForeignSession, Log, LogReader, MemberGone, Tree
from tests.fakes import AtOnce

ORIGIN = "agentgate.test/log/0"
START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class Whole(Log, LogReader, Tree, Protocol):
    """What the contract is about: the log, its reader and its tree."""

    bookmarks: Bookmarks


class Patient(Whole, Protocol):
    """Waits for longer than callers do, where it is asked to."""

    def patient(self) -> AbstractContextManager[None]: ...


class Searcher(Protocol):
    """What reads a log without a gateway."""

    def search(self, query: Query) -> AsyncIterator[Record]: ...

    async def size(self) -> int: ...

    async def aclose(self) -> None: ...


Opened = Callable[[], AbstractAsyncContextManager[Whole]]

READ = OfTool("files", "read", "files__read")


def subject_of(pin: str) -> bytes:
    """A definition that says its own pin: stores do not look into it."""
    return b'{"server":{"name":"files"},"tool":{"description":"%s \\u0000 \xc3\xa9","name":"read"}}' % pin.encode()


class Author:
    """Makes events as one member does."""

    _ids = itertools.count(1)

    def __init__(self, member: str = "m-1") -> None:
        self.member = member
        self._counter = 0

    def origin(self, at: datetime | None = None) -> Origin:
        self._counter += 1
        number = next(self._ids)
        salt = hashlib.sha256(b"%d" % number).digest()[:16]
        at = at or START + timedelta(milliseconds=number)
        return Origin(f"{number:08x}-e", at, self.member, self._counter, "0.3.0", salt)

    def decided(
        self,
        session: str = "s-1",
        *,
        by: str = "agent:bot",
        trace: str = "",
        verdict: str = "ALLOW",
        moment: datetime | None = None,
        body: bytes = b'{"arguments":{"query":"select 1"}}',
        **more: Any,
    ) -> Event:
        origin = self.origin(moment)
        fields = {
            "trace_id": trace or f"trace-{origin.id}",
            "decision": verdict,
            "call_sha256": hashlib.sha256(origin.id.encode()).hexdigest(),
            "tool": "db_query",
        }
        return make(origin, Kind.DECIDED, fields | more, tenant="acme", session=session, principal=by, body=body)

    def accepted(self, pin: str, *, trust: str = "operator", access: str = "write", of: OfTool = READ) -> Event:
        actor = "person:op" if trust == "operator" else ""
        subject = subject_of(pin)
        return tool_accepted(
            self.origin(), of, pin=pin, access=access, trust=trust, subject=subject, actor=actor, auth="api_key"
        )

    def quarantined(self, pin: str, found: str, accepted: int, *, of: OfTool = READ) -> Event:
        return tool_quarantined(
            self.origin(), of, pin=pin, found=found, accepted=accepted, subject=subject_of(found), changes=["x"]
        )

    def unpinned(self, pin: str, found: Unpinned, accepted: int) -> Event:
        return tool_quarantined(
            self.origin(), READ, pin=pin, found=found.value, accepted=accepted, subject=b"null", changes=[found.why]
        )

    def rejected(self, found: str, *, of: OfTool = READ) -> Event:
        return tool_rejected(
            self.origin(), of, found=found, subject=subject_of(found), actor="person:op", auth="api_key"
        )

    def finished(self, trace: str, session: str = "s-1") -> Event:
        fields = {"trace_id": trace, "outcome": "ok"}
        return make(self.origin(), Kind.FINISHED, fields, tenant="acme", session=session, principal="agent:bot")

    def answered(self, key: str, sealed: bytes | None = b"sealed answer", *, of: str = "", digest: str = "") -> Event:
        """The end of a call whose answer is kept; `of`: as somebody else closed it."""
        fields = {"trace_id": f"trace-{key}", "outcome": "unknown" if of else "ok", "tool": "db_query"}
        fields |= {"reason_code": "ok", "answer_key": key, "call_sha256": digest or "d" * 64}
        fields |= {"of": of} if of else {}
        kept = {"answer": sealed}
        kind, by = Kind.FINISHED, "agent:bot"
        return make(self.origin(), kind, fields, tenant="acme", session="s-1", principal=by, projected=kept)

    def answers_closed(self, through: int) -> Event:
        return answers_closed(self.origin(), through)

    def keys_changed(self, change: str = "f" * 64, **ids: list[str]) -> Event:
        return keys_changed(self.origin(), ids or {"added": ["k-1"]}, change)

    def vote(self, approval: str, ordinal: int, by: str, quorum: int = 2) -> Event:
        fields = {"approval_id": approval, "verdict": "approved", "ordinal": ordinal, "quorum": quorum}
        if ordinal == quorum:
            fields["token_sha256"] = "f" * 64
        return make(self.origin(), Kind.APPROVAL_DECIDED, fields, tenant="acme", session="s-1", principal=by)

    def joined(self) -> Event:
        return make(self.origin(), Kind.JOINED, {"of": self.member})

    def left(self, of: str | None = None) -> Event:
        return make(self.origin(), Kind.LEFT, {} if of is None else {"of": of})

    def kill(self, kill: Kill) -> Event:
        return killed(self.origin(), kill, auth="key")

    def release(self, kill: Kill) -> Event:
        return released(self.origin(), kill, actor="person:root", auth="key", why="release", forced=False)

    def gone(self, member: str, why: str = "presumed") -> Event:
        return gone(self.origin(), member, why=why)

    def release_asked(self, kill: Kill, by: str) -> Event:
        return release_asked(self.origin(), kill, actor=by, auth="key")

    def drained(self, kill: Kill) -> Event:
        done = progress([self.member], {}, {self.member: 1}, 1)
        return drained(self.origin(), kill, position=1, members=[self.member], progress=done)

    def acked(self, position: int) -> Event:
        return acked(self.origin(), Acknowledgement(self.member, position, cancelled=2, took_ms=1.5))

    def requested(self, approval: str, moment: datetime | None = None, **more: Any) -> Event:
        fields = {
            "approval_id": approval,
            "call_sha256": "c" * 64,
            "policy_revision": "sha256:1",
            "expires_at": "2026-11-21T13:00:00.000000Z",
            "tool": "db_insert",
            "trace_id": f"trace-{approval}",
        }
        sealed = {"sealed": b"sealed arguments"}
        kind = Kind.APPROVAL_REQUESTED
        who = "agent:bot"
        origin = self.origin(moment)
        return make(origin, kind, fields | more, tenant="acme", session="s-1", principal=who, projected=sealed)

    def verdict(self, approval: str, verdict: str = "approved", by: str = "person:alice") -> Event:
        fields = {"approval_id": approval, "verdict": verdict}
        if verdict == "approved":
            fields["token_sha256"] = "f" * 64
        return make(self.origin(), Kind.APPROVAL_DECIDED, fields, tenant="acme", session="s-1", principal=by)

    def closed(self, approval: str, state: str = "expired") -> Event:
        fields = {"approval_id": approval, "state": state}
        return make(self.origin(), Kind.APPROVAL_CLOSED, fields, tenant="acme", session="s-1")


def a_kill(name: str = "k-1", target: str = "s-1") -> Kill:
    return Kill(KillId(name), Scope.SESSION, "acme", target, "it went wild", "person:op", START)


async def all_of(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


def receipts(outcomes: list[Any]) -> list[Receipt]:
    assert all(isinstance(outcome, Receipt) for outcome in outcomes), outcomes
    return outcomes


INJECTIONS = (
    "' OR '1'='1",
    "x'; DROP TABLE events; --",
    '" OR ""="',
    "%",
    "_-1",
    "s-1' UNION SELECT leaf, leaf, leaf, leaf, leaf, leaf FROM events --",
    "\\",
    "\\'; --",
    ":tenant_1",
    "$1",
    "?",
    '","tool":"db_query',
    "\N{FULLWIDTH APOSTROPHE} OR 1=1",
    "\n;DELETE FROM bodies;\n",
)
"""What somebody might put into a filter (attack A60)."""


def a_mixed_log(author: Author) -> list[Event]:
    """Events that differ in everything a query asks for; more of them than a search reads at once."""
    events: list[Event] = [author.joined(), author.kill(a_kill())]
    for n in range(600):
        verdict, reason = ("DENY", "POLICY_DENIED") if n % 5 == 0 else ("ALLOW", "ALLOWED")
        body = b'{"arguments":{"q":"Stra\xc3\x9fe %d"}}' % n
        session, tool, by = f"s-{n % 7}", f"tool-{n % 11}", f"agent:{session_owner(n % 7)}"
        trace = f"trace-{n}"
        events.append(
            author.decided(session, by=by, trace=trace, verdict=verdict, reason_code=reason, tool=tool, body=body)
        )
        if verdict == "ALLOW" and n % 3:
            events.append(author.finished(trace, session))
    return events


def session_owner(session: int) -> str:
    return f"bot-{session % 3}"


def queries(events: list[Event]) -> list[Query]:
    """One for each thing that can be asked, and some for several."""
    since, until = events[200].at, events[700].at
    return [
        Query(),
        Query(tenant="acme"),
        Query(tenant=""),
        Query(tenant="other"),
        Query(session="s-3"),
        Query(session=""),
        Query(tenant="acme", session="s-3"),
        Query(agent="agent:bot-1"),
        Query(agent=""),
        Query(tool="tool-1"),  # and not tool-10
        Query(tool=""),
        Query(decision="DENY"),
        Query(reason_code="POLICY_DENIED"),
        Query(outcome="ok"),
        Query(trace_id="trace-77"),
        Query(kinds=(Kind.JOINED, Kind.KILLED)),
        Query(kinds=()),
        Query(since=since),
        Query(until=until),
        Query(since=since, until=until),
        Query(since=until, until=since),
        Query(text="STRASSE 59"),
        Query(text="%"),
        Query(tenant="acme", session="s-3", since=since, until=until, decision="ALLOW"),
        Query(tenant="acme", agent="agent:bot-2", kinds=(Kind.DECIDED,), since=since, text="straße 4"),
    ]


def _within(at: str, query: Query) -> bool:
    return (query.since is None or at >= query.since) and (query.until is None or at < query.until)


async def append_all(log: Log, events: Iterable[Event]) -> list[Appended]:
    """Many at once, and yet no more than a busy machine makes durable within a second, which is all that is waited."""
    outcomes, rest = [], iter(events)
    while some := list(itertools.islice(rest, 500)):
        outcomes += await asyncio.gather(*map(log.append, some))
    return outcomes


async def _append_many(log: Log, author: Author, count: int) -> None:
    await append_all(log, (author.decided(f"s-{n % 7}") for n in range(count)))


class LogContract:
    """Subclasses give `opened`, `audit`, and `forge` for the store at hand."""

    @pytest.fixture
    def opened(self) -> Opened:
        raise NotImplementedError

    @pytest.fixture
    def audit(self) -> Callable[[], Awaitable[Report]]:
        """`log verify` on what `opened` opens."""
        raise NotImplementedError

    @pytest.fixture
    def beside(self) -> Callable[[], Searcher]:
        """Opens what `opened` opens only for reading, without a key of it."""
        raise NotImplementedError

    @pytest.fixture
    def key(self) -> NoteKey:
        """The key that checkpoints verify with."""
        raise NotImplementedError

    @pytest.fixture
    def author(self) -> Author:
        return Author()

    # --- order --------------------------------------------------------------------------------------------

    async def test_concurrent_appends_get_contiguous_indexes(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            events = [author.decided(f"s-{n % 7}") for n in range(200)]
            found = receipts(await asyncio.gather(*(log.append(event) for event in events)))
            assert sorted(receipt.index for receipt in found) == list(range(200))
            assert [receipt.event_id for receipt in found] == [event.id for event in events]
            assert [receipt.digest for receipt in found] == [event.fields["call_sha256"] for event in events]

    async def test_an_event_that_is_in_the_log_already_is_answered_with_its_receipt(
        self, opened: Opened, author: Author
    ) -> None:
        """Whoever was told that an append is in doubt tries again with the same event."""
        async with opened() as log:
            event = author.decided("s-1")
            (first,) = receipts([await log.append(event)])
            await log.append(author.decided("s-2"))
            (again,) = receipts([await log.append(event)])
            assert (again.event_id, again.index, again.kill_position) == (event.id, 0, first.kill_position)
            assert len(await all_of(log.records())) == 2

    async def test_one_task_after_the_other_keeps_the_order_of_appending(self, opened: Opened, author: Author) -> None:
        async with opened() as log:

            async def one(session: str) -> list[int]:
                return [receipts([await log.append(author.decided(session))])[0].index for _ in range(20)]

            for indexes in await asyncio.gather(*(one(f"s-{n}") for n in range(20))):
                assert indexes == sorted(indexes)

    async def test_sessions_are_numbered_from_one_without_gaps(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await asyncio.gather(*(log.append(author.decided(f"s-{n % 3}")) for n in range(30)))
        async with opened() as log:  # and the count goes on after a restart
            await log.append(author.decided("s-0"))
            await log.append(author.joined())
            numbers: dict[str, list[int]] = {}
            for record in await all_of(log.records()):
                numbers.setdefault(record.fields.get("session", ""), []).append(record.session_number)
        assert numbers == {"s-0": [*range(1, 12)], "s-1": [*range(1, 11)], "s-2": [*range(1, 11)], "": [0]}

    async def test_records_come_back_byte_for_byte(self, opened: Opened, author: Author) -> None:
        events = [author.decided(f"s-{n % 2}") for n in range(600)]  # more than one chunk
        async with opened() as log:
            await append_all(log, events)
        async with opened() as log:
            records = await all_of(log.records())
            assert [record.leaf for record in records] == [event.leaf for event in events]
            assert [record.salt for record in records] == [event.salt for event in events]
            assert records[0].body == {"arguments": {"query": "select 1"}}
            assert records[0].kind is Kind.DECIDED

    async def test_records_can_be_chosen(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            for event in (
                author.joined(),
                author.decided("s-1", trace="t"),
                author.decided("s-2"),
                author.finished("t"),
            ):
                await log.append(event)
            assert [r.index for r in await all_of(log.records(session="s-1"))] == [1, 3]
            assert [r.index for r in await all_of(log.records(tenant="acme", session="s-1"))] == [1, 3]
            assert [r.index for r in await all_of(log.records(tenant="acme"))] == [1, 2, 3]
            assert [r.index for r in await all_of(log.records(tenant="other"))] == []
            assert [r.index for r in await all_of(log.records(first=2))] == [2, 3]
            assert [r.index for r in await all_of(log.records(kinds=["joined", "finished"]))] == [0, 3]

    # --- search -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("newest", [False, True])
    async def test_a_search_finds_what_fits_all_that_is_asked_and_nothing_else(
        self, opened: Opened, author: Author, newest: bool
    ) -> None:
        events = a_mixed_log(author)
        async with opened() as log:
            await append_all(log, events)
            everything = await all_of(log.records())
            for query in queries(events):
                expected = [record.index for record in everything if query.matches(record)]
                found = [record.index async for record in log.search(query, newest=newest)]
                assert found == (expected[::-1] if newest else expected), query

    async def test_a_search_brings_records_as_they_are(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await asyncio.gather(*(log.append(event) for event in a_mixed_log(author)[:300]))
            assert await all_of(log.search(Query())) == await all_of(log.records())
            assert await all_of(log.search(Query(), newest=True)) == (await all_of(log.records()))[::-1]

    async def test_a_search_stays_within_its_bounds_and_ends_where_the_log_did(
        self, opened: Opened, author: Author
    ) -> None:
        async with opened() as log:
            await asyncio.gather(*(log.append(author.decided(f"s-{n % 2}")) for n in range(40)))
            for query in (Query(), Query(session="s-0"), Query(tenant="acme", session="s-0")):
                found = await all_of(log.search(query, first=10, below=20))
                assert found == [record for record in await all_of(log.search(query)) if 10 <= record.index < 20]
                assert await all_of(log.search(query, first=10, below=20, newest=True)) == found[::-1]
            assert await log.size() == 40
            assert await all_of(log.search(Query(), first=40)) == []
            assert await all_of(log.search(Query(), below=0)) == []
            endless = log.search(Query())
            number = 0
            async for _ in endless:
                number += 1
                await log.append(author.decided())
            assert number == 40

    async def test_a_time_is_found_though_clocks_differ(self, opened: Opened, author: Author) -> None:
        """Each event within half an hour of the truth, either way."""
        truth = [START + timedelta(minutes=n) for n in range(400)]
        wrong = [moment + timedelta(minutes=(n * 7919) % 61 - 30) for n, moment in enumerate(truth)]
        async with opened() as log:
            for moment in wrong:
                event = author.decided(moment=moment)
                await log.append(event)
            for first, last in ((0, 400), (100, 101), (-100, 3), (390, 900), (200, 260), (-9, -5), (900, 901)):
                since, until = (rfc3339(START + timedelta(minutes=n)) for n in (first, last))
                for query in (Query(since=since, until=until), Query(since=since), Query(until=until)):
                    found = [record.index async for record in log.search(query)]
                    expected = [n for n, moment in enumerate(wrong) if _within(rfc3339(moment), query)]
                    assert found == expected, (first, last)

    @pytest.mark.parametrize("text", INJECTIONS)
    async def test_nothing_that_is_searched_for_is_a_command(self, opened: Opened, author: Author, text: str) -> None:
        """Attack A60: what a filter holds is compared with, and that is all."""
        async with opened() as log:
            await log.append(author.decided("s-1"))
            await log.append(author.decided("s-2", by=text, tool=text))
            for name in ("tenant", "session", "agent", "tool", "decision", "reason_code", "outcome", "trace_id"):
                found = [record.index async for record in log.search(Query(**{name: text}))]
                assert found == ([1] if name in ("agent", "tool") else []), name
            assert await all_of(log.search(Query(text=text))) == []
            assert len(await all_of(log.records())) == 2

    async def test_a_log_is_searched_by_somebody_else_while_it_is_open_and_when_it_is_not(
        self, opened: Opened, author: Author, beside: Callable[[], Searcher]
    ) -> None:
        async with opened() as log:
            for n in range(5):
                await log.append(author.decided(f"s-{n % 2}"))
            other = beside()
            assert [record.index for record in await all_of(other.search(Query(session="s-0")))] == [0, 2, 4]
            await log.append(author.decided("s-0"))
            assert await other.size() == 6
            await other.aclose()
        other = beside()
        assert [record.index for record in await all_of(other.search(Query(session="s-0")))] == [0, 2, 4, 5]
        await other.aclose()

    async def test_an_empty_log_has_nothing(self, opened: Opened) -> None:
        async with opened() as log:
            assert await log.size() == 0
            assert await all_of(log.records()) == []
            assert await all_of(log.search(Query(since="2026-01-01T00:00:00.000000Z"))) == []
            assert await log.sessions(None, limit=9) == []
            assert await log.approvals(Wanted(START), 9) == []
            assert await log.open_intents() == []
            assert await log.checkpoint() is None
            assert await log.kills_since(-1) == KillChanges(-1, 0)
            assert await log.kills_since(0) == KillChanges(0, 0)
            assert await log.acknowledged(0) == []

    # --- kills --------------------------------------------------------------------------------------------

    async def test_a_kill_raises_the_position_of_every_later_receipt(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            kill = a_kill()
            outcomes = await asyncio.gather(  # one batch, if the store makes batches
                log.append(author.joined()),
                log.append(author.decided()),
                log.append(author.kill(kill)),
                log.append(author.decided()),
                log.append(author.release(kill)),
                log.append(author.decided()),
            )
            found = receipts(list(outcomes))
            assert [receipt.kill_position for receipt in found] == [0, 0, 1, 1, 2, 2]
            assert [receipt.members for receipt in found] == [(), (), ("m-1",), (), ("m-1",), ()]

    async def test_the_kill_state_survives_a_restart(self, opened: Opened, author: Author) -> None:
        first, second = a_kill("k-1", "s-1"), a_kill("k-2", "s-2")
        async with opened() as log:
            for event in (author.kill(first), author.kill(second), author.release(first)):
                await log.append(event)
            before = await log.kills_since(-1)
        async with opened() as log:
            assert await log.kills_since(-1) == before
        after = KillState(0, {}).advanced(before)
        assert after.position == 3
        assert set(after.active) == {"k-2"}
        assert after.active[KillId("k-2")].same_order(second)
        assert after.active[KillId("k-2")].position == 2

    async def test_a_kill_names_the_members_that_have_not_left(self, opened: Opened) -> None:
        one, two, three = Author("m-1"), Author("m-2"), Author("m-3")
        async with opened() as log:
            for event in (one.joined(), two.joined(), three.joined(), two.left()):
                await log.append(event)
            (receipt,) = receipts([await log.append(one.kill(a_kill("k-1")))])
            assert receipt.members == ("m-1", "m-3")
        async with opened() as log:
            await log.append(one.left(of="m-3"))  # a successor closes a dead predecessor
            (receipt,) = receipts([await log.append(one.kill(a_kill("k-2")))])
            assert receipt.members == ("m-1",)

    async def test_the_same_kill_id_is_appended_once(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            kill = a_kill()
            outcomes = await asyncio.gather(*(log.append(author.kill(kill)) for _ in range(5)))
            assert sum(isinstance(outcome, Receipt) for outcome in outcomes) == 1
            assert outcomes[1] == AlreadySpent("kill", kill.id)
            assert (await log.kills_since(-1)).position == 1

    async def test_a_kill_is_released_once(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            kill = a_kill()
            await log.append(author.kill(kill))
            outcomes = await asyncio.gather(*(log.append(author.release(kill)) for _ in range(5)))
            assert sum(isinstance(outcome, Receipt) for outcome in outcomes) == 1
            assert (await log.kills_since(-1)).position == 2

    async def test_what_changed_since_a_position_names_kills_released_in_between(
        self, opened: Opened, author: Author
    ) -> None:
        one, two, three = (a_kill(f"k-{n}", f"s-{n}") for n in range(1, 4))
        async with opened() as log:
            for event in (author.kill(one), author.kill(two), author.release(one), author.kill(three)):  # 1 2 3 4
                await log.append(event)
            await log.append(author.release(three))  # 5: given and gone again after position 2

            async def since(position: int) -> list[tuple[str, int, int | None]]:
                changes = await log.kills_since(position)
                assert (changes.since, changes.position) == (position, 5)
                return [(change.kill.id, change.kill.position, change.released_at) for change in changes.kills]

            assert await since(0) == [("k-1", 1, 3), ("k-2", 2, None), ("k-3", 4, 5)]
            assert await since(1) == [("k-1", 1, 3), ("k-2", 2, None), ("k-3", 4, 5)]
            assert await since(2) == [("k-1", 1, 3), ("k-3", 4, 5)]
            assert await since(3) == [("k-3", 4, 5)]
            assert await since(4) == [("k-3", 4, 5)]
            assert await since(5) == []
            assert await since(9) == []  # a fast path that is ahead of the log learns where the log is
            assert await since(-1) == [("k-2", 2, None)]
            (change,) = (await log.kills_since(-1)).kills
            assert change == KillChange(replace(two, since=change.kill.since, position=2))

    async def test_changes_lead_from_any_state_to_the_newest(self, opened: Opened, author: Author) -> None:
        kills = [a_kill(f"k-{n}", f"s-{n % 3}") for n in range(12)]
        states = [KillState(0, {})]
        async with opened() as log:
            for number, kill in enumerate(kills):
                await log.append(author.kill(kill))
                states.append(states[-1].advanced(await log.kills_since(states[-1].position)))
                if number % 3 == 1:
                    await log.append(author.release(kills[number - 1]))
                    states.append(states[-1].advanced(await log.kills_since(states[-1].position)))
            newest = KillState(0, {}).advanced(await log.kills_since(-1))
            assert states[-1] == newest
            for state in states:
                assert state.advanced(await log.kills_since(state.position)) == newest

    async def test_kills_acks_and_receipts_are_looked_up(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            for event in (author.joined(), author.kill(a_kill()), author.acked(1), author.drained(a_kill())):
                await log.append(event)
            (kill,) = await log.projection("kills", id="k-1")
            assert (kill["reason"], kill["position"], kill["drained"]) == ("it went wild", 1, 1)
            (ack,) = await log.projection("acks", member="m-1")
            assert (ack["position"], ack["cancelled"]) == (1, 2)
            (member,) = await log.projection("members")
            assert (member["member"], member["joined_idx"], member["left_idx"]) == ("m-1", 0, None)
            assert await log.projection("kills", drained=0, released_position=None) == []

    async def test_of_each_member_its_first_word_at_or_past_a_position(self, opened: Opened) -> None:
        one, two = Author("m-1"), Author("m-2")
        async with opened() as log:
            for event in (one.acked(1), two.acked(3), one.acked(4), one.acked(5)):
                await log.append(event)
            found = {position: await log.acknowledged(position) for position in range(7)}
        of = {position: {ack.member: ack.position for ack in acks} for position, acks in found.items()}
        assert of[1] == {"m-1": 1, "m-2": 3}
        assert of[2] == of[3] == {"m-1": 4, "m-2": 3}
        assert of[4] == {"m-1": 4}
        assert of[5] == {"m-1": 5}
        assert of[6] == {}
        assert found[5] == [Acknowledgement("m-1", 5, cancelled=2, took_ms=1.5)]

    async def test_who_asked_for_a_release_is_kept_once_for_each_person(self, opened: Opened, author: Author) -> None:
        kill = a_kill()
        async with opened() as log:
            await log.append(author.kill(kill))
            outcomes = [await log.append(author.release_asked(kill, by)) for by in ("person:a", "person:b", "person:a")]
            assert [type(outcome) for outcome in outcomes] == [Receipt, Receipt, AlreadySpent]
            rows = await log.projection("release_asks", kill_id="k-1")
            assert [row["person"] for row in rows] == ["person:a", "person:b"]

    # --- members ------------------------------------------------------------------------------------------

    async def test_a_call_is_closed_by_one_of_those_who_find_it_open(self, opened: Opened) -> None:
        one, two = Author("m-1"), Author("m-2")
        async with opened() as log:
            await log.append(two.decided(trace="t-1"))
            await log.append(one.gone("m-2"))
            (intent,) = await log.open_intents()
            closings = [closed(author.origin(), intent, Outcome.UNKNOWN, "gone") for author in (one, Author("m-3"))]
            outcomes = await asyncio.gather(*map(log.append, closings))
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent]
            assert await log.open_intents() == []
            assert isinstance(await log.append(two.finished("t-1")), Receipt)  # it is alive, and knows better

    @pytest.mark.parametrize("end", ["presumed", "attested", "left"])
    async def test_a_member_that_is_gone_decides_nothing(self, opened: Opened, end: str) -> None:
        one, two = Author("m-1"), Author("m-2")
        async with opened() as log:
            for event in (one.joined(), two.joined()):
                await log.append(event)
            assert isinstance(await log.append(two.decided()), Receipt)
            await log.append(two.left() if end == "left" else one.gone("m-2", end))
            assert await log.append(two.decided(verdict="REQUIRE_APPROVAL")) == MemberGone("m-2")
            assert await log.append(two.decided(idempotency_sha256="a" * 64)) == MemberGone("m-2")
            assert isinstance(await log.append(one.decided(idempotency_sha256="a" * 64)), Receipt)  # nothing was spent
        async with opened() as log:
            assert await log.append(two.decided()) == MemberGone("m-2")
            assert isinstance(await log.append(two.decided(verdict="DENY")), Receipt)
            assert isinstance(await log.append(two.finished("t-1")), Receipt)
            assert isinstance(await log.append(two.acked(0)), Receipt)
            assert isinstance(await log.append(one.decided()), Receipt)

    async def test_a_decision_in_the_same_batch_as_the_end_of_its_member_is_refused(self, opened: Opened) -> None:
        one, two = Author("m-1"), Author("m-2")
        async with opened() as log:
            await asyncio.gather(log.append(one.joined()), log.append(two.joined()))
            outcomes = await asyncio.gather(
                log.append(two.decided()), log.append(one.gone("m-2")), log.append(two.decided())
            )
            assert [type(outcome) for outcome in outcomes] == [Receipt, Receipt, MemberGone]

    async def test_kills_go_on_naming_a_member_that_is_gone_until_it_has_left(self, opened: Opened) -> None:
        one, two, three = Author("m-1"), Author("m-2"), Author("m-3")
        async with opened() as log:
            for event in (one.joined(), two.joined(), three.joined(), one.gone("m-2")):
                await log.append(event)
            (receipt,) = receipts([await log.append(one.kill(a_kill("k-1")))])
            assert receipt.members == ("m-1", "m-2", "m-3")
        async with opened() as log:
            await log.append(one.gone("m-2", "attested"))
            (receipt,) = receipts([await log.append(one.kill(a_kill("k-2")))])
            assert receipt.members == ("m-1", "m-2", "m-3")
            await log.append(two.left())
            (receipt,) = receipts([await log.append(one.kill(a_kill("k-3")))])
            assert receipt.members == ("m-1", "m-3")
            row = (await log.projection("members", member="m-2"))[0]
            assert [row["gone_idx"] is None, row["attested_idx"] is None, row["left_idx"] is None] == [False] * 3
            assert [row["member"] for row in await log.projection("members", left_idx=None)] == ["m-1", "m-3"]

    async def test_a_member_is_declared_gone_once(self, opened: Opened) -> None:
        one = Author("m-1")
        async with opened() as log:
            await log.append(one.joined())
            outcomes = await asyncio.gather(*(log.append(Author("m-2").gone("m-1")) for _ in range(3)))
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent, AlreadySpent]

    async def test_a_change_of_keys_that_several_took_over_is_told_once(self, opened: Opened) -> None:
        async with opened() as log:
            spent = AlreadySpent("keys", "a" * 64)
            tellers = [Author("m-1"), Author("m-2")]
            outcomes = await asyncio.gather(*(log.append(one.keys_changed("a" * 64)) for one in tellers))
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent]
        async with opened() as log:
            assert await log.append(tellers[1].keys_changed("a" * 64)) == spent
            assert isinstance(await log.append(tellers[1].keys_changed("b" * 64)), Receipt)

    async def test_a_name_that_has_left_does_not_come_back(self, opened: Opened) -> None:
        one = Author("m-1")
        async with opened() as log:
            for event in (one.joined(), one.left(), one.joined()):
                await log.append(event)
            (receipt,) = receipts([await log.append(Author("m-2").kill(a_kill()))])
            assert receipt.members == ()
            assert await log.append(one.decided()) == MemberGone("m-1")
        async with opened() as log:
            assert await log.append(one.decided()) == MemberGone("m-1")

    async def test_a_heartbeat_is_heard_only_of_members_that_have_not_left(self, opened: Opened) -> None:
        one, two = Author("m-1"), Author("m-2")
        async with opened() as log:
            for event in (one.joined(), two.joined()):
                await log.append(event)
            first, second = await log.beat("m-1"), await log.beat("m-1")
            if first:  # a store of one process answers nothing
                assert set(first) == {"m-1", "m-2"}
                assert second["m-1"] > first["m-1"]
                assert second["m-2"] == first["m-2"]
                await log.append(two.left())
            assert "m-2" not in await log.beat("m-1")

    # --- who was first ------------------------------------------------------------------------------------

    async def test_of_fifty_spends_of_one_approval_exactly_one_wins(self, opened: Opened, author: Author) -> None:
        spent = AlreadySpent("approval", "apr-1")
        async with opened() as log:
            events = [author.decided(f"s-{n}", approval_id="apr-1") for n in range(50)]
            outcomes = await asyncio.gather(*(log.append(event) for event in events))
            assert Counter(type(outcome) for outcome in outcomes) == {Receipt: 1, AlreadySpent: 49}
            assert len(await all_of(log.records())) == 1
        async with opened() as log:
            assert await log.append(author.decided("s-1", approval_id="apr-1")) == spent

    async def test_an_idempotency_key_is_spent_once(self, opened: Opened, author: Author) -> None:
        spent = AlreadySpent("idempotency", "a" * 64)
        async with opened() as log:
            first = await log.append(author.decided(idempotency_sha256="a" * 64))
            second = await log.append(author.decided(idempotency_sha256="a" * 64))
        assert isinstance(first, Receipt)
        assert second == spent

    async def test_two_approvers_and_one_verdict(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.requested("apr-1"))
            outcomes = await asyncio.gather(
                log.append(author.verdict("apr-1", "denied", "person:alice")),
                log.append(author.verdict("apr-1", "approved", "person:bob")),
            )
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent]
            (row,) = await log.projection("approvals", id="apr-1")
            assert (row["state"], row["decided_by"], row["sealed"]) == ("denied", "person:alice", None)

    async def test_an_approval_lives_from_question_to_spending(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.requested("apr-1"))
            (row,) = await log.projection("approvals", tenant="acme", state="pending")
            assert from_row(row).state is State.PENDING
            assert row["sealed"] == b"sealed arguments"
            await log.append(author.verdict("apr-1"))
            (row,) = await log.projection("approvals", digest="c" * 64)
            assert (row["state"], row["token_sha256"]) == ("approved", "f" * 64)
            await log.append(author.decided(approval_id="apr-1"))
            await log.append(author.closed("apr-1"))  # too late: what is spent stays spent
            (row,) = await log.projection("approvals")
            assert (row["state"], row["sealed"]) == ("spent", None)

    async def test_a_name_that_no_text_can_hold_names_nothing(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.requested("apr-1"))
            assert await log.projection("approvals", id="apr-1\0") == []

    async def test_what_is_sealed_is_left_out_where_it_is_not_wanted(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.requested("apr-1"))
            (row,) = await log.projection("approvals", without="sealed", state="pending")
            (whole,) = await log.projection("approvals", state="pending")
            assert row == whole | {"sealed": None}
            assert whole["sealed"] == b"sealed arguments"

    async def test_approvals_come_as_they_were_appended_whatever_the_clocks_said(
        self, opened: Opened, author: Author
    ) -> None:
        """A page goes on after the one before: what comes later must not be on a page that was read already."""
        async with opened() as log:
            await log.append(author.requested("apr-2"))
            await log.append(author.requested("apr-1", START - timedelta(seconds=10)))
            assert [row["id"] for row in await log.projection("approvals", state="pending")] == ["apr-2", "apr-1"]
            assert [row["id"] for row in await log.approvals(Wanted(START), 1)] == ["apr-2"]
            assert [row["id"] for row in await log.approvals(Wanted(START, first=1), 2)] == ["apr-1"]

    @pytest.mark.parametrize("hours", [0, 1])  # the second is when they expire
    async def test_approvals_are_found_by_the_state_that_they_are_in_at_a_time(
        self, opened: Opened, author: Author, hours: int
    ) -> None:
        now = START + timedelta(hours=hours)
        async with opened() as log:
            for state in State:
                await log.append(author.requested(f"apr-{state}"))
            for name in ("approved", "denied"):
                await log.append(author.verdict(f"apr-{name}", name))
            await log.append(author.verdict("apr-spent"))
            await log.append(author.decided(approval_id="apr-spent"))
            for name in ("void", "expired"):
                await log.append(author.closed(f"apr-{name}", name))
            rows = await log.projection("approvals", without="sealed")
            assert {from_row(row).state for row in rows} == set(State)
            assert await log.approvals(Wanted(now), 9) == rows
            for state in State:
                fitting = [row for row in rows if from_row(row).state_at(now) is state]
                assert await log.approvals(Wanted(now, state=state), 9) == fitting, state
                assert await log.approvals(Wanted(now, state=state), 1) == fitting[:1], state

    async def test_approvals_are_found_by_tenant_and_by_the_beginning_of_their_ids(
        self, opened: Opened, author: Author
    ) -> None:
        async with opened() as log:
            for name in ("apr-b1", "apr-a2", "apr-a1", "apr-c1"):
                await log.append(author.requested(name))
            for prefix, found in {
                "": ["apr-b1", "apr-a2", "apr-a1", "apr-c1"],
                "apr-a": ["apr-a2", "apr-a1"],
                "apr-a1": ["apr-a1"],
                "apr-a1x": [],
                **{prefix: [] for prefix in ("apr-_", "apr-%", "APR-a", "apr-a\0", "\0")},
            }.items():
                rows = await log.approvals(Wanted(START, "acme", prefix=prefix), 9)
                assert [row["id"] for row in rows] == found, prefix
                assert await log.approvals(Wanted(START, "other", prefix=prefix), 9) == []

    async def test_an_expired_approval_forgets_its_arguments(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.requested("apr-1"))
            await log.append(author.closed("apr-1", "void"))
            (row,) = await log.projection("approvals")
            assert (row["state"], row["sealed"]) == ("void", None)

    # --- sessions -----------------------------------------------------------------------------------------

    async def test_a_session_belongs_to_whom_it_was_opened_by(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            outcomes = await asyncio.gather(
                log.append(author.decided("s-1", by="agent:bot")),
                log.append(author.decided("s-1", by="agent:thief")),
                log.append(author.decided("s-1", by="agent:bot")),
            )
            assert [type(outcome) for outcome in outcomes] == [Receipt, ForeignSession, Receipt]
            assert receipts([outcomes[2]])[0].index == 1
        async with opened() as log:
            assert await log.append(author.decided("s-1", by="agent:thief")) == ForeignSession("s-1")
            assert await log.sessions("acme", limit=9) == ["s-1"]
            assert await log.sessions("acme", principal="agent:bot", limit=9) == ["s-1"]
            assert await log.sessions("acme", principal="agent:thief", limit=9) == []
            assert await log.sessions("other", limit=9) == []

    async def test_sessions_come_in_pages_each_once_and_sorted_by_their_bytes(
        self, opened: Opened, author: Author
    ) -> None:
        async with opened() as log:
            for session, tenant, who in (
                *(("s-2", "acme", "agent:bot"), ("s-10", "acme", "agent:bot"), ("S-3", "acme", "agent:cat")),
                *(("s-2", "other", "agent:bot"), ("s:1", "other", "agent:bot")),
            ):
                fields = {"trace_id": f"{tenant}/{session}", "decision": "ALLOW", "call_sha256": "c" * 64, "tool": "t"}
                origin = author.origin()
                event = make(origin, Kind.DECIDED, fields, tenant=tenant, session=session, principal=who, body=b"{}")
                assert isinstance(await log.append(event), Receipt)
            assert await log.sessions(None, limit=9) == ["S-3", "s-10", "s-2", "s:1"]
            assert await log.sessions(None, limit=2) == ["S-3", "s-10"]
            assert await log.sessions(None, after="s-10", limit=1) == ["s-2"]
            assert await log.sessions("acme", after="s-10", limit=9) == ["s-2"]
            assert await log.sessions("acme", principal="agent:bot", limit=9) == ["s-10", "s-2"]
            assert await log.sessions("acme", principal="agent:bot", after="s-10", limit=9) == ["s-2"]
            assert await log.sessions(None, after="s:1", limit=9) == []

    async def test_the_refusal_of_a_foreign_session_is_recorded(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.decided("s-1", by="agent:bot"))
            assert isinstance(await log.append(author.decided("s-1", by="agent:thief", verdict="DENY")), Receipt)
            assert isinstance(await log.append(author.decided("s-1", by="agent:bot")), Receipt)

    async def test_a_kill_of_a_session_that_is_nobodys_does_not_take_it(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.kill(a_kill(target="s-9")))
            assert await log.sessions(None, limit=9) == []
            assert isinstance(await log.append(author.decided("s-9")), Receipt)

    # --- intents ------------------------------------------------------------------------------------------

    async def test_intents_without_an_outcome_are_found_after_a_restart(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.joined())
            for n in range(5):
                await log.append(author.decided(trace=f"t-{n}"))
            await log.append(author.decided(trace="t-refused", verdict="DENY"))
            for n in (0, 1, 3):
                await log.append(author.finished(f"t-{n}"))
            assert [record.fields["trace_id"] for record in await log.open_intents()] == ["t-2", "t-4"]
        async with opened() as log:
            assert [record.fields["trace_id"] for record in await log.open_intents()] == ["t-2", "t-4"]
            await log.append(author.finished("t-2"))
            await log.append(author.finished("t-4"))
            assert await log.open_intents() == []

    # --- verification -------------------------------------------------------------------------------------

    async def write_a_bit_of_everything(self, log: Whole, author: Author) -> None:
        kill = a_kill()
        for event in (
            author.joined(),
            author.decided(trace="t-1"),
            author.finished("t-1"),
            author.requested("apr-1"),
            author.requested("apr-2"),
            author.verdict("apr-1"),
            author.verdict("apr-2", "denied"),
            author.decided(trace="t-2", approval_id="apr-1"),
            author.kill(kill),
            author.acked(1),
            author.drained(kill),
            author.release_asked(kill, "person:a"),
            author.release(kill),
            author.accepted("p-1"),
            Author("m-2").joined(),
            author.gone("m-2"),
            author.decided("s-2", by="agent:other", verdict="DENY", idempotency_sha256="b" * 64),
            author.left(),
        ):
            assert isinstance(await log.append(event), Receipt)
        await log.integrate()

    async def test_derived_tables_equal_a_rebuild_from_the_events(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await self.write_a_bit_of_everything(log, author)
            tables = Tables()
            async for record in log.records():
                tables.apply(effects(record.fields, record.index, record.kill_position, record.raw_body))
            for name in ("kills", "members", "approvals", "acks", "release_asks", "holds", "pins"):
                stored = await log.projection(name)
                assert stored == list(tables.rows[name].values()), name

    # --- pins ---

    async def test_a_pin_keeps_what_was_accepted_and_what_was_found(
        self, opened: Opened, author: Author, audit: Callable[[], Awaitable[Report]]
    ) -> None:
        async with opened() as log:
            await log.append(author.accepted("p-1"))
            await log.append(author.quarantined("p-1", "p-2", 0))
            (row,) = await log.projection("pins", server="files")
            assert (row["state"], row["pin"], row["found"], row["name"]) == ("quarantined", "p-1", "p-2", "files__read")
            assert [row["definition"].encode(), row["found_definition"].encode()] == [
                subject_of("p-1"), subject_of("p-2"),
            ]  # fmt: skip
            await log.append(author.accepted("p-2", access="read"))
            (row,) = await log.projection("pins")
            assert (row["state"], row["pin"], row["found"], row["access"], row["actor"], row["idx"]) == (
                "accepted", "p-2", "", "read", "person:op", 2,
            )  # fmt: skip
            await log.append(author.rejected("p-3"))
            (row,) = await log.projection("pins")
            assert (row["state"], row["pin"], row["found"]) == ("rejected", "p-2", "p-3")
        assert (await audit()).findings == []

    async def test_a_quarantine_for_what_has_no_pin_is_kept_and_derived_again(
        self, opened: Opened, author: Author, audit: Callable[[], Awaitable[Report]]
    ) -> None:
        async with opened() as log:
            await log.append(author.accepted("p-1"))
            await log.append(author.unpinned("p-1", Unpinned.LISTED_TWICE, 0))
            assert isinstance(await log.append(author.unpinned("p-1", Unpinned.LISTED_TWICE, 0)), AlreadySpent)
        async with opened() as log:
            (row,) = await log.projection("pins")
            pin = pin_from_row(row)
            assert (pin.state, pin.sha256, pin.unpinned, pin.found_sha256, pin.found) == (
                PinState.QUARANTINED, "p-1", Unpinned.LISTED_TWICE, "", None,
            )  # fmt: skip
            await log.append(author.accepted("p-1"))
            pin = pin_from_row((await log.projection("pins"))[0])
            assert (pin.state, pin.unpinned) == (PinState.ACCEPTED, None)
            await log.append(author.unpinned("p-1", Unpinned.NOT_STRICT, 2))
        assert (await audit()).findings == []

    async def test_of_all_who_see_a_tool_for_the_first_time_one_accepts_it(
        self, opened: Opened, author: Author
    ) -> None:
        async with opened() as log:
            outcomes = await asyncio.gather(
                *(log.append(author.accepted(pin, trust="first_use")) for pin in ("p-1", "p-2", "p-3"))
            )
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent, AlreadySpent]
            assert [row["pin"] for row in await log.projection("pins")] == ["p-1"]

    async def test_first_use_does_not_accept_what_an_operator_has_rejected(
        self, opened: Opened, author: Author
    ) -> None:
        async with opened() as log:
            await log.append(author.rejected("p-1"))
            await log.append(author.accepted("p-1", trust="first_use"))
            assert [row["state"] for row in await log.projection("pins")] == ["rejected"]

    async def test_a_change_is_said_once_and_again_after_it_was_accepted(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.accepted("p-1"))
            outcomes = [await log.append(author.quarantined("p-1", "p-2", 0)) for _ in range(2)]
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent]
            await log.append(author.accepted("p-1"))
            assert isinstance(await log.append(author.quarantined("p-1", "p-2", 2)), Receipt)
            assert [row["state"] for row in await log.projection("pins")] == ["quarantined"]

    async def test_an_honest_log_verifies(
        self, opened: Opened, author: Author, audit: Callable[[], Awaitable[Report]]
    ) -> None:
        async with opened() as log:
            await self.write_a_bit_of_everything(log, author)
            running = await audit()
            await log.append(Author("m-3").decided("s-3"))
        stopped = await audit()
        assert running.findings == []
        assert (running.size, running.checkpoints, running.open_intents) == (18, 1, 1)
        assert stopped.findings == []
        assert (stopped.size, stopped.checkpoints, stopped.notes) == (19, 2, [])

    async def test_checkpoints_are_signed_and_cover_everything(
        self, opened: Opened, author: Author, key: NoteKey
    ) -> None:
        found: list[Checkpoint] = []
        async with opened() as log:
            for n in range(1, 40):
                await log.append(author.decided())
                await log.integrate()
                note = await log.checkpoint()
                assert note is not None
                found.append(open_checkpoint(note, [key], ORIGIN))
                assert found[-1].size == n
            leaves = [hashlib.sha256(b"\0" + record.leaf).digest() async for record in log.records()]
        for checkpoint in found:
            assert merkle.root(leaves[: checkpoint.size]) == checkpoint.root
        for old, new in itertools.pairwise(found):
            proof = merkle.consistency_proof(leaves[: new.size], old.size)
            assert merkle.continues(old.root, old.size, new.root, new.size, proof)

    async def test_without_new_events_there_is_no_new_checkpoint(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            await log.append(author.decided())
            await log.integrate()
            first = await log.checkpoint()
            await log.integrate()
            assert await log.checkpoint() == first

    async def test_tile_hashes_end_where_the_signed_tree_does(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            assert await log.hashes(0, 0, 10) == []
            await _append_many(log, author, 300)
            assert await log.hashes(0, 0, 256) == []
            await log.integrate()
            await _append_many(log, author, 3)
            leaves = [merkle.leaf_hash(record.leaf) async for record in log.records()]
            assert await log.hashes(0, 0, 4_096) == leaves[:300]
            assert await log.hashes(0, 256, 256) == leaves[256:300]
            assert await log.hashes(0, 300, 256) == []
            assert await log.hashes(1, 0, 256) == [merkle.root(leaves[:256])]
            assert await log.hashes(2, 0, 1) == []
            assert await log.hashes(0, 1 << 63, 256) == []

    async def test_tile_hashes_go_on_where_a_restart_found_them(self, opened: Opened, author: Author) -> None:
        leaves: list[bytes] = []
        for step in (200, 100, 500):
            async with opened() as log:
                await _append_many(log, author, step)
                await log.integrate()
                leaves = [merkle.leaf_hash(record.leaf) async for record in log.records()]
                whole = range(0, len(leaves) - 255, 256)
                assert await log.hashes(1, 0, 256) == [merkle.root(leaves[at : at + 256]) for at in whole]
        assert len(leaves) == 800

    async def test_proofs_made_of_tile_hashes_verify(self, opened: Opened, author: Author, key: NoteKey) -> None:
        async with opened() as log:
            signed: list[Checkpoint] = []
            for step in (1, 299, 240):
                await _append_many(log, author, step)
                await log.integrate()
                signed.append(open_checkpoint(await log.checkpoint() or b"", [key], ORIGIN))
            leaves = [merkle.leaf_hash(record.leaf) async for record in log.records()]
            for tree in signed:
                found = await Proofs(log, AtOnce()).inclusions(range(tree.size), tree.size)
                assert all(merkle.includes(tree.root, tree.size, at, leaves[at], found[at]) for at in range(tree.size))
            for old, new in itertools.combinations(signed, 2):
                proof = await Proofs(log, AtOnce()).consistency(old.size, new.size)
                assert merkle.continues(old.root, old.size, new.root, new.size, proof)
            with pytest.raises(LogBroken):
                await Proofs(log, AtOnce()).inclusions([0], 600)

    # --- answers that are kept, and followers -------------------------------------------------------------

    async def test_the_first_answer_under_a_key_is_kept_until_it_is_dropped(
        self, opened: Opened, author: Author, audit: Callable[[], Awaitable[Report]]
    ) -> None:
        async with opened() as log:
            events = [author.answered("k-1"), author.answered("k-2", of="m-2"), author.answered("k-1", b"another")]
            for event in events:
                await log.append(event)
            (row,) = await log.projection("answers", key="k-1")
            assert (row["sealed"], row["trace_id"], row["idx"]) == (b"sealed answer", "trace-k-1", 0)
            assert [row["sealed"] for row in await log.projection("answers", trace_id="trace-k-2")] == [None]
            assert [await log.answers_until(events[1].at, limit) for limit in (1, 2, 3)] == [0, 1, 1]
            assert await log.answers_until("2020-01-01T00:00:00.000000Z", 9) is None
            who = row["tenant"], row["principal"]
            assert await log.answers_held() == {who: len(b"sealed answer")}
        async with opened() as log:
            await log.append(author.answers_closed(0))
            assert [row["key"] for row in await log.projection("answers")] == ["k-2"]
            assert await log.answers_held() == {}
        assert (await audit()).findings == []

    async def test_a_key_stays_used_when_its_answer_is_dropped(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            spent = AlreadySpent("idempotency", "k-1")
            await log.append(author.decided(idempotency_sha256="k-1"))
            await log.append(author.answered("k-1"))
            await log.append(author.answers_closed(1))
            assert await log.append(author.decided(idempotency_sha256="k-1")) == spent
            assert [row["idx"] for row in await log.projection("spent", kind="idempotency", key="k-1")] == [0]
            found = await log.record(0)
            assert found is not None
            assert found.fields["idempotency_sha256"] == "k-1"
            assert await log.record(9) is None

    async def test_of_people_who_vote_at_once_each_has_a_place(
        self, opened: Opened, author: Author, audit: Callable[[], Awaitable[Report]]
    ) -> None:
        async with opened() as log:
            await log.append(author.requested("a-1"))
            votes = [author.vote("a-1", 1, "person:a"), author.vote("a-1", 1, "person:b")]
            votes += [author.vote("a-1", 2, "person:a"), author.vote("a-1", 2, "person:b")]
            outcomes = [await log.append(vote) for vote in votes]
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent, AlreadySpent, Receipt]
            (row,) = await log.projection("approvals", id="a-1")
            assert (row["state"], row["votes"], row["decided_by"]) == ("approved", 2, "person:b")
            found = await log.projection("votes", approval="a-1")
            assert [(vote["person"], vote["ordinal"]) for vote in found] == [("person:a", 1), ("person:b", 2)]
        assert (await audit()).findings == []

    async def test_a_follower_goes_on_where_it_was(self, opened: Opened) -> None:
        async with opened() as log:
            assert await log.bookmarks.load("webhooks") is None
            for index in (4, 7, 6):
                await log.bookmarks.save("webhooks", index)
            async with log.bookmarks.turn("webhooks") as is_ours:
                assert is_ours
        async with opened() as log:
            assert await log.bookmarks.load("webhooks") == 7
            assert await log.bookmarks.load("others") is None

    # --- callers that go away -----------------------------------------------------------------------------

    async def test_a_cancelled_caller_disturbs_nobody(self, opened: Opened, author: Author) -> None:
        async with opened() as log:

            async def append() -> Any:
                return await log.append(author.decided())

            tasks = [asyncio.create_task(append()) for _ in range(20)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, Receipt) for outcome in done[1::2])
            assert isinstance(await log.append(author.decided()), Receipt)
        async with opened() as log:
            indexes = [record.index for record in await all_of(log.records())]
            assert indexes == list(range(len(indexes)))

    async def test_what_a_caller_did_not_wait_for_is_there_once_the_log_has_settled(
        self, opened: Opened, author: Author
    ) -> None:
        async with opened() as log:
            task = asyncio.ensure_future(log.append(author.decided(trace="t-1")))
            await asyncio.sleep(0)
            task.cancel()
            await log.settled()
            assert [intent.fields["trace_id"] for intent in await log.open_intents()] == ["t-1"]

    async def test_a_cancelled_reader_disturbs_no_other(self, opened: Opened, author: Author) -> None:
        """Callers leave at any moment. SQLAlchemy ends a connection on which somebody was cancelled."""
        async with opened() as log:
            await log.append(author.decided())

            async def read() -> None:
                while True:
                    await log.size()

            for wait in range(30):
                tasks = [asyncio.create_task(read()) for _ in range(4)]
                for _ in range(wait * 3):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                async with asyncio.timeout(10):
                    await asyncio.gather(*tasks, return_exceptions=True)
                    assert await log.size() >= 1

    async def test_a_closed_log_refuses_at_once(self, opened: Opened, author: Author) -> None:
        async with opened() as log:
            pass
        for refused in (log.append(author.decided()), log.kills_since(-1), log.beat("m-1")):
            with pytest.raises(LogUnavailable):
                await refused


def patient(open_log: Callable[[], Awaitable[Patient]]) -> Opened:
    """An `opened` fixture's value for the contract, which says nothing of how long an append may take: a machine that
    stalls for a second breaks none of it."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Whole]:
        log = await open_log()
        try:
            with log.patient():
                yield log
        finally:
            await log.aclose()

    return opened


def opener(open_log: Callable[[], Awaitable[Whole]]) -> Opened:
    """An `opened` fixture's value from what opens a log."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Whole]:
        log = await open_log()
        try:
            yield log
        finally:
            await log.aclose()

    return opened
