"""The quick look at a whole document, and the texts that it is of: what each says, so that a look spares what it may.

That it spares nothing that a redaction would find is held by the properties of test_redact.py.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from agentgate.adapters.detectors.known import KnownData
from agentgate.core.redaction import reading
from agentgate.core.redaction.look import BY_NAME, NOTHING, Seen
from agentgate.core.redaction.redactor import Redactor

KNOWN = KnownData()
LOOK = Redactor(None, [KNOWN]).everything.look
MAIL = "canary@example.org"
FOREIGN = "canary\uff20example.org"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


RUN, HARMLESS = encoded(MAIL), encoded("nothing to see here")
IN_LINES = base64.encodebytes(b"x" * 50 + MAIL.encode()).decode()
OF_MAIL = Seen((KNOWN,), NOTHING, folds=False, named=False)
"""Of a text with an address in it."""
OF_RUN = Seen((), OF_MAIL, folds=False, named=False)
"""Of one in which it is encoded."""


@pytest.mark.parametrize(
    ("texts", "seen"),
    [
        ([], NOTHING),
        (["nothing", "to see"], NOTHING),
        (["\u201cquoted\u201d"], NOTHING),
        (["canary", "@example.org"], NOTHING),
        ([HARMLESS], NOTHING),
        (['"password":'], BY_NAME),
        (['"p\u0430ssword":'], BY_NAME._replace(folds=True)),
        (["z\u00fcrich", '"password":'], BY_NAME),
        (["p\u0430ssword:"], NOTHING),
        ([MAIL], OF_MAIL),
        ([MAIL, "nothing"], OF_MAIL),
        (["4111111111111111"], OF_MAIL._replace(named=True)),
        (["\u201c", "4111111111111111"], OF_MAIL._replace(named=True, folds=True)),
        ([FOREIGN], OF_MAIL._replace(folds=True)),
        ([MAIL, "z\u00fcrich"], OF_MAIL),
        ([MAIL, '"password":'], OF_MAIL._replace(named=True)),
        ([RUN], OF_RUN._replace(runs=(RUN,))),
        ([RUN, '"password":'], OF_RUN._replace(runs=(RUN,), named=True)),
        ([RUN, HARMLESS], OF_RUN._replace(runs=(RUN, HARMLESS))),
        ([encoded(RUN)], Seen((), OF_RUN._replace(runs=(RUN,)), folds=False, named=False, runs=(encoded(RUN),))),
        ([encoded(encoded(RUN))], LOOK([encoded(encoded(RUN))])),
        ([encoded(encoded(encoded(RUN)))], NOTHING),
        (["%63anary%40example.org"], OF_RUN._replace(runs=())),
        (["\\u0063anary\\u0040example.org"], OF_RUN._replace(runs=())),
        ([IN_LINES], OF_RUN),
        ([RUN] * 64, OF_RUN._replace(runs=(RUN,) * 64)),
        ([RUN] * 65, OF_RUN),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_look_says_what_may_be_in_the_parts(texts: list[str], seen: Seen) -> None:
    found = LOOK(texts)
    assert found == seen
    assert (found is NOTHING) == (seen is NOTHING)


def test_in_a_whole_document_the_runs_that_hold_nothing_are_told_apart() -> None:
    assert LOOK([RUN, HARMLESS], is_whole=True) == OF_RUN._replace(runs=(RUN,))
    assert LOOK([HARMLESS, RUN, HARMLESS, RUN], is_whole=True) == OF_RUN._replace(runs=(RUN, RUN))
    assert LOOK([HARMLESS, encoded(RUN)], is_whole=True).runs == (encoded(RUN),)
    assert LOOK([RUN, IN_LINES], is_whole=True).runs is None


def test_of_a_whole_document_it_is_kept_how_its_texts_are_read() -> None:
    plain = {FOREIGN: MAIL, "\u201c": '"'}
    seen = LOOK([FOREIGN, "ascii", "\u201c"], is_whole=True)
    assert seen == OF_MAIL._replace(folds=True, plain=plain)
    assert seen.look([FOREIGN]) == OF_MAIL._replace(folds=True, plain=plain)


def test_a_name_that_was_seen_in_other_letters_is_seen_again_in_a_part() -> None:
    run = encoded('{"p\u0430ssword_2": 1}')
    assert LOOK([run]).look([run], closely=True).inner == BY_NAME._replace(folds=True)


def test_nothing_is_looked_for_that_was_not_seen_in_the_whole() -> None:
    """A part cannot hold what the document does not."""
    assert OF_MAIL.look([RUN]) is NOTHING
    assert OF_MAIL.look(['"password":']) is NOTHING
    assert OF_MAIL.look([FOREIGN]) is NOTHING
    assert OF_MAIL.look([MAIL, '"password":']) == OF_MAIL
    assert OF_RUN._replace(runs=(RUN,)).look([MAIL, encoded(f"another {MAIL}")]) is NOTHING
    assert LOOK([RUN], 0) is NOTHING
    assert LOOK([MAIL], closely=True).closely
    assert LOOK(["canary", "@example.org"], text=MAIL) == OF_MAIL


@pytest.mark.parametrize(
    ("seen", "text", "opens"),
    [
        (NOTHING, RUN, False),
        (BY_NAME, "%41", False),
        (OF_MAIL, RUN, False),
        (OF_RUN, "anything", True),
        (OF_RUN._replace(runs=(RUN,)), f"see {RUN}", True),
        (OF_RUN._replace(runs=(HARMLESS, RUN)), f"see {RUN}", True),
        (OF_RUN._replace(runs=(RUN,)), "see nothing", False),
        (OF_RUN._replace(runs=()), "see %41", True),
        (OF_RUN._replace(runs=()), "see \\u0041", True),
        (OF_RUN._replace(runs=()), "see A", False),
    ],
)
def test_a_text_is_opened_where_there_may_be_something_in_it(seen: Seen, text: str, opens: bool) -> None:
    assert seen.may_open(text) is opens


# --- the texts of a document ----------------------------------------------------------------------------------


def test_names_that_are_not_in_ascii_stay_names() -> None:
    told = ["{", "a", ":", "\u00e9", ",", '"\u00e9":', ":", "x", ",", '"\u00e9":', " :", "\u00e9", "}"]
    assert reading.strings('{"a":"\u00e9","\u00e9":"x","\u00e9" :"\u00e9"}') == told


@pytest.mark.parametrize(
    ("texts", "known", "plain"),
    [
        (["\uff20", "x"], {}, ["@", "x"]),
        (["\uff20"], {}, ["@"]),
        (["a\nb", "\uff20"], {}, ["a\nb", "@"]),
        (["a b", "\uff20 x"], {}, ["a b", "@ x"]),
        (["k", "\uff20"], {"k": "other"}, ["other", "@"]),
        (["k"], {"k": "other"}, ["other"]),
    ],
)
def test_texts_are_folded_each_by_itself_also_where_they_are_in_one(
    texts: list[str], known: dict[str, str], plain: list[str]
) -> None:
    assert reading.folded(texts, known) == plain


def test_texts_are_read_without_their_encoding_and_escapes() -> None:
    texts = ["%41", "100 %", "\\u0042", "\\q", "x", "%43\\u0044"]
    assert reading.rewritten(texts, "".join(texts)) == ["A", "C\\u0044", "B", "%43D"]
    assert reading.rewritten(texts[:2], "".join(texts[:2])) == ["A"]
    assert reading.rewritten(["x"], "x") == []


@pytest.mark.parametrize(
    ("depth", "read"), [(0, []), (1, ['["\\u0042"]', '"a":', "A"]), (2, ["B", '"a":', "A"]), (3, ["B", '"a":', "A"])]
)
def test_what_is_escaped_in_json_is_read_as_deep_as_anybody_looks(depth: int, read: list[str]) -> None:
    assert reading.escaped(['{"a":"\\u0041"}', "plain \\u0041", '["x"]', '["[\\"\\\\u0042\\"]"]'], depth) == read


@pytest.mark.parametrize(
    ("value", "depth", "read"),
    [
        ({"a": "xy", "b": [1, 2.5, True, None]}, 0, ['"a":', '"b":', "1", "2.5", "xy"]),
        ('["[\\"[1]\\"]"]', 0, ['["[\\"[1]\\"]"]']),
        ('["[\\"[1]\\"]"]', 1, ['["[1]"]']),
        ('["[\\"[1]\\"]"]', 2, ["[1]"]),
        ('["[\\"[1]\\"]"]', 3, ["1"]),
        ([' {"a": 1}', "{no}", '"quoted"'], 1, ['"a":', "1", "quoted", "{no}"]),
    ],
)
def test_a_values_texts_are_its_names_and_what_is_in_its_texts(value: Any, depth: int, read: list[str]) -> None:
    found = reading.of_value(value, depth)
    assert found is not None
    assert sorted(found) == sorted(read)


@pytest.mark.parametrize(("value", "most"), [("abc", 3), (["ab", "cd"], 5), ({"ab": "c"}, 7), ([1, 2.5], 5)])
def test_of_a_value_with_more_text_than_wanted_nothing_is_read(value: Any, most: int) -> None:
    whole = reading.of_value(value, 0)
    assert whole is not None
    assert reading.of_value(value, 0, most) == whole
    assert reading.of_value(value, 0, most - 1) is None
    assert reading.of_value([value, "x" * 100], 0, most) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1]", [1]), (" [1]\n", [1]), ('{"a":1}', {"a": 1}), ('"x"', "x"),
        ("x", None), ("1", None), (" x", None), ("[1", None), ('[]"', None), ("{1}", None), ("", None),
        ('{"a":1,"a":2}', None), ("\u00e9[]", None),
    ],
)  # fmt: skip
def test_a_text_is_a_document_where_it_is_json_in_brackets_or_quotes(text: str, value: Any) -> None:
    assert reading.document(text) == value
