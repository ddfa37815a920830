"""Approvals in any order of events against a naive book of them: a yes never carries another call, never twice, and
never after it is void, expired or denied (A25, A26, A28, A29). What it does carry runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentgate.core.approval import Approval, State
from agentgate.core.call import Call, Principal, Role, Tool
from agentgate.core.containment import Scope
from agentgate.core.decision import Ruling
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.event import Kind
from agentgate.core.strict_json import canonical
from agentgate.pipeline.approvals.desk import Verdict
from agentgate.pipeline.approvals.edits import EditDesk
from tests.fakes import ADMIN, ALLOW_WRITE, ASK, TOOL, a_call, principal
from tests.pipeline.conftest import House

T = TypeVar("T")
TTL_S = 900
SELF = principal("self", Role.AGENT, Role.APPROVER, person=True)
AGENTS = {"bot": replace(principal("bot"), on_behalf_of="carol"), "self": SELF}
ALICE, BOB, DAVE, CAROL = (principal(name, Role.APPROVER, person=True) for name in ("alice", "bob", "dave", "carol"))
PEOPLE = [
    *(ALICE, BOB, DAVE, CAROL, SELF),
    principal("sly", Role.AGENT, Role.APPROVER),
    principal("mallory", Role.APPROVER, person=True, tenant="another"),
    principal("olga", Role.OPERATOR, person=True),
]
MAY = {"bot": {"person:alice", "person:bob", "person:dave", "person:self"}}
MAY["self"] = {*MAY["bot"], "person:carol"} - {"person:self"}
TERMS: list[dict[str, Any]] = [{}, {"quorum": 2}, {"approvers": ["person:alice", "person:bob"], "quorum": 2}]
KILLS = [
    (Scope.SESSION, "s-1"),
    (Scope.AGENT, "bot"),
    (Scope.TOOL, "db_query"),
    (Scope.SERVER, "demo"),
    (Scope.GLOBAL, ""),
]

agents = st.sampled_from(sorted(AGENTS))
arguments = st.integers(0, 1)
people = st.sampled_from([*PEOPLE[:3], *PEOPLE])
many = st.integers(0, 1_000)


@dataclass
class Entry:
    """What the book says of one approval."""

    agent: str
    arguments: int
    revision: int
    tool: str
    until: float
    quorum: int
    approvers: set[str]
    kills: int
    """How many kills had been given when it was asked for."""
    asked: int
    """How many had been asked for before."""
    yes: set[str] = field(default_factory=set)
    is_denied: bool = False
    is_used: bool = False
    is_withdrawn: bool = False
    edited_to: str | None = None


class Approvals(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.house: House = self.do(self._made())
        self.edits = EditDesk(
            self.house.approvals, self.house.recorder, self.house.tools, self.house.entropy, self.house.gate.opinion
        )
        self.house.engine.answer = self.ruling
        self.house.engine.enforced = "sha256:0"
        self.revision = 0
        self.definition = 0
        self.book: dict[str, Entry] = {}
        self.kills: list[tuple[Scope, str]] = []
        self.killed: set[str] = set()
        """Ids of kills in force."""
        self.sent = 0

    @staticmethod
    async def _made() -> House:
        return House()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.do(self.house.stop())
        self.loop.close()

    # --- the world ---

    @property
    def now(self) -> float:
        return self.house.clock.now().timestamp()

    @property
    def tool(self) -> Tool:
        return self.house.tools["db_query"]

    @property
    def terms(self) -> dict[str, Any]:
        return TERMS[self.revision % len(TERMS)]

    def ruling(self, asked: Any) -> Ruling:
        value = ALLOW_WRITE if asked["has_approval_token"] else {**ASK, "approval": self.terms}
        return Ruling(value, f"sha256:{self.revision}")

    def call_of(self, agent: str, number: int) -> Call:
        return a_call(
            arguments={"n": number}, caller=AGENTS[agent], tool=self.tool, session=f"s-{1 + (agent == 'self')}"
        )

    def covers(self, kill: tuple[Scope, str], agent: str) -> bool:
        return kill[0] not in (Scope.SESSION, Scope.AGENT) or agent == "bot"

    def is_killed(self, entry: Entry) -> bool:
        return any(self.covers(kill, entry.agent) for kill in self.kills[entry.kills :])

    def is_live(self, entry: Entry) -> bool:
        """Whether it could still be used, or become usable."""
        return (
            not (entry.is_denied or entry.is_used or entry.is_withdrawn or entry.edited_to)
            and not self.is_killed(entry)
            and self.now < entry.until
            and (entry.revision, entry.tool) == (self.revision, self.tool.definition_sha256)
        )

    def carrying(self, agent: str, number: int) -> dict[str, Entry]:
        """The approvals that may carry this call now: its own, and those of what it was edited to."""
        found = {}
        for name, entry in self.book.items():
            if (entry.agent, entry.arguments, entry.tool) != (agent, number, self.tool.definition_sha256):
                continue
            last, at = entry, name
            while last.edited_to is not None:
                at, last = last.edited_to, self.book[last.edited_to]
            if self.is_live(last) and len(last.yes) >= last.quorum:
                found[at] = last
        return found

    def stands_denied(self, agent: str, number: int) -> bool:
        for entry in self.book.values():
            if (entry.agent, entry.arguments, entry.tool) == (agent, number, self.tool.definition_sha256):
                last = entry
                while last.edited_to is not None:
                    last = self.book[last.edited_to]
                if last.is_denied and self.now < last.until:
                    return True
        return False

    def note(self, approval: Approval, agent: str, number: int) -> None:
        if approval.id in self.book:
            return
        self.book[approval.id] = Entry(
            agent,
            number,
            self.revision,
            self.tool.definition_sha256,
            self.now + TTL_S,
            self.terms.get("quorum", 1),
            set(self.terms.get("approvers", MAY[agent])) & MAY[agent],
            len(self.kills),
            len(self.book),
        )

    # --- what happens ---

    @rule(agent=agents, number=arguments, times=st.integers(1, 3))
    def call(self, agent: str, number: int, times: int) -> None:
        may_carry = self.carrying(agent, number)
        denied = self.stands_denied(agent, number)
        dead = bool(self.house.log.active) and any(
            self.covers((kill.scope, kill.target), agent) for kill in self.house.log.active.values()
        )

        async def at_once() -> list[Any]:
            calls = [self.call_of(agent, number) for _ in range(times)]
            return await asyncio.gather(*(self.house.gate.pass_through(call) for call in calls))

        answers = self.do(at_once())
        ran = [answer for answer in answers if answer.success]
        used = [answer.decision.approval_id for answer in ran]
        assert len(set(used)) == len(used), "one approval carried two calls"
        for answer in ran:
            entry = may_carry[answer.decision.approval_id]
            assert answer.call.arguments == {"n": entry.arguments}
            assert not dead
            entry.is_used = True
        if may_carry and not dead and not denied:
            assert ran, [answer.error for answer in answers]
        if denied and not may_carry and not dead:
            assert {answer.reason_code for answer in answers} == {ReasonCode.APPROVAL_DENIED}
        sent = self.house.upstream.sent[self.sent :]
        assert len(sent) == len(ran)
        self.sent += len(sent)
        for answer in answers:
            if answer.approval is not None:
                approval = self.do(self.house.approvals.approval(answer.approval.id))
                assert approval is not None
                self.note(approval, agent, number)

    def pick(self, number: int) -> str:
        """One of the three newest."""
        newest = self.by_age()[-3:]
        return newest[number % len(newest)]

    def newest(self) -> str:
        return self.by_age()[-1]

    def by_age(self) -> list[str]:
        return sorted(self.book, key=lambda name: self.book[name].asked)

    @precondition(lambda self: self.book)
    @rule(number=many, person=people, yes=st.sampled_from([True, True, True, False]))
    def answer(self, number: int, person: Principal, yes: bool) -> None:
        self.say(self.pick(number), person, yes=yes)

    def say(self, name: str, person: Principal, *, yes: bool) -> None:
        entry = self.book[name]
        may = person.id in entry.approvers and person.tenant == "default"
        is_open = self.is_live(entry) and len(entry.yes) < entry.quorum
        verdict = self.do(self.house.approvals.decide(person, name, State.APPROVED if yes else State.DENIED))
        if isinstance(verdict, Refused):
            assert not (may and is_open and (not yes or person.id not in entry.yes)), verdict
            return
        self.taken(entry, verdict, person, yes=yes, may=may)

    def taken(self, entry: Entry, verdict: Verdict, person: Principal, *, yes: bool, may: bool) -> None:
        assert may, f"{person.id} is nobody who may"
        assert not entry.is_denied
        assert not entry.is_used
        assert entry.edited_to is None
        assert len(entry.yes) < entry.quorum
        if yes:
            assert self.is_live(entry)
            assert person.id not in entry.yes, "one person counted twice"
            entry.yes.add(person.id)
            assert (verdict.token is not None) == (len(entry.yes) == entry.quorum)
        else:
            entry.is_denied = True

    @precondition(lambda self: self.book)
    @rule(number=many, person=people, to=arguments, approve=st.booleans())
    def edit(self, number: int, person: Principal, to: int, approve: bool) -> None:
        self.change(self.pick(number), person, to, approve=approve)

    def change(self, name: str, person: Principal, to: int, *, approve: bool) -> None:
        entry = self.book[name]
        done = self.do(self.edits.edit(person, name, {"n": to}))
        if isinstance(done, Refused):
            return
        assert person.id in entry.approvers
        assert len(entry.yes) < entry.quorum
        assert to != entry.arguments
        assert entry.edited_to is None
        assert done.digest == self.call_of(entry.agent, to).digest
        self.note(done, entry.agent, to)
        entry.edited_to = done.id
        if approve:
            verdict = self.do(self.house.approvals.decide(person, done.id, State.APPROVED))
            if isinstance(verdict, Verdict):
                edited = self.book[done.id]
                self.taken(edited, verdict, person, yes=True, may=person.id in edited.approvers)

    @precondition(lambda self: self.book)
    @rule(number=many, person=people)
    def withdraw(self, number: int, person: Principal) -> None:
        name = self.pick(number)
        entry = self.book[name]
        done = self.do(self.house.approvals.withdraw(person, name))
        may = person.id in entry.approvers and person.tenant == "default"
        if isinstance(done, Refused):
            assert not (may and self.is_live(entry)), done
            return
        assert may, f"{person.id} is nobody who may"
        assert not any((entry.is_denied, entry.is_used, entry.is_withdrawn, entry.edited_to))
        entry.is_withdrawn = True

    @rule(agent=agents, number=arguments, edits=st.booleans(), calls=st.booleans())
    def ask_and_approve(self, agent: str, number: int, edits: bool, calls: bool) -> None:
        """What otherwise happens too seldom: as many say yes as are wanted, and the agent comes again."""
        before = len(self.book)
        self.call(agent, number, 1)
        if len(self.book) == before:
            return
        if edits:
            self.change(self.newest(), ALICE, 1 - number, approve=False)
        for person in (ALICE, BOB):
            self.say(self.newest(), person, yes=True)
        if calls:
            self.call(agent, number, 2)

    @rule(
        what=st.sampled_from(["kill", "kill", "policy", "tool", "time", "sweep"]), kill=st.sampled_from(KILLS), on=many
    )
    def something_else(self, what: str, kill: tuple[Scope, str], on: int) -> None:
        match what:
            case "kill":
                self.kill(kill)
                if on % 2:
                    self.release()
            case "policy":
                self.revision += 1
                self.house.engine.enforced = f"sha256:{self.revision}"
            case "tool":
                self.definition += 1
                self.house.tools["db_query"] = replace(TOOL, description=f"version {self.definition}")
            case "time":
                self.house.clock.move((1, 400, 900)[on % 3])
            case _:
                self.do(self.house.voids.sweep())
                self.do(self.house.approvals.close_expired())

    def kill(self, kill: tuple[Scope, str]) -> None:
        drain = self.do(self.house.killed(scope=kill[0], target=kill[1]))
        self.kills.append(kill)
        self.killed.add(drain.kill.id)

    @precondition(lambda self: self.killed)
    @rule()
    def release(self) -> None:
        for kill_id in sorted(self.killed):
            self.do(self.house.containment.release(ADMIN, kill_id, force=True))
        self.killed.clear()

    @invariant()
    def what_was_sent_was_allowed_and_recorded(self) -> None:
        allowed = [fields for fields in self.house.log.of(Kind.DECIDED) if fields["decision"] == "ALLOW"]
        assert len({fields["approval_id"] for fields in allowed}) == len(allowed) == len(self.house.upstream.sent)

    @invariant()
    def what_is_over_has_no_arguments_left(self) -> None:
        for row in self.house.log.rows("approvals"):
            assert (row["sealed"] is None) == (row["state"] in ("denied", "spent", "void", "expired")), row["state"]

    @invariant()
    def what_is_kept_is_the_call_that_is_asked_about(self) -> None:
        for row in self.house.log.rows("approvals"):
            entry = self.book.get(row["id"])
            if entry is not None and row["sealed"] is not None:
                assert canonical({"n": entry.arguments}) in row["sealed"]


Approvals.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestApprovals = Approvals.TestCase
