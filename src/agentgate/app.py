"""The composition root: a running gateway from its settings, and the ASGI application around it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from agentgate import __version__, life
from agentgate.adapters.ambient.system import SystemEntropy
from agentgate.core.errors import AgentGateError, UnsafeConfiguration
from agentgate.core.hosts import in_a_header
from agentgate.doors import control_desks, hot_routes
from agentgate.edges.framework import make_framework
from agentgate.edges.mcp import PATH as MCP_PATH
from agentgate.edges.wire import HotRoute, Mounted, Receive, Scope, Send, Wire
from agentgate.gateway import Gateway
from agentgate.opening import open_all
from agentgate.pipeline.records.record import new_trace_id
from agentgate.ports.upstreams import Upstream
from agentgate.settings import Settings


@contextlib.asynccontextmanager
async def running(config: Settings, *, upstreams: Mapping[str, Upstream] | None = None) -> AsyncIterator[Gateway]:
    """A started gateway; everything is closed again in the opposite order.

    `upstreams` are used instead of the configured ones, by name.

    Raises:
        AgentGateError: it cannot start; the text says why.
    """
    async with contextlib.AsyncExitStack() as stack:
        opened = await open_all(config, stack, upstreams)
        gateway = Gateway(config, opened)
        gateway.membership.on_new_name = opened.rename
        with opened.log.patient():
            await life.begin(gateway, opened.slot.predecessors if opened.log.is_shared else None)
        opened.slot.settle()
        stack.push_async_callback(life.end, gateway)
        async with life.alive(gateway):
            yield gateway


@dataclass(slots=True)
class Startup:
    """What came of the start, for whoever serves the application."""

    failure: str | None = None
    is_unsafe: bool = False
    """Whether it failed for its configuration: then it will fail again."""
    gateway: Gateway | None = None

    def fail(self, error: Exception) -> None:
        if isinstance(error, AgentGateError):
            self.failure, self.is_unsafe = str(error), isinstance(error, UnsafeConfiguration)
        elif self.gateway is None:  # unforeseen; that of an end is not the start's
            self.failure = f"the start failed: {type(error).__name__}: {error}"

    def count_fault(self) -> None:
        if self.gateway is not None:
            self.gateway.meter.count("faults")


def create_app(config: Settings, startup: Startup | None = None) -> Wire:
    """The ASGI application. Nothing is opened before its lifespan starts."""
    startup = startup or Startup()
    framework = make_framework(__version__)
    hot: dict[tuple[str, str], HotRoute] = {}
    mounted: dict[str, Mounted] = {}

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with running(config) as gateway:
                framework.state.desks = control_desks(gateway)
                framework.state.health = gateway.health.look
                framework.state.metrics = gateway.meter.render
                framework.state.metrics_type = gateway.meter.content_type
                hot.update(hot_routes(gateway))
                mounted[MCP_PATH] = gateway.mcp_door.serve
                startup.gateway = gateway
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            startup.fail(error)
            phase = "startup" if startup.gateway is None else "shutdown"
            await send({"type": f"lifespan.{phase}.failed", "message": traceback.format_exc()})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    return Wire(
        framework,
        lifespan,
        hot,
        mounted,
        hosts=_hosts(config),
        origins=frozenset(origin.lower().rstrip("/") for origin in config.server.origins),
        max_body_bytes=config.server.max_body_bytes,
        on_fault=startup.count_fault,
        new_id=partial(new_trace_id, SystemEntropy()),
    )


def _hosts(config: Settings) -> frozenset[str]:
    """The Host allow-list: loopback's names, the address listened on, the base URL's name, and `server.hosts`."""
    names = {"localhost", "127.0.0.1", "::1", *config.server.hosts}
    if config.server.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
        names.add(config.server.host)
    if config.server.base_url is not None:
        names.add(urlsplit(config.server.base_url).hostname or "")
    return frozenset(map(in_a_header, names))
