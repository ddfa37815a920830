"""The timeline as shapes with coordinates: what the template draws, computed beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from agentgate.adapters.evidence._parts.marks import Mark
from agentgate.adapters.evidence._parts.pictures import Bin, Timeline
from agentgate.adapters.evidence._parts.words import short

WIDTH: Final = 1100
LEFT: Final = 168
"""Where time begins; the names of the lanes stand before it."""
_RIGHT: Final = WIDTH - 14
_TOP: Final = 34
_RADIUS: Final = 4.4
_STEP: Final = 10.5
"""From one shape of a pile to the next."""
_MOST_SHAPES: Final = 5
"""A lane with higher piles shows columns instead."""
_COLUMN_HEIGHT: Final = 44.0
_LEAST_HEIGHT: Final = 1.6
_LABEL_CHARS: Final = 23


@dataclass(frozen=True, slots=True)
class Sign:
    """One call or one part of a column: a path in the colour of `mark`."""

    mark: Mark
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Lane:
    name: str
    full_name: str
    baseline: float
    note: str
    """What the tallest column stands for, where there are columns."""
    signs: tuple[Sign, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """A kill: a line where it was ordered, and a band until its release. `label_y` keeps labels apart."""

    label: str
    x: float
    label_y: float
    band_width: float
    released_x: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Label:
    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    width: int
    height: float
    left: int
    right: int
    top: float
    bottom: float
    lanes: tuple[Lane, ...]
    flags: tuple[Flag, ...]
    ticks: tuple[Label, ...]
    day: str
    description: str
    outside: str
    marks: tuple[Mark, ...]
    """What occurs, for the legend."""


def picture(timeline: Timeline) -> Picture:
    flags = tuple(_flags(timeline))
    top = _TOP + 13.0 * len({flag.label_y for flag in flags})
    lanes = tuple(_lanes(timeline, top))
    bottom = lanes[-1].baseline + 9
    return Picture(
        width=WIDTH,
        height=round(bottom + 30, 1),
        left=LEFT,
        right=_RIGHT,
        top=top,
        bottom=bottom,
        lanes=lanes,
        flags=flags,
        ticks=tuple(Label(_x(tick.at), tick.text) for tick in timeline.ticks),
        day=timeline.day,
        description=timeline.description,
        outside=timeline.outside,
        marks=tuple(mark for mark in Mark if any(one.mark is mark for one in timeline.bins)),
    )


def _x(at: float) -> float:
    return round(LEFT + at * (_RIGHT - LEFT), 1)


def _lanes(timeline: Timeline, top: float) -> Iterator[Lane]:
    by_lane = {lane: list(bins) for lane, bins in groupby(timeline.bins, key=lambda one: one.lane)}
    at = top
    for number, name in enumerate(timeline.lanes):
        piles = [list(pile) for _, pile in groupby(by_lane.get(number, []), key=lambda one: one.column)]
        peak = max((sum(one.count for one in pile) for pile in piles), default=1)
        if peak <= _MOST_SHAPES:
            at += max(26.0, peak * _STEP + 12)
            signs = tuple(sign for pile in piles for sign in _shapes(pile, at, timeline.columns))
            note = ""
        else:
            at += _COLUMN_HEIGHT + 14
            signs = tuple(sign for pile in piles for sign in _column(pile, at, timeline.columns, peak))
            note = f"tallest: {peak:,} calls"
        yield Lane(short(name, _LABEL_CHARS), name, at, note, signs)


def _shapes(pile: Sequence[Bin], baseline: float, columns: int) -> Iterator[Sign]:
    """Each call as its shape, one above the other."""
    x = _x((pile[0].column + 0.5) / columns)
    y = baseline - _STEP / 2
    for one in pile:
        paths = []
        for _ in range(one.count):
            paths.append(path_of(one.mark.shape, x, y, _RADIUS))
            y -= _STEP
        yield Sign(one.mark, " ".join(paths), one.text)


def _column(pile: Sequence[Bin], baseline: float, columns: int, peak: int) -> Iterator[Sign]:
    """The pile as a column, in parts."""
    x0, x1 = _x(pile[0].column / columns) + 0.6, _x((pile[0].column + 1) / columns) - 0.6
    y = baseline
    for one in pile:
        height = max(_LEAST_HEIGHT, _COLUMN_HEIGHT * one.count / peak)
        yield Sign(one.mark, f"M{x0:.1f} {y:.1f}H{x1:.1f}V{y - height:.1f}H{x0:.1f}z", one.text)
        y -= height


def path_of(shape: str, x: float, y: float, r: float) -> str:
    """The outline of a mark's shape around a point. Each can be told from the others without its colour."""
    match shape:
        case "circle":
            return _circle(x, y, r, 0)
        case "ring":  # a circle, and the hole in it drawn the other way round
            return _circle(x, y, r, 0) + _circle(x, y, round(r * 0.5, 2), 1)
        case "square":
            s = r * 0.88
            return f"M{x - s:.1f} {y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z"
        case "diamond":
            s = r * 1.2
            return f"M{x:.1f} {y - s:.1f}L{x + s:.1f} {y:.1f}L{x:.1f} {y + s:.1f}L{x - s:.1f} {y:.1f}z"
        case "triangle":
            return f"M{x:.1f} {y - r:.1f}L{x + r:.1f} {y + r * 0.85:.1f}H{x - r:.1f}z"
        case "bar":
            return f"M{x - r:.1f} {y - r * 0.36:.1f}h{2 * r:.1f}v{r * 0.72:.1f}h{-2 * r:.1f}z"
        case _:  # a cross with thick arms
            a, b = r * 0.98, r * 0.36
            return (
                f"M{x - a:.1f} {y - a + b:.1f}l{b:.1f} {-b:.1f}L{x:.1f} {y - b:.1f}L{x + a - b:.1f} {y - a:.1f}"
                f"l{b:.1f} {b:.1f}L{x + b:.1f} {y:.1f}L{x + a:.1f} {y + a - b:.1f}l{-b:.1f} {b:.1f}"
                f"L{x:.1f} {y + b:.1f}L{x - a + b:.1f} {y + a:.1f}l{-b:.1f} {-b:.1f}L{x - b:.1f} {y:.1f}z"
            )


def _circle(x: float, y: float, r: float, turn: int) -> str:
    return f"M{x - r:.1f} {y:.1f}a{r:g} {r:g} 0 1 {turn} {2 * r:g} 0a{r:g} {r:g} 0 1 {turn} {-2 * r:g} 0z"


_LABEL_WIDTH: Final = 26.0
_MOST_ROWS: Final = 4


def _flags(timeline: Timeline) -> Iterator[Flag]:
    """The kills, with labels in as many rows as keep them apart (then they overlap; the table has them all)."""
    ends: list[float] = []
    for line in timeline.lines:
        x = _x(line.start)
        row = next((row for row, end in enumerate(ends) if end <= x), len(ends))
        if row == len(ends) and row < _MOST_ROWS:
            ends.append(0.0)
        row = min(row, _MOST_ROWS - 1)
        ends[row] = x + _LABEL_WIDTH
        released = None if line.end is None else _x(line.end)
        width = (_RIGHT if released is None else released) - x
        yield Flag(line.label, x, 14.0 + 13 * row, round(max(width, 0.0), 1), released, line.text)
