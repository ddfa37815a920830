"""docs/threat-model.md promises nothing without a test: what it names exists and runs, and what it leaves open it says
in a sentence."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)`")
NAMED = sorted(set(TEST.findall(PAGE)))
ATTACKS = [f"A{number:02}" for number in range(1, 69)]
OPEN = re.compile(r"\*\*Not (?:stopped|shown)(?:\*\*|:\*\*)[^*|]{10,}\.")
LEVELS = {"9": [3, 10, 8, 4, 6, 3], "10": [3, 7, 5, 8], "12": [4, 6, 4, 3, 4]}
"""Of chapters C9, C10 and C12 of AISVS 1.0: how many requirements each of their sections has."""


def rows(first: str) -> list[list[str]]:
    """The cells of the page's rows whose first cell is like that."""
    found = re.findall(rf"^\| ({first}) \|(.*)\|$", PAGE, re.MULTILINE)
    return [[number, *(cell.strip() for cell in rest.split(" | "))] for number, rest in found]


@cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def functions(body: list[ast.stmt]) -> dict[str, list[str]]:
    """Its tests by name, each with its decorators as they are written."""
    return {
        node.name: [ast.unparse(one) for one in node.decorator_list]
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def collected(named: str) -> bool:
    """Whether `make test` runs it: in a module of tests, no torture; also from a contract that a class there keeps."""
    path, *names = named.split("::")
    if not Path(path).name.startswith("test_") or not (ROOT / path).is_file():
        return False
    tree = parsed(path)
    found = functions(tree.body)
    if len(names) == 2:
        owners = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == names[0]]
        found = {}
        for owner in owners if names[0].startswith("Test") else []:
            found = functions(owner.body)
            for base in map(ast.unparse, owner.bases):
                found |= inherited(tree, base)
    return names[-1] in found and not any("torture" in mark for mark in found[names[-1]])


def inherited(tree: ast.Module, base: str) -> dict[str, list[str]]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and base in [alias.name for alias in node.names] and node.module:
            origin = parsed(node.module.replace(".", "/") + ".py")
            [contract] = [one for one in origin.body if isinstance(one, ast.ClassDef) and one.name == base]
            return functions(contract.body)
    return {}


def test_every_test_that_is_named_is_one_that_runs() -> None:
    assert len(NAMED) > 100
    assert [name for name in NAMED if not collected(name)] == []


@pytest.mark.parametrize(
    "name",
    [
        "tests/attacks/conftest.py::gateway",
        "tests/attacks/test_bodies.py::test_that_nobody_wrote",
        "tests/contracts/schemas.py::test_a_pattern_cannot_be_made_to_hang",
        "tests/adapters/schema/test_jsonschema.py::test_a_pattern_cannot_be_made_to_hang",
        "tests/faults/test_process.py::test_two_thousand_kills_under_load_lose_nothing_that_was_answered",
        "tests/attacks/test_nowhere.py::test_duplicate_keys",
    ],
)
def test_what_does_not_run_is_seen(name: str) -> None:
    assert not collected(name)


def test_nothing_that_looks_like_a_test_is_left_unchecked() -> None:
    assert re.findall(r"\btest_\w+", PAGE.replace("tests/test_threat_model.py", "")) == [
        part for name in TEST.findall(PAGE) for part in re.findall(r"\btest_\w+", name)
    ]


def test_every_attack_is_there_once() -> None:
    assert sorted(number for number, *_ in rows(r"A\d\d")) == ATTACKS


def test_every_attack_has_a_test_or_the_sentence_that_it_is_not_stopped() -> None:
    for number, attack, stopped, shown in rows(r"A\d\d"):
        assert len(attack) > 10, number
        assert TEST.search(shown) or OPEN.search(shown), number
        assert ("Not stopped" in shown or "Not shown" in shown) == bool(OPEN.search(shown)), f"{number}: say what to do"
        assert stopped


def test_where_an_attack_is_stopped_is_in_the_source() -> None:
    for number, _, stopped, _ in rows(r"A\d\d"):
        for place in re.findall(r"`([a-z_/]+(?:\.py|/))`", stopped):
            assert (ROOT / "src" / "agentgate" / place).exists(), f"{number}: {place}"


REQUIREMENTS = [
    f"{chapter}.{section}.{number}"
    for chapter, sizes in LEVELS.items()
    for section, size in enumerate(sizes, 1)
    for number in range(1, size + 1)
]


def judged(cells: list[str]) -> None:
    *_, state, how_far, shown = cells
    assert state in {"yes", "part", "no", "n/a"}
    assert bool(TEST.search(shown)) == (state in {"yes", "part"}), cells[0]
    assert state == "yes" or how_far.endswith("."), f"{cells[0]} says what is missing"


def test_every_requirement_of_three_chapters_is_judged_once() -> None:
    found = rows(r"(?:9|10|12)\.\d\.\d+")
    assert [number for number, *_ in found] == REQUIREMENTS
    for cells in found:
        assert cells[1] in {"1", "2", "3"}
        judged(cells)


def test_the_sum_of_the_requirements_is_what_the_rows_say() -> None:
    states = [cells[-3] for cells in rows(r"(?:9|10|12)\.\d\.\d+")]
    told = re.search(
        r"Of (\d+) requirements \*\*(\d+) are met, (\d+) in part, (\d+) are not, and\s+(\d+) are about", PAGE
    )
    assert told is not None
    counts = [states.count(state) for state in ("yes", "part", "no", "n/a")]
    assert [int(number) for number in told.groups()] == [len(states), *counts]


def test_every_agentic_risk_is_judged_once() -> None:
    found = rows(r"ASI\d\d")
    assert [number for number, *_ in found] == [f"ASI{number:02}" for number in range(1, 11)]
    for cells in found:
        judged(cells)
