"""`log verify`: derives a whole log again from its leaves and says the first thing that differs.

Nothing stored is believed: columns, numbers, positions, hashes, checkpoints and derived tables are recomputed.
Pure: rows come in, a report goes out; the adapter that reads them decides nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import orjson

from agentgate.core.audit._derived import DerivedAgain
from agentgate.core.audit._segments import AuditedSegments
from agentgate.core.audit._tree import AuditedTree
from agentgate.core.audit.report import Findings, Report
from agentgate.core.audit.stored import RawRow, StoredCheckpoint, StoredHead, StoredSegment, Stretch
from agentgate.core.event import LEAF_VERSION, MAX_LEAF_BYTES, Kind, body_sha256
from agentgate.core.merkle import TileHash
from agentgate.core.note import NoteKey
from agentgate.core.projection.tables import STRETCH_BITS, Row
from agentgate.core.retention import covers
from agentgate.core.strict_json import canonical_plain

_KINDS: Final = frozenset(kind.value for kind in Kind)
_ENVELOPE: Final[Mapping[str, type]] = {
    "v": int, "id": str, "at": str, "kind": str, "member": str, "counter": int, "version": str, "body_sha256": str,
}  # fmt: skip

_ENVELOPE_TYPES: Final = tuple(_ENVELOPE.values())
_envelope_of = itemgetter(*_ENVELOPE)


@dataclass(slots=True)
class _Counter:
    """What one member's own count says: `missing` were skipped and have not turned up, in their order."""

    last: int
    missing: list[range] = field(default_factory=list)
    """Ranges, because an outage with callers who try again skips any number, and a forged one must not cost memory."""

    def skip_to(self, number: int) -> None:
        self.missing.append(range(self.last + 1, number))
        self.last = number

    def find(self, number: int) -> bool:
        """Whether it was missing; it is not any more."""
        at = bisect_right(self.missing, number, key=lambda gap: gap.start) - 1
        if at < 0 or number not in (gap := self.missing[at]):
            return False
        self.missing[at : at + 1] = filter(None, (range(gap.start, number), range(number + 1, gap.stop)))
        return True

    def count(self) -> int:
        return sum(gap.stop - gap.start for gap in self.missing)  # a range's len() is at most a machine word


class Auditor:
    """Feed it every row in index order, then `finish`. `keys` are the checkpoint keys to trust; `kept` are checkpoints
    from outside of the database, which whoever sets it back or replaces it cannot take back."""

    def __init__(
        self,
        origin: str,
        keys: Sequence[NoteKey],
        checkpoints: Iterable[StoredCheckpoint],
        kept: Iterable[bytes] = (),
        *,
        tile_hashes: Iterable[TileHash] | None = (),
        stretches: Iterable[Stretch] | None = None,
        segments: Iterable[StoredSegment] = (),
    ) -> None:
        """`tile_hashes` are all that are stored above the leaves, `stretches` all in which a session is said to have
        events; None where the store has none, or is too old to."""
        self._findings = Findings()
        self._tree = AuditedTree(self._findings, origin, keys, checkpoints, kept, tile_hashes)
        self._derived = DerivedAgain(self._findings)
        self._segments = AuditedSegments(self._findings, segments)
        self._position = 0
        self._pruned = 0
        self._gone: dict[tuple[str, str], list[int]] = {}
        """Of each session the events whose body is not there, and that no prune event has explained yet."""
        self._oldest_body: dict[tuple[str, str], int] = {}
        """Of each session the first body that is there."""
        self._undone: list[str] = []
        self._sessions: dict[tuple[str, str], tuple[int, int]] = {}
        """How many events each has so far, and the stretch of the last of them."""
        self._stretches = None if stretches is None else set(stretches)
        self._first_in: dict[Stretch, int] = {}
        """Of each stretch that a session has events in, the first of those."""
        self._counters: dict[str, _Counter] = {}

    def feed(self, rows: Iterable[RawRow]) -> None:
        """The next rows. Reading on after the first finding is cheap and shows how far the damage goes."""
        for row in rows:
            index, leaf, leaf_hash, body = row[0], row[8], row[9], row[11]
            self._tree.append(index, leaf, leaf_hash)
            self._segments.feed(index, row[6])
            found = self._leaf(row)
            if found is not None:
                fields, session = found
                self._numbers(row, fields, session)
                self._bodies(row, fields, session)
                self._derived.feed(fields, index, self._position, body)
                self._tree.unsigned.feed(fields)
            self._tree.check()

    def _leaf(self, row: RawRow) -> tuple[dict[str, Any], tuple[str, str]] | None:
        """The leaf as a value, if it is a well-formed one, and whose session it is of; the columns that repeat it are
        checked on the way."""
        index, event_id, kind, tenant, session, _, at, _, leaf, _, _, _ = row
        try:
            fields = orjson.loads(leaf)
        except orjson.JSONDecodeError:
            fields = None
        misfit = _misfit(fields, leaf)
        if misfit is not None:
            self._findings.add(index, misfit)
            return None
        of = _session(fields)
        told = (fields["id"], fields["kind"], fields["at"], *of)
        stored = (event_id, kind, at, tenant, session)
        if told != stored:
            names = ("event_id", "kind", "at", "tenant", "session")
            differs = [name for name, one, other in zip(names, told, stored, strict=True) if one != other]
            self._findings.add(index, f"the leaf says another {' and '.join(differs)} than the column")
            if not all(isinstance(one, str) for one in told):
                return None
        return fields, of  # _misfit has seen that it is a dict

    def _numbers(self, row: RawRow, fields: Mapping[str, Any], session: tuple[str, str]) -> None:
        """Number within the session, kill position, and the member's own count."""
        index, kind = row[0], fields["kind"]
        number = 0
        if "session" in fields:
            number, stretch = self._sessions.get(session, (0, -1))
            number += 1
            here = index >> STRETCH_BITS
            self._sessions[session] = number, here
            if here != stretch and self._stretches is not None:
                self._first_in[*session, here] = index
        if row[5] != number:
            self._findings.add(index, f"session_number is {row[5]}, not {number}")
        if kind in ("killed", "released"):
            self._position += 1
        if row[7] != self._position:
            self._findings.add(index, f"kill_position is {row[7]}, not {self._position}")
        self._count(index, fields["member"], fields["counter"])

    def _count(self, index: int, member: str, counter: int) -> None:
        """A member numbers its events without repeating; a number that never turns up is only a note, because
        an append that was refused or failed leaves one."""
        known = self._counters.get(member)
        if known is None:
            self._counters[member] = _Counter(counter)
        elif counter == known.last + 1:
            known.last = counter
        elif counter > known.last:
            known.skip_to(counter)
        elif not known.find(counter):
            self._findings.add(index, f"counter {counter} of {member} was there before")

    def _bodies(self, row: RawRow, fields: Mapping[str, Any], session: tuple[str, str]) -> None:
        salt, body = row[10], row[11]
        if salt is None and body is None:
            self._gone.setdefault(session, []).append(row[0])
        elif salt is None or body is None:
            self._findings.add(row[0], "a body without its salt, or a salt without its body")
        elif body_sha256(salt, body) != fields["body_sha256"]:
            self._findings.add(row[0], "the body is not the one that the leaf binds")
        if body is not None and session not in self._oldest_body:
            self._oldest_body[session] = row[0]
        if fields["kind"] == "pruned":
            self._prune(row[0], fields, session)

    def _prune(self, index: int, fields: Mapping[str, Any], session: tuple[str, str]) -> None:
        """What a prune event speaks of came before it. Whether the bodies are gone by now is not its business."""
        through = fields.get("through")
        if type(through) is not int or not session[1]:
            self._findings.add(index, "a pruned event without a session, or without an index that it goes through")
            return
        for hold in self._derived.holds:
            of = (str(hold["tenant"]), str(hold["session"]))
            if hold["released_idx"] is None and covers(*of, *session):
                self._findings.add(index, f"prunes a session that hold {hold['id']!r} keeps")
        gone = self._gone.pop(session, [])
        left = [one for one in gone if one > through]
        if left:
            self._gone[session] = left
        self._pruned += len(gone) - len(left)
        oldest = self._oldest_body.get(session, index)
        if oldest <= through and self._oldest_body.pop(session, None) is not None:
            what = f"its body is there, although event {index} pruned it: a prune did not end"
            self._undone.append(f"event {oldest}: {what}")

    def finish(self, head: StoredHead | None, tables: Mapping[str, Iterable[Row]], flaws: Iterable[str] = ()) -> Report:
        """Compare what was derived with the head row and the derived tables as they are stored. `flaws` are of the
        store itself: for them, others may be shown something else of it than this audit."""
        tree, size = self._tree, self._tree.frontier.size
        for index in sorted(index for gone in self._gone.values() for index in gone):
            self._findings.add(index, "its body is gone, and no prune event took it")
        tree.find_unreached()
        self._head(head, size)
        tree.find_left_over()
        tree.find_unsigned()
        self._strewn()
        notes = [*self._notes(), *self._segments.finish()]
        self._derived.compare(tables)
        for flaw in flaws:
            self._findings.add(None, flaw)
        return Report(
            size=size,
            root=tree.frontier.root(),
            kill_position=self._position,
            findings=self._findings,
            notes=notes,
            checkpoints=tree.verified,
            signed=tree.signed,
            pruned=self._pruned,
            open_intents=len(self._derived.open),
        )

    def _strewn(self) -> None:
        """A stretch that is missing would hide a session's events from whoever asks for them."""
        if self._stretches is None:
            return
        for stretch, first in self._first_in.items():
            if stretch not in self._stretches:
                self._findings.add(first, f"stretches: the row that leads to it is missing: {stretch}")
        for stretch in sorted(self._stretches - self._first_in.keys()):
            self._findings.add(None, f"stretches: a row that no event made: {stretch}")

    def _head(self, head: StoredHead | None, size: int) -> None:
        if head is None:
            self._findings.add(None, "there is no head row")
            return
        if head.size != size:
            self._findings.add(min(size, head.size), f"the head row counts {head.size} events, and {size} are stored")
        if head.kill_position != self._position:
            self._findings.add(None, f"the head row's kill position is {head.kill_position}, not {self._position}")
        oldest = min(self._derived.open.values(), default=size)
        if head.open_from > oldest:
            self._findings.add(
                oldest, f"an open intent, but the head row says that none is open before {head.open_from}"
            )

    def _notes(self) -> list[str]:
        moment = self._tree.unsigned.note()
        return [*([] if moment is None else [moment]), *self._undone] + [
            f"member {member}: the log has refused {counter.count()} of its events (as a rule somebody else was "
            f"first) or could not write them, from its number {counter.missing[0].start} on"
            for member, counter in self._counters.items()
            if counter.missing
        ]


def _session(fields: Mapping[str, Any]) -> tuple[str, str]:
    return fields.get("tenant", ""), fields.get("session", "")


def _misfit(fields: Any, leaf: bytes) -> str | None:
    """What is wrong with a leaf as such, or None."""
    if not isinstance(fields, dict):
        return "the leaf is not a JSON object"
    if canonical_plain(fields) != leaf:
        return "the leaf is not in its canonical form"
    if len(leaf) > MAX_LEAF_BYTES:
        return f"a leaf of {len(leaf)} bytes"
    if not _has_envelope(fields):
        return f"the leaf has no {next(name for name, kind in _ENVELOPE.items() if type(fields.get(name)) is not kind)}"
    if fields["v"] != LEAF_VERSION:
        return f"a leaf of version {fields['v']}"
    if fields["kind"] not in _KINDS:
        return f"unknown kind {fields['kind']!r}"
    return None


def _has_envelope(fields: Mapping[str, Any]) -> bool:
    try:
        return tuple(map(type, _envelope_of(fields))) == _ENVELOPE_TYPES
    except KeyError:
        return False
