"""Segments of bodies against the events: where they lie, and the time that they say of themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.audit._segments import AuditedSegments
from agentgate.core.audit.report import Finding, Findings
from agentgate.core.audit.stored import StoredSegment

NOTE = (
    "segments of bodies that say they are older than an event of theirs: {}; a clock ran ahead, or they were changed. "
    "Nothing is pruned for it that says a later time itself"
)


def audited(times: Sequence[str | None], *segments: StoredSegment) -> tuple[list[Finding], list[str]]:
    findings = Findings()
    found = AuditedSegments(findings, segments)
    for index, at in enumerate(times):
        found.feed(index, at)  # type: ignore[arg-type]  # what is no time is in a log that was tampered with
    notes = list(found.finish())
    return list(findings), notes


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[str], list[StoredSegment]]:
    """Times, and segments that share no event; the last ones may be of events that are not there."""
    times = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=12))
    bounds = sorted(draw(st.sets(st.integers(0, 16), max_size=8)))
    pairs = zip(bounds[::2], bounds[1::2], strict=False)
    return times, [StoredSegment(first, last, draw(st.sampled_from("abcdef"))) for first, last in pairs]


@given(logs())
def test_a_segment_is_as_new_as_the_newest_event_up_to_its_end(log: tuple[list[str], list[StoredSegment]]) -> None:
    times, segments = log
    ended = [segment for segment in segments if segment.last < len(times)]
    newest = {segment.last: max(times[: segment.last + 1]) for segment in ended}
    findings, notes = audited(times, *segments)
    assert [finding.index for finding in findings] == [
        *(segment.last for segment in ended if segment.newest > newest[segment.last]),
        *(segment.first for segment in segments if segment not in ended),
    ]
    too_old = sum(segment.newest < newest[segment.last] for segment in ended)
    assert notes == ([NOTE.format(too_old)] if too_old else [])
    assert audited(times, *reversed(segments)) == (findings, notes)


def test_what_is_found_is_said_in_these_words() -> None:
    findings, notes = audited("ab", StoredSegment(0, 0, "b"), StoredSegment(1, 4, "b"))
    assert list(map(str, findings)) == [
        "event 0: the segment of bodies up to here says that it is of b, and no event says so",
        "event 1: a segment of bodies from here goes on to event 4",
    ]
    assert notes == []


@pytest.mark.parametrize(
    ("segments", "wrong"),
    [
        ([(0, 1), (2, 3)], []),
        ([(0, 0), (1, 1)], []),
        ([(0, 2), (2, 3)], [2]),
        ([(0, 3), (1, 1), (2, 2)], [1, 2]),
        ([(1, 0)], [1]),
        ([(0, 1), (3, 2)], [3]),
        ([(0, 0), (0, 0)], [0]),
    ],
)
def test_a_body_is_in_one_segment(segments: list[tuple[int, int]], wrong: list[int]) -> None:
    findings, _ = audited("aaaa", *(StoredSegment(first, last, "a") for first, last in segments))
    text = "its body is in two segments, or in one that ends before it begins"
    assert findings == [Finding(index, text) for index in wrong]


def test_what_is_no_time_is_passed_over() -> None:
    assert audited([None, "b", None, "a"], StoredSegment(0, 0, "b"), StoredSegment(1, 2, "b")) == ([], [])
    findings, _ = audited(["a", None, "b"], StoredSegment(0, 1, "c"))
    assert [finding.index for finding in findings] == [2]


def test_without_segments_nothing_is_said() -> None:
    assert audited("ab") == ([], [])
