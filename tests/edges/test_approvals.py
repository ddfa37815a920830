"""What a list of approvals costs, and who has to wait for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agentgate.core.approval import State
from agentgate.core.visible import visible
from agentgate.edges import approvals
from tests.fakes import ADMIN, ASK, a_call
from tests.pipeline.conftest import House

HIDING = "\u202e" * 100_000


async def test_a_list_looks_at_the_beginning_of_each_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an agent sends, people see what else waits, and calls go on meanwhile."""
    house = House()
    looked_at: list[int] = []

    def counting(text: str) -> str:
        looked_at.append(len(text))
        return visible(text)

    monkeypatch.setattr(approvals, "visible", counting)
    house.engine.answer = ASK
    for number in range(3):
        await house.gate.pass_through(a_call(arguments={"n": f"{number}{HIDING}"}))
    desks: Any = SimpleNamespace(approvals=house.approvals)
    listed = await approvals.list_approvals(desks, ADMIN, State.PENDING, limit=100)
    assert [one["arguments_text"][:15] for one in listed["approvals"]] == [f'{{"n":"{n}[U+202E]' for n in range(3)]
    assert {len(one["arguments_text"]) for one in listed["approvals"]} == {200}
    assert sum(looked_at) == 3 * 200
