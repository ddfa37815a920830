"""Routes of tools: who may look at them and decide, and what is said of one without a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edges.conftest import ONE_TENANTS_OPERATOR, key_of
from tests.gateway import GatewayProcess, key_entry, until

SERVER = Path(__file__).parents[1] / "e2e" / "tool_server.py"
READ: dict[str, Any] = {"name": "read", "description": "Reads.\u202e", "inputSchema": {"type": "object"}}
WRITE = READ | {"name": "write"}
ODD = READ | {"name": "re ad"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("server")
    tools = folder / "tools.json"
    tools.write_text(json.dumps({"name": "files-server", "tools": [READ, WRITE, ODD]}), encoding="utf-8")
    files = {"kind": "mcp", "command": [sys.executable, str(SERVER), str(folder)]}
    keys = [
        key_entry(key_of("operator"), person="olga", roles=["operator"], all_tenants=True),
        key_entry(ONE_TENANTS_OPERATOR, person="ann", roles=["operator"]),
        key_entry(key_of("agent"), agent="bot"),
    ]
    http = {"kind": "http", "base_url": "https://api.example"}
    declared = {"upstream": "web", "access": "read", "input_schema": {"type": "object"}, "path": "/", "method": "GET"}
    config = {"upstreams": {"files": files, "web": http}, "tools": {"fetch": declared}, "auth": {"keys": keys}}
    with GatewayProcess(config=config) as process:
        until(lambda: len(tools_of(process)) == 3)
        yield process


def tools_of(gateway: GatewayProcess) -> dict[str, dict[str, Any]]:
    """The tools of servers, by their names there."""
    said = gateway.client(key_of("operator")).get("/tools").json()
    return {tool["tool"]: tool for tool in said["tools"] if "tool" in tool}


def test_all_tools_are_listed_with_what_becomes_of_them(served: GatewayProcess) -> None:
    said = served.client(key_of("operator")).get("/tools").json()
    states = {tool["name"]: (tool["state"], tool["policy"], tool["served"]) for tool in said["tools"]}
    assert states == {
        "files__read": ("new", "hidden", False),
        "files__write": ("new", "hidden", False),
        'files__"re ad"': ("refused", "hidden", False),
        "fetch": ("declared", "allow", True),
    }
    assert said["servers"]["files"]["up"] is True
    assert "definition" not in said["tools"][0], "of one tool alone"
    health = served.client(None).get("/health").json()
    assert (health["status"], health["servers"]["files"]["up"]) == ("ok", True)
    metrics = served.client(None).get("/metrics").text
    assert 'agentgate_health_status{dependency="server/files"} 1.0' in metrics
    assert "agentgate_quarantined_tools 0.0" in metrics


def test_one_tool_comes_with_its_definitions(served: GatewayProcess) -> None:
    (tool,) = served.client(key_of("operator")).get("/tools", params={"name": "files__write"}).json()["tools"]
    assert (tool["definition"], tool["found_definition"]) == (None, WRITE)


def test_accepting_makes_it_callable_and_rejecting_takes_it_away(served: GatewayProcess) -> None:
    operator = served.client(key_of("operator"))
    sha256 = tools_of(served)["read"]["found"]
    body = {"session_id": "s-1", "tool_name": "files__read", "arguments": {}}
    call = served.client(key_of("agent"))
    assert call.post("/tools/call", json=body).json()["reason_code"] == "unknown_tool"
    done = operator.post("/tools/files__read/accept", json={"sha256": sha256, "access": "read"})
    assert (done.status_code, done.json()["state"], done.json()["policy"]) == (200, "offered", "allow")
    assert "files__read" in call.get("/tools/list").json()["tools"]
    assert call.post("/tools/call", json=body).json()["reason_code"] == "ok"
    gone = operator.post("/tools/files__read/reject")
    assert (gone.status_code, gone.json()["state"], gone.json()["served"]) == (200, "rejected", False)
    assert call.post("/tools/call", json=body).json()["reason_code"] == "unknown_tool"
    assert "files__read" not in call.get("/tools/list").json()["tools"]


@pytest.mark.parametrize(
    ("name", "body", "status", "reason"),
    [
        ("files__write", {"sha256": "0" * 64}, 409, "conflict"),
        ("files__nothing", {"sha256": "0" * 64}, 404, "not_found"),
        ("fetch", {"sha256": "0" * 64}, 404, "not_found"),
        ("files__write", {"sha256": "short"}, 422, "invalid_request"),
        ("files__write", {}, 422, "invalid_request"),
        ("files__write", {"sha256": "0" * 64, "access": "admin"}, 422, "invalid_request"),
        ("files__write", {"sha256": "0" * 64, "extra": 1}, 422, "invalid_request"),
    ],
)
def test_what_cannot_be_accepted_is_a_problem_that_says_why(
    served: GatewayProcess, name: str, body: dict[str, Any], status: int, reason: str
) -> None:
    said = served.client(key_of("operator")).post(f"/tools/{name}/accept", json=body)
    assert (said.status_code, said.json()["reason_code"]) == (status, reason)
    assert said.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("word", ["accept", "reject"])
def test_an_operator_of_one_tenant_looks_and_does_not_decide(served: GatewayProcess, word: str) -> None:
    ann = served.client(ONE_TENANTS_OPERATOR)
    assert ann.get("/tools").status_code == 200
    body = {"sha256": tools_of(served)["write"]["found"]} if word == "accept" else {}
    said = ann.post(f"/tools/files__write/{word}", json=body)
    assert (said.status_code, said.json()["reason_code"]) == (403, "forbidden")
    assert tools_of(served)["write"]["state"] == "new"
