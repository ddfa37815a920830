"""`GET /audit`: what may be asked, who sees what, and how it is answered."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx
import pytest

from tests.edges.conftest import key_of
from tests.gateway import GatewayProcess, call

QUERY = {"query": "SELECT 'Straße' AS x"}


@pytest.fixture(scope="module", autouse=True)
def _two_tenants(gateway: GatewayProcess) -> None:
    for tenant in ("default", "b"):
        agent = gateway.client(key_of("agent", tenant))
        for number in range(3):
            call(agent, "db_query", QUERY, session=f"audit-{tenant}-{number}")
        call(agent, "no_such_tool", {}, session=f"audit-{tenant}-0")


@pytest.fixture
def all_tenants(gateway: GatewayProcess) -> httpx.Client:
    return gateway.client(key_of("auditor"))


@pytest.fixture
def of_b(gateway: GatewayProcess) -> httpx.Client:
    return gateway.client(key_of("auditor", "b"))


def page(client: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = client.get("/audit", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def problem(client: httpx.Client, status: int, **asked: Any) -> dict[str, Any]:
    answer = client.get("/audit", params=asked)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason_code"] in ("invalid_request", "forbidden")
    return answer.json()  # type: ignore[no-any-return]


def exports(client: httpx.Client) -> int:
    return len(page(client, kind="exported", limit=1000)["events"])


def test_a_page_has_events_and_where_to_go_on(all_tenants: httpx.Client) -> None:
    first = page(all_tenants, limit=3)
    assert set(first) == {"events", "next", "size"}
    assert [event["index"] for event in first["events"]] == [0, 1, 2]
    second = page(all_tenants, limit=3, cursor=first["next"])
    assert [event["index"] for event in second["events"]] == [3, 4, 5]
    assert page(all_tenants, first=first["size"], session="audit-b-1") == {
        "events": [],
        "next": None,
        "size": page(all_tenants, limit=1)["size"],
    }


def test_the_newest_come_first_when_asked(all_tenants: httpx.Client) -> None:
    found = page(all_tenants, order="desc", limit=2)
    assert [event["index"] for event in found["events"]] == [found["size"] - 1, found["size"] - 2]


def test_answers_are_kept_by_nobody_in_between(all_tenants: httpx.Client) -> None:
    for form in ("json", "csv"):
        assert all_tenants.get("/audit", params={"format": form}).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "asked",
    [
        *[{name: "a b"} for name in ("session", "agent", "tenant")],
        *[{name: ""} for name in ("session", "agent", "tenant", "tool", "trace_id", "text", "since")],
        *[{name: "nothing of the kind"} for name in ("decision", "reason", "outcome", "kind", "order", "format")],
        *[{name: "x\x00y"} for name in ("tool", "trace_id", "text", "session")],
        *[{name: "card 4111 1111 1111 1111", "format": "jsonl"} for name in ("tool", "trace_id")],
        *[{"tool": name} for name in ("a/b", "a..b")],
        *[{name: "x" * 257} for name in ("tool", "trace_id", "text", "session")],
        *[{name: when} for name in ("since", "until") for when in ("soon", "2026-13-01", "2026-11-21T08:00:00", "12")],
        {"since": "0001-01-01T00:00:00+14:00"},
        *[{"limit": number} for number in ("0", "-1", "1001", "x", "1e3", str(2**64))],
        *[{"first": number} for number in ("-1", "x", str(2**64))],
        {"cursor": "x" * 65},
        {"format": "csv", "cursor": "AAAA"},
        {"sesion": "s-1"},
        {"session": ["s-1", "s-2"]},
        {"limit": ["1", "2"]},
    ],
    ids=str,
)
def test_what_is_no_question_is_422(all_tenants: httpx.Client, asked: dict[str, Any]) -> None:
    """A filter that is misspelt or said twice is refused too: it would answer another question."""
    before = exports(all_tenants)
    problem(all_tenants, 422, **asked)
    assert exports(all_tenants) == before


def test_a_cursor_that_was_tampered_with_or_is_another_querys_is_400(all_tenants: httpx.Client) -> None:
    cursor = page(all_tenants, limit=2)["next"]
    problem(all_tenants, 400, limit=2, cursor=("A" if cursor[0] != "A" else "B") + cursor[1:])
    problem(all_tenants, 400, limit=2, cursor=cursor, decision="ALLOW")
    problem(all_tenants, 400, limit=2, cursor="")
    problem(all_tenants, 400, limit=2, cursor="%00")


def test_a_cursor_of_one_viewer_is_none_of_another(all_tenants: httpx.Client, of_b: httpx.Client) -> None:
    problem(of_b, 400, limit=2, cursor=page(all_tenants, limit=2)["next"])


@pytest.mark.parametrize(
    ("asked", "tools"),
    [
        ({"agent": "bot-b", "kind": "decided"}, 4),
        ({"agent": "agent:bot-b", "kind": "decided"}, 4),
        ({"agent": "person:bot-b"}, 0),
        ({"reason": "unknown_tool", "tenant": "b"}, 1),
        ({"decision": "DENY", "tenant": "b"}, 1),
        ({"outcome": "ok", "tenant": "b"}, 3),
        ({"tool": "no_such_tool", "tenant": "b"}, 1),
        ({"session": "audit-b-0", "kind": ["decided", "finished"]}, 3),
        ({"text": "STRASSE", "tenant": "b"}, 3),
        ({"text": "%", "tenant": "b"}, 0),
        ({"since": "2000-01-01", "until": "2000-01-02"}, 0),
        ({"since": "2000-01-01T00:00:00+02:00", "tenant": "b", "decision": "ALLOW"}, 3),
    ],
    ids=str,
)
def test_filters_find_what_fits(all_tenants: httpx.Client, asked: dict[str, Any], tools: int) -> None:
    assert len(page(all_tenants, **asked)["events"]) == tools


# --- tenants ----------------------------------------------------------------------------------------------------


def test_an_auditor_of_one_tenant_gets_its_events_in_every_form(of_b: httpx.Client) -> None:
    found = page(of_b, limit=1000)["events"]
    assert {event["event"]["tenant"] for event in found} == {"b"}
    for form in ("jsonl", "csv", "otlp", "oscal"):
        text = of_b.get("/audit", params={"format": form}).text
        assert "audit-default" not in text
        assert "bot-default" not in text


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_another_tenant_is_refused(of_b: httpx.Client, all_tenants: httpx.Client, form: str) -> None:
    before = exports(all_tenants)
    assert problem(of_b, 403, tenant="default", format=form)["reason_code"] == "forbidden"
    assert exports(all_tenants) == before


# --- streams ----------------------------------------------------------------------------------------------------


def test_a_page_leaves_no_event_and_an_export_one(all_tenants: httpx.Client) -> None:
    before = page(all_tenants, limit=1)["size"]
    page(all_tenants, session="audit-b-0")
    assert page(all_tenants, limit=1)["size"] == before
    for number, form in enumerate(("jsonl", "csv", "oscal", "otlp"), start=1):
        assert all_tenants.get("/audit", params={"format": form, "session": "audit-b-0"}).status_code == 200
        newest = page(all_tenants, order="desc", limit=1)
        assert newest["size"] == before + number
        [event] = newest["events"]
        assert event["event"]["kind"] == "exported"
        assert event["event"]["format"] == form
        assert event["event"]["of_session"] == "audit-b-0"
        assert event["event"]["principal"] == "person:auditor-default"


def test_lines_come_to_who_accepts_them(all_tenants: httpx.Client) -> None:
    asked = {"tenant": "b", "kind": "decided"}
    streamed = all_tenants.get("/audit", params=asked, headers={"Accept": "application/x-ndjson"})
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert "content-length" not in streamed.headers
    assert [json.loads(line) for line in streamed.text.splitlines()] == page(all_tenants, **asked)["events"]


def test_csv_is_a_file_with_one_row_for_each_event(all_tenants: httpx.Client) -> None:
    answer = all_tenants.get("/audit", params={"format": "csv", "tenant": "b", "kind": "decided"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    assert len(list(csv.DictReader(io.StringIO(answer.text, newline="")))) == 4


def test_oscal_is_one_document(all_tenants: httpx.Client) -> None:
    first, second = (
        all_tenants.get("/audit", params={"format": "oscal", "tenant": "b", "until": "2100-01-01", "limit": 4})
        for _ in range(2)
    )
    assert first.content == second.content
    assert len(first.json()["assessment-results"]["results"]) == 1


def test_a_stream_ends_where_it_is_told(all_tenants: httpx.Client) -> None:
    for number in (1, 3):
        answer = all_tenants.get("/audit", params={"format": "jsonl", "limit": number})
        assert len(answer.text.splitlines()) == number
