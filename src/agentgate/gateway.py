"""One process's gateway: every part, put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from agentgate import __version__, toolservers
from agentgate.adapters.ambient.steady import SteadyClock
from agentgate.adapters.ambient.system import SystemEntropy
from agentgate.adapters.ambient.worker import ThreadWorker
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.adapters.parsers.arguments import ArgumentParsers
from agentgate.adapters.policy.directory import PolicyDirectory
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.core.call import Call
from agentgate.core.retention import Rule
from agentgate.edges._mcp import parts
from agentgate.edges.caller import Callers
from agentgate.edges.mcp import McpDoor
from agentgate.evidence import make_evidence, make_timestamps
from agentgate.health import Health
from agentgate.identity import Keys, make_certificates, make_tokens
from agentgate.kinds import make_compiler, make_redactor, make_routes, make_tools, policy_path
from agentgate.notices import make_notices
from agentgate.opening import Opened
from agentgate.pipeline.approvals.circumstances import Circumstances
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.approvals.voids import Voids
from agentgate.pipeline.calls.answers import AnswerBook
from agentgate.pipeline.calls.deferred import DeferredDesk
from agentgate.pipeline.calls.gate import Gate
from agentgate.pipeline.calls.run import Runner
from agentgate.pipeline.containment.acknowledge import Acknowledger
from agentgate.pipeline.containment.control import Containment, Rules
from agentgate.pipeline.containment.drains import Drains
from agentgate.pipeline.containment.flights import IsOver
from agentgate.pipeline.containment.members import Membership
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.limits.recount import Recount
from agentgate.pipeline.limits.refusals import RefusalLimiter
from agentgate.pipeline.policy.asking import Questions
from agentgate.pipeline.policy.desk import PolicyDesk
from agentgate.pipeline.records.books import Books
from agentgate.pipeline.records.pruning import Keeping
from agentgate.pipeline.records.record import Recorder
from agentgate.pipeline.records.retention import RetentionDesk
from agentgate.pipeline.tools.pins import PinDesk
from agentgate.pipeline.tools.registry import Registry
from agentgate.pipeline.upkeep import Upkeep
from agentgate.ports.upstreams import ToolServer, Upstream
from agentgate.settings import Settings


class Gateway:
    """Everything that runs in one process, put together by `running`."""

    def __init__(self, config: Settings, opened: Opened) -> None:
        """Raises UnsafeConfiguration."""
        self.config = config
        self.log, self.admission, self.engine = opened.log, opened.admission, opened.engine
        self.sealer, self.broker = opened.sealer, opened.broker
        self.clock = clock = opened.clock
        self.steady = SteadyClock(clock)  # by which permissions end
        self.entropy, self.side = SystemEntropy(), ThreadWorker("large-calls")
        self.tools = Registry(make_tools(config, opened.upstreams))
        self.meter = self.broker.meter = PrometheusMeter(self.tools, opened.metrics)
        redactor = make_redactor(config)
        self.recorder = Recorder(
            self.log, clock, self.entropy, self.side, member=opened.member, version=__version__, redactor=redactor
        )
        self._make_containment()
        self._make_what_calls_need(opened.upstreams)
        self.notices = make_notices(config, self.log, clock, self.entropy, self.meter)
        self.keys = Keys(config, self.recorder, self.steady, self.meter)
        self.tokens = make_tokens(config, self.steady, self.meter)
        self.callers = Callers(self.keys.ring, self.tokens, make_certificates(config, self.steady))
        self.tool_servers = {name: cast(ToolServer, opened.upstreams[name]) for name in toolservers.names(config)}
        self._make_policy()
        self._make_gate()
        self._make_upkeep()
        self.worker, self.timestamps = ThreadWorker("packs"), make_timestamps(config)
        self.evidence = make_evidence(config, self.log, self.recorder, clock, self.meter, self.worker, self.timestamps)
        self._make_mcp_door()
        self.replica.on_cut = self._drop
        self.health = self._make_health()

    def _make_containment(self) -> None:
        """What knows of kills, and of the members that have to hear of them."""
        part = self.config.containment
        self.replica = Replica(self.log, self.admission, self.clock, lease_s=part.lease_s)
        self.meter.active_sessions.set_function(self._active_sessions)
        self.acknowledger = Acknowledger(self.replica, self.recorder, self.clock)
        self.drains = Drains(
            reader=self.log,
            recorder=self.recorder,
            replica=self.replica,
            acknowledger=self.acknowledger,
            admission=self.admission,
            clock=self.clock,
        )
        self.membership = Membership(
            log=self.log,
            reader=self.log,
            recorder=self.recorder,
            replica=self.replica,
            admission=self.admission,
            clock=self.clock,
            entropy=self.entropy,
            presumed_gone_after_s=part.presumed_gone_after_s,
        )
        self.containment = Containment(
            replica=self.replica,
            recorder=self.recorder,
            drains=self.drains,
            reader=self.log,
            admission=self.admission,
            clock=self.clock,
            entropy=self.entropy,
            meter=self.meter,
            rules=Rules(drain_timeout_s=part.drain_timeout_s, release_quorum=part.release_quorum),
        )

    def _make_what_calls_need(self, upstreams: Mapping[str, Upstream]) -> None:
        """Limits, questions to policy, approvals, upstreams, kept answers."""
        config, kept = self.config, self.config.idempotency
        self.limits = RateLimits(config.containment.rate_window_s, Recount(self.log, self.meter))
        self.refusals = RefusalLimiter(self.recorder, self.clock, config.server.refusals_per_second)
        self.questions = Questions(self.engine, ArgumentParsers(), self.recorder.redactor)
        routes = make_routes(config, upstreams, self.broker)
        self.runner = Runner(routes, self.recorder, self.clock, self.meter, self.questions)
        circumstances = Circumstances(self.log, self.engine, self.tools)
        self.approvals = ApprovalDesk(
            self.log,
            self.recorder,
            self.sealer,
            self.steady,
            self.entropy,
            circumstances,
            ttl_s=config.approvals.ttl_s,
            static_token=config.approvals.static_token,
        )
        self.approvals.is_over = self._is_over
        self.voids = Voids(self.approvals, circumstances, self.steady, is_shared=self.log.is_shared)
        self.answers = AnswerBook(
            self.log,
            self.recorder,
            self.sealer,
            self.clock,
            self.meter,
            keep_s=kept.keep_s,
            max_bytes=kept.max_bytes,
            max_bytes_per_caller=kept.max_bytes_per_caller,
        )

    def _make_policy(self) -> None:
        """The policy in force, and the tools that it knows: the desk for pins keeps what it is told of these."""
        facts: dict[str, dict[str, Any]] = {}
        # an OPA server takes the Rego itself: only the engine in process needs it compiled
        compiler = make_compiler() if isinstance(self.engine, WasmPolicyEngine) else None
        self.policy = PolicyDesk(
            engine=self.engine,
            source=PolicyDirectory(policy_path(self.config), facts, compiler=compiler),
            limits=self.limits,
            questions=self.questions,
            books=Books(self.recorder),
            others=self.log if self.log.is_shared else None,
            containment=self.containment,
            tools=self.tools,
            label=self.config.policy.label,
        )
        self.pins = PinDesk(
            servers=toolservers.make_servers(self.config, tuple(self.tools)),
            registry=self.tools,
            policy=self.policy,
            facts=facts,
            reader=self.log,
            recorder=self.recorder,
            schemas=JsonSchemas(),
            is_shared=self.log.is_shared,
        )

    def _make_gate(self) -> None:
        """The gate, and who makes the calls that nobody waits for."""
        self.gate = Gate(
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
        self.deferred = DeferredDesk(
            gate=self.gate,
            replica=self.replica,
            approvals=self.approvals,
            answers=self.answers,
            reader=self.log,
            tools=self.tools,
            is_valid=self.callers.still_knows,
            clock=self.clock,
            entropy=self.entropy,
        )
        self.approvals.on_approved, self.gate.takes_refusal = self.deferred.soon, self.refusals.takes

    def _make_upkeep(self) -> None:
        """What is done beside the calls, and bodies that are given up in time."""
        self.upkeep = Upkeep(
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
        part = self.config.retention
        self.retention = RetentionDesk(
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

    def _make_mcp_door(self) -> None:
        """The MCP door, which tells its clients of tools that have changed."""
        self.mcp_door = McpDoor(
            self.gate,
            self.callers,
            parts.Parts(
                tools=self.tools,
                policy=self.policy,
                approvals=self.approvals,
                refusals=self.refusals,
                sealer=self.sealer,
                clock=self.clock,
                entropy=self.entropy,
                worker=self.side,
                catalogue=self.pins,
                rules=_mcp_rules(self.config),
            ),
            is_wanted=any(part.kind == "mcp" for part in self.config.upstreams.values()),
        )
        self.pins.on_change(self.mcp_door.announce)

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

    def _drop(self, is_over: IsOver) -> None:
        for server in self.tool_servers.values():
            server.drop(is_over)
        self.mcp_door.drop(is_over)
        self.broker.drop(is_over)
        self.voids.stir()

    def _is_over(self, call: Call) -> bool:
        return self.gate.closing or self.replica.state.over(call) is not None

    def _active_sessions(self) -> int:
        return len({(flight.call.tenant, flight.call.session) for flight in self.replica.flights()})


def _mcp_rules(config: Settings) -> parts.Rules:
    return parts.Rules(
        hold_s=config.mcp.hold_s,
        session_idle_s=config.mcp.session_idle_s,
        max_sessions=config.mcp.max_sessions,
        max_body_bytes=config.server.max_body_bytes,
        state_ttl_s=config.approvals.ttl_s,
        instructions=config.mcp.instructions,
        meta=config.mcp.meta,
        base_url=config.server.base_url,
        is_shared=config.server.workers > 1,
    )
