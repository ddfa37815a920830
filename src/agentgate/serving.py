"""Runs the application on uvicorn: one process, one ready line, one sentence when it cannot start."""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from agentgate import __version__
from agentgate import settings as configuration
from agentgate.app import Startup, create_app
from agentgate.kinds import policy_path
from agentgate.settings import Settings

GRACE_S = 10
"""How long running calls may take to end when the process is told to stop; then they are cut and recorded."""


def run(settings: Settings, config: Path | None, *, reload: bool) -> str | None:
    """Serve until told to stop; a sentence when it could not start.

    `config` is the file that `settings` came from: a reloading gateway reads it again.
    """
    _set_up_logging(settings.server.log_level)
    _say_what_starts(settings)
    if reload:
        _run_reloading(settings, config)
        return None
    startup = Startup()
    server = _Server(uvicorn.Config(create_app(settings, startup), **_options(settings)), settings, startup)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    except SystemExit:  # uvicorn's own way to say that the lifespan or the port failed
        where = f"{settings.server.host}:{settings.server.port}"
        return startup.failure or f"cannot listen on {where}: address already in use, or not this machine's"
    return startup.failure


class _Server(uvicorn.Server):
    """Says in one line when the gateway is ready, where and with what."""

    def __init__(self, config: uvicorn.Config, settings: Settings, startup: Startup) -> None:
        super().__init__(config)
        self._settings = settings
        self._startup = startup

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """From the signal on nothing new is let through; what runs has its grace."""
        if self._startup.gateway is not None:
            self._startup.gateway.gate.closing = True
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if not self.started or not self.servers:
            return
        address = self.servers[0].sockets[0].getsockname()
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        _quieten_collector()
        settings = self._settings
        parts = f"policy {settings.policy.kind}, containment {settings.containment.kind}, log sqlite"
        sys.stdout.write(f"agentgate {__version__} is ready on http://{host}:{address[1]} ({parts})\n")
        sys.stdout.flush()


def _quieten_collector() -> None:
    """What was loaded at the start lives as long as the process: the cyclic collector need not look at it again.

    Calls make many short-lived objects and hardly any cycles, so it may also look less often (bench/RESULTS.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "host": settings.server.host,
        "port": settings.server.port,
        "loop": "auto" if sys.platform == "win32" else "uvloop",
        "http": "httptools",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": GRACE_S,
        "ws": "none",
    }


def _run_reloading(settings: Settings, config: Path | None) -> None:
    """The reloader starts fresh processes, which read everything from the environment."""
    for variable, value in {
        "AGENTGATE_HOST": settings.server.host,
        "AGENTGATE_PORT": settings.server.port,
        "AGENTGATE_DATA_DIR": settings.data_dir,
        "AGENTGATE_CONFIG": config,
    }.items():
        if value is not None:
            os.environ[variable] = str(value)
    uvicorn.run(
        "agentgate.app:from_environment",
        factory=True,
        reload=True,
        reload_dirs=[str(Path(__file__).parent), str(policy_path(settings))],
        reload_includes=["*.py", "*.rego", "data.json", "*.lua"],
        **_options(settings),
    )


def _set_up_logging(level: str) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # what uvicorn says of a failed start is said by `run`, once
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL if level != "DEBUG" else logging.DEBUG)


def _say_what_starts(settings: Settings) -> None:
    """Which defaults are in force, and what they mean for the promises."""
    logger = logging.getLogger("agentgate")
    if settings.containment.kind == "local":
        logger.info("no AGENTGATE_REDIS_URL: kill switches live in this process, and in the log on disk")
    if settings.policy.kind == "wasm":
        logger.info("no AGENTGATE_OPA_URL: the policy runs in this process (wasm)")
    if settings.log.url is None:
        logger.info("no AGENTGATE_DATABASE_URL: the log is SQLite in %s", settings.data_dir)
    if settings.auth.admin_key is None:
        logger.info("no AGENTGATE_ADMIN_API_KEY: the admin key is in %s", settings.data_dir / "admin.key")
    if settings.evidence.signing_key is None:
        logger.warning("no AGENTGATE_SIGNING_KEY: evidence packs are not signed")
    if not settings.auth.keys and not configuration.key_file(settings.data_dir).exists():
        logger.warning(
            "no agent keys: every caller on this machine is the agent `local`; "
            "run agents as another OS user, or they can read the admin key and the log"
        )
