"""The checker can fail: with a fault put into the gateway it finds a violation, and without it none."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.containment.cluster import Cluster
from tests.containment.judge import judge, told
from tests.containment.nemesis import Fault
from tests.containment.plan import Plan, PlannedCall, PlannedKill
from tests.containment.run import Running

MOST_HISTORIES = 5
"""A break that takes longer to be found is one that the checker does not really see."""


@dataclass(frozen=True, slots=True)
class Directed:
    """A history that one break cannot get through, and the rules that it must be found to violate."""

    plan: Plan
    rules: frozenset[str]


def _calls(*replicas: int, ms: int, linger_ms: int = 0, pause_s: float = 0.01) -> tuple[PlannedCall, ...]:
    return tuple(PlannedCall(replica, "directed", "read-a", ms, linger_ms, pause_s) for replica in replicas)


def _plan(
    name: str,
    calls: tuple[PlannedCall, ...],
    *kills: PlannedKill,
    faults: tuple[Fault, ...] = (),
    length_s: float = 1.0,
) -> Plan:
    return Plan(name, length_s, tuple(("a1", calls) for _ in range(3)), kills, faults)


def _kill(name: str, at_s: float, replica: int = 1, release_after_s: float | None = None) -> PlannedKill:
    return PlannedKill(at_s, replica, name, "session", "directed", "acme", release_after_s=release_after_s)


def _directed(name: str) -> dict[str, Directed]:
    """`name` makes the kills' ids new."""
    return {
        # calls that take their time to end after they were cut
        "acknowledge_early": Directed(
            _plan(name, _calls(0, 1, 2, ms=5000, linger_ms=400), _kill(f"{name}-k", 0.3)), frozenset({"K1", "K3"})
        ),
        # one replica talks to a standby that has never heard of the kill
        "grant_without_position": Directed(
            _plan(name, _calls(0, ms=20), _kill(f"{name}-k", 0.4), faults=(Fault("two_primaries", 0.0, 0.9, 0),)),
            frozenset({"K5"}),
        ),
        # two kills on one scope, of which one is released
        "release_clears_the_scope": Directed(
            _plan(
                name, _calls(0, 1, 2, ms=20), _kill(f"{name}-k1", 0.2), _kill(f"{name}-k2", 0.3, release_after_s=0.1)
            ),
            frozenset({"K6"}),
        ),
        # a replica is frozen while a covered call runs in it
        "drain_without_the_silent": Directed(
            _plan(name, _calls(0, ms=5000), _kill(f"{name}-k", 0.3), faults=(Fault("pause", 0.2, 0.6, 0),)),
            frozenset({"K1"}),
        ),
    }


NAMES = sorted(_directed(""))


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> Running:
    return Running(cluster)


async def _restart(cluster: Cluster, *breaks: str) -> None:
    cluster.breaks = breaks
    for replica in cluster.replicas:
        replica.stop()
        replica.start()
    await cluster.ready()


@pytest.mark.parametrize("name", NAMES)
async def test_a_gateway_without_a_break_gets_through_the_history_for(running: Running, name: str) -> None:
    await _restart(running.cluster)
    plan = _directed(f"whole-{name}")[name].plan
    violations = await judge(running, plan)
    assert not violations, told(plan, violations)


@pytest.mark.parametrize("name", NAMES)
async def test_the_checker_finds(running: Running, name: str) -> None:
    await _restart(running.cluster, name)
    found: list[str] = []
    for number in range(MOST_HISTORIES):
        directed = _directed(f"{name}-{number}")[name]
        violations = await judge(running, directed.plan)
        if directed.rules <= {violation.rule for violation in violations}:
            return
        found += map(str, violations)
    pytest.fail("no history showed all that this breaks, only:\n" + "\n".join(found))
