"""What a gateway has open: its place on the disk, log, kill store, policy engine and upstreams."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from agentgate.adapters.ambient.slot import Slot
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.policy.opa import OpaPolicyEngine
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.adapters.sealers.chacha import ChaChaSealer
from agentgate.core.call import MemberId
from agentgate.credentials import make_broker
from agentgate.kinds import KillStore, make_admission, make_engine, make_upstreams, open_private, workers_file
from agentgate.logs import LogStore, containment_id, make_log, make_log_signer
from agentgate.pipeline.credentials.broker import Broker
from agentgate.ports.upstreams import Upstream
from agentgate.settings import Settings


@dataclass(frozen=True, slots=True)
class Opened:
    """All of it, for one process."""

    clock: SystemClock
    slot: Slot
    log: LogStore
    member: MemberId
    """Its name at the start."""
    admission: KillStore
    engine: WasmPolicyEngine | OpaPolicyEngine
    broker: Broker
    upstreams: Mapping[str, Upstream]
    sealer: ChaChaSealer
    metrics: Path | None
    """Where this process tells its numbers to its fellow workers; None when it has none."""

    def rename(self, member: MemberId) -> None:
        """This process goes under another name from now on."""
        self.slot.occupy(member)
        self.admission.rename(member)


async def open_all(config: Settings, stack: AsyncExitStack, upstreams: Mapping[str, Upstream] | None) -> Opened:
    """Open what is configured; `stack` closes it. `upstreams` are used instead of the configured ones, by name.

    Raises:
        AgentGateError: it cannot be opened; the text says why.
    """
    clock = SystemClock()
    open_private(config.data_dir)
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
    sealer = ChaChaSealer.from_file(config.data_dir / "sealing.key")
    metrics = workers_file(config, f"{slot.number}.json")
    return Opened(clock, slot, log, member, admission, engine, broker, ours, sealer, metrics)
