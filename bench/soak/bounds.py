"""What a soak holds the gateway to. Pure: what was seen comes in, bounds that hold or are broken go out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MEMORY_GROWTH = 0.10
"""Of what a process had after its warm-up, by the fitted line over the rest of its life."""
SLACK_MIB = 4.0
"""Of a short life: a page cache fills, an arena is one larger."""
DESCRIPTORS_GROWTH = 6.0
"""Fitted as well: connections to Redis, OPA and the log come and go."""
P99_GROWTH = 2.0
P99_FLOOR_MS = 5.0
"""Below this twice of it is noise of the machine."""
WARM_UP = 1 / 3
"""Of a process's life, at most `WARM_UP_S`."""
WARM_UP_S = 180.0
FEWEST_SAMPLES = 6
"""After the warm-up: a line through fewer says nothing."""


class Sample(NamedTuple):
    """Of one process at one time."""

    at_s: float
    rss_mib: float
    descriptors: int


class Growth(NamedTuple):
    """What a fitted line says of the time after the warm-up: where it begins, and by how much it rises to its end."""

    start: float
    by: float
    seconds: float


class Bound(NamedTuple):
    name: str
    found: str
    limit: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.found}, and the bound is {self.limit}"


@dataclass(slots=True)
class Seen:
    """All of a run."""

    lives: Mapping[int, Sequence[Sample]] = field(default_factory=dict)
    """Of each gateway process by its id."""
    calls: Sequence[tuple[float, float]] = ()
    """When each undisturbed call was due, in seconds from the start of the load, and milliseconds until its answer."""
    first_s: float = 300.0
    """How long the beginning is that p99 is compared with."""
    faults: Sequence[str] = ()
    """5xx that are not documented."""
    false_refusals: Sequence[str] = ()
    """Calls that nothing speaks against, refused in a documented way while nothing was disturbed."""
    escaped: Sequence[str] = ()
    """Calls of a killed session that were let through after its kill had drained."""
    unanswered: int = 0
    missing: int = 0
    """Events of answered calls that the log does not have."""
    broken_steps: Sequence[str] = ()
    """What a kill, a release, a reload or a rotation did not do."""
    verified: str = ""
    """What `agentgate log verify` said."""
    is_verified: bool = False


def judge(seen: Seen) -> list[Bound]:
    """Every bound, in the order of the table."""
    return [
        *_memory(seen.lives),
        *_p99(seen.calls, seen.first_s),
        _none("5xx that are not documented", seen.faults),
        _none("calls refused without a reason, away from every restart", seen.false_refusals),
        _none("calls of a killed session let through after its kill had drained", seen.escaped),
        _none("kills, releases, reloads and rotations that failed", seen.broken_steps),
        Bound("calls that were never answered", str(seen.unanswered), "0", seen.unanswered == 0),
        Bound("acknowledged events that the log does not have", str(seen.missing), "0", seen.missing == 0),
        Bound("log verify", seen.verified, "verified", seen.is_verified),
    ]


def growth(values: Sequence[tuple[float, float]]) -> Growth | None:
    """Of `(seconds, value)` in order, by least squares; None where there are too few after the warm-up."""
    if not values:
        return None
    first, last = values[0][0], values[-1][0]
    begin = first + min(WARM_UP_S, WARM_UP * (last - first))
    kept = [(at - begin, value) for at, value in values if at >= begin]
    if len(kept) < FEWEST_SAMPLES:
        return None
    mean_at, mean = (sum(column) / len(kept) for column in zip(*kept, strict=True))
    spread = sum((at - mean_at) ** 2 for at, _ in kept)
    slope = sum((at - mean_at) * (value - mean) for at, value in kept) / spread
    seconds = kept[-1][0] - kept[0][0]
    return Growth(mean - slope * mean_at, slope * seconds, seconds)


def p99(values: Iterable[float]) -> float:
    """The nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * 99 // 100) - 1] if ordered else 0.0


def _memory(lives: Mapping[int, Sequence[Sample]]) -> list[Bound]:
    """Of the two longest lives; the others are too short to say more."""
    longest = sorted(lives.items(), key=lambda life: life[1][-1].at_s - life[1][0].at_s, reverse=True)[:2]
    found = []
    for pid, samples in longest:
        memory = growth([(one.at_s, one.rss_mib) for one in samples])
        descriptors = growth([(one.at_s, one.descriptors) for one in samples])
        if memory is None or descriptors is None:
            continue
        most = max(SLACK_MIB, MEMORY_GROWTH * memory.start)
        over = f"in {memory.seconds:.0f} s"
        found += [
            Bound(
                f"resident memory of process {pid}",
                f"{memory.start:.1f} {memory.by:+.1f} MiB {over}", f"+{most:.1f} MiB", memory.by <= most,
            ),
            Bound(
                f"descriptors of process {pid}",
                f"{descriptors.start:.0f} {descriptors.by:+.1f} {over}", f"+{DESCRIPTORS_GROWTH:.0f}",
                descriptors.by <= DESCRIPTORS_GROWTH,
            ),
        ]  # fmt: skip
    return found or [Bound("resident memory", "no process was watched for long enough", "a fitted line", holds=False)]


def _p99(calls: Sequence[tuple[float, float]], first_s: float) -> list[Bound]:
    first = p99(ms for at_s, ms in calls if at_s < first_s)
    later = p99(ms for at_s, ms in calls if at_s >= first_s)
    most = P99_GROWTH * max(first, P99_FLOOR_MS)
    is_known = first > 0 and later > 0
    found = f"{later:.1f} ms after {first:.1f} ms in the first {first_s:.0f} s"
    return [Bound("p99 of calls, restarts left out", found, f"{most:.1f} ms", is_known and later <= most)]


def _none(name: str, found: Sequence[str]) -> Bound:
    said = str(len(found)) + (f" (the first: {found[0]})" if found else "")
    return Bound(name, said, "0", not found)
