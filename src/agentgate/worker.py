"""One process that serves: the application on uvicorn, alone or as one of several workers (`supervising.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn

from agentgate.app import Startup, create_app
from agentgate.connection import Connection
from agentgate.settings import Settings
from agentgate.supervising import BACKLOG, KILL_AFTER_S, LENGTH, set_up_logging

GRACE_S = 10
"""How long running calls may take to end when the process is told to stop; then they are cut and recorded."""
_TOLD_WITHIN_S = 2
"""How long their callers may then take to be told so, before uvicorn ends what still serves a request: a 500."""


def serve(
    settings: Settings, on_ready: Callable[[Sequence[socket.socket]], None], sockets: list[socket.socket] | None = None
) -> Startup:
    """Serve until told to stop, on `sockets` or where `settings` says. `on_ready` is called once, with the sockets."""
    startup = Startup()
    server = _Server(uvicorn.Config(create_app(settings, startup), **_options(settings)), startup, on_ready)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        pass
    except SystemExit:  # uvicorn's own way to say that the lifespan failed, which has said why, or else the port
        where = f"{settings.server.host}:{settings.server.port}"
        startup.failure = startup.failure or (
            f"cannot listen on {where}: address already in use, or not this machine's; choose another --port or --host"
        )
    return startup


class _Server(uvicorn.Server):
    """Says when the gateway is ready, and lets nothing new through from the signal to end on."""

    def __init__(
        self, config: uvicorn.Config, startup: Startup, on_ready: Callable[[Sequence[socket.socket]], None]
    ) -> None:
        super().__init__(config)
        self._startup = startup
        self._on_ready = on_ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """From the signal on nothing new is let through; what runs has its grace."""
        if self._startup.gateway is not None:
            self._startup.gateway.gate.closing = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; but what runs at the end of its grace is cut while somebody is there to tell its caller."""
        gateway = self._startup.gateway
        cut = asyncio.get_running_loop().call_later(GRACE_S, gateway.replica.shut) if gateway is not None else None
        try:
            await super().shutdown(sockets)
        finally:
            if cut is not None:
                cut.cancel()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if not self.started or not self.servers:
            return
        _quieten_collector()
        self._on_ready(self.servers[0].sockets)


def _quieten_collector() -> None:
    """What was loaded at the start lives as long as the process: the cyclic collector need not look at it again.

    Calls make many short-lived objects and hardly any cycles, so it may also look less often (bench/RESULTS.md).
    """
    gc.freeze()  # without a last look at it all, which takes a tenth of the start and finds some hundred objects
    gc.enable()
    gc.set_threshold(20_000, 20, 50)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "host": settings.server.host,
        "port": settings.server.port,
        "loop": "auto" if sys.platform == "win32" else "uvloop",
        "http": _patient(settings.server.request_timeout_s),
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": GRACE_S + _TOLD_WITHIN_S,
        "backlog": BACKLOG,
        "ws": "none",
        "lifespan": "on",  # by itself it would serve without one whose start has failed in an unforeseen way
    }


def _patient(seconds: float) -> type[Connection]:
    """Connections whose requests may take so long to arrive. As an attribute: there is one class for each process."""
    Connection.patience_s = seconds
    return Connection


def main() -> None:
    """Started by `supervising.Supervisor`: the arguments are the handles of the socket to it and of the listeners."""
    channel, *listeners = (socket.socket(fileno=int(handle)) for handle in sys.argv[1:])
    for inherited in (channel, *listeners):
        inherited.set_inheritable(False)
    settings: Settings = _settings(channel)
    set_up_logging(settings.server.log_level, who=f"[{os.getpid()}]")
    threading.Thread(target=_end_with_parent, args=(channel,), daemon=True).start()
    startup = serve(settings, lambda _: _say(channel, {"ready": True}), listeners)
    if startup.failure is not None:
        _say(channel, {"failed": startup.failure, "final": startup.is_unsafe})
        sys.exit(1)


def _settings(channel: socket.socket) -> Settings:
    with channel.makefile("rb") as told:
        (length,) = LENGTH.unpack(told.read(LENGTH.size))
        settings = pickle.loads(told.read(length))  # noqa: S301 - from the parent alone: nobody else has this socket
    assert isinstance(settings, Settings)
    return settings


def _say(channel: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the parent is dead: `_end_with_parent` sees to it
        channel.sendall(json.dumps(message).encode() + b"\n")


def _end_with_parent(channel: socket.socket) -> None:
    """Wait until the parent is dead, and end as if it had said so."""
    with contextlib.suppress(OSError):
        while channel.recv(4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(KILL_AFTER_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
