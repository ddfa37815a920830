"""The auditor's routes: what a wrong question is told, and what a right one is answered with."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from tests.edges.conftest import key_of
from tests.gateway import GatewayProcess, call

QUERY = {"query": "SELECT 1"}


@pytest.fixture(scope="module", autouse=True)
def _sessions(gateway: GatewayProcess) -> None:
    for tenant in ("default", "b"):
        call(gateway.client(key_of("agent", tenant)), "db_query", QUERY, session=f"evidence-{tenant}")


def ask(gateway: GatewayProcess, of: str = "default", path: str = "/evidence", **asked: Any) -> Any:
    return gateway.client(key_of("auditor", of)).get(path, params=asked or None)


@pytest.mark.parametrize(
    "asked",
    [
        {"session": "a b"},
        {"agent": "../x"},
        {"tenant": "' OR 1=1 --"},
        {"session": "s", "agent": "a"},
        {"since": "yesterday"},
        {"since": "2026-11-21T08:00:00"},
        {"until": "9999-99-99"},
        {"since": "2026-11-22", "until": "2026-11-21"},
        {"checkpoint_size": "-1"},
        {"checkpoint_size": "x"},
        {"checkpoint_size": str(2**60)},
        {"sesion": "a misspelt filter is not no filter"},
    ],
)
def test_a_question_that_is_none_is_422(gateway: GatewayProcess, asked: dict[str, str]) -> None:
    answer = ask(gateway, **asked)
    assert (answer.status_code, answer.json()["reason_code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/evidence", "session=evidence-b&session=evidence-default"),
        ("/sessions/evidence-default/evidence", "format=zip&format=json"),
        ("/sessions/evidence-default/evidence", "since=2099-01-01"),
        ("/sessions/evidence-default/evidence", "checkpointsize=3"),
    ],
)
def test_what_is_said_twice_or_is_none_of_a_routes_members_is_422(
    gateway: GatewayProcess, path: str, asked: str
) -> None:
    answer = ask(gateway, path=f"{path}?{asked}")
    assert (answer.status_code, answer.json()["reason_code"]) == (422, "invalid_request")


@pytest.mark.parametrize("path", ["/evidence", "/sessions/evidence-b/evidence"])
def test_another_format_is_400_as_it_was_in_v02(gateway: GatewayProcess, path: str) -> None:
    answer = ask(gateway, path=path, format="docx")
    assert answer.status_code == 400
    assert (answer.json()["error"], answer.json()["received"]) == ("Invalid format", "docx")


@pytest.mark.parametrize("path", ["/evidence", "/sessions/evidence-b/evidence"])
def test_another_tenants_evidence_is_404_for_who_does_not_see_it(gateway: GatewayProcess, path: str) -> None:
    assert ask(gateway, "b", path, tenant="default").status_code == 404
    assert ask(gateway, "default", path, tenant="b").status_code == 200, "an auditor of all tenants does"


def test_a_tenants_pack_holds_nothing_of_another_one(gateway: GatewayProcess) -> None:
    answer = ask(gateway, "b")
    assert "evidence-b" in answer.json()["metadata"]["sessions"]
    assert "bot-default" not in answer.text
    assert "evidence-default" not in answer.text


@pytest.mark.parametrize("role", ["operator", "approver", "opa", "agent"])
def test_only_an_auditor_takes_evidence(gateway: GatewayProcess, role: str) -> None:
    assert gateway.client(key_of(role)).get("/evidence").status_code == 403


@pytest.mark.parametrize(
    ("form", "media_type"),
    [
        ("json", "application/json"),
        ("html", "text/html; charset=utf-8"),
        ("pdf", "application/pdf"),
        ("zip", "application/zip"),
    ],
)
def test_every_form_is_a_file_that_no_cache_keeps_and_no_browser_guesses_about(
    gateway: GatewayProcess, form: str, media_type: str
) -> None:
    answer = ask(gateway, session="evidence-default", format=form)
    headers = answer.headers
    assert answer.status_code == 200
    assert headers["Content-Type"] == media_type
    assert headers["Content-Disposition"] == f'attachment; filename="evidence-evidence-default.{form}"'
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert int(headers["Content-Length"]) == len(answer.content)
    assert int(headers["X-AgentGate-Events"]) >= 2
    assert ("Content-Security-Policy" in headers) == (form == "html")
    assert "X-Evidence-HMAC" not in headers, "no key is set here"


def test_a_session_that_nobody_knows_has_a_pack_of_its_export_alone(gateway: GatewayProcess) -> None:
    pack = ask(gateway, session="nobody").json()
    assert (pack["timeline"], pack["integrity"]["event_count"], len(pack["summary"]["exports"])) == ([], 1, 1)


def test_a_log_that_never_was_so_long_is_not_continued(gateway: GatewayProcess) -> None:
    answer = ask(gateway, format="zip", checkpoint_size=2**40)
    assert answer.status_code == 422
    assert "continues none" in answer.json()["detail"]


def test_an_agents_pack_has_the_calls_of_its_sessions(gateway: GatewayProcess) -> None:
    by_agent = ask(gateway, agent="bot-b", tenant="b").json()["timeline"]
    by_session = ask(gateway, session="evidence-b", tenant="b").json()["timeline"]
    assert [entry for entry in by_agent if entry["session_id"] == "evidence-b"] == by_session != []


def test_each_view_is_signed_over_the_bytes_that_are_sent() -> None:
    key = "a-signing-key-for-one-test-5c1d-0a"
    with GatewayProcess(env={"AGENTGATE_SIGNING_KEY": key}, config={"evidence": {"max_events": 6}}) as gateway:
        gateway.call("db_query", QUERY, session="s")
        for form in ("html", "pdf"):
            answer = gateway.admin().get(f"/sessions/s/evidence?format={form}")
            made = hmac.new(key.encode(), answer.content, hashlib.sha256).hexdigest()
            assert answer.headers["X-Evidence-HMAC"] == f"sha256={made}"
        for _ in range(3):
            gateway.call("db_query", QUERY, session="s")
        answer = gateway.admin().get("/sessions/s/evidence")
        assert (answer.status_code, answer.json()["reason_code"]) == (413, "pack_too_large")
