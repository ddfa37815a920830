"""A whole gate on ports in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from agentgate.core.call import MemberId
from agentgate.core.containment import KillState
from agentgate.pipeline.approvals import ApprovalDesk
from agentgate.pipeline.control import Containment
from agentgate.pipeline.gate import Gate, RateLimits
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.refusals import RefusalLimiter
from agentgate.pipeline.replica import Replica
from agentgate.pipeline.run import Route, Runner
from agentgate.pipeline.upkeep import Upkeep
from tests.fakes import (
    FakeAdmission,
    FakeClock,
    FakeEngine,
    FakeEntropy,
    FakeUpstream,
    ListNotifier,
    MemoryLog,
    NullMeter,
    PlainSealer,
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
    notifier: ListNotifier = field(default_factory=ListNotifier)

    def __post_init__(self) -> None:
        entropy = FakeEntropy()
        self.recorder = Recorder(self.log, self.clock, entropy, member=MemberId("m-1"), version="test")
        self.replica = Replica(self.log, self.admission)
        self.approvals = ApprovalDesk(
            self.log, self.recorder, PlainSealer(), self.clock, entropy, ttl_s=900, static_token=STATIC_TOKEN
        )
        self.runner = Runner({"demo": Route(self.upstream)}, self.recorder, self.clock, self.meter)
        self.gate = Gate(
            admission=self.admission,
            engine=self.engine,
            replica=self.replica,
            recorder=self.recorder,
            approvals=self.approvals,
            runner=self.runner,
            limits=RateLimits(60),
            clock=self.clock,
            meter=self.meter,
            notifier=self.notifier,
        )
        self.containment = Containment(
            replica=self.replica,
            recorder=self.recorder,
            reader=self.log,
            admission=self.admission,
            clock=self.clock,
            entropy=entropy,
            meter=self.meter,
            notifier=self.notifier,
            drain_timeout_s=0.2,
        )
        self.refusals = RefusalLimiter(self.recorder, self.clock, 20)
        self.upkeep = Upkeep(
            recorder=self.recorder,
            reader=self.log,
            replica=self.replica,
            admission=self.admission,
            containment=self.containment,
            approvals=self.approvals,
            refusals=self.refusals,
            runner=self.runner,
        )
        state = KillState(0, {})
        self.admission.state = state
        self.replica.apply(state)


@pytest.fixture
async def house() -> House:
    return House()
