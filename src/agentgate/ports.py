"""What the pipeline needs from the outside, as Protocols. Each adapter proves them with tests/contracts/.

Every method that waits is cancellable and bounded by the adapter's own deadline. What can be told by a
value is told by a value; the errors that are raised are named here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from agentgate.core.call import ArgumentCheck, Call
from agentgate.core.containment import Acknowledgement, FlagChange, KillChanges, KillState
from agentgate.core.decision import Grant, NoRuling, Receipt, Ruling
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Event, Record
from agentgate.core.evidence import Pack
from agentgate.core.policy import PolicyBundle
from agentgate.core.query import Query
from agentgate.core.retention import Around, Kept, Place, Quiet

Made = TypeVar("Made")

# --- policy -----------------------------------------------------------------------------------------------

Rule = Literal["decision", "tools"]
"""`agentgate/decision` decides one call; `agentgate/tools` answers `{name: "allow" | "approval"}` for a caller."""


class PolicyEngine(Protocol):
    """Evaluates the policy in force (a PDP)."""

    async def query(self, rule: Rule, question: bytes) -> Ruling | NoRuling:
        """The value of a rule for `{"input": …}` bytes. Never raises: a failure is a `NoRuling`."""
        ...

    async def enforce(self, bundle: PolicyBundle) -> None:
        """Make `bundle` the policy in force; when this returns, `query` answers from it.

        Raises:
            PolicyInvalid: it does not compile, needs a built-in that is not offered, or is not compiled;
                what was in force stays.
            PolicyNotEnforced: the engine did not take it in time; the old one may still answer.
            PolicyExternal: the engine runs its own policies.
        """
        ...

    async def revision(self) -> str | None:
        """The revision that is enforced now, or None when the engine does not answer."""
        ...

    async def aclose(self) -> None: ...


class PolicySource(Protocol):
    """Where bundles come from."""

    async def read(self) -> PolicyBundle:
        """The bundle as it stands in the policy directory now, compiled if a compiler is at hand.

        Raises:
            PolicyInvalid: unreadable, not Rego, or data that is not strict JSON.
        """
        ...


# --- containment ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`limit` calls in any `window_s` seconds, counted by tenant, agent and tool."""

    limit: int
    window_s: float


@dataclass(frozen=True, slots=True)
class LimitState:
    """What the X-RateLimit headers say, this call counted. `reset_at` is Unix seconds."""

    limit: int
    remaining: int
    reset_at: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call may go on, as far as flags and limits known at `position` say."""

    position: int
    limit: LimitState | None = None


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """`reason` is KILLED (with the kill's id), RATE_LIMITED (with the state) or KILL_STATE_UNKNOWN."""

    reason: ReasonCode
    detail: str = ""
    kill_id: str | None = None
    limit: LimitState | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """A call between admission and release, as a display shows it. `since` is RFC 3339."""

    trace_id: str
    tenant: str
    session: str
    agent: str
    tool: str
    server: str
    member: str
    since: str


class Admission(Protocol):
    """The fast path of containment: flags, limits and the display of what is in flight.

    It is never the authority (that is the log): everything in it can be lost, and is then refused on until
    `apply` has put it back.
    """

    async def admit(self, call: Call, limit: RateLimit | None, seen: int) -> Admitted | NotAdmitted:
        """One atomic step: refuse if the store's kill position is missing or older than `seen`, if a flag
        covers the call, or if the limit is used up; else count it and register it in flight.

        Never raises; not answering within 100 ms is KILL_STATE_UNKNOWN (K4).
        """
        ...

    def release(self, call: Call) -> None:
        """Take the call out of the in-flight set; not awaited and never raises."""
        ...

    async def apply(self, state: KillState, change: FlagChange | None = None) -> None:
        """Put flags and position in force, if the store's position is absent or lower (DESIGN §4, *Apply*).

        `change` is the cheaper way to `state`, for a store that is exactly at `change.since`. Whoever changes the store
        wakes every member that listens.

        Raises:
            KillStateUnknown: the store could not be written in time.
        """
        ...

    def listen(self, on_wake: Callable[[int], None]) -> None:
        """From now on call `on_wake` with the position whenever somebody has changed the store, and after each
        reconnection. Best effort: a member that misses a wake-up hears of the position by its heartbeat."""
        ...

    async def in_flight(self) -> list[InFlight]:
        """The calls of all members, for display. Raises KillStateUnknown."""
        ...

    async def forget(self, member: str) -> None:
        """Take what a member that is gone had in flight out of the display. Raises KillStateUnknown."""
        ...

    async def position(self) -> int | None:
        """The store's kill position; None when it has none or does not answer. For health and repair."""
        ...

    async def aclose(self) -> None: ...


# --- the log ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spend:
    """A thing that can be used once: an approval or an idempotency key, and what only the first may do: decide an
    approval, take a kill's id, release it, write its receipt, declare a member gone, close another's call. It is one
    that `core.projection.spendings` finds in the leaf."""

    kind: Literal[
        "approval", "idempotency", "verdict", "kill", "release", "release_ask", "receipt", "gone", "outcome", "hold",
        "unhold", "prune",
    ]  # fmt: skip
    key: str


@dataclass(frozen=True, slots=True)
class AlreadySpent:
    """Somebody else was first; nothing was appended."""

    spend: Spend


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


class Log(Protocol):
    """The authority: an append-only sequence of events and the few things derived from it.

    Serialisable: `append` decides who was first, and its receipt's kill position is read in the same
    transaction.
    """

    def append(self, event: Event, spends: Sequence[Spend] = ()) -> Awaitable[Appended]:
        """Make `event` durable. Awaiting raises LogUnavailable when it is not known to be durable.

        A `decided` event binds its session to its principal or finds it bound to another; a DENY is recorded
        all the same, because a refusal of a foreign session must be. Nor does a member that was declared gone or has
        left get anything but a DENY recorded, whatever it believes of itself. Kill and release
        events take the next kill position, which their receipt carries with the members at that position.
        A session on legal hold is not pruned: of a hold and a prune that come at once, the first in the log counts.
        What an event spends is in its leaf, so that it can be verified: `spends` may only repeat it. An append that
        seemed to fail may be tried again: the same event is in the log once, and its receipt is answered.
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


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session as the log knows it."""

    tenant: str
    session: str
    principal: str
    first_at: str


class LogReader(Protocol):
    """What auditors, operators and the start need from the log. Raises LogUnavailable."""

    def records(
        self,
        *,
        tenant: str | None = None,
        session: str | None = None,
        first: int = 0,
        kinds: Sequence[str] = (),
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

    async def sessions(self, tenant: str | None) -> list[SessionRow]: ...

    async def open_intents(self) -> list[Record]:
        """ALLOW decisions without an outcome, of every member: in flight, or left by a process that died."""
        ...

    async def projection(
        self, name: Literal["approvals", "kills", "members", "acks", "release_asks", "holds"], **match: str | int | None
    ) -> list[dict[str, Any]]:
        """Rows of a derived table whose columns equal `match` (None: are empty), oldest first."""
        ...

    async def acknowledged(self, position: int) -> list[Acknowledgement]:
        """Of each member its first acknowledgement at or past a kill position."""
        ...

    async def checkpoint(self) -> bytes | None:
        """The newest signed checkpoint (C2SP tlog-checkpoint), or None before the first."""
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


# --- evidence ---------------------------------------------------------------------------------------------


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


# --- upstreams --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """The upstream answered. `value` is JSON; `status` its own status where it has one (HTTP)."""

    value: Any
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Undelivered:
    """The upstream did not do it, or nobody can say.

    `reached` is False only when it is certain that nothing was sent: then the effect is known to be none.
    """

    reason: ReasonCode
    detail: str
    reached: bool = True
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret by its alias. `secret` never leaves the gateway but to the upstream."""

    alias: str
    secret: str

    def __repr__(self) -> str:
        return f"Credential({self.alias!r}, ***)"


class Upstream(Protocol):
    """Where calls go. One instance for each configured upstream."""

    def validate_options(self, options: Mapping[str, Any]) -> None:
        """Raises ValueError with a sentence when a tool's options are not what this kind takes."""
        ...

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        """Run the granted call. Cancellation ends it for good: sockets closed, nothing shielded, no retry
        left behind. The gate sets the deadline. Never raises but CancelledError."""
        ...

    async def aclose(self) -> None: ...


class CredentialSource(Protocol):
    """Turns an alias into a secret, as late as possible."""

    async def credential(self, alias: str, *, scope: str | None, ttl_s: int | None) -> Credential | None:
        """None when the alias has no secret now; the call is then refused."""
        ...


class Schemas(Protocol):
    """Compiles JSON Schemas (2020-12)."""

    def compile(self, schema: Mapping[str, Any]) -> ArgumentCheck:
        """Raises ValueError with a sentence when `schema` is not one."""
        ...


# --- keys, time, chance -----------------------------------------------------------------------------------


class Signer(Protocol):
    """Signs evidence or checkpoints with one key."""

    algorithm: str
    key_id: str

    def sign(self, message: bytes) -> bytes: ...


class EnvelopeSigner(Signer, Protocol):
    """Signs envelopes, which anybody verifies with the public key."""

    spki: bytes
    """The public key as SubjectPublicKeyInfo in DER."""


class TimestampAuthority(Protocol):
    """Somebody else's word for when a signature existed (RFC 3161)."""

    async def stamp(self, message: bytes) -> bytes:
        """A TimeStampResp in DER over SHA-256 of `message`, checked to be one. Raises TimestampUnavailable."""
        ...

    async def aclose(self) -> None: ...


class Worker(Protocol):
    """Somewhere to compute for a while without holding up the calls."""

    async def run(self, work: Callable[[], Made]) -> Made:
        """What `work` returns, or raises. One at a time; it is finished even if nobody waits for it any more."""
        ...


class Sealer(Protocol):
    """Keeps what only the gateway may read again (AEAD), such as the arguments of a pending approval."""

    def seal(self, plain: bytes, about: bytes) -> bytes: ...

    def unseal(self, sealed: bytes, about: bytes) -> bytes | None:
        """None when the key, the text or what it is about is another."""
        ...


class Clock(Protocol):
    """Time, injected so that rules can be tested at any hour."""

    def now(self) -> datetime:
        """Aware, UTC."""
        ...

    def ticks_ns(self) -> int:
        """Monotonic nanoseconds, for durations."""
        ...

    def boot_s(self) -> float:
        """Seconds of a clock that also runs while the machine sleeps (CLOCK_BOOTTIME), for leases."""
        ...


class Entropy(Protocol):
    """Unpredictable bytes, injected because core rolls no dice."""

    def token(self, n_bytes: int) -> bytes: ...


# --- what is told to others -------------------------------------------------------------------------------


class Notifier(Protocol):
    """Tells people elsewhere. Never raises, never waits, never stands in a call's way."""

    def notify(self, kind: str, payload: Mapping[str, Any]) -> None:
        """`kind` is v0.2's event type, such as `kill_switch.activated`. Nothing in `payload` is secret."""
        ...

    async def aclose(self) -> None: ...


class Meter(Protocol):
    """Counts and times for operators. Never raises, never blocks."""

    def call_finished(self, tool: str, decision: str, seconds: float) -> None: ...

    def step(self, name: Literal["admission", "policy", "append", "upstream"], seconds: float) -> None: ...

    def policy_evaluated(self, result: str, rule: str) -> None: ...

    def count(self, name: str, label: str = "", by: int = 1) -> None: ...
