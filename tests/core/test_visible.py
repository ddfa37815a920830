"""Text of strangers as people may look at it."""

from __future__ import annotations

import pytest

from agentgate.core.visible import visible
from tests.core.strategies import INVISIBLE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("Straße 名前 🦊", "Straße 名前 🦊"),
        (7, "7"),
        ("a\nb\x1b[31m", "a[U+000A]b[U+001B][31m"),
        ("\u202etxt.exe", "[U+202E]txt.exe"),
        ("a\u200bb\ufeff", "a[U+200B]b[U+FEFF]"),
        ("\ud800", "[U+D800]"),
        ("\ue000\u2028\u2029\U000e0041", "[U+E000][U+2028][U+2029][U+E0041]"),
        ("\u2800\u3164\ufe0f\U000e0100", "[U+2800][U+3164][U+FE0F][U+E0100]"),
        ("\U0001d158\U0001d159", "\U0001d158[U+1D159]"),
        ("e" + "\u0301" * 3, "e" + "\u0301" * 3),
        ("\u0301" * 3 + "e", "\u0301" * 3 + "e"),
        ("e" + "\u20dd" * 4, "e" + "\u20dd" * 3 + "[U+20DD]"),
        ("e" + "\u0301" * 5 + "o" + "\u20dd", "e" + "\u0301" * 3 + "[U+0301]" * 2 + "o\u20dd"),
    ],
)
def test_what_draws_nothing_or_over_its_neighbours_is_written_out(text: object, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("char", INVISIBLE, ids=lambda char: f"U+{ord(char):04X}")
def test_nothing_that_unicode_would_have_ignored_hides(char: str) -> None:
    assert visible(f"a{char}b") == f"a[U+{ord(char):04X}]b"
