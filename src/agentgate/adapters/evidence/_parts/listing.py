"""Tables that show so many rows and count the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

MAX_CALLS: Final = 2_000
"""Rows of the table of calls and of the table of leaves; what is beyond them is in the JSON only, and said to be."""
MAX_ROWS: Final = 300
"""Rows of every other table."""
FIRST_FEW: Final = 8
"""Calls that a row names of those that it is about."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """The rows that are shown, and how many there are."""

    rows: tuple[T, ...]
    total: int

    @property
    def hidden(self) -> int:
        """How many are in the JSON only."""
        return self.total - len(self.rows)


def first(rows: Sequence[Any], shown: Callable[[Any], T] = lambda row: row, most: int = MAX_ROWS) -> Listing[T]:
    return Listing(tuple(shown(row) for row in rows[:most]), len(rows))
