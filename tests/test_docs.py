"""The documents say what is so: their links lead somewhere, their commands exist, and the README stays short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agentgate import settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "node_modules", ".pytest_cache"} & set(path.parts))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_is_short_and_has_a_picture() -> None:
    assert len(README.splitlines()) <= 150
    assert "docs/images/call.svg" in README


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)\b", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_every_agentgate_command_in_the_readme_is_one() -> None:
    commands = set(re.findall(r"agentgate ((?:serve|verify|keys create|log verify|demo|version)\b)", README))
    assert {"serve", "verify", "keys create", "log verify"} <= commands
    for command in commands:
        ran = subprocess.run(
            [sys.executable, "-m", "agentgate", *command.split(), "--help"], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, command
        assert ran.stdout.strip()


def test_the_readmes_configuration_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "agentgate.yaml"
    path.write_text(blocks("yaml")[0], encoding="utf-8")
    found = settings.load({}, config=path)
    assert list(found.tools) == ["create_ticket"]
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))) == ["upstreams", "credentials", "tools"]


def test_every_direct_dependency_says_why_it_is_here() -> None:
    listed = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert wanted is not None
    for name in re.findall(r'^\s+"([A-Za-z0-9-]+)', wanted[1], re.MULTILINE):
        assert f"`{name}`" in listed, name


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "adr").glob("0*.md"):
        assert page.name in index
