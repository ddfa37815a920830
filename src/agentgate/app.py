"""The composition root: a running gateway from its settings, and the ASGI application around it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from agentgate import __version__, life
from agentgate import settings as configuration
from agentgate.adapters.ambient.slot import Slot
from agentgate.adapters.ambient.system import SystemClock, SystemEntropy
from agentgate.adapters.sealers.chacha import ChaChaSealer
from agentgate.core.call import MemberId
from agentgate.core.errors import AgentGateError, UnsafeConfiguration
from agentgate.credentials import make_broker
from agentgate.doors import hot_routes
from agentgate.edges.framework import make_framework
from agentgate.edges.mcp import PATH as MCP_PATH
from agentgate.edges.wire import HotRoute, Mounted, Receive, Scope, Send, Wire
from agentgate.gateway import Gateway
from agentgate.kinds import make_admission, make_engine, make_upstreams, open_private, workers_file
from agentgate.logs import containment_id, make_log, make_log_signer
from agentgate.pipeline.record import new_trace_id
from agentgate.ports.upstreams import Upstream
from agentgate.settings import Settings


@contextlib.asynccontextmanager
async def running(config: Settings, *, upstreams: Mapping[str, Upstream] | None = None) -> AsyncIterator[Gateway]:
    """A started gateway; everything is closed again in the opposite order.

    `upstreams` are used instead of the configured ones, by name.

    Raises:
        AgentGateError: it cannot start; the text says why.
    """
    clock = SystemClock()
    open_private(config.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        signer = make_log_signer(config, anew=True)
        slot = Slot.take(config.data_dir)
        stack.callback(slot.release)  # the last thing: until then the log may still be written to
        log = await make_log(config, signer)
        stack.push_async_callback(log.aclose)
        member = MemberId(secrets.token_hex(8))
        slot.occupy(member)
        admission = make_admission(config, log_id=containment_id(config, signer), member=member, clock=clock)
        stack.push_async_callback(admission.aclose)
        engine = make_engine(config)
        stack.push_async_callback(engine.aclose)
        broker = make_broker(config, clock)
        stack.push_async_callback(broker.aclose)
        ours = {**make_upstreams(config, broker), **(upstreams or {})}
        for upstream in ours.values():
            stack.push_async_callback(upstream.aclose)
        gateway = Gateway(
            config,
            log=log,
            admission=admission,
            engine=engine,
            sealer=ChaChaSealer.from_file(config.data_dir / "sealing.key"),
            upstreams=ours,
            broker=broker,
            member=member,
            clock=clock,
            metrics=workers_file(config, f"{slot.number}.json"),
        )

        def rename(name: MemberId) -> None:
            slot.occupy(name)
            admission.rename(name)

        gateway.membership.on_new_name = rename
        with log.patient():
            await life.begin(gateway, slot.predecessors if log.is_shared else None)
        slot.settle()
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
                startup.gateway = gateway
                framework.state.desks = gateway.desks()
                framework.state.health = gateway.health.look
                framework.state.metrics = gateway.meter.render
                framework.state.metrics_type = gateway.meter.content_type
                hot.update(hot_routes(gateway))
                mounted[MCP_PATH] = gateway.mcp_door.serve
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except AgentGateError as error:
            startup.failure = str(error)
            startup.is_unsafe = isinstance(error, UnsafeConfiguration)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
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


def from_environment() -> Wire:
    """The application for an ASGI server that takes a factory, configured by the environment alone."""
    return create_app(configuration.load())


def _hosts(config: Settings) -> frozenset[str]:
    """The Host allow-list: loopback's names, the address listened on, the base URL's name, and `server.hosts`."""
    names = {"localhost", "127.0.0.1", "[::1]", *(name.lower() for name in config.server.hosts)}
    if config.server.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
        names.add(config.server.host.lower())
    if config.server.base_url is not None:
        names.add((urlsplit(config.server.base_url).hostname or "").lower())
    return frozenset(names)
