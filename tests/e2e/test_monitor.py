"""A stranger who follows a running gateway's log, and a gateway that is started on what it must not go on from."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentgate.core.note import NoteKey, checkpoint_of, cosignatures, parse_key
from tests.adapters.log.test_sqlite import tamper
from tests.gateway import GatewayFailed, GatewayProcess, run_cli, until
from tests.witness import TestKeeper, TestWitness, serving_in_thread

ORIGIN = "agentgate.local/log/0"
ADMIN = {"AGENTGATE_ADMIN_API_KEY": "an-admin-key-of-the-monitor-tests"}


def keys_of(gateway: GatewayProcess) -> list[str]:
    return gateway.client().get("/log/keys").text.split()


def signed_size(gateway: GatewayProcess) -> int:
    answer = gateway.client().get("/log/checkpoint")
    if answer.status_code == 404:
        return 0
    return checkpoint_of(answer.content).size


def behind(gateway: GatewayProcess) -> int:
    """Events that no checkpoint covers yet: those of the start too."""
    events: int = gateway.client().get("/health").json()["checkpoint"]["behind"]
    return events


def grow(gateway: GatewayProcess, count: int) -> int:
    """So many calls, of which each is two events, and a checkpoint over all that there is."""
    before = signed_size(gateway)
    for _ in range(count):
        gateway.call("db_query", {"query": "SELECT 1"})
    until(lambda: signed_size(gateway) >= before + 2 * count and not behind(gateway))
    return signed_size(gateway)


def monitor(url: str, file: Path, *vkeys: str) -> subprocess.CompletedProcess[str]:
    keys = [part for vkey in vkeys for part in ("--vkey", vkey)]
    return run_cli("log", "monitor", f"{url}/log", "--checkpoint", str(file), *keys, "--once")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(env=ADMIN, data_dir=tmp_path / "data") as running:
        yield running


def test_a_monitor_follows_a_growing_log_and_catches_one_that_was_written_anew(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    file, (vkey,) = tmp_path / "seen", keys_of(gateway)
    for count in (1, 3, 150):
        size = grow(gateway, count)
        done = monitor(gateway.url, file, vkey)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{size} events" in done.stdout
        assert gateway.client().get("/log/checkpoint").content.startswith(file.read_bytes()[:40])
    seen = file.read_bytes()

    # the operator edits an event, and signs everything anew with his own key
    gateway.stop()
    rewrite(gateway.data_dir, "decided")
    gateway.start()
    grow(gateway, 2)
    done = monitor(gateway.url, file, vkey)
    assert done.returncode == 1
    assert "forked" in done.stderr
    assert file.read_bytes() == seen
    shown = file.with_name("seen.refused").read_bytes()
    assert shown == gateway.client().get("/log/checkpoint").content

    # or starts from nothing
    gateway.stop()
    for name in ("log.db", "log.db-wal", "log.db-shm", "log.db.checkpoint"):
        (gateway.data_dir / name).unlink(missing_ok=True)
    gateway.start()
    grow(gateway, 1)
    done = monitor(gateway.url, file, vkey)
    assert (done.returncode, "rolled back" in done.stderr) == (1, True)

    # or with another key
    gateway.stop()
    for name in ("log.db", "log.db-wal", "log.db-shm", "log.db.checkpoint", "log-key.pem"):
        (gateway.data_dir / name).unlink(missing_ok=True)
    gateway.start()
    grow(gateway, 200)
    done = monitor(gateway.url, file, vkey)
    assert (done.returncode, "wrong key" in done.stderr) == (1, True)
    gateway.stop()
    assert monitor(gateway.url, file, vkey).returncode == 2
    gateway.start()


def rewrite(data_dir: Path, kind: str) -> None:
    """What an operator can do who has the database and the key: another leaf, its hash, and a new checkpoint alone."""
    from agentgate.core.merkle import leaf_hash  # beside its only use: nothing else here makes logs

    database = data_dir / "log.db"
    with closing(sqlite3.connect(database)) as db:
        index, leaf = db.execute("SELECT idx, leaf FROM events WHERE kind = ? ORDER BY idx LIMIT 1", (kind,)).fetchone()
    forged = leaf.replace(b'"agent:local"', b'"agent:l0cal"')
    assert forged != leaf
    tamper(
        database,
        f"UPDATE events SET leaf = x'{forged.hex()}', leaf_hash = x'{leaf_hash(forged).hex()}' WHERE idx = {index};"
        "DELETE FROM checkpoints;DELETE FROM subtrees",
    )
    (data_dir / "log.db.checkpoint").unlink()
    assert run_cli("log", "sign", "--data-dir", str(data_dir)).returncode == 0


def test_yesterdays_directory_is_refused_while_the_file_on_another_disk_knows_better(tmp_path: Path) -> None:
    file, copy = tmp_path / "elsewhere" / "checkpoint", tmp_path / "copy"
    file.parent.mkdir()
    with GatewayProcess("--checkpoint-file", str(file), env=ADMIN, data_dir=tmp_path / "data") as gateway:
        grow(gateway, 2)
        gateway.stop()
        shutil.copytree(gateway.data_dir, copy)
        gateway.start()
        grow(gateway, 2)
        gateway.stop()
        shutil.rmtree(gateway.data_dir)
        shutil.copytree(copy, gateway.data_dir)
        with pytest.raises(GatewayFailed, match="rolled back or replaced") as refused:
            gateway.start()
        assert refused.value.status == 3
        file.rename(tmp_path / "elsewhere" / "the older one is meant")
        gateway.start()
        grow(gateway, 1)
        assert file.exists()


def test_a_disk_that_takes_no_checkpoint_stops_no_call_and_is_in_health_and_metrics(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    env = {**ADMIN, "AGENTGATE_CHECKPOINT_FILE": str(folder / "checkpoint")}
    with GatewayProcess(env=env, data_dir=tmp_path / "data") as gateway:
        size = grow(gateway, 1)
        shutil.rmtree(folder)
        for _ in range(3):
            assert gateway.call("db_query", {"query": "SELECT 1"})["success"]
        state = until(lambda: _unsigned(gateway))
        assert state["behind"] >= 6
        assert (state["kept"], signed_size(gateway)) == ({"file": False}, size)
        assert gateway.client().get("/readyz").status_code == 200
        until(lambda: 'agentgate_checkpoint_failures_total{place="file"}' in gateway.client().get("/metrics").text)
        folder.mkdir()
        until(lambda: signed_size(gateway) >= size + 6)
        assert until(lambda: not _unsigned(gateway))


def _unsigned(gateway: GatewayProcess) -> dict[str, Any]:
    state: dict[str, Any] = gateway.client().get("/health").json()["checkpoint"]
    return {} if state["signed"] else state


def test_witness_and_webhook_keep_a_gateway_from_an_older_log(tmp_path: Path) -> None:
    secret = Ed25519PrivateKey.generate()
    key = NoteKey(ORIGIN, secret.public_key().public_bytes_raw())
    witness, keeper, copy = TestWitness([key]), TestKeeper(), tmp_path / "copy"
    env = {**ADMIN, "LOG_KEY": secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()}
    with serving_in_thread(witness, keeper):
        log: dict[str, Any] = {"checkpoint_key": {"env": "LOG_KEY"}}
        both = {
            **log,
            "witnesses": [{"url": witness.url, "vkey": witness.key.text}],
            "checkpoint_webhook": {"url": keeper.url, "secret": "a-secret-of-this-test"},
        }
        with GatewayProcess(env=env, data_dir=tmp_path / "data", config={"log": both}) as gateway:
            assert [parse_key(vkey) for vkey in keys_of(gateway)[:1]] == [key]
            assert keys_of(gateway)[1] == witness.key.text
            grow(gateway, 1)
            until(lambda: cosignatures(gateway.client().get("/log/checkpoint").content, [witness.key]))
            gateway.stop()
            assert keeper.kept
            shutil.copytree(gateway.data_dir, copy)
            gateway.start()
            grow(gateway, 1)
            gateway.stop()
            shutil.rmtree(gateway.data_dir)
            shutil.copytree(copy, gateway.data_dir)
            assert gateway.config_path is not None
            for name in ("checkpoint_webhook", "witnesses"):
                gateway.config_path.write_text(yaml.safe_dump({"log": {**log, name: both[name]}}), encoding="utf-8")
                with pytest.raises(GatewayFailed, match="rolled back or replaced"):
                    gateway.start()
            gateway.config_path.write_text(yaml.safe_dump({"log": log}), encoding="utf-8")
            gateway.start()


def test_a_new_key_signs_after_a_former_one_and_the_log_says_so(tmp_path: Path) -> None:
    with GatewayProcess(env=ADMIN, data_dir=tmp_path / "data", config={}) as gateway:
        grow(gateway, 1)
        (former,) = keys_of(gateway)
        seen = tmp_path / "seen"
        assert monitor(gateway.url, seen, former).returncode == 0
        gateway.stop()
        (gateway.data_dir / "log-key.pem").replace(tmp_path / "old-key.pem")
        with pytest.raises(GatewayFailed, match="former_keys"):
            gateway.start()
        assert gateway.config_path is not None
        gateway.config_path.write_text(yaml.safe_dump({"log": {"former_keys": [former]}}), encoding="utf-8")
        gateway.start()
        grow(gateway, 1)
        new, *rest = keys_of(gateway)
        assert rest == [former]
        assert new != former
        with closing(sqlite3.connect(f"file:{gateway.data_dir}/log.db?mode=ro", uri=True)) as db:
            leaves = [json.loads(leaf) for (leaf,) in db.execute("SELECT leaf FROM events WHERE kind = 'keyed'")]
        assert [(leaf["use"], leaf["public"]) for leaf in leaves] == [("checkpoints", new)]
        assert monitor(gateway.url, seen, former).returncode == 1
        assert monitor(gateway.url, seen, new, former).returncode == 0
        gateway.stop()
        verified = run_cli("log", "verify", "--data-dir", str(gateway.data_dir), "--config", str(gateway.config_path))
        assert (verified.returncode, "the log holds" in verified.stdout) == (0, True)
        gateway.start()
