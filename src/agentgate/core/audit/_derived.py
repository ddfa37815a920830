"""The derived tables, made again from every event and compared with those that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from agentgate.core.audit.report import Findings
from agentgate.core.members import Presence, presence
from agentgate.core.projection.effects import WITHOUT_EFFECT, effects
from agentgate.core.projection.spendings import spendings
from agentgate.core.projection.tables import KEYS, UNDERIVED, Row, Tables, Value, key_of

_SOME_SEAL: Final = {"sealed": b"", "answer": b""}
"""Stands for sealed arguments, which no event carries: where it is derived, anything may be stored."""


class DerivedAgain:
    """What the tables must be after the events that were fed, and the allowed calls that have not ended."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._tables = Tables()
        self.open: dict[str, int] = {}
        """The index of each intent without an outcome, by its trace id."""

    @property
    def holds(self) -> Iterable[Row]:
        """Every legal hold so far, released or not."""
        return self._tables.rows["holds"].values()

    def feed(self, fields: Mapping[str, Any], index: int, position: int, body: bytes | None) -> None:
        """The next event: its leaf as a value, and what else its effects follow from."""
        kind = fields["kind"]
        if kind == "finished":
            self.open.pop(str(fields.get("trace_id", "")), None)
        if kind in WITHOUT_EFFECT or (kind == "finished" and "of" not in fields and "answer_key" not in fields):
            return
        try:
            if kind == "decided" and not self._decided(fields, index):
                return
            self._spend(fields, index)
            self._tables.apply(effects(fields, index, position, body, _SOME_SEAL))
        except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
            self._findings.add(index, f"a {kind} event without what it must have ({error})")

    def _decided(self, fields: Mapping[str, Any], index: int) -> bool:
        """Whether any table follows from a decision: from most, none does."""
        if fields["decision"] == "ALLOW":
            self.open[fields["trace_id"]] = index
        owner = self._tables.rows["sessions"].get((fields.get("tenant", ""), fields.get("session", "")))
        whose = fields.get("principal", "")
        if owner is not None and owner["principal"] != whose and fields["decision"] != "DENY":
            self._findings.add(index, f"decides for {whose} in a session of {owner['principal']!r}")
        member = self._tables.rows["members"].get((fields["member"],))
        if member is not None and fields["decision"] != "DENY" and presence(member) is not Presence.HERE:
            self._findings.add(index, f"is a decision of {fields['member']}, which had left or was gone")
        return owner is None or "approval_id" in fields or "idempotency_sha256" in fields

    def _spend(self, fields: Mapping[str, Any], index: int) -> None:
        for spending in spendings(fields):
            first = self._tables.rows["spent"].get(spending)
            if first is not None:
                self._findings.add(index, f"spends the {spending[0]} that event {first['idx']!r} has spent")

    def compare(self, stored: Mapping[str, Iterable[Row]]) -> None:
        """With all tables as they are stored, by their names."""
        for name in KEYS:
            self._compare(name, stored[name])

    def _compare(self, name: str, stored: Iterable[Row]) -> None:
        derived = dict(self._tables.rows[name])
        for row in stored:
            expected = derived.pop(key_of(name, row), None)
            if expected is None:
                self._findings.add(None, f"{name}: a row that no event made: {_shown(name, row)}")
                continue
            differs = [
                column for column, value in expected.items() if not _agrees(name, column, value, row.get(column))
            ]
            if differs:
                what = f"{name}: {', '.join(differs)} of {_shown(name, row)} is not what the events say"
                self._findings.add(_made_by(expected), what)
        for row in derived.values():
            self._findings.add(_made_by(row), f"{name}: the row of {_shown(name, row)} is missing")


def _agrees(table: str, column: str, derived: Value, stored: Value) -> bool:
    if column in UNDERIVED.get(table, ()):
        return derived is not None or stored is None
    if column == "reason" and derived is None:
        return True  # the body that said it was pruned
    return stored == derived


def _shown(table: str, row: Mapping[str, Value]) -> str:
    return "/".join(str(part) for part in key_of(table, row))


def _made_by(row: Mapping[str, Value]) -> int | None:
    index = row.get("idx", row.get("joined_idx"))
    return index if isinstance(index, int) else None
