"""The documents say what is so: their links lead somewhere, their commands exist, and the README stays short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import yaml

from agentgate import settings
from agentgate.core import archive

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
    words = "serve|kills|kill|release|watch|verify|keys create|log verify|demo|version"
    commands = set(re.findall(rf"agentgate ((?:{words})\b)", README))
    assert {"serve", "kill", "release", "watch", "verify", "keys create", "log verify"} <= commands
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


# --- the failure matrix of docs/containment.md ------------------------------------------------------------------

FAILURES = {"down", "hung", "slow", "lying", "back"}
MOMENTS = ("before", "during", "after")
NOTHING = "–"
DEPENDENCIES = {
    "Redis",
    "The log on SQLite",
    "The log on PostgreSQL",
    "The policy engine",
    "The upstream",
    "A source of credentials",
    "The clock",
    "This process",
    "Another replica",
}


@dataclass
class Part:
    """One dependency of the matrix: what is stated in each cell, and the tests that show it."""

    text: str
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    shown: dict[tuple[str, str], list[str]] = field(default_factory=dict)


@cache
def matrix() -> dict[str, Part]:
    page = (ROOT / "docs" / "containment.md").read_text(encoding="utf-8")
    section = page.partition("\n## When something fails\n")[2].partition("\n## ")[0]
    return {title: _part(text) for title, _, text in (one.partition("\n") for one in section.split("\n### ")[1:])}


def _part(text: str) -> Part:
    part = Part(text)
    for failure, *cells in re.findall(r"^\| \*\*(.+?)\*\* \|(.*)\|(.*)\|(.*)\|$", text, re.MULTILINE):
        part.cells |= {(failure, moment): cell.strip() for moment, cell in zip(MOMENTS, cells, strict=True)}
    for failure, moment, tests in re.findall(r"^- (.+?), (before|during|after): (.*)$", text, re.MULTILINE):
        part.shown.setdefault((failure, moment), []).extend(re.findall(r"`([^`]+)`", tests))
    return part


def test_matrix_has_every_dependency_and_every_failure() -> None:
    assert set(matrix()) == DEPENDENCIES
    for name, part in matrix().items():
        assert {failure for failure, _ in part.cells} >= FAILURES, name


@pytest.mark.parametrize("name", sorted(DEPENDENCIES))
def test_every_cell_of_the_matrix_says_something_and_is_shown(name: str) -> None:
    part = matrix()[name]
    assert all(part.cells.values())
    said = {place for place, cell in part.cells.items() if cell != NOTHING}
    assert {place for place, tests in part.shown.items() if tests} == said
    if len(said) < len(part.cells):
        assert re.search(rf"^{NOTHING}: \S", part.text, re.MULTILINE), "it says why some cells have nothing to say"


def test_every_test_of_the_matrix_exists() -> None:
    named = [one for part in matrix().values() for shown in part.shown.values() for one in shown]
    assert [one for one in named if not _exists(one)] == []


def _exists(test: str) -> bool:
    path, _, names = test.partition("::")
    return (ROOT / path).is_file() and tuple(names.split("::")) in _tests(path)


@cache
def _tests(path: str) -> frozenset[tuple[str, ...]]:
    """The tests of a file, with their class if they have one."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = [(node.name,) for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found += [(one.name, part.name) for one in classes for part in one.body if hasattr(part, "name")]
    return frozenset(name for name in found if name[-1].startswith("test_"))


def test_every_file_of_fault_tests_is_in_the_matrix() -> None:
    named = {one.partition("::")[0] for part in matrix().values() for shown in part.shown.values() for one in shown}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert files <= named


# --- docs/evidence.md ---------------------------------------------------------------------------------------------


def test_the_page_about_packs_names_every_file_of_a_zip_and_no_other() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    table = page.partition("## What is in a zip")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    examples = {"INDEX": "7", "SIZE": "7", "ID": "0a" * 32, "HASH": "0badcafe"}
    files = [re.sub("|".join(examples), lambda found: examples[found[0]], name) for name in named]
    places = [archive.place(name)[0] for name in files]  # raises for a name that no pack has
    assert len(places) == len(set(places)) == archive.PLACES


def test_the_page_about_packs_names_settings_and_commands_that_exist() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    known = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:evidence|log)\.[a-z_.]+)`", page):
        assert f"| `{name}` |" in known, name
    for command in set(re.findall(r"agentgate (evidence \w+|verify)", page)):
        ran = subprocess.run(
            [sys.executable, "-m", "agentgate", *command.split(), "--help"], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, command
