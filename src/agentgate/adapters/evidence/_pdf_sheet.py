"""Pages as lists of what stands where. Laying out is arithmetic; `_pdf_paint` turns the pages into a file.

Lengths are points; y counts down from the upper edge of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from agentgate.adapters.evidence._pdf_type import Face, Faces
from agentgate.adapters.evidence._words import short

Colour = tuple[float, float, float]
WIDTH: Final = 595.28
HEIGHT: Final = 841.89
LEFT: Final = 52.0
RIGHT: Final = WIDTH - 52.0
TOP: Final = 54.0
BOTTOM: Final = HEIGHT - 62.0
MEASURE: Final = RIGHT - LEFT


def colour(code: str) -> Colour:
    """`#1f2933` as reportlab wants it."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


INK: Final = colour("#1a1f26")
SOFT: Final = colour("#545d69")
RULE: Final = colour("#d0d6dd")
TINT: Final = colour("#f6f7f9")
LINK: Final = colour("#1f5a96")
WHITE: Final = (1.0, 1.0, 1.0)


class Style(NamedTuple):
    """How text is set. `leading` is from one line's foot to the next one's."""

    face: Face
    size: float
    leading: float
    colour: Colour = INK


class Text(NamedTuple):
    x: float
    y: float
    text: str
    style: Style


class Shape(NamedTuple):
    """A closed or open path through `points`; a circle has its centre and one point of its rim."""

    kind: Literal["path", "closed", "circle"]
    points: tuple[tuple[float, float], ...]
    fill: Colour | None
    stroke: Colour | None
    width: float


class Link(NamedTuple):
    """A place on the page that leads to another in the same file."""

    box: tuple[float, float, float, float]
    key: str
    title: str


class Anchor(NamedTuple):
    """A place that links and bookmarks lead to. Level None keeps it out of the bookmarks."""

    key: str
    title: str
    level: int | None
    y: float


@dataclass(slots=True)
class Page:
    shapes: list[Shape] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)


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


CELL_GAP: Final = 8.0
ROW_PAD: Final = 3.0
LONGEST_TITLE: Final = 200
LONGEST_CELL: Final = 4000
"""Letters. What is longer is cut and says so: a board member has the rest in pack.json."""


def shortened(text: str, most: int = LONGEST_CELL) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}… ({len(text) - most:,} more characters in pack.json)"


class Sheet:
    """A stack of pages with a pen that moves down."""

    def __init__(self, faces: Faces) -> None:
        self.faces = faces
        self.pages = [Page()]
        self.y = TOP
        self.body = Style(faces.text, 9.2, 13.2)
        self.small = Style(faces.text, 7.8, 10.6, SOFT)
        self.fine = Style(faces.text, 7.4, 9.8)
        self.code = Style(faces.mono, 6.7, 9.8)
        self._head = Style(faces.bold, 7.0, 9.0, SOFT)
        self._titles = (
            Style(faces.bold, 15.0, 19.0),
            Style(faces.bold, 10.2, 14.0),
        )

    @property
    def page(self) -> Page:
        return self.pages[-1]

    # --- moving ---

    def turn(self) -> None:
        """Start a new page, unless this one is still empty."""
        if self.page.texts or self.page.shapes:
            self.pages.append(Page())
        self.y = TOP

    def need(self, height: float) -> None:
        """Have `height` in one piece, on the next page if not on this."""
        if self.y + height > BOTTOM:
            self.turn()

    def space(self, height: float) -> None:
        self.y += height

    # --- setting ---

    def put(self, x: float, baseline: float, text: str, style: Style, *, right: bool = False) -> float:
        """One line of text at a place; says its width. With `right`, x is where it ends."""
        text = style.face.settable(text)
        width = style.face.width(text, style.size)
        if text:
            self.page.texts.append(Text(x - width if right else x, baseline, text, style))
        return width

    def rule(self, x: float, y: float, to: float, ink: Colour = RULE, width: float = 0.5) -> None:
        self.page.shapes.append(Shape("path", ((x, y), (to, y)), None, ink, width))

    def rule_down(self, x: float, y: float, to: float, ink: Colour = RULE, width: float = 0.5) -> None:
        self.page.shapes.append(Shape("path", ((x, y), (x, to)), None, ink, width))

    def box(
        self, x: float, y: float, width: float, height: float, fill: Colour | None, stroke: Colour | None = None
    ) -> None:
        points = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
        self.page.shapes.append(Shape("closed", points, fill, stroke, 0.6))

    def anchor(self, key: str, title: str, level: int | None) -> None:
        self.page.anchors.append(Anchor(key, title, level, self.y))

    def link(self, x: float, baseline: float, width: float, style: Style, key: str, title: str) -> None:
        box = (x, baseline - style.size, x + width, baseline + style.size * 0.3)
        self.page.links.append(Link(box, key, title))

    def heading(self, title: str, key: str, level: int = 0, *, keep: float = 70.0) -> None:
        """A heading with its bookmark, and `keep` points below it on the same page."""
        style = self._titles[level]
        title = short(title, LONGEST_TITLE)
        lines = style.face.fold(style.face.settable(title), style.size, MEASURE, 3)
        self.need(style.leading * len(lines) + keep + 30.0)
        if self.y > TOP:
            self.space(20.0 if level == 0 else 9.0)
        self.anchor(key, title, level)
        for line in lines:
            self.put(LEFT, self.y + style.size, line, style)
            self.y += style.leading
        if level == 0:
            self.rule(LEFT, self.y + 1.0, RIGHT, INK, 0.9)
            self.space(4.0)
        self.space(5.0)

    def paragraph(
        self, text: str, style: Style | None = None, *, x: float = LEFT, width: float | None = None, after: float = 5.0
    ) -> None:
        """Text across the measure, over as many pages as it takes."""
        style = style or self.body
        wide = RIGHT - x if width is None else width
        for line in style.face.wrap(style.face.settable(shortened(text)), style.size, wide):
            self.need(style.leading)
            self.put(x, self.y + style.size, line, style)
            self.y += style.leading
        self.space(after)

    def pairs(self, rows: Iterable[tuple[str, str | Cell]], *, label: float = 110.0) -> None:
        """Names at the left, what they stand for at the right."""
        columns = (
            Column("", label, Style(self.faces.bold, 7.8, 11.4, SOFT)),
            Column("", MEASURE - label - CELL_GAP, Style(self.faces.text, 8.6, 11.4)),
        )
        self._rows(columns, rows, ROW_PAD, header=False)
        self.space(6.0)

    # --- tables ---

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]], *, pad: float = ROW_PAD) -> None:
        """Rows under a header that is repeated on each page. A row that is too high for one page runs over.

        `pad` is the room above and below the text of a row.
        """
        rest = MEASURE - sum(c.width for c in columns) - CELL_GAP * (len(columns) - 1)
        columns = [c if c.width else c._replace(width=rest) for c in columns]
        self.need(60.0)
        self._header(columns)
        self._rows(columns, rows, pad, header=True)
        self.space(8.0)

    def _header(self, columns: Sequence[Column]) -> None:
        x, style = LEFT, self._head
        lines = [style.face.wrap(c.title, style.size, c.width) for c in columns]
        height = max(map(len, lines)) * style.leading
        for column, titles in zip(columns, lines, strict=True):
            foot = self.y + height - (len(titles) - 1) * style.leading
            for title in titles:
                self.put(x + column.width if column.right else x, foot - 2.0, title, style, right=column.right)
                foot += style.leading
            x += column.width + CELL_GAP
        self.y += height + 1.0
        self.rule(LEFT, self.y, RIGHT, INK, 0.8)

    def _rows(
        self, columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]], pad: float, *, header: bool
    ) -> None:
        for row in rows:
            cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
            self._row(columns, cells, pad, header=header)
            self.rule(LEFT, self.y, RIGHT)

    def _row(self, columns: Sequence[Column], cells: Sequence[Cell], pad: float, *, header: bool) -> None:
        styles = [cell.style or column.style for column, cell in zip(columns, cells, strict=True)]
        styles = [s._replace(colour=LINK) if c.key else s for s, c in zip(styles, cells, strict=True)]
        indents = [SIGN if cell.sign else 0.0 for cell in cells]
        texts = [
            style.face.wrap(style.face.settable(shortened(cell.text)), style.size, column.width - indent)
            for column, cell, style, indent in zip(columns, cells, styles, indents, strict=True)
        ]
        leading = max(style.leading for style in styles)
        most, done = max(map(len, texts)), 0
        height = most * leading + 2 * pad
        if height <= (BOTTOM - TOP) / 3 and self.y + height > BOTTOM:
            self._next(columns, header=header)
        while done < most:
            fit = int((BOTTOM - self.y - 2 * pad) / leading)
            if fit < 1:
                self._next(columns, header=header)
                continue
            shown = [lines[done : done + fit] for lines in texts]
            self._slice(columns, cells, styles, shown, indents, self.y + pad, first=not done)
            self.y += min(fit, most - done) * leading + 2 * pad
            done += fit

    def _slice(
        self,
        columns: Sequence[Column],
        cells: Sequence[Cell],
        styles: Sequence[Style],
        texts: Sequence[Sequence[str]],
        indents: Sequence[float],
        top: float,
        *,
        first: bool,
    ) -> None:
        """So many lines of a row as a page takes."""
        x, leading = LEFT, max(style.leading for style in styles)
        base = top + max(style.size for style in styles)
        texts_of = self.page.texts
        for column, cell, style, lines, indent in zip(columns, cells, styles, texts, indents, strict=True):
            foot = base
            if first and cell.sign:
                name, ink = cell.sign
                self.sign(name, x + 3.2, base - 2.7, ink)
            if first and cell.anchor:
                self.anchor(cell.anchor, cell.text, None)
            for line in lines:
                if line:
                    width = style.face.width(line, style.size) if column.right or cell.key else 0.0
                    left = x + column.width - width if column.right else x + indent
                    texts_of.append(Text(left, foot, line, style))
                    if cell.key:
                        self.link(left, foot, width, style, cell.key, cell.text)
                foot += leading
            x += column.width + CELL_GAP

    def _next(self, columns: Sequence[Column], *, header: bool) -> None:
        self.pages.append(Page())
        self.y = TOP
        if header:
            self._header(columns)

    # --- signs ---

    def sign(self, name: str, x: float, y: float, ink: Colour, size: float = 2.8) -> None:
        """A sign around (x, y). The names are those of `_model.Mark`; each is told from the others without colour."""
        match name:
            case "circle":
                shape = Shape("circle", ((x, y), (x + size, y)), ink, None, 0)
            case "ring":
                shape = Shape("circle", ((x, y), (x + size - 0.4, y)), WHITE, ink, 0.9)
            case "square":
                d = size * 0.9
                shape = Shape("closed", ((x - d, y - d), (x + d, y - d), (x + d, y + d), (x - d, y + d)), ink, None, 0)
            case "diamond":
                d = size * 1.2
                shape = Shape("closed", ((x, y - d), (x + d, y), (x, y + d), (x - d, y)), WHITE, ink, 0.9)
            case "triangle":
                d = size * 1.15
                shape = Shape("closed", ((x, y - d), (x + d, y + d * 0.8), (x - d, y + d * 0.8)), ink, None, 0)
            case "bar":
                shape = Shape("path", ((x - size, y), (x + size, y)), None, ink, 1.6)
            case _:
                d = size * 0.85
                self.page.shapes.append(Shape("path", ((x - d, y - d), (x + d, y + d)), None, ink, 1.3))
                shape = Shape("path", ((x - d, y + d), (x + d, y - d)), None, ink, 1.3)
        self.page.shapes.append(shape)


SIGN: Final = 10.0
"""Room that a sign takes before its text."""
