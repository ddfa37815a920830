"""What budgets count, as whole numbers: calls, bytes, and money in micros.

A micro is the millionth part of whatever currency the policy's data is written in. There are no floats.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

NONE: Final = -1
"""Where an amount stands for "no limit"."""
MICROS: Final = 1_000_000
_MONEY: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")


class Amounts(NamedTuple):
    """What a budget counts."""

    calls: int = 0
    bytes: int = 0
    """Of arguments and results together."""
    cost: int = 0
    """In micros."""


UNLIMITED: Final = Amounts(NONE, NONE, NONE)
NOTHING: Final = Amounts()
ONE_CALL: Final = Amounts(1)


def micros(text: str) -> int:
    """`"0.002"` in micros.

    Raises:
        ValueError: not digits with at most six of them after a point.
    """
    found = _MONEY.fullmatch(text)
    if found is None:
        raise ValueError(f'{text[:32]!r} is not an amount such as "0.002"')
    return int(found[1]) * MICROS + int((found[2] or "").ljust(6, "0"))


def money(amount: int) -> str:
    """Micros as people write them: `0.002`."""
    whole, rest = divmod(amount, MICROS)
    digits = f"{rest:06d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
