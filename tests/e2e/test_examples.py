"""What the README and examples/ tell a newcomer to type, typed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway import GatewayProcess, clean_environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
(CALL_BLOCK,) = [block for block in BLOCKS if "curl " in block]
(EVIDENCE_BLOCK,) = [block for block in BLOCKS if "agentgate verify " in block]
(KILL_BLOCK,) = [block for block in BLOCKS if "agentgate kill " in block]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """With its data where the README's commands look for it."""
    home = tmp_path_factory.mktemp("newcomer")
    with GatewayProcess(
        data_dir=home / "agentgate-data", env={"AGENTGATE_SIGNING_KEY": "a-key-for-examples-of-32-characters"}
    ) as process:
        yield process


def shell(command: list[str], gateway: GatewayProcess, **env: str) -> str:
    done = subprocess.run(
        command,
        env=clean_environment({"AGENTGATE_SIGNING_KEY": "a-key-for-examples-of-32-characters", **env}),
        cwd=gateway.data_dir.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_python_client_acts_on_each_verdict(gateway: GatewayProcess) -> None:
    lines = shell([sys.executable, str(ROOT / "examples/client.py"), gateway.url], gateway).splitlines()
    assert lines[0].startswith("db_query: {'query': ")
    assert lines[1].startswith("db_insert: waits for /approvals/apr-")
    assert lines[2].startswith("no_such_tool: DENY (unknown_tool): Policy denied: ")


def test_the_curl_client_shows_each_verdict(gateway: GatewayProcess) -> None:
    said = shell(["sh", str(ROOT / "examples/client.sh"), gateway.url], gateway, ADMIN_KEY=gateway.admin_key)
    for verdict in ('"decision":"ALLOW"', '"decision":"DENY"', '"decision":"REQUIRE_APPROVAL"', '"status":"killed"'):
        assert verdict in said


def newcomers_home(gateway: GatewayProcess) -> None:
    """What `make setup` has made where the README's commands are typed."""
    venv = gateway.data_dir.parent / ".venv"
    venv.unlink(missing_ok=True)
    venv.symlink_to(Path(sys.executable).parents[1])


def test_the_readmes_call_is_allowed_and_its_evidence_verifies_as_written(gateway: GatewayProcess) -> None:
    newcomers_home(gateway)
    said = shell(["sh", "-ec", CALL_BLOCK.replace("http://127.0.0.1:8000", gateway.url)], gateway)
    assert '"decision":"ALLOW"' in said
    said = shell(["sh", "-ec", EVIDENCE_BLOCK], gateway, AGENTGATE_URL=gateway.url)
    assert "pack.zip: verified" in said
    assert "the log holds" in said


def test_the_readmes_kill_is_given_seen_and_released_as_written(gateway: GatewayProcess) -> None:
    newcomers_home(gateway)
    kill, kills, watch, release = KILL_BLOCK.strip().splitlines()
    env = {"AGENTGATE_URL": gateway.url}
    given = shell(["sh", "-ec", kill], gateway, **env)
    assert "drained" in given
    shown = shell(["sh", "-ec", kills], gateway, **env)
    assert "loops on the order table" in shown
    assert "s-1" in shell(["sh", "-ec", watch], gateway, **env)
    kill_id = re.findall(r"kill-\w+", given)[0]
    assert kill_id in shown
    shell(["sh", "-ec", release.replace("KILL_ID", kill_id)], gateway, **env)
    assert kill_id not in shell(["sh", "-ec", kills], gateway, **env)
