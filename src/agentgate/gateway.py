"""One process's gateway: every part, put together, and its life."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from agentgate import __version__, keyfile
from agentgate import settings as configuration
from agentgate.adapters.ambient.system import SystemClock, SystemEntropy
from agentgate.adapters.ambient.worker import ThreadWorker
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.adapters.policy.directory import PolicyDirectory
from agentgate.adapters.policy.opa import OpaPolicyEngine
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.sealers.chacha import ChaChaSealer
from agentgate.core.call import MemberId
from agentgate.core.dsse import PublicKey
from agentgate.core.errors import LogUnavailable, PolicyInvalid, PolicyNotEnforced, UnsafeConfiguration
from agentgate.core.retention import Rule
from agentgate.edges._mcp.parts import Parts
from agentgate.edges._mcp.parts import Rules as McpRules
from agentgate.edges.caller import Callers, Keyring
from agentgate.edges.desks import Desks
from agentgate.edges.mcp import PATH as MCP_PATH
from agentgate.edges.mcp import McpDoor
from agentgate.edges.tools import ToolsDoor
from agentgate.edges.wire import HotRoute, Mounted
from agentgate.identity import make_tokens
from agentgate.kinds import (
    EXPORTS,
    KillStore,
    LogStore,
    admin_key,
    make_compiler,
    make_envelope_signer,
    make_forms,
    make_hmac,
    make_public_keys,
    make_redactor,
    make_routes,
    make_timestamps,
    make_tools,
    policy_path,
)
from agentgate.pipeline.acknowledge import Acknowledger
from agentgate.pipeline.approvals import ApprovalDesk
from agentgate.pipeline.audit import AuditDesk
from agentgate.pipeline.control import Books, Containment, Rules
from agentgate.pipeline.drains import Drains
from agentgate.pipeline.evidence import EvidenceDesk, Seal
from agentgate.pipeline.evidence import Rules as PackRules
from agentgate.pipeline.gate import Gate, RateLimits
from agentgate.pipeline.members import Membership
from agentgate.pipeline.pins import PinDesk
from agentgate.pipeline.policy import PolicyDesk
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.refusals import RefusalLimiter
from agentgate.pipeline.registry import Registry
from agentgate.pipeline.replica import IsOver, Replica
from agentgate.pipeline.retention import Keeping, RetentionDesk
from agentgate.pipeline.run import Runner
from agentgate.pipeline.tree import TreeDesk
from agentgate.pipeline.upkeep import Upkeep
from agentgate.ports.notices import Notifier
from agentgate.ports.upstreams import ToolServer, Upstream
from agentgate.settings import Settings
from agentgate.toolservers import make_servers
from agentgate.toolservers import names as names_of_servers

logger = logging.getLogger("agentgate")

SERVERS_WITHIN_S: Final = 2.0


class Gateway:
    """Everything that runs in one process, put together by `running`."""

    def __init__(
        self,
        config: Settings,
        *,
        log: LogStore,
        admission: KillStore,
        engine: WasmPolicyEngine | OpaPolicyEngine,
        sealer: ChaChaSealer,
        upstreams: Mapping[str, Upstream],
        member: MemberId,
        clock: SystemClock,
        notifier: Notifier,
        metrics: Path | None,
    ) -> None:
        """`metrics` is where this process tells its numbers to its fellow workers; None when it has none."""
        self.notifier = notifier
        self.config = config
        self.log = log
        self.engine = engine
        self.admission = admission
        self.clock = clock
        self.entropy = SystemEntropy()
        self.tools = Registry(make_tools(config, upstreams))
        self.meter = PrometheusMeter(self.tools, metrics)
        self.limits = RateLimits(config.containment.rate_window_s)
        self.recorder = Recorder(
            log, clock, self.entropy, member=member, version=__version__, redactor=make_redactor(config)
        )
        self.replica = Replica(log, admission, clock, lease_s=config.containment.lease_s)
        self.acknowledger = Acknowledger(self.replica, self.recorder, clock)
        self.drains = Drains(
            reader=log,
            recorder=self.recorder,
            replica=self.replica,
            acknowledger=self.acknowledger,
            admission=admission,
            clock=clock,
        )
        self.membership = self._make_membership()
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
        self.meter.active_sessions.set_function(self._active_sessions)
        self.keyring = Keyring((), admin_key=admin_key(config), now=clock.now)
        self._keys_seen: float | None = None
        self._well: dict[str, bool] = {}
        self._failures_told: dict[str, int] = {}
        self.read_keys()
        self.tokens = make_tokens(config, clock, self.meter)
        self.callers = Callers(self.keyring, self.tokens)
        self.containment = self._make_containment()
        self.tool_servers = {name: cast(ToolServer, upstreams[name]) for name in names_of_servers(config)}
        self._facts: dict[str, dict[str, Any]] = {}
        self.policy = self._make_policy()
        self.pins = self._make_pins()
        self.gate = self._make_gate()
        self.upkeep = self._make_upkeep()
        self.retention = self._make_retention()
        self.worker = ThreadWorker()
        self.timestamps = make_timestamps(config)
        self.evidence = self._make_evidence()
        self.sealer = sealer
        self._mcp_door = self._make_mcp_door()
        self.pins.on_change(self._mcp_door.announce)
        self.replica.on_cut = self._drop

    def _drop(self, is_over: IsOver) -> None:
        for server in self.tool_servers.values():
            server.drop(is_over)
        self._mcp_door.drop(is_over)

    def _make_evidence(self) -> EvidenceDesk:
        config = self.config.evidence
        envelope, hmac = make_envelope_signer(self.config), make_hmac(self.config)
        keys = make_public_keys(self.config, PublicKey(envelope.spki))
        return EvidenceDesk(
            reader=self.log,
            tree=self.log,
            books=Books(self.recorder),
            clock=self.clock,
            meter=self.meter,
            worker=self.worker,
            forms=make_forms(keys, hmac),
            seal=Seal(
                envelope,
                hmac_key=config.signing_key.encode() if config.signing_key is not None else None,
                hmac=hmac,
                timestamps=self.timestamps,
            ),
            generator=f"AgentGate v{__version__}",
            rules=PackRules(max_events=config.max_events, needs_timestamp=config.timestamp_required),
        )

    def _make_retention(self) -> RetentionDesk:
        part = self.config.retention
        return RetentionDesk(
            reader=self.log,
            bodies=self.log.bodies,
            recorder=self.recorder,
            clock=self.clock,
            entropy=self.entropy,
            meter=self.meter,
            keeping=Keeping(
                Rule(part.days, forced=part.force_below_floor),
                automatic=part.automatic,
                compress_after_days=part.compress_after_days,
            ),
        )

    def _make_containment(self) -> Containment:
        return Containment(
            replica=self.replica,
            recorder=self.recorder,
            drains=self.drains,
            reader=self.log,
            admission=self.admission,
            clock=self.clock,
            entropy=self.entropy,
            meter=self.meter,
            notifier=self.notifier,
            rules=Rules(
                drain_timeout_s=self.config.containment.drain_timeout_s,
                release_quorum=self.config.containment.release_quorum,
            ),
        )

    def _make_membership(self) -> Membership:
        return Membership(
            log=self.log,
            reader=self.log,
            recorder=self.recorder,
            replica=self.replica,
            admission=self.admission,
            clock=self.clock,
            entropy=self.entropy,
            presumed_gone_after_s=self.config.containment.presumed_gone_after_s,
        )

    def _make_policy(self) -> PolicyDesk:
        return PolicyDesk(
            engine=self.engine,
            # an OPA server takes the Rego itself: only the engine in process needs it compiled
            source=PolicyDirectory(
                policy_path(self.config),
                self._facts,  # which the desk for pins keeps
                compiler=make_compiler() if isinstance(self.engine, WasmPolicyEngine) else None,
            ),
            limits=self.limits,
            books=Books(self.recorder),
            others=self.log if self.log.is_shared else None,
            containment=self.containment,
            tools=self.tools,
            label=self.config.policy.label,
        )

    def _make_pins(self) -> PinDesk:
        return PinDesk(
            servers=make_servers(self.config, tuple(self.tools)),
            registry=self.tools,
            policy=self.policy,
            facts=self._facts,
            reader=self.log,
            recorder=self.recorder,
            schemas=JsonSchemas(),
            is_shared=self.log.is_shared,
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
            notifier=self.notifier,
        )

    def _make_upkeep(self) -> Upkeep:
        return Upkeep(
            recorder=self.recorder,
            reader=self.log,
            membership=self.membership,
            drains=self.drains,
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

    def _make_mcp_door(self) -> McpDoor:
        config = self.config
        return McpDoor(
            self.gate,
            self.callers,
            Parts(
                tools=self.tools,
                policy=self.policy,
                approvals=self.approvals,
                refusals=self.refusals,
                sealer=self.sealer,
                clock=self.clock,
                entropy=self.entropy,
                catalogue=self.pins,
                rules=McpRules(
                    hold_s=config.mcp.hold_s,
                    session_idle_s=config.mcp.session_idle_s,
                    max_sessions=config.mcp.max_sessions,
                    max_body_bytes=config.server.max_body_bytes,
                    state_ttl_s=config.approvals.ttl_s,
                    instructions=config.mcp.instructions,
                    meta=config.mcp.meta,
                    base_url=config.server.base_url,
                    is_shared=config.server.workers > 1,
                ),
            ),
            is_wanted=any(part.kind == "mcp" for part in config.upstreams.values()),
        )

    def mcp_door(self) -> McpDoor:
        """The MCP door."""
        return self._mcp_door

    def mounted(self) -> dict[str, Mounted]:
        return {MCP_PATH: self._mcp_door.serve}

    def desks(self) -> Desks:
        """What the control routes work with."""
        return Desks(
            callers=self.callers,
            containment=self.containment,
            membership=self.membership,
            approvals=self.approvals,
            evidence=self.evidence,
            retention=self.retention,
            audit=AuditDesk(reader=self.log, recorder=self.recorder, meter=self.meter, forms=EXPORTS),
            policy=self.policy,
            bundle=self._bundle,
            policy_path=str(policy_path(self.config)),
            tree=TreeDesk(self.log, self.log, self.log.keys, self.log.witnesses),
            resource=self.tokens.resource if self.tokens is not None else None,
            pins=self.pins,
            server_states=lambda: {name: server.state() for name, server in self.tool_servers.items()},
        )

    def _active_sessions(self) -> int:
        return len({(flight.call.tenant, flight.call.session) for flight in self.replica.flights()})

    def _bundle(self) -> tuple[bytes, str] | None:
        published = self.engine.published if isinstance(self.engine, OpaPolicyEngine) else None
        return (published.content, published.etag) if published is not None else None

    def read_keys(self) -> None:
        """Take over the configured keys and those of the key file, when that has changed.

        Raises:
            UnsafeConfiguration
        """
        path = keyfile.key_file(self.config.data_dir)
        changed = path.stat().st_mtime if path.exists() else 0.0
        if changed == self._keys_seen:
            return
        keys = [key.known() for key in (*self.config.auth.keys, *keyfile.read_keys(path))]
        self._keys_seen = changed
        self.keyring.replace(keys)

    def hot_routes(self) -> dict[tuple[str, str], HotRoute]:
        door = self.door()
        return {("POST", "/tools/call"): door.call, ("GET", "/tools/list"): door.list}

    async def start(self, predecessors: Sequence[str] | None) -> None:
        """Join the log, apply kills, enforce the policy. `predecessors` as for `Membership.join`.

        Raises:
            UnsafeConfiguration, LogUnavailable, PolicyInvalid
        """
        knows_agents = self.keyring.has_agent_keys or self.tokens is not None
        configuration.refuse_public_without_keys(self.config, has_agent_keys=knows_agents)
        await self.admission.start()
        self.admission.listen(self.replica.woken)
        closed = await self.membership.join(predecessors)
        if closed:
            logger.warning("%d calls of an earlier process had no outcome; they are recorded as unknown", closed)
        if self.log.is_newly_keyed:
            await Books(self.recorder).checkpoints_keyed(self.log.keys[0])
        await self.pins.start()
        if isinstance(self.engine, WasmPolicyEngine):
            await self.policy.start()
            await self.pins.settle()
        else:
            await self.policy.prepare()
        if self.tokens is not None:
            await self.tokens.verifier.start()

    async def hear_servers(self) -> None:
        """Have the tools of servers that are up before the first client asks. One that is down holds nobody up long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SERVERS_WITHIN_S):
                while not all(server.state().is_up for server in self.tool_servers.values()):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.02)

    async def enforce_remote(self) -> None:
        """An OPA server pulls its bundle from this very process, so it can only be waited for once we serve."""
        while True:
            try:
                await self.policy.start()
            except (PolicyNotEnforced, LogUnavailable) as error:
                logger.warning("%s; trying again", error)
                await asyncio.sleep(1)
            except PolicyInvalid as error:
                logger.error("the policy is not enforced: %s", error)
                await asyncio.sleep(5)
            else:
                return

    async def stop(self) -> None:
        """Say everything that is left to say, and leave the log."""
        await self.runner.write_unrecorded()
        await self.acknowledger.aclose()
        await self.membership.leave()
        self.meter.publish()
        await self.worker.aclose()
        if self.timestamps is not None:
            await self.timestamps.aclose()
        if self.tokens is not None:
            await self.tokens.verifier.aclose()

    def life(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the calls for as long as the process lives."""
        return [
            self.membership.look_after(),
            self.membership.watch_lease(),
            self.look_after(),
            self.keep_policy(),
            self._mcp_door.run(),
            self.pins.announce(),
            *(server.run(self.pins) for server in self.tool_servers.values()),
            self.retention.look_after(lambda: self.membership.is_eldest),
        ]

    async def look_after(self) -> None:
        """Once a second, until cancelled."""
        while True:
            await asyncio.sleep(1)
            await self.upkeep.tick()
            await self._tell_health()
            self.meter.publish()
            try:
                self.read_keys()
            except (UnsafeConfiguration, OSError) as error:
                logger.error("keys stay as they were: %s", error)

    async def keep_policy(self) -> None:
        """Once a second, until cancelled; by itself, because an OPA may let it wait."""
        while True:
            await asyncio.sleep(1)
            with contextlib.suppress(LogUnavailable):  # the next round tries again
                await self.pins.settle()  # first: what another member has accepted is in the policy that it enforces
                await self.policy.settle()

    def stop_unless_asked(self, task: asyncio.Task[None]) -> None:
        """Without its heartbeat a member hears no kill that nobody wakes it for, and without upkeep no kill expires:
        better no gateway, and a restart."""
        if task.cancelled() or task.exception() is None:
            return
        logger.critical("heartbeat or upkeep ended, so the gateway ends too", exc_info=task.exception())
        self.gate.closing = True
        signal.raise_signal(signal.SIGTERM)

    def _checkpoint_health(self) -> dict[str, Any]:
        """How many events are not signed yet, and whether checkpoints are made and kept; the process's log says why."""
        lag, standings = self.log.lag, self.log.standings
        kept = {one.kind: all(two.trouble is None for two in standings if two.kind == one.kind) for one in standings}
        self.meter.health("checkpoints", is_well=lag.trouble is None)
        for kind, is_well in kept.items():
            self.meter.health(f"checkpoint_{kind}", is_well=is_well)
        for standing in standings:
            told = self._failures_told.get(standing.name, 0)
            if standing.failures > told:
                self.meter.count("checkpoint_failures", standing.kind, standing.failures - told)
                self._failures_told[standing.name] = standing.failures
        return {"behind": lag.events, "signed": lag.trouble is None, "kept": kept}

    def _servers_health(self) -> dict[str, Any]:
        """Which tool servers are up. One that is down is no reason to send calls elsewhere."""
        states = {name: server.state() for name, server in self.tool_servers.items()}
        for name, state in states.items():
            self.meter.health(f"server/{name}", is_well=state.is_up)
        self.meter.quarantined.set(self.pins.quarantined)
        if not states:
            return {}
        told: dict[str, Any] = {name: {"up": state.is_up, "detail": state.detail} for name, state in states.items()}
        return {"servers": told} | ({"tools_behind": self.pins.trouble} if self.pins.trouble is not None else {})

    async def _tell_health(self) -> None:
        """v0.2's `health.degraded` and `health.recovered`, for each dependency that changed."""
        checks: dict[str, bool] = (await self.health())["checks"]
        for name, is_well in checks.items():
            if self._well.get(name, True) != is_well:
                kind = "health.recovered" if is_well else "health.degraded"
                self.notifier.notify(kind, {"dependency": name, "healthy": is_well})
        self._well = checks

    async def health(self) -> dict[str, Any]:
        """v0.2's health with what readiness rests on: log, kill state, policy."""
        revision = await self.engine.revision()
        position = await self.admission.position()
        try:
            log_position: int | None = (await self.log.kills_since(self.replica.position)).position
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
        checkpoint = self._checkpoint_health()
        behind = self.policy.behind
        return {
            "status": "ok" if all(checks.values()) else "degraded",
            "version": __version__,
            "opa": checks["policy"],
            "redis": checks["kill_state"],
            "policy_revision": revision,
            "checks": checks,
            # calls go on without checkpoints: what is recorded stays, and is signed when that is possible again
            "checkpoint": checkpoint,
            # no reason to send calls elsewhere: the old policy is a policy, and a rollout passes through this
            **({"policy_behind": behind} if behind is not None else {}),
            **self._servers_health(),
        }
