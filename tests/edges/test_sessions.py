"""Which sessions a caller may ask for: those that doors give to others are not among them."""

from __future__ import annotations

import pytest

from agentgate.core.call import Door, Principal, Role, is_id
from agentgate.core.decision import Verdict
from agentgate.core.errors import ReasonCode
from agentgate.edges.sessions import given, placed
from tests.fakes import principal

CONNECTION = "5f" * 16
OF_CONNECTION = f"mcp-{CONNECTION}"


def person(name: str) -> Principal:
    return principal(name, Role.AGENT, person=True)


@pytest.mark.parametrize(
    ("caller", "name"),
    [
        (principal("bot"), "bot"),
        (principal("person.x"), "person.x"),
        (principal("b" * 245), "b" * 245),
        (person("bot"), "person:bot"),
        (principal("person:bot"), "agent:person:bot"),
        (principal("agent:bot"), "agent:agent:bot"),
    ],
)
def test_a_session_is_named_after_the_door_and_the_caller(caller: Principal, name: str) -> None:
    assert given(Door.ENVELOPE, caller) == f"envelope-{name}"
    assert given(Door.MCP, caller) == f"mcp-{name}"
    assert placed(None, caller, Door.MCP) == (f"mcp-{name}", None)


def test_no_two_callers_have_one_session_however_long_their_names_are() -> None:
    cut = given(Door.MCP, principal("b" * 256))
    names = ["b" * length for length in range(240, 257)] + ["b" * 255 + end for end in "ac"] + [cut[4:]]
    callers = [one for name in names for one in (principal(name), person(name))]
    for door in (Door.MCP, Door.ENVELOPE):
        ids = [given(door, caller) for caller in callers]
        assert len(set(ids)) == len(callers)
        assert all(is_id(one) for one in ids)
        for caller, own in zip(callers, ids, strict=True):
            taken = [other for other in ids if placed(other, caller, door)[1] is None]
            assert taken == [own]


@pytest.mark.parametrize(
    "asked",
    ["s-1", "mcp-bot", "envelope-bot", OF_CONNECTION, "mcp", "mcp.other", "MCP-other", "my-mcp-other", "rest-x"],
)
def test_what_is_ones_own_or_nobodys_is_given(asked: str) -> None:
    assert placed(asked, principal("bot"), Door.MCP, CONNECTION) == (asked, None)


def test_who_comes_over_a_connection_and_names_no_session_is_in_that_of_the_connection() -> None:
    assert placed(None, principal("bot"), Door.MCP, CONNECTION) == (OF_CONNECTION, None)


@pytest.mark.parametrize(
    ("caller", "own", "others"),
    [
        (principal("bot"), "mcp-bot", "mcp-person:bot"),
        (person("bot"), "mcp-person:bot", "mcp-bot"),
        (principal("person:bot"), "mcp-agent:person:bot", "mcp-person:bot"),
    ],
)
@pytest.mark.parametrize(
    "asked", ["mcp-other", "envelope-other", "mcp-", "mcp-bot2", "envelope-" + CONNECTION, OF_CONNECTION, "mcp-Bot", ""]
)
def test_what_may_be_given_to_another_is_refused_in_ones_own(
    caller: Principal, own: str, others: str, asked: str
) -> None:
    session, refused = placed(asked or others, caller, Door.MCP)
    assert session == own
    assert refused is not None
    assert (refused.verdict, refused.reason_code) == (Verdict.DENY, ReasonCode.FOREIGN_SESSION)
    assert (asked or others) in refused.reason
