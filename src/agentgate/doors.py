"""The doors of a gateway: those that are served outside of the framework, because a call should not pay for one, and
the desks of the control routes, which are in it.
"""

from __future__ import annotations

from agentgate.adapters.policy.opa import OpaPolicyEngine
from agentgate.edges.desks import Bundle, Desks
from agentgate.edges.envelope import PATH, EnvelopeDoor, Rules
from agentgate.edges.intake import Intake
from agentgate.edges.tools import ToolsDoor
from agentgate.edges.wire import HotRoute
from agentgate.gateway import Gateway
from agentgate.kinds import EXPORTS, policy_path
from agentgate.pipeline.approvals.edits import EditDesk
from agentgate.pipeline.records.audit import AuditDesk
from agentgate.pipeline.records.tree import TreeDesk
from agentgate.ports.identity import SignatureVerifier


def hot_routes(gateway: Gateway) -> dict[tuple[str, str], HotRoute]:
    """By method and path."""
    rest, envelope = _rest(gateway), _envelope(gateway)
    return {("POST", "/tools/call"): rest.call, ("GET", "/tools/list"): rest.list, ("POST", PATH): envelope.call}


def _rest(gateway: Gateway) -> ToolsDoor:
    return ToolsDoor(
        gate=gateway.gate,
        tools=gateway.tools,
        callers=gateway.callers,
        policy=gateway.policy,
        approvals=gateway.approvals,
        refusals=gateway.refusals,
        intake=_intake(gateway),
    )


def _intake(gateway: Gateway) -> Intake:
    max_body_bytes = gateway.config.server.max_body_bytes
    return Intake(gateway.entropy, gateway.side, gateway.sealer.digest_key, max_body_bytes)


def _envelope(gateway: Gateway) -> EnvelopeDoor:
    config = gateway.config
    return EnvelopeDoor(
        gate=gateway.gate,
        tools=gateway.tools,
        callers=gateway.callers,
        keyring=gateway.keys.ring,
        verifier=_verifier(gateway),
        refusals=gateway.refusals,
        intake=_intake(gateway),
        meter=gateway.meter,
        rules=Rules(config.server.base_url, config.auth.envelope),
    )


def _verifier(gateway: Gateway) -> SignatureVerifier | None:
    if not gateway.keys.ring.has_signing_keys:
        return None
    from agentgate.adapters.signatures.rfc9421 import Rfc9421Verifier  # a tenth of a second, for who has keys to sign

    return Rfc9421Verifier(gateway.steady, gateway.config.auth.envelope_window_s)


def control_desks(gateway: Gateway) -> Desks:
    """What the control routes work with."""
    return Desks(
        callers=gateway.callers,
        containment=gateway.containment,
        membership=gateway.membership,
        approvals=gateway.approvals,
        deferred=gateway.deferred,
        refusals=gateway.refusals,
        edits=EditDesk(gateway.approvals, gateway.recorder, gateway.tools, gateway.entropy, gateway.gate.opinion),
        evidence=gateway.evidence,
        retention=gateway.retention,
        audit=AuditDesk(reader=gateway.log, recorder=gateway.recorder, meter=gateway.meter, forms=EXPORTS),
        policy=gateway.policy,
        bundle=lambda: _bundle(gateway),
        policy_path=str(policy_path(gateway.config)),
        tree=TreeDesk(gateway.log, gateway.log, gateway.log.keys, gateway.log.witnesses),
        resource=gateway.tokens.resource if gateway.tokens is not None else None,
        pins=gateway.pins,
        notices=gateway.notices,
        server_states=lambda: {name: server.state() for name, server in gateway.tool_servers.items()},
        base_url=gateway.config.server.base_url,
    )


def _bundle(gateway: Gateway) -> Bundle | None:
    published = gateway.engine.published if isinstance(gateway.engine, OpaPolicyEngine) else None
    return (published.content, published.etag) if published is not None else None
