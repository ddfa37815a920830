"""One parse for everything foreign, and one canonical form for everything that is hashed.

What policy saw, what was approved and what is sent upstream are the value that `parse` returned. It is
I-JSON (RFC 7493): no duplicate names, no NaN or infinity, integers within ±(2^53-1), no lone surrogates,
and nesting to `MAX_DEPTH`. Its canonical form is RFC 8785 (JCS).
"""

from __future__ import annotations

import math
from typing import Any, Final

import jiter
import orjson
import rfc8785

MAX_DEPTH: Final = 64
MAX_INTEGER: Final = 2**53 - 1
_SPELLED_WITH_EXPONENT: Final = 1e21
"""From here on RFC 8785 writes `1e+21`; below, `1e20` has the canonical form of an integer that we refuse."""
_TOO_LARGE: Final = "an integer beyond 2^53-1 loses digits in other readers; send it as a string"


class NotStrictJson(ValueError):
    """The bytes are not JSON that every reader would understand alike."""


def parse(raw: bytes) -> Any:
    """The value of `raw`.

    Raises:
        NotStrictJson: with a sentence that says what to change.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raise NotStrictJson("the body starts with a byte order mark; send plain UTF-8")
    try:
        value = jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys")
    except ValueError as error:
        raise NotStrictJson(str(error)) from None
    check(value)
    return value


def reread(kept: bytes) -> Any:
    """The value of what `canonical` wrote and the gateway kept where nobody could change it.

    What came from outside was checked when it came; with what was put around it, it may be nested deeper than that.

    Raises:
        ValueError: it is no JSON.
    """
    return orjson.loads(kept)


def check(value: Any) -> None:
    """Refuse what RFC 7493 calls non-interoperable.

    Iterative, so that hostile nesting costs no stack.

    Raises:
        NotStrictJson: naming the first thing found.
    """
    level: list[Any] = [value]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise NotStrictJson(f"nested deeper than {MAX_DEPTH} levels")
        deeper: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                if not item.isascii():
                    _check_text(item)
            elif kind is dict:
                for key, inner in item.items():
                    if type(key) is not str or not key.isascii():
                        _check_text(key)
                    deeper.append(inner)
            elif kind is list:
                deeper.extend(item)
            elif kind is int:
                if not -MAX_INTEGER <= item <= MAX_INTEGER:
                    raise NotStrictJson(_TOO_LARGE)
            elif kind is float:
                if not math.isfinite(item):
                    raise NotStrictJson("a number is too large to be finite")
                if MAX_INTEGER < abs(item) < _SPELLED_WITH_EXPONENT:
                    raise NotStrictJson(_TOO_LARGE)
            elif item is not None and kind is not bool:
                raise NotStrictJson(f"not a JSON value: {kind.__name__}")
        level = deeper


def _check_text(text: Any) -> None:
    if type(text) is not str:  # a name that YAML has read: 1, null, yes
        raise NotStrictJson(f"a name is no text: {text!r:.64}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotStrictJson("a lone surrogate is not a character") from None


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a value that `check` accepted."""
    if _is_plain(value):
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return rfc8785.dumps(value)


def length(value: Any) -> int:
    """About that of the canonical form of what nobody has checked, in a fraction of the time; of what has none, such as
    half a character, nobody knows how long it is."""
    try:
        return len(orjson.dumps(value))
    except (TypeError, ValueError):
        return MAX_INTEGER


def canonical_plain(value: dict[str, Any] | str) -> bytes:
    """`canonical` for values of our own making: ASCII keys and no floats, so orjson's bytes are RFC 8785's."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _is_plain(value: Any) -> bool:
    """Whether orjson's sorted form equals RFC 8785: they differ in floats and in the order of non-ASCII names.

    A property test holds the two equal on everything for which this says True.
    """
    stack = [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is dict:
            for key, inner in item.items():
                if not key.isascii():
                    return False
                if type(inner) is not str:
                    stack.append(inner)
        elif kind is list:
            stack.extend(item)
        elif kind is float:
            return False
    return True
