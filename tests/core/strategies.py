"""Values that hypothesis makes for the tests of pure rules."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from agentgate.core.strict_json import MAX_INTEGER

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGERS = st.integers(-MAX_INTEGER, MAX_INTEGER)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not MAX_INTEGER < abs(x) < 1e21)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXT


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5)


JSON = st.recursive(SCALARS, containers, max_leaves=20)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=5)

INVISIBLE = [
    chr(code)
    for first, last in (
        (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
        (0x200B, 0x200F),
        (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0),
        (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0002), (0xE0100, 0xE0101),
        (0xE0FFF, 0xE0FFF),
    )
    for code in range(first, last + 1)
]  # fmt: skip
"""What Unicode calls Default_Ignorable_Code_Point; of its last block the ends."""

ANYTHING = st.recursive(
    SCALARS
    | st.floats()
    | st.integers()
    | st.binary(max_size=5)
    | st.sampled_from(["ALLOW", "DENY", "REQUIRE_APPROVAL", "allow", "true"]),
    lambda inner: containers(inner) | st.tuples(inner) | st.frozensets(st.integers(), max_size=3),
    max_leaves=10,
)
"""Also what is not JSON at all."""
