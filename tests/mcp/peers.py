"""Peers of the MCP gateway that we did not write. `scripts/services` puts them into its cache.

Servers: the Python SDK's everything-server (over HTTP, what the conformance suites are written for) and the reference
servers of Node.js (over stdio). Clients: the Inspector's command line, and two agent frameworks in Python.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.outside.tools import cache, digest, found

HERE = Path(__file__).parent
CALL_S = 30.0
_RUNNING = re.compile(r"Uvicorn running on (http://\S+)")


# --- where they are ---------------------------------------------------------------------------------------


def _node_folder() -> Path:
    names = ("../../outside/node/.node-version", "package.json", "package-lock.json")
    return Path(found(cache() / f"mcp-node-{digest(HERE / 'node', *names)}", "tests/mcp/node"))


def _python_folder() -> Path:
    folder = cache() / f"mcp-python-{digest(HERE / 'python', 'clients.lock', 'everything.lock')}"
    found(folder / ".whole", "tests/mcp/python")
    return folder


def node(package: str, script: str) -> list[str]:
    """The command that runs a script of an npm package."""
    folder = _node_folder()
    return [str(folder / "node"), str(folder / "node_modules" / package / script)]


def filesystem_server(root: Path) -> list[str]:
    """The reference server that reads and writes files below `root`; stdio, 2025-11-25."""
    return [*node("@modelcontextprotocol/server-filesystem", "dist/index.js"), str(root)]


def reference_everything_server() -> list[str]:
    """The reference server with a tool of every kind; stdio, 2025-11-25. Not what the suites are written for."""
    return [*node("@modelcontextprotocol/server-everything", "dist/index.js"), "stdio"]


@contextmanager
def everything_server(interpreter: str = sys.executable) -> Iterator[str]:
    """The Python SDK's everything-server on a free port, on our own `mcp`, which speaks both eras; its MCP URL."""
    environment = {**os.environ, "PYTHONPATH": str(_python_folder() / "everything"), "PYTHONUNBUFFERED": "1"}
    command = [interpreter, "-m", "mcp_everything_server", "--port", "0", "--log-level", "WARNING"]
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        said: list[str] = []
        drain: threading.Thread | None = None
        try:
            for line in process.stderr:
                said.append(line)
                if running := _RUNNING.search(line):
                    drain = threading.Thread(target=process.stderr.read, daemon=True)
                    drain.start()
                    yield running[1] + "/mcp"
                    return
            raise AssertionError("the everything-server did not start:\n" + "".join(said))
        finally:
            process.terminate()
            process.wait(10)
            if drain is not None:
                drain.join(10)


# --- conformance ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Suite:
    """A conformance suite as it is run: `mark` heads its column."""

    mark: str
    package: str
    flags: tuple[str, ...]


SUITES = (
    Suite("0.1.16, active", "conformance-stable", ()),
    Suite(
        "0.2.0-alpha.12, 2025-11-25", "@modelcontextprotocol/conformance", ("--requirements", "2025-11-25")
    ),
    Suite(
        "0.2.0-alpha.12, 2026-07-28", "@modelcontextprotocol/conformance", ("--requirements", "2026-07-28")
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """`failures`: what each failing check says."""

    scored: bool
    passed: int
    failures: tuple[str, ...]


def run_suite(suite: Suite, url: str, folder: Path) -> tuple[int, dict[str, Scenario], str]:
    """Its exit status, what came of each scenario, and all that it said."""
    done = subprocess.run(
        [*node(suite.package, "dist/index.js"), "server", "--url", url, "-o", str(folder), *suite.flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=100,
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    not_scored = set(re.findall(r"^  [✓✗] (\S+) \([a-z-]+\)$", said.partition("\nNot scored for ")[2], re.MULTILINE))
    scenarios = {}
    for checks in sorted(folder.glob("server-*/checks.json")):
        name = re.sub(r"^server-(.*)-\d{4}-\d\d-\d\dT[\d-]+Z$", r"\1", checks.parent.name)
        told = json.loads(checks.read_text(encoding="utf-8"))
        scenarios[name] = Scenario(
            name not in not_scored,
            sum(check["status"] == "SUCCESS" for check in told),
            tuple(f"{c['id']}: {c.get('errorMessage')}" for c in told if c["status"] == "FAILURE"),
        )
    return done.returncode, scenarios, said


# --- clients ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What a client makes of one call. `error`: it was told that the call failed; `text`: what a model would read."""

    error: bool
    text: str
    meta: Mapping[str, Any]


class Inspector:
    """The Inspector's command line: a process for each call."""

    def __init__(self, target: Sequence[str], home: Path, *flags: str) -> None:
        """`target`: a URL, or the flags that name a server in a configuration."""
        script = "clients/launcher/build/index.js"
        self._command = [*node("@modelcontextprotocol/inspector", script), "--cli", *target]
        self._flags = flags
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"]}

    def __enter__(self) -> Inspector:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, method: str, *more: str) -> tuple[int, dict[str, Any], str]:
        """Its exit status, the result, and what it complained of."""
        done = subprocess.run(
            [*self._command, "--format", "json", "--quiet", *self._flags, "--method", method, *more],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CALL_S,
            check=False,
        )
        found = json.loads(done.stdout)["result"] if done.stdout.strip() else {}
        return done.returncode, found, done.stderr

    def tools(self) -> set[str]:
        status, result, said = self.ask("tools/list")
        assert status == 0, said
        return {tool["name"] for tool in result["tools"]}

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Seen:
        given = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        status, result, said = self.ask("tools/call", *given)
        if not result:
            return Seen(True, said, {})
        text = "".join(part.get("text", "") for part in result["content"])
        assert (status == 5) == bool(result.get("isError")), (status, result, said)
        return Seen(status != 0, text, result.get("_meta", {}))


class Framework:
    """An agent framework's MCP client in a process of its own, without any model: a line asks, a line answers."""

    def __init__(self, script: str, url: str, headers: Mapping[str, str]) -> None:
        self._command = [str(_python_folder() / "bin/python"), str(HERE / script), url, json.dumps(dict(headers))]

    def __enter__(self) -> Framework:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._errors: list[str] = []
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._errors.extend, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        self._tools = set(self._answer()["tools"])
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._reader.join(10)
        for end in (self._process.stdout, self._process.stderr):
            assert end is not None
            end.close()

    def tools(self) -> set[str]:
        return self._tools

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Seen:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"tool": tool, "arguments": dict(arguments)}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Seen(answer["error"], answer["text"], {})

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "".join(self._errors)
        answer: dict[str, Any] = json.loads(line)
        return answer
