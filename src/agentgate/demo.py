"""Six scenes against a real gateway over HTTP, for a terminal. Exit status 0 only if all of them happened."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.markup import escape

from agentgate.core.verification.seals import Trust
from agentgate.core.verification.verify import verify

START_TIMEOUT_S: Final = 30.0
_READY: Final = re.compile(r"is ready on (http://\S+)")
_COLOURS: Final = {"ALLOW": "green", "DENY": "red", "REQUIRE_APPROVAL": "yellow"}


class SceneFailed(Exception):
    """The gateway did something else than the scene shows."""


@dataclass(slots=True)
class Stage:
    """A running gateway, and a way to say what happens on it."""

    agent: httpx.Client
    admin: httpx.Client
    signing_key: str
    out_dir: Path
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    session: str = "demo-session"

    def say(self, text: str) -> None:
        self.console.print(text)

    def call(self, tool: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Post one tool call and show request, verdict and why."""
        body = {"session_id": self.session, "tool_name": tool, "arguments": arguments, **more}
        self.say(f"  [dim]→ POST /tools/call[/] {escape(json.dumps(body))}")
        answer: dict[str, Any] = self.agent.post("/tools/call", json=body, timeout=70).json()
        self.show(answer)
        return answer

    def show(self, answer: dict[str, Any]) -> None:
        decision = answer.get("decision", "?")
        colour = _COLOURS.get(decision, "magenta")
        why = json.dumps(answer["result"]) if answer["success"] else answer["error"]
        self.say(f"  [dim]←[/] [{colour} bold]{decision}[/] {answer['reason_code']}: {escape(str(why)[:300])}")
        self.say(f"    [dim]trace {answer['trace_id']}[/]")


def expect(*, that: bool, otherwise: str) -> None:
    if not that:
        raise SceneFailed(otherwise)


# --- the scenes -----------------------------------------------------------------------------------------------


def allowed_read(stage: Stage) -> None:
    answer = stage.call("db_query", {"query": "SELECT id, name, price FROM products LIMIT 3"})
    expect(that=answer["success"] and bool(answer["result"]["rows"]), otherwise="the read was not allowed")


def unknown_tool(stage: Stage) -> None:
    answer = stage.call("hack_the_planet", {"target": "everything"})
    expect(that=answer["decision"] == "DENY", otherwise="an undeclared tool was not refused")


def write_needs_approval(stage: Stage) -> None:
    answer = stage.call("db_insert", {"table": "products", "data": {"name": "Gadget", "price": 9}})
    expect(that=answer["decision"] == "REQUIRE_APPROVAL", otherwise="the write went without approval")
    expect(that=answer["approval"]["state"] == "pending", otherwise="no approval is pending")


def write_with_approval(stage: Stage) -> None:
    pending = stage.admin.get("/approvals", params={"state": "pending"}).json()["approvals"]
    expect(that=len(pending) == 1, otherwise="the approver sees another number of pending approvals")
    approval = pending[0]["id"]
    stage.say(f"  [dim]→ POST /approvals/{approval}/approve[/]  (by a person, with a key that the agent has not)")
    verdict = stage.admin.post(f"/approvals/{approval}/approve").json()
    stage.say(f"  [dim]←[/] {verdict['state']} by {verdict['decided_by']}; good for this very call, once")
    call = {"table": "products", "data": {"name": "Gadget", "price": 9}}
    answer = stage.call("db_insert", call, approval_token=verdict["approval_token"])
    expect(that=answer["success"], otherwise="the approved write did not run")
    again = stage.call("db_insert", call, approval_token=verdict["approval_token"])
    expect(that=not again["success"], otherwise="one approval carried two writes")


def kill(stage: Stage) -> None:
    slow: dict[str, Any] = {}
    body = {"session_id": stage.session, "tool_name": "slow", "arguments": {"seconds": 30}}

    def run_slow() -> None:
        started = time.monotonic()
        with contextlib.suppress(httpx.HTTPError):  # the scene is over before its end, and says why
            slow.update(stage.agent.post("/tools/call", json=body, timeout=70).json())
        slow["took_s"] = time.monotonic() - started

    stage.say(f"  [dim]→ POST /tools/call[/] {escape(json.dumps(body))}  [dim](left running)[/]")
    runner = threading.Thread(target=run_slow)
    runner.start()
    _until(lambda: "agentgate_active_sessions 1.0" in stage.admin.get("/metrics").text, "the slow call did not start")
    stage.say(f"  [dim]→ POST /sessions/{stage.session}/kill[/]")
    answer = stage.admin.post(f"/sessions/{stage.session}/kill", json={"reason": "demo: out of hand"}).json()
    runner.join(timeout=20)
    replica = answer["replicas"][0]
    stage.say(
        f"  [dim]←[/] [red bold]{answer['status']}[/], drained: {answer['drained']}, "
        f"cancelled: {replica['cancelled']}, took {replica['took_ms']:.1f} ms"
    )
    expect(that=answer["drained"] is True and replica["cancelled"] == 1, otherwise="the kill did not drain")
    expect(that=slow.get("reason_code") == "killed", otherwise="the slow call was not cut")
    stage.say(f"  the 30 s call was cut after {slow['took_s']:.1f} s:")
    stage.show(slow)
    answer = stage.call("db_query", {"query": "SELECT 1"})
    expect(that=answer["reason_code"] == "killed", otherwise="a killed session could call")


def evidence(stage: Stage) -> None:
    pack = _taken(stage, "json")
    told = json.loads(pack)["summary"]
    stage.say(f"  [dim]←[/] {len(pack)} bytes, {told['total_tool_calls']} calls, {told['by_decision']}")
    trust = Trust(hmac_keys=(stage.signing_key.encode(),))
    expect(that=verify(pack, trust).exit_status == 0, otherwise="the pack does not verify")
    altered = pack.replace(b'"hack_the_planet"', b'"help_the_planet"')
    expect(that=verify(altered, trust).exit_status == 1, otherwise="an altered pack verified")
    for form in ("html", "pdf"):
        stage.say(f"  [dim]←[/] {len(_taken(stage, form))} bytes, for people")
    archive = _taken(stage, "zip")
    stage.say(f"  [dim]←[/] {len(archive)} bytes, for strangers: proofs, signed envelope, public keys, VERIFY.md")
    report = verify(archive, trust)
    for finding in report.findings:
        stage.say(f"    {finding.check:<10} {finding.standing}: {escape(finding.detail)}")
    expect(that=report.exit_status == 0, otherwise="the zip does not verify")
    middle = len(archive) // 2
    flipped = archive[:middle] + bytes([archive[middle] ^ 1]) + archive[middle + 1 :]
    expect(that=verify(flipped, trust).exit_status == 1, otherwise="a zip with one bit flipped verified")
    key = stage.out_dir / "signing.key"
    key.write_text(stage.signing_key, encoding="utf-8")
    stage.say(f"  written to {stage.out_dir}/evidence.*; a copy with one bit flipped fails. Check it yourself:")
    stage.say(f'  [bold]{_program()} verify {stage.out_dir / "evidence.zip"} --key "$(cat {key})"[/]')
    stage.say("  or, with openssl, sha256sum and python3 alone: paste what VERIFY.md in the zip says")


def _program() -> str:
    """What to type for this program: `make demo` puts nothing on PATH."""
    return (
        "agentgate"
        if shutil.which("agentgate")
        else escape(os.path.relpath(Path(sys.executable).with_name("agentgate")))
    )


def _taken(stage: Stage, form: str) -> bytes:
    """The session's pack, also as a file."""
    stage.say(f"  [dim]→ GET /sessions/{stage.session}/evidence?format={form}[/]")
    answer = stage.admin.get(f"/sessions/{stage.session}/evidence", params={"format": form}, timeout=60)
    expect(that=answer.status_code == 200, otherwise=f"no evidence as {form}")
    (stage.out_dir / f"evidence.{form}").write_bytes(answer.content)
    return answer.content


SCENES: Final[tuple[tuple[str, Callable[[Stage], None]], ...]] = (
    ("A read is allowed", allowed_read),
    ("An unknown tool is refused", unknown_tool),
    ("A write needs an approval", write_needs_approval),
    ("An approved write runs, once", write_with_approval),
    ("A kill refuses the next call and cuts the running one", kill),
    ("The evidence is written and verified", evidence),
)


def play(out_dir: Path) -> int:
    """Play all scenes; 0 if every one happened, else 1. Raises OSError when the evidence cannot be kept."""
    out_dir.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]AgentGate demo[/]: a real gateway on its embedded defaults, six scenes over HTTP\n")
    try:
        with _gateway(out_dir) as stage:
            for number, (title, scene) in enumerate(SCENES, 1):
                console.print(f"[bold cyan]{number}. {title}[/]")
                scene(stage)
                console.print()
    except SceneFailed as failure:
        console.print(f"[red bold]The demo failed:[/] {escape(str(failure))}")
        return 1
    except httpx.HTTPError as failure:
        console.print(f"[red bold]The demo failed:[/] the gateway did not answer ({type(failure).__name__})")
        return 1
    console.print("[green bold]All six scenes happened.[/]")
    return 0


# --- the stage --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _gateway(out_dir: Path) -> Iterator[Stage]:
    """A gateway process of our own on a free port and an empty data directory."""
    signing_key = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="agentgate-demo-") as data_dir:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AGENTGATE_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "agentgate", "serve", "--port", "0", "--data-dir", data_dir],
            env={**environment, "AGENTGATE_SIGNING_KEY": signing_key, "AGENTGATE_LOG_LEVEL": "ERROR"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = _ready_url(process)
            admin_key = (Path(data_dir) / "admin.key").read_text(encoding="utf-8")
            with (
                httpx.Client(base_url=url, trust_env=False) as agent,
                httpx.Client(base_url=url, trust_env=False, headers={"X-API-Key": admin_key}) as admin,
            ):
                yield Stage(agent, admin, signing_key, out_dir)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _ready_url(process: subprocess.Popen[str]) -> str:
    """Where the process listens, from its ready line."""
    if process.stdout is None:
        raise SceneFailed("the gateway has no output")
    for line in process.stdout:
        if found := _READY.search(line):
            return found[1]
    raise SceneFailed(f"the gateway did not start (exit status {process.wait(timeout=START_TIMEOUT_S)})")


def _until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        expect(that=time.monotonic() < deadline, otherwise=otherwise)
        time.sleep(0.05)
