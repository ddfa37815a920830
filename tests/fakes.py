"""Ports in memory, which can be told to fail. How to use them: `tests/pipeline/conftest.py` makes a whole gate.

log.fail_next("append")                the next append raises LogUnavailable and nothing is kept
log.fail_next("append", persist=True)  the same, but the event is kept: the case nobody sees coming
engine.answer = NoRuling(...)          what policy says from now on
upstream.hold()                        calls wait until `upstream.let_go()`
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgate.adapters.detectors.known import KnownData
from agentgate.core import merkle
from agentgate.core.approval import Wanted
from agentgate.core.approval import from_row as approval_from_row
from agentgate.core.budget import Tally
from agentgate.core.call import (
    Access,
    AgentId,
    Call,
    Door,
    Principal,
    PrincipalKind,
    Role,
    SessionId,
    TenantId,
    Tool,
    ToolName,
    TraceId,
)
from agentgate.core.containment import (
    FlagChange,
    Kill,
    KillChange,
    KillChanges,
    KillId,
    KillState,
    Scope,
    flags_over,
    kill_change_from_row,
    kill_from_row,
)
from agentgate.core.decision import Grant, NoRuling, Receipt, Ruling
from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode
from agentgate.core.event import Event, Kind, Record
from agentgate.core.members import Acknowledgement, Presence, presence
from agentgate.core.note import Checkpoint, NoteKey, sign
from agentgate.core.notice import Notice
from agentgate.core.policy import PolicyBundle
from agentgate.core.projection.effects import effects
from agentgate.core.projection.spendings import spendings
from agentgate.core.projection.tables import Put, Tables
from agentgate.core.query import Query
from agentgate.core.redaction.redactor import Redactor
from agentgate.core.retention import Around, Kept, Place, Quiet, hold_from_row
from agentgate.core.strict_json import reread
from agentgate.ports.containment import Admitted, InFlight, LimitState, NotAdmitted, Quota, Spent, Uncounted
from agentgate.ports.log import AlreadySpent, Appended, ForeignSession, MemberGone, OnHold
from agentgate.ports.notices import Failure
from agentgate.ports.policy import Rule
from agentgate.ports.upstreams import Credential, Delivered, Undelivered

_LOG_SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG_KEY = NoteKey("agentgate.test/log/0", _LOG_SIGNER.public_key().public_bytes_raw())
"""What `MemoryLog` signs its checkpoints with."""

REVISION = "sha256:0000000000000000"

ALLOW = {"action": "ALLOW", "reason": "read", "matched_rule": "read_only_tools"}
ALLOW_WRITE = {"action": "ALLOW", "reason": "ok", "matched_rule": "write_with_approval", "is_write_action": True}
DENY = {"action": "DENY", "reason": "No matching rule", "matched_rule": "default_deny"}
ASK = {"action": "REQUIRE_APPROVAL", "reason": "a write", "matched_rule": "write_requires_approval"}


def principal(name: str = "bot", *roles: Role, tenant: str = "default", person: bool = False) -> Principal:
    kind = PrincipalKind.PERSON if person else PrincipalKind.AGENT
    return Principal(kind, AgentId(name), TenantId(tenant), frozenset(roles or {Role.AGENT}), "api_key", "k1")


ADMIN = Principal(
    PrincipalKind.PERSON, AgentId("admin"), TenantId("default"), frozenset({Role.ADMIN}), "admin_key", "admin", True
)

REDACTOR = Redactor(None, [KnownData()])
"""As it is without any configuration."""

TOOL = Tool(ToolName("db_query"), "demo", Access.READ, {"type": "object"})

_traces = itertools.count()


def a_call(
    *,
    session: str = "s-1",
    tool: Tool | None = TOOL,
    tool_name: str = "db_query",
    arguments: Mapping[str, Any] | None = None,
    caller: Principal | None = None,
    approval_token: str | None = None,
) -> Call:
    return Call(
        trace_id=TraceId(f"00000000-0000-4000-8000-{next(_traces):012d}"),
        door=Door.REST,
        caller=caller or principal(),
        session=SessionId(session),
        tool_name=ToolName(tool.name if tool else tool_name),
        tool=tool,
        arguments=arguments or {},
        context={},
        approval_token=approval_token,
    )


def a_kill(scope: Scope = Scope.SESSION, target: str = "s-1", *, position: int = 0, **more: Any) -> Kill:
    tenant = "default" if scope in (Scope.SESSION, Scope.AGENT) else target if scope is Scope.TENANT else ""
    since = datetime(2026, 1, 1, tzinfo=UTC)
    kill_id = more.pop("id", f"kill-{scope}-{target}")
    return Kill(KillId(kill_id), scope, tenant, target, "because", "person:op", since, position=position, **more)


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 21, tzinfo=UTC)
        self.ticks = 0

    def now(self) -> datetime:
        return self.moment

    def ticks_ns(self) -> int:
        return self.ticks

    def boot_s(self) -> float:
        return self.ticks / 1e9

    def move(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)
        self.ticks += round(seconds * 1e9)


class FakeEntropy:
    """Counts, so that ids are unique and tests repeatable."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def token(self, n_bytes: int) -> bytes:
        return next(self._count).to_bytes(n_bytes, "big")


class NullMeter:
    """Remembers counts and times."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.steps: list[tuple[str, float]] = []
        self.finished: list[tuple[str, str, float]] = []

    def call_finished(self, tool: str, decision: str, seconds: float) -> None:
        self.count("calls", decision)
        self.finished.append((tool, decision, seconds))

    def step(self, name: Literal["admission", "policy", "append", "upstream"], seconds: float) -> None:
        self.steps.append((name, seconds))

    def policy_evaluated(self, result: str, rule: str) -> None:
        self.count(f"policy {result}", rule)

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        self.counts[(name, label)] = self.counts.get((name, label), 0) + by


class FakeCourier:
    """Remembers what it was given. `failures` are what the next deliveries come to; an endless one stays."""

    kind = "fake"
    shown = "https://receiver.example"

    def __init__(self) -> None:
        self.got: list[Notice] = []
        self.tries = 0
        self.failures: deque[Failure | None] = deque()
        self.always: Failure | None = None
        self.on_deliver: Callable[[Notice], None] = lambda _: None

    async def deliver(self, notice: Notice) -> Failure | None:
        await asyncio.sleep(0)
        self.tries += 1
        self.on_deliver(notice)
        failure = self.failures.popleft() if self.failures else self.always
        if failure is None:
            self.got.append(notice)
        return failure

    async def aclose(self) -> None: ...


class MemoryBookmarks:
    """`ports.Bookmarks` in memory, of all who share it. It is the turn of whoever comes first."""

    def __init__(self) -> None:
        self.saved: dict[str, int] = {}
        self.is_down = False
        self._taken: set[str] = set()

    async def load(self, name: str) -> int | None:
        await asyncio.sleep(0)
        if self.is_down:
            raise LogUnavailable("told to fail")
        return self.saved.get(name)

    async def save(self, name: str, index: int) -> None:
        await asyncio.sleep(0)
        if self.is_down:
            raise LogUnavailable("told to fail")
        self.saved[name] = max(index, self.saved.get(name, index))

    @contextlib.asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[bool]:
        if self.is_down:
            raise LogUnavailable("told to fail")
        if name in self._taken:
            yield False
            return
        self._taken.add(name)
        try:
            yield True
        finally:
            self._taken.discard(name)


class PlainSealer:
    """Seals nothing, but notices a text that is passed off as another's."""

    digest_key = b""

    def seal(self, plain: bytes, about: bytes) -> bytes:
        return about + b"|" + plain

    def unseal(self, sealed: bytes, about: bytes) -> bytes | None:
        head, _, plain = sealed.partition(b"|")
        return plain if head == about else None


@dataclass
class _Fault:
    persist: bool = False


class MemoryLog:
    """Log and LogReader on a list; what is derived is derived by the rules of every store."""

    def __init__(self, members: Sequence[str] = ("m-1",)) -> None:
        self.events: list[tuple[Event, int]] = []
        self.position = 0
        self.tables = Tables()
        self.beats: dict[str, int] = {}
        self.is_shared = False
        """Whether there are others to be heard: `beat` then answers."""
        self.is_down = False
        self.is_settled = True
        """Not while the fate of an append is open."""
        self.signed = 0
        """How many events the newest checkpoint is over."""
        self.on_append: Callable[[Event], None] = lambda _: None
        """Called before an append takes effect: the place to slip a kill in."""
        self._faults: deque[_Fault] = deque()
        self._known: dict[bytes, int] = {}
        """Where each leaf was put."""
        self.bodies = MemoryBodies(self)
        for number, member in enumerate(members):
            standing = {"left_idx": None, "gone_idx": None, "attested_idx": None}
            self.tables.apply([Put("members", {"member": member, "joined_idx": number - len(members), **standing})])

    def fail_next(self, operation: str = "append", *, persist: bool = False) -> None:
        assert operation == "append"
        self._faults.append(_Fault(persist))

    def kinds(self) -> list[str]:
        return [event.kind.value for event, _ in self.events]

    def of(self, kind: Kind) -> list[Mapping[str, Any]]:
        return [event.fields for event, _ in self.events if event.kind is kind]

    def rows(self, table: str) -> list[dict[str, Any]]:
        return list(self.tables.rows[table].values())

    @property
    def active(self) -> dict[KillId, Kill]:
        """The kills in force."""
        kills = [kill_from_row(row) for row in self.rows("kills") if row["released_position"] is None]
        return {kill.id: kill for kill in kills}

    async def append(self, event: Event) -> Appended:
        await asyncio.sleep(0)
        self.on_append(event)
        return self.append_now(event)

    async def settled(self) -> None:
        if self.is_down or not self.is_settled:
            raise LogUnavailable("told to fail")

    def append_now(self, event: Event) -> Appended:
        """Append at once, as if another member had."""
        fault = self._faults.popleft() if self._faults else None
        if self.is_down or (fault is not None and not fault.persist):
            raise LogUnavailable("told to fail")
        at = self._known.get(event.leaf, len(self.events))
        if at < len(self.events) and self.events[at][0].leaf == event.leaf:  # what seemed to fail is repeated
            return Receipt(event.id, at, self.events[at][1])
        refused = self._refused(event)
        if refused is not None:
            return refused
        self.position += event.kind in (Kind.KILLED, Kind.RELEASED)
        index = len(self.events)
        self.tables.apply(effects(event.fields, index, self.position, event.body, event.projected))
        self.events.append((event, self.position))
        self._known[event.leaf] = index
        if fault is not None:
            raise LogUnavailable("told to fail after it persisted")
        digest = event.fields.get("call_sha256") if event.kind is Kind.DECIDED else None
        here = tuple(row["member"] for row in self.rows("members") if row["left_idx"] is None)
        members = here if event.kind in (Kind.KILLED, Kind.RELEASED) else ()
        return Receipt(event.id, index, self.position, digest, members)

    def _refused(self, event: Event) -> AlreadySpent | ForeignSession | MemberGone | OnHold | None:
        if event.kind is Kind.PRUNED:
            for hold in map(hold_from_row, self.rows("holds")):
                if not hold.is_released and hold.covers(event.tenant, event.session):
                    return OnHold(hold.id)
        if event.kind is Kind.DECIDED and event.fields["decision"] != "DENY":
            member = self.tables.rows["members"].get((event.fields["member"],))
            if member is not None and presence(member) is not Presence.HERE:
                return MemberGone(event.fields["member"])
            owner = self.tables.rows["sessions"].get((event.tenant, event.session))
            if owner is not None and owner["principal"] != event.principal:
                return ForeignSession(event.session)
        for kind, key in spendings(event.fields):
            if (kind, key) in self.tables.rows["spent"]:
                return AlreadySpent(kind, key)
        return None

    async def kills_since(self, position: int) -> KillChanges:
        if self.is_down:
            raise LogUnavailable("told to fail")
        changes = map(kill_change_from_row, self.rows("kills"))
        new = [c for c in changes if (c.released_at is None if position < 0 else _is_after(c, position))]
        return KillChanges(position, self.position, tuple(new))

    async def beat(self, member: str) -> Mapping[str, int]:
        if self.is_down:
            raise LogUnavailable("told to fail")
        self.beats[member] = self.beats.get(member, 0) + 1
        here = [row["member"] for row in self.rows("members") if row["left_idx"] is None]
        return {name: self.beats.get(name, 0) for name in here} if self.is_shared else {}

    async def aclose(self) -> None: ...

    # --- LogReader ---

    async def records(
        self, *, tenant: str | None = None, session: str | None = None, first: int = 0, kinds: Sequence[str] = ()
    ) -> AsyncIterator[Record]:
        numbers: Counter[tuple[str, str]] = Counter()
        for index, (event, position) in enumerate(self.events):
            owner = (event.tenant, event.session)
            numbers[owner] += bool(event.session)
            if (tenant and event.tenant != tenant) or (session and event.session != session):
                continue
            if index < first or (kinds and event.kind.value not in kinds):
                continue
            body = None if index in self.bodies.gone else event.body
            yield Record(index, numbers[owner], position, event.fields, event.leaf, event.salt, body)

    async def search(
        self, query: Query, *, first: int = 0, below: int | None = None, newest: bool = False
    ) -> AsyncIterator[Record]:
        if self.is_down:
            raise LogUnavailable("told to fail")
        found = [record async for record in self.records(first=first) if query.matches(record)]
        for record in reversed(found) if newest else found:
            if below is None or record.index < below:
                yield record

    async def size(self) -> int:
        if self.is_down:
            raise LogUnavailable("told to fail")
        return len(self.events)

    async def record(self, index: int) -> Record | None:
        return next((found for found in [r async for r in self.records(first=index)] if found.index == index), None)

    async def answers_until(self, moment: str, limit: int) -> int | None:
        if self.is_down:
            raise LogUnavailable("told to fail")
        due = sorted(row["idx"] for row in self.rows("answers") if row["at"] <= moment)
        return max(due[:limit], default=None)

    async def answers_held(self) -> dict[tuple[str, str], int]:
        if self.is_down:
            raise LogUnavailable("told to fail")
        held: Counter[tuple[str, str]] = Counter()
        for row in self.rows("answers"):
            if row["sealed"] is not None:
                held[row["tenant"], row["principal"]] += len(row["sealed"])
        return dict(held)

    async def sessions(
        self, tenant: str | None, *, principal: str | None = None, after: str = "", limit: int
    ) -> list[str]:
        rows = [row for row in self.rows("sessions") if tenant in (None, row["tenant"])]
        names = {row["session"] for row in rows if principal in (None, row["principal"])}
        return sorted(name for name in names if name > after)[:limit]

    async def approvals(self, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
        if self.is_down:
            raise LogUnavailable("told to fail")
        rows = [row for row in self.rows("approvals") if wanted.tenant in (None, row["tenant"])]
        rows = [row for row in rows if row["id"].startswith(wanted.prefix) and row["idx"] >= wanted.first]
        if wanted.state is not None:
            rows = [row for row in rows if approval_from_row(row).state_at(wanted.now) is wanted.state]
        return [row | {"sealed": None} for row in rows[:limit]]

    async def open_intents(self) -> list[Record]:
        closed = {fields["trace_id"] for fields in self.of(Kind.FINISHED)}
        return [
            Record(i, 0, position, event.fields, event.leaf, event.salt, event.body)
            for i, (event, position) in enumerate(self.events)
            if event.kind is Kind.DECIDED
            and event.fields["decision"] == "ALLOW"
            and event.fields["trace_id"] not in closed
        ]

    async def projection(
        self, name: str, *, without: str | None = None, **match: str | int | None
    ) -> list[dict[str, Any]]:
        if self.is_down:
            raise LogUnavailable("told to fail")
        found = [row for row in self.rows(name) if all(row[column] == value for column, value in match.items())]
        left_out = {} if without is None else {without: None}
        return [dict(row) | left_out for row in found]

    async def acknowledged(self, position: int) -> list[Acknowledgement]:
        if self.is_down:
            raise LogUnavailable("told to fail")
        first: dict[str, Acknowledgement] = {}
        for row in sorted(self.rows("acks"), key=lambda row: row["position"]):
            if row["position"] >= position:
                counts = (row["cancelled"], row["finished"], row["unknown"], row["took_us"] / 1000)
                first.setdefault(row["member"], Acknowledgement(row["member"], row["position"], *counts))
        return list(first.values())

    # --- Tree ---

    async def integrate(self) -> None:
        if self.is_down:
            raise LogUnavailable("told to fail")
        self.signed = len(self.events)

    async def checkpoint(self) -> bytes | None:
        if self.is_down:
            raise LogUnavailable("told to fail")
        if not self.signed:
            return None
        state = Checkpoint(LOG_KEY.name, self.signed, merkle.root(self._leaf_hashes()))
        return sign(state.text, LOG_KEY, _LOG_SIGNER.sign)

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        if self.is_down:
            raise LogUnavailable("told to fail")
        leaves, width = self._leaf_hashes(), 256**level
        found = [merkle.root(leaves[at : at + width]) for at in range(0, len(leaves) - width + 1, width)]
        return found[first : first + count]

    def _leaf_hashes(self) -> list[bytes]:
        return [merkle.leaf_hash(event.leaf) for event, _ in self.events[: self.signed]]


class MemoryBodies:
    """`ports.Bodies` of a `MemoryLog`. `is_down` makes deleting fail; `page` sessions are told at a time."""

    def __init__(self, log: MemoryLog) -> None:
        self.gone: set[int] = set()
        self.refusal: str | None = None
        self.is_down = False
        self.page = 3
        self.compressions = 0
        """How many times there is something to compress."""
        self._log = log

    async def around(self, moment: str, now: str) -> Around:
        await asyncio.sleep(0)
        times = [event.at for event, _ in self._log.events]
        index = next((index for index, at in enumerate(times) if moment < at <= now), len(times))
        return Around(index, times[index - 1] if index else None, times[index] if index < len(times) else None)

    async def quiet(self, below: int, after: Place | None) -> tuple[list[Quiet], Place | None]:
        await asyncio.sleep(0)
        last: dict[tuple[str, str], int] = {}
        for index, (event, _) in enumerate(self._log.events):
            if event.session and event.kind is not Kind.PRUNED:
                last[event.tenant, event.session] = index
        prunes = self._log.tables.rows["prunes"]
        place = (after[1], after[2]) if after else ("", "")
        names = sorted(name for name in last if name > place)[: self.page]
        through = {name: int(str(row["through"])) for name in names if (row := prunes.get(name)) is not None}
        found = [Quiet(*name, last[name]) for name in names if through.get(name, -1) < last[name] < below]
        return found, (0, *names[-1]) if len(names) == self.page else None

    def _indexes(self, session: Quiet) -> set[int]:
        name = (session.tenant, session.session)
        events = enumerate(self._log.events)
        here = {i for i, (event, _) in events if (event.tenant, event.session) == name and i <= session.last}
        return here - self.gone

    async def count(self, session: Quiet) -> int:
        await asyncio.sleep(0)
        return len(self._indexes(session))

    async def pruned_lately(self, count: int) -> list[Quiet]:
        await asyncio.sleep(0)
        return [Quiet(row["tenant"], row["session"], row["through"]) for row in self._log.rows("prunes")][-count:]

    async def forget(self, sessions: Sequence[Quiet]) -> int:
        await asyncio.sleep(0)
        if self.is_down:
            raise LogUnavailable("told to fail")
        for session in sessions:
            row = self._log.tables.rows["prunes"].get((session.tenant, session.session))
            assert row is not None, f"{session} is not pruned"
            assert int(str(row["through"])) >= session.last
        found = set().union(*map(self._indexes, sessions)) if sessions else set()
        self.gone |= found
        return len(found)

    async def compress(self, moment: str, now: str) -> bool:
        await asyncio.sleep(0)
        self.compressions -= self.compressions > 0
        return self.compressions > 0

    async def kept(self) -> Kept:
        return Kept(len(self._log.events) - len(self.gone), 0, 0)

    async def oldest(self, tenant: str | None) -> str | None:
        return next((event.at for event, _ in self._log.events if tenant in (None, event.tenant)), None)

    async def session_count(self) -> int:
        return len(self._log.rows("sessions"))


def _is_after(change: KillChange, position: int) -> bool:
    return change.kill.position > position or (change.released_at or 0) > position


class FakeEngine:
    """Answers what it is told; a callable sees the question."""

    published_revision = ""

    def __init__(self) -> None:
        self.answer: Ruling | NoRuling | Callable[[Any], Any] = Ruling(ALLOW, REVISION)
        self.asked: list[Any] = []
        self.enforced: str | None = REVISION

    async def query(self, rule: Rule, question: bytes) -> Ruling | NoRuling:
        await asyncio.sleep(0)
        assert rule in get_args(Rule)
        asked = reread(question)["input"]
        self.asked.append(asked)
        answer = self.answer(asked) if callable(self.answer) else self.answer
        return answer if isinstance(answer, Ruling | NoRuling) else Ruling(answer, self.enforced or REVISION)

    async def enforce(self, bundle: PolicyBundle, *, instead_of: str | None = None) -> None: ...

    async def revision(self) -> str | None:
        return self.enforced

    async def aclose(self) -> None: ...


class FakeAdmission:
    """Flags in a dict; `refusal` overrides every answer, `is_down` makes writes fail."""

    def __init__(self) -> None:
        self.state: KillState | None = None
        self.refusal: NotAdmitted | None = None
        self.is_down = False
        self.limit: LimitState | None = None
        self.admitted: set[str] = set()
        self.display: list[InFlight] = []
        self.forgotten: list[str] = []
        self.listeners: list[Callable[[int], None]] = []

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        await asyncio.sleep(0)
        if self.refusal is not None:
            return self.refusal
        if self.is_down or self.state is None or self.state.position < seen:
            return NotAdmitted(ReasonCode.KILL_STATE_UNKNOWN, "told to fail")
        flags = self.state.flags()
        for flag in flags_over(call):
            if flag in flags:
                return NotAdmitted(ReasonCode.KILLED, kill_id=flags[flag], position=self.state.position)
        self.admitted.add(call.trace_id)
        return Admitted(self.state.position, self.limit)

    def release(self, call: Call, spent: Spent | None = None) -> None:
        self.admitted.discard(call.trace_id)

    async def settle(self, call: Call, spent: Spent) -> bool:
        await asyncio.sleep(0)
        return not self.is_down

    async def restore(self, call: Call, uncounted: Uncounted, tally: Tally) -> bool:
        return False

    async def apply(self, state: KillState, change: FlagChange | None = None) -> None:
        await asyncio.sleep(0)
        if self.is_down:
            raise KillStateUnknown("told to fail")
        if self.state is None or state.position > self.state.position:
            self.state = state
            for on_wake in self.listeners:
                on_wake(state.position)

    def listen(self, on_wake: Callable[[int], None]) -> None:
        self.listeners.append(on_wake)

    async def in_flight(self) -> list[InFlight]:
        if self.is_down:
            raise KillStateUnknown("told to fail")
        return list(self.display)

    async def forget(self, member: str) -> None:
        self.forgotten.append(member)

    async def position(self) -> int | None:
        return None if self.is_down or self.state is None else self.state.position

    async def aclose(self) -> None: ...


@dataclass
class FakeUpstream:
    """Counts what reaches it. `hold()` keeps calls waiting; `cancelled` counts those that were cut."""

    answer: Delivered | Undelivered = field(default_factory=lambda: Delivered({"ok": True}))
    sent: list[Grant] = field(default_factory=list)
    shown: list[Credential | None] = field(default_factory=list)
    cancelled: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    _gate: asyncio.Event = field(default_factory=asyncio.Event)
    _holds: bool = False

    def validate_options(self, options: Mapping[str, Any]) -> None: ...

    def hold(self) -> None:
        self._holds = True

    def let_go(self) -> None:
        self._gate.set()

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        self.sent.append(grant)
        self.shown.append(credential)
        self.started.set()
        if self._holds:
            try:
                await self._gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return self.answer

    async def aclose(self) -> None: ...


class HeldWorker:
    """A worker that begins nothing before it is let."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.let_go = asyncio.Event()
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[], Any]) -> Any:
        self.asked.set()
        async with self._turn:
            await self.let_go.wait()
            return work()


class AtOnce:
    """A worker that works at once."""

    async def run(self, work: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        return work()
