"""The envelope door of a gateway, with what checks its signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentgate.adapters.signatures.rfc9421 import Rfc9421Verifier
from agentgate.edges.envelope import PATH, EnvelopeDoor, Rules
from agentgate.edges.wire import HotRoute

if TYPE_CHECKING:
    from agentgate.gateway import Gateway


def envelope_routes(gateway: Gateway) -> dict[tuple[str, str], HotRoute]:
    """What is served outside of the framework."""
    config = gateway.config
    door = EnvelopeDoor(
        gate=gateway.gate,
        tools=gateway.tools,
        callers=gateway.callers,
        keyring=gateway.keyring,
        verifier=Rfc9421Verifier(gateway.clock, config.auth.envelope_window_s),
        refusals=gateway.refusals,
        entropy=gateway.entropy,
        meter=gateway.meter,
        rules=Rules(config.server.max_body_bytes, config.server.base_url, config.auth.envelope),
    )
    return {("POST", PATH): door.call}
