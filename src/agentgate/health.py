"""How one process's gateway is: for `/health`, for `/readyz`, and for those who want to be told when that changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentgate import __version__
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.core.errors import LogUnavailable
from agentgate.kinds import KillStore
from agentgate.logs import LogStore
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.notices.desk import NoticeDesk
from agentgate.pipeline.policy.desk import PolicyDesk
from agentgate.pipeline.tools.pins import PinDesk
from agentgate.ports.policy import PolicyEngine
from agentgate.ports.upstreams import ToolServer


class Health:
    """Asks what the gateway rests on. It never raises: what cannot be asked is not well."""

    def __init__(
        self,
        *,
        log: LogStore,
        admission: KillStore,
        engine: PolicyEngine,
        replica: Replica,
        policy: PolicyDesk,
        pins: PinDesk,
        servers: Mapping[str, ToolServer],
        notices: NoticeDesk,
        meter: PrometheusMeter,
        member: Callable[[], str],
    ) -> None:
        self._log = log
        self._admission = admission
        self._engine = engine
        self._replica = replica
        self._policy = policy
        self._pins = pins
        self._servers = servers
        self._notices = notices
        self._meter = meter
        self._member = member
        self._well: dict[str, bool] = {}
        self._failures_told: dict[str, int] = {}

    def _checkpoints(self) -> dict[str, Any]:
        """How many events are not signed yet, and whether checkpoints are made and kept; the process's log says why."""
        lag, standings = self._log.lag, self._log.standings
        kept = {one.kind: all(two.trouble is None for two in standings if two.kind == one.kind) for one in standings}
        self._meter.health("checkpoints", is_well=lag.trouble is None)
        for kind, is_well in kept.items():
            self._meter.health(f"checkpoint_{kind}", is_well=is_well)
        for standing in standings:
            told = self._failures_told.get(standing.name, 0)
            if standing.failures > told:
                self._meter.count("checkpoint_failures", standing.kind, standing.failures - told)
                self._failures_told[standing.name] = standing.failures
        return {"behind": lag.events, "signed": lag.trouble is None, "kept": kept}

    def _servers_told(self) -> dict[str, Any]:
        """Which tool servers are up; why one is down, is for operators (`GET /tools`). It is no reason to send calls
        elsewhere."""
        states = {name: server.state() for name, server in self._servers.items()}
        for name, state in states.items():
            self._meter.health(f"server/{name}", is_well=state.is_up)
        self._meter.quarantined.set(self._pins.quarantined)
        if not states:
            return {}
        told: dict[str, Any] = {name: {"up": state.is_up} for name, state in states.items()}
        return {"servers": told} | ({"tools_behind": self._pins.trouble} if self._pins.trouble is not None else {})

    async def tell(self) -> None:
        """v0.2's `health.degraded` and `health.recovered`, for each dependency that changed."""
        checks: dict[str, bool] = (await self.look())["checks"]
        for name, is_well in checks.items():
            if self._well.get(name, True) != is_well:
                kind = "health.recovered" if is_well else "health.degraded"
                self._notices.tell(kind, {"dependency": name, "healthy": is_well, "member": self._member()})
        self._well = checks

    async def look(self) -> dict[str, Any]:
        """For `/health` and `/readyz`: v0.2's health with what readiness rests on: log, kill state, policy."""
        revision = await self._engine.revision()
        position = await self._admission.position()
        try:
            log_position: int | None = (await self._log.kills_since(self._replica.position)).position
        except LogUnavailable:
            log_position = None
        checks = {
            "log": log_position is not None,
            "kill_state": position is not None and log_position is not None and position >= log_position,
            "policy": revision is not None,
        }
        self._meter.health("opa", is_well=checks["policy"])
        self._meter.health("redis", is_well=checks["kill_state"])
        self._meter.health("log", is_well=checks["log"])
        checkpoint = self._checkpoints()
        behind = self._policy.behind
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
            **self._servers_told(),
        }
