"""The containment protocol (docs/containment.md), explored in every order in which its steps can happen.

Breadth first over all interleavings of calls in two or three replicas, kills and a release, and a budget of faults; so
the first violation that is found has a shortest trace. A pause needs no step: a process that is not scheduled is one
whose steps are not taken, and every step may wait for ever.

    python -m tests.containment.model list
    python -m tests.containment.model run [SCENARIO] [--whole]    the protocol as it is
    python -m tests.containment.model breaks [BREAK]              what each deliberate fault leads to
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations
from typing import Any, NamedTuple

# --- what is there ----------------------------------------------------------------------------------------

NEW, ENTERED, ADMITTED, DECIDED, GRANTED, OUT, DONE = range(7)
"""A flight: in the replica's table from `ENTERED`, with its upstream while `OUT`."""
ABSENT, HERE, GONE, ATTESTED = range(4)
"""What the log says of a member: not joined or left, joined, presumed gone, its host attested to be destroyed."""
PRIMARY, DEPOSED, CUT = range(3)
"""Which Redis a replica's connection leads to, if any."""
OPEN, EXCEPT, DRAINED, FORCED = range(4)
"""What was said of a kill: nothing yet, drained but for some, drained; or it was released by force before."""
BLIND, DISOWNED = 1, 8
"""Marks of a flight: admitted without a readable, recent kill state; recorded although its member was gone. The bits
`1 << kill` between them are the kills that were given while it was in the table and not yet sent."""


class Flight(NamedTuple):
    phase: int = NEW
    cut: int = 0
    at: int = 0
    """The kill position that it passed to `admit`; from `DECIDED` on its receipt's."""
    marks: int = 0


class Replica(NamedTuple):
    """A process, and what the log says of the member that it is."""

    up: int
    standing: int
    incarnation: int
    position: int
    """Applied here."""
    acked: int
    """By an event in the log; at first the position at which it joined, because no earlier kill waits for it."""
    lease: int
    """0 also for one that was expelled: it grants nothing."""
    link: int
    excepted: int
    """The kills whose receipt names it as an exception, as bits."""
    flights: tuple[Flight, ...]


class Store(NamedTuple):
    """A Redis. Position -1: it has none."""

    position: int
    flags: int


class State(NamedTuple):
    log: tuple[int, ...]
    """Kills `k` and releases `-k`: the place of an entry, from 1, is its kill position."""
    replicas: tuple[Replica, ...]
    primary: Store
    second: Store | None
    """A standby, frozen at its last replication; or the deposed primary while a replica is connected to it."""
    answers: tuple[int, ...]
    budget: tuple[int, ...]


FAULTS = ("lose", "failover", "split", "cut", "crash", "gone", "leave", "force")
NORMAL, OUTSIDE, FAULT = "", "outside", "fault"
"""Kinds of steps: the protocol's own, those of callers, operators and replication, and what goes wrong."""
Step = tuple[str, str, State]


class Violation(Exception):
    """The step that comes next breaks a promise."""


@dataclass(frozen=True)
class Scenario:
    flights: tuple[int, ...] = (1, 1)
    """How many calls each replica may get."""
    orders: tuple[int, ...] = (1, 2, -1)
    covers: tuple[bool, bool] = (True, True)
    """Whether kill 1 and kill 2 cover the calls."""
    late: bool = False
    """The last replica is not there at first."""
    faults: Mapping[str, int] = field(default_factory=dict)


# --- changes of a state -----------------------------------------------------------------------------------


def swap(items: tuple[Any, ...], index: int, item: object) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


def put(s: State, i: int, r: Replica) -> State:
    """`s` with another replica. A deposed primary that nobody is connected to any more is forgotten."""
    replicas = swap(s.replicas, i, r)
    if s.replicas[i].link == DEPOSED and all(other.link != DEPOSED for other in replicas):
        return s._replace(replicas=replicas, second=None)
    return s._replace(replicas=replicas)


def put_flight(s: State, i: int, j: int, flight: Flight) -> State:
    r = s.replicas[i]
    return put(s, i, r._replace(flights=swap(r.flights, j, flight)))


def spend(s: State, fault: str) -> State | None:
    """`s` with one such fault fewer to come; None when there is none left."""
    index = FAULTS.index(fault)
    return s._replace(budget=swap(s.budget, index, s.budget[index] - 1)) if s.budget[index] else None


def is_busy(r: Replica) -> bool:
    return any(ENTERED <= f.phase <= OUT for f in r.flights)


def lapse(r: Replica) -> Replica:
    """Cut every flight."""
    return r._replace(flights=tuple(f._replace(cut=1) if ENTERED <= f.phase <= OUT else f for f in r.flights))


def doom(r: Replica, kill: int) -> Replica:
    """Remember which calls were on their way when a kill that covers them was given."""
    mark = 1 << kill
    flights = (f._replace(marks=f.marks | mark) if ENTERED <= f.phase <= GRANTED else f for f in r.flights)
    return r._replace(flights=tuple(flights))


def end(r: Replica) -> Replica:
    """No process any more: nothing runs in it, and what it knew is forgotten."""
    flights = tuple(f if f.phase == NEW else Flight(DONE) for f in r.flights)
    return r._replace(up=0, position=0, lease=1, link=PRIMARY, flights=flights)


def join(s: State, r: Replica) -> Replica:
    """A new incarnation. It has read the kills in force before its first call enters."""
    here = len(s.log)
    return Replica(1, HERE, r.incarnation + 1, here, here, 1, PRIMARY, 0, r.flights)


# --- the steps --------------------------------------------------------------------------------------------


class Protocol:
    """The steps of a scenario, as the code takes them or with one deliberate fault (`broken`, of `BREAKS`)."""

    def __init__(self, scenario: Scenario, broken: str = "") -> None:
        self.scenario = scenario
        self.broken = broken
        self.is_symmetric = len(set(scenario.flights)) == 1
        self.active = cache(self._active)

    def start(self) -> State:
        replicas = [Replica(1, HERE, 0, 0, 0, 1, PRIMARY, 0, (Flight(),) * n) for n in self.scenario.flights]
        if self.scenario.late:
            replicas[-1] = replicas[-1]._replace(up=0, standing=ABSENT)
        budget = tuple(self.scenario.faults.get(fault, 0) for fault in FAULTS)
        return State((), tuple(replicas), Store(0, 0), None, (OPEN,) * 3, budget)

    def _active(self, log: tuple[int, ...], position: int) -> int:
        """`KillState` at a position: the kills in force, as bits."""
        kills = 0
        for order in log[:position]:
            if order > 0:
                kills |= 1 << order
            else:
                kills = 0 if self.broken == "release clears scope" else kills & ~(1 << -order)
        return kills

    def over(self, kills: int) -> bool:
        """Whether one of `kills` covers the calls."""
        return any(kills >> kill & 1 and covers for kill, covers in enumerate(self.scenario.covers, 1))

    def advance(self, r: Replica, log: tuple[int, ...], position: int) -> Replica:
        """Apply `KillChanges`: cut what the kills since then cover, also those that were released since."""
        given = sum(1 << order for order in log[r.position : position] if order > 0)
        if self.broken == "released kills do not cut":
            given &= self.active(log, position)
        r = r._replace(position=position)
        return lapse(r) if self.over(given) else r

    def steps(self, s: State) -> Iterator[Step]:
        for i, r in enumerate(s.replicas):
            yield from self._replica(s, i, r) if r.up else self._nobody(s, i, r)
        yield from self._control(s)
        yield from self._faults(s)

    def _nobody(self, s: State, i: int, r: Replica) -> Iterator[Step]:
        """No process: a successor that holds the lock closes the old member and joins, or it is presumed gone."""
        before_joined = self.broken == "admit before joined"
        new = join(s, r)._replace(standing=ABSENT) if before_joined else join(s, r)
        yield f"R{i} starts{' without' if before_joined else ','} joined at {len(s.log)}", NORMAL, put(s, i, new)
        if r.standing == HERE:
            yield f"R{i} is dead, and presumed gone", NORMAL, put(s, i, r._replace(standing=GONE))
        if r.standing == GONE:
            yield f"R{i}'s host is attested to be destroyed", OUTSIDE, put(s, i, r._replace(standing=ATTESTED))

    def _replica(self, s: State, i: int, r: Replica) -> Iterator[Step]:
        newest = len(s.log)
        to = partial(put, s, i)
        if r.standing == ABSENT and self.broken == "admit before joined":
            yield f"R{i} joined", NORMAL, to(r._replace(standing=HERE, acked=newest))
        for position in range(r.position + 1, newest + 1):  # an answer of the log may be old when it is applied
            yield f"R{i} catches up to {position}", NORMAL, to(self.advance(r, s.log, position))
        is_clear = not any(f.cut and f.phase <= OUT for f in r.flights)
        if r.acked < r.position and r.standing in (HERE, GONE) and (is_clear or self.broken == "ack early"):
            yield f"R{i} acked {r.position}", NORMAL, to(r._replace(acked=r.position))
        if r.link == CUT and r.lease:
            yield f"R{i}'s lease ends: all is cut", NORMAL, to(lapse(r)._replace(lease=0))
        if r.link == PRIMARY and r.standing == HERE and not r.lease:
            yield f"R{i} renews its lease", NORMAL, to(self.advance(r, s.log, newest)._replace(lease=1))
        if r.standing == GONE and r.lease:
            yield f"R{i} is expelled: all is cut", NORMAL, to(lapse(r)._replace(lease=0))
        if r.standing == GONE and not r.lease and (not is_busy(r) or self.broken == "join anew while busy"):
            yield f"R{i} left, joined anew at {newest}", NORMAL, to(join(s, r))
        if r.link != PRIMARY:
            yield f"R{i} reaches the primary", NORMAL, to(r._replace(link=PRIMARY))
        if r.link != CUT:
            yield from self._apply(s, i, r)
        for j, flight in enumerate(r.flights):
            yield from self._flight(s, i, j, flight)

    def _apply(self, s: State, i: int, r: Replica) -> Iterator[Step]:
        """`Admission.apply` of any position that the replica may ever have sent: requests can be late."""
        store = (s.primary, s.second)[r.link]
        assert store is not None
        for position in range(r.position + 1):
            flags, may = self.active(s.log, position), store.position < position
            if self.broken == "apply overwrites":
                may = store.position != position
            elif self.broken == "repair only if empty":
                may = store.position < 0
            elif self.broken == "change from elsewhere" and position > 0:
                before = self.active(s.log, position - 1)
                flags = store.flags & ~before | flags & ~before | store.flags & flags
            if not may:
                continue
            label = f"R{i} applies {position} to {('the primary', 'the deposed primary')[r.link]}"
            if position < store.position or flags != self.active(s.log, position):
                raise Violation(f"FAST, Redis goes back or says what the log does not: {label}, at {store.position}")
            new = Store(position, flags)
            yield label, NORMAL, s._replace(primary=new) if r.link == PRIMARY else s._replace(second=new)

    # --- calls (pipeline/calls/gate.py) ---

    def _flight(self, s: State, i: int, j: int, flight: Flight) -> Iterator[Step]:
        r, name, phase = s.replicas[i], f"R{i}.{j}", flight.phase
        to = partial(put_flight, s, i, j)
        if phase == NEW and r.lease and not self.over(self.active(s.log, r.position)):
            yield f"{name} enters", OUTSIDE, to(Flight(ENTERED, at=r.position))
        elif flight.cut and phase < DONE:
            yield f"{name} is cancelled", NORMAL, to(Flight(DONE))
            if phase == GRANTED and self.broken == "send without a look":
                yield f"{name} is sent", NORMAL, self._sent(s, i, j, flight)
        elif phase == ENTERED:
            yield self._admit(s, i, j, flight)
        elif phase == ADMITTED and self.broken == "send before recorded":
            yield f"{name} is sent", NORMAL, self._sent(s, i, j, flight)
        elif phase == ADMITTED and (r.standing == HERE or self.broken in ("gone may record", "admit before joined")):
            marks = flight.marks | (DISOWNED if r.standing == GONE else 0)
            yield f"{name} decided, receipt at {len(s.log)}", NORMAL, to(Flight(DECIDED, at=len(s.log), marks=marks))
        elif phase == ADMITTED:
            yield f"{name} is not recorded: member gone", NORMAL, to(Flight(DONE))
        elif phase == DECIDED and (flight.at <= r.position or self.broken == "grant without comparing"):
            yield f"{name} is granted", NORMAL, to(flight._replace(phase=GRANTED))
        elif phase == GRANTED:
            yield f"{name} is sent", NORMAL, self._sent(s, i, j, flight)
        elif phase == OUT:
            yield f"{name} finishes", NORMAL, to(Flight(DONE))

    def _admit(self, s: State, i: int, j: int, flight: Flight) -> Step:
        """`Admission.admit`: refused by a store that is unreadable, empty or older than what the replica had seen."""
        name, store = f"R{i}.{j}", (s.primary, s.second, None)[s.replicas[i].link]
        is_blind = store is None or store.position < flight.at
        if is_blind and self.broken != ("unreadable is alive" if store is None else "admit at any position"):
            return f"{name} is refused: kill state unknown", NORMAL, put_flight(s, i, j, Flight())
        if store is not None and self.over(store.flags):
            return f"{name} is refused: killed", NORMAL, put_flight(s, i, j, Flight(DONE))
        marks = flight.marks | (BLIND if is_blind else 0)
        return f"{name} is admitted", NORMAL, put_flight(s, i, j, Flight(ADMITTED, marks=marks))

    def _sent(self, s: State, i: int, j: int, flight: Flight) -> State:
        """`Upstream.send`, and everything that must be true when it happens."""
        fault = self._fault_of_sending(s, s.replicas[i], flight)
        if fault:
            raise Violation(f"{fault}: R{i}.{j} is sent")
        return put_flight(s, i, j, Flight(OUT))

    def _fault_of_sending(self, s: State, r: Replica, flight: Flight) -> str:
        if flight.phase != GRANTED:
            return "RECORD, without a durable Decided"
        if flight.marks & DISOWNED:
            return "RECORD, decided by a member that had been declared gone"
        if flight.cut:
            return "K6, although it was cut"
        for kill in (kill for kill in s.log if kill > 0 and self.scenario.covers[kill - 1]):
            was_in_flight, is_released, answer = flight.marks >> kill & 1, -kill in s.log, s.answers[kill]
            before_receipt = s.log[: flight.at]
            if kill in before_receipt and (was_in_flight or -kill not in before_receipt):
                return f"K5, recorded after kill {kill}"
            if is_released and was_in_flight and answer != FORCED:
                return f"K6, revived by the release of kill {kill}"
            if not is_released and (answer == DRAINED or (answer == EXCEPT and not r.excepted >> kill & 1)):
                return f"K1, after kill {kill} was answered {('', 'drained_except', 'drained')[answer]}"
        return "K4, without a readable kill state" if flight.marks & BLIND else ""

    # --- people (pipeline/containment/control.py, drains.py) ---

    def _control(self, s: State) -> Iterator[Step]:
        for order in self.scenario.orders:
            kill = abs(order)
            after = s._replace(log=(*s.log, order))
            if order in s.log or (order != 1 and 1 not in s.log) or (order < 0 and kill not in s.log):
                continue
            if order > 0:
                doomed = tuple(doom(r, kill) if self.scenario.covers[kill - 1] else r for r in s.replicas)
                yield f"kill {kill} at {len(after.log)}", OUTSIDE, after._replace(replicas=doomed)
            elif s.answers[kill] == DRAINED or self.broken == "release undrained":
                yield f"release {kill} at {len(after.log)}", OUTSIDE, after
            elif forced := spend(after, "force"):
                answers = swap(s.answers, kill, FORCED)
                yield f"release {kill} by force at {len(after.log)}", FAULT, forced._replace(answers=answers)
        for kill in (1, 2):
            if kill in s.log and -kill not in s.log and s.answers[kill] < DRAINED:
                yield from self._receipt(s, kill)

    def _receipt(self, s: State, kill: int) -> Iterator[Step]:
        """`progress()` and the kill's receipt, from what the log says alone."""
        position = s.log.index(kill) + 1
        behind = [i for i, r in enumerate(s.replicas) if r.standing != ABSENT and r.acked < position]
        if self.broken == "members of another position":
            behind = [i for i in behind if s.replicas[i].incarnation == 0]
        if self.broken == "drain without the silent":
            behind = [i for i in behind if s.replicas[i].link != CUT]
        if any(s.replicas[i].standing == HERE for i in behind):
            return
        excepted = {i for i in behind if s.replicas[i].standing == GONE}
        for i, r in enumerate(s.replicas):
            if i not in excepted and self.scenario.covers[kill - 1] and any(f.phase == OUT for f in r.flights):
                raise Violation(f"K1, a covered call runs in R{i}: kill {kill} is answered")
        answer = EXCEPT if excepted and self.broken != "gone is drained" else DRAINED
        if answer != s.answers[kill]:
            said = tuple(r._replace(excepted=r.excepted | (i in excepted) << kill) for i, r in enumerate(s.replicas))
            label = f"kill {kill} is answered {('', 'drained_except', 'drained')[answer]}"
            yield label, NORMAL, s._replace(answers=swap(s.answers, kill, answer), replicas=said)

    # --- faults ---

    def _faults(self, s: State) -> Iterator[Step]:
        if s.primary.position >= 0 and (lost := spend(s, "lose")):
            yield "Redis loses everything", FAULT, lost._replace(primary=Store(-1, 0))
        failed, split = spend(s, "failover"), spend(s, "split")
        if s.second is None and s.primary.position >= 0 and (failed or split):
            yield "the last write reaches the standby", OUTSIDE, s._replace(second=s.primary)
        if s.second is not None and all(r.link != DEPOSED for r in s.replicas):
            if failed:
                yield "Redis fails over to the standby", FAULT, failed._replace(primary=s.second, second=None)
            stay = tuple(r._replace(link=DEPOSED) if r.up and r.link == PRIMARY else r for r in s.replicas)
            if split and stay != s.replicas:
                both = split._replace(primary=s.second, second=s.primary, replicas=stay)
                yield "Redis fails over, and its clients stay with the deposed primary", FAULT, both
        for i, r in enumerate(s.replicas):
            if r.up:
                yield from self._replica_faults(s, i, r)

    def _replica_faults(self, s: State, i: int, r: Replica) -> Iterator[Step]:
        if r.link != CUT and (t := spend(s, "cut")):
            yield f"R{i} is cut off from Redis", FAULT, put(t, i, r._replace(link=CUT))
        if t := spend(s, "crash"):
            yield f"R{i} crashes", FAULT, put(t, i, end(r))
        if r.standing == HERE and (t := spend(s, "gone")):
            yield f"R{i} lives, and is presumed gone", FAULT, put(t, i, r._replace(standing=GONE))
        if r.standing == HERE and not is_busy(r) and (t := spend(s, "leave")):
            yield f"R{i} left", FAULT, put(t, i, end(r)._replace(standing=ABSENT))
        elif r.standing == HERE and self.broken == "left while busy" and (t := spend(s, "leave")):
            yield f"R{i} left with calls", FAULT, put(t, i, r._replace(standing=ABSENT))

    # --- what must stay reachable, and what is the same ---

    def is_well(self, s: State) -> bool:
        """Redis says what the log says, nobody is refused for want of it, and every kill in force has drained."""
        newest = len(s.log)
        return (
            s.primary == Store(newest, self.active(s.log, newest))
            and all(r.link == PRIMARY and r.lease and r.standing == HERE for r in s.replicas if r.up)
            and all(kill not in s.log or -kill in s.log or s.answers[kill] == DRAINED for kill in (1, 2))
        )

    def folded(self, s: State) -> State:
        """One of the states that differ only in which replica, or which call of a replica, is which."""
        replicas = [r._replace(flights=tuple(sorted(r.flights))) if len(r.flights) > 1 else r for r in s.replicas]
        return s._replace(replicas=tuple(sorted(replicas) if self.is_symmetric else replicas))


# --- the search -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    states: int
    violation: str = ""
    trace: Sequence[str] = ()
    labels: frozenset[str] = frozenset()
    """Every step that was taken somewhere."""


def explore(protocol: Protocol) -> Outcome:
    """Every state that can be reached, and whether from each of them all is well again without another fault."""
    first = protocol.folded(protocol.start())
    seen, states, parents = {first: 0}, [first], array("l", [0])
    sources, targets, well = array("l"), array("l"), array("l")
    same: dict[Replica, Replica] = {}
    labels = set()
    for at, state in enumerate(states):  # which grows meanwhile
        if protocol.is_well(state):
            well.append(at)
        try:
            for label, kind, following in protocol.steps(state):
                folded = protocol.folded(following)
                target = seen.get(folded)
                if target is None:
                    folded = folded._replace(replicas=tuple(same.setdefault(r, r) for r in folded.replicas))
                    target = seen[folded] = len(states)
                    states.append(folded)
                    parents.append(at)
                labels.add(label)
                if kind == NORMAL:
                    sources.append(at)
                    targets.append(target)
        except Violation:
            return Outcome(len(states), *_retold(protocol, states, parents, at))
    stuck = _first_stuck(len(states), sources, targets, well)
    if stuck is not None:
        trace = _retold(protocol, states, parents, stuck)[1]
        return Outcome(len(states), "LIVE, from here no way leads to where all is well", trace)
    return Outcome(len(states), labels=frozenset(labels))


def _retold(protocol: Protocol, states: list[State], parents: array[int], at: int) -> tuple[str, list[str]]:
    """What is violated at a state, if anything, and the steps to it: each replica has one name throughout."""
    path = []
    while at:
        path.append(states[at])
        at = parents[at]
    trace, state = [], protocol.start()
    for goal in reversed(path):
        label, _, state = next(step for step in protocol.steps(state) if protocol.folded(step[2]) == goal)
        trace.append(label)
    try:
        for _ in protocol.steps(state):
            pass
    except Violation as violation:
        return str(violation), trace
    return "", trace


def _first_stuck(count: int, sources: array[int], targets: array[int], well: array[int]) -> int | None:
    """The first state from which the edges lead to none that is well. Edges are linked lists in arrays."""
    newest, older = array("l", [-1]) * count, array("l", [-1]) * len(targets)
    for edge, target in enumerate(targets):
        older[edge], newest[target] = newest[target], edge
    reaches, todo = bytearray(count), list(well)
    while todo:
        at = todo.pop()
        if not reaches[at]:
            reaches[at] = 1
            edge = newest[at]
            while edge >= 0:
                todo.append(sources[edge])
                edge = older[edge]
    stuck = reaches.find(0)
    return stuck if stuck >= 0 else None


# --- what is explored -------------------------------------------------------------------------------------

ONE, RELEASE = (1, 0), (1, -1)
SCENARIOS = {
    "calm": Scenario(),
    "more calls": Scenario((2, 1), RELEASE),
    "only kill 1 covers": Scenario(covers=(True, False)),
    "only kill 2 covers": Scenario(covers=(False, True)),
    "forced release": Scenario(orders=RELEASE, faults={"force": 1}),
    "data lost": Scenario(faults={"lose": 1}),
    "failover": Scenario(faults={"failover": 1}),
    "two primaries": Scenario(orders=RELEASE, faults={"split": 1}),
    "cut off": Scenario(orders=RELEASE, faults={"cut": 1}),
    "crash": Scenario(faults={"crash": 1}),
    "presumed gone": Scenario(orders=RELEASE, faults={"gone": 1}),
    "leaves": Scenario(faults={"leave": 1}),
    "joins late": Scenario(late=True),
    "joins late, failover": Scenario(orders=RELEASE, late=True, faults={"failover": 1}),
    "crash, data lost": Scenario(orders=RELEASE, faults={"crash": 1, "lose": 1}),
    "presumed gone, crash": Scenario(orders=(1,), faults={"gone": 1, "crash": 1}),
    "presumed gone, failover": Scenario(ONE, RELEASE, faults={"gone": 1, "failover": 1}),
    "cut off, data lost": Scenario(ONE, RELEASE, faults={"cut": 1, "lose": 1}),
    "two primaries, forced release": Scenario(ONE, RELEASE, faults={"split": 1, "force": 1}),
}
WHOLE = {
    "two calls each": Scenario((2, 2)),
    "three replicas": Scenario((1, 1, 1)),
    "three replicas, one late": Scenario((1, 1, 1), RELEASE, late=True),
    "three replicas, failover": Scenario((1, 1, 1), faults={"failover": 1}),
    "three replicas, two primaries": Scenario((1, 1, 1), RELEASE, faults={"split": 1}),
    "three replicas, crash": Scenario((1, 1, 1), RELEASE, faults={"crash": 1}),
    "three replicas, presumed gone": Scenario((1, 1, 1), RELEASE, faults={"gone": 1}),
    "lost and two primaries": Scenario(faults={"lose": 1, "split": 1}),
    "lost twice, failover": Scenario(orders=RELEASE, faults={"lose": 2, "failover": 1}),
    "crash, presumed gone, cut off": Scenario(orders=RELEASE, faults={"crash": 1, "gone": 1, "cut": 1}),
    **{" + ".join(two): Scenario(orders=RELEASE, faults=dict.fromkeys(two, 1)) for two in combinations(FAULTS, 2)},
    **{" + ".join(some): Scenario(ONE, RELEASE, faults=dict.fromkeys(some, 1)) for some in combinations(FAULTS, 3)},
}
"""More of everything: minutes."""
BREAKS = {
    "ack early": ("K1", "calm", "a member acknowledges before its cancelled calls have ended"),
    "grant without comparing": ("K5", "failover", "the receipt's position is not compared with the applied one"),
    "release clears scope": ("K5", "calm", "a release clears the scope, and with it a second kill on it"),
    "released kills do not cut": ("K5", "forced release", "who catches up reads the kills in force alone"),
    "drain without the silent": ("K1", "cut off", "drained does not wait for members that are not heard"),
    "gone is drained": ("K1", "presumed gone", "the answer does not say which members were given up"),
    "members of another position": ("K1", "joins late", "a kill waits for those who were there at an earlier one"),
    "admit before joined": ("K1", "joins late", "a process takes calls before its joined is in the log"),
    "left while busy": ("K1", "leaves", "a member says left while it has calls; or a successor does without the lock"),
    "join anew while busy": ("K1", "presumed gone", "an expelled member joins anew before its calls have ended"),
    "gone may record": ("RECORD", "presumed gone", "the log takes a decision of a member that was declared gone"),
    "send before recorded": ("RECORD", "calm", "a call is sent before its decision is durable"),
    "send without a look": ("K6", "forced release", "a call is sent without looking whether it was cut meanwhile"),
    "release undrained": ("K6", "calm", "a kill that has not drained is released without force"),
    "unreadable is alive": ("K4", "cut off", "a Redis that does not answer is taken to say: not killed"),
    "admit at any position": ("K4", "data lost", "admit does not compare Redis's position with what was seen"),
    "apply overwrites": ("FAST", "data lost", "what is written to Redis may be older than what it holds"),
    "change from elsewhere": ("FAST", "data lost", "a change is applied to a Redis that is not where it begins"),
    "repair only if empty": ("LIVE", "failover", "nobody brings up a Redis that is behind the log"),
}
"""Deliberate faults: the promise that each breaks, a scenario in which it does, and what it is."""


def main(arguments: Sequence[str]) -> int:
    whole = "--whole" in arguments
    what, only, *_ = [*(word for word in arguments if word != "--whole"), "", ""]
    scenarios = SCENARIOS | WHOLE
    if what == "breaks":
        runs = {name: Protocol(scenarios[at], name) for name, (_, at, _) in BREAKS.items() if only in ("", name)}
    elif what == "run":
        some = scenarios if whole or only else SCENARIOS
        runs = {name: Protocol(scenario) for name, scenario in some.items() if only in ("", name)}
    else:
        print(*(f"{name:32} {scenario}" for name, scenario in scenarios.items()), sep="\n")
        print(*(f"{name:32} {promise:7} {text}" for name, (promise, _, text) in BREAKS.items()), sep="\n")
        return 0
    is_wrong = not runs
    for name, protocol in runs.items():
        started = time.monotonic()
        outcome = explore(protocol)
        seconds = time.monotonic() - started
        print(f"{name:32} {outcome.states:>9,} states {seconds:6.1f} s  {outcome.violation or 'holds'}", flush=True)
        print(*(f"    {number:2} {label}\n" for number, label in enumerate(outcome.trace, 1)), sep="", end="")
        is_wrong |= outcome.violation.split(",")[0] != (BREAKS[name][0] if protocol.broken else "")
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
