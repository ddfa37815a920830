"""One gateway process of a cluster: the real application on its own port, and an upstream that keeps a diary.

It is forked by `zygote.py` from a process that has imported everything, and never returns.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from agentgate import app
from agentgate.core.decision import Grant
from agentgate.ports.upstreams import Credential, Delivered, Undelivered
from agentgate.settings import Settings
from tests.containment import breaks

SERVERS = ("up-1", "up-2")
"""The upstreams that every replica has."""
TOOLS = {"read-a": "up-1", "read-b": "up-1", "read-c": "up-2"}


@dataclass(frozen=True, slots=True)
class Orders:
    """What a replica is started with. `settings` are those of agentgate.yaml; `hurried` goes past their limits."""

    name: str
    settings: Mapping[str, Any]
    sends: str
    output: str
    hurried: Mapping[str, float] = field(default_factory=dict)
    breaks: Sequence[str] = ()


class RecordingUpstream:
    """Does nothing for as long as the call asks, and writes down when it began and ended, whatever ended it.

    Arguments: `ms` to take; `linger_ms` that it goes on for after it was cancelled, like a socket that closes slowly.
    """

    def __init__(self, replica: str, file: int) -> None:
        self._replica = replica
        self._file = file

    def validate_options(self, options: Mapping[str, Any]) -> None:
        pass

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        call = grant.call
        wanted_ms, linger_ms = call.arguments["ms"], call.arguments.get("linger_ms", 0)
        self._write(call.trace_id, "started", wanted_ms)
        how = "cancelled"
        try:
            await asyncio.sleep(wanted_ms / 1000)
            how = "done"
        except asyncio.CancelledError:
            await _linger(linger_ms)
            raise
        finally:
            self._write(call.trace_id, how, wanted_ms)
        return Delivered({"ms": wanted_ms})

    def _write(self, trace: str, what: str, wanted_ms: int) -> None:
        """One line in one system call: it is whole or not there, whenever the process dies."""
        line = {"trace": trace, "what": what, "at": time.monotonic_ns(), "replica": self._replica, "ms": wanted_ms}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    async def aclose(self) -> None:
        pass


async def _linger(milliseconds: int) -> None:
    """Not to be hurried by a second cancellation."""
    until = time.monotonic() + milliseconds / 1000
    while (left := until - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


def serve(orders: Orders) -> None:
    """Be that replica until told to stop. Raises SystemExit when it cannot start."""
    output = os.open(orders.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level="INFO", format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", force=True)
    for name in orders.breaks:
        breaks.BREAKS[name]()
    settings = Settings.model_validate(orders.settings)
    hurried = settings.containment.model_copy(update=dict(orders.hurried))
    settings = settings.model_copy(update={"containment": hurried})
    upstream = RecordingUpstream(orders.name, os.open(orders.sends, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    app.running = functools.partial(app.running, upstreams=dict.fromkeys(SERVERS, upstream))
    startup = app.Startup()
    server = uvicorn.Server(uvicorn.Config(app.create_app(settings, startup), **_options(settings)))
    server.run()
    if startup.failure is not None:
        logging.getLogger("tests").error("it did not start: %s", startup.failure)
        sys.exit(3)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "host": settings.server.host,
        "port": settings.server.port,
        "loop": "uvloop",
        "http": "httptools",
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": 2,
        "ws": "none",
        "backlog": 512,
        "lifespan": "on",
    }


def configuration(port: int, data_dir: Path, shared: Mapping[str, Any], redis_url: str, log_url: str) -> dict[str, Any]:
    """The settings of one replica; `shared` has the keys and the checkpoint key that all have in common."""
    schema = {
        "type": "object",
        "properties": {"ms": {"type": "integer"}, "linger_ms": {"type": "integer"}},
        "required": ["ms"],
    }
    return {
        "data_dir": str(data_dir),
        "server": {"port": port, "refusals_per_second": 100_000},
        "auth": shared["auth"],
        "containment": {"kind": "redis", "url": redis_url},
        "log": {"url": log_url, "checkpoint_key": {"file": shared["log_key"]}},
        # never spoken to: the recording upstream takes their place
        "upstreams": {name: {"kind": "http", "base_url": "http://127.0.0.1:9"} for name in SERVERS},
        "tools": {
            name: {"upstream": server, "access": "read", "input_schema": schema, "method": "GET", "path": "/"}
            for name, server in TOOLS.items()
        },
    }
