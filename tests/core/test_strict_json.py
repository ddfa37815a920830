"""One parse for everything foreign: what two readers could understand differently is refused (A01-A04)."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from agentgate.core.strict_json import (
    MAX_DEPTH,
    MAX_INTEGER,
    NotStrictJson,
    canonical,
    canonical_plain,
    check,
    length,
    parse,
)
from tests.core.strategies import INTEGERS, JSON, TEXT


def _refuses(raw: bytes) -> bool:
    try:
        parse(raw)
    except NotStrictJson as error:
        return bool(str(error))
    return False


def _escaped(name: str) -> str:
    return '"' + "".join(f"\\u{ord(char):04x}" for char in name) + '"'


@given(
    name=st.text("abcdefgh_", min_size=1, max_size=8),
    depth=st.integers(0, MAX_DEPTH - 2),
    before=st.integers(0, 20),
    between=st.integers(0, 20),
    spelling=st.sampled_from([json.dumps, _escaped]),
    in_list=st.booleans(),
)
def test_duplicate_key_is_refused_at_any_depth_and_in_any_spelling(
    name: str, depth: int, before: int, between: int, spelling: Callable[[str], str], in_list: bool
) -> None:
    def others(start: int, count: int) -> str:
        return "".join(f'"other-{number}":0,' for number in range(start, start + count))

    pair = f'{{{others(0, before)}"{name}":1,{others(before, between)}{spelling(name)}:2}}'
    opening, closing = ("[", "]") if in_list else ('{"x":', "}")
    assert _refuses((opening * depth + pair + closing * depth).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"tool":"safe","tool":"rm"}',
        b'{"tool":"safe","\\u0074ool":"rm"}',
        b'{"\\u0074ool":"safe","\\u0074\\u006fol":"rm"}',
        b'{"":1,"":2}',
        '{"é":1,"\\u00e9":2}'.encode(),
        b'{"a":{"b":[{"c":1,"c":1}]}}',
    ],
)
def test_duplicate_keys_by_name(raw: bytes) -> None:
    assert _refuses(raw)


LOSES_DIGITS = "an integer beyond 2^53-1 loses digits in other readers; send it as a string"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\xef\xbb\xbf{}", "the body starts with a byte order mark; send plain UTF-8"),
        (b"[NaN]", "expected value at line 1 column 2"),
        (b"[-1e999]", "a number is too large to be finite"),
        (b"[9007199254740992]", LOSES_DIGITS),
        (b"[1e16]", LOSES_DIGITS),
        (b"[" * 65 + b"1" + b"]" * 65, "nested deeper than 64 levels"),
    ],
)
def test_sender_is_told_what_to_change(raw: bytes, told: str) -> None:
    """These sentences go back to whoever sent it."""
    with pytest.raises(NotStrictJson, match=f"^{re.escape(told)}$"):
        parse(raw)


def test_names_that_only_look_alike_are_two() -> None:
    assert len(parse('{"tool":1,"Tool":2,"t\u043e\u043el":3,"e\u0301":4,"\u00e9":5}'.encode())) == 5


@pytest.mark.parametrize(
    "number",
    [
        "NaN", "-NaN", "nan", "Infinity", "-Infinity", "inf", "1e999", "-1e999", "1E400", "9" * 400 + ".0",
        "9007199254740992", "-9007199254740992", "18446744073709551616", "1" * 40, "-" + "1" * 5000,
        "1e16", "-1e20", "9007199254740992.0", "99999999999999999999.0",
        "01", "-01", "+1", ".5", "1.", "1e", "1e+", "0x10", "1_000", "--1", "1 2", "١",
    ],
)  # fmt: skip
def test_number_that_readers_disagree_about_is_refused(number: str) -> None:
    assert _refuses(number.encode())
    assert _refuses(f'{{"a":[{number}]}}'.encode())


@pytest.mark.parametrize(
    ("number", "form"),
    [
        ("-0", b"0"), ("-0.0", b"0"), ("0e9", b"0"), ("1.0", b"1"), ("1e2", b"100"), ("1e-400", b"0"),
        ("9007199254740991", b"9007199254740991"), ("9007199254740991.0", b"9007199254740991"),
        ("-9007199254740991", b"-9007199254740991"),
        ("1e21", b"1e+21"), ("1.7976931348623157e308", b"1.7976931348623157e+308"), ("5e-324", b"5e-324"),
        ("0.1", b"0.1"), ("333333333.33333329", b"333333333.3333333"), ("1E-7", b"1e-7"), ("0.000001", b"0.000001"),
    ],
)  # fmt: skip
def test_number_that_is_accepted_has_one_canonical_form(number: str, form: bytes) -> None:
    assert canonical(parse(number.encode())) == form
    assert canonical(parse(form)) == form


@pytest.mark.parametrize(
    "raw",
    [
        b'"\\ud800"', b'"\\udfff"', b'"\\udc00\\ud800"', b'"\\ud800x"', b'"\\ud800\\u0041"', b'{"\\ud834":1}',
        b'"\xed\xa0\x80"', b'"\xed\xb0\x80"', b'"\xff"', b'"\xc0\x80"', b'"\xc3"', b'"\xf4\x90\x80\x80"', b'{"\xfe":1}',
        b'"\x00"', b"1\x00", b"\x00", b'{"a\x00":1}', b'"\n"', b'"\t"', b'"\x1f"',
        b"\xef\xbb\xbf{}", b"\xef\xbb\xbf", '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-16-be"), '{"a":1}'.encode("utf-32"), b"\xfe\xff",
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_are_refused(raw: bytes) -> None:
    assert _refuses(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"{", b"[1,]", b'{"a":1,}', b"[,1]", b"{a:1}", b"{'a':1}", b"[1 2]", b"nul", b"True", b"undefined",
        b"// c\n1", b"/* c */1", b"{}{}", b"[]]", b"\xc2\xa01", b"\x0c1", b'"\\x41"', b'"\\u12"', b'"a',
        b'{"a"}', b"{1:2}",
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    assert _refuses(raw)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_refusal(raw: bytes) -> None:
    try:
        value = parse(raw)
    except NotStrictJson:
        return
    check(value)
    assert canonical(parse(canonical(value))) == canonical(value)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b'{"\\u0061":['])
def test_depth_bomb_is_refused_at_once(opening: bytes) -> None:
    raw = opening * 100_000
    best = math.inf
    for _ in range(3):
        before = time.perf_counter()
        assert _refuses(raw)
        best = min(best, time.perf_counter() - before)
    assert best < 0.05


def test_depth_is_refused_whatever_the_recursion_limit() -> None:
    value: Any = 0
    for _ in range(sys.getrecursionlimit() * 20):
        value = [value]
    with pytest.raises(NotStrictJson, match="nested"):
        check(value)
    while isinstance(value, list):  # taken apart here, so that its destruction needs no stack either
        value = value[0] if value else None


@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_64_is_accepted_and_65_is_not(pair: tuple[bytes, bytes]) -> None:
    opening, closing = pair
    value = parse(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)
    assert canonical(value) == opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH
    assert _refuses(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b",".join([b"1"] * 500_000) + b"]",
        b'"' + b"a" * (1 << 20) + b'"',
        b"{" + b",".join(b'"k%d":{}' % number for number in range(60_000)) + b"}",
        b"[" + b'{"a":[]},' * 100_000 + b"0]",
    ],
    ids=["numbers", "text", "names", "objects"],
)
def test_body_of_a_mebibyte_is_read_in_time(raw: bytes) -> None:
    before = time.process_time()
    value = parse(raw)
    assert time.process_time() - before < 2
    assert canonical(value)


def test_mebibyte_of_digits_is_refused_in_time() -> None:
    before = time.process_time()
    assert _refuses(b"1" * (1 << 20))
    assert time.process_time() - before < 0.5


@given(st.integers(MAX_INTEGER + 1, 10**60) | st.integers(-(10**60), -MAX_INTEGER - 1))
def test_integer_beyond_two_to_53_is_refused_as_value_and_as_text(number: int) -> None:
    with pytest.raises(NotStrictJson, match="string"):
        check([number])
    assert _refuses(b'{"a":%d}' % number)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ((1, 2), "not a JSON value: tuple"),
        ({1, 2}, "not a JSON value: set"),
        (b"x", "not a JSON value: bytes"),
        (object(), "not a JSON value: object"),
        (1j, "not a JSON value: complex"),
        ([b"x"], "not a JSON value: bytes"),
        ({"a": (1,)}, "not a JSON value: tuple"),
        *[({"a": {name: 1}}, f"a name is no text: {name!r}") for name in (None, 1, True, b"x", (1, 2))],
        (math.nan, "a number is too large to be finite"),
        *[(text, "a lone surrogate is not a character") for text in ("\ud800", ["\udfff"], {"\ud834": 1})],
    ],
    ids=lambda value: type(value).__name__,
)
def test_python_value_that_is_not_json_is_refused(value: object, told: str) -> None:
    with pytest.raises(NotStrictJson, match=f"^{re.escape(told)}$"):
        check(value)


@given(JSON)
def test_what_is_written_is_read_back_as_the_same(value: Any) -> None:
    check(value)
    once = canonical(value)
    assert canonical(parse(once)) == once
    assert parse(once) == value


@given(JSON)
@example({"\ue000": 1, "\U00010000": 2})  # UTF-16 order differs from the order of code points
@example({"a": 1e-7, "b": [-0.0]})
@example(["\x7f\u2028\u00e9\U0001f600", '"\\\b\f\n\r\t\x00\x1f'])
def test_canonical_is_rfc_8785(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(
    st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=8), INTEGERS | TEXT | st.booleans(), max_size=6)
)
def test_canonical_plain_is_rfc_8785_for_values_of_our_own_making(value: dict[str, Any]) -> None:
    assert canonical_plain(value) == rfc8785.dumps(value)
    assert canonical(value) == canonical_plain(value)


@given(JSON, st.randoms(use_true_random=False))
def test_order_of_members_and_whitespace_do_not_matter(value: Any, random: Any) -> None:
    def shuffled(item: Any) -> Any:
        if isinstance(item, dict):
            names = list(item)
            random.shuffle(names)
            return {name: shuffled(item[name]) for name in names}
        return [shuffled(inner) for inner in item] if isinstance(item, list) else item

    spelt = json.dumps(shuffled(value), indent=random.choice([None, 1]), ensure_ascii=random.choice([True, False]))
    assert canonical(parse(spelt.encode())) == canonical(value)


@given(JSON)
def test_length_is_about_that_of_the_canonical_form(value: Any) -> None:
    assert len(canonical(value)) / 4 <= length(value) <= 4 * len(canonical(value)), "-0.0 for 0"


def test_what_has_no_canonical_form_may_be_of_any_length() -> None:
    assert length(["\ud800"]) == length([object()]) == MAX_INTEGER
