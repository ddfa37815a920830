"""Preferences (RFC 7240): what is understood is taken, anything else is as if it had not been said."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.edges.prefer import MOST_WAITED_S, Preferences, read


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (b"wait=20", Preferences(20)),
        (b"Wait = 20", Preferences(20)),
        (b'wait="20"', Preferences(20)),
        (b"wait=20; foo=bar", Preferences(20)),
        (b"wait=3600", Preferences(MOST_WAITED_S)),
        (b"wait=10, wait=20", Preferences(10)),
        (b"respond-async, wait=20", Preferences(20, respond_async=True)),
        (b"Respond-Async", Preferences(respond_async=True)),
        (b"return=minimal,handling=lenient , wait=5", Preferences(5)),
        (b"wait=0", Preferences()),
        (b"wait=-1", Preferences()),
        (b"wait=1.5", Preferences()),
        (b"wait=soon", Preferences()),
        (b"wait", Preferences()),
        ("wait=\u00b2".encode("latin-1"), Preferences()),
        (b"wait=99999999999999999999", Preferences()),
        (b"no-respond-async", Preferences()),
        (b"", Preferences()),
    ],
)
def test_preference_is_understood_or_ignored(said: bytes, understood: Preferences) -> None:
    assert read({b"prefer": said}) == understood


BLANKS = b" " * 60_000
"""About as much as a request's headers can be."""


@pytest.mark.parametrize(
    "said", [b"a=" + BLANKS + b'"""', b"a" + BLANKS + b"!", BLANKS + b'="', b'a="' + BLANKS + b'"x', b"a," * 30_000]
)
def test_header_made_to_be_read_again_and_again_is_read_at_once(said: bytes) -> None:
    """A33: each header is read on the loop that also takes kills."""
    before = time.process_time()
    assert read({b"prefer": said}) == Preferences()
    assert time.process_time() - before < 0.5


def test_nothing_said_is_nothing_preferred() -> None:
    assert read({}) == Preferences()


@given(st.binary(max_size=200))
def test_whatever_is_said_nobody_waits_longer_than_the_most(said: bytes) -> None:
    wait_s = read({b"prefer": said}).wait_s
    assert wait_s is None or 1 <= wait_s <= MOST_WAITED_S
