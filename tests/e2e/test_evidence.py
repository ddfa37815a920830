"""Evidence end to end: complete, signed over everything, checked offline by `agentgate verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentgate.cli import cli
from tests.e2e.conftest import SIGNING_KEY, STATIC_TOKEN
from tests.gateway import GatewayProcess, run_cli

HOLDS, BROKEN, UNCHECKED = 0, 1, 2


def pack_of(gateway: GatewayProcess, session: str) -> bytes:
    answer = gateway.admin().get(f"/sessions/{session}/evidence?format=json")
    assert answer.status_code == 200
    return answer.content


def verify(path: Path, *flags: str) -> int:
    """The exit status of `agentgate verify`, in this process: starting one takes a second."""
    return CliRunner().invoke(cli, ["verify", str(path), *flags]).exit_code


@pytest.fixture
def busy(gateway: GatewayProcess, session: str) -> list[dict[str, Any]]:
    """The answers of a session in which everything happened once."""
    insert = {"table": "products", "data": {"name": session}}
    answers = [
        gateway.call("db_query", {"query": "SELECT 1"}, session=session),
        gateway.call("db_query", {"query": "SELEC"}, session=session),
        gateway.call("db_query", {}, session=session),
        gateway.call("no_such_tool", {}, session=session),
        gateway.call("db_insert", insert, session=session),
        gateway.call("db_insert", insert, session=session, approval_token=STATIC_TOKEN),
    ]
    gateway.admin().post(f"/sessions/{session}/kill", json={"reason": "enough"})
    return [*answers, gateway.call("db_query", {"query": "SELECT 1"}, session=session)]


def test_the_timeline_names_every_answer_and_how_it_ended(
    gateway: GatewayProcess, session: str, busy: list[dict[str, Any]]
) -> None:
    pack = json.loads(pack_of(gateway, session))
    told = [(answer["trace_id"], answer["decision"], answer["reason_code"]) for answer in busy]
    assert [(e["trace_id"], e["decision"], e["reason_code"]) for e in pack["timeline"]] == told
    assert [e["outcome"] for e in pack["timeline"]] == ["ok", "error", None, None, None, "ok", None]
    assert pack["summary"]["total_tool_calls"] == len(busy)
    assert pack["summary"]["kill_switch_activations"] == 1
    assert pack["summary"]["by_tool"]["db_query"] == {"allowed": 2, "denied": 2}


def test_the_static_token_is_recorded_as_what_it_is(
    gateway: GatewayProcess, session: str, busy: list[dict[str, Any]]
) -> None:
    writes = json.loads(pack_of(gateway, session))["write_action_log"]
    assert [entry["approved_by"] for entry in writes] == ["static token"]
    assert STATIC_TOKEN.encode() not in pack_of(gateway, session)


def test_a_signed_pack_verifies_and_nothing_else_does(
    gateway: GatewayProcess, session: str, busy: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "pack.json"
    raw = pack_of(gateway, session)
    path.write_bytes(raw)
    assert verify(path, "--key", SIGNING_KEY) == HOLDS
    assert run_cli("verify", str(path), env={"AGENTGATE_SIGNING_KEY": SIGNING_KEY}).returncode == HOLDS
    assert verify(path, "--key", "another-key-of-sixteen") == BROKEN
    assert verify(path) == UNCHECKED
    path.write_bytes(raw[:-20])
    assert verify(path, "--key", SIGNING_KEY) == BROKEN
    assert verify(tmp_path / "none.json", "--key", SIGNING_KEY) == BROKEN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tool_name":"no_such_tool"', '"tool_name":"db_query"'),
        ('"decision":"DENY"', '"decision":"ALLOW"'),
        ('"generator":"AgentGate', '"generator":"AgentGatf'),
        ('"total_tool_calls":7', '"total_tool_calls":6'),
        ('"kill_switch_activations":1', '"kill_switch_activations":0'),
        ('"approved_by":"static token"', '"approved_by":"person:boss"'),
        ('"signed_at":"2', '"signed_at":"1'),
    ],
)
def test_an_altered_pack_is_broken(
    gateway: GatewayProcess, session: str, busy: list[dict[str, Any]], tmp_path: Path, old: str, new: str
) -> None:
    text = pack_of(gateway, session).decode()
    assert old in text
    path = tmp_path / "pack.json"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert verify(path, "--key", SIGNING_KEY) == BROKEN


def test_a_pack_without_its_signature_is_broken_for_who_has_the_key(
    gateway: GatewayProcess, session: str, busy: list[dict[str, Any]], tmp_path: Path
) -> None:
    pack = json.loads(pack_of(gateway, session))
    for name in ("signature", "signature_algorithm", "signed_by", "signed_at"):
        pack["integrity"].pop(name, None)
    path = tmp_path / "pack.json"
    path.write_text(json.dumps(pack), encoding="utf-8")
    assert verify(path, "--key", SIGNING_KEY) == BROKEN


def test_an_unsigned_pack_cannot_be_checked(tmp_path: Path) -> None:
    with GatewayProcess() as gateway:
        gateway.call("db_query", {"query": "SELECT 1"}, session="s")
        path = tmp_path / "pack.json"
        path.write_bytes(pack_of(gateway, "s"))
    assert verify(path) == UNCHECKED


def test_findings_are_json_for_machines(gateway: GatewayProcess, session: str, tmp_path: Path) -> None:
    gateway.call("db_query", {"query": "SELECT 1"}, session=session)
    path = tmp_path / "pack.json"
    path.write_bytes(pack_of(gateway, session))
    said = json.loads(CliRunner().invoke(cli, ["verify", str(path), "--key", SIGNING_KEY, "--json"]).stdout)
    assert said["exit_status"] == 0
    assert {finding["standing"] for finding in said["findings"]} == {"holds"}


def test_an_export_is_itself_on_record(gateway: GatewayProcess, session: str) -> None:
    before = gateway.metric('agentgate_evidence_exports_total{format="json"}')
    pack_of(gateway, session)
    assert gateway.metric('agentgate_evidence_exports_total{format="json"}') == before + 1


def test_other_formats_say_that_they_are_not_there_yet(gateway: GatewayProcess, session: str) -> None:
    for form in ("html", "pdf", "zip"):
        answer = gateway.admin().get(f"/sessions/{session}/evidence", params={"format": form})
        assert (answer.status_code, answer.json()["reason_code"]) == (501, "not_implemented")


def test_the_log_verifies_beside_the_running_gateway(
    gateway: GatewayProcess, session: str, busy: list[dict[str, Any]]
) -> None:
    done = run_cli("log", "verify", "--data-dir", str(gateway.data_dir))
    assert done.returncode == 0, done.stdout
    assert "the log holds" in done.stdout
