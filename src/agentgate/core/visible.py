"""Text of strangers as people may look at it: nothing in it hides, and nothing turns the order of letters round."""

from __future__ import annotations

import unicodedata
from typing import Final

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters, marks and symbols that draw nothing, or change what stands before them.
_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U0001d159") | {
    chr(code) for selectors in (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0)) for code in selectors
}
_MOST_MARKS: Final = 3
"""More combining marks on one letter than any script needs draw over the neighbouring lines."""


def visible(text: object) -> str:
    """`text` with everything that draws nothing, or turns the order of letters round, written out as `[U+202E]`."""
    raw = str(text)
    if raw.isascii() and raw.isprintable():
        return raw
    shown, marks = [], 0
    for char in raw:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        hidden = category in _HIDDEN or char in _BLANK or marks > _MOST_MARKS
        shown.append(f"[U+{ord(char):04X}]" if hidden else char)
    return "".join(shown)
