"""What is written inside a text in another form: base64, hex, URL encoding, escapes.

Decoding costs at most a few passes over the text; what comes out of a run that is no text is not looked at.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

MAX_LAYERS: Final = 3
"""How often something may be wrapped and is still looked into."""
MIN_TEXT: Final = 10
"""Shorter pieces of text within decoded bytes are chance."""
_MIN_BASE64: Final = 14
_MIN_HEX: Final = 2 * MIN_TEXT
_AT_ONCE: Final = 16

_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _classes(members: bytes) -> bytes:
    """A table that turns members into `a` and everything else into a blank: then runs are found at the speed of C."""
    return bytes(0x61 if byte in members else 0x20 for byte in range(256))


_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_BASE64: Final = _classes(_LETTERS + b"+/-_")
_HEX: Final = _classes(b"0123456789abcdefABCDEF")
_TEXT: Final = bytes(
    ord("a") if byte in b"\t\r\n" or 0x20 <= byte < 0x7F else  # ASCII
    ord("0") if byte == 0 else
    ord("c") if 0x80 <= byte < 0xC0 else  # the parts of UTF-8
    ord("d") if 0xC2 <= byte < 0xE0 else
    ord("t") if 0xE0 <= byte < 0xF0 else ord(" ")
    for byte in range(256)
)  # fmt: skip
_ASCII: Final = b"a" * MIN_TEXT
_SIGNS_OF_TEXT: Final = (_ASCII, b"a0a0a0a0a0", b"0a0a0a0a0a", b"dcdcdcdcdc", b"tcctcctcc")
"""ASCII, UTF-16, two bytes a letter, three bytes a letter."""
_BASE64_SHORTEST: Final = b"a" * _MIN_BASE64
_HEX_SHORTEST: Final = b"a" * _MIN_HEX
_BASE64_RUN: Final = re.compile(_BASE64_SHORTEST + b"a*+")
_HEX_RUN: Final = re.compile(_HEX_SHORTEST + b"a*+")
_TEXT_RUN: Final = re.compile(_ASCII + b"a*+")
_BLANKS: Final = re.compile(rb"\s+")
_WRAPPED: Final = re.compile(rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{40,}+(?:\r?\n[ \t]{0,8}[A-Za-z0-9+/_-]{1,})+")
"""Base64 in lines, as in mails and certificates."""

_QUOTED: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ESCAPE: Final = re.compile(r"((?:\\u[0-9A-Fa-f]{4})+)|((?:\\x[0-9A-Fa-f]{2})+)|\\([\"'/\\bfnrt])")
_CONTROLS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Run(NamedTuple):
    """Where something encoded stands in a text, and the texts that come out of it."""

    start: int
    end: int
    texts: list[str]


def runs(text: str) -> list[Run]:
    """Base64 and hex, wherever it begins within a run of such characters. Only runs that hold text."""
    raw = text.encode("ascii", "replace")  # one byte for each character, so that places are the same
    mapped = raw.translate(_BASE64)
    if _BASE64_SHORTEST not in mapped:
        return []
    found: list[Run] = []
    standard = raw.translate(_STANDARD)
    if b"\n" in raw:
        for match in _WRAPPED.finditer(standard):
            for texts in filter(None, _read([_BLANKS.sub(b"", match[0])], _AS_BASE64)):
                found.append(Run(match.start(), _unpadded(raw, match.end()), texts))  # noqa: PERF401 - as below
    for start, end, texts in _holding_text(standard, _BASE64_RUN.finditer(mapped), _AS_BASE64):
        found.append(Run(start, _unpadded(raw, end), texts))
    mapped = raw.translate(_HEX)
    if _HEX_SHORTEST in mapped:
        found += [Run(*one) for one in _holding_text(raw, _HEX_RUN.finditer(mapped), _AS_HEX)]
    return found


class _Form(NamedTuple):
    """How bytes are written: so many characters for so many bytes, and the character for zero."""

    decode: Callable[[bytes], bytes]
    chars: int
    octets: int
    zero: bytes


_AS_BASE64: Final = _Form(binascii.a2b_base64, 4, 3, b"A")
_AS_HEX: Final = _Form(binascii.a2b_hex, 2, 1, b"0")


def _holding_text(raw: bytes, matches: Iterable[re.Match[bytes]], form: _Form) -> Iterator[tuple[int, int, list[str]]]:
    """The runs that hold text, and their texts; most are names, paths, UUIDs and hashes, so many are read at once."""
    places = [match.span() for match in matches]
    for at in range(0, len(places), _AT_ONCE):
        some = places[at : at + _AT_ONCE]
        texts = _read([raw[start:end] for start, end in some], form)
        for number, (start, end) in enumerate(some if texts else ()):
            if texts[number]:
                yield start, end, texts[number]


def _read(parts: list[bytes], form: _Form) -> list[list[str]]:
    """The texts in each of some runs, decoded from each possible beginning: what stands before them may be of the same
    letters. Nothing at all if there are none. All runs are decoded in one, and what comes of each is cut out again."""
    decode, chars, octets, zero = form
    between = zero * 2 * chars
    whole = between.join([part + zero * (-len(part) % chars) for part in parts]) + between
    size = len(whole)
    decoded = [decode(whole[shift : size - (chars - shift) % chars]) for shift in range(chars)]
    data = b"\xff".join(decoded)
    mapped = data.translate(_TEXT)
    if not _shows_text(mapped):
        return []
    found: list[list[str]] = [[] for _ in parts]
    begin = 0
    for shift, one in enumerate(decoded):
        at = begin
        begin += len(one) + 1
        shown = mapped[at:begin]
        signs = [sign for sign in _SIGNS_OF_TEXT if sign in shown]
        if not signs:
            continue
        for part, texts in zip(parts, found, strict=True):
            end = at + (len(part) - shift) * octets // chars
            shown = mapped[at:end]
            for sign in signs:
                if sign in shown:
                    texts.extend(_readable(data[at:end], shown))
                    break
            at += (-(-len(part) // chars) + 2) * octets
    return found


def _shows_text(mapped: bytes) -> bool:
    for sign in _SIGNS_OF_TEXT:  # noqa: SIM110 - `any` over a generator costs three times as much
        if sign in mapped:
            return True
    return False


def _unpadded(raw: bytes, end: int) -> int:
    """Where base64 ends with its padding."""
    while raw[end : end + 1] == b"=":
        end += 1
    return end


def _readable(data: bytes, mapped: bytes) -> list[str]:
    """The text that bytes are, or the pieces of text in them; `mapped` says what kind each is of."""
    texts: list[str] = []
    if b"a0a0a0a0" in mapped:  # UTF-16, as in encoded commands
        is_little = data[1::2].count(0) > data[::2].count(0)
        texts = [data.decode("utf-16-le" if is_little else "utf-16-be", "ignore")]
        data, mapped = data.replace(b"\0", b""), mapped.replace(b"0", b"")
    try:
        texts.append(data.decode())
    except UnicodeDecodeError:
        texts += [data[slice(*match.span())].decode() for match in _TEXT_RUN.finditer(mapped)]
    return texts


def unquoted(text: str) -> str:
    """`text` without its URL encoding."""
    return _QUOTED.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode(errors="replace"), text)


def unescaped(text: str) -> str:
    r"""`text` without the escapes of program texts: `\u0040`, `\x40`, `\"`."""
    return _ESCAPE.sub(_characters, text)


def _characters(found: re.Match[str]) -> str:
    units, octets, sign = found.groups()
    if units:
        return bytes.fromhex(units.replace("\\u", "")).decode("utf-16-be", "replace")
    if octets:
        return bytes.fromhex(octets.replace("\\x", "")).decode(errors="replace")
    return _CONTROLS.get(sign, sign)
