"""Server-sent events, however they are cut into parts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.adapters.upstreams._mcp.direct import Events, TooLarge

STREAM = (
    b": hello\n\n"
    b"id: 1\ndata:\n\n"
    b"event: message\r\ndata: one\r\n\r\n"
    b"event: other\ndata: never\n\n"
    b"data:two\rdata: and more\r\r"
    b"id: 2\nretry: 250\nretry: soon\nid: \0\ndata: \xc3\xbc\n\n"
    b"data: unfinished\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_in_whatever_parts_they_come(cuts: list[int]) -> None:
    events = Events(100)
    at = [0, *sorted(cuts), len(STREAM)]
    heard = [data for start, end in pairwise(at) for data in events.feed(STREAM[start:end])]
    assert heard == [b"one", b"two\nand more", "ü".encode()]
    assert (events.last_id, events.resume_after_s) == (b"2", 0.25)


@pytest.mark.parametrize("parts", [[b"data: " + b"x" * 100], [b"data: x\n"] * 20, [b"x"] * 101, [b"id: 1\n"] * 30])
def test_an_event_larger_than_allowed_is_refused_before_its_end(parts: list[bytes]) -> None:
    events = Events(100)
    with pytest.raises(TooLarge):
        _ = [data for part in parts for data in events.feed(part)]


def test_a_server_cannot_have_its_stream_taken_up_again_at_once_and_for_ever() -> None:
    """With `retry: 0` each call was a loop of requests, as fast as both could, until its deadline."""
    events = Events(100)
    assert list(events.feed(b"id: 1\nretry: 0\ndata:\n\n")) == []
    assert events.resume_after_s >= 0.1


def test_many_small_events_have_no_bound() -> None:
    events = Events(100)
    assert sum(1 for _ in range(1_000) for _ in events.feed(b": ping\n\ndata: x\n\n")) == 1_000
