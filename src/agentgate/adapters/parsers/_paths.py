"""Paths as text: what they say before any file system is asked. Where a symbolic link leads, nobody knows here."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from typing import Any, Final

MAX_CHARS: Final = 4096
_ENCODED: Final = re.compile(r"%[0-9A-Fa-f]{2}|%u[0-9A-Fa-f]{4}")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def read(text: str) -> dict[str, Any]:
    """`{path, absolute, traversal}`: `path` is normalised, `traversal` says that there was a `..` in it.

    Raises:
        ValueError: what another program may read otherwise: control and look-alike characters, percent escapes,
            backslashes, `~`, drive letters, addresses.
    """
    if not text or len(text) > MAX_CHARS:
        raise ValueError("empty" if not text else f"longer than {MAX_CHARS} characters")
    if not text.isprintable():
        raise ValueError("a character that cannot be seen")
    if any(_is_structure(char) for char in text if not char.isascii()):
        raise ValueError("a character that looks like a dot, a slash or a percent sign")
    for found, why in (
        (_ENCODED.search(text), "a percent escape"),
        ("\\" in text, "a backslash"),
        (text.startswith("~"), "a home directory"),
        (_DRIVE.match(text), "a drive letter"),
        (_SCHEME.match(text), "an address"),
        (text.startswith("//"), "two slashes at the beginning"),
        (text != text.strip() or any(part != part.strip() for part in text.split("/")), "spaces around a name"),
    ):
        if found:
            raise ValueError(why)
    return {"path": posixpath.normpath(text), "absolute": text.startswith("/"), "traversal": ".." in text.split("/")}


_LOOK_ALIKE: Final = frozenset("\u2044\u2215\u29f8\u29f5\u2216\u2571\u2572\u0338\u0337\u01c0")
"""Slashes that compatibility does not fold."""


def _is_structure(char: str) -> bool:
    return char in _LOOK_ALIKE or any(one in "./\\%~:" for one in unicodedata.normalize("NFKC", char))
