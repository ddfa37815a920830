"""The built-ins that OPA does not compile into WebAssembly and that the embedded engine offers itself.

A named set: each is here because it answers exactly what OPA answers, which tests/adapters/policy checks against a
real OPA, or refuses.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final, NoReturn
from urllib.parse import quote_plus, unquote_to_bytes

from agentgate.adapters.policy import _gotime
from agentgate.adapters.policy._gofmt import sprintf
from agentgate.adapters.policy._rego import Number, RegoSet, RegoValue


class BuiltinFailed(Exception):
    """A built-in could not answer; the evaluation counts for nothing."""


def _fail(why: str) -> NoReturn:
    raise BuiltinFailed(why)


def _text(value: RegoValue) -> str:
    return value if isinstance(value, str) else _fail("not a string")


def _integer(value: RegoValue) -> int:
    if not isinstance(value, Number) or value.is_float:
        _fail("not an integer")
    return int(value.text)


def _texts(value: RegoValue) -> list[str]:
    """A string, or an array or set of strings."""
    match value:
        case str():
            return [value]
        case tuple():
            return [_text(item) for item in value]
        case RegoSet(items):
            return [_text(item) for item in items]
    _fail("neither a string nor a collection of strings")


def _numbers(values: tuple[int, ...]) -> tuple[Number, ...]:
    return tuple(Number(str(value)) for value in values)


def _sprintf(template: RegoValue, values: RegoValue) -> RegoValue:
    if not isinstance(values, tuple):
        _fail("not an array")
    return sprintf(_text(template), values)


def _parse_rfc3339(text: RegoValue) -> RegoValue:
    return Number(str(_gotime.parse_rfc3339_ns(_text(text))))


def _clock(moment: RegoValue) -> RegoValue:
    return _numbers(_gotime.clock(moment))


def _date(moment: RegoValue) -> RegoValue:
    return _numbers(_gotime.date(moment))


def _weekday(moment: RegoValue) -> RegoValue:
    return _gotime.weekday(moment)


def _add_date(moment: RegoValue, years: RegoValue, months: RegoValue, days: RegoValue) -> RegoValue:
    return Number(str(_gotime.add_date(moment, _integer(years), _integer(months), _integer(days))))


def _sha256(text: RegoValue) -> RegoValue:
    return hashlib.sha256(_text(text).encode()).hexdigest()


def _hmac_sha256(text: RegoValue, key: RegoValue) -> RegoValue:
    return hmac.new(_text(key).encode(), _text(text).encode(), "sha256").hexdigest()


def _hmac_equal(one: RegoValue, other: RegoValue) -> RegoValue:
    return hmac.compare_digest(_text(one).encode(), _text(other).encode())


def _hex_encode(text: RegoValue) -> RegoValue:
    return _text(text).encode().hex()


def _hex_decode(text: RegoValue) -> RegoValue:
    try:
        return binascii.unhexlify(_text(text)).decode()
    except (binascii.Error, UnicodeDecodeError):
        _fail("not the hex form of UTF-8 text")


def _any_prefix(texts: RegoValue, prefixes: RegoValue) -> RegoValue:
    starts = tuple(_texts(prefixes))
    return any(text.startswith(starts) for text in _texts(texts))


def _any_suffix(texts: RegoValue, suffixes: RegoValue) -> RegoValue:
    ends = tuple(_texts(suffixes))
    return any(text.endswith(ends) for text in _texts(texts))


def _query_encode(text: RegoValue) -> RegoValue:
    return quote_plus(_text(text), safe="")


_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _query_decode(text: RegoValue) -> RegoValue:
    encoded = _text(text)
    if _BAD_ESCAPE.search(encoded):
        _fail("an escape that is not two hex digits")
    try:
        return unquote_to_bytes(encoded.replace("+", " ")).decode()
    except UnicodeDecodeError:
        _fail("not the encoded form of UTF-8 text")


_BYTES: Final = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)([kmgtpe]i?b?)?", re.ASCII)
_FLOAT_BITS: Final = 64


def _parse_bytes(text: RegoValue) -> RegoValue:
    found = _BYTES.fullmatch(_text(text).lower().replace('"', ""))
    if found is None:
        _fail("not an amount of bytes")
    unit = found[2] or ""
    base = 1024 if "i" in unit else 1000
    factor = base ** ("kmgtpe".index(unit[0]) + 1) if unit else 1
    return Number(str(int(_rounded(_rounded(Fraction(found[1])) * factor))))


def _rounded(value: Fraction) -> Fraction:
    """To Go's big.Float of 64 bits, half to even: 0.1 times a million is what OPA says it is."""
    if not value:
        return value
    shift = _FLOAT_BITS - (value.numerator.bit_length() - value.denominator.bit_length())
    scaled = round(value * Fraction(2) ** shift)
    if scaled.bit_length() > _FLOAT_BITS:
        shift -= scaled.bit_length() - _FLOAT_BITS
        scaled = round(value * Fraction(2) ** shift)
    return Fraction(scaled) / Fraction(2) ** shift


HOST_BUILTINS: Final[Mapping[str, Callable[..., RegoValue]]] = MappingProxyType(
    {
        "crypto.hmac.equal": _hmac_equal,
        "crypto.hmac.sha256": _hmac_sha256,
        "crypto.sha256": _sha256,
        "hex.decode": _hex_decode,
        "hex.encode": _hex_encode,
        "sprintf": _sprintf,
        "strings.any_prefix_match": _any_prefix,
        "strings.any_suffix_match": _any_suffix,
        "time.add_date": _add_date,
        "time.clock": _clock,
        "time.date": _date,
        "time.parse_rfc3339_ns": _parse_rfc3339,
        "time.weekday": _weekday,
        "units.parse_bytes": _parse_bytes,
        "urlquery.decode": _query_decode,
        "urlquery.encode": _query_encode,
    }
)
"""Name → function of the operands. Fails with BuiltinFailed or ValueError."""
