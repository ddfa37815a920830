"""The derived tables: their keys, what may change in them, and all of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

Value = str | int | bytes | None
Row = dict[str, Value]

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "sessions": ("tenant", "session"),
    "spent": ("kind", "key"),
    "kills": ("id",),
    "approvals": ("id",),
    "members": ("member",),
    "acks": ("member", "position"),
    "release_asks": ("kill_id", "person"),
    "holds": ("id",),
    "prunes": ("tenant", "session"),
    "pins": ("server", "tool"),
    "votes": ("approval", "person"),
    "answers": ("key",),
}
"""The derived tables and what names a row in each."""

STRETCH_BITS: Final = 12
"""A stretch of the log is 4,096 events: in which of them a session has events is how a SQLite log finds those."""

UNDERIVED: Final[Mapping[str, frozenset[str]]] = {"approvals": frozenset({"sealed"}), "answers": frozenset({"sealed"})}
"""Columns whose content no event carries; only that they are cleared can be derived."""


@dataclass(frozen=True, slots=True)
class Put:
    """Add a row, unless one with the same key is there: the first one stays."""

    table: str
    row: Row


@dataclass(frozen=True, slots=True)
class Change:
    """Set columns of the row with this key, if its `state` is among `states` (empty: whatever it is)."""

    table: str
    key: tuple[Value, ...]
    columns: Row
    states: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """Take out the rows of events up to index `through`."""

    table: str
    through: int


Effect = Put | Change | Drop


class Tables:
    """The derived tables in memory, for deriving them again."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[Value, ...], Row]] = {name: {} for name in KEYS}

    def apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            table = self.rows[effect.table]
            if isinstance(effect, Drop):
                self.rows[effect.table] = {
                    key: row for key, row in table.items() if cast(int, row["idx"]) > effect.through
                }
            elif isinstance(effect, Put):
                table.setdefault(key_of(effect.table, effect.row), effect.row)
            else:
                _change(table.get(effect.key), effect)


def _change(row: Row | None, change: Change) -> None:
    if row is not None and (not change.states or row["state"] in change.states):
        row.update(change.columns)


def key_of(table: str, row: Mapping[str, Value]) -> tuple[Value, ...]:
    return tuple(row[name] for name in KEYS[table])
