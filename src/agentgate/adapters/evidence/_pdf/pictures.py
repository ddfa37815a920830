"""The pictures of the PDF: key figures, the timeline, the bars. Each can be read in black and white."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Final

from agentgate.adapters.evidence._parts.marks import Mark
from agentgate.adapters.evidence._parts.pictures import PILE, Bar, Bin, Chart, Timeline
from agentgate.adapters.evidence._parts.story import Figure
from agentgate.adapters.evidence._pdf.sheet import (
    INK,
    LEFT,
    MEASURE,
    RIGHT,
    RULE,
    SOFT,
    TINT,
    WHITE,
    Colour,
    Sheet,
    Style,
    colour,
)

# The palette of pack.css, on paper.
INKS: Final[Mapping[Mark, Colour]] = {
    Mark.RAN: colour("#2f6f9f"),
    Mark.FAILED: colour("#b55a12"),
    Mark.REFUSED: colour("#a3261c"),
    Mark.WAITED: colour("#8a6a00"),
    Mark.CUT: colour("#7a3b93"),
    Mark.UNKNOWN: SOFT,
    Mark.OPEN: SOFT,
    Mark.NOT_SENT: colour("#4c7a86"),
}
ALARM: Final = INKS[Mark.REFUSED]
# Areas of calls: what ran is light, what was refused is dark, the rest is between; grey on grey they still differ.
_AREAS: Final[Mapping[Mark, Colour]] = {
    Mark.RAN: colour("#b3cfe2"),
    Mark.FAILED: colour("#e6a877"),
    Mark.REFUSED: colour("#a3261c"),
    Mark.WAITED: colour("#f0e0a6"),
    Mark.CUT: colour("#7a3b93"),
    Mark.UNKNOWN: colour("#8a929c"),
    Mark.OPEN: colour("#cdd2d8"),
    Mark.NOT_SENT: colour("#c2dadf"),
}
_ON_DARK: Final = (Mark.REFUSED, Mark.CUT, Mark.UNKNOWN)
_LABELS: Final = 112.0
_LANE: Final = 23.0
_FEW: Final = 30
"""Up to so many calls in one lane and moment a picture shows signs; above it is a field of columns."""
_ACROSS: Final = 4


def sign_of(mark: Mark) -> tuple[str, Colour]:
    return mark.shape, INKS[mark]


def figures(sheet: Sheet, items: Sequence[Figure]) -> None:
    """Numbers in a grid, four to a row; what should alarm has a sign and a bar at its side."""
    faces = sheet.faces
    label, value, note = Style(faces.bold, 7.4, 9.4, SOFT), Style(faces.bold, 17, 20), Style(faces.text, 7.2, 9, SOFT)
    alarming = value._replace(colour=ALARM)
    width = (MEASURE - (_ACROSS - 1) * 10.0) / _ACROSS
    room = width - 18.0
    for row in (items[i : i + _ACROSS] for i in range(0, len(items), _ACROSS)):
        notes = [note.face.wrap(note.face.settable(f.note), note.size, room)[:3] if f.note else [] for f in row]
        height = 43.0 + note.leading * max(map(len, notes))
        sheet.need(height + 8)
        for column, (figure, lines) in enumerate(zip(row, notes, strict=True)):
            x, y = LEFT + column * (width + 10.0), sheet.y
            sheet.box(x, y, width, height, TINT)
            sheet.box(x, y, 2.2, height, ALARM if figure.is_alarming else RULE)
            sheet.put(x + 10, y + 13, label.face.cut(label.face.settable(figure.label), label.size, room), label)
            style = alarming if figure.is_alarming else value
            shown = style.face.cut(style.face.settable(figure.value), style.size, room - 14)
            wide = sheet.put(x + 10, y + 33, shown, style)
            if figure.is_alarming:
                sheet.sign("triangle", x + 10 + wide + 9, y + 28, ALARM, 3.4)
            for number, line in enumerate(lines):
                sheet.put(x + 10, y + 44 + number * note.leading, line, note)
        sheet.y += height + 8


def legend(sheet: Sheet, marks: Collection[Mark], *, signs: bool = False, areas: bool = False) -> None:
    """What the signs or areas in a picture stand for: only those that occur."""
    style = Style(sheet.faces.text, 7.8, 12.0, INK)
    sheet.need(14)
    x = LEFT
    for mark in Mark:
        if mark not in marks:
            continue
        text = f"{mark.letter}  {mark.label}"
        wide = style.face.width(text, style.size) + 15 + 12 * (signs + areas)
        if x + wide - 15 > RIGHT:
            x = LEFT
            sheet.y += 13
            sheet.need(14)
        at = x
        if signs:
            sheet.sign(mark.shape, at + 4, sheet.y + 6, INKS[mark])
            at += 12
        if areas:
            sheet.box(at, sheet.y + 2, 8, 8, _AREAS[mark], INKS[mark])
            at += 12
        sheet.put(at, sheet.y + 9, text, style)
        x += wide
    sheet.y += 18


def timeline(sheet: Sheet, picture: Timeline) -> None:
    """A lane for each tool, time from left to right, kills across all lanes.

    Up to PILE calls of a lane and moment are signs. More are a column: all of one height with their number above it,
    or, where there are many calls, of a height by their number.
    """
    crowded = picture.peak > _FEW
    legend(sheet, {b.mark for b in picture.bins}, signs=not crowded, areas=picture.peak > PILE)
    height = _LANE * len(picture.lanes)
    sheet.need(height + 62)
    left, top = LEFT + _LABELS, sheet.y + 14
    wide, foot = RIGHT - left - 6, top + height
    label = Style(sheet.faces.text, 7.6, 9, INK)
    _bands(sheet, picture, left, top, wide, foot)
    for number, lane in enumerate(picture.lanes):
        base = top + (number + 1) * _LANE
        sheet.rule(LEFT, base, RIGHT)
        name = label.face.cut(label.face.settable(lane), label.size, _LABELS - 10)
        sheet.put(LEFT, base - _LANE / 2 + 3, name, label)
    column = wide / picture.columns
    told = (-1, 0.0)
    for (lane_number, at), group in groupby(sorted(picture.bins, key=_cell), key=_cell):
        base, x = top + (lane_number + 1) * _LANE, left + at * column
        counts = [(b.mark, b.count) for b in group]
        total = sum(number for _, number in counts)
        if crowded:
            _pile(sheet, x, column, base, counts, (_LANE - 4) / picture.peak)
        elif total > PILE:
            _pile(sheet, x, column, base, counts, 14.0 / total)
            if told[0] != lane_number or x > told[1]:
                told = lane_number, x + sheet.put(x, base - 15.4, str(total), Style(sheet.faces.bold, 6.2, 7)) + 2
        else:
            signs = [mark for mark, number in counts for _ in range(number)]
            for level, mark in enumerate(signs):
                sheet.sign(mark.shape, x + column / 2, base - 4 - level * 5.2, INKS[mark], 2.2)
    _axis(sheet, picture, left, foot, wide)
    if crowded:
        moment = f"The highest column is {picture.peak:,} calls of one tool in one moment."
        sheet.paragraph(moment, sheet.small)


def _cell(one: Bin) -> tuple[int, int]:
    return one.lane, one.column


def _bands(sheet: Sheet, picture: Timeline, left: float, top: float, wide: float, foot: float) -> None:
    """What was stopped, and from when to when."""
    style = Style(sheet.faces.bold, 7.4, 9, ALARM)
    for line in picture.lines:
        start = left + line.start * wide
        end = left + (line.end if line.end is not None else 1.0) * wide
        sheet.box(start, top, max(end - start, 0.5), foot - top, colour("#eceff3"))
    last = left - 1
    for line in sorted(picture.lines, key=lambda line: line.start):
        start = left + line.start * wide
        sheet.rule_down(start, top - 4, foot, ALARM, 1.1)
        if start > last:
            width = style.face.width(line.label, style.size)
            last = (
                start
                + 2
                + sheet.put(start + 2 if start < RIGHT - 30 else start - 2 - width, top - 3, line.label, style)
            )
        if line.end is not None:
            sheet.rule_down(left + line.end * wide, top, foot, SOFT, 0.6)


def _pile(sheet: Sheet, x: float, width: float, base: float, counts: Sequence[tuple[Mark, int]], scale: float) -> None:
    """A column, `scale` points for each call and never invisible."""
    y = base
    for mark, count in counts:
        height = max(scale * count, 0.8)
        y -= height
        sheet.box(x + 0.2, y, max(width - 0.4, 0.8), height, _AREAS[mark])


def _axis(sheet: Sheet, picture: Timeline, left: float, foot: float, wide: float) -> None:
    style = Style(sheet.faces.text, 7.2, 9, SOFT)
    sheet.rule(left, foot, left + wide, INK, 0.8)
    last = left - 20
    for tick in picture.ticks:
        x = left + tick.at * wide
        half = style.face.width(style.face.settable(tick.text), style.size) / 2
        sheet.rule_down(x, foot, foot + 3, INK, 0.6)
        at = min(max(x, left + half - 8), RIGHT - half)
        if at - half > last + 4:
            sheet.put(at - half, foot + 12, tick.text, style)
            last = at + half
    if picture.day:
        sheet.put(LEFT, foot + 12, picture.day, style)
    sheet.y = foot + 20
    kills = "A line with a K is a kill; the shade behind it lasts until its release." if picture.lines else ""
    sheet.paragraph(" ".join(filter(None, (picture.description, kills, picture.outside))), sheet.small)


def chart(sheet: Sheet, picture: Chart) -> None:
    """Bars of one length scale, each cut by how the calls ended; letters stand in the parts where they fit."""
    longest = max((bar.total for bar in picture.bars), default=0)
    for bar in picture.bars:
        sheet.need(18)
        _bar(sheet, bar, longest)
    sheet.space(8)


def _bar(sheet: Sheet, bar: Bar, longest: int) -> None:
    label, inside = Style(sheet.faces.text, 8, 10), Style(sheet.faces.bold, 6.6, 8)
    y, height = sheet.y, 12.0
    name = label.face.cut(label.face.settable(bar.label), label.size, _LABELS + 18)
    sheet.put(LEFT, y + 9, name, label)
    x = LEFT + _LABELS + 26
    room = RIGHT - x - 42
    for mark, count in bar.parts:
        width = room * count / longest if longest else 0.0
        sheet.box(x, y, width, height, _AREAS[mark], WHITE, 0.7)
        ink = inside._replace(colour=WHITE if mark in _ON_DARK else INK)
        for text in (f"{mark.letter} {count:,}", mark.letter):
            if ink.face.width(text, ink.size) + 5 < width:
                sheet.put(x + 3, y + 8.6, text, ink)
                break
        x += width
    sheet.put(x + 5, y + 9, f"{bar.total:,}", label._replace(face=sheet.faces.bold))
    sheet.y += height + 4.5
