"""Evidence end to end: complete, signed over everything, checked offline by `agentgate verify`."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentgate.adapters.signers.ecdsa import EcdsaSigner
from agentgate.cli import cli
from agentgate.core.dsse import PublicKey, parse_envelope
from tests import postgres_server
from tests.e2e.conftest import SIGNING_KEY, STATIC_TOKEN
from tests.gateway import GatewayFailed, GatewayProcess, run_cli
from tests.postgres_server import PostgresServer
from tests.timestamp_server import TimestampServer, openssl

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
    assert verify(path, "--key", "another-key-of-thirty-two-characters") == BROKEN
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


def test_the_log_verifies_beside_the_running_gateway(
    gateway: GatewayProcess, session: str, busy: list[dict[str, Any]]
) -> None:
    done = run_cli("log", "verify", "--data-dir", str(gateway.data_dir))
    assert done.returncode == 0, done.stdout
    assert "the log holds" in done.stdout


# --- zips, their keys, and the command line ---------------------------------------------------------------------


def evidence(gateway: GatewayProcess, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`agentgate evidence …` against a gateway, as an auditor says it."""
    env = {"AGENTGATE_URL": gateway.url, "AGENTGATE_KEY": gateway.admin_key}
    return run_cli("evidence", *words, env=env, cwd=cwd)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as found:
        return {name: found.read(name) for name in found.namelist()}


def test_a_pack_is_pulled_and_verified_with_the_keys_that_the_operator_hands_out(
    gateway: GatewayProcess, session: str, busy: list[dict[str, Any]], tmp_path: Path
) -> None:
    keys = run_cli("evidence", "keys", "--out", str(tmp_path / "trust"), "--data-dir", str(gateway.data_dir))
    assert keys.returncode == 0, keys.stderr
    pulled = evidence(gateway, "pull", session, "-o", "pack.zip", cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    trust = [f"--trust={tmp_path / 'trust' / name}" for name in ("log.vkey", "envelope.pub.pem")]
    path = tmp_path / "pack.zip"
    assert verify(path, *trust) == HOLDS
    assert verify(path, "--key", SIGNING_KEY) == HOLDS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = members_of(path)
    assert files["keys/log.vkey"] == (tmp_path / "trust/log.vkey").read_bytes()
    assert hashlib.sha256(files["pack.json"]).hexdigest() in pulled.stdout
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["pack.zip", "trust"]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert verify(path, *trust) == BROKEN


def test_a_page_is_pulled_with_its_hmac_beside_it(gateway: GatewayProcess, session: str, tmp_path: Path) -> None:
    gateway.call("db_query", {"query": "SELECT 1"}, session=session)
    for form in ("html", "pdf"):
        pulled = evidence(gateway, "pull", session, "--format", form, cwd=tmp_path)
        assert pulled.returncode == 0, pulled.stderr
        assert verify(tmp_path / f"evidence-{session}.{form}", "--key", SIGNING_KEY) == HOLDS
        assert (
            verify(tmp_path / f"evidence-{session}.{form}", "--key", "another-key-of-thirty-two-characters") == BROKEN
        )


def test_a_later_pack_continues_the_checkpoint_of_an_earlier_one(
    gateway: GatewayProcess, session: str, tmp_path: Path
) -> None:
    gateway.call("db_query", {"query": "SELECT 1"}, session=session)
    assert evidence(gateway, "pull", session, "-o", "one.zip", cwd=tmp_path).returncode == 0
    kept = tmp_path / "kept"
    kept.write_bytes(members_of(tmp_path / "one.zip")["checkpoint"])
    gateway.call("db_query", {"query": "SELECT 1"}, session=session)
    assert evidence(gateway, "pull", session, "-o", "two.zip", "--checkpoint", "kept", cwd=tmp_path).returncode == 0
    (tmp_path / "vkey").write_bytes(members_of(tmp_path / "one.zip")["keys/log.vkey"])
    keys = ("--key", SIGNING_KEY, f"--trust={tmp_path / 'vkey'}")
    assert verify(tmp_path / "two.zip", *keys, "--checkpoint", str(kept)) == HOLDS
    assert verify(tmp_path / "one.zip", *keys, "--checkpoint", str(kept)) == HOLDS, "it is that very one"


def test_former_keys_are_in_the_zip_and_the_log_names_each_key_that_signed(tmp_path: Path) -> None:
    (tmp_path / "former.pem").write_bytes(b"")
    with GatewayProcess(data_dir=tmp_path / "data") as gateway:
        gateway.call("db_query", {"query": "SELECT 1"}, session="s")
        assert evidence(gateway, "pull", "s", "-o", "old.zip", cwd=tmp_path).returncode == 0
    old = members_of(tmp_path / "old.zip")["keys/envelope.pub.pem"]
    (tmp_path / "former.pem").write_bytes(old)
    (tmp_path / "data" / "envelope-key.pem").unlink()
    config = {"evidence": {"signing": {"kind": "ed25519"}, "former_keys": [str(tmp_path / "former.pem")]}}
    with GatewayProcess(data_dir=tmp_path / "data", config=config) as gateway:
        assert evidence(gateway, "pull", "s", "-o", "new.zip", cwd=tmp_path).returncode == 0
        events = gateway.admin().get("/audit", params={"kind": "keyed"}).json()["events"]
    files = members_of(tmp_path / "new.zip")
    former = PublicKey.from_pem(old)
    now = PublicKey.from_pem(files["keys/envelope.pub.pem"])
    assert (former.algorithm, now.algorithm) == ("ecdsa-p256", "ed25519")
    assert files[f"keys/retired-{former.key_id}.pub.pem"] == old
    assert [key.key_id in json.dumps(events) for key in (former, now)] == [True, True]
    for pack, holds in (("old.zip", HOLDS), ("new.zip", BROKEN)):
        assert verify(tmp_path / pack, f"--trust={tmp_path / 'former.pem'}") == holds, "each its own key"


def test_an_envelope_key_out_of_the_environment_signs(tmp_path: Path) -> None:
    EcdsaSigner.from_file_or_new(tmp_path / "key.pem")
    pem = (tmp_path / "key.pem").read_bytes()
    env = {"MY_ENVELOPE_KEY": base64.b64encode(pem).decode()}
    config = {"evidence": {"signing": {"key": {"env": "MY_ENVELOPE_KEY"}}}}
    with GatewayProcess(env=env, config=config) as gateway:
        gateway.call("db_query", {"query": "SELECT 1"}, session="s")
        assert evidence(gateway, "pull", "s", "-o", "pack.zip", cwd=tmp_path).returncode == 0
        assert not (gateway.data_dir / "envelope-key.pem").exists()
    found = PublicKey.from_pem(members_of(tmp_path / "pack.zip")["keys/envelope.pub.pem"])
    assert found.spki == EcdsaSigner.from_file(tmp_path / "key.pem").spki
    with pytest.raises(GatewayFailed, match="MY_ENVELOPE_KEY"), GatewayProcess(config=config):
        pass


def test_a_zip_is_stamped_by_a_real_authority_and_says_so_when_it_is_not(tmp_path: Path) -> None:
    authority = TimestampServer(tmp_path)
    with authority.serving():
        config = {"evidence": {"timestamp_url": authority.url, "timestamp_ca": str(authority.ca)}}
        with GatewayProcess(config=config) as gateway:
            gateway.call("db_query", {"query": "SELECT 1"}, session="s")
            assert evidence(gateway, "pull", "s", "-o", "stamped.zip", cwd=tmp_path).returncode == 0
            authority.answer = b"out of order"
            assert evidence(gateway, "pull", "s", "-o", "plain.zip", cwd=tmp_path).returncode == 0
            assert gateway.metric("agentgate_timestamps_missing_total") == 1
        config["evidence"]["timestamp_required"] = True  # type: ignore[assignment]
        with GatewayProcess(config=config) as gateway:
            refused = gateway.admin().get("/sessions/s/evidence?format=zip")
            assert (refused.status_code, refused.json()["reason_code"]) == (503, "timestamp_unavailable")
            assert gateway.admin().get("/sessions/s/evidence?format=json").status_code == 200
    files = members_of(tmp_path / "stamped.zip")
    envelope = parse_envelope(files["pack.dsse.json"])
    (tmp_path / "signature").write_bytes(envelope.signatures[0].raw)
    (tmp_path / "pack.dsse.tsr").write_bytes(files["pack.dsse.tsr"])
    openssl(tmp_path, "ts", "-verify", "-data", "signature", "-in", "pack.dsse.tsr", "-CAfile", "ca.pem")
    assert "pack.dsse.tsr" not in members_of(tmp_path / "plain.zip")


@pytest.mark.skipif(not postgres_server.is_installed(), reason="PostgreSQL is not installed")
def test_a_pack_from_postgresql_convinces_as_well(tmp_path: Path) -> None:
    with PostgresServer() as database:
        database.sql("CREATE DATABASE agentgate")
        url = database.url("agentgate")
        assert run_cli("log", "migrate", "--database-url", url).returncode == 0
        env = {"AGENTGATE_DATABASE_URL": url, "AGENTGATE_SIGNING_KEY": SIGNING_KEY}
        with GatewayProcess(env=env) as gateway:
            for _ in range(300):  # more than one tile
                gateway.call("db_query", {"query": "SELECT 1"}, session="s")
            assert evidence(gateway, "pull", "s", "-o", "pack.zip", cwd=tmp_path).returncode == 0
    (tmp_path / "vkey").write_bytes(members_of(tmp_path / "pack.zip")["keys/log.vkey"])
    assert verify(tmp_path / "pack.zip", f"--trust={tmp_path / 'vkey'}", "--key", SIGNING_KEY) == HOLDS
