"""`agentgate mcp`: what editors start. Each configuration of docs/mcp.md is read, and what it names is started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import yaml
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from agentgate import whereabouts
from tests.gateway import GatewayProcess, clean_environment, key_entry, run_cli, until

DOCS = Path(__file__).parents[2] / "docs" / "mcp.md"
BLOCKS = re.findall(
    r"^```(json|yaml) ([a-z -]+)\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
CONFIGURATIONS = {name: (form, text) for form, names, text in BLOCKS for name in names.split()}
SERVERS = {
    "claude-desktop": "mcpServers",
    "cursor": "mcpServers",
    "cline": "mcpServers",
    "vscode": "servers",
    "continue": "mcpServers",
    "zed": "context_servers",
    "vscode-http": "servers",
}
"""Under which name each client keeps its servers."""
ERAS = ("legacy", "2026-07-28")


def server_of(client: str, home: Path) -> dict[str, Any]:
    """The one server that a client's configuration has, with our own directory for the reader's."""
    form, text = CONFIGURATIONS[client]
    text = text.replace("/home/you/.agentgate", str(home)).replace("/home/you", str(home.parent))
    tree = json.loads(text) if form == "json" else yaml.safe_load(text)
    servers = tree[SERVERS[client]]
    (server,) = servers.values() if isinstance(servers, dict) else servers
    assert isinstance(server, dict)
    return server


def window(home: Path, *flags: str, env: dict[str, str] | None = None) -> StdioServerParameters:
    """What an editor starts."""
    command, *args = sys.executable, "-m", "agentgate", "mcp", "--data-dir", str(home), *flags
    return StdioServerParameters(command=command, args=args, env={**clean_environment(), **(env or {})})


@contextlib.asynccontextmanager
async def opened(server: Any, era: str = "2026-07-28") -> AsyncIterator[Client]:
    async with asyncio.timeout(60), Client(server, mode=era, cache=None) as client:
        yield client


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A data directory; whatever gateway was started for it is ended."""
    yield tmp_path / "home"
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        note = json.loads((tmp_path / "home" / "gateway.json").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(note["pid"], signal.SIGTERM)
            until(lambda: whereabouts.find(tmp_path / "home") is None)


async def found(home: Path) -> str:
    """The gateway's address, once there is one: a request in the newer era is the first thing that is sent."""
    url = await asyncio.to_thread(until, lambda: whereabouts.find(home), timeout_s=30)
    assert url is not None
    return url


def sessions(url: str, home: Path) -> list[str]:
    key = (home / "admin.key").read_text().strip()
    answer = httpx.get(f"{url}/sessions", headers={"X-API-Key": key})
    return list(answer.json()["sessions"])


def test_every_client_that_is_named_has_a_configuration() -> None:
    assert set(CONFIGURATIONS) == set(SERVERS)


@pytest.mark.parametrize("client", [name for name in SERVERS if name != "vscode-http"])
async def test_a_configuration_starts_what_it_names(client: str, home: Path, tmp_path: Path) -> None:
    server = server_of(client, home)
    assert server["command"] == "agentgate"
    (tmp_path / "agentgate.yaml").write_text("server: {refusals_per_second: 30}\n")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "agentgate"  # as an installed package would have put it on PATH
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m agentgate "$@"\n')
    program.chmod(0o755)
    env = {**clean_environment(), "PATH": f"{program.parent}:{os.environ['PATH']}", **server.get("env", {})}
    started = StdioServerParameters(command=server["command"], args=server["args"], env=env)
    async with opened(started, "legacy") as editor:
        assert "db_query" in [tool.name for tool in (await editor.list_tools()).tools]


async def test_the_configuration_for_http_reaches_a_gateway(tmp_path: Path) -> None:
    server = server_of("vscode-http", tmp_path)
    keys = [key_entry("the-agents-key", agent="editor")]
    with GatewayProcess(config={"auth": {"keys": keys}}) as gateway:
        url = server["url"].replace("http://127.0.0.1:8000", gateway.url)
        async with (
            httpx2.AsyncClient(headers=server["headers"]) as http,
            opened(streamable_http_client(url, http_client=http)) as editor,
        ):
            assert "db_query" in [tool.name for tool in (await editor.list_tools()).tools]


@pytest.mark.parametrize("era", ERAS)
async def test_two_windows_have_one_gateway_one_log_and_sessions_of_their_own(home: Path, era: str) -> None:
    async with opened(window(home), era) as first, opened(window(home), era) as second:
        for editor in (first, second):
            answer = await editor.call_tool("db_query", {"query": "SELECT 1"})
            assert not answer.is_error
        url = await found(home)
        assert len([name for name in sessions(url, home) if name.startswith("window-")]) == 2


@pytest.mark.parametrize("era", ERAS)
async def test_a_kill_from_a_terminal_ends_what_a_window_runs(home: Path, era: str) -> None:
    async with opened(window(home, "--session", "win-1"), era) as editor:
        running = asyncio.create_task(editor.call_tool("slow", {"seconds": 30}))
        url = await found(home)
        key = (home / "admin.key").read_text().strip()

        def calls() -> list[Any]:
            answer = httpx.get(f"{url}/calls", headers={"X-API-Key": key}).json()["calls"]
            assert isinstance(answer, list)
            return answer

        await asyncio.to_thread(until, calls)
        done = await asyncio.to_thread(
            run_cli, "kill", "session", "win-1", "--url", url, env={"AGENTGATE_ADMIN_API_KEY": key}
        )
        assert done.returncode == 0, done.stderr
        cut = await running
        assert cut.is_error
        again = await editor.call_tool("db_query", {"query": "SELECT 1"})
        assert again.is_error
        assert (again.meta or {})["dev.agentgate/reasonCode"] == "killed"


@pytest.mark.parametrize("era", ERAS)
async def test_a_window_outlives_its_gateway_and_tells_what_it_does_not_know(home: Path, era: str) -> None:
    async with opened(window(home, "--session", "win-2"), era) as editor:
        running = asyncio.create_task(editor.call_tool("slow", {"seconds": 30}))
        await found(home)
        note = json.loads((home / "gateway.json").read_text())
        key = (home / "admin.key").read_text().strip()
        await asyncio.to_thread(
            until, lambda: httpx.get(f"{note['url']}/calls", headers={"X-API-Key": key}).json()["calls"]
        )
        os.kill(note["pid"], signal.SIGKILL)
        with pytest.raises(Exception, match="whether the call had an effect is unknown"):
            await running
        answer = await editor.call_tool("db_query", {"query": "SELECT 1"})
        assert not answer.is_error, "another gateway was started, and told who the client is"


async def test_a_key_that_is_not_taken_is_told_at_once(home: Path) -> None:
    keys = [key_entry("right", agent="editor")]
    with GatewayProcess(config={"auth": {"keys": keys}}) as gateway:
        for env, words in (({}, "wants a key"), ({"AGENTGATE_API_KEY": "wrong"}, "does not take this key")):
            done = run_cli("mcp", "--url", gateway.url, env=env)
            assert (done.returncode, words in done.stderr, done.stdout) == (1, True, "")


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--no-start",), 1, "no gateway runs for"),
        (("--session", "a b"), 2, "--session must"),
        (("--url", "ftp://x"), 2, "the gateway's URL"),
        (("--url", "http://127.0.0.1:9"), 1, "cannot be reached"),
    ],
)
def test_what_cannot_be_is_a_sentence_on_stderr(home: Path, flags: tuple[str, ...], status: int, words: str) -> None:
    done = run_cli("mcp", "--data-dir", str(home), *flags)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr


def test_a_key_never_travels_readable(home: Path) -> None:
    done = run_cli("mcp", "--url", "http://gate.example.org", env={"AGENTGATE_API_KEY": "k"})
    assert (done.returncode, "https://" in done.stderr) == (2, True)


def test_a_gateway_that_cannot_start_says_its_last_words(home: Path) -> None:
    home.mkdir()
    (home / "policies").mkdir()
    done = run_cli("mcp", "--data-dir", str(home), env={"AGENTGATE_POLICY_PATH": str(home / "policies")})
    assert (done.returncode, done.stdout) == (3, "")
    assert "did not start" in done.stderr
