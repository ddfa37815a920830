"""`agentgate tools`: what it asks of a gateway, what it shows before it asks, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from agentgate.cli import cli
from tests.commands.test_stopping import run
from tests.scripted_gateway import ScriptedGateway, problem

OLD, NEW = "a" * 64, "b" * 64
SERVERS = {"files": {"up": True, "detail": "connected, 2 tools", "protocol": "2026-07-28"}}


def tool(name: str = "files__read", state: str = "new", **more: Any) -> dict[str, Any]:
    return {
        "server": "files", "tool": name.removeprefix("files__"), "name": name, "state": state, "why": "",
        "served": False, "policy": "hidden", "access": "write", "pin": None, "trust": None, "by": None, "at": None,
        "found": NEW, "changes": [], "definition": None,
        "found_definition": {"name": "read", "description": "Reads.\u202e [red]x"},
    } | more  # fmt: skip


CHANGED = tool(
    state="quarantined", pin=OLD, by="person:ann", at="2026-11-21T10:00:00.000000Z",
    changes=['tool.description: "Reads." became "Evil."'], why="its server describes it otherwise",
)  # fmt: skip
SERVED = tool(state="offered", pin=NEW, served=True, policy="allow", by="person:ann", at="2026-11-21T10:00:00.000000Z")


def answering(*tools: dict[str, Any], trouble: str | None = None, **more: Any) -> ScriptedGateway:
    said = {"tools": list(tools), "servers": SERVERS, "trouble": trouble}
    return ScriptedGateway({"GET /tools": [(200, said)], **more})


def asked(gateway: ScriptedGateway) -> list[tuple[str, str, Any]]:
    """The orders that were given."""
    return [request for request in gateway.asked if request[0] == "POST"]


@pytest.mark.parametrize("words", [["tools"], ["tools", "list"]])
def test_a_list_says_the_state_of_each_tool(words: list[str]) -> None:
    with answering(SERVED, tool("files__write", state="missing", why="its server does not list it")) as gateway:
        result = run(gateway, *words)
    assert result.exit_code == 0, result.output
    assert gateway.asked[0][1] == "/tools?agent=agent"
    assert [line.split()[:4] for line in result.stdout.splitlines()[1:3]] == [
        ["files__read", "offered", "write", "allow"],
        ["files__write", "missing", "write", "hidden"],
    ]


@pytest.mark.parametrize("waiting", [tool(), CHANGED])
def test_a_tool_that_waits_for_somebody_is_4(waiting: dict[str, Any]) -> None:
    with answering(SERVED, waiting) as gateway:
        assert run(gateway, "tools").exit_code == 4


def test_a_list_as_json_is_what_the_gateway_said() -> None:
    with answering(SERVED) as gateway:
        assert json.loads(run(gateway, "tools", "list", "--json").stdout)["tools"] == [SERVED]


def test_a_server_that_is_down_and_a_policy_that_is_behind_are_said() -> None:
    down = {"files": {"up": False, "detail": "no such program", "protocol": ""}}
    said = {"tools": [], "servers": down, "trouble": "the policy cannot be loaded: x"}
    with ScriptedGateway({"GET /tools": [(200, said)]}) as gateway:
        result = run(gateway, "tools")
    assert "files is down: no such program" in result.stdout
    assert "not served yet: the policy cannot be loaded: x" in result.stdout


def test_show_hides_nothing_and_colours_nothing_that_a_server_wrote() -> None:
    with answering(CHANGED) as gateway:
        result = run(gateway, "tools", "show", "files__read")
    assert result.exit_code == 0, result.output
    assert 'description: "Reads.[U+202E] [red]x"' in result.stdout
    assert 'tool.description: "Reads." became "Evil."' in result.stdout
    assert f"accepted {OLD}" in result.stdout
    assert f"found    {NEW}" in result.stdout


def test_a_tool_that_there_is_not_is_said() -> None:
    with ScriptedGateway({"GET /tools": [(200, {"tools": [], "servers": SERVERS})]}) as gateway:
        result = run(gateway, "tools", "show", "x")
    assert (result.exit_code, "there is no tool x" in result.stderr) == (1, True)


def test_what_was_shown_is_what_is_accepted() -> None:
    accept = "POST /tools/files__read/accept"
    with answering(CHANGED, **{accept: [(200, SERVED)]}) as gateway:
        result = run(gateway, "tools", "accept", "files__read", "--yes", "--access", "read")
    assert result.exit_code == 0, result.output
    assert "accepted files__read (write): served; for an agent, policy says allow" in result.stdout
    assert asked(gateway) == [("POST", "/tools/files__read/accept", {"sha256": NEW, "access": "read"})]


def test_accepted_and_not_served_yet_is_4() -> None:
    done = SERVED | {"served": False, "trouble": "the policy cannot be loaded: x"}
    with answering(tool(), **{"POST /tools/files__read/accept": [(200, done)]}) as gateway:
        result = run(gateway, "tools", "accept", "files__read", "--yes")
    assert (result.exit_code, "not served yet: the policy cannot be loaded: x" in result.stdout) == (4, True)


def test_nobody_accepts_without_being_asked() -> None:
    with answering(CHANGED) as gateway:
        result = run(gateway, "tools", "accept", "files__read")
    assert (result.exit_code, asked(gateway)) == (2, [])
    assert 'became "Evil."' in result.stderr, "shown all the same"
    assert "--yes" in result.stderr


def test_whoever_says_no_accepts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgate.commands.terminal._is_somebody_here", lambda: True)
    with answering(tool()) as gateway:
        env = {"AGENTGATE_URL": gateway.url, "AGENTGATE_KEY": "a-key"}
        result = CliRunner().invoke(cli, ["tools", "accept", "files__read"], env=env, input="n\n")
    assert (result.exit_code, asked(gateway)) == (1, [])
    assert "description" in result.stderr


def test_another_digest_than_the_one_that_was_said_is_not_accepted() -> None:
    with answering(tool()) as gateway:
        result = run(gateway, "tools", "accept", "files__read", "--yes", "--sha256", OLD)
    assert (result.exit_code, asked(gateway)) == (1, [])
    assert NEW in result.stderr


def test_all_new_accepts_the_new_tools_of_one_server_and_no_others() -> None:
    more = {f"POST /tools/files__{name}/accept": [(200, SERVED)] for name in ("read", "list")}
    tools = [tool("files__read"), tool("files__list"), tool("files__write", state="quarantined"), tool("x", server="y")]
    with answering(*tools, **more) as gateway:
        result = run(gateway, "tools", "accept", "files", "--all-new", "--yes")
    assert result.exit_code == 0, result.output
    assert [path for _, path, _ in asked(gateway)] == ["/tools/files__read/accept", "/tools/files__list/accept"]


@pytest.mark.parametrize(("server", "why"), [("others", "no tool server"), ("files", "no new tools")])
def test_all_new_of_nothing_is_refused(server: str, why: str) -> None:
    with answering(SERVED) as gateway:
        result = run(gateway, "tools", "accept", server, "--all-new", "--yes")
    assert (result.exit_code, why in result.stderr, asked(gateway)) == (1, True, [])


def test_a_refusal_is_said_in_the_gateways_words() -> None:
    no = problem(409, "conflict", "that is not what its server describes now: look at it again")
    with answering(tool(), **{"POST /tools/files__read/accept": [no]}) as gateway:
        result = run(gateway, "tools", "accept", "files__read", "--yes")
    assert (result.exit_code, "look at it again" in result.stderr) == (1, True)


def test_reject_takes_a_tool_away() -> None:
    with answering(SERVED, **{"POST /tools/files__read/reject": [(200, tool(state="rejected"))]}) as gateway:
        result = run(gateway, "tools", "reject", "files__read", "--yes")
    assert (result.exit_code, "rejected files__read" in result.stdout) == (0, True)
