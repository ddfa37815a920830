"""The members of a service: who is here, who was not heard, and who is done with a kill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Presence(StrEnum):
    """What the log says of a member."""

    HERE = "here"
    GONE = "gone"
    """Not heard for so long that it was declared gone; its process may be alive all the same."""
    ATTESTED = "attested"
    """Declared gone, and an admin has attested that its host is destroyed."""
    LEFT = "left"
    """Its process has ended all its calls, or its successor held the lock that it had held."""


def presence(row: Mapping[str, Any]) -> Presence:
    """What a row of `members` says of that member."""
    if row["left_idx"] is not None:
        return Presence.LEFT
    if row["attested_idx"] is not None:
        return Presence.ATTESTED
    return Presence.GONE if row["gone_idx"] is not None else Presence.HERE


class Hearing:
    """Who was not heard for how long, as one observer counts it.

    Only time in which the observer itself listened counts: one that was paused for an hour has heard nobody, and must
    not take that for silence.
    """

    MOST_BETWEEN_S: Final = 3.0
    """A longer gap between two looks was a pause of our own."""

    def __init__(self) -> None:
        self._beats: dict[str, int] = {}
        self._silent_s: dict[str, float] = {}
        self._looked_at_s: float | None = None

    def hear(self, beats: Mapping[str, int], now_s: float) -> None:
        """Take over everybody's heartbeat counters at `now_s` of a clock that runs while the machine sleeps."""
        passed_s = 0.0 if self._looked_at_s is None else now_s - self._looked_at_s
        counts = 0 <= passed_s <= self.MOST_BETWEEN_S
        silent = {}
        for member, beat in beats.items():
            is_same = self._beats.get(member) == beat
            silent[member] = self._silent_s[member] + passed_s * counts if is_same else 0.0
        self._beats, self._silent_s, self._looked_at_s = dict(beats), silent, now_s

    def silent_s(self, member: str) -> float:
        """For how long `member` was not heard, in seconds; 0 for one that is not known."""
        return self._silent_s.get(member, 0.0)

    def silent_for(self, longer_than_s: float) -> list[str]:
        return [member for member, silent_s in self._silent_s.items() if silent_s > longer_than_s]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A member's word that every kill up to `position` is applied to its table and that no covered call is left.

    The counts are for the kill's receipt: how its covered calls ended in that member.
    """

    member: str
    position: int
    cancelled: int = 0
    finished: int = 0
    unknown: int = 0
    took_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a kill has come (K1). Of `attested` members it is an admin who says that nothing runs there any more."""

    unheard: tuple[str, ...]
    """Members that are waited for."""
    excepted: tuple[str, ...]
    """Members declared gone: nobody can say what still runs in them."""
    attested: tuple[str, ...]

    @property
    def drained(self) -> bool:
        return not self.unheard and not self.excepted

    @property
    def is_waiting(self) -> bool:
        return bool(self.unheard)


def progress(
    members: Iterable[str], present: Mapping[str, Presence], acknowledged: Mapping[str, int], position: int
) -> Progress:
    """How far the kill at `position` has come, that `members` were there for.

    A member is done with a kill when it has acknowledged its position or a later one, or has left. Members that
    joined later read the position as they joined, and are not waited for.
    """
    waiting = {Presence.HERE: list[str](), Presence.GONE: list[str](), Presence.ATTESTED: list[str]()}
    for member in members:
        standing = present.get(member, Presence.HERE)
        if acknowledged.get(member, -1) < position and standing in waiting:
            waiting[standing].append(member)
    return Progress(*(tuple(waiting[key]) for key in (Presence.HERE, Presence.GONE, Presence.ATTESTED)))
