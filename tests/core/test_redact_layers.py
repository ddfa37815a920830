"""The quick ways of redaction say the same as the plain ones: decoding many runs in one, folding many in one."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentgate.core.redaction import layers, sensitive

SAID = st.sampled_from(["canary@example.org", "zürich größe €", "東京データ東京データ", "x" * 14, "a"])
DATA = st.builds(str.encode, SAID, st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"])) | st.binary(max_size=40)
ENCODED = st.builds(
    lambda encode, data: encode(data),
    st.sampled_from(
        [
            lambda data: base64.b64encode(data).decode(),
            lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
            lambda data: data.hex(),
        ]
    ),
    DATA,
)
PIECE = ENCODED | st.sampled_from([" ", '"', "a", "ab", "abc", "=", "/", "é"])


def decoded(run: str) -> set[bytes]:
    """What one run says, from each beginning, each decoded by itself."""
    standard = run.replace("-", "+").replace("_", "/")
    parts = [standard[shift:] for shift in range(4)]
    parts = [part[: len(part) - (len(part) % 4 == 1)] for part in parts]
    found = {binascii.a2b_base64(part + "=" * (-len(part) % 4)) for part in parts}
    if re.fullmatch("[0-9a-fA-F]*", run):
        found |= {bytes.fromhex(run[shift : len(run) - (len(run) - shift) % 2]) for shift in range(2)}
    return found


@given(st.lists(PIECE, max_size=40).map("".join))
@example((base64.b64encode(b"canary@example.org").decode() + " ") * 20)
@example("abc" + base64.b64encode(b"canary@example.org").decode())
@example("a" + b"canary@example.org".hex())
def test_every_run_that_says_something_is_found_however_many_are_beside_it(text: str) -> None:
    said = {inside for run in layers.runs(text) for inside in run.texts}
    for run in re.findall(r"[A-Za-z0-9+/_-]{14,}", text):
        for data in decoded(run):
            if len(data) >= layers.MIN_TEXT and all(0x20 <= byte < 0x7F for byte in data):
                assert data.decode() in said


@given(st.lists(ENCODED, max_size=40))
def test_run_opens_to_the_same_beside_others_as_alone(parts: list[str]) -> None:
    together = layers.runs(" ".join(parts))
    alone = [run for part in parts for run in layers.runs(part)]
    assert sorted(run.texts for run in together) == sorted(run.texts for run in alone)


@pytest.mark.parametrize(
    ("before", "encoded", "after"),
    [
        ("see ", base64.b64encode(b"canary@example.org!").decode(), " there"),  # with padding
        ("=", base64.b64encode(b"canary@example.org??").decode(), "x=y"),
        ("", b"canary@example.org".hex(), ""),
        ("\u00e9 ", b"canary@example.org".hex().upper(), "=\u00e9"),
        ("a line\n", base64.encodebytes(b"x" * 60 + b" canary@example.org").decode().strip(), "\nanother"),
    ],
)
def test_a_run_is_where_it_stands_with_its_padding(before: str, encoded: str, after: str) -> None:
    found = [run for run in layers.runs(before + encoded + after) if any("canary@" in text for text in run.texts)]
    assert (len(before), len(before) + len(encoded)) in [(run.start, run.end) for run in found]


@pytest.mark.parametrize(("text", "plain"), [("%41b%zz%4", "Ab%zz%4"), ("%C3%a9%ff", "\u00e9\ufffd")])
def test_url_encoding_is_read_as_far_as_it_is_one(text: str, plain: str) -> None:
    assert layers.unquoted(text) == plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"\u0041\x42c\q\u004", r"ABc\q\u004"),
        (r"\ud83e\udd8a\xc3\xa9", "\U0001f98a\u00e9"),
        (r"\ud800-\xff", "\ufffd-\ufffd"),
        (r"\b\f\n\r\t", "\b\f\n\r\t"),
        (r"\"\'\/\\", "\"'/\\"),
    ],
)
def test_escapes_of_program_texts_are_read_and_what_is_no_character_is_replaced(text: str, plain: str) -> None:
    assert layers.unescaped(text) == plain


ODD = st.sampled_from(
    "е\u0301\u0308ﬁ²½™…\u200b\u00ad\u0660\uff11\uff20\u0430\u212a\u2019é東\u0f73\u1100\u1161\u11a8\u2028\x85\xa0\u0344"
)
MIXED = st.lists(
    ODD | st.characters(exclude_categories=["Cs"]) | st.sampled_from("ae 1=<\n\0\x1b\x7f"), max_size=30
).map("".join)


FOREIGN = r"[^\t\n\r -~]+"


def fold(run: str) -> str:
    """One run by itself, letter by letter after the standard's own form."""
    plain = unicodedata.normalize("NFKC", re.sub(sensitive._INVISIBLE, "", run))
    plain = "".join([sensitive._LOOKALIKES.get(letter, letter) for letter in plain])
    return "".join([str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in plain])


@given(MIXED)
def test_many_runs_are_folded_as_each_alone(text: str) -> None:
    expected = re.sub(FOREIGN, lambda run: fold(run[0]), text)
    assert sensitive.folded(text) == expected
    assert sensitive.Folded(text).text == expected


@given(MIXED)
@example("a\uff11\uff12b\u00bd\u200bc")
def test_place_in_a_folded_text_leads_back_to_where_it_was(text: str) -> None:
    """What was folded together is taken as a whole."""
    folded, at, before = sensitive.Folded(text), 0, 0
    for number, part in enumerate(re.split(f"({FOREIGN})", text)):
        plain = fold(part) if number % 2 else part
        for offset in range(len(plain)):
            whole = (before, before + len(part)) if number % 2 else (before + offset, before + offset + 1)
            assert folded.original(sensitive.Span(at + offset, at + offset + 1, "x")) == (*whole, "x")
        if plain:
            assert folded.original(sensitive.Span(at, at + len(plain), "x")) == (before, before + len(part), "x")
        at, before = at + len(plain), before + len(part)


NAMES = st.sampled_from(["password", "apiKey", " : password", "a", "", ":", "token_count", "x" * 600, '"', " "])


@given(st.lists(st.tuples(NAMES, st.sampled_from(['":', '" :', '"', '"\n:', ","])).map("".join), max_size=6))
def test_name_is_seen_in_a_whole_wherever_it_is_seen_in_a_part(parts: list[str]) -> None:
    parts = [f'"{part}' for part in parts]
    if any(map(sensitive.holds_secret_name, parts)):
        assert sensitive.holds_secret_name("\n".join(parts))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('"password":', True),
        ('{"x":1,"Api-Key" : 2}', True),
        ('"{\\"password\\":1}"', True),
        ('"{\\\\\\"token\\\\\\":1}"', True),
        ('"password"', False),
        ('"compass":', False),
        ('"note":"password"', False),
        ('"x":', False),
        ('["--password","x"]', True),
        ('"[\\"--p\u0430ssword\\",\\"x\\"]"', True),
        ("see\n--password\nx", True),
        ('["--tokens","--no-password","-- token"]', False),
        ('{"name":"Authorization","value":"x"}', True),
        ('"{\\"value\\":1,\\"key\\":\\"token\\"}"', True),
        ('{"name":"note","value":"x"}', False),
        ("", False),
    ],
)
def test_secret_name_of_a_member_is_seen_at_any_depth(text: str, holds: bool) -> None:
    assert sensitive.holds_secret_name(text) is holds


@pytest.mark.parametrize(
    ("digits", "is_one"),
    [
        ("4000000000006", True),
        ("4000000000007", False),
        ("400000000006", False),
        ("4000000000000000006", True),
        ("40000000000000000002", False),
        ("1000000000008", False),
    ],
)
def test_a_card_has_thirteen_to_nineteen_digits_and_its_check(digits: str, is_one: bool) -> None:
    assert sensitive.is_card(digits) is is_one
    assert sensitive.is_card_number(int(digits)) is is_one
    assert sensitive.holds_card_number(f"[1234567890123,{digits}]") is is_one


@given(st.text("0123456789 -é", max_size=60), st.sampled_from(["", "4111111111111111", "378282246310005"]))
def test_card_among_digits_is_found_as_by_reading_all_of_them(text: str, card: str) -> None:
    text += card
    assert sensitive.holds_card_number(text) == any(map(sensitive.is_card, re.findall("[0-9]{13,19}", text)))
