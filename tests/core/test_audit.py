"""`log verify` on rows in memory: an honest log has no findings, and any change of any bit is found and named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.audit.auditor import Auditor
from agentgate.core.audit.report import Report
from agentgate.core.audit.stored import RawRow, StoredCheckpoint, StoredHead, Stretch
from agentgate.core.audit.unsigned import Unsigned
from agentgate.core.containment import Scope
from agentgate.core.event import Event, Kind, make
from agentgate.core.merkle import Frontier, TileHash
from agentgate.core.note import Checkpoint, NoteKey, sign
from agentgate.core.projection.effects import effects
from agentgate.core.projection.tables import KEYS, Row, Tables
from agentgate.core.strict_json import canonical_plain
from tests.contracts.bodies import Historian
from tests.contracts.log import ORIGIN, START, Author, a_kill

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = NoteKey(ORIGIN, SECRET.public_key().public_bytes_raw())
COLUMNS = (
    "index", "event_id", "kind", "tenant", "session", "session_number", "at", "kill_position",
    "leaf", "leaf_hash", "salt", "body",
)  # fmt: skip


def a_row(index: int, event: Event, number: int, position: int) -> RawRow:
    kind = event.fields["kind"]
    about = (event.id, kind, event.tenant, event.session, number, event.at, position)
    return (index, *about, event.leaf, event.leaf_hash, event.salt, event.body)


class Stored:
    """A log as a store would have it, by the simplest code that can make one."""

    def __init__(self, events: list[Event], checkpoint_at: tuple[int, ...] | None = None) -> None:
        """With one checkpoint over all of it, unless something else is said."""
        self.rows: list[RawRow] = []
        self.checkpoints: list[StoredCheckpoint] = []
        self.tile_hashes: list[TileHash] = []
        numbers: dict[tuple[str, str], int] = {}
        frontier, tables, position = Frontier(), Tables(), 0
        for index, event in enumerate(events):
            number = 0
            if event.session:
                number = numbers[event.tenant, event.session] = numbers.get((event.tenant, event.session), 0) + 1
            position += event.kind in (Kind.KILLED, Kind.RELEASED)
            tables.apply(effects(event.fields, index, position, event.body, event.projected))
            self.rows.append(a_row(index, event, number, position))
            self.tile_hashes += frontier.append(event.leaf_hash)
            if index + 1 in (checkpoint_at if checkpoint_at is not None else (len(events),)):
                self.checkpoints.append(checkpoint(frontier))
        self.head: StoredHead | None = StoredHead(len(events), position, 0)
        self.tables: dict[str, list[Row]] = {
            name: [dict(row) for row in rows.values()] for name, rows in tables.rows.items()
        }

    def report(self, *kept: bytes) -> Report:
        """What is said of it, also in the light of checkpoints that were `kept` elsewhere."""
        auditor = Auditor(ORIGIN, [KEY], self.checkpoints, kept, tile_hashes=self.tile_hashes)
        auditor.feed(self.rows)
        return auditor.finish(self.head, self.tables)

    def set(self, index: int, column: str, value: Any) -> None:
        row = list(self.rows[index])
        row[COLUMNS.index(column)] = value
        self.rows[index] = tuple(row)  # type: ignore[assignment]


def checkpoint(frontier: Frontier, secret: Ed25519PrivateKey = SECRET, origin: str = ORIGIN) -> StoredCheckpoint:
    key = NoteKey(origin, secret.public_key().public_bytes_raw())
    note = sign(Checkpoint(origin, frontier.size, frontier.root()).text, key, secret.sign)
    return StoredCheckpoint(frontier.size, frontier.root(), note, frontier.to_bytes())


def some_events() -> list[Event]:
    author, kill = Historian(), a_kill()
    return [
        author.joined(),
        author.decided(trace="t-1"),
        author.finished("t-1"),
        author.requested("a-1"),
        author.verdict("a-1"),
        author.decided(trace="t-2", approval_id="a-1"),
        author.kill(kill),
        author.acked(1),
        author.drained(kill),
        author.release_asked(kill, "person:a"),
        author.release(kill),
        author.decided("s-2", by="agent:other", verdict="DENY"),
        Author("m-2").joined(),
        author.gone("m-2"),
        author.gone("m-2", "attested"),
        author.held("h-1", session="s-2"),
        author.unheld("h-1"),
        author.pruned("s-9", 0),
        author.accepted("p-1"),
        author.quarantined("p-1", "p-2", 18),
        author.requested("a-2"),
        author.vote("a-2", 1, "person:a"),
        author.closed("a-2"),
        author.answered("k-1"),
        author.answers_closed(23),
        author.answered("k-2", of="m-2"),
        author.keys_changed(),
        author.left(),
    ]


EVENTS = some_events()
SIZE = len(EVENTS)


def stored() -> Stored:
    return Stored(EVENTS, checkpoint_at=(3, 8, SIZE))


def first(report: Report) -> int | None:
    return report.findings[0].index


def test_an_honest_log_has_no_findings() -> None:
    report = stored().report()
    assert report.findings == []
    assert report.notes == []
    assert (report.size, report.kill_position, report.checkpoints, report.pruned, report.open_intents) == (
        SIZE,
        2,
        3,
        0,
        1,
    )
    frontier = Frontier()
    frontier.extend(event.leaf_hash for event in EVENTS)
    assert report.root == frontier.root()


def test_an_empty_log_has_no_findings() -> None:
    assert Stored([]).report().ok


def without_bodies(events: list[Event], *indexes: int) -> Report:
    """What is said of a log in which these bodies are not there."""
    log = Stored(events)
    for index in indexes:
        log.set(index, "salt", None)
        log.set(index, "body", None)
    return log.report()


HISTORIAN = Historian()


def a_past(*, prune: bool = True) -> list[Event]:
    """Sessions s-1 (events 0 and 2) and s-2 (1 and 3), of which s-1 was pruned by event 4."""
    events = [HISTORIAN.decided(session) for session in ("s-1", "s-2", "s-1", "s-2")]
    return [*events, *([HISTORIAN.pruned("s-1", 2, 2)] if prune else []), HISTORIAN.decided("s-1")]


def test_pruned_bodies_are_counted_and_nothing_else() -> None:
    report = without_bodies(a_past(), 0, 2)
    assert (report.findings, report.notes, report.pruned) == ([], [], 2)


def test_what_several_prunes_took_is_counted_together() -> None:
    events = [*a_past(), HISTORIAN.pruned("s-1", 5), HISTORIAN.pruned("s-2", 3)]
    report = without_bodies(events, *range(6))
    assert (report.findings, report.notes, report.pruned) == ([], [], 6)


@pytest.mark.parametrize(("gone", "index"), [((0, 1, 2), 1), ((0, 2, 5), 5), ((0, 2, 4), 4), ((3,), 3)])
def test_a_body_that_no_prune_event_took_is_named(gone: tuple[int, ...], index: int) -> None:
    """Of another session, after the prune, the prune's own."""
    (finding,) = without_bodies(a_past(), *gone).findings
    assert str(finding) == f"event {index}: its body is gone, and no prune event took it"


def test_a_body_without_any_prune_event_is_named_too() -> None:
    assert [finding.index for finding in without_bodies(a_past(prune=False), 2, 0).findings] == [0, 2]


def test_a_prune_takes_nothing_that_comes_after_it() -> None:
    events = [HISTORIAN.decided("s-1"), HISTORIAN.pruned("s-1", 9), HISTORIAN.decided("s-1")]
    assert [finding.index for finding in without_bodies(events, 0, 2).findings] == [2]


def test_a_body_that_is_there_although_pruned_is_a_note() -> None:
    report = without_bodies(a_past(), 2)
    assert (report.ok, report.pruned) == (True, 1)
    assert report.notes == ["event 0: its body is there, although event 4 pruned it: a prune did not end"]


def test_a_prune_of_what_a_hold_keeps_is_named() -> None:
    """No honest log appends it."""
    for of in (("acme", ""), ("acme", "s-1"), ("", "")):
        author = Historian()
        events = [author.decided("s-1"), author.held("h-1", *of), author.pruned("s-1", 0)]
        (finding,) = without_bodies(events, 0).findings
        assert str(finding) == "event 2: prunes a session that hold 'h-1' keeps"
        assert without_bodies([*events[:2], Historian("m-2").unheld("h-1"), events[2]], 0).ok


def test_a_malformed_prune_explains_nothing() -> None:
    for fields in ({"through": "0"}, {"through": True}, {"through": 0.5}):
        author = Historian()
        decided, through = author.decided("s-1"), {"why": "retention", "bodies": 1} | fields
        event = make(author.origin(), Kind.PRUNED, through, tenant="acme", session="s-1")
        assert [str(finding) for finding in without_bodies([decided, event], 0).findings] == [
            "event 1: a pruned event without a session, or without an index that it goes through",
            "event 0: its body is gone, and no prune event took it",
        ]


@given(
    index=st.integers(0, SIZE - 1),
    column=st.sampled_from(COLUMNS[1:]),
    at=st.integers(min_value=0),
    bit=st.integers(0, 7),
)
def test_any_changed_bit_is_found_at_its_event(index: int, column: str, at: int, bit: int) -> None:
    log = stored()
    before = log.rows[index][COLUMNS.index(column)]
    if isinstance(before, int):
        after: Any = before ^ (1 << at % 62)
    elif isinstance(before, bytes):
        after = _flipped(before, at, bit)
    else:
        after = _flipped((before or "x").encode(), at, bit).decode("latin-1")
    log.set(index, column, after)
    assert first(log.report()) == index


@given(name=st.sampled_from(sorted(KEYS)), data=st.data())
def test_any_change_of_a_derived_row_is_found(name: str, data: st.DataObject) -> None:
    log = stored()
    row = data.draw(st.sampled_from(log.tables[name]))
    column = data.draw(st.sampled_from(sorted(row)))
    value = row[column]
    row[column] = value + 1 if isinstance(value, int) else "another"
    report = log.report()
    assert report.findings
    assert all(finding.what.startswith(name) for finding in report.findings)


LAST_ROWS = {
    "acks": (7, "m-1/1"),
    "answers": (25, "k-2"),
    "approvals": (20, "a-2"),
    "holds": (15, "h-1"),
    "kills": (6, "k-1"),
    "members": (12, "m-2"),
    "pins": (18, "files/read"),
    "prunes": (17, "acme/s-9"),
    "release_asks": (9, "k-1/person:a"),
    "sessions": (11, "acme/s-2"),
    "spent": (26, f"keys/{'f' * 64}"),
    "votes": (21, "a-2/person:a"),
}
"""Which event made the last row of each table, and what the row is called."""


@pytest.mark.parametrize("name", sorted(KEYS))
def test_a_removed_or_added_derived_row_is_found(name: str) -> None:
    log = stored()
    removed = log.tables[name].pop()
    index, key = LAST_ROWS[name]
    assert [str(found) for found in log.report().findings] == [f"event {index}: {name}: the row of {key} is missing"]
    log.tables[name] += [removed, dict.fromkeys(removed, "x")]
    key = "/".join("x" * len(KEYS[name]))
    assert [str(found) for found in log.report().findings] == [f"{name}: a row that no event made: {key}"]


def test_a_call_that_was_closed_for_another_is_closed_once() -> None:
    """No answer of it is kept: what it used up counts all the same."""
    author = Author()
    decided = author.decided(trace="t-1")
    ends = [make(author.origin(), Kind.FINISHED, {"trace_id": "t-1", "outcome": "unknown", "of": 0}) for _ in range(2)]
    assert Stored([decided, ends[0]]).report().ok
    assert [str(found) for found in Stored([decided, *ends]).report().findings] == [
        "event 2: spends the outcome that event 1 has spent"
    ]


def test_of_a_log_that_is_damaged_all_over_fifty_findings_are_told() -> None:
    log = long_log()
    log.rows = [(*row[:9], b"", *row[10:]) for row in log.rows]
    assert [finding.index for finding in log.report().findings] == list(range(50))


def test_rows_that_differ_or_that_no_event_made_are_all_named() -> None:
    log = stored()
    log.tables["kills"][0] |= {"actor": "x", "since": "y"}
    log.tables["kills"] += [dict.fromkeys(log.tables["kills"][0], made_up) for made_up in "pq"]
    assert [str(found) for found in log.report().findings] == [
        "event 6: kills: actor, since of k-1 is not what the events say",
        "kills: a row that no event made: p",
        "kills: a row that no event made: q",
    ]


def test_a_pruned_kill_keeps_its_reason_in_its_row() -> None:
    kill = replace(a_kill(), scope=Scope.SESSION, tenant="acme", target="s-1")
    log = Stored([HISTORIAN.kill(kill), HISTORIAN.pruned("s-1", 0)])
    assert log.tables["kills"][0]["reason"] == kill.reason != ""
    log.set(0, "salt", None)
    log.set(0, "body", None)
    assert (log.report().findings, log.report().pruned) == ([], 1)
    log.tables["kills"][0]["actor"] = "x"
    assert [str(found) for found in log.report().findings] == [
        "event 0: kills: actor of k-1 is not what the events say"
    ]


def test_sealed_arguments_must_be_gone_when_they_are_spent() -> None:
    log = stored()
    log.tables["approvals"][0]["sealed"] = b"still here"
    assert "sealed" in log.report().findings[0].what


@pytest.mark.parametrize("index", [0, 5, SIZE - 1])
def test_a_removed_event_is_named(index: int) -> None:
    log = stored()
    del log.rows[index]
    report = log.report()
    assert first(report) == index
    assert "missing" in report.findings[0].what or "head row" in report.findings[0].what or index == SIZE - 1


def test_a_removed_event_whose_followers_were_renumbered_is_named() -> None:
    log = stored()
    kept = [event for event in EVENTS if event is not EVENTS[5]]
    forged = Stored(kept)
    forged.checkpoints = log.checkpoints
    report = forged.report()
    assert not report.ok
    assert any("not those that were signed" in finding.what for finding in report.findings)


def test_a_truncated_tail_is_named() -> None:
    forged = Stored(EVENTS[:-2])
    forged.checkpoints = stored().checkpoints
    report = forged.report()
    assert str(report.findings[0]) == (
        f"event {SIZE - 2}: missing: checkpoint {SIZE} has signed more events than the {SIZE - 2} stored"
    )


def test_swapped_events_are_named() -> None:
    events = [*EVENTS[:1], EVENTS[2], EVENTS[1], *EVENTS[3:]]
    forged = Stored(events)
    forged.checkpoints = stored().checkpoints
    report = forged.report()
    assert first(report) == 2  # the checkpoint over the first three; of the two after it nothing more is to be said
    assert [found.index for found in report.findings if "not those that were signed" in found.what] == [2]


def test_a_replayed_event_is_named() -> None:
    report = Stored([*EVENTS, EVENTS[2]]).report()
    assert first(report) == SIZE
    assert "was there before" in report.findings[0].what


def test_an_inserted_event_of_a_made_up_number_is_named() -> None:
    stranger = Author()
    stranger._counter = 2
    report = Stored([*EVENTS, stranger.decided("s-1")]).report()
    assert first(report) == SIZE


def test_an_event_below_0_is_named_and_the_others_hold() -> None:
    log = stored()
    log.rows.insert(0, (-1, *log.rows[-1][1:]))
    report = log.report()
    assert str(report.findings[0]) == "event -1: an index below 0"
    assert report.checkpoints == 3


def test_a_checkpoint_by_another_key_or_of_another_log_is_refused() -> None:
    frontier = Frontier()
    frontier.extend(event.leaf_hash for event in EVENTS)
    other = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    for forged in (checkpoint(frontier, other), checkpoint(frontier, origin="another/log")):
        log = stored()
        log.checkpoints = [forged]
        assert first(log.report()) == SIZE - 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"root": bytes(32)}, "event 27: checkpoint 28: its note says another size or root than its row"),
        ({"size": SIZE - 1}, "event 26: checkpoint 27: its note says another size or root than its row"),
        (
            {"frontier": (SIZE).to_bytes(8, "big") + bytes(64)},
            "event 27: checkpoint 28: its stored frontier is another tree's",
        ),
        (
            {"note": b"nonsense"},
            "event 27: checkpoint 28: a note is text, an empty line and signatures, without control characters",
        ),
    ],
)
def test_an_altered_checkpoint_row_is_refused(change: dict[str, Any], what: str) -> None:
    log = stored()
    log.checkpoints[-1] = replace(log.checkpoints[-1], **change)
    report = log.report()
    assert ([str(finding) for finding in report.findings], report.checkpoints) == ([what], 2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"size": SIZE + 1}, "event 28: the head row counts 29 events, and 28 are stored"),
        ({"size": SIZE - 1}, "event 27: the head row counts 27 events, and 28 are stored"),
        ({"kill_position": 3}, "the head row's kill position is 3, not 2"),
        ({"open_from": 6}, "event 5: an open intent, but the head row says that none is open before 6"),
    ],
)
def test_an_altered_head_row_is_found(change: dict[str, int], what: str) -> None:
    log = stored()
    assert log.head is not None
    log.head = replace(log.head, **change)
    assert [str(finding) for finding in log.report().findings] == [what]
    log.head = None
    assert [str(finding) for finding in log.report().findings] == ["there is no head row"]


def test_intents_may_be_open_from_where_the_head_row_says() -> None:
    log = stored()
    assert log.head is not None
    log.head = replace(log.head, open_from=5)
    assert log.report().ok


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("leaf_hash", b"x", "leaf_hash is not the leaf's"),
        ("event_id", "x", "the leaf says another event_id than the column"),
        ("session_number", 9, "session_number is 9, not 1"),
        ("kill_position", 9, "kill_position is 9, not 0"),
        ("salt", None, "a body without its salt, or a salt without its body"),
        ("body", None, "a body without its salt, or a salt without its body"),
        ("body", b"{}", "the body is not the one that the leaf binds"),
    ],
)
def test_an_altered_column_is_found(column: str, value: object, what: str) -> None:
    log = stored()
    log.set(1, column, value)
    assert [str(finding) for finding in log.report().findings] == [f"event 1: {what}"]


def test_columns_that_differ_are_all_named() -> None:
    log = stored()
    for column in ("event_id", "kind", "tenant", "session", "at"):
        log.set(1, column, "x")
    (finding,) = log.report().findings
    assert finding.what == "the leaf says another event_id and kind and at and tenant and session than the column"


def test_skipped_numbers_of_a_member_are_a_note_and_no_finding() -> None:
    author = Author()
    author.origin()
    events = [author.joined()]
    lost = author.decided()
    events += [author.decided(), author.decided()]
    report = Stored(events).report()
    assert report.ok
    (note,) = report.notes
    assert note.startswith("member m-1: the log has refused 1 of its events ")
    assert note.endswith(f" or could not write them, from its number {lost.fields['counter']} on")


def numbered(counter: int) -> Event:
    return make(Author().origin(), Kind.REPAIRED, {"counter": counter})


@pytest.mark.parametrize("skipped", [100_001, 2**63])
def test_any_number_of_events_that_an_outage_skipped_is_a_note_and_takes_no_memory(skipped: int) -> None:
    """Callers who try again while the log is away skip a number each; what had got one before may come after."""
    events = [numbered(1), numbered(skipped + 2)]
    (note,) = Stored(events).report().notes
    assert f"has refused {skipped} of its events" in note
    report = Stored([*events, *map(numbered, (9, 7, 8, 2, skipped + 1))]).report()
    assert report.ok
    (note,) = report.notes
    assert f"has refused {skipped - 5} of its events" in note
    assert note.endswith("from its number 3 on")


@pytest.mark.parametrize("number", [0, 1, 7, 12])
def test_a_number_that_was_there_before_is_found_also_after_a_gap(number: int) -> None:
    report = Stored([*map(numbered, (1, 12, 7, number))]).report()
    assert [str(one) for one in report.findings] == [f"event 3: counter {number} of m-1 was there before"]


def test_an_outcome_that_comes_after_its_call_was_closed_for_a_member_that_seemed_gone_is_no_finding() -> None:
    """Another member closed the call as unknown; then its own, which was only slow, says how it ended."""
    slow, other = Author("m-1"), Author("m-2")
    events = [slow.joined(), other.joined(), slow.decided(trace="t-1"), other.gone("m-1")]
    report = Stored([*events, other.finished("t-1"), slow.finished("t-1"), slow.left(), other.left()]).report()
    assert (report.findings, report.notes, report.open_intents) == ([], [], 0)


@pytest.mark.parametrize(
    "parting", [lambda a: a.gone("m-1"), lambda a: a.gone("m-1", "attested"), lambda a: a.left("m-1")]
)
def test_a_decision_of_a_member_that_was_not_there_any_more_is_found(parting: Any) -> None:
    """No log takes it (DESIGN §4); a refusal is recorded all the same."""
    author, other = Author("m-1"), Author("m-2")
    events = [author.joined(), other.joined(), parting(other)]
    assert Stored([*events, author.decided(verdict="DENY"), author.finished("t")]).report().ok
    for verdict in ("ALLOW", "REQUIRE_APPROVAL"):
        report = Stored([*events, author.decided(verdict=verdict)]).report()
        assert [finding.index for finding in report.findings] == [3]
        assert "m-1, which had left or was gone" in report.findings[0].what


def test_numbers_that_arrive_late_are_no_oddity() -> None:
    author = Author()
    one, two, three = author.joined(), author.decided(), author.decided()
    report = Stored([one, three, two]).report()
    assert (report.findings, report.notes) == ([], [])


WITHOUT = "without what it must have"


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (lambda a: a.decided(by="agent:thief"), "decides for agent:thief in a session of 'agent:bot'"),
        (lambda a: a.decided(approval_id="a-1"), "spends the approval that event 0 has spent"),
        (lambda a: make(a.origin(), Kind.KILLED, {}), f"a killed event {WITHOUT} ('kill_id')"),
        (lambda a: make(a.origin(), Kind.GONE, {"of": "m-2"}), f"a gone event {WITHOUT} ('why')"),
        (lambda a: make(a.origin(), Kind.GONE, {"of": "m-2", "why": "boredom"}), f"a gone event {WITHOUT} ('boredom')"),
        (
            lambda a: make(a.origin(), Kind.RELEASE_ASKED, {"kill_id": "k-1"}),
            f"a release_asked event {WITHOUT} ('principal')",
        ),
        (lambda a: make(a.origin(), Kind.JOINED, {"kind": "invented"}), "unknown kind 'invented'"),
        (lambda a: make(a.origin(), Kind.JOINED, {"v": 2}), "a leaf of version 2"),
        (lambda a: make(a.origin(), Kind.JOINED, {"counter": "7"}), "the leaf has no counter"),
    ],
)
def test_events_that_no_gateway_appends_are_found(second: Any, what: str) -> None:
    author = Author()
    log = Stored([author.decided(approval_id="a-1")])
    event = second(author)
    log.rows.append(a_row(1, event, 2 if event.session else 0, 0))
    log.head = StoredHead(2, 0, 0)
    assert f"event 1: {what}" in map(str, log.report().findings)


def test_an_idempotency_key_is_used_once_in_a_log() -> None:
    author = Author()
    log = Stored([author.joined(), author.decided(idempotency_sha256="k-1"), author.decided(idempotency_sha256="k-2")])
    assert log.report().ok
    again = author.decided(idempotency_sha256="k-1")
    log.rows.append(a_row(3, again, 3, 0))
    log.head = StoredHead(4, 0, 0)
    assert "event 3: spends the idempotency that event 1 has spent" in map(str, log.report().findings)


def test_a_refusal_in_another_s_session_is_no_finding() -> None:
    author = Author()
    assert Stored([author.decided(), author.decided(by="agent:other", verdict="DENY")]).report().ok


def test_why_a_kill_or_a_hold_was_ordered_is_not_missed_where_its_body_was_pruned() -> None:
    author, kill = Historian(), replace(a_kill(), scope=Scope.SESSION, target="s-1", tenant="acme")
    log = Stored([author.kill(kill), author.pruned("s-1", 0), author.held("h-1")])
    log.set(0, "salt", None)
    log.set(0, "body", None)
    assert log.tables["kills"][0]["reason"]
    assert log.report().findings == []
    log.tables["holds"][0]["reason"] = "another"
    assert [str(one) for one in log.report().findings] == ["event 2: holds: reason of h-1 is not what the events say"]


def test_an_answer_that_is_not_kept_although_its_outcome_says_so_is_found() -> None:
    author = Author()
    log = Stored([author.joined(), author.answered("k-1")])
    assert log.report().ok
    log.tables["answers"].clear()
    (finding,) = log.report().findings
    assert finding.index == 1
    assert finding.what.startswith("answers: ")


@pytest.mark.parametrize(
    ("leaf", "what"),
    [
        (b"", "the leaf is not a JSON object"),
        (b"[]", "the leaf is not a JSON object"),
        (b"{", "the leaf is not a JSON object"),
        (b'{"v":1, "a":2}', "the leaf is not in its canonical form"),
        (b'{"v":1,"v":1}', "the leaf is not in its canonical form"),
        (b'{"v":1,"id":"x"}', "the leaf is not in its canonical form"),
        (canonical_plain({"v": 1, "x": "y" * 70_000}), "a leaf of 70014 bytes"),
    ],
)
def test_a_leaf_that_is_none_is_found(leaf: bytes, what: str) -> None:
    log = stored()
    log.set(4, "leaf", leaf)
    log.set(4, "leaf_hash", hashlib.sha256(b"\0" + leaf).digest())
    assert str(log.report().findings[0]) == f"event 4: {what}"


def _flipped(raw: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[at % len(changed)] ^= 1 << bit
    return bytes(changed)


# --- checkpoints that were kept elsewhere, and stretches ---------------------------------------------------


def noted(events: list[Event], **more: Any) -> bytes:
    frontier = Frontier()
    frontier.extend(event.leaf_hash for event in events)
    return checkpoint(frontier, **more).note


FORKED = "the events up to here are not those that were signed: this is another log, or a forked one"
NO_KEY = "a checkpoint that was kept elsewhere: no known key has signed this note"
OTHERS = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ([noted(EVENTS), noted(EVENTS[:7]), noted([])], []),
        ([noted(EVENTS, secret=OTHERS), noted(EVENTS, origin="x")], [NO_KEY, NO_KEY]),
        ([noted([EVENTS[0], EVENTS[2]])], [f"event 1: checkpoint 2, kept elsewhere: {FORKED}"]),
        (
            [noted([*EVENTS, EVENTS[0]])],
            ["event 28: rolled back or cut: checkpoint 29 has signed more events than the 28 stored"],
        ),
    ],
    ids=["true", "of another key or log", "forked", "rolled back"],
)
def test_a_checkpoint_that_was_kept_elsewhere_cannot_be_taken_back(kept: list[bytes], told: list[str]) -> None:
    """It is none of the log's own, which alone are counted."""
    log = stored()
    auditor = Auditor(ORIGIN, [KEY], log.checkpoints, iter(kept), tile_hashes=log.tile_hashes)
    auditor.feed(log.rows)
    report = auditor.finish(log.head, log.tables)
    assert ([str(finding) for finding in report.findings], report.checkpoints) == (told, 3)


MINUTE = timedelta(minutes=1)


def after(*since: timedelta, signed: tuple[int, ...] = (1,)) -> Stored:
    """A member that joined, and decisions so long after a first one."""
    author = Author()
    joined = author.joined()
    return Stored([joined, *(author.decided(moment=START + some) for some in (timedelta(), *since))], signed)


def test_what_is_signed_ends_with_the_newest_checkpoint_that_holds() -> None:
    """The others are findings by themselves, and no reason to say that there are none."""
    log = stored()
    log.set(4, "leaf", log.rows[5][8])
    report = log.report()
    assert (report.signed, report.checkpoints) == (3, 1)
    assert not any("not signed" in finding.what for finding in report.findings)


def test_what_the_last_moment_left_unsigned_is_a_note() -> None:
    """As whoever looks at a running gateway's log finds it, or what is left of one that was killed."""
    report = after(MINUTE, timedelta(seconds=1)).report()
    (note,) = report.notes
    assert (report.findings, report.signed, report.size) == ([], 1, 4)
    assert "no checkpoint is over the last 3 events yet" in note
    report = after(2 * MINUTE, signed=(1, 2)).report()
    assert (report.findings, len(report.notes), report.signed) == ([], 1, 2)


def test_a_log_whose_process_was_killed_before_it_served_need_not_be_signed() -> None:
    author = Author()
    report = Stored([author.joined(), author.keys_changed(), author.left()], checkpoint_at=()).report()
    assert (report.findings, report.signed, len(report.notes)) == ([], 0, 1)


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (after(signed=()), "event 0: not signed: no checkpoint is over any of the 2 events"),
        (Stored([Author().kill(a_kill())], ()), "event 0: not signed: no checkpoint is over any of the 1 events"),
        (
            after(MINUTE, MINUTE + timedelta(milliseconds=1)),
            "event 1: not signed: no checkpoint is over the last 3 events, those of m-1 of 2026-11-21T12:00:00",
        ),
        (
            after(-2 * MINUTE),
            "event 1: not signed: no checkpoint is over the last 2 events, those of m-1 of 2026-11-21T11:58",
        ),
        (after(2 * MINUTE, timedelta()), "event 1: not signed: no checkpoint is over the last 3 events"),
    ],
    ids=["nothing", "nothing, and a kill", "too long ago", "backwards", "in between"],
)
def test_what_ought_to_have_been_signed_is_found(log: Stored, told: str) -> None:
    report = log.report()
    assert [str(finding)[: len(told)] for finding in report.findings] == [told]
    assert report.findings[0].what.endswith(": checkpoints were taken away, or could not be kept")
    assert report.notes == []


def test_a_moment_is_one_members_whatever_the_clock_of_another_says() -> None:
    fast, slow = Author("m-1"), Author("m-2")
    events = [fast.joined(), slow.joined()]
    events += [
        fast.decided(moment=START + 2 * MINUTE),
        slow.decided(moment=START),
        fast.decided(moment=START + 2 * MINUTE),
    ]
    report = Stored(events, (2,)).report()
    assert (report.findings, len(report.notes)) == ([], 1)
    report = Stored([*events, slow.decided(moment=START + 2 * MINUTE)], (2,)).report()
    assert ["those of m-2 of 2026-11-21T12:00:00" in finding.what for finding in report.findings] == [True]


def test_an_outcome_that_the_log_took_late_is_of_no_moment() -> None:
    author = Author()
    events = [
        author.decided(trace="t-1", moment=START),
        author.decided(moment=START + 2 * MINUTE),
        author.finished("t-1"),
    ]
    report = Stored(events, (1,)).report()
    assert (report.findings, len(report.notes)) == ([], 1)


def test_a_time_that_is_none_is_of_no_moment() -> None:
    for at in ("yesterday", "2026-11-21T12:00:00"):
        unsigned = Unsigned(1)
        unsigned.feed({"kind": "decided", "member": "m-1", "at": "2026-11-21T12:00:00.000Z"})
        assert unsigned.fault() is None
        unsigned.feed({"kind": "decided", "member": "m-1", "at": at})
        assert unsigned.fault() is not None


def test_a_checkpoint_that_was_kept_elsewhere_signs_as_well() -> None:
    """It is kept before it is stored: a process may end in between."""
    report = Stored(EVENTS, checkpoint_at=()).report(noted(EVENTS))
    assert (report.findings, report.notes, report.signed, report.checkpoints) == ([], [], SIZE, 0)


def test_what_came_after_a_checkpoint_that_was_kept_elsewhere_ought_to_have_been_signed_too() -> None:
    author = Author()
    events = [author.joined(), *(author.decided(moment=START + some) for some in (timedelta(), MINUTE, 3 * MINUTE))]
    (finding,) = Stored(events, checkpoint_at=()).report(noted(events[:2])).findings
    told = "event 2: not signed: no checkpoint is over the last 2 events, those of m-1 of 2026-11-21T12:01"
    assert str(finding).startswith(told)


def test_a_stretch_that_is_missing_or_made_up_is_found() -> None:
    """One is 4,096 events: instead of so many this log has a gap, which is a finding by itself."""
    author = Author()
    log = Stored([author.decided("s-1"), author.joined(), author.decided("s-1"), author.decided("s-2")])
    log.rows[3] = (4096, *log.rows[3][1:])

    def said(*stretches: Stretch) -> list[str]:
        auditor = Auditor(ORIGIN, [KEY], [], stretches=stretches)
        auditor.feed(log.rows)
        return [found for found in map(str, auditor.finish(log.head, log.tables).findings) if "stretches" in found]

    true = [("acme", "s-1", 0), ("acme", "s-2", 1)]
    assert said(*true) == []
    assert said(true[1]) == ["event 0: stretches: the row that leads to it is missing: ('acme', 's-1', 0)"]
    assert said(true[0]) == ["event 4096: stretches: the row that leads to it is missing: ('acme', 's-2', 1)"]
    assert said(*true, ("acme", "s-2", 0)) == ["stretches: a row that no event made: ('acme', 's-2', 0)"]


# --- tile hashes ------------------------------------------------------------------------------------------


def long_log(checkpoint_at: tuple[int, ...] = (300, 600)) -> Stored:
    author = Author()
    return Stored([author.decided(f"s-{number % 5}") for number in range(600)], checkpoint_at)


def test_tile_hashes_are_derived_again() -> None:
    log = long_log()
    assert [found[:2] for found in log.tile_hashes] == [(1, 0), (1, 1)]
    assert log.report().findings == []


@pytest.mark.parametrize(
    ("change", "index", "what"),
    [
        (lambda hashes: [(1, 0, bytes(32)), hashes[1]], 255, "hash 0 of tile level 1 is not that of the events"),
        (lambda hashes: [hashes[0], (1, 1, hashes[0][2])], 511, "hash 1 of tile level 1 is not that of the events"),
        (lambda hashes: [hashes[1]], 255, "hash 0 of tile level 1 is missing"),
        (lambda _: [], 255, "hash 0 of tile level 1 is missing"),
        (lambda hashes: [*hashes, (1, 2, bytes(32))], None, "hash 2 of tile level 1 is of events that are not there"),
        (lambda hashes: [*hashes, (2, 0, bytes(32))], None, "hash 0 of tile level 2 is of events that are not there"),
    ],
)
def test_the_first_tile_hash_that_differs_is_named(change: Any, index: int | None, what: str) -> None:
    log = long_log()
    log.tile_hashes = change(log.tile_hashes)
    findings = log.report().findings
    assert len(findings) == 1
    assert findings[0].index == index
    assert what in findings[0].what


@pytest.mark.parametrize(
    ("checkpoint_at", "stored", "told"),
    [
        ((), 0, []),
        ((255,), 0, []),
        ((300, 511), 1, []),
        ((300, 512), 1, ["event 511: subtrees: hash 1 of tile level 1 is missing"]),
    ],
)
def test_tile_hashes_are_due_with_the_checkpoint_that_covers_them(
    checkpoint_at: tuple[int, ...], stored: int, told: list[str]
) -> None:
    log = long_log(checkpoint_at)
    del log.tile_hashes[stored:]
    assert [found for found in map(str, log.report().findings) if "not signed" not in found] == told


def test_a_store_that_is_too_old_for_tile_hashes_misses_none() -> None:
    log = long_log()
    auditor = Auditor(ORIGIN, [KEY], log.checkpoints, tile_hashes=None)
    auditor.feed(log.rows)
    assert auditor.finish(log.head, log.tables).findings == []


def test_a_leaf_without_a_part_of_the_envelope_is_a_finding() -> None:
    log = stored()
    whole = json.loads(EVENTS[1].leaf)
    for name in ("v", "id", "at", "kind", "member", "counter", "version", "body_sha256"):
        log.set(1, "leaf", canonical_plain({key: value for key, value in whole.items() if key != name}))
        assert f"event 1: the leaf has no {name}" in map(str, log.report().findings)


def test_what_the_store_itself_shows_is_a_finding_of_no_event() -> None:
    log = stored()
    auditor = Auditor(ORIGIN, [KEY], log.checkpoints, (), tile_hashes=log.tile_hashes)
    auditor.feed(log.rows)
    report = auditor.finish(log.head, log.tables, ["readers may be shown another log"])
    assert [str(finding) for finding in report.findings] == ["readers may be shown another log"]


@pytest.mark.parametrize("name", ["session", "tenant"])
@pytest.mark.parametrize("value", [["s-1"], {}, None, 1])
def test_a_leaf_whose_session_is_no_text_is_a_finding(name: str, value: Any) -> None:
    log = stored()
    log.set(1, "leaf", canonical_plain({**json.loads(EVENTS[1].leaf), name: value}))
    report = log.report()
    assert first(report) == 1
    assert f"another {name} than the column" in " ".join(map(str, report.findings))


@pytest.mark.parametrize(
    ("index", "forged"),
    [(2, {"trace_id": []}), (17, {"through": 99, "session": "s-9"})],
    ids=["an outcome of a trace that is a list", "a prune of itself"],
)
def test_a_leaf_that_makes_no_sense_is_a_finding(index: int, forged: dict[str, Any]) -> None:
    log = stored()
    log.set(index, "leaf", canonical_plain({**json.loads(EVENTS[index].leaf), **forged}))
    for column in ("salt", "body"):
        log.set(index, column, None)
    assert first(log.report()) == index
