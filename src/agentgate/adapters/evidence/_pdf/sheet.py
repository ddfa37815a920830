"""Pages as lists of what stands where, and a pen to fill them. Laying out is arithmetic; `paint` makes a file of them.

Lengths are points; y counts down from the upper edge of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from agentgate.adapters.evidence._parts.words import short
from agentgate.adapters.evidence._pdf.faces import Face, Faces

Colour = tuple[float, float, float]
Ink = Colour | None
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
    fill: Ink
    stroke: Ink
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


LONGEST_TITLE: Final = 200
LONGEST_CELL: Final = 4000
"""Letters. What is longer is cut and says so: a board member has the rest in pack.json."""


def shortened(text: str) -> str:
    if len(text) <= LONGEST_CELL:
        return text
    return f"{text[:LONGEST_CELL]}… ({len(text) - LONGEST_CELL:,} more characters in pack.json)"


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
        self._titles = (Style(faces.bold, 15.0, 19.0), Style(faces.bold, 10.2, 14.0))

    @property
    def page(self) -> Page:
        return self.pages[-1]

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
        self, x: float, y: float, width: float, height: float, fill: Ink, stroke: Ink = None, pen: float = 0.6
    ) -> None:
        points = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
        self.page.shapes.append(Shape("closed", points, fill, stroke, pen))

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

    def paragraph(self, text: str, style: Style | None = None, *, x: float = LEFT, after: float = 5.0) -> None:
        """Text across the measure, over as many pages as it takes."""
        style = style or self.body
        for line in style.face.wrap(style.face.settable(shortened(text)), style.size, RIGHT - x):
            self.need(style.leading)
            self.put(x, self.y + style.size, line, style)
            self.y += style.leading
        self.space(after)

    def sign(self, name: str, x: float, y: float, ink: Colour, size: float = 2.8) -> None:
        """A sign around (x, y). The names are those of `Mark`; each is told from the others without colour."""
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
