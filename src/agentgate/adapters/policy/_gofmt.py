"""Go's fmt.Sprintf as OPA's `sprintf` uses it: the verbs that can be done exactly; the rest is refused.

OPA hands Sprintf an int64, a big.Int, a float64 or a string; every other value goes in as the string that OPA
prints for it (opa v1/topdown/strings.go). What Go would answer with `%!d(string=x)` is refused here: such text
is a mistake in the policy, and refusing is closed.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Any, Final

from agentgate.adapters.policy._rego import Number, RegoObject, RegoSet, RegoValue


class CannotFormat(ValueError):
    """A verb, flag or value whose Go form is not known here for certain."""


_VERB: Final = re.compile(r"%(?P<zero>0?)(?P<width>[1-9]\d?)?(?:\.(?P<precision>\d{1,2}))?(?P<verb>[A-Za-z%])")


def sprintf(template: str, values: tuple[RegoValue, ...]) -> str:
    """Raises CannotFormat."""
    parts: list[str] = []
    at = used = 0
    while (start := template.find("%", at)) >= 0:
        parts.append(template[at:start])
        found = _VERB.match(template, start)
        if found is None:
            raise CannotFormat(f"sprintf: {template[start : start + 8]!r} is not offered")
        at = found.end()
        if found["verb"] == "%":
            if found[0] != "%%":
                raise CannotFormat("sprintf: a flag on %% is not offered")
            parts.append("%")
            continue
        if used == len(values):
            raise CannotFormat("sprintf: fewer values than verbs")
        parts.append(_formatted(found, values[used]))
        used += 1
    if used != len(values):
        raise CannotFormat("sprintf: more values than verbs")
    parts.append(template[at:])
    return "".join(parts)


def _formatted(found: re.Match[str], value: RegoValue) -> str:
    operand = _operand(value)
    verb, precision = found["verb"], found["precision"]
    kind = (verb, type(operand))
    if precision is not None and kind != ("f", float):
        raise CannotFormat(f"sprintf: a precision on %{verb} is not offered")
    if kind in {("s", str), ("v", str)}:
        text = str(operand)
    elif kind == ("q", str):
        text = quote(str(operand))
    elif kind in {("d", int), ("v", int)}:
        text = str(operand)
    elif kind in {("x", int), ("X", int)}:
        text = format(operand, verb)
    elif kind in {("x", str), ("X", str)}:
        digits = str(operand).encode().hex()
        text = digits.upper() if verb == "X" else digits
    elif kind == ("f", float):
        text = f"{operand:.{6 if precision is None else int(precision)}f}"
    elif kind == ("v", float):
        text = _shortest(float(operand))
    else:
        raise CannotFormat(f"sprintf: %{verb} of a {type(operand).__name__} is not offered")
    return _padded(found, text, operand)


def _padded(found: re.Match[str], text: str, operand: Any) -> str:
    if found["width"] is None:
        if found["zero"]:
            raise CannotFormat("sprintf: a 0 without a width is not offered")
        return text
    width = int(found["width"])
    if not found["zero"]:
        return text.rjust(width)
    if found["verb"] != "d" or not isinstance(operand, int):
        raise CannotFormat("sprintf: padding with zeros is offered for %d alone")
    return text.zfill(width)


def _operand(value: RegoValue) -> int | float | str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Number):
        return text_of(value)
    if not value.is_float:
        return int(value.text)
    number = float(value.text)
    if number in {float("inf"), float("-inf")}:
        raise CannotFormat("sprintf: a number beyond float64")
    return number


def _shortest(number: float) -> str:
    """strconv's 'g' with the fewest digits: an exponent below -4 or from 6 on is written as such."""
    sign, digits_of, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, digits_of))
    minus = "-" if sign else ""
    point = len(digits) + exponent
    if number == 0:
        return f"{minus}0"
    if point - 1 < -4 or point - 1 >= 6:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{minus}{digits[0]}{fraction}e{point - 1:+03d}"
    if point <= 0:
        return f"{minus}0.{'0' * -point}{digits}"
    if point >= len(digits):
        return minus + digits + "0" * (point - len(digits))
    return f"{minus}{digits[:point]}.{digits[point:]}"


def text_of(value: RegoValue) -> str:
    """OPA's own print of a value (ast.Value.String)."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return quote(value)
        case Number(text):
            return text
        case tuple():
            return f"[{', '.join(map(text_of, value))}]"
        case RegoSet(items):
            return f"{{{', '.join(text_of(item) for item in _ordered(items))}}}" if items else "set()"
        case RegoObject(items):
            pairs = dict(zip(map(_order_key, (key for key, _ in items)), items, strict=True))
            inner = (pairs[key] for key in sorted(pairs))
            return f"{{{', '.join(f'{text_of(key)}: {text_of(element)}' for key, element in inner)}}}"
    raise CannotFormat(f"sprintf: no text for a {type(value).__name__}")


def _ordered(items: tuple[RegoValue, ...]) -> list[RegoValue]:
    return sorted(items, key=_order_key)


def _order_key(value: RegoValue) -> tuple[Any, ...]:
    """OPA's order of values: null, booleans, numbers, strings, arrays; what holds more is not offered in sets."""
    match value:
        case None:
            return (0, 0)
        case bool():
            return (1, value)
        case Number(text):
            return (2, Decimal(text))
        case str():
            return (3, value)
        case tuple():
            return (4, tuple(map(_order_key, value)))
    raise CannotFormat("sprintf: a set or object as an element of a set or as a key is not offered")


_ESCAPES: Final = {
    "\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v", "\\": r"\\", '"': r"\"",
}  # fmt: skip


def quote(text: str) -> str:
    """strconv.Quote.

    Go prints letters, marks, numbers, punctuation and symbols as they are and escapes the rest. A character that
    this Python's Unicode does not know may be known to Go's, so it is refused.
    """
    return f'"{"".join(map(_quoted, text))}"'


def _quoted(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character == " " or "!" <= character <= "~":
        return character
    category = unicodedata.category(character)
    if category == "Cn" and not _never_assigned(ord(character)):
        raise CannotFormat(f"sprintf: U+{ord(character):04X} is not known to this Unicode version")
    if category[0] in "LMNPS":
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x1_0000 else f"\\U{code:08x}"


def _never_assigned(code: int) -> bool:
    """Noncharacters stay unassigned in every version."""
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
