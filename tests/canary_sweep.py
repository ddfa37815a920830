"""Looks for secrets in bytes of any kind, in every form that somebody could read them back from.

    sweep = Sweep([Canary("api key", "kx81…", allowed=("given:*", "upstream:*"))])
    sweep.look("answer:1", response.content)
    assert sweep.leaks() == []       # found where it may not be
    assert sweep.unused() == []      # found nowhere where it may be: the search would have proved nothing

A canary of 24 characters and more is looked for by its thirds (of 16 and more, by its halves): whoever cuts it once or
twice, wherever, leaves one of them whole. Each is looked for as it is, in hex, in base64 of both alphabets at each
alignment, URL-encoded, as JSON and HTML escape it, as `\\uXXXX` and in UTF-16. What is cut more often is put together:
the texts of a JSON document one after the other, a page without its tags, and everything without its blanks. What is
compressed or encoded (gzip, zlib, zip, PDF, base64, hex, URL encoding, JSON in JSON) is opened and looked through.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import html
import io
import itertools
import json
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import re2
from pypdf import PdfReader

LAYERS: Final = 3
_LARGEST: Final = 64 * 2**20
"""What is unpacked from one member, in bytes."""
_PIECE: Final = 8
"""Characters below which a piece says nothing."""


@dataclass(frozen=True)
class Canary:
    name: str
    secret: str | bytes
    allowed: tuple[str, ...] = ()
    """Patterns of places where it may be, and in one of which it must be."""
    core: str | bytes = ""
    """The part that nothing else has, where the rest is a known form (`ghp_…`, the head of a token)."""

    @property
    def pieces(self) -> list[bytes]:
        """What is looked for."""
        text = self.core or self.secret
        raw = text.encode() if isinstance(text, str) else text
        count = 1 if raw.isdigit() else max(1, min(3, len(raw) // _PIECE))
        cuts = [len(raw) * at // count for at in range(count + 1)]
        return [raw[start:end] for start, end in itertools.pairwise(cuts)]


@dataclass(frozen=True)
class Find:
    canary: str
    place: str
    form: str
    """How it was written, and within what."""


# --- the forms of a text --------------------------------------------------------------------------------------------


def _base64(raw: bytes, before: int) -> str:
    """What of the base64 of `raw` does not depend on its neighbours, when `before` bytes stand in front of it."""
    bits = range(before * 8, (before + len(raw)) * 8)
    first, last = -(-bits.start // 6), bits.stop // 6
    return base64.b64encode(bytes(before) + raw).decode()[first:last]


def forms(raw: bytes) -> dict[str, str]:
    """How a text, or the bytes of a key, may be written, as patterns of RE2 on bytes."""
    found = {
        "raw": _literal(raw),
        "hex": f"(?i:{raw.hex()})",
        "url": "(?i:" + "".join(f"%{byte:02x}" for byte in raw) + ")",
        "quoted": f"(?i:{_literal(quote(raw, safe='').encode())})",
    }
    for before in range(3):
        plain = _base64(raw, before)
        found[f"base64 +{before}"] = _literal(plain.encode())
        found[f"base64url +{before}"] = _literal(plain.replace("+", "-").replace("/", "_").encode())
    if raw.isascii():
        text = raw.decode()
        found |= {
            "json": _literal(json.dumps(text)[1:-1].encode()),
            "html": _literal(html.escape(text).encode()),
            "escapes": "(?i:" + "".join(rf"\\u{byte:04x}" for byte in raw) + ")",
            "UTF-16 LE": _literal(text.encode("utf-16-le")),
            "UTF-16 BE": _literal(text.encode("utf-16-be")),
        }
    first: dict[str, str] = {}
    for form, pattern in found.items():
        first.setdefault(pattern, form)
    return {form: pattern for pattern, form in first.items()}


def _literal(raw: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in raw)


# --- what stands within bytes ---------------------------------------------------------------------------------------


def _texts(value: Any, *, names: bool) -> Iterator[str]:
    """Every text of a JSON value in its order, those of JSON in a text as well."""
    if isinstance(value, str):
        inner = _json(value.encode()) if value[:1] in ("{", "[", '"') else None
        if inner is None:
            yield value
        else:
            yield from _texts(inner, names=names)
    elif isinstance(value, dict):
        for name, member in value.items():
            if names:
                yield name
            yield from _texts(member, names=names)
    elif isinstance(value, list):
        for member in value:
            yield from _texts(member, names=names)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _as_json(data: bytes) -> Iterator[bytes]:
    """Of a JSON document, JSON lines or server-sent events: their texts, one after the other."""
    start = data.lstrip()[:1]
    whole = _json(data) if start in (b"{", b"[", b'"') else None
    if whole is None:
        lines = (line.removeprefix(b"data: ").strip() for line in data.splitlines())
        whole = [found for line in lines if line[:1] in (b"{", b"[") and (found := _json(line)) is not None]
    for names in (False, True):
        yield "".join(_texts(whole, names=names)).encode("utf-8", "replace")


def _as_page(data: bytes) -> Iterator[bytes]:
    if b"</" in data or b"&#" in data:
        text = data.decode("utf-8", "replace")
        yield html.unescape(re.sub(r"<[^>]*>", "", text)).encode("utf-8", "replace")


def _as_zip(data: bytes) -> Iterator[bytes]:
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def _as_pdf(data: bytes) -> Iterator[bytes]:
    if data[:5] == b"%PDF-":
        reader = PdfReader(io.BytesIO(data))
        yield "\n".join(page.extract_text() for page in reader.pages).encode("utf-8", "replace")
        yield str(reader.metadata).encode()
        for files in reader.attachments.values():
            yield from files


_MAGIC: Final = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")


def _as_compressed(data: bytes) -> Iterator[bytes]:
    """gzip and zlib, wherever they begin; also a member that is cut off."""
    at = 0
    while found := _MAGIC.search(data, at):
        at = found.start() + 1
        opener = zlib.decompressobj(47)  # 15 bits, either head
        try:
            opened = opener.decompress(data[found.start() : found.start() + _LARGEST], _LARGEST)
        except zlib.error:
            continue
        if opened:
            yield opened
        if opener.eof:
            at = len(data) - len(opener.unused_data) if len(data) - found.start() <= _LARGEST else at


_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{24,}")


def _as_base64(data: bytes) -> Iterator[bytes]:
    runs = []
    for found in _BASE64.finditer(data):
        run = found[0].translate(bytes.maketrans(b"-_", b"+/"))
        runs.append(
            base64.b64decode(run[: len(run) // 4 * 4] + (b"", b"", run[-2:] + b"==", run[-3:] + b"=")[len(run) % 4])
        )
    if runs:
        yield b"\n".join(runs)


def _as_hex(data: bytes) -> Iterator[bytes]:
    if runs := [bytes.fromhex(found[0][: len(found[0]) // 2 * 2].decode()) for found in _HEX.finditer(data)]:
        yield b"\n".join(runs)


def _as_url(data: bytes) -> Iterator[bytes]:
    if re.search(rb"%[0-9A-Fa-f]{2}", data):
        yield unquote_to_bytes(data.replace(b"+", b" "))
        yield unquote_to_bytes(data)


def _without_blanks(data: bytes) -> Iterator[bytes]:
    yield data.translate(None, b" \t\r\n\0")


_OPENERS: Final[dict[str, Callable[[bytes], Iterable[bytes]]]] = {
    "zip": _as_zip,
    "PDF": _as_pdf,
    "compressed": _as_compressed,
    "JSON": _as_json,
    "page": _as_page,
    "base64": _as_base64,
    "hex": _as_hex,
    "URL": _as_url,
    "without blanks": _without_blanks,
}
_DOCUMENTS: Final = frozenset({"zip", "PDF"})
_BREAKING: Final = frozenset({"JSON", "page", "URL", "without blanks"})
"""Whatever comes out of these is text: a document would be a broken one."""


def rows(path: Path) -> Iterator[bytes]:
    """Every value of a SQLite database, whole: its pages cut them."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for table in tables:
            for row in database.execute(f'SELECT * FROM "{table}"'):
                yield from (one if isinstance(one, bytes) else str(one).encode() for one in row if one is not None)
    finally:
        database.close()


# --- the search -----------------------------------------------------------------------------------------------------


class Sweep:
    """Everything that was looked at, and what was found."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        """
        Raises:
            AssertionError: two canaries share what is looked for.
        """
        self.canaries: dict[str, Canary] = {}
        self.finds: list[Find] = []
        self.places: set[str] = set()
        self._what: list[tuple[str, str]] = []
        owner: dict[bytes, str] = {}
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = 2**30
        self._needles = re2.Set.SearchSet(options)
        for canary in canaries:
            assert canary.name not in self.canaries, f"two are named {canary.name}"
            self.canaries[canary.name] = canary
            for piece in canary.pieces:
                assert owner.setdefault(piece, canary.name) == canary.name, f"{canary.name}: {owner[piece]} has it too"
                for form, pattern in forms(piece).items():
                    self._needles.Add(pattern)
                    self._what.append((canary.name, form))
        self._needles.Compile()
        self._known: dict[tuple[bytes, int, bool], list[tuple[str, str]]] = {}

    def look(self, place: str, data: bytes | str) -> list[str]:
        """The names of the canaries in `data`."""
        self.places.add(place)
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        found = self._look(raw, LAYERS)
        self.finds += [Find(name, place, form) for name, form in found]
        return sorted({name for name, _ in found})

    def _look(self, raw: bytes, layers: int, *, is_text: bool = False) -> list[tuple[str, str]]:
        digest = (hashlib.blake2b(raw, digest_size=16).digest(), layers, is_text)
        if digest not in self._known:
            found = dict.fromkeys(self._what[index] for index in self._needles.Match(raw) or ())
            self._known[digest] = []  # a text that opens to itself ends here
            for name, opener in _OPENERS.items() if layers else ():
                if is_text and name in _DOCUMENTS:
                    continue
                for inner in opener(raw):
                    if inner and inner != raw:
                        more = self._look(inner, layers - 1, is_text=name in _BREAKING)
                        found |= {(who, f"{form} in {name}"): None for who, form in more}
            self._known[digest] = list(found)
        return self._known[digest]

    def leaks(self) -> list[str]:
        """What was found where it may not be: a line for each canary and place."""
        wrong: dict[tuple[str, str], str] = {}
        for find in self.finds:
            if not self._may(find):
                wrong.setdefault((find.canary, find.place), find.form)
        return sorted(f"{name} at {place} ({form})" for (name, place), form in wrong.items())

    def unused(self) -> list[str]:
        """Canaries that were found nowhere where they may be: nothing is known about them."""
        return sorted(self.canaries.keys() - {find.canary for find in self.finds if self._may(find)})

    def _may(self, find: Find) -> bool:
        return any(fnmatch.fnmatchcase(find.place, pattern) for pattern in self.canaries[find.canary].allowed)
