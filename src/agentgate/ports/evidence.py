"""The forms of packs, exports, and who else vouches for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentgate.core.event import Record
from agentgate.core.evidence.pack import Pack


class PackWriter(Protocol):
    """One form of an evidence pack, made from its signed body and nothing else."""

    media_type: str
    extension: str

    def write(self, pack: Pack) -> bytes:
        """The same bytes for the same pack: no clock, no network, no chance. Called in a worker thread."""
        ...


@dataclass(frozen=True, slots=True)
class Enclosures:
    """What a bundle holds beside the views of a pack, by the index of events."""

    checkpoint: bytes
    leaves: Mapping[int, bytes]
    bodies: Mapping[int, bytes]
    """As the leaves bind them; none of what was pruned."""
    proofs: Mapping[int, bytes]
    """C2SP tlog-proof files."""
    consistency: Mapping[int, bytes]
    """C2SP tlog-witness add-checkpoint bodies, by the size of the earlier tree."""


class Bundler(Protocol):
    """Puts together what a stranger needs to check a pack."""

    def files(self, pack: Pack, enclosures: Enclosures) -> dict[str, bytes]:
        """Every file of the bundle but the envelope's, by its name. As `PackWriter.write`."""
        ...


class Export(Protocol):
    """One form in which records leave the gateway. An instance is one export: `start`, some `write`, `end`.

    Its bytes say nothing but what the records say: no clock, no network, no chance.
    """

    media_type: str
    extension: str

    def start(self) -> bytes: ...

    def write(self, records: Sequence[Record]) -> bytes:
        """The next records, as far as they can be written already."""
        ...

    def end(self) -> bytes: ...


class TimestampAuthority(Protocol):
    """Somebody else's word for when a signature existed (RFC 3161)."""

    async def stamp(self, message: bytes) -> bytes:
        """A TimeStampResp in DER over SHA-256 of `message`, checked to be one. Raises TimestampUnavailable."""
        ...

    async def aclose(self) -> None: ...
