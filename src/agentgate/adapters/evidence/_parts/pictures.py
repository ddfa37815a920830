"""The picture data of a view: the timeline and the charts, cut down to what fits on a page however many calls."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from agentgate.adapters.evidence._parts.kills import Kill
from agentgate.adapters.evidence._parts.marks import Mark, Marked, tally
from agentgate.adapters.evidence._parts.words import count, duration, reason, short
from agentgate.core.visible import visible

MOST_LANES: Final = 12
MOST_BARS: Final = 12
_TICKS: Final = 7
_STEPS_S: Final = tuple(
    unit * number
    for unit, numbers in (
        (0.001, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
        (1, (1, 2, 5, 10, 15, 30)),
        (60, (1, 2, 5, 10, 15, 30)),
        (3600, (1, 2, 3, 6, 12)),
        (86_400, (1, 2, 5, 7, 14, 30, 60, 90, 180, 365, 730)),
    )
    for number in numbers
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    total: int
    parts: tuple[tuple[Mark, int], ...]
    """Only what occurs, in the order of Mark."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    name: str
    title: str
    bars: tuple[Bar, ...]


_DECISIONS: Final = {"ALLOW": "Allowed", "DENY": "Refused", "REQUIRE_APPROVAL": "Sent to a person"}


def charts(calls: Sequence[Marked]) -> tuple[Chart, ...]:
    """By decision, tool, agent (if there are several) and reason; none without calls."""
    if not calls:
        return ()
    by_decision = [
        Bar(label, len(parts), tally(parts), f"decision {name}")
        for name, label in _DECISIONS.items()
        if (parts := [mark for entry, mark in calls if entry["decision"] == name]) or name != "REQUIRE_APPROVAL"
    ]
    found = [
        Chart("decision", "Calls by decision", tuple(by_decision)),
        _by("tool", "Calls by tool", calls, "tool_name", "tool"),
        _by("agent", "Calls by agent", calls, "agent_id", "agent"),
        _by("reason", "Calls by reason code", calls, "reason_code", "reason code", reason),
    ]
    return tuple(chart for chart in found if chart.name != "agent" or len(chart.bars) > 1)


def _by(
    name: str, title: str, calls: Sequence[Marked], field: str, noun: str, hint: Callable[[str], str] | None = None
) -> Chart:
    groups: dict[str, list[Mark]] = {}
    for entry, mark in calls:
        groups.setdefault(entry[field], []).append(mark)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = ordered if len(ordered) <= MOST_BARS else ordered[: MOST_BARS - 1]
    bars = [Bar(short(visible(value)), len(marks), tally(marks), hint(value) if hint else "") for value, marks in shown]
    rest = ordered[len(shown) :]
    if rest:
        marks = [mark for _, group in rest for mark in group]
        bars.append(Bar(f"({count(len(rest), f'other {noun}')})", len(marks), tally(marks)))
    return Chart(name, title, tuple(bars))


PILE: Final = 4
COLUMNS: Final = 120


@dataclass(frozen=True, slots=True)
class Bin:
    """Calls with one end, in one lane and one column of the timeline."""

    column: int
    lane: int
    mark: Mark
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A kill over the picture: from its order to its release (None: still in force at the end of the picture)."""

    label: str
    """With an arrow where it was ordered before or after the picture, and stands at its edge: `‹K1`, `K1›`."""
    start: float
    end: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Time on x from 0 to 1, cut into `columns`; one lane for each tool. Within a lane and column several bins pile up.

    With `peak` (most calls in one lane and column) up to PILE a writer draws every call as its shape; above, columns
    whose height follows the count.
    """

    columns: int
    lanes: tuple[str, ...]
    bins: tuple[Bin, ...]
    peak: int
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    day: str
    """What the ticks leave out: the date, where it is one."""
    description: str

    @property
    def outside(self) -> str:
        """A sentence on the arrows, if there are any."""
        has_some = any("‹" in line.label or "›" in line.label for line in self.lines)
        return "One with an arrow was ordered before or after the time of this picture." if has_some else ""


class _Axis(NamedTuple):
    start: datetime
    end: datetime

    def place(self, at: datetime) -> float:
        """Where `at` is, from 0 to 1; what is outside stands at the edge."""
        return min(1.0, max(0.0, (at - self.start) / (self.end - self.start)))


def timeline(calls: Sequence[Marked], kills: Iterable[tuple[Kill, str, str]]) -> Timeline | None:
    """The calls over time, and the kills, each with the exact times of its order and its release (empty: none)."""
    if not calls:
        return None
    times = [datetime.fromisoformat(entry["timestamp"]) for entry, _ in calls]
    axis = _axis(times)
    lanes, lane_of = _lanes(calls)
    bins = _bins(calls, times, axis, lanes, lane_of)
    piles = Counter[tuple[int, int]]()
    for one in bins:
        piles[one.lane, one.column] += one.count
    lines = tuple(_line(kill, ordered, released, axis) for kill, ordered, released in kills)
    ticks, day = _ticks(axis)
    ends = ", ".join(f"{mark.label.lower()} {number:,}" for mark, number in tally(mark for _, mark in calls))
    text = f"{count(len(calls), 'call')} of {count(len(lane_of), 'tool')} within {duration(max(times) - min(times))}"
    return Timeline(COLUMNS, lanes, bins, max(piles.values()), lines, ticks, day, f"{text}: {ends}.")


def _axis(times: Sequence[datetime]) -> _Axis:
    """A little wider than the calls, so that no mark stands on the edge."""
    start, end = min(times), max(times)
    span = max(end - start, timedelta(milliseconds=100)) if end > start else timedelta(minutes=1)
    room = span / 40 if end > start else span / 2
    return _Axis(start - room, end + room)


def _lanes(calls: Sequence[Marked]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The tools with the most calls, in the order of their first; the others share the last lane."""
    totals = Counter(entry["tool_name"] for entry, _ in calls)  # keeps the order of first appearance
    most = {name for name, _ in totals.most_common(MOST_LANES if len(totals) <= MOST_LANES else MOST_LANES - 1)}
    lanes = [name for name in totals if name in most]
    lane_of = {name: lanes.index(name) if name in most else len(lanes) for name in totals}
    shown = [short(visible(name)) for name in lanes]
    if len(totals) > len(lanes):
        shown.append(f"({count(len(totals) - len(lanes), 'other tool')})")
    return tuple(shown), lane_of


def _bins(
    calls: Sequence[Marked], times: Sequence[datetime], axis: _Axis, lanes: Sequence[str], lane_of: Mapping[str, int]
) -> tuple[Bin, ...]:
    order = {mark: place for place, mark in enumerate(Mark)}
    found: dict[tuple[int, int, int], list[int]] = {}
    for place, (entry, mark) in enumerate(calls):
        column = min(COLUMNS - 1, int(axis.place(times[place]) * COLUMNS))
        found.setdefault((lane_of[entry["tool_name"]], column, order[mark]), []).append(place)
    bins = []
    for (lane, column, mark_place), places in sorted(found.items()):
        mark = list(Mark)[mark_place]
        first, last = min(times[p] for p in places), max(times[p] for p in places)
        when = f"{first:%H:%M:%S}" + (f"–{last:%H:%M:%S}" if f"{last:%H:%M:%S}" != f"{first:%H:%M:%S}" else "")
        number = len(places)
        what = f"call {places[0] + 1}" if number == 1 else count(number, "call")
        bins.append(Bin(column, lane, mark, number, f"{lanes[lane]}, {what}: {mark.label.lower()}, {when}"))
    return tuple(bins)


def _line(kill: Kill, ordered: str, released: str, axis: _Axis) -> Line:
    at = datetime.fromisoformat(ordered)
    until_at = datetime.fromisoformat(released) if released else axis.end
    label = f"‹{kill.label}" if at < axis.start else f"{kill.label}›" if at > axis.end else kill.label
    end = axis.place(until_at) if until_at < axis.end else None
    by = f" by {kill.ordered_by}" if kill.ordered_by else ""
    until = f", released {kill.released_at}" if released else ""
    text = f"{kill.label}: kill of {kill.target}, ordered {kill.at}{by}{until}"
    return Line(label, axis.place(at), end, text)


def _ticks(axis: _Axis) -> tuple[tuple[Tick, ...], str]:
    """Round times, at most `_TICKS` of them, and the day that they leave out."""
    span_s = (axis.end - axis.start).total_seconds()
    fitting = bisect_right(_STEPS_S, span_s / _TICKS)
    step = timedelta(seconds=_STEPS_S[min(fitting, len(_STEPS_S) - 1)])
    at = axis.start + step - (axis.start - _EPOCH) % step
    one_day = axis.start.date() == axis.end.date()
    ticks = []
    while at < axis.end:
        ticks.append(Tick(axis.place(at), _clock(at, step, is_day_told=one_day)))
        at += step
    return tuple(ticks), f"{axis.start:%Y-%m-%d}" if one_day else ""


def _clock(at: datetime, step: timedelta, *, is_day_told: bool) -> str:
    """As fine as the step: no more digits than tell two ticks apart."""
    if step >= timedelta(days=1):
        return f"{at:%Y-%m-%d}"
    day = "" if is_day_told else f"{at:%m-%d} "
    if step >= timedelta(minutes=1):
        return f"{day}{at:%H:%M}"
    fraction = f".{at.microsecond // 1000:03d}" if step < timedelta(seconds=1) else ""
    return f"{day}{at:%H:%M:%S}{fraction}"
