"""The closed set of events, and the one byte form of each.

A *leaf* is what the Merkle tree commits to: RFC 8785 bytes that hold no arguments, results, context or free
text, only names, codes, digests and numbers. What people wrote or sent is in the *body*, which is kept
apart, redacted and prunable; the leaf binds it as SHA-256(salt ‖ body), so that a pruned body can be
neither guessed nor replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import orjson

from agentgate.core.merkle import leaf_hash
from agentgate.core.strict_json import canonical_plain

LEAF_VERSION: Final = 1
MAX_LEAF_BYTES: Final = 65_535
"""The limit of a C2SP tlog-tiles entry (its length prefix has 16 bits)."""
SALT_BYTES: Final = 16


class Kind(StrEnum):
    """Everything that can happen. A reader that meets another kind must stop, not skip."""

    DECIDED = "decided"
    FINISHED = "finished"
    REFUSALS = "refusals"
    KILLED = "killed"
    RELEASED = "released"
    ACKED = "acked"
    DRAINED = "drained"
    JOINED = "joined"
    LEFT = "left"
    GONE = "gone"
    RELEASE_ASKED = "release_asked"
    APPROVAL_REQUESTED = "approval_requested"
    APPROVAL_DECIDED = "approval_decided"
    APPROVAL_CLOSED = "approval_closed"
    EXPORTED = "exported"
    POLICY = "policy"
    REPAIRED = "repaired"
    PRUNED = "pruned"
    HELD = "held"
    UNHELD = "unheld"
    KEYED = "keyed"
    KEYS_CHANGED = "keys_changed"
    TOOL_ACCEPTED = "tool_accepted"
    TOOL_QUARANTINED = "tool_quarantined"
    TOOL_REJECTED = "tool_rejected"
    ANSWERED = "answered"
    ANSWERS_CLOSED = "answers_closed"


class Outcome(StrEnum):
    """How an allowed call ended. `unknown`: it may have reached the upstream and nobody heard the answer."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"


@dataclass(slots=True)
class Origin:
    """Where an event comes from: the member that wrote it, and the member's own count of its events.

    Written to by nobody; not `frozen` because a frozen one takes a microsecond to make, four times a call.
    """

    id: str
    at: datetime
    member: str
    counter: int
    version: str
    salt: bytes


@dataclass(slots=True)
class Event:
    """One event, final: `leaf` is what is hashed. The other fields repeat what stores index by.

    Not `frozen` for the same reason as `Origin`; a change after `make` would not be in the leaf.
    """

    id: str
    at: str
    kind: Kind
    tenant: str
    session: str
    principal: str
    leaf: bytes
    salt: bytes
    body: bytes
    fields: Mapping[str, Any]
    """The leaf as a value; `log verify` compares it with the bytes."""
    projected: Mapping[str, Any] | None = None
    """What only a projection needs (sealed arguments); never in the leaf or the body."""

    @property
    def leaf_hash(self) -> bytes:
        return leaf_hash(self.leaf)


@dataclass(frozen=True, slots=True)
class Record:
    """An event as the log gives it back. `body` is None once it was pruned."""

    index: int
    session_number: int
    kill_position: int
    fields: Mapping[str, Any]
    leaf: bytes
    salt: bytes | None
    raw_body: bytes | None
    """The body's bytes, as the leaf binds them."""

    @property
    def body(self) -> Mapping[str, Any] | None:
        """The body as a value."""
        return None if self.raw_body is None else orjson.loads(self.raw_body)

    @property
    def kind(self) -> Kind:
        return Kind(self.fields["kind"])


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and a `Z`, always the same length so that it sorts as text."""
    utc = moment.astimezone(UTC)
    minute = _minute(utc.year, utc.month, utc.day, utc.hour, utc.minute)
    return f"{minute}:{utc.second:02d}.{utc.microsecond:06d}Z"


@lru_cache(maxsize=16)
def _minute(year: int, month: int, day: int, hour: int, minute: int) -> str:
    """Remembered, because every event asks for the same one."""
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}"


def body_sha256(salt: bytes, body: bytes) -> str:
    return hashlib.sha256(salt + body).hexdigest()


def make(
    origin: Origin,
    kind: Kind,
    fields: Mapping[str, Any],
    *,
    tenant: str = "",
    session: str = "",
    principal: str = "",
    body: bytes = b"{}",
    projected: Mapping[str, Any] | None = None,
) -> Event:
    """An event from its parts. `fields` has ASCII names and neither floats nor None."""
    at = rfc3339(origin.at)
    leaf = {
        "v": LEAF_VERSION,
        "id": origin.id,
        "at": at,
        "kind": str(kind),
        "member": origin.member,
        "counter": origin.counter,
        "version": origin.version,
        "body_sha256": body_sha256(origin.salt, body),
        **fields,
    }
    if tenant:
        leaf["tenant"] = tenant
    if session:
        leaf["session"] = session
    if principal:
        leaf["principal"] = principal
    raw = canonical_plain(leaf)
    if len(raw) > MAX_LEAF_BYTES:  # names are bounded, so only a fault of ours gets here
        raise ValueError(f"a leaf of {len(raw)} bytes")
    return Event(origin.id, at, kind, tenant, session, principal, raw, origin.salt, body, leaf, projected)
