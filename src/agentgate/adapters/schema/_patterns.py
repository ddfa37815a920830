"""What the patterns of one schema cost together: compiled, a few characters may be a megabyte."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from agentgate.adapters.schema._lookahead import Finder, keyword

MAX_PATTERN_BYTES: Final = 1 << 20
"""Compiled size of one regular expression; a pattern that needs more is refused at start."""
_MOST_BYTES: Final = 8 << 20
_SIZES: Final = (1 << 12, 1 << 15, 1 << 18, MAX_PATTERN_BYTES)
"""A pattern is taken to be as large as the smallest of these that it fits into."""


class Patterns:
    """Compiles the patterns of one schema until they are too much."""

    def __init__(self, linear: Callable[[str, int], Finder]) -> None:
        """`linear` compiles within so many bytes, and raises ValueError."""
        self._linear = linear
        self._found: dict[str, Finder] = {}
        self._sizes: dict[str, int] = {}

    def weigh(self, schema: Any) -> None:
        """Raises ValueError with a sentence if the patterns in `schema` are too much. What is wrong with one of them is
        left for its compiler to say."""
        looking_ahead = keyword(self.linear)
        for pattern in dict.fromkeys(_patterns(schema)):
            try:
                if "(?=" in pattern or "(?!" in pattern:
                    looking_ahead({}, pattern, [])
                else:
                    self._compiled(pattern)
            except ValueError:
                if sum(self._sizes.values()) > _MOST_BYTES:
                    raise

    def linear(self, pattern: str) -> Finder:
        """Each is compiled once, wherever it stands. Raises ValueError."""
        if pattern not in self._found:
            self._found[pattern] = self._compiled(pattern)
        return self._found[pattern]

    def _compiled(self, pattern: str) -> Finder:
        """What cannot be compiled counts as the largest: to learn that may have cost as much."""
        for size in _SIZES:
            self._sizes[pattern] = size
            if sum(self._sizes.values()) > _MOST_BYTES:
                raise ValueError("the patterns in the schema are too large together")
            with contextlib.suppress(ValueError):
                return self._linear(pattern, size)
        return self._linear(pattern, MAX_PATTERN_BYTES)  # for what it says


def _patterns(schema: Any) -> Iterator[str]:
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if isinstance(item.get("pattern"), str):
                yield item["pattern"]
            if isinstance(item.get("patternProperties"), dict):
                yield from item["patternProperties"]
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
