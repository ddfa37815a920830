"""Which sessions a caller may ask for: those that doors give to others are not among them."""

from __future__ import annotations

import pytest

from agentgate.core.call import Door, Role, SessionId
from agentgate.core.decision import Verdict
from agentgate.core.errors import ReasonCode
from agentgate.edges.sessions import given, placed
from tests.fakes import principal

OF_CONNECTION = given(Door.MCP, "5f" * 16)


def test_a_session_is_named_after_the_door_and_the_caller() -> None:
    assert given(Door.ENVELOPE, "bot") == "envelope-bot"
    assert given(Door.MCP, "b" * 256) == "mcp-" + "b" * 252


@pytest.mark.parametrize(
    "asked",
    ["s-1", "mcp-bot", "envelope-bot", OF_CONNECTION, "mcp", "mcp.other", "MCP-other", "my-mcp-other", "rest-x"],
)
def test_what_is_ones_own_or_nobodys_is_given(asked: str) -> None:
    assert placed(asked, principal("bot"), OF_CONNECTION) == (asked, None)


@pytest.mark.parametrize(
    "asked", ["mcp-other", "envelope-other", "mcp-", "mcp-bot2", "envelope-" + "5f" * 16, "mcp-Bot"]
)
@pytest.mark.parametrize("person", [False, True])
def test_what_may_be_given_to_another_is_refused_in_ones_own(asked: str, person: bool) -> None:
    session, refused = placed(asked, principal("bot", Role.AGENT, person=person), SessionId("mcp-bot"))
    assert session == "mcp-bot"
    assert refused is not None
    assert (refused.verdict, refused.reason_code) == (Verdict.DENY, ReasonCode.FOREIGN_SESSION)
    assert asked in refused.reason
