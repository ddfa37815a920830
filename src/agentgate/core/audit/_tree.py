"""The tree over the leaves that are stored, against the hashes and the checkpoints that there are of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from agentgate.core import note as signed_note
from agentgate.core.audit.report import Findings
from agentgate.core.audit.stored import StoredCheckpoint
from agentgate.core.audit.unsigned import Unsigned
from agentgate.core.merkle import Frontier, TileHash, last_leaf


class AuditedTree:
    """Append every leaf in order, `check` after each, and ask in the end for what was never reached."""

    def __init__(
        self,
        findings: Findings,
        origin: str,
        keys: Sequence[signed_note.NoteKey],
        checkpoints: Iterable[StoredCheckpoint],
        kept: Iterable[bytes],
        tile_hashes: Iterable[TileHash] | None,
    ) -> None:
        self._findings = findings
        self._origin = origin
        self._keys = keys
        due: list[StoredCheckpoint | signed_note.Checkpoint] = [*checkpoints, *self._opened(kept)]
        self._due = sorted(due, key=lambda found: found.size, reverse=True)
        self._next_due = self._due[-1].size if self._due else -1
        self.frontier = Frontier()
        self.verified = 0
        """Checkpoints whose root and signature hold."""
        self.signed = 0
        """Events that the newest checkpoint is over that holds, whether it is stored or was kept."""
        self.unsigned = Unsigned()
        self._broken_roots = False
        self._tiles = None if tile_hashes is None else {(level, at): found for level, at, found in tile_hashes}
        self._tiles_due = max((one.size for one in due if isinstance(one, StoredCheckpoint)), default=0)
        """All tile hashes of so many leaves must be stored."""
        self._broken_tiles = False

    def _opened(self, kept: Iterable[bytes]) -> Iterator[signed_note.Checkpoint]:
        for note in kept:
            try:
                found = signed_note.open_checkpoint(note, self._keys, self._origin)
            except signed_note.NoteInvalid as error:
                self._findings.add(None, f"a checkpoint that was kept elsewhere: {error}")
            else:
                yield from [found] if found.size else []

    def append(self, index: int, leaf: bytes, stored: bytes) -> None:
        """The next leaf, and the hash that is stored of it."""
        if index < 0:  # no place in a tree: those from 0 on stand where they did
            self._findings.add(index, "an index below 0")
            return
        if index != self.frontier.size:
            self._findings.add(self.frontier.size, f"missing: the next event stored is {index}")
            # nobody knows the leaves before it any more: numbering goes on, and no root can be right
            self.frontier = Frontier.from_bytes(index.to_bytes(8, "big") + bytes(32) * index.bit_count())
        leaf_hash = hashlib.sha256(b"\x00" + leaf).digest()
        for completed in self.frontier.append(leaf_hash):
            self._tile(completed)
        if leaf_hash != stored:
            self._findings.add(index, "leaf_hash is not the leaf's")

    def _tile(self, completed: TileHash) -> None:
        if self._tiles is None:
            return
        level, index, expected = completed
        stored = self._tiles.pop((level, index), None)
        is_missing = stored is None and last_leaf(completed) < self._tiles_due
        if (is_missing or stored not in (None, expected)) and not self._broken_tiles:
            self._broken_tiles = True  # every later one above it differs too
            what = "is missing" if is_missing else "is not that of the events up to here"
            self._findings.add(last_leaf(completed), f"subtrees: hash {index} of tile level {level} {what}")

    def check(self) -> None:
        """The checkpoints of the tree as it is now."""
        while self.frontier.size == self._next_due:
            due = self._due.pop()
            self._next_due = self._due[-1].size if self._due else -1
            if isinstance(due, StoredCheckpoint):
                self._checkpoint(due)
                continue
            self.unsigned.sign(due.size)
            if self.frontier.root() == due.root:
                self.signed = due.size
            else:
                text = "the events up to here are not those that were signed: this is another log, or a forked one"
                self._findings.add(due.size - 1, f"checkpoint {due.size}, kept elsewhere: {text}")

    def _checkpoint(self, stored: StoredCheckpoint) -> None:
        last, name = stored.size - 1, f"checkpoint {stored.size}"
        try:
            signed = signed_note.open_checkpoint(stored.note, self._keys, self._origin)
        except signed_note.NoteInvalid as error:
            self._findings.add(last, f"{name}: {error}")
            return
        self.unsigned.sign(stored.size)
        if (signed.size, signed.root) != (stored.size, stored.root):
            self._findings.add(last, f"{name}: its note says another size or root than its row")
        elif self.frontier.root() != signed.root:
            if not self._broken_roots:  # every later root differs too
                self._findings.add(last, f"{name}: the events up to here are not those that were signed")
            self._broken_roots = True
        elif self.frontier.to_bytes() != stored.frontier:
            self._findings.add(last, f"{name}: its stored frontier is another tree's")
        else:
            self.verified += 1
            self.signed = stored.size

    def find_unreached(self) -> None:
        """Checkpoints of more events than there are."""
        size = self.frontier.size
        for due in reversed(self._due):
            what = "missing" if isinstance(due, StoredCheckpoint) else "rolled back or cut"
            self._findings.add(size, f"{what}: checkpoint {due.size} has signed more events than the {size} stored")

    def find_left_over(self) -> None:
        """Hashes of tiles that no events made."""
        for level, at in sorted(self._tiles or ()):
            self._findings.add(None, f"subtrees: hash {at} of tile level {level} is of events that are not there")

    def find_unsigned(self) -> None:
        """Events that no checkpoint is over, although there was time to sign one."""
        fault = self.unsigned.fault()
        if fault is not None:
            what = "checkpoints were taken away, or could not be kept"
            self._findings.add(self.unsigned.signed, f"not signed: {fault}: {what}")
