"""Whatever fails around it, the gateway keeps K1…K6: histories of real processes, judged one by one."""

from __future__ import annotations

import os
import time

import pytest

from tests.containment.cluster import Cluster, missing
from tests.containment.judge import Seen, judge, told
from tests.containment.nemesis import FAULTS, LONG
from tests.containment.plan import make
from tests.containment.run import Running

SEEDS = range(32)
TORTURE = int(os.environ.get("AGENTGATE_HISTORIES", "1000"))
FIRST = int(os.environ.get("AGENTGATE_FIRST_HISTORY", "10000"))
"""So that a second night finds other histories."""
ON_ONE_CLUSTER = 100
EVERY = 20
"""In the torture run, one history in so many is a slow one."""


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> Running:
    return Running(cluster)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - LONG))
async def test_k1_to_k6_hold_through(running: Running, seen: Seen, fault: str) -> None:
    plan = make(sorted(FAULTS).index(fault), faults=(fault,))
    violations = await judge(running, plan, seen)
    assert not violations, told(plan, violations)


@pytest.mark.parametrize("seed", SEEDS)
async def test_k1_to_k6_hold_in_history(running: Running, seen: Seen, seed: int) -> None:
    plan = make(100 + seed)
    violations = await judge(running, plan, seen)
    assert not violations, told(plan, violations)


@pytest.mark.parametrize("fault", sorted(LONG))
async def test_k1_to_k6_hold_when_a_replica_is_lost_by(running: Running, seen: Seen, fault: str) -> None:
    plan = make(sorted(FAULTS).index(fault), long=True, faults=(fault,))
    violations = await judge(running, plan, seen)
    assert not violations, told(plan, violations)


async def test_the_log_of_these_histories_verifies(cluster: Cluster) -> None:
    report = await cluster.audit()
    assert report.ok, "\n".join(map(str, report.findings))


def test_these_histories_were_not_idle(seen: Seen, pytestconfig: pytest.Config) -> None:
    if seen.histories < len(FAULTS) + len(SEEDS):
        pytest.skip("only some of the histories were run")
    print(seen)
    assert seen.sent > 20 * seen.histories
    assert min(seen.cut, seen.drained, seen.refused_blind) > seen.histories
    assert min(seen.died, seen.undrained, seen.excepted, seen.forced) > 0


@pytest.mark.torture
@pytest.mark.timeout(3600)
async def test_k1_to_k6_hold_in_a_thousand_histories(capsys: pytest.CaptureFixture[str]) -> None:
    if reason := missing():
        pytest.skip(reason)
    seen, broken, started = Seen(), [], time.monotonic()
    for first in range(FIRST, FIRST + TORTURE, ON_ONE_CLUSTER):
        with Cluster() as cluster:
            running = Running(cluster)
            for seed in range(first, min(first + ON_ONE_CLUSTER, FIRST + TORTURE)):
                plan = make(seed, long=seed % EVERY == 0)
                if violations := await judge(running, plan, seen):
                    broken.append(told(plan, violations))
                if seen.histories % 50 == 0:
                    with capsys.disabled():
                        print(f"\n{time.monotonic() - started:.0f} s, {len(broken)} violated; {seen}", flush=True)
            broken += [f"the log after history {seed}: {finding}" for finding in (await cluster.audit()).findings]
    assert not broken, "\n\n".join(broken)
