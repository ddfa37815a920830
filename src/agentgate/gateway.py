"""One process's gateway: every part, put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from agentgate import __version__, keyfile
from agentgate.adapters.ambient.steady import SteadyClock
from agentgate.adapters.ambient.system import SystemClock, SystemEntropy
from agentgate.adapters.ambient.worker import ThreadWorker
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.adapters.parsers.arguments import ArgumentParsers
from agentgate.adapters.policy.directory import PolicyDirectory
from agentgate.adapters.policy.opa import OpaPolicyEngine
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.sealers.chacha import ChaChaSealer
from agentgate.core.call import Call, MemberId
from agentgate.core.dsse import PublicKey
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.retention import Rule
from agentgate.edges._mcp.parts import Parts
from agentgate.edges._mcp.parts import Rules as McpRules
from agentgate.edges.caller import Callers, Keyring
from agentgate.edges.desks import Desks
from agentgate.edges.mcp import McpDoor
from agentgate.health import Health
from agentgate.identity import known_keys, make_certificates, make_tokens
from agentgate.kinds import (
    EXPORTS,
    KillStore,
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
from agentgate.logs import LogStore
from agentgate.notices import make_notices
from agentgate.pipeline.acknowledge import Acknowledger
from agentgate.pipeline.answers import AnswerBook
from agentgate.pipeline.approvals import ApprovalDesk
from agentgate.pipeline.asking import Questions
from agentgate.pipeline.audit import AuditDesk
from agentgate.pipeline.broker import Broker
from agentgate.pipeline.circumstances import Circumstances
from agentgate.pipeline.control import Books, Containment, Rules
from agentgate.pipeline.deferred import DeferredDesk
from agentgate.pipeline.drains import Drains
from agentgate.pipeline.edits import EditDesk
from agentgate.pipeline.evidence import EvidenceDesk, Seal
from agentgate.pipeline.evidence import Rules as PackRules
from agentgate.pipeline.gate import Gate
from agentgate.pipeline.keys import KeyBook
from agentgate.pipeline.limits import RateLimits, Recount
from agentgate.pipeline.members import Membership
from agentgate.pipeline.pins import PinDesk
from agentgate.pipeline.policy import PolicyDesk
from agentgate.pipeline.pruning import Keeping
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.refusals import RefusalLimiter
from agentgate.pipeline.registry import Registry
from agentgate.pipeline.replica import IsOver, Replica
from agentgate.pipeline.retention import RetentionDesk
from agentgate.pipeline.run import Runner
from agentgate.pipeline.tree import TreeDesk
from agentgate.pipeline.upkeep import Upkeep
from agentgate.pipeline.voids import Voids
from agentgate.ports.upstreams import ToolServer, Upstream
from agentgate.settings import Settings
from agentgate.toolservers import make_servers
from agentgate.toolservers import names as names_of_servers

logger = logging.getLogger("agentgate")


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
        broker: Broker,
        member: MemberId,
        clock: SystemClock,
        metrics: Path | None,
    ) -> None:
        """`metrics` is where this process tells its numbers to its fellow workers; None when it has none."""
        self.config = config
        self.log = log
        self.engine = engine
        self.admission = admission
        self.sealer = sealer
        self.clock = clock
        self.steady = steady = SteadyClock(clock)
        """By which permissions end."""
        self.entropy = SystemEntropy()
        self.tools = Registry(make_tools(config, upstreams))
        self.meter = PrometheusMeter(self.tools, metrics)
        self.limits = RateLimits(config.containment.rate_window_s, Recount(log, self.meter))
        self.recorder = Recorder(
            log, clock, self.entropy, member=member, version=__version__, redactor=make_redactor(config)
        )
        self.replica = Replica(log, admission, clock, lease_s=config.containment.lease_s)
        self.acknowledger = Acknowledger(self.replica, self.recorder, clock)
        self.drains = self._make_drains()
        self.membership = self._make_membership()
        self.broker = broker
        broker.meter = self.meter
        self.questions = Questions(engine, ArgumentParsers(), self.recorder.redactor)
        self.runner = Runner(make_routes(config, upstreams, broker), self.recorder, clock, self.meter, self.questions)
        self.refusals = RefusalLimiter(self.recorder, clock, config.server.refusals_per_second)
        circumstances = Circumstances(log, engine, self.tools)
        self.approvals = self._make_approvals(circumstances)
        self.voids = Voids(self.approvals, circumstances, steady, is_shared=log.is_shared)
        self.approvals.is_over = self._is_over
        self.answers = self._make_answers()
        self.notices = make_notices(config, log, clock, self.entropy, self.meter)
        self.meter.active_sessions.set_function(self._active_sessions)
        self.keyring = Keyring((), admin_key=admin_key(config), now=steady.now)
        self.key_book = KeyBook(self.recorder)
        self._keys = keyfile.FollowedKeys(keyfile.key_file(config.data_dir), config.auth.keys)
        self.read_keys()
        if self._keys.trouble is not None:
            raise UnsafeConfiguration(self._keys.trouble)
        self.tokens = make_tokens(config, steady, self.meter)
        self.callers = Callers(self.keyring, self.tokens, make_certificates(config, steady))
        self.containment = self._make_containment()
        self.tool_servers = {name: cast(ToolServer, upstreams[name]) for name in names_of_servers(config)}
        self._facts: dict[str, dict[str, Any]] = {}
        self.policy = self._make_policy()
        self.pins = self._make_pins()
        self.gate = self._make_gate()
        self.deferred = self._make_deferred()
        self.approvals.on_approved = self.deferred.soon
        self.upkeep = self._make_upkeep()
        self.retention = self._make_retention()
        self.worker = ThreadWorker()
        self.timestamps = make_timestamps(config)
        self.evidence = self._make_evidence()
        self.mcp_door = self._make_mcp_door()
        self.pins.on_change(self.mcp_door.announce)
        self.replica.on_cut = self._drop
        self.health = self._make_health()

    def _drop(self, is_over: IsOver) -> None:
        for server in self.tool_servers.values():
            server.drop(is_over)
        self.mcp_door.drop(is_over)
        self.broker.drop(is_over)
        self.voids.stir()

    def _is_over(self, call: Call) -> bool:
        return self.gate.closing or self.replica.state.over(call) is not None

    def _make_drains(self) -> Drains:
        return Drains(
            reader=self.log,
            recorder=self.recorder,
            replica=self.replica,
            acknowledger=self.acknowledger,
            admission=self.admission,
            clock=self.clock,
        )

    def _make_approvals(self, circumstances: Circumstances) -> ApprovalDesk:
        return ApprovalDesk(
            self.log,
            self.recorder,
            self.sealer,
            self.steady,
            self.entropy,
            circumstances,
            ttl_s=self.config.approvals.ttl_s,
            static_token=self.config.approvals.static_token,
        )

    def _make_answers(self) -> AnswerBook:
        part = self.config.idempotency
        return AnswerBook(
            self.log,
            self.recorder,
            self.sealer,
            self.clock,
            self.meter,
            keep_s=part.keep_s,
            max_bytes=part.max_bytes,
            max_bytes_per_caller=part.max_bytes_per_caller,
        )

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
            questions=self.questions,
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
            questions=self.questions,
            replica=self.replica,
            recorder=self.recorder,
            approvals=self.approvals,
            answers=self.answers,
            runner=self.runner,
            limits=self.limits,
            clock=self.clock,
            meter=self.meter,
        )

    def _make_deferred(self) -> DeferredDesk:
        return DeferredDesk(
            gate=self.gate,
            approvals=self.approvals,
            answers=self.answers,
            reader=self.log,
            tools=self.tools,
            is_valid=self.callers.still_knows,
            clock=self.clock,
            entropy=self.entropy,
        )

    def _make_upkeep(self) -> Upkeep:
        return Upkeep(
            recorder=self.recorder,
            reader=self.log,
            membership=self.membership,
            drains=self.drains,
            containment=self.containment,
            approvals=self.approvals,
            answers=self.answers,
            refusals=self.refusals,
            runner=self.runner,
        )

    def _make_health(self) -> Health:
        return Health(
            log=self.log,
            admission=self.admission,
            engine=self.engine,
            replica=self.replica,
            policy=self.policy,
            pins=self.pins,
            servers=self.tool_servers,
            notices=self.notices,
            meter=self.meter,
            member=lambda: self.recorder.member,
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

    def desks(self) -> Desks:
        """What the control routes work with."""
        return Desks(
            callers=self.callers,
            containment=self.containment,
            membership=self.membership,
            approvals=self.approvals,
            deferred=self.deferred,
            refusals=self.refusals,
            edits=EditDesk(self.approvals, self.recorder, self.tools, self.entropy, self.gate.opinion),
            evidence=self.evidence,
            retention=self.retention,
            audit=AuditDesk(reader=self.log, recorder=self.recorder, meter=self.meter, forms=EXPORTS),
            policy=self.policy,
            bundle=self._bundle,
            policy_path=str(policy_path(self.config)),
            tree=TreeDesk(self.log, self.log, self.log.keys, self.log.witnesses),
            resource=self.tokens.resource if self.tokens is not None else None,
            pins=self.pins,
            notices=self.notices,
            server_states=lambda: {name: server.state() for name, server in self.tool_servers.items()},
        )

    def _active_sessions(self) -> int:
        return len({(flight.call.tenant, flight.call.session) for flight in self.replica.flights()})

    def _bundle(self) -> tuple[bytes, str] | None:
        published = self.engine.published if isinstance(self.engine, OpaPolicyEngine) else None
        return (published.content, published.etag) if published is not None else None

    def read_keys(self) -> None:
        """Take over what has changed among the configured keys and those of the key file."""
        told = self._keys.trouble
        keys = self._keys.look()
        trouble = self._keys.trouble
        if keys is not None:
            known = known_keys(keys)
            self.keyring.replace(known, is_whole=trouble is None)
            if trouble is None:  # the keys of a file that cannot be read are still given to whom they were
                self.key_book.take(known, self._keys.version)
            if trouble != told:
                logger.error("the key file: %s", f"{trouble}; the keys in it are refused" if trouble else "whole again")
        self.meter.health("key_file", is_well=trouble is None)
