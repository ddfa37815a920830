"""What is forked (`tests/forked.py`) says and does what a fresh interpreter does, so that most tests need none."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.gateway import GatewayProcess, run_cli


@pytest.mark.parametrize(
    "words",
    [("version",), ("serve", "--nonsense"), ("serve", "--data-dir", "/dev/null/nowhere"), ("log", "verify")],
    ids=" ".join,
)
def test_a_command_ends_alike(words: tuple[str, ...], tmp_path: Path) -> None:
    env = {"AGENTGATE_LOG_LEVEL": "ERROR"}
    forked, fresh = (run_cli(*words, env=env, cwd=tmp_path, fresh=is_fresh) for is_fresh in (False, True))
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_gateway_serves_and_ends_alike(how: signal.Signals) -> None:
    ends = []
    for is_fresh in (False, True):
        with GatewayProcess(fresh=is_fresh) as gateway:
            assert gateway.call("db_query", {"query": "SELECT 1"})["success"] is True
            gateway.send(how)
            status, said = gateway.wait_exit(), [re.sub(r"\d|/\S+", "", line) for line in gateway.stderr.splitlines()]
            ends.append((status, said, [re.sub(r":\d+ ", " ", line) for line in gateway.stdout]))
    assert ends[0] == ends[1]


def test_one_that_is_forked_has_the_environment_that_it_was_given_and_no_other() -> None:
    with GatewayProcess(env={"AGENTGATE_ADMIN_API_KEY": "an-admin-key-of-one-forked-gateway"}) as gateway:
        assert gateway.admin().get("/kills").status_code == 200
        assert gateway.pid != os.getpid()
    with GatewayProcess() as gateway:
        assert gateway.admin_key != "an-admin-key-of-one-forked-gateway"
        assert gateway.admin().get("/kills").status_code == 200
