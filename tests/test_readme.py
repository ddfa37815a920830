"""What the README says was measured is what bench/RESULTS.md has of it, and what it counts is as many."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = README.partition("\n## Measured\n")[2].partition("\n## ")[0]
SECTIONS = {
    "A governed call": "What a governed call costs",
    "A kill": "How fast a kill is",
    "The log": "What the log does",
    "Evidence": "How long a pack takes",
}
"""Where bench/RESULTS.md has what a row begins with."""


def rows() -> list[tuple[str, list[str]]]:
    """What each row begins with, and its numbers, which are in bold."""
    cells = re.findall(r"^\| (\w.+?) \| (.+) \|$", MEASURED, re.MULTILINE)
    return [(what, re.findall(r"\*\*([\d.,]+)\*\*", text)) for what, text in cells]


def test_every_measured_thing_is_there() -> None:
    assert [any(what.startswith(begin) for what, _ in rows()) for begin in SECTIONS] == [True] * len(SECTIONS)
    assert "`make bench`" in MEASURED


@pytest.mark.parametrize(("what", "numbers"), rows(), ids=[what for what, _ in rows()])
def test_every_number_is_one_of_the_results(what: str, numbers: list[str]) -> None:
    results = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    [title] = [section for begin, section in SECTIONS.items() if what.startswith(begin)]
    section = results.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert numbers
    for number in numbers:
        exactly = rf"(?<![\d.,]){re.escape(number)}(?!\d|[.,]\d)"
        assert re.search(exactly, section), f"{number}: {title} in bench/RESULTS.md says otherwise"


def test_the_threat_model_has_as_many_attacks_as_it_says() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    count = len(re.findall(r"^\| A\d\d \|", page, re.MULTILINE))
    assert f"has {count} attacks" in README
