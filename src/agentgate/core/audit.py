"""`log verify`: derives a whole log again from its leaves and says the first thing that differs.

Nothing stored is believed: columns, numbers, positions, hashes, checkpoints and derived tables are recomputed.
Pure: rows come in, a report goes out; the adapter that reads them decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import orjson

from agentgate.core import note as signed_note
from agentgate.core.event import LEAF_VERSION, MAX_LEAF_BYTES, Kind, body_sha256
from agentgate.core.members import Presence, presence
from agentgate.core.merkle import Frontier, TileHash, last_leaf
from agentgate.core.projection.effects import WITHOUT_EFFECT, effects
from agentgate.core.projection.spendings import spendings
from agentgate.core.projection.tables import KEYS, STRETCH_BITS, UNDERIVED, Row, Tables, Value, key_of
from agentgate.core.retention import covers
from agentgate.core.strict_json import canonical_plain

RawRow = tuple[int, str, str, str, str, int, str, int, bytes, bytes, bytes | None, bytes | None]
"""index, event_id, kind, tenant, session, session_number, at, kill_position, leaf, leaf_hash, salt, body."""

Stretch = tuple[str, str, int]
"""Tenant, session, and the number of a stretch of `2 ** STRETCH_BITS` events."""

MAX_FINDINGS: Final = 50
"""Enough to see a pattern. The first one names where it starts."""

_WIDEST_GAP: Final = 100_000
_SOME_SEAL: Final = {"sealed": b"", "answer": b""}
"""Stands for sealed arguments, which no event carries: where it is derived, anything may be stored."""
_KINDS: Final = frozenset(kind.value for kind in Kind)
_ENVELOPE: Final[Mapping[str, type]] = {
    "v": int, "id": str, "at": str, "kind": str, "member": str, "counter": int, "version": str, "body_sha256": str,
}  # fmt: skip

_ENVELOPE_TYPES: Final = tuple(_ENVELOPE.values())
_envelope_of = itemgetter(*_ENVELOPE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that differs. `index` is the event's, or None for what belongs to no single event."""

    index: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.index is None else f"event {self.index}: {self.what}"


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    size: int
    root: bytes
    note: bytes
    frontier: bytes


@dataclass(frozen=True, slots=True)
class StoredHead:
    """The head row. `open_from` promises that no intent before it is open."""

    size: int
    kill_position: int
    open_from: int


@dataclass(slots=True)
class Report:
    """What holds. `ok` only if nothing differs; `notes` are oddities that are no proof of tampering."""

    size: int
    root: bytes
    kill_position: int
    findings: list[Finding]
    notes: list[str]
    checkpoints: int
    """Checkpoints whose root and signature hold."""
    pruned: int
    """Events whose body a prune event took."""
    open_intents: int

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(slots=True)
class _Counter:
    """What one member's own count says: `missing` were skipped and have not turned up."""

    last: int
    missing: set[int] = field(default_factory=set)


class Auditor:
    """Feed it every row in index order, then `finish`. `keys` are the checkpoint keys to trust; `kept` are checkpoints
    from outside of the database, which whoever sets it back or replaces it cannot take back."""

    def __init__(
        self,
        origin: str,
        keys: Sequence[signed_note.NoteKey],
        checkpoints: Iterable[StoredCheckpoint],
        kept: Iterable[bytes] = (),
        *,
        tile_hashes: Iterable[TileHash] | None = (),
        stretches: Iterable[Stretch] | None = None,
    ) -> None:
        """`tile_hashes` are all that are stored above the leaves, `stretches` all in which a session is said to have
        events; None where the store has none, or is too old to."""
        self._origin = origin
        self._keys = keys
        self._findings: list[Finding] = []
        due: list[StoredCheckpoint | signed_note.Checkpoint] = [*checkpoints, *self._opened(kept)]
        self._due = sorted(due, key=lambda found: found.size, reverse=True)
        self._next_due = self._due[-1].size if self._due else -1
        self._frontier = Frontier()
        self._position = 0
        self._pruned = 0
        self._gone: dict[tuple[str, str], list[int]] = {}
        """Of each session the events whose body is not there, and that no prune event has explained yet."""
        self._oldest_body: dict[tuple[str, str], int] = {}
        """Of each session the first body that is there."""
        self._undone: list[str] = []
        self._verified = 0
        self._sessions: dict[tuple[str, str], tuple[int, int]] = {}
        """How many events each has so far, and the stretch of the last of them."""
        self._stretches = None if stretches is None else set(stretches)
        self._first_in: dict[Stretch, int] = {}
        """Of each stretch that a session has events in, the first of those."""
        self._counters: dict[str, _Counter] = {}
        self._open: dict[str, int] = {}
        self._tables = Tables()
        self._broken_roots = False
        self._tiles = None if tile_hashes is None else {(level, at): found for level, at, found in tile_hashes}
        self._tiles_due = max((one.size for one in due if isinstance(one, StoredCheckpoint)), default=0)
        """All tile hashes of so many leaves must be stored."""
        self._broken_tiles = False

    # --- events -------------------------------------------------------------------------------------------

    def feed(self, rows: Iterable[RawRow]) -> None:
        """The next rows. Reading on after the first finding is cheap and shows how far the damage goes."""
        frontier = self._frontier
        for row in rows:
            index = row[0]
            if index != frontier.size:
                self._find(frontier.size, f"missing: the next event stored is {index}")
                frontier = self._frontier = _unknown_up_to(index)
            leaf_hash = hashlib.sha256(b"\x00" + row[8]).digest()
            for completed in frontier.append(leaf_hash):
                self._tile(completed)
            if leaf_hash != row[9]:
                self._find(index, "leaf_hash is not the leaf's")
            fields = self._leaf(row)
            if fields is not None:
                session = _session(fields)
                self._numbers(row, fields, session)
                self._bodies(row, fields, session)
                self._derive(row, fields)
            while frontier.size == self._next_due:
                self._checkpoint(self._due.pop())

    def _leaf(self, row: RawRow) -> dict[str, Any] | None:
        """The leaf as a value, if it is a well-formed one; the columns that repeat it are checked on the way."""
        index, event_id, kind, tenant, session, _, at, _, leaf, _, _, _ = row
        try:
            fields = orjson.loads(leaf)
        except orjson.JSONDecodeError:
            fields = None
        misfit = _misfit(fields, leaf)
        if misfit is not None:
            self._find(index, misfit)
            return None
        told = (fields["id"], fields["kind"], fields["at"], *_session(fields))
        stored = (event_id, kind, at, tenant, session)
        if told != stored:
            names = ("event_id", "kind", "at", "tenant", "session")
            differs = [name for name, one, other in zip(names, told, stored, strict=True) if one != other]
            self._find(index, f"the leaf says another {' and '.join(differs)} than the column")
            if not all(isinstance(one, str) for one in told):
                return None
        return fields  # type: ignore[no-any-return]  # _misfit has seen that it is a dict

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
            self._find(index, f"session_number is {row[5]}, not {number}")
        if kind in ("killed", "released"):
            self._position += 1
        if row[7] != self._position:
            self._find(index, f"kill_position is {row[7]}, not {self._position}")
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
            # A forged counter must not cost memory: a gap wider than any run of refusals is a finding itself.
            if counter - known.last > _WIDEST_GAP:
                self._find(index, f"counter of {member} leaps from {known.last} to {counter}")
            else:
                known.missing.update(range(known.last + 1, counter))
            known.last = counter
        elif counter in known.missing:
            known.missing.remove(counter)
        else:
            self._find(index, f"counter {counter} of {member} was there before")

    def _bodies(self, row: RawRow, fields: Mapping[str, Any], session: tuple[str, str]) -> None:
        salt, body = row[10], row[11]
        if salt is None and body is None:
            self._gone.setdefault(session, []).append(row[0])
        elif salt is None or body is None:
            self._find(row[0], "a body without its salt, or a salt without its body")
        elif body_sha256(salt, body) != fields["body_sha256"]:
            self._find(row[0], "the body is not the one that the leaf binds")
        if body is not None and session not in self._oldest_body:
            self._oldest_body[session] = row[0]
        if fields["kind"] == "pruned":
            self._prune(row[0], fields, session)

    def _prune(self, index: int, fields: Mapping[str, Any], session: tuple[str, str]) -> None:
        """What a prune event speaks of came before it. Whether the bodies are gone by now is not its business."""
        through = fields.get("through")
        if type(through) is not int or not session[1]:
            self._find(index, "a pruned event without a session, or without an index that it goes through")
            return
        for hold in self._tables.rows["holds"].values():
            of = (str(hold["tenant"]), str(hold["session"]))
            if hold["released_idx"] is None and covers(*of, *session):
                self._find(index, f"prunes a session that hold {hold['id']!r} keeps")
        gone = self._gone.pop(session, [])
        left = [one for one in gone if one > through]
        if left:
            self._gone[session] = left
        self._pruned += len(gone) - len(left)
        oldest = self._oldest_body.get(session, index)
        if oldest <= through and self._oldest_body.pop(session, None) is not None:
            what = f"its body is there, although event {index} pruned it: a prune did not end"
            self._undone.append(f"event {oldest}: {what}")

    def _derive(self, row: RawRow, fields: Mapping[str, Any]) -> None:
        index, kind = row[0], fields["kind"]
        if kind == "finished":
            self._open.pop(str(fields.get("trace_id", "")), None)
        if kind in WITHOUT_EFFECT or (kind == "finished" and "of" not in fields and "answer_key" not in fields):
            return
        try:
            if kind == "decided":
                self._decided(index, fields)
            else:
                self._spend(index, fields)
                self._tables.apply(effects(fields, index, self._position, row[11], _SOME_SEAL))
        except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
            self._find(index, f"a {kind} event without what it must have ({error})")

    def _decided(self, index: int, fields: Mapping[str, Any]) -> None:
        if fields["decision"] == "ALLOW":
            self._open[fields["trace_id"]] = index
        owner = self._tables.rows["sessions"].get((fields.get("tenant", ""), fields.get("session", "")))
        foreign = owner is not None and owner["principal"] != fields.get("principal", "")
        if owner is not None and foreign and fields["decision"] != "DENY":
            self._find(index, f"decides for {fields.get('principal', '')} in a session of {owner['principal']!r}")
        member = self._tables.rows["members"].get((fields["member"],))
        if member is not None and fields["decision"] != "DENY" and presence(member) is not Presence.HERE:
            self._find(index, f"is a decision of {fields['member']}, which had left or was gone")
        if owner is None or "approval_id" in fields or "idempotency_sha256" in fields:
            self._spend(index, fields)
            self._tables.apply(effects(fields, index, self._position, None))

    def _spend(self, index: int, fields: Mapping[str, Any]) -> None:
        for spending in spendings(fields):
            first = self._tables.rows["spent"].get(spending)
            if first is not None:
                self._find(index, f"spends the {spending[0]} that event {first['idx']!r} has spent")

    # --- tiles and checkpoints ----------------------------------------------------------------------------

    def _tile(self, completed: TileHash) -> None:
        if self._tiles is None:
            return
        level, index, expected = completed
        stored = self._tiles.pop((level, index), None)
        is_missing = stored is None and last_leaf(completed) < self._tiles_due
        if (is_missing or stored not in (None, expected)) and not self._broken_tiles:
            self._broken_tiles = True  # every later one above it differs too
            what = "is missing" if is_missing else "is not that of the events up to here"
            self._find(last_leaf(completed), f"subtrees: hash {index} of tile level {level} {what}")

    def _opened(self, kept: Iterable[bytes]) -> Iterator[signed_note.Checkpoint]:
        for note in kept:
            try:
                found = signed_note.open_checkpoint(note, self._keys, self._origin)
            except signed_note.NoteInvalid as error:
                self._find(None, f"a checkpoint that was kept elsewhere: {error}")
            else:
                yield from [found] if found.size else []

    def _checkpoint(self, stored: StoredCheckpoint | signed_note.Checkpoint) -> None:
        self._next_due = self._due[-1].size if self._due else -1
        last = stored.size - 1
        if isinstance(stored, signed_note.Checkpoint):
            if self._frontier.root() != stored.root:
                text = "the events up to here are not those that were signed: this is another log, or a forked one"
                self._find(last, f"checkpoint {stored.size}, kept elsewhere: {text}")
            return
        try:
            signed = signed_note.open_checkpoint(stored.note, self._keys, self._origin)
        except signed_note.NoteInvalid as error:
            self._find(last, f"checkpoint {stored.size}: {error}")
            return
        if (signed.size, signed.root) != (stored.size, stored.root):
            self._find(last, f"checkpoint {stored.size}: its note says another size or root than its row")
        elif self._frontier.root() != signed.root:
            if not self._broken_roots:  # every later root differs too
                self._find(last, f"checkpoint {stored.size}: the events up to here are not those that were signed")
            self._broken_roots = True
        elif self._frontier.to_bytes() != stored.frontier:
            self._find(last, f"checkpoint {stored.size}: its stored frontier is another tree's")
        else:
            self._verified += 1

    # --- the end ------------------------------------------------------------------------------------------

    def finish(self, head: StoredHead | None, tables: Mapping[str, Iterable[Row]]) -> Report:
        """Compare what was derived with the head row and the derived tables as they are stored."""
        size = self._frontier.size
        for index in sorted(index for gone in self._gone.values() for index in gone):
            self._find(index, "its body is gone, and no prune event took it")
        for checkpoint in reversed(self._due):
            text = f"checkpoint {checkpoint.size} has signed more events than the {size} stored"
            is_kept = isinstance(checkpoint, signed_note.Checkpoint)
            self._find(size, f"{'rolled back or cut: ' if is_kept else 'missing: '}{text}")
        self._head(head, size)
        for level, at in sorted(self._tiles or ()):
            self._find(None, f"subtrees: hash {at} of tile level {level} is of events that are not there")
        self._strewn()
        for name in KEYS:
            self._table(name, tables.get(name, ()))
        return Report(
            size=size,
            root=self._frontier.root(),
            kill_position=self._position,
            findings=self._findings,
            notes=self._notes(),
            checkpoints=self._verified,
            pruned=self._pruned,
            open_intents=len(self._open),
        )

    def _strewn(self) -> None:
        """A stretch that is missing would hide a session's events from whoever asks for them."""
        if self._stretches is None:
            return
        for stretch, first in self._first_in.items():
            if stretch not in self._stretches:
                self._find(first, f"stretches: the row that leads to it is missing: {stretch}")
        for stretch in sorted(self._stretches - self._first_in.keys()):
            self._find(None, f"stretches: a row that no event made: {stretch}")

    def _head(self, head: StoredHead | None, size: int) -> None:
        if head is None:
            self._find(None, "there is no head row")
            return
        if head.size != size:
            self._find(min(size, head.size), f"the head row counts {head.size} events, and {size} are stored")
        if head.kill_position != self._position:
            self._find(None, f"the head row's kill position is {head.kill_position}, not {self._position}")
        oldest = min(self._open.values(), default=size)
        if head.open_from > oldest:
            self._find(oldest, f"an open intent, but the head row says that none is open before {head.open_from}")

    def _table(self, name: str, stored: Iterable[Row]) -> None:
        derived = dict(self._tables.rows[name])
        for row in stored:
            expected = derived.pop(key_of(name, row), None)
            if expected is None:
                self._find(None, f"{name}: a row that no event made: {_shown(name, row)}")
                continue
            differs = [
                column for column, value in expected.items() if not _agrees(name, column, value, row.get(column))
            ]
            if differs:
                self._find(
                    _made_by(expected),
                    f"{name}: {', '.join(differs)} of {_shown(name, row)} is not what the events say",
                )
        for row in derived.values():
            self._find(_made_by(row), f"{name}: the row of {_shown(name, row)} is missing")

    def _notes(self) -> list[str]:
        return self._undone + [
            f"member {member}: the log has refused {len(counter.missing)} of its events "
            f"(as a rule somebody else was first) or could not write them, from its number {min(counter.missing)} on"
            for member, counter in self._counters.items()
            if counter.missing
        ]

    def _find(self, index: int | None, what: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(index, what))


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


def _agrees(table: str, column: str, derived: Value, stored: Value) -> bool:
    if column in UNDERIVED.get(table, ()):
        return derived is not None or stored is None
    if table in ("kills", "holds") and column == "reason" and derived is None:
        return True  # the body that said it was pruned
    return stored == derived


def _shown(table: str, row: Mapping[str, Value]) -> str:
    return "/".join(str(part) for part in key_of(table, row))


def _made_by(row: Mapping[str, Value]) -> int | None:
    index = row.get("idx", row.get("joined_idx"))
    return index if isinstance(index, int) else None


def _unknown_up_to(size: int) -> Frontier:
    """A tree whose first leaves nobody knows any more: numbering goes on, and no root of it can be right."""
    return Frontier.from_bytes(size.to_bytes(8, "big") + bytes(32) * size.bit_count())
