"""The composition root: the only module that names concrete adapters, and the life of a gateway process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from agentgate import __version__, settings as configuration
from agentgate.adapters.ambient.system import SystemClock, SystemEntropy
from agentgate.adapters.containment.local import LocalAdmission
from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.adapters.credentials.env import EnvCredentials
from agentgate.adapters.log.sqlite import SqliteLog, verify as verify_log
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.adapters.policy._compile import OpaCompiler, find_opa
from agentgate.adapters.policy.directory import PolicyDirectory
from agentgate.adapters.policy.opa import OpaPolicyEngine, Waits
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.sealers.chacha import ChaChaSealer
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.adapters.upstreams.demo import DEMO_TOOLS, DemoTool, DemoUpstream
from agentgate.adapters.upstreams.http import HttpUpstream
from agentgate.core.call import MemberId, Tool, ToolName
from agentgate.core.audit import Report
from agentgate.core.errors import AgentGateError, LogUnavailable, PolicyInvalid, PolicyNotEnforced, UnsafeConfiguration
from agentgate.core.note import NoteKey
from agentgate.edges.caller import Callers, Keyring
from agentgate.edges.framework import make_framework
from agentgate.edges.operator import Desks
from agentgate.edges.tools import ToolsDoor
from agentgate.edges.wire import HotRoute, Receive, Scope, Send, Wire
from agentgate.pipeline.approvals import ApprovalDesk
from agentgate.pipeline.control import Books, Containment
from agentgate.pipeline.evidence import EvidenceDesk
from agentgate.pipeline.gate import Gate, RateLimits
from agentgate.pipeline.policy import PolicyDesk
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.refusals import RefusalLimiter
from agentgate.pipeline.replica import Replica
from agentgate.pipeline.run import Route, Runner
from agentgate.pipeline.upkeep import Upkeep
from agentgate.ports import Admission, CredentialSource, Upstream
from agentgate.settings import Settings

logger = logging.getLogger("agentgate")


class KillStore(Admission, Protocol):
    """An admission that is started and shows what is in flight."""

    async def start(self) -> None: ...


# --- what can be configured, by the name of its file ---------------------------------------------------------


def _unknown(what: str, kind: str, known: Iterable[str]) -> UnsafeConfiguration:
    return UnsafeConfiguration(f"{what}: there is no kind {kind!r}; there is {', '.join(sorted(known))}")


def make_admission(config: Settings, *, log_id: str, member: MemberId, clock: SystemClock) -> KillStore:
    """The kill store that `containment.kind` names. Raises UnsafeConfiguration."""
    part = config.containment
    match part.kind:
        case "local":
            return LocalAdmission(member=member, clock=clock)
        case "redis":
            return RedisAdmission(part.url or "", log_id=log_id, member=member, deadline_s=part.timeout_ms / 1000)
        case _:
            raise _unknown("containment", part.kind, ("local", "redis"))


def make_engine(config: Settings) -> WasmPolicyEngine | OpaPolicyEngine:
    """The policy engine that `policy.kind` names. Raises UnsafeConfiguration."""
    part = config.policy
    match part.kind:
        case "wasm":
            return WasmPolicyEngine()
        case "opa":
            waits = Waits(query_s=part.timeout_ms / 1000)
            try:
                return OpaPolicyEngine(
                    part.url or "", waits=waits, ca_file=part.ca_file, token=part.token, compiler=_compiler()
                )
            except ValueError as error:
                raise UnsafeConfiguration(f"policy.url: {error}") from None
        case _:
            raise _unknown("policy", part.kind, ("opa", "wasm"))


def _compiler() -> OpaCompiler | None:
    binary = find_opa(configuration.environment())
    return OpaCompiler(binary) if binary is not None else None


def make_upstream(name: str, config: Settings) -> Upstream:
    """The upstream `name`. Raises UnsafeConfiguration."""
    part = config.upstreams[name]
    try:
        match part.kind:
            case "demo":
                return DemoUpstream(config.data_dir / "demo")
            case "http":
                options = {"timeout_s": part.timeout_ms / 1000, **part.options}
                return HttpUpstream(**options)
            case _:
                raise _unknown(f"upstreams.{name}", part.kind, ("demo", "http"))
    except (TypeError, ValueError) as error:
        raise UnsafeConfiguration(f"upstreams.{name}: {error}") from None


def make_tools(config: Settings, upstreams: Mapping[str, Upstream]) -> dict[str, Tool]:
    """Every tool that can be called: the declared ones, or v0.2's demo tools when none is declared.

    Raises:
        UnsafeConfiguration: naming the tool and what is wrong with it.
    """
    schemas = JsonSchemas()
    if not config.tools:
        return {tool.name: _demo_tool(tool, schemas) for tool in DEMO_TOOLS}
    tools: dict[str, Tool] = {}
    for name, part in config.tools.items():
        upstream = upstreams.get(part.upstream)
        if upstream is None:
            raise UnsafeConfiguration(f"tools.{name}: there is no upstream {part.upstream!r}")
        try:
            upstream.validate_options(part.options)
            check = schemas.compile(part.input_schema)
        except ValueError as error:
            raise UnsafeConfiguration(f"tools.{name}: {error}") from None
        timeout_ms = part.timeout_ms or config.upstreams[part.upstream].timeout_ms
        tools[name] = Tool(
            name=ToolName(name),
            upstream=part.upstream,
            access=part.access,
            input_schema=part.input_schema,
            description=part.description,
            options=part.options,
            timeout_s=timeout_ms / 1000,
            check=check,
        )
    return tools


def _demo_tool(tool: DemoTool, schemas: JsonSchemas) -> Tool:
    return Tool(
        name=ToolName(tool.name),
        upstream="demo",
        access=tool.access,
        input_schema=tool.input_schema,
        description=tool.description,
        timeout_s=tool.timeout_s,
        check=schemas.compile(tool.input_schema),
    )


def make_routes(config: Settings, upstreams: Mapping[str, Upstream]) -> dict[str, Route]:
    """Upstreams with their credentials. Raises UnsafeConfiguration."""
    names: dict[str, str] = {}
    for alias, part in config.credentials.items():
        if part.kind != "env":
            raise _unknown(f"credentials.{alias}", part.kind, ("env",))
        names[alias] = str(part.options.get("name", ""))
    try:
        source: CredentialSource = EnvCredentials(names, configuration.environment())
    except ValueError as error:
        raise UnsafeConfiguration(f"credentials: {error}") from None
    routes = {}
    for name, upstream in upstreams.items():
        part_of = config.upstreams.get(name)
        alias_of = part_of.credential if part_of is not None else None
        if alias_of is not None and alias_of not in config.credentials:
            raise UnsafeConfiguration(f"upstreams.{name}: there is no credential {alias_of!r}")
        routes[name] = Route(upstream, alias_of, source)
    return routes


def policy_path(config: Settings) -> Path:
    """The policy directory: the configured one, `./policies`, or the one that came with the package."""
    if config.policy.path is not None:
        return config.policy.path
    here = Path("policies")
    package = Path(__file__).parent
    candidates = (here, package / "_policies", package.parents[1] / "policies")
    return next((path for path in candidates if (path / "agentgate.rego").is_file()), here)


def admin_key(config: Settings) -> str:
    """The configured admin key, or the one that first start generates and keeps in a 0600 file."""
    if config.auth.admin_key is not None:
        return config.auth.admin_key
    path = config.data_dir / "admin.key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            raise UnsafeConfiguration(f"{path} can be read by others; run: chmod 600 {path}") from None
        return path.read_text(encoding="utf-8").strip()
    key = f"agk_{secrets.token_urlsafe(32)}"
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(key)
    return key


def _log_key_path(config: Settings) -> Path:
    return config.log.checkpoint_key.file if config.log.checkpoint_key else config.data_dir / "log-key.pem"


def database_path(config: Settings) -> Path:
    """The SQLite file of the log. Raises UnsafeConfiguration for a database that this version does not speak."""
    url = config.log.url
    if url is None:
        return config.data_dir / "log.db"
    if url.startswith("sqlite:///"):
        return Path(url.removeprefix("sqlite:///"))
    raise _unknown("log", url.partition(":")[0], ("sqlite",))


def open_private(directory: Path) -> None:
    """The data directory, for its owner only. Raises UnsafeConfiguration."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnsafeConfiguration(f"the data directory {directory} cannot be made: {error.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UnsafeConfiguration(f"the data directory {directory} cannot be written")


# --- the running gateway --------------------------------------------------------------------------------------


class Gateway:
    """Everything that runs in one process, put together by `running`."""

    def __init__(
        self,
        config: Settings,
        *,
        log: SqliteLog,
        admission: KillStore,
        engine: WasmPolicyEngine | OpaPolicyEngine,
        sealer: ChaChaSealer,
        upstreams: Mapping[str, Upstream],
        member: MemberId,
        clock: SystemClock,
    ) -> None:
        self.config = config
        self.log = log
        self.engine = engine
        self.admission = admission
        self.clock = clock
        self.entropy = SystemEntropy()
        self.tools = make_tools(config, upstreams)
        self.meter = PrometheusMeter(self.tools)
        self.limits = RateLimits(config.containment.rate_window_s)
        self.recorder = Recorder(log, clock, self.entropy, member=member, version=__version__)
        self.replica = Replica(log, admission)
        self.runner = Runner(make_routes(config, upstreams), self.recorder, clock, self.meter)
        self.refusals = RefusalLimiter(self.recorder, clock, config.server.refusals_per_second)
        self.approvals = ApprovalDesk(
            log,
            self.recorder,
            sealer,
            clock,
            self.entropy,
            ttl_s=config.approvals.ttl_s,
            static_token=config.approvals.static_token,
        )
        self.keyring = Keyring((), admin_key=admin_key(config), now=clock.now)
        self._keys_seen: float | None = None
        self.read_keys()
        self.callers = Callers(self.keyring)
        self.containment = self._make_containment()
        self.policy = self._make_policy()
        self.gate = self._make_gate()
        self.upkeep = self._make_upkeep()

    def _make_containment(self) -> Containment:
        return Containment(
            replica=self.replica,
            recorder=self.recorder,
            reader=self.log,
            admission=self.admission,
            clock=self.clock,
            entropy=self.entropy,
            meter=self.meter,
            drain_timeout_s=self.config.containment.drain_timeout_s,
        )

    def _make_policy(self) -> PolicyDesk:
        tools = {
            name: {"name": name, "access": tool.access.value, "upstream": tool.upstream}
            for name, tool in self.tools.items()
        }
        return PolicyDesk(
            engine=self.engine,
            source=PolicyDirectory(policy_path(self.config), tools, compiler=_compiler()),
            limits=self.limits,
            books=Books(self.recorder),
            containment=self.containment,
            tools=self.tools,
            label=self.config.policy.label,
        )

    def _make_gate(self) -> Gate:
        return Gate(
            admission=self.admission,
            engine=self.engine,
            replica=self.replica,
            recorder=self.recorder,
            approvals=self.approvals,
            runner=self.runner,
            limits=self.limits,
            clock=self.clock,
            meter=self.meter,
        )

    def _make_upkeep(self) -> Upkeep:
        return Upkeep(
            recorder=self.recorder,
            reader=self.log,
            replica=self.replica,
            admission=self.admission,
            containment=self.containment,
            approvals=self.approvals,
            refusals=self.refusals,
            runner=self.runner,
        )

    def door(self) -> ToolsDoor:
        """The REST door."""
        return ToolsDoor(
            gate=self.gate,
            tools=self.tools,
            callers=self.callers,
            policy=self.policy,
            refusals=self.refusals,
            entropy=self.entropy,
            max_body_bytes=self.config.server.max_body_bytes,
        )

    def desks(self) -> Desks:
        """What the control routes work with."""
        key = self.config.evidence.signing_key
        evidence = EvidenceDesk(
            reader=self.log,
            books=Books(self.recorder),
            clock=self.clock,
            meter=self.meter,
            generator=f"AgentGate v{__version__}",
            hmac_key=key.encode() if key is not None else None,
        )
        return Desks(
            callers=self.callers,
            containment=self.containment,
            approvals=self.approvals,
            evidence=evidence,
            policy=self.policy,
            bundle=self._bundle,
            policy_path=str(policy_path(self.config)),
        )

    def _bundle(self) -> tuple[bytes, str] | None:
        published = self.engine.published if isinstance(self.engine, OpaPolicyEngine) else None
        return (published.content, published.etag) if published is not None else None

    def read_keys(self) -> None:
        """Take over the configured keys and those of the key file, when that has changed. Raises UnsafeConfiguration."""
        path = configuration.key_file(self.config.data_dir)
        changed = path.stat().st_mtime if path.exists() else 0.0
        if changed == self._keys_seen:
            return
        keys = [key.known() for key in (*self.config.auth.keys, *configuration.read_keys(path))]
        self._keys_seen = changed
        self.keyring.replace(keys)

    def hot_routes(self) -> dict[tuple[str, str], HotRoute]:
        door = self.door()
        return {("POST", "/tools/call"): door.call, ("GET", "/tools/list"): door.list}

    async def start(self) -> None:
        """Join the log, apply kills, enforce the policy.

        Raises:
            UnsafeConfiguration, LogUnavailable, PolicyInvalid
        """
        configuration.refuse_public_without_keys(self.config, has_agent_keys=self.keyring.has_agent_keys)
        await self.admission.start()
        closed = await self.upkeep.join()
        if closed:
            logger.warning("%d calls of an earlier process had no outcome; they are recorded as unknown", closed)
        if isinstance(self.engine, WasmPolicyEngine):
            await self.policy.start()

    async def enforce_remote(self) -> None:
        """An OPA server pulls its bundle from this very process, so it can only be waited for once we serve."""
        while True:
            try:
                await self.policy.start()
            except (PolicyNotEnforced, LogUnavailable) as error:
                logger.warning("%s; trying again", error)
            except PolicyInvalid as error:
                logger.error("the policy is not enforced: %s", error)
                await asyncio.sleep(5)
            else:
                return

    async def look_after(self) -> None:
        """Once a second, until cancelled."""
        while True:
            await asyncio.sleep(1)
            await self.upkeep.tick()
            self.meter.active_sessions.set(len({flight.call.session for flight in self.replica.flights()}))
            try:
                self.read_keys()
            except UnsafeConfiguration as error:
                logger.error("keys stay as they were: %s", error)

    async def health(self) -> dict[str, Any]:
        """v0.2's health with what readiness rests on: log, kill state, policy."""
        revision = await self.engine.revision()
        position = await self.admission.position()
        try:
            log_position: int | None = (await self.log.kill_state()).position
        except LogUnavailable:
            log_position = None
        checks = {
            "log": log_position is not None,
            "kill_state": position is not None and log_position is not None and position >= log_position,
            "policy": revision is not None,
        }
        self.meter.health("opa", is_well=checks["policy"])
        self.meter.health("redis", is_well=checks["kill_state"])
        self.meter.health("log", is_well=checks["log"])
        return {
            "status": "ok" if all(checks.values()) else "degraded",
            "version": __version__,
            "opa": checks["policy"],
            "redis": checks["kill_state"],
            "policy_revision": revision,
            "checks": checks,
        }


@contextlib.asynccontextmanager
async def running(config: Settings) -> AsyncIterator[Gateway]:
    """A started gateway; everything is closed again in the opposite order.

    Raises:
        AgentGateError: it cannot start; the text says why.
    """
    clock = SystemClock()
    open_private(config.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        signer = Ed25519Signer.from_file_or_new(_log_key_path(config))
        log = await SqliteLog.open(database_path(config), signer, config.log.origin)
        stack.push_async_callback(log.aclose)
        member = MemberId(secrets.token_hex(8))
        admission = make_admission(config, log_id=signer.key_id, member=member, clock=clock)
        stack.push_async_callback(admission.aclose)
        engine = make_engine(config)
        stack.push_async_callback(engine.aclose)
        names = config.upstreams if config.tools else {}
        upstreams: dict[str, Upstream] = {name: make_upstream(name, config) for name in names}
        if not config.tools:
            upstreams["demo"] = DemoUpstream(config.data_dir / "demo")
        for upstream in upstreams.values():
            stack.push_async_callback(upstream.aclose)
        gateway = Gateway(
            config,
            log=log,
            admission=admission,
            engine=engine,
            sealer=ChaChaSealer.from_file(config.data_dir / "sealing.key"),
            upstreams=upstreams,
            member=member,
            clock=clock,
        )
        await gateway.start()
        stack.push_async_callback(gateway.upkeep.leave)
        tasks = [asyncio.create_task(gateway.look_after())]
        if isinstance(engine, OpaPolicyEngine):
            tasks.append(asyncio.create_task(gateway.enforce_remote()))
        try:
            yield gateway
        finally:
            gateway.gate.closing = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Startup:
    """What came of the start, for whoever serves the application."""

    failure: str | None = None
    gateway: Gateway | None = None


def create_app(config: Settings, startup: Startup | None = None) -> Wire:
    """The ASGI application. Nothing is opened before its lifespan starts."""
    startup = startup or Startup()
    framework = make_framework(__version__)
    hot: dict[tuple[str, str], HotRoute] = {}

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with running(config) as gateway:
                startup.gateway = gateway
                framework.state.desks = gateway.desks()
                framework.state.health = gateway.health
                framework.state.metrics = gateway.meter.render
                framework.state.metrics_type = gateway.meter.content_type
                hot.update(gateway.hot_routes())
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except AgentGateError as error:
            startup.failure = str(error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    def on_fault() -> None:
        if startup.gateway is not None:
            startup.gateway.meter.count("faults")

    return Wire(
        framework,
        lifespan,
        hot,
        hosts=_hosts(config),
        origins=frozenset(origin.lower().rstrip("/") for origin in config.server.origins),
        max_body_bytes=config.server.max_body_bytes,
        on_fault=on_fault,
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


async def audit_log(config: Settings) -> Report:
    """`agentgate log verify`: read-only, beside a running gateway or without one.

    Raises:
        AgentGateError: there is no log to read.
    """
    key_path = _log_key_path(config)
    if not key_path.is_file():
        raise LogUnavailable(f"there is no log key at {key_path}: nothing to verify the log with")
    path = database_path(config)
    if not path.is_file():
        raise LogUnavailable(f"there is no log at {path}")
    origin = config.log.origin
    report = await verify_log(path, origin, [NoteKey(origin, Ed25519Signer.from_file(key_path).public_key)])
    return report
