"""docs/operating.md, "Backup and restore": a copy that was taken while calls ran verifies, and can be gone on from."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.faults.conftest import ADMIN_KEY, SIGNING_KEY, Gate
from tests.gateway import GatewayFailed, run_cli, until
from tests.postgres_server import PostgresServer, is_installed

needs_sqlite3 = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
needs_postgres = pytest.mark.skipif(not is_installed(), reason="PostgreSQL is not installed")


@contextmanager
def calls(gateway: Gate) -> Iterator[list[str]]:
    """Somebody who calls all the while; trace ids of what was let through."""
    answered: list[str] = []
    is_over = Event()
    client = gateway.agent()

    def run() -> None:
        while not is_over.is_set():
            body = {"session_id": "busy", "tool_name": "db_query", "arguments": {"query": "SELECT 1"}}
            said = client.post("/tools/call", json=body).json()
            if said["success"]:
                answered.append(said["trace_id"])

    caller = Thread(target=run)
    caller.start()
    try:
        until(lambda: len(answered) > 20)
        yield answered
    finally:
        is_over.set()
        caller.join()


def traces(gateway: Gate) -> set[str]:
    return {entry["trace_id"] for entry in gateway.timeline("busy")}


def back_up(data: Path, copy: Path) -> None:
    """As the page says: the keys, then the database by SQLite's own backup."""
    copy.mkdir(mode=0o700)
    for path in data.glob("*.pem"):
        shutil.copy(path, copy)
    subprocess.run(["sqlite3", str(data / "log.db"), f".backup '{copy / 'log.db'}'"], check=True, timeout=60)


@needs_sqlite3
def test_a_sqlite_log_that_was_backed_up_under_load_verifies_and_is_gone_on_from(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with Gate() as gateway:
        assert gateway.kill_session("victim").status_code == 200
        with calls(gateway) as answered:
            known = list(answered)
            back_up(gateway.data_dir, copy)
            before = len(answered)
            until(lambda: len(answered) > before + 20)  # a backup holds nobody up
        gateway.stop()
        said = run_cli("log", "verify", "--data-dir", str(copy), env=gateway.env)
        assert said.returncode == 0, said.stdout + said.stderr

        for path in gateway.data_dir.glob("log.db*"):
            if path.suffix != ".checkpoint":
                path.unlink()
        shutil.copy(copy / "log.db", gateway.data_dir)
        with pytest.raises(GatewayFailed, match="rolled back or replaced"):
            gateway.start()
        (gateway.data_dir / "log.db.checkpoint").unlink()  # what the page says to who means it
        gateway.start()
        assert set(known) <= traces(gateway)
        assert traces(gateway).isdisjoint(answered[-10:]), "what came after the backup is in it"
        assert gateway.say(session="victim").reason == "killed"
        assert gateway.works("busy")
        gateway.assert_log_holds()


@needs_postgres
def test_a_postgresql_log_that_was_backed_up_under_load_verifies_and_is_gone_on_from(tmp_path: Path) -> None:
    with PostgresServer() as primary:
        primary.sql("CREATE DATABASE gate")
        migrated = run_cli("log", "migrate", "--database-url", primary.url("gate"))
        assert migrated.returncode == 0, migrated.stderr
        with Gate(env={"AGENTGATE_DATABASE_URL": primary.url("gate")}) as gateway:
            assert gateway.kill_session("victim").status_code == 200
            with calls(gateway) as answered:
                known = list(answered)
                copy = PostgresServer(standby_of=primary)  # pg_basebackup
            gateway.stop()
            with copy:
                copy.promote()
                until(lambda: copy.sql("SELECT pg_is_in_recovery()") == "f")
                url = copy.url("gate")
                data = ("--data-dir", str(gateway.data_dir))
                env = {"AGENTGATE_ADMIN_API_KEY": ADMIN_KEY, "AGENTGATE_SIGNING_KEY": SIGNING_KEY}
                kept = gateway.data_dir / "log.checkpoint"
                kept.unlink()
                said = run_cli("log", "verify", "--database-url", url, *data, env=env)
                assert said.returncode == 0, said.stdout + said.stderr
                gateway.env["AGENTGATE_DATABASE_URL"] = url
                gateway.start()
                assert set(known) <= traces(gateway)
                assert gateway.say(session="victim").reason == "killed"
                gateway.stop()
