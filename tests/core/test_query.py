"""What fits a query, and a record as a line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentgate.core.event import Kind, Record
from agentgate.core.query import Query, as_line
from tests.core.events import a_session, record_of, with_text

SESSION = a_session(1)
DECIDED = SESSION[0]


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (Query(), True),
        (Query(tenant="default"), True),
        (Query(tenant="other"), False),
        (Query(tenant=""), False),
        (Query(session="s-1", agent="agent:bot", tool="db_query", decision="ALLOW"), True),
        (Query(agent="bot"), False),
        (Query(tool="db_quer"), False),
        (Query(tool="DB_QUERY"), False),
        (Query(outcome="ok"), False),
        (Query(reason_code=DECIDED.fields["reason_code"]), True),
        (Query(reason_code="policy_deny"), False),
        (Query(kinds=()), False),
        (Query(kinds={Kind.DECIDED}), True),
        (Query(since=DECIDED.fields["at"]), True),
        (Query(until=DECIDED.fields["at"]), False),
        (Query(trace_id=DECIDED.fields["trace_id"]), True),
        (Query(text="ARGUMENTS"), True),
        (Query(text="arguments%"), False),
        (Query(session="s-1", tool="other"), False),
    ],
)
def test_all_that_is_asked_must_fit(query: Query, fits: bool) -> None:
    assert query.matches(DECIDED) is fits


def test_an_end_is_found_by_what_it_came_to() -> None:
    end = next(record for record in SESSION if record.kind is Kind.FINISHED)
    outcome = end.fields["outcome"]
    assert Query(outcome=outcome).matches(end)
    assert not Query(outcome=f"not {outcome}").matches(end)


@pytest.mark.parametrize("text", ["STRASSE", "straße", "Straße"])
def test_text_is_found_in_any_case(text: str) -> None:
    assert Query(text=text).matches(record_of(with_text("an der Straße")[0]))


def test_what_is_of_no_session_is_found_as_such() -> None:
    fields = {name: value for name, value in DECIDED.fields.items() if name not in ("tenant", "session")}
    assert Query(tenant="", session="").matches(replace(DECIDED, fields=fields))
    assert not Query(tenant="default").matches(replace(DECIDED, fields=fields))


def test_a_pruned_body_holds_no_text() -> None:
    pruned = replace(DECIDED, raw_body=None, salt=None)
    assert Query().matches(pruned)
    assert not Query(text="arguments").matches(pruned)
    assert not Query(text="x").matches(pruned)


def test_what_was_asked_can_be_said() -> None:
    query = Query(tenant="t", kinds=(Kind.KILLED, Kind.DECIDED), text="x")
    assert query.said() == {"tenant": "t", "kinds": ["decided", "killed"], "text": "x"}


def test_a_line_is_one_line_even_of_a_leaf_that_was_tampered_with() -> None:
    tampered = Record(0, 1, 0, DECIDED.fields, b'{\n"at":"x"}', None, b'{"a":\n1}')
    assert b'"event":{ "at":"x"},"body":{"a": 1}}' in as_line(tampered)


@pytest.mark.parametrize("salt", [b"\xab", None])
def test_a_line_has_the_leaf_and_the_body_byte_for_byte(salt: bytes | None) -> None:
    body = b'{"b":1, "a":2}' if salt is not None else None
    line = as_line(Record(7, 2, 1, {}, b'{"b":1,"a":2}', salt, body))
    shown, kept = ('"ab"', '{"b":1, "a":2}') if salt is not None else ("null", "null")
    assert line.decode() == (
        f'{{"index":7,"kill_position":1,"salt":{shown},"session_number":2,"event":{{"b":1,"a":2}},"body":{kept}}}'
    )
