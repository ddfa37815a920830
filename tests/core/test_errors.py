"""docs/reasons.md and the closed set of reason codes are alike, statuses included."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentgate.core.errors import OUTAGE, AgentGateError, PolicyNotEnforced, ReasonCode
from agentgate.edges.problem import Problem

ROOT = Path(__file__).parents[2]
EDGES = ROOT / "src" / "agentgate" / "edges"
ROWS = re.findall(
    r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs" / "reasons.md").read_text(), re.MULTILINE
)
STATUS = {code: door for code, door, _, _ in ROWS}
TOLD = {code: f"{door} {meaning}" for code, door, meaning, _ in ROWS}


def test_page_lists_every_code_once_in_order() -> None:
    assert [code for code, *_ in ROWS] == [code.value for code in ReasonCode]


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    assert all(meaning.strip() and advice.strip() for _, _, meaning, advice in ROWS)
    assert all(re.fullmatch(r"record|control \d{3}|\d{3}(, \d{3})*", door) for _, door, _, _ in ROWS)


def test_outages_are_503_and_nothing_else_is() -> None:
    assert {ReasonCode(code) for code, door in STATUS.items() if door == "503"} == OUTAGE


@pytest.mark.parametrize("module", ["tools.py", "wire.py", "caller.py", "operator.py", "framework.py"])
def test_page_gives_the_status_that_the_edges_answer(module: str) -> None:
    text = (EDGES / module).read_text()
    for status, name in re.findall(r"Problem\(\s*(\d{3}),\s*ReasonCode\.(\w+)", text):
        code = ReasonCode[name].value
        assert status in TOLD[code], f"{code} is answered with {status}"


@pytest.mark.parametrize("code", list(ReasonCode))
def test_code_names_itself_in_its_problem_document(code: ReasonCode) -> None:
    document = Problem(503, code, "why").document()
    assert document["reason_code"] == code.value == code.name.lower()
    assert document["type"].endswith(code.value)


def test_policy_not_enforced_names_both_revisions() -> None:
    error = PolicyNotEnforced("sha256:new", None)
    assert "sha256:new" in str(error)
    assert str(error).endswith("but none is enforced")
    assert (error.wanted, error.enforced) == ("sha256:new", None)
    assert PolicyNotEnforced("sha256:new", "sha256:old").enforced == "sha256:old"
    assert isinstance(error, AgentGateError)
