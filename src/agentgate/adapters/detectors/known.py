"""Secrets and personal data in texts, each by the narrowest thing that knows it.

Keys and tokens by the patterns of detect-secrets and some of ours, e-mail addresses, US social security numbers and
cards by their shape and check digit, bank accounts by python-stdnum, telephones by phonenumbers. One automaton of RE2
looks for all of them at once, in one pass and in time linear in the text; what it finds is looked at more closely.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from string import ascii_letters
from typing import Any, Final

import phonenumbers
import re2  # type: ignore[import-untyped]
from stdnum import iban

from agentgate.adapters.detectors._makers import at_least, patterns
from agentgate.adapters.detectors._named import NAMED, Finder, Regexp
from agentgate.core.redaction.sensitive import CARD, EMAIL, IBAN, PHONE, SECRET, SSN, Span, is_card

OURS: Final = (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?s:.*?)(?:-----END [A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,30}-----|\z)",
    r"PuTTY-User-Key-File-\d(?s:.*)",
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*",
    r"\bA[KS]IA[A-Z0-9]{16}\b",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"glpat-[A-Za-z0-9_-]{16,}",
    r"\bsk-[A-Za-z0-9_-]{16,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{8,}",
    r"AIza[A-Za-z0-9_-]{30,}",
    r"agk_[A-Za-z0-9_-]{16,}",
    r"\bapt_[0-9a-f]{16,}",
)
"""By their makers' prefixes, our own too: shorter, longer or otherwise than detect-secrets wants them."""

_USER: Final = r"://[^\s/@]+@"
_EMAIL: Final = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
_SSN: Final = r"\b\d{3}(?:-\d{2}-| \d{2} )\d{4}\b"
_CARD: Final = r"\d(?:[ +-]?\d){12,}"
_IBAN: Final = r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?\b"
_INTERNATIONAL: Final = r"\+\(?\d(?:[ ()./-]{0,2}\d){6,14}"
_NORTH_AMERICAN: Final = r"(?:\b1[ .-])?(?:\([2-9]\d\d\)[ .-]?|\b[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}\b"

_MAX_GROUPS: Final = 5
_SEPARATOR: Final = re.compile("[ +-]")
_WRITTEN: Final = re.compile(
    rb"(?<!\d)(?:(?P<sixteen>[2-6]\d{3}(?:[ +-]\d{4}){3})(?:[ +-]\d{1,3}(?!\d))?"
    rb"|[3-6]\d{3}[ +-]\d{6}[ +-]\d{4,5}|[2-6]\d{12,18})(?!\d)"
)
"""A card's number as it is written: sixteen digits by fours and up to three more, by four and six, or together."""
_MAX_ASKED: Final = 200
_MAX_FOUND: Final = 2_000
"""In a text with more there is nothing else."""
_IBAN_SHORTEST: Final = 15
_LETTERS_AS_NUMBERS: Final = str.maketrans({letter: str(int(letter, 36)) for letter in ascii_letters})
_OPAQUE_CHARS: Final = 128
_OPAQUE: Final = re.compile(
    rb"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}|[0-9a-f]{32}(?:[0-9a-f]{8}|[0-9a-f]{32}|[0-9a-f]{96})?)"
    rb"(?![0-9A-Za-z])"
)
"""UUIDs and hashes: digits in them are no card, unless there is nothing but digits."""


KINDS: Final = (SECRET, EMAIL, CARD, SSN, IBAN, PHONE)


def compiled(pattern: str) -> Regexp:
    """Raises re2.error."""
    return re2.compile(pattern, _options())


def _options() -> re2.Options:
    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    options.max_mem = 64 << 20
    return options


def one_look(patterns: Sequence[str]) -> Callable[[bytes], Sequence[int]]:
    """Which of the patterns are in a text, in one pass."""
    look = re2.Set.SearchSet(_options())
    for pattern in patterns:
        look.Add(pattern)
    look.Compile()
    return lambda raw: look.Match(raw) or ()


class KnownData:
    """What the world agrees on to be secret or personal."""

    shortest = 6
    is_local = True

    def __init__(self, *, without: Collection[str] = ()) -> None:
        """`without` names classes that are not looked for."""
        self.kinds = tuple(kind for kind in KINDS if kind not in without)
        used = [(pattern, finder) for kind, pattern, finder in _FINDERS if kind in self.kinds]
        self._finders = [(compiled(pattern), finder) for pattern, finder in used]
        self._any = one_look([at_least(pattern) for pattern, _ in used])

    def find(self, text: str) -> Iterator[Span]:
        raw = text.encode("ascii", "replace")  # a byte for each character: places are the same, and RE2 is quicker
        left = _MAX_FOUND
        for number in self._any(raw):
            pattern, finder = self._finders[number]
            for span in finder(pattern, raw):
                yield span
                left -= 1
                if left == 0:
                    yield Span(0, len(text), SECRET)
                    return


def _span(match: Any, kind: str) -> Span:
    return Span(match.start(), match.end(), kind)


def _whole(kind: str) -> Finder:
    """All that has the pattern is of that kind."""

    def find(pattern: Regexp, raw: bytes) -> Iterator[Span]:
        for match in pattern.finditer(raw):
            yield _span(match, kind)

    return find


def _users(pattern: Regexp, raw: bytes) -> Iterator[Span]:
    """`user:password@` in a URL."""
    for match in pattern.finditer(raw):
        yield Span(match.start() + 3, match.end(), SECRET)


def _cards(pattern: Regexp, raw: bytes) -> Iterator[Span]:
    for match in pattern.finditer(raw):
        whole = (match.start(), match.end())
        if _holds_card(match.group().decode()) and not _is_opaque(raw, *whole):
            yield Span(*whole, CARD)
            continue
        for start, end in _written_as_cards(raw, *whole):
            if not _is_opaque(raw, start, end):
                yield Span(start, end, CARD)


def _written_as_cards(raw: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where, among numbers with a blank or a dash between them, those are that make a card as cards are written."""
    at = start
    while (written := _WRITTEN.search(raw, at, end)) is not None:
        first, at = written.start(), written.start() + 1
        for last in (written.end(), written.end("sixteen")):
            if last > 0 and is_card(raw[first:last].decode()):
                yield first, last
                at = last
                break


def _is_opaque(raw: bytes, start: int, end: int) -> bool:
    """Whether a place is in a UUID or a hash, with letters in it."""
    first = max(0, start - _OPAQUE_CHARS)
    around = _OPAQUE.finditer(raw, first, end + _OPAQUE_CHARS)
    return any(one.start() < end and start < one.end() and not one[0].replace(b"-", b"").isdigit() for one in around)


def _holds_card(text: str) -> bool:
    """Whether a run of digits is a card number, or one with up to two groups before or after it (a date, a code)."""
    if is_card(text):
        return True
    groups = _SEPARATOR.split(text)
    if len(groups) > _MAX_GROUPS:
        return False
    return any(is_card("".join(part)) for part in (groups[:-1], groups[:-2], groups[1:], groups[2:]))


# What libraries know only spares text that looks like one and is none. They cost microseconds for each candidate, so a
# text may ask them so often and no more: past that, whatever looks like one counts as one.


def _ibans(pattern: Regexp, raw: bytes) -> Iterator[Span]:
    asked = 0
    for match in pattern.finditer(raw):
        end = match.end()
        while end > match.start():
            compact = raw[match.start() : end].translate(None, b" -").decode()
            if len(compact) < _IBAN_SHORTEST:
                break
            asked += 1
            if asked > _MAX_ASKED or (_checks_out(compact) and iban.is_valid(compact)):
                yield Span(match.start(), end, IBAN)
                break
            end = max(raw.rfind(b" ", match.start(), end), raw.rfind(b"-", match.start(), end))  # words after it


def _checks_out(compact: str) -> bool:
    """The check of ISO 7064, ten times as fast as the library, which is asked about what is left."""
    return int((compact[4:] + compact[:4]).translate(_LETTERS_AS_NUMBERS)) % 97 == 1


def _phones(pattern: Regexp, raw: bytes, region: str | None) -> Iterator[Span]:
    for asked, match in enumerate(pattern.finditer(raw)):
        if asked >= _MAX_ASKED or _is_phone(match.group().decode(), region):
            yield _span(match, PHONE)


def _is_phone(candidate: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(candidate, region))
    except phonenumbers.NumberParseException:
        return False


_FINDERS: Final[tuple[tuple[str, str, Finder], ...]] = (
    (SECRET, "|".join((*OURS, *patterns())), _whole(SECRET)),
    (SECRET, _USER, _users),
    (EMAIL, _EMAIL, _whole(EMAIL)),
    (SSN, _SSN, _whole(SSN)),
    *((SECRET, pattern, finder) for pattern, finder in NAMED),
    (CARD, _CARD, _cards),
    (IBAN, _IBAN, _ibans),
    (PHONE, _INTERNATIONAL, partial(_phones, region=None)),
    (PHONE, _NORTH_AMERICAN, partial(_phones, region="US")),
)
