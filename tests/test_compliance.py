"""docs/compliance.md is made of compliance.yaml, and what that names exists: kinds, fields, tests, checks.

After a change of the data: `.venv/bin/python -m tests.test_compliance` writes the page's tables anew.
"""

from __future__ import annotations

import ast
import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.exports._checks import CONTENT, make_checks
from agentgate.adapters.exports._compliance import controls, frameworks
from agentgate.core.event import Kind

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compliance.md"
MARK = "<!-- From here on made of compliance.yaml by tests/test_compliance.py -->\n"
ITEMS = [(framework["name"], item) for framework in frameworks() for item in framework["items"]]
NAMES = [f"{name} {item['id']}" for name, item in ITEMS]
every_item = pytest.mark.parametrize("item", [item for _, item in ITEMS], ids=NAMES)
BASIS = {
    "read": "a copy of the text was read",
    "quoted": "from a page that quotes or sums it up",
    "known": "from general knowledge, not checked again",
}


def tables() -> str:
    return MARK + "".join(map(_framework, frameworks()))


def _framework(framework: dict[str, Any]) -> str:
    parts = [f"\n## {framework['name']}\n\n*{framework['title']}.* {framework['note']}\n"]
    if dates := framework.get("dates"):
        parts.append("\n| applies to | from | source | open |\n|---|---|---|---|\n")
        parts += [f"| {d['what']} | {d['date']} | {d['source']} ({d['checked_on']}) | {d['open']} |\n" for d in dates]
    return "".join([*parts, *map(_item, framework["items"])])


def _item(item: dict[str, Any]) -> str:
    basis = BASIS[item["basis"]]
    if "source" in item:
        basis += f", {item['checked_on']}: {item['source']}"
    events = "; ".join(f"`{kind}`: " + ", ".join(f"`{one}`" for one in names) for kind, names in item["events"].items())
    shown = [f"`{test}`" for test in item["tests"]]
    title = f" {item['title']}" if "title" in item else ""
    lines = [
        f"\n### {item['id']}{title}\n",
        f"Asks: {item['asks']} ({basis})\n",
        item["says"] + "\n",
        *([f"- Events: {events}"] if events else []),
        f"- Tests: {', '.join(shown)}",
        f"- Not shown: {item['limits']}",
        *(["- An OSCAL export says what the exported events show of it."] if "check" in item else []),
    ]
    return "\n".join(lines) + "\n"


def test_page_is_what_the_data_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page[page.index(MARK) :] == tables(), "run: .venv/bin/python -m tests.test_compliance"


@cache
def _fields() -> dict[str, set[str]]:
    """The names that events are made with, by where they are made: keys of mappings, in the code that makes events."""
    found: dict[str, set[str]] = {}
    source = ROOT / "src/agentgate"
    for path in [source / "core/event.py", *source.glob("core/events/*.py"), *source.glob("pipeline/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(path.name, set()).update(_keys(node))
    return found


def _keys(node: ast.AST) -> set[str]:
    match node:
        case ast.Call(func=ast.Name(id="_known"), keywords=keywords):
            return {keyword.arg for keyword in keywords if keyword.arg is not None}
        case ast.Dict(keys=keys):
            found = keys
        case ast.Subscript(slice=key):
            found = [key]
        case _:
            found = []
    return {key.value for key in found if isinstance(key, ast.Constant) and isinstance(key.value, str)}


@every_item
def test_every_kind_and_field_that_is_named_exists(item: dict[str, Any]) -> None:
    made = set().union(*_fields().values()) | {"tenant", "session", "principal"}
    for kind, names in item["events"].items():
        Kind(kind)
        for name in names:
            assert name.removeprefix("body.") in made, f"{kind}.{name}"


@every_item
def test_every_test_that_is_named_exists(item: dict[str, Any]) -> None:
    assert item["tests"]
    for one in item["tests"]:
        path, _, name = one.partition("::")
        assert name in _tests(path), one


@cache
def _tests(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@every_item
def test_every_item_says_where_it_comes_from_and_what_it_does_not_show(item: dict[str, Any]) -> None:
    assert item["basis"] in BASIS
    assert (item["basis"] == "known") == ("source" not in item)
    assert "source" not in item or isinstance(item["checked_on"], date)
    for name in ("asks", "says", "limits"):
        assert item[name].strip().endswith("."), name


def test_dates_have_a_source_and_a_day_on_which_it_was_read() -> None:
    dates = [one for framework in frameworks() for one in framework.get("dates", ())]
    assert dates
    for one in dates:
        assert isinstance(one["date"], date)
        assert isinstance(one["checked_on"], date)
        assert one["source"].strip()
        assert one["open"].strip()


def test_the_date_that_was_put_off_is_nowhere_given_as_that_of_high_risk_systems() -> None:
    """Annex III moved from August 2026 to December 2027."""
    places = [PAGE, *(ROOT / "src").rglob("*.yaml"), *(ROOT / "src").rglob("*.py")]
    for path in places:
        assert not re.search(r"2 Aug(ust)? 2026|2026-08-02", path.read_text(encoding="utf-8")), path


def test_controls_of_the_oscal_export_have_checks() -> None:
    assert {control["check"] for control in controls()} == set(make_checks())
    for control in controls():
        assert control["control"] == control["id"].lower()
        assert control["objective"].startswith(f"{control['control']}_obj")


def test_fields_that_the_content_check_asks_for_are_those_of_its_control() -> None:
    [control] = [one for one in controls() if one["check"] == "content"]
    assert set(CONTENT) <= set(control["events"]["decided"])


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text[: text.index(MARK)] + tables(), encoding="utf-8")
