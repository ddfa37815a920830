"""The doors of a gateway that are served outside of the framework, because a call should not pay for one."""

from __future__ import annotations

from agentgate.edges.envelope import PATH, EnvelopeDoor, Rules
from agentgate.edges.tools import ToolsDoor
from agentgate.edges.wire import HotRoute
from agentgate.gateway import Gateway
from agentgate.ports.identity import SignatureVerifier


def hot_routes(gateway: Gateway) -> dict[tuple[str, str], HotRoute]:
    """By method and path."""
    rest, envelope = _rest(gateway), _envelope(gateway)
    return {
        ("POST", "/tools/call"): rest.call,
        ("GET", "/tools/list"): rest.list,
        ("POST", PATH): envelope.call,
    }


def _rest(gateway: Gateway) -> ToolsDoor:
    return ToolsDoor(
        gate=gateway.gate,
        tools=gateway.tools,
        callers=gateway.callers,
        policy=gateway.policy,
        approvals=gateway.approvals,
        refusals=gateway.refusals,
        entropy=gateway.entropy,
        max_body_bytes=gateway.config.server.max_body_bytes,
    )


def _envelope(gateway: Gateway) -> EnvelopeDoor:
    config = gateway.config
    return EnvelopeDoor(
        gate=gateway.gate,
        tools=gateway.tools,
        callers=gateway.callers,
        keyring=gateway.keyring,
        verifier=_verifier(gateway),
        refusals=gateway.refusals,
        entropy=gateway.entropy,
        meter=gateway.meter,
        rules=Rules(config.server.max_body_bytes, config.server.base_url, config.auth.envelope),
    )


def _verifier(gateway: Gateway) -> SignatureVerifier | None:
    if not gateway.keyring.has_signing_keys:
        return None
    from agentgate.adapters.signatures.rfc9421 import Rfc9421Verifier  # a tenth of a second, for who has keys to sign

    return Rfc9421Verifier(gateway.steady, gateway.config.auth.envelope_window_s)
