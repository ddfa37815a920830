"""What happens in a history, made from a number: the same number is the same plan.

A plan is data; when its steps really happen is up to the machine. `run.py` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.containment.nemesis import FAULTS, LONG, OF_THE_LOG, OF_THE_STORE, Fault
from tests.containment.replica import SERVERS, TOOLS

REPLICAS = 3
CALLERS = (("a1", "acme"), ("a2", "acme"), ("b1", "beta"), ("b2", "beta"), ("a1", "acme"), ("b1", "beta"))
"""Agent and tenant of each caller."""
LENGTH_S = 1.0
LONG_LENGTH_S = 4.5
SCOPES = ("session", "session", "session", "agent", "tool", "server", "tenant", "global")


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call; `pause_s` is waited for afterwards."""

    replica: int
    session: str
    tool: str
    ms: int
    linger_ms: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class PlannedKill:
    """A kill, and how it ends. `again` repeats the order with the same id elsewhere at the same time."""

    at_s: float
    replica: int
    id: str
    scope: str
    target: str
    tenant: str | None
    again: bool = False
    expires_in_s: float | None = None
    release_after_s: float | None = None
    """Counted from its answer; None: in force until the end."""
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """`length_s` is for how long callers go on; each does its calls in turn, and then from the first again."""

    name: str
    length_s: float
    callers: tuple[tuple[str, tuple[PlannedCall, ...]], ...]
    """An agent and its calls."""
    kills: tuple[PlannedKill, ...]
    faults: tuple[Fault, ...]


def make(seed: int, *, long: bool = False, faults: tuple[str, ...] | None = None) -> Plan:
    """The plan of a seed. `long`: with a fault of the slow kind. `faults`: these, instead of chosen ones."""
    rng = Random(f"history {seed}")
    name = f"h{seed}"
    length_s = LONG_LENGTH_S if long else LENGTH_S
    kinds = _choose_faults(rng, long=long) if faults is None else faults
    victims = rng.sample(range(REPLICAS), REPLICAS)  # one fault each, so that none ends another's
    return Plan(
        name,
        length_s,
        tuple((agent, _calls(rng, f"{name}-s{number}")) for number, (agent, _) in enumerate(CALLERS)),
        tuple(_kills(rng, name, length_s)),
        tuple(_fault(rng, kind, length_s, victim) for kind, victim in zip(kinds, victims, strict=False)),
    )


def _choose_faults(rng: Random, *, long: bool) -> tuple[str, ...]:
    short = sorted(FAULTS.keys() - LONG)
    if long:
        return (rng.choice(sorted(LONG)), *rng.sample(sorted(FAULTS.keys() - LONG - OF_THE_LOG), rng.randint(0, 1)))
    while True:
        chosen = tuple(rng.sample(short, rng.choice((1, 1, 2, 2, 3))))
        if all(len(group.intersection(chosen)) <= 1 for group in (OF_THE_STORE, OF_THE_LOG)):
            return chosen


def _fault(rng: Random, kind: str, length_s: float, victim: int) -> Fault:
    at_s = 0.1 if kind in LONG else rng.uniform(0.0, 0.5) * length_s
    return Fault(kind, at_s, rng.uniform(0.15, 0.5), victim)


def _calls(rng: Random, session: str) -> tuple[PlannedCall, ...]:
    return tuple(
        PlannedCall(
            replica=rng.randrange(REPLICAS),
            session=session if rng.random() < 0.8 else f"{session}-b",
            tool=rng.choice(sorted(TOOLS)),
            ms=rng.choice((0, 5, 20, 60, 150, 400)),
            linger_ms=rng.choice((0, 0, 0, 10, 50)),
            pause_s=rng.uniform(0.0, 0.02),
        )
        for _ in range(40)
    )


def _kills(rng: Random, name: str, length_s: float) -> list[PlannedKill]:
    kills: list[PlannedKill] = []
    for number in range(rng.choice((1, 2, 2, 3))):
        scope = rng.choice(SCOPES)
        agent, tenant = rng.choice(CALLERS)
        target = {
            "session": f"{name}-s{rng.randrange(len(CALLERS))}",
            "agent": agent,
            "tool": rng.choice(sorted(TOOLS)),
            "server": rng.choice(SERVERS),
            "tenant": tenant,
            "global": "",
        }[scope]
        if scope == "session":
            tenant = CALLERS[int(target.rpartition("s")[2])][1]
        kill = PlannedKill(
            at_s=rng.uniform(0.1, 0.8) * length_s,
            replica=rng.randrange(REPLICAS),
            id=f"{name}-k{number}",
            scope=scope,
            target=target,
            tenant=tenant if scope in ("session", "agent") else None,
            again=rng.random() < 0.2,
            expires_in_s=rng.choice((None, None, None, None, 0.2)),
            release_after_s=rng.choice((None, 0.0, 0.05, 0.2)),
            forced=rng.random() < 0.3,
        )
        kills.append(kill)
        if rng.random() < 0.25:
            kills.append(_twin(rng, kill, length_s))
    return kills


def _twin(rng: Random, kill: PlannedKill, length_s: float) -> PlannedKill:
    """Another kill on the same scope, which one of the two outlives."""
    return PlannedKill(
        at_s=rng.uniform(0.1, 0.8) * length_s,
        replica=rng.randrange(REPLICAS),
        id=f"{kill.id}-twin",
        scope=kill.scope,
        target=kill.target,
        tenant=kill.tenant,
        release_after_s=rng.choice((None, 0.05)),
        forced=True,
    )
