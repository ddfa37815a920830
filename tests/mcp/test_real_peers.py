"""Clients and servers of others with the gateway between them: allowed, denied, approved, killed while running."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.gateway import GatewayProcess, call, key_entry, until
from tests.mcp.peers import Framework, Inspector, Seen, filesystem_server, reference_everything_server

POLICIES = Path(__file__).parents[2] / "policies"
PRIVATE = """
} else := refused("private_folder", "Nobody reads private folders") if {
	contains(input.arguments.path, "/private/")
} else := allowed("write_with_approval","""
KINDS = ("inspector-legacy", "inspector-modern", "inspector-stdio", "langchain", "openai-agents")
APPROVER, OPERATOR = "key-approver", "key-operator"
READS = ("read_text_file", "list_directory")
LONG_S = 20


class Client(Protocol):
    """What every client can do, whoever wrote it."""

    def tools(self) -> set[str]: ...
    def call(self, tool: str, arguments: dict[str, Any]) -> Seen: ...


@dataclass(frozen=True)
class Peer:
    """A client with a key and a session of its own."""

    kind: str
    client: Client
    session: str

    def tells_errors(self) -> bool:
        """Whether it says that a call failed; openai-agents gives its model the text alone."""
        return self.kind != "openai-agents"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the filesystem server may see."""
    folder = tmp_path_factory.mktemp("files").resolve()
    (folder / "note.txt").write_text("tea at four", encoding="utf-8")
    (folder / "private").mkdir()
    (folder / "private" / "diary.txt").write_text("dear diary", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def gateway(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Two reference servers over stdio; the shipped policy, which also keeps everybody out of one folder."""
    policies = tmp_path_factory.mktemp("policy") / "policies"
    shutil.copytree(POLICIES, policies, ignore=shutil.ignore_patterns("*_test.rego"))
    rego = (policies / "agentgate.rego").read_text(encoding="utf-8")
    ours = rego.replace('\n} else := allowed("write_with_approval",', PRIVATE, 1)
    assert ours != rego, "the policy has the rule that ours goes before"
    (policies / "agentgate.rego").write_text(ours, encoding="utf-8")
    keys = [key_entry(f"key-{kind}", agent=kind) for kind in KINDS]
    keys.append(key_entry(APPROVER, person="ada", roles=["approver"]))
    keys.append(key_entry(OPERATOR, person="olga", roles=["operator"], all_tenants=True))
    reads = {name: {"access": "read"} for name in READS}
    config = {
        "auth": {"keys": keys},
        "mcp": {"hold_s": 0},
        "server": {"refusals_per_second": 1_000_000},
        "upstreams": {
            "files": {"kind": "mcp", "command": filesystem_server(files), "trust": "first_use", "tools": reads},
            "everything": {
                "kind": "mcp",
                "command": reference_everything_server(),
                "env": {"GREETING": "hello"},
                "trust": "first_use",
                "access": "read",
            },
        },
    }
    with GatewayProcess(config=config, env={"AGENTGATE_POLICY_PATH": str(policies)}) as process:
        agent = process.client("key-langchain")
        for tool in ("files__list_allowed_directories", "everything__get-tiny-image"):
            until(lambda of=tool: call(agent, of).json()["reason_code"] != "unknown_tool", timeout_s=20)
        yield process


@pytest.fixture(scope="module", params=KINDS)
def peer(
    request: pytest.FixtureRequest, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    kind = request.param
    session = f"session-of-{kind}"
    with _client(kind, session, gateway, tmp_path_factory.mktemp("home")) as client:
        yield Peer(kind, client, session)


def _client(kind: str, session: str, gateway: GatewayProcess, home: Path) -> AbstractContextManager[Client]:
    key, url = f"key-{kind}", gateway.url + "/mcp"
    headers = {"X-API-Key": key, "AgentGate-Session": session}
    if kind == "inspector-stdio":
        config = home / "mcp.json"
        arguments = ["-m", "agentgate", "mcp", "--no-start", "--session", session, "--data-dir", str(gateway.data_dir)]
        server = {"command": sys.executable, "args": arguments, "env": {"AGENTGATE_API_KEY": key}}
        config.write_text(json.dumps({"mcpServers": {"gate": server}}), encoding="utf-8")
        return Inspector(("--config", str(config), "--server", "gate"), home)
    if kind.startswith("inspector"):
        given = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
        era = kind.partition("-")[2]
        return Inspector((url, "--transport", "http"), home, "--protocol-era", era, *given)
    return Framework("langchain_client.py" if kind == "langchain" else "openai_client.py", url, headers)


def test_a_client_finds_the_tools_of_both_servers(peer: Peer) -> None:
    tools = peer.client.tools()
    assert {"files__read_text_file", "files__write_file", "everything__get-sum"} <= tools
    assert all(name.startswith(("files__", "everything__")) for name in tools)


def test_an_allowed_call_reaches_the_server(peer: Peer, files: Path) -> None:
    seen = peer.client.call("files__read_text_file", {"path": str(files / "note.txt")})
    assert (seen.error, "tea at four" in seen.text) == (False, True), seen
    assert "42" in peer.client.call("everything__get-sum", {"a": 40, "b": 2}).text


def test_a_denied_call_says_why_to_the_model(peer: Peer, gateway: GatewayProcess, files: Path) -> None:
    seen = peer.client.call("files__read_text_file", {"path": str(files / "private" / "diary.txt")})
    assert seen.error or not peer.tells_errors()
    assert "DENIED" in seen.text, seen
    assert "Nobody reads private folders" in seen.text
    assert "dear diary" not in seen.text
    log = gateway.admin().get(f"/sessions/{peer.session}/evidence").text
    assert "private_folder" in log


def test_a_call_that_wants_approval_runs_once_approved(peer: Peer, gateway: GatewayProcess, files: Path) -> None:
    path = files / f"by-{peer.kind}.txt"
    arguments = {"path": str(path), "content": "written"}
    seen = peer.client.call("files__write_file", arguments)
    assert seen.error or not peer.tells_errors()
    assert not path.exists()
    approval = re.search(r"/approvals/([\w-]+)", seen.text)
    assert approval is not None, seen
    assert gateway.client(APPROVER).post(f"/approvals/{approval[1]}/approve").status_code == 200
    again = peer.client.call("files__write_file", arguments)
    assert (again.error, path.exists()) == (False, True), again
    path.unlink()
    assert "/approvals/" in peer.client.call("files__write_file", arguments).text, "an approval is for one call"
    assert not path.exists()


def test_a_kill_ends_the_call_that_runs_and_refuses_the_next(peer: Peer, gateway: GatewayProcess) -> None:
    operator = gateway.client(OPERATOR)
    long = {"duration": LONG_S, "steps": LONG_S}
    with ThreadPoolExecutor(1) as pool:
        began_s = time.monotonic()
        running = pool.submit(peer.client.call, "everything__trigger-long-running-operation", long)
        until(lambda: _runs(gateway, peer.session) or running.done())
        killed = operator.post(f"/sessions/{peer.session}/kill", json={"reason": "enough"})
        seen = running.result()
    try:
        assert time.monotonic() - began_s < LONG_S
        assert "STOPPED by an operator" in seen.text, seen
        after = peer.client.call("files__list_directory", {"path": "/"})
        assert after.error or not peer.tells_errors()
        assert "STOPPED by an operator" in after.text, after
    finally:
        gateway.admin().post(f"/kills/{killed.json()['id']}/release")


def _runs(gateway: GatewayProcess, session: str) -> bool:
    """Whether the log has a call of this session that was handed on and has not ended."""
    return "open" in gateway.admin().get(f"/sessions/{session}/evidence").text


def test_a_server_gets_no_more_of_our_environment_than_it_was_given(gateway: GatewayProcess) -> None:
    answer = gateway.client("key-langchain").post(
        "/tools/call", json={"session_id": "s-env", "tool_name": "everything__get-env", "arguments": {}}
    )
    said = answer.json()["result"]["content"][0]["text"]
    assert set(json.loads(said)) == {"PATH", "HOME", "LANG", "TMPDIR", "GREETING"} & set(json.loads(said))
    assert json.loads(said)["GREETING"] == "hello"
