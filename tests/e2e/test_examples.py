"""What examples/ tells a newcomer to type, typed. (The README's commands: tests/test_docs.py.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.gateway import GatewayProcess, clean_environment

ROOT = Path(__file__).parents[2]


def shell(command: list[str], gateway: GatewayProcess, **env: str) -> str:
    done = subprocess.run(
        command,
        env=clean_environment(env),
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
