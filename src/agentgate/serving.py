"""`agentgate serve`: one process or several, one ready line, one sentence when it cannot start."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agentgate import __version__, keyfile, whereabouts
from agentgate import settings as configuration
from agentgate.settings import Settings
from agentgate.supervising import Supervisor, bind, set_up_logging


def run(settings: Settings, config: Path | None, places: Mapping[str, Any], *, reload: bool) -> str | None:
    """Serve until told to stop; a sentence when it could not start.

    `config` and `places` are what `settings` came from (`settings.load`): a reloading gateway reads them again.
    """
    if reload and settings.server.workers > 1:
        return "--reload is for one process: leave it out, or set workers: 1"
    set_up_logging(settings.server.log_level)
    _say_what_starts(settings)
    if settings.server.workers > 1:
        return _on_sockets(settings, _run_workers)
    if reload:
        from agentgate import reloading  # loads the whole gateway, and uvicorn's reloader

        again = partial(configuration.load, config=config, overrides=places)
        file = configuration.config_file(config)
        serve = partial(reloading.serve, again=again, config=file, on_ready=_say_ready)
        return _on_sockets(settings, serve)
    gc.disable()  # loading makes many objects and hardly any garbage: a tenth of the start; the worker enables it
    from agentgate import worker  # loads the whole gateway, which a parent of workers does not need

    return worker.serve(settings, lambda sockets: _say_ready(settings, sockets)).failure


def _on_sockets(settings: Settings, serve: Callable[[Settings, list[socket.socket]], str | None]) -> str | None:
    """Have other processes serve: what they listen on is theirs one after another, or together."""
    server = settings.server
    try:
        listeners = bind(server.host, server.port)
    except OSError as error:
        return f"cannot listen on {server.host}:{server.port}: {error.strerror}; choose another --port or --host"
    return serve(settings, listeners)


def _run_workers(settings: Settings, listeners: list[socket.socket]) -> str | None:
    for old in configuration.workers_folder(settings).glob("*"):  # counters start anew with the service
        old.unlink(missing_ok=True)
    return Supervisor(settings, listeners, on_ready=lambda: _say_ready(settings, listeners)).run()


def _say_ready(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """The one line on stdout: where, and with what."""
    address = sockets[0].getsockname()
    host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
    url = f"http://{host}:{address[1]}"
    near = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared with, not listened on
    _leave_note(settings, f"http://{near}:{address[1]}")
    parts = [f"policy {settings.policy.kind}", f"containment {settings.containment.kind}", f"log {settings.log.kind}"]
    if settings.server.workers > 1:
        parts.append(f"{settings.server.workers} workers")
    sys.stdout.write(f"agentgate {__version__} is ready on {url} ({', '.join(parts)})\n")
    sys.stdout.flush()


def _leave_note(settings: Settings, url: str) -> None:
    try:
        trouble: object = None
        if whereabouts.leave(settings.data_dir, url) is None:
            trouble = f"another process holds the note in {settings.data_dir}"
    except OSError as error:
        trouble = error
    if trouble is not None:
        logging.getLogger("agentgate").warning("`agentgate mcp` will not find this gateway: %s", trouble)


def _say_what_starts(settings: Settings) -> None:
    """Which defaults are in force, and what they mean for the promises."""
    logger = logging.getLogger("agentgate")
    for name in configuration.unread(settings, configuration.environment()):
        logger.warning("%s is set, and nothing reads it", name)
    if settings.containment.kind == "local":
        logger.info("no AGENTGATE_REDIS_URL: kill switches live in this process, and in the log on disk")
    if settings.policy.kind == "wasm":
        logger.info("no AGENTGATE_OPA_URL: the policy runs in this process (wasm)")
    if settings.log.url is None:
        logger.info("no AGENTGATE_DATABASE_URL: the log is SQLite in %s", settings.data_dir)
    if settings.auth.admin_key is None:
        logger.info("no AGENTGATE_ADMIN_API_KEY: the admin key is in %s", settings.data_dir / "admin.key")
    if settings.evidence.signing_key is None:
        logger.warning("no AGENTGATE_SIGNING_KEY: evidence packs have no HMAC")
    if settings.auth.oauth:
        issuers = ", ".join(part.issuer for part in settings.auth.oauth)
        logger.info("agents come with keys, or with tokens of %s", issuers)
    elif settings.auth.mtls is not None:
        logger.info("agents come with keys, or with certificates that a proxy has checked")
    elif not settings.auth.keys and not keyfile.key_file(settings.data_dir).exists():
        logger.warning(
            "no agent keys: every caller on this machine is the agent `local`; "
            "run agents as another OS user, or they can read the admin key and the log"
        )
