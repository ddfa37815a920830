"""`agentgate mcp`: an MCP server on stdin and stdout for editors, which is a client of a running gateway.

One gateway serves every window: one log, one kill. Where none runs for the data directory, one is started and stays.
Stdout is the protocol's alone; whatever is said to people goes to stderr.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from agentgate import whereabouts
from agentgate.commands.ending import why
from agentgate.commands.remote import fits_header, host_of
from agentgate.commands.terminal import Config, DataDir, Status, die, err, settings_of
from agentgate.core.call import is_id
from agentgate.core.hosts import is_loopback
from agentgate.settings import Settings

START_S: Final = 30.0
OTHERS_S: Final = 3.0
_LOG: Final = "gateway.log"
_PROBLEM: Final = "application/problem+json"

cli = typer.Typer()


@cli.command("mcp")
def mcp(
    url: Annotated[str | None, typer.Option("--url", help="A gateway that runs elsewhere (AGENTGATE_URL)")] = None,
    session: Annotated[
        str | None, typer.Option("--session", help="The session's name (default: a new one for each window)")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    start: Annotated[bool, typer.Option(help="Start a gateway where none runs")] = True,
) -> None:
    """Speak MCP on stdin and stdout, for editors and the like. AGENTGATE_API_KEY is this client's key.

    Without one it is the agent `local`, whom a gateway on this machine knows as long as no agent keys are configured.
    """
    if session is not None and not is_id(session):
        die("--session must start with a letter or digit and hold only letters, digits and ._:@-", Status.USAGE)
    key = os.environ.get("AGENTGATE_API_KEY")
    if key is not None and not fits_header(key):
        die(
            "AGENTGATE_API_KEY has characters that no key has, such as a blank or a carriage return at its end",
            Status.USAGE,
        )
    where = url or os.environ.get("AGENTGATE_URL")
    settings = None if where else settings_of(config, {"data_dir": data_dir})

    def gateway() -> str:
        if settings is None:
            url = (where or "").rstrip("/")
        else:
            try:
                url = whereabouts.find(settings.data_dir) or _started(settings, config, may_start=start)
            except OSError as error:
                die(why(error, settings.data_dir), Status.START)
        _refuse_in_clear_text(url, key)
        return url

    _check(gateway(), key)
    headers = {"AgentGate-Session": session or f"window-{secrets.token_hex(8)}"}
    if key is not None:
        headers["X-API-Key"] = key
    from agentgate.commands import _bridge  # loads the MCP SDK, which takes longer than any other command runs

    _bridge.run(gateway, headers)


def _started(settings: Settings, config: Path | None, *, may_start: bool) -> str:
    """The URL of a gateway for the data directory, started unless somebody else does that at this moment."""
    home = settings.data_dir
    if not may_start:
        die(f"no gateway runs for {home}; start one with: agentgate serve --data-dir {home}", Status.REFUSED)
    with whereabouts.starting(home):
        if (found := whereabouts.find(home)) is not None:
            return found
        process = _start(settings, config)
        ends_at = time.monotonic() + START_S
        while (found := whereabouts.find(home)) is None:
            has_died = process.poll() is not None
            if has_died:  # maybe because somebody has started another at this moment: that one is as good
                ends_at = min(ends_at, time.monotonic() + OTHERS_S)
            if time.monotonic() > ends_at and has_died:
                die(f"the gateway did not start; its last words: {_last_words(home / _LOG)}", Status.START)
            if time.monotonic() > ends_at:
                die(f"the gateway was not ready within {START_S:.0f} s; see {home / _LOG}", Status.START)
            time.sleep(0.05)
    if process.poll() is None:
        err.print(f"agentgate: started a gateway on {found} (process {process.pid}, log {home / _LOG})")
    return found


def _start(settings: Settings, config: Path | None) -> subprocess.Popen[bytes]:
    """It outlives this window, and the terminal's Ctrl-C is not for it."""
    command = [sys.executable, "-m", "agentgate", "serve", "--data-dir", str(settings.data_dir.resolve())]
    if config is not None:
        command += ["--config", str(config.resolve())]
    if "port" not in settings.server.model_fields_set:  # 8000 may be anybody's; the clients read where it is
        command += ["--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "AGENTGATE_API_KEY"}
    with open(settings.data_dir / _LOG, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
        return subprocess.Popen(  # noqa: S603 - this very program
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "none"


def _refuse_in_clear_text(url: str, key: str | None) -> None:
    host = host_of(url)
    if host is None:
        die("the gateway's URL must be http(s)://host[:port]", Status.USAGE)
    if key is not None and httpx.URL(url).scheme == "http" and not is_loopback(host):
        die("a key would travel readable: use an https:// URL", Status.USAGE)


def _check(url: str, key: str | None) -> None:
    """Ask once whether this client may call tools: an editor shows a sentence on stderr, and hides a 401."""
    headers = {"X-API-Key": key} if key is not None else {}
    try:
        with httpx.Client(trust_env=not is_loopback(httpx.URL(url).host), timeout=10) as client:
            answer = client.get(f"{url}/tools/list", headers=headers)
    except httpx.HTTPError as error:
        die(f"the gateway at {url} cannot be reached: {str(error) or type(error).__name__}", Status.REFUSED)
    if answer.status_code in (401, 403):
        what = "does not take this key" if key is not None else "wants a key: set AGENTGATE_API_KEY"
        die(f"the gateway at {url} {what}", Status.REFUSED)
    if not _is_ours(answer):
        die(f"what answers at {url} is no AgentGate", Status.REFUSED)


def _is_ours(answer: httpx.Response) -> bool:
    """Whether it is a list of tools, or a refusal as a gateway words it."""
    try:
        said = answer.json()
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and (
        "tools" in said if answer.is_success else answer.headers.get("content-type", "").startswith(_PROBLEM)
    )
