"""What docs/envelope.md tells the developer of an agent to run, run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.gateway import GatewayProcess, clean_environment

PAGE = (Path(__file__).parents[2] / "docs" / "envelope.md").read_text(encoding="utf-8")
SECRET = "a-shared-secret-of-the-page-4711"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("agent")
    for command in re.findall(r"`(openssl (?:genpkey|pkey)[^`]*)`", PAGE):
        subprocess.run(command.split(), cwd=made, check=True, timeout=60)
    return made


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[GatewayProcess]:
    """With the page's own configuration."""
    config = yaml.safe_load(blocks("yaml")[0])
    config["auth"]["keys"][0]["signature"]["ed25519"]["file"] = str(home / "deploy-bot.pub.pem")
    with GatewayProcess(config=config, env={"ENVELOPE_SECRET": SECRET}) as process:
        yield process


def said(command: list[str], gateway: GatewayProcess, home: Path) -> dict[str, object]:
    env = clean_environment({"GATEWAY": gateway.url, "ENVELOPE_SECRET": SECRET})
    ran = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)  # type: ignore[no-any-return]


def test_the_python_example(gateway: GatewayProcess, home: Path) -> None:
    (code,) = blocks("python")
    assert len(code.splitlines()) <= 30
    answer = said([sys.executable, "-c", code], gateway, home)
    assert (answer["success"], answer["reason_code"]) == (True, "ok")


def test_the_shell_example(gateway: GatewayProcess, home: Path) -> None:
    (code,) = [block for block in blocks("sh") if "openssl" in block]
    answer = said(["sh", "-c", code], gateway, home)
    assert (answer["success"], answer["reason_code"]) == (True, "ok")


def test_the_first_example_needs_no_key(home: Path) -> None:
    first = blocks("sh")[0]
    with GatewayProcess() as gateway:
        answer = said(["sh", "-c", first.replace("http://127.0.0.1:8000", gateway.url)], gateway, home)
        assert list(answer) == list(json.loads(blocks("json")[0]))
