"""What every store promises of the bodies that it keeps apart: pruning, legal holds, compression."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from agentgate.core import merkle
from agentgate.core.audit.report import Report
from agentgate.core.containment import Kill, KillId, Scope
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogUnavailable
from agentgate.core.event import Event, Origin, rfc3339
from agentgate.core.events.keeping import held, pruned, unheld
from agentgate.core.note import NoteKey, open_checkpoint
from agentgate.core.query import Query
from agentgate.core.retention import Around, Hold, Kept, Quiet
from agentgate.ports.log import AlreadySpent, Bodies, OnHold
from tests.contracts.log import ORIGIN, Author, Whole, all_of, append_all, receipts

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=400)
LIMIT, TODAY = rfc3339(NOW - timedelta(days=365)), rfc3339(NOW)


class Keeping(Whole, Protocol):
    """A log with its bodies."""

    bodies: Bodies


class Historian(Author):
    """Writes events of any time."""

    at: datetime | None = None

    def origin(self, moment: datetime | None = None) -> Origin:
        return super().origin(moment or self.at)

    def then(self, at: datetime) -> Historian:
        self.at = at
        return self

    def pruned(self, session: str, through: int, bodies: int = 0) -> Event:
        return pruned(
            self.origin(), actor="", tenant="acme", session=session, why="retention", bodies=bodies, through=through
        )

    def held(self, hold: str, tenant: str = "acme", session: str = "") -> Event:
        return held(self.origin(), Hold(hold, tenant, session, "person:a", "", "a lawsuit"), auth="key")

    def unheld(self, hold: str) -> Event:
        return unheld(self.origin(), Hold(hold, "acme", "", "person:a", ""), actor="person:a", auth="key")


class BodiesContract:
    """Subclasses give `opened`, `audit` and `key`, as for `LogContract`."""

    @pytest.fixture
    def opened(self) -> Callable[[], AbstractAsyncContextManager[Keeping]]:
        raise NotImplementedError

    @pytest.fixture
    def audit(self) -> Callable[[], Awaitable[Report]]:
        raise NotImplementedError

    @pytest.fixture
    def key(self) -> NoteKey:
        raise NotImplementedError

    @pytest.fixture
    def author(self) -> Historian:
        return Historian()

    @staticmethod
    async def fill(log: Keeping, author: Historian, count: int, sessions: int = 4, body: bytes | None = None) -> None:
        events = [
            author.decided(f"s-{n % sessions}", body=body if body is not None else b'{"n":%d}' % n)
            for n in range(count)
        ]
        receipts(await append_all(log, events))

    @staticmethod
    async def texts(log: Keeping, session: str | None = None) -> dict[int, bytes]:
        found = await all_of(log.records(session=session))
        return {record.index: record.raw_body for record in found if record.raw_body is not None}

    @staticmethod
    async def prune(log: Keeping, author: Historian, *sessions: Quiet) -> int:
        for session in sessions:
            receipts([await log.append(author.pruned(session.session, session.last))])
        return await log.bodies.forget(sessions)

    # --- pruning ---

    async def test_pruned_bodies_are_gone_and_leaves_roots_and_proofs_stay(
        self, opened: Any, author: Historian, audit: Any, key: NoteKey
    ) -> None:
        async with opened() as log:
            await self.fill(log, author.then(LONG_AGO), 40)
            await log.integrate()
            before = await all_of(log.records())
            old = open_checkpoint(await log.checkpoint(), [key], ORIGIN)
            assert await self.prune(log, author.then(NOW), Quiet("acme", "s-1", 37)) == 10
            assert set(await self.texts(log)) == {n for n in range(41) if n % 4 != 1}
            await log.integrate()
            after = await all_of(log.records())
            assert [record.leaf for record in after[:40]] == [record.leaf for record in before]
            leaves = [merkle.leaf_hash(record.leaf) for record in after]
            new = open_checkpoint(await log.checkpoint(), [key], ORIGIN)
            assert merkle.root(leaves[:40]) == old.root
            assert merkle.root(leaves) == new.root
        report = await audit()
        assert (report.findings, report.pruned, report.notes) == ([], 10, [])

    async def test_a_body_goes_only_where_a_prune_event_says_so(self, opened: Any, author: Historian) -> None:
        async with opened() as log:
            await self.fill(log, author, 8, sessions=2)
            with pytest.raises(LogUnavailable):
                await log.bodies.forget([Quiet("acme", "s-1", 7)])
            await log.append(author.pruned("s-1", 3))
            with pytest.raises(LogUnavailable):
                await log.bodies.forget([Quiet("acme", "s-1", 7)])
            assert len(await self.texts(log)) == 9
            assert await log.bodies.forget([Quiet("acme", "s-1", 3)]) == 2
            assert isinstance(await log.append(author.decided("s-1")), Receipt)

    async def test_a_prune_that_did_not_end_is_noted_and_can_be_ended(
        self, opened: Any, author: Historian, audit: Any
    ) -> None:
        async with opened() as log:
            await self.fill(log, author, 8, sessions=2)
            await log.append(author.pruned("s-1", 7))
        report = await audit()
        assert report.ok
        assert "event 1: its body is there, although event 8 pruned it" in report.notes[0]
        async with opened() as log:
            assert await log.bodies.pruned_lately(5) == [Quiet("acme", "s-1", 7)]
            assert await log.bodies.forget(await log.bodies.pruned_lately(5)) == 4
            assert await log.bodies.forget(await log.bodies.pruned_lately(5)) == 0
        report = await audit()
        assert (report.findings, report.notes, report.pruned) == ([], [], 4)

    async def test_what_happens_in_a_session_after_its_prune_stays(
        self, opened: Any, author: Historian, audit: Any
    ) -> None:
        async with opened() as log:
            await self.fill(log, author, 3, sessions=1)
            await log.append(author.pruned("s-0", 2))
            await log.append(author.decided("s-0"))
            assert await log.bodies.forget([Quiet("acme", "s-0", 2)]) == 3
            assert set(await self.texts(log)) == {3, 4}
            found, _ = await log.bodies.quiet(99, None)
            assert found == [Quiet("acme", "s-0", 4)]
            assert found[0].at == (await all_of(log.records(first=4)))[0].fields["at"]
        assert (await audit()).findings == []

    # --- legal hold ---

    async def test_of_a_hold_and_a_prune_the_first_in_the_log_counts(
        self, opened: Any, author: Historian, audit: Any
    ) -> None:
        async with opened() as log:
            await self.fill(log, author, 6, sessions=3)
            outcomes = await asyncio.gather(  # one batch, if the store makes batches
                log.append(author.pruned("s-0", 3)),
                log.append(author.held("h-1", session="s-0")),
                log.append(author.held("h-2", session="s-1")),
                log.append(author.pruned("s-1", 4)),
                log.append(author.pruned("s-2", 5)),
            )
            assert [type(outcome) for outcome in outcomes] == [Receipt, Receipt, Receipt, OnHold, Receipt]
            assert outcomes[3] == OnHold("h-2")
        async with opened() as log:
            assert await log.append(author.pruned("s-1", 4)) == OnHold("h-2")
            await log.append(author.unheld("h-2"))
            assert isinstance(await log.append(author.pruned("s-1", 4)), Receipt)
        assert (await audit()).findings == []

    @pytest.mark.parametrize(("tenant", "session"), [("", ""), ("acme", ""), ("acme", "s-0")])
    async def test_a_hold_covers_a_session_a_tenant_or_everybody(
        self, opened: Any, author: Historian, tenant: str, session: str
    ) -> None:
        async with opened() as log:
            await self.fill(log, author, 4, sessions=1)
            await log.append(author.held("h-1", "other"))
            await log.append(author.held("h-2", "acme", "s-9"))
            await log.append(author.held("h-3", tenant, session))
            assert await log.append(author.pruned("s-0", 3)) == OnHold("h-3")

    async def test_a_hold_is_given_and_released_once(self, opened: Any, author: Historian) -> None:
        async with opened() as log:
            outcomes = await asyncio.gather(*(log.append(author.held("h-1")) for _ in range(3)))
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent, AlreadySpent]
            outcomes = await asyncio.gather(*(log.append(author.unheld("h-1")) for _ in range(3)))
            assert [type(outcome) for outcome in outcomes] == [Receipt, AlreadySpent, AlreadySpent]
            (row,) = await log.projection("holds")
            assert (row["id"], row["reason"], row["released_idx"]) == ("h-1", "a lawsuit", 1)

    async def test_a_refused_hold_changes_no_other(self, opened: Any, author: Historian) -> None:
        """The same id again, of another session, in one batch with a prune."""
        async with opened() as log:
            await self.fill(log, author, 2, sessions=1)
            await log.append(author.held("h-1", session="s-0"))
            outcomes = await asyncio.gather(
                log.append(author.held("h-1", session="s-9")), log.append(author.pruned("s-0", 1))
            )
            assert outcomes[1] == OnHold("h-1")

    # --- compression ---

    async def test_compressed_bodies_are_read_as_before(self, opened: Any, author: Historian, audit: Any) -> None:
        async with opened() as log:
            await self.fill(log, author.then(LONG_AGO), 600)
            await self.fill(log, author.then(NOW), 10)
            before = await all_of(log.records())
            assert [await log.bodies.compress(LIMIT, TODAY) for _ in range(3)] == [True, True, False]
            assert await log.bodies.kept() == Kept(single=98, compressed=512, segments=2)
            assert await all_of(log.records()) == before
            assert [r.index for r in await all_of(log.search(Query(text='"n":17')))] == [17, *range(170, 180)]
            assert len(await all_of(log.records(session="s-3"))) == 152
        report = await audit()
        assert (report.findings, report.pruned, report.notes) == ([], 0, [])

    async def test_what_is_young_is_not_compressed(self, opened: Any, author: Historian) -> None:
        async with opened() as log:
            await self.fill(log, author.then(LONG_AGO), 100)
            await self.fill(log, author.then(NOW), 400)
            assert not await log.bodies.compress(LIMIT, TODAY)

    async def test_a_large_body_ends_a_segment(self, opened: Any, author: Historian) -> None:
        async with opened() as log:
            author.then(LONG_AGO)
            await self.fill(log, author, 3)
            await self.fill(log, author, 1, body=b'"%s"' % (b"x" * 1_100_000))
            await self.fill(log, author, 3)
            before = await self.texts(log)
            assert [await log.bodies.compress(LIMIT, TODAY) for _ in range(2)] == [True, False]
            assert await log.bodies.kept() == Kept(single=3, compressed=4, segments=1)
            assert await self.texts(log) == before

    async def test_pruning_takes_bodies_out_of_segments(self, opened: Any, author: Historian, audit: Any) -> None:
        async with opened() as log:
            await self.fill(log, author.then(LONG_AGO), 600, sessions=3)
            while await log.bodies.compress(LIMIT, TODAY):
                pass
            quiet = [Quiet("acme", "s-1", 598), Quiet("acme", "s-2", 599)]
            assert await log.bodies.count(quiet[0]) == 200
            assert await self.prune(log, author.then(NOW), *quiet) == 400
            assert await log.bodies.count(quiet[0]) == 0
            assert set(await self.texts(log)) == {*range(0, 600, 3), 600, 601}
            assert (await log.bodies.kept()).segments == 2
            assert await log.bodies.forget(quiet) == 0
        report = await audit()
        assert (report.findings, report.pruned) == ([], 400)

    async def test_a_pruned_body_does_not_keep_its_neighbours_from_compression(
        self, opened: Any, author: Historian, audit: Any
    ) -> None:
        async with opened() as log:
            await self.fill(log, author.then(LONG_AGO), 300, sessions=3)
            await self.prune(log, author, Quiet("acme", "s-1", 298))
            assert await log.bodies.compress(LIMIT, TODAY)
            assert len(await self.texts(log)) == 201
        assert (await audit()).findings == []

    # --- ages and sessions ---

    async def test_the_log_says_how_old_it_is(self, opened: Any, author: Historian) -> None:
        days = [400, 390, 380, 20, 10, 0]
        times = [rfc3339(NOW - timedelta(days=d)) for d in days]
        async with opened() as log:
            for d in days:
                await log.append(author.then(NOW - timedelta(days=d)).decided())
            assert await log.bodies.around(LIMIT, TODAY) == Around(3, times[2], times[3])
            assert await log.bodies.around(rfc3339(NOW - timedelta(days=500)), TODAY) == Around(0, None, times[0])
            assert await log.bodies.around(TODAY, TODAY) == Around(6, times[5], None)

    async def test_a_clock_that_ran_behind_makes_nothing_older(self, opened: Any, author: Historian) -> None:
        async with opened() as log:
            for days in (400, 10, 900, 900, 0):
                await log.append(author.then(NOW - timedelta(days=days)).decided())
            assert (await log.bodies.around(LIMIT, TODAY)).index == 1

    async def test_a_time_that_has_not_come_is_not_believed(self, opened: Any, author: Historian) -> None:
        async with opened() as log:
            for days in (400, -3650, 390, 10):
                await log.append(author.then(NOW - timedelta(days=days)).decided())
            assert (await log.bodies.around(LIMIT, TODAY)).index == 3

    async def test_ages_are_the_same_once_bodies_are_compressed(self, opened: Any, author: Historian) -> None:
        async with opened() as log:
            await self.fill(log, author.then(NOW - timedelta(days=500)), 200)
            await self.fill(log, author.then(NOW - timedelta(days=300)), 200)
            await self.fill(log, author.then(NOW - timedelta(days=900)), 200)
            await self.fill(log, author.then(NOW), 50)
            moments = [rfc3339(NOW - timedelta(days=days)) for days in (600, 400, 200, 1)]
            before = [await log.bodies.around(moment, TODAY) for moment in moments]
            assert [found.index for found in before] == [0, 200, 600, 600]
            while await log.bodies.compress(moments[-1], TODAY):
                pass
            assert (await log.bodies.kept()).segments == 2
            assert [await log.bodies.around(moment, TODAY) for moment in moments] == before

    async def test_sessions_are_enumerated_once_with_their_last_event(self, opened: Any, author: Historian) -> None:
        kill = Kill(KillId("k-1"), Scope.SESSION, "acme", "s-nobody", "a text", "person:op", NOW)
        async with opened() as log:
            await self.fill(log, author, 900, sessions=300)
            await log.append(author.kill(kill))
            await log.append(author.pruned("s-7", 607))
            await log.append(author.decided("s-8"))
            found: list[Quiet] = []
            place, below = None, 902
            while True:
                some, place = await log.bodies.quiet(below, place)
                found += some
                if place is None:
                    break
            expected = {Quiet("acme", f"s-{n}", 600 + n) for n in range(300)} - {Quiet("acme", "s-7", 607)}
            assert len(found) == len(set(found))
            assert set(found) == expected - {Quiet("acme", "s-8", 608)} | {Quiet("acme", "s-nobody", 900)}
            assert await log.bodies.session_count() == 300
