"""Which events of a batch are appended, and with which numbers. Pure: what must be known of the store is given.

Every store plans the same way, so what a receipt says cannot depend on where it is kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentgate.core.call import Digest
from agentgate.core.decision import Receipt
from agentgate.core.event import Event, Kind
from agentgate.core.members import Presence
from agentgate.core.projection.effects import WITHOUT_EFFECT, effects, leaver, session_row
from agentgate.core.projection.spendings import Spending, spendings
from agentgate.core.projection.tables import STRETCH_BITS, Effect
from agentgate.core.retention import covers
from agentgate.ports.log import AlreadySpent, Appended, ForeignSession, MemberGone, OnHold

SessionKey = tuple[str, str]
Holds = Mapping[str, SessionKey]
"""Legal holds in force by their ids: of which tenant and session."""

SESSIONS_KNOWN: Final = 50_000
"""How many sessions are kept in memory, with their owner and their last number."""


@dataclass(slots=True, eq=False)
class Item:
    """An event on its way into the log, and who waits for it."""

    event: Event
    future: asyncio.Future[Appended]


@dataclass(slots=True, eq=False)
class Session:
    """What the ledger knows of one: whose it is (None: nobody's yet), and its last number."""

    owner: str | None
    number: int
    stretch: int = -1
    """The last one that it has an event in, where the store keeps that."""


@dataclass(slots=True)
class Plan:
    """One transaction. The first four lists are flat, row after row, in the order of the tables' columns."""

    first: int
    events: list[Any] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    sessions: list[Any] = field(default_factory=list)
    stretches: list[Any] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    outcomes: list[tuple[Item, Appended]] = field(default_factory=list)


class Ledger:
    """The log's state as of the last commit, plus the plan being made.

    A plan changes it at once: after a failed commit a ledger is worthless and must be loaded anew.
    """

    def __init__(
        self,
        log_id: str,
        *,
        size: int = 0,
        position: int = 0,
        members: Iterable[tuple[str, Presence]] | None = None,
        open_intents: Mapping[str, int] | None = None,
    ) -> None:
        """`members`: all there ever were, in the order of joining; None where they are looked up for each batch.
        Without `open_intents` nobody asks for `open_from`."""
        self.log_id = log_id
        self.size = size
        self.position = position
        self._members: dict[str, Presence] = dict(members or ())
        self._has_roll = members is not None
        self._open = None if open_intents is None else dict(open_intents)
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self._holds: dict[str, SessionKey] = {}
        """Those in force, as far as the plan being made rests on them."""

    @property
    def open_from(self) -> int:
        """The index of the oldest open intent: the dict keeps the order of appending."""
        return next(iter((self._open or {}).values()), self.size)

    # --- what a plan needs to know ------------------------------------------------------------------------

    def unknown_sessions(self, items: Iterable[Item]) -> list[SessionKey]:
        """Sessions in this batch that must be looked up and told with `learn` first."""
        known = self._sessions
        while len(known) > SESSIONS_KNOWN:  # before a batch, so that it finds what it looked up
            known.popitem(last=False)
        keys = {(item.event.tenant, item.event.session) for item in items if item.event.session}
        return [key for key in keys if key not in known]

    def learn(self, key: SessionKey, session: Session) -> None:
        self._sessions[key] = session

    def unknown_members(self, items: Iterable[Item]) -> list[str] | None:
        """Members whose standing this batch rests on, if they must be looked up; None if enough is known."""
        deciders = {item.event.fields["member"] for item in items if _wants_presence(item.event)}
        return None if self._has_roll and deciders <= self._members.keys() else list(deciders)

    def learn_members(self, members: Iterable[tuple[str, Presence]]) -> None:
        """All that have not left, in the order of joining, and those that were asked for."""
        self._members = dict(members)
        self._has_roll = True

    def move(self, size: int, position: int) -> None:
        """Go on from here: what was remembered is not so any more."""
        self.size, self.position = size, position
        self._sessions.clear()
        self._members.clear()
        self._has_roll = False

    @staticmethod
    def wanted(items: Iterable[Item]) -> list[Spending]:
        """What this batch wants to spend."""
        return [
            spending
            for item in items
            if item.event.kind is not Kind.FINISHED or _closes(item.event)
            for spending in spendings(item.event.fields)
        ]

    @staticmethod
    def wants_holds(items: Iterable[Item]) -> bool:
        """Whether this batch rests on which legal holds are in force."""
        return any(item.event.kind is Kind.PRUNED for item in items)

    # --- planning -----------------------------------------------------------------------------------------

    def plan(self, items: Iterable[Item], spent: set[Spending], holds: Holds | None = None) -> Plan:
        """Decide on a batch in order. `spent`: which of what it `wanted` is in the store; grows with the batch.
        `holds`: those in force before it, where it `wants_holds`."""
        plan = Plan(self.size)
        self._holds = dict(holds or {})
        for item in items:
            event = item.event
            outcome = self._refusal(event, spent)
            plan.outcomes.append((item, outcome or self._accept(event, plan)))
        return plan

    def _refusal(
        self, event: Event, spent: set[Spending]
    ) -> AlreadySpent | ForeignSession | MemberGone | OnHold | None:
        if event.kind in WITHOUT_EFFECT or (event.kind is Kind.FINISHED and not _closes(event)):
            return None
        if event.kind is Kind.PRUNED and (hold := self._on_hold(event)) is not None:
            return hold
        if _wants_presence(event):
            member = event.fields["member"]
            if self._members.get(member) not in (None, Presence.HERE):  # None: it never joined
                return MemberGone(member)
        if event.kind is Kind.DECIDED and event.session and event.fields["decision"] != "DENY":
            # a refusal is recorded whoever was refused: also that somebody tried another's session
            owner = self._sessions[event.tenant, event.session].owner
            if owner is not None and owner != event.principal:
                return ForeignSession(event.session)
        wanted = spendings(event.fields)
        for kind, key in wanted:
            if (kind, key) in spent:
                return AlreadySpent(kind, key)
        spent.update(wanted)
        return None

    def _on_hold(self, event: Event) -> OnHold | None:
        """Here, because here it is known for good what the log has before this event: a hold that comes later than
        the prune finds the bodies given up, one that came earlier keeps them."""
        for hold, (tenant, session) in self._holds.items():
            if covers(tenant, session, event.tenant, event.session):
                return OnHold(hold)
        return None

    def _accept(self, event: Event, plan: Plan) -> Receipt:
        index = self.size
        self.size = index + 1
        kind = event.kind
        if kind is Kind.KILLED or kind is Kind.RELEASED:
            self.position += 1
        number = 0
        if event.session:
            key = (event.tenant, event.session)
            session = self._sessions[key]
            self._sessions.move_to_end(key)
            number = session.number = session.number + 1
            if (stretch := index >> STRETCH_BITS) != session.stretch:
                session.stretch = stretch
                plan.stretches += (self.log_id, *key, stretch)
        plan.ids.append(event.id)
        plan.events += (
            self.log_id, index, event.id, kind._value_, event.tenant, event.session, number, event.at,
            self.position, event.leaf, event.leaf_hash,
        )  # fmt: skip
        plan.bodies += (self.log_id, index, event.salt, event.body)
        if kind is Kind.FINISHED:
            if self._open is not None:
                self._open.pop(event.fields["trace_id"], None)
            if _closes(event) or "answer_key" in event.fields:
                plan.effects += effects(event.fields, index, self.position, None, event.projected)
        elif kind is Kind.DECIDED:
            self._decided(event, index, plan)
            return Receipt(event.id, index, self.position, Digest(event.fields["call_sha256"]))
        elif kind not in WITHOUT_EFFECT:
            return self._with_effects(event, index, plan)
        return Receipt(event.id, index, self.position)

    def _decided(self, event: Event, index: int, plan: Plan) -> None:
        fields = event.fields
        if self._open is not None and fields["decision"] == "ALLOW":
            self._open[fields["trace_id"]] = index
        if event.session:
            session = self._sessions[event.tenant, event.session]
            if session.owner is None:
                session.owner = event.principal
                row = session_row(fields, index)
                plan.sessions += (self.log_id, *row.values())
        if "approval_id" in fields or "idempotency_sha256" in fields:
            found = effects(fields, index, self.position, None)
            plan.effects += (effect for effect in found if effect.table != "sessions")

    def _with_effects(self, event: Event, index: int, plan: Plan) -> Receipt:
        """The rare kinds: what they change in the tables, and in what this ledger remembers of them."""
        fields = event.fields
        plan.effects += effects(fields, index, self.position, event.body, event.projected)
        match event.kind:
            case Kind.JOINED:
                self._members.setdefault(fields["member"], Presence.HERE)  # a name stays what it was before
            case Kind.GONE:
                self._gone(fields["of"], Presence.ATTESTED if fields["why"] == "attested" else Presence.GONE)
            case Kind.LEFT:
                self._gone(leaver(fields), Presence.LEFT)
            case Kind.HELD:
                self._holds[fields["hold_id"]] = (event.tenant, fields["of_session"])
            case Kind.UNHELD:
                self._holds.pop(fields["hold_id"], None)
            case Kind.KILLED | Kind.RELEASED:
                return Receipt(event.id, index, self.position, None, self._roll())
        return Receipt(event.id, index, self.position)

    def _gone(self, member: str, presence: Presence) -> None:
        known = self._members.get(member)
        if known is not None and _FINALITY[presence] > _FINALITY[known]:
            self._members[member] = presence

    def _roll(self) -> tuple[str, ...]:
        """Whom a kill waits for or excepts: all that have not left, also those that were declared gone."""
        return tuple(member for member, presence in self._members.items() if presence is not Presence.LEFT)


_FINALITY: Final = {Presence.HERE: 0, Presence.GONE: 1, Presence.ATTESTED: 2, Presence.LEFT: 3}


def _closes(event: Event) -> bool:
    """Whether it is the outcome of a call that somebody else closes; all others are the only one of their call."""
    return "of" in event.fields


def _wants_presence(event: Event) -> bool:
    """A refusal is recorded whoever refuses; anything else is for members in good standing."""
    return event.kind is Kind.DECIDED and event.fields["decision"] != "DENY"
