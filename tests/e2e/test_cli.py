"""The command line as a user types it, each time in a fresh interpreter."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentgate import __version__
from agentgate.cli import cli
from tests.forked import AGENTGATE
from tests.gateway import GatewayFailed, GatewayProcess, clean_environment, run_cli, until


@pytest.mark.parametrize("flag", ["--version", "-v", "version"])
def test_the_version_is_said(flag: str) -> None:
    done = CliRunner().invoke(cli, [flag])
    assert (done.exit_code, done.output) == (0, f"agentgate {__version__}\n")


def test_the_console_script_is_the_module() -> None:
    script = Path(AGENTGATE[0]).parent / "agentgate"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False, env=clean_environment())
    assert (done.returncode, done.stdout) == (0, f"agentgate {__version__}\n")


def test_help_names_every_command() -> None:
    said = CliRunner().invoke(cli, ["--help"]).output
    assert all(command in said for command in ("serve", "demo", "version", "keys", "verify", "log"))


def test_serve_loads_nothing_of_the_other_commands() -> None:
    done = run_cli("serve", "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    assert "agentgate.starting" in done.stderr
    assert not {"agentgate.cli", "agentgate.commands.stopping", "httpx"} & set(done.stderr.split())


def test_without_a_command_it_serves_as_v02_did(tmp_path: Path) -> None:
    with GatewayProcess("--host", "127.0.0.1", command=(), data_dir=tmp_path / "data", fresh=True) as gateway:
        assert gateway.url.startswith("http://127.0.0.1:")
        assert gateway.call("db_query", {"query": "SELECT 1"})["success"] is True
        assert gateway.stdout == [line for line in gateway.stdout if f"agentgate {__version__} is ready on" in line]


def test_options_before_a_command_are_refused_rather_than_ignored() -> None:
    done = CliRunner().invoke(cli, ["--port", "9", "version"])
    assert done.exit_code == 2


def test_a_gateway_ends_in_order_on_sigterm_and_says_nothing_wrong(tmp_path: Path) -> None:
    with GatewayProcess(fresh=True) as gateway:
        gateway.call("db_query", {"query": "SELECT 1"})
        status = gateway.stop()
        assert status in (0, -signal.SIGTERM)
        assert "Traceback" not in gateway.stderr
        assert "ERROR" not in gateway.stderr


def test_the_data_directory_is_its_owners_alone(gateway: GatewayProcess) -> None:
    assert stat.S_IMODE(gateway.data_dir.stat().st_mode) == 0o700
    for name in ("admin.key", "log-key.pem", "sealing.key"):
        assert stat.S_IMODE((gateway.data_dir / name).stat().st_mode) == 0o600, name


def test_the_start_says_which_defaults_are_in_force(gateway: GatewayProcess) -> None:
    for word in ("AGENTGATE_REDIS_URL", "AGENTGATE_OPA_URL", "AGENTGATE_DATABASE_URL", "no agent keys"):
        assert word in gateway.stderr
    assert gateway.admin_key not in gateway.stderr + "".join(gateway.stdout)


# --- starts that must fail ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "env", "says"),
    [
        (("--host", "0.0.0.0"), {}, "without any agent key"),
        (("--config", "/nowhere.yaml"), {}, "/nowhere.yaml"),
        ((), {"AGENTGATE_DATABASE_URL": "mysql://x"}, "mysql"),
        ((), {"AGENTGATE_PORT": "seventy"}, ""),
        ((), {"AGENTGATE_WORKERS": "2"}, "workers"),
    ],
)
def test_an_unsafe_or_impossible_start_ends_with_a_sentence(
    flags: tuple[str, ...], env: dict[str, str], says: str
) -> None:
    if "AGENTGATE_PORT" in env:  # the helper's own --port would win
        done = run_cli("serve", "--data-dir", "/nowhere", env=env, fresh=True)
        assert done.returncode == 3
        return
    with pytest.raises(GatewayFailed) as failed, GatewayProcess(*flags, env=env, fresh=True):
        pass
    assert failed.value.status == 3
    assert says in failed.value.stderr
    assert "Traceback" not in failed.value.stderr


def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_cli("serve", "--port", str(taken.getsockname()[1]), "--data-dir", str(tmp_path / "data"))
    assert done.returncode not in (0, 2)
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigint_ends_it_too_and_a_key_file_that_others_can_read_stops_the_next_start() -> None:
    with GatewayProcess(fresh=True) as gateway:
        gateway.send(signal.SIGINT)
        assert gateway.wait_exit() in (0, 130, -signal.SIGINT)
        assert "Traceback" not in gateway.stderr
        (gateway.data_dir / "admin.key").chmod(0o644)
        with pytest.raises(GatewayFailed) as failed:
            gateway.start()
        assert "chmod 600" in failed.value.stderr


# --- demo -----------------------------------------------------------------------------------------------------


def test_the_demo_plays_six_scenes_and_leaves_a_pack_that_verifies(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:1"  # a proxy, as companies have one, is not for what is on this machine
    done = run_cli("--demo", cwd=tmp_path, env={"HTTP_PROXY": nobody, "ALL_PROXY": nobody}, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All six scenes happened." in done.stdout
    pack, key = tmp_path / "demo/out/evidence.json", (tmp_path / "demo/out/signing.key").read_text(encoding="utf-8")
    assert CliRunner().invoke(cli, ["verify", str(pack), "--key", key]).exit_code == 0


# --- log verify -------------------------------------------------------------------------------------------------


def test_log_verify_holds_and_an_altered_column_does_not(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with GatewayProcess(data_dir=data_dir, fresh=True) as gateway:
        gateway.call("db_query", {"query": "SELECT 1"})
        gateway.admin().post("/sessions/s-1/kill", json={"reason": "because"})
    assert log_verify(data_dir)[0] == 0
    for table_column in ("tenant", "session", "kind", "at", "kill_position"):
        altered = tmp_path / f"altered-{table_column}"
        altered.mkdir()
        for path in data_dir.iterdir():
            if path.is_file():
                shutil.copy(path, altered)  # with its mode: a key that others can read is another finding
        forge(altered / "log.db", table_column)
        status, said = log_verify(altered)
        assert (status, "the log is BROKEN" in said) == (1, True), (table_column, said)
    status, said = log_verify(tmp_path / "altered-tenant", "--json")
    report = json.loads(said)
    assert (status, report["ok"]) == (1, False)
    assert report["findings"][0].keys() == {"index", "what"}
    status, said = log_verify(data_dir, "--json")
    report = json.loads(said)
    assert (status, report["ok"], report["findings"], report["kill_position"]) == (0, True, [], 1)
    assert f"root {report['root']}" in log_verify(data_dir)[1]


def forge(database: Path, column: str) -> None:
    """Change one column of one event as somebody would who owns the file: triggers do not stop that."""
    with sqlite3.connect(database) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        value = "999" if column == "kill_position" else "'forged'"
        changed = connection.execute(f"UPDATE events SET {column} = {value} WHERE kind = 'decided'")
        assert changed.rowcount == 1
    connection.close()


def log_verify(data_dir: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["log", "verify", "--data-dir", str(data_dir), *options])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET tenant = 'x'",
        "DELETE FROM events",
        "INSERT OR REPLACE INTO events SELECT * FROM events LIMIT 1",
    ],
)
def test_the_log_refuses_updates_and_deletes(gateway: GatewayProcess, statement: str) -> None:
    gateway.call("db_query", {"query": "SELECT 1"})
    with contextlib.closing(sqlite3.connect(gateway.data_dir / "log.db")) as connection:
        with pytest.raises(sqlite3.Error):
            connection.execute(statement)
        connection.rollback()


def test_log_verify_without_a_log_says_so(tmp_path: Path) -> None:
    status, _ = log_verify(tmp_path)
    assert status == 1


def test_a_second_gateway_on_the_same_log_is_refused(gateway: GatewayProcess) -> None:
    second = GatewayProcess(data_dir=gateway.data_dir, fresh=True)
    with pytest.raises(GatewayFailed) as failed, second:
        pass
    assert failed.value.status == 3
    assert "Traceback" not in failed.value.stderr


# --- v0.2's variables ------------------------------------------------------------------------------------------


def test_v02_variables_keep_their_meaning(tmp_path: Path) -> None:
    env = {
        "AGENTGATE_TRACE_DB": str(tmp_path / "traces.db"),
        "AGENTGATE_ADMIN_API_KEY": "an-admin-key-of-our-own",
        "AGENTGATE_RATE_WINDOW_SECONDS": "1",
        "AGENTGATE_POLICY_VERSION": "v7",
        "AGENTGATE_LOG_LEVEL": "ERROR",
    }
    with GatewayProcess(env=env, fresh=True) as gateway:
        for _ in range(10):
            gateway.call("rate_limited_tool")
        assert gateway.call("rate_limited_tool")["reason_code"] == "rate_limited"
        until(lambda: gateway.call("rate_limited_tool")["success"], timeout_s=5, every_s=0.2)
        assert gateway.admin().get("/sessions").json() == {"sessions": ["s-1"], "next": None}
        assert (tmp_path / "traces.db").is_file()
        assert not (gateway.data_dir / "log.db").exists()
        assert not (gateway.data_dir / "admin.key").exists()
        pack = gateway.admin().get("/sessions/s-1/evidence").json()
        assert "v7" in pack["summary"]["policy_versions_used"][0]
        assert gateway.stderr == ""
