"""The log: appending, reading, its bodies and its tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agentgate.core.approval import Wanted
from agentgate.core.containment import KillChanges
from agentgate.core.decision import Receipt
from agentgate.core.event import Event, Record
from agentgate.core.members import Acknowledgement
from agentgate.core.query import Query
from agentgate.core.retention import Around, Kept, Place, Quiet


@dataclass(frozen=True, slots=True)
class AlreadySpent:
    """Somebody else was first to use what the event spends (`core.projection.spendings`); nothing was appended."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class ForeignSession:
    """The session belongs to another principal; nothing was appended."""

    session: str


@dataclass(frozen=True, slots=True)
class MemberGone:
    """The member that wants to record a decision was declared gone, or has left; nothing was appended."""

    member: str


@dataclass(frozen=True, slots=True)
class OnHold:
    """A legal hold covers the session that was to be pruned; nothing was appended."""

    hold: str


Appended = Receipt | AlreadySpent | ForeignSession | MemberGone | OnHold


Derived = Literal["approvals", "kills", "members", "acks", "release_asks", "holds", "pins", "votes", "answers", "spent"]
"""The derived tables that are read by what is asked for (`core.projection.KEYS`)."""


class Log(Protocol):
    """The authority: an append-only sequence of events and the few things derived from it.

    Serialisable: `append` decides who was first, and its receipt's kill position is read in the same
    transaction.
    """

    def append(self, event: Event) -> Awaitable[Appended]:
        """Make `event` durable. Awaiting raises LogUnavailable when it is not known to be durable.

        A `decided` event binds its session to its principal or finds it bound to another; a DENY is recorded
        all the same, because a refusal of a foreign session must be. Nor does a member that was declared gone or has
        left get anything but a DENY recorded, whatever it believes of itself. Kill and release
        events take the next kill position, which their receipt carries with the members at that position.
        A session on legal hold is not pruned: of a hold and a prune that come at once, the first in the log counts.
        What an event spends is in its leaf, so that it can be verified. An append that seemed to fail may be tried
        again: the same event is in the log once, and its receipt is answered.
        """
        ...

    async def settled(self) -> None:
        """Wait until each append that was begun before is durable, or never will be; also those that seemed to fail,
        or whose caller did not wait. Raises LogUnavailable when that takes longer than an append may.
        """
        ...

    async def kills_since(self, position: int) -> KillChanges:
        """Kills that were given or released after `position`, in one consistent view. Raises LogUnavailable.

        Its cost grows with what has changed. Below 0 it is the kills in force.
        """
        ...

    async def beat(self, member: str) -> Mapping[str, int]:
        """Say that `member` lives, and hear of the others: the heartbeat counters of all members that have not left.

        A counter is no event and proves nothing; it only tells who might be gone. A store of one process answers
        nothing. Raises LogUnavailable.
        """
        ...

    async def aclose(self) -> None: ...


class LogReader(Protocol):
    """What auditors, operators and the start need from the log. Raises LogUnavailable."""

    def records(
        self, *, tenant: str | None = None, session: str | None = None, first: int = 0, kinds: Sequence[str] = ()
    ) -> AsyncIterator[Record]:
        """Records in log order, with their bodies where they were not pruned."""
        ...

    def search(
        self, query: Query, *, first: int = 0, below: int | None = None, newest: bool = False
    ) -> AsyncIterator[Record]:
        """Records that fit `query`, in log order or the `newest` first, with an index from `first` on and `below`.

        What is appended after the start is not in it. Reads in chunks, so that whoever stops early has read little,
        and nobody's append waits. By time, an event is found if its clock was not wrong by more than half an hour.
        """
        ...

    async def size(self) -> int:
        """How many events are durable now: the index of the next one."""
        ...

    async def record(self, index: int) -> Record | None:
        """The event at an index; None where there is none."""
        ...

    async def answers_until(self, moment: str, limit: int) -> int | None:
        """The newest index among the oldest answers that were kept at `moment` (RFC 3339) or before: at most `limit`,
        and fewer of large ones. None if there is none."""
        ...

    async def answers_held(self) -> dict[tuple[str, str], int]:
        """How many bytes of sealed answers are kept, by tenant and principal. Reads of each its size alone."""
        ...

    async def sessions(
        self, tenant: str | None, *, principal: str | None = None, after: str = "", limit: int
    ) -> list[str]:
        """The first `limit` ids of sessions behind `after`, sorted by their bytes: each once, however many tenants
        have one of this name. With `principal` those that are its own."""
        ...

    async def approvals(self, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
        """The first `limit` approvals that fit, oldest first, without what is sealed. They are never deleted, so nobody
        reads all of them at once."""
        ...

    async def open_intents(self) -> list[Record]:
        """ALLOW decisions without an outcome, of every member: in flight, or left by a process that died."""
        ...

    async def projection(
        self, name: Derived, *, without: str | None = None, **match: str | int | None
    ) -> list[dict[str, Any]]:
        """Rows of a derived table whose columns equal `match` (None: are empty), oldest first. The column `without` is
        not read, and None: what is sealed may be a megabyte a row."""
        ...

    async def acknowledged(self, position: int) -> list[Acknowledgement]:
        """Of each member its first acknowledgement at or past a kill position."""
        ...

    async def checkpoint(self) -> bytes | None:
        """The newest signed checkpoint (C2SP tlog-checkpoint), or None before the first."""
        ...


class Bookmarks(Protocol):
    """How far those have come who follow the log: an index each, which nothing is derived from. Raises
    LogUnavailable."""

    async def load(self, name: str) -> int | None:
        """Up to which index the follower `name` is done; None if it never said."""
        ...

    async def save(self, name: str, index: int) -> None:
        """It is done up to `index`; a lower one than is known changes nothing."""
        ...

    def turn(self, name: str) -> AbstractAsyncContextManager[bool]:
        """Whether this process is the only one to follow as `name` now: False while another one does.

        For as long as the block runs, which must be less than a minute. A process whose connection breaks loses its
        turn without hearing of it: what it does in one may be done again.
        """
        ...


class Bodies(Protocol):
    """What people wrote and sent, apart from the log itself: the one part of it that is ever given up.

    Raises LogUnavailable. Nothing here holds up an append for longer than a few milliseconds.
    """

    @property
    def refusal(self) -> str | None:
        """Why nothing can be deleted here as it is configured; None where it can."""
        ...

    async def around(self, moment: str, now: str) -> Around:
        """Where the log was at `moment`, by the times of its events; those after `now` are not believed."""
        ...

    async def quiet(self, below: int, after: Place | None) -> tuple[list[Quiet], Place | None]:
        """Some sessions that have no event from index `below` on but prunes, and something that was not pruned; and
        what to say as `after` for the next of them, None at the end."""
        ...

    async def count(self, session: Quiet) -> int:
        """How many bodies of its events are there, up to its last one."""
        ...

    async def pruned_lately(self, count: int) -> list[Quiet]:
        """The newest prunes; `last` is through which index. What they were to delete may be there still."""
        ...

    async def forget(self, sessions: Sequence[Quiet]) -> int:
        """Delete the bodies of sessions that a prune in the log covers, through `last` of each; how many.

        It may be cancelled, and done again.
        """
        ...

    async def compress(self, moment: str, now: str) -> bool:
        """Compress some bodies of events before `moment`, if there are enough; False when there is nothing to do."""
        ...

    async def kept(self) -> Kept: ...

    async def oldest(self, tenant: str | None) -> str | None:
        """When the oldest session began of which nothing was pruned; RFC 3339."""
        ...

    async def session_count(self) -> int: ...


class Tree(Protocol):
    """The log as a Merkle tree (RFC 6962), for proofs and for monitors. Raises LogUnavailable."""

    async def integrate(self) -> None:
        """Have a signed checkpoint over everything that is durable now."""
        ...

    async def checkpoint(self) -> bytes | None:
        """The newest signed checkpoint, with the witnesses' cosignatures that came for it; None before the first."""
        ...

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        """`count` hashes of a tile level from index `first` on, fewer where the signed tree ends.

        Level 0 are leaf hashes, level L the roots of complete subtrees of 256^L leaves (C2SP tlog-tiles).
        """
        ...
