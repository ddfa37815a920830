"""`agentgate mcp` when editors die, lines are no messages, and notes lie."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentgate import whereabouts
from tests.gateway import GatewayProcess, clean_environment, key_entry, until
from tests.web import Handler, serving

ERAS = ("2025-11-25", "2026-07-28")
NEWER = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "editor", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
KEY = "the-windows-own-key-0123456789abcdef"


class Window:
    """`agentgate mcp` as an editor has it: two pipes, and a file for what it says to people."""

    def __init__(self, folder: Path, *flags: str, key: str | None = None, era: str = ERAS[0]) -> None:
        self.said = folder / "stderr"
        self.era = era
        env = clean_environment() | ({"AGENTGATE_API_KEY": key} if key is not None else {})
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agentgate", "mcp", *flags],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=env,
            )  # fmt: skip

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, method: str, number: int | None = None, **params: Any) -> None:
        if self.era == ERAS[1]:
            params["_meta"] = NEWER
        named = {} if number is None else {"id": number}
        self.write(json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **named}).encode())

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found = json.loads(self.process.stdout.readline())
        assert isinstance(found, dict)
        return found

    def greet(self) -> None:
        if self.era == ERAS[0]:
            client = {"name": "editor", "version": "1"}
            self.send("initialize", 0, protocolVersion=self.era, capabilities={}, clientInfo=client)
            assert "result" in self.answer()
            self.send("notifications/initialized")

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with GatewayProcess(config={"auth": {"keys": [key_entry(KEY, agent="editor")]}}) as found:
        yield found


@contextlib.contextmanager
def opened(folder: Path, *flags: str, key: str | None = KEY, era: str = ERAS[0]) -> Iterator[Window]:
    window = Window(folder, *flags, key=key, era=era)
    try:
        yield window
    finally:
        window.process.kill()
        window.close()
        window.process.wait()
        assert window.process.stdout is not None
        window.process.stdout.close()


def ends(window: Window, how: str) -> None:
    match how:
        case "stdin ends":
            window.close()
        case "SIGTERM":
            window.process.send_signal(signal.SIGTERM)
        case "SIGINT":
            window.process.send_signal(signal.SIGINT)
        case _:
            window.process.kill()
    window.process.wait(timeout=10)


@pytest.mark.parametrize(
    ("how", "era"),
    [
        ("stdin ends", ERAS[0]),
        ("stdin ends", ERAS[1]),
        ("SIGTERM", ERAS[0]),
        ("SIGINT", ERAS[1]),
        ("SIGKILL", ERAS[1]),  # in the handshake era a closed connection cancels nothing, and nobody could say more
    ],
)
def test_what_a_window_ran_ends_with_it(gateway: GatewayProcess, tmp_path: Path, how: str, era: str) -> None:
    session = f"w-{how.replace(' ', '-')}-{era}"
    with opened(tmp_path, "--url", gateway.url, "--session", session, era=era) as window:
        window.greet()
        window.send("tools/call", 7, name="slow", arguments={"seconds": 30})
        admin = {"X-API-Key": gateway.admin_key}

        def running() -> bool:
            calls = httpx.get(f"{gateway.url}/calls", headers=admin).json()["calls"]
            return any(call["session"] == session for call in calls)

        until(running, timeout_s=30)  # a window of the modern era starts meanwhile: nothing greets it
        ends(window, how)
        until(lambda: not running(), timeout_s=5)
        assert "Traceback" not in window.said.read_text()


def test_lines_that_are_no_messages_end_nothing(gateway: GatewayProcess, tmp_path: Path) -> None:
    with opened(tmp_path, "--url", gateway.url) as window:
        window.greet()
        for line in (b"", b"no json", b"\xff\xfe\x00", b"[]", b"{}", b'{"jsonrpc":"2.0"}', b'{"a":' * 3_000, b"7"):
            window.write(line)
        for line in (b'{"jsonrpc":"2.0","method":7}', b'{"jsonrpc":"1.0","id":1,"method":"ping"}', b"x" * 3_000_000):
            window.write(line)
        window.send("tools/call", 7, name="db_query", arguments={"query": "x" * 3_000_000})
        window.send("tools/call", 8, name="db_query", arguments={"query": "SELECT 1"})
        answers: dict[Any, dict[str, Any]] = {}
        while not {7, 8} <= answers.keys():
            found = window.answer()
            assert found["jsonrpc"] == "2.0"
            answers[found.get("id")] = found
        assert not answers[8]["result"].get("isError")
        assert "error" in answers[7] or answers[7]["result"]["isError"]
        assert window.process.stdout is not None
        window.close()
        assert window.process.stdout.read() == b""


@pytest.fixture
def thief() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A web server that is no gateway, and the headers of what it was asked."""
    asked: list[dict[str, str]] = []

    class Thief(Handler):
        def answer(self) -> None:
            asked.append(dict(self.headers))
            self.say(200, b'{"jsonrpc":"2.0","id":0,"result":{"tools":["x",7,{}],"protocolVersion":7}}')

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that it must have

    with serving(Thief) as url:
        yield url, asked


@contextlib.contextmanager
def noted(file: Path, url: str) -> Iterator[None]:
    """Somebody says that a gateway is there, and holds the lock as a gateway does."""
    file.parent.mkdir(exist_ok=True)
    with file.open("w") as note:
        note.write(json.dumps({"url": url, "pid": 1}))
        note.flush()
        fcntl.flock(note, fcntl.LOCK_EX)
        yield


def test_a_note_that_is_a_link_is_not_followed(tmp_path: Path, thief: tuple[str, list[dict[str, str]]]) -> None:
    url, asked = thief
    home = tmp_path / "home"
    home.mkdir()
    with noted(tmp_path / "elsewhere" / "note.json", url):
        (home / "gateway.json").symlink_to(tmp_path / "elsewhere" / "note.json")
        assert whereabouts.find(home) is None
        with opened(tmp_path, "--data-dir", str(home), "--no-start") as window:
            assert window.process.wait(timeout=10) == 1
    assert asked == []


def test_what_is_no_gateway_ends_a_window_with_a_sentence(
    tmp_path: Path, thief: tuple[str, list[dict[str, str]]]
) -> None:
    url, _ = thief
    with noted(tmp_path / "home" / "gateway.json", url), opened(tmp_path, "--data-dir", str(tmp_path / "home")) as one:
        assert one.process.wait(timeout=10) == 1
        assert one.process.stdout is not None
        assert one.process.stdout.read() == b""
    assert "no AgentGate" in one.said.read_text()
    assert "Traceback" not in one.said.read_text()


@pytest.mark.parametrize("url", ["http://192.0.2.7:8000", "http://[", 7])
def test_a_note_cannot_send_a_key_elsewhere_in_clear_text(tmp_path: Path, url: Any) -> None:
    home = tmp_path / "home"
    with noted(home / "gateway.json", url), opened(tmp_path, "--data-dir", str(home), "--no-start") as window:
        assert window.process.wait(timeout=10) in (1, 2)
    assert "Traceback" not in window.said.read_text()


def test_windows_that_open_at_once_start_one_gateway_and_hand_no_key_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "gateway.starting").touch()  # left by one that was killed: a lock dies with its holder
    config = tmp_path / "agentgate.yaml"
    config.write_text(json.dumps({"auth": {"keys": [key_entry(KEY, agent="editor")]}}))
    with contextlib.ExitStack() as stack:
        folders = [tmp_path / name for name in "ab"]
        for folder in folders:
            folder.mkdir()
        flags = "--data-dir", str(home), "--config", str(config)
        windows = [stack.enter_context(opened(folder, *flags)) for folder in folders]
        for window in windows:
            window.greet()
        pid = json.loads((home / "gateway.json").read_text())["pid"]
        try:
            said = "".join(window.said.read_text() for window in windows)
            assert said.count("started a gateway") == 1
            assert KEY not in said
            for process in (pid, *(window.process.pid for window in windows)):
                assert KEY.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
            assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
            for file in home.rglob("*"):
                assert not file.is_file() or KEY.encode() not in file.read_bytes()
        finally:
            os.kill(pid, signal.SIGTERM)
            until(lambda: whereabouts.find(home) is None)


def test_a_window_that_loses_against_anothers_gateway_uses_that_one(gateway: GatewayProcess, tmp_path: Path) -> None:
    """Somebody types `agentgate serve` while the window starts one: the log is the other's before it is ready."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with (home / "log.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with opened(tmp_path, "--data-dir", str(home)) as window:
            log = home / "gateway.log"
            until(lambda: log.exists() and "another process" in log.read_text(), timeout_s=30)
            with noted(home / "gateway.json", gateway.url):
                window.greet()
