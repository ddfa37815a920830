"""A whole gate on ports in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agentgate.adapters.parsers.arguments import ArgumentParsers
from agentgate.core.call import Call, MemberId, Principal, Tool
from agentgate.core.containment import FlagChange, Kill, KillChange, KillChanges, KillId, KillState, Scope, flags_over
from agentgate.core.decision import Receipt
from agentgate.core.errors import KillStateUnknown, ReasonCode
from agentgate.core.event import Event, Kind, Origin
from agentgate.core.events.kills import killed, released
from agentgate.core.redaction.redactor import Redactor
from agentgate.pipeline.approvals.circumstances import Circumstances
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.approvals.edits import EditDesk
from agentgate.pipeline.approvals.voids import Voids
from agentgate.pipeline.calls.answers import AnswerBook
from agentgate.pipeline.calls.deferred import DeferredDesk
from agentgate.pipeline.calls.gate import Gate
from agentgate.pipeline.calls.passage import Answer
from agentgate.pipeline.calls.run import Route, Runner
from agentgate.pipeline.containment.acknowledge import Acknowledger
from agentgate.pipeline.containment.control import Containment, Rules
from agentgate.pipeline.containment.drains import Drain, Drains
from agentgate.pipeline.containment.members import Membership
from agentgate.pipeline.containment.orders import Order
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.limits.refusals import RefusalLimiter
from agentgate.pipeline.policy.asking import Questions
from agentgate.pipeline.records.record import Recorder
from agentgate.pipeline.upkeep import Upkeep
from agentgate.ports.ambient import Worker
from agentgate.ports.containment import Admitted, NotAdmitted, Quota
from tests.fakes import (
    ADMIN,
    ALLOW_WRITE,
    ASK,
    REDACTOR,
    TOOL,
    AtOnce,
    FakeAdmission,
    FakeClock,
    FakeEngine,
    FakeEntropy,
    FakeUpstream,
    MemoryLog,
    NullMeter,
    PlainSealer,
    a_call,
)

STATIC_TOKEN = "a-static-token-of-v0.2"


@dataclass
class House:
    """Every part by its name, put together as the composition root does."""

    log: MemoryLog = field(default_factory=MemoryLog)
    admission: FakeAdmission = field(default_factory=FakeAdmission)
    engine: FakeEngine = field(default_factory=FakeEngine)
    upstream: FakeUpstream = field(default_factory=FakeUpstream)
    clock: FakeClock = field(default_factory=FakeClock)
    meter: NullMeter = field(default_factory=NullMeter)
    rules: Rules = field(default_factory=Rules)
    entropy: FakeEntropy = field(default_factory=FakeEntropy)
    redactor: Redactor = REDACTOR
    worker: Worker = field(default_factory=AtOnce)
    member: str = "m-1"
    has_joined: bool = True
    """As if it had joined, alone, and read that there are no kills; else the test says `membership.join`."""

    def __post_init__(self) -> None:
        entropy = self.entropy
        self.recorder = Recorder(
            self.log,
            self.clock,
            entropy,
            self.worker,
            member=MemberId(self.member),
            version="test",
            redactor=self.redactor,
        )
        self.replica = Replica(self.log, self.admission, self.clock)
        self.acknowledger = Acknowledger(self.replica, self.recorder, self.clock)
        self.tools: dict[str, Tool] = {TOOL.name: TOOL}
        self.circumstances = Circumstances(self.log, self.engine, self.tools)
        self.approvals = ApprovalDesk(
            self.log,
            self.recorder,
            PlainSealer(),
            self.clock,
            entropy,
            self.circumstances,
            ttl_s=900,
            static_token=STATIC_TOKEN,
        )
        self.voids = Voids(self.approvals, self.circumstances, self.clock)
        self.answers = AnswerBook(
            self.log,
            self.recorder,
            PlainSealer(),
            self.clock,
            self.meter,
            keep_s=3600,
            max_bytes=10_000,
            max_bytes_per_caller=1_000_000,
        )
        self.questions = Questions(self.engine, ArgumentParsers(), self.redactor)
        self.runner = Runner({"demo": Route(self.upstream)}, self.recorder, self.clock, self.meter, self.questions)
        self.gate = Gate(
            admission=self.admission,
            questions=self.questions,
            replica=self.replica,
            recorder=self.recorder,
            approvals=self.approvals,
            answers=self.answers,
            runner=self.runner,
            limits=RateLimits(60),
            clock=self.clock,
            meter=self.meter,
        )
        self.drains = Drains(
            reader=self.log,
            recorder=self.recorder,
            replica=self.replica,
            acknowledger=self.acknowledger,
            admission=self.admission,
            clock=self.clock,
        )
        self.containment = self._containment(self.rules)
        self.hasty = self._containment(replace(self.rules, drain_timeout_s=0.001))
        """Waits for nobody: for a kill that cannot drain yet."""
        self.membership = Membership(
            log=self.log,
            reader=self.log,
            recorder=self.recorder,
            replica=self.replica,
            admission=self.admission,
            clock=self.clock,
            entropy=entropy,
        )
        self.refusals = RefusalLimiter(self.recorder, self.clock, 20)
        self.upkeep = Upkeep(
            recorder=self.recorder,
            reader=self.log,
            membership=self.membership,
            drains=self.drains,
            containment=self.containment,
            approvals=self.approvals,
            answers=self.answers,
            refusals=self.refusals,
            runner=self.runner,
        )
        self.admission.listen(self.replica.woken)
        if self.has_joined:
            self.admission.state = KillState(0, {})
            self.replica.advance(KillChanges(-1, 0))
            self.replica.lease.renew(self.clock.boot_s())
            self.membership.is_eldest = True

    def _containment(self, rules: Rules) -> Containment:
        return Containment(
            replica=self.replica,
            recorder=self.recorder,
            drains=self.drains,
            reader=self.log,
            admission=self.admission,
            clock=self.clock,
            entropy=self.entropy,
            meter=self.meter,
            rules=rules,
        )

    def beside(self, member: str, **parts: Any) -> House:
        """One more member on the same log and kill store, which has not joined yet. From now on members are heard."""
        self.log.is_shared = True
        shared: dict[str, Any] = {
            "log": self.log,
            "admission": self.admission,
            "clock": self.clock,
            "entropy": self.entropy,
        }
        return House(**shared, rules=self.rules, member=member, has_joined=False, **parts)

    async def another(self, member: str, **parts: Any) -> House:
        """`beside`, and joined."""
        other = self.beside(member, **parts)
        await other.membership.join(())
        return other

    async def beat(self) -> None:
        """One heartbeat: the fast path's position, the log's kills, the other members."""
        for hear in (self.membership._hear_store, self.membership._hear_kills, self.membership._hear_others):
            await hear()

    async def stop(self) -> None:
        """The end of the process, in the order of the composition root."""
        await self.acknowledger.aclose()
        await self.membership.leave(self.upkeep.last_words)

    def kill_elsewhere(self, kill: Kill) -> Kill:
        """Another member appends a kill, and nobody is told."""
        receipt = self.log.append_now(killed(self._elsewhere(), kill, auth="api_key"))
        assert isinstance(receipt, Receipt), receipt
        return replace(kill, position=receipt.kill_position)

    def release_elsewhere(self, kill: Kill) -> None:
        """Another member appends a release, and nobody is told."""
        event = released(self._elsewhere(), kill, actor="person:op", auth="api_key", why="release", forced=False)
        assert isinstance(self.log.append_now(event), Receipt)

    def _elsewhere(self) -> Origin:
        return Recorder(
            self.log, self.clock, self.entropy, member=MemberId("elsewhere"), version="test", redactor=self.redactor
        ).origin()

    async def killed(self, **order: Any) -> Drain:
        """A kill, of session s-1 if nothing else is said, that is waited for."""
        drain = await self.containment.kill(ADMIN, Order(**{"scope": Scope.SESSION, "target": "s-1", **order}))
        assert isinstance(drain, Drain), drain
        return drain

    async def killed_without(self, member: str, **order: Any) -> Drain:
        """A kill that cannot drain because of one member, as it stands when all others have acknowledged."""
        drain = await self.hasty.kill(ADMIN, Order(**{"scope": Scope.SESSION, "target": "s-1", **order}))
        assert isinstance(drain, Drain), drain
        async with asyncio.timeout(5):
            while (found := await self.seen(drain.kill)).progress.unheard != (member,):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return found

    async def seen(self, kill: Kill) -> Drain:
        """How far a kill has come, as this member tells it."""
        drain = await self.containment.progress(ADMIN, kill.id)
        assert drain is not None
        return drain

    async def running(self, **call: Any) -> asyncio.Task[Answer]:
        """A call that its upstream holds."""
        self.upstream.hold()
        self.upstream.started.clear()
        task = asyncio.create_task(self.gate.pass_through(a_call(**call)))
        await self.upstream.started.wait()
        return task


def given(kill: Kill) -> KillChanges:
    """What the log says right after `kill`."""
    return KillChanges(kill.position - 1, kill.position, (KillChange(kill),))


def ended(kill: Kill, at: int) -> KillChanges:
    """What the log says right after the release of `kill` at position `at`."""
    return KillChanges(at - 1, at, (KillChange(kill, at),))


async def a_moment() -> None:
    """Let everything run that is not waiting for anything."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(what: Callable[[], object]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110 - what is waited for is a field
            await asyncio.sleep(0.001)


def last(of: Any, kind: Kind) -> Event:
    """The newest event of a kind in the log of a house or an office."""
    found: Event = [event for event, _ in of.log.events if event.kind is kind][-1]
    return found


@pytest.fixture
async def house() -> House:
    return House()


@pytest.fixture
async def counting(house: House) -> AsyncIterator[House]:
    """It leaves no recount behind."""
    yield house
    await house.gate._limits.aclose()


class FlagStore(FakeAdmission):
    """Keeps its flags by changes, as Redis does: what a change leaves out stays as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.flags: dict[str, KillId] = {}
        self.changes: list[FlagChange | None] = []
        """How it came from one position to the next; None where the whole state was written."""

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        await asyncio.sleep(0)
        if self.is_down or self.state is None or self.state.position < seen:
            return NotAdmitted(ReasonCode.KILL_STATE_UNKNOWN, "told to fail")
        killed_by = next((self.flags[flag] for flag in flags_over(call) if flag in self.flags), None)
        if killed_by is not None:
            return NotAdmitted(ReasonCode.KILLED, kill_id=killed_by, position=self.state.position)
        return Admitted(self.state.position)

    async def apply(self, state: KillState, change: FlagChange | None = None) -> None:
        await asyncio.sleep(0)
        if self.is_down:
            raise KillStateUnknown("told to fail")
        if self.state is not None and state.position <= self.state.position:
            return
        if self.state is not None and change is not None and change.since == self.state.position:
            self.flags = {name: kill for name, kill in self.flags.items() if name not in change.alive}
            self.flags |= change.dead
        else:
            self.flags, change = state.flags(), None
        self.changes.append(change)
        self.state = KillState(state.position, {})  # the flags are all that it knows
        for on_wake in self.listeners:
            on_wake(state.position)


def edit_desk(house: House) -> EditDesk:
    return EditDesk(house.approvals, house.recorder, house.tools, house.entropy, house.gate.opinion)


def desk_of(house: House, is_valid: Callable[[Principal], bool] = lambda _: True) -> DeferredDesk:
    return DeferredDesk(
        gate=house.gate,
        replica=house.replica,
        approvals=house.approvals,
        answers=house.answers,
        reader=house.log,
        tools=house.tools,
        is_valid=is_valid,
        clock=house.clock,
        entropy=house.entropy,
    )


@pytest.fixture
def desk(house: House) -> DeferredDesk:
    house.engine.answer = lambda asked: ALLOW_WRITE if asked["has_approval_token"] else ASK
    return desk_of(house)
