"""`evidence` of the configuration: the desk that makes packs."""

from __future__ import annotations

from agentgate import __version__
from agentgate.core.dsse import PublicKey
from agentgate.kinds import make_envelope_signer, make_forms, make_hmac, make_public_keys
from agentgate.logs import LogStore
from agentgate.pipeline.books import Books
from agentgate.pipeline.evidence import EvidenceDesk, Rules, Seal
from agentgate.pipeline.record import Recorder
from agentgate.ports.ambient import Clock, Worker
from agentgate.ports.evidence import TimestampAuthority
from agentgate.ports.notices import Meter
from agentgate.settings import Settings


def make_evidence(
    config: Settings,
    log: LogStore,
    recorder: Recorder,
    clock: Clock,
    meter: Meter,
    worker: Worker,
    timestamps: TimestampAuthority | None,
) -> EvidenceDesk:
    """Raises UnsafeConfiguration."""
    part, envelope, hmac = config.evidence, make_envelope_signer(config), make_hmac(config)
    return EvidenceDesk(
        reader=log,
        tree=log,
        books=Books(recorder),
        clock=clock,
        meter=meter,
        worker=worker,
        forms=make_forms(make_public_keys(config, PublicKey(envelope.spki)), hmac),
        seal=Seal(
            envelope,
            hmac_key=part.signing_key.encode() if part.signing_key is not None else None,
            hmac=hmac,
            timestamps=timestamps,
        ),
        generator=f"AgentGate v{__version__}",
        rules=Rules(max_events=part.max_events, needs_timestamp=part.timestamp_required),
    )
