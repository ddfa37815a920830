"""Letters on paper: the embedded fonts, what they cannot show, and text broken into lines.

Nothing here reads markup: a string is set as the letters that it has. What the fonts have no letter for, or
what would need another order or joining of letters than one after the other, is written out as `[U+674E]`, so
that nothing is dropped and nothing is drawn otherwise than it was written. The attached pack.json has all of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import Final, NamedTuple

from reportlab.pdfbase.pdfmetrics import registerFont
from reportlab.pdfbase.ttfonts import TTFont

from agentgate.core.visible import visible

_ORDERED: Final = frozenset({"R", "AL", "AN"})
# The fonts have letters of these, but not without the joining that a plain writer does not do.
_JOINED: Final = range(0x0900, 0x0980)


class Face(NamedTuple):
    """One font as a typesetter sees it. Widths are thousandths of the size."""

    name: str
    widths: Mapping[str, float]
    table: Mapping[int, str]

    def settable(self, text: str) -> str:
        """`text` with all that this font has no honest picture of written out."""
        if text.isascii() and text.isprintable():
            return text
        return visible(unicodedata.normalize("NFC", text)).translate(self.table)

    def width(self, text: str, size: float) -> float:
        """Of settable text, in points."""
        return self._span(text) * size / 1000

    def wrap(self, text: str, size: float, width: float) -> list[str]:
        """Lines of settable text that are no wider than `width` points: broken at spaces, else after a sign, else
        anywhere. A letter that is wider than a line stands alone in it."""
        limit = width * 1000 / size
        if self._span(text) <= limit:
            return [text]
        lines: list[str] = []
        line, used = "", 0.0
        for word in _WORDS.findall(text):
            parts = [word] if self._span(word.rstrip()) <= limit else self._broken(word, limit)
            for part in parts:
                if line and used + self._span(part.rstrip()) > limit:
                    lines.append(line.rstrip())
                    line, used = "", 0.0
                line += part
                used += self._span(part)
        return [*lines, line.rstrip()]

    def fold(self, text: str, size: float, width: float, most: int) -> list[str]:
        """At most so many lines of settable text; an ellipsis says that there was more."""
        lines = self.wrap(text, size, width)
        if len(lines) > most:
            lines[most - 1 :] = [self.cut(lines[most - 1] + "…", size, width)]
        return lines

    def cut(self, text: str, size: float, width: float) -> str:
        """Settable text on one line, its end given up for an ellipsis where it does not fit."""
        if self.width(text, size) <= width:
            return text
        room = width * 1000 / size - self.widths["…"]
        used = 0.0
        for position, char in enumerate(text):
            used += self.widths[char]
            if used > room:
                return text[:position].rstrip() + "…"
        return text

    def _span(self, text: str) -> float:
        return sum(map(self.widths.__getitem__, text))

    def _broken(self, word: str, limit: float) -> list[str]:
        """Parts of a word that does not fit in a line."""
        parts: list[str] = []
        for part in _PARTS.findall(word):
            if self._span(part) <= limit:
                parts.append(part)
            else:
                parts.extend(part)
        return parts


_WORDS: Final = re.compile(r"[^ ]+ *| +")
_SIGNS: Final = r"-_/.:,;@=&?+"
_LETTERS: Final = rf"(?:(?!\[U\+)[^{_SIGNS}])"
# An escape stays whole; else a part ends with a sign.
_PARTS: Final = re.compile(rf"\[U\+[0-9A-F]+\]|{_LETTERS}*[{_SIGNS}]|{_LETTERS}+|.", re.DOTALL)


class _Letters(dict[int, str]):
    """What each character is set as, found out when it is first met."""

    def __init__(self, has: Mapping[int, int]) -> None:
        super().__init__()
        self._has = has

    def __missing__(self, code: int) -> str:
        char = chr(code)
        plain = (
            code in self._has
            and unicodedata.bidirectional(char) not in _ORDERED
            and unicodedata.category(char) not in ("Mc", "Me", "Co")
            and code not in _JOINED
        )
        self[code] = char if plain else f"[U+{code:04X}]"
        return self[code]


class _Widths(dict[str, float]):
    """reportlab's widths by character."""

    def __init__(self, widths: Mapping[int, float], default: float) -> None:
        super().__init__()
        self._widths, self._default = widths, default

    def __missing__(self, char: str) -> float:
        self[char] = self._widths.get(ord(char), self._default)
        return self[char]


class Faces(NamedTuple):
    text: Face
    bold: Face
    mono: Face


@cache
def faces() -> Faces:
    """The three fonts, known to reportlab under their names.

    FiraGO has Latin, Greek, Cyrillic, Georgian and Thai; Cascadia Mono is for digests and names of things. Both are
    under the SIL Open Font License, which allows to embed them.
    """
    # Who writes no PDF need not unpack two megabytes of fonts, which importing them does.
    from pymupdf_fonts import CascadiaMono_Regular as mono  # type: ignore[import-untyped] # as said
    from pymupdf_fonts import FiraGO_Bold as bold  # as said
    from pymupdf_fonts import FiraGO_Regular as text  # as said

    return Faces(
        _face("AgentGateText", text.fontbuffer),
        _face("AgentGateBold", bold.fontbuffer),
        _face("AgentGateMono", mono.fontbuffer),
    )


def _face(name: str, data: bytes) -> Face:
    font = TTFont(name, BytesIO(data), shapable=False)
    registerFont(font)
    face = font.face
    return Face(name, _Widths(face.charWidths, face.defaultWidth), _Letters(face.charToGlyph))
