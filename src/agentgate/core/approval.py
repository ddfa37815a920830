"""The state of an approval, who may answer it, and whether it carries a call.

Pure: time and facts come in as arguments.

An approval is bound to the call's digest (agent, session, tool, tool definition, arguments, context), to the
principal that asked and to the policy revision that required it; it is spent once, by the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType

import orjson

from agentgate.core.call import Call, Digest, Principal, PrincipalKind, Role
from agentgate.core.containment import Kill, flags_of
from agentgate.core.decision import Terms

ApprovalId = NewType("ApprovalId", str)


class State(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    SPENT = "spent"
    VOID = "void"
    EXPIRED = "expired"
    """A pending, approved or denied one past its time is this, whether that is recorded yet or not."""


MAY_EXPIRE: Final = (State.PENDING, State.APPROVED, State.DENIED)


class Why(StrEnum):
    """Why an approval was closed without an answer, or before it was used."""

    KILLED = "killed"
    POLICY_CHANGED = "policy_changed"
    TOOL_CHANGED = "tool_changed"
    EDITED = "edited"
    EXPIRED = "expired"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Void:
    """What makes an approval void."""

    why: Why
    kill_id: str | None = None

    @property
    def sentence(self) -> str:
        return _SENTENCES[self.why]


_SENTENCES: Final[Mapping[str, str]] = {
    Why.KILLED: "a kill covered it",
    Why.POLICY_CHANGED: "the policy has changed since it was asked for",
    Why.TOOL_CHANGED: "the tool is described otherwise than when it was asked for",
    Why.EDITED: "it was edited; another approval is about the edited call",
    Why.EXPIRED: "its time is over",
    Why.REFUSED: "the gateway was to make the call, and it was refused",
    Why.WITHDRAWN: "a person who may answer it took it back",
}


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's yes."""

    by: str
    at: str


@dataclass(frozen=True, slots=True)
class Approval:
    """One pending or answered question: may this principal make this call?"""

    id: ApprovalId
    tenant: str
    session: str
    requested_by: str
    tool: str
    digest: Digest
    policy_revision: str
    requested_at: datetime
    expires_at: datetime
    state: State
    decided_by: str | None = None
    token_sha256: str | None = None
    sealed: bytes | None = None
    trace_id: str = ""
    """Of the call that asked first."""
    quorum: int = 1
    approvers: tuple[str, ...] = ()
    votes: int = 0
    """How many different persons have said yes."""
    on_behalf_of: str | None = None
    server: str = ""
    tool_sha256: str = ""
    position: int = 0
    """The kill position at which it was asked for, before any edit: a later kill that covers it makes it void."""
    idx: int = 0
    """Where in the log it was asked for."""
    edited_from: str | None = None
    edited_to: str | None = None
    """The approval of the edited call, which this one was replaced by."""
    executes: bool = False
    """Whether the gateway itself makes the call once it is approved."""
    why: str | None = None

    @property
    def terms(self) -> Terms:
        return Terms(self.quorum, self.approvers)

    def state_at(self, now: datetime) -> State:
        if self.state in MAY_EXPIRE and now >= self.expires_at:
            return State.EXPIRED
        return self.state

    @property
    def closed_because(self) -> str:
        """What made it void, in words that name nobody."""
        return _SENTENCES.get(self.why or "", "it was closed")  # a newer member may know more reasons

    def said_to_be(self, state: State) -> str:
        """That it is in this state, for who may answer it; of a void one also why."""
        return f"the approval is {state}" + (f": {self.closed_because}" if state is State.VOID else "")

    def is_about(self, call: Call) -> bool:
        return self.digest == call.digest and self.is_of(call)

    def is_of(self, call: Call) -> bool:
        """Whether the caller is who asked, and for the same user: what an agent does for one is nothing for another."""
        caller = call.caller
        return (self.requested_by, self.tenant, self.on_behalf_of) == (caller.id, caller.tenant, caller.on_behalf_of)

    def is_as_strict_as(self, terms: Terms) -> bool:
        """Whether a yes under its own terms is one under `terms` as well."""
        if self.quorum < terms.quorum:
            return False
        return not terms.approvers or (bool(self.approvers) and set(self.approvers) <= set(terms.approvers))

    def killed_by(self, kills: Iterable[Kill]) -> Void | None:
        """The first of `kills` that was given after it was asked for and that covers it."""
        flags = flags_of(
            tenant=self.tenant,
            tool=self.tool,
            server=self.server,
            agent=self.requested_by.partition(":")[2],
            session=self.session,
        )
        for kill in kills:
            if kill.position > self.position and kill.flag in flags:
                return Void(Why.KILLED, kill.id)
        return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which approvals somebody looks for. A `state` is the one that they are in at `now`; None fits everything."""

    now: datetime
    tenant: str | None = None
    state: State | None = None
    prefix: str = ""
    """What their ids begin with."""
    first: int = 0
    """Those that were asked for at this index of the log or later."""


def from_row(row: Mapping[str, Any]) -> Approval:
    """An approval from its projection's row."""
    return Approval(
        id=ApprovalId(row["id"]),
        tenant=row["tenant"],
        session=row["session"],
        requested_by=row["requested_by"],
        tool=row["tool"],
        digest=Digest(row["digest"]),
        policy_revision=row["policy_revision"],
        requested_at=datetime.fromisoformat(row["requested_at"]),
        expires_at=datetime.fromisoformat(row["expires_at"]),
        state=State(row["state"]),
        decided_by=row["decided_by"],
        token_sha256=row["token_sha256"],
        sealed=row["sealed"],
        trace_id=row["trace_id"],
        quorum=row["quorum"],
        approvers=tuple(orjson.loads(row["approvers"])),
        votes=row["votes"],
        on_behalf_of=row["on_behalf_of"],
        server=row["server"],
        tool_sha256=row["tool_sha256"],
        position=row["position"],
        idx=row["idx"],
        edited_from=row["edited_from"],
        edited_to=row["edited_to"],
        executes=bool(row["executes"]),
        why=row["why"],
    )


def carries(approval: Approval, call: Call, *, revision: str, now: datetime) -> bool:
    """Whether `approval` is a yes to exactly this call under the policy now in force."""
    return approval.is_about(call) and approval.state_at(now) is State.APPROVED and approval.policy_revision == revision


def may_not_answer(approval: Approval, person: Principal) -> str | None:
    """Why `person` may neither approve, deny, edit nor take back; None if it may."""
    if person.kind is not PrincipalKind.PERSON or not person.has(Role.APPROVER):
        return "an approval is given by a person with the role approver"
    if person.id == approval.requested_by:
        return "nobody approves a call of their own"
    if approval.on_behalf_of is not None and person.id in (approval.on_behalf_of, f"person:{approval.on_behalf_of}"):
        return "nobody approves a call that is made for them"
    if approval.approvers and person.id not in approval.approvers:
        return "policy names who may approve this call"
    return None
