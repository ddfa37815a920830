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
