"""What every export promises: the same bytes for the same records, all of them, however they were handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from agentgate.core.event import Record
from agentgate.core.query import Query
from agentgate.ports.evidence import Export
from tests.core.events import a_session, numbered, record_of, with_text

CANARY = "CANARY-9f8e7d"


@cache
def records() -> list[Record]:
    """A session with a kill, events of all kinds with texts of people, and one whose body was pruned."""
    some = a_session(3)
    pruned = record_of(with_text("x")[0], index=900)
    gone = Record(901, 1, 0, pruned.fields, pruned.leaf, None, None)
    return [*some, *numbered(with_text(CANARY)), gone]


def exported(export: Export, some: Sequence[Record], at_once: int = 64) -> bytes:
    parts = [export.start()]
    parts += [export.write(some[start : start + at_once]) for start in range(0, len(some), at_once)]
    return b"".join([*parts, export.end()])


class ExportContract:
    """Subclasses give `begin`, which begins an export of what a query asks for."""

    begin: Callable[[Query], Export]

    def test_the_same_records_are_the_same_bytes(self) -> None:
        query = Query(tenant="default", text="x")
        assert exported(self.begin(query), records()) == exported(self.begin(query), records())

    def test_two_exports_know_nothing_of_each_other(self) -> None:
        one, two = self.begin(Query()), self.begin(Query())
        one.start()
        one.write(records())
        assert exported(two, records()) == exported(self.begin(Query()), records())

    def test_no_records_are_an_export_too(self) -> None:
        exported(self.begin(Query(since="2026-11-21T00:00:00.000000Z")), [])

    def test_it_is_written_while_it_is_read_or_at_the_end_alone(self) -> None:
        """What was handed over is not lost in between, whatever the size of the pieces."""
        assert len(exported(self.begin(Query()), records(), at_once=1)) >= len(exported(self.begin(Query()), records()))

    def test_it_says_what_it_is(self) -> None:
        export = self.begin(Query())
        assert "/" in export.media_type
        assert export.extension
        assert not export.extension.startswith(".")
