"""Tables on a sheet: rows under a header, and names beside what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeVar

from agentgate.adapters.evidence._parts.listing import Listing
from agentgate.adapters.evidence._parts.words import count
from agentgate.adapters.evidence._pdf.sheet import (
    BOTTOM,
    INK,
    LEFT,
    LINK,
    MEASURE,
    RIGHT,
    SOFT,
    TOP,
    Colour,
    Sheet,
    Style,
    Text,
    shortened,
)

T = TypeVar("T")

GAP: Final = 8.0
"""Between two columns."""
PAD: Final = 3.0
"""Above and below the text of a row."""
SIGN: Final = 10.0
"""Room that a sign takes before its text."""


class Column(NamedTuple):
    """One column. Of width 0 it takes what the others leave; there is one such column in a table."""

    title: str
    width: float
    style: Style
    right: bool = False


class Cell(NamedTuple):
    """A cell that is not plain text in its column's style."""

    text: str
    style: Style | None = None
    key: str | None = None
    """Where a click on it leads."""
    sign: tuple[str, Colour] | None = None
    """A sign that stands before the text (`Sheet.sign`)."""
    anchor: str | None = None
    """What links call this row."""


Row = Sequence[str | Cell]


def table(sheet: Sheet, columns: Sequence[Column], rows: Iterable[Row], *, pad: float = PAD) -> None:
    """Rows under a header that is repeated on each page. A row that is too high for one page runs over."""
    rest = MEASURE - sum(c.width for c in columns) - GAP * (len(columns) - 1)
    sheet.need(60.0)
    _Table(sheet, [c if c.width else c._replace(width=rest) for c in columns], pad, has_header=True).lay(rows)
    sheet.space(8.0)


def table_of(
    sheet: Sheet,
    shown: Listing[T],
    columns: Sequence[Column],
    cells: Callable[[T], Row],
    empty: str,
    one: str,
    many: str | None = None,
    *,
    pad: float = PAD,
) -> None:
    """A table with a row of `cells` for each, and how many more there are; or the sentence `empty`."""
    if not shown.rows:
        nothing(sheet, empty)
        return
    table(sheet, columns, map(cells, shown.rows), pad=pad)
    rest(sheet, shown, one, many)


def nothing(sheet: Sheet, text: str) -> None:
    sheet.paragraph(text, sheet.body._replace(colour=SOFT))


def rest(sheet: Sheet, shown: Listing[Any], one: str, many: str | None = None) -> None:
    """What is not shown is counted."""
    if shown.hidden:
        more = count(shown.hidden, f"more {one}", f"more {many or one + 's'}")
        sheet.paragraph(f"{more}: in pack.json only.", sheet.small)


def pairs(sheet: Sheet, rows: Iterable[tuple[str, str | Cell]], *, label: float = 110.0) -> None:
    """Names at the left, what they stand for at the right."""
    columns = (
        Column("", label, Style(sheet.faces.bold, 7.8, 11.4, SOFT)),
        Column("", MEASURE - label - GAP, Style(sheet.faces.text, 8.6, 11.4)),
    )
    _Table(sheet, columns, PAD, has_header=False).lay(rows)
    sheet.space(6.0)


class _Laid(NamedTuple):
    """A cell in its column, its text broken into lines."""

    cell: Cell
    column: Column
    left: float
    style: Style
    indent: float
    lines: Sequence[str]


class _Table:
    """One table while it is laid out, its columns' widths known."""

    def __init__(self, sheet: Sheet, columns: Sequence[Column], pad: float, *, has_header: bool) -> None:
        self._sheet = sheet
        self._columns = columns
        self._lefts = tuple(accumulate((c.width + GAP for c in columns[:-1]), initial=LEFT))
        self._pad = pad
        self._has_header = has_header

    def lay(self, rows: Iterable[Row]) -> None:
        if self._has_header:
            self._header()
        for row in rows:
            self._row([self._laid(*place) for place in zip(row, self._columns, self._lefts, strict=True)])
            self._sheet.rule(LEFT, self._sheet.y, RIGHT)

    def _header(self) -> None:
        sheet, style = self._sheet, Style(self._sheet.faces.bold, 7.0, 9.0, SOFT)
        lines = [style.face.wrap(c.title, style.size, c.width) for c in self._columns]
        height = max(map(len, lines)) * style.leading
        for column, x, titles in zip(self._columns, self._lefts, lines, strict=True):
            foot = sheet.y + height - (len(titles) - 1) * style.leading
            for title in titles:
                sheet.put(x + column.width if column.right else x, foot - 2.0, title, style, right=column.right)
                foot += style.leading
        sheet.y += height + 1.0
        sheet.rule(LEFT, sheet.y, RIGHT, INK, 0.8)

    def _laid(self, shown: str | Cell, column: Column, left: float) -> _Laid:
        cell = shown if isinstance(shown, Cell) else Cell(shown)
        style = cell.style or column.style
        style = style._replace(colour=LINK) if cell.key else style
        indent = SIGN if cell.sign else 0.0
        lines = style.face.wrap(style.face.settable(shortened(cell.text)), style.size, column.width - indent)
        return _Laid(cell, column, left, style, indent, lines)

    def _row(self, row: Sequence[_Laid]) -> None:
        sheet = self._sheet
        leading = max(one.style.leading for one in row)
        most, done = max(len(one.lines) for one in row), 0
        height = most * leading + 2 * self._pad
        if height <= (BOTTOM - TOP) / 3 and sheet.y + height > BOTTOM:
            self._turn()
        while done < most:
            fit = int((BOTTOM - sheet.y - 2 * self._pad) / leading)
            if fit < 1:
                self._turn()
                continue
            self._lines(row, done, fit, leading)
            sheet.y += min(fit, most - done) * leading + 2 * self._pad
            done += fit

    def _lines(self, row: Sequence[_Laid], done: int, fit: int, leading: float) -> None:
        """So many lines of a row as the page takes, after those that are done."""
        sheet = self._sheet
        base = sheet.y + self._pad + max(one.style.size for one in row)
        for cell, column, x, style, indent, lines in row:
            if not done and cell.sign:
                name, ink = cell.sign
                sheet.sign(name, x + 3.2, base - 2.7, ink)
            if not done and cell.anchor:
                sheet.anchor(cell.anchor, cell.text, None)
            foot = base
            for line in lines[done : done + fit]:
                if line:
                    width = style.face.width(line, style.size) if column.right or cell.key else 0.0
                    left = x + column.width - width if column.right else x + indent
                    sheet.page.texts.append(Text(left, foot, line, style))  # it is settable already
                    if cell.key:
                        sheet.link(left, foot, width, style, cell.key, cell.text)
                foot += leading

    def _turn(self) -> None:
        self._sheet.turn()
        if self._has_header:
            self._header()
